// Sweeps with odd shapes and every option, and their results: for the tests of train_sweep on every
// device. Every array has exactly its length.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "tests/testing.h"
#include "train_sweep/train_sweep.h"

namespace fractalkern::testing {

enum class Offset { kNone, kOnce, kEveryStep };

struct Shape {
  int64_t inputs, hidden, outputs, rows;
};

struct Options {
  Activation activation = Activation::kTanh;
  int64_t batch_rows = 0;  // 0: full batch
  Offset offset = Offset::kNone;
  bool probe = false;
};

template <class T>
struct Problem {
  Shape shape;
  Options options;
  int64_t steps;
  std::vector<T> x, y, w0, w1, lr0, lr1, offset, probe;
  std::vector<int64_t> batches;

  int64_t networks() const { return static_cast<int64_t>(lr0.size()); }
};

template <class T>
struct Results {
  explicit Results(int64_t networks, int64_t steps)
      : value(networks, T(-7)),
        final_loss(networks, T(-7)),
        first_loss(networks, T(-7)),
        history(networks * steps, T(-7)),
        steps_run(networks, -7),
        converged(new bool[networks]) {}

  std::vector<T> value, final_loss, first_loss, history;  // history: [steps, P]
  std::vector<int64_t> steps_run;
  std::unique_ptr<bool[]> converged;
};

template <class T>
std::vector<T> normals(Random& random, int64_t size) {
  std::vector<T> values(size);
  for (T& value : values) value = static_cast<T>(random.normal());
  return values;
}

// Rates are 10^e with e uniform in [low, high].
template <class T>
Problem<T> make_problem(Random& random, Shape shape, Options options, int64_t networks,
                        int64_t steps, double low, double high) {
  Problem<T> p{shape, options, steps, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  p.x = normals<T>(random, shape.rows * shape.inputs);
  p.y = normals<T>(random, shape.rows * shape.outputs);
  p.w0 = normals<T>(random, shape.inputs * shape.hidden);
  p.w1 = normals<T>(random, shape.hidden * shape.outputs);
  for (auto* rates : {&p.lr0, &p.lr1})
    for (int64_t i = 0; i < networks; ++i)
      rates->push_back(static_cast<T>(std::pow(10.0, random.uniform(low, high))));
  if (options.offset != Offset::kNone)
    for (int64_t i = 0; i < networks; ++i)
      p.offset.push_back(static_cast<T>(random.uniform(0, .1)));
  if (options.probe) p.probe = normals<T>(random, shape.inputs);
  for (int64_t i = 0; i < steps * options.batch_rows; ++i)
    p.batches.push_back(random.below(shape.rows));
  return p;
}

template <class V>
auto* pointer_or_null(V& values) {
  return values.empty() ? nullptr : values.data();
}

// The results of `train`, which is called with the arguments of the kernel.
template <class T, class Train>
Results<T> run_with(const Problem<T>& p, const Train& train, bool early_exit = true,
                    bool history = true, bool published = false) {
  Results<T> out(p.networks(), p.steps);
  TrainSweepArgs<T> args{};
  args.rows = p.shape.rows;
  args.inputs = p.shape.inputs;
  args.hidden = p.shape.hidden;
  args.outputs = p.shape.outputs;
  args.networks = p.networks();
  args.steps = p.steps;
  args.batch_rows = p.options.batch_rows;
  args.x = p.x.data();
  args.y = p.y.data();
  args.w0 = p.w0.data();
  args.w1 = p.w1.data();
  args.lr0 = p.lr0.data();
  args.lr1 = p.lr1.data();
  args.batches = pointer_or_null(p.batches);
  args.offset = pointer_or_null(p.offset);
  args.probe = pointer_or_null(p.probe);
  args.activation = p.options.activation;
  args.offset_every_step = p.options.offset == Offset::kEveryStep;
  args.published = published;
  args.early_exit = early_exit;
  args.value = out.value.data();
  args.converged = out.converged.get();
  args.final_loss = out.final_loss.data();
  args.steps_run = out.steps_run.data();
  args.first_loss = out.first_loss.data();
  args.history = history ? out.history.data() : nullptr;
  train(args);
  return out;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](T x, T y) {
    if constexpr (std::is_floating_point_v<T>)
      if (std::isnan(x)) return std::isnan(y);
    return std::memcmp(&x, &y, sizeof(T)) == 0;
  });
}

template <class T>
bool same(const Results<T>& a, const Results<T>& b, bool with_history = true) {
  return same_bits(a.value, b.value) && same_bits(a.final_loss, b.final_loss) &&
         same_bits(a.first_loss, b.first_loss) && a.steps_run == b.steps_run &&
         (!with_history || same_bits(a.history, b.history)) &&
         std::equal(a.converged.get(), a.converged.get() + a.value.size(), b.converged.get());
}

// Networks of a view in which some learn, some blow up and some never move.
template <class T>
Problem<T> wild_problem(Random& random, Shape shape, Options options, int64_t networks,
                        int64_t steps) {
  Problem<T> p = make_problem<T>(random, shape, options, networks, steps, -3, 6);
  p.lr0[0] = p.lr1[0] = 0;
  p.lr0[networks / 2] = p.lr1[networks / 2] = std::numeric_limits<T>::max() / 4;
  return p;
}

inline std::vector<int64_t> shuffled(Random& random, int64_t size) {
  std::vector<int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = order.size() - 1; i > 0; --i)
    std::swap(order[i], order[random.below(static_cast<int64_t>(i + 1))]);
  return order;
}

// The results of the networks `order`, in that order, `chunk` at a time.
template <class T, class Train>
Results<T> run_chunks(const Problem<T>& p, const std::vector<int64_t>& order, int64_t chunk,
                      const Train& train) {
  const int64_t networks = p.networks();
  Results<T> joined(networks, p.steps);
  for (int64_t first = 0; first < networks; first += chunk) {
    const int64_t count = std::min(chunk, networks - first);
    Problem<T> part = p;
    for (auto member : {&Problem<T>::lr0, &Problem<T>::lr1, &Problem<T>::offset}) {
      if ((p.*member).empty()) continue;
      (part.*member).resize(count);
      for (int64_t i = 0; i < count; ++i) (part.*member)[i] = (p.*member)[order[first + i]];
    }
    const Results<T> got = run_with(part, train);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t to = order[first + i];
      joined.value[to] = got.value[i];
      joined.final_loss[to] = got.final_loss[i];
      joined.first_loss[to] = got.first_loss[i];
      joined.steps_run[to] = got.steps_run[i];
      joined.converged[to] = got.converged[i];
      for (int64_t t = 0; t < p.steps; ++t)
        joined.history[t * networks + to] = got.history[t * count + i];
    }
  }
  return joined;
}

}  // namespace fractalkern::testing
