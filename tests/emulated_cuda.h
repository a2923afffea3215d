// What lets a C++ compiler run softmax.cu on a CPU: the words of CUDA, and one thread of the CPU for each of a block.
// The few lines there that are in the GPU's own language are said here in C++.
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
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
static thread_local Index threadIdx;
static Index blockIdx, blockDim, gridDim;
static std::vector<unsigned> shared_memory;
static std::barrier<>* meeting;
#define SHARED(name) unsigned* name = shared_memory.data()
static void __syncthreads() { meeting->arrive_and_wait(); }

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
static float2 make_float2(float x, float y) { return {x, y}; }
template <class T>
static T __ldg(const T* at) {
    return *at;
}
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }

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
// All blocks of a kernel, one after the other; the threads of each side by side.
template <class... A>
static void start(void (*kernel)(A...), unsigned x, unsigned y, unsigned threads, unsigned bytes, void** arguments) {
    gridDim = {x, y}, blockDim = {threads, 1};
    for (unsigned block = 0; block < x * y; block++) {
        blockIdx = {block % x, block / x};
        shared_memory.assign(bytes / 4 + 1, 0xdeadbeef);
        std::barrier<> barrier(threads);
        meeting = &barrier;
        std::vector<std::thread> all;
        for (unsigned i = 0; i < threads; i++)
            all.emplace_back([=] {
                threadIdx = {i, 0};
                call(kernel, arguments, std::index_sequence_for<A...>{});
            });
        for (auto& thread : all) thread.join();
    }
}
