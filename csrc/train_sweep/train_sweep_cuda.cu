// train_sweep on a GPU. A network lives in the registers of a team of lanes from its first step to
// its last: nothing is read but x and y, which the block keeps in shared memory, and nothing
// written but the results. A team that has finished a network, early or not, takes the next one
// from a queue, so that no lane waits for another's network; no network's arithmetic depends on
// who trains it, or when, so that any order and number of networks gives the same bits.
#include <algorithm>

#include "train_sweep/train_sweep_cuda_any_shape.h"
#include "train_sweep/train_sweep_cuda_batches.h"
#include "train_sweep/train_sweep_cuda_multiply_add.h"
#include "train_sweep/train_sweep_cuda_tensor_core.h"

namespace fractalkern {
namespace cuda {

constexpr const char* kOp = "train_sweep";
constexpr int64_t kMostWorkspace = int64_t{1} << 30;  // but for a single block

inline int64_t round_up(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

template <class T>
int64_t data_bytes(const TrainSweepArgs<T>& args, int64_t stride) {
  const int64_t rows = round_up(args.rows, kRowMultiple) + 1;
  return round_up(rows * (stride + args.outputs) * static_cast<int64_t>(sizeof(T)), 16);
}

template <class T>
Sweep<T> prepare(const TrainSweepArgs<T>& args, int64_t stride, const CudaStream& stream) {
  Sweep<T> sweep{};
  sweep.args = args;
  sweep.stride = stride;
  sweep.padded_rows = round_up(args.rows, kRowMultiple);
  sweep.data_bytes = data_bytes(args, stride);
  const int64_t rows = args.batches != nullptr ? args.batch_rows : args.rows;
  const double terms = static_cast<double>(rows) * static_cast<double>(args.outputs * args.hidden);
  sweep.output_scale = static_cast<T>(1.0 / static_cast<double>(args.hidden));
  sweep.residual_scale = static_cast<T>(2.0 / terms);
  T* x = static_cast<T*>(stream.scratch(sweep.data_bytes));
  T* y = x + (sweep.padded_rows + 1) * stride;
  sweep.x = x;
  sweep.y = y;
  void* counter = stream.scratch(sizeof(*sweep.next_network));
  sweep.next_network = static_cast<unsigned long long*>(counter);
  check_cuda(cudaMemsetAsync(counter, 0, sizeof(*sweep.next_network), native(stream)), kOp);
  launch(kOp, &prepare_data<T>, 32, 256, 0, stream, sweep, input_scale(args), x, y);
  return sweep;
}

// As many blocks as are resident at once, or as there are networks.
template <class Engine, class T>
int grid_size(const TrainSweepArgs<T>& args, const CudaStream& stream) {
  return static_cast<int>(
      std::min<int64_t>(int64_t{multiprocessors(stream)} * Engine::kBlocks, args.networks));
}

template <class T>
void train_any_shape(const TrainSweepArgs<T>& args, const CudaStream& stream) {
  using Engine = AnyShapeEngine<T>;
  Sweep<T> sweep = prepare(args, args.inputs, stream);
  const int64_t block_bytes =
      Engine::kThreads / kWarp * Engine::workspace_size(args) * static_cast<int64_t>(sizeof(T));
  const int64_t most_blocks = std::max<int64_t>(1, kMostWorkspace / block_bytes);
  const int blocks =
      static_cast<int>(std::min<int64_t>(grid_size<Engine>(args, stream), most_blocks));
  sweep.workspace = static_cast<T*>(stream.scratch(blocks * block_bytes));
  launch(kOp, &train_networks<Engine, T>, blocks, Engine::kThreads,
         static_cast<size_t>(shared_bytes<Engine, T>(0)), stream, sweep);
}

// False, and nothing done, if the data do not fit the shared memory that `Engine` keeps them in.
template <class Engine, class T>
bool train_in_registers(const TrainSweepArgs<T>& args, const CudaStream& stream) {
  const int64_t bytes = shared_bytes<Engine, T>(data_bytes(args, Engine::kStride));
  const auto* const kernel = reinterpret_cast<const void*>(&train_networks<Engine, T>);
  if (bytes > allow_shared_memory(kernel, stream, kOp)) return false;
  const Sweep<T> sweep = prepare(args, Engine::kStride, stream);
  const int blocks = grid_size<Engine>(args, stream);
  launch(kOp, &train_networks<Engine, T>, blocks, Engine::kThreads, static_cast<size_t>(bytes),
         stream, sweep);
  return true;
}

// The narrowest engine that takes the shape and finds room for the data; the widest reads it from
// memory where there is none.
template <template <int, bool> class Engine, class T>
void train_narrowest(const TrainSweepArgs<T>& args, const CudaStream& stream) {
  const int64_t width = std::max(args.inputs, args.hidden);
  if (width <= 8 && train_in_registers<Engine<8, true>>(args, stream)) return;
  if (width <= 16 && train_in_registers<Engine<16, true>>(args, stream)) return;
  if (train_in_registers<Engine<32, true>>(args, stream)) return;
  train_in_registers<Engine<32, false>>(args, stream);
}

template <int kWidth, bool kDataInShared>
using DoubleEngine = MultiplyAddEngine<double, kWidth, kDataInShared>;
template <int kWidth, bool kDataInShared>
using FloatEngine = MultiplyAddEngine<float, kWidth, kDataInShared>;

inline void train(const TrainSweepArgs<double>& args, const CudaStream& stream, SweepUnit unit) {
  if (unit == SweepUnit::kMultiplyAdd) {
    train_narrowest<DoubleEngine>(args, stream);
  } else {
    train_narrowest<TensorCoreEngine>(args, stream);
  }
}

inline void train(const TrainSweepArgs<float>& args, const CudaStream& stream, SweepUnit) {
  train_narrowest<FloatEngine>(args, stream);
}

template <class T>
void sweep_networks(const TrainSweepArgs<T>& given, const CudaStream& stream, SweepUnit unit) {
  if (given.networks == 0) return;
  const CudaDeviceGuard guard(stream.device, kOp);
  const bool narrow = given.outputs == 1 && std::max(given.inputs, given.hidden) <= 32;
  const bool few_rows = std::max(given.rows, given.batch_rows) < 1 << 30;  // fit their Index
  with_rows_of_x(kOp, given, stream, [&](const TrainSweepArgs<T>& args) {
    if (narrow && few_rows && unit != SweepUnit::kAnyShape) {
      train(args, stream, unit);
    } else {
      train_any_shape(args, stream);
    }
  });
}

template <class T>
__global__ void tanh_array(const T* in, T* out, int64_t size) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size;
       i += threads) {
    T value[1] = {in[i]};
    fast_tanh(value);
    out[i] = value[0];
  }
}

template <class T>
void launch_tanh(const T* in, T* out, int64_t size, const CudaStream& stream) {
  if (size == 0) return;
  const CudaDeviceGuard guard(stream.device, "vector_tanh");
  const int64_t blocks = std::min<int64_t>((size + 255) / 256, 1024);
  launch("vector_tanh", &tanh_array<T>, static_cast<unsigned>(blocks), 256, 0, stream, in, out,
         size);
}

}  // namespace cuda

void train_sweep_cuda(const TrainSweepArgs<double>& args, const CudaStream& stream,
                      SweepUnit unit) {
  cuda::sweep_networks(args, stream, unit);
}

void train_sweep_cuda(const TrainSweepArgs<float>& args, const CudaStream& stream, SweepUnit unit) {
  cuda::sweep_networks(args, stream, unit);
}

void vector_tanh_cuda(const double* in, double* out, int64_t size, const CudaStream& stream) {
  cuda::launch_tanh(in, out, size, stream);
}

void vector_tanh_cuda(const float* in, float* out, int64_t size, const CudaStream& stream) {
  cuda::launch_tanh(in, out, size, stream);
}

}  // namespace fractalkern
