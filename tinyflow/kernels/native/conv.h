/* A window over a map, and what it computes, shared by conv.c and weights.c. */
#ifndef TINYFLOW_CONV_H
#define TINYFLOW_CONV_H

/* One axis of a convolution. Output o reads, through tap t, input
   o stride + t dilation - before; the adjoint exchanges the two. */
typedef struct {
  long in, out, kernel, stride, dilation, before;
  long adjoint;
} axis;

/* The input that output o meets through tap t, or -1. */
static inline long meets(const axis *a, long o, long t) {
  long i = a->adjoint ? o + a->before - t * a->dilation
                      : o * a->stride + t * a->dilation - a->before;
  if (a->adjoint) {
    if (i < 0 || i % a->stride) return -1;
    i /= a->stride;
  }
  return i >= 0 && i < a->in ? i : -1;
}
#endif
