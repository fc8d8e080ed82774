// The stand-in for a GPU itself: barriers, warp operations, shuffled schedules.
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "common/cuda_launch.h"
#include "tests/testing.h"

namespace fractalkern {
namespace {

// Reverses each block's slice and adds up its warps.
__global__ void reverse(const int* in, int* out, int* sums) {
  int* tile = dynamic_shared<int>();
  const unsigned t = threadIdx.x, first = blockIdx.x * blockDim.x;
  tile[t] = in[first + t];
  __syncthreads();
  const int value = tile[blockDim.x - 1 - t];
  out[first + t] = value;
  int sum = value;
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, step);
  if (t % kWarp == 0) atomicAdd(&sums[blockIdx.x], sum);
}

// The same without the barrier.
__global__ void reverse_with_a_race(const int* in, int* out) {
  int* tile = dynamic_shared<int>();
  const unsigned t = threadIdx.x, first = blockIdx.x * blockDim.x;
  tile[t] = in[first + t];
  out[first + t] = tile[blockDim.x - 1 - t];
}

__global__ void votes(unsigned* ballots, int* counts, int* neighbours) {
  const int t = static_cast<int>(threadIdx.x);
  ballots[t] = __ballot_sync(kWholeWarp, t % 3 == 0);
  counts[t] = __syncthreads_count(t % 3 == 0);
  neighbours[t] = __shfl_down_sync(kWholeWarp, t, 1);
}

void test_barriers_and_warps() {
  constexpr int kBlocks = 5, kThreads = 96;
  std::vector<int> in(kBlocks * kThreads), racy;
  for (int i = 0; i < kBlocks * kThreads; ++i) in[i] = i * i % 1009;
  bool race_seen = false;
  for (uint64_t schedule = 0; schedule < 4; ++schedule) {
    cuda_on_host::schedule = schedule;
    std::vector<int> out(in.size()), sums(kBlocks), wrong(in.size());
    launch("test", &reverse, kBlocks, kThreads, kThreads * sizeof(int), {}, in.data(), out.data(),
           sums.data());
    for (int block = 0; block < kBlocks; ++block) {
      int sum = 0;
      for (int t = 0; t < kThreads; ++t) {
        CHECK(out[block * kThreads + t] == in[block * kThreads + kThreads - 1 - t]);
        sum += in[block * kThreads + t];
      }
      CHECK(sums[block] == sum);
    }
    launch("test", &reverse_with_a_race, kBlocks, kThreads, kThreads * sizeof(int), {}, in.data(),
           wrong.data());
    race_seen |= wrong != out;
  }
  CHECK(race_seen);
}

void test_votes() {
  constexpr int kThreads = 64;
  std::vector<unsigned> ballots(kThreads);
  std::vector<int> counts(kThreads), neighbours(kThreads);
  launch("test", &votes, 1, kThreads, 0, {}, ballots.data(), counts.data(), neighbours.data());
  for (int t = 0; t < kThreads; ++t) {
    CHECK(ballots[t] == (t < 32 ? 0x49249249u : 0x92492492u), t, ballots[t]);
    CHECK(counts[t] == 22);
    CHECK(neighbours[t] == (t % kWarp == kWarp - 1 ? t : t + 1));
  }
}

// Both halves of a warp name all of it, each in a place of its own.
__global__ void operations_that_diverge(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < kWarp / 2) {
    out[t] = __any_sync(kWholeWarp, t == 0);
  } else {
    out[t] = __shfl_xor_sync(kWholeWarp, t, 1);
  }
}

__global__ void barriers_that_diverge(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (t < kWarp) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[t] = t;
}

// In a process of its own, as it ends it.
bool is_refused(void (*kernel)(int*)) {
  const pid_t child = fork();
  if (child == 0) {
    std::fclose(stderr);
    std::vector<int> out(2 * kWarp);
    launch("test", kernel, 1, 2 * kWarp, 0, {}, out.data());
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status);
}

void test_what_diverges_is_refused() {
  CHECK(is_refused(&operations_that_diverge));
  CHECK(is_refused(&barriers_that_diverge));
}

__global__ void fill(int* out) {
  int* tile = dynamic_shared<int>();
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = tile[threadIdx.x];
}

// Host threads that launch one kernel with different sizes must not take each other's away.
void test_shared_memory_is_allowed_once_for_a_kernel_and_a_device() {
  const void* const kernels[] = {reinterpret_cast<const void*>(&reverse),
                                 reinterpret_cast<const void*>(&votes)};
  auto& limits = cuda_on_host::shared_memory_limits;
  limits.clear();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i)
        allow_shared_memory(kernels[(t + i) % 2], {i % 3, nullptr, {}}, "test");
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(limits.size() == 6, limits.size());
  for (const void* kernel : kernels)
    CHECK(std::count(limits.begin(), limits.end(), std::pair(kernel, size_t{63 * 1024})) == 3);

  std::vector<int> out(kWarp);
  for (const size_t bytes : {60u * 1024, 50u * 1024, 1024u})
    launch("test", &fill, 1, kWarp, bytes, {}, out.data());
  CHECK(out.back() == kWarp - 1);
  CHECK(limits.size() == 7, limits.size());
}

}  // namespace
}  // namespace fractalkern

int main() {
  fractalkern::test_barriers_and_warps();
  fractalkern::test_votes();
  fractalkern::test_what_diverges_is_refused();
  fractalkern::test_shared_memory_is_allowed_once_for_a_kernel_and_a_device();
  return fractalkern::testing::testing_result();
}
