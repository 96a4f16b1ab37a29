/* The weight gradient of a convolution, without columns.

   dw[u, v] (K, C) = Σ over output pixels and samples of g (K) times x (C) at the place
   the tap meets: a product of two matrices whose rows are (pixel, sample). A tile of
   K x C entries stays in registers over a run of rows; blocks of pixels stay in the
   cache over all taps and tiles. With few channels in x (images) the roles of g and x are
   exchanged, (C, K), and the answer transposed. Where the tiles are few, the map is cut into parts with
   a sum of their own, added in order at the end: the result does not depend on the
   number of threads. */
#include "conv.h"
#include "pool.h"
#include "vec.h"

#define TALL (VL == 16 ? 8 : 4) /* rows (channels of g) of a tile */
#define BLOCK 256 /* rows of g and x handled at a time */

typedef struct {
  const float *g, *x;
  float *sums; /* parts x (kh, kw, rows, cols) */
  float *dw;   /* (kh, kw, K, C) */
  long n, c, k, rows, cols, tiles, parts;
  long ldg, ldx; /* floats from row to row of g and x */
  int swapped; /* rows are x's channels and columns g's, not the other way round */
  axis v, h;
} weights;

/* tile += Σ_r g[r, 0 … mr - 1]ᵀ x[r, 0 … nv VL - 1]. */
INLINE void outer(const int mr, const int nv, const float *g, ptrdiff_t ldg,
                  const float *x, ptrdiff_t ldx, long count, float *dw, ptrdiff_t ldw,
                  long columns) {
  vec acc[16][2];
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++) acc[i][0] = acc[i][1] = (vec){0};
  for (long r = 0; r < count; r++, g += ldg, x += ldx) {
    vec b0 = load(x), b1;
    if (nv == 2) b1 = load(x + VL);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
      acc[i][0] += g[i] * b0;
      if (nv == 2) acc[i][1] += g[i] * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++, dw += ldw) {
    if (columns == nv * VL) {
      store(dw, load(dw) + acc[i][0]);
      if (nv == 2) store(dw + VL, load(dw + VL) + acc[i][1]);
    } else {
      const float *a = (const float *)acc[i];
      for (long j = 0; j < columns; j++) dw[j] += a[j];
    }
  }
}

/* All rows of one tap's columns: r is `p->rows` wide, c the source of the columns. */
INLINE void tap(const int tall, const int nv, const weights *p, const float *r,
                ptrdiff_t ldr, const float *c, ptrdiff_t ldc, long count, float *out,
                long columns) {
  long i = 0;
  for (; i + tall <= p->rows; i += tall)
    outer(tall, nv, r + i, ldr, c, ldc, count, out + i * p->cols, p->cols, columns);
  for (; i + 3 <= p->rows; i += 3)
    outer(3, nv, r + i, ldr, c, ldc, count, out + i * p->cols, p->cols, columns);
  for (; i < p->rows; i++)
    outer(1, nv, r + i, ldr, c, ldc, count, out + i * p->cols, p->cols, columns);
}

/* One run of rows (pixels times samples) at one tap. */
static void run(const weights *p, const float *g, const float *x, ptrdiff_t ldx,
                long count, float *out, long c0, float *copy) {
  int nv = p->cols - c0 > VL ? 2 : 1;
  long width = nv * VL, columns = p->cols - c0 < width ? p->cols - c0 : width;
  const float *r = p->swapped ? x : g, *c = (p->swapped ? g : x) + c0;
  ptrdiff_t ldr = p->swapped ? ldx : p->ldg, ldc = p->swapped ? p->ldg : ldx;
  if (copy != NULL) {
    memset(copy, 0, count * width * sizeof(float));
    for (long i = 0; i < count; i++)
      memcpy(copy + i * width, c + i * ldc, columns * sizeof(float));
    c = copy, ldc = width;
  }
  if (nv == 2)
    tap(TALL, 2, p, r, ldr, c, ldc, count, out, columns);
  else
    tap(2 * TALL, 1, p, r, ldr, c, ldc, count, out, columns);
}

static void task(const void *job, long index) {
  const weights *p = job;
  long c0 = index / p->parts * NR, part = index % p->parts;
  long width = p->cols - c0 > VL ? NR : VL;
  long columns = p->cols - c0 < width ? p->cols - c0 : width;
  long taps = p->v.kernel * p->h.kernel, size = p->rows * p->cols;
  float *sums = p->sums + part * taps * size + c0, *copy = NULL;
  for (long i = 0; i < taps * p->rows; i++)
    memset(sums + i * p->cols, 0, columns * sizeof(float));
  if (columns < width) { /* whole vectors are read: not beyond the end of the map */
    copy = workspace(1, (BLOCK + p->n) * width * sizeof(float));
    if (copy == NULL) return;
  }
  long from = p->v.out * part / p->parts, to = p->v.out * (part + 1) / p->parts;
  long span = BLOCK / p->n > 1 ? BLOCK / p->n : 1;
  for (long oy = from; oy < to; oy++)
    for (long ox = 0; ox < p->h.out; ox += span)
      for (long t = 0; t < taps; t++) {
        long iy = meets(&p->v, oy, t / p->h.kernel), v = t % p->h.kernel, a = ox;
        long end = ox + span < p->h.out ? ox + span : p->h.out;
        while (a < end && meets(&p->h, a, v) < 0) a++;
        while (end > a && meets(&p->h, end - 1, v) < 0) end--;
        if (iy < 0 || a == end) continue;
        /* Stride 1, or one sample: the rows of all pixels are evenly spaced. */
        long pixels = p->h.stride == 1 || p->n == 1 ? end - a : 1;
        for (; a < end; a += pixels)
          run(p, p->g + (oy * p->h.out + a) * p->n * p->ldg,
              p->x + (iy * p->h.in + meets(&p->h, a, v)) * p->n * p->ldx,
              p->n == 1 ? p->h.stride * p->ldx : p->ldx, pixels * p->n, sums + t * size, c0,
              copy);
      }
}

/* Sums the parts in order, for a share of all entries. */
static void collect(const void *job, long index) {
  const weights *p = job;
  long size = p->v.kernel * p->h.kernel * p->k * p->c, step = (size + 15) / 16;
  long from = index * step, to = from + step < size ? from + step : size;
  for (long part = 1; part < p->parts; part++)
    for (long i = from; i < to; i++) p->sums[i] += p->sums[part * size + i];
  if (!p->swapped) return;
  for (long i = from; i < to; i++) {
    long t = i / (p->c * p->k), c = i / p->k % p->c, k = i % p->k;
    p->dw[(t * p->k + k) * p->c + c] = p->sums[i];
  }
}

static weights plan(long n, long c, long k, const axis *v, const axis *h) {
  weights p = {NULL, NULL, NULL, NULL, n, c, k, k, c, 0, 0, k, c, 0, *v, *h};
  if (c <= VL / 2 && k > c) p.swapped = 1, p.rows = c, p.cols = k;
  p.tiles = (p.cols + NR - 1) / NR;
  p.parts = (8 + p.tiles - 1) / p.tiles;
  if (p.parts > v->out) p.parts = v->out;
  return p;
}

/* Floats of `sums` that tinyflow_conv_weights needs. */
long tinyflow_weights_room(long n, long c, long k, const axis *v, const axis *h) {
  weights p = plan(n, c, k, v, h);
  return p.parts == 1 && !p.swapped ? 0 : p.parts * v->kernel * h->kernel * c * k;
}

/* dw (kh, kw, K, C); `sums` is room for intermediate sums, or NULL if none is needed. */
void tinyflow_conv_weights(const float *g, long ldg, const float *x, long ldx, float *dw,
                           float *sums, long n, long c, long k, const axis *v,
                           const axis *h) {
  weights p = plan(n, c, k, v, h);
  p.ldg = ldg, p.ldx = ldx;
  p.g = g, p.x = x, p.dw = dw, p.sums = sums == NULL ? dw : sums;
  run_tasks(task, &p, p.tiles * p.parts);
  if (sums == NULL) return;
  run_tasks(collect, &p, 16);
  if (!p.swapped) memcpy(dw, p.sums, v->kernel * h->kernel * c * k * sizeof(float));
}
