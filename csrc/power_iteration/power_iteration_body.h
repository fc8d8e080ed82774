// The loops over matrix entries, compiled once per instruction set; see power_iteration_cpu.cpp for
// the algorithm and common/each_instruction_set.h for how. No include guard.

#define FRACTALKERN_TARGET_INLINE FRACTALKERN_TARGET inline __attribute__((always_inline))
namespace fractalkern::FRACTALKERN_ISA {

// Rows that share a load of v and of z: as many as there are registers for.
constexpr int kRowBlock = FRACTALKERN_ISA_TAG::kRegisters >= 32 ? 8 : 4;

template <class C>
using Lanes = typename VectorOf<C, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
template <class C>
constexpr int64_t kLanes = FRACTALKERN_ISA_TAG::kVectorBytes / sizeof(C);

// Entries of type S as numbers of type C.
template <class C, class S>
FRACTALKERN_TARGET_INLINE Lanes<C> load(const S* from) {
  typename VectorOf<S, kLanes<C> * sizeof(S)>::type stored;
  std::memcpy(&stored, from, sizeof(stored));
  if constexpr (std::is_same_v<S, C>) {
    return stored;
  } else {
    return __builtin_convertvector(stored, Lanes<C>);
  }
}

template <class C>
FRACTALKERN_TARGET_INLINE void store(C* to, Lanes<C> value) {
  std::memcpy(to, &value, sizeof(value));
}

template <class C>
FRACTALKERN_TARGET_INLINE C lane_sum(Lanes<C> value) {
  C lanes[kLanes<C>];
  std::memcpy(lanes, &value, sizeof(value));
  for (int64_t width = kLanes<C> / 2; width > 0; width /= 2)
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

template <class C>
FRACTALKERN_TARGET_INLINE Lanes<C> magnitude(Lanes<C> value) {
  return value < 0 ? -value : value;
}

// Rows [row, row + R): y = W v, then z += W^T y while the rows are still in cache. kNorms also sums
// squares and magnitudes. Prefetching covers the second half, in which memory would idle.
template <int R, bool kNorms, bool kPrefetch, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_block(const SweepArgs<S, C>& a, int64_t row) {
  const S* const first = a.w + row * a.row_stride;
  const int64_t whole = a.columns / kLanes<C> * kLanes<C>;
  Lanes<C> dot[R] = {}, squares[R] = {}, sums[R] = {};
  for (int64_t j = 0; j < whole; j += kLanes<C>) {
    const Lanes<C> v = load<C>(a.v + j);
    for (int r = 0; r < R; ++r) {
      const Lanes<C> w = load<C>(first + r * a.row_stride + j);
      dot[r] += w * v;
      if constexpr (kNorms) {
        squares[r] += w * w;
        sums[r] += magnitude<C>(w);
      }
    }
  }
  C y[R];
  for (int r = 0; r < R; ++r) {
    const S* const w = first + r * a.row_stride;
    y[r] = lane_sum<C>(dot[r]);
    for (int64_t j = whole; j < a.columns; ++j) y[r] += static_cast<C>(w[j]) * a.v[j];
    a.y[row + r] = y[r];
    if constexpr (kNorms) {
      double square = lane_sum<C>(squares[r]), sum = lane_sum<C>(sums[r]);
      for (int64_t j = whole; j < a.columns; ++j) {
        square += static_cast<double>(w[j]) * w[j];
        sum += std::abs(static_cast<double>(w[j]));
      }
      a.norms->squares += square;
      a.norms->largest_row = std::max(a.norms->largest_row, sum);
    }
  }
  for (int64_t j = 0; j < whole; j += kLanes<C>) {
    Lanes<C> z = load<C>(a.z + j);
    Lanes<C> columns = {};
    if constexpr (kNorms) columns = load<C>(a.column_sums + j);
    for (int r = 0; r < R; ++r) {
      const S* const w = first + r * a.row_stride + j;
      if constexpr (kPrefetch) __builtin_prefetch(w + R * a.row_stride);
      const Lanes<C> entries = load<C>(w);
      z += y[r] * entries;
      if constexpr (kNorms) columns += magnitude<C>(entries);
    }
    store<C>(a.z + j, z);
    if constexpr (kNorms) store<C>(a.column_sums + j, columns);
  }
  for (int64_t j = whole; j < a.columns; ++j)
    for (int r = 0; r < R; ++r) {
      const C entry = static_cast<C>(first[r * a.row_stride + j]);
      a.z[j] += y[r] * entry;
      if constexpr (kNorms) a.column_sums[j] += std::abs(entry);
    }
}

template <bool kNorms, bool kPrefetch, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_rows(const SweepArgs<S, C>& a) {
  int64_t row = 0;
  for (; row + kRowBlock <= a.rows; row += kRowBlock)
    sweep_block<kRowBlock, kNorms, kPrefetch>(a, row);
  for (; row < a.rows; ++row) sweep_block<1, kNorms, false>(a, row);
}

template <class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_any(const SweepArgs<S, C>& a) {
  for (int64_t j = 0; j < a.columns; ++j) a.z[j] = 0;
  if (a.rows * a.columns > kCachedElements) {
    sweep_rows<false, true>(a);
  } else {
    sweep_rows<false, false>(a);
  }
}

template <class S>
FRACTALKERN_TARGET_INLINE void measure_any(const SweepArgs<S, double>& a) {
  for (int64_t j = 0; j < a.columns; ++j) a.z[j] = a.column_sums[j] = 0;
  *a.norms = {};
  if (a.rows * a.columns > kCachedElements) {
    sweep_rows<true, true>(a);
  } else {
    sweep_rows<true, false>(a);
  }
}

template <class C>
FRACTALKERN_TARGET_INLINE double squares_of(const C* x, int64_t size) {
  const int64_t whole = size / kLanes<double> * kLanes<double>;
  Lanes<double> sum = {};
  for (int64_t j = 0; j < whole; j += kLanes<double>) {
    const Lanes<double> value = load<double>(x + j);
    sum += value * value;
  }
  double total = lane_sum<double>(sum);
  for (int64_t j = whole; j < size; ++j) total += static_cast<double>(x[j]) * x[j];
  return total;
}

FRACTALKERN_TARGET static void sweep_float(const SweepArgs<float, float>& a) { sweep_any(a); }
FRACTALKERN_TARGET static void sweep_wide(const SweepArgs<float, double>& a) { sweep_any(a); }
FRACTALKERN_TARGET static void sweep_double(const SweepArgs<double, double>& a) { sweep_any(a); }
FRACTALKERN_TARGET static void measure_float(const SweepArgs<float, double>& a) { measure_any(a); }
FRACTALKERN_TARGET static void measure_double(const SweepArgs<double, double>& a) {
  measure_any(a);
}
FRACTALKERN_TARGET static double squares_float(const float* x, int64_t n) {
  return squares_of(x, n);
}
FRACTALKERN_TARGET static double squares_double(const double* x, int64_t n) {
  return squares_of(x, n);
}

// to = z - d q - e p; p may be null.
template <class C>
FRACTALKERN_TARGET_INLINE void recur(const RecurrenceArgs<C>& a) {
  const C* const p = a.p == nullptr ? a.q : a.p;
  const C e = a.p == nullptr ? C{0} : a.e;
  for (int64_t j = 0; j < a.size; ++j) a.to[j] = a.z[j] - a.d * a.q[j] - e * p[j];
}
FRACTALKERN_TARGET static void recur_float(const RecurrenceArgs<float>& a) { recur(a); }
FRACTALKERN_TARGET static void recur_double(const RecurrenceArgs<double>& a) { recur(a); }

FRACTALKERN_TARGET static void fill_start(const StartArgs& a) {
  for (int64_t j = 0; j < a.size; ++j)
    a.to[j] = start_element(a.seed, static_cast<uint32_t>(a.row), static_cast<uint32_t>(j));
}

template <class T>
FRACTALKERN_TARGET_INLINE void outer_row(const OuterArgs<T>& a) {
  for (int64_t j = 0; j < a.size; ++j) a.to[j] = static_cast<T>(a.scale * a.v[j]);
}
FRACTALKERN_TARGET static void outer_float(const OuterArgs<float>& a) { outer_row(a); }
FRACTALKERN_TARGET static void outer_double(const OuterArgs<double>& a) { outer_row(a); }

}  // namespace fractalkern::FRACTALKERN_ISA
#undef FRACTALKERN_TARGET_INLINE
