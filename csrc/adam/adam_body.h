// The body of adam_step, compiled once per instruction set (common/each_instruction_set.h). No
// include guard.

#define FRACTALKERN_MATH FRACTALKERN_TARGET inline __attribute__((always_inline))

namespace fractalkern::FRACTALKERN_ISA {

#if FRACTALKERN_ISA_LEVEL >= 3 || defined(__FP_FAST_FMA)
FRACTALKERN_MATH float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FRACTALKERN_MATH double multiply_add(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
#else
template <class T>
FRACTALKERN_MATH T multiply_add(T a, T b, T c) {
  return a * b + c;
}
#endif

}  // namespace fractalkern::FRACTALKERN_ISA

#include "adam/adam_math.h"

namespace fractalkern::FRACTALKERN_ISA {

template <class T>
FRACTALKERN_MATH void update(const AdamTask<T>& task) {
  const AdamNumbers<T> n = task.numbers;
  const T* __restrict const gradients = task.gradients;
  T* __restrict const parameters = task.parameters;
  T* __restrict const first = task.first;
  T* __restrict const second = task.second;
  for (int64_t i = 0; i < task.count; ++i)
    adam_update(n, gradients[i], parameters[i], first[i], second[i]);
}

FRACTALKERN_TARGET void update_float(const AdamTask<float>& task) { update(task); }
FRACTALKERN_TARGET void update_double(const AdamTask<double>& task) { update(task); }

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_MATH
