// Windows of images (N, H, W, C) as rows of a matrix, and the way back.
//
// The matrix is (N OH OW, G, KH KW, C / G): for each group a (N OH OW, KH KW C / G)
// matrix, whose rows are G KH KW C / G entries apart, for a product with the weights.
// Output (oy, ox) reads, through tap (u, v), input (oy sh + u dh - top, ox sw + v dw -
// left). `width` is C / G, a multiple of VEC.
#include "common.cuh"

#define GEOMETRY                                                                     \
    int h, int w, int oh, int ow, int kh, int kw, int sh, int sw, int top, int left, \
        int dh, int dw

// columns[(n, oy, ox), group, tap] = x at the tap, 0 in the border. Rows are (output
// pixel, tap) pairs. Traffic: reads x, writes KH KW values per output entry; the floor
// of a product on explicit columns.
extern "C" __global__ void __launch_bounds__(THREADS)
    im2col(const T* __restrict__ x, int ldx, T* __restrict__ columns, int rows, int cols,
           int chunk, int width, GEOMETRY) {
    const Tile t = tile(rows, cols, chunk);
    const int taps = kh * kw, group = t.col / width, c = t.col % width;
    for (int r = t.begin; r < t.end; r += blockDim.y) {
        const int tap = r % taps, pixel = r / taps, line = pixel / ow;
        const int iy = line % oh * sh + tap / kw * dh - top;
        const int ix = pixel % ow * sw + tap % kw * dw - left, n = line / oh;
        Floats f = filled(0.f);
        if (iy >= 0 && iy < h && ix >= 0 && ix < w)
            f = load(x + ((size_t)(n * h + iy) * w + ix) * ldx + t.col);
        const size_t at = ((size_t)pixel * (cols / width) + group) * taps + tap;
        store(columns + at * width + c, f);
    }
}

// x[n, iy, ix] = sum of the entries im2col copied from there, in a fixed order. Rows are
// input pixels. Traffic: reads the columns, writes x, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    col2im(const T* __restrict__ columns, T* __restrict__ x, int ldx, int rows, int cols,
           int chunk, int width, GEOMETRY) {
    const Tile t = tile(rows, cols, chunk);
    const int taps = kh * kw, group = t.col / width, c = t.col % width;
    for (int r = t.begin; r < t.end; r += blockDim.y) {
        const int line = r / w, n = line / h;
        Floats sum = filled(0.f);
        for (int u = 0; u < kh; ++u) {
            const int down = line % h + top - u * dh, oy = down / sh;
            if (down < 0 || down % sh || oy >= oh) continue;
            for (int v = 0; v < kw; ++v) {
                const int right = r % w + left - v * dw, ox = right / sw;
                if (right < 0 || right % sw || ox >= ow) continue;
                const size_t pixel = (size_t)(n * oh + oy) * ow + ox;
                const size_t at = (pixel * (cols / width) + group) * taps + u * kw + v;
                const Floats f = load(columns + at * width + c);
                EACH(i) sum.v[i] += f.v[i];
            }
        }
        store(x + (size_t)r * ldx + t.col, sum);
    }
}
