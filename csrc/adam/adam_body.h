// The body of adam_step, compiled once per instruction set (common/each_instruction_set.h). No
// include guard.

namespace fractalkern::FRACTALKERN_ISA {

template <class T>
FRACTALKERN_TARGET inline __attribute__((always_inline)) void update(const AdamTask<T>& task) {
  const AdamNumbers<T> n = task.numbers;
  const T* __restrict const gradients = task.gradients;
  T* __restrict const parameters = task.parameters;
  T* __restrict const first = task.first;
  T* __restrict const second = task.second;
  for (int64_t i = 0; i < task.count; ++i) {
    const T p = parameters[i];
    const T g = gradients[i] * n.factor + p * n.decay;
    const T m = first[i] + (g - first[i]) * n.fresh_first;
    const T v = second[i] * n.kept_second + g * n.fresh_second * g;
    first[i] = m;
    second[i] = v;
    parameters[i] = p * n.shrink - n.size * m / (std::sqrt(v) * n.root + n.epsilon);
  }
}

FRACTALKERN_TARGET void update_float(const AdamTask<float>& task) { update(task); }
FRACTALKERN_TARGET void update_double(const AdamTask<double>& task) { update(task); }

}  // namespace fractalkern::FRACTALKERN_ISA
