// The scheduler: one fiber for each CUDA thread, resumed in an order drawn from a seed. It is never compiled with a
// sanitizer itself: EMULATOR_ASAN and EMULATOR_TSAN only have it keep that sanitizer informed.
#include "emulator.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

#ifdef EMULATOR_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* save, const void** bottom, size_t* size);
void __asan_poison_memory_region(const volatile void* address, size_t size);
void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}
constexpr bool kAsan = true;
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
static void __asan_poison_memory_region(const volatile void*, size_t) {}
static void __asan_unpoison_memory_region(const volatile void*, size_t) {}
constexpr bool kAsan = false;
#endif

#ifdef EMULATOR_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
constexpr bool kTsan = true;
#else
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_destroy_fiber(void*) {}
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
constexpr bool kTsan = false;
#endif

namespace emulator {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStack = 64 << 10;
constexpr size_t kSharedLimit = 48 << 10;
constexpr size_t kParameterLimit = 4 << 10;
constexpr size_t kSharedRegion = 64 << 20;  // shared arrays of a grid's blocks, one after another
constexpr size_t kRedZone = kAsan ? 128 : 16;
constexpr size_t kClockRegion = 256 << 20;  // addresses (never touched) that stand for moments in ThreadSanitizer
constexpr size_t kArrays = 64;
constexpr size_t kLiveFibers = 3072;  // ThreadSanitizer knows some 8,000 at most, and slows down with their number
constexpr uint64_t kLivelock = 20'000'000;

enum class State { Runnable, AtBarrier, AtWarp, Exited, Failed };
enum class Pending { None, Fence, Atomic };

void fiber_main();

struct Fiber {
  void* jump[5];  // where to resume, for __builtin_longjmp
  ucontext_t context;
  bool started = false;
  void* asan = nullptr;
  void* tsan = __tsan_create_fiber(0);
  char* memory;

  Fiber() {
    void* got =
        mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) throw std::runtime_error("emulator: no memory for another stack");
    memory = static_cast<char*>(got);
    mprotect(memory, kPage, PROT_NONE);  // the stack grows down, into this
    getcontext(&context);
    context.uc_stack.ss_sp = stack();
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
  }
  ~Fiber() {
    __tsan_destroy_fiber(tsan);
    __asan_unpoison_memory_region(memory, kStack + kPage);
    munmap(memory, kStack + kPage);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  char* stack() { return memory + kPage; }
};

struct Array {  // a shared array
  const void* key;
  void* memory;
};

struct Block;

struct Thread {
  Block* block = nullptr;
  std::unique_ptr<Fiber> fiber;
  unsigned number = 0;  // within the block
  uint3 index{};
  State state = State::Runnable;
  Site site{};
  // The request with which it stopped, and the answer.
  int predicate = 0;
  Warp kind{};
  unsigned mask = 0, source = 0;
  uint64_t value = 0;
  const char* failure = nullptr;
  size_t amount = 0;
  // For ThreadSanitizer: the moment of its last fence, and atomics since then as (address, releases seen).
  Pending pending = Pending::None;
  const void* address = nullptr;
  char* released = nullptr;
  std::vector<std::pair<const void*, size_t>> seen;
};

struct Block {
  uint3 index{};
  std::vector<Thread> threads;
  std::vector<Thread*> runnable, waiting;
  std::vector<std::vector<Thread*>> warps;  // lanes that wait at a warp operation
  std::vector<unsigned> exited_lanes;
  size_t exited = 0, shared_bytes = 0, arrays = 0;
  Array array[kArrays];
  char* clocks = nullptr;
};

struct Machine {
  std::mutex mutex;
  uint64_t seed = 0, launches = 0, random = 0;
  size_t resident = 1;
  uint64_t blocks_run = 0, switches = 0;

  void* jump[5];
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
  void* asan = nullptr;
  void* tsan = nullptr;
  Thread* current = nullptr;
  void (*entry)(void*) = nullptr;
  void* closure = nullptr;
  Site launch_site{};
  bool greedy = false;
  std::string message;  // of the last launch that failed

  std::vector<std::unique_ptr<Fiber>> free;
  std::deque<std::unique_ptr<Fiber>> spent;  // rest until the grid ends: a second use would hide races with the first
  std::vector<Thread*> group;                // kept, as allocations are slow under a sanitizer
  size_t fibers = 0;
  std::vector<std::unique_ptr<Block>> resting, running;

  char *shared = nullptr, *shared_next = nullptr;
  char *clocks = nullptr, *clock_next = nullptr;
  std::map<const void*, std::vector<char*>> released;  // an atomic's address → moments of fences before writes to it
};

Machine machine;

// noipa: the compiler must not conclude from their few lines what these leave unchanged.
[[noreturn, gnu::noipa]] void jump_to(void** where) { __builtin_longjmp(where, 1); }

[[gnu::noipa]] void enter(Fiber& fiber) {
  if (__builtin_setjmp(machine.jump) == 0) {
    if (fiber.started) jump_to(fiber.jump);
    fiber.started = true;
    setcontext(&fiber.context);
  }
}

[[gnu::noipa]] void leave(Fiber& fiber) {
  if (__builtin_setjmp(fiber.jump) == 0) jump_to(machine.jump);
}

// In a fiber: hands over to the scheduler and returns when it resumes this thread. Nothing on this path may allocate or
// call a function that a sanitizer intercepts.
void stop() {
  Fiber& fiber = *machine.current->fiber;
  __sanitizer_start_switch_fiber(&fiber.asan, machine.stack_bottom, machine.stack_size);
  leave(fiber);
  __sanitizer_finish_switch_fiber(fiber.asan, &machine.stack_bottom, &machine.stack_size);
}

void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &machine.stack_bottom, &machine.stack_size);
  for (;;) {  // once for each thread that this fiber comes to be
    machine.entry(machine.closure);
    machine.current->state = State::Exited;
    stop();
  }
}

uint64_t draw(uint64_t below) {  // splitmix64
  uint64_t z = machine.random += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return (z ^ z >> 31) % below;
}

template <typename T>
void shuffle_order(std::vector<T>& items) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draw(i)]);
}

// ---- messages

std::string text(const Site& site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string text(const uint3& index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z) + ")";
}

[[noreturn]] void fail(const Thread& thread, const std::string& what) {
  throw std::runtime_error(text(thread.site) + ": block " + text(thread.block->index) + ", thread " +
                           text(thread.index) + ": " + what);
}

std::string other(const Thread& thread) { return "thread " + text(thread.index) + " waits at " + text(thread.site); }

[[noreturn]] void fail_launch(const Site& site, const std::string& what) {
  throw std::runtime_error(text(site) + ": launch: " + what);
}

[[noreturn]] void fail_stuck(const Block& block) {
  const Thread* first = nullptr;
  const Thread* last = nullptr;
  size_t at_barrier = 0, at_warp = 0;
  for (const Thread& thread : block.threads) {
    if (thread.state != State::AtBarrier && thread.state != State::AtWarp) continue;
    (thread.state == State::AtBarrier ? at_barrier : at_warp) += 1;
    if (!first) first = &thread;
    if (thread.state != first->state || thread.site.line != first->site.line) last = &thread;
  }
  fail(*first, "deadlock: " + std::to_string(at_barrier) + " threads wait at a barrier, " + std::to_string(at_warp) +
                   " at a warp operation, " + std::to_string(block.exited) + " have exited" +
                   (last ? "; " + other(*last) : std::string()));
}

// ---- order, for ThreadSanitizer

void as_fiber(const Thread& thread, void (*act)(void*), char* moment) {
  __tsan_switch_to_fiber(thread.fiber->tsan, 1);  // 1: the switch itself orders nothing
  act(moment);
  __tsan_switch_to_fiber(machine.tsan, 1);
}

// What each of the threads did before comes before what each does after.
void order(const std::vector<Thread*>& threads, char* moment) {
  if (!kTsan) return;
  for (const Thread* thread : threads) as_fiber(*thread, __tsan_release, moment);
  for (const Thread* thread : threads) as_fiber(*thread, __tsan_acquire, moment);
}

char* next_moment(size_t count) {
  if (machine.clock_next + count > machine.clocks + kClockRegion) machine.clock_next = machine.clocks + 64;
  char* moment = machine.clock_next;
  machine.clock_next += count;
  return moment;
}

// A fence before an atomic, seen by another atomic that a fence follows: only that orders threads of different blocks.
void apply_pending(Thread& thread) {
  const Pending pending = std::exchange(thread.pending, Pending::None);
  if (!kTsan || pending == Pending::None) return;
  if (pending == Pending::Atomic) {
    std::vector<char*>& moments = machine.released[thread.address];
    thread.seen.emplace_back(thread.address, moments.size());
    if (thread.released && (moments.empty() || moments.back() != thread.released)) moments.push_back(thread.released);
    return;
  }
  for (const auto& [address, count] : thread.seen) {
    const std::vector<char*>& moments = machine.released[address];
    for (size_t i = 0; i < count; ++i) as_fiber(thread, __tsan_acquire, moments[i]);
  }
  thread.seen.clear();
  thread.released = next_moment(8);
  as_fiber(thread, __tsan_release, thread.released);
}

// ---- blocks and threads

std::unique_ptr<Fiber> take_fiber() {
  if (machine.free.empty()) {
    if (machine.fibers >= kLiveFibers && !machine.spent.empty()) {
      auto fiber = std::move(machine.spent.front());
      machine.spent.pop_front();
      return fiber;
    }
    ++machine.fibers;
    return std::make_unique<Fiber>();
  }
  auto fiber = std::move(machine.free.back());
  machine.free.pop_back();
  return fiber;
}

void start_block(uint64_t number) {
  if (machine.resting.empty()) machine.resting.push_back(std::make_unique<Block>());
  machine.running.push_back(std::move(machine.resting.back()));
  machine.resting.pop_back();
  Block& block = *machine.running.back();
  block.index = {static_cast<unsigned>(number % gridDim.x), static_cast<unsigned>(number / gridDim.x % gridDim.y),
                 static_cast<unsigned>(number / gridDim.x / gridDim.y)};
  const unsigned count = blockDim.x * blockDim.y * blockDim.z, warps = (count + 31) / 32;
  block.exited = block.shared_bytes = block.arrays = 0;
  block.waiting.clear();
  block.runnable.clear();
  block.warps.resize(warps);
  for (auto& warp : block.warps) warp.clear();
  block.exited_lanes.assign(warps, 0);
  if (kTsan) block.clocks = next_moment(8 + 64 * warps);
  block.threads.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    if (!thread.fiber) thread.fiber = take_fiber();
    thread.block = &block;
    thread.number = i;
    thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    thread.state = State::Runnable;
    thread.site = machine.launch_site;
    thread.pending = Pending::None;
    thread.released = nullptr;
    thread.seen.clear();
    if (kTsan) as_fiber(thread, __tsan_acquire, machine.clocks);  // the host's work before the launch
    block.runnable.push_back(&thread);
  }
  shuffle_order(block.runnable);
}

void finish_block(size_t slot) {
  if (kTsan)
    for (Thread& thread : machine.running[slot]->threads) machine.spent.push_back(std::move(thread.fiber));
  machine.resting.push_back(std::move(machine.running[slot]));
  machine.running[slot] = std::move(machine.running.back());
  machine.running.pop_back();
  ++machine.blocks_run;
}

void resume(Thread& thread) {
  apply_pending(thread);
  Fiber& fiber = *thread.fiber;
  machine.current = &thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  ++machine.switches;
  __tsan_switch_to_fiber(fiber.tsan, 1);
  __sanitizer_start_switch_fiber(&machine.asan, fiber.stack(), kStack);
  enter(fiber);
  __sanitizer_finish_switch_fiber(machine.asan, nullptr, nullptr);
  __tsan_switch_to_fiber(machine.tsan, 1);
}

// ---- what a thread stopped for

void wake(Block& block, std::vector<Thread*>& threads) {
  shuffle_order(threads);
  for (Thread* thread : threads) {
    thread->state = State::Runnable;
    block.runnable.push_back(thread);
  }
  threads.clear();
}

void at_barrier(Block& block, Thread& thread) {
  if (block.exited > 0)
    fail(thread, "barrier divergence: " + std::to_string(block.exited) + " threads of the block have exited");
  if (!block.waiting.empty()) {
    const Thread& first = *block.waiting.front();
    if (first.site.line != thread.site.line || std::strcmp(first.site.file, thread.site.file) != 0)
      fail(thread, "barrier divergence: " + other(first));
  }
  block.waiting.push_back(&thread);
  if (block.waiting.size() < block.threads.size()) return;
  uint64_t held = 0;
  for (const Thread* one : block.waiting) held += one->predicate != 0;
  for (Thread* one : block.waiting) one->value = held;
  order(block.waiting, block.clocks);
  wake(block, block.waiting);
}

std::string hexadecimal(unsigned mask) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "0x%08x", mask);
  return buffer;
}

void at_warp(Block& block, Thread& thread) {
  const unsigned warp = thread.number / 32, lane = thread.number % 32;
  const size_t lanes = std::min<size_t>(32, block.threads.size() - warp * 32);
  const unsigned present = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
  const auto mask = [&] { return "mask " + hexadecimal(thread.mask); };
  if (!(thread.mask >> lane & 1)) fail(thread, mask() + " does not name the calling lane " + std::to_string(lane));
  if (const unsigned absent = thread.mask & ~present)
    fail(thread, mask() + " names lane " + std::to_string(__builtin_ctz(absent)) + ", which is absent: the warp has " +
                     std::to_string(lanes) + " lanes");
  if (const unsigned gone = thread.mask & block.exited_lanes[warp])
    fail(thread, mask() + " names lane " + std::to_string(__builtin_ctz(gone)) + ", which has exited");
  std::vector<Thread*>& waiting = block.warps[warp];
  for (const Thread* one : waiting) {
    if (!(one->mask & thread.mask)) continue;
    if (one->mask != thread.mask) fail(thread, mask() + " against mask " + hexadecimal(one->mask) + ": " + other(*one));
    if (one->kind != thread.kind) fail(thread, "warp divergence, another operation: " + other(*one));
  }
  waiting.push_back(&thread);
  const auto same = [&](const Thread* one) { return one->mask == thread.mask; };
  if (std::count_if(waiting.begin(), waiting.end(), same) < __builtin_popcount(thread.mask)) return;

  std::vector<Thread*>& group = machine.group;
  group.clear();
  std::copy_if(waiting.begin(), waiting.end(), std::back_inserter(group), same);
  waiting.erase(std::remove_if(waiting.begin(), waiting.end(), same), waiting.end());
  if (thread.kind == Warp::Sync) order(group, block.clocks + 8 + 64 * warp + thread.mask % 61);
  uint64_t values[32], ballot = 0;
  std::fill(values, values + 32, ~uint64_t{0});  // what a lane outside the mask gives: nothing to rely on
  for (const Thread* one : group) {
    values[one->number % 32] = one->value;
    ballot |= (one->value & 1) << one->number % 32;
  }
  for (Thread* one : group) one->value = thread.kind == Warp::Ballot ? ballot : values[one->source % 32];
  wake(block, group);
}

void at_exit(Block& block, Thread& thread) {
  const unsigned warp = thread.number / 32, bit = 1u << thread.number % 32;
  ++block.exited;
  block.exited_lanes[warp] |= bit;
  if (!block.waiting.empty())
    fail(*block.waiting.front(), "barrier divergence: thread " + text(thread.index) + " of the block has exited");
  for (const Thread* one : block.warps[warp])
    if (one->mask & bit)
      fail(*one, "mask " + hexadecimal(one->mask) + " names lane " + std::to_string(thread.number % 32) +
                     ", which has exited");
}

[[noreturn]] void at_failure(Block& block, Thread& thread) {
  if (block.arrays == kArrays) fail(thread, "more than " + std::to_string(kArrays) + " shared arrays");
  fail(thread, std::string("shared array ") + thread.failure + " of " + std::to_string(thread.amount) +
                   " bytes brings the block to " + std::to_string(block.shared_bytes + thread.amount) +
                   " bytes; the limit is " + std::to_string(kSharedLimit));
}

void run_blocks(uint64_t total) {
  std::vector<uint32_t> sequence(total);
  for (uint64_t i = 0; i < total; ++i) sequence[i] = static_cast<uint32_t>(i);
  shuffle_order(sequence);
  uint64_t next = 0, idle = 0;
  while (next < total || !machine.running.empty()) {
    while (next < total && machine.running.size() < machine.resident) start_block(sequence[next++]);
    const size_t slot = machine.running.size() == 1 ? 0 : draw(machine.running.size());
    Block& block = *machine.running[slot];
    if (block.runnable.empty()) fail_stuck(block);
    // Greedy grids let one thread run as far as it can: that finds what an even interleaving hides.
    if (!machine.greedy) std::swap(block.runnable[draw(block.runnable.size())], block.runnable.back());
    Thread& thread = *block.runnable.back();
    block.runnable.pop_back();
    resume(thread);
    idle = thread.state == State::Runnable ? idle + 1 : 0;
    switch (thread.state) {
      case State::Runnable:
        block.runnable.push_back(&thread);
        if (idle > kLivelock)
          fail(thread, "livelock: only atomics and fences for " + std::to_string(kLivelock) + " steps");
        break;
      case State::AtBarrier: at_barrier(block, thread); break;
      case State::AtWarp: at_warp(block, thread); break;
      case State::Exited:
        at_exit(block, thread);
        if (block.exited == block.threads.size()) finish_block(slot);
        break;
      case State::Failed: at_failure(block, thread);
    }
  }
}

void check_launch(const Grid& grid, dim3 block, size_t parameter_bytes) {
  const dim3 g = grid.size;
  const auto three = [](dim3 d) { return text(uint3{d.x, d.y, d.z}); };
  if (!g.x || !g.y || !g.z || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    fail_launch(grid.site, "grid " + three(g) + " is outside 1 to (2147483647,65535,65535)");
  if (!block.x || !block.y || !block.z || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      static_cast<uint64_t>(block.x) * block.y * block.z > 1024)
    fail_launch(grid.site, "block " + three(block) + " is outside 1 to (1024,1024,64), 1024 threads in all");
  if (parameter_bytes > kParameterLimit)
    fail_launch(grid.site, std::to_string(parameter_bytes) + " bytes of parameters; the limit is " +
                               std::to_string(kParameterLimit));
}

void prepare_regions() {
  if (!machine.shared) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    machine.shared = static_cast<char*>(mmap(nullptr, kSharedRegion, PROT_READ | PROT_WRITE, flags, -1, 0));
    machine.shared_next = machine.shared + kSharedRegion;
    if (kTsan) machine.clocks = static_cast<char*>(mmap(nullptr, kClockRegion, PROT_READ | PROT_WRITE, flags, -1, 0));
  }
  __asan_poison_memory_region(machine.shared, machine.shared_next - machine.shared);
  machine.shared_next = machine.shared;
  machine.clock_next = machine.clocks + 64;  // the first moment is the launch, the one 8 bytes on is its end
}

// After the grid the host, and through it the next grid, comes after all that its threads did.
void end_grid() {
  for (auto& fiber : machine.spent) {
    __tsan_switch_to_fiber(fiber->tsan, 1);
    __tsan_release(machine.clocks + 8);
    __tsan_switch_to_fiber(machine.tsan, 1);
    machine.free.push_back(std::move(fiber));
  }
  machine.spent.clear();
  if (kTsan) __tsan_acquire(machine.clocks + 8);
  machine.released.clear();
}

// A grid that failed leaves fibers in the middle of kernels: their stacks are thrown away.
void abandon_grid() {
  for (auto& block : machine.running) {
    for (Thread& thread : block->threads) {
      if (!thread.fiber) continue;
      if (kTsan) as_fiber(thread, __tsan_release, machine.clocks + 8);
      thread.fiber.reset();
      --machine.fibers;
    }
    block->threads.clear();
    machine.resting.push_back(std::move(block));
  }
  machine.running.clear();
}

}  // namespace

// ---- called by kernels

unsigned lane() { return machine.current->number % 32; }

int barrier(int predicate, Site site) {
  Thread& thread = *machine.current;
  thread.site = site;
  thread.predicate = predicate;
  thread.state = State::AtBarrier;
  stop();
  return static_cast<int>(thread.value);
}

uint64_t exchange(Warp kind, unsigned mask, uint64_t value, unsigned source, Site site) {
  Thread& thread = *machine.current;
  thread.site = site;
  thread.kind = kind;
  thread.mask = mask;
  thread.value = value;
  thread.source = source;
  thread.state = State::AtWarp;
  stop();
  return thread.value;
}

void fence(Site site) {
  Thread& thread = *machine.current;
  thread.site = site;
  thread.pending = Pending::Fence;
  stop();
}

void atomic(const void* address, Site site) {
  Thread& thread = *machine.current;
  thread.site = site;
  thread.pending = Pending::Atomic;
  thread.address = address;
  stop();
}

// Arrays start as NaN in every type, lie no better aligned than their type asks, and have red zones on both sides.
void* shared(const void* key, size_t bytes, size_t align, const char* name, Site site) {
  Thread& thread = *machine.current;
  Block& block = *thread.block;
  for (size_t i = 0; i < block.arrays; ++i)
    if (block.array[i].key == key) return block.array[i].memory;
  if (block.shared_bytes + bytes > kSharedLimit || block.arrays == kArrays) {
    thread.site = site;
    thread.failure = name;
    thread.amount = bytes;
    thread.state = State::Failed;
    stop();
  }
  block.shared_bytes += bytes;
  const size_t room = (bytes + 15) / 16 * 16 + 2 * kRedZone + 16;
  if (machine.shared_next + room > machine.shared + kSharedRegion) machine.shared_next = machine.shared;
  char* memory = machine.shared_next + kRedZone + (align <= 8 ? 8 : 0);
  machine.shared_next += room;
  __asan_unpoison_memory_region(memory, bytes);
  for (size_t i = 0; i < bytes; ++i) const_cast<volatile char*>(memory)[i] = static_cast<char>(0xff);
  block.array[block.arrays++] = {key, memory};
  return memory;
}

const char* run(const Grid& grid, dim3 block, size_t parameter_bytes, void (*thread)(void*), void* closure) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  try {
    check_launch(grid, block, parameter_bytes);
    prepare_regions();
  } catch (const std::runtime_error& error) {
    return (machine.message = error.what()).c_str();
  }
  gridDim = grid.size;
  blockDim = block;
  machine.entry = thread;
  machine.closure = closure;
  machine.launch_site = grid.site;
  machine.tsan = __tsan_get_current_fiber();
  if (kTsan) __tsan_release(machine.clocks);
  machine.random = (machine.seed + 1) * 0xd1342543de82ef95 + machine.launches++;
  machine.greedy = draw(3) == 0;
  const char* message = nullptr;
  try {
    run_blocks(static_cast<uint64_t>(grid.size.x) * grid.size.y * grid.size.z);
  } catch (const std::runtime_error& error) {
    message = (machine.message = error.what()).c_str();
    abandon_grid();
  }
  end_grid();
  return message;
}

}  // namespace emulator

extern "C" {

// The order of everything from here on, and how many blocks are in flight at once.
void emulator_configure(uint64_t seed, uint64_t resident) {
  emulator::machine.seed = seed;
  emulator::machine.launches = 0;
  emulator::machine.resident = resident ? resident : 1;
}

uint64_t emulator_launches() { return emulator::machine.launches; }
uint64_t emulator_blocks() { return emulator::machine.blocks_run; }
uint64_t emulator_switches() { return emulator::machine.switches; }
}
