// What lets a C++ compiler run kernels/gpu/cuda on a CPU: the words of CUDA, and a block's threads as coroutines that take
// turns at each barrier. The few lines there that are in the GPU's own language are said here in C++.
#include <ucontext.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct Index {
    unsigned x, y;
};
static Index threadIdx, blockIdx, blockDim, gridDim;
static std::vector<unsigned> shared_memory;
static ucontext_t turns;  // who gives each thread its turn
struct Thread {
    ucontext_t state;
    std::vector<char> stack = std::vector<char>(1 << 17);
    bool ended = false;
};
static std::vector<Thread>* block_threads;
#define SHARED(name) unsigned* name = shared_memory.data()
static void __syncthreads() { swapcontext(&(*block_threads)[threadIdx.x].state, &turns); }

static unsigned atomicAdd(unsigned* at, unsigned n) { return __atomic_fetch_add(at, n, __ATOMIC_RELAXED); }
static unsigned long long atomicAdd(unsigned long long* at, unsigned long long n) {
    return __atomic_fetch_add(at, n, __ATOMIC_RELAXED);
}
static void atomicMax(int* at, int n) {
    if (n) __atomic_store_n(at, n, __ATOMIC_RELAXED);
}
template <class To, class From>
static To same_bits(From x) {
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
static unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
static float __uint_as_float(unsigned x) { return same_bits<float>(x); }
static float __int_as_float(int x) { return same_bits<float>(x); }
static unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)((((unsigned long long)high << 32) | low) >> (by & 31));
}
struct float2 {
    float x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static float2 make_float2(float x, float y) { return {x, y}; }
template <class T>
static T __ldg(const T* at) {
    return *at;
}
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }
static unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

static float power_of_two(float x) { return std::exp2(x); }
static float logarithm(float x) { return std::log2(x); }
static float reciprocal(float x) { return 1.f / x; }
static float of_half(unsigned short x) { return (float)same_bits<_Float16>(x); }
static unsigned to_halves(float low, float high) {
    return same_bits<unsigned short>((_Float16)low) | (unsigned)same_bits<unsigned short>((_Float16)high) << 16;
}
static unsigned to_bfloat(float x) {
    unsigned bits = __float_as_uint(x);
    return x != x ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
static unsigned to_bfloats(float low, float high) { return to_bfloat(low) | to_bfloat(high) << 16; }
static unsigned bits_above_floor(float error, float complement, float& steep) {
    bool high = error > 0.5f;
    steep = std::fmax(high ? complement : error, __int_as_float(FLOOR));
    unsigned bits = __float_as_uint(steep);
    return high ? 2u * FLOOR + 2 * HALF_RANGE - 1 - bits : bits;
}
static unsigned bits_above_floor(float error, float& steep) {
    bool high = error > 0.5f;
    steep = high ? ABOVE_ONE - error : error;
    unsigned bits = __float_as_uint(steep);
    return high ? 2u * FLOOR + 2 * HALF_RANGE - 1 - bits : bits;
}
static float __saturatef(float x) { return x >= 1 ? 1.f : x > 0 ? x : 0.f; }  // also of what is not a number
static unsigned masked_or(unsigned number, unsigned mask, unsigned more) { return (number & mask) | more; }
static unsigned in_register(unsigned number) { return number; }

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}
template <class... A>
struct Launch {
    static inline void (*kernel)(A...);
    static inline void** arguments;
    static void enter() {
        call(kernel, arguments, std::index_sequence_for<A...>{});
        (*block_threads)[threadIdx.x].ended = true;
    }
};
// The threads of a block run to their next barrier in turn, the first one first in one round and last in the next: what
// lacks a barrier reads what is not there yet. That two add at once, where no atomic says so, only a GPU can show.
static void run_block(void (*enter)(), unsigned threads) {
    std::vector<Thread> all(threads);
    block_threads = &all;
    for (auto& thread : all) {
        getcontext(&thread.state);
        thread.state.uc_stack.ss_sp = thread.stack.data();
        thread.state.uc_stack.ss_size = thread.stack.size();
        thread.state.uc_link = &turns;
        makecontext(&thread.state, enter, 0);
    }
    bool going = true;
    for (unsigned round = 0; going; round++) {
        going = false;
        for (unsigned i = 0; i < threads; i++) {
            threadIdx = {round % 2 ? threads - 1 - i : i, 0};
            Thread& thread = all[threadIdx.x];
            if (!thread.ended) swapcontext(&turns, &thread.state);
            going = going || !thread.ended;
        }
    }
}
template <class... A>
static void start(void (*kernel)(A...), unsigned x, unsigned y, unsigned threads, unsigned bytes, void** arguments) {
    gridDim = {x, y}, blockDim = {threads, 1};
    Launch<A...>::kernel = kernel, Launch<A...>::arguments = arguments;
    for (unsigned block = 0; block < x * y; block++) {
        blockIdx = {block % x, block / x};
        shared_memory.assign(bytes / 4 + 1, 0xdeadbeef);
        run_block(Launch<A...>::enter, threads);
    }
}
