// Small kernels, right and wrong ones, by which tests/test_emulator.py tests the emulator itself.
// selftest CASE [SEED [RESIDENT]]: prints the result, or the emulator's message and exits with 1.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "emulator.h"

extern "C" {
void emulator_configure(uint64_t seed, uint64_t resident);
uint64_t emulator_switches();
}

constexpr unsigned kFull = 0xffffffffu;

// Starts a kernel; a message ends the program.
template <typename... P>
void start(void (*kernel)(P...), emulator::Grid grid, dim3 block, std::common_type_t<P>... args) {
  const char* message = launch(kernel, grid, block, nullptr, args...);
  if (!message) return;
  std::printf("%s\n", message);
  std::fflush(stdout);
  std::_Exit(1);
}

// ---- right ones

// Sum over the block in warps, then over the warps; valid in thread 0.
__device__ float block_sum(float value) {
  WGAN_SHARED(float, partial, 32);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int d = 16; d > 0; d /= 2) value += __shfl_down_sync(kFull, value, d);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  if (warp > 0) return 0;
  value = lane < blockDim.x / 32 ? partial[lane] : 0;
  for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(kFull, value, d);
  return value;
}

__global__ void sum_kernel(const float* in, float* out, int64_t n) {
  float total = 0;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    total += in[i];
  total = block_sum(total);
  if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// The last block to finish adds what all the others left; the ticket wraps to zero by itself.
template <bool Release, bool Acquire>
__global__ void ticket_kernel(const float* in, float* partial, unsigned* ticket, float* out) {
  WGAN_SHARED(bool, is_last, 1);
  const float total = block_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = total;
    if (Release) __threadfence();
    is_last[0] = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    if (Acquire) __threadfence();
  }
  __syncthreads();
  if (!is_last[0]) return;
  float sum = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += partial[i];
  __syncthreads();  // block_sum's array is used again
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

// ---- wrong ones

template <bool Barrier>
__global__ void reverse_kernel(int* out) {
  WGAN_SHARED(int, copy, 64);
  copy[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (Barrier) __syncthreads();
  out[threadIdx.x] = copy[63 - threadIdx.x];
}

template <bool Sync>
__global__ void neighbour_kernel(int* out) {
  WGAN_SHARED(int, copy, 32);
  copy[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (Sync) __syncwarp();
  out[threadIdx.x] = copy[threadIdx.x ^ 1];
}

__global__ void skipped_barrier_kernel() {
  if (threadIdx.x < 16) __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.y < 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void deadlock_kernel() {
  if (threadIdx.x == 0) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void full_mask_kernel(float* out) { out[threadIdx.x] = __shfl_down_sync(kFull, 1.0f, 1); }

__global__ void exited_lane_kernel(float* out) {
  if (threadIdx.x == 7) return;
  out[threadIdx.x] = __shfl_xor_sync(kFull, 1.0f, 1);
}

__global__ void unnamed_lane_kernel(float* out) { out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 1); }

__global__ void two_masks_kernel(float* out) {
  out[threadIdx.x] = __shfl_xor_sync(threadIdx.x == 3 ? 0xfu : kFull, 1.0f, 1);
}

__global__ void two_operations_kernel() {
  if (threadIdx.x < 5) {
    __syncwarp();
  } else {
    __shfl_xor_sync(kFull, 1, 1);
  }
}

__global__ void livelock_kernel(unsigned* flag) {
  while (atomicAdd(flag, 0u) == 0) {
  }
}

__global__ void large_shared_kernel(float* out) {
  WGAN_SHARED(float, first, 8192);
  WGAN_SHARED(float, second, 4097);
  out[0] = first[0] + second[0];
}

__global__ void uninitialised_kernel(float* out) {
  WGAN_SHARED(float, values, 32);
  WGAN_SHARED(double, wide, 32);
  WGAN_SHARED(__nv_bfloat16, narrow, 32);
  out[0] = values[31];
  out[1] = static_cast<float>(wide[31]);
  out[2] = narrow[31];
}

struct Large {
  char bytes[4080];
};
__global__ void parameters_kernel(Large, int64_t, int, char*) {}

template <int Beyond>
__global__ void shared_bounds_kernel(float* out) {
  WGAN_SHARED(float, first, 32);
  WGAN_SHARED(float, second, 32);
  first[threadIdx.x] = second[threadIdx.x] = 1;
  volatile int one = threadIdx.x == 9 ? Beyond : 0;
  out[threadIdx.x] = first[one];
}

__global__ void global_bounds_kernel(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x + 1]; }

__global__ void misaligned_kernel(const float* in, float* out) {
  const float4 four = *reinterpret_cast<const float4*>(in + 1);
  out[threadIdx.x] = four.x;
}

__global__ void misaligned_shared_kernel(float* out) {
  WGAN_SHARED(float, values, 64);
  reinterpret_cast<uint4*>(values)[threadIdx.x % 16] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void same_element_kernel(int* out) { out[threadIdx.x] = 1; }  // every block writes the same ones

__device__ int deep(int level) {
  volatile char frame[1024];
  frame[level % 1024] = 1;
  return level == 0 ? frame[0] : deep(level - 1) + frame[level % 1024];
}
__global__ void deep_kernel(int* out) { out[0] = deep(1000); }

// ---- what they do

__global__ void lanes_kernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int* row = out + lane;
  row[0] = __shfl_sync(kFull, lane, 5);
  row[32] = __shfl_sync(kFull, lane, 1, 8);
  row[64] = __shfl_down_sync(kFull, lane, 3);
  row[96] = __shfl_down_sync(kFull, lane, 3, 16);
  row[128] = __shfl_up_sync(kFull, lane, 3);
  row[160] = __shfl_xor_sync(kFull, lane, 8);
  row[192] = __shfl_xor_sync(kFull, lane, 8, 8);
  row[224] = static_cast<int>(__ballot_sync(kFull, lane % 3 == 0));
  row[256] = __any_sync(kFull, lane == 7) * 2 + __all_sync(kFull, lane < 31);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  row[288] = __shfl_xor_sync(half, lane, 1);
  row[320] = __syncthreads_count(lane < 9);
  row[352] = __syncthreads_or(lane == 4) * 2 + __syncthreads_and(lane < 32);
}

__global__ void atomics_kernel(unsigned* word, float* real, int* order) {
  order[threadIdx.x] = static_cast<int>(atomicAdd(&word[0], 1u));
  atomicInc(&word[1], 9u);
  atomicDec(&word[2], 9u);
  atomicMax(&word[3], threadIdx.x);
  atomicCAS(&word[4], threadIdx.x, threadIdx.x + 1);
  atomicExch(&word[5], threadIdx.x);
  atomicAdd(real, 0.5f);
}

__global__ void stride_kernel(float* data, int64_t n) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    data[i] += 1;
}

template <typename T>
std::vector<T> ones(size_t count, T value = 1) {
  return std::vector<T>(count, value);
}

template <typename T>
void print(const std::vector<T>& values) {
  for (const T& value : values) std::printf("%.9g ", static_cast<double>(value));
  std::printf("\n");
}

template <bool Release, bool Acquire>
void ticket(unsigned blocks) {
  auto in = ones<float>(blocks * 64);
  std::vector<float> partial(blocks), out(1);
  std::vector<unsigned> counter(1);
  for (int repeat = 0; repeat < 3; ++repeat) {
    start(ticket_kernel<Release, Acquire>, blocks, 64, in.data(), partial.data(), counter.data(), out.data());
    std::printf("%g %u\n", out[0], counter[0]);
  }
}

int main(int argc, char** argv) {
  static float real[4096];
  static int whole[4096];
  const std::map<std::string, std::function<void()>> cases{
      {"sum",
       [] {
         auto in = ones<float>(100003);
         std::vector<float> out(7);
         start(sum_kernel, 7u, 256, in.data(), out.data(), 100003);
         float total = 0;
         for (float one : out) total += one;
         std::printf("%g\n", total);
       }},
      {"ticket", [] { ticket<true, true>(9); }},
      {"ticket-no-release", [] { ticket<false, true>(9); }},
      {"ticket-no-acquire", [] { ticket<true, false>(9); }},
      {"many-blocks", [] { ticket<true, true>(200); }},
      {"reverse", [] { start(reverse_kernel<true>, 2u, 64, whole), print(std::vector<int>(whole, whole + 64)); }},
      {"one-block-reverse",
       [] { start(reverse_kernel<true>, 1u, 64, whole), print(std::vector<int>(whole, whole + 64)); }},
      {"missing-barrier",
       [] { start(reverse_kernel<false>, 1u, 64, whole), print(std::vector<int>(whole, whole + 64)); }},
      {"syncwarp", [] { start(neighbour_kernel<true>, 1u, 32, whole), print(std::vector<int>(whole, whole + 32)); }},
      {"missing-syncwarp",
       [] { start(neighbour_kernel<false>, 1u, 32, whole), print(std::vector<int>(whole, whole + 32)); }},
      {"skipped-barrier", [] { start(skipped_barrier_kernel, 3u, 32); }},
      {"two-barriers", [] { start(two_barriers_kernel, 1u, dim3(8, 4)); }},
      {"deadlock", [] { start(deadlock_kernel, 1u, 32); }},
      {"absent-lane", [] { start(full_mask_kernel, 1u, 48, real); }},
      {"exited-lane", [] { start(exited_lane_kernel, 1u, 32, real); }},
      {"unnamed-lane", [] { start(unnamed_lane_kernel, 1u, 32, real); }},
      {"two-masks", [] { start(two_masks_kernel, 1u, 32, real); }},
      {"two-operations", [] { start(two_operations_kernel, 1u, 32); }},
      {"livelock", [] { start(livelock_kernel, 1u, 1, reinterpret_cast<unsigned*>(whole)); }},
      {"large-shared", [] { start(large_shared_kernel, 1u, 1, real); }},
      {"uninitialised", [] { start(uninitialised_kernel, 1u, 1, real), print(std::vector<float>(real, real + 3)); }},
      {"parameters", [] { start(parameters_kernel, 1u, 1, Large{}, 0, 0, nullptr); }},
      {"grid-limit", [] { start(same_element_kernel, dim3(1, 65536), 1, whole); }},
      {"empty-grid", [] { start(same_element_kernel, 0u, 1, whole); }},
      {"block-limit", [] { start(same_element_kernel, 1u, dim3(32, 33), whole); }},
      {"after-an-error",
       [] {
         std::printf("%s\n", launch(deadlock_kernel, 1u, 32, nullptr));
         ticket<true, true>(9);
       }},
      {"shared-beyond", [] { start(shared_bounds_kernel<32>, 1u, 32, real); }},
      {"shared-before", [] { start(shared_bounds_kernel<-1>, 1u, 32, real); }},
      {"shared-inside", [] { start(shared_bounds_kernel<31>, 1u, 32, real); }},
      {"global-beyond",
       [] {
         auto in = ones<float>(64);
         start(global_bounds_kernel, 1u, 64, in.data(), real);
       }},
      {"misaligned", [] { start(misaligned_kernel, 1u, 1, ones<float>(16).data(), real); }},
      {"misaligned-shared", [] { start(misaligned_shared_kernel, 1u, 64, real); }},
      {"same-element", [] { start(same_element_kernel, 2u, 32, whole); }},
      {"deep", [] { start(deep_kernel, 1u, 1, whole); }},
      {"lanes", [] { start(lanes_kernel, 1u, 32, whole), print(std::vector<int>(whole, whole + 384)); }},
      {"atomics",
       [] {
         auto* words = reinterpret_cast<unsigned*>(whole + 1024);
         start(atomics_kernel, 1u, 100, words, real, whole);
         std::printf("%u %u %u %u %g\n", words[0], words[1], words[2], words[3], real[0]);
         print(std::vector<int>(whole, whole + 100));
       }},
      {"halves",
       [] {
         for (float value : {1.00390625f, 1.01171875f, 3.4e38f, 65520.0f, 1e-41f, 6e-8f, NAN, -INFINITY})
           std::printf("%.9g %.9g\n", static_cast<float>(__nv_bfloat16(value)), static_cast<float>(__half(value)));
       }},
      {"speed",
       [] {
         auto in = ones<float>(2000 * 256);
         std::vector<float> out(2000);
         const auto began = std::chrono::steady_clock::now();
         start(sum_kernel, 2000u, 256, in.data(), out.data(), 2000 * 256);
         const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
         std::printf("%.0f %.0f\n", 2000 / seconds, emulator_switches() / seconds);
       }},
  };
  const auto chosen = cases.find(argc > 1 ? argv[1] : "");
  if (chosen == cases.end()) return 2;
  emulator_configure(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0,
                     argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  chosen->second();
}
