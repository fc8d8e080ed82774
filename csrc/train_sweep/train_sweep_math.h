// The arithmetic of train_sweep, shared by host and device code. A `Real` is float, double or, on
// the host, a GCC vector of either: every function is written lane by lane.
//
// Included once per target, inside namespace fractalkern::FRACTALKERN_ISA, with FRACTALKERN_MATH
// the specifiers of its functions (common/each_instruction_set.h); hence no include guard. Needs
// <cmath> and <cstdint>.

namespace fractalkern::FRACTALKERN_ISA {

// Bits is the integer type of the same width (and lane count) as Real; Scalar is one lane.
template <class Real>
struct RealTraits;
template <>
struct RealTraits<double> {
  using Scalar = double;
  using Bits = int64_t;
};
template <>
struct RealTraits<float> {
  using Scalar = float;
  using Bits = int32_t;
};

template <class Scalar>
struct TanhConstants;
template <>
struct TanhConstants<double> {
  static constexpr double kSaturated = 20.0;           // tanh rounds to 1 beyond
  static constexpr double kShift = 0x1.8p52 + 1023.0;  // rounds to an integer, exponent-biased
  static constexpr int kMantissaBits = 52;
  static constexpr double kTwoOverLn2 = 0x1.71547652b82fep1;
  static constexpr double kHalfLn2 = 0x1.62e42fefa39efp-2;
  static constexpr int64_t kMagnitudeMask = INT64_MAX;
  static constexpr int64_t kHalfTimesOneBits = int64_t{1022 + 1023} << 52;  // 0.5/s: minus s's bits
};
template <>
struct TanhConstants<float> {
  static constexpr float kSaturated = 10.0f;
  static constexpr float kShift = 0x1.8p23f + 127.0f;
  static constexpr int kMantissaBits = 23;
  static constexpr float kTwoOverLn2 = 0x1.715476p1f;
  static constexpr float kHalfLn2 = 0x1.62e43p-2f;
  static constexpr int32_t kMagnitudeMask = INT32_MAX;
  static constexpr int32_t kHalfTimesOneBits = int32_t{126 + 127} << 23;
};

// rho * coth(rho) for |rho| <= ln(2)/4 from z = rho^2: relative error 3e-18 (double), 7e-9 (float).
// Coefficients: interpolation of (rho coth(rho) - 1)/z at the Chebyshev nodes of that range.
template <class Real>
FRACTALKERN_MATH Real rho_coth_rho(Real z) {
  using T = typename RealTraits<Real>::Scalar;
  if constexpr (sizeof(T) == 8) {
    Real c = z * T(0x1.63f262586d051p-16) + T(-0x1.bbd53204bb10fp-13);
    c = c * z + T(0x1.1566ab5c0cca8p-9);
    c = c * z + T(-0x1.6c16c16c0abe6p-6);
    c = c * z + T(0x1.5555555555553p-2);
    return c * z + T(1);
  } else {
    const Real c = z * T(-0x1.6b0cd8p-6) + T(0x1.555546p-2);
    return c * z + T(1);
  }
}

// tanh. With |x| = k ln(2)/2 + rho, s = 2^k and B = rho coth(rho), the addition theorem gives
//   tanh|x| = ((s-1) B + (s+1) rho) / ((s+1) B + (s-1) rho).
// The three roundings of that quotient would cost 2.5 ulp, so a short number t near it is taken out
// exactly and only the remainder carries them. One division, no table; k = 0 leaves rho / B, so
// small arguments keep full relative precision. Absolute error below 4e-16; at most 2 ulp for
// |x| >= 0.25 (float64).
template <class Real>
FRACTALKERN_MATH Real fast_tanh(Real x) {
  using Scalar = typename RealTraits<Real>::Scalar;
  using Bits = typename RealTraits<Real>::Bits;
  using C = TanhConstants<Scalar>;
  const Bits x_bits = __builtin_bit_cast(Bits, x);
  const Bits magnitude_bits = x_bits & C::kMagnitudeMask;
  Real magnitude = __builtin_bit_cast(Real, magnitude_bits);
  // NaN compares false and passes through.
  magnitude = magnitude > C::kSaturated ? Real{} + C::kSaturated : magnitude;
  const Real shifted = magnitude * C::kTwoOverLn2 + C::kShift;
  const Real k = shifted - C::kShift;
  const Real rho = magnitude - k * C::kHalfLn2;
  const Bits s_bits = __builtin_bit_cast(Bits, shifted) << C::kMantissaBits;
  const Real s = __builtin_bit_cast(Real, s_bits);
  const Real b = rho_coth_rho(Real(rho * rho));
  const Real below = s - Scalar(1);
  const Real above = s + Scalar(1);
  Real t;
  if constexpr (FRACTALKERN_ISA_TAG::kFusedMultiplyAdd) {
    t = Scalar(0.5) - __builtin_bit_cast(Real, Bits(C::kHalfTimesOneBits - s_bits));  // (1 - 1/s)/2
  } else {  // more roundings: stay closer
    t = s > Scalar(8) ? Real{} + Scalar(8) : s;
    t = s > Scalar(1) ? t * Scalar(0.125) : Real{};
  }
  const Real remainder = (below - t * above) * b + (above - t * below) * rho;
  const Real denominator = above * b + below * rho;
  const Real result = t + remainder / denominator;
  const Bits result_bits = __builtin_bit_cast(Bits, result) | (x_bits ^ magnitude_bits);
  return __builtin_bit_cast(Real, result_bits);
}

// The convergence measure of a loss history, accumulated entry by entry.
class ConvergenceMeter {
 public:
  FRACTALKERN_MATH void record(double loss, bool in_tail) {
    const bool finite = std::isfinite(loss);
    const double capped = finite ? loss : kLossCap;
    if (!started_) {
      first_ = capped;
      started_ = true;
    }
    const double ratio = capped / first_;
    const double v = ratio > kLossCap ? kLossCap : ratio;
    sum_ += v;
    inverse_sum_ += 1.0 / v;
    if (in_tail) {
      tail_sum_ += v;
      ++tail_count_;
      tail_finite_ = tail_finite_ && finite;
    }
  }

  FRACTALKERN_MATH bool converged(bool published) const {
    return tail_sum_ / static_cast<double>(tail_count_) < 1.0 && (published || tail_finite_);
  }

  FRACTALKERN_MATH double value(bool converged) const { return converged ? -sum_ : inverse_sum_; }

  static constexpr double kLossCap = 1e6;
  static constexpr int64_t kTail = 20;

 private:
  double first_ = 0;
  double sum_ = 0;
  double inverse_sum_ = 0;
  double tail_sum_ = 0;
  int64_t tail_count_ = 0;
  bool started_ = false;
  bool tail_finite_ = true;
};

}  // namespace fractalkern::FRACTALKERN_ISA
