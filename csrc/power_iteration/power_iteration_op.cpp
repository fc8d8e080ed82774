// torch.ops.fractalkern.power_iteration and its backward: schemas, guards and the glue.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "common/torch_glue.h"
#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_math.h"

namespace fractalkern {
namespace {

bool is_float(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

// A new CPU tensor without a way through the dispatcher, which costs a small call more than its
// work.
Tensor allocate(std::initializer_list<int64_t> shape, ScalarType dtype) {
  int64_t strides[2] = {1, 1};
  if (shape.size() == 2) strides[0] = shape.begin()[1];
  AtenTensorHandle handle = nullptr;
  const int32_t code = dtype == ScalarType::Double  ? aoti_torch_dtype_float64()
                       : dtype == ScalarType::Float ? aoti_torch_dtype_float32()
                                                    : aoti_torch_dtype_int64();
  const auto dims = static_cast<int64_t>(shape.size());
  const int error = aoti_torch_empty_strided(dims, shape.begin(), strides, code,
                                             aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(error == 0, "power_iteration: torch could not allocate a result");
  return Tensor(handle);
}

// The elements of a tensor of any floating dtype, one after another, as doubles.
class Doubles {
 public:
  explicit Doubles(const Tensor& tensor) : tensor_(tensor) {
    if (!tensor_.is_contiguous()) tensor_ = torch::stable::contiguous(tensor_);
    const ScalarType dtype = tensor_.scalar_type();
    if (dtype != ScalarType::Double && dtype != ScalarType::Float)
      tensor_ = torch::stable::to(tensor_, ScalarType::Double);
    data_ = static_cast<const double*>(tensor_.data_ptr());
    if (dtype != ScalarType::Float) return;
    const auto* from = static_cast<const float*>(tensor_.data_ptr());
    copy_.assign(from, from + tensor_.numel());
    data_ = copy_.data();
  }

  const double* data() const { return data_; }

 private:
  Tensor tensor_;
  std::vector<double> copy_;
  const double* data_;
};

SpectralType type_of(ScalarType dtype) {
  return dtype == ScalarType::Double     ? SpectralType::kDouble
         : dtype == ScalarType::Half     ? SpectralType::kHalf
         : dtype == ScalarType::BFloat16 ? SpectralType::kBFloat16
                                         : SpectralType::kFloat;
}

// A weight as the kernel reads it: a matrix as it lies in memory, a stack contiguous.
struct Source {
  Tensor tensor;
  const char* data;
  SpectralType type;
  int64_t stack, rows, columns, row_stride, column_stride;
};

Source source_of(const Tensor& weight) {
  const int64_t dims = weight.dim();
  STD_TORCH_CHECK(dims >= 2, "power_iteration: weights must have at least two axes");
  const ScalarType dtype = weight.scalar_type();
  STD_TORCH_CHECK(is_float(dtype),
                  "power_iteration: weights must be float16, bfloat16, float32 or float64");
  const auto sizes = weight.sizes(), strides = weight.strides();
  const int64_t rows = sizes[dims - 2], columns = sizes[dims - 1];
  Source source{weight, nullptr, type_of(dtype), 1, rows, columns, columns, 1};
  if (dims == 2) {
    source.row_stride = strides[0];
    source.column_stride = strides[1];
  } else if (!weight.is_contiguous()) {
    source.tensor = torch::stable::contiguous(weight);
  }
  for (int64_t axis = 0; axis < dims - 2; ++axis) source.stack *= sizes[axis];
  source.data = static_cast<const char*>(source.tensor.data_ptr());
  return source;
}

// Into a tensor of float or double.
void copy_out(const double* from, int64_t size, const Tensor& to) {
  if (to.scalar_type() == ScalarType::Double) {
    std::copy_n(from, size, static_cast<double*>(to.data_ptr()));
  } else {
    std::copy_n(from, size, static_cast<float*>(to.data_ptr()));
  }
}

template <class T>
void copy_bounds(const std::vector<SpectralMatrix>& matrices, T* to) {
  const size_t count = matrices.size();
  for (size_t i = 0; i < count; ++i) {
    to[i] = rounded_bound<T>(matrices[i].residual, false);
    to[count + i] = rounded_bound<T>(matrices[i].lower, true);
    to[2 * count + i] = rounded_bound<T>(matrices[i].upper, false);
  }
}

// One call: its matrices solved, their vectors in the result's tensor.
class Solved {
 public:
  // A start that is zero stands for a random one if `zero_is_random`.
  Solved(const std::vector<Tensor>& weights, const std::optional<Tensor>& start, int64_t iters,
         double tol, bool lanczos, double delta, int64_t seed, bool zero_is_random) {
    STD_TORCH_CHECK(!weights.empty(), "power_iteration: weights must hold at least one tensor");
    STD_TORCH_CHECK(iters >= 1, "power_iteration: iters must be at least 1, got ", iters);
    STD_TORCH_CHECK(delta > 0 && delta < 1, "power_iteration: delta must lie in (0, 1)");
    std::vector<Source> sources;
    sources.reserve(weights.size());
    bool wide = false;
    int64_t count = 0;
    for (const Tensor& weight : weights) {
      sources.push_back(source_of(weight));
      const Source& source = sources.back();
      wide = wide || source.type == SpectralType::kDouble;
      count += source.stack;
      left += source.stack * source.rows;
      right += source.stack * source.columns;
    }
    std::optional<Doubles> first;
    if (start.has_value()) {
      STD_TORCH_CHECK(
          start->dim() == 1 && start->size(0) == right && is_float(start->scalar_type()),
          "power_iteration: start must be floating point of shape [", right, "]");
      first.emplace(*start);
    }
    dtype = wide ? ScalarType::Double : ScalarType::Float;
    vectors = allocate({left + right}, dtype);
    std::vector<double> narrow(static_cast<size_t>(wide ? 0 : left + right));
    double* u = wide ? static_cast<double*>(vectors.data_ptr()) : narrow.data();
    double* v = u + left;
    const double* from = first.has_value() ? first->data() : nullptr;
    matrices.reserve(static_cast<size_t>(count));
    for (const Source& source : sources) {
      for (int64_t i = 0; i < source.stack; ++i) {
        SpectralMatrix matrix{};
        matrix.data = source.data + i * source.rows * source.columns * bytes_of(source.type);
        matrix.type = source.type;
        matrix.rows = source.rows;
        matrix.columns = source.columns;
        matrix.row_stride = source.row_stride;
        matrix.column_stride = source.column_stride;
        if (from != nullptr) {
          matrix.start = checked_start(from, source.columns, zero_is_random);
          from += source.columns;
        }
        matrix.u = u;
        matrix.v = v;
        matrices.push_back(matrix);
        u += source.rows;
        v += source.columns;
      }
    }
    power_iteration_cpu(
        {matrices.data(), count, iters, tol, lanczos, delta, static_cast<uint64_t>(seed)},
        torch_parallel());
    if (!wide) copy_out(narrow.data(), left + right, vectors);
    sigma = allocate({count}, dtype);
    for (int64_t i = 0; i < count; ++i) {
      const SpectralMatrix& matrix = matrices[static_cast<size_t>(i)];
      STD_TORCH_CHECK(matrix.status != SpectralStatus::kNonFinite,
                      "power_iteration: weights must be finite, but matrix ", i,
                      " holds NaN or infinity");
      if (wide) {
        static_cast<double*>(sigma.data_ptr())[i] = matrix.sigma;
      } else {
        static_cast<float*>(sigma.data_ptr())[i] = static_cast<float>(matrix.sigma);
      }
    }
  }

  std::vector<SpectralMatrix> matrices;
  ScalarType dtype;
  int64_t left = 0, right = 0;
  Tensor sigma, vectors;  // [count], [left + right]

 private:
  // nullptr for a random one.
  const double* checked_start(const double* start, int64_t size, bool zero_is_random) const {
    double largest = 0;
    for (int64_t j = 0; j < size && std::isfinite(largest); ++j)
      largest = std::isfinite(start[j]) ? std::max(largest, std::abs(start[j])) : start[j];
    if (zero_is_random && largest == 0) return nullptr;
    STD_TORCH_CHECK(size == 0 || (std::isfinite(largest) && largest > 0),
                    "power_iteration: start must be finite and not zero, but that of matrix ",
                    matrices.size(), " is not");
    return start;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> power_iteration(const std::vector<Tensor>& weights,
                                                           const std::optional<Tensor>& start,
                                                           int64_t iters, double tol, bool lanczos,
                                                           double delta, int64_t seed) {
  const Solved solved(weights, start, iters, tol, lanczos, delta, seed, false);
  const auto count = static_cast<int64_t>(solved.matrices.size());
  const Tensor bounds = allocate({3, count}, solved.dtype);
  if (solved.dtype == ScalarType::Double) {
    copy_bounds(solved.matrices, static_cast<double*>(bounds.data_ptr()));
  } else {
    copy_bounds(solved.matrices, static_cast<float*>(bounds.data_ptr()));
  }
  const Tensor codes = allocate({2, count}, ScalarType::Long);
  auto* const code = static_cast<int64_t*>(codes.data_ptr());
  for (int64_t i = 0; i < count; ++i) {
    code[i] = solved.matrices[static_cast<size_t>(i)].iterations;
    code[count + i] = static_cast<int64_t>(solved.matrices[static_cast<size_t>(i)].status);
  }
  return {solved.sigma, solved.vectors, bounds, codes};
}

// penalty[r] = weight[r] sum over the matrices i of group r of (sigma_i - target_i)^2, where matrix
// i belongs to group i mod R; slope_i = d penalty / d sigma_i. `next` are the vectors to start from
// the next time: the right ones, or for a zero matrix, which has none, the former start.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> spectral_penalty(
    const std::vector<Tensor>& weights, const std::optional<Tensor>& start, const Tensor& target,
    const Tensor& weight, int64_t iters, bool lanczos, int64_t seed) {
  const Solved solved(weights, start, iters, -1.0, lanczos, 1e-6, seed, true);
  const auto count = static_cast<int64_t>(solved.matrices.size());
  const int64_t groups = weight.numel();
  STD_TORCH_CHECK(target.numel() == count && groups > 0 && count % groups == 0,
                  "spectral_penalty: target must have one number a matrix, weight one a group");
  const Doubles targets(target), factors(weight);
  const bool wide = solved.dtype == ScalarType::Double;
  std::vector<double> sums(static_cast<size_t>(groups)), slopes(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double sigma = solved.matrices[static_cast<size_t>(i)].sigma;
    const double rounded = wide ? sigma : static_cast<float>(sigma);
    const double difference = rounded - targets.data()[i], scale = factors.data()[i % groups];
    sums[static_cast<size_t>(i % groups)] += scale * difference * difference;
    slopes[static_cast<size_t>(i)] = 2 * scale * difference;
  }
  const Tensor penalty = weight.dim() == 0
                             ? allocate({}, solved.dtype)
                             : torch::stable::new_empty(weight, weight.sizes(), solved.dtype);
  const Tensor slope = allocate({count}, solved.dtype);
  copy_out(sums.data(), groups, penalty);
  copy_out(slopes.data(), count, slope);

  const Tensor next = allocate({solved.right}, solved.dtype);
  const int64_t size = wide ? 8 : 4;
  std::memcpy(next.data_ptr(), static_cast<char*>(solved.vectors.data_ptr()) + solved.left * size,
              static_cast<size_t>(solved.right * size));
  if (start.has_value()) {
    const Doubles former(*start);
    int64_t at = 0;
    for (const SpectralMatrix& matrix : solved.matrices) {
      if (matrix.status == SpectralStatus::kZero)
        for (int64_t j = at; j < at + matrix.columns; ++j) {
          if (wide) {
            static_cast<double*>(next.data_ptr())[j] = former.data()[j];
          } else {
            static_cast<float*>(next.data_ptr())[j] = static_cast<float>(former.data()[j]);
          }
        }
      at += matrix.columns;
    }
  }
  return {penalty, solved.sigma, solved.vectors, slope, next};
}

// grad_i u_i v_i^T for every matrix i, in the dtype of its weight.
std::vector<Tensor> power_iteration_backward(const Tensor& grad, const Tensor& vectors,
                                             const std::vector<Tensor>& weights) {
  std::vector<Tensor> gradients;
  std::vector<SpectralGradient> tasks;
  gradients.reserve(weights.size());
  int64_t left = 0, right = 0;
  for (const Tensor& weight : weights) {
    const int64_t dims = weight.dim();
    const ScalarType dtype = weight.scalar_type();
    STD_TORCH_CHECK(dims >= 2 && is_float(dtype),
                    "power_iteration_backward: weights must be floating-point matrices");
    const auto sizes = weight.sizes();
    const int64_t rows = sizes[dims - 2], columns = sizes[dims - 1];
    int64_t stack = 1;
    for (int64_t axis = 0; axis < dims - 2; ++axis) stack *= sizes[axis];
    const bool wide = dtype == ScalarType::Double;
    const ScalarType written = wide ? ScalarType::Double : ScalarType::Float;
    gradients.push_back(dims == 2 ? allocate({rows, columns}, written)
                                  : torch::stable::new_empty(weight, sizes, written));
    auto* data = static_cast<char*>(gradients.back().data_ptr());
    for (int64_t i = 0; i < stack; ++i) {
      tasks.push_back({data, wide, rows, columns, 0, nullptr, nullptr});
      data += rows * columns * (wide ? 8 : 4);
    }
    left += stack * rows;
    right += stack * columns;
  }
  const auto count = static_cast<int64_t>(tasks.size());
  STD_TORCH_CHECK(grad.numel() == count && vectors.numel() == left + right,
                  "power_iteration_backward: grad and vectors must fit the weights");
  const Doubles scales(grad), both(vectors);
  const double *scale = scales.data(), *u = both.data(), *v = u + left;
  for (SpectralGradient& task : tasks) {
    task.scale = *scale++;
    task.u = u;
    task.v = v;
    u += task.rows;
    v += task.columns;
  }
  power_iteration_backward_cpu(tasks.data(), count, torch_parallel());
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i].scalar_type() != gradients[i].scalar_type())
      gradients[i] = torch::stable::to(gradients[i], weights[i].scalar_type());
  return gradients;
}

// --- CUDA: nothing here waits for the device, so that calls can be captured in a graph -----------

// Contiguous, in float or double.
Tensor numbers_on(const Tensor& tensor, const Tensor& weight, const char* name) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == weight.get_device_index(),
                  "power_iteration: ", name, " must be on the device of the weights");
  const ScalarType dtype = tensor.scalar_type();
  const Tensor contiguous = torch::stable::contiguous(tensor);
  return dtype == ScalarType::Float || dtype == ScalarType::Double
             ? contiguous
             : torch::stable::to(contiguous, ScalarType::Double);
}

bool is_wide(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

// One call on a GPU: its results queued, the right vectors to start from next too if `with_next`.
class QueuedOnCuda {
 public:
  QueuedOnCuda(const std::vector<Tensor>& weights, const std::optional<Tensor>& start,
               int64_t iters, double tol, bool lanczos, double delta, int64_t seed, bool with_next)
      : stream(cuda_stream_of(weights.at(0), "power_iteration")) {
    STD_TORCH_CHECK(iters >= 1, "power_iteration: iters must be at least 1, got ", iters);
    STD_TORCH_CHECK(delta > 0 && delta < 1, "power_iteration: delta must lie in (0, 1)");
    const Tensor& first = weights[0];
    bool wide = false;
    for (const Tensor& weight : weights) {
      add(weight, first);
      wide = wide || is_wide(weight);
    }
    Tensor from;
    if (start.has_value()) {
      STD_TORCH_CHECK(
          start->dim() == 1 && start->size(0) == right && is_float(start->scalar_type()),
          "power_iteration: start must be floating point of shape [", right, "]");
      from = numbers_on(*start, first, "start");
    }
    const ScalarType dtype = wide ? ScalarType::Double : ScalarType::Float;
    const auto empty = [&](std::initializer_list<int64_t> shape, ScalarType type) {
      return torch::stable::new_empty(first, shape, type);
    };
    sigma = empty({count}, dtype);
    vectors = empty({left + right}, dtype);
    if (with_next) {
      next = empty({right}, dtype);
    } else {
      bounds = empty({3, count}, dtype);
      codes = empty({2, count}, ScalarType::Long);
    }
    PowerIterationCuda problem{};
    problem.weights = list_.data();
    problem.count = static_cast<int64_t>(list_.size());
    problem.passes = iters;
    problem.tol = tol;
    problem.lanczos = lanczos;
    problem.delta = delta;
    problem.seed = static_cast<uint64_t>(seed);
    problem.start = start.has_value() ? from.data_ptr() : nullptr;
    problem.start_wide = start.has_value() && is_wide(from);
    problem.wide = wide;
    problem.sigma = sigma.data_ptr();
    problem.vectors = vectors.data_ptr();
    problem.bounds = with_next ? nullptr : bounds.data_ptr();
    problem.codes = with_next ? nullptr : static_cast<int64_t*>(codes.data_ptr());
    problem.next = with_next ? next.data_ptr() : nullptr;
    if constexpr (kCudaBuilt) power_iteration_cuda(problem, stream);
  }

  CudaStream stream;
  int64_t count = 0, left = 0, right = 0;
  Tensor sigma, vectors, bounds, codes, next;

 private:
  void add(const Tensor& weight, const Tensor& first) {
    const int64_t dims = weight.dim();
    STD_TORCH_CHECK(dims >= 2, "power_iteration: weights must have at least two axes");
    STD_TORCH_CHECK(is_float(weight.scalar_type()),
                    "power_iteration: weights must be float16, bfloat16, float32 or float64");
    STD_TORCH_CHECK(weight.is_cuda() && weight.get_device_index() == first.get_device_index(),
                    "power_iteration: weights must be on one device");
    const auto sizes = weight.sizes(), strides = weight.strides();
    SpectralWeight one{};
    one.type = type_of(weight.scalar_type());
    one.stack = 1;
    for (int64_t axis = 0; axis < dims - 2; ++axis) one.stack *= sizes[axis];
    one.rows = sizes[dims - 2];
    one.columns = one.row_stride = sizes[dims - 1];
    STD_TORCH_CHECK(one.rows <= kMostRowsOnCuda && one.columns <= kMostRowsOnCuda,
                    "power_iteration: weights on CUDA must have at most 2^31 - 1 rows and columns");
    const bool readable = dims == 2 && strides[1] == 1 && strides[0] >= sizes[1];
    if (readable) one.row_stride = strides[0];
    kept_.push_back(readable ? weight : torch::stable::contiguous(weight));
    one.data = kept_.back().data_ptr();
    list_.push_back(one);
    count += one.stack;
    left += one.stack * one.rows;
    right += one.stack * one.columns;
  }

  std::vector<Tensor> kept_;
  std::vector<SpectralWeight> list_;
};

std::tuple<Tensor, Tensor, Tensor, Tensor> power_iteration_on_cuda(
    const std::vector<Tensor>& weights, const std::optional<Tensor>& start, int64_t iters,
    double tol, bool lanczos, double delta, int64_t seed) {
  const QueuedOnCuda queued(weights, start, iters, tol, lanczos, delta, seed, false);
  return {queued.sigma, queued.vectors, queued.bounds, queued.codes};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> spectral_penalty_on_cuda(
    const std::vector<Tensor>& weights, const std::optional<Tensor>& start, const Tensor& target,
    const Tensor& weight, int64_t iters, bool lanczos, int64_t seed) {
  const QueuedOnCuda queued(weights, start, iters, -1.0, lanczos, 1e-6, seed, true);
  const int64_t groups = weight.numel();
  STD_TORCH_CHECK(target.numel() == queued.count && groups > 0 && queued.count % groups == 0,
                  "spectral_penalty: target must have one number a matrix, weight one a group");
  const Tensor targets = numbers_on(target, queued.sigma, "target");
  const Tensor factors = numbers_on(weight, queued.sigma, "weight");
  const ScalarType dtype = queued.sigma.scalar_type();
  const Tensor penalty = torch::stable::new_empty(queued.sigma, weight.sizes(), dtype);
  const Tensor slope = torch::stable::new_empty(queued.sigma, {queued.count}, dtype);
  if constexpr (kCudaBuilt)
    spectral_penalty_cuda({queued.count, groups, is_wide(queued.sigma), is_wide(targets),
                           is_wide(factors), queued.sigma.data_ptr(), targets.data_ptr(),
                           factors.data_ptr(), penalty.data_ptr(), slope.data_ptr()},
                          queued.stream);
  return {penalty, queued.sigma, queued.vectors, slope, queued.next};
}

std::vector<Tensor> power_iteration_backward_on_cuda(const Tensor& grad, const Tensor& vectors,
                                                     const std::vector<Tensor>& weights) {
  const CudaStream stream = cuda_stream_of(vectors, "power_iteration_backward");
  const Tensor both = numbers_on(vectors, vectors, "vectors");
  Tensor scales = numbers_on(grad, vectors, "grad");
  if (is_wide(scales) != is_wide(both)) scales = torch::stable::to(scales, both.scalar_type());
  const bool wide = is_wide(both);
  const int64_t size = wide ? 8 : 4;
  std::vector<Tensor> gradients;
  std::vector<SpectralGradientCuda> tasks;
  int64_t count = 0, left = 0, right = 0;
  for (const Tensor& weight : weights) {
    const int64_t dims = weight.dim();
    STD_TORCH_CHECK(dims >= 2 && is_float(weight.scalar_type()),
                    "power_iteration_backward: weights must be floating-point matrices");
    gradients.push_back(torch::stable::new_empty(weight, weight.sizes(), weight.scalar_type()));
    SpectralGradientCuda task{};
    task.gradient = gradients.back().data_ptr();
    task.type = type_of(weight.scalar_type());
    task.rows = weight.size(dims - 2);
    task.columns = weight.size(dims - 1);
    task.stack = 1;
    for (int64_t axis = 0; axis < dims - 2; ++axis) task.stack *= weight.size(axis);
    STD_TORCH_CHECK(
        task.rows <= kMostRowsOnCuda && task.columns <= kMostRowsOnCuda,
        "power_iteration_backward: weights on CUDA must have at most 2^31 - 1 rows and columns");
    tasks.push_back(task);
    count += task.stack;
    left += task.stack * task.rows;
    right += task.stack * task.columns;
  }
  STD_TORCH_CHECK(scales.numel() == count && both.numel() == left + right,
                  "power_iteration_backward: grad and vectors must fit the weights");
  const auto* scale = static_cast<const char*>(scales.data_ptr());
  const auto* u = static_cast<const char*>(both.data_ptr());
  const char* v = u + left * size;
  for (SpectralGradientCuda& task : tasks) {
    task.scale = scale;
    task.u = u;
    task.v = v;
    scale += task.stack * size;
    u += task.stack * task.rows * size;
    v += task.stack * task.columns * size;
  }
  if constexpr (kCudaBuilt)
    power_iteration_backward_cuda(tasks.data(), static_cast<int64_t>(tasks.size()), wide, stream);
  return gradients;
}

// Each op twice: with a derivative that is registered in Python, which is what torch.compile needs
// and costs an eager call 7 us, and without one, for the autograd functions of eager mode.
constexpr const char* kSuffixes[] = {"", "_eager"};

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  for (const std::string suffix : kSuffixes) {
    library.def(("power_iteration" + suffix +
                 "(Tensor[] weights, Tensor? start, int iters, float tol, bool lanczos, "
                 "float delta, int seed) -> (Tensor sigma, Tensor vectors, Tensor bounds, "
                 "Tensor codes)")
                    .c_str());
    library.def(("spectral_penalty" + suffix +
                 "(Tensor[] weights, Tensor? start, Tensor target, Tensor weight, int iters, "
                 "bool lanczos, int seed) -> (Tensor penalty, Tensor sigma, Tensor vectors, "
                 "Tensor slope, Tensor next)")
                    .c_str());
    library.def(("power_iteration_backward" + suffix +
                 "(Tensor grad, Tensor vectors, Tensor[] weights) -> Tensor[]")
                    .c_str());
  }
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  for (const std::string suffix : kSuffixes) {
    library.impl(("power_iteration" + suffix).c_str(), TORCH_BOX(&power_iteration));
    library.impl(("spectral_penalty" + suffix).c_str(), TORCH_BOX(&spectral_penalty));
    library.impl(("power_iteration_backward" + suffix).c_str(),
                 TORCH_BOX(&power_iteration_backward));
  }
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  for (const std::string suffix : kSuffixes) {
    library.impl(("power_iteration" + suffix).c_str(), TORCH_BOX(&power_iteration_on_cuda));
    library.impl(("spectral_penalty" + suffix).c_str(), TORCH_BOX(&spectral_penalty_on_cuda));
    library.impl(("power_iteration_backward" + suffix).c_str(),
                 TORCH_BOX(&power_iteration_backward_on_cuda));
  }
}

}  // namespace fractalkern
