// The algorithm of power_iteration_cpu.cpp by a team of blocks, each with its share of the rows and
// of the columns. Every block takes the same decisions from the same numbers, so none has to be
// told. Basis vectors are stored before they are divided by their norms, which come one barrier
// later.
#pragma once

#include <type_traits>

#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_cuda_numbers.h"
#include "power_iteration/power_iteration_cuda_sweep.h"
#include "power_iteration/power_iteration_math.h"

namespace fractalkern {

struct SpectralRecord {
  const void* data;
  int64_t rows, columns, row_stride;
  int64_t index;        // in the call
  int64_t left, right;  // where its vectors start among those of all
  int64_t scratch;      // bytes into the scratch memory
  SpectralType type;
  int32_t first_block, blocks;  // the team
};

// The call, as kernels see it; power_iteration.h has the meanings.
struct SpectralCall {
  int64_t passes;
  double tol, delta;
  uint64_t seed;
  const void* start;
  void *sigma, *vectors, *bounds, *next;
  int64_t* codes;
  int64_t matrices, lefts;
  bool lanczos, start_wide, wide;
};

FRACTALKERN_HOST_DEVICE int64_t basis_size(const SpectralCall& call, int64_t columns) {
  if (!call.lanczos) return 1;
  const int64_t most = columns < kMaxBasis ? columns : kMaxBasis;
  return call.passes < most ? call.passes : most;
}

FRACTALKERN_HOST_DEVICE int64_t up_to_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

enum SpectralScalar {
  kLeftSquare,
  kNextSquare,
  kDistance,
  kSquares,
  kLargestRow,
  kLargestColumn,
  kBestSquare,
  kResidual,
  kLargestEntry,
  kScalars
};

// What a team shares, in shared memory for a team of one block and few bytes.
struct SpectralWorkspace {
  unsigned char* basis;  // [basis size + 1, columns] of C
  double* products;      // [team, columns]: each block's z; its first half where C is float
  double* column_sums;   // [team, columns], where the start is given
  double* v;             // [team, columns], where shared memory may not have room for it
  double* vector;        // [columns], unnormalised
  double* coefficients;  // [team, kMaxBasis]
  double* scalars;       // [kScalars, team]
  int64_t bytes;

  FRACTALKERN_HOST_DEVICE SpectralWorkspace(unsigned char* memory, int64_t columns, int64_t basis,
                                            int64_t team, bool sums, bool small) {
    const int64_t wide = sizeof(double);
    unsigned char* at = memory;
    const auto take = [&at](int64_t size) {
      unsigned char* const taken = at;
      at += up_to_16(size);
      return taken;
    };
    this->basis = take((basis + 1) * columns * wide);
    products = reinterpret_cast<double*>(take(team * columns * wide));
    column_sums = reinterpret_cast<double*>(take(sums ? team * columns * wide : 0));
    v = reinterpret_cast<double*>(take(small ? 0 : team * columns * wide));
    vector = reinterpret_cast<double*>(take(columns * wide));
    coefficients = reinterpret_cast<double*>(take(team * kMaxBasis * wide));
    scalars = reinterpret_cast<double*>(take(team * kScalars * wide));
    bytes = at - memory;
  }
};

struct SpectralShared {
  SweepShared sweep;
  Projection projection, first_cycle, extended;
  double coefficients[kMaxBasis + 1];  // of the best vector
  double inverse_norms[kMaxBasis + 1];
  double overlaps[kMaxBasis];
  double theta;
  int best_size;
};

// Element j of the start, a given one over its largest magnitude; random if that is 0.
__device__ __noinline__ inline double start_number(const SpectralCall& call,
                                                   const SpectralRecord& m, int64_t j,
                                                   double largest) {
  if (largest > 0) return load_number(call.start, m.right + j, call.start_wide) / largest;
  return start_element(call.seed, static_cast<uint32_t>(m.index), static_cast<uint32_t>(j));
}

// Where a block works: memory of its own and of its team, the same for a small matrix.
struct SpectralMemory {
  SpectralShared& shared;
  unsigned char* own;
  int64_t own_bytes;
  unsigned char* team;
  bool small;  // all of it is shared memory
};

FRACTALKERN_HOST_DEVICE bool needs_column_sums(const SpectralCall& call) {
  return call.start != nullptr && call.bounds != nullptr;
}

// Every number of a matrix without vectors; what it has to start from stays as it was.
__device__ inline void store_none(const SpectralCall& call, const SpectralRecord& m,
                                  const Team& team, SpectralStatus status, double value) {
  const int64_t first = int64_t{team.rank()} * blockDim.x + threadIdx.x;
  const int64_t step = int64_t{team.size()} * blockDim.x;
  for (int64_t i = first; i < m.rows; i += step)
    store_number(call.vectors, m.left + i, value, call.wide);
  for (int64_t j = first; j < m.columns; j += step) {
    store_number(call.vectors, call.lefts + m.right + j, value, call.wide);
    if (call.next == nullptr) continue;
    const double start =
        call.start == nullptr ? 0 : load_number(call.start, m.right + j, call.start_wide);
    store_number(call.next, m.right + j, start, call.wide);
  }
  if (first != 0) return;
  store_number(call.sigma, m.index, value, call.wide);
  for (int64_t i = 0; i < 3 && call.bounds != nullptr; ++i)
    store_number(call.bounds, i * call.matrices + m.index, value, call.wide);
  if (call.codes == nullptr) return;
  call.codes[m.index] = 0;
  call.codes[call.matrices + m.index] = static_cast<int64_t>(status);
}

// By one thread: 64 steps of arithmetic with nothing to share.
__device__ __noinline__ inline void find_top(const Projection& t, double* theta, double* vector) {
  *theta = largest_eigenvalue(t);
  top_eigenvector(t, *theta, vector);
}

__device__ __noinline__ inline double find_lanczos_upper(const Projection& t, double component) {
  return lanczos_upper(largest_eigenvalue(t), t.size, component);
}

__device__ __noinline__ inline double find_power_upper(double log_norm, double growth,
                                                       int64_t steps, double component) {
  return power_upper(log_norm + std::log(growth), steps, component);
}

__device__ __noinline__ inline bool find_extended(const Projection& t, double eps, Projection* to) {
  return extend(t, eps, to);
}

// With vectors of type C. Careful: with entries scaled to be
// near 1, so that a sum of squares out of range means a vector in the null space.
template <class Entries, class C, bool kCareful>
class SpectralSolver {
 public:
  __device__ SpectralSolver(const SpectralCall& call, const SpectralRecord& record, Team& team,
                            const SpectralMemory& memory, const Entries& entries, double scale)
      : call_(call),
        m_(record),
        team_(team),
        shared_(memory.shared),
        columns_(record.columns),
        entries_(entries),
        scale_(scale),
        basis_size_(static_cast<int>(basis_size(call, record.columns))),
        work_(memory.team, record.columns, basis_size_, team.size(), needs_column_sums(call),
              memory.small),
        row_begin_(record.rows * team.rank() / team.size()),
        row_end_(record.rows * (team.rank() + 1) / team.size()),
        slice_begin_(columns_ * team.rank() / team.size()),
        slice_end_(columns_ * (team.rank() + 1) / team.size()),
        basis_(reinterpret_cast<C*>(work_.basis)),
        place_(columns_, memory),
        tiles_(record.data, bytes_of(record.type), row_begin_, row_end_, columns_,
               record.row_stride, memory.own + place_.bytes, memory.own_bytes - place_.bytes),
        v_(place_.v != nullptr ? place_.v
                               : reinterpret_cast<C*>(work_.v + team.rank() * columns_)) {}

  // False if the numbers left the range of C: nothing has been written then.
  __device__ bool run() {
    bool done = true;
    if (!make_start()) {
      store_none(call_, m_, team_, SpectralStatus::kNonFinite, kNaN);
    } else {
      done = call_.lanczos ? lanczos() : power();
    }
    tiles_.drain();
    return done;
  }

 private:
  // Where the vectors of a sweep are, by how many numbers they have.
  struct Place {
    C* v = nullptr;
    unsigned char* z = nullptr;  // of z_bytes; without it sums go to the workspace at once
    int64_t z_bytes = 0;
    int64_t bytes = 0;

    __device__ Place(int64_t columns, const SpectralMemory& memory) {
      const int64_t one = up_to_16(columns * static_cast<int64_t>(sizeof(C)));
      const int64_t wide = up_to_16(columns * 8);
      const int64_t most = memory.small ? memory.own_bytes : memory.own_bytes * 2 / 5;
      if (one > most) return;
      v = reinterpret_cast<C*>(memory.own);
      if (!memory.small) z_bytes = one + wide <= most ? wide : 2 * one <= most ? one : 0;
      z = z_bytes > 0 ? memory.own + one : nullptr;
      bytes = one + z_bytes;
    }
  };

  // --- sums over the team ------------------------------------------------------------------------

  // To be followed by team_.sync() and total().
  __device__ void give(SpectralScalar which, double value) {
    const double sum = block_sum(value, shared_.sweep.slots);
    if (threadIdx.x == 0) scalar(which, team_.rank()) = sum;
  }
  __device__ void give_maximum(SpectralScalar which, double value) {
    const double most = block_maximum(value, shared_.sweep.slots);
    if (threadIdx.x == 0) scalar(which, team_.rank()) = most;
  }
  __device__ double total(SpectralScalar which) {
    if (team_.size() == 1) return scalar(which, 0);
    double sum = 0;
    for (int i = threadIdx.x % kWarp; i < team_.size(); i += kWarp) sum += scalar(which, i);
    return warp_sum(sum);
  }
  __device__ double maximum(SpectralScalar which) {
    double most = 0;
    for (int i = 0; i < team_.size(); ++i) most = larger(most, scalar(which, i));
    return most;
  }
  __device__ double& scalar(SpectralScalar which, int rank) {
    return work_.scalars[which * team_.size() + rank];
  }

  // f(j) for the block's columns, by the thread that has column j whenever this is called.
  template <class F>
  __device__ void each_column(const F& f) {
    for (int64_t j = slice_begin_ + threadIdx.x; j < slice_end_; j += blockDim.x) f(j);
  }
  // f(j) for all columns.
  template <class F>
  __device__ void every_column(const F& f) {
    for (int64_t j = threadIdx.x; j < columns_; j += blockDim.x) f(j);
  }

  // --- passes ------------------------------------------------------------------------------------

  // v_ = a unit vector; false if the given one is not finite.
  __device__ __noinline__ bool make_start() {
    double largest = 0;
    bool finite = true;
    if (call_.start != nullptr) {
      every_column([&](int64_t j) {
        const double x = load_number(call_.start, m_.right + j, call_.start_wide);
        finite = finite && std::isfinite(x);
        largest = larger(largest, std::abs(x));
      });
      if (__syncthreads_or(!finite)) return false;
      largest = block_maximum(largest, shared_.sweep.slots);
    }
    given_ = largest > 0;
    double square = 0;
    every_column([&](int64_t j) {
      const double x = start_number(call_, m_, j, largest);
      square += x * x;
    });
    start_norm_ = std::sqrt(block_sum(square, shared_.sweep.slots));
    every_column(
        [&](int64_t j) { v_[j] = returned(start_number(call_, m_, j, largest) / start_norm_); });
    __syncthreads();
    return true;
  }

  // v_ / |v_| where v_ was rounded to float for numbers that are double: to the precision of float
  // alone it is no unit vector, and Lanczos would lose its orthogonality.
  __device__ __noinline__ void normalise_v() {
    if (std::is_same_v<C, float> || m_.type == SpectralType::kDouble) return;
    double square = 0;
    every_column([&](int64_t j) { square += static_cast<double>(v_[j]) * v_[j]; });
    const double norm = std::sqrt(block_sum(square, shared_.sweep.slots));
    every_column([&](int64_t j) { v_[j] = static_cast<C>(v_[j] / norm); });
    __syncthreads();
  }

  // Rounded as it would be returned.
  __device__ C returned(double x) const {
    return static_cast<C>(m_.type == SpectralType::kDouble ? x : static_cast<float>(x));
  }

  // z = W^T W v of the block's rows into the team's workspace; |W v|^2.
  __device__ __noinline__ double pass() {
    C* const to = reinterpret_cast<C*>(work_.products) + team_.rank() * columns_;
    const bool there = place_.z == nullptr;
    C* const z = there ? to : reinterpret_cast<C*>(place_.z);
    const SweepSums sums =
        sweep<C, false>(entries_, tiles_, static_cast<const C*>(v_), z, columns_,
                        static_cast<double*>(nullptr), shared_.sweep, [](int64_t, C) {});
    if (!there) every_column([&](int64_t j) { to[j] = z[j]; });
    give(kLeftSquare, sums.left);
    team_.sync();
    ++iterations_;
    return total(kLeftSquare);
  }

  // The sum of the team's products over the block's columns, to add(j, sum).
  template <class T, class Add>
  __device__ void gather(const T* products, const Add& add) {
    if (team_.size() == 1) {
      each_column([&](int64_t j) { add(j, products[j]); });
      return;
    }
    by_columns(
        slice_end_ - slice_begin_, team_.size(), shared_.sweep.lanes,
        [&](int64_t j, int begin, int end, int step) {
          T sum = 0;
          for (int r = begin; r < end; r += step) sum += products[r * columns_ + slice_begin_ + j];
          return sum;
        },
        [&](int64_t j, T sum) { add(slice_begin_ + j, sum); });
  }

  // The pass over v_, in double. False if the numbers left the range.
  __device__ __noinline__ bool measure() {
    double* const to = work_.products + team_.rank() * columns_;
    const bool there = place_.z == nullptr || place_.z_bytes < columns_ * 8;
    double* const z = there ? to : reinterpret_cast<double*>(place_.z);
    double* const column_sums =
        needs_column_sums(call_) && given_ ? work_.column_sums + team_.rank() * columns_ : nullptr;
    const SweepSums sums = sweep<double, true>(
        entries_, tiles_, static_cast<const C*>(v_), z, columns_, column_sums, shared_.sweep,
        [&](int64_t row, double y) {
          store_number(call_.vectors, m_.left + row_begin_ + row, y, call_.wide);
        });
    if (!there) every_column([&](int64_t j) { to[j] = z[j]; });
    give(kLeftSquare, sums.left);
    give(kSquares, sums.squares);
    give_maximum(kLargestRow, sums.largest_row);
    team_.sync();
    ++iterations_;
    measured_.squares = total(kSquares);
    if (!std::isfinite(measured_.squares) || !(measured_.squares < 1e200)) return false;
    if (!(measured_.squares > 1e-200)) return false;
    const double left = total(kLeftSquare);
    if (!kCareful && !call_.wide && !(left > 1e-60 && left < 1e74)) return false;  // y is floats
    double square = 0;
    every_column([&](int64_t j) { square += static_cast<double>(v_[j]) * v_[j]; });
    measured_.right_norm = std::sqrt(block_sum(square, shared_.sweep.slots));
    measured_.left_norm = std::sqrt(left);
    measured_.largest_row = maximum(kLargestRow);
    sigma_ = measured_.left_norm / measured_.right_norm;
    double distance = 0, largest_column = 0;
    if (sigma_ > 0)
      gather(work_.products, [&](int64_t j, double back) {
        const double difference = back / measured_.left_norm - sigma_ * v_[j];
        distance += difference * difference;
      });
    if (column_sums != nullptr)
      gather(work_.column_sums,
             [&](int64_t, double sum) { largest_column = larger(largest_column, sum); });
    give(kResidual, distance);
    give_maximum(kLargestColumn, largest_column);
    team_.sync();
    measured_.largest_column = maximum(kLargestColumn);
    residual_ = sigma_ > 0 ? std::sqrt(total(kResidual)) / sigma_ : kInfinity;
    return true;
  }

  __device__ bool within_tol() const { return call_.tol >= 0 && residual_ <= call_.tol; }

  // --- methods -----------------------------------------------------------------------------------

  __device__ __noinline__ bool power() {
    const C* const products = reinterpret_cast<const C*>(work_.products);
    for (int64_t step = 1; iterations_ < call_.passes - 1; ++step) {
      const double square = pass();
      if (!in_range(square, std::is_same_v<C, float>)) {
        if (!kCareful) return false;
        team_.sync();  // before measure() changes what others may be reading
        break;         // the start is in the null space
      }
      double next = 0, distance = 0;
      gather(products, [&](int64_t j, C z) {
        basis_[j] = z;
        const double wide = z, difference = wide / square - static_cast<double>(v_[j]);
        next += wide * wide;
        distance += difference * difference;
      });
      give(kNextSquare, next);
      if (call_.tol >= 0) give(kDistance, distance);
      team_.sync();
      if (call_.tol >= 0 && std::sqrt(total(kDistance)) <= call_.tol) {
        round_v();
        if (!measure()) return false;
        if (within_tol() || iterations_ >= call_.passes) return finish(), true;
      }
      const double norm = std::sqrt(total(kNextSquare));
      grow(norm);
      steps_ = step;
      const C factor = static_cast<C>(1 / norm);
      every_column([&](int64_t j) { v_[j] = basis_[j] * factor; });
      __syncthreads();
    }
    round_v();
    if (!measure()) return false;
    return finish(), true;
  }

  __device__ void round_v() {
    every_column([&](int64_t j) { v_[j] = returned(v_[j]); });
    __syncthreads();
  }

  // The product of all norms, as a logarithm only where it would leave its range.
  __device__ void grow(double norm) {
    growth_ *= norm;
    if (growth_ > 1e-50 && growth_ < 1e50) return;
    log_norm_ += std::log(growth_);
    growth_ = 1;
  }

  __device__ __noinline__ bool lanczos() {
    Projection& t = shared_.projection;
    double target = call_.tol;
    for (;;) {
      int size = 0;
      bool exhausted = false;  // the basis spans all that the start can reach
      if (threadIdx.x == 0) {
        t.size = 0;
        shared_.inverse_norms[0] = 1;
      }
      if (iterations_ < call_.passes - 1) normalise_v();
      each_column([&](int64_t j) { basis_[j] = v_[j]; });
      while (iterations_ < call_.passes - 1 && size < basis_size_ && !exhausted) {
        if (size > 0) load_v(basis_ + size * columns_, shared_.inverse_norms[size]);
        const double square = pass();
        if (!in_range(square, std::is_same_v<C, float>) && (size == 0 || !std::isfinite(square))) {
          if (!kCareful) return false;
          team_.sync();      // before measure() changes what others may be reading
          exhausted = true;  // the start is in the null space
          break;
        }
        exhausted = !add_step(size++, square);
        if (call_.tol < 0 || exhausted) continue;
        if (threadIdx.x == 0) find_top(t, &shared_.theta, shared_.coefficients);
        __syncthreads();
        const double off = t.off[size - 1] * std::abs(shared_.coefficients[size - 1]);
        const double theta = shared_.theta;
        __syncthreads();
        if (off > target * theta) continue;
        take_best(exhausted);
        if (!measure()) return false;
        if (within_tol()) return finish(), true;
        target /= 4;
      }
      if (iterations_ < call_.passes) {
        if (size > 0) take_best(exhausted);
        if (!measure()) return false;
      }
      if (within_tol() || exhausted || iterations_ >= call_.passes) return finish(), true;
      if (threadIdx.x == 0 && first_) shared_.first_cycle = t;
      first_ = false;
    }
  }

  // v_ = factor x, once all have written x.
  __device__ void load_v(const C* x, double factor) {
    const C rounded = static_cast<C>(factor);
    every_column([&](int64_t j) { v_[j] = x[j] * rounded; });
    __syncthreads();
  }

  // Row k of the projection and basis vector k + 1; false if there is none.
  __device__ __noinline__ bool add_step(int k, double square) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const double* const inverse = shared_.inverse_norms;
    const C* const q = basis_ + k * columns_;
    const C* const p = k > 0 ? q - columns_ : q;
    C* const next = basis_ + (k + 1) * columns_;
    const C of_q = static_cast<C>(square * inverse[k]);
    const C of_p = k > 0 ? static_cast<C>(shared_.projection.off[k - 1] * inverse[k - 1]) : C{0};
    gather(reinterpret_cast<const C*>(work_.products),
           [&](int64_t j, C z) { next[j] = z - of_q * q[j] - of_p * p[j]; });
    __syncthreads();
    for (int i = warp; i <= k; i += warps) {
      const C* const x = basis_ + i * columns_;
      C dot = 0;
      for (int64_t j = slice_begin_ + lane; j < slice_end_; j += kWarp) dot += x[j] * next[j];
      dot = warp_sum(dot);
      if (lane == 0) work_.coefficients[team_.rank() * kMaxBasis + i] = dot * inverse[i];
    }
    team_.sync();
    for (int i = warp; i <= k; i += warps) {
      double sum = 0;
      for (int r = lane; r < team_.size(); r += kWarp) sum += work_.coefficients[r * kMaxBasis + i];
      sum = warp_sum(sum);
      if (lane == 0) shared_.overlaps[i] = sum * inverse[i];
    }
    __syncthreads();
    double length = 0;
    each_column([&](int64_t j) {
      C x = next[j];
      for (int i = 0; i <= k; ++i)
        x -= static_cast<C>(shared_.overlaps[i]) * basis_[i * columns_ + j];
      next[j] = x;
      length += static_cast<double>(x) * x;
    });
    give(kNextSquare, length);
    team_.sync();
    const double norm = std::sqrt(total(kNextSquare));
    if (threadIdx.x == 0) {
      shared_.projection.diagonal[k] = square;
      shared_.projection.off[k] = norm;
      shared_.projection.size = k + 1;
      shared_.inverse_norms[k + 1] = 1 / norm;
    }
    __syncthreads();
    largest_square_ = larger(k > 0 ? largest_square_ : 0, square);
    constexpr double eps = kEpsilon<C>;
    return norm > 4 * std::sqrt(static_cast<double>(columns_)) * eps * largest_square_;
  }

  // v_ = the best vector in the span of the basis.
  __device__ __noinline__ void take_best(bool exhausted) {
    if (threadIdx.x == 0) {
      constexpr double eps = 8 * kEpsilon<C>;
      const bool longer = !exhausted && find_extended(shared_.projection, eps, &shared_.extended);
      const Projection& best = longer ? shared_.extended : shared_.projection;
      find_top(best, &shared_.theta, shared_.coefficients);
      for (int i = 0; i < best.size; ++i) shared_.coefficients[i] *= shared_.inverse_norms[i];
      shared_.best_size = best.size;
    }
    __syncthreads();
    double square = 0;
    each_column([&](int64_t j) {
      double x = 0;
      for (int i = 0; i < shared_.best_size; ++i)
        x += shared_.coefficients[i] * basis_[i * columns_ + j];
      work_.vector[j] = x;
      square += x * x;
    });
    give(kBestSquare, square);
    team_.sync();
    const double norm = std::sqrt(total(kBestSquare));
    every_column([&](int64_t j) { v_[j] = returned(work_.vector[j] / norm); });
    __syncthreads();
  }

  // --- results -----------------------------------------------------------------------------------

  __device__ __noinline__ void finish() {
    const bool wide = call_.wide;
    if (sigma_ > 0)
      for (int64_t i = row_begin_ + threadIdx.x; i < row_end_; i += blockDim.x) {
        const int64_t at = m_.left + i;
        const double y = load_number(call_.vectors, at, wide);
        store_number(call_.vectors, at, y / measured_.left_norm, wide);
      }
    each_column([&](int64_t j) {
      store_number(call_.vectors, call_.lefts + m_.right + j, v_[j], wide);
      if (call_.next != nullptr) store_number(call_.next, m_.right + j, v_[j], wide);
    });
    if (team_.rank() != 0 || threadIdx.x != 0) return;
    const int64_t index = m_.index, count = call_.matrices;
    store_number(call_.sigma, index, sigma_ / scale_, wide);
    if (call_.bounds != nullptr) {
      const SpectralBounds found = bounds_of(measured_, m_.rows, columns_);
      const double upper =
          larger(smaller(found.frobenius, given_ ? found.product : theorem()), found.lower);
      store_bound(index, residual_, false);
      store_bound(count + index, outward(found.lower, 0), true);
      store_bound(2 * count + index, outward(upper, kInfinity), false);
    }
    if (call_.codes == nullptr) return;
    const SpectralStatus status = call_.tol < 0  ? SpectralStatus::kIterated
                                  : within_tol() ? SpectralStatus::kConverged
                                                 : SpectralStatus::kNotConverged;
    call_.codes[index] = iterations_;
    call_.codes[count + index] = static_cast<int64_t>(status);
  }

  __device__ double theorem() {
    const double component = least_component(call_.delta, start_norm_);
    const double upper =
        call_.lanczos
            ? find_lanczos_upper(first_ ? shared_.projection : shared_.first_cycle, component)
            : find_power_upper(log_norm_, growth_, steps_, component);
    return widened_for_rounding(upper, columns_, kEpsilon<C>);
  }

  // Of the matrix itself, where it was scaled.
  __device__ double outward(double bound, double towards) const {
    return kCareful ? std::nextafter(bound / scale_, towards) : bound;
  }

  __device__ void store_bound(int64_t at, double value, bool lower) {
    if (call_.wide) {
      static_cast<double*>(call_.bounds)[at] = value;
    } else {
      static_cast<float*>(call_.bounds)[at] = rounded_bound<float>(value, lower);
    }
  }

  const SpectralCall& call_;
  const SpectralRecord& m_;
  Team& team_;
  SpectralShared& shared_;
  const int64_t columns_;
  const Entries entries_;
  const double scale_;
  const int basis_size_;
  const SpectralWorkspace work_;
  const int64_t row_begin_, row_end_;      // the block's rows
  const int64_t slice_begin_, slice_end_;  // and columns
  C* const basis_;                         // [basis size + 1, columns], divided by no norm yet
  const Place place_;
  Tiles tiles_;
  C* const v_;  // [columns]
  SpectralMeasure measured_{};
  double sigma_ = 0, residual_ = 0, start_norm_ = 1, largest_square_ = 0;
  double log_norm_ = 0, growth_ = 1;
  int64_t steps_ = 0, iterations_ = 0;
  bool given_ = false;  // the start
  bool first_ = true;   // before the first restart
};

// The largest |entry|, infinity if there is any that is not finite.
__device__ inline double largest_entry(const SpectralRecord& m, Team& team,
                                       const SpectralMemory& memory, double* scalars) {
  const ScaledEntries entries{m.type, 1};
  double largest = 0;
  const int64_t begin = m.rows * team.rank() / team.size();
  const int64_t end = m.rows * (team.rank() + 1) / team.size();
  for (int64_t i = begin; i < end; ++i) {
    const auto* row =
        static_cast<const unsigned char*>(m.data) + i * m.row_stride * bytes_of(m.type);
    for (int64_t j = threadIdx.x; j < m.columns; j += blockDim.x) {
      const double x = entries.read<double>(row, j);
      largest = std::isfinite(x) ? larger(largest, std::abs(x)) : kInfinity;
    }
  }
  const double most = block_maximum(largest, memory.shared.sweep.slots);
  if (threadIdx.x == 0) scalars[team.rank()] = most;
  team.sync();
  double of_all = 0;
  for (int i = 0; i < team.size(); ++i) of_all = larger(of_all, scalars[i]);
  return of_all;
}

// Where the numbers of a matrix leave the range of the type that it is worked on in.
__device__ __noinline__ inline void solve_carefully(const SpectralCall& call,
                                                    const SpectralRecord& m, Team& team,
                                                    const SpectralMemory& memory) {
  const SpectralWorkspace work(memory.team, m.columns, basis_size(call, m.columns), team.size(),
                               needs_column_sums(call), memory.small);
  const double largest = largest_entry(m, team, memory, work.scalars + kLargestEntry * team.size());
  if (!std::isfinite(largest)) return store_none(call, m, team, SpectralStatus::kNonFinite, kNaN);
  if (largest == 0) return store_none(call, m, team, SpectralStatus::kZero, 0);
  int exponent = 0;
  std::frexp(largest, &exponent);
  exponent = exponent < -1021 ? -1021 : exponent > 1021 ? 1021 : exponent;
  const double scale = std::ldexp(1.0, -exponent);
  SpectralSolver<ScaledEntries, double, true>(call, m, team, memory, {m.type, scale}, scale).run();
}

template <class S>
__device__ __noinline__ void solve_as(const SpectralCall& call, const SpectralRecord& m, Team& team,
                                      const SpectralMemory& memory) {
  using C = std::conditional_t<std::is_same_v<S, double>, double, float>;
  using Solver = SpectralSolver<PlainEntries<S>, C, false>;
  if (!Solver(call, m, team, memory, {}, 1).run()) solve_carefully(call, m, team, memory);
}

__device__ inline void solve(const SpectralCall& call, const SpectralRecord& m, Team& team,
                             const SpectralMemory& memory) {
  if (m.rows == 0 || m.columns == 0) return store_none(call, m, team, SpectralStatus::kZero, 0);
  switch (m.type) {
    case SpectralType::kFloat:
      return solve_as<float>(call, m, team, memory);
    case SpectralType::kDouble:
      return solve_as<double>(call, m, team, memory);
    case SpectralType::kHalf:
      return solve_as<Half>(call, m, team, memory);
    case SpectralType::kBFloat16:
      return solve_as<BFloat16>(call, m, team, memory);
  }
}

}  // namespace fractalkern
