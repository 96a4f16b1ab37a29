// Softmax cross-entropy of logits (N, K) with label smoothing: one warp a row.
//
// Traffic: forward reads the logits and writes four numbers a row; the gradient reads
// the logits again and writes dx: the floor, since the softmax is recomputed from a row's
// maximum and log-sum instead of being stored. The second look at a row hits the cache.
#include "common.cuh"

#define WARPS 4  // rows of a block

__device__ __forceinline__ float warp_sum(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

// The target of a row, or -1 if it is out of range.
__device__ __forceinline__ int target_of(const void* labels, int wide, int row,
                                         int classes) {
    const long long t = wide ? static_cast<const long long*>(labels)[row]
                             : static_cast<const int*>(labels)[row];
    return t >= 0 && t < classes ? (int)t : -1;
}

// Whether (x, at) comes before (y, other) as maximum: NaN first, then size, then place.
__device__ __forceinline__ bool beats(float x, int at, float y, int other) {
    const bool xn = x != x, yn = y != y;
    if (xn != yn) return xn;
    return (xn || x == y) ? at < other : x > y;
}

// Of a row, by its warp: the loss -(1 - eps) ln p[t] - eps mean ln p, whether the first
// maximum is the target, and (maximum, ln sum exp(x - maximum)) for the gradient. NaN for
// a label out of range.
__device__ __forceinline__ void row_loss(const T* at, const void* labels, int wide,
                                         int row, int classes, float eps, float* losses,
                                         int* hits, float* maxima, float* log_sums) {
    const int lane = threadIdx.x;
    float top = -INFINITE;
    int where = classes;  // no place: loses against every one
    for (int k = lane; k < classes; k += 32) {
        const float v = as_float(at[k]);
        if (beats(v, k, top, where)) top = v, where = k;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float v = __shfl_xor_sync(0xffffffffu, top, lanes);
        const int k = __shfl_xor_sync(0xffffffffu, where, lanes);
        if (beats(v, k, top, where)) top = v, where = k;
    }
    float sum = 0.f, shifted = 0.f;
    for (int k = lane; k < classes; k += 32) {
        const float d = as_float(at[k]) - top;
        sum += expf(d);
        shifted += d;
    }
    sum = warp_sum(sum);
    shifted = warp_sum(shifted);
    if (lane) return;
    const float log_sum = logf(sum);
    const int t = target_of(labels, wide, row, classes);
    const float at_target = t < 0 ? NOT_A_NUMBER : as_float(at[t]);
    float loss = -(1.f - eps) * (at_target - top - log_sum);
    if (eps != 0.f) loss -= eps * (shifted / classes - log_sum);
    losses[row] = loss;
    hits[row] = where == t;
    maxima[row] = top;
    log_sums[row] = log_sum;
}

// Every row, a warp each; then, by the last block and in a fixed order, loss = weight *
// sum of losses and correct = sum of hits.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    cross_entropy(const T* __restrict__ x, const void* labels, int wide, int rows,
                  int classes, float eps, float* losses, int* hits, float* maxima,
                  float* log_sums, unsigned* counter, float weight, float* loss,
                  int* correct) {
    __shared__ double buffer[32 * WARPS];
    const int row = blockIdx.x * WARPS + threadIdx.y;
    if (row < rows)  // whole warps
        row_loss(x + (size_t)row * classes, labels, wide, row, classes, eps, losses, hits,
                 maxima, log_sums);

    if (!last_of(gridDim.x, counter)) return;
    double sum = 0, count = 0;
    for (int i = threadIdx.y * 32 + threadIdx.x; i < rows; i += 32 * WARPS) {
        sum += __ldcg(losses + i);
        count += __ldcg(hits + i);
    }
    sum = sum_block(sum, buffer);
    count = sum_block(count, buffer);
    if (threadIdx.x == 0 && threadIdx.y == 0) {
        *loss = (float)(sum * weight);
        *correct = (int)count;
    }
}

// dx = (softmax(x) - q) weight g, q = 1 - eps + eps / K at the target, eps / K elsewhere.
// g is one number (each = 0), one a row (each = 1), or null: 1.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
    cross_entropy_gradient(const T* __restrict__ x, const void* labels, int wide,
                           int rows, int classes, float eps, float weight,
                           const float* g, int each, const float* maxima,
                           const float* log_sums, T* __restrict__ dx) {
    const int row = blockIdx.x * WARPS + threadIdx.y;
    if (row >= rows) return;
    const size_t start = (size_t)row * classes;
    const int t = target_of(labels, wide, row, classes);
    const float top = maxima[row], log_sum = log_sums[row];
    const float factor = g ? weight * g[each ? row : 0] : weight;
    for (int k = threadIdx.x; k < classes; k += 32) {
        float d = expf(as_float(x[start + k]) - top - log_sum);
        d -= eps / classes;
        if (k == t) d -= 1.f - eps;
        put(dx + start + k, d * factor);
    }
}
