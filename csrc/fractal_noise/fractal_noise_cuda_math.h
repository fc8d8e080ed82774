// The arithmetic of fractal_noise on a CUDA device. float64 takes the polynomials of the CPU,
// float32 the special-function units, whose errors PTX states: for beta = 1 and |k| that span a
// factor of 2^12 a mode's amplitude is then within 2e-6 of the CPU's, and so is its random number.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "common/cuda_launch.h"
#include "fractal_noise/fractal_noise.h"

#define FRACTALKERN_ISA cuda
#define FRACTALKERN_MATH __host__ __device__ __forceinline__

namespace fractalkern::cuda {

template <class Real>
struct RealTypes;
template <>
struct RealTypes<double> {
  using Scalar = double;
  using Word = uint64_t;
  using Bits = int64_t;
  using Words = uint64_t;
};
template <>
struct RealTypes<float> {
  using Scalar = float;
  using Word = uint32_t;
  using Bits = int32_t;
  using Words = uint32_t;
};

template <class Real, class Integers>
FRACTALKERN_MATH Real convert(Integers integers) {
  return static_cast<Real>(integers);
}

FRACTALKERN_MATH bool any_below(uint32_t word, uint32_t bound) { return word < bound; }

// Instructions of the special-function units, results below the normal numbers being 0.
#if defined(__CUDA_ARCH__)
#define FRACTALKERN_SPECIAL(name, instruction, host)               \
  FRACTALKERN_MATH float name(float x) {                           \
    float y;                                                       \
    asm(instruction ".approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); \
    return y;                                                      \
  }
#else
#define FRACTALKERN_SPECIAL(name, instruction, host) \
  FRACTALKERN_MATH float name(float x) { return host(x); }
#endif
FRACTALKERN_SPECIAL(special_log2, "lg2", std::log2)   // 2^-22, relative outside (1/2, 2)
FRACTALKERN_SPECIAL(special_exp2, "ex2", std::exp2)   // 2^-22, relative
FRACTALKERN_SPECIAL(special_sqrt, "sqrt", std::sqrt)  // 2^-23, relative
FRACTALKERN_SPECIAL(special_sine, "sin", std::sin)    // 2^-20 for |x| <= pi
FRACTALKERN_SPECIAL(special_cosine, "cos", std::cos)  // 2^-20 for |x| <= pi
#undef FRACTALKERN_SPECIAL

FRACTALKERN_MATH double square_root(double x) { return sqrt(x); }
FRACTALKERN_MATH float square_root(float x) { return special_sqrt(x); }

}  // namespace fractalkern::cuda

#include "common/philox.h"
#include "fractal_noise/fractal_noise_math.h"

namespace fractalkern::cuda {

// Where q is beyond float's normal numbers, its nearest one takes its place: an infinite logarithm
// times a slope of 0 would be NaN.
template <>
FRACTALKERN_MATH float power_law(float q, float slope) {
  const float log2 = fmaxf(fminf(special_log2(q), 128.0f), -126.0f);
  return special_exp2(log2 * slope);
}

// Near 1 the unit's error would be larger than the logarithm: there its series, to 1.2e-8.
template <>
FRACTALKERN_MATH float log_uniform<float>(uint32_t high, uint32_t low) {
  const auto from_end = static_cast<int32_t>(high);
  const float rest = static_cast<float>((low >> 11) + 1) * 0x1p-53f;
  const float x = static_cast<float>(from_end) * 0x1p-32f + rest;
  const float series = x * polynomial(x, 1.0f, -1.0f / 2, 1.0f / 3, -1.0f / 4);
  const float unit = special_log2(from_end < 0 ? x + 1 : x) * NoiseConstants<float>::kLn2;
  constexpr int32_t kNear = -(int32_t{1} << 26);
  return from_end < 0 && from_end >= kNear ? series : unit;
}

template <>
FRACTALKERN_MATH void cos_sin_turn(uint32_t high, uint32_t, float& cosine, float& sine) {
  const float angle = static_cast<float>(static_cast<int32_t>(high)) * 0x1.921fb6p-30f;
  cosine = special_cosine(angle);
  sine = special_sine(angle);
}

}  // namespace fractalkern::cuda

#undef FRACTALKERN_ISA
#undef FRACTALKERN_MATH
