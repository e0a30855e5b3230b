// What the binding asks of the kernels. Plain C++: neither torch nor CUDA is needed to read it.
// Every launcher returns nullptr, or the message of a launch that failed, and never waits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wgan {

enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

// One tensor of a list, in each of the arrays that a kernel reads or writes in parallel.
template <int kArrays>
struct Entry {
  void* address[kArrays];  // of `numel` elements each, dense, the same order in all
  int64_t numel;           // may be 0
};

// clamp.cu: x = min(max(x, -c), c).
const char* clamp(
    const Entry<1>* entries,  // [count]: the parameter
    size_t count,
    DType dtype,
    double c,  // >= 0
    void* stream);

struct RmsProp {
  double lr;
  const float* lr_tensor;  // one element on the device, read instead of lr; or nullptr
  double alpha;
  double eps;
  double c;  // >= 0
};

// rmsprop.cu: the step of RMSProp, then the clamp, in one pass over memory.
const char* rmsprop_clamp(
    const Entry<3>* entries,  // [count]: parameter, gradient, mean of squares
    size_t count,
    DType dtype,
    const RmsProp& settings,
    void* stream);

struct Adam {
  const float* step;  // one element on the device: the number of this step, from 1
  double lr;
  const float* lr_tensor;  // one element on the device, read instead of lr; or nullptr
  double rest1;            // 1 - beta1
  double rest2;            // 1 - beta2
  const float* rest2_tensor;  // as lr_tensor
  double eps;
  double c;  // >= 0, infinity for no clamp
  double share;
  const float* share_tensor;  // as lr_tensor
};

// adam.cu: the step of Adam, then the clamp, in one pass over memory.
const char* adam(
    const Entry<4>* entries,  // [count]: parameter, gradient, mean, mean of squares
    size_t count,
    DType dtype,
    const Adam& settings,
    void* stream);

// The same, then average = (1 - share) · average + share · parameter, in the same pass.
const char* adam_average(
    const Entry<5>* entries,  // [count]: as for adam, and the average
    size_t count,
    DType dtype,
    const Adam& settings,
    void* stream);

// weight · mean over rows of (norm - target)²
struct Penalty {
  int64_t rows;     // the batch
  int64_t columns;  // elements of one sample
  double weight;
  double target;
  bool one_sided;  // only norms above the target cost
};

// Partial sums that the forward kernel wants room for: at least 1.
int64_t penalty_partials(const Penalty& settings, DType dtype);

// penalty.cu. "wide" is float, or double where the storage is double.
const char* penalty_forward(
    const void* grads,  // [rows, columns]
    void* penalty,      // [1], wide
    void* norms,        // [rows], wide
    void* partials,     // [penalty_partials()], wide, any content
    void* ticket,       // [1], uint32: 0 before and after
    DType dtype,
    const Penalty& settings,
    void* stream);

const char* penalty_backward(
    const void* grads,         // [rows, columns]
    const void* norms,         // [rows], wide
    const void* grad_penalty,  // [1], wide; or nullptr
    const void* grad_norms,    // [rows], wide; or nullptr
    void* grad_grads,          // [rows, columns]
    DType dtype,
    const Penalty& settings,
    void* stream);

}  // namespace wgan
