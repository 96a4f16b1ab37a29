/* Convolution and its input gradient, without columns.

   x is (H, W, N, C), y is (H', W', N, K). For a run of output pixels that meet the same
   taps, y's rows (pixel, sample) are a sum over those taps of products

       rows of x (C long, `lda` apart)  ·  a panel of the weights (C, NR)

   and a tile of rows x NR columns stays in registers over the whole sum: every input is
   read where it lies, padding is never multiplied, every output is written once.

   The input gradient is the same sum with the axes' adjoint and w not transposed. A
   group of channels is a convolution of its own, whose rows lie further apart. */
#include "conv.h"
#include "pool.h"
#include "vec.h"

typedef struct {
  const float *x, *w, *bias;
  float *y;
  long n, c, k; /* samples, channels of x, channels of y */
  long ldx, ldy, ldw; /* floats from row to row of x and y, and from tap to tap of w */
  axis v, h;      /* vertical, horizontal */
  int transposed; /* w is (kh, kw, K, C), else (kh, kw, C, K) */
  float *panels;  /* all of w packed beforehand, or NULL: each task packs its own */
  long tiles, chunks;
  int pad; /* a task writes out the padding of its rows before it reads them */
} conv;

#define SMALL 65536    /* weights of at most this many floats stay in a core's cache */
#define TOGETHER 96    /* rows of x that meet all panels before the next ones are read */

/* panel[d][j] = weight from channel d of x to channel k0 + j of y, zero beyond K. */
static void pack(float *panel, const float *w, long c, long k, long k0, int nv,
                 int transposed) {
  long width = nv * VL, columns = k - k0 < width ? k - k0 : width;
  if (!transposed) {
    for (long d = 0; d < c; d++, panel += width) {
      const float *row = w + d * k + k0;
      if (columns == width) {
        for (int j = 0; j < nv; j++) store(panel + j * VL, load(row + j * VL));
      } else {
        memset(panel, 0, width * sizeof(float));
        memcpy(panel, row, columns * sizeof(float));
      }
    }
    return;
  }
  for (long d0 = 0; d0 < c; d0 += VL) {
    long depth = c - d0 < VL ? c - d0 : VL;
    for (int j0 = 0; j0 < nv; j0++) {
      vec block[VL];
      for (int j = 0; j < VL; j++) {
        long column = j0 * VL + j;
        const float *row = w + (k0 + column) * c + d0;
        block[j] = (vec){0};
        if (column < columns && depth == VL)
          block[j] = load(row);
        else if (column < columns)
          memcpy(&block[j], row, depth * sizeof(float));
      }
      transpose(block);
      for (long d = 0; d < depth; d++)
        store(panel + (d0 + d) * width + j0 * VL, block[d]);
    }
  }
}

typedef struct {
  long count, lda;
  int taps[256];
  const float *a[256], *b[256]; /* first row of x and panel, tap by tap */
} sum;

/* One tile: `mr` rows from row `first` of the run on. */
INLINE void tile(const int mr, const int nv, const sum *s, long first, long depth,
                 const float *bias, float *y, long ldy, long columns) {
  vec acc[18][2];
#pragma GCC unroll 18
  for (int i = 0; i < mr; i++) {
    acc[i][0] = load(bias);
    if (nv == 2) acc[i][1] = load(bias + VL);
  }
  if (mr == 1) {
    for (int i = 1; i < 4; i++) acc[i][0] = acc[i][1] = (vec){0};
    for (long t = 0; t < s->count; t++)
      accumulate_row(nv, acc, s->a[t] + first * s->lda, s->b[t], depth);
    for (int j = 0; j < nv; j++)
      acc[0][j] = (acc[0][j] + acc[1][j]) + (acc[2][j] + acc[3][j]);
  } else {
    for (long t = 0; t < s->count; t++)
      accumulate(mr, nv, acc, s->a[t] + first * s->lda, s->lda, s->b[t], depth);
  }
  if (columns == nv * VL) {
#pragma GCC unroll 18
    for (int i = 0; i < mr; i++) {
      store(y + i * ldy, acc[i][0]);
      if (nv == 2) store(y + i * ldy + VL, acc[i][1]);
    }
  } else {
#pragma GCC unroll 18
    for (int i = 0; i < mr; i++) memcpy(y + i * ldy, acc[i], columns * sizeof(float));
  }
}

/* A function for each shape of tile: the compiler then keeps it in registers. */
#define TILE(name, mr, nv)                                                             \
  static __attribute__((noinline)) void name(const sum *s, long first, long depth,     \
                                             const float *bias, float *y, long ldy,    \
                                             long columns) {                           \
    tile(mr, nv, s, first, depth, bias, y, ldy, columns);                              \
  }
typedef void (*tile_fn)(const sum *, long, long, const float *, float *, long, long);
TILE(wide, ROWS_WIDE, 2)
TILE(wide4, 4, 2)
TILE(wide1, 1, 2)
TILE(slim, ROWS_SLIM, 1)
TILE(slim4, 4, 1)
TILE(slim1, 1, 1)

/* All rows of a run: tiles of full height, then what is left, 4 and 1 at a time. */
static void rows(int nv, const sum *s, long first, long count, long depth,
                 const float *bias, float *y, long ldy, long columns) {
  const tile_fn fn[3] = {nv == 2 ? wide : slim, nv == 2 ? wide4 : slim4,
                         nv == 2 ? wide1 : slim1};
  const long height[3] = {nv == 2 ? ROWS_WIDE : ROWS_SLIM, 4, 1};
  long r = 0;
  for (int i = 0; i < 3; i++)
    for (; r + height[i] <= count; r += height[i])
      fn[i](s, first + r, depth, bias, y + r * ldy, ldy, columns);
}

/* Where the panel of a tile and a tap lies among all of them. */
INLINE float *panel_at(const conv *p, float *panels, long tile, long tap) {
  long nv = p->k - tile * NR > VL ? 2 : 1;
  return panels + (tile * p->v.kernel * p->h.kernel * 2 + tap * nv) * p->c * VL;
}

static void pack_one(const conv *p, float *panels, long tile, long tap) {
  pack(panel_at(p, panels, tile, tap), p->w + tap * p->ldw, p->c, p->k, tile * NR,
       p->k - tile * NR > VL ? 2 : 1, p->transposed);
}

static void pack_task(const void *job, long tile) {
  const conv *p = job;
  for (long tap = 0; tap < p->v.kernel * p->h.kernel; tap++)
    pack_one(p, p->panels, tile, tap);
}

/* `count` rows of y in one tile, from row `first` of the run on. */
static void one_tile(const conv *p, float *panels, long tile, sum *s, long first,
                     long count, float *y) {
  long k0 = tile * NR;
  int nv = p->k - k0 > VL ? 2 : 1;
  long columns = p->k - k0 < nv * VL ? p->k - k0 : nv * VL;
  float bias[NR] = {0};
  if (p->bias != NULL) memcpy(bias, p->bias + k0, columns * sizeof(float));
  for (long t = 0; t < s->count; t++) s->b[t] = panel_at(p, panels, tile, s->taps[t]);
  y += first * p->ldy + k0;
  rows(nv, s, first, count, p->c, bias, y, p->ldy, columns);
}

/* The rows of x that output rows from ... to - 1 read, with their padding, and the axes
   to read them by, counted from there. With a single sample there is little to copy, and
   runs as long as the map fill the tiles. NULL if memory ran out. */
static const float *padded(const conv *p, long from, long to, axis *v, axis *h) {
  long height = (to - 1 - from) * v->stride + (v->kernel - 1) * v->dilation + 1;
  long width = (h->out - 1) * h->stride + (h->kernel - 1) * h->dilation + 1;
  long c = p->c, row = width * c, left = h->before * c, first = from * v->stride;
  long taken = (h->in < width - h->before ? h->in : width - h->before) * c;
  float *copy = workspace(4, height * row * sizeof(float));
  if (copy == NULL) return NULL;
  for (long r = 0; r < height; r++) {
    long y = first + r - v->before;
    float *to_row = copy + r * row;
    if (y < 0 || y >= v->in || taken <= 0) {
      memset(to_row, 0, row * sizeof(float));
      continue;
    }
    memset(to_row, 0, left * sizeof(float));
    memcpy(to_row + left, p->x + y * h->in * c, taken * sizeof(float));
    memset(to_row + left + taken, 0, (row - left - taken) * sizeof(float));
  }
  v->in = height, h->in = width, v->before = h->before = 0;
  return copy;
}

static void task(const void *job, long index) {
  const conv *p = job;
  long tile = p->panels ? 0 : index / p->chunks, tiles = p->panels ? p->tiles : tile + 1;
  long chunk = index % p->chunks, taps = p->v.kernel * p->h.kernel;
  float *panels = p->panels;
  char packed[256] = {0};
  if (panels == NULL) {
    float *own = workspace(0, taps * p->c * NR * sizeof(float));
    if (own == NULL) return;
    panels = own - tile * taps * p->c * NR;
  }
  long from = p->v.out * chunk / p->chunks, to = p->v.out * (chunk + 1) / p->chunks;
  axis v = p->v, h = p->h;
  const float *x = p->x;
  if (p->pad && (x = padded(p, from, to, &v, &h)) == NULL) return;
  for (long oy = from; oy < to; oy++) {
    for (long ox = 0, end; ox < h.out; ox = end) {
      long step = 1;
      for (end = ox + 1; end < h.out; end++) {
        long next = step_between(&h, end - 1);
        if (next == 0 || (next != 1 && p->n > 1) || (end > ox + 1 && next != step)) break;
        step = next;
      }
      sum s;
      s.count = 0, s.lda = step * p->ldx;
      for (long t = 0; t < taps; t++) {
        long iy = meets(&v, p->pad ? oy - from : oy, t / h.kernel);
        long ix = meets(&h, ox, t % h.kernel);
        if (iy < 0 || ix < 0) continue;
        if (p->panels == NULL && !packed[t]) pack_one(p, panels, tile, t), packed[t] = 1;
        s.a[s.count] = x + (iy * h.in + ix) * p->n * p->ldx;
        s.taps[s.count++] = (int)t;
      }
      float *y = p->y + (oy * h.out + ox) * p->n * p->ldy;
      long count = (end - ox) * p->n, block = tiles - tile > 1 ? TOGETHER : count;
      for (long r = 0; r < count; r += block)
        for (long i = tile; i < tiles; i++)
          one_tile(p, panels, i, &s, r, count - r < block ? count - r : block, y);
    }
  }
}

/* y = x * w (+ bias), or with adjoint axes the input gradient; at most 256 taps. */
void tinyflow_conv(const float *x, long ldx, const float *w, long ldw,
                   const float *bias, float *y, long ldy, long n, long c, long k,
                   const axis *v, const axis *h, int transposed) {
  conv p = {x,  w,  bias,       y,    n,                 c, k, ldx, ldy, ldw,
            *v, *h, transposed, NULL, (k + NR - 1) / NR, 1, 0};
  long taps = v->kernel * h->kernel, wanted = 4 * tinyflow_threads();
  p.pad = n == 1 && ldx == c && !h->adjoint && h->before > 0 && h->before <= h->in;
  if (p.tiles > 1 && v->out > 1 && taps * c * p.tiles * NR <= SMALL) {
    /* x is then read once, not once for every tile. */
    p.panels = workspace(3, taps * c * p.tiles * NR * sizeof(float));
    if (p.panels == NULL) return;
    run_tasks(pack_task, &p, p.tiles);
    p.chunks = wanted < v->out ? wanted : v->out;
    run_tasks(task, &p, p.chunks);
    return;
  }
  /* Panels are packed once per task: as few tasks as keep the threads busy. */
  if (tinyflow_threads() > 1) p.chunks = (wanted + p.tiles - 1) / p.tiles;
  if (p.chunks > v->out) p.chunks = v->out;
  if (p.chunks < 1) p.chunks = 1;
  run_tasks(task, &p, p.tiles * p.chunks);
}
