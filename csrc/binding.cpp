// The operators as torch sees them: schemas, checks, allocation of outputs, current stream.
//
// Built against the stable ABI of torch and the limited API of Python, so that one file serves many
// versions of both. The floor is torch 2.10, which is also the package's own: the stream comes from
// aoti_torch_get_current_cuda_stream, which every CUDA build has had since before. (2.13 has
// accelerator::getCurrentStream().nativeHandle(), for which even a CPU build of torch could load
// this file; but a torch that has no CUDA has no use for it.)
#define TORCH_TARGET_VERSION 0x020a000000000000ULL
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030a0000
#endif

#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ops.h"

#ifdef WGAN_EMULATOR
#define WGAN_DISPATCH_KEY CPU
#else
#define WGAN_NAMESPACE wgan  // the emulator's build names another, so that both can be loaded
#define WGAN_DISPATCH_KEY CUDA
// Declared here, as the shim has it only where torch's own CUDA headers are asked for.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using wgan::DType;

// ---- Checks. A message names the operator, the argument, its index in a list, and the rule.

struct Argument {
  const char* op;
  const char* name;
  int64_t index = -1;  // in a list
};

std::ostream& operator<<(std::ostream& out, const Argument& argument) {
  out << argument.op << ": " << argument.name;
  if (argument.index >= 0) {
    out << '[' << argument.index << ']';
  }
  return out;
}

template <typename... Parts>
void check(bool holds, const Parts&... parts) {
  if (!holds) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }
}

void check_not_negative(const char* op, const char* name, double value) {
  check(value >= 0, Argument{op, name}, " must be a number >= 0, got ", value);  // and not NaN
}

std::optional<DType> storage_type(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      return std::nullopt;
  }
}

// What sums and norms of a tensor are kept in.
ScalarType wide_type(DType dtype) {
  return dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
}

// Whether the elements fill one piece of memory, in whatever order of dimensions.
bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0) {
    return true;
  }
  std::vector<std::pair<int64_t, int64_t>> dims;  // (stride, size)
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) {
      dims.emplace_back(tensor.stride(d), tensor.size(d));
    }
  }
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) {
      return false;
    }
    expected *= size;
  }
  return true;
}

bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) {
    return false;
  }
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != b.size(d) || (a.size(d) > 1 && a.stride(d) != b.stride(d))) {
      return false;
    }
  }
  return true;
}

void check_device(const Argument& argument, const Tensor& tensor, [[maybe_unused]] int32_t index) {
#ifdef WGAN_EMULATOR
  check(tensor.is_cpu(), argument, " must be on the CPU, where the emulator is");
#else
  check(
      tensor.is_cuda() && tensor.get_device_index() == index, argument, " must be on cuda:", index,
      " like the first tensor of the call");
#endif
}

DType check_tensor(const Argument& argument, const Tensor& tensor, int32_t device) {
  check_device(argument, tensor, device);
  const std::optional<DType> dtype = storage_type(tensor);
  check(dtype.has_value(), argument, " must be float32, float64, bfloat16 or float16");
  check(is_dense(tensor), argument, " must be dense: contiguous up to the order of dimensions");
  return *dtype;
}

// The type of a list whose tensors all have the same.
DType check_list(
    const char* op, const char* name, const std::vector<Tensor>& tensors, int32_t device) {
  DType first = DType::kFloat32;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Argument argument = {op, name, static_cast<int64_t>(i)};
    const DType dtype = check_tensor(argument, tensors[i], device);
    first = i == 0 ? dtype : first;
    check(dtype == first, argument, " must have the same dtype as ", name, "[0]");
  }
  return first;
}

// That `tensors` match `params` one to one, so that one index serves both.
void check_alike(
    const char* op, const char* name, const std::vector<Tensor>& tensors,
    const std::vector<Tensor>& params, DType dtype, int32_t device) {
  check(
      tensors.size() == params.size(), Argument{op, name}, " must have as many tensors as params: ",
      tensors.size(), " and ", params.size());
  check(
      check_list(op, name, tensors, device) == dtype, Argument{op, name, 0},
      " must have the same dtype as params[0]");
  for (size_t i = 0; i < tensors.size(); ++i) {
    check(
        same_layout(tensors[i], params[i]), Argument{op, name, static_cast<int64_t>(i)},
        " must have the same shape and strides as params[", i, "]");
  }
}

// A tensor of sums or norms: [count], or any shape of one element.
const void* check_wide(
    const Argument& argument, const Tensor& tensor, int64_t count, DType dtype, int32_t device) {
  check_device(argument, tensor, device);
  check(
      tensor.scalar_type() == wide_type(dtype), argument, " must be ",
      dtype == DType::kFloat64 ? "float64" : "float32");
  check(tensor.is_contiguous(), argument, " must be contiguous");
  check(tensor.numel() == count, argument, " must have ", count, " elements, got ", tensor.numel());
  return tensor.const_data_ptr();
}

// ---- Launching

// While it lives, its device is the current one; `stream` is the current stream there.
struct OnDevice {
#ifdef WGAN_EMULATOR
  explicit OnDevice(int32_t) {}
#else
  explicit OnDevice(int32_t index) : guard(index) {
    const auto code = aoti_torch_get_current_cuda_stream(index, &stream);
    check(code == 0, "there is no current stream on cuda:", index);
  }
  torch::stable::accelerator::DeviceGuard guard;
#endif
  void* stream = nullptr;
};

void check_launch(const char* op, const char* error) {
  check(error == nullptr, op, ": the kernel was not launched: ", error ? error : "");
}

// ---- Operators. Each one: check, device guard, allocate, launch on the current stream, check.

void clamp_(std::vector<Tensor> params, double c) {
  const char* op = "clamp_";
  check_not_negative(op, "c", c);
  if (params.empty()) {
    return;
  }
  const int32_t device = params[0].get_device_index();
  const DType dtype = check_list(op, "params", params, device);
  std::vector<wgan::Entry<1>> entries;
  entries.reserve(params.size());
  for (const Tensor& param : params) {
    entries.push_back({{param.mutable_data_ptr()}, param.numel()});
  }
  const OnDevice on(device);
  check_launch(op, wgan::clamp(entries.data(), entries.size(), dtype, c, on.stream));
}

void rmsprop_clamp_(
    std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> square_avgs,
    double lr, double alpha, double eps, double c, std::optional<Tensor> lr_tensor) {
  const char* op = "rmsprop_clamp_";
  check_not_negative(op, "lr", lr);
  check_not_negative(op, "alpha", alpha);
  check_not_negative(op, "eps", eps);
  check_not_negative(op, "c", c);
  if (params.empty()) {
    check(grads.empty() && square_avgs.empty(), op, ": params is empty, grads or square_avgs not");
    return;
  }
  const int32_t device = params[0].get_device_index();
  const DType dtype = check_list(op, "params", params, device);
  check_alike(op, "grads", grads, params, dtype, device);
  check_alike(op, "square_avgs", square_avgs, params, dtype, device);
  wgan::RmsProp settings = {lr, nullptr, alpha, eps, c};
  if (lr_tensor) {
    const void* address = check_wide({op, "lr_tensor"}, *lr_tensor, 1, DType::kFloat32, device);
    settings.lr_tensor = static_cast<const float*>(address);
  }
  std::vector<wgan::Entry<3>> entries;
  entries.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    void* const param = params[i].mutable_data_ptr();
    void* const grad = const_cast<void*>(grads[i].const_data_ptr());  // read only
    entries.push_back({{param, grad, square_avgs[i].mutable_data_ptr()}, params[i].numel()});
  }
  const OnDevice on(device);
  check_launch(
      op, wgan::rmsprop_clamp(entries.data(), entries.size(), dtype, settings, on.stream));
}

// Of each index what the lists have there; lists[1], the gradients, is read only.
template <size_t kArrays>
std::vector<wgan::Entry<kArrays>> entries_of(const std::vector<Tensor>* const (&lists)[kArrays]) {
  std::vector<wgan::Entry<kArrays>> entries(lists[0]->size());
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i].numel = (*lists[0])[i].numel();
    for (size_t a = 0; a < kArrays; ++a) {
      const Tensor& tensor = (*lists[a])[i];
      entries[i].address[a] =
          a == 1 ? const_cast<void*>(tensor.const_data_ptr()) : tensor.mutable_data_ptr();
    }
  }
  return entries;
}

// averages: as many as params, or none.
void adam_(
    std::vector<Tensor> params, std::vector<Tensor> grads, std::vector<Tensor> exp_avgs,
    std::vector<Tensor> exp_avg_sqs, std::vector<Tensor> averages, Tensor step, double lr,
    double rest1, double rest2, double eps, double c, double share,
    std::optional<Tensor> lr_tensor, std::optional<Tensor> rest2_tensor,
    std::optional<Tensor> share_tensor) {
  const char* op = "adam_";
  check_not_negative(op, "lr", lr);
  check_not_negative(op, "rest1", rest1);
  check_not_negative(op, "rest2", rest2);
  check_not_negative(op, "eps", eps);
  check_not_negative(op, "c", c);
  check_not_negative(op, "share", share);
  if (params.empty()) {
    check(
        grads.empty() && exp_avgs.empty() && exp_avg_sqs.empty() && averages.empty(), op,
        ": params is empty, another list not");
    return;
  }
  const int32_t device = params[0].get_device_index();
  const DType dtype = check_list(op, "params", params, device);
  check_alike(op, "grads", grads, params, dtype, device);
  check_alike(op, "exp_avgs", exp_avgs, params, dtype, device);
  check_alike(op, "exp_avg_sqs", exp_avg_sqs, params, dtype, device);
  if (!averages.empty()) {
    check_alike(op, "averages", averages, params, dtype, device);
  }
  const auto address = [&](const char* name, const std::optional<Tensor>& tensor) {
    return tensor ? static_cast<const float*>(
                        check_wide({op, name}, *tensor, 1, DType::kFloat32, device))
                  : nullptr;
  };
  const wgan::Adam settings = {
      address("step", step), lr, address("lr_tensor", lr_tensor), rest1, rest2,
      address("rest2_tensor", rest2_tensor), eps, c, share, address("share_tensor", share_tensor)};
  const OnDevice on(device);
  if (averages.empty()) {
    const auto entries = entries_of({&params, &grads, &exp_avgs, &exp_avg_sqs});
    check_launch(op, wgan::adam(entries.data(), entries.size(), dtype, settings, on.stream));
  } else {
    const auto entries = entries_of({&params, &grads, &exp_avgs, &exp_avg_sqs, &averages});
    check_launch(
        op, wgan::adam_average(entries.data(), entries.size(), dtype, settings, on.stream));
  }
}

// grads: [B, ...], each sample in one piece of memory, its elements in any order, the same for all.
wgan::Penalty check_penalty(
    const Argument& argument, const Tensor& grads, double weight, double target, bool one_sided,
    int32_t device) {
  check_tensor(argument, grads, device);
  check(grads.dim() >= 2, argument, " must have a batch and at least one more dimension");
  int64_t columns = 1;
  for (int64_t d = 1; d < grads.dim(); ++d) {
    columns *= grads.size(d);
  }
  const int64_t rows = grads.size(0);
  check(
      rows <= 1 || columns <= 1 || grads.stride(0) == columns, argument,
      " must hold each sample in one piece: stride of the batch ", columns, ", got ",
      rows > 0 ? grads.stride(0) : 0);
  check(
      rows <= std::numeric_limits<int32_t>::max(), argument, " must have less than 2^31 samples");
  return {rows, columns, weight, target, one_sided};
}

// `ticket` is left as it was found, 0, and so counts as not written. Calls that may run at the same
// time need one each.
std::tuple<Tensor, Tensor> gradient_penalty(
    Tensor grads, Tensor ticket, double weight, double target, bool one_sided) {
  const char* op = "gradient_penalty";
  const int32_t device = grads.get_device_index();
  const wgan::Penalty settings =
      check_penalty({op, "grads"}, grads, weight, target, one_sided, device);
  const DType dtype = *storage_type(grads);
  check_device({op, "ticket"}, ticket, device);
  check(
      ticket.scalar_type() == ScalarType::Int && ticket.numel() == 1, Argument{op, "ticket"},
      " must be one int32");
  const OnDevice on(device);
  const ScalarType wide = wide_type(dtype);
  Tensor penalty = torch::stable::new_empty(grads, {}, wide);
  Tensor norms = torch::stable::new_empty(grads, {settings.rows}, wide);
  Tensor partials =
      torch::stable::new_empty(grads, {wgan::penalty_partials(settings, dtype)}, wide);
  check_launch(
      op, wgan::penalty_forward(
              grads.const_data_ptr(), penalty.mutable_data_ptr(), norms.mutable_data_ptr(),
              partials.mutable_data_ptr(), const_cast<void*>(ticket.const_data_ptr()), dtype,
              settings, on.stream));
  return {penalty, norms};
}

Tensor gradient_penalty_backward(
    Tensor grads, Tensor norms, std::optional<Tensor> grad_penalty,
    std::optional<Tensor> grad_norms, double weight, double target, bool one_sided) {
  const char* op = "gradient_penalty_backward";
  const int32_t device = grads.get_device_index();
  const wgan::Penalty settings =
      check_penalty({op, "grads"}, grads, weight, target, one_sided, device);
  const DType dtype = *storage_type(grads);
  const auto address = [&](const char* name, const std::optional<Tensor>& tensor, int64_t count) {
    return tensor ? check_wide({op, name}, *tensor, count, dtype, device) : nullptr;
  };
  const void* const norms_address = address("norms", norms, settings.rows);
  const void* const penalty_address = address("grad_penalty", grad_penalty, 1);
  const void* const grad_norms_address = address("grad_norms", grad_norms, settings.rows);
  const OnDevice on(device);
  Tensor grad_grads = torch::stable::empty_like(grads);
  check(same_layout(grads, grad_grads), op, ": empty_like gave other strides than those of grads");
  check_launch(
      op, wgan::penalty_backward(
              grads.const_data_ptr(), norms_address, penalty_address, grad_norms_address,
              grad_grads.mutable_data_ptr(), dtype, settings, on.stream));
  return grad_grads;
}

}  // namespace

// torch 2.10 makes a text of the namespace as it stands, not of what it is defined as.
#define WGAN_LIBRARY(name, library) STABLE_TORCH_LIBRARY(name, library)

WGAN_LIBRARY(WGAN_NAMESPACE, library) {
  library.def("clamp_(Tensor(a!)[] params, float c) -> ()");
  library.def(
      "rmsprop_clamp_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] square_avgs, float lr, "
      "float alpha, float eps, float c, Tensor? lr_tensor=None) -> ()");
  library.def(
      "adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
      "Tensor(d!)[] averages, Tensor step, float lr, float rest1, float rest2, float eps, float c, "
      "float share, Tensor? lr_tensor=None, Tensor? rest2_tensor=None, Tensor? share_tensor=None) "
      "-> ()");
  library.def(
      "gradient_penalty(Tensor grads, Tensor ticket, float weight, float target, bool one_sided) "
      "-> (Tensor penalty, Tensor norms)");
  library.def(
      "gradient_penalty_backward(Tensor grads, Tensor norms, Tensor? grad_penalty, "
      "Tensor? grad_norms, float weight, float target, bool one_sided) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(WGAN_NAMESPACE, WGAN_DISPATCH_KEY, library) {
  library.impl("clamp_", TORCH_BOX(&clamp_));
  library.impl("rmsprop_clamp_", TORCH_BOX(&rmsprop_clamp_));
  library.impl("adam_", TORCH_BOX(&adam_));
  library.impl("gradient_penalty", TORCH_BOX(&gradient_penalty));
  library.impl("gradient_penalty_backward", TORCH_BOX(&gradient_penalty_backward));
}

// Importing the module is what loads the operators; it has no functions of its own.
extern "C" PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
