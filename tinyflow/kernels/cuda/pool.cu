// Pooling over the windows of images (N, H, W, C). Rows of a matrix are pixels; a block
// takes some columns and a chunk of the pixels it writes. Gradients gather: each pixel of
// dx collects from the windows that saw it, so nothing is added atomically.
//
// Output (oy, ox) reads, through tap (u, v), input (oy sh + u dh - top, ox sw + v dw -
// left). Traffic, where windows overlap, counts a value once: neighbours come from the
// caches.
#include "common.cuh"

struct Geometry {
    int h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw;
};
#define GEOMETRY                                                                       \
    int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left,   \
        int dh, int dw
#define PACKED                                                      \
    Geometry {                                                      \
        h, w, oh, ow, kh, kw, sh, sw, top, left, dh, dw             \
    }

struct Pixel {
    int n, y, x;
};

__device__ __forceinline__ Pixel pixel(int row, int height, int width) {
    const int line = row / width;
    return Pixel{line / height, line % height, row % width};
}

// The windows along one axis that can have seen place `at`: first ... last.
__device__ __forceinline__ int first_window(int at, int before, int reach, int stride) {
    const int low = at + before - reach;  // reach = dilation (kernel - 1)
    return low > 0 ? (low + stride - 1) / stride : 0;
}

__device__ __forceinline__ int last_window(int at, int before, int stride, int count) {
    return min((at + before) / stride, count - 1);
}

// ---- Maximum ------------------------------------------------------------------------

// y = the maximum over the window, taps = its tap u kw + v. The border never wins, the
// first of equal maxima does, a NaN beats all before it; a window of nothing but border
// gives -inf from tap 0. Traffic: reads x, writes y and one byte per entry, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool(const T* __restrict__ x, int ldx, T* __restrict__ y, int ldy,
             unsigned char* __restrict__ taps, int rows, int cols, int chunk, GEOMETRY) {
    const Tile t = tile(rows, cols, chunk);
    for (int r = t.begin; r < t.end; r += blockDim.y) {
        const Pixel p = pixel(r, oh, ow);
        Floats best = filled(-INFINITE);
        int winner[VEC];
        EACH(i) winner[i] = -1;
        for (int u = 0; u < kh; ++u) {
            const int iy = p.y * sh + u * dh - top;
            if (iy < 0 || iy >= h) continue;
            for (int v = 0; v < kw; ++v) {
                const int ix = p.x * sw + v * dw - left;
                if (ix < 0 || ix >= w) continue;
                const size_t source = (size_t)(p.n * h + iy) * w + ix;
                const Floats f = load(x + source * ldx + t.col);
                EACH(i) if (winner[i] < 0 || f.v[i] > best.v[i] || f.v[i] != f.v[i]) {
                    best.v[i] = f.v[i];
                    winner[i] = u * kw + v;
                }
            }
        }
        store(y + (size_t)r * ldy + t.col, best);
        Bytes bytes;
        EACH(i) bytes.v[i] = (unsigned char)max(winner[i], 0);
        *reinterpret_cast<Bytes*>(taps + (size_t)r * cols + t.col) = bytes;
    }
}

// dx = sum of g over the windows whose maximum came from here. Traffic: reads g and the
// taps, writes dx, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    max_pool_gradient(const T* __restrict__ g, int ldg,
                      const unsigned char* __restrict__ taps, T* __restrict__ dx,
                      int ldd, int rows, int cols, int chunk, GEOMETRY) {
    const Tile t = tile(rows, cols, chunk);
    for (int r = t.begin; r < t.end; r += blockDim.y) {
        const Pixel p = pixel(r, h, w);
        Floats sum = filled(0.f);
        const int oy_end = last_window(p.y, top, sh, oh);
        const int ox_begin = first_window(p.x, left, dw * (kw - 1), sw);
        const int ox_end = last_window(p.x, left, sw, ow);
        for (int oy = first_window(p.y, top, dh * (kh - 1), sh); oy <= oy_end; ++oy) {
            const int down = p.y + top - oy * sh;  // u dh
            if (down % dh) continue;
            for (int ox = ox_begin; ox <= ox_end; ++ox) {
                const int right = p.x + left - ox * sw;  // v dw
                if (right % dw) continue;
                const int tap = down / dh * kw + right / dw;
                const size_t source = (size_t)(p.n * oh + oy) * ow + ox;
                const Floats f = load(g + source * ldg + t.col);
                const Bytes bytes =
                    *reinterpret_cast<const Bytes*>(taps + source * cols + t.col);
                EACH(i) if (bytes.v[i] == tap) sum.v[i] += f.v[i];
            }
        }
        store(dx + (size_t)r * ldd + t.col, sum);
    }
}

// ---- Average ------------------------------------------------------------------------

// Places of a window along one axis: those of the map, and with `padded` those of the
// border, whose end is at `end`. What hangs over the border never counts.
__device__ __forceinline__ int places(int o, int stride, int kernel, int before, int size,
                                      int end, int padded) {
    const int from = o * stride - before, to = min(from + kernel, end);
    return padded ? to - from : min(to, size) - max(from, 0);
}

// What the window (oy, ox) is divided by.
__device__ __forceinline__ float divisor(const Geometry& g, int oy, int ox, int bottom,
                                         int right, int padded, int override_) {
    if (override_) return (float)override_;
    return (float)(places(oy, g.sh, g.kh, g.top, g.h, g.h + bottom, padded) *
                   places(ox, g.sw, g.kw, g.left, g.w, g.w + right, padded));
}

// y = sum of the window / divisor. Traffic: reads x, writes y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    avg_pool(const T* __restrict__ x, int ldx, T* __restrict__ y, int ldy, int rows,
             int cols, int chunk, GEOMETRY, int bottom, int right, int padded,
             int override_) {
    const Tile t = tile(rows, cols, chunk);
    for (int r = t.begin; r < t.end; r += blockDim.y) {
        const Pixel p = pixel(r, oh, ow);
        const int y0 = p.y * sh - top, x0 = p.x * sw - left;
        Floats sum = filled(0.f);
        for (int iy = max(y0, 0); iy < min(y0 + kh, h); ++iy) {
            Floats line = filled(0.f);  // long sums are taken line by line
            for (int ix = max(x0, 0); ix < min(x0 + kw, w); ++ix) {
                const size_t source = (size_t)(p.n * h + iy) * w + ix;
                const Floats f = load(x + source * ldx + t.col);
                EACH(i) line.v[i] += f.v[i];
            }
            EACH(i) sum.v[i] += line.v[i];
        }
        const float d = divisor(PACKED, p.y, p.x, bottom, right, padded, override_);
        EACH(i) sum.v[i] /= d;
        store(y + (size_t)r * ldy + t.col, sum);
    }
}

// dx = sum of g / divisor over the windows that saw x. Traffic: reads g, writes dx, the
// floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    avg_pool_gradient(const T* __restrict__ g, int ldg, T* __restrict__ dx, int ldd,
                      int rows, int cols, int chunk, GEOMETRY, int bottom, int right,
                      int padded, int override_) {
    const Tile t = tile(rows, cols, chunk);
    for (int r = t.begin; r < t.end; r += blockDim.y) {
        const Pixel p = pixel(r, h, w);
        Floats sum = filled(0.f);
        const int oy_end = last_window(p.y, top, sh, oh);
        const int ox_begin = first_window(p.x, left, kw - 1, sw);
        const int ox_end = last_window(p.x, left, sw, ow);
        for (int oy = first_window(p.y, top, kh - 1, sh); oy <= oy_end; ++oy) {
            Floats line = filled(0.f);
            for (int ox = ox_begin; ox <= ox_end; ++ox) {
                const float d = divisor(PACKED, oy, ox, bottom, right, padded, override_);
                const size_t source = (size_t)(p.n * oh + oy) * ow + ox;
                const Floats f = load(g + source * ldg + t.col);
                EACH(i) line.v[i] += f.v[i] / d;
            }
            EACH(i) sum.v[i] += line.v[i];
        }
        store(dx + (size_t)r * ldd + t.col, sum);
    }
}

// ---- Average over the whole map -------------------------------------------------------

// y[n, c] = sum over the sample's rows / area; a block takes one sample (blockIdx.y).
// Traffic: reads x, writes y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    global_avg_pool(const T* __restrict__ x, int ldx, T* __restrict__ y, int rows,
                    int cols, int area) {
    __shared__ Floats buffer[THREADS];
    const Tile t = tile(rows, cols, area);
    const int step = blockDim.y;
    Floats sum = filled(0.f);
    for (int r = t.begin; r < t.end; r += DEEP * step) {
        Raw raw[DEEP];
        EACH_ROW(n) raw[n] = fetch(x, ldx, r + n * step, t);
        EACH_ROW(n) {
            const Floats f = widened(raw[n]);
            EACH(i) sum.v[i] += f.v[i];
        }
    }
    sum = sum_rows(sum, buffer);
    EACH(i) sum.v[i] /= area;
    if (threadIdx.y == 0 && t.inside) store(y + (size_t)blockIdx.y * cols + t.col, sum);
}

// dx = g[n, c] / area in every row of the sample. Traffic: reads g, writes dx, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    global_avg_pool_gradient(const T* __restrict__ g, T* __restrict__ dx, int ldd,
                             int rows, int cols, int area) {
    const Tile t = tile(rows, cols, area);
    if (!t.inside) return;
    Floats f = load(g + (size_t)blockIdx.y * cols + t.col);
    EACH(i) f.v[i] /= area;
    for (int r = t.begin; r < t.end; r += blockDim.y)
        store(dx + (size_t)r * ldd + t.col, f);
}
