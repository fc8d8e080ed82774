// Checks the train_sweep kernel against a plain loop over one network at a time, over odd shapes
// and every option, for every instruction set of this CPU; that early exits, threads, chunks and
// order change no bit; and the kernel's tanh. Meant for sanitizers: every array has exactly its
// length.
#include "train_sweep/train_sweep.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <type_traits>
#include <vector>

#include "tests/testing.h"
#include "tests/train_sweep_problem.h"

namespace fractalkern::testing {
namespace {

template <class T>
Results<T> run(const Problem<T>& p, int64_t threads = 1, bool early_exit = true,
               bool history = true) {
  const auto train = [&](const auto& args) { train_sweep_cpu(args, thread_parallel(threads)); };
  return run_with(p, train, early_exit, history);
}

// One network trained in double, written straight from the formulas of ops/train_sweep.py.
template <class T>
class PlainNetwork {
 public:
  PlainNetwork(const Problem<T>& problem, int64_t network)
      : p_(problem),
        s_(problem.shape),
        network_(network),
        w0_(problem.w0.begin(), problem.w0.end()),
        w1_(problem.w1.begin(), problem.w1.end()) {}

  void train() {
    settled_at = p_.steps;
    for (int64_t t = 0; t < p_.steps; ++t) {
      const bool added =
          p_.options.offset == Offset::kEveryStep || (p_.options.offset == Offset::kOnce && t == 0);
      if (added)
        for (double& weight : w0_) weight += p_.offset[network_];
      history.push_back(loss());
      if (p_.options.probe) readout = output(p_.probe.data(), 0);
      step(t);
    }
  }

  std::vector<double> history;
  double readout = 0;
  int64_t settled_at = 0;  // the first full-batch step without drift that changes no weight

 private:
  double activate(double z) const {
    if (p_.options.activation == Activation::kTanh) return std::tanh(std::sqrt(2.0) * z);
    if (p_.options.activation == Activation::kRelu) return z > 0 ? std::sqrt(2.0) * z : 0;
    return z;
  }

  double slope(double z) const {
    const double root = std::sqrt(2.0);
    if (p_.options.activation == Activation::kRelu) return z > 0 ? root : 0;
    const double value = activate(z);
    return p_.options.activation == Activation::kTanh ? root * (1 - value * value) : 1;
  }

  double preactivation(const T* row, int64_t j) const {
    double sum = 0;
    for (int64_t i = 0; i < s_.inputs; ++i) sum += row[i] * w0_[i * s_.hidden + j];
    return sum / std::sqrt(static_cast<double>(s_.inputs));
  }

  double output(const T* row, int64_t c) const {
    double sum = 0;
    for (int64_t j = 0; j < s_.hidden; ++j)
      sum += activate(preactivation(row, j)) * w1_[j * s_.outputs + c];
    return sum / static_cast<double>(s_.hidden);
  }

  double loss() const {
    double sum = 0;
    for (int64_t r = 0; r < s_.rows; ++r)
      for (int64_t c = 0; c < s_.outputs; ++c) sum += square(residual(r, c));
    return sum / static_cast<double>(s_.rows * s_.outputs);
  }

  static double square(double value) { return value * value; }

  double residual(int64_t r, int64_t c) const {
    return output(p_.x.data() + r * s_.inputs, c) - p_.y[r * s_.outputs + c];
  }

  void step(int64_t t) {
    const std::vector<double> before0 = w0_, before1 = w1_;
    std::vector<int64_t> rows(p_.options.batch_rows ? p_.options.batch_rows : s_.rows);
    std::iota(rows.begin(), rows.end(), 0);
    if (p_.options.batch_rows)
      std::copy_n(p_.batches.begin() + t * p_.options.batch_rows, rows.size(), rows.begin());
    std::vector<double> g0(w0_.size()), g1(w1_.size());
    for (const int64_t r : rows) {
      const T* row = p_.x.data() + r * s_.inputs;
      for (int64_t c = 0; c < s_.outputs; ++c) {
        const double back = 2 * residual(r, c) / static_cast<double>(rows.size()) /
                            static_cast<double>(s_.outputs * s_.hidden);
        for (int64_t j = 0; j < s_.hidden; ++j) {
          const double z = preactivation(row, j);
          g1[j * s_.outputs + c] += back * activate(z);
          const double dz = back * w1_[j * s_.outputs + c] * slope(z);
          for (int64_t i = 0; i < s_.inputs; ++i)
            g0[i * s_.hidden + j] += dz * row[i] / std::sqrt(static_cast<double>(s_.inputs));
        }
      }
    }
    for (size_t i = 0; i < w0_.size(); ++i) w0_[i] -= p_.lr0[network_] * g0[i];
    for (size_t i = 0; i < w1_.size(); ++i) w1_[i] -= p_.lr1[network_] * g1[i];
    const bool proof = !p_.options.batch_rows && p_.options.offset != Offset::kEveryStep;
    if (proof && w0_ == before0 && w1_ == before1) settled_at = std::min(settled_at, t);
  }

  const Problem<T>& p_;
  const Shape s_;
  const int64_t network_;
  std::vector<double> w0_, w1_;
};

// The convergence value of a history of finite losses, below the cap.
double convergence_value(const std::vector<double>& history, bool& converged) {
  const size_t tail = std::min<size_t>(20, history.size());
  double sum = 0, inverse_sum = 0, tail_sum = 0;
  for (size_t t = 0; t < history.size(); ++t) {
    const double v = history[t] / history[0];
    sum += v;
    inverse_sum += 1 / v;
    if (t >= history.size() - tail) tail_sum += v;
  }
  converged = tail_sum / static_cast<double>(tail) < 1;
  return converged ? -sum : inverse_sum;
}

template <class T>
bool near(T value, double expected, double tolerance, double scale) {
  return std::abs(static_cast<double>(value) - expected) <= tolerance * scale;
}

template <class T>
void check_against_plain_loop(const Problem<T>& p, const std::string& instruction_set) {
  const Results<T> got = run(p);
  const Shape s = p.shape;
  // Rounding errors of a step's sums, added up over the steps; the rates are too small for a
  // network to amplify them. 8 is for the chains inside a term (scales, tanh, residual).
  const double tolerance = 8 * static_cast<double>(std::numeric_limits<T>::epsilon()) *
                           static_cast<double>(p.steps + s.inputs + s.hidden + s.rows);
  for (int64_t i = 0; i < p.networks(); ++i) {
    PlainNetwork<T> plain(p, i);
    plain.train();
    bool converged;
    double value = convergence_value(plain.history, converged);
    double scale = std::abs(value);
    if (p.options.probe) {
      value = plain.readout;
      scale = 1;
    }
    const double largest = *std::max_element(plain.history.begin(), plain.history.end());
    const auto describe = [&](const char* what) {
      return instruction_set + ' ' + what + " of network " + std::to_string(i) + ", n " +
             std::to_string(s.inputs) + ", h " + std::to_string(s.hidden) + ", k " +
             std::to_string(s.outputs) + ", D " + std::to_string(s.rows) + ", activation " +
             std::to_string(static_cast<int>(p.options.activation)) + ", b " +
             std::to_string(p.options.batch_rows) + ", offset " +
             std::to_string(static_cast<int>(p.options.offset));
    };
    for (int64_t t = 0; t < p.steps; ++t) {
      const T loss = got.history[t * p.networks() + i];
      CHECK(near(loss, plain.history[t], tolerance, largest), describe("loss"), t, loss,
            plain.history[t]);
    }
    CHECK(near(got.value[i], value, 4 * tolerance, scale), describe("value"), got.value[i], value);
    CHECK(got.first_loss[i] == got.history[i], describe("first loss"));
    CHECK(got.final_loss[i] == got.history[(p.steps - 1) * p.networks() + i],
          describe("last loss"));
    // Near 1 the tail average is decided by rounding.
    if (p.steps > 1) CHECK(got.converged[i] == converged, describe("label"));
    CHECK(got.steps_run[i] == plain.settled_at, describe("steps_run"), got.steps_run[i]);
  }
}

constexpr Shape kShapes[] = {{1, 1, 1, 1},    {1, 1, 2, 3},    {2, 3, 1, 1},   {1, 17, 1, 5},
                             {17, 1, 3, 16},  {7, 5, 3, 13},   {8, 8, 1, 72},  {8, 8, 2, 15},
                             {16, 16, 1, 33}, {16, 16, 1, 31}, {16, 8, 1, 17}, {5, 16, 1, 48},
                             {32, 32, 1, 19}, {13, 11, 4, 29}};

int64_t pick(Random& random, std::initializer_list<int64_t> values) {
  return values.begin()[random.below(static_cast<int64_t>(values.size()))];
}

template <class T>
void test_matches_a_plain_loop(const std::string& instruction_set) {
  Random random(1);
  for (const Shape& shape : kShapes)
    for (const auto activation : {Activation::kTanh, Activation::kRelu, Activation::kIdentity})
      for (const int64_t batch_rows : {0, 1, 5})
        for (const auto offset : {Offset::kNone, Offset::kOnce, Offset::kEveryStep}) {
          const bool probe = shape.outputs == 1 && random.below(2) == 0;
          const Options options{activation, batch_rows, offset, probe};
          const int64_t networks = pick(random, {1, 2, 5, 9, 17});
          const int64_t steps = pick(random, {1, 2, 7, 21});
          check_against_plain_loop(make_problem<T>(random, shape, options, networks, steps, -3, -1),
                                   instruction_set);
        }
}

template <class T>
void test_no_bit_depends_on_exits_threads_chunks_or_order(const std::string& instruction_set) {
  Random random(2);
  // Rows enough that the parallel region really starts 5 threads.
  for (const Shape& shape : {Shape{8, 8, 1, 72}, Shape{5, 7, 2, 61}, Shape{16, 16, 1, 37}}) {
    for (const auto& options :
         {Options{}, Options{Activation::kRelu}, Options{Activation::kIdentity},
          Options{Activation::kTanh, 5}, Options{Activation::kTanh, 0, Offset::kOnce},
          Options{Activation::kTanh, 0, Offset::kEveryStep},
          Options{Activation::kTanh, 0, Offset::kNone, shape.outputs == 1}}) {
      const auto p = wild_problem<T>(random, shape, options, 37, 40);
      const Results<T> whole = run(p);
      CHECK(same(run(p, 1, false), whole), instruction_set, "early exit", shape.hidden);
      CHECK(same(run(p, 5), whole), instruction_set, "5 threads", shape.hidden);
      CHECK(same(run(p, 1, true, false), whole, false), instruction_set, "no history");
      const std::vector<int64_t> order = shuffled(random, p.networks());
      const auto train = [](const auto& args) { train_sweep_cpu(args, thread_parallel(2)); };
      CHECK(same(run_chunks(p, order, 11, train), whole), instruction_set, "order", shape.hidden);
      CHECK(same(run_chunks(p, order, 1, train), whole), instruction_set, "one by one",
            shape.hidden);
      const bool drift = options.offset == Offset::kEveryStep;
      CHECK(whole.steps_run[0] == (drift || options.batch_rows ? p.steps : 0), instruction_set,
            "zero rates", whole.steps_run[0]);
      if (options.activation != Activation::kTanh)
        CHECK(whole.steps_run[37 / 2] < p.steps, instruction_set, "blown up");
    }
  }
}

void test_an_infinite_loss_is_no_reason_to_exit() {
  Problem<double> p{
      {1, 1, 1, 1}, {Activation::kRelu}, 5, {1}, {1}, {1e80}, {1e80}, {1}, {1}, {}, {}, {}};
  const Results<double> got = run(p);
  CHECK(std::isinf(got.history[0]), got.history[0]);
  for (int t = 1; t < 5; ++t) CHECK(got.history[t] == 1, t, got.history[t]);
  CHECK(got.steps_run[0] == 1, got.steps_run[0]);
}

template <class T>
void test_tanh(const std::string& instruction_set) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const bool is_double = std::is_same_v<T, double>;
  Random random(3);
  std::vector<T> in = {0,
                       T(-0.0),
                       kInfinity,
                       -kInfinity,
                       std::numeric_limits<T>::max(),
                       std::numeric_limits<T>::denorm_min()};
  for (int i = 0; i < 20000; ++i) {
    in.push_back(static_cast<T>(random.uniform(-24, 24)));
    in.push_back(static_cast<T>(random.uniform(-1, 1)));
    in.push_back(static_cast<T>(std::exp(random.uniform(-80, 0))));
  }
  std::vector<T> out(in.size()), negated(in.size()), odd(in.size());
  vector_tanh_cpu(in.data(), out.data(), static_cast<int64_t>(in.size()));
  std::transform(in.begin(), in.end(), negated.begin(), [](T x) { return -x; });
  vector_tanh_cpu(negated.data(), odd.data(), static_cast<int64_t>(in.size()));
  for (size_t i = 0; i < in.size(); ++i) {
    const long double exact = std::tanh(static_cast<long double>(in[i]));
    const long double error = std::abs(out[i] - exact);
    const T magnitude = std::abs(static_cast<T>(exact));
    const long double ulp = std::nextafter(magnitude, kInfinity) - magnitude;
    CHECK(error <= (is_double ? 4e-16L : 2e-7L), instruction_set, in[i], out[i], error);
    if (is_double && std::abs(in[i]) >= T(0.25))
      CHECK(error <= 2 * ulp, instruction_set, in[i], out[i], error / ulp);
    CHECK(error <= 4 * ulp, instruction_set, in[i], out[i], error / ulp);
    CHECK(odd[i] == -out[i] && std::signbit(out[i]) == std::signbit(in[i]), instruction_set, in[i]);
  }
  CHECK(out[0] == 0 && out[1] == 0 && out[2] == 1 && out[3] == -1 && out[4] == 1, instruction_set);
  CHECK(out[5] == in[5], instruction_set, "the least subnormal", out[5]);

  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (const int64_t size : {0, 1, 2, 3, 7, 8, 9, 16, 17, 31}) {
    std::vector<T> values(size, nan), results(size, T(0));
    vector_tanh_cpu(values.data(), results.data(), size);
    for (const T result : results) CHECK(std::isnan(result), instruction_set, size, result);
  }
}

template <class T>
void test_type(const std::string& instruction_set) {
  test_matches_a_plain_loop<T>(instruction_set);
  test_no_bit_depends_on_exits_threads_chunks_or_order<T>(instruction_set);
  test_tanh<T>(instruction_set);
}

}  // namespace
}  // namespace fractalkern::testing

int main() {
  using namespace fractalkern::testing;
  for_each_instruction_set([](const std::string& name) {
    test_type<double>(name);
    test_type<float>(name);
    test_an_infinite_loss_is_no_reason_to_exit();
  });
  return testing_result();
}
