/* Elementwise passes over flat arrays: sums, and the optimisers. */
#include <math.h>

#include "pool.h"
#include "vec.h"

#define BLOCK 16384 /* entries */

typedef struct {
  float *p, *m, *v;
  const float *g;
  long size;
  const float *o; /* options */
} pass;

#define EACH(index, size)                                            \
  long from = (index) * BLOCK, to = from + BLOCK < (size) ? from + BLOCK : (size); \
  for (long i = from; i < to; i++)

static void each_block(task_fn f, const pass *p) {
  run_tasks(f, p, (p->size + BLOCK - 1) / BLOCK);
}

typedef struct {
  const float *a, *b;
  float *y;
  long lda, ldb, ldy, rows, cols, block;
} sum;

static void add(const void *job, long index) {
  const sum *p = job;
  long from = index * p->block;
  long to = from + p->block < p->rows ? from + p->block : p->rows;
  for (long r = from; r < to; r++) {
    const float *a = p->a + r * p->lda, *b = p->b + r * p->ldb;
    float *y = p->y + r * p->ldy;
    for (long i = 0; i < p->cols; i++) y[i] = a[i] + b[i];
  }
}

static void add_flat(const void *job, long index) {
  const sum *p = job;
  EACH(index, p->cols) p->y[i] = p->a[i] + p->b[i];
}

/* y = a + b, row by row; rows are lda, ldb and ldy apart. */
void tinyflow_add(const float *a, long lda, const float *b, long ldb, float *y, long ldy,
                  long rows, long cols) {
  if (rows < 1 || cols < 1) return;
  long block = cols < BLOCK ? BLOCK / cols : 1;
  sum p = {a, b, y, lda, ldb, ldy, rows, cols, block};
  if (rows == 1)
    run_tasks(add_flat, &p, (cols + BLOCK - 1) / BLOCK);
  else
    run_tasks(add, &p, (rows + block - 1) / block);
}

/* o: learning rate, weight decay, momentum, Nesterov or not, 1 - dampening (1 at the
   first step). */
static void sgd(const void *job, long index) {
  const pass *q = job;
  float lr = q->o[0], decay = q->o[1], momentum = q->o[2], fresh = q->o[4];
  int nesterov = q->o[3] != 0;
  if (q->m == NULL) {
    EACH(index, q->size) q->p[i] -= lr * (q->g[i] + decay * q->p[i]);
  } else {
    EACH(index, q->size) {
      float g = q->g[i] + decay * q->p[i], b = momentum * q->m[i] + fresh * g;
      q->m[i] = b;
      q->p[i] -= lr * (nesterov ? g + momentum * b : b);
    }
  }
}

void tinyflow_sgd(float *p, const float *g, float *momentum, long size,
                  const float *options) {
  pass q = {.p = p, .m = momentum, .g = g, .size = size, .o = options};
  each_block(sgd, &q);
}

/* o: step size lr / (1 - β₁ᵗ), decay in the gradient, factor of p, β₁, β₂,
   1 / √(1 - β₂ᵗ), ε. */
static void adam(const void *job, long index) {
  const pass *q = job;
  float step = q->o[0], decay = q->o[1], keep = q->o[2], beta1 = q->o[3],
        beta2 = q->o[4], correction = q->o[5], eps = q->o[6];
  EACH(index, q->size) {
    float p = keep * q->p[i], g = q->g[i] + decay * p;
    float m = beta1 * q->m[i] + (1 - beta1) * g;
    float v = beta2 * q->v[i] + (1 - beta2) * g * g;
    q->m[i] = m, q->v[i] = v;
    q->p[i] = p - step * m / (sqrtf(v) * correction + eps);
  }
}

void tinyflow_adam(float *p, const float *g, float *m, float *v, long size,
                   const float *options) {
  pass q = {.p = p, .m = m, .v = v, .g = g, .size = size, .o = options};
  each_block(adam, &q);
}
