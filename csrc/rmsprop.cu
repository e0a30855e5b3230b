// RMSProp and weight clipping in one pass (Arjovsky et al. 2017, algorithm 1, lines 6 and 7), as
// torch.optim.RMSprop computes the step: eps is added outside of the root.
#include "tensor_list.cuh"

namespace wgan {
namespace {

// Of three arrays each. Sixteen 16-bit values with their roots and quotients would be more than
// sm_100 has registers for.
template <typename T>
constexpr int kLoads = sizeof(T) == 2 ? 1 : 2;

template <typename A>
struct Constants {
  A lr;
  const float* lr_tensor;  // [1] or nullptr
  A alpha;
  A rest;  // 1 - alpha, subtracted in double: in float, 1 - 0.99f has lost half of its digits
  A eps;
  A c;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    rmsprop_kernel(const TensorList<3> tensors, const Constants<compute_t<T>> k) {
  using A = compute_t<T>;
  const A lr = k.lr_tensor ? static_cast<A>(*k.lr_tensor) : k.lr;
  // x: parameter, gradient, mean of squares. The gradient is read only.
  apply_to_list<T, kLoads<T>, 0b111, 0b101>(tensors, [&](A(&x)[3]) {
    x[2] = k.alpha * x[2] + k.rest * x[1] * x[1];
    x[0] = clamped(x[0] - lr * x[1] / (root(x[2]) + k.eps), k.c);
  });
}

}  // namespace

const char* rmsprop_clamp(
    const Entry<3>* entries, size_t count, DType dtype, const RmsProp& settings, void* stream) {
  return for_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    using A = compute_t<T>;
    const Constants<A> constants = {
        static_cast<A>(settings.lr),        settings.lr_tensor,
        static_cast<A>(settings.alpha),     static_cast<A>(1.0 - settings.alpha),
        static_cast<A>(settings.eps),       static_cast<A>(settings.c),
    };
    return for_lists(
        entries, count, kChunk<T, kLoads<T>>, [&](const TensorList<3>& tensors, unsigned blocks) {
          return launch(rmsprop_kernel<T>, blocks, kThreads, stream, tensors, constants);
        });
  });
}

}  // namespace wgan
