// Op schemas of fractal_noise_spectrum, on the CPU and CUDA, and of what fractal_normal_ needs.
#include <sys/mman.h>

#include <cmath>
#include <string>
#include <vector>

#include "common/torch_glue.h"
#include "fractal_noise/fractal_noise.h"

namespace fractalkern {
namespace {

Spectrum spectrum_of(const std::string& name) {
  if (name == "gaussian") return Spectrum::kGaussian;
  if (name == "phase") return Spectrum::kPhase;
  STD_TORCH_CHECK(name == "genesis",
                  "fractal_noise: spectrum must be gaussian, phase or genesis, got ", name);
  return Spectrum::kGenesis;
}

Normalize normalize_of(const std::string& name) {
  if (name == "sample") return Normalize::kSample;
  if (name == "ensemble") return Normalize::kEnsemble;
  STD_TORCH_CHECK(name == "none", "fractal_noise: normalize must be sample, ensemble or none, got ",
                  name);
  return Normalize::kNone;
}

// Fresh memory costs a page fault every 4 KiB, more than the drawing itself: ask for large pages.
void ask_for_large_pages(const Tensor& tensor) {
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const uintptr_t last =
      (begin + static_cast<uintptr_t>(tensor.numel()) * tensor.element_size()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

template <class T>
void draw(const Tensor& beta, const std::vector<int64_t>& size, const std::vector<double>& step,
          int64_t seed, bool common_noise, double k_min, double k_max, Spectrum spectrum,
          Normalize normalize, const Tensor& out) {
  FractalNoiseArgs<T> args{};
  args.axes = static_cast<int>(size.size());
  for (int i = 0; i < args.axes; ++i) {
    args.size[i] = size[i];
    args.step[i] = step[i];
  }
  args.k_min = k_min;
  args.k_max = k_max;
  args.items = beta.size(0);
  args.beta = static_cast<const double*>(beta.data_ptr());
  args.seed = static_cast<uint64_t>(seed);
  args.common_noise = common_noise;
  args.spectrum = spectrum;
  args.normalize = normalize;
  args.out = static_cast<T*>(out.data_ptr());
  if (out.is_cuda()) {
    const CudaStream stream = cuda_stream_of(out, "fractal_noise");
    if constexpr (kCudaBuilt) fractal_noise_cuda(args, stream);
  } else {
    fractal_noise_cpu(args, torch_parallel());
  }
}

Tensor fractal_noise_spectrum(const Tensor& beta, const std::vector<int64_t>& size,
                              const std::vector<double>& step, int64_t seed, bool common_noise,
                              double k_min, double k_max, const std::string& spectrum,
                              const std::string& normalize, bool float64) {
  STD_TORCH_CHECK(beta.scalar_type() == ScalarType::Double && beta.dim() == 1,
                  "fractal_noise: beta must be float64 with one dimension");
  STD_TORCH_CHECK(
      !size.empty() && size.size() <= kFractalNoiseMaxAxes && step.size() == size.size(),
      "fractal_noise: size must have 1 to ", kFractalNoiseMaxAxes, " axes and as many steps, got ",
      size.size(), " and ", step.size());
  constexpr int64_t kLargest = (int64_t{1} << 31) - 1;
  int64_t elements = 2;
  std::vector<int64_t> shape = {beta.size(0)};
  for (const int64_t length : size) {
    STD_TORCH_CHECK(length >= 1 && length <= kLargest, "fractal_noise: size must be 1 to ",
                    kLargest, " along each axis, got ", length);
    shape.push_back(length);
  }
  shape.back() = size.back() / 2 + 1;
  for (const int64_t length : shape)
    STD_TORCH_CHECK(!__builtin_mul_overflow(elements, length, &elements),
                    "fractal_noise: more modes than an int64 can count");
  shape.push_back(2);
  for (const double value : step)
    STD_TORCH_CHECK(std::isfinite(value) && value > 0,
                    "fractal_noise: steps must be positive and finite, got ", value);
  STD_TORCH_CHECK(k_min >= 0 && k_max >= 0,
                  "fractal_noise: k_min and k_max must be at least 0, got ", k_min, " and ", k_max);
  const Spectrum law = spectrum_of(spectrum);
  const Normalize rule = normalize_of(normalize);

  const Tensor betas = torch::stable::contiguous(beta);
  Tensor out =
      torch::stable::new_empty(betas, shape, float64 ? ScalarType::Double : ScalarType::Float);
  if (elements == 0) return out;
  if (!out.is_cuda()) ask_for_large_pages(out);
  if (float64)
    draw<double>(betas, size, step, seed, common_noise, k_min, k_max, law, rule, out);
  else
    draw<float>(betas, size, step, seed, common_noise, k_min, k_max, law, rule, out);
  return out;
}

// Uninitialised, of the dtype of `like`.
Tensor empty_in_large_pages(const Tensor& like, const std::vector<int64_t>& size) {
  Tensor out = torch::stable::new_empty(like, size);
  if (out.numel() > 0) ask_for_large_pages(out);
  return out;
}

template <class T>
Moments copy_rows(const Tensor& field, const Tensor& out) {
  const RowsArgs<T> args{static_cast<const T*>(field.data_ptr()), field.size(0), field.stride(0),
                         out.size(1), static_cast<T*>(out.data_ptr())};
  return copy_rows_cpu(args, torch_parallel());
}

// Copies field[:, :n] to out[rows, n]; returns the sum and the sum of squares of what it copied.
Tensor copy_with_moments(const Tensor& field, Tensor out) {
  const ScalarType type = field.scalar_type();
  STD_TORCH_CHECK(
      (type == ScalarType::Float || type == ScalarType::Double) && type == out.scalar_type(),
      "copy_with_moments: field and out must both be float32 or float64");
  STD_TORCH_CHECK(field.dim() == 2 && out.dim() == 2 && field.size(0) == out.size(0) &&
                      out.size(1) <= field.size(1) && field.stride(1) == 1 && out.is_contiguous(),
                  "copy_with_moments: field and out must be rows, those of out not longer");
  Tensor result = torch::stable::new_empty(field, {2}, ScalarType::Double);
  auto* const values = static_cast<double*>(result.data_ptr());
  const Moments moments = out.numel() == 0            ? Moments{}
                          : type == ScalarType::Float ? copy_rows<float>(field, out)
                                                      : copy_rows<double>(field, out);
  values[0] = moments.sum;
  values[1] = moments.squares;
  return result;
}

Tensor philox_words(const Tensor& counter, const Tensor& key) {
  STD_TORCH_CHECK(counter.scalar_type() == ScalarType::Int && counter.numel() == 4 &&
                      key.scalar_type() == ScalarType::Int && key.numel() == 2,
                  "philox_words: counter and key must be int32 with 4 and 2 elements");
  const Tensor counters = torch::stable::contiguous(counter);
  const Tensor keys = torch::stable::contiguous(key);
  Tensor out = torch::stable::empty_like(counters);
  philox_words_cpu(static_cast<const uint32_t*>(counters.data_ptr()),
                   static_cast<const uint32_t*>(keys.data_ptr()),
                   static_cast<uint32_t*>(out.data_ptr()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fractalkern, library) {
  library.def(
      "fractal_noise_spectrum(Tensor beta, int[] size, float[] step, int seed, bool common_noise, "
      "float k_min, float k_max, str spectrum, str normalize, bool float64) -> Tensor");
  library.def("empty_in_large_pages(Tensor like, int[] size) -> Tensor");
  library.def("copy_with_moments(Tensor field, Tensor(a!) out) -> Tensor");
  library.def("philox_words(Tensor counter, Tensor key) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CPU, library) {
  library.impl("fractal_noise_spectrum", TORCH_BOX(&fractal_noise_spectrum));
  library.impl("empty_in_large_pages", TORCH_BOX(&empty_in_large_pages));
  library.impl("copy_with_moments", TORCH_BOX(&copy_with_moments));
  library.impl("philox_words", TORCH_BOX(&philox_words));
}

STABLE_TORCH_LIBRARY_IMPL(fractalkern, CUDA, library) {
  library.impl("fractal_noise_spectrum", TORCH_BOX(&fractal_noise_spectrum));
}

}  // namespace fractalkern
