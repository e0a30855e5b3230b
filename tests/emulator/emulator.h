// What g++ sees in place of the CUDA headers when a .cu file is compiled with -DWGAN_EMULATOR: the part of CUDA that
// the kernels use, each synchronising call handed to the scheduler in emulator.cpp. README.md says how it works.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

// ---- vector types

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define EMULATOR_VECTOR2(name, type)      \
  struct alignas(2 * sizeof(type)) name { \
    type x, y;                            \
  };                                      \
  inline name make_##name(type x, type y) { return {x, y}; }
#define EMULATOR_VECTOR4(name, type)      \
  struct alignas(4 * sizeof(type)) name { \
    type x, y, z, w;                      \
  };                                      \
  inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
EMULATOR_VECTOR2(float2, float)
EMULATOR_VECTOR2(double2, double)
EMULATOR_VECTOR4(float4, float)
EMULATOR_VECTOR4(int4, int)
EMULATOR_VECTOR4(uint4, unsigned)
#undef EMULATOR_VECTOR2
#undef EMULATOR_VECTOR4

// ---- the machine

// Where a thread stands. The scheduler sets them each time before it resumes a fiber.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

namespace emulator {

struct Site {  // where in the source a call stands
  const char* file;
  int line;
};

// A grid with the place of its launch, which the messages name.
struct Grid {
  dim3 size;
  Site site;
  Grid(dim3 size_, const char* file = __builtin_FILE(), int line = __builtin_LINE()) : size(size_), site{file, line} {}
  Grid(unsigned x, const char* file = __builtin_FILE(), int line = __builtin_LINE()) : size(x), site{file, line} {}
};

enum class Warp { Sync, Shuffle, Ballot };

const char* run(const Grid& grid, dim3 block, size_t parameter_bytes, void (*thread)(void*), void* closure);
int barrier(int predicate, Site site);  // returns how many threads' predicates held
uint64_t exchange(Warp kind, unsigned mask, uint64_t value, unsigned source, Site site);
void fence(Site site);
void atomic(const void* address, Site site);
void* shared(const void* key, size_t bytes, size_t align, const char* name, Site site);
unsigned lane();

template <typename T>
struct Same {
  using type = T;
};

}  // namespace emulator

// Runs the whole grid before it returns: nullptr, or the text of what went wrong in the launch or in the kernel. Each
// thread gets a copy of the parameters, as CUDA passes them by value.
template <typename... P>
const char* launch(void (*kernel)(P...), emulator::Grid grid, dim3 block, void*, std::common_type_t<P>... args) {
  struct Closure {
    void (*kernel)(P...);
    std::tuple<P...> parameters;
  } closure{kernel, {args...}};
  size_t bytes = 0;  // each parameter at its own alignment, in order
  ((bytes = (bytes + alignof(P) - 1) / alignof(P) * alignof(P) + sizeof(P)), ...);
  const auto thread = [](void* data) {
    auto* one = static_cast<Closure*>(data);
    std::apply(one->kernel, one->parameters);
  };
  return emulator::run(grid, block, bytes, thread, &closure);
}

// A static __shared__ array: one for each block and each instantiation of the function it stands in.
#define WGAN_SHARED(type, name, count)       \
  static const char name##_key = 0;          \
  auto& name = *static_cast<type(*)[count]>( \
      emulator::shared(&name##_key, sizeof(type[count]), alignof(type), #name, {__FILE__, __LINE__}))

// ---- barriers, fences, warps

#define EMULATOR_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_SITE) { emulator::barrier(0, {file, line}); }
inline int __syncthreads_count(int predicate, EMULATOR_SITE) { return emulator::barrier(predicate, {file, line}); }
inline int __syncthreads_or(int predicate, EMULATOR_SITE) { return emulator::barrier(predicate, {file, line}) > 0; }
inline int __syncthreads_and(int predicate, EMULATOR_SITE) { return emulator::barrier(!predicate, {file, line}) == 0; }
inline void __threadfence(EMULATOR_SITE) { emulator::fence({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_SITE) {
  emulator::exchange(emulator::Warp::Sync, mask, 0, 0, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return static_cast<unsigned>(emulator::exchange(emulator::Warp::Ballot, mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATOR_SITE) {
  return __ballot_sync(mask, !predicate, file, line) == 0;
}

namespace emulator {

template <typename T>
T shuffle(unsigned mask, T value, unsigned source, Site site) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = exchange(Warp::Shuffle, mask, bits, source, site);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

// A segment is the `width` lanes a shuffle stays within; a lane whose source lies outside keeps its own value.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_SITE) {
  const unsigned start = emulator::lane() & ~(width - 1u);
  return emulator::shuffle(mask, value, start + (source & (width - 1u)), {file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
  const unsigned lane = emulator::lane(), last = lane | (width - 1u);
  return emulator::shuffle(mask, value, lane + delta > last ? lane : lane + delta, {file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_SITE) {
  const unsigned lane = emulator::lane(), start = lane & ~(width - 1u);
  return emulator::shuffle(mask, value, lane - start < delta ? lane : lane - delta, {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATOR_SITE) {
  const unsigned lane = emulator::lane(), last = lane | (width - 1u);
  return emulator::shuffle(mask, value, (lane ^ bits) > last ? lane : lane ^ bits, {file, line});
}

// ---- atomics

namespace emulator {

// Atomic for ThreadSanitizer and relaxed, as CUDA's are: only a fence beside it orders other memory.
template <typename T, typename F>
T update(T* address, Site site, F next) {
  atomic(address, site);
  T old, changed;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    changed = next(old);
  } while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emulator

#define EMULATOR_ATOMIC(name, expression)                                                   \
  template <typename T>                                                                     \
  T name(T* address, typename emulator::Same<T>::type value, EMULATOR_SITE) {               \
    return emulator::update(address, {file, line}, [&](T old) -> T { return expression; }); \
  }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicMax, old < value ? value : old)
EMULATOR_ATOMIC(atomicMin, value < old ? value : old)
EMULATOR_ATOMIC(atomicExch, (static_cast<void>(old), value))
EMULATOR_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef EMULATOR_ATOMIC
template <typename T>
T atomicCAS(T* address, typename emulator::Same<T>::type expected, typename emulator::Same<T>::type value,
            EMULATOR_SITE) {
  return emulator::update(address, {file, line}, [&](T old) { return old == expected ? value : old; });
}
#undef EMULATOR_SITE

// ---- loads and halves

template <typename T>
T __ldg(const T* address) {
  return *address;
}
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {  // to nearest, ties to even
    uint32_t wide;
    __builtin_memcpy(&wide, &value, 4);
    bits = value != value ? 0x7fff : static_cast<uint16_t>((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
  }
  operator float() const {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, 4);
    return value;
  }
};

struct __half {
  _Float16 value;
  __half() = default;
  __half(float wide) : value(static_cast<_Float16>(wide)) {}
  operator float() const { return static_cast<float>(value); }
};

inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
inline float __half2float(__half value) { return value; }
inline __half __float2half(float value) { return value; }
inline __half __float2half_rn(float value) { return value; }
