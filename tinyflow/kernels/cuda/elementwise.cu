// Entry by entry: sums, ReLU, bias, and the gate of squeeze-and-excitation.
#include "common.cuh"

__device__ __forceinline__ float relu(float x) { return x < 0.f ? 0.f : x; }  // keeps NaN

// y = x [+ other] [+ bias per column] [and no less than 0]; other and bias may be null.
// Traffic: reads x [and other], writes y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    combine(const T* __restrict__ x, int ldx, const T* __restrict__ other, int ldo,
            const float* bias, T* __restrict__ y, int ldy, int rows, int cols, int chunk,
            int rectify) {
    const Tile t = tile(rows, cols, chunk);
    if (!t.inside) return;
    const Floats b = bias ? channels(bias + t.col) : filled(0.f);
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw raw[DEEP], more[DEEP];
        EACH_ROW(n) {
            raw[n] = fetch(x, ldx, r + n * step, t);
            if (other) more[n] = fetch(other, ldo, r + n * step, t);
        }
        EACH_ROW(n) {
            Floats f = widened(raw[n]), extra = filled(0.f);
            if (other) extra = widened(more[n]);
            EACH(i) {
                f.v[i] += extra.v[i];
                f.v[i] += b.v[i];
                if (rectify) f.v[i] = relu(f.v[i]);
            }
            keep(y, ldy, r + n * step, t, f);
        }
    }
}

// g' = 0 where y <= 0, else g: also where y is a NaN. Traffic: reads g and y, writes g', the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    relu_gradient(const T* __restrict__ g, int ldg, const T* __restrict__ y, int ldy,
                  T* __restrict__ dx, int ldd, int rows, int cols, int chunk) {
    const Tile t = tile(rows, cols, chunk);
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw gs[DEEP], ys[DEEP];
        EACH_ROW(n) {
            gs[n] = fetch(g, ldg, r + n * step, t);
            ys[n] = fetch(y, ldy, r + n * step, t);
        }
        EACH_ROW(n) {
            Floats f = widened(gs[n]);
            const Floats out = widened(ys[n]);
            EACH(i) f.v[i] = out.v[i] <= 0.f ? 0.f : f.v[i];
            keep(dx, ldd, r + n * step, t, f);
        }
    }
}

// With e = exp(-|x|) nothing cancels, neither in the sigmoid nor in its slope s (1 - s).
__device__ __forceinline__ float sigmoid_of(float x) {
    const float e = expf(-fabsf(x));
    return (x < 0.f ? e : 1.f) / (1.f + e);
}

__device__ __forceinline__ float slope_of(float x) {
    const float e = expf(-fabsf(x));
    return e / ((1.f + e) * (1.f + e));
}

// y = s, the sigmoid of x, or if g is given s (1 - s) g. Traffic: reads x [and g], writes
// y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    sigmoid(const T* __restrict__ x, int ldx, const T* __restrict__ g, int ldg,
            T* __restrict__ y, int ldy, int rows, int cols, int chunk) {
    const Tile t = tile(rows, cols, chunk);
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw xs[DEEP], gs[DEEP];
        EACH_ROW(n) {
            xs[n] = fetch(x, ldx, r + n * step, t);
            if (g) gs[n] = fetch(g, ldg, r + n * step, t);
        }
        EACH_ROW(n) {
            Floats f = widened(xs[n]), sent = filled(0.f);
            if (g) sent = widened(gs[n]);
            EACH(i) f.v[i] = g ? sent.v[i] * slope_of(f.v[i]) : sigmoid_of(f.v[i]);
            keep(y, ldy, r + n * step, t, f);
        }
    }
}

// ---- Bias ---------------------------------------------------------------------------

// sums[c] = sum g'; with y (the output of a fused ReLU) g' = 0 where y <= 0 and else g,
// written to `sent`, else g' = g. If there are several chunks, partial[chunk, c] is the
// sum of a chunk's rows; the last block of a tile adds up. Traffic: reads g [and y], writes
// [g'], the floor.
extern "C" __global__ void __launch_bounds__(SUM_THREADS, 1)
    column_sums(const T* __restrict__ g, int ldg, const T* __restrict__ y, int ldy,
                T* __restrict__ sent, int lds, int rows, int cols, int chunk,
                float* partial, unsigned* counters, float* sums) {
    __shared__ Floats columns[SUM_THREADS];
    __shared__ float folded[SUM_THREADS];
    __shared__ double totals[MANY * SUM_COLUMNS];
    const Tile t = tile(rows, cols, chunk);
    const int step = blockDim.y;
    Floats s = filled(0.f);
    for (int r = t.begin; r < t.end; r += MANY * step) {
        Raw gs[MANY], ys[MANY];
        fetch_rows(g, ldg, r, step, t, gs);
        if (y) fetch_rows(y, ldy, r, step, t, ys);
        EACH_PART(n) {
            Floats f = widened(gs[n]);
            if (y) {
                const Floats out = widened(ys[n]);
                EACH(i) f.v[i] = out.v[i] <= 0.f ? 0.f : f.v[i];
                keep(sent, lds, r + n * step, t, f);
            }
            EACH(i) s.v[i] += f.v[i];
        }
    }
    columns[threadIdx.y * blockDim.x + threadIdx.x] = s;
    const float here = sum_columns<1>(columns->v, folded, step).of[0];
    double sum = here;

    const Place own = place<1>();
    const int col = blockIdx.x * own.wide + own.at, chunks = gridDim.y;
    if (chunks > 1) {
        if (own.part == 0 && col < cols) partial[(size_t)blockIdx.y * cols + col] = here;
        if (!last_of(chunks, counters + blockIdx.x)) return;
        const int parts = min(own.parts, min(chunks, MANY));
        const bool inside = own.part < parts && col < cols;
        sum = 0;
        for (int n = own.part; inside && n < chunks; n += MANY * parts) {
            float some[MANY];
            EACH_PART(i) {
                const int from = n + i * parts;
                const float* get = partial + (size_t)from * cols + col;
                some[i] = from < chunks ? __ldcg(get) : 0.f;
            }
            EACH_PART(i) sum += some[i];
        }
        if (own.part < parts) totals[own.part * own.wide + own.at] = sum;
        __syncthreads();
        sum = sum_few<1, double>(totals, parts).of[0];
    }
    if (own.part == 0 && col < cols) sums[col] = (float)sum;
}

// ---- The gate of squeeze-and-excitation (Hu et al. 2018) ------------------------------

// A sample has `area` rows and one gate s per column. A block takes one sample
// (blockIdx.y) and some columns.
__device__ __forceinline__ Floats gate_of(const T* gates, int cols, const Tile& t) {
    return t.inside ? load(gates + (size_t)blockIdx.y * cols + t.col) : filled(0.f);
}

// y = s x [+ residual] [and no less than 0]. Traffic: reads x [and the residual], writes
// y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    gate(const T* __restrict__ x, int ldx, const T* __restrict__ gates,
         const T* __restrict__ residual, int ldr, T* __restrict__ y, int ldy, int rows,
         int cols, int area, int rectify) {
    const Tile t = tile(rows, cols, area);
    const Floats s = gate_of(gates, cols, t);
    const int step = blockDim.y;
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw raw[DEEP], more[DEEP];
        EACH_ROW(n) {
            raw[n] = fetch(x, ldx, r + n * step, t);
            if (residual) more[n] = fetch(residual, ldr, r + n * step, t);
        }
        EACH_ROW(n) {
            Floats f = widened(raw[n]), extra = filled(0.f);
            if (residual) extra = widened(more[n]);
            EACH(i) {
                f.v[i] = fmaf(s.v[i], f.v[i], extra.v[i]);
                if (rectify) f.v[i] = relu(f.v[i]);
            }
            keep(y, ldy, r + n * step, t, f);
        }
    }
}

// dx = s g', ds = sum over the sample of g' x; g' = g, or 0 where y <= 0, written to
// `sent`, if y is given. Traffic: reads g, x [and y], writes dx [and g'], the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    gate_gradient(const T* __restrict__ g, int ldg, const T* __restrict__ x, int ldx,
                  const T* __restrict__ gates, const T* __restrict__ y, int ldy,
                  T* __restrict__ dx, int ldd, T* __restrict__ sent, int lds,
                  T* __restrict__ ds, int rows, int cols, int area) {
    __shared__ Floats buffer[THREADS];
    const Tile t = tile(rows, cols, area);
    const Floats s = gate_of(gates, cols, t);
    const int step = blockDim.y;
    Floats total = filled(0.f);
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw gs[DEEP], xs[DEEP], ys[DEEP];
        EACH_ROW(n) {
            gs[n] = fetch(g, ldg, r + n * step, t);
            xs[n] = fetch(x, ldx, r + n * step, t);
            if (y) ys[n] = fetch(y, ldy, r + n * step, t);
        }
        EACH_ROW(n) {
            Floats d = widened(gs[n]);
            const Floats f = widened(xs[n]);
            if (y) {
                const Floats out = widened(ys[n]);
                EACH(i) d.v[i] = out.v[i] <= 0.f ? 0.f : d.v[i];
                if (sent) keep(sent, lds, r + n * step, t, d);
            }
            EACH(i) {
                total.v[i] += d.v[i] * f.v[i];
                d.v[i] *= s.v[i];
            }
            keep(dx, ldd, r + n * step, t, d);
        }
    }
    total = sum_rows(total, buffer);
    if (threadIdx.y == 0 && t.inside)
        store(ds + (size_t)blockIdx.y * cols + t.col, total);
}
