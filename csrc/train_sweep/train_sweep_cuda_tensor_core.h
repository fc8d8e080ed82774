// The engine of float64 tensor cores for one output: a warp a network of up to kWidth inputs and
// hidden units, the rest being zeros.
//
// Both products are computed transposed, so that the hidden layer comes out of the one in the
// registers in which the other wants it:
//   Z^T [hidden, rows]   = W0^T [hidden, inputs] X^T [inputs, rows]
//   G^T [hidden, inputs] = dZ^T [hidden, rows]   X   [rows, inputs]
// The result of a tensor-core operation holds rows 2 t and 2 t + 1 in the lanes that, as its left
// operand, hold the terms t and t + 4 of the sum; a sum may run in any order if both operands do.
// In the same way the inputs are numbered so that a lane's part of G belongs to its part of W0, and
// that each of its accesses to x is one of 16 bytes.
#pragma once

#include "train_sweep/train_sweep_cuda_network.h"

namespace fractalkern::cuda {

// c += a b for c [8 kBlocks, 8], a [8 kBlocks, 4 kSteps], b [4 kSteps, 8], spread over a warp: lane
// 4 g + t holds c[8 i + g][2 t + e], a[8 i + g][t + 4 s] and b[t + 4 s][g].
template <int kBlocks, int kSteps>
__device__ __forceinline__ void tensor_multiply_add(double (&c)[kBlocks][2],
                                                    const double (&a)[kBlocks][kSteps],
                                                    const double (&b)[kSteps]) {
#if defined(FRACTALKERN_CUDA_ON_HOST)
  // Every lane looks into the others' operands, which stay there until all have done so.
  const int lane = static_cast<int>(threadIdx.x % kWarp), g = lane / 4, t = lane % 4;
  struct Operands {
    const double (*a)[kSteps];
    const double* b;
  };
  const Operands own{a, b};
  const auto all = cuda_on_host::every_lane(&own);
  for (int i = 0; i < kBlocks; ++i)
    for (int e = 0; e < 2; ++e)
      for (int s = 0; s < kSteps; ++s)
        for (int term = 0; term < 4; ++term)
          c[i][e] = fma(all[4 * g + term]->a[i][s], all[4 * (2 * t + e) + term]->b[s], c[i][e]);
  __syncwarp();
#elif defined(__CUDA_ARCH__)
#if __CUDA_ARCH__ >= 900
  constexpr bool kLarge = kBlocks % 2 == 0 && kSteps % 4 == 0;
#else
  constexpr bool kLarge = false;
#endif
  FRACTALKERN_UNROLL
  for (int s = 0; s < kSteps; s += kLarge ? 4 : 1) {
    FRACTALKERN_UNROLL
    for (int i = 0; i < kBlocks; i += kLarge ? 2 : 1) {
      if constexpr (kLarge) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, "
            "{%4, %5, %6, %7, %8, %9, %10, %11}, {%12, %13, %14, %15}, {%0, %1, %2, %3};"
            : "+d"(c[i][0]), "+d"(c[i][1]), "+d"(c[i + 1][0]), "+d"(c[i + 1][1])
            : "d"(a[i][s]), "d"(a[i + 1][s]), "d"(a[i][s + 1]), "d"(a[i + 1][s + 1]),
              "d"(a[i][s + 2]), "d"(a[i + 1][s + 2]), "d"(a[i][s + 3]), "d"(a[i + 1][s + 3]),
              "d"(b[s]), "d"(b[s + 1]), "d"(b[s + 2]), "d"(b[s + 3]));
      } else {
        asm volatile(
            "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
            : "+d"(c[i][0]), "+d"(c[i][1])
            : "d"(a[i][s]), "d"(b[s]));
      }
    }
  }
#endif
}

template <int kWidth, bool kShared>
class TensorCoreEngine {
  using T = double;

 public:
  using Index = int;
  static constexpr bool kDataInShared = kShared;
  static constexpr int kTeam = kWarp;
  static constexpr int kStride = kWidth + 2;  // without bank conflicts up to a width of 16
  static constexpr int kThreads = kWidth == 32 ? 256 : kWidth == 16 ? 512 : 640;
  static constexpr int kBlocks = 1;

  __device__ __forceinline__ explicit TensorCoreEngine(const Sweep<T>& sweep)
      : sweep_(sweep),
        args_(sweep.args),
        x_(sweep.x),
        y_(sweep.y),
        lane_(static_cast<int>(threadIdx.x % kWarp)),
        g_(lane_ / 4),
        t_(lane_ % 4) {
    if constexpr (kDataInShared) {
      x_ = data_to_shared(sweep);
      y_ = x_ + offset(static_cast<int>(sweep.padded_rows) + 1);
    }
  }

  __device__ __forceinline__ void start(bool drawn, T added) {
    for_each_weight([&](int m, int i, int unit, int input) {
      w0_[m][i] = drawn && real(unit, input) ? args_.w0[input * args_.hidden + unit] + added : 0.0;
    });
    FRACTALKERN_UNROLL
    for (int m = 0; m < kGroups; ++m) {
      const int unit = 8 * m + g_;
      w1_[m] = drawn && unit < args_.hidden ? args_.w1[unit] : 0.0;
    }
  }

  __device__ __forceinline__ void drift(T added) {
    for_each_weight(
        [&](int m, int i, int unit, int input) { w0_[m][i] += real(unit, input) ? added : 0.0; });
  }

  template <bool kGradient, class Rows>
  __device__ __forceinline__ T pass(Rows rows, int count) {
    return for_activation(args_.activation, [&](auto tanh) {
      return pass_with<kGradient, decltype(tanh)::value>(rows, count);
    });
  }

  __device__ __forceinline__ bool update(T lr0, T lr1) {
    bool changed = false;
    for_each_weight([&](int m, int i, int unit, int input) {
      // Why: update() of train_sweep_body.h.
      const T overflow = args_.activation == Activation::kTanh ? w1_[m] * largest_ * 0.0 : 0.0;
      const T gradient = g0_[i % kGroups][m][i / kGroups];
      const T next = w0_[m][i] - lr0 * (w1_[m] * gradient + overflow);
      if (!real(unit, input)) return;
      changed |= next != w0_[m][i];
      w0_[m][i] = next;
    });
    FRACTALKERN_UNROLL
    for (int m = 0; m < kGroups; ++m) {
      const T next = w1_[m] - lr1 * g1_[m];
      if (8 * m + g_ >= args_.hidden) continue;
      changed |= next != w1_[m];
      w1_[m] = next;
    }
    return changed;
  }

  __device__ __forceinline__ bool poisoned() const {
    bool any = false;
    FRACTALKERN_UNROLL
    for (int m = 0; m < kGroups; ++m) any |= w1_[m] != w1_[m];
    return any;
  }

  __device__ __forceinline__ T predict(int row) {
    T hidden[kGroups * kSlots];
    const T output = for_activation(args_.activation, [&](auto tanh) {
      return forward<decltype(tanh)::value>(OneRow<int>{row}, 0, 1, hidden);
    });
    return __shfl_sync(kWholeWarp, output, 0);
  }

 private:
  static constexpr int kRows = 16;            // of a chunk
  static constexpr int kGroups = kWidth / 8;  // of hidden units and of inputs
  static constexpr int kInputs = kWidth / 4;  // of a lane
  static constexpr int kSlots = 4;            // rows of a lane as terms of G: see slot()

  // Of a row of x.
  static __device__ __forceinline__ auto offset(int row) {
    using Offset = std::conditional_t<kShared, int, int64_t>;
    return static_cast<Offset>(row) * kStride;
  }

  // The row, within a chunk, of a lane's slot.
  __device__ __forceinline__ int slot(int s) const { return 8 * (s / 2) + 2 * t_ + s % 2; }

  __device__ __forceinline__ bool real(int unit, int input) const {
    return unit < args_.hidden && input < args_.inputs;
  }

  template <class Body>
  __device__ __forceinline__ void for_each_weight(const Body& body) {
    FRACTALKERN_UNROLL
    for (int m = 0; m < kGroups; ++m) {
      FRACTALKERN_UNROLL
      for (int i = 0; i < kInputs; ++i) body(m, i, 8 * m + g_, kInputs * t_ + i);
    }
  }

  __device__ __forceinline__ void clear_gradient() {
    largest_ = 0.0;
    FRACTALKERN_UNROLL
    for (int m = 0; m < kGroups; ++m) {
      g1_[m] = 0.0;
      FRACTALKERN_UNROLL
      for (int q = 0; q < kGroups; ++q) g0_[q][m][0] = g0_[q][m][1] = 0.0;
    }
  }

  // hidden[4 m + s] = phi of hidden unit 8 m + g_ in row slot(s); the prediction - y of row
  // slot(g_ % kSlots), 0 beyond the last.
  template <bool kTanh, class Rows>
  __device__ __forceinline__ T forward(Rows rows, int first, int count,
                                       T (&hidden)[kGroups * kSlots]) const {
    FRACTALKERN_UNROLL
    for (int tile = 0; tile < 2; ++tile) {
      T x[kInputs], z[kGroups][2] = {};
      load(x_ + offset(rows(first + 8 * tile + g_)) + kInputs * t_, x);
      tensor_multiply_add(z, w0_, x);
      FRACTALKERN_UNROLL
      for (int m = 0; m < kGroups; ++m) {
        hidden[kSlots * m + 2 * tile] = z[m][0];
        hidden[kSlots * m + 2 * tile + 1] = z[m][1];
      }
    }
    activate<kTanh>(hidden, args_.activation);
    if (first + kRows > count) {
      FRACTALKERN_UNROLL
      for (int i = 0; i < kGroups * kSlots; ++i)
        if (first + slot(i % kSlots) >= count) hidden[i] = 0.0;
    }
    T products[kSlots];
    FRACTALKERN_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      products[s] = hidden[s] * w1_[0];
      FRACTALKERN_UNROLL
      for (int m = 1; m < kGroups; ++m) products[s] += hidden[kSlots * m + s] * w1_[m];
    }
    const T sum = sum_over_team<kSlots, 4, kWarp>(products, lane_);
    const int own = first + slot(g_ % kSlots);
    return own < count ? sum * sweep_.output_scale - y_[rows(own)] : 0.0;
  }

  template <bool kGradient, bool kTanh, class Rows>
  __device__ __forceinline__ T pass_with(Rows rows, int count) {
    if constexpr (kGradient) clear_gradient();
    T squares = 0.0;
    for (int first = 0; first < count; first += kRows) {
      T hidden[kGroups * kSlots];
      T residual = forward<kTanh>(rows, first, count, hidden);
      squares += residual * residual;
      if constexpr (kGradient) {
        residual *= sweep_.residual_scale;
        largest_ = larger_magnitude(residual, largest_);
        backward<kTanh>(rows, first, residual, hidden);
      }
    }
    if constexpr (kGradient) {
      largest_ = largest_over_bits<1, 8>(largest_);
      FRACTALKERN_UNROLL
      for (int m = 0; m < kGroups; ++m) g1_[m] = sum_over_bits<1, 2>(g1_[m]);
    }
    return sum_over_bits<1, 8>(squares) / static_cast<T>(count);
  }

  // Adds to the gradients; that of w0 without the factor w1, for update() to multiply.
  template <bool kTanh, class Rows>
  __device__ __forceinline__ void backward(Rows rows, int first, T residual,
                                           T (&hidden)[kGroups * kSlots]) {
    T of_row[kSlots], back[kGroups][kSlots], x[kGroups][kSlots];
    FRACTALKERN_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      of_row[s] = __shfl_sync(kWholeWarp, residual, 4 * s + t_);
      FRACTALKERN_UNROLL
      for (int m = 0; m < kGroups; ++m) g1_[m] += of_row[s] * hidden[kSlots * m + s];
    }
    slopes<kTanh>(hidden, args_.activation);
    FRACTALKERN_UNROLL
    for (int s = 0; s < kSlots; ++s) {
      FRACTALKERN_UNROLL
      for (int m = 0; m < kGroups; ++m) back[m][s] = of_row[s] * hidden[kSlots * m + s];
      T of_inputs[kGroups];
      load(x_ + offset(rows(first + slot(s))) + kGroups * g_, of_inputs);
      FRACTALKERN_UNROLL
      for (int q = 0; q < kGroups; ++q) x[q][s] = of_inputs[q];
    }
    FRACTALKERN_UNROLL
    for (int q = 0; q < kGroups; ++q) tensor_multiply_add(g0_[q], back, x[q]);
  }

  const Sweep<T>& sweep_;
  const TrainSweepArgs<T>& args_;
  const T* x_;
  const T* y_;
  const int lane_, g_, t_;
  T w0_[kGroups][kInputs];     // [m][i]: hidden unit 8 m + g_, input kInputs t_ + i
  T g0_[kGroups][kGroups][2];  // [q][m][e]: the same unit, input kInputs t_ + kGroups e + q
  T w1_[kGroups], g1_[kGroups] = {};
  T largest_ = 0.0;  // residual of a pass, scaled as in the gradient
};

}  // namespace fractalkern::cuda
