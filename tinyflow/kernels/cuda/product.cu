// The product of two matrices in any memory order, for a step that is being captured:
// CuPy refuses cuBLAS then. A plain tiled kernel, the last resort behind cuDNN.
#include "common.cuh"

#define TILE 64              // rows and columns of the result a block computes
#define DEPTH 16             // terms of the sums it takes at a time
#define SIDE (TILE / 16)     // rows and columns of a thread; a block has 16 x 16

// A tile of x into shared memory: entry (u, v) of the result's rows (or columns) from
// `first` on and of the terms from `term` on; zero beyond the matrix.
__device__ __forceinline__ void fill(float (*tile)[TILE + 1], const T* x,
                                     long long step, long long term_step, int first,
                                     int count, int term, int terms) {
    const int me = threadIdx.y * 16 + threadIdx.x;
    for (int i = me; i < TILE * DEPTH; i += 256) {
        // Neighbouring threads read neighbouring entries, whichever axis that is.
        const int v = term_step == 1 ? i % DEPTH : i / TILE;
        const int u = term_step == 1 ? i / DEPTH : i % TILE;
        const bool inside = first + u < count && term + v < terms;
        tile[v][u] =
            inside ? as_float(x[(first + u) * step + (term + v) * term_step]) : 0.f;
    }
}

// c (m, n), row-major = a (m, k) b (k, n); the steps are those of the rows and columns
// of a and b, in entries. The sums are float32, in rising order of k: always the same
// bits. Traffic: a is read n / TILE times, b m / TILE times.
extern "C" __global__ void __launch_bounds__(THREADS)
    product(const T* a, long long a_row, long long a_col, const T* b, long long b_row,
            long long b_col, T* c, int m, int n, int k) {
    __shared__ float as[DEPTH][TILE + 1];
    __shared__ float bs[DEPTH][TILE + 1];
    const int row = blockIdx.y * TILE, col = blockIdx.x * TILE;
    float sums[SIDE][SIDE];
    for (int i = 0; i < SIDE; ++i)
        for (int j = 0; j < SIDE; ++j) sums[i][j] = 0.f;
    for (int term = 0; term < k; term += DEPTH) {
        fill(as, a, a_row, a_col, row, m, term, k);
        fill(bs, b, b_col, b_row, col, n, term, k);
        __syncthreads();
        for (int v = 0; v < DEPTH; ++v)
            for (int i = 0; i < SIDE; ++i)
                for (int j = 0; j < SIDE; ++j)
                    sums[i][j] += as[v][threadIdx.y + 16 * i] * bs[v][threadIdx.x + 16 * j];
        __syncthreads();
    }
    for (int i = 0; i < SIDE; ++i)
        for (int j = 0; j < SIDE; ++j) {
            const int y = row + threadIdx.y + 16 * i, x = col + threadIdx.x + 16 * j;
            if (y < m && x < n) put(c + (size_t)y * n + x, sums[i][j]);
        }
}
