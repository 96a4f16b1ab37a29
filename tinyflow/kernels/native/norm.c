/* Normalisation and its gradients on a (rows, channels) matrix, a channel a column.

   x may be a slice of a wider buffer: its rows are ldx apart, all others lie close. Sums
   are taken in blocks of rows that depend on the matrix alone, in float within a block
   and in double over the blocks: the number of threads changes nothing. */
#include <math.h>

#include "pool.h"
#include "vec.h"

#define STEP 11    /* every so many rows make a sample; odd, unlike most that repeats */
#define TOGETHER 8 /* rows added up in registers before a sum in memory is touched */

typedef struct {
  const float *g, *x, *y, *mean, *a, *b, *c;
  float *out, *sums; /* blocks x (3, channels): near, and the two sums */
  long rows, channels, ldx, block;
  int relu;
} norm;

/* Rows of a block, a multiple of TOGETHER: about 32 k entries, but few enough for sums in
   float to keep their digits. */
static long block_rows(long channels) {
  long rows = 32768 / channels & -TOGETHER;
  return rows < TOGETHER ? TOGETHER : rows > 512 ? 512 : rows;
}

INLINE long blocks(const norm *p) { return (p->rows + p->block - 1) / p->block; }

/* Where a sum may begin: at v, or at 0 if that is not finite. */
INLINE float origin(float v) { return v - v == 0 ? v : 0; }

/* Runs f over all blocks; first and second: the two sums of each channel. Those of the
   moments are moved from what each block was measured about to the first row. */
static int add_up(norm *p, task_fn f, double *first, double *second) {
  long c = p->channels;
  p->sums = workspace(2, blocks(p) * 3 * c * sizeof(float));
  if (p->sums == NULL) return -1;
  run_tasks(f, p, blocks(p));
  memset(first, 0, c * sizeof(double));
  memset(second, 0, c * sizeof(double));
  for (long i = 0; i < blocks(p); i++) {
    const float *near = p->sums + 3 * i * c, *s = near + c, *q = s + c;
    long rest = p->rows - i * p->block, count = rest < p->block ? rest : p->block;
    for (long j = 0; j < c; j++) {
      double moved = p->mean == NULL ? (double)near[j] - origin(p->x[j]) : 0;
      first[j] += s[j] + count * moved;
      second[j] += q[j] + moved * (2. * s[j] + count * moved);
    }
  }
  return 0;
}

/* About the mean of a block: that of every STEP-th row; exact if all rows are alike. */
static void near_mean(const norm *p, long from, long to, float *near) {
  long c = p->channels, samples = (to - from + STEP - 1) / STEP;
  const float *first = p->x + from * p->ldx;
  memset(near, 0, c * sizeof(float));
  for (long r = from + STEP; r < to; r += STEP) {
    const float *x = p->x + r * p->ldx;
    for (long j = 0; j < c; j++) near[j] += x[j] - first[j];
  }
  for (long j = 0; j < c; j++) near[j] = origin(first[j] + near[j] / samples);
}

/* One block's k, Σ (x - k) and Σ (x - k)², k being about its mean. */
static void moments_block(const void *job, long index) {
  const norm *p = job;
  long from = index * p->block, c = p->channels;
  long to = from + p->block < p->rows ? from + p->block : p->rows;
  float *near = p->sums + 3 * index * c, *first = near + c, *second = first + c;
  near_mean(p, from, to, near);
  memset(first, 0, 2 * c * sizeof(float));
  for (long r = from; r < to; r += TOGETHER) {
    long count = to - r < TOGETHER ? to - r : TOGETHER, j = 0;
    const float *x = p->x + r * p->ldx;
    for (; j + VL <= c; j += VL) {
      vec s = {0}, q = {0}, k = load(near + j);
      for (long i = 0; i < count; i++) {
        vec d = load(x + i * p->ldx + j) - k;
        s += d, q += d * d;
      }
      store(first + j, load(first + j) + s), store(second + j, load(second + j) + q);
    }
    for (; j < c; j++) {
      float s = 0, q = 0;
      for (long i = 0; i < count; i++) {
        float d = x[i * p->ldx + j] - near[j];
        s += d, q += d * d;
      }
      first[j] += s, second[j] += q;
    }
  }
}

/* Mean and variance (1/M) of each channel. No value and no mean, however far above the
   deviation, costs digits. `sums` has room for 2 x channels. */
void tinyflow_moments(const float *x, long rows, long channels, long ldx, double *sums,
                      float *mean, float *var) {
  norm p = {.x = x, .rows = rows, .channels = channels, .ldx = ldx,
            .block = block_rows(channels)};
  if (add_up(&p, moments_block, sums, sums + channels)) return;
  for (long j = 0; j < channels; j++) {
    double s = sums[j] / rows, q = sums[channels + j] / rows - s * s;
    mean[j] = (float)(origin(x[j]) + s), var[j] = (float)(q < 0 ? 0 : q); /* NaN stays */
  }
}

static void normalize_block(const void *job, long index) {
  const norm *p = job;
  long from = index * p->block;
  long to = from + p->block < p->rows ? from + p->block : p->rows;
  for (long r = from; r < to; r++) {
    const float *x = p->x + r * p->ldx, *g = p->g + r * p->channels;
    float *y = p->out + r * p->channels;
    long last = p->channels - VL;
    for (long i = 0; last >= 0 && i < p->channels; i += VL) {
      long j = i < last ? i : last; /* some are computed twice, to the same result */
      vec v = load(x + j) * load(p->a + j) + load(p->c + j);
      if (p->g != NULL) v = v + load(g + j);
      store(y + j, p->relu ? relu(v) : v);
    }
    for (long j = 0; last < 0 && j < p->channels; j++) {
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
            .channels = channels, .ldx = ldx, .block = block_rows(channels),
            .relu = relu};
  run_tasks(normalize_block, &p, blocks(&p));
}

/* The same with scale = gamma / sqrt(var + eps) and shift = beta - mean scale; gamma and
   beta may be missing. */
void tinyflow_normalize_by(const float *x, long ldx, const float *mean,
                           const float *var, float eps, const float *gamma,
                           const float *beta, const float *residual, int relu, float *y,
                           long rows, long channels) {
  float *scale = workspace(2, 2 * channels * sizeof(float)), *shift = scale + channels;
  if (scale == NULL) return;
  for (long j = 0; j < channels; j++) {
    float inverse = 1 / sqrtf(var[j] + eps);
    scale[j] = gamma == NULL ? inverse : gamma[j] * inverse;
    shift[j] = (beta == NULL ? 0 : beta[j]) - mean[j] * scale[j];
  }
  tinyflow_normalize(x, ldx, scale, shift, residual, relu, y, rows, channels);
}

/* One block's Σ g and Σ g (x - mean), g masked by y and written out if y is given. */
static void sums_block(const void *job, long index) {
  const norm *p = job;
  long from = index * p->block, c = p->channels;
  long to = from + p->block < p->rows ? from + p->block : p->rows;
  float *first = p->sums + (3 * index + 1) * c, *second = first + c;
  memset(first, 0, 2 * c * sizeof(float));
  for (long r = from; r < to; r += TOGETHER) {
    long count = to - r < TOGETHER ? to - r : TOGETHER, j = 0;
    const float *x = p->x + r * p->ldx;
    for (; j + VL <= c; j += VL) {
      vec s = {0}, q = {0}, mean = load(p->mean + j);
      for (long i = 0; i < count; i++) {
        long at = (r + i) * c + j;
        vec g = load(p->g + at);
        if (p->y != NULL) {
          g = relu_back(g, load(p->y + at));
          store(p->out + at, g);
        }
        s += g, q += g * (load(x + i * p->ldx + j) - mean);
      }
      store(first + j, load(first + j) + s), store(second + j, load(second + j) + q);
    }
    for (; j < c; j++) {
      float s = 0, q = 0;
      for (long i = 0; i < count; i++) {
        long at = (r + i) * c + j;
        float g = p->g[at];
        if (p->y != NULL) p->out[at] = g = p->y[at] <= 0 ? 0 : g;
        s += g, q += g * (x[i * p->ldx + j] - p->mean[j]);
      }
      first[j] += s, second[j] += q;
    }
  }
}

void tinyflow_normalize_sums(const float *g, const float *x, long ldx, const float *mean,
                             const float *y, float *masked, double *sums, float *sum_g,
                             float *sum_gx, long rows, long channels) {
  norm p = {.g = g, .x = x, .y = y, .mean = mean, .out = masked, .rows = rows,
            .channels = channels, .ldx = ldx, .block = block_rows(channels)};
  if (add_up(&p, sums_block, sums, sums + channels)) return;
  for (long j = 0; j < channels; j++)
    sum_g[j] = (float)sums[j], sum_gx[j] = (float)sums[channels + j];
}

static void input_grad_block(const void *job, long index) {
  const norm *p = job;
  long from = index * p->block;
  long to = from + p->block < p->rows ? from + p->block : p->rows;
  for (long r = from; r < to; r++) {
    const float *x = p->x + r * p->ldx, *g = p->g + r * p->channels;
    float *dx = p->out + r * p->channels;
    long last = p->channels - VL;
    for (long i = 0; last >= 0 && i < p->channels; i += VL) {
      long j = i < last ? i : last;
      store(dx + j, load(g + j) * load(p->a + j) + load(x + j) * load(p->b + j) +
                        load(p->c + j));
    }
    for (long j = 0; last < 0 && j < p->channels; j++) dx[j] = g[j] * p->a[j] + x[j] * p->b[j] + p->c[j];
  }
}

/* dx = a g + b x + c. */
void tinyflow_normalize_input_grad(const float *g, const float *x, long ldx,
                                   const float *a, const float *b, const float *c,
                                   float *dx, long rows, long channels) {
  norm p = {.g = g, .x = x, .a = a, .b = b, .c = c, .out = dx, .rows = rows,
            .channels = channels, .ldx = ldx, .block = block_rows(channels)};
  run_tasks(input_grad_block, &p, blocks(&p));
}
