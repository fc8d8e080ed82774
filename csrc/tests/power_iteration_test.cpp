// Checks the power_iteration kernel on matrices of known singular values, over random shapes,
// strides, scales and starts, for every instruction set of this CPU and for 1 to 3 threads. Meant
// for sanitizers: every array has exactly its own length.
#include "power_iteration/power_iteration.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "common/half_precision.h"
#include "power_iteration/power_iteration_math.h"
#include "tests/testing.h"

namespace {

using fractalkern::BFloat16;
using fractalkern::Half;
using fractalkern::PowerIteration;
using fractalkern::SpectralMatrix;
using fractalkern::SpectralStatus;
using fractalkern::SpectralType;
using fractalkern::testing::Random;
using fractalkern::testing::thread_parallel;

// Entries of s u v^T + t (the same of orthogonal u', v'): singular values s and t.
struct Known {
  int64_t rows, columns, stride;
  double first, second;
  std::vector<float> narrow;
  std::vector<double> wide, start, u, v;
};

std::vector<double> unit(Random& random, int64_t size, const std::vector<double>* orthogonal) {
  std::vector<double> x(static_cast<size_t>(size));
  for (double& value : x) value = random.normal();
  double dot = 0, norm = 0;
  if (orthogonal != nullptr) {
    for (size_t i = 0; i < x.size(); ++i) dot += x[i] * (*orthogonal)[i];
    for (size_t i = 0; i < x.size(); ++i) x[i] -= dot * (*orthogonal)[i];
  }
  for (const double value : x) norm += value * value;
  for (double& value : x) value /= std::sqrt(norm);
  return x;
}

Known make(Random& random, bool wide, int64_t rows, int64_t columns) {
  Known known;
  known.rows = rows;
  known.columns = columns;
  known.stride = columns + random.below(4);
  const double scale = std::exp2(static_cast<double>(random.below(100) - 50));
  known.first = 2 * scale;
  known.second = rows > 1 && columns > 1 ? scale * random.uniform() : 0;
  const auto u = unit(random, rows, nullptr), v = unit(random, columns, nullptr);
  const auto u2 = rows > 1 ? unit(random, rows, &u) : u;
  const auto v2 = columns > 1 ? unit(random, columns, &v) : v;
  const auto size = static_cast<size_t>((rows - 1) * known.stride + columns);
  known.wide.assign(wide ? size : 0, NAN);
  known.narrow.assign(wide ? 0 : size, NAN);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const auto at = static_cast<size_t>(i * known.stride + j);
      const auto r = static_cast<size_t>(i), c = static_cast<size_t>(j);
      const double entry = known.first * u[r] * v[c] + known.second * u2[r] * v2[c];
      if (wide) {
        known.wide[at] = entry;
      } else {
        known.narrow[at] = static_cast<float>(entry);
      }
    }
  if (random.below(2) == 0) known.start = unit(random, columns, nullptr);
  known.u.resize(static_cast<size_t>(rows));
  known.v.resize(static_cast<size_t>(columns));
  return known;
}

SpectralMatrix argument(Known& known) {
  SpectralMatrix matrix{};
  const bool wide = !known.wide.empty();
  matrix.type = wide ? SpectralType::kDouble : SpectralType::kFloat;
  matrix.data = wide ? static_cast<const void*>(known.wide.data()) : known.narrow.data();
  matrix.rows = known.rows;
  matrix.columns = known.columns;
  matrix.row_stride = known.stride;
  matrix.column_stride = 1;
  matrix.start = known.start.empty() ? nullptr : known.start.data();
  matrix.u = known.u.data();
  matrix.v = known.v.data();
  return matrix;
}

void check_list(Random& random, const std::string& name, bool large) {
  std::vector<Known> list;
  const int64_t count = 1 + random.below(6);
  for (int64_t i = 0; i < count; ++i) {
    const bool split = large && i == 0;
    const int64_t least = split ? 600 : 1;
    const int64_t most_rows = split ? 900 : 150, most_columns = split ? 900 : 70;
    list.push_back(make(random, random.below(2) == 0, least + random.below(most_rows - least + 1),
                        least + random.below(most_columns - least + 1)));
  }
  const bool lanczos = random.below(2) == 0;
  const auto seed = random.bits();
  std::vector<double> sigmas, vectors;
  for (int64_t threads = 1; threads <= 3; ++threads) {
    std::vector<SpectralMatrix> matrices;
    for (Known& known : list) matrices.push_back(argument(known));
    fractalkern::power_iteration_cpu(
        {matrices.data(), count, large ? 30 : 100, 1e-5, lanczos, 1e-6, seed},
        thread_parallel(threads));
    for (size_t i = 0; i < list.size(); ++i) {
      const SpectralMatrix& m = matrices[i];
      const double entry_rounding = m.type == SpectralType::kDouble ? 1e-13 : 1e-5;
      CHECK(m.lower <= list[i].first * (1 + entry_rounding), name, m.lower, list[i].first);
      CHECK(m.upper >= list[i].first * (1 - entry_rounding), name, m.upper, list[i].first);
      if (m.status == SpectralStatus::kConverged) {
        CHECK(std::abs(m.sigma / list[i].first - 1) < 1e-4, name, m.sigma, list[i].first);
      }
      if (threads == 1) {
        sigmas.push_back(m.sigma);
        vectors.insert(vectors.end(), m.v, m.v + m.columns);
        CHECK(lanczos ? m.status == SpectralStatus::kConverged : true, name, m.residual);
      } else {
        CHECK(m.sigma == sigmas[i], name, "threads", threads);
      }
    }
    size_t at = 0;
    for (const Known& known : list)
      for (const double value : known.v) CHECK(value == vectors[at++], name, "threads", threads);
  }
}

// Entries of type S in any strides give what they give as contiguous numbers of type C.
template <class S, class C>
void check_layout(Random& random, const std::string& name, SpectralType type) {
  const int64_t rows = 1 + random.below(100), columns = 1 + random.below(100);
  const bool transposed = random.below(2) == 0;
  const int64_t stride = (transposed ? rows : columns) + random.below(4);
  std::vector<S> entries(static_cast<size_t>(((transposed ? columns : rows) - 1) * stride +
                                             (transposed ? rows : columns)));
  std::vector<C> plain;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      S& entry = entries[static_cast<size_t>(transposed ? j * stride + i : i * stride + j)];
      entry = fractalkern::rounded_to<S>(random.normal());
      plain.push_back(static_cast<C>(fractalkern::widened(entry)));
    }
  SpectralMatrix matrices[2] = {};
  std::vector<double> u[2], v[2];
  for (int k = 0; k < 2; ++k) {
    u[k].resize(static_cast<size_t>(rows));
    v[k].resize(static_cast<size_t>(columns));
    matrices[k].data = plain.data();
    matrices[k].type = sizeof(C) == 8 ? SpectralType::kDouble : SpectralType::kFloat;
    matrices[k].rows = rows;
    matrices[k].columns = matrices[k].row_stride = columns;
    matrices[k].column_stride = 1;
    matrices[k].u = u[k].data();
    matrices[k].v = v[k].data();
  }
  matrices[0].data = entries.data();
  matrices[0].type = type;
  matrices[0].row_stride = transposed ? 1 : stride;
  matrices[0].column_stride = transposed ? stride : 1;
  for (SpectralMatrix& matrix : matrices)
    fractalkern::power_iteration_cpu({&matrix, 1, 10, -1, true, 1e-6, 0}, thread_parallel(2));
  CHECK(u[0] == u[1] && v[0] == v[1], name, rows, columns, transposed);
  CHECK(matrices[0].lower == matrices[1].lower && matrices[0].upper == matrices[1].upper, name);
  CHECK(matrices[0].data == entries.data() && matrices[0].type == type, name);
}

void check_special(const std::string& name) {
  const float nan[2] = {1, NAN}, zero[2] = {0, 0};
  const double tiny[2] = {3 * 0x1p-1074, 4 * 0x1p-1074};
  double u[3], v[6];
  SpectralMatrix matrices[3] = {};
  const void* data[3] = {nan, zero, tiny};
  for (int i = 0; i < 3; ++i) {
    matrices[i].data = data[i];
    matrices[i].type = i == 2 ? SpectralType::kDouble : SpectralType::kFloat;
    matrices[i].rows = 1;
    matrices[i].columns = matrices[i].row_stride = 2;
    matrices[i].column_stride = 1;
    matrices[i].u = u + i;
    matrices[i].v = v + 2 * i;
  }
  fractalkern::power_iteration_cpu({matrices, 3, 5, 1e-6, true, 1e-6, 0}, thread_parallel(2));
  CHECK(matrices[0].status == SpectralStatus::kNonFinite, name);
  CHECK(matrices[1].status == SpectralStatus::kZero && matrices[1].sigma == 0, name);
  CHECK(matrices[2].sigma == 5 * 0x1p-1074, name, matrices[2].sigma);
}

void check_backward(Random& random, const std::string& name) {
  const auto u = unit(random, 5, nullptr), v = unit(random, 70001, nullptr);
  std::vector<float> gradient(5 * 70001);
  const fractalkern::SpectralGradient task{gradient.data(), false, 5, 70001, 3, u.data(), v.data()};
  fractalkern::power_iteration_backward_cpu(&task, 1, thread_parallel(3));
  bool equal = true;
  for (size_t i = 0; i < gradient.size(); ++i)
    equal = equal && std::abs(gradient[i] - 3 * u[i / 70001] * v[i % 70001]) < 1e-6;
  CHECK(equal, name);
}

// The eigenvector may live on a few rows only: a wrong one has too small a Rayleigh quotient.
void check_projection(Random& random) {
  fractalkern::Projection t;
  t.size = static_cast<int>(1 + random.below(fractalkern::kMaxBasis));
  const double spread = random.uniform(0, 20);
  double above = 0;  // of the bidiagonal: T = B^T B
  for (int i = 0; i < t.size; ++i) {
    const double alpha = random.uniform() * std::exp(-spread * random.uniform());
    t.diagonal[i] = alpha * alpha + above * above;
    above = random.uniform() * std::exp(-spread * random.uniform());
    t.off[i] = alpha * above;
  }
  double vector[fractalkern::kMaxBasis + 1];
  const double lambda = fractalkern::largest_eigenvalue(t);
  fractalkern::top_eigenvector(t, lambda, vector);
  double quotient = 0, norm = 0;
  for (int i = 0; i < t.size; ++i) {
    norm += vector[i] * vector[i];
    quotient += t.diagonal[i] * vector[i] * vector[i];
    if (i + 1 < t.size) quotient += 2 * t.off[i] * vector[i] * vector[i + 1];
  }
  CHECK(std::abs(norm - 1) < 1e-12, t.size, norm);
  CHECK(std::abs(quotient / lambda - 1) < 1e-10, t.size, spread, lambda, quotient);
}

}  // namespace

int main() {
  {
    Random random(1);
    for (int i = 0; i < 20000; ++i) check_projection(random);
  }
  fractalkern::testing::for_each_instruction_set([](const std::string& name) {
    Random random(0);
    for (int i = 0; i < 100; ++i) check_list(random, name, false);
    for (int i = 0; i < 2; ++i) check_list(random, name, true);
    for (int i = 0; i < 20; ++i) {
      check_layout<float, float>(random, name, SpectralType::kFloat);
      check_layout<double, double>(random, name, SpectralType::kDouble);
      check_layout<Half, float>(random, name, SpectralType::kHalf);
      check_layout<BFloat16, float>(random, name, SpectralType::kBFloat16);
    }
    check_special(name);
    check_backward(random, name);
  });
  return fractalkern::testing::testing_result();
}
