// The engine for shapes that no faster one takes: a warp a network, lane l the hidden units
// l, l + 32, ..., weights and gradient in a workspace in memory.
#pragma once

#include "train_sweep/train_sweep_cuda_network.h"

namespace fractalkern::cuda {

template <class T>
class AnyShapeEngine {
 public:
  using Index = int64_t;
  static constexpr bool kDataInShared = false;
  static constexpr int kTeam = kWarp;
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = 2;  // on a multiprocessor

  static int64_t workspace_size(const TrainSweepArgs<T>& args) {
    return 2 * (args.inputs + args.outputs + 1) * args.hidden;
  }

  __device__ __forceinline__ explicit AnyShapeEngine(const Sweep<T>& sweep)
      : sweep_(sweep),
        args_(sweep.args),
        n_(args_.inputs),
        h_(args_.hidden),
        k_(args_.outputs),
        lane_(threadIdx.x % kWarp) {
    const int64_t warp =
        static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
    w0_ = sweep.workspace + warp * 2 * (n_ + k_ + 1) * h_;
    w1_ = w0_ + n_ * h_;
    g0_ = w1_ + h_ * k_;
    g1_ = g0_ + n_ * h_;
    hidden_ = g1_ + h_ * k_;
    back_ = hidden_ + h_;
  }

  __device__ void start(bool drawn, T added) {
    for (int64_t j = lane_; j < h_; j += kWarp) {
      for (int64_t i = 0; i < n_; ++i)
        w0_[i * h_ + j] = drawn ? args_.w0[i * h_ + j] + added : T(0);
      for (int64_t c = 0; c < k_; ++c) w1_[j * k_ + c] = drawn ? args_.w1[j * k_ + c] : T(0);
    }
  }

  __device__ void drift(T added) {
    for (int64_t j = lane_; j < h_; j += kWarp)
      for (int64_t i = 0; i < n_; ++i) w0_[i * h_ + j] += added;
  }

  template <bool kGradient, class Rows>
  __device__ T pass(Rows rows, int64_t count) {
    if constexpr (kGradient) clear_gradient();
    T squares = T(0);
    for (int64_t slot = 0; slot < count; ++slot) {
      const int64_t row = rows(slot);
      hidden_layer(row);
      for (int64_t c = 0; c < k_; ++c) {
        T residual = output(row, c);
        squares += residual * residual;
        residual *= sweep_.residual_scale;
        if constexpr (kGradient) backward_output(c, residual);
      }
      if constexpr (kGradient) backward_input(row);
    }
    return squares / (static_cast<T>(count) * static_cast<T>(k_));
  }

  __device__ bool update(T lr0, T lr1) {
    bool changed = false;
    for (int64_t j = lane_; j < h_; j += kWarp) {
      for (int64_t i = 0; i < n_; ++i) changed |= descend(w0_[i * h_ + j], lr0 * g0_[i * h_ + j]);
      for (int64_t c = 0; c < k_; ++c) changed |= descend(w1_[j * k_ + c], lr1 * g1_[j * k_ + c]);
    }
    return changed;
  }

  __device__ bool poisoned() const {
    bool all = true;
    for (int64_t c = 0; c < k_; ++c) {
      bool one = false;
      for (int64_t j = lane_; j < h_; j += kWarp) one |= w1_[j * k_ + c] != w1_[j * k_ + c];
      all &= __any_sync(kWholeWarp, one) != 0;
    }
    return all;
  }

  __device__ T predict(int64_t row) {
    hidden_layer(row);
    return output(row, 0);
  }

 private:
  __device__ static bool descend(T& weight, T change) {
    const T next = weight - change;
    const bool changed = next != weight;
    weight = next;
    return changed;
  }

  __device__ void clear_gradient() {
    for (int64_t j = lane_; j < h_; j += kWarp) {
      for (int64_t i = 0; i < n_; ++i) g0_[i * h_ + j] = T(0);
      for (int64_t c = 0; c < k_; ++c) g1_[j * k_ + c] = T(0);
    }
  }

  __device__ void hidden_layer(int64_t row) {
    const T* x = sweep_.x + row * sweep_.stride;
    for (int64_t j = lane_; j < h_; j += kWarp) {
      T value[1] = {T(0)};
      for (int64_t i = 0; i < n_; ++i) value[0] += x[i] * w0_[i * h_ + j];
      for_activation(args_.activation,
                     [&](auto tanh) { activate<decltype(tanh)::value>(value, args_.activation); });
      hidden_[j] = value[0];
    }
  }

  // Prediction - y, to all lanes.
  __device__ T output(int64_t row, int64_t c) const {
    T sum = T(0);
    for (int64_t j = lane_; j < h_; j += kWarp) sum += hidden_[j] * w1_[j * k_ + c];
    sum = sum_over_bits<1, kWarp / 2>(sum);
    return sum * sweep_.output_scale - sweep_.y[row * k_ + c];
  }

  __device__ void backward_output(int64_t c, T residual) {
    for (int64_t j = lane_; j < h_; j += kWarp) {
      const T back = residual * w1_[j * k_ + c];
      back_[j] = c == 0 ? back : back_[j] + back;
      g1_[j * k_ + c] += residual * hidden_[j];
    }
  }

  __device__ void backward_input(int64_t row) {
    const T* x = sweep_.x + row * sweep_.stride;
    for (int64_t j = lane_; j < h_; j += kWarp) {
      T slope[1] = {hidden_[j]};
      for_activation(args_.activation,
                     [&](auto tanh) { slopes<decltype(tanh)::value>(slope, args_.activation); });
      const T gradient = back_[j] * slope[0];
      for (int64_t i = 0; i < n_; ++i) g0_[i * h_ + j] += x[i] * gradient;
    }
  }

  const Sweep<T>& sweep_;
  const TrainSweepArgs<T>& args_;
  const int64_t n_, h_, k_;
  const int lane_;
  T* w0_;  // [n, h]
  T* w1_;  // [h, k]
  T* g0_;
  T* g1_;
  T* hidden_;  // [h], of one row
  T* back_;    // [h], dL/dhidden
};

}  // namespace fractalkern::cuda
