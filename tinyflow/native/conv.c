/* Convolution and its input gradient, without columns.

   x is (H, W, N, C), y is (H', W', N, K). For a run of output pixels that meet the same
   taps, y's rows (pixel, sample) are a sum over those taps of products

       rows of x (C long, `lda` apart)  ·  a panel of the weights (C, NR)

   and a tile of rows x NR columns stays in registers over the whole sum: every input is
   read where it lies, padding is never multiplied, every output is written once.

   The input gradient is the same sum with the axes' adjoint and w not transposed. */
#include "conv.h"
#include "pool.h"
#include "vec.h"

typedef struct {
  const float *x, *w, *bias;
  float *y;
  long n, c, k; /* samples, channels of x, channels of y */
  axis v, h;    /* vertical, horizontal */
  int transposed; /* w is (kh, kw, K, C), else (kh, kw, C, K) */
  long tiles, chunks;
} conv;

/* panel[d][j] = weight from channel d of x to channel k0 + j of y, zero beyond K. */
static void pack(float *panel, const float *w, long c, long k, long k0, int nv,
                 int transposed) {
  long width = nv * VL, columns = k - k0 < width ? k - k0 : width;
  if (!transposed) {
    for (long d = 0; d < c; d++, panel += width) {
      const float *row = w + d * k + k0;
      if (columns == width) {
        for (int j = 0; j < nv; j++) store(panel + j * VL, load(row + j * VL));
      } else {
        memset(panel, 0, width * sizeof(float));
        memcpy(panel, row, columns * sizeof(float));
      }
    }
    return;
  }
  for (long d0 = 0; d0 < c; d0 += VL) {
    long depth = c - d0 < VL ? c - d0 : VL;
    for (int j0 = 0; j0 < nv; j0++) {
      vec block[VL];
      for (int j = 0; j < VL; j++) {
        long column = j0 * VL + j;
        const float *row = w + (k0 + column) * c + d0;
        block[j] = (vec){0};
        if (column < columns && depth == VL)
          block[j] = load(row);
        else if (column < columns)
          memcpy(&block[j], row, depth * sizeof(float));
      }
      transpose(block);
      for (long d = 0; d < depth; d++)
        store(panel + (d0 + d) * width + j0 * VL, block[d]);
    }
  }
}

typedef struct {
  long count, lda;
  const float *a[256], *b[256]; /* first row of x and panel, tap by tap */
} sum;

/* One tile: `mr` rows from row `first` of the run on. */
INLINE void tile(const int mr, const int nv, const sum *s, long first, long depth,
                 const float *bias, float *y, long ldy, long columns) {
  vec acc[18][2];
#pragma GCC unroll 18
  for (int i = 0; i < mr; i++) {
    acc[i][0] = load(bias);
    if (nv == 2) acc[i][1] = load(bias + VL);
  }
  for (long t = 0; t < s->count; t++)
    accumulate(mr, nv, acc, s->a[t] + first * s->lda, s->lda, s->b[t], depth);
  if (columns == nv * VL) {
#pragma GCC unroll 18
    for (int i = 0; i < mr; i++) {
      store(y + i * ldy, acc[i][0]);
      if (nv == 2) store(y + i * ldy + VL, acc[i][1]);
    }
  } else {
#pragma GCC unroll 18
    for (int i = 0; i < mr; i++) memcpy(y + i * ldy, acc[i], columns * sizeof(float));
  }
}

/* All rows of a run: tiles of full height, then what is left, 4, 2 and 1 at a time. */
INLINE void rows(const int full, const int nv, const sum *s, long count, long depth,
                 const float *bias, float *y, long ldy, long columns) {
  long r = 0;
  for (; r + full <= count; r += full)
    tile(full, nv, s, r, depth, bias, y + r * ldy, ldy, columns);
  for (; r + 4 <= count; r += 4)
    tile(4, nv, s, r, depth, bias, y + r * ldy, ldy, columns);
  for (; r < count; r++)
    tile(1, nv, s, r, depth, bias, y + r * ldy, ldy, columns);
}

/* Whether outputs o and o + 1 meet the same taps at inputs one step apart; the step in
   pixels, or 0 if not. */
static long step_between(const axis *a, long o) {
  long step = 0;
  for (long t = 0; t < a->kernel; t++) {
    long here = meets(a, o, t), next = meets(a, o + 1, t);
    if ((here < 0) != (next < 0)) return 0;
    if (here < 0) continue;
    if (step && next - here != step) return 0;
    step = next - here;
  }
  return step;
}

static void task(const void *job, long index) {
  const conv *p = job;
  long k0 = index / p->chunks * NR, chunk = index % p->chunks;
  int nv = p->k - k0 > VL ? 2 : 1;
  long columns = p->k - k0 < nv * VL ? p->k - k0 : nv * VL, size = p->c * nv * VL;
  float *panel = workspace(0, p->v.kernel * p->h.kernel * size * sizeof(float));
  if (panel == NULL) return;
  char packed[256] = {0};
  float bias[NR] = {0};
  if (p->bias != NULL) memcpy(bias, p->bias + k0, columns * sizeof(float));
  long from = p->v.out * chunk / p->chunks, to = p->v.out * (chunk + 1) / p->chunks;
  for (long oy = from; oy < to; oy++) {
    for (long ox = 0, end; ox < p->h.out; ox = end) {
      long step = 1;
      for (end = ox + 1; end < p->h.out; end++) {
        long next = step_between(&p->h, end - 1);
        if (next == 0 || (next != 1 && p->n > 1) || (end > ox + 1 && next != step)) break;
        step = next;
      }
      sum s = {0, step * p->c, {0}, {0}};
      for (long u = 0; u < p->v.kernel; u++) {
        long iy = meets(&p->v, oy, u);
        for (long v = 0; iy >= 0 && v < p->h.kernel; v++) {
          long ix = meets(&p->h, ox, v), t = u * p->h.kernel + v;
          if (ix < 0) continue;
          if (!packed[t])
            pack(panel + t * size, p->w + t * p->c * p->k, p->c, p->k, k0, nv,
                 p->transposed);
          packed[t] = 1;
          s.a[s.count] = p->x + (iy * p->h.in + ix) * p->n * p->c;
          s.b[s.count++] = panel + t * size;
        }
      }
      float *y = p->y + (oy * p->h.out + ox) * p->n * p->k + k0;
      long count = (end - ox) * p->n;
      if (nv == 2)
        rows(ROWS_WIDE, 2, &s, count, p->c, bias, y, p->k, columns);
      else
        rows(ROWS_SLIM, 1, &s, count, p->c, bias, y, p->k, columns);
    }
  }
}

/* y = x * w (+ bias), or with adjoint axes the input gradient. Returns 0, or -1 if the
   kernel has more than 256 taps. */
int tinyflow_conv(const float *x, const float *w, const float *bias, float *y, long n,
                  long c, long k, const axis *v, const axis *h, int transposed) {
  if (v->kernel * h->kernel > 256) return -1;
  conv p = {x, w, bias, y, n, c, k, *v, *h, transposed, 0, 0};
  p.tiles = (k + NR - 1) / NR;
  /* Panels are packed once per task: as few tasks as keep the threads busy. */
  long wanted = tinyflow_threads() == 1 ? 1 : 4 * tinyflow_threads();
  p.chunks = (wanted + p.tiles - 1) / p.tiles;
  if (p.chunks > v->out) p.chunks = v->out;
  if (p.chunks < 1) p.chunks = 1;
  run_tasks(task, &p, p.tiles * p.chunks);
  return 0;
}
