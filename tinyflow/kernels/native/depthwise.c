/* Depthwise convolution and its two gradients: a kernel for each channel.

   x is (H, W, N, C), y is (H', W', N, C), w is (kh, kw, C). For a run of output pixels
   that meet the same taps, a row (pixel, sample) of y is Σ over those taps of a row of x
   times a row of w; a tile of rows x VL channels stays in registers over the sum. The
   input gradient is the same with the axes' adjoint. In the weight gradient the taps stay
   in registers over a block of rows. What is left of the channels is a vector that ends
   with the last one: some are computed twice, to the same result. */
#include "conv.h"
#include "pool.h"
#include "vec.h"

#define TILE 4      /* rows of a tile */
#define BLOCK 64    /* rows over which the taps of the weight gradient are summed */
#define PARTS 8     /* sums of their own, added in order: threads do not change them */
#define TAPS 256

typedef struct {
  const float *x, *w, *bias; /* the weight gradient: x, g and no bias */
  float *y;                  /* or the sums, PARTS x (kh, kw, C) */
  long n, c;
  axis v, h;
} depthwise;

/* Pixels ox ... end - 1 of output row oy meet the same taps; their rows in x. */
typedef struct {
  long end, rows, ldx, count;
  int taps[TAPS];
  const float *x[TAPS];
} run;

static void start(const depthwise *p, long oy, long ox, run *r) {
  long step = 1;
  for (r->end = ox + 1; r->end < p->h.out; r->end++) {
    long next = step_between(&p->h, r->end - 1);
    if (next == 0 || (next != 1 && p->n > 1) || (r->end > ox + 1 && next != step)) break;
    step = next;
  }
  r->rows = (r->end - ox) * p->n, r->ldx = step * p->c, r->count = 0;
  for (long t = 0; t < p->v.kernel * p->h.kernel; t++) {
    long iy = meets(&p->v, oy, t / p->h.kernel), ix = meets(&p->h, ox, t % p->h.kernel);
    if (iy < 0 || ix < 0) continue;
    r->taps[r->count] = (int)t;
    r->x[r->count++] = p->x + (iy * p->h.in + ix) * p->n * p->c;
  }
}

/* `rows` rows of y, VL channels from c on. */
INLINE void tile(const int rows, const depthwise *p, const run *r, long row, long c,
                 float *y) {
  vec acc[TILE], first = p->bias == NULL ? (vec){0} : load(p->bias + c);
#pragma GCC unroll 4
  for (int i = 0; i < rows; i++) acc[i] = first;
  for (long t = 0; t < r->count; t++) {
    vec w = load(p->w + r->taps[t] * p->c + c);
    const float *x = r->x[t] + row * r->ldx + c;
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) acc[i] += load(x + i * r->ldx) * w;
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; i++) store(y + i * p->c + c, acc[i]);
}

static void conv_row(const void *job, long oy) {
  const depthwise *p = job;
  run r;
  for (long ox = 0; ox < p->h.out; ox = r.end) {
    start(p, oy, ox, &r);
    float *y = p->y + (oy * p->h.out + ox) * p->n * p->c;
    long row = 0, last = p->c - VL;
    for (; row + TILE <= r.rows; row += TILE, y += TILE * p->c)
      for (long c = 0; c < p->c; c += VL)
        tile(TILE, p, &r, row, c < last ? c : last, y);
    for (; row < r.rows; row++, y += p->c)
      for (long c = 0; c < p->c; c += VL) tile(1, p, &r, row, c < last ? c : last, y);
  }
}

/* y = x * w (+ bias), or with adjoint axes the input gradient. C >= VL. */
void tinyflow_depthwise(const float *x, const float *w, const float *bias, float *y,
                        long n, long c, const axis *v, const axis *h) {
  depthwise p = {x, w, bias, y, n, c, *v, *h};
  run_tasks(conv_row, &p, v->out);
}

/* sums[tap] += Σ over rows of g times x at `taps` taps, VL channels from c on, of which
   the first `skip` have been summed. */
INLINE void dot(const int taps, const depthwise *p, const run *r, long tap, long row,
                long rows, const float *g, long c, long skip, float *sums) {
  vec acc[9];
  const float *x[9];
#pragma GCC unroll 9
  for (int t = 0; t < taps; t++) {
    acc[t] = (vec){0};
    x[t] = r->x[tap + t] + row * r->ldx + c;
  }
  for (long i = 0; i < rows; i++) {
    vec sent = load(g + i * p->c + c);
#pragma GCC unroll 9
    for (int t = 0; t < taps; t++) acc[t] += load(x[t] + i * r->ldx) * sent;
  }
#pragma GCC unroll 9
  for (int t = 0; t < taps; t++) {
    float *sum = sums + r->taps[tap + t] * p->c + c;
    if (skip == 0)
      store(sum, load(sum) + acc[t]);
    else
      for (long i = skip; i < VL; i++) sum[i] += acc[t][i];
  }
}

/* All taps of a run, as many at a time as are left of 9, 6, 4 and 1. */
static void sum_run(const depthwise *p, const run *r, const float *g, float *sums) {
  long last = p->c - VL;
  for (long row = 0; row < r->rows; row += BLOCK) {
    long rows = r->rows - row < BLOCK ? r->rows - row : BLOCK;
    const float *from = g + row * p->c;
    for (long c = 0; c < p->c; c += VL) {
      long at = c < last ? c : last, skip = c - at, t = 0;
      for (; t + 9 <= r->count; t += 9) dot(9, p, r, t, row, rows, from, at, skip, sums);
      for (; t + 6 <= r->count; t += 6) dot(6, p, r, t, row, rows, from, at, skip, sums);
      for (; t + 4 <= r->count; t += 4) dot(4, p, r, t, row, rows, from, at, skip, sums);
      for (; t < r->count; t++) dot(1, p, r, t, row, rows, from, at, skip, sums);
    }
  }
}

static void sum_part(const void *job, long part) {
  const depthwise *p = job;
  long size = p->v.kernel * p->h.kernel * p->c;
  float *sums = p->y + part * size;
  memset(sums, 0, size * sizeof(float));
  run r;
  for (long oy = p->v.out * part / PARTS; oy < p->v.out * (part + 1) / PARTS; oy++)
    for (long ox = 0; ox < p->h.out; ox = r.end) {
      start(p, oy, ox, &r);
      sum_run(p, &r, p->w + (oy * p->h.out + ox) * p->n * p->c, sums);
    }
}

/* dw (kh, kw, C) in the first of 8 `sums`. C >= VL. */
void tinyflow_depthwise_weights(const float *g, const float *x, float *sums, long n,
                                long c, const axis *v, const axis *h) {
  depthwise p = {x, g, NULL, sums, n, c, *v, *h};
  run_tasks(sum_part, &p, PARTS);
  long size = v->kernel * h->kernel * c;
  for (long part = 1; part < PARTS; part++)
    for (long i = 0; i < size; i++) sums[i] += sums[part * size + i];
}
