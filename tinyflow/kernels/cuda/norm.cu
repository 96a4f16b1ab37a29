// Batch normalisation (Ioffe & Szegedy 2015), forward, over the rows of a matrix.
//
// Traffic, in passes over a matrix of activations: the statistics read x, applying them
// reads x (and the residual) and writes y: 3 (4), the floor unless x fits into the cache.
#include "common.cuh"

// inv_std = 1 / sqrt(var + eps), scale = gamma inv_std, shift = beta - mean scale, and
// running <- (1 - momentum) running + momentum statistic, the variance with 1/(M - 1).
// gamma, beta and the running statistics may be null.
__device__ __forceinline__ void affine(int c, double mean, double var, double rows,
                                       float eps, const float* gamma, const float* beta,
                                       float momentum, float* running_mean,
                                       float* running_var, float* inv_std, float* scale,
                                       float* shift) {
    const double inverse = 1 / sqrt(var + eps);
    const double gain = (gamma ? gamma[c] : 1.f) * inverse;
    inv_std[c] = (float)inverse;
    scale[c] = (float)gain;
    shift[c] = (float)((beta ? beta[c] : 0.f) - mean * gain);
    if (running_mean)
        running_mean[c] = (1 - momentum) * running_mean[c] + momentum * (float)mean;
    if (running_var)
        running_var[c] = (1 - momentum) * running_var[c] +
                         momentum * (float)(var * (rows / (rows - 1)));
}

// Mean and biased variance of each channel, and what follows from them. Per chunk of
// rows and channel: a pivot k, sum (x - k) and sum (x - k)^2. k is the mean of rows from
// all over the chunk, so the sums are of the size of the spread, whatever the mean and a
// few far values are. partial is (3, chunks, cols); the last block of a tile adds up,
// shifted to the pivot of the first chunk. rows > 1 if there are running statistics.
// Traffic: reads x once, the floor; the second look at those rows hits the cache.
extern "C" __global__ void __launch_bounds__(THREADS)
    bn_statistics(const T* __restrict__ x, int ld, int rows, int cols, int chunk,
                  float* partial, unsigned* counters, float eps, const float* gamma,
                  const float* beta, float momentum, float* running_mean,
                  float* running_var, float* mean_out, float* var_out, float* inv_std,
                  float* scale, float* shift) {
    __shared__ Floats buffer[THREADS];
    __shared__ double totals[THREADS];
    const Tile t = tile(rows, cols, chunk);
    const int first = blockIdx.y * chunk;
    const int count = min(first + chunk, rows) - first;
    const int sampled = min(count, DEEP * (int)blockDim.y), apart = count / sampled;

    Floats k = filled(0.f);
    Raw some[DEEP];
    EACH_ROW(n) {
        const int r = threadIdx.y + n * blockDim.y;
        some[n] = fetch(x, ld, r < sampled ? first + r * apart : rows, t);
    }
    EACH_ROW(n) {
        const Floats f = widened(some[n]);
        EACH(i) k.v[i] += f.v[i];
    }
    k = sum_rows(k, buffer);
    EACH(i) {
        k.v[i] /= sampled;
        if (!(k.v[i] - k.v[i] == 0.f)) k.v[i] = 0.f;  // it must be finite
    }

    Floats s = filled(0.f), q = filled(0.f);
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw raw[DEEP];
        EACH_ROW(n) raw[n] = fetch(x, ld, r + n * step, t);
        EACH_ROW(n) if (r + n * step < t.end) {
            const Floats f = widened(raw[n]);
            EACH(i) {
                const float d = f.v[i] - k.v[i];
                s.v[i] += d;
                q.v[i] += d * d;
            }
        }
    }
    s = sum_rows(s, buffer);
    q = sum_rows(q, buffer);
    const int chunks = gridDim.y;
    const size_t part = (size_t)chunks * cols;
    if (threadIdx.y == 0 && t.inside) {
        float* at = partial + (size_t)blockIdx.y * cols + t.col;
        EACH(i) {
            at[i] = k.v[i];
            at[part + i] = s.v[i];
            at[2 * part + i] = q.v[i];
        }
    }

    if (!last_of(chunks, counters + blockIdx.x)) return;
    const Share a = share(cols);
    const double pivot = a.inside ? __ldcg(partial + a.col) : 0.;
    double sum = 0, squares = 0;
    for (int n = a.first; a.inside && n < chunks; n += MANY * a.apart) {
        float ks[MANY], ss[MANY], qs[MANY];
        EACH_PART(i) {
            const int from = min(n + i * a.apart, chunks - 1);
            const float* at = partial + (size_t)from * cols + a.col;
            ks[i] = __ldcg(at), ss[i] = __ldcg(at + part), qs[i] = __ldcg(at + 2 * part);
        }
        EACH_PART(i) if (n + i * a.apart < chunks) {
            const double m = min(chunk, rows - (n + i * a.apart) * chunk);
            const double d = ks[i] - pivot;
            sum += ss[i] + m * d;
            squares += qs[i] + d * (2. * ss[i] + m * d);
        }
    }
    sum = sum_shares(sum, a, totals);
    squares = sum_shares(squares, a, totals);
    if (a.first || !a.inside) return;
    sum /= rows;
    const double mean = pivot + sum, spread = squares / rows - sum * sum;
    const double var = spread < 0 ? 0 : spread;  // a NaN stays
    mean_out[a.col] = (float)mean;
    var_out[a.col] = (float)var;
    affine(a.col, mean, var, rows, eps, gamma, beta, momentum, running_mean, running_var,
           inv_std, scale, shift);
}

// The same from known statistics: the running ones in evaluation, or those of a feature
// map that several layers normalise, each with its own gamma and beta.
extern "C" __global__ void bn_affine(const float* mean, const float* var, int rows,
                                     int cols, float eps, const float* gamma,
                                     const float* beta, float momentum,
                                     float* running_mean, float* running_var,
                                     float* inv_std, float* scale, float* shift) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < cols)
        affine(c, mean[c], var[c], rows, eps, gamma, beta, momentum, running_mean,
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
