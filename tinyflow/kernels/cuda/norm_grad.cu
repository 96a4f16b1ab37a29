// Batch normalisation (Ioffe & Szegedy 2015), backward, over the rows of a matrix.
//
// Traffic, in passes over a matrix of activations: the sums read g and x, the input
// gradient reads them again and writes dx: 5, the floor unless they fit into the cache. A
// fused ReLU costs one read of y more in each of the two, or none where its sign can be
// recomputed from x; with a residual the first writes g' and the second reads it instead
// of g and y: 7.
#include "common.cuh"

// How the ReLU's sign is known: there is none, from y, or from scale x + shift (only
// without a residual, and it saves reading y).
enum Mask { NONE = 0, FROM_Y = 1, FROM_X = 2 };

// DEEP rows of g, x and, where the mask needs it, y.
struct Group {
    Raw g[DEEP], x[DEEP], y[DEEP];
};

template <int MASK>
__device__ __forceinline__ Group fetch_group(const T* g, int ldg, const T* x, int ldx,
                                             const T* y, int ldy, int row,
                                             const Tile& t) {
    Group group;
    EACH_ROW(n) {
        const int r = row + n * blockDim.y;
        group.g[n] = fetch(g, ldg, r, t);
        group.x[n] = fetch(x, ldx, r, t);
        if (MASK == FROM_Y) group.y[n] = fetch(y, ldy, r, t);
    }
    return group;
}

// g' = g where the ReLU let pass, 0 elsewhere. With FROM_X the sign is that of the very
// number bn_apply stored.
template <int MASK>
__device__ __forceinline__ Floats masked(Floats g, const Floats& x, const Raw& y,
                                         const Floats& scale, const Floats& shift) {
    Floats out = filled(1.f);
    if (MASK == FROM_Y) out = widened(y);
    if (MASK == FROM_X)
        EACH(i) out.v[i] = rounded(fmaf(x.v[i], scale.v[i], shift.v[i]));
    EACH(i) g.v[i] = out.v[i] <= 0.f ? 0.f : g.v[i];
    return g;
}

template <int MASK>
__device__ __forceinline__ void add_up(const T* __restrict__ g, int ldg,
                                       const T* __restrict__ x, int ldx,
                                       const T* __restrict__ y, int ldy,
                                       T* __restrict__ sent, int lds,
                                       const Floats& mean, const Floats& scale,
                                       const Floats& shift, const Tile& t, Floats& s,
                                       Floats& q) {
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        const Group group = fetch_group<MASK>(g, ldg, x, ldx, y, ldy, r, t);
        EACH_ROW(n) {
            const Floats f = widened(group.x[n]);
            const Floats d =
                masked<MASK>(widened(group.g[n]), f, group.y[n], scale, shift);
            if (MASK == FROM_Y && sent) keep(sent, lds, r + n * step, t, d);
            EACH(i) {  // beyond the last row g is 0
                s.v[i] += d.v[i];
                q.v[i] += d.v[i] * (f.v[i] - mean.v[i]);
            }
        }
    }
}

// dgamma = inv_std sum g' (x - mean), dbeta = sum g', and for dx = scale g' + b x + c
//   b = -scale inv_std dgamma / M,   c = -b mean - scale dbeta / M;
// both 0 if the statistics were constants (batch = 0). g' = g where the ReLU let pass
// and 0 elsewhere. With FROM_Y, g' is written to `sent` unless that is null: it is the
// residual's gradient. Per chunk and channel both sums are left in partial, (2, chunks,
// cols); the last block of a tile adds up. Traffic: reads g, x [and y], writes [g'], the
// floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    bn_gradient_sums(const T* g, int ldg, const T* x, int ldx, const T* y, int ldy,
                     const float* mean, const float* scale, const float* shift, T* sent,
                     int lds, int rows, int cols, int chunk, int mask, float* partial,
                     unsigned* counters, const float* inv_std, int batch, float* dgamma,
                     float* dbeta, float* b_out, float* c_out) {
    __shared__ Floats buffer[THREADS];
    __shared__ double totals[THREADS];
    const Tile t = tile(rows, cols, chunk);
    Floats s = filled(0.f), q = filled(0.f), m = s, a = s, b = s;
    if (t.inside) {
        m = channels(mean + t.col);
        if (mask == FROM_X) {
            a = channels(scale + t.col);
            b = channels(shift + t.col);
        }
        if (mask == NONE)
            add_up<NONE>(g, ldg, x, ldx, y, ldy, sent, lds, m, a, b, t, s, q);
        if (mask == FROM_Y)
            add_up<FROM_Y>(g, ldg, x, ldx, y, ldy, sent, lds, m, a, b, t, s, q);
        if (mask == FROM_X)
            add_up<FROM_X>(g, ldg, x, ldx, y, ldy, sent, lds, m, a, b, t, s, q);
    }
    s = sum_rows(s, buffer);
    q = sum_rows(q, buffer);
    const int chunks = gridDim.y;
    const size_t part = (size_t)chunks * cols;
    if (threadIdx.y == 0 && t.inside) {
        float* at = partial + (size_t)blockIdx.y * cols + t.col;
        EACH(i) {
            at[i] = s.v[i];
            at[part + i] = q.v[i];
        }
    }

    if (!last_of(chunks, counters + blockIdx.x)) return;
    const Share own = share(cols);
    double bias = 0, gain = 0;
    for (int n = own.first; own.inside && n < chunks; n += MANY * own.apart) {
        float ss[MANY], qs[MANY];
        EACH_PART(i) {
            const int from = min(n + i * own.apart, chunks - 1);
            const float* at = partial + (size_t)from * cols + own.col;
            ss[i] = __ldcg(at), qs[i] = __ldcg(at + part);
        }
        EACH_PART(i) if (n + i * own.apart < chunks) {
            bias += ss[i];
            gain += qs[i];
        }
    }
    bias = sum_shares(bias, own, totals);
    gain = sum_shares(gain, own, totals);
    if (own.first || !own.inside) return;
    const int k = own.col;
    gain *= inv_std[k];
    dbeta[k] = (float)bias;
    dgamma[k] = (float)gain;
    const double slope = batch ? -(double)scale[k] * inv_std[k] * gain / rows : 0;
    b_out[k] = (float)slope;
    c_out[k] = batch ? (float)(-slope * mean[k] - scale[k] * bias / rows) : 0.f;
}

template <int MASK>
__device__ __forceinline__ void send(const T* __restrict__ g, int ldg,
                                     const T* __restrict__ x, int ldx,
                                     const T* __restrict__ y, int ldy,
                                     T* __restrict__ dx, int ldd,
                                     T* __restrict__ sent, int lds, const Floats& scale,
                                     const Floats& shift, const Floats& b,
                                     const Floats& c, int add, const Tile& t) {
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        const Group group = fetch_group<MASK>(g, ldg, x, ldx, y, ldy, r, t);
        Raw before[DEEP];
        if (add) EACH_ROW(n) before[n] = fetch(dx, ldd, r + n * step, t);
        EACH_ROW(n) {
            const Floats f = widened(group.x[n]);
            const Floats d =
                masked<MASK>(widened(group.g[n]), f, group.y[n], scale, shift);
            if (MASK == FROM_Y && sent) keep(sent, lds, r + n * step, t, d);
            Floats out = filled(0.f);
            if (add) out = widened(before[n]);
            EACH(i) out.v[i] += fmaf(scale.v[i], d.v[i], fmaf(b.v[i], f.v[i], c.v[i]));
            keep(dx, ldd, r + n * step, t, out);
        }
    }
}

// dx = scale g' + b x + c, added to what dx holds if `add`; g' and `sent` as above.
// Traffic: reads g, x [and y], writes dx [and g'], the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    bn_input_gradient(const T* g, int ldg, const T* x, int ldx, const T* y, int ldy,
                      const float* scale, const float* shift, const float* b,
                      const float* c, T* dx, int ldd, T* sent, int lds, int rows,
                      int cols, int chunk, int mask, int add) {
    const Tile t = tile(rows, cols, chunk);
    if (!t.inside) return;
    const Floats a = channels(scale + t.col), bb = channels(b + t.col),
                 cc = channels(c + t.col);
    const Floats s = mask == FROM_X ? channels(shift + t.col) : filled(0.f);
    if (mask == NONE)
        send<NONE>(g, ldg, x, ldx, y, ldy, dx, ldd, sent, lds, a, s, bb, cc, add, t);
    if (mask == FROM_Y)
        send<FROM_Y>(g, ldg, x, ldx, y, ldy, dx, ldd, sent, lds, a, s, bb, cc, add, t);
    if (mask == FROM_X)
        send<FROM_X>(g, ldg, x, ldx, y, ldy, dx, ldd, sent, lds, a, s, bb, cc, add, t);
}
