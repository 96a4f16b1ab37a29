/* Normalisation and its gradients on a (rows, channels) matrix, a channel a column.

   x may be a slice of a wider buffer: its rows are ldx apart, all others lie close. Sums
   are taken in fixed blocks of rows, in float within a block and in double over the
   blocks, so that they do not depend on the number of threads. */
#include <math.h>

#include "pool.h"
#include "vec.h"

#define BLOCK 512 /* rows */

typedef struct {
  const float *g, *x, *y, *mean, *a, *b, *c;
  float *out;
  double *sums; /* blocks x (2, channels) */
  long rows, channels, ldx;
  int relu;
} norm;

INLINE long blocks(long rows) { return (rows + BLOCK - 1) / BLOCK; }

INLINE vec where_positive(vec v, vec y) { return (vec)((ivec)v & (y > (vec){0})); }

INLINE vec relu(vec v) { return (vec)((ivec)v & ~(v <= (vec){0})); } /* NaN stays */

/* One vector of channels over the rows of a block: Σ (x - k) and Σ (x - k)². */
static void moments_block(const void *job, long index) {
  const norm *p = job;
  long from = index * BLOCK, to = from + BLOCK < p->rows ? from + BLOCK : p->rows;
  double *first = p->sums + index * 2 * p->channels, *second = first + p->channels;
  long j = 0;
  for (; j + VL <= p->channels; j += VL) {
    vec s[4] = {{0}}, q[4] = {{0}}, k = load(p->x + j);
    long r = from;
    const float *x = p->x + r * p->ldx + j;
    for (; r + 4 <= to; r += 4, x += 4 * p->ldx)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        vec d = load(x + i * p->ldx) - k;
        s[i] += d, q[i] += d * d;
      }
    for (; r < to; r++, x += p->ldx) {
      vec d = load(x) - k;
      s[0] += d, q[0] += d * d;
    }
    for (int l = 0; l < VL; l++) {
      first[j + l] = (double)s[0][l] + s[1][l] + s[2][l] + s[3][l];
      second[j + l] = (double)q[0][l] + q[1][l] + q[2][l] + q[3][l];
    }
  }
  for (; j < p->channels; j++) {
    double s = 0, q = 0;
    for (long r = from; r < to; r++) {
      double d = (double)p->x[r * p->ldx + j] - p->x[j];
      s += d, q += d * d;
    }
    first[j] = s, second[j] = q;
  }
}

/* Mean and variance (1/M) of each channel, about the first row so that a mean far above
   the deviation costs no digits. `sums` has room for blocks x 2 x channels doubles. */
void tinyflow_moments(const float *x, long rows, long channels, long ldx, double *sums,
                      float *mean, float *var) {
  norm p = {.x = x, .sums = sums, .rows = rows, .channels = channels, .ldx = ldx};
  run_tasks(moments_block, &p, blocks(rows));
  for (long j = 0; j < channels; j++) {
    double s = 0, q = 0;
    for (long i = 0; i < blocks(rows); i++)
      s += sums[i * 2 * channels + j], q += sums[(i * 2 + 1) * channels + j];
    s /= rows, q = q / rows - s * s;
    mean[j] = (float)(x[j] + s), var[j] = (float)(q > 0 ? q : 0);
  }
}

static void normalize_block(const void *job, long index) {
  const norm *p = job;
  long from = index * BLOCK, to = from + BLOCK < p->rows ? from + BLOCK : p->rows;
  for (long r = from; r < to; r++) {
    const float *x = p->x + r * p->ldx, *g = p->g + r * p->channels;
    float *y = p->out + r * p->channels;
    long j = 0;
    for (; j + VL <= p->channels; j += VL) {
      vec v = load(x + j) * load(p->a + j) + load(p->c + j);
      if (p->g != NULL) v = v + load(g + j);
      store(y + j, p->relu ? relu(v) : v);
    }
    for (; j < p->channels; j++) {
      float v = fmaf(x[j], p->a[j], p->c[j]);
      if (p->g != NULL) v = v + g[j];
      y[j] = p->relu && v <= 0 ? 0 : v;
    }
  }
}

/* y = scale x + shift (+ residual), and 0 where that is not positive with `relu`. */
void tinyflow_normalize(const float *x, long ldx, const float *scale, const float *shift,
                        const float *residual, int relu, float *y, long rows,
                        long channels) {
  norm p = {.g = residual, .x = x, .a = scale, .c = shift, .out = y, .rows = rows,
            .channels = channels, .ldx = ldx, .relu = relu};
  run_tasks(normalize_block, &p, blocks(rows));
}

/* Σ g and Σ g (x - mean); g is masked by y and written out if y is given. */
static void sums_block(const void *job, long index) {
  const norm *p = job;
  long from = index * BLOCK, to = from + BLOCK < p->rows ? from + BLOCK : p->rows;
  double *first = p->sums + index * 2 * p->channels, *second = first + p->channels;
  long c = p->channels, j = 0;
  for (; j + VL <= c; j += VL) {
    vec s[2] = {{0}}, q[2] = {{0}}, mean = load(p->mean + j);
    for (long r = from; r < to; r++) {
      vec g = load(p->g + r * c + j);
      if (p->y != NULL) {
        g = where_positive(g, load(p->y + r * c + j));
        store(p->out + r * c + j, g);
      }
      s[r & 1] += g, q[r & 1] += g * (load(p->x + r * p->ldx + j) - mean);
    }
    for (int l = 0; l < VL; l++) {
      first[j + l] = (double)s[0][l] + s[1][l];
      second[j + l] = (double)q[0][l] + q[1][l];
    }
  }
  for (; j < c; j++) {
    double s = 0, q = 0;
    for (long r = from; r < to; r++) {
      float g = p->g[r * c + j];
      if (p->y != NULL) p->out[r * c + j] = g = p->y[r * c + j] > 0 ? g : 0;
      s += g, q += (double)g * (p->x[r * p->ldx + j] - p->mean[j]);
    }
    first[j] = s, second[j] = q;
  }
}

void tinyflow_normalize_sums(const float *g, const float *x, long ldx, const float *mean,
                             const float *y, float *masked, double *sums, float *sum_g,
                             float *sum_gx, long rows, long channels) {
  norm p = {.g = g, .x = x, .y = y, .mean = mean, .out = masked, .sums = sums,
            .rows = rows, .channels = channels, .ldx = ldx};
  run_tasks(sums_block, &p, blocks(rows));
  for (long j = 0; j < channels; j++) {
    double s = 0, q = 0;
    for (long i = 0; i < blocks(rows); i++)
      s += sums[i * 2 * channels + j], q += sums[(i * 2 + 1) * channels + j];
    sum_g[j] = (float)s, sum_gx[j] = (float)q;
  }
}

static void input_grad_block(const void *job, long index) {
  const norm *p = job;
  long from = index * BLOCK, to = from + BLOCK < p->rows ? from + BLOCK : p->rows;
  for (long r = from; r < to; r++) {
    const float *x = p->x + r * p->ldx, *g = p->g + r * p->channels;
    float *dx = p->out + r * p->channels;
    long j = 0;
    for (; j + VL <= p->channels; j += VL)
      store(dx + j, load(g + j) * load(p->a + j) + load(x + j) * load(p->b + j) +
                        load(p->c + j));
    for (; j < p->channels; j++) dx[j] = g[j] * p->a[j] + x[j] * p->b[j] + p->c[j];
  }
}

/* dx = a g + b x + c. */
void tinyflow_normalize_input_grad(const float *g, const float *x, long ldx,
                                   const float *a, const float *b, const float *c,
                                   float *dx, long rows, long channels) {
  norm p = {.g = g, .x = x, .a = a, .b = b, .c = c, .out = dx, .rows = rows,
            .channels = channels, .ldx = ldx};
  run_tasks(input_grad_block, &p, blocks(rows));
}
