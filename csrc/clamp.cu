// Weight clipping: every parameter into [-c, c] (Arjovsky et al. 2017, algorithm 1, line 7).
#include "tensor_list.cuh"

namespace wgan {
namespace {

constexpr int kLoads = 4;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    clamp_kernel(const TensorList<1> params, const compute_t<T> c) {
  using A = compute_t<T>;
  apply_to_list<T, kLoads, 1, 1>(params, [c](A(&x)[1]) { x[0] = clamped(x[0], c); });
}

}  // namespace

const char* clamp(
    const Entry<1>* entries, size_t count, DType dtype, double c, void* stream) {
  return for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto bound = static_cast<compute_t<T>>(c);
    return for_lists(
        entries, count, kChunk<T, kLoads>, [&](const TensorList<1>& params, unsigned blocks) {
          return launch(clamp_kernel<T>, blocks, kThreads, stream, params, bound);
        });
  });
}

}  // namespace wgan
