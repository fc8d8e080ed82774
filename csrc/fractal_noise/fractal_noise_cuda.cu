// A tile is a run of modes of one item. First one thread for each row of modes that the tile
// touches works out what the row's modes share: its part of |k|^2, Philox as far as it knows not
// the last coordinate, the columns of the band. The rows stay in shared memory; then every thread
// takes 16 bytes of the spectrum at a time, one mode or two, to which it adds the last coordinate.
//
// On the self-conjugate planes (columns 0 and Nyquist) a row has a second state: that of its mirror
// image where that one draws and this one takes the conjugate. Modes that are their own mirror
// image are drawn again, as real ones.
//
// The power of a sample is found by drawing every mode twice: a first pass sums |coefficient|^2,
// for which it needs no angle and writes nothing, the second draws, scales and writes. Drawing
// costs about as much as writing 8 bytes; to write unscaled modes, then read and write all of them
// again would move 24 bytes instead of 8. The sums of tiles are added in a fixed order, and tiles
// do not depend on the device, the batch or the stream: nor do the bits of a field.
#include <algorithm>
#include <limits>

#include "fractal_noise/fractal_noise_cuda_math.h"

namespace fractalkern {
namespace {

using cuda::philox_row;
using cuda::PhiloxRow;

constexpr const char* kOp = "fractal_noise";
constexpr int kThreads = 256;
constexpr int kMaxRows = 256;
constexpr int64_t kLargestTile = 8192, kSmallestTile = 1024;
constexpr int64_t kTilesWanted = 512;  // of an item: enough for every multiprocessor
constexpr int kSumThreads = 512;
constexpr int64_t kMaxGrid = std::numeric_limits<int32_t>::max();
constexpr int kLeading = kFractalNoiseMaxAxes - 1;

// What a pass does with the modes that it draws.
enum class Pass { kSumExpected, kSumSample, kWrite };

// How a mode of a self-conjugate plane comes by its value.
enum class Plane : uint32_t { kDraws, kConjugate, kReal };

template <class T>
struct Law {
  int leading;                   // axes but the last
  uint32_t length[kLeading];     // of those, the last of them first
  double step_square[kLeading];  // likewise
  double last_square;            // of the step of the last axis
  uint32_t columns;              // modes of a row
  uint32_t nyquist;              // its column; none: columns
  int64_t rows;                  // of an item
  int64_t modes;                 // of an item
  bool banded;
  double lowest_square, highest_square;  // of |k|
  double inverse_reference[2];  // 1 / |k|^2 of the mode of amplitude 1: beta <= 0, beta > 0
  double log2_reference[2];
  bool unscaled;  // amplitudes are |k|^(-beta/2) themselves
  T mean_square;  // of a mode of amplitude 1
  uint64_t seed;
  bool common_noise;
  const double* beta;                // [items]
  int64_t tile_modes;                // even
  int64_t tiles;                     // of an item
  uint32_t step_rows, step_columns;  // from one group of a thread to its next one
};

// What the modes of a row share.
template <class T>
struct alignas(16) Row {
  PhiloxRow state[2];  // [1]: on the self-conjugate planes
  T square;            // of the leading coordinates, relative to the reference
  uint32_t first;      // columns of the band
  uint32_t count;
  Plane plane;
};

template <class T>
struct KeyedRow : Row<T> {
  uint32_t key[2][2];
};

template <class T, bool kKeys>
using RowOf = std::conditional_t<kKeys, KeyedRow<T>, Row<T>>;

__device__ __forceinline__ double exact_sum(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);  // not fused into a multiply-add: the CPU's band is decided so
#else
  return a + b;
#endif
}

__device__ __forceinline__ double exact_product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// The first column whose |k|^2 is at least `bound`, or above it.
template <class T>
__device__ uint32_t first_column(const Law<T>& law, double square, double bound, bool above) {
  uint32_t low = 0, high = law.columns;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    const double k2 =
        exact_sum(square, exact_product(exact_product(middle, middle), law.last_square));
    if (above ? k2 > bound : k2 >= bound)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

template <class T, bool kKeys>
__device__ void set_up_row(const Law<T>& law, int64_t index, int64_t item, const uint64_t (&key)[2],
                           double inverse_reference, RowOf<T, kKeys>& row) {
  if (index >= law.rows) {  // beyond the item: not drawn
    row.state[0] = row.state[1] = {0, 0, 0, 0};
    row.square = 0;
    row.first = row.count = 0;
    row.plane = Plane::kDraws;
    return;
  }
  int32_t mode[kLeading];
  bool own_mirror[kLeading];
  FRACTALKERN_UNROLL
  for (int k = 0; k < kLeading; ++k) {
    mode[k] = 0;
    own_mirror[k] = true;
    if (k >= law.leading) continue;
    const uint32_t length = law.length[k];
    uint32_t position;
    if (index >> 32 == 0) {
      position = static_cast<uint32_t>(index) % length;
      index = static_cast<uint32_t>(index) / length;
    } else {
      position = static_cast<uint32_t>(index % length);
      index /= length;
    }
    mode[k] = static_cast<int32_t>(position <= length / 2 ? position : position - length);
    own_mirror[k] = position == 0 || 2 * position == length;
  }
  double square = 0;
  int sign = 0;
  FRACTALKERN_UNROLL
  for (int k = kLeading - 1; k >= 0; --k) {
    if (k >= law.leading) continue;
    square = exact_sum(square, exact_product(exact_product(mode[k], mode[k]), law.step_square[k]));
    if (sign == 0 && !own_mirror[k]) sign = mode[k] > 0 ? 1 : -1;
  }
  FRACTALKERN_UNROLL
  for (int side = 0; side < 2; ++side) {
    uint32_t counter[kLeading];
    FRACTALKERN_UNROLL
    for (int k = 0; k < kLeading; ++k)
      counter[k] =
          static_cast<uint32_t>(side == 1 && sign < 0 && !own_mirror[k] ? -mode[k] : mode[k]);
    uint64_t own_key[2] = {key[0], key[1]};
    if constexpr (kKeys) {
      cuda::noise_key(law.seed, item, counter[kLeading - 1], own_key);
      row.key[side][0] = static_cast<uint32_t>(own_key[0]);
      row.key[side][1] = static_cast<uint32_t>(own_key[1]);
    }
    row.state[side] = philox_row({0, counter[0], counter[1], counter[2]}, own_key);
  }
  row.square = static_cast<T>(square * inverse_reference);
  row.first = square == 0 ? 1 : 0;  // k = 0 is not drawn
  uint32_t end = law.columns;
  if (law.banded) {
    const uint32_t first = first_column(law, square, law.lowest_square, false);
    row.first = first > row.first ? first : row.first;
    end = first_column(law, square, law.highest_square, true);
  }
  row.count = end > row.first ? end - row.first : 0;
  row.plane = sign == 0 ? Plane::kReal : sign < 0 ? Plane::kConjugate : Plane::kDraws;
}

// What is the same for all modes of an item.
template <class T>
struct Item {
  uint64_t key[2];
  T last_square;  // of the step of the last axis, relative to the reference
  T slope;        // amplitude = q^slope gain
  T gain;
};

template <class T>
struct Mode {
  T real, imaginary;
  T power;  // its share of the field's
};

// The random words of a mode as unit_radius() and unit_phase() take them.
template <class T>
struct Words {
  typename cuda::RealTypes<T>::Words radius[2], phase[2];
};

template <class T, bool kKeys>
__device__ __forceinline__ Words<T> draw_words(const RowOf<T, kKeys>& row, const Item<T>& item,
                                               bool plane, uint32_t column) {
  const PhiloxRow start = row.state[plane];
  const uint64_t product = cuda::multiply_low(uint64_t{column}, cuda::kPhiloxMultiplier0);
  const uint64_t state[4] = {static_cast<uint32_t>(product >> 32) ^ start.e, start.a,
                             static_cast<uint32_t>(product) ^ start.b, start.d};
  uint32_t key0, key1;
  if constexpr (kKeys) {
    key0 = row.key[plane][0];
    key1 = row.key[plane][1];
  } else {
    key0 = static_cast<uint32_t>(item.key[0]);
    key1 = static_cast<uint32_t>(item.key[1]);
  }
  uint64_t word[4];
  cuda::finish_words(state, key0 + 2 * cuda::kPhiloxKeyStep0, key1 + 2 * cuda::kPhiloxKeyStep1,
                     word);
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  return {{low(word[0]), low(word[1])}, {low(word[2]), low(word[3])}};
}

template <class T, Spectrum kSpectrum, Pass kPass, bool kKeys>
__device__ __forceinline__ Mode<T> draw_mode(const Law<T>& law, const RowOf<T, kKeys>& row,
                                             const Item<T>& item, int32_t column) {
  const auto unsigned_column = static_cast<uint32_t>(column);
  const bool plane = column == 0 || unsigned_column == law.nyquist;
  const T real_column = static_cast<T>(column);
  const T q = real_column * real_column * item.last_square + row.square;
  const bool drawn = unsigned_column - row.first < row.count;
  const T amplitude = drawn ? cuda::power_law(q, item.slope) * item.gain : T(0);
  const T weight = plane ? T(1) : T(2);
  Mode<T> mode{};
  if constexpr (kPass == Pass::kSumExpected) {
    mode.power = weight * (amplitude * amplitude) * law.mean_square;
    return mode;
  } else {
    const Words<T> words = draw_words<T, kKeys>(row, item, plane, unsigned_column);
    T radius;
    if constexpr (kPass == Pass::kSumSample && kSpectrum == Spectrum::kGaussian) {
      const T square = -cuda::log_uniform<T>(words.radius[0], words.radius[1]);
      mode.power = weight * square * (amplitude * amplitude);
    } else {
      radius = amplitude * cuda::unit_radius<kSpectrum, false, T>(words.radius[0], words.radius[1]);
      mode.power = weight * (radius * radius);
    }
    T cosine, sine;
    if constexpr (kPass == Pass::kWrite) {
      cuda::unit_phase<kSpectrum, false>(words.phase[0], words.phase[1], cosine, sine);
      mode.real = radius * cosine;
      mode.imaginary = radius * sine;
    }
    if (plane && row.plane != Plane::kDraws) {
      if (row.plane == Plane::kConjugate) {
        mode.imaginary = -mode.imaginary;
      } else {
        radius =
            amplitude * cuda::unit_radius<kSpectrum, true, T>(words.radius[0], words.radius[1]);
        cuda::unit_phase<kSpectrum, true>(words.phase[0], words.phase[1], cosine, sine);
        mode.real = radius * cosine;
        mode.imaginary = 0;
        mode.power = mode.real * mode.real;
      }
    }
    return mode;
  }
}

// Modes to 16 bytes.
template <class T>
constexpr int kGroup = 8 / sizeof(T);

__device__ __forceinline__ void store(const Mode<float> (&mode)[2], float* to) {
  *reinterpret_cast<float4*>(to) = {mode[0].real, mode[0].imaginary, mode[1].real,
                                    mode[1].imaginary};
}
__device__ __forceinline__ void store(const Mode<double> (&mode)[1], double* to) {
  *reinterpret_cast<double2*>(to) = {mode[0].real, mode[0].imaginary};
}

// The block's sum, on thread 0; in the same order whatever the device.
__device__ inline double block_sum(double value, double* shared) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < warps; ++warp) sum += shared[warp];
  return sum;
}

template <class T>
__device__ T factor_of(double power) {
  return static_cast<T>(power > 0 ? 1 / sqrt(power) : 0);
}

// kWrite: modes times `factor` [items] (null: 1) to `out`. Else the power of each tile to `power`
// [items, tiles], or of an item with one tile its factor to `factor`.
template <class T, Spectrum kSpectrum, Pass kPass, bool kKeys>
__global__ void __launch_bounds__(kThreads)
    draw_tile(const __grid_constant__ Law<T> law, int64_t first_tile, double* power, T* factor,
              T* out) {
  constexpr int kModes = kGroup<T>;
  auto* const rows = dynamic_shared<RowOf<T, kKeys>>();
  const int64_t tile = first_tile + blockIdx.x;
  const int64_t number = tile / law.tiles;  // of the item
  const int64_t drawn_item = law.common_noise ? 0 : number;
  const auto thread = static_cast<int>(threadIdx.x);

  // Groups are aligned in memory: of an item that starts within one, the first group has a mode
  // before column 0.
  const int shift = kPass == Pass::kWrite ? static_cast<int>(number * law.modes % kModes) : 0;
  const int64_t begin = tile % law.tiles * law.tile_modes - shift;
  const int64_t end = begin + law.tile_modes < law.modes ? begin + law.tile_modes : law.modes;
  const int64_t first_row = begin < 0 ? 0 : begin / law.columns;
  const auto first_column = static_cast<int32_t>(begin - first_row * law.columns);
  const int groups = static_cast<int>((end - begin + kModes - 1) / kModes);

  const double beta = law.beta[number];
  const int sign = beta > 0 ? 1 : 0;
  const double inverse_reference = law.inverse_reference[sign];
  Item<T> item;
  cuda::noise_key(law.seed, drawn_item, 0, item.key);
  item.last_square = static_cast<T>(law.last_square * inverse_reference);
  item.slope = static_cast<T>(-beta / 4);
  item.gain = law.unscaled ? static_cast<T>(exp2(law.log2_reference[sign] * (-beta / 4))) : T(1);
  if (kPass == Pass::kWrite && factor != nullptr) item.gain *= factor[number];

  const auto last = static_cast<uint32_t>(first_column + groups * kModes - 1);
  // The last tile may be there only for an item that starts within a group: else it is empty.
  const int row_count = groups > 0 ? static_cast<int>(last / law.columns) + 1 : 0;
  for (int row = thread; row < row_count; row += static_cast<int>(blockDim.x))
    set_up_row<T, kKeys>(law, first_row + row, drawn_item, item.key, inverse_reference, rows[row]);
  __syncthreads();

  int32_t column = first_column + thread * kModes;
  uint32_t row = column < 0 ? 0 : static_cast<uint32_t>(column) / law.columns;
  column -= static_cast<int32_t>(row * law.columns);
  const auto columns = static_cast<int32_t>(law.columns);
  const int own_begin = begin < 0 ? 1 : 0;  // modes of the item, counted from the first group
  const int own_end = static_cast<int>(end - begin);
  T* to = out + 2 * (number * law.modes + begin + thread * kModes);
  T sum = 0;
  for (int group = thread; group < groups; group += static_cast<int>(blockDim.x)) {
    Mode<T> mode[kModes];
    uint32_t mode_row = row;
    int32_t mode_column = column;
    FRACTALKERN_UNROLL
    for (int i = 0; i < kModes; ++i) {
      mode[i] = draw_mode<T, kSpectrum, kPass, kKeys>(law, rows[mode_row], item, mode_column);
      sum += mode[i].power;
      if (i + 1 < kModes && ++mode_column == columns) {
        mode_column = 0;
        ++mode_row;
      }
    }
    if constexpr (kPass == Pass::kWrite) {
      const int position = group * kModes;
      if (position >= own_begin && position + kModes <= own_end) {
        store(mode, to);
      } else {
        FRACTALKERN_UNROLL
        for (int i = 0; i < kModes; ++i) {
          if (position + i < own_begin || position + i >= own_end) continue;
          to[2 * i] = mode[i].real;
          to[2 * i + 1] = mode[i].imaginary;
        }
      }
      to += 2 * kModes * static_cast<int>(blockDim.x);
    }
    row += law.step_rows;
    column += static_cast<int32_t>(law.step_columns);
    if (column >= columns) {
      column -= columns;
      ++row;
    }
  }
  if constexpr (kPass != Pass::kWrite) {
    __shared__ double warp_sums[kThreads / kWarp];
    const double total = block_sum(sum, warp_sums);
    if (thread != 0) return;
    if (law.tiles == 1)
      factor[number] = factor_of<T>(total);
    else
      power[tile] = total;
  }
}

// One block an item.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    add_tiles(const double* power, int64_t tiles, int64_t first_item, T* factor) {
  __shared__ double warp_sums[kSumThreads / kWarp];
  const int64_t item = first_item + blockIdx.x;
  double sum = 0;
  for (int64_t tile = threadIdx.x; tile < tiles; tile += blockDim.x)
    sum += power[item * tiles + tile];
  sum = block_sum(sum, warp_sums);
  if (threadIdx.x == 0) factor[item] = factor_of<T>(sum);
}

// The launches of one call.
template <class T>
struct Plan {
  Law<T> law;
  int64_t items;
  unsigned threads;
  int rows;  // of a tile, at most
  double* power;
  T* factor;
  T* out;
};

template <class T, Spectrum kSpectrum, Pass kPass, bool kKeys>
void launch_tiles(const Plan<T>& plan, const CudaStream& stream) {
  const int64_t tiles = plan.items * plan.law.tiles;
  for (int64_t first = 0; first < tiles; first += kMaxGrid)
    launch(kOp, &draw_tile<T, kSpectrum, kPass, kKeys>,
           static_cast<unsigned>(std::min(kMaxGrid, tiles - first)), plan.threads,
           plan.rows * sizeof(RowOf<T, kKeys>), stream, plan.law, first, plan.power, plan.factor,
           plan.out);
}

template <class T, Spectrum kSpectrum, bool kKeys>
void run(const Plan<T>& plan, Normalize normalize, const CudaStream& stream) {
  if (normalize != Normalize::kNone) {
    // Phases alone are random: the sample has the expected power, whatever they are.
    if (normalize == Normalize::kEnsemble || kSpectrum == Spectrum::kPhase)
      launch_tiles<T, Spectrum::kPhase, Pass::kSumExpected, false>(plan, stream);
    else if constexpr (kSpectrum != Spectrum::kPhase)
      launch_tiles<T, kSpectrum, Pass::kSumSample, kKeys>(plan, stream);
    if (plan.law.tiles > 1)
      for (int64_t first = 0; first < plan.items; first += kMaxGrid)
        launch(kOp, &add_tiles<T>, static_cast<unsigned>(std::min(kMaxGrid, plan.items - first)),
               kSumThreads, 0, stream, plan.power, plan.law.tiles, first, plan.factor);
  }
  launch_tiles<T, kSpectrum, Pass::kWrite, kKeys>(plan, stream);
}

template <class T, Spectrum kSpectrum>
void run(const Plan<T>& plan, const FractalNoiseArgs<T>& args, const CudaStream& stream) {
  if (args.axes == kFractalNoiseMaxAxes)
    run<T, kSpectrum, true>(plan, args.normalize, stream);
  else
    run<T, kSpectrum, false>(plan, args.normalize, stream);
}

template <class T>
Law<T> law_of(const FractalNoiseArgs<T>& args) {
  Law<T> law{};
  const int last = args.axes - 1;
  law.leading = last;
  law.rows = 1;
  for (int k = 0; k < last; ++k) {
    const int axis = last - 1 - k;
    law.length[k] = static_cast<uint32_t>(args.size[axis]);
    law.step_square[k] = args.step[axis] * args.step[axis];
    law.rows *= args.size[axis];
  }
  law.last_square = args.step[last] * args.step[last];
  law.columns = static_cast<uint32_t>(args.size[last] / 2 + 1);
  law.nyquist = args.size[last] % 2 == 0 ? law.columns - 1 : law.columns;
  law.modes = law.rows * law.columns;
  const NoiseBand band = noise_band(args);
  law.banded = band.limited;
  law.lowest_square = band.lowest_square;
  law.highest_square = band.highest_square;
  for (int sign = 0; sign < 2; ++sign) {
    const double reference = reference_square(args, sign);
    law.inverse_reference[sign] = 1 / reference;
    law.log2_reference[sign] = std::log2(reference);
  }
  law.unscaled = args.normalize == Normalize::kNone;
  law.mean_square = static_cast<T>(args.spectrum == Spectrum::kGenesis ? 0.5 : 1.0);
  law.seed = args.seed;
  law.common_noise = args.common_noise;
  law.beta = args.beta;
  return law;
}

template <class T>
Plan<T> plan_of(const FractalNoiseArgs<T>& args, const CudaStream& stream) {
  constexpr int kModes = kGroup<T>;
  Plan<T> plan{law_of(args), args.items, 0, 0, nullptr, nullptr, args.out};
  Law<T>& law = plan.law;
  const int64_t wanted = std::clamp(law.modes / kTilesWanted, kSmallestTile, kLargestTile);
  const int64_t fitting = int64_t{kMaxRows - 2} * law.columns;
  law.tile_modes = std::min(wanted, fitting) / 2 * 2;
  // One mode more: that before the item.
  law.tiles = (law.modes + kModes - 1 + law.tile_modes - 1) / law.tile_modes;
  const int64_t drawn = std::min(law.tile_modes, law.modes + kModes - 1);
  const int64_t groups = (drawn + kModes - 1) / kModes;
  plan.threads =
      static_cast<unsigned>(std::min<int64_t>(kThreads, (groups + kWarp - 1) / kWarp * kWarp));
  plan.rows = static_cast<int>((groups * kModes - 1) / law.columns) + 2;
  law.step_rows = plan.threads * kModes / law.columns;
  law.step_columns = plan.threads * kModes % law.columns;
  if (args.normalize != Normalize::kNone) {
    plan.factor = static_cast<T*>(stream.scratch(args.items * static_cast<int64_t>(sizeof(T))));
    if (law.tiles > 1)
      plan.power = static_cast<double*>(
          stream.scratch(args.items * law.tiles * static_cast<int64_t>(sizeof(double))));
  }
  return plan;
}

template <class T>
void draw(const FractalNoiseArgs<T>& args, const CudaStream& stream) {
  const CudaDeviceGuard guard(stream.device, kOp);
  const Plan<T> plan = plan_of(args, stream);
  switch (args.spectrum) {
    case Spectrum::kGaussian:
      return run<T, Spectrum::kGaussian>(plan, args, stream);
    case Spectrum::kPhase:
      return run<T, Spectrum::kPhase>(plan, args, stream);
    case Spectrum::kGenesis:
      return run<T, Spectrum::kGenesis>(plan, args, stream);
  }
}

}  // namespace

void fractal_noise_cuda(const FractalNoiseArgs<double>& args, const CudaStream& stream) {
  draw(args, stream);
}

void fractal_noise_cuda(const FractalNoiseArgs<float>& args, const CudaStream& stream) {
  draw(args, stream);
}

}  // namespace fractalkern
