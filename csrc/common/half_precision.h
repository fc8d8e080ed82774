// float16 and bfloat16 as they lie in memory, with conversions for either compiler.
#pragma once

#include <bit>
#include <cstdint>

#include "common/host_device.h"

namespace fractalkern {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

FRACTALKERN_HOST_DEVICE float bits_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

FRACTALKERN_HOST_DEVICE uint32_t float_to_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  return std::bit_cast<uint32_t>(value);
#endif
}

FRACTALKERN_HOST_DEVICE float widened(float value) { return value; }
FRACTALKERN_HOST_DEVICE double widened(double value) { return value; }
FRACTALKERN_HOST_DEVICE float widened(BFloat16 value) {
  return bits_to_float(uint32_t{value.bits} << 16);
}
FRACTALKERN_HOST_DEVICE float widened(Half value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16, rest = value.bits & 0x7FFFu;
  if (rest >= 0x7C00) return bits_to_float(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
  // As a float, its exponent is too small by 127 - 15; the product is exact, for subnormals too.
  return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
#endif
}

// To nearest, ties to even.
template <class T>
FRACTALKERN_HOST_DEVICE T rounded_to(double value) {
  return static_cast<T>(value);
}
template <>
FRACTALKERN_HOST_DEVICE BFloat16 rounded_to<BFloat16>(double value) {
  const uint32_t bits = float_to_bits(static_cast<float>(value));
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {0x7FC0};
  return {static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16)};
}
template <>
FRACTALKERN_HOST_DEVICE Half rounded_to<Half>(double value) {
  const auto narrow = static_cast<float>(value);
#if defined(__CUDA_ARCH__)
  Half half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(narrow));
  return half;
#else
  const uint32_t bits = float_to_bits(narrow), magnitude = bits & 0x7FFFFFFFu;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (magnitude > 0x7F800000u) return {static_cast<uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {static_cast<uint16_t>(sign | 0x7C00u)};
  if (magnitude < 0x38800000u) {  // subnormal: the sum's last bit is 2^-24
    const uint32_t sum = float_to_bits(bits_to_float(magnitude) + 0.5f);
    return {static_cast<uint16_t>(sign | (sum - 0x3F000000u))};
  }
  const uint32_t even = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | ((even - 0x38000000u) >> 13))};
#endif
}

}  // namespace fractalkern
