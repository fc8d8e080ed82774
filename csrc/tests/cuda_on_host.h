// Runs CUDA kernels on the CPU, so that their logic is tested on machines without a GPU.
//
// A .cu file compiled by the host's compiler with FRACTALKERN_CUDA_ON_HOST gets this header instead
// of CUDA's. Every thread of a block is a fiber; a barrier or a warp operation hands over to the
// next one. The order in which threads and blocks run is drawn from `schedule`: a kernel whose
// result depends on it has a race, a barrier too few, or reads what it did not write (dynamic
// shared memory starts as noise). A barrier that not every thread reaches is an error, and so is a
// warp operation or barrier that its threads call in different places. Blocks run one after
// another, those of run_together() in turns, so that they may wait for each other; their static
// __shared__ variables would be one and the same. Asynchronous copies arrive when they are waited
// for and not before.
//
// What it cannot show: memory ordering, bank conflicts, speed, and what ptxas makes of the code.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ static
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned x, y, z;
};

namespace fractalkern::cuda_on_host {

// 0 runs threads and blocks in their order; any other value shuffles them.
inline uint64_t schedule = 0;

}  // namespace fractalkern::cuda_on_host

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace fractalkern::cuda_on_host {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 * 1024;

enum class State { kReady, kAtBlockBarrier, kAtWarpOperation, kDone };

// Of a call in the source, and in which instance of a template.
using CallSite = std::source_location;

inline bool same_site(const CallSite& a, const CallSite& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         std::strcmp(a.file_name(), b.file_name()) == 0 &&
         std::strcmp(a.function_name(), b.function_name()) == 0;
}

struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  ucontext_t context;  // where it starts
  jmp_buf jump;        // where it went on waiting; unlike a context without a system call
  bool started;
  std::unique_ptr<unsigned char[]> stack;
  State state;
  uint3 index;
  int number;                                  // within the block
  CallSite site;                               // of the barrier or warp operation it waits for
  unsigned mask;                               // lanes of the warp operation
  uint64_t given;                              // its operand
  uint64_t got[kLanes];                        // every lane's operand, once all are there
  uint64_t vote;                               // its operand of a __syncthreads_*()
  std::vector<std::vector<AsyncCopy>> copies;  // groups on their way, the open one last
  void* fake_stack;
};

[[noreturn]] inline void fail(const char* message) {
  std::fprintf(stderr, "cuda_on_host: %s (block %u %u %u, thread %u %u %u)\n", message, blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

class Block {
 public:
  void run(uint3 index, dim3 shape, size_t shared_bytes, void (*call)(void*), void* kernel) {
    begin(index, shape, shared_bytes, call, kernel);
    while (live()) pass();
  }

  void begin(uint3 index, dim3 shape, size_t shared_bytes, void (*call)(void*), void* kernel) {
    index_ = index;
    call_ = call;
    kernel_ = kernel;
    const size_t threads = size_t{shape.x} * shape.y * shape.z;
    if (threads > 1024) fail("more than 1024 threads in a block");
    shared_.reset(new (std::align_val_t{128}) unsigned char[shared_bytes]);
    for (size_t i = 0; i < shared_bytes; ++i) shared_[i] = static_cast<unsigned char>(draw(256));
    while (fibers_.size() < threads) {
      fibers_.push_back(std::make_unique<Fiber>());
      fibers_.back()->stack.reset(new unsigned char[kStackBytes]);
    }
    order_.resize(threads);
    for (size_t i = 0; i < threads; ++i) {
      order_[i] = static_cast<int>(i);
      start(*fibers_[i], static_cast<int>(i), shape);
    }
    live_ = static_cast<int>(threads);
  }

  bool live() const { return live_ > 0; }

  unsigned char* shared() { return shared_.get(); }

  // Until every live thread of the block is here; the votes are those of all threads.
  template <class Combine>
  uint64_t barrier(uint64_t vote, const Combine& combine, const CallSite& site) {
    Fiber& self = *current_;
    self.vote = vote;
    self.site = site;
    self.state = State::kAtBlockBarrier;
    yield(self);
    uint64_t result = combine.initial;
    for (const int i : order_) result = combine(result, votes_[i]);
    return result;
  }

  // Until every lane of `mask` is here; then every lane's operand.
  const uint64_t* exchange(unsigned mask, uint64_t operand, const CallSite& site) {
    Fiber& self = *current_;
    if ((mask >> (self.number % kLanes) & 1) == 0) fail("a lane outside its own mask");
    self.given = operand;
    self.mask = mask;
    self.site = site;
    self.state = State::kAtWarpOperation;
    deliver(self);
    if (self.state != State::kReady) yield(self);
    return self.got;
  }

  // Lets others run; for loops that wait for another block.
  void pause() {
    if (++pauses > 100'000'000) fail("blocks that wait for each other");
    yield(*current_);
  }

  std::vector<std::vector<AsyncCopy>>& copies() { return current_->copies; }

  uint64_t draw(uint64_t bound) {
    uint64_t z = random_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return (z ^ (z >> 31)) % bound;
  }

  // Lets every thread that can run do so once, then opens a barrier that all have reached.
  void pass() {
    active = this;
    if (schedule != 0)
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[draw(i)]);
    bool progress = false;
    for (const int i : order_) {
      if (fibers_[i]->state != State::kReady) continue;
      resume(*fibers_[i]);
      progress = true;
    }
    int waiting = 0;
    for (const int i : order_) waiting += fibers_[i]->state == State::kAtBlockBarrier;
    if (waiting > 0 && waiting == live_) {
      votes_.assign(order_.size(), 0);
      const CallSite* site = nullptr;
      for (const int i : order_) {
        if (fibers_[i]->state != State::kAtBlockBarrier) continue;
        if (site != nullptr && !same_site(*site, fibers_[i]->site))
          fail("a barrier that threads of one block call in different places");
        site = &fibers_[i]->site;
        votes_[i] = fibers_[i]->vote;
        fibers_[i]->state = State::kReady;
      }
    } else if (!progress && live_ > 0) {
      fail("a barrier or warp operation that not every thread reaches");
    }
  }

 private:
  static void entry() {
    Block& block = get();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &block.main_stack_, &block.main_size_);
#endif
    block.call_(block.kernel_);
    block.current_->state = State::kDone;
    block.leave(nullptr);
    _longjmp(block.main_, 1);
  }

  void start(Fiber& fiber, int number, dim3 shape) {
    fiber.state = State::kReady;
    fiber.started = false;
    fiber.number = number;
    fiber.fake_stack = nullptr;
    fiber.copies.assign(1, {});
    const unsigned n = static_cast<unsigned>(number);
    fiber.index = {n % shape.x, n / shape.x % shape.y, n / (shape.x * shape.y)};
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::entry, 0);
  }

  void deliver(const Fiber& last) {
    const int first = last.number / kLanes * kLanes;
    const auto lane_of = [&](int lane) -> Fiber& {
      if (first + lane >= static_cast<int>(order_.size())) fail("a mask with lanes not launched");
      return *fibers_[first + lane];
    };
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((last.mask >> lane & 1) == 0) continue;
      const Fiber& fiber = lane_of(lane);
      if (fiber.state == State::kDone) fail("a warp operation with a lane that has returned");
      if (fiber.state != State::kAtWarpOperation || fiber.mask != last.mask) return;
    }
    for (int lane = 0; lane < kLanes; ++lane)
      if ((last.mask >> lane & 1) != 0 && !same_site(lane_of(lane).site, last.site))
        fail("a warp operation that lanes of one warp call in different places");
    for (int lane = 0; lane < kLanes; ++lane) {
      if ((last.mask >> lane & 1) == 0) continue;
      Fiber& fiber = lane_of(lane);
      for (int other = 0; other < kLanes; ++other)
        fiber.got[other] = (last.mask >> other & 1) != 0 ? lane_of(other).given : 0;
      fiber.state = State::kReady;
    }
  }

  void resume(Fiber& fiber) {
    current_ = &fiber;
    threadIdx = fiber.index;
    blockIdx = index_;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack.get(), kStackBytes);
#endif
    if (_setjmp(main_) == 0) {
      if (fiber.started) _longjmp(fiber.jump, 1);
      fiber.started = true;
      setcontext(&fiber.context);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    if (fiber.state == State::kDone) --live_;
  }

  void leave(void** fake) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, main_stack_, main_size_);
#else
    (void)fake;
#endif
  }

  void yield(Fiber& self) {
    leave(&self.fake_stack);
    if (_setjmp(self.jump) == 0) _longjmp(main_, 1);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self.fake_stack, &main_stack_, &main_size_);
#endif
  }

  struct FreeAligned {
    void operator()(unsigned char* memory) const {
      operator delete[](memory, std::align_val_t{128});
    }
  };

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<int> order_;
  std::vector<uint64_t> votes_;
  std::unique_ptr<unsigned char[], FreeAligned> shared_;
  jmp_buf main_;
  const void* main_stack_ = nullptr;
  size_t main_size_ = 0;
  Fiber* current_ = nullptr;
  int live_ = 0;
  uint3 index_{};
  uint64_t random_ = 0;
  void (*call_)(void*) = nullptr;
  void* kernel_ = nullptr;

 public:
  static inline Block* active = nullptr;
  static inline int64_t pauses = 0;  // since a block last told the others something
  static Block& get() { return *active; }
  void seed(uint64_t value) { random_ = value; }
};

inline unsigned char* dynamic_shared_memory() { return Block::get().shared(); }

// Runs body() once for every thread of the grid.
template <class Body>
void run(dim3 grid, dim3 block, size_t shared_bytes, const Body& body) {
  blockDim = block;
  gridDim = grid;
  static Block one;
  one.seed(schedule);
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
  if (schedule != 0)
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[one.draw(i)]);
  void* context = const_cast<void*>(static_cast<const void*>(&body));
  const auto call = [](void* body) { (*static_cast<const Body*>(body))(); };
  for (const uint3 index : blocks) one.run(index, block, shared_bytes, call, context);
}

// The same with all blocks at once.
template <class Body>
void run_together(unsigned grid, unsigned block, size_t shared_bytes, const Body& body) {
  blockDim = block;
  gridDim = grid;
  static std::vector<std::unique_ptr<Block>> blocks;
  while (blocks.size() < grid) blocks.push_back(std::make_unique<Block>());
  void* context = const_cast<void*>(static_cast<const void*>(&body));
  const auto call = [](void* of) { (*static_cast<const Body*>(of))(); };
  std::vector<Block*> live;
  for (unsigned i = 0; i < grid; ++i) {
    blocks[i]->seed(schedule * 1000 + i);
    blocks[i]->begin({i, 0, 0}, block, shared_bytes, call, context);
    live.push_back(blocks[i].get());
  }
  Block::pauses = 0;
  while (!live.empty()) {
    if (schedule != 0) std::swap(live[0], live[live[0]->draw(live.size())]);
    for (Block* one : live) one->pass();
    std::erase_if(live, [](const Block* one) { return !one->live(); });
  }
}

struct Or {
  uint64_t initial = 0;
  uint64_t operator()(uint64_t a, uint64_t b) const { return a | b; }
};
struct Count {
  uint64_t initial = 0;
  uint64_t operator()(uint64_t a, uint64_t b) const { return a + b; }
};

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline int lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) %
                          kLanes);
}

// What every lane of the warp gave.
template <class T>
std::array<T, kLanes> every_lane(T value, const CallSite& site = CallSite::current()) {
  const uint64_t* got = Block::get().exchange(0xFFFFFFFF, to_bits(value), site);
  std::array<T, kLanes> values;
  for (int i = 0; i < kLanes; ++i) values[i] = from_bits<T>(got[i]);
  return values;
}

// A lane outside 0 to 31 or outside the mask leaves the caller its own value, as on a GPU a lane
// out of the segment does.
template <class T>
T shuffle(unsigned mask, T value, int source, const CallSite& site) {
  const uint64_t* got = Block::get().exchange(mask, to_bits(value), site);
  const bool there = source >= 0 && source < kLanes && (mask >> source & 1) != 0;
  return there ? from_bits<T>(got[source]) : value;
}

template <class T, class Combine>
T reduce(unsigned mask, T value, const Combine& combine, const CallSite& site) {
  const uint64_t* got = Block::get().exchange(mask, to_bits(value), site);
  bool first = true;
  T result{};
  for (int i = 0; i < kLanes; ++i) {
    if ((mask >> i & 1) == 0) continue;
    result = first ? from_bits<T>(got[i]) : combine(result, from_bits<T>(got[i]));
    first = false;
  }
  return result;
}

template <class T, class Change>
T atomic(T* address, const Change& change) {
  const T before = *address;
  *address = change(before);
  Block::pauses = 0;
  return before;
}

inline void copy_async(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 ||
      reinterpret_cast<uintptr_t>(from) % bytes != 0)
    fail("an asynchronous copy from or to an address that is no multiple of its size");
  Block::get().copies().back().push_back({to, from, bytes});
}
inline void commit_async_copies() { Block::get().copies().emplace_back(); }
inline void await_async_copies(size_t groups_left) {
  auto& groups = Block::get().copies();
  while (groups.size() > groups_left + 1) {
    for (const AsyncCopy& copy : groups.front()) std::memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin());
  }
}

}  // namespace fractalkern::cuda_on_host

// --- what kernels call --------------------------------------------------------------------------

using fractalkern::cuda_on_host::CallSite;

inline void __syncthreads(CallSite site = CallSite::current()) {
  fractalkern::cuda_on_host::Block::get().barrier(0, fractalkern::cuda_on_host::Or{}, site);
}
inline int __syncthreads_or(int predicate, CallSite site = CallSite::current()) {
  return fractalkern::cuda_on_host::Block::get().barrier(
             predicate != 0, fractalkern::cuda_on_host::Or{}, site) != 0;
}
inline int __syncthreads_count(int predicate, CallSite site = CallSite::current()) {
  return static_cast<int>(fractalkern::cuda_on_host::Block::get().barrier(
      predicate != 0, fractalkern::cuda_on_host::Count{}, site));
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFF, CallSite site = CallSite::current()) {
  fractalkern::cuda_on_host::Block::get().exchange(mask, 0, site);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              CallSite site = CallSite::current()) {
  const int lane = fractalkern::cuda_on_host::lane();
  return fractalkern::cuda_on_host::shuffle(mask, value, lane / width * width + source % width,
                                            site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32,
                  CallSite site = CallSite::current()) {
  const int lane = fractalkern::cuda_on_host::lane(), source = lane ^ bits;
  return fractalkern::cuda_on_host::shuffle(mask, value,
                                            source / width == lane / width ? source : lane, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   CallSite site = CallSite::current()) {
  const int lane = fractalkern::cuda_on_host::lane(), source = lane + static_cast<int>(delta);
  return fractalkern::cuda_on_host::shuffle(mask, value,
                                            source / width == lane / width ? source : lane, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 CallSite site = CallSite::current()) {
  const int lane = fractalkern::cuda_on_host::lane(), source = lane - static_cast<int>(delta);
  return fractalkern::cuda_on_host::shuffle(
      mask, value, source >= 0 && source / width == lane / width ? source : lane, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CallSite site = CallSite::current()) {
  const uint64_t* got =
      fractalkern::cuda_on_host::Block::get().exchange(mask, uint64_t{predicate != 0}, site);
  unsigned ballot = 0;
  for (int i = 0; i < 32; ++i) ballot |= static_cast<unsigned>(got[i]) << i;
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, CallSite site = CallSite::current()) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, CallSite site = CallSite::current()) {
  return __ballot_sync(mask, predicate, site) == mask;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value,
                                  CallSite site = CallSite::current()) {
  return fractalkern::cuda_on_host::reduce(
      mask, value, [](unsigned a, unsigned b) { return a + b; }, site);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 CallSite site = CallSite::current()) {
  return fractalkern::cuda_on_host::reduce(
      mask, value, [](unsigned a, unsigned b) { return a | b; }, site);
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __popcll(unsigned long long bits) { return std::popcount(bits); }
inline int __ffs(unsigned bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }
inline int __clz(unsigned bits) { return std::countl_zero(bits); }
inline void __threadfence() {}
template <class T>
T __ldg(const T* address) {
  return *address;
}

template <class T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return fractalkern::cuda_on_host::atomic(address, [&](T old) { return T(old + value); });
}
template <class T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return fractalkern::cuda_on_host::atomic(address, [&](T old) { return T(old | value); });
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return fractalkern::cuda_on_host::atomic(address, [&](T old) { return std::max(old, value); });
}

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

// --- what launching code calls ------------------------------------------------------------------

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxThreadsPerBlock,
};

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // Multiprocessors: few and odd, so that persistent grids go round several times.
  *value = attribute == cudaDevAttrMultiProcessorCount  ? 3
           : attribute == cudaDevAttrMaxThreadsPerBlock ? 64
                                                        : 64 * 1024;
  return cudaSuccess;
}

struct cudaFuncAttributes {
  size_t sharedSizeBytes;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace fractalkern::cuda_on_host {

// What every kernel counts as taking itself. Here it cannot be told; a kernel for sm_90 that uses
// dynamic shared memory has it begin a kilobyte behind its start.
constexpr size_t kKernelsOwnSharedBytes = 1024;

// Every limit of dynamic shared memory that was set: kernel and bytes.
inline std::vector<std::pair<const void*, size_t>> shared_memory_limits;

inline void check_shared_memory(const void* kernel, size_t bytes) {
  size_t limit = 48 * 1024 - kKernelsOwnSharedBytes;
  for (const auto& [of, set] : shared_memory_limits)
    if (of == kernel) limit = set;
  if (bytes > limit) fail("more shared memory than the kernel was allowed");
}

}  // namespace fractalkern::cuda_on_host

inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {fractalkern::cuda_on_host::kKernelsOwnSharedBytes};
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  fractalkern::cuda_on_host::shared_memory_limits.emplace_back(kernel, value);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

namespace fractalkern {
inline void check_cuda(cudaError_t, const char*) {}
}  // namespace fractalkern
