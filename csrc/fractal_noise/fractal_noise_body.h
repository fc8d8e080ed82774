// The body of fractal_noise, compiled once per instruction set; see fractal_noise_cpu.cpp for the
// algorithm and common/each_instruction_set.h for how. No include guard.

#define FRACTALKERN_MATH FRACTALKERN_TARGET inline __attribute__((always_inline))
namespace fractalkern::FRACTALKERN_ISA {

// Words are the unsigned integers as wide as Real, Wide the 64-bit ones that fill its bytes.
template <class Real>
struct RealTypes;
#define FRACTALKERN_REAL_TYPES(T, I, U, BYTES)          \
  template <>                                           \
  struct RealTypes<typename VectorOf<T, BYTES>::type> { \
    using Scalar = T;                                   \
    using Word = U;                                     \
    using Bits = typename VectorOf<I, BYTES>::type;     \
    using Words = typename VectorOf<U, BYTES>::type;    \
  };
FRACTALKERN_REAL_TYPES(double, int64_t, uint64_t, FRACTALKERN_ISA_TAG::kVectorBytes)
FRACTALKERN_REAL_TYPES(float, int32_t, uint32_t, FRACTALKERN_ISA_TAG::kVectorBytes)
#undef FRACTALKERN_REAL_TYPES

template <class Real, class Integers>
FRACTALKERN_MATH Real convert(Integers integers) {
  return __builtin_convertvector(integers, Real);
}

template <class Real>
FRACTALKERN_MATH Real square_root(Real x) {
  using Scalar = typename RealTypes<Real>::Scalar;
#if FRACTALKERN_ISA_LEVEL == 4
  if constexpr (sizeof(Scalar) == 4)
    return __builtin_ia32_sqrtps512_mask(x, Real{}, -1, 4);
  else
    return __builtin_ia32_sqrtpd512_mask(x, Real{}, -1, 4);
#elif FRACTALKERN_ISA_LEVEL == 3
  if constexpr (sizeof(Scalar) == 4)
    return __builtin_ia32_sqrtps256(x);
  else
    return __builtin_ia32_sqrtpd256(x);
#elif defined(__x86_64__)
  if constexpr (sizeof(Scalar) == 4)
    return __builtin_ia32_sqrtps(x);
  else
    return __builtin_ia32_sqrtpd(x);
#else
  for (unsigned i = 0; i < sizeof(Real) / sizeof(Scalar); ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// Whether any 32-bit word is below `bound`.
template <class Words>
FRACTALKERN_MATH bool any_below(Words words, uint32_t bound) {
#if FRACTALKERN_ISA_LEVEL == 4
  using Halves512 = typename VectorOf<int32_t, 64>::type;
  constexpr int kLess = 1;
  return __builtin_ia32_ucmpd512_mask(__builtin_bit_cast(Halves512, words),
                                      __builtin_bit_cast(Halves512, Words{} + bound), kLess, -1);
#elif FRACTALKERN_ISA_LEVEL == 3
  using Floats = typename VectorOf<float, 32>::type;
  return __builtin_ia32_movmskps256(__builtin_bit_cast(Floats, words < bound)) != 0;
#elif defined(__x86_64__)
  using Floats = typename VectorOf<float, 16>::type;
  return __builtin_ia32_movmskps(__builtin_bit_cast(Floats, words < bound)) != 0;
#else
  for (unsigned i = 0; i < sizeof(Words) / sizeof(uint32_t); ++i)
    if (words[i] < bound) return true;
  return false;
#endif
}

}  // namespace fractalkern::FRACTALKERN_ISA

#include "common/philox_vectors.h"
#include "fractal_noise/fractal_noise_math.h"

namespace fractalkern::FRACTALKERN_ISA {

template <class V>
FRACTALKERN_MATH V load(const void* memory) {
  V vector;
  __builtin_memcpy(&vector, memory, sizeof(V));
  return vector;
}

template <class V, std::size_t... kLane>
FRACTALKERN_MATH void store_pairs(V a, V b, void* memory, std::index_sequence<kLane...>) {
  constexpr int kLanes = sizeof...(kLane);
  const V low = __builtin_shufflevector(a, b, (int(kLane) / 2 + int(kLane) % 2 * kLanes)...);
  const V high =
      __builtin_shufflevector(a, b, (int(kLane + kLanes) / 2 + int(kLane) % 2 * kLanes)...);
  __builtin_memcpy(memory, &low, sizeof(V));
  __builtin_memcpy(static_cast<char*>(memory) + sizeof(V), &high, sizeof(V));
}

template <class V>
FRACTALKERN_MATH void store(V vector, void* memory) {
  __builtin_memcpy(memory, &vector, sizeof(V));
}

// The random words of one vector of modes, from index `i` of a chunk on.
template <class T, bool kKeyPerMode>
FRACTALKERN_MATH void draw_words(const Chunk<T>& chunk, const NoiseItem<T>& item, int64_t i,
                                 Batch<T>& batch, int64_t to) {
  const uint64_t step0 = 2 * uint64_t{kPhiloxKeyStep0}, step1 = 2 * uint64_t{kPhiloxKeyStep1};
  Wide state[4], word[4];
  for (int k = 0; k < 4; ++k) state[k] = load<Wide>(chunk.state[k] + i);
  Wide key0, key1;
  if constexpr (kKeyPerMode) {
    key0 = load<Wide>(chunk.key[0] + i);
    key1 = load<Wide>(chunk.key[1] + i);
    finish_words(state, Wide(key0 + step0), Wide(key1 + step1), word);
  } else {
    finish_words(state, item.key[0] + step0, item.key[1] + step1, word);
  }
  if constexpr (sizeof(T) == 8) {
    for (int k = 0; k < 4; ++k) store(Wide(word[k] & 0xFFFFFFFF), batch.word[k] + to);
  } else {  // two modes to a 64-bit lane: those were the even ones
    Wide odd[4];
    for (int k = 0; k < 4; ++k) state[k] >>= 32;
    if constexpr (kKeyPerMode)
      finish_words(state, Wide((key0 >> 32) + step0), Wide((key1 >> 32) + step1), odd);
    else
      finish_words(state, item.key[0] + step0, item.key[1] + step1, odd);
    for (int k = 0; k < 3; ++k)  // a float needs no more
      store(Wide((word[k] & 0xFFFFFFFF) | (odd[k] << 32)), batch.word[k] + to);
  }
}

// The square of a mode that is its own mirror image, drawn to out[0]; out[1] = 0.
template <class T, Spectrum kSpectrum, bool kKeyPerMode>
FRACTALKERN_TARGET double draw_real(const Chunk<T>& chunk, const NoiseItem<T>& item, int64_t i,
                                    T amplitude, T* out) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  using Words = typename RealTypes<V>::Words;
  Batch<T> batch;
  draw_words<T, kKeyPerMode>(chunk, item, i, batch, 0);
  const auto word = [&](int k) {
    return k == 3 && sizeof(T) == 4 ? Words{} : load<Words>(batch.word[k]);
  };
  const V radius = unit_radius<kSpectrum, true, V>(word(0), word(1));
  V cosine, sine;
  unit_phase<kSpectrum, true>(word(2), word(3), cosine, sine);
  out[0] = (cosine * (radius * amplitude))[0];
  out[1] = 0;
  return item.expected ? double{amplitude} * amplitude * item.mean_square : double{out[0]} * out[0];
}

// Draws a chunk into `out` and adds its share of the field's power. Short loops, one after the
// other, keep more independent work in sight of the processor than a long one would.
template <class T, Spectrum kSpectrum, bool kKeyPerMode>
FRACTALKERN_TARGET void draw_chunk(const Chunk<T>& chunk, const NoiseItem<T>& item, T* out,
                                   double& power) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  using Words = typename RealTypes<V>::Words;
  constexpr int kGroup = kGroupBytes / sizeof(T);
  constexpr int kLanes = sizeof(V) / sizeof(T);
  constexpr int kVectors = kGroup / kLanes;
  V sum[kVectors] = {};
  Batch<T> batch;
  for (int64_t first = 0; first < chunk.modes; first += kBatchModes) {
    const int64_t modes = std::min(kBatchModes, chunk.modes - first);
    for (int64_t i = 0; i < modes; i += kLanes)
      draw_words<T, kKeyPerMode>(chunk, item, first + i, batch, i);
    for (int64_t i = 0; i < modes; i += kGroup) {
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = i + v * kLanes;
        const V amplitude = load<V>(chunk.amplitude + first + at);
        const V radius =
            amplitude * unit_radius<kSpectrum, false, V>(load<Words>(batch.word[0] + at),
                                                         load<Words>(batch.word[1] + at));
        store(radius, batch.radius + at);
        sum[v] += item.expected ? V(amplitude * amplitude * item.mean_square) : V(radius * radius);
      }
    }
    for (int64_t i = 0; i < modes; i += kLanes) {
      const V radius = load<V>(batch.radius + i);
      V cosine, sine;
      const Words low = sizeof(T) == 4 ? Words{} : load<Words>(batch.word[3] + i);
      unit_phase<kSpectrum, false>(load<Words>(batch.word[2] + i), low, cosine, sine);
      cosine *= radius;
      sine *= radius;
      const bool whole = i + kLanes <= modes;
      alignas(64) T last[2 * kLanes];
      store_pairs(cosine, sine, whole ? out + 2 * (first + i) : last,
                  std::make_index_sequence<kLanes>());
      if (!whole) std::copy(last, last + 2 * (modes - i), out + 2 * (first + i));
    }
  }
  // In the order of the modes' positions, whatever the width of a vector. Each mode stands for its
  // mirror image too, but for those of the self-conjugate planes.
  for (int v = 0; v < kVectors; ++v)
    for (int lane = 0; lane < kLanes; ++lane) power += 2 * double{sum[v][lane]};
  for (int64_t p = 0; p < chunk.planes; ++p) {
    const int64_t i = chunk.plane[p];
    const double a = chunk.amplitude[i], real = out[2 * i], imaginary = out[2 * i + 1];
    power -= item.expected ? a * a * item.mean_square : real * real + imaginary * imaginary;
    if (chunk.conjugate[p]) out[2 * i + 1] = -out[2 * i + 1];
  }
  for (int64_t r = 0; r < chunk.reals; ++r) {
    const int64_t i = chunk.real[r];
    power +=
        draw_real<T, kSpectrum, kKeyPerMode>(chunk, item, i, chunk.real_amplitude[r], out + 2 * i);
  }
}

// Writes what mirrored slabs share, of the modes [begin, begin + chunk.modes): what the last
// coordinate is to Philox, and the amplitudes. Arrays are written in whole vectors, past the end of
// a row and the chunk.
template <class T>
FRACTALKERN_TARGET void measure_chunk(const FractalNoiseArgs<T>& args, const NoiseItem<T>& item,
                                      int64_t begin, Chunk<T>& chunk) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  using Bits = typename RealTypes<V>::Bits;
  using Integer = std::make_signed_t<typename RealTypes<V>::Word>;
  constexpr int kLanes = sizeof(V) / sizeof(T);
  const int64_t columns = args.size[args.axes - 1] / 2 + 1;
  const double last_square = args.step[args.axes - 1] * args.step[args.axes - 1];
  const T last_q = static_cast<T>(last_square * item.inverse_reference);
  Bits lane;
  for (int l = 0; l < kLanes; ++l) lane[l] = l;
  Row row(args, begin / columns);
  int64_t column = begin % columns;
  for (int64_t i = 0; i < chunk.modes; row.next(), column = 0) {
    const int64_t count = std::min(columns - column, chunk.modes - i);
    const double square = row.square();
    const T row_q = static_cast<T>(square * item.inverse_reference);
    for (int64_t j = 0; j < count; j += kLanes) {
      const Bits c = lane + static_cast<Integer>(column + j);
      const V mode = to_real<V>(c);
      const V q = mode * mode * last_q + row_q;
      store(q, chunk.amplitude + i + j);
      constexpr uint64_t kLow = 0xFFFFFFFF;
      const Wide even = __builtin_bit_cast(Wide, c);
      const Wide p = multiply_low(even, kPhiloxMultiplier0);
      Wide high = p >> 32, low = p & kLow;
      if constexpr (sizeof(T) == 4) {
        const Wide odd = multiply_low(Wide(even >> 32), kPhiloxMultiplier0);
        high |= odd & ~kLow;
        low |= odd << 32;
      }
      store(high, chunk.high + i + j);
      store(low, chunk.low + i + j);
    }
    if (item.band.limited) {
      for (int64_t j = 0; j < count; ++j) {
        const double mode = static_cast<double>(column + j);
        const double k2 = square + mode * mode * last_square;
        const bool in_band = (k2 >= item.band.lowest_square) & (k2 <= item.band.highest_square);
        chunk.amplitude[i + j] = in_band ? chunk.amplitude[i + j] : T(0);
      }
    }
    i += count;
  }
  // The last group's other modes, which are shaped too.
  std::fill_n(chunk.amplitude + chunk.modes, kGroupBytes / sizeof(T), T(0));
  for (int64_t i = 0; i < chunk.modes; i += kLanes) {
    const V q = load<V>(chunk.amplitude + i);
    const V amplitude = q > 0 ? V(power_law(q, item.slope) * item.gain) : V{};
    store(amplitude, chunk.amplitude + i);
  }
}

// Brings the other coordinates into the state of Philox and finds the modes of the self-conjugate
// planes.
template <class T>
FRACTALKERN_TARGET void count_chunk(const FractalNoiseArgs<T>& args, const NoiseItem<T>& item,
                                    int64_t begin, Chunk<T>& chunk) {
  using Counter = typename Chunk<T>::Counter;
  using Counters = typename VectorOf<Counter, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  constexpr int kLanes = sizeof(Counters) / sizeof(Counter);
  const bool keys = args.axes == kFractalNoiseMaxAxes;
  const int64_t columns = args.size[args.axes - 1] / 2 + 1;
  const int64_t plane_columns[] = {0, columns - 1};
  const int planes = args.size[args.axes - 1] % 2 == 0 ? 2 : 1;
  chunk.planes = chunk.reals = 0;
  Row row(args, begin / columns);
  int64_t column = begin % columns;
  for (int64_t i = 0; i < chunk.modes; row.next(), column = 0) {
    const int64_t count = std::min(columns - column, chunk.modes - i);
    uint64_t key[2] = {item.key[0], item.key[1]};
    const auto start = [&](int side) {
      if (keys) noise_key(args.seed, item.index, row.key_word(side), key);
      return philox_row({0, row.counter(1, side), row.counter(2, side), row.counter(3, side)}, key);
    };
    const PhiloxRow own = start(1);
    const Counters e = Counters{} + own.e, a = Counters{} + own.a, b = Counters{} + own.b,
                   d = Counters{} + own.d;
    for (int64_t j = i; j < i + count; j += kLanes) {
      store(Counters(load<Counters>(chunk.high + j) ^ e), chunk.state[0] + j);
      store(a, chunk.state[1] + j);
      store(Counters(load<Counters>(chunk.low + j) ^ b), chunk.state[2] + j);
      store(d, chunk.state[3] + j);
      if (!keys) continue;
      for (int k = 0; k < 2; ++k)
        store(Counters(Counters{} + static_cast<Counter>(key[k])), chunk.key[k] + j);
    }
    for (int p = 0; p < planes; ++p) {
      const int64_t after = plane_columns[p] - column, at = i + after;
      if (after < 0 || after >= count || chunk.amplitude[at] == 0) continue;
      if (row.sign() == 0) {
        chunk.real_amplitude[chunk.reals] = chunk.amplitude[at];
        chunk.real[chunk.reals++] = static_cast<int32_t>(at);
        chunk.amplitude[at] = 0;
        continue;
      }
      const bool conjugate = row.sign() < 0;
      chunk.conjugate[chunk.planes] = conjugate;
      chunk.plane[chunk.planes++] = static_cast<int32_t>(at);
      if (!conjugate) continue;
      const PhiloxRow mirrored = start(-1);
      chunk.state[0][at] = chunk.high[at] ^ mirrored.e;
      chunk.state[1][at] = mirrored.a;
      chunk.state[2][at] = chunk.low[at] ^ mirrored.b;
      chunk.state[3][at] = mirrored.d;
      for (int k = 0; k < 2; ++k) chunk.key[k][at] = static_cast<Counter>(key[k]);
    }
    i += count;
  }
}

template <class T, Spectrum kSpectrum, bool kKeyPerMode>
FRACTALKERN_TARGET void draw_block(const NoiseBlock<T>& block) {
  const Tiling& tiling = block.tiling;
  Chunk<T> chunk;
  double power = 0;
  for (int64_t piece = block.begin; piece < block.end; ++piece) {
    const int64_t slab = piece / tiling.pieces;
    const int64_t offset = piece % tiling.pieces * tiling.piece_modes;
    const int64_t begin = slab * tiling.slab_modes + offset;
    chunk.modes = std::min(tiling.piece_modes, tiling.slab_modes - offset);
    measure_chunk(block.args, block.item, begin, chunk);
    const auto draw_at = [&](int64_t first) {
      count_chunk(block.args, block.item, first, chunk);
      draw_chunk<T, kSpectrum, kKeyPerMode>(chunk, block.item, block.item.out + 2 * first, power);
    };
    draw_at(begin);
    const int64_t mirrored = tiling.slabs - slab;
    if (tiling.folded && mirrored != slab && mirrored != tiling.slabs)
      draw_at(mirrored * tiling.slab_modes + offset);
  }
  block.power = power;
}

template <class T, Spectrum kSpectrum>
FRACTALKERN_TARGET void draw_block(const NoiseBlock<T>& block) {
  if (block.args.axes == kFractalNoiseMaxAxes)
    draw_block<T, kSpectrum, true>(block);
  else
    draw_block<T, kSpectrum, false>(block);
}

template <class T>
FRACTALKERN_TARGET void draw_block(const NoiseBlock<T>& block) {
  switch (block.args.spectrum) {
    case Spectrum::kGaussian:
      return draw_block<T, Spectrum::kGaussian>(block);
    case Spectrum::kPhase:
      return draw_block<T, Spectrum::kPhase>(block);
    case Spectrum::kGenesis:
      return draw_block<T, Spectrum::kGenesis>(block);
  }
}

FRACTALKERN_TARGET inline void draw_float(const NoiseBlock<float>& block) { draw_block(block); }
FRACTALKERN_TARGET inline void draw_double(const NoiseBlock<double>& block) { draw_block(block); }

template <class T>
FRACTALKERN_TARGET void scale_range(const ScaleRange<T>& range) {
  const T factor = range.factor;
  for (int64_t i = 0; i < range.count; ++i) range.values[i] *= factor;
}

FRACTALKERN_TARGET inline void scale_float(const ScaleRange<float>& range) { scale_range(range); }
FRACTALKERN_TARGET inline void scale_double(const ScaleRange<double>& range) { scale_range(range); }

// Sums in T over runs of kRun elements, as every instruction set does, and in double over those.
template <class T>
FRACTALKERN_TARGET void copy_rows(const RowsBlock<T>& block) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  constexpr int64_t kRun = 256;
  constexpr int kLanes = sizeof(V) / sizeof(T);
  constexpr int kVectors = kGroupBytes / sizeof(V);
  constexpr int64_t kGroup = kGroupBytes / sizeof(T);
  const RowsArgs<T>& args = block.args;
  Moments total;
  for (int64_t row = block.begin; row < block.end; ++row) {
    const T* const from = args.from + row * args.stride;
    T* const to = args.to + row * args.columns;
    for (int64_t first = 0; first < args.columns; first += kRun) {
      const int64_t end = std::min(first + kRun, args.columns);
      V sum[kVectors] = {}, squares[kVectors] = {};
      int64_t i = first;
      for (; i + kGroup <= end; i += kGroup) {
        for (int v = 0; v < kVectors; ++v) {
          const V x = load<V>(from + i + v * kLanes);
          store(x, to + i + v * kLanes);
          sum[v] += x;
          squares[v] += x * x;
        }
      }
      for (int v = 0; v < kVectors; ++v) {
        for (int lane = 0; lane < kLanes; ++lane) {
          total.sum += double{sum[v][lane]};
          total.squares += double{squares[v][lane]};
        }
      }
      for (; i < end; ++i) {
        to[i] = from[i];
        total.sum += double{from[i]};
        total.squares += double{from[i]} * from[i];
      }
    }
  }
  block.moments = total;
}

FRACTALKERN_TARGET inline void rows_float(const RowsBlock<float>& block) { copy_rows(block); }
FRACTALKERN_TARGET inline void rows_double(const RowsBlock<double>& block) { copy_rows(block); }

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_MATH
