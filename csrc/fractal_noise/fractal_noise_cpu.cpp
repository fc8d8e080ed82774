// Draws the half spectrum of a field chunk by chunk, in cache: of a chunk of modes the coordinates
// are put into the state of Philox and written out beside the amplitudes; a straight line of vector
// code turns them into coefficients and knows nothing of rows and axes. Slabs at n and -n
// of the first axis have the same amplitudes: they are drawn one after the other, and the
// amplitudes computed once. The self-conjugate planes (0 and Nyquist of the last axis) are put
// right afterwards: of two modes that mirror each other one draws and the other takes its
// conjugate, so their counters are the same; a mode that is its own mirror image is drawn again as
// a real one.
//
// Parallel mapping: blocks of a fixed number of chunks, which also sum the power; the sums are
// added in the order of the blocks and lanes, so that the field does not depend on the threads.
// Every group of 64 bytes is drawn at once whatever the width of a register, and multiply-adds are
// not fused: all instruction sets give the same bits.
//
// Philox is kept in 64-bit lanes, so a round has no shuffle; floats take two such sets, the even
// and the odd modes.

// Before any header, so that no inlined function is compiled under other rules.
#pragma GCC optimize("fp-contract=off")

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/host_device.h"
#include "common/instruction_set.h"
#include "common/simd.h"
#include "fractal_noise/fractal_noise.h"

namespace fractalkern {

constexpr int kGroupBytes = 64;
constexpr int64_t kChunkModes = 640;  // a multiple of 64; a chunk and its modes fill the L1 cache
constexpr int64_t kBatchModes = 128;  // a multiple of 16
constexpr int64_t kBlockModes = 1 << 14;
// Slabs with fewer modes are drawn as one run of modes: a chunk must end where a slab does, and a
// vector that it does not fill costs as much as a full one.
constexpr int64_t kSmallestFoldedSlab = 256;

template <class T>
struct Chunk {
  using Counter = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr int64_t kCapacity = kChunkModes + kGroupBytes / sizeof(T);
  static constexpr int64_t kReals = 2 << (kFractalNoiseMaxAxes - 1);

  int64_t modes;
  // The product of the first round of Philox that knows the last coordinate, in two words.
  alignas(64) Counter high[kCapacity];
  alignas(64) Counter low[kCapacity];
  alignas(64) Counter state[4][kCapacity];  // of Philox, see PhiloxRow
  alignas(64) Counter key[2][kCapacity];    // for five axes only
  alignas(64) T amplitude[kCapacity];       // 0: not drawn
  int64_t planes;                           // modes of the self-conjugate planes that are no reals
  int32_t plane[kChunkModes];
  bool conjugate[kChunkModes];  // of each of them: drawn as its mirror image
  int64_t reals;                // modes that are their own mirror image
  int32_t real[kReals];
  T real_amplitude[kReals];
};

// What one loop of draw_chunk leaves to the next.
template <class T>
struct Batch {
  alignas(64) typename Chunk<T>::Counter word[4][kBatchModes];
  alignas(64) T radius[kBatchModes];
};

// What is the same for all modes of an item.
template <class T>
struct NoiseItem {
  int64_t index;    // the b of its key
  uint64_t key[2];  // for up to four axes
  NoiseBand band;
  double inverse_reference;  // 1 / |k|^2 of the mode with amplitude `gain`
  T slope;                   // amplitude = q^slope gain
  T gain;
  bool expected;  // sum the expected power, not that of the sample
  T mean_square;  // of a mode of amplitude 1
  T* out;
};

// How the half spectrum is cut. A slab is what belongs to one position of the first axis, or the
// whole if that is too small; pieces of it are drawn as one chunk.
struct Tiling {
  int64_t slabs;
  int64_t slab_modes;
  bool folded;           // a slab is drawn together with its mirror image
  int64_t pieces;        // of a slab
  int64_t piece_modes;   // of all but the last one
  int64_t block_pieces;  // of all but the last block
  int64_t blocks;
};

template <class T>
struct NoiseBlock {
  const FractalNoiseArgs<T>& args;
  const NoiseItem<T>& item;
  const Tiling& tiling;
  int64_t begin;  // pieces
  int64_t end;
  double& power;  // written
};

template <class T>
struct ScaleRange {
  T* values;
  int64_t count;
  T factor;
};

template <class T>
struct RowsBlock {
  const RowsArgs<T>& args;
  int64_t begin;
  int64_t end;
  Moments& moments;  // written
};

// The integer wave number at a position of an axis; that of Nyquist is positive.
inline int64_t signed_mode(int64_t position, int64_t size) {
  return position <= size / 2 ? position : position - size;
}

// Walks over the rows: modes that differ in the last coordinate only.
class Row {
 public:
  template <class T>
  Row(const FractalNoiseArgs<T>& args, int64_t index) : leading_(args.axes - 1) {
    for (int axis = leading_ - 1; axis >= 0; --axis) {
      size_[axis] = args.size[axis];
      step_square_[axis] = args.step[axis] * args.step[axis];
      position_[axis] = index % size_[axis];
      index /= size_[axis];
    }
    update(0);
  }

  void next() {
    for (int axis = leading_ - 1; axis >= 0; --axis) {
      if (++position_[axis] < size_[axis]) return update(axis);
      position_[axis] = 0;
    }
    update(0);
  }

  // Its share of |k|^2.
  double square() const { return square_[leading_]; }
  // That of the first coordinate that differs in the mirror image; 0: none does.
  int sign() const { return sign_[leading_]; }
  // Word k >= 1 of the Philox counter of the row (side 1) or of its mirror image (side -1).
  uint32_t counter(int k, int side) const { return coordinate(leading_ - k, side); }
  // The coordinate that has no place in the counter.
  uint32_t key_word(int side) const {
    return leading_ + 1 == kFractalNoiseMaxAxes ? coordinate(0, side) : 0;
  }

 private:
  // The coordinates from `axis` on have changed.
  void update(int axis) {
    for (; axis < leading_; ++axis) {
      const int64_t n = signed_mode(position_[axis], size_[axis]);
      const double real_mode = static_cast<double>(n);
      mode_[axis] = n;
      own_mirror_[axis] = n == 0 || 2 * n == size_[axis];
      square_[axis + 1] = square_[axis] + real_mode * real_mode * step_square_[axis];
      sign_[axis + 1] = sign_[axis] != 0 || own_mirror_[axis] ? sign_[axis] : n > 0 ? 1 : -1;
    }
  }

  uint32_t coordinate(int axis, int side) const {
    if (axis < 0) return 0;
    return static_cast<uint32_t>(own_mirror_[axis] ? mode_[axis] : side * mode_[axis]);
  }

  int leading_;
  int64_t size_[kFractalNoiseMaxAxes];
  double step_square_[kFractalNoiseMaxAxes];
  int64_t position_[kFractalNoiseMaxAxes];
  int64_t mode_[kFractalNoiseMaxAxes];
  bool own_mirror_[kFractalNoiseMaxAxes];
  double square_[kFractalNoiseMaxAxes] = {};  // of the coordinates before
  int sign_[kFractalNoiseMaxAxes] = {};
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "fractal_noise/fractal_noise_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {

void philox_words_cpu(const uint32_t* counter, const uint32_t* key, uint32_t* out) {
  uint64_t word[4] = {counter[0], counter[1], counter[2], counter[3]};
  baseline::philox4x32(word, uint64_t{key[0]}, uint64_t{key[1]});
  for (int k = 0; k < 4; ++k) out[k] = static_cast<uint32_t>(word[k]);
}

namespace {

template <class T>
using Draw = EntryPoints<void(const NoiseBlock<T>&)>;
template <class T>
using Scale = EntryPoints<void(const ScaleRange<T>&)>;
template <class T>
using CopyRows = EntryPoints<void(const RowsBlock<T>&)>;

constexpr Draw<float> kDrawFloat = FRACTALKERN_TABLE(draw_float);
constexpr Draw<double> kDrawDouble = FRACTALKERN_TABLE(draw_double);
constexpr Scale<float> kScaleFloat = FRACTALKERN_TABLE(scale_float);
constexpr Scale<double> kScaleDouble = FRACTALKERN_TABLE(scale_double);
constexpr CopyRows<float> kRowsFloat = FRACTALKERN_TABLE(rows_float);
constexpr CopyRows<double> kRowsDouble = FRACTALKERN_TABLE(rows_double);

template <class T>
NoiseItem<T> prepare(const FractalNoiseArgs<T>& args, int64_t index, int64_t modes) {
  NoiseItem<T> item;
  item.index = args.common_noise ? 0 : index;
  baseline::noise_key(args.seed, item.index, 0, item.key);
  item.band = noise_band(args);
  const double reference = reference_square(args, args.beta[index] > 0);
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
Tiling tile(const FractalNoiseArgs<T>& args, int64_t modes) {
  constexpr int64_t kGroup = kGroupBytes / sizeof(T);
  const auto rounded_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  Tiling tiling;
  tiling.folded = args.axes > 1 && modes / args.size[0] >= kSmallestFoldedSlab;
  tiling.slabs = tiling.folded ? args.size[0] : 1;
  tiling.slab_modes = modes / tiling.slabs;
  const int64_t fewest = rounded_up(tiling.slab_modes, kChunkModes);
  tiling.piece_modes = rounded_up(rounded_up(tiling.slab_modes, fewest), kGroup) * kGroup;
  tiling.pieces = rounded_up(tiling.slab_modes, tiling.piece_modes);
  const int64_t drawn_slabs = tiling.folded ? tiling.slabs / 2 + 1 : 1;
  const int64_t drawn_modes = std::min(tiling.piece_modes, tiling.slab_modes);
  tiling.block_pieces = std::max(kBlockModes / drawn_modes / (tiling.folded ? 2 : 1), int64_t{1});
  tiling.blocks = rounded_up(drawn_slabs * tiling.pieces, tiling.block_pieces);
  return tiling;
}

template <class T>
void run(const FractalNoiseArgs<T>& args, const Parallel& parallel, const Draw<T>& draw,
         const Scale<T>& scale) {
  int64_t modes = args.size[args.axes - 1] / 2 + 1;
  for (int axis = 0; axis < args.axes - 1; ++axis) modes *= args.size[axis];
  const Tiling tiling = tile(args, modes);
  const int64_t pieces = (tiling.folded ? tiling.slabs / 2 + 1 : 1) * tiling.pieces;
  const int64_t elements = 2 * modes * args.items;
  std::vector<NoiseItem<T>> items;
  for (int64_t b = 0; b < args.items; ++b) items.push_back(prepare(args, b, modes));
  std::vector<double> power(tiling.blocks * args.items);

  const auto factor_of = [&](int64_t item) {
    double sum = 0;
    for (int64_t i = item * tiling.blocks; i < (item + 1) * tiling.blocks; ++i) sum += power[i];
    return static_cast<T>(sum > 0 ? 1 / std::sqrt(sum) : 0);
  };
  const bool normalized = args.normalize != Normalize::kNone;
  parallel.for_each(tiling.blocks * args.items, elements, [&](int64_t task) {
    const NoiseItem<T>& item = items[task / tiling.blocks];
    const int64_t begin = task % tiling.blocks * tiling.block_pieces;
    const int64_t end = std::min(begin + tiling.block_pieces, pieces);
    draw.active()({args, item, tiling, begin, end, power[task]});
    if (normalized && tiling.blocks == 1)
      scale.active()({item.out, 2 * modes, factor_of(task)});  // still in cache
  });
  if (!normalized || tiling.blocks == 1) return;
  std::vector<T> factors;
  for (int64_t b = 0; b < args.items; ++b) factors.push_back(factor_of(b));
  const int64_t ranges = (modes + kBlockModes - 1) / kBlockModes;
  parallel.for_each(ranges * args.items, elements, [&](int64_t task) {
    const int64_t begin = task % ranges * kBlockModes;
    const int64_t count = std::min(kBlockModes, modes - begin);
    const int64_t item = task / ranges;
    scale.active()({items[item].out + 2 * begin, 2 * count, factors[item]});
  });
}

template <class T>
Moments run_rows(const RowsArgs<T>& args, const Parallel& parallel, const CopyRows<T>& copy) {
  const int64_t block_rows = std::max(kBlockModes / args.columns, int64_t{1});
  const int64_t blocks = (args.rows + block_rows - 1) / block_rows;
  std::vector<Moments> moments(blocks);
  parallel.for_each(blocks, args.rows * args.columns, [&](int64_t task) {
    const int64_t begin = task * block_rows;
    copy.active()({args, begin, std::min(begin + block_rows, args.rows), moments[task]});
  });
  Moments total;
  for (const Moments& part : moments) {
    total.sum += part.sum;
    total.squares += part.squares;
  }
  return total;
}

}  // namespace

Moments copy_rows_cpu(const RowsArgs<double>& args, const Parallel& parallel) {
  return run_rows(args, parallel, kRowsDouble);
}

Moments copy_rows_cpu(const RowsArgs<float>& args, const Parallel& parallel) {
  return run_rows(args, parallel, kRowsFloat);
}

void fractal_noise_cpu(const FractalNoiseArgs<double>& args, const Parallel& parallel) {
  run(args, parallel, kDrawDouble, kScaleDouble);
}

void fractal_noise_cpu(const FractalNoiseArgs<float>& args, const Parallel& parallel) {
  run(args, parallel, kDrawFloat, kScaleFloat);
}

}  // namespace fractalkern
