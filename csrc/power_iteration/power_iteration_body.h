// The loops over matrix entries, compiled once per instruction set; see power_iteration_cpu.cpp for
// the algorithm and common/each_instruction_set.h for how. No include guard.

#define FRACTALKERN_TARGET_INLINE FRACTALKERN_TARGET inline __attribute__((always_inline))
namespace fractalkern::FRACTALKERN_ISA {

// 32 registers hold a block of narrow rows between its two uses; 16 do not, and rows are read
// twice.
constexpr bool kManyRegisters = FRACTALKERN_ISA_TAG::kRegisters >= 32;

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
#if FRACTALKERN_ISA_LEVEL >= 4
  } else if constexpr (std::is_same_v<S, float>) {  // gcc 12 would convert and join two halves
    return __builtin_ia32_cvtps2pd512_mask(stored, Lanes<double>{}, -1, 4);
#elif FRACTALKERN_ISA_LEVEL >= 3
  } else if constexpr (std::is_same_v<S, float>) {
    return __builtin_ia32_cvtps2pd256(stored);
#endif
  } else {
    return __builtin_convertvector(stored, Lanes<C>);
  }
}

template <class C>
FRACTALKERN_TARGET_INLINE void store(C* to, Lanes<C> value) {
  std::memcpy(to, &value, sizeof(value));
}

// Lane i holds a sum over a pair of lanes that differ in bit kBit of their number: over a's pair
// where that bit of i is clear, over b's where it is set.
template <int kBit, class V, std::size_t... kLane>
FRACTALKERN_TARGET_INLINE V fold(V a, V b, std::index_sequence<kLane...>) {
  constexpr int kCount = sizeof...(kLane);
  const V kept =
      __builtin_shufflevector(a, b, ((kLane & kBit) != 0 ? int(kLane) + kCount : int(kLane))...);
  const V other = __builtin_shufflevector(
      a, b, ((kLane & kBit) != 0 ? (int(kLane) ^ kBit) + kCount : int(kLane) | kBit)...);
  return kept + other;
}

// The lanes of x from one number on, all of them that lane.
template <int kFrom, class V, std::size_t... kLane>
FRACTALKERN_TARGET_INLINE V broadcast(V x, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(x, x, (int(kLane) * 0 + kFrom)...);
}

// The sums of the lanes of R rows, R no more than there are lanes: that of rows[r] in the lanes
// from r kLanes / R on. Overwrites the rows.
template <int R, class C>
FRACTALKERN_TARGET_INLINE Lanes<C> spread_sums(Lanes<C> (&rows)[R]) {
  constexpr int kCount = kLanes<C>;
  const std::make_index_sequence<kCount> lanes;
  if constexpr (R >= 8)
    for (int r = 0; r < R / 2; ++r) rows[r] = fold<kCount / 2>(rows[r], rows[r + R / 2], lanes);
  if constexpr (R >= 4)
    for (int r = 0; r < 2; ++r) rows[r] = fold<kCount * 2 / R>(rows[r], rows[r + 2], lanes);
  if constexpr (R >= 2) rows[0] = fold<kCount / R>(rows[0], rows[1], lanes);
  Lanes<C> total = rows[0];
  if constexpr (kCount / R >= 16) total = fold<8>(total, total, lanes);
  if constexpr (kCount / R >= 8) total = fold<4>(total, total, lanes);
  if constexpr (kCount / R >= 4) total = fold<2>(total, total, lanes);
  if constexpr (kCount / R >= 2) total = fold<1>(total, total, lanes);
  return total;
}

// The lanes 0, kLanes / R, ... of what spread_sums() returns.
template <int R, class C, std::size_t... kRow>
FRACTALKERN_TARGET_INLINE void store_sums(C* to, Lanes<C> spread, std::index_sequence<kRow...>) {
  if constexpr (R == 1) {
    *to = spread[0];
  } else {
    const auto sums = __builtin_shufflevector(spread, spread, int(kRow) * (kLanes<C> / R)...);
    std::memcpy(to, &sums, sizeof(sums));
  }
}

// sums[r] = the sum of the lanes of rows[r].
template <int R, class C>
FRACTALKERN_TARGET_INLINE void lane_sums(Lanes<C> (&rows)[R], C* sums) {
  if constexpr (R > kLanes<C>) {
    for (int half = 0; half < 2; ++half) {
      Lanes<C> part[R / 2];
      for (int r = 0; r < R / 2; ++r) part[r] = rows[half * (R / 2) + r];
      lane_sums<R / 2, C>(part, sums + half * (R / 2));
    }
  } else {
    store_sums<R, C>(sums, spread_sums<R, C>(rows), std::make_index_sequence<R>());
  }
}

template <class C>
FRACTALKERN_TARGET_INLINE C lane_sum(Lanes<C> value) {
  Lanes<C> row[1] = {value};
  return spread_sums<1, C>(row)[0];
}

template <class C>
FRACTALKERN_TARGET_INLINE Lanes<C> magnitude(Lanes<C> value) {
  return value < 0 ? -value : value;
}

// What a sweep sums up besides: nothing, the squares, or magnitudes by row and by column as well.
enum class Sums { kNone, kSquares, kAll };

// Rows that share a load of v and of z: as many as there are registers for.
template <Sums kSums, class S, class C>
constexpr int kRowBlock = kManyRegisters || (kSums == Sums::kNone && std::is_same_v<S, C>) ? 8 : 4;

// Whether rows are prefetched: eight rows at 32 bytes a load the hardware foresees better.
template <class S, class C>
constexpr bool kPrefetches = kManyRegisters || !std::is_same_v<S, C>;

// Rows [row, row + R): y = W v, then z += W^T y while the rows are still in cache. Prefetching
// covers the second half, in which memory would idle.
template <int R, Sums kSums, bool kPrefetch, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_block(const SweepArgs<S, C>& a, int64_t row) {
  const S* const first = a.w + row * a.row_stride;
  const int64_t whole = a.columns / kLanes<C> * kLanes<C>;
  Lanes<C> dot[R] = {}, squares[R] = {}, magnitudes[R] = {};
  for (int64_t j = 0; j < whole; j += kLanes<C>) {
    const Lanes<C> v = load<C>(a.v + j);
    for (int r = 0; r < R; ++r) {
      const Lanes<C> w = load<C>(first + r * a.row_stride + j);
      dot[r] += w * v;
      if constexpr (kSums != Sums::kNone) squares[r] += w * w;
      if constexpr (kSums == Sums::kAll) magnitudes[r] += magnitude<C>(w);
    }
  }
  C y[R];
  lane_sums<R, C>(dot, y);
  for (int64_t j = whole; j < a.columns; ++j)
    for (int r = 0; r < R; ++r) y[r] += static_cast<C>(first[r * a.row_stride + j]) * a.v[j];
  for (int r = 0; r < R; ++r) a.y[row + r] = y[r];
  if constexpr (kSums != Sums::kNone) {
    for (int r = 1; r < R; ++r) squares[0] += squares[r];
    double square = lane_sum<C>(squares[0]);
    for (int64_t j = whole; j < a.columns; ++j)
      for (int r = 0; r < R; ++r) {
        const double entry = first[r * a.row_stride + j];
        square += entry * entry;
      }
    a.norms->squares += square;
  }
  if constexpr (kSums == Sums::kAll) {
    for (int r = 0; r < R; ++r) {
      double sum = lane_sum<C>(magnitudes[r]);
      for (int64_t j = whole; j < a.columns; ++j)
        sum += std::abs(static_cast<double>(first[r * a.row_stride + j]));
      a.norms->largest_row = std::max(a.norms->largest_row, sum);
    }
  }
  for (int64_t j = 0; j < whole; j += kLanes<C>) {
    Lanes<C> z = load<C>(a.z + j);
    Lanes<C> columns = {};
    if constexpr (kSums == Sums::kAll) columns = load<C>(a.column_sums + j);
    for (int r = 0; r < R; ++r) {
      const S* const w = first + r * a.row_stride + j;
      if constexpr (kPrefetch) __builtin_prefetch(w + R * a.row_stride);
      const Lanes<C> entries = load<C>(w);
      z += y[r] * entries;
      if constexpr (kSums == Sums::kAll) columns += magnitude<C>(entries);
    }
    store<C>(a.z + j, z);
    if constexpr (kSums == Sums::kAll) store<C>(a.column_sums + j, columns);
  }
  for (int64_t j = whole; j < a.columns; ++j)
    for (int r = 0; r < R; ++r) {
      const C entry = static_cast<C>(first[r * a.row_stride + j]);
      a.z[j] += y[r] * entry;
      if constexpr (kSums == Sums::kAll) a.column_sums[j] += std::abs(entry);
    }
}

template <int K, class V>
FRACTALKERN_TARGET_INLINE void add_multiple(V (&z)[K], V factor, const V (&w)[K]) {
  for (int k = 0; k < K; ++k) z[k] += factor * w[k];
}

// The same for K vectors of columns, whose z stays in registers, and so do the rows between their
// two uses. Squares are summed in four parts, which do not wait for each other.
template <int R, int K, Sums kSums, class S, class C, std::size_t... kRow>
FRACTALKERN_TARGET_INLINE void narrow_block(const SweepArgs<S, C>& a, int64_t row,
                                            const Lanes<C> (&v)[K], Lanes<C> (&z)[K],
                                            Lanes<C> (&squares)[4], std::index_sequence<kRow...>) {
  Lanes<C> w[R][K], dot[R] = {};
  for (int r = 0; r < R; ++r)
    for (int k = 0; k < K; ++k) {
      w[r][k] = load<C>(a.w + (row + r) * a.row_stride + k * kLanes<C>);
      dot[r] += w[r][k] * v[k];
      if constexpr (kSums != Sums::kNone) squares[(r + k) % 4] += w[r][k] * w[r][k];
    }
  const Lanes<C> y = spread_sums<R, C>(dot);
  store_sums<R, C>(a.y + row, y, std::make_index_sequence<R>());
  const std::make_index_sequence<kLanes<C>> lanes;
  (add_multiple<K>(z, broadcast<int(kRow) * (kLanes<C> / R)>(y, lanes), w[kRow]), ...);
}

template <int R, int K, Sums kSums, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_narrow(const SweepArgs<S, C>& a) {
  Lanes<C> v[K], z[K] = {}, squares[4] = {};
  for (int k = 0; k < K; ++k) v[k] = load<C>(a.v + k * kLanes<C>);
  int64_t row = 0;
  for (; row + R <= a.rows; row += R)
    narrow_block<R, K, kSums>(a, row, v, z, squares, std::make_index_sequence<R>());
  for (; row < a.rows; ++row)
    narrow_block<1, K, kSums>(a, row, v, z, squares, std::make_index_sequence<1>());
  for (int k = 0; k < K; ++k) store<C>(a.z + k * kLanes<C>, z[k]);
  if constexpr (kSums != Sums::kNone)
    a.norms->squares += lane_sum<C>((squares[0] + squares[1]) + (squares[2] + squares[3]));
}

// y = W v for rows [row, row + R) of K vectors of columns.
template <int R, int K, class S, class C>
FRACTALKERN_TARGET_INLINE void multiply_narrow(const SweepArgs<S, C>& a, int64_t row) {
  Lanes<C> dot[R] = {};
  for (int k = 0; k < K; ++k) {
    const Lanes<C> v = load<C>(a.v + k * kLanes<C>);
    for (int r = 0; r < R; ++r)
      dot[r] += load<C>(a.w + (row + r) * a.row_stride + k * kLanes<C>) * v;
  }
  lane_sums<R, C>(dot, a.y + row);
}

// z += y_row W_row.
template <int K, class S, class C>
FRACTALKERN_TARGET_INLINE void add_row(const SweepArgs<S, C>& a, int64_t row, Lanes<C> (&z)[K]) {
  const S* const w = a.w + row * a.row_stride;
  for (int k = 0; k < K; ++k) z[k] += a.y[row] * load<C>(w + k * kLanes<C>);
}

// The same as sweep_narrow() with z alone in registers. The rows are read twice, from the
// first-level cache, a panel at a time. Rows that follow each other are added to different copies
// of z, so that eight additions are under way.
template <int K, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_panels(const SweepArgs<S, C>& a) {
  constexpr int64_t kPanelRows = 64;
  constexpr int kCopies = K == 1 ? 8 : K == 2 ? 4 : K <= 4 ? 2 : 1;
  Lanes<C> z[kCopies][K] = {};
  for (int64_t begin = 0; begin < a.rows; begin += kPanelRows) {
    const int64_t end = std::min(begin + kPanelRows, a.rows);
    int64_t row = begin;
    for (; row + 8 <= end; row += 8) multiply_narrow<8, K>(a, row);
    for (; row < end; ++row) multiply_narrow<1, K>(a, row);
    row = begin;
    for (; row + kCopies <= end; row += kCopies)
      for (int copy = 0; copy < kCopies; ++copy) add_row<K>(a, row + copy, z[copy]);
    for (; row < end; ++row) add_row<K>(a, row, z[0]);
  }
  for (int k = 0; k < K; ++k) {
    for (int copy = 1; copy < kCopies; ++copy) z[0][k] += z[copy][k];
    store<C>(a.z + k * kLanes<C>, z[0][k]);
  }
}

// Whether a.columns were one vector more than one of kLess, and it is done.
template <class S, class C, std::size_t... kLess>
FRACTALKERN_TARGET_INLINE bool sweep_panels_of(const SweepArgs<S, C>& a,
                                               std::index_sequence<kLess...>) {
  return (
      (a.columns == int64_t(kLess + 1) * kLanes<C> && (sweep_panels<int(kLess) + 1>(a), true)) ||
      ...);
}

// Whether a.columns were few enough for that, and it is done.
template <Sums kSums, class S, class C>
FRACTALKERN_TARGET_INLINE bool sweep_few_columns(const SweepArgs<S, C>& a) {
  if constexpr (kManyRegisters && kSums != Sums::kAll) {
    constexpr int64_t kWidth = kLanes<C>;
    switch (a.columns) {
      case kWidth:
        return sweep_narrow<4, 1, kSums>(a), true;
      case 2 * kWidth:
        return sweep_narrow<4, 2, kSums>(a), true;
      case 4 * kWidth:
        return sweep_narrow<4, 4, kSums>(a), true;
      case 8 * kWidth:
        return sweep_narrow<2, 8, kSums>(a), true;
      default:
        break;
    }
  } else if constexpr (kSums == Sums::kNone && std::is_same_v<S, C>) {
    if (a.rows >= 8) return sweep_panels_of(a, std::make_index_sequence<8>());
  }
  return false;
}

// Rows [row, row + R) of float in double, widened into a buffer [R, columns] for their second use.
template <int R, Sums kSums, class S, class C>
FRACTALKERN_TARGET_INLINE void widened_block(const SweepArgs<S, C>& a, int64_t row, C* wide) {
  const S* const first = a.w + row * a.row_stride;
  Lanes<C> dot[R] = {}, squares[R] = {};
  for (int64_t j = 0; j < a.columns; j += kLanes<C>) {
    const Lanes<C> v = load<C>(a.v + j);
    for (int r = 0; r < R; ++r) {
      const Lanes<C> w = load<C>(first + r * a.row_stride + j);
      store<C>(wide + r * a.columns + j, w);
      dot[r] += w * v;
      if constexpr (kSums != Sums::kNone) squares[r] += w * w;
    }
  }
  C y[R];
  lane_sums<R, C>(dot, y);
  for (int r = 0; r < R; ++r) a.y[row + r] = y[r];
  if constexpr (kSums != Sums::kNone) {
    for (int r = 1; r < R; ++r) squares[0] += squares[r];
    a.norms->squares += lane_sum<C>(squares[0]);
  }
  for (int64_t j = 0; j < a.columns; j += kLanes<C>) {
    Lanes<C> z = load<C>(a.z + j);
    for (int r = 0; r < R; ++r) z += y[r] * load<C>(wide + r * a.columns + j);
    store<C>(a.z + j, z);
  }
}

// Whether the columns are whole vectors and few enough for such a buffer, and it is done.
template <Sums kSums, class S, class C>
FRACTALKERN_TARGET_INLINE bool sweep_widened(const SweepArgs<S, C>& a) {
  if constexpr (!kManyRegisters && kSums != Sums::kAll && !std::is_same_v<S, C>) {
    constexpr int R = 4;
    constexpr int64_t kMostColumns = 512;
    if (a.columns > kMostColumns || a.columns % kLanes<C> != 0) return false;
    alignas(64) C wide[R * kMostColumns];
    int64_t row = 0;
    for (; row + R <= a.rows; row += R) widened_block<R, kSums>(a, row, wide);
    for (; row < a.rows; ++row) widened_block<1, kSums>(a, row, wide);
    return true;
  }
  return false;
}

template <Sums kSums, bool kPrefetch, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_rows(const SweepArgs<S, C>& a) {
  constexpr int R = kRowBlock<kSums, S, C>;
  int64_t row = 0;
  for (; row + R <= a.rows; row += R) sweep_block<R, kSums, kPrefetch>(a, row);
  if constexpr (!kManyRegisters && R > 4)
    for (; row + 4 <= a.rows; row += 4) sweep_block<4, kSums, false>(a, row);
  for (; row < a.rows; ++row) sweep_block<1, kSums, false>(a, row);
}

template <Sums kSums, class S, class C>
FRACTALKERN_TARGET_INLINE void sweep_any(const SweepArgs<S, C>& a) {
  if (sweep_few_columns<kSums>(a)) return;
  std::fill_n(a.z, a.columns, C{0});
  if (sweep_widened<kSums>(a)) return;
  if (kPrefetches<S, C> && a.rows * a.columns > kCachedElements) {
    sweep_rows<kSums, true>(a);
  } else {
    sweep_rows<kSums, false>(a);
  }
}

template <class S>
FRACTALKERN_TARGET_INLINE void measure_any(const SweepArgs<S, double>& a) {
  *a.norms = {};
  if (a.column_sums == nullptr) return sweep_any<Sums::kSquares>(a);
  std::fill_n(a.column_sums, a.columns, 0.0);
  sweep_any<Sums::kAll>(a);
}

template <class C>
FRACTALKERN_TARGET_INLINE double squares_of(const C* x, int64_t size) {
  constexpr int kSums = kManyRegisters ? 1 : 4;  // shorter vectors are more additions
  constexpr int64_t kStep = kSums * kLanes<double>;
  const int64_t whole = size / kStep * kStep;
  Lanes<double> sums[kSums] = {};
  for (int64_t j = 0; j < whole; j += kStep)
    for (int k = 0; k < kSums; ++k) {
      const Lanes<double> value = load<double>(x + j + k * kLanes<double>);
      sums[k] += value * value;
    }
  for (int k = 1; k < kSums; ++k) sums[0] += sums[k];
  double total = lane_sum<double>(sums[0]);
  for (int64_t j = whole; j < size; ++j) total += static_cast<double>(x[j]) * x[j];
  return total;
}

FRACTALKERN_TARGET static int64_t vector_bytes() { return FRACTALKERN_ISA_TAG::kVectorBytes; }

FRACTALKERN_TARGET static void sweep_float(const SweepArgs<float, float>& a) {
  sweep_any<Sums::kNone>(a);
}
FRACTALKERN_TARGET static void sweep_wide(const SweepArgs<float, double>& a) {
  sweep_any<Sums::kNone>(a);
}
FRACTALKERN_TARGET static void sweep_double(const SweepArgs<double, double>& a) {
  sweep_any<Sums::kNone>(a);
}
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

template <class C>
FRACTALKERN_TARGET_INLINE void scale_all(C* to, const C* from, C factor, int64_t size) {
  for (int64_t j = 0; j < size; ++j) to[j] = from[j] * factor;
}
FRACTALKERN_TARGET static void scale_float(float* to, const float* from, float factor,
                                           int64_t size) {
  scale_all(to, from, factor, size);
}
FRACTALKERN_TARGET static void scale_double(double* to, const double* from, double factor,
                                            int64_t size) {
  scale_all(to, from, factor, size);
}

template <class C>
FRACTALKERN_TARGET_INLINE void add_scaled(double* to, const C* from, double factor, int64_t size) {
  for (int64_t j = 0; j < size; ++j) to[j] += factor * static_cast<double>(from[j]);
}
FRACTALKERN_TARGET static void add_float(double* to, const float* from, double factor,
                                         int64_t size) {
  add_scaled(to, from, factor, size);
}
FRACTALKERN_TARGET static void add_double(double* to, const double* from, double factor,
                                          int64_t size) {
  add_scaled(to, from, factor, size);
}

// |a x - b y|^2
template <class C>
FRACTALKERN_TARGET_INLINE double distance(const C* x, double a, const C* y, double b,
                                          int64_t size) {
  const int64_t whole = size / kLanes<double> * kLanes<double>;
  Lanes<double> sum = {};
  for (int64_t j = 0; j < whole; j += kLanes<double>) {
    const Lanes<double> difference = a * load<double>(x + j) - b * load<double>(y + j);
    sum += difference * difference;
  }
  double total = lane_sum<double>(sum);
  for (int64_t j = whole; j < size; ++j) {
    const double difference = a * x[j] - b * y[j];
    total += difference * difference;
  }
  return total;
}
FRACTALKERN_TARGET static double distance_float(const float* x, double a, const float* y, double b,
                                                int64_t size) {
  return distance(x, a, y, b, size);
}
FRACTALKERN_TARGET static double distance_double(const double* x, double a, const double* y,
                                                 double b, int64_t size) {
  return distance(x, a, y, b, size);
}

// x /= norm, rounded to float if `narrow`.
FRACTALKERN_TARGET static void divide(double* x, double norm, bool narrow, int64_t size) {
  if (narrow) {
    for (int64_t j = 0; j < size; ++j) x[j] = static_cast<float>(x[j] / norm);
  } else {
    for (int64_t j = 0; j < size; ++j) x[j] /= norm;
  }
}

FRACTALKERN_TARGET static void fill_start(const StartArgs& a) {
  for (int64_t j = 0; j < a.size; ++j)
    a.to[j] = start_element(a.seed, static_cast<uint32_t>(a.row), static_cast<uint32_t>(j));
}

// Entries as float or double, one after another. Where columns are contiguous, tile by tile, so
// that no line of either matrix is needed twice.
template <class S, class C>
FRACTALKERN_TARGET_INLINE void copy_any(const CopyArgs<S, C>& a) {
  if (a.column_stride == 1) {
    for (int64_t i = 0; i < a.rows; ++i)
      for (int64_t j = 0; j < a.columns; ++j)
        a.to[i * a.columns + j] = static_cast<C>(widened(a.from[i * a.row_stride + j]));
    return;
  }
  constexpr int64_t kTile = 32;
  C tile[kTile][kTile];
  for (int64_t i = 0; i < a.rows; i += kTile)
    for (int64_t j = 0; j < a.columns; j += kTile) {
      const int64_t rows = std::min(kTile, a.rows - i), columns = std::min(kTile, a.columns - j);
      const S* const from = a.from + i * a.row_stride + j * a.column_stride;
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = 0; r < rows; ++r)
          tile[r][c] = static_cast<C>(widened(from[r * a.row_stride + c * a.column_stride]));
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(tile[r], columns, a.to + (i + r) * a.columns + j);
    }
}
FRACTALKERN_TARGET static void copy_float(const CopyArgs<float, float>& a) { copy_any(a); }
FRACTALKERN_TARGET static void copy_double(const CopyArgs<double, double>& a) { copy_any(a); }
FRACTALKERN_TARGET static void copy_half(const CopyArgs<Half, float>& a) { copy_any(a); }
FRACTALKERN_TARGET static void copy_bfloat16(const CopyArgs<BFloat16, float>& a) { copy_any(a); }

template <class T>
FRACTALKERN_TARGET_INLINE void outer_row(const OuterArgs<T>& a) {
  for (int64_t j = 0; j < a.size; ++j) a.to[j] = static_cast<T>(a.scale * a.v[j]);
}
FRACTALKERN_TARGET static void outer_float(const OuterArgs<float>& a) { outer_row(a); }
FRACTALKERN_TARGET static void outer_double(const OuterArgs<double>& a) { outer_row(a); }

}  // namespace fractalkern::FRACTALKERN_ISA
#undef FRACTALKERN_TARGET_INLINE
