// Top singular triples by Golub-Kahan-Lanczos or by the power method, one read of a matrix a pass.
//
// A pass takes v to y = W v and z = W^T y in one sweep of rows: a block of rows is multiplied by v,
// and while it is still in cache its multiples are added to z. So Golub-Kahan is run on its
// right-hand vectors alone: with W v_j = alpha_j u_j + beta_{j-1} u_{j-1} the sweep gives
// d_j = |W v_j|^2 and W^T W v_j = e_{j-1} v_{j-1} + d_j v_j + e_j v_{j+1}, whose tridiagonal matrix
// is B^T B of the bidiagonal B. The right-hand vectors are fully reorthogonalised, which is all
// that the top triple needs (Simon and Zha, SIAM J. Sci. Comput. 21, 2000). The last pass goes over
// the best vector found, in double, and gives sigma, u, the residual and the bounds as measured;
// whatever rounding did before it can only have made the vector worse, not the answer wrong.
// float is used for float while |W v|^2 is far from the ends of its range, else double; a double
// matrix near its ends is scaled by a power of two first.
//
// Parallel mapping: a matrix is cut into row chunks by its shape alone, and their sums z are added
// in the order of the rows, so any number of threads gives the same bits. A matrix larger than a
// thread's share of all work is split over threads pass by pass; the others are whole tasks, the
// largest first, each staying in the cache of the core that has it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "power_iteration/power_iteration_cpu_solver.h"

namespace fractalkern {
namespace {

template <class S, class C>
bool solve_as(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
              int64_t row, bool scaled = false) {
  matrix.iterations = 0;
  Solver<S, C> solver(matrix, problem, parallel);
  solver.row_ = row;
  solver.scaled_ = scaled;
  return solver.run();
}

void set_zero(SpectralMatrix& matrix, SpectralStatus status, double value) {
  matrix.sigma = matrix.residual = matrix.lower = matrix.upper = value;
  matrix.status = status;
  matrix.iterations = 0;
  std::fill_n(matrix.u, matrix.rows, value);
  std::fill_n(matrix.v, matrix.columns, value);
}

bool is_double(const SpectralMatrix& matrix) { return matrix.type == SpectralType::kDouble; }

double largest_entry(const SpectralMatrix& matrix) {
  double largest = 0;
  for (int64_t i = 0; i < matrix.rows; ++i)
    for (int64_t j = 0; j < matrix.columns; ++j) {
      const int64_t at = i * matrix.row_stride + j;
      const double entry = is_double(matrix) ? static_cast<const double*>(matrix.data)[at]
                                             : static_cast<const float*>(matrix.data)[at];
      if (!std::isfinite(entry)) return entry;
      largest = std::max(largest, std::abs(entry));
    }
  return largest;
}

// A copy with entries of at most 1, where the numbers themselves leave the range of double.
void solve_scaled(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
                  int64_t row, double largest) {
  const int exponent = std::ilogb(largest);
  std::vector<double> scaled(static_cast<size_t>(matrix.rows * matrix.columns));
  for (int64_t i = 0; i < matrix.rows; ++i)
    for (int64_t j = 0; j < matrix.columns; ++j) {
      const int64_t at = i * matrix.row_stride + j;
      const double entry = is_double(matrix) ? static_cast<const double*>(matrix.data)[at]
                                             : static_cast<const float*>(matrix.data)[at];
      scaled[static_cast<size_t>(i * matrix.columns + j)] = std::scalbn(entry, -exponent);
    }
  SpectralMatrix copy = matrix;
  copy.data = scaled.data();
  copy.type = SpectralType::kDouble;
  copy.row_stride = matrix.columns;
  solve_as<double, double>(copy, problem, parallel, row, true);
  matrix.sigma = std::scalbn(copy.sigma, exponent);
  matrix.lower = std::nextafter(std::scalbn(copy.lower, exponent), 0.0);
  matrix.upper = std::nextafter(std::scalbn(copy.upper, exponent), HUGE_VAL);
  matrix.residual = copy.residual;
  matrix.iterations = copy.iterations;
  matrix.status = copy.status;
}

// As the sweeps read it: float or double, the last axis contiguous.
void solve_readable(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
                    int64_t row) {
  const bool wide = is_double(matrix);
  if (!wide && solve_as<float, float>(matrix, problem, parallel, row)) return;
  if (!wide && solve_as<float, double>(matrix, problem, parallel, row)) return;
  if (wide && solve_as<double, double>(matrix, problem, parallel, row)) return;
  const double largest = largest_entry(matrix);
  if (!std::isfinite(largest))
    return set_zero(matrix, SpectralStatus::kNonFinite, std::numeric_limits<double>::quiet_NaN());
  if (largest == 0) {
    set_zero(matrix, SpectralStatus::kZero, 0);
    return;
  }
  solve_scaled(matrix, problem, parallel, row, largest);
}

template <class S, class C>
void solve_copied(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
                  int64_t row) {
  const SpectralMatrix given = matrix;
  const AlignedArray<C> entries(given.rows * given.columns);
  const int64_t rows = std::max<int64_t>(kChunkElements / given.columns / 32 * 32, 32);
  parallel.for_each((given.rows + rows - 1) / rows, given.rows * given.columns, [&](int64_t chunk) {
    const int64_t begin = chunk * rows;
    copy(CopyArgs<S, C>{entries.data() + begin * given.columns,
                        static_cast<const S*>(given.data) + begin * given.row_stride,
                        std::min(rows, given.rows - begin), given.columns, given.row_stride,
                        given.column_stride});
  });
  matrix.data = entries.data();
  matrix.type = std::is_same_v<C, double> ? SpectralType::kDouble : SpectralType::kFloat;
  matrix.row_stride = given.columns;
  matrix.column_stride = 1;
  solve_readable(matrix, problem, parallel, row);
  matrix.data = given.data;
  matrix.type = given.type;
  matrix.row_stride = given.row_stride;
  matrix.column_stride = given.column_stride;
}

void solve(SpectralMatrix& matrix, const PowerIteration& problem, const Parallel& parallel,
           int64_t row) {
  if (matrix.rows == 0 || matrix.columns == 0) return set_zero(matrix, SpectralStatus::kZero, 0);
  const bool contiguous = matrix.column_stride == 1 || matrix.columns == 1;
  switch (matrix.type) {
    case SpectralType::kHalf:
      return solve_copied<Half, float>(matrix, problem, parallel, row);
    case SpectralType::kBFloat16:
      return solve_copied<BFloat16, float>(matrix, problem, parallel, row);
    case SpectralType::kFloat:
      if (!contiguous) return solve_copied<float, float>(matrix, problem, parallel, row);
      break;
    case SpectralType::kDouble:
      if (!contiguous) return solve_copied<double, double>(matrix, problem, parallel, row);
      break;
  }
  solve_readable(matrix, problem, parallel, row);
}

}  // namespace

void power_iteration_cpu(const PowerIteration& problem, const Parallel& parallel) {
  const Parallel serial(1, nullptr);
  int64_t total = 0;
  std::vector<int64_t> order(static_cast<size_t>(problem.count));
  std::iota(order.begin(), order.end(), 0);
  const auto elements = [&](int64_t i) {
    return problem.matrices[i].rows * problem.matrices[i].columns;
  };
  bool equal = true;
  for (int64_t i = 0; i < problem.count; ++i) {
    total += elements(i);
    equal = equal && elements(i) == elements(0);
  }
  if (!equal)
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return elements(a) > elements(b); });
  const int64_t share = std::max(total / parallel.threads(), kChunkElements);
  int64_t split = 0;
  while (split < problem.count && elements(order[static_cast<size_t>(split)]) > share) ++split;
  for (int64_t i = 0; i < split; ++i) {
    const int64_t index = order[static_cast<size_t>(i)];
    solve(problem.matrices[index], problem, parallel, index);
    total -= elements(index);
  }
  parallel.for_each(problem.count - split, total * problem.passes, [&](int64_t i) {
    const int64_t index = order[static_cast<size_t>(split + i)];
    solve(problem.matrices[index], problem, serial, index);
  });
}

void power_iteration_backward_cpu(const SpectralGradient* gradients, int64_t count,
                                  const Parallel& parallel) {
  int64_t total = 0;
  std::vector<int64_t> first_chunk{0};
  constexpr int64_t kTaskElements = 1 << 16;
  const auto rows_per_task = [&](int64_t i) {
    return std::max<int64_t>(kTaskElements / std::max<int64_t>(gradients[i].columns, 1), 1);
  };
  for (int64_t i = 0; i < count; ++i) {
    total += gradients[i].rows * gradients[i].columns;
    const int64_t rows = rows_per_task(i);
    first_chunk.push_back(first_chunk.back() + (gradients[i].rows + rows - 1) / rows);
  }
  parallel.for_each(first_chunk.back(), total, [&](int64_t task) {
    const auto after = std::upper_bound(first_chunk.begin(), first_chunk.end(), task);
    const int64_t i = after - first_chunk.begin() - 1;
    const SpectralGradient& g = gradients[i];
    const int64_t rows = rows_per_task(i);
    const int64_t begin = (task - first_chunk[static_cast<size_t>(i)]) * rows;
    for (int64_t r = begin; r < std::min(begin + rows, g.rows); ++r) {
      const double scale = g.scale * g.u[r];
      if (g.wide) {
        kOuterDouble.active()(
            {static_cast<double*>(g.gradient) + r * g.columns, g.v, g.columns, scale});
      } else {
        kOuterFloat.active()(
            {static_cast<float*>(g.gradient) + r * g.columns, g.v, g.columns, scale});
      }
    }
  });
}

}  // namespace fractalkern
