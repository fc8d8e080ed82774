// One pass over the four arrays, in pieces of a row.
#include <algorithm>
#include <cmath>

#include "adam/adam.h"
#include "common/instruction_set.h"
#include "common/simd.h"

namespace fractalkern {

// A piece of a row.
template <class T>
struct AdamTask {
  AdamNumbers<T> numbers;
  int64_t count;
  const T* gradients;
  T* parameters;
  T* first;
  T* second;
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "adam/adam_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {
namespace {

constexpr EntryPoints<void(const AdamTask<float>&)> kUpdateFloat = FRACTALKERN_TABLE(update_float);
constexpr EntryPoints<void(const AdamTask<double>&)> kUpdateDouble =
    FRACTALKERN_TABLE(update_double);

constexpr int64_t kPiece = 1 << 14;

template <class T, class Body>
void run(const AdamStep<T>& step, Body* body, const Parallel& parallel) {
  const int64_t pieces = (step.columns + kPiece - 1) / kPiece;
  parallel.for_each(step.rows * pieces, step.rows * step.columns, [&](int64_t i) {
    const int64_t row = i / pieces, begin = i % pieces * kPiece;
    const int64_t at = row * step.columns + begin;
    body({adam_numbers<T>(step.numbers + row * kAdamNumbers),
          std::min(kPiece, step.columns - begin), step.gradients + at, step.parameters + at,
          step.first + at, step.second + at});
  });
}

}  // namespace

void adam_step_cpu(const AdamStep<float>& step, const Parallel& parallel) {
  run(step, kUpdateFloat.active(), parallel);
}

void adam_step_cpu(const AdamStep<double>& step, const Parallel& parallel) {
  run(step, kUpdateDouble.active(), parallel);
}

}  // namespace fractalkern
