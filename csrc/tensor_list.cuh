// A list of tensors in one launch: their addresses travel by value in the kernel's argument, so
// that nothing is copied to the device, and a block finds its share of the work by its index.
// (The idea is that of apex's multi_tensor_apply; the chunks here are smaller, so that a critic of
// a few million parameters gives every multiprocessor some.)
#pragma once

#include "memory.cuh"

namespace wgan {

template <int kArrays>
constexpr int kTensors = kArrays <= 3 ? 96 : 72;  // that fit with their addresses into 4 KB

template <int kArrays>
struct TensorList {
  static_assert(kTensors<kArrays> * (8 * kArrays + 12) <= 3800, "a kernel's arguments end at 4 KB");
  void* address[kArrays][kTensors<kArrays>];
  int64_t numel[kTensors<kArrays>];
  int32_t first[kTensors<kArrays> + 1];  // first block of each, and after the last their number
  int32_t count;                         // tensors, none of them empty
};

// The tensor whose chunks include this block's: first[t] <= blockIdx.x < first[t + 1].
template <int kArrays>
__device__ __forceinline__ int tensor_of_block(const TensorList<kArrays>& list) {
  const int block = blockIdx.x;
  int low = 0;
  int high = list.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (list.first[middle] <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// apply() to this block's chunk: f(x) for each of its elements.
template <typename T, int kLoads, unsigned kRead, unsigned kWrite, int kArrays, typename F>
__device__ __forceinline__ void apply_to_list(const TensorList<kArrays>& list, F f) {
  constexpr int kSize = kChunk<T, kLoads>;
  const int tensor = tensor_of_block(list);
  const int64_t start = static_cast<int64_t>(blockIdx.x - list.first[tensor]) * kSize;
  const int64_t left = list.numel[tensor] - start;
  T* array[kArrays];
#pragma unroll
  for (int a = 0; a < kArrays; ++a) {
    array[a] = static_cast<T*>(list.address[a][tensor]) + start;
  }
  apply<T, kLoads, kRead, kWrite>(array, left < kSize ? static_cast<int>(left) : kSize, f);
}

// Call run(list, blocks) for as few lists as hold all entries: one for up to kTensors of them.
template <int kArrays, typename Run>
const char* for_lists(const Entry<kArrays>* entries, size_t count, int chunk_size, Run run) {
  constexpr int64_t kBlocks = INT32_MAX;  // of a grid, and of `first`
  TensorList<kArrays> list;
  list.count = 0;
  int64_t blocks = 0;
  for (size_t i = 0; i <= count; ++i) {
    const int64_t wanted = i < count ? (entries[i].numel + chunk_size - 1) / chunk_size : 0;
    const bool full = list.count == kTensors<kArrays> || blocks + wanted > kBlocks;
    if ((i == count || full) && list.count > 0) {
      list.first[list.count] = static_cast<int32_t>(blocks);
      if (const char* error = run(list, static_cast<unsigned>(blocks))) {
        return error;
      }
      list.count = 0;
      blocks = 0;
    }
    if (wanted > 0) {
      for (int a = 0; a < kArrays; ++a) {
        list.address[a][list.count] = entries[i].address[a];
      }
      list.numel[list.count] = entries[i].numel;
      list.first[list.count] = static_cast<int32_t>(blocks);
      ++list.count;
      blocks += wanted;
    }
  }
  return nullptr;
}

}  // namespace wgan
