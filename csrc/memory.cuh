// Storage types, the type each is computed in, and the loop over memory that all kernels share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "launch.cuh"
#include "ops.h"

namespace wgan {

constexpr int kThreads = 256;  // in every block

// The arithmetic of T: float, but double for double. All 16-bit values are exact in float.
template <typename T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename T>
using compute_t = typename ComputeType<T>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }

// Rounded to nearest, ties to even; NaN stays NaN.
template <typename T>
__device__ __forceinline__ T narrow(compute_t<T> x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ __forceinline__ __half narrow<__half>(float x) {
  return __float2half(x);
}

// x into [-c, c]. Comparisons, not fmin and fmax: those would turn a NaN into c.
template <typename A>
__device__ __forceinline__ A clamped(A x, A c) {
  return x < -c ? -c : x > c ? c : x;
}

__device__ __forceinline__ float root(float x) { return sqrtf(x); }
__device__ __forceinline__ double root(double x) { return sqrt(x); }

// One call for each storage type: `run` gets a zero of it, for its type.
template <typename Run>
const char* for_dtype(DType dtype, Run run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float());
    case DType::kFloat64:
      return run(double());
    case DType::kBFloat16:
      return run(__nv_bfloat16());
    case DType::kFloat16:
      return run(__half());
  }
  return "unknown storage type";
}

template <typename T>
constexpr int kPack = 16 / sizeof(T);  // elements in a 16-byte access

// Elements that a block handles with kLoads accesses of 16 bytes a thread and array.
template <typename T, int kLoads>
constexpr int kChunk = kThreads * kLoads * kPack<T>;

// For elements i < n of kArrays parallel arrays: x[a] = array[a][i], f(x), array[a][i] = x[a].
// Bit a of kRead and of kWrite says whether array a takes part in the load and in the store.
// A whole block calls it, with n <= kChunk<T, kLoads>. Where every address is a multiple of 16 the
// accesses are 16 bytes wide, and a thread has all of its loads under way before it uses the first.
template <typename T, int kLoads, unsigned kRead, unsigned kWrite, int kArrays, typename F>
__device__ __forceinline__ void apply(T* const (&array)[kArrays], int n, F f) {
  constexpr int kWidth = kPack<T>;
  uintptr_t bits = 0;
#pragma unroll
  for (int a = 0; a < kArrays; ++a) {
    bits |= reinterpret_cast<uintptr_t>(array[a]);
  }
  int done = 0;
  if (bits % 16 == 0) {
    const int packs = n / kWidth;
    uint4 pack[kLoads][kArrays];
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int i = threadIdx.x + load * kThreads;
      if (i < packs) {
#pragma unroll
        for (int a = 0; a < kArrays; ++a) {
          if (kRead >> a & 1) {
            pack[load][a] = reinterpret_cast<const uint4*>(array[a])[i];
          }
        }
      }
    }
#pragma unroll
    for (int load = 0; load < kLoads; ++load) {
      const int i = threadIdx.x + load * kThreads;
      if (i < packs) {
        T lane[kArrays][kWidth];
        std::memcpy(lane, pack[load], sizeof(lane));  // registers to registers
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          compute_t<T> x[kArrays];
#pragma unroll
          for (int a = 0; a < kArrays; ++a) {
            x[a] = kRead >> a & 1 ? widen(lane[a][k]) : compute_t<T>(0);
          }
          f(x);
#pragma unroll
          for (int a = 0; a < kArrays; ++a) {
            lane[a][k] = narrow<T>(x[a]);
          }
        }
        std::memcpy(pack[load], lane, sizeof(lane));
#pragma unroll
        for (int a = 0; a < kArrays; ++a) {
          if (kWrite >> a & 1) {
            reinterpret_cast<uint4*>(array[a])[i] = pack[load][a];
          }
        }
      }
    }
    done = packs * kWidth;
  }
#pragma unroll 1  // unrolled, this tail would be most of the kernel's code
  for (int i = done + threadIdx.x; i < n; i += kThreads) {
    compute_t<T> x[kArrays];
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      x[a] = kRead >> a & 1 ? widen(array[a][i]) : compute_t<T>(0);
    }
    f(x);
#pragma unroll
    for (int a = 0; a < kArrays; ++a) {
      if (kWrite >> a & 1) {
        array[a][i] = narrow<T>(x[a]);
      }
    }
  }
}

}  // namespace wgan
