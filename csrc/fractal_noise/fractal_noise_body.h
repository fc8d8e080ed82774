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
    using Bits = typename VectorOf<I, BYTES>::type;     \
    using Words = typename VectorOf<U, BYTES>::type;    \
  };
FRACTALKERN_REAL_TYPES(double, int64_t, uint64_t, FRACTALKERN_ISA_TAG::kVectorBytes)
FRACTALKERN_REAL_TYPES(float, int32_t, uint32_t, FRACTALKERN_ISA_TAG::kVectorBytes)
#undef FRACTALKERN_REAL_TYPES

using Wide = typename VectorOf<uint64_t, FRACTALKERN_ISA_TAG::kVectorBytes>::type;

template <class Real, class Integers>
FRACTALKERN_MATH Real convert(Integers integers) {
  return __builtin_convertvector(integers, Real);
}

// The compiler would multiply all 64 bits, which takes three instructions or more.
#if defined(__x86_64__)
using Halves = typename VectorOf<int32_t, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
FRACTALKERN_MATH Wide multiply_low(Wide x, uint32_t constant) {
  const auto a = __builtin_bit_cast(Halves, x);
  const auto b = __builtin_bit_cast(Halves, Wide{} + constant);
#if FRACTALKERN_ISA_LEVEL == 4
  typedef long long Products __attribute__((vector_size(64)));
  return __builtin_bit_cast(Wide, __builtin_ia32_pmuludq512_mask(a, b, Products{}, 0xFF));
#elif FRACTALKERN_ISA_LEVEL == 3
  return __builtin_bit_cast(Wide, __builtin_ia32_pmuludq256(a, b));
#else
  return __builtin_bit_cast(Wide, __builtin_ia32_pmuludq128(a, b));
#endif
}
#endif

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

}  // namespace fractalkern::FRACTALKERN_ISA

#include "common/philox.h"
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

// One vector of modes, from index `i` of a chunk on.
template <class T, Spectrum kSpectrum, bool kReal, bool kKeyPerMode>
FRACTALKERN_MATH auto draw(const Chunk<T>& chunk, const NoiseItem<T>& item, int64_t i, T* out) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  using Words = typename RealTypes<V>::Words;
  constexpr int kLanes = sizeof(V) / sizeof(T);
  Words word[4];
  if constexpr (sizeof(T) == 8) {
    for (int k = 0; k < 4; ++k) word[k] = load<Words>(chunk.counter[k] + i);
    if constexpr (kKeyPerMode)
      philox4x32(word, load<Words>(chunk.key[0] + i), load<Words>(chunk.key[1] + i));
    else
      philox4x32(word, item.key[0], item.key[1]);
    for (int k = 0; k < 4; ++k) word[k] &= 0xFFFFFFFF;
  } else {  // two modes to a 64-bit lane: first the even ones, then the odd ones
    Wide even[4], odd[4];
    for (int k = 0; k < 4; ++k) {
      even[k] = load<Wide>(chunk.counter[k] + i);
      odd[k] = even[k] >> 32;
    }
    if constexpr (kKeyPerMode) {
      const Wide key0 = load<Wide>(chunk.key[0] + i), key1 = load<Wide>(chunk.key[1] + i);
      philox4x32(even, key0, key1);
      philox4x32(odd, Wide(key0 >> 32), Wide(key1 >> 32));
    } else {
      philox4x32(even, item.key[0], item.key[1]);
      philox4x32(odd, item.key[0], item.key[1]);
    }
    for (int k = 0; k < 4; ++k)
      word[k] = __builtin_bit_cast(Words, Wide((even[k] & 0xFFFFFFFF) | (odd[k] << 32)));
  }
  const V weight = load<V>(chunk.weight + i);
  V amplitude = power_law(load<V>(chunk.q + i), item.slope) * item.gain;
  V real, imaginary;
  unit_mode<kSpectrum, kReal>(word, real, imaginary);
  amplitude = weight > 0 ? amplitude : V{};
  real *= amplitude;
  imaginary *= amplitude;
  store_pairs(real, imaginary, out, std::make_index_sequence<kLanes>());
  const V power = item.expected ? V(amplitude * amplitude * item.mean_square)
                                : V(real * real + imaginary * imaginary);
  return power * weight;
}

template <class T, Spectrum kSpectrum, bool kKeyPerMode>
FRACTALKERN_TARGET void draw_chunk(Chunk<T>& chunk, const NoiseItem<T>& item, T* out,
                                   double& power) {
  using V = typename VectorOf<T, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
  constexpr int kGroup = kGroupBytes / sizeof(T);
  constexpr int kLanes = sizeof(V) / sizeof(T);
  constexpr int kVectors = kGroup / kLanes;
  V sum[kVectors] = {};
  alignas(64) T last[2 * kGroup];
  for (int64_t i = 0; i < chunk.modes; i += kGroup) {
    const bool whole = i + kGroup <= chunk.modes;
    T* to = whole ? out + 2 * i : last;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sum[v] +=
          draw<T, kSpectrum, false, kKeyPerMode>(chunk, item, i + v * kLanes, to + 2 * v * kLanes);
    if (!whole) std::copy(last, last + 2 * (chunk.modes - i), out + 2 * i);
  }
  // In the order of the modes' positions, whatever the width of a vector.
  for (int v = 0; v < kVectors; ++v)
    for (int lane = 0; lane < kLanes; ++lane) power += sum[v][lane];
  for (int64_t r = 0; r < chunk.reals; ++r) {
    const int64_t i = chunk.real[r];
    chunk.weight[i] = 1;
    const V drawn = draw<T, kSpectrum, true, kKeyPerMode>(chunk, item, i, last);
    out[2 * i] = last[0];
    out[2 * i + 1] = 0;
    power += drawn[0];
  }
  for (int64_t r = 0; r < chunk.conjugates; ++r) {
    T& imaginary = out[2 * chunk.conjugate[r] + 1];
    imaginary = -imaginary;
  }
}

// Writes the coordinates of the modes [begin, begin + chunk.modes) of an item into `chunk`.
template <class T>
FRACTALKERN_TARGET void locate_chunk(const FractalNoiseArgs<T>& args, const NoiseItem<T>& item,
                                     int64_t begin, Chunk<T>& chunk) {
  using Counter = typename Chunk<T>::Counter;
  const int leading = args.axes - 1;
  const int64_t columns = args.size[leading] / 2 + 1;
  const double last_square = args.step[leading] * args.step[leading];
  const int64_t nyquist = args.size[leading] % 2 == 0 ? args.size[leading] / 2 : 0;
  chunk.reals = chunk.conjugates = 0;
  int64_t position[kFractalNoiseMaxAxes];  // along the leading axes
  int64_t row = begin / columns, column = begin % columns;
  for (int axis = leading - 1; axis >= 0; --axis) {
    position[axis] = row % args.size[axis];
    row /= args.size[axis];
  }
  for (int64_t i = 0; i < chunk.modes; column = 0) {
    Row current(args, position);
    const int64_t count = std::min(columns - column, chunk.modes - i);
    Counter* const c0 = chunk.counter[0] + i;
    T* const q = chunk.q + i;
    T* const weight = chunk.weight + i;
    const int32_t first = static_cast<int32_t>(column);
    for (int32_t j = 0; j < static_cast<int32_t>(count); ++j) {
      const double mode = static_cast<double>(first + j);
      const double square = current.square + mode * mode * last_square;
      const bool in_band = (square >= item.lowest_square) & (square <= item.highest_square);
      c0[j] = static_cast<Counter>(first + j);
      q[j] = in_band ? static_cast<T>(square * item.inverse_reference) : T(1);
      weight[j] = in_band ? T(2) : T(0);
    }
    for (int k = 1; k < 4; ++k)
      std::fill_n(chunk.counter[k] + i, count, static_cast<Counter>(current.counter(k, 1)));
    uint64_t key[2] = {item.key[0], item.key[1]};
    if (args.axes == kFractalNoiseMaxAxes) {
      noise_key(args.seed, item.index, current.key_word(1), key);
      for (int k = 0; k < 2; ++k)
        std::fill_n(chunk.key[k] + i, count, static_cast<Counter>(key[k]));
    }
    for (const int64_t plane : {int64_t{0}, nyquist}) {
      const int64_t at = i + plane - column;
      // Weight 2 says that it is in the band and not yet seen: without a Nyquist plane, 0 comes
      // twice.
      if (plane < column || plane >= column + count || chunk.weight[at] != 2) continue;
      if (current.sign == 0) {
        chunk.real[chunk.reals++] = static_cast<int32_t>(at);
        chunk.weight[at] = 0;
        continue;
      }
      chunk.weight[at] = 1;
      if (current.sign > 0) continue;
      chunk.conjugate[chunk.conjugates++] = static_cast<int32_t>(at);
      for (int k = 1; k < 4; ++k)
        chunk.counter[k][at] = static_cast<Counter>(current.counter(k, -1));
      if (args.axes == kFractalNoiseMaxAxes) {
        noise_key(args.seed, item.index, current.key_word(-1), key);
        for (int k = 0; k < 2; ++k) chunk.key[k][at] = static_cast<Counter>(key[k]);
      }
    }
    i += count;
    for (int axis = leading - 1; axis >= 0; --axis) {
      if (++position[axis] < args.size[axis]) break;
      position[axis] = 0;
    }
  }
}

template <class T, Spectrum kSpectrum, bool kKeyPerMode>
FRACTALKERN_TARGET void draw_block(const NoiseBlock<T>& block) {
  Chunk<T> chunk;
  double power = 0;
  for (int64_t begin = block.begin; begin < block.end; begin += kChunkModes) {
    chunk.modes = std::min(kChunkModes, block.end - begin);
    locate_chunk(block.args, block.item, begin, chunk);
    chunk.pad();
    draw_chunk<T, kSpectrum, kKeyPerMode>(chunk, block.item, block.item.out + 2 * begin, power);
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
FRACTALKERN_TARGET void scale_block(const NoiseBlock<T>& block) {
  T* const out = block.item.out;
  const T factor = static_cast<T>(block.factor);
  for (int64_t i = 2 * block.begin; i < 2 * block.end; ++i) out[i] *= factor;
}

FRACTALKERN_TARGET inline void scale_float(const NoiseBlock<float>& block) { scale_block(block); }
FRACTALKERN_TARGET inline void scale_double(const NoiseBlock<double>& block) { scale_block(block); }

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_MATH
