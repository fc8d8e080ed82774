// The small problems inside power_iteration: the projected matrix, the random start, the bound.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/host_device.h"

namespace fractalkern {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
template <class T>
constexpr T kEpsilon = std::numeric_limits<T>::epsilon();
constexpr double kLeastNormal = std::numeric_limits<double>::min();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

FRACTALKERN_HOST_DEVICE double larger(double a, double b) { return a < b ? b : a; }
FRACTALKERN_HOST_DEVICE double smaller(double a, double b) { return b < a ? b : a; }

// Steps of Lanczos before it restarts from its best vector.
constexpr int kMaxBasis = 64;

// T = B^T B = tridiagonal(off, diagonal, off) of the right-hand Golub-Kahan vectors: B is upper
// bidiagonal with alpha_j^2 = diagonal_j - beta_{j-1}^2 and beta_j = off_j / alpha_j.
struct Projection {
  int size = 0;
  double diagonal[kMaxBasis + 1];
  double off[kMaxBasis + 1];
};

// The largest eigenvalue of T. Newton on the characteristic polynomial from above descends
// monotonically, so it needs no bracket; pivots stay positive there.
FRACTALKERN_HOST_DEVICE double largest_eigenvalue(const Projection& t) {
  double lambda = 0;
  for (int i = 0; i < t.size; ++i)
    lambda = larger(lambda,
                    t.diagonal[i] + (i > 0 ? t.off[i - 1] : 0) + (i + 1 < t.size ? t.off[i] : 0));
  const double floor = lambda * 1e-290;
  if (t.size == 1 || !(lambda > 0)) return lambda;
  for (int turn = 0; turn < 200; ++turn) {
    double pivot = larger(lambda - t.diagonal[0], floor), slope = 1, sum = 1 / pivot;
    bool above = lambda > t.diagonal[0];
    for (int i = 1; i < t.size && above; ++i) {
      const double ratio = t.off[i - 1] / pivot;
      slope = 1 + ratio * ratio * slope;
      pivot = lambda - t.diagonal[i] - t.off[i - 1] * ratio;
      above = pivot > 0;
      sum += slope / pivot;
    }
    if (!above) break;  // rounding has stepped past it
    const double step = 1 / sum;
    lambda -= step;
    if (!(step > 2e-16 * lambda)) break;
  }
  return lambda;
}

// Unit eigenvector of the largest eigenvalue: pivots from both ends, joined where they fit best.
// Pivots may be negative: past the part of the matrix that the eigenvector lives on they mean
// nothing, and the twist keeps away from there (Dhillon and Parlett, 2004).
FRACTALKERN_HOST_DEVICE void top_eigenvector(const Projection& t, double lambda, double* vector) {
  const int size = t.size;
  double forward[kMaxBasis + 1], backward[kMaxBasis + 1];
  const double least_pivot = larger(lambda * 1e-280, kLeastNormal);
  const auto pivot = [&](int i, double back) {
    const double value = lambda - t.diagonal[i] - back;
    return std::abs(value) < least_pivot ? std::copysign(least_pivot, value) : value;
  };
  for (int i = 0; i < size; ++i)
    forward[i] = pivot(i, i > 0 ? t.off[i - 1] * (t.off[i - 1] / forward[i - 1]) : 0);
  for (int i = size - 1; i >= 0; --i)
    backward[i] = pivot(i, i + 1 < size ? t.off[i] * (t.off[i] / backward[i + 1]) : 0);
  int twist = 0;
  double least = kInfinity;
  for (int i = 0; i < size; ++i) {
    const double gap = std::abs(forward[i] + backward[i] - (lambda - t.diagonal[i]));
    if (gap < least) least = gap, twist = i;
  }
  vector[twist] = 1;
  for (int i = twist - 1; i >= 0; --i) vector[i] = t.off[i] * vector[i + 1] / forward[i];
  for (int i = twist + 1; i < size; ++i) vector[i] = t.off[i - 1] * vector[i - 1] / backward[i];
  double norm = 0;
  for (int i = 0; i < size; ++i) norm += vector[i] * vector[i];
  norm = std::sqrt(norm);
  for (int i = 0; i < size; ++i) vector[i] /= norm;
}

// T with the row that the next vector would add, as far as it is known: W^T is applied to the left
// vectors exactly, which is half a step more than T holds. T is known to `eps` times its diagonal.
// False if the alphas are not: where the start has a part in the null space of W, T has an
// eigenvalue near 0, and the recursion makes anything of its rounding.
FRACTALKERN_HOST_DEVICE bool extend(const Projection& t, double eps, Projection* extended) {
  double beta_squared = 0, growth = 0, error = 0;
  for (int i = 0; i < t.size; ++i) {
    const double alpha_squared = t.diagonal[i] - beta_squared;
    error = eps * t.diagonal[i] + growth * error;
    if (!(error < 0.01 * alpha_squared)) return false;
    beta_squared = t.off[i] * t.off[i] / alpha_squared;
    growth = beta_squared / alpha_squared;
  }
  *extended = t;
  extended->diagonal[t.size] = beta_squared;
  extended->size = t.size + 1;
  return true;
}

// Words 0 and 1 of Philox4x32-10 as a number in [-1/2, 1/2): fractalkern.random.uniform minus 1/2,
// element `column` of row `row` of stream kStartStream.
constexpr uint32_t kStartStream = 0x73746172;

FRACTALKERN_HOST_DEVICE double start_element(uint64_t seed, uint32_t row, uint32_t column) {
  uint32_t c0 = column, c1 = row, c2 = 0, c3 = kStartStream;
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  const uint64_t bits = (uint64_t{c0} << 32 | c1) >> 11;
  return static_cast<double>(bits) * 0x1p-53 - 0.5;
}

// With probability 1 - delta, a start that is uniform in the unit cube, of norm `start_norm`, has
// a component of at least this in any fixed direction once it is normalised (Ball, 1986).
FRACTALKERN_HOST_DEVICE double least_component(double delta, double start_norm) {
  return smaller(1.0, delta / (2 * std::sqrt(2.0) * start_norm));
}

// Bound on the top singular value from `steps` Lanczos steps with largest Ritz value `theta`.
FRACTALKERN_HOST_DEVICE double lanczos_upper(double theta, int steps, double component) {
  if (steps < 2) return kInfinity;
  const double growth = std::cosh(std::acosh(1 / component) / (steps - 1));
  return std::sqrt(theta * (1 + growth) / 2);
}

// The same from `steps` steps of the power method: log_norm = log of the norm of (W^T W)^steps b.
FRACTALKERN_HOST_DEVICE double power_upper(double log_norm, int64_t steps, double component) {
  if (steps < 1) return kInfinity;
  return std::exp((log_norm - std::log(component)) / (2 * static_cast<double>(steps)));
}

// What the pass over the vector to return measures.
struct SpectralMeasure {
  double left_norm, right_norm;  // of W v and of v
  double squares;                // sum of w^2
  double largest_row;            // largest sum of |w| over a row, and over a column
  double largest_column;
};

// A dot product of n terms in any order is off by at most gamma_n |w| |v|, gamma_n = n eps.
struct SpectralBounds {
  double lower;
  double frobenius;  // an upper bound, and so is
  double product;    // sqrt(|W|_1 |W|_inf)
};

FRACTALKERN_HOST_DEVICE SpectralBounds bounds_of(const SpectralMeasure& measured, int64_t rows,
                                                 int64_t columns) {
  constexpr double eps = kEpsilon<double>;
  const double n = static_cast<double>(columns + 4), m = static_cast<double>(rows + 4);
  const double sums = 1 + (n + m) * eps;
  const double frobenius = std::sqrt(measured.squares) * sums;
  const double low = measured.left_norm * (1 - m * eps) / (measured.right_norm * (1 + n * eps)) -
                     n * eps * frobenius;
  return {larger(0.0, low), frobenius,
          std::sqrt(measured.largest_column * measured.largest_row) * sums};
}

// An upper bound by a theorem, widened for steps that were rounded to `step_eps`.
FRACTALKERN_HOST_DEVICE double widened_for_rounding(double theorem, int64_t columns,
                                                    double step_eps) {
  return theorem * (1 + 16 * std::sqrt(static_cast<double>(columns + 4)) * step_eps);
}

// Whether sums of squares are far enough from the ends of their type's range, float's if `narrow`.
FRACTALKERN_HOST_DEVICE bool in_range(double square, bool narrow) {
  return narrow ? square > 1e-24 && square < 1e24 : square > 1e-200 && square < 1e200;
}

// `value` rounded to T so that a lower bound stays one, or an upper one.
template <class T>
FRACTALKERN_HOST_DEVICE T rounded_bound(double value, bool lower) {
  const auto rounded = static_cast<T>(value);
  if (lower && rounded > value) return std::nextafter(rounded, T{0});
  if (!lower && rounded < value) return std::nextafter(rounded, static_cast<T>(kInfinity));
  return rounded;
}

}  // namespace fractalkern
