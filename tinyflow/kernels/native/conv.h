/* A window over a map, and what it computes, shared by the convolutions. */
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

/* Whether outputs o and o + 1 meet the same taps at inputs one step apart; the step in
   pixels, or 0 if not. */
static inline long step_between(const axis *a, long o) {
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
#endif
