// Moments of the mass of a box over all its positions. The box slides: a slab of sums along the
// first axis gains the plane that comes in and loses the one that goes out, the other axes follow
// in the same way within the slab, the last one by differences of prefix sums. The cost does not
// depend on the size of the box.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "box_mass/box_mass.h"
#include "common/instruction_set.h"

namespace fractalkern {
namespace {

struct Moments {
  uint64_t sum = 0;
  unsigned __int128 square = 0;
};

// Positions [begin, end) along the first axis, all along the others.
struct Slide {
  const Weights& weights;
  int64_t item, size, begin, end;
  Moments* moments;
};

template <class Isa>
FRACTALKERN_INLINE void add_row(const uint64_t* row, int64_t cells, int64_t size, uint64_t* prefix,
                                Moments& moments) {
  uint64_t total = 0;
  prefix[0] = 0;
  for (int64_t c = 0; c < cells; ++c) prefix[c + 1] = total += row[c];
  const int64_t positions = cells - size + 1;
  uint64_t bits = 0;
  for (int64_t c = 0; c < positions; ++c) bits |= prefix[c + size] - prefix[c];
  if (bits >> 32 == 0) {
    // Halves of the squares: neither sum can overflow below 2^32 positions.
    uint64_t sum = 0, low = 0, high = 0;
    for (int64_t c = 0; c < positions; ++c) {
      const uint64_t mass = static_cast<uint32_t>(prefix[c + size] - prefix[c]);
      const uint64_t square = mass * mass;
      sum += mass;
      low += static_cast<uint32_t>(square);
      high += square >> 32;
    }
    moments.sum += sum;
    moments.square += (static_cast<unsigned __int128>(high) << 32) + low;
  } else {
    for (int64_t c = 0; c < positions; ++c) {
      const auto mass = static_cast<int64_t>(prefix[c + size] - prefix[c]);
      moments.sum += static_cast<uint64_t>(mass);
      moments.square += static_cast<unsigned __int128>(static_cast<__int128>(mass) * mass);
    }
  }
}

// Sums over windows of `size` along the middle axis: [outer, cells, inner] to
// [outer, cells - size + 1, inner].
template <class Isa>
FRACTALKERN_INLINE void slide_axis(const uint64_t* from, int64_t outer, int64_t cells,
                                   int64_t inner, int64_t size, uint64_t* to) {
  const int64_t positions = cells - size + 1;
  for (int64_t o = 0; o < outer; ++o, from += cells * inner, to += positions * inner) {
    std::fill_n(to, inner, 0);
    for (int64_t c = 0; c < size; ++c)
      for (int64_t i = 0; i < inner; ++i) to[i] += from[c * inner + i];
    for (int64_t p = 1; p < positions; ++p) {
      const uint64_t* const in = from + (p + size - 1) * inner;
      const uint64_t* const out = from + (p - 1) * inner;
      uint64_t* const now = to + p * inner;
      const uint64_t* const before = now - inner;
      for (int64_t i = 0; i < inner; ++i) now[i] = before[i] + in[i] - out[i];
    }
  }
}

template <class Isa, class Source>
FRACTALKERN_INLINE void slide(const Slide& s) {
  const Weights& w = s.weights;
  const int last = w.dims - 1;
  int64_t plane = 1;  // cells of a slab: all axes but the first, or the only one
  for (int k = w.dims > 1 ? 1 : 0; k <= last; ++k) plane *= w.shape[k];
  const int64_t planes = w.dims > 1 ? w.shape[0] : 1;
  const Source* const source = static_cast<const Source*>(w.data) + s.item * planes * plane;

  const auto cells = static_cast<size_t>(plane);
  std::vector<uint64_t> slab(cells), first, second;
  if (w.dims > 2) first.resize(cells);
  if (w.dims > 3) second.resize(cells);
  std::vector<uint64_t> prefix(static_cast<size_t>(w.shape[last] + 1));
  uint64_t* const sums = slab.data();
  const int64_t window = w.dims > 1 ? s.size : 1;
  for (int64_t p = s.begin; p < s.begin + window; ++p)
    for (int64_t c = 0; c < plane; ++c) sums[c] += static_cast<uint64_t>(source[p * plane + c]);

  Moments moments;
  for (int64_t p = s.begin; p < s.end; ++p) {
    if (p > s.begin) {
      const Source* const in = source + (p + window - 1) * plane;
      const Source* const out = source + (p - 1) * plane;
      for (int64_t c = 0; c < plane; ++c)
        sums[c] += static_cast<uint64_t>(in[c]) - static_cast<uint64_t>(out[c]);
    }
    const uint64_t* from = sums;
    uint64_t* to = first.data();
    int64_t outer = 1, inner = plane;
    for (int k = 1; k < last; ++k) {
      inner /= w.shape[k];
      slide_axis<Isa>(from, outer, w.shape[k], inner, s.size, to);
      outer *= w.shape[k] - s.size + 1;
      from = to;
      to = to == first.data() ? second.data() : first.data();
    }
    for (int64_t row = 0; row < outer; ++row)
      add_row<Isa>(from + row * w.shape[last], w.shape[last], s.size, prefix.data(), moments);
  }
  *s.moments = moments;
}

template <class Isa>
FRACTALKERN_INLINE void byte_body(const Slide& s) {
  slide<Isa, uint8_t>(s);
}
template <class Isa>
FRACTALKERN_INLINE void integer_body(const Slide& s) {
  slide<Isa, uint64_t>(s);
}
FRACTALKERN_ENTRY_POINTS(kByteSlide, byte_body, Slide)
FRACTALKERN_ENTRY_POINTS(kIntegerSlide, integer_body, Slide)

}  // namespace

void gliding_mass_cpu(const GlidingMass& p, const Parallel& parallel) {
  const Weights& w = p.weights;
  std::vector<Moments> partial;
  std::vector<Slide> slides;
  std::vector<int64_t> row_of;  // of the result
  int64_t cells = 1;
  for (int k = 0; k < w.dims; ++k) cells *= w.shape[k];
  for (int64_t item = 0; item < w.batch; ++item) {
    for (int64_t i = 0; i < p.size_count; ++i) {
      const int64_t size = p.sizes[i];
      const int64_t positions = w.dims > 1 ? w.shape[0] - size + 1 : 1;
      // A task's first slab costs as much as `size` steps.
      const int64_t step = std::max<int64_t>(64, 2 * size);
      for (int64_t begin = 0; begin < positions; begin += step) {
        slides.push_back({w, item, size, begin, std::min(begin + step, positions), nullptr});
        row_of.push_back(item * p.size_count + i);
      }
    }
  }
  partial.resize(slides.size());
  for (size_t t = 0; t < slides.size(); ++t) slides[t].moments = &partial[t];
  auto* const body = w.type == WeightType::kByte ? kByteSlide.active() : kIntegerSlide.active();
  parallel.for_each(static_cast<int64_t>(slides.size()), w.batch * p.size_count * cells,
                    [&](int64_t t) { body(slides[static_cast<size_t>(t)]); });

  std::vector<Moments> total(static_cast<size_t>(w.batch * p.size_count));
  for (size_t t = 0; t < slides.size(); ++t) {
    Moments& moments = total[static_cast<size_t>(row_of[t])];
    moments.sum += partial[t].sum;
    moments.square += partial[t].square;
  }
  for (size_t row = 0; row < total.size(); ++row) {
    const int64_t size = p.sizes[static_cast<int64_t>(row) % p.size_count];
    int64_t positions = 1;
    for (int k = 0; k < w.dims; ++k) positions *= w.shape[k] - size + 1;
    int64_t* const out = p.moments + 4 * row;
    constexpr int64_t kLow = (int64_t{1} << 62) - 1;
    out[0] = positions;
    out[1] = static_cast<int64_t>(total[row].sum);
    out[2] = static_cast<int64_t>(total[row].square >> 62);
    out[3] = static_cast<int64_t>(total[row].square) & kLow;
  }
}

}  // namespace fractalkern
