// The loops of power_iteration on the CPU: what they take, one table an instruction set, and calls
// of the active one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/half_precision.h"
#include "common/instruction_set.h"
#include "common/simd.h"
#include "power_iteration/power_iteration.h"
#include "power_iteration/power_iteration_math.h"

namespace fractalkern {

// What fits into the first-level cache, where prefetching would only cost instructions.
constexpr int64_t kCachedElements = 1 << 13;

struct Norms {
  double squares = 0;      // sum of w^2
  double largest_row = 0;  // largest sum of |w| over a row
};

template <class S, class C>
struct SweepArgs {
  const S* w;  // [rows, columns]
  int64_t rows, columns, row_stride;
  const C* v;      // [columns]
  C* y;            // [rows], W v
  C* z;            // [columns], W^T W v
  Norms* norms;    // not null where they are measured
  C* column_sums;  // [columns], sums of |w|; nullptr: neither these nor norms->largest_row
};

template <class C>
struct RecurrenceArgs {
  C* to;  // [size] = z - d q - e p
  const C *z, *q, *p;
  C d, e;
  int64_t size;
};

struct StartArgs {
  double* to;
  int64_t size;
  uint64_t seed;
  int64_t row;
};

template <class S, class C>
struct CopyArgs {
  C* to;  // [rows, columns]
  const S* from;
  int64_t rows, columns, row_stride, column_stride;
};

template <class T>
struct OuterArgs {
  T* to;  // [size] = scale v
  const double* v;
  int64_t size;
  double scale;
};

}  // namespace fractalkern

#define FRACTALKERN_BODY "power_iteration/power_iteration_body.h"
#include "common/each_instruction_set.h"

namespace fractalkern {

constexpr EntryPoints<int64_t()> kVectorBytes = FRACTALKERN_TABLE(vector_bytes);
constexpr EntryPoints<void(const SweepArgs<float, float>&)> kSweepFloat =
    FRACTALKERN_TABLE(sweep_float);
constexpr EntryPoints<void(const SweepArgs<float, double>&)> kSweepWide =
    FRACTALKERN_TABLE(sweep_wide);
constexpr EntryPoints<void(const SweepArgs<double, double>&)> kSweepDouble =
    FRACTALKERN_TABLE(sweep_double);
constexpr EntryPoints<void(const SweepArgs<float, double>&)> kMeasureFloat =
    FRACTALKERN_TABLE(measure_float);
constexpr EntryPoints<void(const SweepArgs<double, double>&)> kMeasureDouble =
    FRACTALKERN_TABLE(measure_double);
constexpr EntryPoints<double(const float*, int64_t)> kSquaresFloat =
    FRACTALKERN_TABLE(squares_float);
constexpr EntryPoints<double(const double*, int64_t)> kSquaresDouble =
    FRACTALKERN_TABLE(squares_double);
constexpr EntryPoints<void(const RecurrenceArgs<float>&)> kRecurFloat =
    FRACTALKERN_TABLE(recur_float);
constexpr EntryPoints<void(const RecurrenceArgs<double>&)> kRecurDouble =
    FRACTALKERN_TABLE(recur_double);
constexpr EntryPoints<void(float*, const float*, float, int64_t)> kScaleFloat =
    FRACTALKERN_TABLE(scale_float);
constexpr EntryPoints<void(double*, const double*, double, int64_t)> kScaleDouble =
    FRACTALKERN_TABLE(scale_double);
constexpr EntryPoints<void(double*, const float*, double, int64_t)> kAddFloat =
    FRACTALKERN_TABLE(add_float);
constexpr EntryPoints<void(double*, const double*, double, int64_t)> kAddDouble =
    FRACTALKERN_TABLE(add_double);
constexpr EntryPoints<double(const float*, double, const float*, double, int64_t)> kDistanceFloat =
    FRACTALKERN_TABLE(distance_float);
constexpr EntryPoints<double(const double*, double, const double*, double, int64_t)>
    kDistanceDouble = FRACTALKERN_TABLE(distance_double);
constexpr EntryPoints<void(double*, double, bool, int64_t)> kDivide = FRACTALKERN_TABLE(divide);
constexpr EntryPoints<void(const StartArgs&)> kFillStart = FRACTALKERN_TABLE(fill_start);
constexpr EntryPoints<void(const CopyArgs<float, float>&)> kCopyFloat =
    FRACTALKERN_TABLE(copy_float);
constexpr EntryPoints<void(const CopyArgs<double, double>&)> kCopyDouble =
    FRACTALKERN_TABLE(copy_double);
constexpr EntryPoints<void(const CopyArgs<Half, float>&)> kCopyHalf = FRACTALKERN_TABLE(copy_half);
constexpr EntryPoints<void(const CopyArgs<BFloat16, float>&)> kCopyBFloat16 =
    FRACTALKERN_TABLE(copy_bfloat16);
constexpr EntryPoints<void(const OuterArgs<float>&)> kOuterFloat = FRACTALKERN_TABLE(outer_float);
constexpr EntryPoints<void(const OuterArgs<double>&)> kOuterDouble =
    FRACTALKERN_TABLE(outer_double);

inline void copy(const CopyArgs<float, float>& args) { kCopyFloat.active()(args); }
inline void copy(const CopyArgs<double, double>& args) { kCopyDouble.active()(args); }
inline void copy(const CopyArgs<Half, float>& args) { kCopyHalf.active()(args); }
inline void copy(const CopyArgs<BFloat16, float>& args) { kCopyBFloat16.active()(args); }
inline void sweep(const SweepArgs<float, float>& args) { kSweepFloat.active()(args); }
inline void sweep(const SweepArgs<float, double>& args) { kSweepWide.active()(args); }
inline void sweep(const SweepArgs<double, double>& args) { kSweepDouble.active()(args); }
inline void measure(const SweepArgs<float, double>& args) { kMeasureFloat.active()(args); }
inline void measure(const SweepArgs<double, double>& args) { kMeasureDouble.active()(args); }
inline double squares(const float* x, int64_t size) { return kSquaresFloat.active()(x, size); }
inline double squares(const double* x, int64_t size) { return kSquaresDouble.active()(x, size); }
inline void recur(const RecurrenceArgs<float>& args) { kRecurFloat.active()(args); }
inline void recur(const RecurrenceArgs<double>& args) { kRecurDouble.active()(args); }
inline void scale(float* to, const float* from, float factor, int64_t size) {
  kScaleFloat.active()(to, from, factor, size);
}
inline void scale(double* to, const double* from, double factor, int64_t size) {
  kScaleDouble.active()(to, from, factor, size);
}
inline void add(double* to, const float* from, double factor, int64_t size) {
  kAddFloat.active()(to, from, factor, size);
}
inline void add(double* to, const double* from, double factor, int64_t size) {
  kAddDouble.active()(to, from, factor, size);
}
inline double distance(const float* x, double a, const float* y, double b, int64_t size) {
  return kDistanceFloat.active()(x, a, y, b, size);
}
inline double distance(const double* x, double a, const double* y, double b, int64_t size) {
  return kDistanceDouble.active()(x, a, y, b, size);
}
inline void divide(double* x, double norm, bool narrow, int64_t size) {
  kDivide.active()(x, norm, narrow, size);
}

}  // namespace fractalkern
