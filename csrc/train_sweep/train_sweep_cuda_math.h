// train_sweep_math.h for CUDA, and what the CUDA kernels of train_sweep share beyond it.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/cuda_launch.h"
#include "train_sweep/train_sweep.h"

namespace fractalkern::cuda {

// The hooks of train_sweep_math.h that keep work off the float64 unit, the bottleneck.

// min(x, limit) for x >= 0; by the upper words, which a NaN of arithmetic has above infinity's.
__device__ __forceinline__ double at_most(double x, double limit) {
#if defined(__CUDA_ARCH__)
  const int high = __double2hiint(x), highest = __double2hiint(limit);
  return high >= highest && high <= 0x7FF00000 ? limit : x;
#else
  return x > limit ? limit : x;
#endif
}

// With t = 1 - r instead of its square tanh|x| = t + ((3 - r) rho - (1 - r) B) / (...): three
// operations less, which a GPU cannot hide beside products as a CPU can, for up to 5 ulp instead of
// 3 around |x| = 0.2. The absolute error, which is what a network sees, stays below 3e-16.
__device__ __forceinline__ void take_out(double r, double b, double rho, double& t,
                                         double& numerator) {
  t = 1.0 - r;
  numerator = fma(3.0 - r, rho, -(t * b));
}

// A starting value of 20 bits and two multiply-adds that triple them, for a sixth of the time of a
// division; no denominator of tanh is small or large enough to leave the range of that.
__device__ __forceinline__ double quotient_of(double numerator, double denominator) {
#if defined(__CUDA_ARCH__)
  double inverse;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(inverse) : "d"(denominator));
  const double error = fma(-denominator, inverse, 1.0);
  const double first = numerator * inverse;
  return fma(first, fma(error, error, error), first);
#else
  return numerator / denominator;
#endif
}

__device__ __forceinline__ float quotient_of(float numerator, float denominator) {
#if defined(__CUDA_ARCH__)
  return __fdividef(numerator, denominator);  // 2 ulp for denominators below 2^126
#else
  return numerator / denominator;
#endif
}

template <int kCount>
__device__ __forceinline__ void divide(double (&numerator)[kCount],
                                       const double (&denominator)[kCount]) {
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) numerator[i] = quotient_of(numerator[i], denominator[i]);
}

template <int kCount>
__device__ __forceinline__ void divide(float (&numerator)[kCount],
                                       const float (&denominator)[kCount]) {
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) numerator[i] = quotient_of(numerator[i], denominator[i]);
}

}  // namespace fractalkern::cuda

#define FRACTALKERN_ISA cuda
#define FRACTALKERN_MATH FRACTALKERN_HOST_DEVICE
#include "train_sweep/train_sweep_math.h"
#undef FRACTALKERN_MATH
#undef FRACTALKERN_ISA

namespace fractalkern::cuda {

// 16 bytes at a time.
template <int kCount, class T>
__device__ __forceinline__ void load(const T* from, T (&to)[kCount]) {
  constexpr int kStep = 16 / sizeof(T);
  if constexpr (kCount % kStep == 0) {
    struct alignas(16) Words {
      T word[kStep];
    };
    FRACTALKERN_UNROLL
    for (int i = 0; i < kCount; i += kStep) {
      const Words words = *reinterpret_cast<const Words*>(from + i);
      FRACTALKERN_UNROLL
      for (int w = 0; w < kStep; ++w) to[i + w] = words.word[w];
    }
  } else {
    FRACTALKERN_UNROLL
    for (int i = 0; i < kCount; ++i) to[i] = from[i];
  }
}

// body(std::bool_constant<whether the activation is tanh>): one branch outside of the loop over the
// rows, and within it loads and arithmetic that no branch parts.
template <class Body>
__device__ __forceinline__ auto for_activation(Activation activation, const Body& body) {
  return activation == Activation::kTanh ? body(std::true_type{}) : body(std::false_type{});
}

// phi of independent values, in place.
template <bool kTanh, int kCount, class T>
__device__ __forceinline__ void activate(T (&values)[kCount], Activation activation) {
  if constexpr (kTanh) {
    constexpr int kGroup = kCount % 4 == 0 ? 4 : kCount;  // as registers allow
    FRACTALKERN_UNROLL
    for (int first = 0; first < kCount; first += kGroup) {
      T group[kGroup];
      FRACTALKERN_UNROLL
      for (int i = 0; i < kGroup; ++i) group[i] = values[first + i];
      fast_tanh(group);
      FRACTALKERN_UNROLL
      for (int i = 0; i < kGroup; ++i) values[first + i] = group[i];
    }
  } else {
    const bool relu = activation == Activation::kRelu;
    FRACTALKERN_UNROLL
    for (int i = 0; i < kCount; ++i) values[i] = relu && values[i] < T(0) ? T(0) : values[i];
  }
}

// phi'(z) from phi(z), in place.
template <bool kTanh, int kCount, class T>
__device__ __forceinline__ void slopes(T (&values)[kCount], Activation activation) {
  const bool relu = activation == Activation::kRelu;
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) {
    if constexpr (kTanh) {
      values[i] = T(1) - values[i] * values[i];
    } else {
      values[i] = relu && values[i] <= T(0) ? T(0) : T(1);
    }
  }
}

// Sums `values` over the lanes of a team whose numbers differ in the bits from kStride to
// kTeam / 2. The lane at position p = lane / kStride gets the sum of values[p % kValues]: in every
// exchange a lane gives away half of its sums and keeps the other half.
template <int kValues, int kStride, int kTeam, class T>
__device__ __forceinline__ T sum_over_team(T (&values)[kValues], int lane) {
  FRACTALKERN_UNROLL
  for (int half = kValues / 2; half >= 1; half /= 2) {
    const bool upper = (lane & half * kStride) != 0;
    FRACTALKERN_UNROLL
    for (int i = 0; i < half; ++i) {
      const T given = upper ? values[i] : values[i + half];
      const T kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(kWholeWarp, given, half * kStride);
    }
  }
  T sum = values[0];
  FRACTALKERN_UNROLL
  for (int bit = kValues * kStride; bit < kTeam; bit *= 2)
    sum += __shfl_xor_sync(kWholeWarp, sum, bit);
  return sum;
}

// The sum over lanes that differ in the bits from kFirst to kLast; all of them get the same bits.
template <int kFirst, int kLast, class T>
__device__ __forceinline__ T sum_over_bits(T value) {
  FRACTALKERN_UNROLL
  for (int bit = kFirst; bit <= kLast; bit *= 2) value += __shfl_xor_sync(kWholeWarp, value, bit);
  return value;
}

template <int kFirst, int kLast, class T>
__device__ __forceinline__ T largest_over_bits(T value) {
  FRACTALKERN_UNROLL
  for (int bit = kFirst; bit <= kLast; bit *= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, bit);
    value = other > value ? other : value;
  }
  return value;
}

template <class T>
__device__ __forceinline__ T larger_magnitude(T value, T largest) {
  const T magnitude = value < T(0) ? -value : value;
  return magnitude > largest ? magnitude : largest;
}

}  // namespace fractalkern::cuda
