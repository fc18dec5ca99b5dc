/* What torch computes by many passes over memory, in one; compiled by caspr_spark/native.py, called by fused_block.py,
   forgetting.py, losses.py, norm.py, dropout.py, softplus.py, embedding.py and values.py. All arrays are contiguous floats unless it is said. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif

enum { MOST_K = 4 };

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int16_t shorts __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef float quads __attribute__((vector_size(16), aligned(4), may_alias));

/* K is a constant wherever these are called, so that the loops over it vanish. */
#define INLINE static inline __attribute__((always_inline))

/* A vector that is in a register from here on: a compiler may read it from memory again for every use of it. */
#ifdef __AVX__
#define HELD(x) __asm__("" : "+v"(x))
#else
#define HELD(x)
#endif

INLINE floats all(float x) { return x - (floats){0}; }

INLINE floats where(ints is_so, floats yes, floats no) {
    return (floats)((is_so & (ints)yes) | (~is_so & (ints)no));
}

INLINE floats larger(floats one, floats other) { return where(one > other, one, other); }

INLINE float sum_of(floats x) {
    const quads *parts = (const quads *)&x;
    quads sum = parts[0] + parts[1];
#if LANES == 16
    sum += parts[2] + parts[3];
#endif
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

INLINE float largest_of(floats x) {
    float largest = x[0];
    for (int i = 1; i < LANES; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* 2^x of x <= 0 to the last digit but one; 0 below the smallest number that is not denormal, NaN of NaN. Cephes' polynomial. */
INLINE floats exp2_of(floats x) {
    const floats rounding = all(12582912.0f); /* 1.5 * 2^23: what is added to it is rounded to an integer */
    ints is_any = ~(x <= -126.0f);
    x = where(is_any, x, all(-126.0f));
    floats rounded = x + rounding, r = x - (rounded - rounding);
    floats p = all(1.535336188e-4f);
    p = p * r + 1.339887440e-3f;
    p = p * r + 9.618437358e-3f;
    p = p * r + 5.550332471e-2f;
    p = p * r + 2.402264791e-1f;
    p = p * r + 6.931472029e-1f;
    p = p * r + 1.0f;
    return (floats)((ints)(p * (floats)(((ints)rounded << 23) + 0x3f800000)) & is_any);
}

static const float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
#if LANES == 16
static const floats LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#else
static const floats LANE = {0, 1, 2, 3, 4, 5, 6, 7};
#endif

/* Zeros, at the start of a line of the cache, so that no vector lies across two; NULL where memory is short. */
static void *room(size_t size)
{
    void *found = aligned_alloc(64, size / 64 * 64 + 64);
    if (found) memset(found, 0, size);
    return found;
}

/* Attention of heads of 1 to 4 numbers: softmax(query key' / sqrt(K)) value, and its gradient.

   query, out             [B, T, H * K]
   key_value              [B, U, 2 * H * K]: the keys of all heads, then their values
   is_seen                [B, U] bytes, 0 where nobody attends to; NULL: all are attended to
   is_causal              whether nobody attends to a later one (T is U then)
   largest, share         [B, H, T]: of the scores of a row, their maximum, and 1 / the sum of 2^(score - maximum);
                          a score is query key' / sqrt(K) log2(e)

   Nothing of size T * U is kept: the gradient computes the weights anew. A row that may attend to nothing gives NaN.
   Forward, a vector of the processor holds LANES rows; backward, LANES of those that are attended to. */

/* One head of one customer. `row`: floats from one event to the next in query and out, `seen_row` in key and value. */
INLINE void head_forward(
    const int K, int T, int U, int row, int seen_row, const float *query, const float *key, const float *value,
    const float *blocked, int is_causal, float *out, float *largest, float *share, floats *scores)
{
    const float scale = LOG2_E / sqrtf(K);
    for (int t = 0; t < T; t += LANES) {
        int rows = T - t < LANES ? T - t : LANES, end = is_causal ? t + rows : U;
        floats asked[MOST_K], mixed[MOST_K], most = all(-INFINITY), total = all(0);
        for (int k = 0; k < K; k++) {
            asked[k] = mixed[k] = all(0);
            for (int i = 0; i < rows; i++) asked[k][i] = query[(t + i) * row + k] * scale;
        }
        for (int u = 0; u < end; u++) {
            floats score = all(blocked[u]);
            for (int k = 0; k < K; k++) score += asked[k] * key[u * seen_row + k];
            if (is_causal && u > t) score = where(LANE < (float)(u - t), all(-INFINITY), score);
            scores[u] = score;
            most = larger(score, most);
        }
        for (int u = 0; u < end; u++) {
            floats weight = exp2_of(scores[u] - most);
            total += weight;
            for (int k = 0; k < K; k++) mixed[k] += weight * value[u * seen_row + k];
        }
        total = 1 / total;
        for (int i = 0; i < rows; i++) {
            largest[t + i] = most[i];
            share[t + i] = total[i];
        }
        for (int k = 0; k < K; k++) {
            mixed[k] *= total;
            for (int i = 0; i < rows; i++) out[(t + i) * row + k] = mixed[k][i];
        }
    }
}

/* `keys`, `values`, `of_keys`, `of_values`: room for K rows of `places`, U or more floats each. */
INLINE void head_backward(
    const int K, int T, int U, int row, int seen_row, const float *query, const float *key, const float *value,
    const float *blocked, int is_causal, const float *out, const float *largest, const float *share,
    const float *of_out, float *of_query, float *of_key, float *of_value,
    int places, float *keys, float *values, float *of_keys, float *of_values)
{
    const float scale = LOG2_E / sqrtf(K);
    memset(of_keys, 0, sizeof(float) * K * places);
    memset(of_values, 0, sizeof(float) * K * places);
    for (int k = 0; k < K; k++) {
        for (int u = 0; u < U; u++) {
            keys[k * places + u] = key[u * seen_row + k];
            values[k * places + u] = value[u * seen_row + k];
        }
        for (int u = U; u < places; u++) keys[k * places + u] = values[k * places + u] = 0;
    }
    for (int t = 0; t < T; t++) {
        int end = is_causal ? t + 1 : U;
        float mean = 0;
        floats asked[MOST_K], wanted[MOST_K], gained[MOST_K];
        for (int k = 0; k < K; k++) {
            asked[k] = all(query[t * row + k] * scale);
            wanted[k] = all(of_out[t * row + k]);
            gained[k] = all(0);
            mean += out[t * row + k] * of_out[t * row + k];
        }
        for (int u = 0; u < end; u += LANES) {
            floats score = *(const floats *)(blocked + u), gain = all(-mean);
            for (int k = 0; k < K; k++) {
                score += asked[k] * *(const floats *)(keys + k * places + u);
                gain += wanted[k] * *(const floats *)(values + k * places + u);
            }
            if (is_causal) score = where(LANE > (float)(t - u), all(-INFINITY), score);
            floats weight = exp2_of(score - largest[t]) * share[t];
            gain *= weight;
            for (int k = 0; k < K; k++) {
                gained[k] += gain * *(const floats *)(keys + k * places + u);
                *(floats *)(of_keys + k * places + u) += gain * asked[k];
                *(floats *)(of_values + k * places + u) += weight * wanted[k];
            }
        }
        for (int k = 0; k < K; k++) of_query[t * row + k] = sum_of(gained[k]) * (scale * LN_2);
    }
    for (int k = 0; k < K; k++) {
        for (int u = 0; u < U; u++) {
            of_key[u * seen_row + k] = of_keys[k * places + u] * LN_2;
            of_value[u * seen_row + k] = of_values[k * places + u];
        }
    }
}

/* 0 where it may be seen, else what no weight is left of; the places behind U are not seen. */
static void blocked_of(const uint8_t *is_seen, int U, int places, float *blocked)
{
    for (int u = 0; u < places; u++) blocked[u] = u < U && (!is_seen || is_seen[u]) ? 0 : -INFINITY;
}

static int padded(int size) { return (size + LANES - 1) / LANES * LANES; }

#define FOR_K(call) switch (K) { case 1: call(1); break; case 2: call(2); break; case 3: call(3); break; case 4: call(4); }

/* These, and all functions that are called from outside, return 0, 1 where memory is short, or 2 where an id is none of
   the values. */
static int attention_forward(
    int64_t B, int64_t T, int64_t U, int64_t H, int64_t K, const float *query, const float *key_value,
    const uint8_t *is_seen, int64_t is_causal,
    float *out, float *largest, float *share)
{
    const int row = H * K, seen_row = 2 * row, places = padded(U);
    floats *scores = room(sizeof(floats) * U + sizeof(float) * places);
    if (!scores) return 1;
    float *blocked = (float *)(scores + U);
    for (int64_t b = 0; b < B; b++) {
        blocked_of(is_seen ? is_seen + b * U : NULL, U, places, blocked);
        for (int64_t h = 0; h < H; h++) {
            int64_t at = b * T * row + h * K, seen_at = b * U * seen_row + h * K, of_row = (b * H + h) * T;
#define FORWARD(K) head_forward(K, T, U, row, seen_row, query + at, key_value + seen_at, key_value + seen_at + row, \
    blocked, is_causal, out + at, largest + of_row, share + of_row, scores)
            FOR_K(FORWARD)
        }
    }
    free(scores);
    return 0;
}

static int attention_backward(
    int64_t B, int64_t T, int64_t U, int64_t H, int64_t K, const float *query, const float *key_value,
    const uint8_t *is_seen, int64_t is_causal,
    const float *out, const float *largest, const float *share, const float *of_out, float *of_query, float *of_key_value)
{
    const int row = H * K, seen_row = 2 * row, places = padded(U);
    float *keys = room(sizeof(float) * (4 * K + 1) * places);
    if (!keys) return 1;
    float *values = keys + K * places, *of_keys = values + K * places, *of_values = of_keys + K * places;
    float *blocked = of_values + K * places;
    for (int64_t b = 0; b < B; b++) {
        blocked_of(is_seen ? is_seen + b * U : NULL, U, places, blocked);
        for (int64_t h = 0; h < H; h++) {
            int64_t at = b * T * row + h * K, seen_at = b * U * seen_row + h * K, of_row = (b * H + h) * T;
#define BACKWARD(K) head_backward(K, T, U, row, seen_row, query + at, key_value + seen_at, key_value + seen_at + row, \
    blocked, is_causal, out + at, largest + of_row, share + of_row, of_out + at, \
    of_query + at, of_key_value + seen_at, of_key_value + seen_at + row, places, keys, values, of_keys, of_values)
            FOR_K(BACKWARD)
        }
    }
    free(keys);
    return 0;
}

/* Attention that forgets, of heads of 8, 16, 24 or 32 numbers, and its gradient: an event attends to itself and to those
   before it of strictly earlier times. A score is (query key' / sqrt(K) - slope log(1 + days between)) log2(e).

   query, out             [L, H * K]: the events of all B customers, one behind the other
   key_value              [L, 2 * H * K], as above
   times                  [L] doubles, microseconds
   starts                 [B] int64: the first event of each customer
   slopes                 [H], above 0
   longest                days; a longer time is as this one
   largest, share         [H * L], as above: of a customer with T events [H, T]

   Nothing of size T * T is kept. PARTS of T are computed at once, with no more of the others than they may see. */

enum { PARTS = 8, TILE = 32, MOST_LARGE_K = 32 };

/* Floats of a head of K numbers in arrays of our own: whole vectors, the rest are zeros. */
#define VECTORS(K) ((K + LANES - 1) / LANES)
#define ROOM(K) (VECTORS(K) * LANES)

/* log2(1 + x) of x >= 0 */
INLINE floats log2_1p_of(floats x)
{
    ints bits = (ints)(x + 1.0f), exponent = (bits - 0x3f3504f3) >> 23; /* the rest lies around 1, from its root of a half on */
    floats rest = (floats)(bits - (exponent << 23)), z = (rest - 1.0f) / (rest + 1.0f), zz = z * z;
    floats p = all(1.0f / 9);
    p = p * zz + 1.0f / 7;
    p = p * zz + 1.0f / 5;
    p = p * zz + 1.0f / 3;
    p = p * zz + 1.0f;
    return __builtin_convertvector(exponent, floats) + 2 * LOG2_E * z * p;
}

/* [rows, places]: log2(1 + days) from each event of so many from `first` on to those until the last of them; infinity to
   those that it does not attend to. `times`: [places]. */
static void forgotten_of(int first, int rows, int places, const double *times, float longest, float *forgotten)
{
    const int end = padded(first + rows);
    for (int t = first; t < first + rows; t++, forgotten += places) {
        for (int u = 0; u < end; u++) forgotten[u] = (times[t] - times[u]) * (1 / 86400e6);
        for (int u = 0; u < end; u += LANES) {
            floats days = *(floats *)(forgotten + u);
            floats lost = log2_1p_of(where(days < longest, larger(days, all(0)), all(longest)));
            *(floats *)(forgotten + u) = where((days > 0.0f) & (LANE < (float)(t - u)), lost, all(INFINITY));
        }
        forgotten[t] = 0;
    }
}

/* [PARTS, places]: rows [PARTS, ROOM] times columns [K, places], of the first `end` places, a multiple of LANES. */
INLINE void products(const int K, int places, int end, const float *rows, const float *columns, float *out)
{
    for (int u = 0; u < end; u += LANES) {
        floats sums[PARTS];
        for (int i = 0; i < PARTS; i++) sums[i] = all(0);
        for (int k = 0; k < K; k++) {
            floats column = *(const floats *)(columns + k * places + u);
            HELD(column);
            for (int i = 0; i < PARTS; i++) sums[i] += rows[i * ROOM(K) + k] * column;
        }
        for (int i = 0; i < PARTS; i++) *(floats *)(out + i * places + u) = sums[i];
    }
}

/* [PARTS, ROOM]: weights [PARTS, places] times values [places, ROOM], of the first `end` places. */
INLINE void weighted(const int K, int places, int end, const float *weights, const float *values, float *out)
{
    floats sums[PARTS][VECTORS(MOST_LARGE_K)];
    for (int i = 0; i < PARTS; i++) {
        for (int j = 0; j < VECTORS(K); j++) sums[i][j] = all(0);
    }
    for (int u = 0; u < end; u++) {
        for (int j = 0; j < VECTORS(K); j++) {
            floats value = *(const floats *)(values + u * ROOM(K) + j * LANES);
            HELD(value);
            for (int i = 0; i < PARTS; i++) sums[i][j] += weights[i * places + u] * value;
        }
    }
    for (int i = 0; i < PARTS; i++) {
        for (int j = 0; j < VECTORS(K); j++) *(floats *)(out + i * ROOM(K) + j * LANES) = sums[i][j];
    }
}

/* out [places, ROOM] += weights' [places, PARTS] times rows [PARTS, ROOM], of the first `end` places. */
INLINE void spread(const int K, int places, int end, const float *weights, const float *rows, float *out)
{
    floats given[PARTS][VECTORS(MOST_LARGE_K)];
    for (int i = 0; i < PARTS; i++) {
        for (int j = 0; j < VECTORS(K); j++) given[i][j] = *(const floats *)(rows + i * ROOM(K) + j * LANES);
    }
    for (int u = 0; u < end; u++) {
        for (int j = 0; j < VECTORS(K); j++) {
            floats sum = *(floats *)(out + u * ROOM(K) + j * LANES);
            for (int i = 0; i < PARTS; i++) sum += weights[i * places + u] * given[i][j];
            *(floats *)(out + u * ROOM(K) + j * LANES) = sum;
        }
    }
}

/* The K numbers of one head of some events -> side by side, [rows, ROOM] times `scale`; zeros for those up to `whole` rows. */
INLINE void gather(const int K, int rows, int whole, int row, const float *from, float scale, float *to)
{
    for (int t = 0; t < rows; t++) {
        for (int k = 0; k < K; k++) to[t * ROOM(K) + k] = from[(int64_t)t * row + k] * scale;
        for (int k = K; k < ROOM(K); k++) to[t * ROOM(K) + k] = 0;
    }
    memset(to + rows * ROOM(K), 0, sizeof(float) * ROOM(K) * (whole - rows));
}

/* [places, ROOM] -> [K, places] */
INLINE void turned(const int K, int places, const float *from, float *to)
{
    for (int u = 0; u < places; u++) {
        for (int k = 0; k < K; k++) to[k * places + u] = from[u * ROOM(K) + k];
    }
}

/* The scores [PARTS, places], until `end`, of the first `here` of PARTS queries, which are times 1 / sqrt(K) log2(e). */
INLINE void scores_of(
    const int K, int here, int places, int end, const float *queries, const float *keys, const float *forgotten, float slope,
    float *scores)
{
    products(K, places, end, queries, keys, scores);
    for (int i = 0; i < here; i++) {
        for (int u = 0; u < end; u += LANES) {
            *(floats *)(scores + i * places + u) -= slope * *(const floats *)(forgotten + i * places + u);
        }
    }
}

/* `keys` [K, places] and `values` [places, ROOM] of one head; the others are of `rows` events, `first` and those behind it. */
INLINE void some_forward(
    const int K, int first, int rows, int places, int row, const float *query, const float *keys, const float *values,
    const float *forgotten, float slope, float *out, float *largest, float *share, float *scores)
{
    float queries[PARTS * MOST_LARGE_K], mixed[PARTS * MOST_LARGE_K];
    for (int t = 0; t < rows; t += PARTS) {
        int here = rows - t < PARTS ? rows - t : PARTS, end = padded(first + t + here);
        gather(K, here, PARTS, row, query + t * row, LOG2_E / sqrtf(K), queries);
        scores_of(K, here, places, end, queries, keys, forgotten + t * places, slope, scores);
        for (int i = 0; i < here; i++) {
            float *score = scores + i * places;
            floats most = all(-INFINITY), total = all(0);
            for (int u = 0; u < end; u += LANES) most = larger(*(floats *)(score + u), most);
            largest[t + i] = largest_of(most);
            for (int u = 0; u < end; u += LANES) {
                floats weight = exp2_of(*(floats *)(score + u) - largest[t + i]);
                total += weight;
                *(floats *)(score + u) = weight;
            }
            share[t + i] = 1 / sum_of(total);
        }
        weighted(K, places, end, scores, values, mixed);
        for (int i = 0; i < here; i++) {
            for (int k = 0; k < K; k++) out[(t + i) * row + k] = mixed[i * ROOM(K) + k] * share[t + i];
        }
    }
}

INLINE void some_backward(
    const int K, int first, int rows, int places, int row, const float *query, const float *key_rows, const float *keys,
    const float *values, const float *forgotten, float slope, const float *out, const float *largest, const float *share,
    const float *of_out, float *of_query, float *of_keys, float *of_values, float *weights, float *gains)
{
    float queries[PARTS * MOST_LARGE_K], wanted[PARTS * MOST_LARGE_K], asked[PARTS * MOST_LARGE_K];
    const float scale = 1 / sqrtf(K);
    for (int t = 0; t < rows; t += PARTS) {
        int here = rows - t < PARTS ? rows - t : PARTS, end = padded(first + t + here);
        gather(K, here, PARTS, row, query + t * row, LOG2_E * scale, queries);
        gather(K, here, PARTS, row, of_out + t * row, 1, wanted);
        scores_of(K, here, places, end, queries, keys, forgotten + t * places, slope, weights);
        products(K, places, end, wanted, values, gains);
        for (int i = 0; i < PARTS; i++) {
            float *weight = weights + i * places, *gain = gains + i * places, mean = 0;
            if (i >= here) {
                memset(weight, 0, sizeof(float) * end);
                memset(gain, 0, sizeof(float) * end);
                continue;
            }
            for (int k = 0; k < K; k++) mean += out[(t + i) * row + k] * wanted[i * ROOM(K) + k];
            for (int u = 0; u < end; u += LANES) {
                floats found = exp2_of(*(floats *)(weight + u) - largest[t + i]) * share[t + i];
                *(floats *)(weight + u) = found;
                *(floats *)(gain + u) = found * (*(floats *)(gain + u) - mean);
            }
        }
        weighted(K, places, end, gains, key_rows, asked);
        for (int i = 0; i < here; i++) {
            for (int k = 0; k < K; k++) of_query[(t + i) * row + k] = asked[i * ROOM(K) + k] * scale;
        }
        spread(K, places, end, gains, queries, of_keys);
        spread(K, places, end, weights, wanted, of_values);
    }
}

static int events_of(int64_t b, int64_t L, int64_t B, const int64_t *starts)
{
    return (b + 1 < B ? starts[b + 1] : L) - starts[b];
}

static int most_of(int64_t L, int64_t B, const int64_t *starts)
{
    int most = 0;
    for (int64_t b = 0; b < B; b++) most = events_of(b, L, B, starts) > most ? events_of(b, L, B, starts) : most;
    return most;
}

INLINE int forgetting_forward_of(
    const int K, int64_t L, int64_t B, int H, const float *query, const float *key_value, const double *times,
    const int64_t *starts, const float *slopes, float longest, float *out, float *largest, float *share)
{
    const int row = H * K, most = padded(most_of(L, B, starts));
    const int of_all = H * ROOM(K) * most;
    double *time = room(most * (sizeof(double) + sizeof(float) * ((2 * H + 1) * ROOM(K) + TILE + PARTS)));
    if (!time) return 1;
    float *keys = (float *)(time + most), *values = keys + of_all, *packed = values + of_all;
    float *forgotten = packed + ROOM(K) * most, *scores = forgotten + TILE * most;
    for (int64_t b = 0; b < B; b++) {
        const int T = events_of(b, L, B, starts), places = padded(T), of_head = ROOM(K) * places;
        memcpy(time, times, sizeof(double) * T);
        for (int h = 0; h < H; h++) {
            gather(K, T, places, 2 * row, key_value + h * K, 1, packed);
            turned(K, places, packed, keys + h * of_head);
            gather(K, T, places, 2 * row, key_value + row + h * K, 1, values + h * of_head);
        }
        for (int first = 0; first < T; first += TILE) {
            int rows = T - first < TILE ? T - first : TILE;
            forgotten_of(first, rows, places, time, longest, forgotten);
            for (int h = 0; h < H; h++) {
                int at = first * row + h * K, of_row = h * T + first;
                some_forward(K, first, rows, places, row, query + at, keys + h * of_head, values + h * of_head,
                    forgotten, slopes[h], out + at, largest + of_row, share + of_row, scores);
            }
        }
        query += T * row, key_value += 2 * T * row, times += T, out += T * row, largest += H * T, share += H * T;
    }
    free(time);
    return 0;
}

INLINE int forgetting_backward_of(
    const int K, int64_t L, int64_t B, int H, const float *query, const float *key_value, const double *times,
    const int64_t *starts, const float *slopes, float longest, const float *out, const float *largest, const float *share,
    const float *of_out, float *of_query, float *of_key_value)
{
    const int row = H * K, most = padded(most_of(L, B, starts)), of_all = H * ROOM(K) * most;
    double *time = room(most * (sizeof(double) + sizeof(float) * ((5 * H + 1) * ROOM(K) + TILE + 2 * PARTS)));
    if (!time) return 1;
    float *key_rows = (float *)(time + most), *keys = key_rows + of_all, *values = keys + of_all;
    float *of_keys = values + of_all, *of_values = of_keys + of_all, *packed = of_values + of_all;
    float *forgotten = packed + ROOM(K) * most, *weights = forgotten + TILE * most, *gains = weights + PARTS * most;
    for (int64_t b = 0; b < B; b++) {
        const int T = events_of(b, L, B, starts), places = padded(T), of_head = ROOM(K) * places;
        memcpy(time, times, sizeof(double) * T);
        memset(of_keys, 0, sizeof(float) * H * of_head);
        memset(of_values, 0, sizeof(float) * H * of_head);
        for (int h = 0; h < H; h++) {
            gather(K, T, places, 2 * row, key_value + h * K, 1, key_rows + h * of_head);
            turned(K, places, key_rows + h * of_head, keys + h * of_head);
            gather(K, T, places, 2 * row, key_value + row + h * K, 1, packed);
            turned(K, places, packed, values + h * of_head);
        }
        for (int first = 0; first < T; first += TILE) {
            int rows = T - first < TILE ? T - first : TILE;
            forgotten_of(first, rows, places, time, longest, forgotten);
            for (int h = 0; h < H; h++) {
                int at = first * row + h * K, of_row = h * T + first, of = h * of_head;
                some_backward(K, first, rows, places, row, query + at, key_rows + of, keys + of, values + of,
                    forgotten, slopes[h], out + at, largest + of_row, share + of_row,
                    of_out + at, of_query + at, of_keys + of, of_values + of, weights, gains);
            }
        }
        for (int h = 0; h < H; h++) {
            for (int t = 0; t < T; t++) {
                float *of_key = of_key_value + 2 * t * row + h * K;
                for (int k = 0; k < K; k++) {
                    of_key[k] = of_keys[h * of_head + t * ROOM(K) + k] * LN_2;
                    of_key[row + k] = of_values[h * of_head + t * ROOM(K) + k];
                }
            }
        }
        query += T * row, key_value += 2 * T * row, times += T, out += T * row, largest += H * T, share += H * T;
        of_out += T * row, of_query += T * row, of_key_value += 2 * T * row;
    }
    free(time);
    return 0;
}

#define OF_LARGE_K(call) switch (K) { case 8: return call(8); case 16: return call(16); case 24: return call(24); default: return call(32); }

int forgetting_forward(
    int64_t L, int64_t B, int64_t H, int64_t K, const float *query, const float *key_value, const double *times,
    const int64_t *starts, const float *slopes, float longest, float *out, float *largest, float *share)
{
#define FORGETTING_FORWARD(K) forgetting_forward_of(K, L, B, H, query, key_value, times, starts, slopes, longest, out, largest, share)
    OF_LARGE_K(FORGETTING_FORWARD)
}

int forgetting_backward(
    int64_t L, int64_t B, int64_t H, int64_t K, const float *query, const float *key_value, const double *times,
    const int64_t *starts, const float *slopes, float longest, const float *out, const float *largest, const float *share,
    const float *of_out, float *of_query, float *of_key_value)
{
#define FORGETTING_BACKWARD(K) forgetting_backward_of(K, L, B, H, query, key_value, times, starts, slopes, longest, out, largest, share, \
    of_out, of_query, of_key_value)
    OF_LARGE_K(FORGETTING_BACKWARD)
}

/* The binary cross entropy of a logit x, log(1 + exp(x)) - x where it is so, summed over the rows that count.

   logits       [R, V] without the bias; if `is_learned`, the gradient of the sum by each logit takes their place
   bias         [V]
   is_so        [R, V] bytes, 0 or 1, `row` bytes from one row to the next
   is_used      [R] bytes: 0 where the whole row does not count
   is_left_out  [R, V] bytes, `row` bytes from one to the next: not 0 where a value does not count; NULL: all do
   losses       [V], what is added to
   of_bias      [V], the gradient of the sum by the bias, what is added to */

/* log(1 + x) of 0 <= x <= 1, as 2 atanh(x / (2 + x)) */
INLINE floats log1p_of(floats x) {
    floats z = x / (x + 2.0f), zz = z * z;
    floats p = all(1.0f / 13);
    p = p * zz + 1.0f / 11;
    p = p * zz + 1.0f / 9;
    p = p * zz + 1.0f / 7;
    p = p * zz + 1.0f / 5;
    p = p * zz + 1.0f / 3;
    p = p * zz + 1.0f;
    return 2.0f * z * p;
}

INLINE void losses_of(floats logit, ints is_so, ints counts, floats *losses, floats *gradient) {
    floats zero = all(0), one = all(1);
    floats small = exp2_of(-LOG2_E * larger(logit, -logit)), so = __builtin_convertvector(is_so, floats);
    floats likely = one / (one + small);
    floats loss = (larger(logit, zero) - logit * so) + log1p_of(small);
    *losses += where(counts, loss, zero);
    *gradient = where(counts, where(logit < 0.0f, small * likely, likely) - so, zero);
}

INLINE void value_losses_of(
    const int is_learned, int64_t R, int64_t V, float *logits, const float *bias, int64_t row, const uint8_t *is_so,
    const uint8_t *is_used, const uint8_t *is_left_out, float *losses, float *of_bias)
{
    const int64_t whole = V / LANES * LANES, rest = V - whole;
    for (int64_t r = 0; r < R; r++, logits += V, is_so += row) {
        const uint8_t *left_out = is_left_out ? is_left_out + r * row : NULL;
        floats gradient;
        if (!is_used[r]) {
            if (is_learned) memset(logits, 0, sizeof(float) * V);
            continue;
        }
        for (int64_t v = 0; v < whole; v += LANES) {
            ints so = __builtin_convertvector(*(const bytes *)(is_so + v), ints), counts = (ints)all(0) == 0;
            if (left_out) counts = __builtin_convertvector(*(const bytes *)(left_out + v), ints) == 0;
            losses_of(*(floats *)(logits + v) + *(const floats *)(bias + v), so, counts, (floats *)(losses + v), &gradient);
            if (is_learned) {
                *(floats *)(logits + v) = gradient;
                *(floats *)(of_bias + v) += gradient;
            }
        }
        if (rest) {
            floats last = all(0), loss = all(0);
            ints so = (ints)all(0), counts = (ints)all(0);
            for (int i = 0; i < rest; i++) {
                last[i] = logits[whole + i] + bias[whole + i];
                so[i] = is_so[whole + i];
                counts[i] = left_out && left_out[whole + i] ? 0 : -1;
            }
            losses_of(last, so, counts, &loss, &gradient);
            for (int i = 0; i < rest; i++) {
                losses[whole + i] += loss[i];
                if (is_learned) of_bias[whole + i] += logits[whole + i] = gradient[i];
            }
        }
    }
}

int value_losses(
    int64_t R, int64_t V, float *logits, const float *bias, int64_t row, const uint8_t *is_so, const uint8_t *is_used,
    const uint8_t *is_left_out, float *losses, float *of_bias, int64_t is_learned)
{
    if (is_learned) value_losses_of(1, R, V, logits, bias, row, is_so, is_used, is_left_out, losses, of_bias);
    else value_losses_of(0, R, V, logits, bias, row, is_so, is_used, is_left_out, losses, of_bias);
    return 0;
}

/* Layer norm of R rows of D floats, D a multiple of LANES: (x - mean) * scale * weight + bias, and its gradient.

   means, scales          [R]: scale is 1 / sqrt(variance + epsilon)
   of_weight, of_bias     [D], what is added to */
int norm_forward(
    int64_t R, int64_t D, const float *rows, const float *weight, const float *bias, float epsilon,
    float *out, float *means, float *scales)
{
    for (int64_t r = 0; r < R; r++, rows += D, out += D) {
        floats total = all(0), squares = all(0);
        for (int64_t d = 0; d < D; d += LANES) total += *(const floats *)(rows + d);
        float mean = sum_of(total) / D;
        for (int64_t d = 0; d < D; d += LANES) {
            floats centred = *(const floats *)(rows + d) - mean;
            squares += centred * centred;
        }
        float scale = 1 / sqrtf(sum_of(squares) / D + epsilon);
        for (int64_t d = 0; d < D; d += LANES) {
            floats normed = (*(const floats *)(rows + d) - mean) * scale;
            *(floats *)(out + d) = normed * *(const floats *)(weight + d) + *(const floats *)(bias + d);
        }
        means[r] = mean;
        scales[r] = scale;
    }
    return 0;
}

int norm_backward(
    int64_t R, int64_t D, const float *rows, const float *weight, const float *means, const float *scales,
    const float *of_out, float *of_rows, float *of_weight, float *of_bias)
{
    for (int64_t r = 0; r < R; r++, rows += D, of_out += D, of_rows += D) {
        floats total = all(0), along = all(0);
        for (int64_t d = 0; d < D; d += LANES) {
            floats normed = (*(const floats *)(rows + d) - means[r]) * scales[r], gradient = *(const floats *)(of_out + d);
            floats weighted = gradient * *(const floats *)(weight + d);
            total += weighted;
            along += weighted * normed;
            *(floats *)(of_weight + d) += gradient * normed;
            *(floats *)(of_bias + d) += gradient;
        }
        float mean = sum_of(total) / D, slope = sum_of(along) / D;
        for (int64_t d = 0; d < D; d += LANES) {
            floats normed = (*(const floats *)(rows + d) - means[r]) * scales[r];
            floats weighted = *(const floats *)(of_out + d) * *(const floats *)(weight + d);
            *(floats *)(of_rows + d) = (weighted - mean - normed * slope) * scales[r];
        }
    }
    return 0;
}

typedef uint64_t longs __attribute__((vector_size(4 * LANES), aligned(8), may_alias));

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15;

INLINE longs splitmix64(longs state)
{
    longs mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
    return mixed ^ (mixed >> 31);
}

/* N numbers, each times `scale` where 16 random bits of its own, read as an integer with a sign, are `least` or more,
   else 0; and `onto` added to it, unless that is NULL. The bits are those of the numbers that the generator splitmix64
   gives one after the other from the state `key` on. */
int dropped(int64_t N, const float *values, const float *onto, int64_t key, int64_t least, float scale, float *out)
{
    enum { DRAWN = LANES / 2 };
    const ints smallest = __builtin_convertvector(all((float)least), ints);
    int16_t bits[2 * LANES] __attribute__((aligned(64)));
    longs state;
    for (int i = 0; i < DRAWN; i++) state[i] = (uint64_t)key + (i + 1) * GOLDEN;
    for (int64_t n = 0; n < N; n += 2 * LANES, state += DRAWN * GOLDEN) {
        *(longs *)bits = splitmix64(state);
        if (N - n < 2 * LANES) {
            for (int i = 0; i < N - n; i++) out[n + i] = (bits[i] >= least ? values[n + i] * scale : 0) + (onto ? onto[n + i] : 0);
            break;
        }
        for (int i = 0; i < 2 * LANES; i += LANES) {
            ints drawn = __builtin_convertvector(*(const shorts *)(bits + i), ints);
            floats kept = where(drawn >= smallest, *(const floats *)(values + n + i) * scale, all(0));
            if (onto) kept += *(const floats *)(onto + n + i);
            *(floats *)(out + n + i) = kept;
        }
    }
    return 0;
}

INLINE void softplus_of(floats x, floats *out, floats *slope)
{
    floats small = exp2_of(-LOG2_E * larger(x, -x)), likely = 1 / (1 + small);
    *out = larger(x, all(0)) + log1p_of(small);
    *slope = where(x < 0.0f, small * likely, likely);
}

/* log(1 + exp(x)) of N numbers, and its derivative, where `slopes` is not NULL. */
int softplus(int64_t N, const float *values, float *out, float *slopes)
{
    const int64_t whole = N / LANES * LANES;
    floats last = all(0), of_last, slope;
    for (int64_t n = 0; n < whole; n += LANES) {
        softplus_of(*(const floats *)(values + n), (floats *)(out + n), slopes ? (floats *)(slopes + n) : &slope);
    }
    memcpy(&last, values + whole, sizeof(float) * (N - whole));
    softplus_of(last, &of_last, &slope);
    memcpy(out + whole, &of_last, sizeof(float) * (N - whole));
    if (slopes) memcpy(slopes + whole, &slope, sizeof(float) * (N - whole));
    return 0;
}

/* For each event the sum of the rows of the values that it holds, over the root of their number; 0 where it holds none.

   ids          [M, X] int64, `ids_row` from one event to the next; 0 is no value
   table        [V, D]
   out          [M, D], `row` floats from one event to the next */
int embedded(
    int64_t M, int64_t X, int64_t V, int64_t D, int64_t ids_row, const int64_t *ids, const float *table, int64_t row, float *out)
{
    for (int64_t m = 0; m < M; m++, ids += ids_row, out += row) {
        int64_t held = 0;
        for (int64_t d = 0; d < D; d++) out[d] = 0;
        for (int64_t x = 0; x < X; x++) {
            if (!ids[x]) continue;
            if ((uint64_t)ids[x] >= (uint64_t)V) return 2;
            const float *added = table + ids[x] * D;
            for (int64_t d = 0; d < D; d++) out[d] += added[d];
            held++;
        }
        if (held < 2) continue;
        const float share = 1 / sqrtf(held);
        for (int64_t d = 0; d < D; d++) out[d] *= share;
    }
    return 0;
}

/* `of_table`: what is added to; `scaled`: room for D floats. */
int embedded_backward(
    int64_t M, int64_t X, int64_t D, int64_t ids_row, const int64_t *ids, int64_t row, const float *of_out, float *scaled,
    float *of_table)
{
    for (int64_t m = 0; m < M; m++, ids += ids_row, of_out += row) {
        int64_t held = 0;
        for (int64_t x = 0; x < X; x++) held += ids[x] != 0;
        if (!held) continue;
        const float share = 1 / sqrtf(held);
        for (int64_t d = 0; d < D; d++) scaled[d] = of_out[d] * share;
        for (int64_t x = 0; x < X; x++) {
            if (!ids[x]) continue;
            float *added = of_table + ids[x] * D;
            for (int64_t d = 0; d < D; d++) added[d] += scaled[d];
        }
    }
    return 0;
}

/* log(1 + x), where x is for each value the summed weights of the events that hold it.

   ids            [B, T, X] int64: id i of column x has place starts[x] + i, but none where i is 0, or sizes[x] or more
   weights        [B, T, J], none below 0
   logs           [B, J, V] */
int log_value_sums(
    int64_t B, int64_t T, int64_t X, int64_t J, int64_t V, const int64_t *ids, const int64_t *starts, const int64_t *sizes,
    const float *weights, float *logs)
{
    const int64_t places = padded(V);
    float *sums = room(sizeof(float) * (V * J + places)), *of_one = sums + V * J;
    if (!sums) return 1;
    for (int64_t b = 0; b < B; b++) {
        if (b) memset(sums, 0, sizeof(float) * V * J);
        for (int64_t t = 0; t < T; t++, weights += J, ids += X) {
            for (int64_t x = 0; x < X; x++) {
                if (ids[x] <= 0 || ids[x] >= sizes[x]) continue;
                float *sum = sums + (starts[x] + ids[x]) * J;
                for (int64_t j = 0; j < J; j++) sum[j] += weights[j];
            }
        }
        for (int64_t j = 0; j < J; j++, logs += V) {
            for (int64_t v = 0; v < V; v++) of_one[v] = sums[v * J + j];
            for (int64_t v = 0; v < places; v += LANES) *(floats *)(of_one + v) = log2_1p_of(*(floats *)(of_one + v)) * LN_2;
            memcpy(logs, of_one, sizeof(float) * V);
        }
    }
    free(sums);
    return 0;
}

/* Whether an event that is asked for holds a value.

   ids, starts, sizes     as above
   asked                  [B, J, T] bytes: 0 where the event is not asked for
   held                   [B, J, V] bytes; 1 where the value is held, what is already there elsewhere */
int values_held(
    int64_t B, int64_t T, int64_t X, int64_t J, int64_t V, const int64_t *ids, const int64_t *starts, const int64_t *sizes,
    const uint8_t *asked, uint8_t *held)
{
    for (int64_t b = 0; b < B; b++, ids += T * X) {
        for (int64_t j = 0; j < J; j++, asked += T, held += V) {
            for (int64_t t = 0; t < T; t++) {
                if (!asked[t]) continue;
                for (int64_t x = 0; x < X; x++) {
                    int64_t id = ids[t * X + x];
                    if (id > 0 && id < sizes[x]) held[starts[x] + id] = 1;
                }
            }
        }
    }
    return 0;
}

/* The cross entropy of one of V values, of M logits each, and its gradient in place of the logits.

   ids          [M] int64: the value that it is; where it is 0 there is none, and no loss
   losses       [M] */
int class_losses(int64_t M, int64_t V, float *logits, const int64_t *ids, float *losses)
{
    const int64_t whole = V / LANES * LANES;
    for (int64_t m = 0; m < M; m++, logits += V) {
        if ((uint64_t)ids[m] >= (uint64_t)V) return 2;
        if (!ids[m]) {
            memset(logits, 0, sizeof(float) * V);
            losses[m] = 0;
            continue;
        }
        floats most = all(-INFINITY), total = all(0), last = all(-INFINITY);
        for (int64_t v = 0; v < whole; v += LANES) most = larger(*(const floats *)(logits + v), most);
        for (int64_t v = whole; v < V; v++) last[v - whole] = logits[v];
        most = larger(last, most);
        float largest = largest_of(most), of_own = logits[ids[m]];
        for (int64_t v = 0; v < whole; v += LANES) {
            floats weight = exp2_of((*(const floats *)(logits + v) - largest) * LOG2_E);
            total += weight;
            *(floats *)(logits + v) = weight;
        }
        last = exp2_of((last - largest) * LOG2_E);
        float sum = sum_of(total) + sum_of(last), share = 1 / sum;
        for (int64_t v = 0; v < whole; v += LANES) *(floats *)(logits + v) *= share;
        for (int64_t v = whole; v < V; v++) logits[v] = last[v - whole] * share;
        logits[ids[m]] -= 1;
        losses[m] = logf(sum) + (largest - of_own);
    }
    return 0;
}

/* The two halves of a transformer block, x + dropout(attention(norm(x))) and x + dropout(feed forward(norm(x))), and their
   gradients. Some rows at a time go through all of a half while a cache holds them. Of what is computed on the way only
   what attention gives is kept, and largest and share; the gradient computes the rest anew.

   D, F                   multiples of LANES
   rows, out              [R, D]
   weights of a layer     [out, in], as torch has them; bias [out]
   least, scale           of dropout, as above; a key for each of them
   of_...                 gradients: of_out [R, D] is given, of_rows is written; those of weights are what is added to */

enum { AT_ONCE = 64 }; /* rows */

/* A part of `product`, of so many rows and vectors, constants. */
INLINE void part_of_product(
    const int rows, const int vectors, int64_t K, const float *left, int64_t left_row, int64_t left_step,
    const float *right, int64_t right_row, const float *onto, int64_t onto_row, float *out, int64_t out_row)
{
    floats sums[8][2], other[2];
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++) sums[i][j] = onto ? *(const floats *)(onto + i * onto_row + j * LANES) : all(0);
    }
    for (int64_t k = 0; k < K; k++) {
        for (int j = 0; j < vectors; j++) {
            other[j] = *(const floats *)(right + k * right_row + j * LANES);
            HELD(other[j]);
        }
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < vectors; j++) sums[i][j] += left[i * left_row + k * left_step] * other[j];
        }
    }
    for (int i = 0; i < rows; i++) {
        for (int j = 0; j < vectors; j++) *(floats *)(out + i * out_row + j * LANES) = sums[i][j];
    }
}

/* out [M, N] = onto [M, N] (NULL: 0) + left [M, K] times right [K, N]; N is a multiple of LANES. `..._row`: floats from one
   row to the next; `left_step`: from one column to the next. */
static void product(
    int64_t M, int64_t N, int64_t K, const float *left, int64_t left_row, int64_t left_step,
    const float *right, int64_t right_row, const float *onto, int64_t onto_row, float *out, int64_t out_row)
{
    enum { WIDE = LANES == 16 ? 8 : 4 };
#define PART(rows, vectors) part_of_product(rows, vectors, K, left + m * left_row, left_row, left_step, right + n, right_row, \
    onto ? onto + m * onto_row + n : NULL, onto_row, out + m * out_row + n, out_row)
    int64_t n = 0, m;
    for (; n + 2 * LANES <= N; n += 2 * LANES) {
        for (m = 0; m + WIDE <= M; m += WIDE) PART(WIDE, 2);
        for (; m + 2 <= M; m += 2) PART(2, 2);
        for (; m < M; m++) PART(1, 2);
    }
    if (n < N) {
        for (m = 0; m + 8 <= M; m += 8) PART(8, 1);
        for (; m + 2 <= M; m += 2) PART(2, 1);
        for (; m < M; m++) PART(1, 1);
    }
}

/* A layer of M rows: rows times weight' + bias. `turned`: weight', [in, out]. */
static void layer(int64_t M, int64_t in, int64_t out, const float *rows, const float *turned, const float *bias, float *found)
{
    product(M, out, in, rows, in, 1, turned, out, bias, 0, found, out);
}

/* Its gradients: of_rows, `onto` (NULL: 0) and what is found, and those that are added to; of_bias may be NULL. */
static void layer_backward(
    int64_t M, int64_t in, int64_t out, const float *rows, const float *weight, const float *of_found,
    const float *onto, float *of_rows, float *of_weight, float *of_bias)
{
    product(out, in, M, of_found, 1, out, rows, in, of_weight, in, of_weight, in);
    product(M, in, out, of_found, out, 1, weight, in, onto, in, of_rows, in);
    for (int64_t n = 0; of_bias && n < out; n += LANES) {
        floats sum = *(floats *)(of_bias + n);
        for (int64_t m = 0; m < M; m++) sum += *(const floats *)(of_found + m * out + n);
        *(floats *)(of_bias + n) = sum;
    }
}

static void turn(int64_t out, int64_t in, const float *weight, float *turned)
{
    for (int64_t i = 0; i < in; i++) {
        for (int64_t o = 0; o < out; o++) turned[i * out + o] = weight[o * in + i];
    }
}

/* Dropout as above of N numbers from number `first`, a multiple of 4, on; all are kept where no bits are below `least`. */
static void dropped_from(
    int64_t first, int64_t N, const float *values, const float *onto, int64_t key, int64_t least, float scale, float *out)
{
    if (least > INT16_MIN) {
        dropped(N, values, onto, (int64_t)((uint64_t)key + first / 4 * GOLDEN), least, scale, out);
        return;
    }
    for (int64_t n = 0; n < N; n++) out[n] = onto ? values[n] + onto[n] : values[n];
}

/* x times the chance that a standard normal number is below x, and its derivative. The chance by Abramowitz and Stegun,
   7.1.26, to 1e-7. */
INLINE floats gelu_of(floats x, floats *slope)
{
    floats density = exp2_of(x * x * (-0.5f * LOG2_E)), t = 1 / (1 + 0.231641888f * larger(x, -x));
    floats p = all(0.5307027145f);
    p = p * t - 0.7265760130f;
    p = p * t + 0.7107068705f;
    p = p * t - 0.1422483680f;
    p = p * t + 0.1274147960f;
    floats beyond = p * t * density, below = where(x < 0.0f, beyond, 1 - beyond);
    *slope = below + x * density * 0.398942280f;
    return x * below;
}

/* Of M rows: their norm, what the first layer makes of it, [M, F], that through GELU and dropout, and GELU's derivative. */
typedef struct { float *normed, *means, *scales, *hidden, *slopes; } Fed;

static void fed_of(
    int64_t first, int64_t M, int64_t D, int64_t F, const float *rows, const float *norm_weight, const float *norm_bias,
    float epsilon, const float *up_turned, const float *up_bias, int64_t key, int64_t least, float scale, const Fed *to)
{
    norm_forward(M, D, rows, norm_weight, norm_bias, epsilon, to->normed, to->means, to->scales);
    layer(M, D, F, to->normed, up_turned, up_bias, to->hidden);
    for (int64_t n = 0; n < M * F; n += LANES) {
        floats slope;
        *(floats *)(to->hidden + n) = gelu_of(*(const floats *)(to->hidden + n), &slope);
        *(floats *)(to->slopes + n) = slope;
    }
    dropped_from(first * F, M * F, to->hidden, NULL, key, least, scale, to->hidden);
}

/* `up` [F, D], `down` [D, F] */
int feed_forward(
    int64_t R, int64_t D, int64_t F, const float *rows, const float *norm_weight, const float *norm_bias, float epsilon,
    const float *up, const float *up_bias, const float *down, const float *down_bias,
    int64_t inner_key, int64_t inner_least, float inner_scale, int64_t key, int64_t least, float scale, float *out)
{
    float *up_turned = room(sizeof(float) * (2 * D * F + AT_ONCE * (2 * D + 2 * F + 2)));
    if (!up_turned) return 1;
    float *down_turned = up_turned + D * F, *normed = down_turned + D * F, *mixed = normed + AT_ONCE * D;
    float *hidden = mixed + AT_ONCE * D, *slopes = hidden + AT_ONCE * F, *means = slopes + AT_ONCE * F;
    const Fed to = {normed, means, means + AT_ONCE, hidden, slopes};
    turn(F, D, up, up_turned);
    turn(D, F, down, down_turned);
    for (int64_t r = 0; r < R; r += AT_ONCE) {
        const int64_t M = R - r < AT_ONCE ? R - r : AT_ONCE;
        fed_of(r, M, D, F, rows + r * D, norm_weight, norm_bias, epsilon, up_turned, up_bias,
            inner_key, inner_least, inner_scale, &to);
        layer(M, F, D, hidden, down_turned, down_bias, mixed);
        dropped_from(r * D, M * D, mixed, rows + r * D, key, least, scale, out + r * D);
    }
    free(up_turned);
    return 0;
}

int feed_forward_backward(
    int64_t R, int64_t D, int64_t F, const float *rows, const float *norm_weight, const float *norm_bias, float epsilon,
    const float *up, const float *up_bias, const float *down,
    int64_t inner_key, int64_t inner_least, float inner_scale, int64_t key, int64_t least, float scale,
    const float *of_out, float *of_rows,
    float *of_norm_weight, float *of_norm_bias, float *of_up, float *of_up_bias, float *of_down, float *of_down_bias)
{
    float *up_turned = room(sizeof(float) * (D * F + AT_ONCE * (3 * D + 3 * F + 2)));
    if (!up_turned) return 1;
    float *normed = up_turned + D * F, *mixed = normed + AT_ONCE * D, *of_normed = mixed + AT_ONCE * D;
    float *hidden = of_normed + AT_ONCE * D, *slopes = hidden + AT_ONCE * F, *of_hidden = slopes + AT_ONCE * F;
    float *means = of_hidden + AT_ONCE * F, *scales = means + AT_ONCE;
    const Fed to = {normed, means, scales, hidden, slopes};
    turn(F, D, up, up_turned);
    for (int64_t r = 0; r < R; r += AT_ONCE, rows += AT_ONCE * D, of_out += AT_ONCE * D, of_rows += AT_ONCE * D) {
        const int64_t M = R - r < AT_ONCE ? R - r : AT_ONCE;
        fed_of(r, M, D, F, rows, norm_weight, norm_bias, epsilon, up_turned, up_bias, inner_key, inner_least, inner_scale, &to);
        dropped_from(r * D, M * D, of_out, NULL, key, least, scale, mixed);
        layer_backward(M, F, D, hidden, down, mixed, NULL, of_hidden, of_down, of_down_bias);
        dropped_from(r * F, M * F, of_hidden, NULL, inner_key, inner_least, inner_scale, of_hidden);
        for (int64_t n = 0; n < M * F; n += LANES) *(floats *)(of_hidden + n) *= *(const floats *)(slopes + n);
        layer_backward(M, D, F, normed, up, of_hidden, NULL, of_normed, of_up, of_up_bias);
        norm_backward(M, D, rows, norm_weight, means, scales, of_normed, of_rows, of_norm_weight, of_norm_bias);
        for (int64_t n = 0; n < M * D; n += LANES) *(floats *)(of_rows + n) += *(const floats *)(of_out + n);
    }
    free(up_turned);
    return 0;
}

/* Attention of small heads, [B, T, D] rows to those of `seen` [B, U, D]; NULL: to the rows themselves, normed. D is H * K.

   query [D, D], key_value [2 * D, D] without a bias, output [D, D]
   mixed                  [B, T, D]: what attention gives before the last layer
   of_each                [2, B, H, T]: largest and share, as above */
int attended(
    int64_t B, int64_t T, int64_t U, int64_t H, int64_t K, const float *rows, const float *seen,
    const float *norm_weight, const float *norm_bias, float epsilon, const float *query, const float *query_bias,
    const float *key_value, const float *output, const float *output_bias, const uint8_t *is_seen, int64_t is_causal,
    int64_t key, int64_t least, float scale, float *out, float *mixed, float *of_each)
{
    const int64_t D = H * K, customers = T < AT_ONCE ? AT_ONCE / T : 1, most = customers * T, most_seen = customers * U;
    float *turned = room(sizeof(float) * (4 * D * D + most * (3 * D + 2) + 2 * most_seen * D));
    if (!turned) return 1;
    float *turned_pair = turned + D * D, *turned_output = turned_pair + 2 * D * D, *normed = turned_output + D * D;
    float *asked = normed + most * D, *added = asked + most * D, *pairs = added + most * D, *means = pairs + 2 * most_seen * D;
    int failed = 0;
    turn(D, D, query, turned);
    turn(2 * D, D, key_value, turned_pair);
    turn(D, D, output, turned_output);
    for (int64_t b = 0; b < B && !failed; b += customers) {
        const int64_t some = B - b < customers ? B - b : customers, M = some * T, at = b * T * D;
        norm_forward(M, D, rows + at, norm_weight, norm_bias, epsilon, normed, means, means + most);
        layer(M, D, D, normed, turned, query_bias, asked);
        product(some * U, 2 * D, D, seen ? seen + b * U * D : normed, D, 1, turned_pair, 2 * D, NULL, 0, pairs, 2 * D);
        failed = attention_forward(some, T, U, H, K, asked, pairs, is_seen ? is_seen + b * U : NULL, is_causal,
            mixed + at, of_each + b * H * T, of_each + (B + b) * H * T);
        layer(M, D, D, mixed + at, turned_output, output_bias, added);
        dropped_from(at, M * D, added, rows + at, key, least, scale, out + at);
    }
    free(turned);
    return failed;
}

/* `of_seen`: written, where `seen` is not NULL. */
int attended_backward(
    int64_t B, int64_t T, int64_t U, int64_t H, int64_t K, const float *rows, const float *seen,
    const float *norm_weight, const float *norm_bias, float epsilon, const float *query, const float *query_bias,
    const float *key_value, const float *output, const uint8_t *is_seen, int64_t is_causal,
    int64_t key, int64_t least, float scale, const float *mixed, const float *of_each, const float *of_out,
    float *of_rows, float *of_seen, float *of_norm_weight, float *of_norm_bias, float *of_query, float *of_query_bias,
    float *of_key_value, float *of_output, float *of_output_bias)
{
    const int64_t D = H * K, customers = T < AT_ONCE ? AT_ONCE / T : 1, most = customers * T, most_seen = customers * U;
    float *turned = room(sizeof(float) * (3 * D * D + most * (6 * D + 2) + 4 * most_seen * D));
    if (!turned) return 1;
    float *turned_pair = turned + D * D, *normed = turned_pair + 2 * D * D, *asked = normed + most * D;
    float *added = asked + most * D, *of_mixed = added + most * D, *of_asked = of_mixed + most * D;
    float *of_normed = of_asked + most * D, *pairs = of_normed + most * D, *of_pairs = pairs + 2 * most_seen * D;
    float *means = of_pairs + 2 * most_seen * D, *scales = means + most;
    int failed = 0;
    turn(D, D, query, turned);
    turn(2 * D, D, key_value, turned_pair);
    for (int64_t b = 0; b < B && !failed; b += customers) {
        const int64_t some = B - b < customers ? B - b : customers, M = some * T, at = b * T * D, seen_at = b * U * D;
        const float *read = seen ? seen + seen_at : normed;
        norm_forward(M, D, rows + at, norm_weight, norm_bias, epsilon, normed, means, scales);
        layer(M, D, D, normed, turned, query_bias, asked);
        product(some * U, 2 * D, D, read, D, 1, turned_pair, 2 * D, NULL, 0, pairs, 2 * D);
        dropped_from(at, M * D, of_out + at, NULL, key, least, scale, added);
        layer_backward(M, D, D, mixed + at, output, added, NULL, of_mixed, of_output, of_output_bias);
        failed = attention_backward(some, T, U, H, K, asked, pairs, is_seen ? is_seen + b * U : NULL, is_causal, mixed + at,
            of_each + b * H * T, of_each + (B + b) * H * T, of_mixed, of_asked, of_pairs);
        layer_backward(M, D, D, normed, query, of_asked, NULL, of_normed, of_query, of_query_bias);
        float *of_read = seen ? of_seen + seen_at : of_normed;
        layer_backward(some * U, D, 2 * D, read, key_value, of_pairs, seen ? NULL : of_normed, of_read, of_key_value, NULL);
        norm_backward(M, D, rows + at, norm_weight, means, scales, of_normed, of_rows + at, of_norm_weight, of_norm_bias);
        for (int64_t n = 0; n < M * D; n += LANES) *(floats *)(of_rows + at + n) += *(const floats *)(of_out + at + n);
    }
    free(turned);
    return failed;
}
