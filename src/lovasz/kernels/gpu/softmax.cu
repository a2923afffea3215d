// Lovász-Softmax in CUDA C++, for inputs large enough that counting is what costs: the two passes of softmax.py with their
// tables in the shared memory of each multiprocessor, which Triton gives no atomics on. Compiled at run time by cuda.py,
// for one number of classes and one type; tests/emulated.h lets a C++ compiler run the same lines on a CPU.
//
// CLASSES        of the input                      GROUP          classes whose tables a block holds: all, or a part
// CELLS, SIZE    of a class: entries, bins         TYPE           0 float32, 1 float16, 2 bfloat16
// LABEL          type of a label                   V              1 or 2 pixels of a thread, whose logits lie side by side
// THREADS        of a block that counts            SLOPE_THREADS  of one that writes the gradient
// PLAIN_THREADS  of one that holds no tables
// CELL_BITS, FLOOR, HALF_RANGE, FRACTION_BITS, COUNT_BITS: as in bins.py and arithmetic.py

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#ifndef EMULATED
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
        "setp.gt.f32 high, %2, 0f3F000000;\n\tmov.f32 %1, %2;\n\t@high sub.f32 %1, 0f3F800000, %2;\n\t"
        "max.f32 %1, %1, %3;\n\tmov.b32 %0, %1;\n\t@high sub.u32 %0, %4, %0;\n\t}"
        : "=r"(bits), "=&f"(steep)
        : "f"(error), "f"(__int_as_float(FLOOR)), "r"(2 * FLOOR + 2 * HALF_RANGE - 1));
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

#define INFINITE __int_as_float(0x7f800000)
#define LOG2E 1.4426950408889634f
#define TOP (2 * HALF_RANGE - 1)        // the last place
#define MASK ((1 << CELL_BITS) - 1)
#define TAIL 31                         // entry of a cell whose errors are not counted
#define COUNTED (1u << 18)              // a shared bin is count << 18 | sum of sixteenths of its width: 2^14 - 1 errors
#define MOST ((1 << 14) - 1)
#define WASTE_BITS 5                    // a class has 2^5 bins for what is not counted, lest threads wait for one
#define CLASS_BINS (2 * SIZE + (1 << WASTE_BITS))  // of a class in shared memory: foreground, background, waste

struct Walk {  // in elements; the pixels of an image lie side by side
    i64 image, channel, out_image, out_channel, target_image, target_pixel, part_size, ignored;
    int has_ignored, pixels, tiles, all_tiles, parts;
};

// The numbers of V pixels side by side, in one access; all in float32 in between.
__device__ __forceinline__ void read_numbers(const Number* at, float (&x)[V]) {
#if TYPE == 0 && V == 1
    x[0] = __ldg(at);
#elif TYPE == 0
    float2 both = __ldg((const float2*)at);
    x[0] = both.x, x[1] = both.y;
#else
#if V == 1
    u32 both = __ldg(at);
#else
    u32 both = __ldg((const u32*)at);
#endif
#if TYPE == 1
    x[0] = of_half((u16)both), x[V - 1] = of_half((u16)(V == 1 ? both : both >> 16));
#else
    x[0] = __uint_as_float(both << 16);
    if (V > 1) x[V - 1] = __uint_as_float(both & 0xffff0000u);
#endif
#endif
}

__device__ __forceinline__ void write_numbers(Number* at, const float (&x)[V]) {
#if TYPE == 0 && V == 1
    *at = x[0];
#elif TYPE == 0
    *(float2*)at = make_float2(x[0], x[1]);
#else
#if TYPE == 1
    u32 both = to_halves(x[0], x[V - 1]);
#else
    u32 both = to_bfloats(x[0], x[V - 1]);
#endif
#if V == 1
    *at = (u16)both;
#else
    *(u32*)at = both;
#endif
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
// FLOOR is a whole number of cells, and what a place is inside its cell does not change.
#define FLOOR_CELLS (FLOOR >> CELL_BITS)

// Exponentials of the logits of a thread's pixels over the largest; the label's is 0, and in ``own``.
struct Pixels {
    float e[CLASSES <= GROUP ? CLASSES : 1][V];
    float others[V], own[V];
    int label[V];
};

#if CLASSES <= GROUP
__device__ __forceinline__ void read(
    Pixels& it, const Number* x, const Label* target, const Walk& walk, i64 image, i64 pixel) {
    const Number* base = x + image * walk.image + pixel;
    float highest[V];
#pragma unroll
    for (int v = 0; v < V; v++) {
        it.label[v] = label_at(target, walk, image, pixel + v);
        it.own[v] = read_number(base + max(it.label[v], 0) * walk.channel + v);
        highest[v] = -INFINITE;
        it.others[v] = 0;
    }
#pragma unroll
    for (int c = 0; c < CLASSES; c++) {
        read_numbers(base + c * walk.channel, it.e[c]);
    }
#pragma unroll
    for (int c = 0; c < CLASSES; c++)
#pragma unroll
        for (int v = 0; v < V; v++) highest[v] = fmaxf(highest[v], it.e[c][v]);
#pragma unroll
    for (int v = 0; v < V; v++) highest[v] = highest[v] == -INFINITE ? 0.f : highest[v] * LOG2E;
#pragma unroll
    for (int c = 0; c < CLASSES; c++)
#pragma unroll
        for (int v = 0; v < V; v++) {
            it.e[c][v] = power_of_two(fmaf(it.e[c][v], LOG2E, -highest[v]));
            if (c == it.label[v]) it.e[c][v] = 0;
            it.others[v] += it.e[c][v];
        }
#pragma unroll
    for (int v = 0; v < V; v++) it.own[v] = power_of_two(fmaf(it.own[v], LOG2E, -highest[v]));
}
#endif

// Entries of some classes' cells, as 16 bits each: first bin << 5 | bits dropped.
__device__ __forceinline__ void load_cells(u16* cells, const int* entries, int classes) {
    for (int i = threadIdx.x; i < classes * CELLS; i += blockDim.x) cells[i] = (u16)entries[i];
}

// The same to count with: bits dropped down to sixteenths of a bin; what lies in the tail is strewn over the waste.
#define WASTE (SIZE << 5 | (CELL_BITS - WASTE_BITS - 4))
__device__ __forceinline__ void load_counting_cells(u16* cells, const int* entries, int classes) {
    for (int i = threadIdx.x; i < classes * CELLS; i += blockDim.x)
        cells[i] = (u16)(entries[i] == TAIL ? WASTE : entries[i] - 4);
}

// Count an error in a shared bin. ``fifteen`` and ``counted`` are these numbers.
__device__ __forceinline__ void tally(u32 bits, u32 entry, u32* bins, u32 fifteen, u32 counted) {
    u32 within = __funnelshift_r(bits & MASK, 0, entry);
    atomicAdd(bins + (entry >> 5) + (within >> 4), masked_or(within, fifteen, counted));
}

// What has been counted goes to the bins of the device (class, background or foreground, bin); the counting begins anew.
__device__ __forceinline__ void flush(u32* bins, u64* hist, int classes) {
    __syncthreads();
    for (int i = threadIdx.x; i < classes * 2 * SIZE; i += blockDim.x) {
        u32 row = i / SIZE, bin = i % SIZE;
        u32* from = bins + (row >> 1) * CLASS_BINS + (row & 1 ? 0 : SIZE) + bin;
        u32 both = *from;
        if (both) {
            u64 count = both >> 18, sixteenths = both & (COUNTED - 1);
            *from = 0;
            // From sixteenths of a bin, rounded down, to finer units: on average half a sixteenth is missing.
            u64 fractions = (sixteenths << (FRACTION_BITS - 4)) + count * ((1 << (FRACTION_BITS - 4)) - 1) / 2;
            atomicAdd(hist + i, (count << COUNT_BITS) + fractions);
        }
    }
    __syncthreads();
}

#if CLASSES <= GROUP
// First pass: the bins of all errors. ``status`` is set to 1 by a logit that is not finite.
extern "C" __global__ void __launch_bounds__(THREADS, 1) count(
    const Number* x, const Label* target, const int* entries, u64* hist, int* status, Walk walk) {
    SHARED(shared);
    u32* bins = shared;
    u16* cells = (u16*)(bins + CLASSES * CLASS_BINS);
    load_counting_cells(cells, entries, CLASSES);
    for (int i = threadIdx.x; i < CLASSES * CLASS_BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    hist += blockIdx.x * walk.parts / gridDim.x * walk.part_size;
    u32 fifteen = in_register(15), counted = in_register(COUNTED);
    int since = 0;
    bool strange = false;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        if (since + THREADS * V > MOST) {
            flush(bins, hist, CLASSES);
            since = 0;
        }
        since += THREADS * V;
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        Pixels it;
        read(it, x, target, walk, image, pixel);
        float inverse[V], steep;
        bool nothing = true;
#pragma unroll
        for (int v = 0; v < V; v++) {
            inverse[v] = reciprocal(it.others[v] + it.own[v]);
            if (it.label[v] < 0) {
                inverse[v] = 0;  // all errors are 0, which are not counted
                continue;
            }
            nothing = false;
            float wrong = it.others[v] * inverse[v];
            u32 bits = bits_above_floor(wrong, it.own[v] * inverse[v], steep);
            u32 entry = cells[it.label[v] * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            if (entry != WASTE) tally(bits, entry, bins + it.label[v] * CLASS_BINS, fifteen, counted);
            strange = strange || !(wrong >= 0);
        }
        if (nothing) continue;
#pragma unroll
        for (int c = 0; c < CLASSES; c++)
#pragma unroll
            for (int v = 0; v < V; v++) {
                u32 bits = bits_above_floor(it.e[c][v] * inverse[v], steep);
                u32 entry = cells[c * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
                tally(bits, entry, bins + c * CLASS_BINS + SIZE, fifteen, counted);
            }
    }
    flush(bins, hist, CLASSES);
    if (strange) atomicMax(status, 1);
}
#endif

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

__device__ __forceinline__ float weight_of(u32 bits, float steep, const u16* cells, const Line* lines) {
    u32 entry = cells[(bits >> CELL_BITS) - FLOOR_CELLS];
    Line line = lines[(entry >> 5) + __funnelshift_r(bits & MASK, 0, entry)];
    return fmaf(line.rise, steep, line.offset);
}

// The weight of a foreground error, of which a pixel has one only: from the table of the device.
__device__ __forceinline__ float foreground_weight_of(u32 bits, u32 entry, int label, const u64* table) {
    u32 dropped = entry & 31, within = bits & MASK;
    u64 both = table[((i64)label * 2 + 1) * SIZE + (entry >> 5) + (within >> dropped)];
    u32 rest = within & ~(0xffffffffu << dropped);
    float fraction = (float)((u64)rest << FRACTION_BITS >> dropped) + 0.5f;
    return fmaf(__uint_as_float((u32)(both >> 32)), fraction, __uint_as_float((u32)both));
}

#if CLASSES <= GROUP
// Second pass: the gradient at the logits times ``factor``, a number on the device; see gradient_softmax in softmax.py.
extern "C" __global__ void __launch_bounds__(SLOPE_THREADS, 1) gradient(
    const Number* x, const Label* target, const int* entries, const u64* table, const float* factor, Number* out,
    Walk walk) {
    SHARED(shared);
    Line* lines = (Line*)shared;
    u16* cells = (u16*)(lines + CLASSES * SIZE);
    float scale = *factor;
    load_cells(cells, entries, CLASSES);
    __syncthreads();
    load_lines(lines, cells, table, CLASSES, scale);
    __syncthreads();
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * SLOPE_THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        Pixels it;
        read(it, x, target, walk, image, pixel);
        float inverse[V], mean[V], at_label[V], own[V], steep;
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            inverse[v] = reciprocal(it.others[v] + it.own[v]);
            float wrong = it.others[v] * inverse[v], right = it.own[v] * inverse[v];
            int own_label = max(it.label[v], 0);
            u32 bits = bits_above_floor(wrong, right, steep);
            u32 entry = cells[own_label * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            own[v] = right * scale * foreground_weight_of(bits, entry, own_label, table);
            at_label[v] = -wrong * own[v];
            it.own[v] = right;
            mean[v] = 0;
            if (it.label[v] < 0) inverse[v] = own[v] = 0;  // the gradient there is 0, and written too
        }
        float q[CLASSES][V];
#pragma unroll
        for (int c = 0; c < CLASSES; c++)
#pragma unroll
            for (int v = 0; v < V; v++) {
                float error = it.e[c][v] * inverse[v];
                u32 bits = bits_above_floor(error, steep);
                q[c][v] = weight_of(bits, steep, cells + c * CELLS, lines + c * SIZE);
                it.e[c][v] = error;
                mean[v] = fmaf(error, q[c][v], mean[v]);
            }
#pragma unroll
        for (int v = 0; v < V; v++) {
            at_label[v] -= it.own[v] * mean[v];
            mean[v] -= own[v];
            label[v] = in_register(it.label[v]);  // lest the compiler keep the answers to what was asked before
        }
        Number* to = out + image * walk.out_image + pixel;
#pragma unroll
        for (int c = 0; c < CLASSES; c++) {
            float slopes[V];
#pragma unroll
            for (int v = 0; v < V; v++) slopes[v] = c == label[v] ? at_label[v] : it.e[c][v] * (q[c][v] - mean[v]);
            write_numbers(to + c * walk.out_channel, slopes);
        }
    }
}
#endif

#if CLASSES > GROUP
// More classes than the tables of which fit one multiprocessor: a kernel finds the denominator of each pixel's softmax, and
// the others take a group of classes at a time. Between them lie planes of one number to a pixel.

// Denominator (as the logarithm to the base 2, infinite where a pixel does not count), error and label of each pixel; the
// bins of the foreground errors.
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) normalise(
    const Number* x, const Label* target, const int* entries, u64* hist, int* status, float* denominator, float* wrongs,
    short* labels, int counting, Walk walk) {
    hist += blockIdx.x * walk.parts / gridDim.x * walk.part_size;
    bool strange = false;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * PLAIN_THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        const Number* base = x + image * walk.image + pixel;
        i64 at = (i64)image * walk.pixels + pixel;
        float highest[V], others[V], own[V];
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            label[v] = label_at(target, walk, image, pixel + v);
            own[v] = read_number(base + max(label[v], 0) * walk.channel + v);
            highest[v] = own[v] * LOG2E;
            others[v] = 0;
        }
        for (int first = 0; first < CLASSES; first += 8) {
            float block[8][V];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                read_numbers(base + min(first + i, CLASSES - 1) * walk.channel, block[i]);
#pragma unroll
                for (int v = 0; v < V; v++)
                    block[i][v] = first + i >= CLASSES || first + i == label[v] ? -INFINITE : block[i][v] * LOG2E;
            }
#pragma unroll
            for (int v = 0; v < V; v++) {
                float old = highest[v];
#pragma unroll
                for (int i = 0; i < 8; i++) highest[v] = fmaxf(highest[v], block[i][v]);
                float shift = highest[v] == -INFINITE ? 0.f : highest[v];
                others[v] *= power_of_two(old - shift);
#pragma unroll
                for (int i = 0; i < 8; i++) others[v] += power_of_two(block[i][v] - shift);
            }
        }
#pragma unroll
        for (int v = 0; v < V; v++) {
            float shift = highest[v] == -INFINITE ? 0.f : highest[v], steep;
            float right = power_of_two(own[v] * LOG2E - shift), total = others[v] + right, inverse = reciprocal(total);
            float wrong = others[v] * inverse;
            bool valid = label[v] >= 0;
            denominator[at + v] = valid ? shift + logarithm(total) : INFINITE;
            wrongs[at + v] = wrong;
            labels[at + v] = (short)label[v];
            if (!valid || !counting) continue;
            strange = strange || !(wrong >= 0);
            u32 bits = bits_above_floor(wrong, right * inverse, steep);
            u32 entry = entries[label[v] * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS], dropped = entry & 31;
            u32 within = bits & MASK, rest = within & ~(0xffffffffu << dropped);
            if (entry != TAIL)
                atomicAdd(hist + ((i64)label[v] * 2 + 1) * SIZE + (entry >> 5) + (within >> dropped),
                          ((u64)1 << COUNT_BITS) + ((u64)rest << FRACTION_BITS >> dropped));
        }
    }
    if (strange) atomicMax(status, 1);
}

// First pass over the classes of group blockIdx.y: the bins of their background errors.
extern "C" __global__ void __launch_bounds__(THREADS, 1) count_group(
    const Number* x, const int* entries, u64* hist, const float* denominator, const short* labels, Walk walk) {
    SHARED(shared);
    u32* bins = shared;
    u16* cells = (u16*)(bins + GROUP * CLASS_BINS);
    int first = blockIdx.y * GROUP, classes = min(GROUP, CLASSES - first);
    load_counting_cells(cells, entries + first * CELLS, classes);
    for (int i = threadIdx.x; i < GROUP * CLASS_BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    hist += blockIdx.x * walk.parts / gridDim.x * walk.part_size + (i64)first * 2 * SIZE;
    u32 fifteen = in_register(15), counted = in_register(COUNTED);
    int since = 0;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        if (since + THREADS * V > MOST) {
            flush(bins, hist, classes);
            since = 0;
        }
        since += THREADS * V;
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        const Number* base = x + image * walk.image + first * walk.channel + pixel;
        i64 at = (i64)image * walk.pixels + pixel;
        float below[V], steep;
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) below[v] = denominator[at + v], label[v] = labels[at + v] - first;
#pragma unroll 8
        for (int c = 0; c < classes; c++) {
            float numbers[V];
            read_numbers(base + c * walk.channel, numbers);
#pragma unroll
            for (int v = 0; v < V; v++) {
                float error = c == label[v] ? 0.f : power_of_two(fmaf(numbers[v], LOG2E, -below[v]));
                u32 bits = bits_above_floor(error, steep);
                u32 entry = cells[c * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
                tally(bits, entry, bins + c * CLASS_BINS + SIZE, fifteen, counted);
            }
        }
    }
    flush(bins, hist, classes);
}

// Sum of p q over the classes of one group, which is added to the groups' before.
extern "C" __global__ void __launch_bounds__(SLOPE_THREADS, 1) mean_group(
    const Number* x, const int* entries, const u64* table, const float* factor, const float* denominator,
    const short* labels, float* means, int first, Walk walk) {
    SHARED(shared);
    Line* lines = (Line*)shared;
    u16* cells = (u16*)(lines + GROUP * SIZE);
    int classes = min(GROUP, CLASSES - first);
    load_cells(cells, entries + first * CELLS, classes);
    __syncthreads();
    load_lines(lines, cells, table + (i64)first * 2 * SIZE, classes, *factor);
    __syncthreads();
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * SLOPE_THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        const Number* base = x + image * walk.image + first * walk.channel + pixel;
        i64 at = (i64)image * walk.pixels + pixel;
        float below[V], mean[V], steep;
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            below[v] = denominator[at + v], label[v] = labels[at + v] - first;
            mean[v] = first ? means[at + v] : 0.f;
        }
#pragma unroll 8
        for (int c = 0; c < classes; c++) {
            float numbers[V];
            read_numbers(base + c * walk.channel, numbers);
#pragma unroll
            for (int v = 0; v < V; v++) {
                float error = c == label[v] ? 0.f : power_of_two(fmaf(numbers[v], LOG2E, -below[v]));
                u32 bits = bits_above_floor(error, steep);
                mean[v] = fmaf(error, weight_of(bits, steep, cells + c * CELLS, lines + c * SIZE), mean[v]);
            }
        }
#pragma unroll
        for (int v = 0; v < V; v++) means[at + v] = mean[v];
    }
}

// What all classes of a pixel share: ``means`` become sum_k!=t p_k q_k - p_t q_t, ``wrongs`` the gradient at the label.
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) finish(
    const Number* x, const int* entries, const u64* table, const float* factor, const float* denominator,
    float* wrongs, const short* labels, float* means, Walk walk) {
    float scale = *factor;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = tile / walk.tiles, first = (tile % walk.tiles * PLAIN_THREADS + threadIdx.x) * V;
#pragma unroll
        for (int v = 0; v < V; v++) {
            int pixel = first + v;
            if (pixel >= walk.pixels) continue;
            i64 at = (i64)image * walk.pixels + pixel;
            int label = labels[at];
            if (label < 0) {
                means[at] = 0;
                continue;
            }
            float own = read_number(x + image * walk.image + label * walk.channel + pixel), steep;
            float right = power_of_two(fmaf(own, LOG2E, -denominator[at])), wrong = wrongs[at];
            u32 bits = bits_above_floor(wrong, right, steep);
            u32 entry = entries[label * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            float q = right * scale * foreground_weight_of(bits, entry, label, table);
            wrongs[at] = -(wrong * q + right * means[at]);
            means[at] -= q;
        }
    }
}

// Second pass over the classes of group blockIdx.y: the gradient at their logits.
extern "C" __global__ void __launch_bounds__(SLOPE_THREADS, 1) gradient_group(
    const Number* x, const int* entries, const u64* table, const float* factor, const float* denominator,
    const float* at_labels, const short* labels, const float* means, Number* out, Walk walk) {
    SHARED(shared);
    Line* lines = (Line*)shared;
    u16* cells = (u16*)(lines + GROUP * SIZE);
    int first = blockIdx.y * GROUP, classes = min(GROUP, CLASSES - first);
    load_cells(cells, entries + first * CELLS, classes);
    __syncthreads();
    load_lines(lines, cells, table + (i64)first * 2 * SIZE, classes, *factor);
    __syncthreads();
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * SLOPE_THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        const Number* base = x + image * walk.image + first * walk.channel + pixel;
        Number* to = out + image * walk.out_image + first * walk.out_channel + pixel;
        i64 at = (i64)image * walk.pixels + pixel;
        float below[V], mean[V], at_label[V], steep;
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            below[v] = denominator[at + v], label[v] = labels[at + v] - first, mean[v] = means[at + v];
            at_label[v] = at_labels[at + v];
        }
#pragma unroll 8
        for (int c = 0; c < classes; c++) {
            float numbers[V];
            read_numbers(base + c * walk.channel, numbers);
#pragma unroll
            for (int v = 0; v < V; v++) {
                float error = power_of_two(fmaf(numbers[v], LOG2E, -below[v]));
                u32 bits = bits_above_floor(error, steep);
                float q = weight_of(bits, steep, cells + c * CELLS, lines + c * SIZE);
                numbers[v] = c == label[v] ? at_label[v] : error * (q - mean[v]);
            }
            write_numbers(to + c * walk.out_channel, numbers);
        }
    }
}
#endif
