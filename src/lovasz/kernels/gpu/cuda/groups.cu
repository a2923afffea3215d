// More classes than the tables of which fit one multiprocessor: one kernel finds the denominator of each pixel's softmax, and
// the others take a group of classes at a time, blockIdx.y. Between them lie planes of one number to a pixel.

#define BATCH 8  // classes whose logits are read before they are used
#define REST (GROUP % BATCH ? GROUP % BATCH : BATCH)  // the last of a whole group

__device__ __forceinline__ int image_of(const Walk& walk, int tile) { return tile / walk.tiles; }

__device__ __forceinline__ int pixel_of(const Walk& walk, int tile) {
    return (tile % walk.tiles * blockDim.x + threadIdx.x) * V;
}

// Some classes more, from ``first``, in the sum ``others`` of the exponentials over the highest logit so far.
template <int SOME>
__device__ __forceinline__ void add_classes(
    const Number*& base, const Walk& walk, int first, const int (&label)[V], float (&highest)[V], float (&others)[V]) {
    Packed packed[SOME];
    float block[SOME][V];
#pragma unroll
    for (int i = 0; i < SOME; i++) packed[i] = fetch(base + i * walk.channel);
    base += SOME * walk.channel;
#pragma unroll
    for (int i = 0; i < SOME; i++) unpack(packed[i], block[i]);
#pragma unroll
    for (int v = 0; v < V; v++) {
        float old = highest[v];
#pragma unroll
        for (int i = 0; i < SOME; i++) {
            if (first + i == label[v]) block[i][v] = -INFINITE;
            highest[v] = fmaxf(highest[v], block[i][v]);
        }
        float shift = highest[v] == -INFINITE ? 0.f : highest[v] * LOG2E;
        others[v] *= power_of_two(fmaf(old, LOG2E, -shift));
#pragma unroll
        for (int i = 0; i < SOME; i++) others[v] += power_of_two(fmaf(block[i][v], LOG2E, -shift));
    }
}

// Denominator (as the logarithm to the base 2, infinite where a pixel does not count), error and label of each pixel; the
// bins of the foreground errors, and the cross-entropy as in held.cu.
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) normalise(
    const Number* x, const Label* target, const int* entries, u64* hist, int* status, float* denominator, float* wrongs,
    int* labels, const float* each, double* entropy, Walk walk) {
    SHARED(shared);
    hist += (i64)((u64)blockIdx.x * walk.parts / gridDim.x) * walk.part_size;
    bool strange = false;
    double surprises = 0;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = image_of(walk, tile), pixel = pixel_of(walk, tile);
        if (pixel >= walk.pixels) continue;
        const Number* base = x + image * walk.image + pixel * walk.pixel;
        i64 at = (i64)image * walk.pixels + pixel;
        float highest[V], others[V], own[V];
        int label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            label[v] = label_at(target, walk, image, pixel + v);
            highest[v] = own[v] = read_number(base + max(label[v], 0) * walk.channel + v);
            others[v] = 0;
        }
        for (int first = 0; first < CLASSES / BATCH * BATCH; first += BATCH)
            add_classes<BATCH>(base, walk, first, label, highest, others);
        if (CLASSES % BATCH) add_classes<CLASSES % BATCH ? CLASSES % BATCH : 1>(base, walk, CLASSES / BATCH * BATCH, label, highest, others);
#pragma unroll
        for (int v = 0; v < V; v++) {
            float shift = highest[v] == -INFINITE ? 0.f : highest[v] * LOG2E, steep;
            float depth = fmaf(own[v], -LOG2E, shift), right = power_of_two(-depth), total = others[v] + right;
            float inverse = reciprocal(total), wrong = others[v] * inverse;
            bool valid = label[v] >= 0;
            denominator[at + v] = valid ? shift + logarithm(total) : INFINITE;
            wrongs[at + v] = wrong;
            labels[at + v] = label[v];
            if (!valid) continue;
            strange = strange || !(wrong >= 0);
            if (each) surprises += each[label[v]] * surprise(wrong, total, depth);
            u32 bits = bits_above_floor(wrong, right * inverse, steep);
            u32 entry = entries[label[v] * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS], dropped = entry & 31;
            u32 within = bits & MASK, rest = within & ~(0xffffffffu << dropped);
            if (entry != TAIL)
                atomicAdd(hist + ((i64)label[v] * 2 + 1) * SIZE + (entry >> 5) + (within >> dropped),
                          ((u64)1 << COUNT_BITS) + ((u64)rest << FRACTION_BITS >> dropped));
        }
    }
    if (strange) atomicMax(status, 1);
    if (each) {
        sum_of_block(surprises, (double*)shared);
        if (threadIdx.x == 0) entropy[blockIdx.x] = *(double*)shared;
    }
}

// What a thread knows of its pixels before it looks at a group of classes; the label is counted from the group's first.
struct Known {
    float denominator[V];
    int label[V];
};

__device__ __forceinline__ Known known_of(const float* denominator, const int* labels, i64 at, int first) {
    Known it;
#pragma unroll
    for (int v = 0; v < V; v++) it.denominator[v] = denominator[at + v], it.label[v] = labels[at + v] - first;
    return it;
}

// The softmax, in [0, 1] whatever the rounding, and 0 where it is not a number.
__device__ __forceinline__ float softmax_of(float x, float denominator) {
    return __saturatef(power_of_two(fmaf(x, LOG2E, -denominator)));
}

__device__ __forceinline__ u32 background_bits(float x, float denominator) {
    float steep;
    return bits_above_floor(softmax_of(x, denominator) + LOWEST, steep);
}

// ``it(first class, logits, how many classes)`` for the classes of a group, of which some are read at a time.
template <int SOME, class Each>
__device__ __forceinline__ void some_classes(const Number*& base, const Walk& walk, int first, Each& it) {
    Packed packed[SOME];
#pragma unroll
    for (int i = 0; i < SOME; i++) packed[i] = fetch(base + i * walk.channel);
    base += SOME * walk.channel;
    float numbers[BATCH][V];
#pragma unroll
    for (int i = 0; i < SOME; i++) unpack(packed[i], numbers[i]);
    it(first, numbers, SOME);
}

template <class Each>
__device__ __forceinline__ void for_each_class(const Number* base, const Walk& walk, int classes, Each it) {
    int first = 0;
    for (; first + BATCH <= classes; first += BATCH) some_classes<BATCH>(base, walk, first, it);
    if (first + REST == classes) {
        some_classes<REST>(base, walk, first, it);
        return;
    }
    for (; first < classes; first++) some_classes<1>(base, walk, first, it);
}

typedef const float (&Numbers)[BATCH][V];  // logits of some classes

// First pass: the bins of the background errors.
extern "C" __global__ void __launch_bounds__(COUNT_THREADS, 1) count_group(
    const Number* x, const int* entries, u64* hist, const float* denominator, const int* labels, Walk walk) {
    SHARED(shared);
    u32* bins = shared;
    u16* cells = (u16*)(bins + GROUP * CLASS_BINS);
    int first = blockIdx.y * GROUP, classes = min(GROUP, CLASSES - first);
    load_counting_cells(cells, entries + first * CELLS, classes);
    for (int i = threadIdx.x; i < GROUP * CLASS_BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    hist += blockIdx.x * walk.parts / gridDim.x * walk.part_size + (i64)first * 2 * SIZE;
    u32 parts = in_register((1 << PART_BITS) - 1), counted = in_register(COUNTED);
    int since = 0;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        flush_in_time(bins, hist, classes, since, COUNT_THREADS * V);
        int image = image_of(walk, tile), pixel = pixel_of(walk, tile);
        if (pixel >= walk.pixels) continue;
        Known known = known_of(denominator, labels, (i64)image * walk.pixels + pixel, first);
        const Number* base = x + image * walk.image + first * walk.channel + pixel * walk.pixel;
        // All classes, the label's too, which is taken back. No look-up may wait for an addition: these come last.
        for_each_class(base, walk, classes, [&](int c, Numbers numbers, int some) {
            u32 bits[BATCH][V], found[BATCH][V];
#pragma unroll
            for (int i = 0; i < some; i++)
#pragma unroll
                for (int v = 0; v < V; v++) {
                    bits[i][v] = background_bits(numbers[i][v], known.denominator[v]);
                    found[i][v] = cells[(c + i) * CELLS + (bits[i][v] >> CELL_BITS) - FLOOR_CELLS];
                }
#pragma unroll
            for (int i = 0; i < some; i++)
#pragma unroll
                for (int v = 0; v < V; v++)
                    tally(bits[i][v], found[i][v], bins + (c + i) * CLASS_BINS + SIZE, parts, counted);
        });
#pragma unroll
        for (int v = 0; v < V; v++) {
            int label = known.label[v];
            if (label < 0 || label >= classes) continue;
            u32 bits = background_bits(read_number(base + label * walk.channel + v), known.denominator[v]);
            u32 found = cells[label * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            tally(bits, found, bins + label * CLASS_BINS + SIZE, parts, counted, true);
        }
    }
    flush(bins, hist, classes, 1);
}

// The sum of p q over the classes of a group but the label: plane blockIdx.y of ``means``.
extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 1) mean_group(
    const Number* x, const int* entries, const u64* table, const float* factor, const float* denominator,
    const int* labels, float* means, i64 plane, float lovasz, Walk walk) {
    SHARED(shared);
    Line* lines = (Line*)shared;
    u16* cells = (u16*)(lines + GROUP * SIZE);
    int first = blockIdx.y * GROUP, classes = min(GROUP, CLASSES - first);
    load_tables(lines, cells, entries + first * CELLS, table + (i64)first * 2 * SIZE, classes, *factor * lovasz);
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = image_of(walk, tile), pixel = pixel_of(walk, tile);
        if (pixel >= walk.pixels) continue;
        i64 at = (i64)image * walk.pixels + pixel;
        Known known = known_of(denominator, labels, at, first);
        const Number* base = x + image * walk.image + first * walk.channel + pixel * walk.pixel;
        float mean[V];
#pragma unroll
        for (int v = 0; v < V; v++) mean[v] = 0;
        for_each_class(base, walk, classes, [&](int c, Numbers numbers, int some) {
#pragma unroll
            for (int i = 0; i < some; i++)
#pragma unroll
                for (int v = 0; v < V; v++) {
                    float p = softmax_of(numbers[i][v], known.denominator[v]), steep;
                    if (c + i == known.label[v]) p = 0;
                    u32 bits = bits_above_floor(p + LOWEST, steep);
                    mean[v] = fmaf(p, weight_of(bits, steep, cells + (c + i) * CELLS, lines + (c + i) * SIZE), mean[v]);
                }
        });
#pragma unroll
        for (int v = 0; v < V; v++) means[blockIdx.y * plane + at + v] = mean[v];
    }
}

// What all classes of a pixel share: the first plane of ``means`` becomes sum_k!=t p_k q_k - p_t q_t, ``at_labels`` the
// gradient at the label; the cross-entropy's share in both.
extern "C" __global__ void __launch_bounds__(PLAIN_THREADS) finish(
    const Number* x, const int* entries, const u64* table, const float* factor, const float* denominator,
    const float* wrongs, const int* labels, float* means, float* at_labels, i64 plane, const float* each, float lovasz,
    Walk walk) {
    float whole = *factor, scale = whole * lovasz;
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = image_of(walk, tile), begin = pixel_of(walk, tile);
#pragma unroll
        for (int v = 0; v < V; v++) {
            int pixel = begin + v;
            if (pixel >= walk.pixels) continue;
            i64 at = (i64)image * walk.pixels + pixel;
            int label = labels[at];
            if (label < 0) {
                means[at] = 0;
                continue;
            }
            float mean = 0, own = read_number(x + image * walk.image + label * walk.channel + pixel * walk.pixel), steep;
            for (int group = 0; group < (CLASSES + GROUP - 1) / GROUP; group++) mean += means[group * plane + at];
            float right = power_of_two(fmaf(own, LOG2E, -denominator[at])), wrong = wrongs[at];
            u32 bits = bits_above_floor(wrong, right, steep);
            u32 entry = entries[label * CELLS + (bits >> CELL_BITS) - FLOOR_CELLS];
            float q = right * scale * foreground_weight(bits, entry, label, table);
            float entropy = each ? each[label] * whole : 0.f;
            at_labels[at] = -(wrong * (q + entropy) + right * mean);
            means[at] = mean - q - entropy;
        }
    }
}

// Second pass: the gradient at the logits of a group.
extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 1) gradient_group(
    const Number* x, const int* entries, const u64* table, const float* factor, const float* denominator,
    const float* at_labels, const int* labels, const float* means, Number* out, float lovasz, Walk walk) {
    SHARED(shared);
    Line* lines = (Line*)shared;
    u16* cells = (u16*)(lines + GROUP * SIZE);
    int first = blockIdx.y * GROUP, classes = min(GROUP, CLASSES - first);
    load_tables(lines, cells, entries + first * CELLS, table + (i64)first * 2 * SIZE, classes, *factor * lovasz);
    for (int tile = blockIdx.x; tile < walk.all_tiles; tile += gridDim.x) {
        int image = image_of(walk, tile), pixel = pixel_of(walk, tile);
        if (pixel >= walk.pixels) continue;
        i64 at = (i64)image * walk.pixels + pixel;
        Known known = known_of(denominator, labels, at, first);
        const Number* base = x + image * walk.image + first * walk.channel + pixel * walk.pixel;
        Number* to = out + image * walk.out_image + first * walk.out_channel + pixel * walk.out_pixel;
        float mean[V], at_label[V];
#pragma unroll
        for (int v = 0; v < V; v++) {
            mean[v] = means[at + v];
            bool here = known.label[v] >= 0 && known.label[v] < classes;
            at_label[v] = here ? at_labels[at + v] : 0.f;
        }
        for_each_class(base, walk, classes, [&](int c, Numbers numbers, int some) {
            float slopes[BATCH][V];
#pragma unroll
            for (int i = 0; i < some; i++)
#pragma unroll
                for (int v = 0; v < V; v++) {
                    float p = softmax_of(numbers[i][v], known.denominator[v]), steep;
                    u32 bits = bits_above_floor(p + LOWEST, steep);
                    float q = weight_of(bits, steep, cells + (c + i) * CELLS, lines + (c + i) * SIZE);
                    slopes[i][v] = c + i == known.label[v] ? at_label[v] : p * (q - mean[v]);
                }
#pragma unroll
            for (int i = 0; i < some; i++, to += walk.out_channel) write_numbers(to, slopes[i]);
        });
    }
}
