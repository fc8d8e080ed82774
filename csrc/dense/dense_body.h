// The body of dense, compiled once per instruction set; see dense_cpu.cpp for the algorithm and
// common/each_instruction_set.h for how. No include guard.

#define FRACTALKERN_TARGET_INLINE FRACTALKERN_TARGET inline __attribute__((always_inline))

namespace fractalkern::FRACTALKERN_ISA {

using Floats = VectorOf<float, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
using Words = VectorOf<int32_t, FRACTALKERN_ISA_TAG::kVectorBytes>::type;
constexpr int64_t kLanes = FRACTALKERN_ISA_TAG::kVectorBytes / sizeof(float);
// Vectors of a register tile: with kRegisterRows accumulators each they leave room for a row of B
// and a broadcast.
constexpr int kRegisterVectors = FRACTALKERN_ISA_TAG::kRegisters == 32 ? 4 : 2;

// Last layers of at most so many outputs are cheaper one output after another than as a whole
// vector of them.
constexpr int64_t kNarrow = kLanes / 4;

FRACTALKERN_TARGET_INLINE Floats load(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

FRACTALKERN_TARGET_INLINE void store(float* to, Floats value) {
  std::memcpy(to, &value, sizeof(value));
}

// e^x for x <= 0, relative error 1e-7; below 2^-126 it is about that. NaN stays NaN.
template <class Real, class Bits>
FRACTALKERN_TARGET_INLINE Real exp_of_negative(Real x) {
  x = x < -87.0f ? Real{} - 87.0f : x;
  const Real shifted = x * 0x1.715476p0f + (0x1.8p23f + 127.0f);  // rounds; exponent-biased
  const Real k = shifted - (0x1.8p23f + 127.0f);
  const Real r = (x - k * 0x1.62e4p-1f) - k * 0x1.7f7d1cp-20f;
  Real value = r * (1.0f / 5040) + 1.0f / 720;
  value = value * r + 1.0f / 120;
  value = value * r + 1.0f / 24;
  value = value * r + 1.0f / 6;
  value = value * r + 0.5f;
  value = value * r + 1.0f;
  value = value * r + 1.0f;
  const Bits scale = __builtin_bit_cast(Bits, shifted) << 23;
  return value * __builtin_bit_cast(Real, scale);
}

// What becomes of a register tile's sums: `at` is their place in C.
struct Assign {
  float* c;
  FRACTALKERN_TARGET_INLINE void operator()(int64_t at, Floats sum) const { store(c + at, sum); }
};
struct AddTo {
  float* c;
  FRACTALKERN_TARGET_INLINE void operator()(int64_t at, Floats sum) const {
    store(c + at, load(c + at) + sum);
  }
};
struct Relu {
  float* c;
  // NaN stays NaN.
  FRACTALKERN_TARGET_INLINE void operator()(int64_t at, Floats sum) const {
    store(c + at, sum < 0.0f ? Floats{} : sum);
  }
};
struct WherePositive {
  float* c;
  const float* h;  // of the shape of C
  FRACTALKERN_TARGET_INLINE void operator()(int64_t at, Floats sum) const {
    store(c + at, load(h + at) > 0.0f ? sum : Floats{});
  }
};

// Sums over k of A(row, k) B[k, :], all in floats. B and C have rows of whole vectors.
struct Product {
  int64_t rows, k, columns;
  const float* a;
  int64_t a_row, a_k;  // strides
  const float* b;
  int64_t b_row;
  const float* first;  // [columns] to start the sums of every row from, or nullptr
  int64_t c_row;
};

template <int kRows, int kVectors, class Epilogue>
FRACTALKERN_TARGET_INLINE void register_tile(const Product& p, int64_t row, int64_t column,
                                             const Epilogue& epilogue) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 6
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n)
      sums[m][n] = p.first ? load(p.first + column + n * kLanes) : Floats{};
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + column;
  const int64_t a_row = p.a_row, a_k = p.a_k, b_row = p.b_row;
  for (int64_t k = 0; k < p.k; ++k, a += a_k, b += b_row) {
    Floats right[kVectors];
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) right[n] = load(b + n * kLanes);
#pragma GCC unroll 6
    for (int m = 0; m < kRows; ++m) {
      const Floats left = a[m * a_row] - Floats{};  // a sum would turn -0 into 0, and so is done
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) sums[m][n] += left * right[n];
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n)
      epilogue((row + m) * p.c_row + column + n * kLanes, sums[m][n]);
}

template <int kVectors, class Epilogue>
FRACTALKERN_TARGET void panel(const Product& p, int64_t column, const Epilogue& epilogue) {
  int64_t row = 0;
  for (; row + kRegisterRows <= p.rows; row += kRegisterRows)
    register_tile<kRegisterRows, kVectors>(p, row, column, epilogue);
  switch (p.rows - row) {
    case 5:
      return register_tile<5, kVectors>(p, row, column, epilogue);
    case 4:
      return register_tile<4, kVectors>(p, row, column, epilogue);
    case 3:
      return register_tile<3, kVectors>(p, row, column, epilogue);
    case 2:
      return register_tile<2, kVectors>(p, row, column, epilogue);
    case 1:
      return register_tile<1, kVectors>(p, row, column, epilogue);
  }
}

template <class Epilogue>
FRACTALKERN_TARGET void multiply(const Product& p, const Epilogue& epilogue) {
  constexpr int64_t kPanel = kRegisterVectors * kLanes;
  int64_t column = 0;
  for (; column + kPanel <= p.columns; column += kPanel)
    panel<kRegisterVectors>(p, column, epilogue);
  for (; column < p.columns; column += kLanes) panel<1>(p, column, epilogue);
}

// A worker's network: packed weights, gradients and a tile of activations.
class Network {
 public:
  FRACTALKERN_TARGET explicit Network(const DenseTask& task)
      : task_(task), layers_(task.networks.layers), free_(task.workspace) {
    int64_t widest = 0;
    parts_.reserve(layers_.size());
    for (const DenseLayer& layer : layers_) {
      Part part{};
      part.in = rounded(layer.inputs);
      part.out = rounded(layer.outputs);
      part.transposed_gradient = layer.outputs >= layer.inputs;
      part.down = take(layer.inputs * part.out);
      part.up = take(layer.outputs * part.in);
      part.gradient_size =
          part.transposed_gradient ? layer.inputs * part.out : layer.outputs * part.in;
      part.gradient = take(part.gradient_size);
      part.bias = take(part.out);
      part.bias_gradient = take(part.out);
      part.h = take(kTileRows * part.in);
      widest = std::max({widest, part.in, part.out});
      parts_.push_back(part);
    }
    z_ = take(kTileRows * widest);
    other_ = take(kTileRows * widest);
    std::fill_n(z_, kTileRows * widest, 0.0f);  // columns between the outputs and `out`
    pack();
  }

  FRACTALKERN_TARGET void run() {
    const int64_t points = task_.end - task_.begin;
    const int64_t tiles = (points + kTileRows - 1) / kTileRows;
    double loss = 0;
    if (task_.gradient)
      for (const Part& part : parts_) {
        std::fill_n(part.gradient, part.gradient_size, 0.0f);
        std::fill_n(part.bias_gradient, part.out, 0.0f);
      }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = task_.begin + tile * kTileRows;
      rows_ = std::min(kTileRows, task_.end - begin);
      forward(begin);
      if (task_.outputs) copy_outputs(tile * kTileRows);
      if (!task_.gradient) continue;
      loss += residuals(begin);
      backward();
    }
    if (!task_.gradient) return;
    *task_.loss = static_cast<float>(loss);
    write_gradient();
  }

 private:
  struct Part {
    int64_t in, out;   // padded
    float *down, *up;  // W^T [inputs, out] and W [outputs, in]
    float *bias, *bias_gradient;
    float* gradient;  // [inputs, out] if transposed, else [outputs, in]
    int64_t gradient_size;
    bool transposed_gradient;
    float* h;  // the inputs of a tile [kTileRows, in]
  };

  static int64_t rounded(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

  float* take(int64_t count) {
    float* const taken = free_;
    free_ += (count + kWidestLanes - 1) / kWidestLanes * kWidestLanes;
    return taken;
  }

  FRACTALKERN_TARGET void pack() {
    const float* const row = task_.networks.parameters + task_.network * task_.networks.row_stride;
    for (size_t l = 0; l < layers_.size(); ++l) {
      const DenseLayer& layer = layers_[l];
      const Part& part = parts_[l];
      const float* const w = row + layer.weight;
      std::fill_n(part.down, layer.inputs * part.out, 0.0f);
      std::fill_n(part.up, layer.outputs * part.in, 0.0f);
      std::fill_n(part.bias, part.out, 0.0f);
      std::copy_n(row + layer.bias, layer.outputs, part.bias);
      for (int64_t o = 0; o < layer.outputs; ++o) {
        std::copy_n(w + o * layer.inputs, layer.inputs, part.up + o * part.in);
        for (int64_t i = 0; i < layer.inputs; ++i)
          part.down[i * part.out + o] = w[o * layer.inputs + i];
      }
    }
  }

  FRACTALKERN_TARGET void forward(int64_t begin) {
    const int64_t inputs = layers_.front().inputs;
    const float* const x =
        task_.networks.x + task_.network * task_.networks.x_stride + begin * inputs;
    const Part& first = parts_.front();
    for (int64_t t = 0; t < rows_; ++t) {
      std::copy_n(x + t * inputs, inputs, first.h + t * first.in);
      std::fill_n(first.h + t * first.in + inputs, first.in - inputs, 0.0f);
    }
    for (size_t l = 0; l < parts_.size(); ++l) {
      const Part& part = parts_[l];
      const Product product{rows_, layers_[l].inputs, part.out, part.h,    part.in,
                            1,     part.down,         part.out, part.bias, part.out};
      if (l + 1 < parts_.size()) {
        multiply(product, Relu{parts_[l + 1].h});
      } else if (layers_[l].outputs <= kNarrow) {
        narrow_outputs(layers_[l].outputs, part);
      } else {
        multiply(product, Assign{z_});
      }
    }
  }

  // Z[t, o] as the sum of the lanes of one product of rows.
  FRACTALKERN_TARGET void narrow_outputs(int64_t outputs, const Part& part) {
    for (int64_t t = 0; t < rows_; ++t)
      for (int64_t o = 0; o < outputs; ++o) {
        const float *const h = part.h + t * part.in, *const w = part.up + o * part.in;
        Floats sum = load(h) * load(w);
        for (int64_t i = kLanes; i < part.in; i += kLanes) sum += load(h + i) * load(w + i);
        float lanes[kLanes];
        store(lanes, sum);
        for (int64_t half = kLanes / 2; half > 0; half /= 2)
          for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
        z_[t * part.out + o] = lanes[0] + part.bias[o];
      }
  }

  FRACTALKERN_TARGET void copy_outputs(int64_t row) {
    const int64_t outputs = layers_.back().outputs;
    for (int64_t t = 0; t < rows_; ++t)
      std::copy_n(z_ + t * parts_.back().out, outputs, task_.outputs + (row + t) * outputs);
  }

  // Replaces the outputs in z_ by the gradient of the mean loss; this tile's part of the loss.
  FRACTALKERN_TARGET double residuals(int64_t begin) {
    const DenseTargets& targets = *task_.targets;
    const int64_t outputs = layers_.back().outputs, stride = parts_.back().out;
    const auto points = static_cast<double>(task_.networks.points);
    if (targets.loss == DenseLoss::kCrossEntropy) {
      const int64_t* const labels = targets.labels + task_.network * targets.stride + begin;
      return cross_entropy(labels, outputs, stride, points);
    }
    const float* const y = targets.values + task_.network * targets.stride + begin * outputs;
    const auto count = points * static_cast<double>(outputs);
    return targets.loss == DenseLoss::kBinaryCrossEntropy
               ? binary_cross_entropy(y, outputs, stride, count)
               : mean_squared_error(y, outputs, stride, count);
  }

  // max(z, 0) - z y + log(1 + e^-|z|): the logarithms of a vector's lanes are one of their product.
  FRACTALKERN_TARGET double binary_cross_entropy(const float* y, int64_t outputs, int64_t stride,
                                                 double count) {
    const auto scale = static_cast<float>(1 / count);
    const int64_t size = rows_ * outputs;
    double total = 0;
    for (int64_t i = 0; i < size; i += kLanes) {
      const int64_t lanes = std::min(kLanes, size - i);
      Floats z = {}, target = {};
      for (int64_t lane = 0; lane < lanes; ++lane) {
        z[lane] = z_[(i + lane) / outputs * stride + (i + lane) % outputs];
        target[lane] = y[i + lane];
      }
      const Floats magnitude = z < 0.0f ? -z : z;
      const Floats e = exp_of_negative<Floats, Words>(-magnitude);
      const Floats probability = (z < 0.0f ? e : Floats{} + 1.0f) / (1.0f + e);
      const Floats linear = (z < 0.0f ? Floats{} : z) - z * target;
      const Floats slope = (probability - target) * scale;
      double product = 1;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        product *= 1.0 + static_cast<double>(e[lane]);
        total += static_cast<double>(linear[lane]);
        z_[(i + lane) / outputs * stride + (i + lane) % outputs] = slope[lane];
      }
      total += std::log(product);
    }
    return total / count;
  }

  FRACTALKERN_TARGET double mean_squared_error(const float* y, int64_t outputs, int64_t stride,
                                               double count) {
    const auto scale = static_cast<float>(2 / count);
    double total = 0;
    for (int64_t t = 0; t < rows_; ++t)
      for (int64_t o = 0; o < outputs; ++o) {
        float& z = z_[t * stride + o];
        const float error = z - y[t * outputs + o];
        total += static_cast<double>(error) * static_cast<double>(error);
        z = error * scale;
      }
    return total / count;
  }

  FRACTALKERN_TARGET double cross_entropy(const int64_t* labels, int64_t outputs, int64_t stride,
                                          double count) {
    const auto scale = static_cast<float>(1 / count);
    double total = 0;
    for (int64_t t = 0; t < rows_; ++t) {
      float* const z = z_ + t * stride;
      // A NaN must reach the sum whatever its place: the largest only serves to scale.
      float largest = z[0], sum = 0;
      for (int64_t o = 1; o < outputs; ++o) largest = z[o] > largest ? z[o] : largest;
      const float own = z[labels[t]] - largest;
      for (int64_t o = 0; o < outputs; ++o)
        sum += z[o] = exp_of_negative<float, int32_t>(z[o] - largest);
      total += std::log(static_cast<double>(sum)) - static_cast<double>(own);
      for (int64_t o = 0; o < outputs; ++o) z[o] *= scale / sum;
      z[labels[t]] -= scale;
    }
    return total / count;
  }

  FRACTALKERN_TARGET void backward() {
    float *dz = z_, *next = other_;
    for (size_t l = parts_.size(); l-- > 0;) {
      const DenseLayer& layer = layers_[l];
      const Part& part = parts_[l];
      for (int64_t t = 0; t < rows_; ++t)
        for (int64_t c = 0; c < part.out; c += kLanes)
          AddTo{part.bias_gradient}(c, load(dz + t * part.out + c));
      const Product weights = part.transposed_gradient
                                  ? Product{layer.inputs, rows_, part.out, part.h,  1,
                                            part.in,      dz,    part.out, nullptr, part.out}
                                  : Product{layer.outputs, rows_,  part.in, dz,      1,
                                            part.out,      part.h, part.in, nullptr, part.in};
      multiply(weights, AddTo{part.gradient});
      if (l == 0) return;
      const Product inputs{rows_, layer.outputs, part.in, dz,      part.out,
                           1,     part.up,       part.in, nullptr, part.in};
      multiply(inputs, WherePositive{next, part.h});
      std::swap(dz, next);
    }
  }

  FRACTALKERN_TARGET void write_gradient() {
    for (size_t l = 0; l < layers_.size(); ++l) {
      const DenseLayer& layer = layers_[l];
      const Part& part = parts_[l];
      float* const to = task_.gradient + layer.weight;
      for (int64_t o = 0; o < layer.outputs; ++o) {
        if (!part.transposed_gradient) {
          std::copy_n(part.gradient + o * part.in, layer.inputs, to + o * layer.inputs);
          continue;
        }
        for (int64_t i = 0; i < layer.inputs; ++i)
          to[o * layer.inputs + i] = part.gradient[i * part.out + o];
      }
      std::copy_n(part.bias_gradient, layer.outputs, task_.gradient + layer.bias);
    }
  }

  const DenseTask& task_;
  const std::vector<DenseLayer>& layers_;
  float* free_;
  std::vector<Part> parts_;
  int64_t rows_ = 0;
  float *z_ = nullptr, *other_ = nullptr;  // [kTileRows, widest]
};

FRACTALKERN_TARGET void solve_dense(const DenseTask& task) { Network(task).run(); }

}  // namespace fractalkern::FRACTALKERN_ISA

#undef FRACTALKERN_TARGET_INLINE
