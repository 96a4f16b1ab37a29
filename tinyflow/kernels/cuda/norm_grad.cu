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

// N rows of g, x and, where the mask needs it, y.
template <int N>
struct Group {
    Raw g[N], x[N], y[N];
};

template <int MASK, int N>
__device__ __forceinline__ Group<N> fetch_group(const T* g, int ldg, const T* x, int ldx,
                                                const T* y, int ldy, int row,
                                                const Tile& t) {
    Group<N> group;
    const int step = blockDim.y;
    fetch_rows(g, ldg, row, step, t, group.g);
    fetch_rows(x, ldx, row, step, t, group.x);
    if (MASK == FROM_Y) fetch_rows(y, ldy, row, step, t, group.y);
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
    const int N = MASK == FROM_Y ? DEEP : MANY;  // as many as there are registers for
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += N * step) {
        const Group<N> group = fetch_group<MASK, N>(g, ldg, x, ldx, y, ldy, r, t);
        EACH_OF(n, N) {
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
// both 0 if the statistics were constants (batch = 0); per_row = 1 / M. g' = g where the
// ReLU let pass and 0 elsewhere. With FROM_Y, g' is written to `sent` unless that is null:
// it is the residual's gradient. If there are several chunks, both sums are left in
// partial, (2, chunks, cols); the last block of a tile adds up. What waits for what: g, x
// [and y] (and all that is known of the channel); the sums, two or three barriers; and
// with several chunks a write, the counter, a read, the sums. Traffic: reads g, x [and y],
// writes [g'], the floor.
extern "C" __global__ void __launch_bounds__(SUM_THREADS, 1)
    bn_gradient_sums(const T* g, int ldg, const T* x, int ldx, const T* y, int ldy,
                     const float* mean, const float* scale, const float* shift, T* sent,
                     int lds, int rows, int cols, int chunk, int mask, double per_row,
                     float* partial, unsigned* counters, const float* inv_std, int batch,
                     float* dgamma, float* dbeta, float* b_out, float* c_out) {
    __shared__ Floats sums[2 * SUM_THREADS];
    __shared__ float folded[SUM_THREADS];
    __shared__ double totals[MANY * 2 * SUM_COLUMNS];
    const Tile t = tile(rows, cols, chunk);
    const Place own = place<1>();
    const int col = blockIdx.x * own.wide + own.at;
    const bool finishes = own.part == 0 && col < cols;
    float center = 0.f, factor = 0.f, inverse = 0.f;
    if (finishes) center = mean[col], factor = scale[col], inverse = inv_std[col];

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
    const int at = threadIdx.y * 2 * blockDim.x + threadIdx.x;
    sums[at] = s;
    sums[at + blockDim.x] = q;
    const Sums<2, float> here = sum_columns<2>(sums->v, folded, blockDim.y);
    double bias = here.of[0], gain = here.of[1];

    const int chunks = gridDim.y;
    if (chunks > 1) {
        const size_t part = (size_t)chunks * cols;
        if (finishes) {
            float* put = partial + (size_t)blockIdx.y * cols + col;
            put[0] = here.of[0], put[part] = here.of[1];
        }
        if (!last_of(chunks, counters + blockIdx.x)) return;
        const int parts = min(own.parts, min(chunks, MANY));
        const bool inside = own.part < parts && col < cols;
        bias = gain = 0;
        for (int n = own.part; inside && n < chunks; n += MANY * parts) {
            float ss[MANY], qs[MANY];
            EACH_PART(i) {
                const int from = n + i * parts;
                const float* get = partial + (size_t)from * cols + col;
                ss[i] = from < chunks ? __ldcg(get) : 0.f;
                qs[i] = from < chunks ? __ldcg(get + part) : 0.f;
            }
            EACH_PART(i) bias += ss[i], gain += qs[i];
        }
        if (own.part < parts) {
            totals[2 * own.part * own.wide + own.at] = bias;
            totals[(2 * own.part + 1) * own.wide + own.at] = gain;
        }
        __syncthreads();
        const Sums<2, double> all = sum_few<2, double>(totals, parts);
        bias = all.of[0], gain = all.of[1];
    }
    if (!finishes) return;
    gain *= inverse;
    dbeta[col] = (float)bias;
    dgamma[col] = (float)gain;
    const double slope = batch ? -(double)factor * inverse * gain * per_row : 0;
    b_out[col] = (float)slope;
    c_out[col] = batch ? (float)(-slope * center - factor * bias * per_row) : 0.f;
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
        const Group<DEEP> group = fetch_group<MASK, DEEP>(g, ldg, x, ldx, y, ldy, r, t);
        Raw before[DEEP];
        if (add) fetch_rows(dx, ldd, r, step, t, before);
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
