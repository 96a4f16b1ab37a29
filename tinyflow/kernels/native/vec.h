/* Vectors of VL floats, in the compiler's own notation, and the one inner loop.

   VL is the width of the machine's registers; nothing else depends on the machine. */
#ifndef TINYFLOW_VEC_H
#define TINYFLOW_VEC_H

#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#define ROWS_WIDE 12 /* rows of a tile two vectors wide: 24 accumulators of 32 */
#define ROWS_SLIM 16 /* of a tile one vector wide */
#elif defined(__AVX__)
#define VL 8
#define ROWS_WIDE 6 /* 12 accumulators of 16 */
#define ROWS_SLIM 8
#else
#define VL 4
#define ROWS_WIDE 6
#define ROWS_SLIM 8
#endif
#define NR (2 * VL) /* columns of a wide tile */

typedef float vec __attribute__((vector_size(4 * VL)));
typedef int ivec __attribute__((vector_size(4 * VL)));
typedef float uvec __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int uivec __attribute__((vector_size(4 * VL), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { return *(const uvec *)p; }
INLINE void store(float *p, vec v) { *(uvec *)p = v; }

INLINE vec pick(ivec where, vec a, vec b) {
  return (vec)(((ivec)a & where) | ((ivec)b & ~where));
}

/* 0 where that is not positive; a NaN stays one, and lets its gradient pass. */
INLINE vec relu(vec x) { return (vec)((ivec)x & ~(x <= (vec){0})); }
INLINE vec relu_back(vec g, vec y) { return (vec)((ivec)g & ~(y <= (vec){0})); }

/* VL rows of VL floats, transposed in place. */
INLINE void transpose(vec *v) {
#if defined(__clang__)
  float t[VL][VL];
  for (int i = 0; i < VL; i++)
    for (int j = 0; j < VL; j++) t[j][i] = v[i][j];
  memcpy(v, t, sizeof t);
#else /* log2(VL) perfect shuffles */
#if VL == 16
  const ivec low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
#elif VL == 8
  const ivec low = {0, 8, 1, 9, 2, 10, 3, 11};
#else
  const ivec low = {0, 4, 1, 5};
#endif
  const ivec high = low + VL / 2;
#pragma GCC unroll 4
  for (int step = VL; step > 1; step /= 2) {
    vec t[VL];
#pragma GCC unroll 8
    for (int i = 0; i < VL / 2; i++) {
      t[2 * i] = __builtin_shuffle(v[i], v[i + VL / 2], low);
      t[2 * i + 1] = __builtin_shuffle(v[i], v[i + VL / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) v[i] = t[i];
  }
#endif
}

/* acc[i][j] += Σ_d a_i[d] b[d][j] for `mr` rows a_i = a + i lda and nv vectors of
   columns; b is packed, nv VL floats per d. mr and nv are constants at each call. */
INLINE void accumulate(const int mr, const int nv, vec acc[][2], const float *a,
                       ptrdiff_t lda, const float *b, ptrdiff_t depth) {
  const float *row[6];
#pragma GCC unroll 6
  for (int i = 0; i < 6; i++)
    if (3 * i < mr) row[i] = a + 3 * i * lda;
  for (ptrdiff_t d = 0; d < depth; d++) {
    vec b0 = load(b), b1;
    if (nv == 2) b1 = load(b + VL);
    b += nv * VL;
#pragma GCC unroll 18
    for (int i = 0; i < mr; i++) {
      float s = row[i / 3][(i % 3) * lda];
      acc[i][0] += s * b0;
      if (nv == 2) acc[i][1] += s * b1;
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++)
      if (3 * i < mr) row[i]++;
  }
}

/* The same for a single row, four terms of the sum side by side in acc[0] ... acc[3]: one
   after the other, each would wait for the one before. */
INLINE void accumulate_row(const int nv, vec acc[][2], const float *a, const float *b,
                           ptrdiff_t depth) {
  ptrdiff_t d = 0;
  for (; d + 4 <= depth; d += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++, b += nv * VL) {
      acc[i][0] += a[d + i] * load(b);
      if (nv == 2) acc[i][1] += a[d + i] * load(b + VL);
    }
  for (; d < depth; d++, b += nv * VL) {
    acc[0][0] += a[d] * load(b);
    if (nv == 2) acc[0][1] += a[d] * load(b + VL);
  }
}
#endif
