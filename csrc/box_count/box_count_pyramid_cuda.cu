// Powers of two from one origin: a pyramid, as on the CPU. A warp takes a tile of 64 rows of 128
// cells: 16 loads of 16 bytes a lane, all in flight together, each of which a warp spends on four
// whole lines. Cells become bits as they arrive (20 instructions for 16 bytes); a lane then holds
// 16 rows of 16 cells, two rows to a register, and merges level after level: rows by OR, cells by
// w | w >> 2^(level - 1), and across lanes by shuffles once a box outgrows what a lane holds.
// Nothing passes through shared memory, and only the counts and the tile's topmost boxes leave the
// registers: these go to byte maps 2^(levels * axes) times smaller, counted by the next launch.
//
// Which rows make a tile depends on the number of axes: always 64, so that boxes of 64, 8, 4 and 2
// cells fit in two, three, four and five dimensions (128 in one). Bit i of a row's number belongs
// to axis dims - 2 - i % (dims - 1), so that a level merges neighbouring bits of it. Bits 0 to 3
// choose the row within a lane, bits 4 and 5 are bits 3 and 4 of the lane; bits 0 to 2 of the lane
// choose 16 of the 128 cells.
#include <algorithm>
#include <bit>
#include <cstdint>

#include "box_count/box_count_cuda.h"
#include "box_count/box_count_math.h"
#include "common/cuda_launch.h"

namespace fractalkern {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kMostLevels = 7;

// What is counted: boxes with a cell of the set, or with cells of both kinds. The other kind is the
// complement in the first pass, a map of its own in the later ones.
enum class Planes { kOne, kComplement, kTwo };

// One launch: levels 0 to Tile::kLevels of these maps.
struct Pass {
  const uint8_t* one;   // [batch, *shape], nonzero = the box holds a cell of the set
  const uint8_t* zero;  // the same for cells outside it; only with Planes::kTwo
  int64_t batch, cells;
  int64_t shape[kBoxCountMaxDims], stride[kBoxCountMaxDims];
  int64_t tiles[kBoxCountMaxDims], tiles_per_mask;
  bool crop;
  bool aligned;  // every row begins at a multiple of 16 bytes

  uint8_t *coarse_one, *coarse_zero;  // [batch, *coarse_shape], written; null if there is no level
  int64_t coarse_cells, coarse_shape[kBoxCountMaxDims], coarse_stride[kBoxCountMaxDims];

  int64_t* counts;  // [batch, counts_stride]
  int64_t counts_stride;
  int64_t column[kMostLevels + 1];  // of each level; -1: not wanted
};

template <int kDims>
struct Tile {
  static constexpr int kLast = kDims - 1;
  static constexpr int kLeading = kDims == 1 ? 1 : kDims - 1;
  static constexpr int kRowBits = 6;
  static constexpr int kLevels = kDims == 1   ? 7
                                 : kDims == 2 ? 6
                                 : kDims == 3 ? 3
                                 : kDims == 4 ? 2
                                              : 1;
  // Bits of a row's number that merge, up to `level`; the others only make the tile longer.
  static FRACTALKERN_HOST_DEVICE constexpr int merged_bits(int level) { return level * kLast; }

  static FRACTALKERN_HOST_DEVICE constexpr int bit_axis(int bit) {
    if (kDims == 1) return 0;
    return bit < merged_bits(kLevels) ? kLast - 1 - bit % kLeading : kLast - 1;
  }
  static FRACTALKERN_HOST_DEVICE constexpr int64_t bit_distance(int bit) {
    if (kDims == 1) return int64_t{128} << bit;
    const int rank =
        bit < merged_bits(kLevels) ? bit / kLeading : kLevels + bit - merged_bits(kLevels);
    return int64_t{1} << rank;
  }
  // Where row `row` of the tile lies along an axis, from the tile's own origin.
  static FRACTALKERN_HOST_DEVICE constexpr int64_t row_coordinate(int row, int axis) {
    int64_t coordinate = 0;
    for (int bit = 0; bit < kRowBits; ++bit)
      if ((row >> bit & 1) != 0 && bit_axis(bit) == axis) coordinate += bit_distance(bit);
    return coordinate;
  }
  static FRACTALKERN_HOST_DEVICE constexpr int64_t extent(int axis) {
    return row_coordinate((1 << kRowBits) - 1, axis) + (axis == kLast ? 128 : 1);
  }
  // Registers of a lane that are in use once `level` is merged, and whether both halves are.
  static FRACTALKERN_HOST_DEVICE constexpr int registers(int level) {
    if (kDims == 1) return level >= 5 ? 1 : 8;
    return 8 >> (merged_bits(level) < 3 ? merged_bits(level) : 3);
  }
  static FRACTALKERN_HOST_DEVICE constexpr bool halves(int level) { return merged_bits(level) < 4; }
  // Bits of the lane that are zero in the one lane that speaks for a box of `level`.
  static FRACTALKERN_HOST_DEVICE constexpr int followers(int level) {
    const int rows = merged_bits(level) >= 6 ? 0x18 : merged_bits(level) == 5 ? 0x08 : 0;
    return rows | (level > 4 ? (1 << (level - 4)) - 1 : 0);
  }
};

// The tile that a warp works on, as one of its lanes sees it.
template <int kDims>
struct Place {
  using T = Tile<kDims>;

  int64_t item;
  int64_t start[kDims];  // the lane's first cell
  int64_t offset;        // of it, in cells from the first mask
  bool inside;           // the tile lies wholly inside the array

  __device__ Place(const Pass& p, int64_t index, int lane) {
    item = p.batch == 1 ? 0 : index / p.tiles_per_mask;
    int64_t rest = index - item * p.tiles_per_mask;
    offset = item * p.cells;
    inside = true;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = T::kLast; k >= 0; --k) {
      int64_t tile = rest;
      if (k > 0) {
        rest = rest / p.tiles[k];
        tile -= rest * p.tiles[k];
      }
      start[k] = tile * T::extent(k);
      inside &= start[k] + T::extent(k) <= p.shape[k];
    }
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int bit = 4; bit < T::kRowBits; ++bit)
      if ((lane >> (bit - 1) & 1) != 0) start[T::bit_axis(bit)] += T::bit_distance(bit);
    start[T::kLast] += lane % 8 * 16;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = 0; k < kDims; ++k) offset += start[k] * p.stride[k];
  }

  // The cells of the lane's row `row` that lie below the array's sides, these rounded down to
  // multiples of 2^level.
  __device__ uint32_t valid(const Pass& p, int row, int level) const {
    bool exists = true;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int k = 0; k < T::kLast; ++k)
      exists &= start[k] + T::row_coordinate(row, k) < p.shape[k] >> level << level;
    const int64_t first = start[T::kLast] + T::row_coordinate(row, T::kLast);
    const int64_t cells = (p.shape[T::kLast] >> level << level) - first;
    return exists ? static_cast<uint32_t>(low_bits(cells)) & 0xffffu : 0;
  }
  __device__ uint32_t valid_pair(const Pass& p, int row, int level) const {
    return valid(p, row, level) | valid(p, row + 8, level) << 16;
  }
};

// Where row `row` of a lane lies from its first one, in cells.
template <int kDims>
__device__ __forceinline__ int64_t row_offset(const Pass& p, int row) {
  int64_t offset = 0;
  FRACTALKERN_UNROLL_ON_DEVICE
  for (int bit = 0; bit < 4; ++bit)
    if ((row >> bit & 1) != 0)
      offset += Tile<kDims>::bit_distance(bit) * p.stride[Tile<kDims>::bit_axis(bit)];
  return offset;
}

// The cells of the lane's 16 rows: row i to the lower half of bits[i % 8], or to the upper one from
// row 8 on.
template <int kDims>
__device__ __forceinline__ void load_tile(const Pass& p, const uint8_t* map,
                                          const Place<kDims>& place, uint32_t (&bits)[8]) {
  const uint8_t* const first = map + place.offset;
  if (p.aligned) {
    uint32_t exists = 0xffff;
    if (!place.inside) {
      exists = 0;
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int row = 0; row < 16; ++row)
        exists |= static_cast<uint32_t>(place.valid(p, row, 0) != 0) << row;
    }
    uint4 bytes[16];
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int row = 0; row < 16; ++row) {
      bytes[row] = uint4{0, 0, 0, 0};
      if ((exists >> row & 1) != 0)
        bytes[row] = __ldg(reinterpret_cast<const uint4*>(first + row_offset<kDims>(p, row)));
    }
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int i = 0; i < 8; ++i)
      bits[i] = pack_16_bytes(bytes[i]) | pack_16_bytes(bytes[i + 8]) << 16;
    return;
  }

  // Two blocks a row, except at the ends of the whole array. Four rows a turn, whose loads are in
  // flight together; all 16 would not fit the registers. A register's number must be known to the
  // compiler: they rotate.
  constexpr int kTogether = 2;
  const bool in_blocks =
      __all_sync(kWholeWarp, first - past_block(first) >= map &&
                                 place.offset + row_offset<kDims>(p, 15) + 32 <= p.batch * p.cells);
  FRACTALKERN_ROLLED_ON_DEVICE
  for (int i = 0; i < 8; i += kTogether) {
    uint32_t pair[kTogether];
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int j = 0; j < kTogether; ++j) {
      const uint32_t valid = place.inside ? ~uint32_t{0} : place.valid_pair(p, i + j, 0);
      const uint8_t* const lower = first + row_offset<kDims>(p, i + j);
      const uint8_t* const upper = lower + row_offset<kDims>(p, 8);
      pair[j] = in_blocks ? load_two_blocks(lower, valid & 0xffff) |
                                load_two_blocks(upper, valid >> 16) << 16
                          : load_single_cells(lower, valid & 0xffff) |
                                load_single_cells(upper, valid >> 16) << 16;
    }
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int j = 0; j < 8 - kTogether; ++j) bits[j] = bits[j + kTogether];
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int j = 0; j < kTogether; ++j) bits[8 - kTogether + j] = pair[j];
  }
}

// Boxes of level `kLevel` from those of the level below.
template <int kDims, int kLevel>
__device__ __forceinline__ void merge(uint32_t (&bits)[8]) {
  using T = Tile<kDims>;
  constexpr int kFirstBit = T::merged_bits(kLevel - 1), kLastBit = T::merged_bits(kLevel);
  FRACTALKERN_UNROLL_ON_DEVICE
  for (int bit = kFirstBit; bit < kLastBit && bit < 3; ++bit) {
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int i = 0; i < 4 >> bit; ++i) bits[i] = bits[2 * i] | bits[2 * i + 1];
  }
  if constexpr (kDims == 1 && kLevel == 5) {
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int i = 1; i < 8; ++i) bits[0] |= bits[i] << i;
  }
  if constexpr (kFirstBit <= 3 && 3 < kLastBit) bits[0] |= bits[0] >> 16;
  if constexpr (kLevel <= 4) {
    constexpr auto kKept =
        static_cast<uint32_t>(level_mask(kLevel)) & (T::halves(kLevel) ? 0xffffffffu : 0xffffu);
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int i = 0; i < T::registers(kLevel); ++i)
      bits[i] = (bits[i] | bits[i] >> (1 << (kLevel - 1))) & kKept;
  } else {
    bits[0] |= __shfl_xor_sync(kWholeWarp, bits[0], 1 << (kLevel - 5));
  }
  FRACTALKERN_UNROLL_ON_DEVICE
  for (int bit = 4; bit < kLastBit; ++bit)
    if (bit >= kFirstBit) bits[0] |= __shfl_xor_sync(kWholeWarp, bits[0], 1 << (bit - 1));
}

template <int kDims, Planes kPlanes, int kLevel = 0>
__device__ __forceinline__ void count_levels(const Pass& p, const Place<kDims>& place, int lane,
                                             uint32_t (&one)[8], uint32_t (&zero)[8],
                                             uint32_t (&count)[Tile<kDims>::kLevels + 1]) {
  using T = Tile<kDims>;
  if constexpr (kLevel > 0) {
    if (p.crop && !place.inside) {
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int i = 0; i < T::registers(kLevel - 1); ++i) {
        // The first row that the register stands for; in one dimension each of them.
        const int row = i << (T::merged_bits(kLevel - 1) < 3 ? T::merged_bits(kLevel - 1) : 3);
        uint32_t kept = place.valid_pair(p, row, kLevel);
        if constexpr (kDims == 1 && kLevel > 5) {
          kept = 0;
          FRACTALKERN_UNROLL_ON_DEVICE
          for (int r = 0; r < 8; ++r) kept |= (place.valid_pair(p, r, kLevel) & 0x00010001u) << r;
        }
        one[i] &= kept;
        if constexpr (kPlanes != Planes::kOne) zero[i] &= kept;
      }
    }
    merge<kDims, kLevel>(one);
    if constexpr (kPlanes != Planes::kOne) merge<kDims, kLevel>(zero);
  }
  if ((lane & T::followers(kLevel)) == 0) {
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int i = 0; i < T::registers(kLevel); ++i)
      count[kLevel] +=
          static_cast<uint32_t>(__popc(kPlanes == Planes::kOne ? one[i] : one[i] & zero[i]));
  }
  if constexpr (kLevel < T::kLevels)
    count_levels<kDims, kPlanes, kLevel + 1>(p, place, lane, one, zero, count);
}

// The boxes of the topmost level, a byte each.
template <int kDims>
__device__ __forceinline__ void store_coarse(const Pass& p, const Place<kDims>& place, int lane,
                                             uint32_t bits, uint8_t* coarse) {
  using T = Tile<kDims>;
  if ((lane & T::followers(T::kLevels)) != 0) return;
  int64_t target = place.item * p.coarse_cells;
  bool exists = true;
  FRACTALKERN_UNROLL_ON_DEVICE
  for (int k = 0; k < T::kLast; ++k) {
    exists &= place.start[k] >> T::kLevels < p.coarse_shape[k];
    target += (place.start[k] >> T::kLevels) * p.coarse_stride[k];
  }
  if (!exists) return;
  const int64_t first = place.start[T::kLast] >> T::kLevels;
  constexpr int kBoxes = kDims == 1 || T::kLevels < 4 ? 16 >> (kDims == 1 ? 0 : T::kLevels) : 1;
  FRACTALKERN_UNROLL_ON_DEVICE
  for (int i = 0; i < kBoxes; ++i)
    if (first + i < p.coarse_shape[T::kLast])
      coarse[target + first + i] = bits >> (kDims == 1 ? i % 8 + i / 8 * 16 : i << T::kLevels) & 1;
}

template <int kDims, Planes kPlanes>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    box_count_kernel_pyramid(const __grid_constant__ Pass p) {
  using T = Tile<kDims>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / kWarp);
  const int64_t all_tiles = p.batch * p.tiles_per_mask;
  uint32_t count[T::kLevels + 1] = {};
  for (int64_t index = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarp; index < all_tiles;
       index += warps) {
    const Place<kDims> place(p, index, lane);
    uint32_t one[8] = {}, zero[8] = {};
    load_tile(p, p.one, place, one);
    if constexpr (kPlanes == Planes::kTwo) load_tile(p, p.zero, place, zero);
    if constexpr (kPlanes == Planes::kComplement) {
      FRACTALKERN_UNROLL_ON_DEVICE
      for (int i = 0; i < 8; ++i) {
        zero[i] = ~one[i];
        if (!place.inside) zero[i] &= place.valid_pair(p, i, 0);
      }
    }
    count_levels<kDims, kPlanes>(p, place, lane, one, zero, count);
    if (p.coarse_one != nullptr) {
      store_coarse(p, place, lane, one[0], p.coarse_one);
      if constexpr (kPlanes != Planes::kOne) store_coarse(p, place, lane, zero[0], p.coarse_zero);
    }

    // The last tile of this warp in this mask?
    const int64_t next = index + warps;
    if (next < all_tiles && (p.batch == 1 || next / p.tiles_per_mask == place.item)) continue;
    uint32_t mine = 0;
    FRACTALKERN_UNROLL_ON_DEVICE
    for (int level = 0; level <= T::kLevels; ++level) {
      const uint32_t total = __reduce_add_sync(kWholeWarp, count[level]);
      if (lane == level) mine = total;
      count[level] = 0;
    }
    if (lane <= T::kLevels && p.column[lane] >= 0) {
      int64_t* const target = p.counts + place.item * p.counts_stride + p.column[lane];
      if (mine != 0) atomicAdd(reinterpret_cast<unsigned long long*>(target), mine);
    }
  }
}

template <int kDims>
void launch_pass(Pass p, Planes planes, const CudaStream& stream) {
  p.tiles_per_mask = 1;
  for (int k = 0; k < kDims; ++k) {
    p.tiles[k] = ceil_div(p.shape[k], Tile<kDims>::extent(k));
    p.tiles_per_mask *= p.tiles[k];
  }
  const int64_t useful = ceil_div(p.batch * p.tiles_per_mask, kThreads / kWarp);
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>(useful, int64_t{kBlocksPerMultiprocessor} * multiprocessors(stream)));
  const auto kernel = planes == Planes::kOne ? &box_count_kernel_pyramid<kDims, Planes::kOne>
                      : planes == Planes::kComplement
                          ? &box_count_kernel_pyramid<kDims, Planes::kComplement>
                          : &box_count_kernel_pyramid<kDims, Planes::kTwo>;
  launch("box_count", kernel, blocks, kThreads, 0, stream, p);
}

// The launch for a number of axes, and the levels that it counts.
struct Launcher {
  void (*launch)(Pass, Planes, const CudaStream&);
  int levels;
};
constexpr Launcher kLaunchers[kBoxCountMaxDims] = {{&launch_pass<1>, Tile<1>::kLevels},
                                                   {&launch_pass<2>, Tile<2>::kLevels},
                                                   {&launch_pass<3>, Tile<3>::kLevels},
                                                   {&launch_pass<4>, Tile<4>::kLevels},
                                                   {&launch_pass<5>, Tile<5>::kLevels}};

// A size that was asked for again.
__global__ void box_count_kernel_copy_column(int64_t* counts, int64_t stride, int64_t rows,
                                             int64_t from, int64_t to) {
  for (int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x; row < rows;
       row += int64_t{gridDim.x} * kThreads)
    counts[row * stride + to] = counts[row * stride + from];
}

}  // namespace

void count_powers_of_two(const BoxCount& problem, const CudaStream& stream) {
  const int last = problem.dims - 1;
  const Launcher launcher = kLaunchers[last];
  Pass p{};
  p.one = problem.mask;
  p.batch = problem.batch;
  std::copy_n(problem.shape, problem.dims, p.shape);
  p.crop = problem.crop;
  p.counts = problem.counts;
  p.counts_stride = problem.size_count;
  uint64_t wanted = 0;  // bit l: boxes of 2^l cells
  for (int64_t i = 0; i < problem.size_count; ++i)
    wanted |= static_cast<uint64_t>(problem.sizes[i]);
  const auto first_column = [&](uint64_t size) {
    return std::find(problem.sizes, problem.sizes + problem.size_count,
                     static_cast<int64_t>(size)) -
           problem.sizes;
  };

  Planes planes = problem.mixed ? Planes::kComplement : Planes::kOne;
  for (int below = 0;; below += launcher.levels) {  // the level that this pass begins with
    p.cells = p.coarse_cells = 1;
    for (int k = last; k >= 0; --k) {
      p.stride[k] = p.cells;
      p.cells *= p.shape[k];
      p.coarse_shape[k] = p.crop ? p.shape[k] >> launcher.levels
                                 : ceil_div(p.shape[k], int64_t{1} << launcher.levels);
      p.coarse_stride[k] = p.coarse_cells;
      p.coarse_cells *= p.coarse_shape[k];
    }
    if (p.cells == 0) break;  // nothing whole is left: the counts are zero
    for (int level = 0; level <= launcher.levels; ++level) {
      const int above = below + level;
      const bool counted = above < 64 && (wanted >> above & 1) != 0 && (level > 0 || below == 0);
      p.column[level] = counted ? first_column(uint64_t{1} << above) : -1;
    }
    const int next = below + launcher.levels;
    const bool more = next < 63 && wanted >> next >> 1 != 0;
    p.coarse_one = p.coarse_zero = nullptr;
    if (more) {
      const int64_t bytes = ceil_div(std::max<int64_t>(p.batch * p.coarse_cells, 1), 16) * 16;
      p.coarse_one = static_cast<uint8_t*>(stream.scratch(problem.mixed ? 2 * bytes : bytes));
      p.coarse_zero = problem.mixed ? p.coarse_one + bytes : nullptr;
    }
    const auto address = reinterpret_cast<uintptr_t>(p.one);
    p.aligned = address % 16 == 0 && p.shape[last] % 16 == 0;
    launcher.launch(p, planes, stream);
    if (!more) break;
    p.one = p.coarse_one;
    p.zero = p.coarse_zero;
    std::copy_n(p.coarse_shape, problem.dims, p.shape);
    if (problem.mixed) planes = Planes::kTwo;
  }

  for (int64_t i = 0; i < problem.size_count; ++i) {
    const int64_t first = first_column(static_cast<uint64_t>(problem.sizes[i]));
    if (first == i) continue;
    const auto blocks = static_cast<unsigned>(
        std::min<int64_t>(ceil_div(problem.batch, kThreads), multiprocessors(stream)));
    launch("box_count", &box_count_kernel_copy_column, blocks, kThreads, 0, stream, problem.counts,
           problem.size_count, problem.batch, first, i);
  }
}

}  // namespace fractalkern
