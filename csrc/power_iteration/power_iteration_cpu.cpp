// Top singular triples by Golub-Kahan-Lanczos or by the power method, one read of a matrix a pass.
//
// A pass takes v to y = W v and z = W^T y in one sweep of rows: a block of rows is multiplied by v,
// and while it is still in cache its multiples are added to z. So Golub-Kahan is run on its
// right-hand vectors alone: with W v_j = alpha_j u_j + beta_{j-1} u_{j-1} the sweep gives
// d_j = |W v_j|^2 and W^T W v_j = e_{j-1} v_{j-1} + d_j v_j + e_j v_{j+1}, whose tridiagonal matrix
// is B^T B of the bidiagonal B. The right-hand vectors are fully reorthogonalised, which is all
// that the top triple needs (Simon and Zha, SIAM J. Sci. Comput. 21, 2000). The last pass goes over
// the best vector found, in double, and gives sigma, u, the residual and the bounds as measured;
// whatever rounding did before it can only have made the vector worse, not the answer wrong.
// float is used for float while |W v|^2 is far from the ends of its range, else double; a double
// matrix near its ends is scaled by a power of two first.
//
// Parallel mapping: a matrix is cut into row chunks by its shape alone, and their sums z are added
// in the order of the rows, so any number of threads gives the same bits. A matrix larger than a
// thread's share of all work is split over threads pass by pass; the others are whole tasks, the
// largest first, each staying in the cache of the core that has it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/half_precision.h"
#include "common/instruction_set.h"
#include "common/simd.h"
#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_math.h"

namespace fractalkern {

// What fits into the first-level cache, where prefetching would only cost instructions.
constexpr int64_t kCachedElements = 1 << 13;

struct Norms {
  double squares = 0;      // sum of w^2
  double largest_row = 0;  // largest sum of |w| over a row
};

template <class S, class C>
struct SweepArgs {
  const S* w;  // [rows, columns]
  int64_t rows, columns, row_stride;
  const C* v;      // [columns]
  C* y;            // [rows], W v
  C* z;            // [columns], W^T W v
  Norms* norms;    // not null where they are measured
  C* column_sums;  // [columns], sums of |w|; nullptr: neither these nor norms->largest_row
};

template <class C>
struct RecurrenceArgs {
  C* to;  // [size] = z - d q - e p
  const C *z, *q, *p;
  C d, e;
  int64_t size;
};

struct StartArgs {
  double* to;
  int64_t size;
  uint64_t seed;
  int64_t row;
};

template <class S, class C>
struct CopyArgs {
  C* to;  // [rows, columns]
  const S* from;
  int64_t rows, columns, row_stride, column_stride;
};

template <class T>
struct OuterArgs {
  T* to;  // [size] = scale v
  const double* v;
  int64_t size;
  double scale;
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "power_iteration/power_iteration_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {
namespace {

constexpr int64_t kChunkElements = 1 << 18;
constexpr int64_t kMostChunks = 32;

constexpr EntryPoints<int64_t()> kVectorBytes = FRACTALKERN_TABLE(vector_bytes);
constexpr EntryPoints<void(const SweepArgs<float, float>&)> kSweepFloat =
    FRACTALKERN_TABLE(sweep_float);
constexpr EntryPoints<void(const SweepArgs<float, double>&)> kSweepWide =
    FRACTALKERN_TABLE(sweep_wide);
constexpr EntryPoints<void(const SweepArgs<double, double>&)> kSweepDouble =
    FRACTALKERN_TABLE(sweep_double);
constexpr EntryPoints<void(const SweepArgs<float, double>&)> kMeasureFloat =
    FRACTALKERN_TABLE(measure_float);
constexpr EntryPoints<void(const SweepArgs<double, double>&)> kMeasureDouble =
    FRACTALKERN_TABLE(measure_double);
constexpr EntryPoints<double(const float*, int64_t)> kSquaresFloat =
    FRACTALKERN_TABLE(squares_float);
constexpr EntryPoints<double(const double*, int64_t)> kSquaresDouble =
    FRACTALKERN_TABLE(squares_double);
constexpr EntryPoints<void(const RecurrenceArgs<float>&)> kRecurFloat =
    FRACTALKERN_TABLE(recur_float);
constexpr EntryPoints<void(const RecurrenceArgs<double>&)> kRecurDouble =
    FRACTALKERN_TABLE(recur_double);
constexpr EntryPoints<void(float*, const float*, float, int64_t)> kScaleFloat =
    FRACTALKERN_TABLE(scale_float);
constexpr EntryPoints<void(double*, const double*, double, int64_t)> kScaleDouble =
    FRACTALKERN_TABLE(scale_double);
constexpr EntryPoints<void(double*, const float*, double, int64_t)> kAddFloat =
    FRACTALKERN_TABLE(add_float);
constexpr EntryPoints<void(double*, const double*, double, int64_t)> kAddDouble =
    FRACTALKERN_TABLE(add_double);
constexpr EntryPoints<double(const float*, double, const float*, double, int64_t)> kDistanceFloat =
    FRACTALKERN_TABLE(distance_float);
constexpr EntryPoints<double(const double*, double, const double*, double, int64_t)>
    kDistanceDouble = FRACTALKERN_TABLE(distance_double);
constexpr EntryPoints<void(double*, double, bool, int64_t)> kDivide = FRACTALKERN_TABLE(divide);
constexpr EntryPoints<void(const StartArgs&)> kFillStart = FRACTALKERN_TABLE(fill_start);
constexpr EntryPoints<void(const CopyArgs<float, float>&)> kCopyFloat =
    FRACTALKERN_TABLE(copy_float);
constexpr EntryPoints<void(const CopyArgs<double, double>&)> kCopyDouble =
    FRACTALKERN_TABLE(copy_double);
constexpr EntryPoints<void(const CopyArgs<Half, float>&)> kCopyHalf = FRACTALKERN_TABLE(copy_half);
constexpr EntryPoints<void(const CopyArgs<BFloat16, float>&)> kCopyBFloat16 =
    FRACTALKERN_TABLE(copy_bfloat16);
constexpr EntryPoints<void(const OuterArgs<float>&)> kOuterFloat = FRACTALKERN_TABLE(outer_float);
constexpr EntryPoints<void(const OuterArgs<double>&)> kOuterDouble =
    FRACTALKERN_TABLE(outer_double);

void copy(const CopyArgs<float, float>& args) { kCopyFloat.active()(args); }
void copy(const CopyArgs<double, double>& args) { kCopyDouble.active()(args); }
void copy(const CopyArgs<Half, float>& args) { kCopyHalf.active()(args); }
void copy(const CopyArgs<BFloat16, float>& args) { kCopyBFloat16.active()(args); }
void sweep(const SweepArgs<float, float>& args) { kSweepFloat.active()(args); }
void sweep(const SweepArgs<float, double>& args) { kSweepWide.active()(args); }
void sweep(const SweepArgs<double, double>& args) { kSweepDouble.active()(args); }
void measure(const SweepArgs<float, double>& args) { kMeasureFloat.active()(args); }
void measure(const SweepArgs<double, double>& args) { kMeasureDouble.active()(args); }
double squares(const float* x, int64_t size) { return kSquaresFloat.active()(x, size); }
double squares(const double* x, int64_t size) { return kSquaresDouble.active()(x, size); }
void recur(const RecurrenceArgs<float>& args) { kRecurFloat.active()(args); }
void recur(const RecurrenceArgs<double>& args) { kRecurDouble.active()(args); }
void scale(float* to, const float* from, float factor, int64_t size) {
  kScaleFloat.active()(to, from, factor, size);
}
void scale(double* to, const double* from, double factor, int64_t size) {
  kScaleDouble.active()(to, from, factor, size);
}
void add(double* to, const float* from, double factor, int64_t size) {
  kAddFloat.active()(to, from, factor, size);
}
void add(double* to, const double* from, double factor, int64_t size) {
  kAddDouble.active()(to, from, factor, size);
}
double distance(const float* x, double a, const float* y, double b, int64_t size) {
  return kDistanceFloat.active()(x, a, y, b, size);
}
double distance(const double* x, double a, const double* y, double b, int64_t size) {
  return kDistanceDouble.active()(x, a, y, b, size);
}
void divide(double* x, double norm, bool narrow, int64_t size) {
  kDivide.active()(x, norm, narrow, size);
}

// One matrix with entries of type S, worked on in numbers of type C.
template <class S, class C>
class Solver {
 public:
  Solver(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel)
      : m_(matrix),
        problem_(problem),
        parallel_(parallel),
        rows_(matrix.rows),
        columns_(matrix.columns),
        packed_(is_packed(matrix)),
        width_(packed_ ? padded(columns_) : columns_),
        row_stride_(packed_ ? width_ : matrix.row_stride),
        basis_size_(problem.lanczos ? std::min<int64_t>({problem.passes, kMaxBasis, columns_}) : 1),
        chunk_rows_(rows_of_a_chunk(rows_, columns_)),
        chunks_((rows_ + chunk_rows_ - 1) / chunk_rows_),
        copy_(packed_ ? rows_ * width_ : 0),
        numbers_((basis_size_ + 3) * width_ + rows_ + (chunks_ > 1 ? chunks_ * width_ : 0)),
        doubles_((3 + (chunks_ > 1 ? 2 * chunks_ : 0)) * width_) {
    w_ = packed_ ? copy_.data() : static_cast<const S*>(matrix.data);
    basis_ = numbers_.data();
    product_ = basis_ + (basis_size_ + 1) * width_;
    scratch_ = product_ + width_;
    left_ = scratch_ + width_;
    partial_ = left_ + rows_;
    right_ = doubles_.data();
    back_ = right_ + width_;
    column_sums_ = back_ + width_;
    if (packed_) pack();
  }

  // False if the numbers left the range of C: nothing but the start has been written then.
  bool run() {
    make_start();
    return problem_.lanczos ? lanczos() : power();
  }

 private:
  static int64_t padded(int64_t columns) {
    const int64_t lanes = kVectorBytes.active()() / static_cast<int64_t>(sizeof(S));
    return (columns + lanes - 1) / lanes * lanes;
  }

  // Whether a copy pays, whose rows are whole vectors and start at one.
  static bool is_packed(const SpectralMatrix& m) {
    constexpr int64_t size = sizeof(S);
    const int64_t bytes = kVectorBytes.active()();
    return m.rows * padded(m.columns) <= kCachedElements &&
           (reinterpret_cast<uintptr_t>(m.data) % bytes != 0 || m.row_stride * size % bytes != 0 ||
            m.columns * size % bytes != 0);
  }

  void pack() {
    const S* from = static_cast<const S*>(m_.data);
    S* to = copy_.data();
    for (int64_t i = 0; i < rows_; ++i, from += m_.row_stride, to += width_) {
      std::copy_n(from, columns_, to);
      std::fill(to + columns_, to + width_, S{0});
    }
  }

  // Enough rows to pay for a task, by the shape alone.
  static int64_t rows_of_a_chunk(int64_t rows, int64_t columns) {
    const int64_t elements = std::max(kChunkElements, rows * columns / kMostChunks);
    return std::max<int64_t>(elements / columns / 8 * 8, 8);
  }

  void make_start() {
    std::fill(right_ + columns_, right_ + width_, 0.0);
    if (m_.start != nullptr) {
      double largest = 0;
      for (int64_t j = 0; j < columns_; ++j) largest = std::max(largest, std::abs(m_.start[j]));
      for (int64_t j = 0; j < columns_; ++j) right_[j] = m_.start[j] / largest;
    } else {
      kFillStart.active()({right_, columns_, problem_.seed, row_});
    }
    start_norm_ = std::sqrt(squares(right_, width_));
    divide(right_, start_norm_, kNarrow, width_);
    start_from_right();
  }

  // `right_`, rounded as it would be returned, as basis vector 0.
  void start_from_right() {
    for (int64_t j = 0; j < width_; ++j) basis_[j] = static_cast<C>(right_[j]);
  }

  // And back.
  void return_basis() {
    for (int64_t j = 0; j < width_; ++j)
      right_[j] = kNarrow ? static_cast<float>(basis_[j]) : static_cast<double>(basis_[j]);
  }

  // y = W v and z = W^T y by row chunks, their sums in the order of the rows.
  template <class A, class Run>
  void by_chunks(SweepArgs<S, A> whole, A* partials, A* partial_sums, const Run& sweep_chunk) {
    whole.w = w_;
    whole.row_stride = row_stride_;
    whole.columns = width_;
    if (chunks_ == 1) {
      whole.rows = rows_;
      sweep_chunk(whole);
      return;
    }
    Norms norms[kMostChunks + 1];
    parallel_.for_each(chunks_, rows_ * width_, [&](int64_t index) {
      SweepArgs<S, A> part = whole;
      const int64_t begin = index * chunk_rows_;
      part.rows = std::min(chunk_rows_, rows_ - begin);
      part.w += begin * row_stride_;
      part.y += begin;
      part.z = partials + index * width_;
      if (whole.norms != nullptr) part.norms = &norms[index];
      if (whole.column_sums != nullptr) part.column_sums = partial_sums + index * width_;
      sweep_chunk(part);
    });
    add_in_order(whole.z, partials);
    if (whole.column_sums != nullptr) add_in_order(whole.column_sums, partial_sums);
    if (whole.norms == nullptr) return;
    *whole.norms = {};
    for (int64_t i = 0; i < chunks_; ++i) {
      whole.norms->squares += norms[i].squares;
      whole.norms->largest_row = std::max(whole.norms->largest_row, norms[i].largest_row);
    }
  }

  template <class A>
  void add_in_order(A* sum, const A* parts) {
    std::copy_n(parts, width_, sum);
    for (int64_t i = 1; i < chunks_; ++i)
      for (int64_t j = 0; j < width_; ++j) sum[j] += parts[i * width_ + j];
  }

  // |W v|^2 for basis vector `index`; product_ = W^T W v.
  double pass(int64_t index) {
    SweepArgs<S, C> args{};
    args.v = basis_ + index * width_;
    args.y = left_;
    args.z = product_;
    by_chunks(args, partial_, static_cast<C*>(nullptr), [](const auto& part) { sweep(part); });
    ++m_.iterations;
    return squares(left_, rows_);
  }

  // The pass over the vector to return, in double. False if the numbers left the range.
  bool measure_right() {
    SweepArgs<S, double> args{};
    args.v = right_;
    args.y = m_.u;
    args.z = back_;
    args.norms = &norms_;
    args.column_sums = m_.start != nullptr ? column_sums_ : nullptr;
    double* const partials = column_sums_ + width_;
    by_chunks(args, partials, partials + chunks_ * width_, [](const auto& part) { measure(part); });
    ++m_.iterations;
    const double square = squares(m_.u, rows_);
    if (!std::isfinite(norms_.squares) || !(norms_.squares < 1e200)) return false;
    if (!(norms_.squares > 1e-200)) return false;
    const double left_norm = std::sqrt(square), right_norm = std::sqrt(squares(right_, width_));
    const double sigma = left_norm / right_norm;
    m_.sigma = sigma;
    std::copy_n(right_, columns_, m_.v);
    bounds(left_norm, right_norm);
    if (!(sigma > 0)) {
      m_.residual = std::numeric_limits<double>::infinity();
      return true;
    }
    m_.residual = std::sqrt(distance(back_, 1 / left_norm, right_, sigma, width_)) / sigma;
    divide(m_.u, left_norm, false, rows_);
    return true;
  }

  void bounds(double left_norm, double right_norm) {
    const bool given = m_.start != nullptr;
    const double largest_column =
        given ? *std::max_element(column_sums_, column_sums_ + columns_) : 0;
    const SpectralBounds found =
        bounds_of({left_norm, right_norm, norms_.squares, norms_.largest_row, largest_column},
                  rows_, columns_);
    m_.lower = found.lower;
    double upper = found.product;
    if (!given) {
      const double component = least_component(problem_.delta, start_norm_);
      const double theorem =
          problem_.lanczos
              ? lanczos_upper(largest_eigenvalue(first_cycle_), first_cycle_.size, component)
              : power_upper(log_norm_ + std::log(growth_), steps_, component);
      upper = widened_for_rounding(theorem, columns_, std::numeric_limits<C>::epsilon());
    }
    m_.upper = std::max(std::min(found.frobenius, upper), m_.lower);
  }

  bool within_tol() const { return problem_.tol >= 0 && m_.residual <= problem_.tol; }

  void finish() {
    m_.status = problem_.tol < 0 ? SpectralStatus::kIterated
                : within_tol()   ? SpectralStatus::kConverged
                                 : SpectralStatus::kNotConverged;
  }

  bool power() {
    for (int64_t step = 1; m_.iterations < problem_.passes - 1; ++step) {
      const double square = pass(0);
      if (!in_range(square, std::is_same_v<C, float>)) {
        if (!scaled_) return false;
        break;  // the start is in the null space
      }
      if (problem_.tol >= 0 &&
          std::sqrt(distance(product_, 1 / square, basis_, 1, width_)) <= problem_.tol) {
        return_basis();
        if (!measure_right()) return false;
        if (within_tol() || m_.iterations >= problem_.passes) return finish(), true;
      }
      const double norm = std::sqrt(squares(product_, width_));
      grow(norm);
      steps_ = step;
      scale(basis_, product_, static_cast<C>(1 / norm), width_);
    }
    return_basis();
    if (!measure_right()) return false;
    return finish(), true;
  }

  // The product of all norms, as a logarithm only where it would leave its range.
  void grow(double norm) {
    growth_ *= norm;
    if (growth_ > 1e-50 && growth_ < 1e50) return;
    log_norm_ += std::log(growth_);
    growth_ = 1;
  }

  bool lanczos() {
    double target = problem_.tol;
    bool first = true;
    for (;;) {
      projection_.size = 0;
      bool exhausted = false;  // the basis spans all that the start can reach
      while (m_.iterations < problem_.passes - 1 && projection_.size < basis_size_ && !exhausted) {
        const int k = projection_.size;
        const double square = pass(k);
        if (!in_range(square, std::is_same_v<C, float>) && (k == 0 || !std::isfinite(square))) {
          if (!scaled_) return false;
          exhausted = true;  // the start is in the null space
          break;
        }
        exhausted = !add_step(k, square);
        if (first) first_cycle_ = projection_;
        if (problem_.tol < 0 || exhausted) continue;
        const double theta = largest_eigenvalue(projection_);
        double coefficients[kMaxBasis + 1];
        top_eigenvector(projection_, theta, coefficients);
        if (projection_.off[k] * std::abs(coefficients[k]) > target * theta) continue;
        take_best(exhausted);
        if (!measure_right()) return false;
        if (within_tol()) return finish(), true;
        target /= 4;
      }
      first = false;
      if (m_.iterations < problem_.passes) {
        if (projection_.size > 0) take_best(exhausted);
        if (!measure_right()) return false;
      }
      if (within_tol() || exhausted || m_.iterations >= problem_.passes) return finish(), true;
      start_from_right();  // from the best vector
    }
  }

  // Row k of the projection and basis vector k + 1; false if there is none.
  bool add_step(int k, double square) {
    C* const q = basis_ + k * width_;
    C* const next = q + width_;
    const double off = k > 0 ? projection_.off[k - 1] : 0;
    recur(RecurrenceArgs<C>{next, product_, q, k > 0 ? q - width_ : nullptr, static_cast<C>(square),
                            static_cast<C>(off), width_});
    C coefficients[kMaxBasis];
    SweepArgs<C, C> args{};
    args.w = basis_;
    args.rows = k + 1;
    args.columns = args.row_stride = width_;
    args.v = next;
    args.y = coefficients;
    args.z = scratch_;
    sweep(args);
    recur(RecurrenceArgs<C>{next, next, scratch_, nullptr, 1, 0, width_});
    const double norm = std::sqrt(squares(next, width_));
    projection_.diagonal[k] = square;
    projection_.off[k] = norm;
    projection_.size = k + 1;
    scale_ = std::max(k > 0 ? scale_ : 0, square);
    constexpr double eps = std::numeric_limits<C>::epsilon();
    if (!(norm > 4 * std::sqrt(static_cast<double>(columns_)) * eps * scale_)) return false;
    scale(next, next, static_cast<C>(1 / norm), width_);
    return true;
  }

  // right_ = the best vector in the span of the basis.
  void take_best(bool exhausted) {
    Projection extended;
    constexpr double eps = 8 * std::numeric_limits<C>::epsilon();
    const bool longer = !exhausted && extend(projection_, eps, &extended);
    const Projection& best = longer ? extended : projection_;
    double coefficients[kMaxBasis + 1];
    top_eigenvector(best, largest_eigenvalue(best), coefficients);
    std::fill_n(right_, width_, 0.0);
    for (int i = 0; i < best.size; ++i) add(right_, basis_ + i * width_, coefficients[i], width_);
    divide(right_, std::sqrt(squares(right_, width_)), kNarrow, width_);
  }

 public:
  int64_t row_ = 0;      // of the random start
  bool scaled_ = false;  // entries are near 1: what is tiny is zero

 private:
  static constexpr bool kNarrow = std::is_same_v<S, float>;

  SpectralMatrix& m_;
  const PowerIteration& problem_;
  const Parallel& parallel_;
  const int64_t rows_, columns_;
  const bool packed_;
  const int64_t width_;  // the columns, and what a packed copy has behind them, all zero
  const int64_t row_stride_;
  const int64_t basis_size_;
  const int64_t chunk_rows_, chunks_;
  SmallArray<S, kCachedElements> copy_;
  SmallArray<C, 2048> numbers_;
  SmallArray<double, 512> doubles_;
  const S* w_;
  C *basis_, *product_, *scratch_, *left_, *partial_;  // [basis_size + 1, n], [n], [n], [m]
  double *right_, *back_, *column_sums_;               // [n] each
  Norms norms_;
  Projection projection_, first_cycle_;
  double start_norm_ = 1, scale_ = 0;
  double log_norm_ = 0, growth_ = 1;
  int64_t steps_ = 0;
};

template <class S, class C>
bool solve_as(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
              int64_t row, bool scaled = false) {
  matrix.iterations = 0;
  Solver<S, C> solver(matrix, problem, parallel);
  solver.row_ = row;
  solver.scaled_ = scaled;
  return solver.run();
}

void set_zero(SpectralMatrix& matrix, SpectralStatus status, double value) {
  matrix.sigma = matrix.residual = matrix.lower = matrix.upper = value;
  matrix.status = status;
  matrix.iterations = 0;
  std::fill_n(matrix.u, matrix.rows, value);
  std::fill_n(matrix.v, matrix.columns, value);
}

bool is_double(const SpectralMatrix& matrix) { return matrix.type == SpectralType::kDouble; }

double largest_entry(const SpectralMatrix& matrix) {
  double largest = 0;
  for (int64_t i = 0; i < matrix.rows; ++i)
    for (int64_t j = 0; j < matrix.columns; ++j) {
      const int64_t at = i * matrix.row_stride + j;
      const double entry = is_double(matrix) ? static_cast<const double*>(matrix.data)[at]
                                             : static_cast<const float*>(matrix.data)[at];
      if (!std::isfinite(entry)) return entry;
      largest = std::max(largest, std::abs(entry));
    }
  return largest;
}

// A copy with entries of at most 1, where the numbers themselves leave the range of double.
void solve_scaled(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
                  int64_t row, double largest) {
  const int exponent = std::ilogb(largest);
  std::vector<double> scaled(static_cast<size_t>(matrix.rows * matrix.columns));
  for (int64_t i = 0; i < matrix.rows; ++i)
    for (int64_t j = 0; j < matrix.columns; ++j) {
      const int64_t at = i * matrix.row_stride + j;
      const double entry = is_double(matrix) ? static_cast<const double*>(matrix.data)[at]
                                             : static_cast<const float*>(matrix.data)[at];
      scaled[static_cast<size_t>(i * matrix.columns + j)] = std::scalbn(entry, -exponent);
    }
  SpectralMatrix copy = matrix;
  copy.data = scaled.data();
  copy.type = SpectralType::kDouble;
  copy.row_stride = matrix.columns;
  solve_as<double, double>(copy, problem, parallel, row, true);
  matrix.sigma = std::scalbn(copy.sigma, exponent);
  matrix.lower = std::nextafter(std::scalbn(copy.lower, exponent), 0.0);
  matrix.upper = std::nextafter(std::scalbn(copy.upper, exponent), HUGE_VAL);
  matrix.residual = copy.residual;
  matrix.iterations = copy.iterations;
  matrix.status = copy.status;
}

// As the sweeps read it: float or double, the last axis contiguous.
void solve_readable(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
                    int64_t row) {
  const bool wide = is_double(matrix);
  if (!wide && solve_as<float, float>(matrix, problem, parallel, row)) return;
  if (!wide && solve_as<float, double>(matrix, problem, parallel, row)) return;
  if (wide && solve_as<double, double>(matrix, problem, parallel, row)) return;
  const double largest = largest_entry(matrix);
  if (!std::isfinite(largest))
    return set_zero(matrix, SpectralStatus::kNonFinite, std::numeric_limits<double>::quiet_NaN());
  if (largest == 0) {
    set_zero(matrix, SpectralStatus::kZero, 0);
    return;
  }
  solve_scaled(matrix, problem, parallel, row, largest);
}

template <class S, class C>
void solve_copied(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
                  int64_t row) {
  const SpectralMatrix given = matrix;
  const AlignedArray<C> entries(given.rows * given.columns);
  const int64_t rows = std::max<int64_t>(kChunkElements / given.columns / 32 * 32, 32);
  parallel.for_each((given.rows + rows - 1) / rows, given.rows * given.columns, [&](int64_t chunk) {
    const int64_t begin = chunk * rows;
    copy(CopyArgs<S, C>{entries.data() + begin * given.columns,
                        static_cast<const S*>(given.data) + begin * given.row_stride,
                        std::min(rows, given.rows - begin), given.columns, given.row_stride,
                        given.column_stride});
  });
  matrix.data = entries.data();
  matrix.type = std::is_same_v<C, double> ? SpectralType::kDouble : SpectralType::kFloat;
  matrix.row_stride = given.columns;
  matrix.column_stride = 1;
  solve_readable(matrix, problem, parallel, row);
  matrix.data = given.data;
  matrix.type = given.type;
  matrix.row_stride = given.row_stride;
  matrix.column_stride = given.column_stride;
}

void solve(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
           int64_t row) {
  if (matrix.rows == 0 || matrix.columns == 0) return set_zero(matrix, SpectralStatus::kZero, 0);
  const bool contiguous = matrix.column_stride == 1 || matrix.columns == 1;
  switch (matrix.type) {
    case SpectralType::kHalf:
      return solve_copied<Half, float>(matrix, problem, parallel, row);
    case SpectralType::kBFloat16:
      return solve_copied<BFloat16, float>(matrix, problem, parallel, row);
    case SpectralType::kFloat:
      if (!contiguous) return solve_copied<float, float>(matrix, problem, parallel, row);
      break;
    case SpectralType::kDouble:
      if (!contiguous) return solve_copied<double, double>(matrix, problem, parallel, row);
      break;
  }
  solve_readable(matrix, problem, parallel, row);
}

}  // namespace

void power_iteration_cpu(const PowerIteration& problem, const Parallel& parallel) {
  const Parallel serial(1, nullptr);
  int64_t total = 0;
  std::vector<int64_t> order(static_cast<size_t>(problem.count));
  std::iota(order.begin(), order.end(), 0);
  const auto elements = [&](int64_t i) {
    return problem.matrices[i].rows * problem.matrices[i].columns;
  };
  bool equal = true;
  for (int64_t i = 0; i < problem.count; ++i) {
    total += elements(i);
    equal = equal && elements(i) == elements(0);
  }
  if (!equal)
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return elements(a) > elements(b); });
  const int64_t share = std::max(total / parallel.threads(), kChunkElements);
  int64_t split = 0;
  while (split < problem.count && elements(order[static_cast<size_t>(split)]) > share) ++split;
  for (int64_t i = 0; i < split; ++i) {
    const int64_t index = order[static_cast<size_t>(i)];
    solve(problem.matrices[index], problem, parallel, index);
    total -= elements(index);
  }
  parallel.for_each(problem.count - split, total * problem.passes, [&](int64_t i) {
    const int64_t index = order[static_cast<size_t>(split + i)];
    solve(problem.matrices[index], problem, serial, index);
  });
}

void power_iteration_backward_cpu(const SpectralGradient* gradients, int64_t count,
                                  const Parallel& parallel) {
  int64_t total = 0;
  std::vector<int64_t> first_chunk{0};
  constexpr int64_t kTaskElements = 1 << 16;
  const auto rows_per_task = [&](int64_t i) {
    return std::max<int64_t>(kTaskElements / std::max<int64_t>(gradients[i].columns, 1), 1);
  };
  for (int64_t i = 0; i < count; ++i) {
    total += gradients[i].rows * gradients[i].columns;
    const int64_t rows = rows_per_task(i);
    first_chunk.push_back(first_chunk.back() + (gradients[i].rows + rows - 1) / rows);
  }
  parallel.for_each(first_chunk.back(), total, [&](int64_t task) {
    const auto after = std::upper_bound(first_chunk.begin(), first_chunk.end(), task);
    const int64_t i = after - first_chunk.begin() - 1;
    const SpectralGradient& g = gradients[i];
    const int64_t rows = rows_per_task(i);
    const int64_t begin = (task - first_chunk[static_cast<size_t>(i)]) * rows;
    for (int64_t r = begin; r < std::min(begin + rows, g.rows); ++r) {
      const double scale = g.scale * g.u[r];
      if (g.wide) {
        kOuterDouble.active()(
            {static_cast<double*>(g.gradient) + r * g.columns, g.v, g.columns, scale});
      } else {
        kOuterFloat.active()(
            {static_cast<float*>(g.gradient) + r * g.columns, g.v, g.columns, scale});
      }
    }
  });
}

}  // namespace fractalkern
