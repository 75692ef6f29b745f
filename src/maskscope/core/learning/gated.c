/* Products with gated weights, on the CPU: a weight meets its gate, one bit, on the way into the cache.

   No gated copy of a weight is ever written to memory, and what is read next is prefetched while what is there is
   multiplied. So a product over 32 rows, one part of a cut batch, runs as fast as a plain product over all of them,
   gates included. Sums go over one index in its own order, whatever the number of threads: results do not depend on it.

   Gates are planes of bits, one 64-bit word for a row of 64 units, bit j for unit j; every plane is followed by a word
   that may be read and means nothing. Matrices are dense, row after row; sizes count elements. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* VL: floats in a vector. FORWARD x 2 and BACKWARD x SIDE sums must fit the registers, with a few to spare. */
#if defined(__AVX512F__)
#include <immintrin.h>
enum { VL = 16, FORWARD = 12, BACKWARD = 8, SIDE = 3 };
#elif defined(__AVX2__)
#include <immintrin.h>
enum { VL = 8, FORWARD = 6, BACKWARD = 6, SIDE = 2 };
#elif defined(__aarch64__)
enum { VL = 4, FORWARD = 12, BACKWARD = 8, SIDE = 3 };
#else
enum { VL = 4, FORWARD = 6, BACKWARD = 6, SIDE = 2 };
#endif

enum {
    DEPTH = 512,      /* weights of a row that are gated at once in a forward product: FORWARD x DEPTH of them lie in L1 */
    HEIGHT = 256,     /* rows of weights that are gated at once in a backward product */
    CHUNK = 256,      /* examples that are multiplied with them before they are gated anew */
    LANES = 2 * VL,   /* examples in a tile of a forward product */
    WIDE = SIDE * VL, /* columns of a tile of a backward product */
    LINE = 16,        /* floats in a cache line */
    WIDE_LINES = (WIDE + LINE - 1) / LINE
};

typedef float Floats __attribute__((vector_size(VL * 4)));
typedef float Loose __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(VL * 4)));
typedef uint32_t Words __attribute__((vector_size(VL * 4)));
typedef int64_t Size;
typedef const uint8_t *Bits;

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))

static const int32_t ONE_BIT[16] __attribute__((aligned(64))) = {1,   2,   4,    8,    16,   32,   64,    128,
                                                                256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
static const int32_t LANE[16] __attribute__((aligned(64))) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE Size least(Size a, Size b) { return a < b ? a : b; }
INLINE Floats load(const float *from) { return (Floats) * (const Loose *)from; }
#if defined(__AVX512F__) && defined(__AVX512DQ__)
INLINE Floats where(Ints yes, Floats a, Floats b) {
    return (Floats)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)yes), (__m512)b, (__m512)a);
}
INLINE Floats lower(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
#else
INLINE Floats where(Ints yes, Floats a, Floats b) { return (Floats)((yes & (Ints)a) | (~yes & (Ints)b)); }
INLINE Floats lower(Floats a, Floats b) { return where(a < b, a, b); }
#endif
INLINE void store(float *to, Floats value) { *(Loose *)to = (Loose)value; }

/* The first `count` of a vector, the others 0. */
INLINE Floats load_some(const float *from, Size count) {
    if (count >= VL) return load(from);
    float some[VL] = {0};
    memcpy(some, from, sizeof(float) * count);
    return load(some);
}

INLINE void store_some(float *to, Floats value, Size count) {
    if (count >= VL) {
        store(to, value);
        return;
    }
    float some[VL];
    store(some, value);
    memcpy(to, some, sizeof(float) * count);
}

/* The bits from place `at` on, at least 25 of them. */
INLINE uint32_t bits_at(Bits bits, Size at) {
    uint32_t word;
    memcpy(&word, bits + (at >> 3), 4);
    return word >> (at & 7);
}

INLINE Ints is_on(Bits bits, Size at) {
    Ints one = *(const Ints *)ONE_BIT;
    return (((Ints){0} + (int32_t)bits_at(bits, at)) & one) == one;
}

INLINE Floats gated(const float *weights, Bits bits, Size at) {
    return (Floats)((Ints)load(weights + at) & is_on(bits, at));
}

INLINE float gated_one(const float *weights, Bits bits, Size at) { return bits_at(bits, at) & 1 ? weights[at] : 0.0f; }

/* `count` gated weights from place `at` on. */
INLINE void gate_run(float *to, const float *weights, Bits bits, Size at, Size count) {
    Size k = 0;
    for (; k + VL <= count; k += VL) store(to + k, gated(weights, bits, at + k));
    for (; k < count; k++) to[k] = gated_one(weights, bits, at + k);
}

int lanes(void) { return VL; }

void gate(float *out, const float *weights, Bits bits, Size count, int threads) {
    Size pieces = (count + 4095) / 4096;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size p = 0; p < pieces; p++) gate_run(out + p * 4096, weights, bits, p * 4096, least(4096, count - p * 4096));
}

/* Planes of gates: on where u > q, with the noise of noise.uniform and q the prepared logits.

   u = (n + 1/2) / 2^23 with n a whole number, so u > q where n reaches 2^23 q rounded to the nearest, halves up.
   `streams`: two key words and a rotation for each sample; `shared`: all samples have the same key words;
   `apart`: words from one plane to the next. */
void draw(uint64_t *planes, const float *q, const int32_t *key0, const int32_t *key1, const int32_t *streams, Size apart,
          Size rows, Size samples, int shared, int threads) {
    enum { PARTS = 64 / VL };
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size r = 0; r < rows; r++) {
        Ints number[PARTS] = {0}, least_on[PARTS];
        for (int j = 0; j < PARTS; j++) {
            Floats scaled = load(q + r * 64 + j * VL) * 8388608.0f;
            Ints whole = __builtin_convertvector(scaled, Ints);
            least_on[j] = whole - (scaled - __builtin_convertvector(whole, Floats) >= 0.5f);
        }
        for (Size s = 0; s < samples; s++) {
            const int32_t *stream = streams + 3 * s;
            if (s == 0 || !shared) {
                uint32_t first = (uint32_t)key0[r] + (uint32_t)stream[0], second = (uint32_t)(key1[r] ^ stream[1]);
                UNROLL for (int j = 0; j < PARTS; j++) {
                    Words word = (*(const Words *)LANE + (uint32_t)(j * VL)) * 0x9E3779B1u + first;
                    word = (word ^ (word >> 17)) * 0xED5AD4BBu;
                    word = word ^ (word >> 11) ^ second;
                    word = word * 0xAC4C1B51u;
                    word = (word ^ (word >> 15)) * 0x31848BABu;
                    word = word ^ (word >> 14);
                    number[j] = (Ints)(word >> 9);
                }
            }
            uint64_t plane = 0;
            UNROLL for (int j = 0; j < PARTS; j++) {
                Ints n = (number[j] + stream[2]) & 0x7FFFFF;
#if defined(__AVX512F__)
                uint64_t on = _mm512_cmpge_epi32_mask((__m512i)n, (__m512i)least_on[j]);
#elif defined(__AVX2__)
                uint64_t on = (uint32_t)_mm256_movemask_ps((__m256)(n >= least_on[j]));
#else
                Ints set = (n >= least_on[j]) & *(const Ints *)ONE_BIT;
                uint64_t on = (uint64_t)(set[0] | set[1] | set[2] | set[3]);
#endif
                plane |= on << (j * VL);
            }
            planes[s * apart + r] = plane;
        }
    }
}

/* Sums of FORWARD rows of gated weights with LANES examples, continued over `depth` weights. One line of the next
   weights is prefetched with each weight. */
INLINE void forward_tile(float *sums, const float *panel, const float *examples, Size depth, const float *next,
                         Size in) {
    enum { PER_ROW = DEPTH / LINE };
    Floats sum[FORWARD][2];
    UNROLL for (int j = 0; j < FORWARD; j++) for (int v = 0; v < 2; v++) sum[j][v] = load(sums + j * LANES + v * VL);
    for (Size k = 0; k < depth; k++) {
        if (k < FORWARD * PER_ROW) __builtin_prefetch(next + k / PER_ROW * in + k % PER_ROW * LINE, 0, 2);
        Floats left = load(examples + k * LANES), right = load(examples + k * LANES + VL);
        UNROLL for (int j = 0; j < FORWARD; j++) {
            Floats weight = (Floats){0} + panel[j * DEPTH + k];
            sum[j][0] += weight * left;
            sum[j][1] += weight * right;
        }
    }
    UNROLL for (int j = 0; j < FORWARD; j++) for (int v = 0; v < 2; v++) store(sums + j * LANES + v * VL, sum[j][v]);
}

/* y = x (gated weights)^T + bias: y (rows, out), x (rows, in), weights (out, in).
   `turned`: room for x with LANES examples side by side, (rows / LANES, upwards, in, LANES). */
void forward(float *y, const float *x, float *turned, const float *weights, Bits bits, const float *bias, Size rows,
             Size out, Size in, int threads) {
    Size tiles = (rows + LANES - 1) / LANES, panels = (out + FORWARD - 1) / FORWARD;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) collapse(2)
        for (Size t = 0; t < tiles; t++)
            for (Size i = 0; i < in; i += LINE)
                for (Size r = 0; r < LANES; r++) {
                    const float *from = x + (t * LANES + r) * in;
                    for (Size k = i; k < least(i + LINE, in); k++)
                        turned[(t * in + k) * LANES + r] = t * LANES + r < rows ? from[k] : 0.0f;
                }
#pragma omp for schedule(static)
        for (Size p = 0; p < panels; p++) {
            float panel[FORWARD * DEPTH] __attribute__((aligned(64)));
            float sums[FORWARD * CHUNK] __attribute__((aligned(64)));
            Size first = p * FORWARD, count = least(FORWARD, out - first);
            for (Size begin = 0; begin < tiles; begin += CHUNK / LANES) {
                Size end = least(begin + CHUNK / LANES, tiles);
                memset(sums, 0, sizeof(float) * FORWARD * LANES * (end - begin));
                for (Size i = 0; i < in; i += DEPTH) {
                    Size depth = least(DEPTH, in - i);
                    for (Size j = 0; j < FORWARD; j++) /* past the last row: the first once more, and not used */
                        gate_run(panel + j * DEPTH, weights, bits, (first + (j < count ? j : 0)) * in + i, depth);
                    const float *next = weights + (i + DEPTH < in ? first * in + i + DEPTH : (first + FORWARD) * in);
                    for (Size t = begin; t < end; t++)
                        forward_tile(sums + (t - begin) * FORWARD * LANES, panel, turned + (t * in + i) * LANES, depth,
                                     next, in);
                }
                for (Size r = begin * LANES; r < least(end * LANES, rows); r++)
                    for (Size j = 0; j < count; j++) {
                        Size at = ((r / LANES - begin) * FORWARD + j) * LANES + r % LANES;
                        y[r * out + first + j] = sums[at] + (bias ? bias[first + j] : 0.0f);
                    }
            }
        }
    }
}

/* Sums of `height` gated rows of weights for BACKWARD examples. */
INLINE void backward_tile(float *sums, const float *panel, const float *const *examples, Size height, Size line,
                          const float *next, Size in) {
    Floats sum[BACKWARD][SIDE];
    UNROLL for (int i = 0; i < BACKWARD; i++) for (int v = 0; v < SIDE; v++) sum[i][v] = load(sums + i * WIDE + v * VL);
    for (Size k = 0; k < height; k++) {
        Floats weight[SIDE];
        if (k < HEIGHT / 4 * WIDE_LINES)
            __builtin_prefetch(next + (line + k) / WIDE_LINES * in + (line + k) % WIDE_LINES * LINE, 0, 2);
        UNROLL for (int v = 0; v < SIDE; v++) weight[v] = load(panel + k * WIDE + v * VL);
        UNROLL for (int i = 0; i < BACKWARD; i++) {
            Floats example = (Floats){0} + examples[i][k];
            UNROLL for (int v = 0; v < SIDE; v++) sum[i][v] += example * weight[v];
        }
    }
    UNROLL for (int i = 0; i < BACKWARD; i++) for (int v = 0; v < SIDE; v++) store(sums + i * WIDE + v * VL, sum[i][v]);
}

/* dx = dy (gated weights): dx (rows, in), dy (rows, out), weights (out, in). */
void backward(float *dx, const float *dy, const float *weights, Bits bits, Size rows, Size out, Size in, int threads) {
    Size blocks = (in + WIDE - 1) / WIDE;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size p = 0; p < blocks; p++) {
        float panel[HEIGHT * WIDE] __attribute__((aligned(64)));
        float sums[(CHUNK + BACKWARD) * WIDE] __attribute__((aligned(64)));
        Size first = p * WIDE, count = least(WIDE, in - first);
        if (count < WIDE) memset(panel, 0, sizeof panel);
        for (Size begin = 0; begin < rows; begin += CHUNK) {
            Size examples = least(CHUNK, rows - begin);
            memset(sums, 0, sizeof(float) * WIDE * (examples + BACKWARD));
            for (Size o = 0; o < out; o += HEIGHT) {
                Size height = least(HEIGHT, out - o);
                for (Size k = 0; k < height; k++) gate_run(panel + k * WIDE, weights, bits, (o + k) * in + first, count);
                const float *next = weights + (o + HEIGHT < out ? (o + HEIGHT) * in + first : first + WIDE);
                for (Size r = 0; r < examples; r += BACKWARD) {
                    const float *from[BACKWARD]; /* past the last example: the first once more, and not used */
                    for (int i = 0; i < BACKWARD; i++)
                        from[i] = dy + (begin + (r + i < examples ? r + i : r)) * out + o;
                    backward_tile(sums + r * WIDE, panel, from, height, r / BACKWARD * (HEIGHT / 4 * WIDE_LINES), next, in);
                }
            }
            for (Size r = 0; r < examples; r++)
                memcpy(dx + (begin + r) * in + first, sums + r * WIDE, sizeof(float) * count);
        }
    }
}

/* exp, to 2 units in the last place: 2^n times a polynomial. */
INLINE Floats exp_within(Floats x) { /* from -87 to 88 */
    Floats shifted = x * 1.44269504f + 12582912.0f; /* adding 1.5 2^23 rounds to a whole number */
    Ints power = (Ints)shifted - 0x4B400000;
    Floats whole = __builtin_convertvector(power, Floats);
    Floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats series = rest * 1.98756915e-4f + 1.39819995e-3f;
    series = series * rest + 8.33345205e-3f;
    series = series * rest + 4.16657962e-2f;
    series = series * rest + 1.66666657e-1f;
    series = series * rest + 0.5f;
    return (series * rest * rest + rest + 1.0f) * (Floats)((power + 127) << 23);
}

INLINE Floats exponential(Floats x) {
    return exp_within(where(x < -87.0f, (Floats){0} - 87.0f, lower(x, (Floats){0} + 88.0f)));
}

INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE Floats hyperbolic(Floats x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

/* What d(loss)/d(gated weight) is multiplied with, besides the weight, where the gate is on and where it is off: the mean
   of its slope over all noise that opens (or shuts) it. GumbelSigmoid.expected_slope in gates.py has the formulas. */
INLINE void expected_slopes(Floats logits, Floats *on, Floats *off) {
    static const float UNLIKELY[] = {0.19314398f, -0.033979587f, -0.027370421f, 0.0020911586f, -0.046456523f};
    static const float FIRST[] = {0.9998135f, 5.6920195f, 9.3087854f, -14.419935f};
    static const float SECOND[] = {-2.1910871f, -6.5640225f, 15.698677f, 28.814816f, -27.521187f};
    Floats size = lower((Floats)((Ints)logits & 0x7FFFFFFF), (Floats){0} + 87.0f), tail = exp_within(-size);
    Floats q = tail / (1.0f + tail), unlikely = {0}, first = {0}, second = {0};
    UNROLL for (int i = 4; i >= 0; i--) unlikely = unlikely * q + UNLIKELY[i];
    UNROLL for (int i = 3; i >= 0; i--) first = first * q + FIRST[i];
    UNROLL for (int i = 4; i >= 0; i--) second = second * q + SECOND[i];
    Floats likely = q * (size * first + second);
    Ints removed = logits < 0.0f;
    *on = where(removed, unlikely, likely);
    *off = where(removed, likely, unlikely);
}

/* total += gradient x weight x expected slope, for one sample's gates. */
void collect(float *total, const float *gradient, const float *weights, const float *logits, Bits bits, Size count,
             int threads) {
    Size pieces = (count + 4095) / 4096;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Size p = 0; p < pieces; p++)
        for (Size k = p * 4096; k < least(p * 4096 + 4096, count); k += VL) {
            Size some = count - k;
            Floats on, off;
            expected_slopes(load_some(logits + k, some), &on, &off);
            Floats slope = load_some(weights + k, some) * where(is_on(bits, k), on, off);
            store_some(total + k, load_some(total + k, some) + load_some(gradient + k, some) * slope, some);
        }
}

/* Sums of BACKWARD columns of dy with WIDE columns of x over `count` examples; what is next is prefetched. */
INLINE void gradient_tile(float *sums, const float *dy, const float *x, Size count, Size line, const float *const *next,
                          Size in) {
    Floats sum[BACKWARD][SIDE];
    UNROLL for (int i = 0; i < BACKWARD; i++) for (int v = 0; v < SIDE; v++) sum[i][v] = (Floats){0};
    for (Size r = 0; r < count; r++) {
        Floats side[SIDE];
        Size ahead = line + r;
        if (ahead < 3 * BACKWARD * WIDE_LINES)
            __builtin_prefetch(next[ahead % 3] + ahead / 3 / WIDE_LINES * in + ahead / 3 % WIDE_LINES * LINE, 0, 2);
        UNROLL for (int v = 0; v < SIDE; v++) side[v] = load(x + r * WIDE + v * VL);
        UNROLL for (int i = 0; i < BACKWARD; i++) {
            Floats slope = (Floats){0} + dy[r * BACKWARD + i];
            UNROLL for (int v = 0; v < SIDE; v++) sum[i][v] += slope * side[v];
        }
    }
    UNROLL for (int i = 0; i < BACKWARD; i++) for (int v = 0; v < SIDE; v++) store(sums + i * WIDE + v * VL, sum[i][v]);
}

/* d(loss)/d(logit) of a matrix of weights, from products of several samples: total (out, in) becomes

       (anew ? base : total) + weight x sum over samples (expected slope x dy^T x).

   dy (rows, out), x (rows, in): rows of sample p end before ends[p], its gates are bits[p].
   `packed`: room for both in panels, rows x (out upwards + in upwards). */
void collect_products(float *total, const float *dy, const float *x, float *packed, const float *weights,
                      const float *logits, const Bits *bits, const Size *ends, Size parts, Size out, Size in, int anew,
                      float base, int threads) {
    Size rows = parts ? ends[parts - 1] : 0, tall = (out + BACKWARD - 1) / BACKWARD, blocks = (in + WIDE - 1) / WIDE;
    Size pieces = least(blocks, (4 * threads + tall - 1) / tall);
    float *dy_panels = packed, *x_panels = packed + rows * tall * BACKWARD;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
        for (Size p = 0; p < tall; p++)
            for (Size r = 0; r < rows; r++)
                for (Size j = 0; j < BACKWARD; j++)
                    dy_panels[(p * rows + r) * BACKWARD + j] =
                        p * BACKWARD + j < out ? dy[r * out + p * BACKWARD + j] : 0.0f;
#pragma omp for schedule(static)
        for (Size b = 0; b < blocks; b++)
            for (Size r = 0; r < rows; r++) {
                float *to = x_panels + (b * rows + r) * WIDE;
                Size count = least(WIDE, in - b * WIDE);
                memcpy(to, x + r * in + b * WIDE, sizeof(float) * count);
                memset(to + count, 0, sizeof(float) * (WIDE - count));
            }
#pragma omp for schedule(static) collapse(2)
        for (Size p = 0; p < tall; p++)
            for (Size piece = 0; piece < pieces; piece++) {
                float on[BACKWARD * WIDE] __attribute__((aligned(64))) = {0};
                float off[BACKWARD * WIDE] __attribute__((aligned(64))) = {0};
                float sums[BACKWARD * WIDE] __attribute__((aligned(64)));
                float all[BACKWARD * WIDE] __attribute__((aligned(64)));
                Size top = p * BACKWARD, height = least(BACKWARD, out - top);
                for (Size b = blocks * piece / pieces; b < blocks * (piece + 1) / pieces; b++) {
                    Size first = b * WIDE, count = least(WIDE, in - first);
                    for (Size j = 0; j < height; j++) {
                        Size at = (top + j) * in + first;
                        for (Size k = 0; k < count; k += VL) {
                            Floats opened, shut;
                            expected_slopes(load_some(logits + at + k, count - k), &opened, &shut);
                            store(on + j * WIDE + k, opened);
                            store(off + j * WIDE + k, shut);
                        }
                    }
                    memset(all, 0, sizeof all);
                    Size ahead = b + 1 < blocks ? top * in + first + WIDE : (top + BACKWARD) * in;
                    const float *next[3] = {weights + ahead, logits + ahead, total + ahead};
                    for (Size s = 0, start = 0; s < parts; start = ends[s], s++) {
                        gradient_tile(sums, dy_panels + (p * rows + start) * BACKWARD, x_panels + (b * rows + start) * WIDE,
                                      ends[s] - start, start, next, in);
                        for (Size j = 0; j < height; j++)
                            for (Size k = 0; k < count; k += VL) {
                                Size at = j * WIDE + k;
                                Floats slope = where(is_on(bits[s], (top + j) * in + first + k), load(on + at), load(off + at));
                                store(all + at, load(all + at) + load(sums + at) * slope);
                            }
                    }
                    for (Size j = 0; j < height; j++) {
                        const float *weight = weights + (top + j) * in + first;
                        float *to = total + (top + j) * in + first;
                        for (Size k = 0; k < count; k += VL) {
                            Floats before = anew ? (Floats){0} + base : load_some(to + k, count - k);
                            Floats more = load(all + j * WIDE + k) * load_some(weight + k, count - k);
                            store_some(to + k, before + more, count - k);
                        }
                    }
                }
            }
    }
}

/* The steps of an LSTM layer, gates in torch's order: input, forget, cell, output; `size` cells, a multiple of VL.

   gates (steps, rows, 4 size): in: the inputs' part with biases; out: the gates' values.
   hidden, cells (steps + 1, rows, size): the first is given. product (rows, 4 size), turned: room. */
void lstm_forward(float *gates, float *hidden, float *cells, float *product, float *turned, const float *weights,
                  Bits bits, Size steps, Size rows, Size size, int threads) {
    for (Size t = 0; t < steps; t++) {
        float *now = gates + t * rows * 4 * size, *h = hidden + t * rows * size, *c = cells + t * rows * size;
        forward(product, h, turned, weights, bits, NULL, rows, 4 * size, size, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (Size r = 0; r < rows; r++)
            for (Size k = 0; k < size; k += VL) {
                Size at = r * 4 * size + k, to = (rows + r) * size + k;
                Floats in = sigmoid(load(now + at) + load(product + at));
                Floats forget = sigmoid(load(now + at + size) + load(product + at + size));
                Floats new = hyperbolic(load(now + at + 2 * size) + load(product + at + 2 * size));
                Floats out = sigmoid(load(now + at + 3 * size) + load(product + at + 3 * size));
                Floats cell = forget * load(c + r * size + k) + in * new;
                store(now + at, in), store(now + at + size, forget);
                store(now + at + 2 * size, new), store(now + at + 3 * size, out);
                store(c + to, cell), store(h + to, out * hyperbolic(cell));
            }
    }
}

/* And back. slopes (steps, rows, 4 size): out: gradients before the gates' nonlinearities. dh (rows, size), dc: in:
   gradients of the last state; out: of the first. outer (steps, rows, size): gradients of the hidden states. */
void lstm_backward(float *slopes, const float *gates, const float *cells, const float *outer, float *dh, float *dc,
                   const float *weights, Bits bits, Size steps, Size rows, Size size, int threads) {
    for (Size t = steps - 1; t >= 0; t--) {
        const float *now = gates + t * rows * 4 * size, *c = cells + t * rows * size;
        float *slope = slopes + t * rows * 4 * size;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (Size r = 0; r < rows; r++)
            for (Size k = 0; k < size; k += VL) {
                Size at = r * 4 * size + k, own = r * size + k;
                Floats in = load(now + at), forget = load(now + at + size);
                Floats new = load(now + at + 2 * size), out = load(now + at + 3 * size);
                Floats bent = hyperbolic(load(c + rows * size + own));
                Floats above = load(dh + own) + load(outer + t * rows * size + own);
                Floats cell = load(dc + own) + above * out * (1.0f - bent * bent);
                store(slope + at, cell * new * in * (1.0f - in));
                store(slope + at + size, cell * load(c + own) * forget * (1.0f - forget));
                store(slope + at + 2 * size, cell * in * (1.0f - new * new));
                store(slope + at + 3 * size, above * bent * out * (1.0f - out));
                store(dc + own, cell * forget);
            }
        backward(dh, slope, weights, bits, rows, 4 * size, size, threads);
    }
}
