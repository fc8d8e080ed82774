// Specifiers of arithmetic that both the host's and nvcc's compiler build.
#pragma once

#if defined(__CUDACC__)
#define FRACTALKERN_HOST_DEVICE __host__ __device__ __forceinline__
#define FRACTALKERN_UNROLL _Pragma("unroll")
#else
#define FRACTALKERN_HOST_DEVICE inline __attribute__((always_inline))
#define FRACTALKERN_UNROLL _Pragma("GCC unroll 32")
#endif
