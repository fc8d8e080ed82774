// The CUDA kernels of power_iteration beside the CPU's, on the stand-in for a GPU: three
// multiprocessors of 64 KB of shared memory and 64 threads a block, threads and blocks in several
// orders. Bits must not depend on the order; results must be those of the CPU but for rounding.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "common/cuda_launch.h"
#include "common/half_precision.h"
#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_cuda_schedule.h"
#include "power_iteration/power_iteration_math.h"
#include "tests/cuda_stream_on_host.h"
#include "tests/testing.h"

namespace fractalkern::testing {
namespace {

constexpr int64_t kSizes[] = {4, 8, 2, 2};

// A stack of matrices in memory of exactly its size, from an address that is a multiple of its
// entries' size only.
struct Stack {
  SpectralWeight weight;
  std::vector<unsigned char> memory;
  std::vector<double> values;  // [stack, rows, columns], as rounded

  Stack(Random& random, SpectralType type, int64_t stack, int64_t rows, int64_t columns,
        double scale)
      : weight{nullptr, type, stack, rows, columns, columns} {
    if (stack == 1) weight.row_stride += random.below(2) * random.below(9);
    const int64_t size = kSizes[static_cast<int>(type)];
    const int64_t entries = rows * columns == 0 ? 0
                            : stack > 1         ? stack * rows * columns
                                                : (rows - 1) * weight.row_stride + columns;
    const int64_t shift = random.below(16 / size) * size;
    memory.assign(static_cast<size_t>(shift + entries * size), 0xFF);
    weight.data = memory.data() + shift;
    // A spectrum with a gap, so that both devices converge to the same vectors.
    std::vector<double> u(static_cast<size_t>(rows)), v(static_cast<size_t>(columns));
    for (int64_t s = 0; s < stack; ++s) {
      for (double& x : u) x = random.normal();
      for (double& x : v) x = random.normal();
      const double noise = 0.5 * std::sqrt(static_cast<double>(std::min(rows, columns)));
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const double exact = scale * (u[static_cast<size_t>(i)] * v[static_cast<size_t>(j)] +
                                        noise * random.normal());
          set(s * rows * columns + i * weight.row_stride + j, exact);
        }
    }
  }

  unsigned char* entry(int64_t at) const {
    return static_cast<unsigned char*>(const_cast<void*>(weight.data)) +
           at * kSizes[static_cast<int>(weight.type)];
  }

  template <class F>
  static double with_type(SpectralType type, const F& f) {
    switch (type) {
      case SpectralType::kFloat:
        return f(float{});
      case SpectralType::kHalf:
        return f(Half{});
      case SpectralType::kBFloat16:
        return f(BFloat16{});
      default:
        return f(double{});
    }
  }

  double read(int64_t at) const {
    return with_type(weight.type, [&](auto number) -> double {
      std::memcpy(&number, entry(at), sizeof(number));
      return widened(number);
    });
  }

  void set(int64_t at, double exact) {
    values.push_back(with_type(weight.type, [&](auto number) -> double {
      number = rounded_to<decltype(number)>(exact);
      std::memcpy(entry(at), &number, sizeof(number));
      return widened(number);
    }));
  }
};

struct Results {
  std::vector<double> sigma, vectors, bounds, next;
  std::vector<int64_t> codes;
};

struct Options {
  int64_t passes = 8;
  double tol = -1;
  bool lanczos = true;
  double delta = 1e-6;
  uint64_t seed = 0;
};

struct Sizes {
  int64_t count = 0, left = 0, right = 0;
  explicit Sizes(const std::vector<Stack>& stacks) {
    for (const Stack& s : stacks) {
      count += s.weight.stack;
      left += s.weight.stack * s.weight.rows;
      right += s.weight.stack * s.weight.columns;
    }
  }
};

Results on_cuda(const std::vector<Stack>& stacks, const Options& o,
                const std::vector<double>* start, uint64_t schedule) {
  cuda_on_host::schedule = schedule;
  const Sizes sizes(stacks);
  const auto many = [](int64_t size) {
    return std::vector<double>(static_cast<size_t>(size), NAN);
  };
  Results r{many(sizes.count), many(sizes.left + sizes.right), many(3 * sizes.count),
            many(sizes.right), std::vector<int64_t>(static_cast<size_t>(2 * sizes.count), -1)};
  std::vector<SpectralWeight> weights;
  for (const Stack& s : stacks) weights.push_back(s.weight);
  power_iteration_cuda(
      {weights.data(), static_cast<int64_t>(weights.size()), o.passes, o.tol, o.lanczos, o.delta,
       o.seed, start == nullptr ? nullptr : start->data(), true, true, r.sigma.data(),
       r.vectors.data(), r.bounds.data(), r.codes.data(), r.next.data()},
      cuda_on_host::stream_with_scratch());
  return r;
}

// The CPU's, of the widened entries where they are narrow: arithmetic in float, as the device's.
Results on_cpu(const std::vector<Stack>& stacks, const Options& o,
               const std::vector<double>* start) {
  const Sizes sizes(stacks);
  Results r;
  r.vectors.resize(static_cast<size_t>(sizes.left + sizes.right));
  std::vector<std::vector<float>> narrow;
  std::vector<SpectralMatrix> matrices;
  double *u = r.vectors.data(), *v = u + sizes.left;
  const double* from = start == nullptr ? nullptr : start->data();
  narrow.reserve(stacks.size());
  for (const Stack& s : stacks) {
    const SpectralWeight& w = s.weight;
    narrow.emplace_back(s.values.begin(), s.values.end());
    for (int64_t i = 0; i < w.stack; ++i) {
      SpectralMatrix m{};
      const bool wide = w.type == SpectralType::kDouble;
      m.type = wide ? SpectralType::kDouble : SpectralType::kFloat;
      const int64_t at = i * w.rows * w.columns;
      m.data = wide ? static_cast<const void*>(s.values.data() + at) : narrow.back().data() + at;
      m.rows = w.rows;
      m.columns = m.row_stride = w.columns;
      m.column_stride = 1;
      m.start = from;
      m.u = u;
      m.v = v;
      u += w.rows;
      v += w.columns;
      if (from != nullptr) from += w.columns;
      matrices.push_back(m);
    }
  }
  power_iteration_cpu({matrices.data(), sizes.count, o.passes, o.tol, o.lanczos, o.delta, o.seed},
                      thread_parallel(1));
  for (const auto& m : matrices) r.sigma.push_back(m.sigma);
  for (const auto& m : matrices) r.bounds.push_back(m.residual);
  for (const auto& m : matrices) r.bounds.push_back(m.lower);
  for (const auto& m : matrices) r.bounds.push_back(m.upper);
  for (const auto& m : matrices) r.codes.push_back(m.iterations);
  for (const auto& m : matrices) r.codes.push_back(static_cast<int64_t>(m.status));
  return r;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 8) == 0;
}

bool near(double a, double b, double tolerance) {
  return a == b || std::abs(a - b) <= tolerance * std::max(std::abs(a), std::abs(b));
}

std::string describe(const std::vector<Stack>& stacks, const Options& o, bool given) {
  std::ostringstream text;
  text << (o.lanczos ? "lanczos" : "power") << (given ? " given" : " random") << " passes "
       << o.passes << " tol " << o.tol << ':';
  for (const Stack& s : stacks)
    text << ' ' << s.weight.stack << 'x' << s.weight.rows << 'x' << s.weight.columns << '/'
         << s.weight.row_stride << " type " << static_cast<int>(s.weight.type);
  return text.str();
}

void check_against_cpu(const std::vector<Stack>& stacks, const Options& o,
                       const std::vector<double>* start) {
  const std::string name = describe(stacks, o, start != nullptr);
  const Results ours = on_cuda(stacks, o, start, 0), cpu = on_cpu(stacks, o, start);
  const Results again = on_cuda(stacks, o, start, 1 + o.seed % 5);
  CHECK(same_bits(ours.sigma, again.sigma), name);
  CHECK(same_bits(ours.vectors, again.vectors), name);
  CHECK(same_bits(ours.bounds, again.bounds), name);
  CHECK(ours.codes == again.codes, name);
  const Sizes sizes(stacks);
  const auto count = static_cast<size_t>(sizes.count);
  size_t index = 0, left = 0, right = static_cast<size_t>(sizes.left);
  for (const Stack& s : stacks) {
    const bool wide = s.weight.type == SpectralType::kDouble;
    // A vector converges at half the rate of its value; steps in float leave it 1e-4 of play.
    const double value = wide ? 1e-9 : 2e-5, vector = wide ? 1e-4 : 2e-2;
    for (int64_t i = 0; i < s.weight.stack; ++i, ++index) {
      const double sigma = cpu.sigma[index];
      CHECK(near(ours.sigma[index], sigma, value), name, index, ours.sigma[index], sigma);
      CHECK(ours.codes[count + index] == cpu.codes[count + index], name, ours.codes[count + index],
            cpu.codes[count + index]);
      if (o.tol < 0) {
        CHECK(ours.codes[index] == cpu.codes[index], name, ours.codes[index], cpu.codes[index]);
      } else {
        CHECK(std::abs(ours.codes[index] - cpu.codes[index]) <= 1, name, ours.codes[index],
              cpu.codes[index]);
      }
      CHECK(near(ours.bounds[count + index], cpu.bounds[count + index], value), name);
      if (o.tol < 0) {
        CHECK(near(ours.bounds[2 * count + index], cpu.bounds[2 * count + index], 10 * value), name,
              ours.bounds[2 * count + index], cpu.bounds[2 * count + index]);
      }
      CHECK(ours.bounds[count + index] <= ours.sigma[index] * (1 + 1e-12), name);
      CHECK(ours.bounds[2 * count + index] >= ours.bounds[count + index], name);
      double worst = 0;
      for (int64_t j = 0; j < s.weight.rows; ++j, ++left)
        worst = std::max(worst, std::abs(ours.vectors[left] - cpu.vectors[left]));
      for (int64_t j = 0; j < s.weight.columns; ++j, ++right)
        worst = std::max(worst, std::abs(ours.vectors[right] - cpu.vectors[right]));
      if (cpu.bounds[index] < 0.1) CHECK(worst < vector, name, index, worst, cpu.bounds[index]);
    }
  }
}

std::vector<double> start_for(Random& random, const std::vector<Stack>& stacks) {
  std::vector<double> start(static_cast<size_t>(Sizes(stacks).right));
  for (double& x : start) x = 1e3 * random.normal();
  return start;
}

constexpr SpectralType kTypes[] = {SpectralType::kFloat, SpectralType::kDouble, SpectralType::kHalf,
                                   SpectralType::kBFloat16};

// Lists of small and large matrices of all types: 64 KB hold 128 x 128 floats.
void check_lists() {
  Random random(3);
  for (int turn = 0; turn < 16; ++turn) {
    std::vector<Stack> stacks;
    const int64_t count = 1 + random.below(4);
    for (int64_t i = 0; i < count; ++i) {
      const bool large = turn % 4 == 3 && i == 0;
      const int64_t most = large ? 250 : 40, least = large ? 150 : 1;
      const SpectralType type = kTypes[random.below(4)];
      const double scale =
          type == SpectralType::kHalf ? 1 : std::exp2(static_cast<double>(random.below(60) - 30));
      const int64_t rows = random.below(6) == 0 ? 1 : least + random.below(most - least + 1);
      const int64_t columns = random.below(6) == 0 ? 1 : least + random.below(most - least + 1);
      stacks.emplace_back(random, type, large ? 1 : 1 + random.below(3), rows, columns, scale);
    }
    Options o;
    o.lanczos = turn % 2 == 0;
    o.passes = 1 + random.below(10);
    if (turn % 3 == 1) {
      o.tol = 1e-4;
      o.passes = 40;
    }
    o.seed = random.bits();
    const std::vector<double> start = start_for(random, stacks);
    check_against_cpu(stacks, o, random.below(3) == 0 ? &start : nullptr);
  }
}

// Rows that stream through shared memory, that are too long for it, tall ones, restarts.
void check_shapes() {
  struct Shape {
    SpectralType type;
    int64_t rows, columns;
  };
  Random random(4);
  const Shape shapes[] = {{SpectralType::kFloat, 200, 310},  {SpectralType::kBFloat16, 150, 655},
                          {SpectralType::kDouble, 40, 1201}, {SpectralType::kFloat, 5, 9001},
                          {SpectralType::kHalf, 7, 20003},   {SpectralType::kFloat, 4001, 5},
                          {SpectralType::kDouble, 9000, 1},  {SpectralType::kFloat, 1, 30000},
                          {SpectralType::kFloat, 310, 200},  {SpectralType::kHalf, 255, 257}};
  bool lanczos = false;
  for (const Shape& shape : shapes) {
    lanczos = !lanczos;
    std::vector<Stack> stacks;
    stacks.emplace_back(random, shape.type, 1, shape.rows, shape.columns, 1.0);
    Options o;
    o.lanczos = lanczos;
    o.passes = 3;
    o.seed = random.bits();
    const std::vector<double> start = start_for(random, stacks);
    check_against_cpu(stacks, o, lanczos ? &start : nullptr);
  }
}

void check_special() {
  Random random(5);
  for (const bool lanczos : {true, false}) {
    std::vector<Stack> stacks;
    stacks.emplace_back(random, SpectralType::kFloat, 1, 0, 5, 1.0);
    stacks.emplace_back(random, SpectralType::kFloat, 1, 3, 0, 1.0);
    stacks.emplace_back(random, SpectralType::kFloat, 2, 4, 3, 0.0);
    stacks.emplace_back(random, SpectralType::kDouble, 1, 100, 100, 0.0);
    stacks.emplace_back(random, SpectralType::kDouble, 1, 4, 3, 1e-310);
    stacks.emplace_back(random, SpectralType::kDouble, 1, 4, 3, 1e307);
    stacks.emplace_back(random, SpectralType::kFloat, 1, 4, 3, 1e-40);
    stacks.emplace_back(random, SpectralType::kFloat, 1, 130, 130, 1e35);
    Options o;
    o.lanczos = lanczos;
    o.passes = 12;
    check_against_cpu(stacks, o, nullptr);
    const std::vector<double> start(static_cast<size_t>(Sizes(stacks).right), 3.0);
    const Results ours = on_cuda(stacks, o, &start, 2);
    for (size_t j = 5; j < 5 + 6 + 100; ++j) CHECK(ours.next[j] == 3.0, j, ours.next[j]);
    for (size_t j = 111; j < ours.next.size(); ++j)
      CHECK(ours.next[j] == ours.vectors[static_cast<size_t>(Sizes(stacks).left) + j], j);

    std::vector<Stack> one;
    one.emplace_back(random, SpectralType::kFloat, 1, 7, 5, 1.0);
    const float nan = NAN;
    std::memcpy(one[0].memory.data() + one[0].memory.size() - 4, &nan, 4);
    const Results none = on_cuda(one, o, nullptr, 1);
    CHECK(std::isnan(none.sigma[0]) && std::isnan(none.vectors[0]) && std::isnan(none.bounds[1]));
    CHECK(none.codes[1] == static_cast<int64_t>(SpectralStatus::kNonFinite), none.codes[1]);

    // A start that is zero stands for a random one; one in the null space ends the search.
    std::vector<Stack> plane;
    plane.emplace_back(random, SpectralType::kFloat, 1, 6, 4, 1.0);
    const std::vector<double> zero(4, 0.0), wrong{1, INFINITY, 2, 3};
    CHECK(same_bits(on_cuda(plane, o, &zero, 0).vectors, on_cuda(plane, o, nullptr, 0).vectors));
    CHECK(std::isnan(on_cuda(plane, o, &wrong, 0).sigma[0]));
    std::vector<Stack> alone;
    Stack& flat = alone.emplace_back(random, SpectralType::kDouble, 1, 300, 2, 0.0);
    flat.values.clear();
    for (int64_t i = 0; i < 300; ++i) {
      flat.set(i * flat.weight.row_stride, 1.0);
      flat.set(i * flat.weight.row_stride + 1, 0.0);
    }
    const std::vector<double> orthogonal{0.0, 2.0};
    check_against_cpu(alone, o, &orthogonal);
    CHECK(on_cuda(alone, o, &orthogonal, 3).sigma[0] == 0);
  }
}

// Float entries whose squares leave float's range, of a low numerical rank: Lanczos in double goes
// on where little but rounding is left.
void check_low_rank_beyond_float() {
  Random random(6);
  std::vector<Stack> stacks;
  Stack& w = stacks.emplace_back(random, SpectralType::kFloat, 1, 60, 50, 0.0);
  w.values.clear();
  for (int64_t i = 0; i < 60; ++i)
    for (int64_t j = 0; j < 50; ++j)
      w.set(i * w.weight.row_stride + j,
            std::exp2(60.0 - static_cast<double>(i)) * random.normal());
  Options o;
  o.lanczos = true;
  for (o.passes = 5; o.passes <= 45; o.passes += 20) {
    const Results ours = on_cuda(stacks, o, nullptr, 0), cpu = on_cpu(stacks, o, nullptr);
    CHECK(near(ours.sigma[0], cpu.sigma[0], 0.02 * cpu.sigma[0]), o.passes, ours.sigma[0],
          cpu.sigma[0]);
    CHECK(o.passes < 25 || ours.bounds[0] < 1e-6, o.passes, ours.bounds[0]);
  }
}

// The results of weights of which none is double are floats: those in double, rounded, the bounds
// outwards; numbers that leave the range of float on the way do not cost the vectors theirs.
void check_float_results() {
  Random random(8);
  const auto compare = [](const std::vector<Stack>& stacks, const Options& o) {
    const std::string name = describe(stacks, o, false);
    const Results exact = on_cuda(stacks, o, nullptr, 0);
    const Sizes sizes(stacks);
    std::vector<SpectralWeight> weights;
    for (const Stack& s : stacks) weights.push_back(s.weight);
    const auto many = [](int64_t size) {
      return std::vector<float>(static_cast<size_t>(size), NAN);
    };
    std::vector<float> sigma = many(sizes.count), vectors = many(sizes.left + sizes.right),
                       bounds = many(3 * sizes.count), next = many(sizes.right);
    std::vector<int64_t> codes(static_cast<size_t>(2 * sizes.count), -1);
    power_iteration_cuda({weights.data(), static_cast<int64_t>(weights.size()), o.passes, o.tol,
                          o.lanczos, o.delta, o.seed, nullptr, false, false, sigma.data(),
                          vectors.data(), bounds.data(), codes.data(), next.data()},
                         cuda_on_host::stream_with_scratch());
    CHECK(codes == exact.codes, name);
    // A sigma below float's normal numbers is rounded to its least one.
    for (size_t i = 0; i < sigma.size(); ++i)
      CHECK(near(sigma[i], static_cast<float>(exact.sigma[i]), 1e-6) ||
                std::abs(sigma[i] - exact.sigma[i]) <= 0x1p-149,
            name, i, sigma[i], exact.sigma[i]);
    for (size_t i = 0; i < vectors.size(); ++i)
      CHECK(std::abs(vectors[i] - exact.vectors[i]) <= 1e-6, name, i, vectors[i], exact.vectors[i]);
    const auto count = static_cast<size_t>(sizes.count);
    for (size_t i = 0; i < count; ++i) {
      CHECK(bounds[count + i] <= exact.bounds[count + i] * (1 + 1e-12), name, i);
      CHECK(bounds[2 * count + i] >= exact.bounds[2 * count + i] * (1 - 1e-12), name, i);
    }
    for (size_t j = 0; j < next.size(); ++j)
      CHECK(next[j] == vectors[static_cast<size_t>(sizes.left) + j], name, j);
  };
  constexpr SpectralType kNarrow[] = {SpectralType::kFloat, SpectralType::kHalf,
                                      SpectralType::kBFloat16};
  for (const bool lanczos : {true, false}) {
    Options o;
    o.lanczos = lanczos;
    std::vector<Stack> stacks;
    for (const SpectralType type : kNarrow) {
      stacks.emplace_back(random, type, 2, 5, 9, 1.0);
      stacks.emplace_back(random, type, 1, 200, 130, 1.0);
    }
    compare(stacks, o);
    for (o.passes = 1; o.passes <= 9; o.passes += 4) {
      std::vector<Stack> ends;
      ends.emplace_back(random, SpectralType::kFloat, 1, 6, 5, 1e-44);
      ends.emplace_back(random, SpectralType::kBFloat16, 1, 150, 160, 1e-38);
      ends.emplace_back(random, SpectralType::kFloat, 1, 1, 300, 1e37);
      compare(ends, o);
    }
  }
}

// The gradients of a list longer than one launch holds, and the penalty over groups.
void check_backward() {
  Random random(7);
  std::vector<Stack> stacks;
  for (int i = 0; i < 60; ++i)
    stacks.emplace_back(random, kTypes[random.below(4)], random.below(4), 1 + random.below(20),
                        1 + random.below(i == 0 ? 9000 : 20), 1.0);
  stacks.emplace_back(random, SpectralType::kHalf, 2, 0, 4, 1.0);
  const Sizes sizes(stacks);
  for (const bool wide : {true, false}) {
    std::vector<double> numbers;
    for (int64_t i = 0; i < sizes.count + sizes.left + sizes.right; ++i)
      numbers.push_back(static_cast<float>(random.normal()));
    const std::vector<float> narrow(numbers.begin(), numbers.end());
    const auto at = [&](int64_t i) {
      return wide ? static_cast<const void*>(numbers.data() + i) : narrow.data() + i;
    };
    std::vector<SpectralGradientCuda> tasks;
    int64_t scale = 0, u = sizes.count, v = u + sizes.left;
    for (Stack& s : stacks) {
      const SpectralWeight& w = s.weight;
      tasks.push_back(
          {const_cast<void*>(w.data), w.type, w.stack, w.rows, w.columns, at(scale), at(u), at(v)});
      scale += w.stack;
      u += w.stack * w.rows;
      v += w.stack * w.columns;
    }
    cuda_on_host::schedule = 3;
    power_iteration_backward_cuda(tasks.data(), static_cast<int64_t>(tasks.size()), wide,
                                  cuda_on_host::stream_with_scratch());
    scale = 0, u = sizes.count, v = u + sizes.left;
    for (const Stack& s : stacks) {
      const SpectralWeight& w = s.weight;
      for (int64_t i = 0; i < w.stack; ++i, ++scale, u += w.rows, v += w.columns) {
        double worst = 0;
        for (int64_t r = 0; r < w.rows; ++r)
          for (int64_t c = 0; c < w.columns; ++c) {
            const double exact = numbers[static_cast<size_t>(scale)] *
                                 numbers[static_cast<size_t>(u + r)] *
                                 numbers[static_cast<size_t>(v + c)];
            const double rounding = w.type == SpectralType::kBFloat16 ? 0x1p-8
                                    : w.type == SpectralType::kHalf   ? 0x1p-11
                                                                      : 0x1p-22;
            const double off = std::abs(s.read((i * w.rows + r) * w.columns + c) - exact);
            worst = std::max(worst, off / (rounding * std::abs(exact) + 0x1p-25));
          }
        CHECK(worst <= 1.01, wide, static_cast<int>(w.type), w.rows, w.columns, worst);
      }
    }
  }
  const std::vector<float> sigma{1, 2, 3, 4, 5, 6};
  const std::vector<double> target{1, 1, 1, 1, 2, 2}, weight{1, 0.5};
  std::vector<float> penalty(2), slope(6);
  spectral_penalty_cuda({6, 2, false, true, true, sigma.data(), target.data(), weight.data(),
                         penalty.data(), slope.data()},
                        cuda_on_host::stream_with_scratch());
  CHECK(penalty[0] == 0 + 4 + 9 && penalty[1] == 0.5 * (1 + 9 + 16), penalty[0], penalty[1]);
  CHECK(slope == (std::vector<float>{0, 1, 4, 3, 6, 4}));
}

void check_schedule() {
  Random random(6);
  for (int turn = 0; turn < 2000; ++turn) {
    const int blocks = 1 + static_cast<int>(random.below(140));
    std::vector<int64_t> bytes;
    const int64_t count = 1 + random.below(turn % 2 == 0 ? 8 : 300);
    for (int64_t i = 0; i < count; ++i)
      bytes.push_back(static_cast<int64_t>(std::exp(random.uniform(11, 22))));
    const auto teams = schedule_teams(bytes, blocks);
    std::vector<double> load(static_cast<size_t>(blocks), 0);
    std::vector<TeamOfBlocks> of(static_cast<size_t>(blocks), {-1, 0});
    bool valid = true;
    for (size_t i = 0; i < bytes.size(); ++i) {
      valid = valid && teams[i].size >= 1 && teams[i].first >= 0 &&
              teams[i].first + teams[i].size <= blocks;
      for (int b = teams[i].first; valid && b < teams[i].first + teams[i].size; ++b) {
        TeamOfBlocks& team = of[static_cast<size_t>(b)];
        valid = valid &&
                (team.first < 0 || (team.first == teams[i].first && team.size == teams[i].size));
        team = teams[i];
        load[static_cast<size_t>(b)] += static_cast<double>(bytes[i]) / teams[i].size;
      }
    }
    CHECK(valid, turn, blocks, count);
    double total = 0, largest = 0;
    for (const int64_t b : bytes) {
      total += static_cast<double>(b);
      largest = std::max(largest, static_cast<double>(b));
    }
    // No block has more than twice its share, but where a matrix is not worth more blocks.
    const double most = *std::max_element(load.begin(), load.end());
    CHECK(most <= std::max(2 * total / blocks, 2.0 * kLeastBytesOfABlock) * (1 + 1e-9), turn, most,
          total / blocks);
  }
}

void check_half_precision() {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    if ((bits & 0x7FFF) <= 0x7C00) CHECK(rounded_to<Half>(widened(half)).bits == bits, bits);
    if ((bits & 0x7FFF) <= 0x7F80) CHECK(rounded_to<BFloat16>(widened(brain)).bits == bits, bits);
  }
  CHECK(widened(Half{0x3C00}) == 1 && widened(Half{0x0001}) == 0x1p-24f);
  CHECK(widened(Half{0x7BFF}) == 65504 && std::isinf(widened(Half{0xFC00})));
  CHECK(rounded_to<Half>(1 + 0x1p-11).bits == 0x3C00 &&
        rounded_to<Half>(1 + 0x3p-11).bits == 0x3C02);
  CHECK(rounded_to<Half>(65520).bits == 0x7C00 && rounded_to<Half>(0x1.8p-25).bits == 1);
  CHECK(rounded_to<BFloat16>(1 + 0x1p-8).bits == 0x3F80);
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  check_half_precision();
  check_float_results();
  check_backward();
  check_schedule();
  check_special();
  check_low_rank_beyond_float();
  check_lists();
  check_shapes();
  return testing_result();
}
