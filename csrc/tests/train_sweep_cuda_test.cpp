// Runs the CUDA kernels of train_sweep on the CPU (tests/cuda_on_host.h): every engine against the
// CPU kernel over odd shapes and every option, and that no bit depends on the schedule of threads,
// on early exits, or on the number and order of networks.
#include <string>

#include "common/cuda_launch.h"
#include "tests/cuda_stream_on_host.h"
#include "tests/testing.h"
#include "tests/train_sweep_problem.h"

namespace fractalkern::testing {
namespace {

const char* name_of(SweepUnit unit) {
  return unit == SweepUnit::kMultiplyAdd  ? "multiply-add"
         : unit == SweepUnit::kTensorCore ? "tensor core"
         : unit == SweepUnit::kAnyShape   ? "any shape"
                                          : "fastest";
}

template <class T>
Results<T> run_cpu(const Problem<T>& p, bool published = false) {
  const auto train = [](const auto& args) { train_sweep_cpu(args, thread_parallel(1)); };
  return run_with(p, train, true, true, published);
}

template <class T>
Results<T> run_cuda(const Problem<T>& p, SweepUnit unit, uint64_t schedule = 0,
                    bool early_exit = true, bool history = true, bool published = false) {
  cuda_on_host::schedule = schedule;
  const auto train = [&](const auto& args) {
    train_sweep_cuda(args, cuda_on_host::stream_with_scratch(), unit);
  };
  return run_with(p, train, early_exit, history, published);
}

template <class T>
std::vector<SweepUnit> units() {
  if constexpr (std::is_same_v<T, float>) return {SweepUnit::kMultiplyAdd, SweepUnit::kAnyShape};
  return {SweepUnit::kMultiplyAdd, SweepUnit::kTensorCore, SweepUnit::kAnyShape};
}

template <class T>
bool near(T a, T b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b || std::abs(double(a) - double(b)) <= tolerance * (1 + std::abs(double(b)));
}

template <class T>
void check_close(const Problem<T>& p, const Results<T>& got, const Results<T>& expected,
                 double tolerance, SweepUnit unit) {
  const auto describe = [&] {
    return std::string(name_of(unit)) + ", n " + std::to_string(p.shape.inputs) + ", h " +
           std::to_string(p.shape.hidden) + ", k " + std::to_string(p.shape.outputs) + ", D " +
           std::to_string(p.shape.rows) + ", activation " +
           std::to_string(static_cast<int>(p.options.activation)) + ", b " +
           std::to_string(p.options.batch_rows) + ", offset " +
           std::to_string(static_cast<int>(p.options.offset));
  };
  for (int64_t i = 0; i < p.networks(); ++i) {
    CHECK(near(got.value[i], expected.value[i], tolerance), describe(), i, got.value[i],
          expected.value[i]);
    CHECK(near(got.final_loss[i], expected.final_loss[i], tolerance), describe(), i);
    CHECK(got.first_loss[i] == got.history[i], describe(), i);
    CHECK(got.steps_run[i] == expected.steps_run[i], describe(), i, got.steps_run[i],
          expected.steps_run[i]);
    if (p.steps > 1) CHECK(got.converged[i] == expected.converged[i], describe(), i);
  }
  for (size_t i = 0; i < got.history.size(); ++i)
    CHECK(near(got.history[i], expected.history[i], tolerance), describe(), i, got.history[i],
          expected.history[i]);
}

// Rates too small for a network to amplify rounding.
template <class T>
void test_calm_networks_as_on_the_cpu() {
  constexpr Shape kShapes[] = {{1, 1, 1, 1},   {2, 3, 1, 1},   {1, 17, 1, 5},   {17, 1, 1, 16},
                               {7, 5, 3, 13},  {8, 8, 1, 19},  {16, 16, 1, 33}, {13, 11, 1, 37},
                               {5, 16, 1, 16}, {32, 32, 1, 7}, {31, 9, 1, 17},  {3, 40, 2, 4}};
  Random random(1);
  for (const Shape& shape : kShapes)
    for (const auto activation : {Activation::kTanh, Activation::kRelu, Activation::kIdentity})
      for (const SweepUnit unit : units<T>()) {
        const auto offset = static_cast<Offset>(random.below(3));
        const bool probe = shape.outputs == 1 && random.below(2) == 0;
        const Options options{activation, random.below(2) * (1 + random.below(19)), offset, probe};
        const auto p = make_problem<T>(random, shape, options, 1 + random.below(3),
                                       1 + random.below(24), -3, -1);
        const bool published = random.below(2) == 0;
        const Results<T> got = run_cuda(p, unit, random.below(4), true, true, published);
        check_close(p, got, run_cpu(p, published), std::is_same_v<T, double> ? 1e-11 : 1e-4, unit);
      }
}

template <class T>
void test_no_bit_depends_on_the_launch() {
  Random random(2);
  const auto probed = Options{Activation::kTanh, 0, Offset::kNone, true};
  const std::pair<Shape, Options> kCases[] = {
      {{16, 16, 1, 18}, probed},
      {{16, 15, 1, 9}, {Activation::kRelu, 0, Offset::kOnce}},
      {{9, 16, 1, 5}, {Activation::kIdentity}},
      {{8, 7, 1, 11}, {Activation::kTanh, 5, Offset::kNone, true}},
      {{8, 8, 1, 3}, {Activation::kTanh, 0, Offset::kEveryStep}},
      {{20, 5, 1, 3}, {Activation::kTanh, 3}},
      {{3, 2, 2, 3}, {}}};
  for (const auto& [shape, options] : kCases)
    for (const SweepUnit unit : units<T>()) {
      const auto p = wild_problem<T>(random, shape, options, 7, 24);
      const Results<T> whole = run_cuda(p, unit), cpu = run_cpu(p);
      const char* name = name_of(unit);
      CHECK(same(run_cuda(p, unit, 1), whole), name, "schedule", shape.hidden);
      CHECK(same(run_cuda(p, unit, 2, false), whole), name, "early exit", shape.hidden);
      CHECK(same(run_cuda(p, unit, 3, true, false), whole, false), name, "no history");
      const auto train = [&](const auto& args) {
        train_sweep_cuda(args, cuda_on_host::stream_with_scratch(), unit);
      };
      const std::vector<int64_t> order = shuffled(random, p.networks());
      CHECK(same(run_chunks(p, order, 5, train), whole), name, "order", shape.hidden);
      // Networks that amplify rounding differ; where the loss overflows does not.
      for (int64_t i = 0; i < p.networks(); ++i)
        CHECK(whole.converged[i] == cpu.converged[i] &&
                  (cpu.steps_run[i] < p.steps) == (whole.steps_run[i] < p.steps),
              name, i, shape.hidden, static_cast<int>(options.activation), whole.steps_run[i],
              cpu.steps_run[i]);
      CHECK(whole.steps_run[0] == cpu.steps_run[0], name, "zero rates", whole.steps_run[0]);
    }
}

void test_an_infinite_loss_is_no_reason_to_exit() {
  const Problem<double> p{
      {1, 1, 1, 1}, {Activation::kRelu}, 5, {1}, {1}, {1e80}, {1e80}, {1}, {1}, {}, {}, {}};
  for (const SweepUnit unit :
       {SweepUnit::kFastest, SweepUnit::kMultiplyAdd, SweepUnit::kTensorCore, SweepUnit::kAnyShape})
    CHECK(same(run_cuda(p, unit), run_cpu(p)), name_of(unit));
}

// More rows than fit the shared memory for the width of the network, or for any.
void test_data_beyond_shared_memory() {
  Random random(4);
  for (const int64_t rows : {300, 600})
    for (const SweepUnit unit : {SweepUnit::kMultiplyAdd, SweepUnit::kTensorCore}) {
      const auto p = make_problem<double>(random, {14, 15, 1, rows}, {}, 1, 2, -3, -1);
      check_close(p, run_cuda(p, unit), run_cpu(p), 1e-11, unit);
    }
}

// What names a row that x lacks, and cannot be looked at before the launch, must not be read.
template <class T>
void test_rows_that_x_lacks_make_every_result_nan() {
  Random random(5);
  for (const int64_t row : {int64_t{-1}, int64_t{9}, std::numeric_limits<int64_t>::max(),
                            std::numeric_limits<int64_t>::min()})
    for (const SweepUnit unit : units<T>()) {
      const Options options{Activation::kTanh, 4, Offset::kNone, random.below(2) == 0};
      auto p = make_problem<T>(random, {5, 6, 1, 9}, options, 7, 30, -3, -1);
      p.batches[random.below(static_cast<int64_t>(p.batches.size()))] = row;
      const Results<T> got = run_cuda(p, unit, 1);
      for (int64_t i = 0; i < p.networks(); ++i)
        CHECK(std::isnan(got.value[i]) && std::isnan(got.final_loss[i]) &&
                  std::isnan(got.first_loss[i]) && !got.converged[i],
              name_of(unit), row, i, got.value[i]);
      for (const T loss : got.history) CHECK(std::isnan(loss), name_of(unit), row);
    }
}

template <class T>
void test_tanh() {
  Random random(3);
  std::vector<T> in = {0, T(-0.0), T(1e30), T(-1e30), std::numeric_limits<T>::infinity(), T(NAN)};
  for (int i = 0; i < 1000; ++i) in.push_back(static_cast<T>(random.uniform(-24, 24)));
  for (int i = 0; i < 1000; ++i) in.push_back(static_cast<T>(random.uniform(-1, 1)));
  std::vector<T> out(in.size());
  vector_tanh_cuda(in.data(), out.data(), static_cast<int64_t>(in.size()),
                   cuda_on_host::stream_with_scratch());
  for (size_t i = 0; i < in.size(); ++i)
    CHECK(near(out[i], std::tanh(in[i]), std::is_same_v<T, double> ? 4e-16 : 2e-7), in[i], out[i]);
}

template <class T>
void test_type() {
  test_calm_networks_as_on_the_cpu<T>();
  test_no_bit_depends_on_the_launch<T>();
  test_rows_that_x_lacks_make_every_result_nan<T>();
  test_tanh<T>();
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  test_type<double>();
  test_type<float>();
  test_an_infinite_loss_is_no_reason_to_exit();
  test_data_beyond_shared_memory();
  return testing_result();
}
