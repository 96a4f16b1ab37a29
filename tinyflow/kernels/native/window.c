/* Maximum pooling. A pixel is n c floats in a row, so that a window is a maximum of whole
   rows; backward gathers, so that no two threads write to the same pixel. */
#include <stdint.h>

#include "conv.h"
#include "pool.h"
#include "vec.h"

typedef struct {
  const float *x;
  float *y;
  uint8_t *tap;
  long size; /* floats in a pixel */
  axis v, h;
} window;

typedef uint8_t bytes __attribute__((vector_size(VL), aligned(1), may_alias));

static void max_row(const void *job, long oy) {
  const window *p = job;
  for (long ox = 0; ox < p->h.out; ox++) {
    const float *x[256];
    int taps[256], met = 0;
    for (int t = 0; t < p->v.kernel * p->h.kernel; t++) {
      long iy = meets(&p->v, oy, t / p->h.kernel), ix = meets(&p->h, ox, t % p->h.kernel);
      if (iy < 0 || ix < 0) continue;
      x[met] = p->x + (iy * p->h.in + ix) * p->size;
      taps[met++] = t;
    }
    float *y = p->y + (oy * p->h.out + ox) * p->size;
    uint8_t *tap = p->tap + (oy * p->h.out + ox) * p->size;
    long last = p->size - VL;
    for (long at = 0; last >= 0 && at < p->size; at += VL) {
      long i = at < last ? at : last; /* some are computed twice, to the same result */
      vec best = load(x[0] + i); /* the first maximum wins, NaN over all */
      ivec from = (ivec){0} + taps[0];
      for (int m = 1; m < met; m++) {
        vec v = load(x[m] + i);
        ivec better = (v > best) | (v != v), now = (ivec){0} + taps[m];
        best = pick(better, v, best);
        from = (now & better) | (from & ~better);
      }
      store(y + i, best);
      *(bytes *)(tap + i) = __builtin_convertvector(from, bytes);
    }
    for (long i = 0; last < 0 && i < p->size; i++) {
      y[i] = x[0][i], tap[i] = taps[0];
      for (int m = 1; m < met; m++)
        if (x[m][i] > y[i] || x[m][i] != x[m][i]) y[i] = x[m][i], tap[i] = taps[m];
    }
  }
}

/* y and which tap it came from; every window must meet the map. */
void tinyflow_max_pool(const float *x, float *y, uint8_t *tap, long size, const axis *v,
                       const axis *h) {
  window p = {x, y, tap, size, *v, *h};
  run_tasks(max_row, &p, v->out);
}

static void gather_row(const void *job, long iy) {
  const window *p = job;
  for (long ix = 0; ix < p->h.out; ix++) {
    float *dx = p->y + (iy * p->h.out + ix) * p->size;
    for (long i = 0; i < p->size; i++) dx[i] = 0;
    for (long t = 0; t < p->v.kernel * p->h.kernel; t++) {
      long oy = meets(&p->v, iy, t / p->h.kernel), ox = meets(&p->h, ix, t % p->h.kernel);
      if (oy < 0 || ox < 0) continue;
      long at = (oy * p->h.in + ox) * p->size;
      const float *g = p->x + at;
      const uint8_t *tap = p->tap + at;
      for (long i = 0; i < p->size; i++) {
        float from = g[i]; /* read in any case: then this is a loop of vectors */
        dx[i] += tap[i] == t ? from : 0;
      }
    }
  }
}

/* dx = Σ g over the windows whose maximum came from here; adjoint axes. */
void tinyflow_max_pool_grad(const float *g, const uint8_t *tap, float *dx, long size,
                            const axis *v, const axis *h) {
  window p = {g, dx, (uint8_t *)tap, size, *v, *h};
  run_tasks(gather_row, &p, v->out);
}
