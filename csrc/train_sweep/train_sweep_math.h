// The arithmetic of train_sweep, shared by host and device code. A `Real` is float, double or, on
// the host, a GCC vector of either: every function is written lane by lane.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define FRACTALKERN_MATH __host__ __device__ inline
#else
#define FRACTALKERN_MATH inline __attribute__((always_inline))
#endif

namespace fractalkern {

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
};
template <>
struct TanhConstants<float> {
  static constexpr float kSaturated = 10.0f;
  static constexpr float kShift = 0x1.8p23f + 127.0f;
  static constexpr int kMantissaBits = 23;
  static constexpr float kTwoOverLn2 = 0x1.715476p1f;
  static constexpr float kHalfLn2 = 0x1.62e43p-2f;
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

// tanh. With x = k ln(2)/2 + rho, s = 2^k and B = rho coth(rho), the addition theorem gives
//   tanh(x) = ((s-1) B + (s+1) rho) / ((s+1) B + (s-1) rho):
// one division, no table, no cancellation (s = 1 leaves rho / B), odd because every term is.
// Absolute error below 4e-16; at most 2 ulp for |x| >= 0.25 (float64).
template <class Real>
FRACTALKERN_MATH Real fast_tanh(Real x) {
  using C = TanhConstants<typename RealTraits<Real>::Scalar>;
  using T = typename RealTraits<Real>::Scalar;
  using Bits = typename RealTraits<Real>::Bits;
  // Written so that NaN, which compares false, passes through.
  x = x > C::kSaturated ? Real{} + C::kSaturated : x;
  x = x < -C::kSaturated ? Real{} - C::kSaturated : x;
  const Real shifted = x * C::kTwoOverLn2 + C::kShift;
  const Real k = shifted - C::kShift;
  const Real rho = x - k * C::kHalfLn2;
  const Real s = __builtin_bit_cast(Real, __builtin_bit_cast(Bits, shifted) << C::kMantissaBits);
  const Real b = rho_coth_rho(Real(rho * rho));
  // 1 - s rather than s - 1, so that -0 stays -0.
  const Real one_minus_s = T(1) - s;
  const Real one_plus_s = T(1) + s;
  const Real numerator = one_plus_s * rho - one_minus_s * b;
  const Real denominator = one_plus_s * b - one_minus_s * rho;
  return numerator / denominator;
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

}  // namespace fractalkern
