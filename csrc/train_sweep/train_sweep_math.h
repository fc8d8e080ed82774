// The arithmetic of train_sweep, shared by host and device code. A `Real` is float, double or, on
// the host, a GCC vector of either: every function is written lane by lane.
//
// Included once per target, inside namespace fractalkern::FRACTALKERN_ISA, with FRACTALKERN_MATH
// the specifiers of its functions (common/each_instruction_set.h); hence no include guard. Needs
// <cmath>, <cstdint> and common/host_device.h. Includers may declare overloads of at_most(),
// take_out() and divide() for their types before it.

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
  static constexpr int64_t kInverseBits = int64_t{2 * 1023} << 52;  // less those of 2^k: of 2^-k
  // Relative error of B: 3e-18.
  static constexpr int kDegree = 4;
  static FRACTALKERN_MATH double coefficient(int power) {
    constexpr double kC[] = {0x1.5555555555553p-2, -0x1.6c16c16c0abe6p-6, 0x1.1566ab5c0cca8p-9,
                             -0x1.bbd53204bb10fp-13, 0x1.63f262586d051p-16};
    return kC[power];
  }
};
template <>
struct TanhConstants<float> {
  static constexpr float kSaturated = 10.0f;
  static constexpr float kShift = 0x1.8p23f + 127.0f;
  static constexpr int kMantissaBits = 23;
  static constexpr float kTwoOverLn2 = 0x1.715476p1f;
  static constexpr float kHalfLn2 = 0x1.62e43p-2f;
  static constexpr int32_t kMagnitudeMask = INT32_MAX;
  static constexpr int32_t kInverseBits = int32_t{2 * 127} << 23;
  // Relative error of B: 7e-9.
  static constexpr int kDegree = 1;
  static FRACTALKERN_MATH float coefficient(int power) {
    constexpr float kC[] = {0x1.555546p-2f, -0x1.6b0cd8p-6f};
    return kC[power];
  }
};

// min(x, limit); a NaN stays NaN.
template <class Real>
FRACTALKERN_MATH Real at_most(Real x, typename RealTraits<Real>::Scalar limit) {
  return x > limit ? Real{} + limit : x;
}

// Splits tanh as fast_tanh() explains: t, and the numerator of the remainder.
template <class Real>
FRACTALKERN_MATH void take_out(Real r, Real b, Real rho, Real& t, Real& numerator) {
  using Scalar = typename RealTraits<Real>::Scalar;
  const Real root = Scalar(1) - r;
  const Real cross = r * root;
  t = root - cross;
  numerator = cross * b + ((root + Scalar(2)) + t) * rho;
}

// numerator /= denominator. Two values share one division, the slowest operation: a / b and c / d
// from 1 / (b d). Hence a NaN makes its neighbour NaN too: callers must not tell one from two, as
// the network's loss and gradient do not.
template <int kCount, class Real>
FRACTALKERN_MATH void divide(Real (&numerator)[kCount], const Real (&denominator)[kCount]) {
  using Scalar = typename RealTraits<Real>::Scalar;
  FRACTALKERN_UNROLL
  for (int i = 0; i + 1 < kCount; i += 2) {
    const Real inverse = Scalar(1) / (denominator[i] * denominator[i + 1]);
    numerator[i] *= denominator[i + 1] * inverse;
    numerator[i + 1] *= denominator[i] * inverse;
  }
  if constexpr (kCount % 2 == 1) numerator[kCount - 1] /= denominator[kCount - 1];
}

// tanh of kCount independent values, in place. With |x| = k ln(2)/2 + rho, s = 2^k and
// B = rho coth(rho), the addition theorem gives
//   tanh|x| = ((s-1) B + (s+1) rho) / ((s+1) B + (s-1) rho).
// The three roundings of that quotient would cost 2.5 ulp, so a short number near it is taken out
// exactly, t = (1-r)^2 with r = 1/s, and only the remainder carries them:
//   tanh|x| = t + (r (1-r) B + (4 - 3r + r^2) rho) / (s (B + rho) + (B - rho)).
// One division, no table; k = 0 leaves rho / B, so small arguments keep full relative precision.
// Absolute error below 4e-16; at most 2 ulp for |x| >= 0.25 (float64).
//
// Each value is one chain of some thirty dependent operations: the stages run over all values in
// turn so that the chains overlap within the scheduler's window. Sums are preferred to products:
// where adders are units of their own, they cost nothing beside the multiply-adds.
template <int kCount, class Real>
FRACTALKERN_MATH void fast_tanh(Real (&x)[kCount]) {
  using Scalar = typename RealTraits<Real>::Scalar;
  using Bits = typename RealTraits<Real>::Bits;
  using C = TanhConstants<Scalar>;
  Bits sign[kCount], s_bits[kCount];
  Real shifted[kCount], z[kCount], b[kCount], t[kCount], quotient[kCount], denominator[kCount];

  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const Bits bits = __builtin_bit_cast(Bits, x[i]);
    const Bits magnitude = bits & C::kMagnitudeMask;
    sign[i] = bits ^ magnitude;
    x[i] = __builtin_bit_cast(Real, magnitude);
    x[i] = at_most(x[i], C::kSaturated);
  }
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) {
    shifted[i] = x[i] * C::kTwoOverLn2 + C::kShift;
    s_bits[i] = __builtin_bit_cast(Bits, shifted[i]) << C::kMantissaBits;
  }
  Real(&rho)[kCount] = x;
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) rho[i] = x[i] - (shifted[i] - C::kShift) * C::kHalfLn2;
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) z[i] = rho[i] * rho[i];

  // B: the coefficients interpolate (rho coth(rho) - 1)/z at Chebyshev's nodes of |rho| <= ln(2)/4.
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i)
    b[i] = z[i] * C::coefficient(C::kDegree) + C::coefficient(C::kDegree - 1);
  FRACTALKERN_UNROLL
  for (int d = C::kDegree - 2; d >= 0; --d) {
    FRACTALKERN_UNROLL
    for (int i = 0; i < kCount; ++i) b[i] = b[i] * z[i] + C::coefficient(d);
  }
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) b[i] = b[i] * z[i] + Scalar(1);

  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i) {
    const Real s = __builtin_bit_cast(Real, s_bits[i]);
    const Real r = __builtin_bit_cast(Real, Bits(C::kInverseBits - s_bits[i]));
    take_out(r, b[i], rho[i], t[i], quotient[i]);
    denominator[i] = s * (b[i] + rho[i]) + (b[i] - rho[i]);
  }
  divide(quotient, denominator);
  FRACTALKERN_UNROLL
  for (int i = 0; i < kCount; ++i)
    x[i] = __builtin_bit_cast(Real, __builtin_bit_cast(Bits, t[i] + quotient[i]) | sign[i]);
}

// The convergence measure of a loss history, accumulated entry by entry.
class ConvergenceMeter {
 public:
  // One entry's share of the sums: the same for equal losses.
  struct Entry {
    double v;
    double inverse;
    bool finite;
  };

  FRACTALKERN_MATH Entry entry(double loss) {
    const bool finite = std::isfinite(loss);
    const double capped = finite ? loss : kLossCap;
    if (!started_) {
      first_ = capped;
      started_ = true;
    }
    const double ratio = capped / first_;
    const double v = ratio > kLossCap ? kLossCap : ratio;
    return {v, 1.0 / v, finite};
  }

  FRACTALKERN_MATH void add(const Entry& entry, bool in_tail) {
    sum_ += entry.v;
    inverse_sum_ += entry.inverse;
    if (in_tail) {
      tail_sum_ += entry.v;
      ++tail_count_;
      tail_finite_ = tail_finite_ && entry.finite;
    }
  }

  FRACTALKERN_MATH void record(double loss, bool in_tail) { add(entry(loss), in_tail); }

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
