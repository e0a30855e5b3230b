// Adam, the clamp and the moving average of the weights in one pass (Kingma and Ba 2015,
// algorithm 1), as torch.optim.Adam computes the step: eps is added outside of the corrected root.
#include "tensor_list.cuh"

namespace wgan {
namespace {

constexpr int kLoads = 1;  // of four or five arrays; for two of five sm_100 has too few registers

template <typename A>
struct Constants {
  const float* step;  // [1]
  A lr;
  const float* lr_tensor;  // [1] or nullptr
  A rest1;
  A rest2;
  const float* rest2_tensor;  // [1] or nullptr
  A eps;
  A c;
  A share;
  const float* share_tensor;  // [1] or nullptr
};

// 1 - (1 - rest)^step. A power of 0.999 subtracted from 1 in float would lose three digits of seven.
__device__ __forceinline__ float correction(float rest, float step) {
  return -expm1f(step * log1pf(-rest));
}
__device__ __forceinline__ double correction(double rest, double step) {
  return -expm1(step * log1p(-rest));
}

// As torch.lerp: exact at both ends. Where the shorter way begins is chosen, and not which sum to
// take: of two sums and their branches the compiler makes as many copies of the loop.
template <typename A>
__device__ __forceinline__ A between(A from, A to, A share) {
  const A near = share < A(0.5) ? from : to;
  const A part = share < A(0.5) ? share : share - A(1);
  return near + part * (to - from);
}

// x: parameter, gradient, mean, mean of squares, average if there are five. The gradient is read
// only.
template <typename T, int kArrays>
__device__ __forceinline__ void adam_step(
    const TensorList<kArrays>& tensors, const Constants<compute_t<T>>& k) {
  using A = compute_t<T>;
  constexpr unsigned kAll = (1u << kArrays) - 1;
  const A step = *k.step;
  const A rest2 = k.rest2_tensor ? static_cast<A>(*k.rest2_tensor) : k.rest2;
  const A lr = k.lr_tensor ? static_cast<A>(*k.lr_tensor) : k.lr;
  const A share = k.share_tensor ? static_cast<A>(*k.share_tensor) : k.share;
  const A beta2 = A(1) - rest2;
  const A rate = lr / correction(k.rest1, step);
  const A scale = A(1) / root(correction(rest2, step));
  apply_to_list<T, kLoads, kAll, kAll - 0b10>(tensors, [&](A(&x)[kArrays]) {
    x[2] = between(x[2], x[1], k.rest1);
    x[3] = beta2 * x[3] + rest2 * x[1] * x[1];
    x[0] = clamped(x[0] - rate * x[2] / (root(x[3]) * scale + k.eps), k.c);
    if constexpr (kArrays == 5) {
      x[4] = between(x[4], x[0], share);
    }
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    adam_kernel(const TensorList<4> tensors, const Constants<compute_t<T>> k) {
  adam_step<T>(tensors, k);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    adam_average_kernel(const TensorList<5> tensors, const Constants<compute_t<T>> k) {
  adam_step<T>(tensors, k);
}

template <int kArrays>
const char* run(
    const Entry<kArrays>* entries, size_t count, DType dtype, const Adam& settings, void* stream) {
  return for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    const Constants<A> constants = {
        settings.step,
        static_cast<A>(settings.lr),    settings.lr_tensor,
        static_cast<A>(settings.rest1),
        static_cast<A>(settings.rest2), settings.rest2_tensor,
        static_cast<A>(settings.eps),
        static_cast<A>(settings.c),
        static_cast<A>(settings.share), settings.share_tensor,
    };
    return for_lists(
        entries, count, kChunk<T, kLoads>,
        [&](const TensorList<kArrays>& tensors, unsigned blocks) {
          if constexpr (kArrays == 5) {
            return launch(adam_average_kernel<T>, blocks, kThreads, stream, tensors, constants);
          } else {
            return launch(adam_kernel<T>, blocks, kThreads, stream, tensors, constants);
          }
        });
  });
}

}  // namespace

const char* adam(
    const Entry<4>* entries, size_t count, DType dtype, const Adam& settings, void* stream) {
  return run(entries, count, dtype, settings, stream);
}

const char* adam_average(
    const Entry<5>* entries, size_t count, DType dtype, const Adam& settings, void* stream) {
  return run(entries, count, dtype, settings, stream);
}

}  // namespace wgan
