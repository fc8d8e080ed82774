// Vectors of random words for a kernel body (common/each_instruction_set.h): 64-bit lanes as wide
// as the registers, and the product that common/philox.h asks for; then that header. No include
// guard.

#include "common/simd.h"

namespace fractalkern::FRACTALKERN_ISA {

using Wide = typename VectorOf<uint64_t, FRACTALKERN_ISA_TAG::kVectorBytes>::type;

// The compiler would multiply all 64 bits, which takes three instructions or more.
FRACTALKERN_MATH Wide multiply_low(Wide x, uint32_t constant) {
#if defined(__x86_64__)
  using Halves = typename VectorOf<int32_t, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
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
#else
  return (x & 0xFFFFFFFF) * constant;
#endif
}

}  // namespace fractalkern::FRACTALKERN_ISA

#include "common/philox.h"
