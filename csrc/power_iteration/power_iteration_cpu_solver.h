// The iterations over one matrix on the CPU; power_iteration_cpu.cpp says by which algorithm.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "power_iteration/power_iteration_cpu_loops.h"

namespace fractalkern {

constexpr int64_t kChunkElements = 1 << 18;
constexpr int64_t kMostChunks = 32;

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

  // `right_`, rounded as it would be returned, as basis vector 0. Rounded to float it is a unit
  // vector to the precision of float alone, and Lanczos in double would lose its orthogonality.
  void start_from_right() {
    const double norm = std::is_same_v<S, C> ? 1 : std::sqrt(squares(right_, width_));
    for (int64_t j = 0; j < width_; ++j) basis_[j] = static_cast<C>(right_[j] / norm);
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

}  // namespace fractalkern
