/* Activations and their gradients, entry by entry over flat arrays. */
#include <float.h>

#include "pool.h"
#include "vec.h"

#define BLOCK 16384 /* entries */

typedef struct {
  const float *g, *x;
  float *y;
  long size;
} pass;

/* e^x for x <= 0 to the last bit or two, 0 far out, NaN at NaN. x = n ln 2 + r, and a
   polynomial in r (Moshier's Cephes, expf); 2^n in two halves, each a normal number. */
INLINE vec exp_of(vec x) {
  const float round = 12582912.f; /* 1.5 · 2²³: what is added to it loses its fraction */
  x = pick(x < -104.f, (vec){0} - 104.f, x);
  vec shifted = x * 1.44269504f + round, n = shifted - round;
  ivec whole = (ivec)shifted - 0x4b400000, half = whole >> 1;
  vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f, p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  return p * (vec)((half + 127) << 23) * (vec)((whole - half + 127) << 23);
}

INLINE vec minus_abs(vec x) { return (vec)((ivec)x | (int)0x80000000); }

/* What is infinite becomes the largest number there is: 0 times it is 0. */
INLINE vec below(vec x) { return pick(x > FLT_MAX, (vec){0} + FLT_MAX, x); }
INLINE vec above(vec x) { return pick(x < -FLT_MAX, (vec){0} - FLT_MAX, x); }

/* With e = e^-|x| nothing cancels, neither in s nor in 1 - s. */
INLINE vec sigmoid(vec x) {
  vec e = exp_of(minus_abs(x));
  return pick(x < 0.f, e, (vec){0} + 1.f) / (1.f + e);
}

INLINE vec sigmoid_back(vec g, vec x) {
  vec e = exp_of(minus_abs(x));
  return g * (e / ((1.f + e) * (1.f + e)));
}

INLINE vec silu(vec x) { return above(x) * sigmoid(x); }

INLINE vec silu_back(vec g, vec x) {
  vec e = exp_of(minus_abs(x)), one = (vec){0} + 1.f, all = 1.f / (1.f + e);
  vec s = pick(x < 0.f, e, one) * all, rest = pick(x < 0.f, one, e) * all;
  return g * (s * (1.f + below(above(x)) * rest));
}

INLINE vec relu6(vec x) { return relu(pick(x >= 6.f, (vec){0} + 6.f, x)); }

INLINE vec relu6_back(vec g, vec y) { return pick((y > 0.f) & (y < 6.f), g, (vec){0}); }

INLINE vec load_some(const float *p, long count) {
  vec v = {0};
  if (count >= VL) return load(p);
  memcpy(&v, p, count * sizeof(float));
  return v;
}

INLINE void store_some(float *p, vec v, long count) {
  if (count >= VL)
    store(p, v);
  else
    memcpy(p, &v, count * sizeof(float));
}

/* tinyflow_NAME(x, y, size) and tinyflow_NAME_grad(g, x, dx, size). */
#define ACTIVATION(name)                                                               \
  static void name##_block(const void *job, long index) {                              \
    const pass *p = job;                                                               \
    long to = (index + 1) * BLOCK < p->size ? (index + 1) * BLOCK : p->size;           \
    for (long i = index * BLOCK; i < to; i += VL)                                      \
      store_some(p->y + i, name(load_some(p->x + i, to - i)), to - i);                 \
  }                                                                                    \
  void tinyflow_##name(const float *x, float *y, long size) {                          \
    pass p = {NULL, x, y, size};                                                       \
    run_tasks(name##_block, &p, (size + BLOCK - 1) / BLOCK);                           \
  }                                                                                    \
  static void name##_back_block(const void *job, long index) {                         \
    const pass *p = job;                                                               \
    long to = (index + 1) * BLOCK < p->size ? (index + 1) * BLOCK : p->size;           \
    for (long i = index * BLOCK; i < to; i += VL) {                                    \
      vec g = load_some(p->g + i, to - i), x = load_some(p->x + i, to - i);            \
      store_some(p->y + i, name##_back(g, x), to - i);                                 \
    }                                                                                  \
  }                                                                                    \
  void tinyflow_##name##_grad(const float *g, const float *x, float *dx, long size) {  \
    pass p = {g, x, dx, size};                                                         \
    run_tasks(name##_back_block, &p, (size + BLOCK - 1) / BLOCK);                      \
  }

ACTIVATION(sigmoid)
ACTIVATION(silu)
ACTIVATION(relu)
ACTIVATION(relu6)
