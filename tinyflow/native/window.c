/* Maximum pooling. A pixel is n c floats in a row, so that a window is a maximum of whole
   rows; backward gathers, so that no two threads write to the same pixel. */
#include <math.h>
#include <stdint.h>

#include "conv.h"
#include "pool.h"

typedef struct {
  const float *x;
  float *y;
  uint8_t *tap;
  long size; /* floats in a pixel */
  axis v, h;
} window;

static void max_row(const void *job, long oy) {
  const window *p = job;
  for (long ox = 0; ox < p->h.out; ox++) {
    long at = (oy * p->h.out + ox) * p->size;
    float *y = p->y + at;
    uint8_t *tap = p->tap + at;
    int seen = 0;
    for (long t = 0; t < p->v.kernel * p->h.kernel; t++) {
      long iy = meets(&p->v, oy, t / p->h.kernel), ix = meets(&p->h, ox, t % p->h.kernel);
      if (iy < 0 || ix < 0) continue;
      const float *x = p->x + (iy * p->h.in + ix) * p->size;
      for (long i = 0; i < p->size; i++) { /* the first maximum wins, NaN over all */
        int better = !seen || x[i] > y[i] || x[i] != x[i];
        y[i] = better ? x[i] : y[i];
        tap[i] = better ? (uint8_t)t : tap[i];
      }
      seen = 1;
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
      for (long i = 0; i < p->size; i++) dx[i] += tap[i] == t ? g[i] : 0;
    }
  }
}

/* dx = Σ g over the windows whose maximum came from here; adjoint axes. */
void tinyflow_max_pool_grad(const float *g, const uint8_t *tap, float *dx, long size,
                            const axis *v, const axis *h) {
  window p = {g, dx, (uint8_t *)tap, size, *v, *h};
  run_tasks(gather_row, &p, v->out);
}
