// What is left of a penalty once the top triples are known: its value and slopes, and the gradient
// scale u v^T of every matrix, written once, in the matrix's own type.
//
// A block of the gradient's kernel writes one piece of a matrix, four entries a thread at a time;
// the floor is the bytes written over the memory's bandwidth. The list of stacks is the launch's
// parameter.
#include <algorithm>

#include "common/cuda_launch.h"
#include "common/cuda_team.h"
#include "common/half_precision.h"
#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_cuda_numbers.h"

namespace fractalkern {
namespace {

constexpr const char* kOp = "power_iteration_backward";
constexpr const char* kPenalty = "spectral_penalty";
constexpr int kThreads = 256;
constexpr int kPiece = 8192;  // entries of a block
constexpr int kGradientsOfALaunch = 50;

struct GradientBatch {
  SpectralGradientCuda stacks[kGradientsOfALaunch];
  int64_t last_piece[kGradientsOfALaunch];  // one past it, counted over all stacks
  bool wide;
};
static_assert(sizeof(GradientBatch) <= 4096);

int64_t pieces_of_a_matrix(const SpectralGradientCuda& g) {
  return (g.rows * g.columns + kPiece - 1) / kPiece;
}

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Entries {
  T entry[kCount];
};

// Entries [begin, end) of a matrix, whose numbers are read as R and multiplied as A.
template <class T, class R, class A>
__device__ void write_piece(const SpectralGradientCuda& g, int64_t matrix, int64_t begin,
                            int64_t end) {
  constexpr int kCount = 4;
  T* const to = static_cast<T*>(g.gradient) + matrix * g.rows * g.columns;
  const R* const u = static_cast<const R*>(g.u) + matrix * g.rows;
  const R* const v = static_cast<const R*>(g.v) + matrix * g.columns;
  const A scale = static_cast<A>(static_cast<const R*>(g.scale)[matrix]);
  const auto columns = static_cast<uint32_t>(g.columns);
  const int64_t first_row = begin / g.columns;
  const auto first_column = static_cast<uint32_t>(begin % g.columns);
  // A matrix of a stack may start anywhere.
  const bool aligned = reinterpret_cast<uintptr_t>(to) % sizeof(Entries<T, kCount>) == 0;
  const auto size = static_cast<uint32_t>(end - begin);
  for (uint32_t i = threadIdx.x * kCount; i < size; i += kThreads * kCount) {
    // Below 2^31 + 2^13.
    uint32_t column = first_column + i;
    int64_t row = first_row;
    if (column >= columns) {
      row += column / columns;
      column %= columns;
    }
    A factor = scale * static_cast<A>(u[row]);
    Entries<T, kCount> written{};
    const int here = size - i < kCount ? static_cast<int>(size - i) : kCount;
    FRACTALKERN_UNROLL
    for (int k = 0; k < kCount; ++k) {
      if (k >= here) break;
      if (column == columns) {
        column = 0;
        factor = scale * static_cast<A>(u[++row]);
      }
      written.entry[k] = rounded_to<T>(factor * static_cast<A>(v[column++]));
    }
    if (aligned && here == kCount) {
      *reinterpret_cast<Entries<T, kCount>*>(to + begin + i) = written;
    } else {
      FRACTALKERN_UNROLL
      for (int k = 0; k < kCount; ++k)
        if (k < here) to[begin + i + k] = written.entry[k];
    }
  }
}

template <class T, class A>
__device__ void write_piece_of(const SpectralGradientCuda& g, bool wide, int64_t matrix,
                               int64_t begin, int64_t end) {
  if (wide) return write_piece<T, double, double>(g, matrix, begin, end);
  write_piece<T, float, A>(g, matrix, begin, end);
}

__global__ void __launch_bounds__(kThreads)
    write_gradients(const __grid_constant__ GradientBatch batch) {
  const auto piece = static_cast<int64_t>(blockIdx.x);
  int stack = 0;
  while (piece >= batch.last_piece[stack]) ++stack;
  const SpectralGradientCuda& g = batch.stacks[stack];
  const int64_t before = stack > 0 ? batch.last_piece[stack - 1] : 0;
  const int64_t entries = g.rows * g.columns, pieces = (entries + kPiece - 1) / kPiece;
  const int64_t matrix = (piece - before) / pieces, begin = (piece - before) % pieces * kPiece;
  const int64_t end = begin + kPiece < entries ? begin + kPiece : entries;
  switch (g.type) {
    case SpectralType::kFloat:
      return write_piece_of<float, float>(g, batch.wide, matrix, begin, end);
    case SpectralType::kDouble:
      return write_piece_of<double, double>(g, batch.wide, matrix, begin, end);
    case SpectralType::kHalf:
      return write_piece_of<Half, float>(g, batch.wide, matrix, begin, end);
    case SpectralType::kBFloat16:
      return write_piece_of<BFloat16, float>(g, batch.wide, matrix, begin, end);
  }
}

// A warp for each group.
__global__ void sum_penalties(const SpectralPenaltyCuda p) {
  const int64_t group = blockIdx.x;
  const double scale = load_number(p.weight, group, p.weight_wide);
  double sum = 0;
  for (int64_t i = group + p.groups * threadIdx.x; i < p.count; i += p.groups * kWarp) {
    const double difference =
        load_number(p.sigma, i, p.wide) - load_number(p.target, i, p.target_wide);
    sum += difference * difference;
    store_number(p.slope, i, 2 * scale * difference, p.wide);
  }
  sum = warp_sum(sum);
  if (threadIdx.x == 0) store_number(p.penalty, group, scale * sum, p.wide);
}

}  // namespace

void power_iteration_backward_cuda(const SpectralGradientCuda* gradients, int64_t count, bool wide,
                                   const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, kOp);
  GradientBatch batch{};
  batch.wide = wide;
  int stacks = 0;
  int64_t pieces = 0;
  constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;
  const auto flush = [&] {
    if (pieces > 0)
      launch(kOp, &write_gradients, static_cast<unsigned>(pieces), kThreads, 0, stream, batch);
    stacks = 0;
    pieces = 0;
  };
  for (int64_t i = 0; i < count; ++i) {
    SpectralGradientCuda left = gradients[i];
    const int64_t of_one = pieces_of_a_matrix(left);
    while (left.stack > 0 && of_one > 0) {
      SpectralGradientCuda part = left;
      part.stack = std::min(left.stack, std::max<int64_t>(kMostBlocks / of_one, 1));
      if (stacks == kGradientsOfALaunch || pieces + part.stack * of_one > kMostBlocks) flush();
      pieces += part.stack * of_one;
      batch.stacks[stacks] = part;
      batch.last_piece[stacks++] = pieces;
      const auto skip = [&](const void* from, int64_t numbers) {
        return static_cast<const void*>(static_cast<const char*>(from) + numbers * (wide ? 8 : 4));
      };
      left.stack -= part.stack;
      left.scale = skip(left.scale, part.stack);
      left.u = skip(left.u, part.stack * left.rows);
      left.v = skip(left.v, part.stack * left.columns);
      left.gradient = static_cast<char*>(left.gradient) +
                      part.stack * left.rows * left.columns * bytes_of(left.type);
    }
  }
  flush();
}

void spectral_penalty_cuda(const SpectralPenaltyCuda& problem, const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, kPenalty);
  launch(kPenalty, &sum_penalties, static_cast<unsigned>(problem.groups), kWarp, 0, stream,
         problem);
}

}  // namespace fractalkern
