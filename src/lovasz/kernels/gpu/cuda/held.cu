// All classes of a pixel at once, in the registers of its thread.

#define TOGETHER 4  // classes whose errors are looked up before they are counted

// Exponentials of the logits of a thread's pixels over the largest of each; the label's is 0, and in ``own``.
struct Pixels {
    float e[CLASSES][V];
    float others[V], own[V], depth[V];  // depth: of the label's logit below the largest, times LOG2E
    int label[V];
};

__device__ __forceinline__ void read_pixels(
    Pixels& it, const Number* x, const Label* target, const Walk& walk, int image, int pixel) {
    const Number* base = x + image * walk.image + pixel * walk.pixel;
    float highest[V];
#pragma unroll
    for (int v = 0; v < V; v++) {
        it.label[v] = label_at(target, walk, image, pixel + v);
        it.own[v] = read_number(base + max(it.label[v], 0) * walk.channel + v);
        highest[v] = -INFINITE;
        it.others[v] = 0;
    }
#pragma unroll
    for (int c = 0; c < CLASSES; c++) read_numbers(base + c * walk.channel, it.e[c]);
#pragma unroll
    for (int c = 0; c < CLASSES; c++)
#pragma unroll
        for (int v = 0; v < V; v++) highest[v] = fmaxf(highest[v], it.e[c][v]);
#pragma unroll
    for (int v = 0; v < V; v++) {
        float shift = highest[v] == -INFINITE ? 0.f : highest[v] * LOG2E;
#pragma unroll
        for (int c = 0; c < CLASSES; c++) {
            it.e[c][v] = power_of_two(fmaf(it.e[c][v], LOG2E, -shift));
            if (c == it.label[v]) it.e[c][v] = 0;
            it.others[v] += it.e[c][v];
        }
        it.depth[v] = fmaf(it.own[v], -LOG2E, shift);
        it.own[v] = power_of_two(-it.depth[v]);
    }
}

// The softmax of the labels, and the sum of all others'; ``inverse`` is what makes the softmax of the exponentials, 0 where
// a pixel does not count. Exponentials that are not finite become 0, lest one point beyond the tables.
struct Softmax {
    float right[V], wrong[V], inverse[V];
};

__device__ __forceinline__ void normalise(Softmax& to, Pixels& it) {
#pragma unroll
    for (int v = 0; v < V; v++) {
        float inverse = reciprocal(it.others[v] + it.own[v]);
        to.right[v] = it.own[v] * inverse;
        to.wrong[v] = it.others[v] * inverse;
        to.inverse[v] = it.label[v] < 0 ? 0.f : inverse;
        if (!(to.wrong[v] >= 0)) {
            to.inverse[v] = 0;
#pragma unroll
            for (int c = 0; c < CLASSES; c++) it.e[c][v] = 0;
        }
    }
}

// First pass: the bins of all errors. ``status`` is set to 1 by a pixel whose softmax is NaN. ``entropy`` (blocks) receives
// sums of cross-entropies, each times its label's number of ``each`` (CLASSES), if that is given.
extern "C" __global__ void __launch_bounds__(COUNT_THREADS, 1) count(
    const Number* x, const Label* target, const int* entries, u64* hist, int* status, const float* each, double* entropy,
    Walk walk) {
    SHARED(shared);
    u32* bins = shared;
    u16* cells = (u16*)(bins + CLASSES * CLASS_BINS);
    load_counting_cells(cells, entries, CLASSES);
    for (int i = threadIdx.x; i < CLASSES * CLASS_BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    hist += blockIdx.x * walk.parts / gridDim.x * walk.part_size;
    u32 parts = in_register((1 << PART_BITS) - 1), counted = in_register(COUNTED);
    int since = 0;
    bool strange = false;
    double surprises = 0;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        flush_in_time(bins, hist, CLASSES, since, COUNT_THREADS * V);
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * COUNT_THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        Pixels it;
        read_pixels(it, x, target, walk, image, pixel);
        Softmax softmax;
        normalise(softmax, it);
        float steep;
        bool nothing = true;
#pragma unroll
        for (int v = 0; v < V; v++) {
            if (it.label[v] < 0) continue;
            strange = strange || !(softmax.wrong[v] >= 0);
            nothing = false;
            if (each)
                surprises += each[it.label[v]] * surprise(softmax.wrong[v], it.others[v] + it.own[v], it.depth[v]);
            u32 bits = bits_above_floor(softmax.wrong[v], softmax.right[v], steep);
            u32 entry = cells[it.label[v] * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            if (entry != WASTE) tally(bits, entry, bins + it.label[v] * CLASS_BINS, parts, counted);
        }
        if (nothing) continue;
        // Some classes at a time: the compiler lets no look-up pass an addition, for all it knows to the same place.
#pragma unroll
        for (int first = 0; first < CLASSES; first += TOGETHER) {
            u32 bits[TOGETHER][V], found[TOGETHER][V];
#pragma unroll
            for (int i = 0; i < TOGETHER && first + i < CLASSES; i++)
#pragma unroll
                for (int v = 0; v < V; v++) {
                    int c = first + i;
                    bits[i][v] = bits_above_floor(fmaf(it.e[c][v], softmax.inverse[v], LOWEST), steep);
                    found[i][v] = cells[c * CELLS + (bits[i][v] >> CELL_BITS) - FLOOR_CELLS];
                }
#pragma unroll
            for (int i = 0; i < TOGETHER && first + i < CLASSES; i++)
#pragma unroll
                for (int v = 0; v < V; v++)
                    tally(bits[i][v], found[i][v], bins + (first + i) * CLASS_BINS + SIZE, parts, counted);
        }
    }
    flush(bins, hist, CLASSES, 1);
    if (strange) atomicMax(status, 1);
    if (each) {
        sum_of_block(surprises, (double*)shared);
        if (threadIdx.x == 0) entropy[blockIdx.x] = *(double*)shared;
    }
}

// Second pass: the gradient at the logits times ``factor``, a number on the device; see gradient_softmax in softmax.py.
// That of the cross-entropy, p at all classes and p - 1 at the label, is another number to take from the mean.
extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 1) gradient(
    const Number* x, const Label* target, const int* entries, const u64* table, const float* factor, const float* each,
    Number* out, float lovasz, Walk walk) {
    SHARED(shared);
    Line* lines = (Line*)shared;
    u16* cells = (u16*)(lines + CLASSES * SIZE);
    float whole = *factor, scale = whole * lovasz;
    load_tables(lines, cells, entries, table, CLASSES, scale);
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = tile / walk.tiles, pixel = (tile % walk.tiles * GRADIENT_THREADS + threadIdx.x) * V;
        if (pixel >= walk.pixels) continue;
        Pixels it;
        read_pixels(it, x, target, walk, image, pixel);
        Softmax softmax;
        normalise(softmax, it);
        float own[V], mean[V], at_label[V], steep;
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            int known = max(it.label[v], 0);
            u32 bits = bits_above_floor(softmax.wrong[v], softmax.right[v], steep);
            u32 entry = cells[known * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            own[v] = softmax.right[v] * scale * foreground_weight(bits, entry, known, table);
            mean[v] = 0;
        }
        float q[CLASSES][V];
#pragma unroll
        for (int c = 0; c < CLASSES; c++)
#pragma unroll
            for (int v = 0; v < V; v++) {
                float error = fmaf(it.e[c][v], softmax.inverse[v], LOWEST);
                u32 bits = bits_above_floor(error, steep);
                q[c][v] = weight_of(bits, steep, cells + c * CELLS, lines + c * SIZE);
                it.e[c][v] *= softmax.inverse[v];
                mean[v] = fmaf(it.e[c][v], q[c][v], mean[v]);
            }
#pragma unroll
        for (int v = 0; v < V; v++) {
            float entropy = each ? each[max(it.label[v], 0)] * whole : 0.f;
            at_label[v] = -softmax.wrong[v] * (own[v] + entropy) - softmax.right[v] * mean[v];
            mean[v] = it.label[v] < 0 ? 0.f : mean[v] - own[v] - entropy;
            label[v] = it.label[v] + walk.zero;  // lest the compiler keep the answers to what was asked before
        }
        Number* to = out + image * walk.out_image + pixel * walk.out_pixel;
#pragma unroll
        for (int c = 0; c < CLASSES; c++) {
            float slopes[V];
#pragma unroll
            for (int v = 0; v < V; v++) slopes[v] = c == label[v] ? at_label[v] : it.e[c][v] * (q[c][v] - mean[v]);
            write_numbers(to + c * walk.out_channel, slopes);
        }
    }
}
