// Runs the CUDA source on a CPU, so that its logic is tested where there is no GPU: every CUDA thread is a fiber, and
// barriers and shuffles are the points where fibers wait for each other. test_cuda_logic.py compiles this file with
// -DKERNEL="path of the .cu" and the kernel's macros, and launches through `launch`.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__
#define __launch_bounds__(...)
struct uint4 { unsigned x, y, z, w; };
struct uint2 { unsigned x, y; };
struct float4 { float x, y, z, w; };
struct float2 { float x, y; };
struct Dim { int x; };
static Dim threadIdx, blockIdx, blockDim;
static int shared[12288];  // 48 KiB, what every device gives without asking

using std::min;
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
static inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
static inline int atomicAdd(int *address, int value) { return std::exchange(*address, *address + value); }

// ---------------------------------------------------------------------------------------------------------- fibers

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool done;
    int barriers;             // passed so far
    long shuffles;            // posted so far
    uint32_t posted[64];      // by shuffle number: butterfly partners are never more than a few apart
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static int running;

static void wait_turn() { swapcontext(&fibers[running].context, &scheduler); }

static void __syncthreads() {
    const int mine = ++fibers[running].barriers;
    for (bool all = false; !all;) {
        all = true;
        for (const Fiber &fiber : fibers) all &= fiber.done || fiber.barriers >= mine;
        if (!all) wait_turn();
    }
}

template <class T>
static T exchange(T value, int partner) {
    Fiber &me = fibers[running];
    const long number = me.shuffles++;
    me.posted[number % 64] = __builtin_bit_cast(uint32_t, value);
    while (fibers[partner].shuffles <= number) {
        if (fibers[partner].done) {
            fprintf(stderr, "thread %d shuffles with thread %d, which has returned\n", running, partner);
            abort();
        }
        wait_turn();
    }
    return __builtin_bit_cast(T, fibers[partner].posted[number % 64]);
}
template <class T>
static T __shfl_xor_sync(unsigned mask, T value, int offset) {
    const int lane = running % 32, partner = lane ^ offset;
    if (!(mask >> lane & 1) || !(mask >> partner & 1)) {
        fprintf(stderr, "lane %d shuffles with lane %d outside its mask %08x\n", lane, partner, mask);
        abort();
    }
    return exchange(value, running - lane + partner);
}
template <class T>
static T __shfl_up_sync(unsigned, T value, int offset) {
    const int lane = running % 32;
    return exchange(value, lane >= offset ? running - offset : running);
}

// Where the running fiber was interrupted, another one ran: the kernel must see its own thread index again.
#define threadIdx (Dim{running})

#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#include KERNEL

// ---------------------------------------------------------------------------------------------------------- launch

template <class... Types, size_t... I>
static void call(void (*kernel)(Types...), void **arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_const_t<Types> *)arguments[I]...);
}
template <class... Types>
static void call(void (*kernel)(Types...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<Types...>());
}

static const char *kernel_name;
static void **kernel_arguments;
static void thread_body() {
    if (!strcmp(kernel_name, "forward")) call(forward, kernel_arguments);
    if (!strcmp(kernel_name, "sort_points")) call(sort_points, kernel_arguments);
    if (!strcmp(kernel_name, "walk_rows")) call(walk_rows, kernel_arguments);
    fibers[running].done = true;
    wait_turn();
}

// `backwards` runs the threads of a block in the opposite order: results must not depend on it.
extern "C" int launch(const char *name, int grid, int block, int shared_bytes, void **arguments, int backwards) {
    if (shared_bytes > (int)sizeof(shared)) return 1;
    kernel_name = name, kernel_arguments = arguments, blockDim = {block};
    fibers.resize(block);
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
        memset(shared, 0x7f, sizeof(shared));
        for (Fiber &fiber : fibers) {
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = nullptr;
            makecontext(&fiber.context, thread_body, 0);
            fiber.done = false, fiber.barriers = 0, fiber.shuffles = 0;
        }
        for (bool working = true; working;) {
            working = false;
            for (int i = 0; i < block; ++i) {
                running = backwards ? block - 1 - i : i;
                if (fibers[running].done) continue;
                working = true;
                swapcontext(&scheduler, &fibers[running].context);
            }
        }
    }
    return 0;
}
