// A thread draws a quad at a time, the four words of one counter, which decide on four elements.
// It writes them as 16 bytes where its row begins at a multiple of those, as rows of a length that
// four divides do, else one by one. A block takes pieces of rows, its threads neighbouring quads.
#include <algorithm>

#include "common/cuda_launch.h"
#include "dropout_mask/dropout_mask.h"

#define FRACTALKERN_ISA cuda
#define FRACTALKERN_MATH FRACTALKERN_HOST_DEVICE
#include "common/philox.h"
#undef FRACTALKERN_ISA
#undef FRACTALKERN_MATH

namespace fractalkern {
namespace {

constexpr const char* kOp = "dropout_mask";
constexpr int kThreads = 256;
constexpr int64_t kPiece = 1024;              // quads of a row
constexpr int kBlocksPerMultiprocessor = 64;  // a dozen rounds of those that run at once

// `lowest` is the least word that keeps its element.
__global__ void __launch_bounds__(kThreads)
    dropout_mask_kernel(const __grid_constant__ DropoutMask p, uint32_t lowest, int64_t pieces) {
  const int64_t quads = (p.count + 3) / 4;
  for (int64_t i = blockIdx.x; i < p.rows * pieces; i += gridDim.x) {
    const int64_t row = i / pieces, begin = (i - row * pieces) * kPiece;
    const int64_t end = begin + kPiece < quads ? begin + kPiece : quads;
    const auto key0 = static_cast<uint32_t>(p.keys[2 * row]);
    const auto key1 = static_cast<uint32_t>(p.keys[2 * row + 1]);
    float* const to = p.values + row * p.count;
    const bool aligned = reinterpret_cast<uintptr_t>(to) % 16 == 0;
    for (int64_t quad = begin + threadIdx.x; quad < end; quad += blockDim.x) {
      uint64_t word[4] = {static_cast<uint64_t>(quad), p.counter[0], p.counter[1], p.counter[2]};
      cuda::philox4x32(word, key0, key1);
      const auto value = [&](int k) {
        return static_cast<uint32_t>(word[k]) >= lowest ? p.scale : 0.0f;
      };
      const int64_t left = p.count - 4 * quad;
      float* const own = to + 4 * quad;
      if (aligned && left >= 4) {
        *reinterpret_cast<float4*>(own) = {value(0), value(1), value(2), value(3)};
      } else {
        FRACTALKERN_UNROLL
        for (int k = 0; k < 4; ++k)
          if (k < left) own[k] = value(k);
      }
    }
  }
}

}  // namespace

void dropout_mask_cuda(const DropoutMask& mask, const CudaStream& stream) {
  if (mask.rows * mask.count == 0) return;
  const CudaDeviceGuard guard(stream.device, kOp);
  DropoutMask drawn = mask;
  uint64_t lowest = mask.threshold;
  if (lowest >> 32 != 0) {  // above every word: nothing is kept
    lowest = 0xFFFFFFFF;
    drawn.scale = 0;
  }
  const int64_t quads = (mask.count + 3) / 4, pieces = (quads + kPiece - 1) / kPiece;
  const int64_t threads = std::min<int64_t>(kThreads, (quads + kWarp - 1) / kWarp * kWarp);
  const int64_t most = int64_t{multiprocessors(stream)} * kBlocksPerMultiprocessor;
  launch(kOp, &dropout_mask_kernel, static_cast<unsigned>(std::min(mask.rows * pieces, most)),
         static_cast<unsigned>(threads), 0, stream, drawn, static_cast<uint32_t>(lowest), pieces);
}

}  // namespace fractalkern
