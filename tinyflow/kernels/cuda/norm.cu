// Batch normalisation (Ioffe & Szegedy 2015), forward, over the rows of a matrix.
//
// Traffic, in passes over a matrix of activations: the statistics read x, applying them
// reads x (and the residual) and writes y: 3 (4), the floor unless x fits into the cache.
#include "common.cuh"

// What a channel brings along: 1 and 0 for a gamma and a beta that are null.
struct Known {
    float gamma, beta, running_mean, running_var;
};

__device__ __forceinline__ Known known(int c, const float* gamma, const float* beta,
                                       const float* running_mean,
                                       const float* running_var) {
    return Known{gamma ? gamma[c] : 1.f, beta ? beta[c] : 0.f,
                 running_mean ? running_mean[c] : 0.f,
                 running_var ? running_var[c] : 0.f};
}

// inv_std = 1 / sqrt(var + eps), scale = gamma inv_std, shift = beta - mean scale, and
// running <- (1 - momentum) running + momentum statistic, the variance times `unbiased`,
// M / (M - 1). The running statistics may be null.
__device__ __forceinline__ void affine(int c, double mean, double var, double unbiased,
                                       float eps, const Known& own, float momentum,
                                       float* running_mean, float* running_var,
                                       float* inv_std, float* scale, float* shift) {
    const double inverse = rsqrt(var + eps), gain = own.gamma * inverse;
    inv_std[c] = (float)inverse;
    scale[c] = (float)gain;
    shift[c] = (float)(own.beta - mean * gain);
    if (running_mean)
        running_mean[c] = (1 - momentum) * own.running_mean + momentum * (float)mean;
    if (running_var)
        running_var[c] =
            (1 - momentum) * own.running_var + momentum * (float)(var * unbiased);
}

// Adds x - k and (x - k)^2 of MANY rows; WHOLE: none of them is beyond the last.
template <bool WHOLE>
__device__ __forceinline__ void add_group(const Raw (&raw)[MANY], const Floats& k, int row,
                                          int apart, const Tile& t, Floats& s,
                                          Floats& q) {
    EACH_PART(n) if (WHOLE || row + n * apart < t.end) {
        const Floats f = widened(raw[n]);
        EACH(i) {
            const float d = f.v[i] - k.v[i];
            s.v[i] += d;
            q.v[i] += d * d;
        }
    }
}

// Mean and biased variance of each channel, and what follows from them. Per chunk of
// rows and channel: a pivot k, sum (x - k) and sum (x - k)^2. k is the mean of rows from
// all over the chunk, so the sums are of the size of the spread, whatever the mean and a
// few far values are. If there are several chunks, partial is (3, chunks, cols); the last
// block of a tile adds up, shifted to the pivot of the first chunk. per_row = 1 / rows.
// The rows of a group are chunk / MANY apart, so that the first one is from all over.
//
// What waits for what, where a chunk is one group: x, which is kept in registers (and all
// that is known of the channel); the pivot, one barrier; the sums, two or three; and with
// several chunks a write, the counter, a read, the sums. Traffic: reads x once, the floor.
extern "C" __global__ void __launch_bounds__(SUM_THREADS, 1)
    bn_statistics(const T* __restrict__ x, int ld, int rows, int cols, int chunk,
                  double per_row, double unbiased, float* partial, unsigned* counters,
                  float eps, const float* gamma, const float* beta, float momentum,
                  float* running_mean, float* running_var, float* mean_out,
                  float* var_out, float* inv_std, float* scale, float* shift) {
    __shared__ Floats sums[2 * SUM_THREADS], means[DEEP * SUM_COLUMNS / VEC],
        pivots[SUM_COLUMNS / VEC];
    __shared__ float folded[SUM_THREADS];
    __shared__ double totals[MANY * 2 * SUM_COLUMNS];
    const Tile t = tile(rows, cols, chunk);
    const int first = blockIdx.y * chunk, apart = chunk / MANY, step = blockDim.y;
    Raw raw[MANY];
    fetch_rows(x, ld, t.begin, apart, t, raw);

    const Place own = place<1>();
    const int col = blockIdx.x * own.wide + own.at;
    const bool finishes = own.part == 0 && col < cols;
    Known channel = Known();
    if (finishes) channel = known(col, gamma, beta, running_mean, running_var);

    if (threadIdx.y < DEEP) {
        int count = 0;
        EACH_PART(n) count += t.begin + n * apart < t.end;
        const float each = count ? 1.f / count : 0.f;
        Floats m = filled(0.f);
        EACH_PART(n) {  // beyond the last row x is 0
            const Floats f = widened(raw[n]);
            EACH(i) m.v[i] += f.v[i];
        }
        EACH(i) m.v[i] *= each;
        means[threadIdx.y * blockDim.x + threadIdx.x] = m;
    }
    const float each = 1.f / min(DEEP, rows - first);
    __syncthreads();
    Floats k = filled(0.f);
    EACH_ROW(n) {
        const Floats m = means[n * blockDim.x + threadIdx.x];
        EACH(i) k.v[i] += m.v[i];
    }
    EACH(i) {
        k.v[i] = fmaf(k.v[i], each, 0.f);              // rounded for all of its uses
        if (!(k.v[i] - k.v[i] == 0.f)) k.v[i] = 0.f;  // it must be finite
    }
    if (threadIdx.y == 0) pivots[threadIdx.x] = k;

    Floats s = filled(0.f), q = filled(0.f);
    for (int r = t.begin;;) {
        if (r + (MANY - 1) * apart < t.end)
            add_group<true>(raw, k, r, apart, t, s, q);
        else
            add_group<false>(raw, k, r, apart, t, s, q);
        r += step;
        if (r >= first + apart) break;  // all threads at once: step divides apart
        fetch_rows(x, ld, r, apart, t, raw);
    }
    const int at = threadIdx.y * 2 * blockDim.x + threadIdx.x;
    sums[at] = s;
    sums[at + blockDim.x] = q;
    const Sums<2, float> here = sum_columns<2>(sums->v, folded, step);
    double pivot = pivots->v[own.at], sum = here.of[0], squares = here.of[1];

    const int chunks = gridDim.y;
    if (chunks > 1) {
        const size_t part = (size_t)chunks * cols;
        if (finishes) {
            float* put = partial + (size_t)blockIdx.y * cols + col;
            put[0] = (float)pivot, put[part] = here.of[0], put[2 * part] = here.of[1];
        }
        if (!last_of(chunks, counters + blockIdx.x)) return;
        const int parts = min(own.parts, min(chunks, MANY));
        const bool inside = own.part < parts && col < cols;
        if (inside) pivot = __ldcg(partial + col);
        sum = squares = 0;
        for (int n = own.part; inside && n < chunks; n += MANY * parts) {
            float ks[MANY], ss[MANY], qs[MANY];
            EACH_PART(i) {
                const int from = n + i * parts;
                const float* get = partial + (size_t)from * cols + col;
                const bool there = from < chunks;
                ks[i] = there ? __ldcg(get) : 0.f;
                ss[i] = there ? __ldcg(get + part) : 0.f;
                qs[i] = there ? __ldcg(get + 2 * part) : 0.f;
            }
            EACH_PART(i) if (n + i * parts < chunks) {
                const double m = min(chunk, rows - (n + i * parts) * chunk);
                const double d = ks[i] - pivot;
                sum += ss[i] + m * d;
                squares += qs[i] + d * (2. * ss[i] + m * d);
            }
        }
        if (own.part < parts) {
            totals[2 * own.part * own.wide + own.at] = sum;
            totals[(2 * own.part + 1) * own.wide + own.at] = squares;
        }
        __syncthreads();
        const Sums<2, double> all = sum_few<2, double>(totals, parts);
        sum = all.of[0], squares = all.of[1];
    }
    if (!finishes) return;
    sum *= per_row;
    const double mean = pivot + sum, spread = squares * per_row - sum * sum;
    const double var = spread < 0 ? 0 : spread;  // a NaN stays
    mean_out[col] = (float)mean;
    var_out[col] = (float)var;
    affine(col, mean, var, unbiased, eps, channel, momentum, running_mean, running_var,
           inv_std, scale, shift);
}

// The same from known statistics: the running ones in evaluation, or those of a feature
// map that several layers normalise, each with its own gamma and beta.
extern "C" __global__ void bn_affine(const float* mean, const float* var,
                                     double unbiased, int cols, float eps,
                                     const float* gamma, const float* beta,
                                     float momentum, float* running_mean,
                                     float* running_var, float* inv_std, float* scale,
                                     float* shift) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < cols)
        affine(c, mean[c], var[c], unbiased, eps,
               known(c, gamma, beta, running_mean, running_var), momentum, running_mean,
               running_var, inv_std, scale, shift);
}

template <bool RELU, bool RESIDUAL>
__device__ __forceinline__ void apply(const T* __restrict__ x, int ldx,
                                      const T* __restrict__ residual, int ldr,
                                      T* __restrict__ y, int ldy, const Floats& scale,
                                      const Floats& shift, const Tile& t) {
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw raw[DEEP], more[DEEP];
        EACH_ROW(n) {
            raw[n] = fetch(x, ldx, r + n * step, t);
            if (RESIDUAL) more[n] = fetch(residual, ldr, r + n * step, t);
        }
        EACH_ROW(n) {
            Floats f = widened(raw[n]), extra = filled(0.f);
            if (RESIDUAL) extra = widened(more[n]);
            EACH(i) {
                f.v[i] = fmaf(f.v[i], scale.v[i], shift.v[i]);
                if (RESIDUAL) f.v[i] += extra.v[i];
                if (RELU) f.v[i] = f.v[i] < 0.f ? 0.f : f.v[i];  // a NaN stays
            }
            keep(y, ldy, r + n * step, t, f);
        }
    }
}

// y = scale x + shift [+ residual], [and no less than 0]. residual may be null.
// Traffic: reads x [and the residual] and writes y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    bn_apply(const T* x, int ldx, const float* scale, const float* shift,
             const T* residual, int ldr, T* y, int ldy, int rows, int cols, int chunk,
             int relu) {
    const Tile t = tile(rows, cols, chunk);
    if (!t.inside) return;
    const Floats a = channels(scale + t.col), b = channels(shift + t.col);
    if (residual && relu) apply<true, true>(x, ldx, residual, ldr, y, ldy, a, b, t);
    if (residual && !relu) apply<false, true>(x, ldx, residual, ldr, y, ldy, a, b, t);
    if (!residual && relu) apply<true, false>(x, ldx, residual, ldr, y, ldy, a, b, t);
    if (!residual && !relu) apply<false, false>(x, ldx, residual, ldr, y, ldy, a, b, t);
}
