// Lovász-Softmax in CUDA C++, for inputs large enough that counting is what costs: the two passes of softmax.py with their
// tables in the shared memory of each multiprocessor, which Triton has no atomics for. This is what held.cu and groups.cu
// have in common; shared_memory.py puts it before one of them and has it compiled at run time for one number of classes and one
// type, and tests/emulated_cuda.h lets a C++ compiler run the same lines on a CPU.
//
// CLASSES        of the input                      GROUP          classes whose tables a block holds: all, or some of them
// CELLS, SIZE    of a class: entries, bins
// TYPE           0 float32, 1 float16, 2 bfloat16  LABEL          type of a label
// V              1 or 2 pixels of a thread, whose logits lie side by side
// COUNT_THREADS, GRADIENT_THREADS, PLAIN_THREADS   of a block that counts, writes the gradient, has no tables
// CELL_BITS, FLOOR, HALF_RANGE, FRACTION_BITS, COUNT_BITS: as in bins.py and arithmetic.py

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#define ABOVE_ONE 1.0000004768371582f  // 1 + 2^-21: what an error is taken from, so that its complement is never 0

#ifdef EMULATED
#include "emulated_cuda.h"
#else
#define SHARED(name) extern __shared__ __align__(16) u32 name[]
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float logarithm(float x) {  // to the base 2
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float of_half(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ u32 to_halves(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
__device__ __forceinline__ u32 to_bfloats(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
// What follows in place of plain lines, for the compiler would branch, or compute both sides and choose.
__device__ __forceinline__ u32 bits_above_floor(float error, float complement, float& steep) {
    u32 bits;
    asm("{\n\t.reg .pred high;\n\t"
        "setp.gt.f32 high, %2, 0f3F000000;\n\tmov.f32 %1, %2;\n\t@high mov.f32 %1, %3;\n\t"
        "max.f32 %1, %1, %4;\n\tmov.b32 %0, %1;\n\t@high sub.u32 %0, %5, %0;\n\t}"
        : "=r"(bits), "=&f"(steep)
        : "f"(error), "f"(complement), "f"(__int_as_float(FLOOR)), "r"(2 * FLOOR + 2 * HALF_RANGE - 1));
    return bits;
}
__device__ __forceinline__ u32 bits_above_floor(float error, float& steep) {
    u32 bits;
    asm("{\n\t.reg .pred high;\n\t"
        "setp.gt.f32 high, %2, 0f3F000000;\n\tmov.f32 %1, %2;\n\t@high sub.f32 %1, %3, %2;\n\t"
        "mov.b32 %0, %1;\n\t@high sub.u32 %0, %4, %0;\n\t}"
        : "=r"(bits), "=&f"(steep)
        : "f"(error), "f"(ABOVE_ONE), "r"(2 * FLOOR + 2 * HALF_RANGE - 1));
    return bits;
}
// (number & mask) | more, the constants in registers, for one instruction.
__device__ __forceinline__ u32 masked_or(u32 number, u32 mask, u32 more) {
    u32 result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(number), "r"(mask), "r"(more));
    return result;
}
// The same number, of which the compiler knows nothing.
__device__ __forceinline__ u32 in_register(u32 number) {
    asm volatile("" : "+r"(number));
    return number;
}
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

#if TYPE == 0
typedef float Number;
#else
typedef u16 Number;
#endif
typedef LABEL Label;

#define LOWEST __int_as_float(FLOOR)    // 2^-30
#define INFINITE __int_as_float(0x7f800000)
#define LOG2E 1.4426950408889634f
#define TOP (2 * HALF_RANGE - 1)        // the last place
#define MASK ((1 << CELL_BITS) - 1)
#define TAIL 31                         // entry of a cell whose errors are not counted
#define PART_BITS 6                     // a shared bin is count << 19 | sum of 64ths of its width,
#define COUNTED (1u << 19)              // and takes 2^13 - 1 errors
#define MOST ((1 << 13) - 1)
#define WASTE_BITS 5                    // a class has 2^5 bins for what is not counted, lest threads wait for one
#define CLASS_BINS (2 * SIZE + (1 << WASTE_BITS))  // of a class in shared memory: foreground, background, waste

struct Walk {  // in elements; where V is 2 the pixels of an image lie side by side
    i64 image, channel, pixel, out_image, out_channel, out_pixel, target_image, target_pixel, part_size, ignored;
    int has_ignored, pixels, tiles, all_tiles, parts, zero;  // zero: 0, but the compiler does not know it
};

// The numbers of V pixels side by side, in one access; all in float32 in between.
#if V == 1
typedef Number Packed;
#elif TYPE == 0
typedef float2 Packed;
#else
typedef u32 Packed;
#endif

__device__ __forceinline__ Packed fetch(const Number* at) { return __ldg((const Packed*)at); }

__device__ __forceinline__ void unpack(Packed both, float (&x)[V]) {
#if TYPE == 0 && V == 1
    x[0] = both;
#elif TYPE == 0
    x[0] = both.x, x[1] = both.y;
#elif TYPE == 1
    x[0] = of_half((u16)both);
    if (V > 1) x[V - 1] = of_half((u16)((u32)both >> 16));
#else
    x[0] = __uint_as_float((u32)both << 16);
    if (V > 1) x[V - 1] = __uint_as_float((u32)both & 0xffff0000u);
#endif
}

__device__ __forceinline__ void read_numbers(const Number* at, float (&x)[V]) { unpack(fetch(at), x); }

__device__ __forceinline__ void write_numbers(Number* at, const float (&x)[V]) {
#if TYPE == 0 && V == 1
    *at = x[0];
#elif TYPE == 0
    *(float2*)at = make_float2(x[0], x[1]);
#elif TYPE == 1
    *(Packed*)at = (Packed)to_halves(x[0], x[V - 1]);
#else
    *(Packed*)at = (Packed)to_bfloats(x[0], x[V - 1]);
#endif
}

__device__ __forceinline__ float read_number(const Number* at) {
#if TYPE == 0
    return __ldg(at);
#elif TYPE == 1
    return of_half(__ldg(at));
#else
    return __uint_as_float((u32)__ldg(at) << 16);
#endif
}

// The label of a pixel, or -1 where it does not count; a label beyond the classes is reported elsewhere.
__device__ __forceinline__ int label_at(const Label* target, const Walk& walk, i64 image, i64 pixel) {
    i64 label = target[image * walk.target_image + pixel * walk.target_pixel];
    return label < 0 || label >= CLASSES || (walk.has_ignored && label == walk.ignored) ? -1 : (int)label;
}

// Places are handled plus FLOOR, as the bits of a number ``steep``: the error up to 1/2, its complement to 1 beyond it.
// An error alone must not be less than the lowest, nor NaN, so that one comparison is spared: it is made of a product and
// the lowest in one instruction.
// FLOOR is a whole number of cells, and what a place is inside its cell does not change.
#define FLOOR_CELLS (FLOOR >> CELL_BITS)

// Entries of some classes' cells, as 16 bits each: first bin << 5 | bits dropped.
__device__ __forceinline__ void load_cells(u16* cells, const int* entries, int classes) {
    for (int i = threadIdx.x; i < classes * CELLS; i += blockDim.x) cells[i] = (u16)entries[i];
}

// The same to count with: by how much to shift a place, less its cell, for 64ths of a bin. What lies in the tail is strewn
// over the waste.
#define CELL_OUT (32 - CELL_BITS)
#define WASTE (SIZE << 5 | (CELL_OUT + CELL_BITS - WASTE_BITS - PART_BITS))
__device__ __forceinline__ void load_counting_cells(u16* cells, const int* entries, int classes) {
    for (int i = threadIdx.x; i < classes * CELLS; i += blockDim.x)
        cells[i] = (u16)(entries[i] == TAIL ? WASTE : entries[i] + CELL_OUT - PART_BITS);
}

// What an error at ``bits`` adds to a shared bin, and which: the masks ``parts`` of 64ths and ``counted``, one error, are in
// registers. taken: whether it was counted before, and is taken back.
__device__ __forceinline__ void tally(u32 bits, u32 entry, u32* bins, u32 parts, u32 counted, bool taken = false) {
    u32 within = __funnelshift_r(bits << CELL_OUT, 0, entry), more = masked_or(within, parts, counted);
    atomicAdd(bins + (entry >> 5) + (within >> PART_BITS), taken ? 0u - more : more);
}

// What lies in bins of ``least`` errors or more goes to those of the device (class, background or foreground, bin); the
// counting in them begins anew. Most bins take few errors, and wait for the end: each addition to the device's costs.
__device__ __forceinline__ void flush(u32* bins, u64* hist, int classes, u32 least) {
    __syncthreads();
    for (int i = threadIdx.x; i < classes * (CLASS_BINS / 4); i += blockDim.x) {
        u32 class_ = i / (CLASS_BINS / 4), at = i % (CLASS_BINS / 4) * 4;
        uint4 four = ((uint4*)bins)[i];
        u32 words[4] = {four.x, four.y, four.z, four.w};
        if (max(max(words[0], words[1]), max(words[2], words[3])) < least * COUNTED) continue;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            u32 place = at + j, both = words[j];
            if (both < least * COUNTED || place >= 2 * SIZE) continue;  // what is in the waste is not wanted
            bins[i * 4 + j] = 0;
            u64 count = both / COUNTED, sum = both % COUNTED;
            // From 64ths of a bin, rounded down, to finer units: on average half a 64th is missing.
            u64 fractions = (sum << (FRACTION_BITS - PART_BITS)) + count * ((1 << (FRACTION_BITS - PART_BITS)) - 1) / 2;
            u32 row = class_ * 2 + (place < SIZE), bin = place < SIZE ? place : place - SIZE;
            atomicAdd(hist + row * SIZE + bin, (count << COUNT_BITS) + fractions);
        }
    }
    __syncthreads();
}

// Called before each tile of ``pixels``: flushes what the tiles until its next look might let overflow. since: pixels
// counted since its last one.
__device__ __forceinline__ void flush_in_time(u32* bins, u64* hist, int classes, int& since, int pixels) {
    int between = MOST / pixels * pixels;  // pixels from one look to the next
    if (since + pixels > between) {
        flush(bins, hist, classes, MOST - between + 1);
        since = 0;
    }
    since += pixels;
}

// The weight of errors in a bin as a line in ``steep``: offset and rise.
struct __align__(8) Line {
    float offset, rise;
};

// The lines of the background bins of some classes, from the table (class, 2, bin) of rises and offsets by fractions.
__device__ __forceinline__ void load_lines(
    Line* lines, const u16* cells, const u64* table, int classes, float factor) {
    for (int i = threadIdx.x; i < classes * CELLS; i += blockDim.x) {
        int class_ = i / CELLS, cell = i % CELLS;
        u32 entry = cells[i], first = entry >> 5, dropped = entry & 31;
        bool tail = entry == TAIL;
        if (tail && cell) continue;  // all tail cells share the first bin
        for (int k = 0; k < (tail ? 1 : 1 << (CELL_BITS - dropped)); k++) {
            u64 both = table[(i64)class_ * 2 * SIZE + first + k];
            float offset = __uint_as_float((u32)both) * factor, rise = __uint_as_float((u32)(both >> 32)) * factor;
            Line line = {offset, 0};
            if (!tail) {
                // steep runs from begin to end over the bin's fractions, or back where places count complements.
                u32 place = ((u32)cell << CELL_BITS) + ((u32)k << dropped), width = 1u << dropped;
                bool high = place >= HALF_RANGE;
                u32 low = FLOOR + (high ? TOP - place - (width - 1) : place);
                float begin = __uint_as_float(low), span = __uint_as_float(low + width) - begin;
                float steepness = rise * (1 << FRACTION_BITS) / span;
                line.rise = high ? -steepness : steepness;
                line.offset = offset + (high ? steepness * (begin + span) : -steepness * begin);
            }
            lines[class_ * SIZE + first + k] = line;
        }
    }
}

__device__ __forceinline__ void load_tables(
    Line* lines, u16* cells, const int* entries, const u64* table, int classes, float factor) {
    load_cells(cells, entries, classes);
    __syncthreads();
    load_lines(lines, cells, table, classes, factor);
    __syncthreads();
}

__device__ __forceinline__ float weight_of(u32 bits, float steep, const u16* cells, const Line* lines) {
    u32 entry = cells[(bits >> CELL_BITS) - FLOOR_CELLS];
    Line line = lines[(entry >> 5) + __funnelshift_r(bits & MASK, 0, entry)];
    return fmaf(line.rise, steep, line.offset);
}

// The weight of a foreground error, of which a pixel has one only: from the table of the device.
__device__ __forceinline__ float foreground_weight(u32 bits, u32 entry, int label, const u64* table) {
    u32 dropped = entry & 31, within = bits & MASK;
    u64 both = table[((i64)label * 2 + 1) * SIZE + (entry >> 5) + (within >> dropped)];
    u32 rest = within & ~(0xffffffffu << dropped);
    float fraction = (float)((u64)rest << FRACTION_BITS >> dropped) + 0.5f;
    return fmaf(__uint_as_float((u32)(both >> 32)), fraction, __uint_as_float((u32)both));
}

// The cross-entropy of a pixel: minus the logarithm of its label's softmax, which the error tells best where it is small.
// total: of the exponentials over the largest. depth: by how much the label's logit is below the largest, times LOG2E.
__device__ __forceinline__ float surprise(float wrong, float total, float depth) {
    return wrong < 0.5f ? -log1pf(-wrong) : (logarithm(total) + depth) / LOG2E;
}

// The sum of a number of each thread of the block, always in the same order; in ``scratch``'s first.
__device__ __forceinline__ void sum_of_block(double mine, double* scratch) {
    scratch[threadIdx.x] = mine;
    for (int half = 512; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half && threadIdx.x + half < blockDim.x) scratch[threadIdx.x] += scratch[threadIdx.x + half];
    }
}
