// From the coordinates of a mode to its random words, and from those to its coefficient. A `Real`
// is float, double or, on the host, a GCC vector of either: every function is written lane by lane,
// and only with operations that IEEE 754 rounds in one way, so that results are equal on every
// instruction set.
//
// Included once per target, inside namespace fractalkern::FRACTALKERN_ISA, with FRACTALKERN_MATH
// the specifiers of its functions (common/each_instruction_set.h); hence no include guard. Needs
// common/philox.h and the includer's RealTypes, convert() of 32-bit integers, square_root() and
// any_below().

namespace fractalkern::FRACTALKERN_ISA {

// The key of item b: the first two words of the counter (b mod 2^32, b div 2^32, n_0, 1) under the
// seed, n_0 being the first of five coordinates.
FRACTALKERN_MATH void noise_key(uint64_t seed, int64_t item, uint32_t coordinate,
                                uint64_t (&key)[2]) {
  const uint64_t index = static_cast<uint64_t>(item);
  uint64_t word[4] = {index & 0xFFFFFFFF, index >> 32, coordinate, 1};
  philox4x32(word, seed & 0xFFFFFFFF, seed >> 32);
  key[0] = word[0] & 0xFFFFFFFF;
  key[1] = word[1] & 0xFFFFFFFF;
}

// Philox as far as the last coordinate n, word 0 of the counter, is not yet multiplied with the
// others: its first round and half of the second. With high and low the words of n's product, the
// state is (high ^ e, a, low ^ b, d): word 2 before the second round, what that round adds to the
// product of word 2, and its words 2 and 3 after it.
struct PhiloxRow {
  uint32_t e, a, b, d;
};
FRACTALKERN_MATH PhiloxRow philox_row(const uint32_t (&counter)[4], const uint64_t (&key)[2]) {
  const uint64_t product = uint64_t{counter[2]} * kPhiloxMultiplier1;
  const auto word0 = static_cast<uint32_t>((product >> 32) ^ counter[1] ^ key[0]);
  const uint64_t next = uint64_t{word0} * kPhiloxMultiplier0;
  return {static_cast<uint32_t>(counter[3] ^ key[1]),
          static_cast<uint32_t>(product ^ (key[0] + kPhiloxKeyStep0)),
          static_cast<uint32_t>((next >> 32) ^ (key[1] + kPhiloxKeyStep1)),
          static_cast<uint32_t>(next)};
}

// What is left of Philox, on 64-bit lanes; the keys are those of the third round.
template <class Wide, class Key>
FRACTALKERN_MATH void finish_words(const Wide (&state)[4], Key key0, Key key1, Wide (&word)[4]) {
  word[1] = multiply_low(state[0], kPhiloxMultiplier1);
  word[0] = (word[1] >> 32) ^ state[1];
  word[2] = state[2];
  word[3] = state[3];
  philox_rounds<2>(word, key0, key1);
}

// x c_n + ... in Horner's scheme, the constant term first.
template <class Real, class Scalar>
FRACTALKERN_MATH Real polynomial(Real x, Scalar constant, Scalar linear) {
  return x * linear + constant;
}
template <class Real, class Scalar, class... More>
FRACTALKERN_MATH Real polynomial(Real x, Scalar constant, Scalar linear, More... more) {
  return polynomial(x, linear, more...) * x + constant;
}

// Polynomials interpolate at the Chebyshev nodes of their interval.
template <class Scalar>
struct NoiseConstants;
template <>
struct NoiseConstants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int64_t kOne = 0x3FF0000000000000;  // the bits of 1.0
  static constexpr int64_t kSqrtHalf = 0x3FE6A09E667F3BCD;
  static constexpr int64_t kMantissa = 0xFFFFFFFFFFFFF;
  static constexpr double kRound = 0x1.8p52;  // added, it leaves an integer in the low bits
  static constexpr double kSmallestPower = -1022;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1;
  static constexpr double kLog2E = 0x1.71547652b82fep0;
  // (atanh(s)/s - 1)/s^2 in z = s^2, |s| <= 0.172: error 1.6e-16.
  template <class Real>
  static FRACTALKERN_MATH Real atanh_excess(Real z) {
    return polynomial(z, 0x1.5555555555558p-2, 0x1.99999999952e2p-3, 0x1.2492492df148dp-3,
                      0x1.c71c62e5800a1p-4, 0x1.7462b4ab2ef6bp-4, 0x1.39fe606542ddep-4,
                      0x1.2b584aae78a57p-4);
  }
  // (2^r - 1)/r, |r| <= 1/2: error 2e-19.
  template <class Real>
  static FRACTALKERN_MATH Real exp2_excess(Real r) {
    return polynomial(r, 0x1.62e42fefa39efp-1, 0x1.ebfbdff82c58fp-3, 0x1.c6b08d704a0c6p-5,
                      0x1.3b2ab6fba4e79p-7, 0x1.5d87fe78a3f9cp-10, 0x1.430912f86b7dbp-13,
                      0x1.ffcbfc6da6ed1p-17, 0x1.62c02242b879cp-20, 0x1.b524ebd13a55fp-24,
                      0x1.e4cf10dec0f59p-28, 0x1.e9ec1fcb69a7fp-32, 0x1.c4a29324a1038p-36);
  }
  // sin(2 pi x)/x and (cos(2 pi x) - 1)/x^2 in z = x^2, |x| <= 1/8: errors 2e-17 and 8e-18.
  template <class Real>
  static FRACTALKERN_MATH Real sine_ratio(Real z) {
    return polynomial(z, 0x1.921fb54442d18p+2, -0x1.4abbce625be41p+5, 0x1.466bc677587f8p+6,
                      -0x1.32d2cce2e5b19p+6, 0x1.50782fda12d96p+5, -0x1.e30071afc3e59p+3,
                      0x1.e3f38399551bfp+1);
  }
  template <class Real>
  static FRACTALKERN_MATH Real cosine_excess(Real z) {
    return polynomial(z, -0x1.3bd3cc9be45dep+4, 0x1.03c1f081b5ac0p+6, -0x1.55d3c7e3cb241p+6,
                      0x1.e1f5068688d5bp+5, -0x1.a6d1eef479be1p+4, 0x1.f9ce245cada0bp+2,
                      -0x1.b2f3eb054afcdp+0);
  }
};
template <>
struct NoiseConstants<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr int32_t kOne = 0x3F800000;
  static constexpr int32_t kSqrtHalf = 0x3F3504F3;
  static constexpr int32_t kMantissa = 0x7FFFFF;
  static constexpr float kRound = 0x1.8p23f;
  static constexpr float kSmallestPower = -126;
  static constexpr float kLn2 = 0x1.62e430p-1f;
  static constexpr float kLog2E = 0x1.715476p0f;
  // Errors 9e-8 (of a term below 0.01), 8e-9, 2e-8, 1e-8.
  template <class Real>
  static FRACTALKERN_MATH Real atanh_excess(Real z) {
    return polynomial(z, 0x1.55555cp-2f, 0x1.997c30p-3f, 0x1.2ee610p-3f);
  }
  template <class Real>
  static FRACTALKERN_MATH Real exp2_excess(Real r) {
    return polynomial(r, 0x1.62e430p-1f, 0x1.ebfbe0p-3f, 0x1.c6af6cp-5f, 0x1.3b2a54p-7f,
                      0x1.5f0890p-10f, 0x1.44138ap-13f);
  }
  template <class Real>
  static FRACTALKERN_MATH Real sine_ratio(Real z) {
    return polynomial(z, 0x1.921fb6p+2f, -0x1.4abbbap+5f, 0x1.465ec4p+6f, -0x1.2d9b40p+6f);
  }
  template <class Real>
  static FRACTALKERN_MATH Real cosine_excess(Real z) {
    return polynomial(z, -0x1.3bd3ccp+4f, 0x1.03c1eap+6f, -0x1.55cb98p+6f, 0x1.db6492p+5f);
  }
};

// An integer of at most 52 bits and a sign, exactly.
template <class Real>
FRACTALKERN_MATH Real to_real(typename RealTypes<Real>::Bits integer) {
  using Scalar = typename RealTypes<Real>::Scalar;
  if constexpr (sizeof(Scalar) == 4) {
    return convert<Real>(integer);
  } else {  // not every instruction set converts 64-bit integers
    constexpr double kShift = NoiseConstants<double>::kRound;
    return __builtin_bit_cast(Real, integer + __builtin_bit_cast(int64_t, kShift)) - kShift;
  }
}

// x = 2^exponent (1 + excess), excess in [sqrt(1/2) - 1, sqrt(2) - 1); x normal and positive.
template <class Real>
FRACTALKERN_MATH void split(Real x, typename RealTypes<Real>::Bits& exponent, Real& excess) {
  using Bits = typename RealTypes<Real>::Bits;
  using C = NoiseConstants<typename RealTypes<Real>::Scalar>;
  const Bits shifted = __builtin_bit_cast(Bits, x) - C::kSqrtHalf;
  exponent = shifted >> C::kMantissaBits;
  excess = __builtin_bit_cast(Real, (shifted & C::kMantissa) + C::kSqrtHalf);
  excess -= 1;
}

// ln(1 + f) = 2 atanh(f / (2 + f)), to full relative precision near 0.
template <class Real>
FRACTALKERN_MATH Real log1p_reduced(Real f) {
  using C = NoiseConstants<typename RealTypes<Real>::Scalar>;
  const Real s = f / (f + 2);
  const Real z = s * s;
  const Real twice = s + s;
  return twice + twice * (z * C::atanh_excess(z));
}

// q^slope; 0 where that is not a normal number. For q = 1 or slope = 0 it is exactly 1.
template <class Real>
FRACTALKERN_MATH Real power_law(Real q, typename RealTypes<Real>::Scalar slope) {
  using Bits = typename RealTypes<Real>::Bits;
  using C = NoiseConstants<typename RealTypes<Real>::Scalar>;
  Bits exponent;
  Real excess;
  split(q, exponent, excess);
  const Real log2 = to_real<Real>(exponent) + log1p_reduced(excess) * C::kLog2E;
  const Real power = log2 * slope;
  const Real shifted = power + C::kRound;
  const Real r = power - (shifted - C::kRound);
  const Real mantissa = r * C::exp2_excess(r) + 1;
  const Bits scale = (__builtin_bit_cast(Bits, shifted) << C::kMantissaBits) + C::kOne;
  return power < C::kSmallestPower ? Real{} : mantissa * __builtin_bit_cast(Real, scale);
}

// ln(u) of the uniform number u = (n + 1) / 2^53 in (0, 1], n the upper 53 of the 64 bits
// (high, low).
template <class Real>
FRACTALKERN_MATH Real log_uniform(typename RealTypes<Real>::Words high,
                                  typename RealTypes<Real>::Words low) {
  using Scalar = typename RealTypes<Real>::Scalar;
  using Bits = typename RealTypes<Real>::Bits;
  using Words = typename RealTypes<Real>::Words;
  Bits exponent;
  Real excess;
  if constexpr (sizeof(Scalar) == 4) {
    // As a signed number, high counts from the nearer end of (0, 1]: near 1 the distance from it
    // matters. The low word is below half a rounding but for the 2^22 values next to either end.
    constexpr uint32_t kNear = uint32_t{1} << 22;
    Real from_end = convert<Real>(Bits(high)) * 0x1p-32f;
    if (any_below(Words(high + kNear), 2 * kNear)) [[unlikely]] {
      const Real rest = convert<Real>(Bits((low >> 11) + 1)) * 0x1p-53f;
      from_end = high + kNear < 2 * kNear ? Real(from_end + rest) : from_end;
    }
    split(Bits(high) < 0 ? Real(from_end + 1) : from_end, exponent, excess);
    excess = exponent == 0 ? from_end : excess;
  } else {
    const Bits n = Bits(((high << 32) | low) >> 11) + 1;
    const Real u = to_real<Real>(n >> 32) * 0x1p-21 + to_real<Real>(n & 0xFFFFFFFF) * 0x1p-53;
    split(u, exponent, excess);
  }
  return to_real<Real>(exponent) * NoiseConstants<Scalar>::kLn2 + log1p_reduced(excess);
}

// Cosine and sine of 2 pi n / 2^53, n as above; a float's rounding hides the low word. The octant
// is cut off as an integer, exactly.
template <class Real>
FRACTALKERN_MATH void cos_sin_turn(typename RealTypes<Real>::Words high,
                                   typename RealTypes<Real>::Words low, Real& cosine, Real& sine) {
  using Scalar = typename RealTypes<Real>::Scalar;
  using Bits = typename RealTypes<Real>::Bits;
  using Words = typename RealTypes<Real>::Words;
  using C = NoiseConstants<Scalar>;
  constexpr int kBits = 8 * sizeof(Scalar);
  Words turn;  // of the circle, the binary point in front
  Real x;      // turns from the nearest quarter, in [-1/8, 1/8)
  if constexpr (sizeof(Scalar) == 4) {
    turn = high;
    x = convert<Real>(Bits(turn << 2)) * 0x1p-34f;
  } else {
    turn = (((high << 32) | low) >> 11) << 11;
    x = to_real<Real>(Bits(turn << 2) >> 13) * 0x1p-53;
  }
  const Real z = x * x;
  const Real s = x * C::sine_ratio(z);
  const Real c = z * C::cosine_excess(z) + 1;
  constexpr auto kTop = typename RealTypes<Real>::Word{1} << (kBits - 1);
  const Words nearest = turn + kTop / 4;  // its two top bits are the quarter
  const auto odd = (nearest & (kTop / 2)) != 0;
  const Words cosine_bits = __builtin_bit_cast(Words, Real(odd ? s : c));
  const Words sine_bits = __builtin_bit_cast(Words, Real(odd ? c : s));
  cosine = __builtin_bit_cast(Real, Words(cosine_bits ^ ((nearest + kTop / 2) & kTop)));
  sine = __builtin_bit_cast(Real, Words(sine_bits ^ (nearest & kTop)));
}

// The coefficient of a mode of amplitude 1 is radius (cosine + i sine), the radius from its first
// two words and the rest from the other two. On a self-conjugate mode (kReal) the sine is 0.
template <Spectrum kSpectrum, bool kReal, class Real>
FRACTALKERN_MATH Real unit_radius(typename RealTypes<Real>::Words high,
                                  typename RealTypes<Real>::Words low) {
  using Scalar = typename RealTypes<Real>::Scalar;
  if constexpr (kSpectrum == Spectrum::kGaussian) {
    return square_root(Real(log_uniform<Real>(high, low) * (kReal ? -2 : -1)));
  } else if constexpr (kSpectrum == Spectrum::kGenesis && !kReal) {
    Real cosine, unused;
    cos_sin_turn(high, low, cosine, unused);
    return cosine;
  } else {
    return Real{} + Scalar(1);
  }
}

template <Spectrum kSpectrum, bool kReal, class Real>
FRACTALKERN_MATH void unit_phase(typename RealTypes<Real>::Words high,
                                 typename RealTypes<Real>::Words low, Real& cosine, Real& sine) {
  using Scalar = typename RealTypes<Real>::Scalar;
  cos_sin_turn(high, low, cosine, sine);
  if constexpr (kSpectrum == Spectrum::kPhase && kReal) {
    constexpr int kTopBit = 31;
    cosine = (high >> kTopBit) != 0 ? Real{} - Scalar(1) : Real{} + Scalar(1);
  }
  if constexpr (kReal) sine = Real{};
}

}  // namespace fractalkern::FRACTALKERN_ISA
