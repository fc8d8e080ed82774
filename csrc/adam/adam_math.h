// A step of Adam of one parameter. Which product and sum are rounded as one is written out here and
// not left to a compiler: that is what makes bits equal wherever there is a multiply-add. None of
// the other products goes straight into a sum, so that no compiler can fuse more.
//
// Included once per target, inside namespace fractalkern::FRACTALKERN_ISA, with FRACTALKERN_MATH
// the specifiers of its function (common/each_instruction_set.h); hence no include guard. Needs
// adam/adam.h, <cmath> and the includer's multiply_add(a, b, c), which is a b + c.

namespace fractalkern::FRACTALKERN_ISA {

template <class T>
FRACTALKERN_MATH void adam_update(const AdamNumbers<T>& n, T gradient, T& parameter, T& first,
                                  T& second) {
  const T p = parameter;
  const T g = multiply_add(gradient, n.factor, p * n.decay);
  const T m = multiply_add(g - first, n.fresh_first, first);
  const T v = multiply_add(second, n.kept_second, g * n.fresh_second * g);
  first = m;
  second = v;
  parameter =
      multiply_add(p, n.shrink, -(n.size * m / multiply_add(std::sqrt(v), n.root, n.epsilon)));
}

}  // namespace fractalkern::FRACTALKERN_ISA
