// Draws the half spectrum of a field in one pass: of a chunk of modes the coordinates are written
// out, one array a Philox counter word beside those of |k|^2 and of the modes' weights, and a
// straight line of vector code turns them into coefficients; it knows nothing of rows and axes. The
// self-conjugate planes (0 and Nyquist of the last axis) are put right afterwards: of two modes
// that mirror each other one draws and the other takes its conjugate, so their counters are the
// same; a mode that is its own mirror image is drawn again as a real one.
//
// Parallel mapping: blocks of a fixed number of modes, which also sum the power; the sums are added
// in the order of the blocks and lanes, so that the field does not depend on the threads. Every
// group of 64 bytes is drawn at once whatever the width of a register, and multiply-adds are not
// fused: all instruction sets give the same bits.
//
// Philox is kept in 64-bit lanes, so a round has no shuffle; floats take two such sets, the even
// and the odd modes.

// Before any header, so that no inlined function is compiled under other rules.
#pragma GCC optimize("fp-contract=off")

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "common/instruction_set.h"
#include "common/simd.h"
#include "fractal_noise/fractal_noise.h"

namespace fractalkern {

constexpr int kGroupBytes = 64;
constexpr int64_t kChunkModes = 512;
constexpr int64_t kBlockModes = 1 << 14;  // a multiple of kChunkModes

template <class T>
struct Chunk {
  using Counter = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr int64_t kCapacity = kChunkModes + kGroupBytes / sizeof(T);

  int64_t modes;
  alignas(64) Counter counter[4][kCapacity];
  alignas(64) Counter key[2][kCapacity];  // written for five axes only
  alignas(64) T q[kCapacity];             // |k|^2 over that of the reference
  alignas(64) T weight[kCapacity];  // how often the mode is in the full spectrum; 0: not at all
  int64_t reals;
  int64_t conjugates;
  int32_t real[kChunkModes];       // modes that are their own mirror image
  int32_t conjugate[kChunkModes];  // modes drawn as their mirror image

  // Gives the last vectors valid modes to read.
  void pad() {
    for (int64_t i = modes; i < modes + kGroupBytes / int64_t{sizeof(T)}; ++i) {
      for (auto& words : counter) words[i] = 0;
      for (auto& words : key) words[i] = 0;
      q[i] = 1;
      weight[i] = 0;
    }
  }
};

// What is the same for all modes of an item.
template <class T>
struct NoiseItem {
  int64_t index;         // the b of its key
  uint64_t key[2];       // for up to four axes
  double lowest_square;  // of |k|; positive, so that k = 0 is out
  double highest_square;
  double inverse_reference;  // 1 / |k|^2 of the mode with amplitude `gain`
  T slope;                   // amplitude = q^slope gain
  T gain;
  bool expected;  // sum the expected power, not that of the sample
  T mean_square;  // of a mode of amplitude 1
  T* out;
};

template <class T>
struct NoiseBlock {
  const FractalNoiseArgs<T>& args;
  const NoiseItem<T>& item;
  int64_t begin;
  int64_t end;
  double factor;  // for scaling
  double& power;  // written by drawing
};

// The integer wave number at a position of an axis; that of Nyquist is positive.
inline int64_t signed_mode(int64_t position, int64_t size) {
  return position <= size / 2 ? position : position - size;
}

// The modes that differ in the last coordinate only.
struct Row {
  template <class T>
  Row(const FractalNoiseArgs<T>& args, const int64_t* position) : axes(args.axes) {
    for (int axis = 0; axis < axes - 1; ++axis) {
      const int64_t n = signed_mode(position[axis], args.size[axis]);
      const double real_mode = static_cast<double>(n);
      square += real_mode * real_mode * (args.step[axis] * args.step[axis]);
      mode[axis] = n;
      own_mirror[axis] = n == 0 || 2 * n == args.size[axis];
      if (sign == 0 && !own_mirror[axis]) sign = n > 0 ? 1 : -1;
    }
  }

  // Word k >= 1 of the Philox counter of the row (side 1) or of its mirror image (side -1).
  uint32_t counter(int k, int side) const { return coordinate(axes - 1 - k, side); }
  // The coordinate that has no place in the counter.
  uint32_t key_word(int side) const {
    return axes == kFractalNoiseMaxAxes ? coordinate(0, side) : 0;
  }

  double square = 0;  // its share of |k|^2
  int sign = 0;       // of the first coordinate that differs in the mirror image; 0: none does

 private:
  uint32_t coordinate(int axis, int side) const {
    if (axis < 0) return 0;
    return static_cast<uint32_t>(own_mirror[axis] ? mode[axis] : side * mode[axis]);
  }

  int axes;
  int64_t mode[kFractalNoiseMaxAxes];
  bool own_mirror[kFractalNoiseMaxAxes];
};

void noise_key(uint64_t seed, int64_t item, uint32_t coordinate, uint64_t (&key)[2]);

}  // namespace fractalkern

#define FRACTALKERN_BODY "fractal_noise/fractal_noise_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {

// The key of item b: the first two words of the counter (b mod 2^32, b div 2^32, n_0, 1) under the
// seed, n_0 being the first of five coordinates.
void noise_key(uint64_t seed, int64_t item, uint32_t coordinate, uint64_t (&key)[2]) {
  const uint64_t index = static_cast<uint64_t>(item);
  uint64_t word[4] = {index & 0xFFFFFFFF, index >> 32, coordinate, 1};
  baseline::philox4x32(word, seed & 0xFFFFFFFF, seed >> 32);
  key[0] = word[0] & 0xFFFFFFFF;
  key[1] = word[1] & 0xFFFFFFFF;
}

void philox_words_cpu(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  uint64_t word[4] = {counter[0], counter[1], counter[2], counter[3]};
  baseline::philox4x32(word, uint64_t{key[0]}, uint64_t{key[1]});
  for (int k = 0; k < 4; ++k) out[k] = static_cast<uint32_t>(word[k]);
}

namespace {

template <class T>
using Entry = EntryPoints<void(const NoiseBlock<T>&)>;

constexpr Entry<float> kDrawFloat = FRACTALKERN_TABLE(draw_float);
constexpr Entry<double> kDrawDouble = FRACTALKERN_TABLE(draw_double);
constexpr Entry<float> kScaleFloat = FRACTALKERN_TABLE(scale_float);
constexpr Entry<double> kScaleDouble = FRACTALKERN_TABLE(scale_double);

// The smallest |k|^2 of the band for beta > 0, else the largest: amplitudes relative to it are at
// most 1 and cannot overflow.
template <class T>
double reference_square(const FractalNoiseArgs<T>& args, double beta) {
  double smallest = std::numeric_limits<double>::infinity(), largest = 0;
  for (int axis = 0; axis < args.axes; ++axis) {
    if (args.size[axis] == 1) continue;
    const double square = args.step[axis] * args.step[axis];
    const double last = static_cast<double>(args.size[axis] / 2);
    smallest = std::min(smallest, square);
    largest += last * last * square;
  }
  if (largest == 0) return 1;
  if (beta > 0) return std::max(smallest, args.k_min * args.k_min);
  return std::min(largest, args.k_max * args.k_max);
}

template <class T>
NoiseItem<T> prepare(const FractalNoiseArgs<T>& args, int64_t index, int64_t modes) {
  constexpr double kSlack = 1e-12;  // a limit that is a mode's own |k| keeps it, rounding or not
  NoiseItem<T> item;
  item.index = args.common_noise ? 0 : index;
  noise_key(args.seed, item.index, 0, item.key);
  item.lowest_square =
      std::max(args.k_min * args.k_min * (1 - kSlack), std::numeric_limits<double>::denorm_min());
  item.highest_square = args.k_max * args.k_max * (1 + kSlack);
  const double reference = reference_square(args, args.beta[index]);
  item.inverse_reference = 1 / reference;
  item.slope = static_cast<T>(-args.beta[index] / 4);
  item.gain = args.normalize == Normalize::kNone
                  ? static_cast<T>(std::pow(reference, -args.beta[index] / 4))
                  : T(1);
  item.expected = args.normalize == Normalize::kEnsemble;
  item.mean_square = static_cast<T>(args.spectrum == Spectrum::kGenesis ? 0.5 : 1.0);
  item.out = args.out + 2 * modes * index;
  return item;
}

template <class T>
void run(const FractalNoiseArgs<T>& args, const Parallel& parallel, const Entry<T>& draw,
         const Entry<T>& scale) {
  int64_t modes = args.size[args.axes - 1] / 2 + 1;
  for (int axis = 0; axis < args.axes - 1; ++axis) modes *= args.size[axis];
  const int64_t blocks = (modes + kBlockModes - 1) / kBlockModes;
  const int64_t tasks = blocks * args.items;
  const int64_t elements = 2 * modes * args.items;
  std::vector<NoiseItem<T>> items;
  for (int64_t b = 0; b < args.items; ++b) items.push_back(prepare(args, b, modes));
  std::vector<double> power(tasks);

  const auto block_of = [&](int64_t task, double factor) {
    const int64_t begin = task % blocks * kBlockModes;
    return NoiseBlock<T>{args,   items[task / blocks], begin, std::min(begin + kBlockModes, modes),
                         factor, power[task]};
  };
  const auto factor_of = [&](int64_t item) {
    double sum = 0;
    for (int64_t i = item * blocks; i < (item + 1) * blocks; ++i) sum += power[i];
    return sum > 0 ? 1 / std::sqrt(sum) : 0;
  };
  const bool normalized = args.normalize != Normalize::kNone;
  parallel.for_each(tasks, elements, [&](int64_t task) {
    draw.active()(block_of(task, 1));
    if (normalized && blocks == 1) scale.active()(block_of(task, factor_of(task)));
  });
  if (!normalized || blocks == 1) return;
  std::vector<double> factors;
  for (int64_t b = 0; b < args.items; ++b) factors.push_back(factor_of(b));
  parallel.for_each(tasks, elements,
                    [&](int64_t task) { scale.active()(block_of(task, factors[task / blocks])); });
}

}  // namespace

void fractal_noise_cpu(const FractalNoiseArgs<double>& args, const Parallel& parallel) {
  run(args, parallel, kDrawDouble, kScaleDouble);
}

void fractal_noise_cpu(const FractalNoiseArgs<float>& args, const Parallel& parallel) {
  run(args, parallel, kDrawFloat, kScaleFloat);
}

}  // namespace fractalkern
