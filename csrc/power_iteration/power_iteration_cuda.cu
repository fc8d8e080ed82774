// Top singular triples on a GPU: the algorithm of power_iteration_cpu.cpp, every pass of every
// matrix in two launches, its stopping decided on the device.
//
// A matrix that fits into a block's shared memory with its vectors is that block's work and is read
// from global memory once, whatever the passes. The larger ones are worked on at the same time by
// teams of blocks of a second launch, all resident at once, with a barrier in global memory for
// each team: power_iteration_cuda_schedule.h. A team's block has a share of the rows, which stays
// in shared memory where it fits and streams through it otherwise
// (power_iteration_cuda_tiles.h): one read a pass, y = W v and W^T y from the same tile
// (power_iteration_cuda_sweep.h). The floor of a pass is so the bytes of the matrices over the
// memory's bandwidth, or nothing for those that stay.
//
// Sums have a fixed order: rows in a tile, tiles, blocks. Results are equal from run to run on one
// device; those of a large matrix depend on the team that it gets, and so on the rest of the list.
//
// The list goes to the device in the parameters of launches that store it, so that a call can be
// captured in a graph, nothing is copied from pageable memory, and nobody waits.
#include <algorithm>
#include <vector>

#include "power_iteration/power_iteration_cuda_schedule.h"
#include "power_iteration/power_iteration_cuda_solver.h"

namespace fractalkern {
namespace {

constexpr const char* kOp = "power_iteration";
constexpr int kRecordsOfALaunch = 40;  // 4 KB of parameters
constexpr int64_t kOwnBytes = (sizeof(SpectralShared) + 127) / 128 * 128;

struct RecordOfStack {
  SpectralRecord first;
  int64_t stack;
  int64_t place;  // in the list
};

struct RecordBatch {
  RecordOfStack stacks[kRecordsOfALaunch];
};
static_assert(sizeof(RecordBatch) <= 4000);

// A block writes the records of a stack.
__global__ void store_records(const __grid_constant__ RecordBatch batch, SpectralRecord* records) {
  const RecordOfStack& all = batch.stacks[blockIdx.x];
  for (int64_t i = threadIdx.x; i < all.stack; i += blockDim.x) {
    SpectralRecord one = all.first;
    one.data = static_cast<const char*>(one.data) + i * one.rows * one.columns * bytes_of(one.type);
    one.index += i;
    one.left += i * one.rows;
    one.right += i * one.columns;
    records[all.place + i] = one;
  }
}

// Small matrices are a block's work each. Large ones have memory in `scratch` and a team of the
// blocks of a launch together, with a counter in `arrivals`; each block takes its team's in turn.
// One kernel for both, as nearly all of its code is the same.
__global__ void __launch_bounds__(kMostThreads)
    solve_matrices(const __grid_constant__ SpectralCall call, const SpectralRecord* records,
                   int64_t count, unsigned char* scratch, unsigned* arrivals,
                   int64_t shared_bytes) {
  const bool small = scratch == nullptr;
  const int block = static_cast<int>(blockIdx.x);
  auto* const memory = dynamic_shared<unsigned char>();
  int64_t next = small ? block : 0;
  const auto skip_others = [&] {
    while (!small && next < count &&
           (block < records[next].first_block ||
            block >= records[next].first_block + records[next].blocks))
      ++next;
  };
  skip_others();
  if (next >= count) return;
  const int first = small ? block : records[next].first_block;
  Team team(block - first, small ? 1 : records[next].blocks, small ? nullptr : arrivals + first);
  while (next < count) {
    const SpectralRecord record = records[next];
    int64_t taken = kOwnBytes;
    if (small)
      taken += SpectralWorkspace(nullptr, record.columns, basis_size(call, record.columns), 1,
                                 needs_column_sums(call), true)
                   .bytes;
    solve(call, record, team,
          {*reinterpret_cast<SpectralShared*>(memory), memory + taken, shared_bytes - taken,
           small ? memory + kOwnBytes : scratch + record.scratch, small});
    if (small) return;
    __syncthreads();
    ++next;
    skip_others();
  }
}

int64_t workspace_bytes(const SpectralCall& call, int64_t columns, int64_t team, bool small) {
  return SpectralWorkspace(nullptr, columns, basis_size(call, columns), team,
                           needs_column_sums(call), small)
      .bytes;
}

// What a block needs to hold a matrix with all that belongs to it.
int64_t shared_bytes_of(const SpectralCall& call, const SpectralWeight& weight) {
  const int64_t entries = weight.rows * weight.columns;
  if (entries == 0) return kOwnBytes;
  if (entries > (int64_t{1} << 20)) return INT64_MAX;
  const int64_t size = bytes_of(weight.type);
  const int64_t pitch =
      weight.row_stride == weight.columns ? weight.columns * size : up_to_16(weight.columns * size);
  return kOwnBytes + workspace_bytes(call, weight.columns, 1, true) + up_to_16(weight.columns * 8) +
         up_to_16(weight.rows * pitch) + 32;
}

// The list of a call on its way to the device.
class Records {
 public:
  Records(const PowerIterationCuda& problem, const SpectralCall& call, const CudaStream& stream)
      : stream_(stream),
        blocks_(multiprocessors(stream)),
        most_bytes_(
            allow_shared_memory(reinterpret_cast<const void*>(&solve_matrices), stream, kOp)) {
    std::vector<int64_t> bytes;
    int64_t index = 0, left = 0, right = 0;
    for (int64_t i = 0; i < problem.count; ++i) {
      const SpectralWeight& w = problem.weights[i];
      SpectralRecord record{w.data, w.rows, w.columns, w.row_stride, index, left, right, 0,
                            w.type, 0,      1};
      const int64_t needed = shared_bytes_of(call, w);
      if (needed <= most_bytes_) {
        small_.push_back({record, w.stack, small_count_});
        small_bytes_ = std::max(small_bytes_, needed);
        small_entries_ = std::max(small_entries_, w.rows * w.columns);
        small_count_ += w.stack;
      } else {
        const int64_t size = w.rows * w.columns * bytes_of(w.type);
        for (int64_t s = 0; s < w.stack; ++s) {
          large_.push_back({record, 1, static_cast<int64_t>(large_.size())});
          bytes.push_back(size);
          record.data = static_cast<const char*>(record.data) + size;
          ++record.index;
          record.left += w.rows;
          record.right += w.columns;
        }
      }
      index += w.stack;
      left += w.stack * w.rows;
      right += w.stack * w.columns;
    }
    const std::vector<TeamOfBlocks> teams = schedule_teams(bytes, blocks_);
    for (size_t i = 0; i < large_.size(); ++i) {
      SpectralRecord& record = large_[i].first;
      record.first_block = teams[i].first;
      record.blocks = teams[i].size;
      record.scratch = scratch_bytes_;
      scratch_bytes_ +=
          (workspace_bytes(call, record.columns, record.blocks, false) + 255) / 256 * 256;
    }
  }

  void solve(const SpectralCall& call) {
    const int64_t large_count = static_cast<int64_t>(large_.size());
    auto* const records = static_cast<SpectralRecord*>(stream_.scratch(
        (small_count_ + large_count) * static_cast<int64_t>(sizeof(SpectralRecord))));
    store(small_, records);
    store(large_, records + small_count_);
    const auto shape = [&](int64_t threads) {
      int most = kMostThreads;
      cudaDeviceGetAttribute(&most, cudaDevAttrMaxThreadsPerBlock, stream_.device);
      return static_cast<unsigned>(std::min<int64_t>(threads, most));
    };
    if (large_count > 0) {
      auto* const scratch = static_cast<unsigned char*>(stream_.scratch(scratch_bytes_));
      const int64_t counters = blocks_ * static_cast<int64_t>(sizeof(unsigned));
      auto* const arrivals = static_cast<unsigned*>(stream_.scratch(counters));
      check_cuda(cudaMemsetAsync(arrivals, 0, static_cast<size_t>(counters), native(stream_)), kOp);
      launch_together(kOp, &solve_matrices, static_cast<unsigned>(blocks_), shape(kMostThreads),
                      static_cast<size_t>(most_bytes_), stream_, call, records + small_count_,
                      large_count, scratch, arrivals, most_bytes_);
    }
    // Few threads wait for each other less, and leave room for more blocks.
    const int64_t threads = small_entries_ > 8192 ? kMostThreads : 128;
    if (small_count_ > 0)
      launch(kOp, &solve_matrices, static_cast<unsigned>(small_count_), shape(threads),
             static_cast<size_t>(small_bytes_), stream_, call, records, small_count_, nullptr,
             nullptr, small_bytes_);
  }

 private:
  void store(const std::vector<RecordOfStack>& stacks, SpectralRecord* to) {
    for (size_t begin = 0; begin < stacks.size(); begin += kRecordsOfALaunch) {
      const size_t count = std::min<size_t>(stacks.size() - begin, kRecordsOfALaunch);
      RecordBatch batch{};
      std::copy_n(stacks.begin() + static_cast<int64_t>(begin), count, batch.stacks);
      launch(kOp, &store_records, static_cast<unsigned>(count), 64, 0, stream_, batch, to);
    }
  }

  const CudaStream& stream_;
  const int blocks_;
  const int64_t most_bytes_;  // of shared memory
  std::vector<RecordOfStack> small_, large_;
  int64_t small_count_ = 0, small_bytes_ = 0, small_entries_ = 0, scratch_bytes_ = 0;
};

}  // namespace

void power_iteration_cuda(const PowerIterationCuda& p, const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, kOp);
  SpectralCall call{p.passes, p.tol,     p.delta,   p.seed,       p.start,
                    p.sigma,  p.vectors, p.bounds,  p.next,       p.codes,
                    0,        0,         p.lanczos, p.start_wide, p.wide};
  for (int64_t i = 0; i < p.count; ++i) {
    call.matrices += p.weights[i].stack;
    call.lefts += p.weights[i].stack * p.weights[i].rows;
  }
  Records(p, call, stream).solve(call);
}

}  // namespace fractalkern
