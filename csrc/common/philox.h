// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC11), shared by host and device code.
//
// A `Wide` is uint64_t or a vector of it whose low halves are the 32-bit words: the two products of
// a round are 64 bits wide, so nothing has to be packed between rounds. What the high halves hold
// on entry does not matter, and on return it is undefined. FRACTALKERN_MATH are the specifiers of
// the functions, and the multiply_low() of vectors stands before the inclusion
// (common/philox_vectors.h); included once per target, inside namespace
// fractalkern::FRACTALKERN_ISA (common/each_instruction_set.h), hence no include guard.

#include "common/host_device.h"

namespace fractalkern::FRACTALKERN_ISA {

// The product of the low half of x and a constant.
FRACTALKERN_MATH uint64_t multiply_low(uint64_t x, uint32_t constant) {
#if defined(__CUDA_ARCH__)
  uint64_t product;  // nvcc adds the product of the constant's upper half, which is 0
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(static_cast<uint32_t>(x)), "r"(constant));
  return product;
#else
  return uint64_t{static_cast<uint32_t>(x)} * constant;
#endif
}

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9, kPhiloxKeyStep1 = 0xBB67AE85;

// The rounds from `kFirst` of 0 to 9 on, under the key of that round.
template <int kFirst, class Wide, class Key>
FRACTALKERN_MATH void philox_rounds(Wide (&word)[4], Key key0, Key key1) {
  FRACTALKERN_UNROLL
  for (int round = kFirst; round < 10; ++round) {
    const Wide p0 = multiply_low(word[0], kPhiloxMultiplier0);
    const Wide p1 = multiply_low(word[2], kPhiloxMultiplier1);
    word[0] = (p1 >> 32) ^ word[1] ^ key0;
    word[1] = p1;
    word[2] = (p0 >> 32) ^ word[3] ^ key1;
    word[3] = p0;
    key0 += kPhiloxKeyStep0;
    key1 += kPhiloxKeyStep1;
  }
}

template <class Wide, class Key>
FRACTALKERN_MATH void philox4x32(Wide (&word)[4], Key key0, Key key1) {
  philox_rounds<0>(word, key0, key1);
}

}  // namespace fractalkern::FRACTALKERN_ISA
