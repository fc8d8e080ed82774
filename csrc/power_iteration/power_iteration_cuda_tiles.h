// A block's rows of a matrix, as they come through its shared memory: once for all passes where
// they fit, else in a ring of three tiles, two of them on their way while one is worked on. The
// ring goes on over the end of a pass, so that the first tiles of the next one arrive during what
// is done between passes. Rows too long for a ring are read where they are.
#pragma once

#include "common/cuda_async_copy.h"
#include "common/cuda_launch.h"

namespace fractalkern {

constexpr int kTileRows = 64;  // at most; no block has fewer threads

// By all threads of the block. Arrives with the groups of asynchronous copies, but for what is not
// aligned to 4 bytes, which arrives at once.
__device__ __noinline__ inline void copy_few(unsigned char* to, const unsigned char* from,
                                             int64_t bytes) {
  const auto thread = static_cast<int64_t>(threadIdx.x);
  const auto addresses = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
  if ((addresses | static_cast<uintptr_t>(bytes)) % 4 == 0) {
    for (int64_t i = 4 * thread; i < bytes; i += 4 * int64_t{blockDim.x})
      copy_async<4>(to + i, from + i);
  } else {
    for (int64_t i = 2 * thread; i < bytes; i += 2 * int64_t{blockDim.x})
      *reinterpret_cast<uint16_t*>(to + i) = *reinterpret_cast<const uint16_t*>(from + i);
  }
}

__device__ __noinline__ inline void copy_bytes(unsigned char* to, const unsigned char* from,
                                               int64_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(from);
  if ((at ^ reinterpret_cast<uintptr_t>(to)) % 16 != 0) return copy_few(to, from, bytes);
  int64_t head = static_cast<int64_t>((16 - at % 16) % 16);
  head = head < bytes ? head : bytes;
  const int64_t body = (bytes - head) / 16 * 16, tail = bytes - head - body;
  for (int64_t i = head + 16 * int64_t{threadIdx.x}; i < head + body; i += 16 * int64_t{blockDim.x})
    copy_async<16>(to + i, from + i);
  if (head > 0) copy_few(to, from, head);
  if (tail > 0) copy_few(to + head + body, from + head + body, tail);
}

struct Tile {
  const unsigned char* data;
  int64_t pitch;  // in bytes
  int rows;
};

class Tiles {
 public:
  // Rows [begin, end) of the matrix at `data`, of entries of `size` bytes; `region` has `bytes` and
  // is aligned to 16.
  __device__ Tiles(const void* data, int64_t size, int64_t begin, int64_t end, int64_t columns,
                   int64_t row_stride, unsigned char* region, int64_t bytes)
      : data_(static_cast<const unsigned char*>(data) + begin * row_stride * size),
        rows_(end - begin),
        row_bytes_(columns * size),
        stride_(row_stride * size),
        region_(region) {
    contiguous_ = stride_ == row_bytes_ || rows_ == 1;
    pitch_ = contiguous_ ? row_bytes_ : (row_bytes_ + 15) / 16 * 16;
    resident_ = rows_ * pitch_ + 16 <= bytes;
    const int64_t stage_rows = (bytes / kStages - 32) / pitch_;
    direct_ = !resident_ && stage_rows < 1;
    const int64_t most = resident_ ? kTileRows : direct_ ? kDirectRows : stage_rows;
    tile_rows_ = static_cast<int>(most < kTileRows ? most : kTileRows);
    stage_bytes_ = (tile_rows_ * pitch_ + 31) / 16 * 16;
    count_ = (rows_ + tile_rows_ - 1) / tile_rows_;
    if (count_ == 0 || direct_) return;
    if (resident_) {
      copy(region_, 0, rows_);
      commit_async_copies();
      drain();
    } else {
      for (int i = 0; i + 1 < kStages; ++i) fetch();
    }
  }

  __device__ __forceinline__ int64_t count() const { return count_; }
  __device__ __forceinline__ int64_t first_row(int64_t tile) const { return tile * tile_rows_; }

  // The next tile of a pass, in their order. To be called by all threads, which are done with the
  // one before the last then.
  __device__ Tile next(int64_t tile) {
    const int64_t row = tile * tile_rows_, left = rows_ - row;
    const int rows = static_cast<int>(left < tile_rows_ ? left : tile_rows_);
    if (direct_) return {data_ + row * stride_, stride_, rows};
    if (resident_) return {at(region_, 0) + row * pitch_, pitch_, rows};
    await_async_copies<1>();
    __syncthreads();
    const Tile found{at(stage(taken_), row), pitch_, rows};
    taken_ = taken_ + 1 == kStages ? 0 : taken_ + 1;
    fetch();
    return found;
  }

  // Leaves nothing on its way.
  __device__ void drain() {
    await_async_copies<0>();
    __syncthreads();
  }

 private:
  static constexpr int kStages = 3;
  static constexpr int kDirectRows = 4;

  __device__ unsigned char* stage(int number) const { return region_ + number * stage_bytes_; }

  // Where a row comes to lie: as far from a multiple of 16 bytes as it does in global memory.
  __device__ unsigned char* at(unsigned char* stage, int64_t row) const {
    return stage + reinterpret_cast<uintptr_t>(data_ + row * stride_) % 16;
  }

  __device__ void copy(unsigned char* stage, int64_t row, int64_t rows) {
    unsigned char* const to = at(stage, row);
    const unsigned char* const from = data_ + row * stride_;
    const int64_t copies = contiguous_ ? 1 : rows;
    const int64_t bytes = contiguous_ ? rows * row_bytes_ : row_bytes_;
    for (int64_t i = 0; i < copies; ++i) copy_bytes(to + i * pitch_, from + i * stride_, bytes);
  }

  __device__ void fetch() {
    const int64_t row = fetched_ * tile_rows_, left = rows_ - row;
    copy(stage(filled_), row, left < tile_rows_ ? left : tile_rows_);
    commit_async_copies();
    fetched_ = fetched_ + 1 == count_ ? 0 : fetched_ + 1;
    filled_ = filled_ + 1 == kStages ? 0 : filled_ + 1;
  }

  const unsigned char* data_;
  int64_t rows_, row_bytes_, stride_, pitch_, count_, stage_bytes_;  // stride_, pitch_: in bytes
  int64_t fetched_ = 0;                                              // the tile to ask for next
  int filled_ = 0, taken_ = 0;  // the stages to fill and to take next
  int tile_rows_;
  bool contiguous_, resident_, direct_;
  unsigned char* region_;
};

}  // namespace fractalkern
