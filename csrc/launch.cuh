// The one place where kernels meet their machine: a GPU through the CUDA runtime, or, for the test
// suite, a CPU through tests/emulator. Kernel sources use only what both give them.
#pragma once

#ifdef WGAN_EMULATOR

#include "emulator.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

// Shared memory of a block.
#define WGAN_SHARED(type, name, count) __shared__ type name[count]

// Start a kernel on a stream. Nothing is waited for; a launch that the runtime refuses comes back
// as its message, one that it takes as nullptr. The arguments are converted to the kernel's own
// parameter types first, since the runtime gets their addresses only.
template <typename... Params>
const char* launch(
    void (*kernel)(Params...),
    unsigned grid,   // blocks
    unsigned block,  // threads in each
    void* stream,
    std::common_type_t<Params>... args) {
  void* addresses[] = {&args...};
  const cudaError_t status = cudaLaunchKernel(
      reinterpret_cast<const void*>(kernel), grid, block, addresses, 0,
      static_cast<cudaStream_t>(stream));
  if (status == cudaSuccess) {
    return nullptr;
  }
  (void)cudaGetLastError();  // reported here: not to be found again by the next check elsewhere
  return cudaGetErrorString(status);
}

#endif
