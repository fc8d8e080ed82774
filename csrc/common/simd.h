// Fixed-width GCC vectors, one lane a network or a word. A vector wider than the registers of the
// active instruction set is still correct, only slower.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/instruction_set.h"

namespace fractalkern {

template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};

// Uninitialised array aligned for the widest vector.
template <class T>
class AlignedArray {
 public:
  explicit AlignedArray(int64_t size)
      : data_(static_cast<T*>(std::aligned_alloc(64, (size * sizeof(T) + 63) / 64 * 64))) {
    if (!data_) throw std::bad_alloc();
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data_;
};

// The same, within the object itself up to `kInside` elements.
template <class T, int64_t kInside>
class SmallArray {
 public:
  explicit SmallArray(int64_t size) {
    if (size > kInside) outside_ = std::make_unique<AlignedArray<T>>(size);
  }
  T* data() { return outside_ ? outside_->data() : inside_; }

 private:
  std::unique_ptr<AlignedArray<T>> outside_;
  alignas(64) T inside_[kInside];
};

}  // namespace fractalkern
