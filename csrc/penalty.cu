// The gradient penalty, weight · mean((‖g‖ - target)²), and its gradient with respect to g
// (Gulrajani et al. 2017, eq. 3; one-sided: Petzka et al. 2018, eq. 8). Squares are added in float,
// unscaled, as torch's own norm does: a row that is all below 1e-23 counts as zero, above 1e19 as
// infinite.
#include "memory.cuh"

namespace wgan {
namespace {

constexpr int kLoads = 2;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int64_t kPartials = 4096;  // about as many as the last block adds in no time

// The sum of `value` over the block, in thread 0, always added in the same order.
template <typename A>
__device__ __forceinline__ A block_sum(A value) {
  WGAN_SHARED(A, warps, kThreads / kWarp);
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_down_sync(kAllLanes, value, distance);
  }
  if (threadIdx.x % kWarp == 0) {
    warps[threadIdx.x / kWarp] = value;
  }
  __syncthreads();
  A sum = 0;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int warp = 0; warp < kThreads / kWarp; ++warp) {
      sum += warps[warp];
    }
  }
  __syncthreads();  // the array may be used again
  return sum;
}

// How far a norm lies from the target, as far as that costs. NaN stays NaN.
template <typename A>
__device__ __forceinline__ A excess(A norm, A target, bool one_sided) {
  const A distance = norm - target;
  return one_sided && distance < 0 ? A(0) : distance;
}

// One grid covers [rows, slices]: block b has slice b % slices of row b / slices, and takes every
// `slices`-th chunk of that row.
template <typename A>
struct Rows {
  int64_t rows;
  int64_t columns;
  int32_t slices;
  A scale;  // of the sum of squares: weight / rows; of its derivative: 2 · weight / rows
  A target;
  bool one_sided;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) penalty_forward_kernel(
    const T* grads,            // [rows, columns]
    compute_t<T>* penalty,     // [1]
    compute_t<T>* norms,       // [rows]
    compute_t<T>* partials,    // [rows, slices]: sums of squares
    unsigned* ticket,          // [1]: blocks done
    const Rows<compute_t<T>> k) {
  using A = compute_t<T>;
  constexpr int kSize = kChunk<T, kLoads>;
  const int64_t row = blockIdx.x / k.slices;
  const int64_t stride = static_cast<int64_t>(k.slices) * kSize;
  A squares = 0;
  if (row < k.rows) {  // a batch of 0 has one block all the same, to write the mean of nothing
    for (int64_t start = static_cast<int64_t>(blockIdx.x % k.slices) * kSize; start < k.columns;
         start += stride) {
      const int64_t left = k.columns - start;
      T* const array[1] = {const_cast<T*>(grads) + row * k.columns + start};
      apply<T, kLoads, 1, 0>(
          array, left < kSize ? static_cast<int>(left) : kSize,
          [&](A(&x)[1]) { squares += x[0] * x[0]; });
    }
  }
  squares = block_sum(squares);

  WGAN_SHARED(bool, last, 1);
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = squares;
    __threadfence();  // the partial sum is seen before the ticket
    // The ticket counts to the last block and wraps to 0: ready for the next launch.
    last[0] = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();  // and the others' sums after it, by this thread and past the barrier by all
  }
  __syncthreads();
  if (!last[0]) {
    return;
  }

  // The block that came last: every sum is there, and is added in an order that does not depend
  // on which block this is.
  A cost = 0;
#pragma unroll 1
  for (int64_t r = threadIdx.x; r < k.rows; r += kThreads) {
    A sum = 0;
    for (int32_t slice = 0; slice < k.slices; ++slice) {
      sum += partials[r * k.slices + slice];
    }
    const A norm = root(sum);
    norms[r] = norm;
    const A distance = excess(norm, k.target, k.one_sided);
    cost += distance * distance;
  }
  cost = block_sum(cost);
  if (threadIdx.x == 0) {
    penalty[0] = k.scale * cost;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) penalty_backward_kernel(
    const T* grads,                    // [rows, columns]
    const compute_t<T>* norms,         // [rows]
    const compute_t<T>* grad_penalty,  // [1] or nullptr
    const compute_t<T>* grad_norms,    // [rows] or nullptr
    T* grad_grads,                     // [rows, columns]
    const Rows<compute_t<T>> k) {
  using A = compute_t<T>;
  constexpr int kSize = kChunk<T, kLoads>;
  const int64_t row = blockIdx.x / k.slices;
  const int64_t stride = static_cast<int64_t>(k.slices) * kSize;
  const A norm = norms[row];
  A slope = 0;  // of the loss with respect to this norm
  if (grad_penalty) {
    slope = *grad_penalty * k.scale * excess(norm, k.target, k.one_sided);
  }
  if (grad_norms) {
    slope += grad_norms[row];
  }
  // d‖g‖/dg = g / ‖g‖, and at 0, where there is none, the subgradient 0.
  const A factor = norm == 0 ? A(0) : slope / norm;
  for (int64_t start = static_cast<int64_t>(blockIdx.x % k.slices) * kSize; start < k.columns;
       start += stride) {
    const int64_t left = k.columns - start;
    const int64_t offset = row * k.columns + start;
    T* const array[2] = {const_cast<T*>(grads) + offset, grad_grads + offset};
    apply<T, kLoads, 0b01, 0b10>(
        array, left < kSize ? static_cast<int>(left) : kSize,
        [&](A(&x)[2]) { x[1] = factor * x[0]; });
  }
}

// Blocks for each row: one for each chunk of it, but at most so many that the grid has `blocks`.
int32_t slices_of_row(const Penalty& settings, int64_t chunk_size, int64_t blocks) {
  const int64_t wanted = (settings.columns + chunk_size - 1) / chunk_size;
  const int64_t allowed = settings.rows > 0 ? blocks / settings.rows : 1;
  const int64_t slices = wanted < allowed ? wanted : allowed;
  return slices > 1 ? static_cast<int32_t>(slices) : 1;
}

template <typename A>
Rows<A> rows_of(const Penalty& settings, int32_t slices, double scale) {
  return {
      settings.rows,
      settings.columns,
      slices,
      static_cast<A>(scale * settings.weight / static_cast<double>(settings.rows)),
      static_cast<A>(settings.target),
      settings.one_sided,
  };
}

int32_t forward_slices(const Penalty& settings, DType dtype) {
  int32_t slices = 1;
  for_dtype(dtype, [&](auto zero) -> const char* {
    slices = slices_of_row(settings, kChunk<decltype(zero), kLoads>, kPartials);
    return nullptr;
  });
  return slices;
}

}  // namespace

int64_t penalty_partials(const Penalty& settings, DType dtype) {
  const int64_t rows = settings.rows > 0 ? settings.rows : 1;
  return rows * forward_slices(settings, dtype);
}

const char* penalty_forward(
    const void* grads, void* penalty, void* norms, void* partials, void* ticket, DType dtype,
    const Penalty& settings, void* stream) {
  const int64_t blocks = penalty_partials(settings, dtype);
  return for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    return launch(
        penalty_forward_kernel<T>, static_cast<unsigned>(blocks), kThreads, stream,
        static_cast<const T*>(grads), static_cast<A*>(penalty), static_cast<A*>(norms),
        static_cast<A*>(partials), static_cast<unsigned*>(ticket),
        rows_of<A>(settings, forward_slices(settings, dtype), 1.0));
  });
}

const char* penalty_backward(
    const void* grads, const void* norms, const void* grad_penalty, const void* grad_norms,
    void* grad_grads, DType dtype, const Penalty& settings, void* stream) {
  if (settings.rows == 0 || settings.columns == 0) {
    return nullptr;
  }
  return for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    const int32_t slices = slices_of_row(settings, kChunk<T, kLoads>, INT32_MAX);
    return launch(
        penalty_backward_kernel<T>, static_cast<unsigned>(settings.rows * slices), kThreads,
        stream, static_cast<const T*>(grads), static_cast<const A*>(norms),
        static_cast<const A*>(grad_penalty), static_cast<const A*>(grad_norms),
        static_cast<T*>(grad_grads), rows_of<A>(settings, slices, 2.0));
  });
}

}  // namespace wgan
