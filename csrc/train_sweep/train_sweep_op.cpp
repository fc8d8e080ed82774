// torch.ops.fractalkern.train_sweep: schema, guards and the glue of CPU and CUDA.
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>

#include "common/torch_glue.h"
#include "train_sweep/train_sweep.h"

namespace fractalkern {
namespace {

Activation parse_activation(const std::string& name) {
  if (name == "tanh") return Activation::kTanh;
  if (name == "relu") return Activation::kRelu;
  STD_TORCH_CHECK(name == "identity",
                  "train_sweep: activation must be tanh, relu or identity, got ", name);
  return Activation::kIdentity;
}

void check_matrix(const Tensor& tensor, const char* name, int64_t rows, int64_t columns) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns,
                  "train_sweep: ", name, " must have shape [", rows, ", ", columns, "]");
}

void check_vector(const Tensor& tensor, const char* name, int64_t size) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == size, "train_sweep: ", name,
                  " must have shape [", size, "]");
}

void check_device(const Tensor& tensor, const Tensor& x) {
  STD_TORCH_CHECK(tensor.device() == x.device(),
                  "train_sweep: all tensors must be on the device of x");
}

// Contiguous copies where the caller's strides need them; they live as long as the call.
struct Inputs {
  Tensor x, y, w0, w1, lr0, lr1;
  std::optional<Tensor> batches, offset, probe;
};

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

void check_batches(const Tensor& batches, int64_t steps, int64_t rows) {
  STD_TORCH_CHECK(batches.scalar_type() == ScalarType::Long, "train_sweep: batches must be int64");
  STD_TORCH_CHECK(batches.dim() == 2 && batches.size(0) == steps && batches.size(1) > 0,
                  "train_sweep: batches must have shape [steps, b] with b >= 1");
  if (batches.is_cuda()) return;  // to read it would wait for the device: the Python layer does
  const auto* row = static_cast<const int64_t*>(batches.data_ptr());
  for (int64_t i = 0; i < batches.numel(); ++i)
    STD_TORCH_CHECK(row[i] >= 0 && row[i] < rows, "train_sweep: batches holds row ", row[i],
                    ", but rows go from 0 to ", rows - 1);
}

// FRACTALKERN_SWEEP_UNIT forces a unit of the GPU, for measurements.
SweepUnit sweep_unit() {
  const char* name = std::getenv("FRACTALKERN_SWEEP_UNIT");
  if (name == nullptr) return SweepUnit::kFastest;
  const std::string unit = name;
  if (unit == "multiply-add") return SweepUnit::kMultiplyAdd;
  if (unit == "tensor-core") return SweepUnit::kTensorCore;
  STD_TORCH_CHECK(unit == "any-shape",
                  "train_sweep: FRACTALKERN_SWEEP_UNIT must be multiply-add, tensor-core or "
                  "any-shape, got ",
                  unit);
  return SweepUnit::kAnyShape;
}

template <class T>
void run(const Inputs& in, TrainSweepArgs<T> args, Tensor& value, Tensor& converged,
         Tensor& final_loss, Tensor& steps_run, Tensor& first_loss, Tensor& history) {
  args.x = static_cast<const T*>(in.x.data_ptr());
  args.y = static_cast<const T*>(in.y.data_ptr());
  args.w0 = static_cast<const T*>(in.w0.data_ptr());
  args.w1 = static_cast<const T*>(in.w1.data_ptr());
  args.lr0 = static_cast<const T*>(in.lr0.data_ptr());
  args.lr1 = static_cast<const T*>(in.lr1.data_ptr());
  args.batches = data_or_null<int64_t>(in.batches);
  args.offset = data_or_null<T>(in.offset);
  args.probe = data_or_null<T>(in.probe);
  args.value = static_cast<T*>(value.data_ptr());
  args.converged = static_cast<bool*>(converged.data_ptr());
  args.final_loss = static_cast<T*>(final_loss.data_ptr());
  args.steps_run = static_cast<int64_t*>(steps_run.data_ptr());
  args.first_loss = static_cast<T*>(first_loss.data_ptr());
  args.history = history.numel() > 0 ? static_cast<T*>(history.data_ptr()) : nullptr;
  if (in.x.is_cuda()) {
    const CudaStream stream = cuda_stream_of(in.x, "train_sweep");
    if constexpr (kCudaBuilt) train_sweep_cuda(args, stream, sweep_unit());
  } else {
    train_sweep_cpu(args, torch_parallel());
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> train_sweep(
    Tensor x, Tensor y, Tensor w0, Tensor w1, Tensor lr0, Tensor lr1, int64_t steps,
    std::string activation, std::optional<Tensor> batches, std::optional<Tensor> offset,
    bool offset_every_step, std::optional<Tensor> probe, bool history, bool published,
    bool early_exit) {
  STD_TORCH_CHECK(x.dim() == 2 && x.numel() > 0, "train_sweep: x must be a non-empty matrix");
  STD_TORCH_CHECK(w1.dim() == 2 && w1.numel() > 0, "train_sweep: w1 must be a non-empty matrix");
  STD_TORCH_CHECK(lr0.dim() == 1, "train_sweep: lr0 must have one axis");
  STD_TORCH_CHECK(steps >= 1, "train_sweep: steps must be at least 1, got ", steps);
  const int64_t rows = x.size(0), inputs = x.size(1), hidden = w1.size(0), outputs = w1.size(1);
  const int64_t networks = lr0.size(0);
  check_matrix(y, "y", rows, outputs);
  check_matrix(w0, "w0", inputs, hidden);
  check_vector(lr1, "lr1", networks);
  if (offset.has_value()) check_vector(*offset, "offset", networks);
  if (probe.has_value()) {
    check_matrix(*probe, "probe", 1, inputs);
    STD_TORCH_CHECK(outputs == 1, "train_sweep: probe needs one output, got ", outputs);
  }
  const ScalarType dtype = x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float,
                  "train_sweep: x must be float64 or float32");
  for (const Tensor* tensor : {&y, &w0, &w1, &lr0, &lr1})
    STD_TORCH_CHECK(tensor->scalar_type() == dtype, "train_sweep: all dtypes must equal that of x");
  for (const auto* tensor : {&offset, &probe})
    STD_TORCH_CHECK(!tensor->has_value() || (*tensor)->scalar_type() == dtype,
                    "train_sweep: all dtypes must equal that of x");

  for (const Tensor* tensor : {&y, &w0, &w1, &lr0, &lr1}) check_device(*tensor, x);
  for (const auto* tensor : {&batches, &offset, &probe})
    if (tensor->has_value()) check_device(**tensor, x);

  const Inputs in = {torch::stable::contiguous(x),
                     torch::stable::contiguous(y),
                     torch::stable::contiguous(w0),
                     torch::stable::contiguous(w1),
                     torch::stable::contiguous(lr0),
                     torch::stable::contiguous(lr1),
                     contiguous(batches),
                     contiguous(offset),
                     contiguous(probe)};
  if (in.batches.has_value()) check_batches(*in.batches, steps, rows);

  Tensor value = torch::stable::new_empty(in.x, {networks});
  Tensor converged = torch::stable::new_empty(in.x, {networks}, ScalarType::Bool);
  Tensor final_loss = torch::stable::new_empty(in.x, {networks});
  Tensor steps_run = torch::stable::new_empty(in.x, {networks}, ScalarType::Long);
  Tensor first_loss = torch::stable::new_empty(in.x, {networks});
  Tensor losses = torch::stable::new_empty(in.x, {history ? steps : 0, networks});

  const auto fill = [&](auto scalar) {
    TrainSweepArgs<decltype(scalar)> args{};
    args.rows = rows;
    args.inputs = inputs;
    args.hidden = hidden;
    args.outputs = outputs;
    args.networks = networks;
    args.steps = steps;
    args.batch_rows = in.batches.has_value() ? in.batches->size(1) : 0;
    args.activation = parse_activation(activation);
    args.offset_every_step = offset_every_step && offset.has_value();
    args.published = published;
    args.early_exit = early_exit;
    run(in, args, value, converged, final_loss, steps_run, first_loss, losses);
  };
  if (dtype == ScalarType::Double) {
    fill(double{});
  } else {
    fill(float{});
  }
  return {value, converged, final_loss, steps_run, first_loss, losses};
}

template <class T>
void run_tanh(const Tensor& in, Tensor& out) {
  const T* from = static_cast<const T*>(in.data_ptr());
  T* to = static_cast<T*>(out.data_ptr());
  if (in.is_cuda()) {
    const CudaStream stream = cuda_stream_of(in, "vector_tanh");
    if constexpr (kCudaBuilt) vector_tanh_cuda(from, to, in.numel(), stream);
  } else {
    vector_tanh_cpu(from, to, in.numel());
  }
}

// Exposes the kernel's tanh to the tests that check its error.
Tensor vector_tanh(Tensor input) {
  const Tensor in = torch::stable::contiguous(input);
  Tensor out = torch::stable::empty_like(in);
  if (in.scalar_type() == ScalarType::Double) {
    run_tanh<double>(in, out);
  } else {
    STD_TORCH_CHECK(in.scalar_type() == ScalarType::Float,
                    "vector_tanh: input must be float64 or float32");
    run_tanh<float>(in, out);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def(
      "train_sweep(Tensor x, Tensor y, Tensor w0, Tensor w1, Tensor lr0, Tensor lr1, int steps, "
      "str activation, Tensor? batches, Tensor? offset, bool offset_every_step, Tensor? probe, "
      "bool history, bool published, bool early_exit) -> (Tensor value, Tensor converged, "
      "Tensor final_loss, Tensor steps_run, Tensor first_loss, Tensor history)");
  library.def("vector_tanh(Tensor input) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("train_sweep", TORCH_BOX(&train_sweep));
  library.impl("vector_tanh", TORCH_BOX(&vector_tanh));
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  library.impl("train_sweep", TORCH_BOX(&train_sweep));
  library.impl("vector_tanh", TORCH_BOX(&vector_tanh));
}

}  // namespace fractalkern
