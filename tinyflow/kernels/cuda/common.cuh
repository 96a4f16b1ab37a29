// What all kernels share: the activation type, vectors, tiles, sums over a block.
//
// An image (N, C, H, W) is stored with the channels last, so it is a row-major matrix of
// rows = N H W rows and cols = C columns; `ld` is the distance between two rows, C or,
// for a slice of the channels of a wider buffer, more.
//
// Macros chosen by source.py:
//   BF16  activations T are bfloat16, held as their bits; otherwise float.
//   VEC   numbers a thread takes at once: 1, or as many as fill 16 bytes.
#pragma once

#ifndef VEC
#define VEC 1
#endif
#define INFINITE __uint_as_float(0x7f800000u)
#define NOT_A_NUMBER __uint_as_float(0x7fffffffu)
#define THREADS 256      // threads of a block, at most
#define SUM_THREADS 512  // of one that adds up columns
#define SUM_COLUMNS 16   // columns it adds up
#define DEEP 4           // rows a thread asks for before it uses the first
#define MANY 8           // numbers to add up, likewise
#define EACH(i) _Pragma("unroll") for (int i = 0; i < VEC; ++i)
#define EACH_OF(k, n) _Pragma("unroll") for (int k = 0; k < n; ++k)
#define EACH_ROW(k) EACH_OF(k, DEEP)
#define EACH_PART(k) EACH_OF(k, MANY)

#ifdef BF16
typedef unsigned short T;
#else
typedef float T;
#endif

struct alignas(4 * VEC) Floats {
    float v[VEC];
};
#if VEC == 1
typedef T Raw;  // Floats as they are stored
#else
typedef uint4 Raw;
#endif
struct alignas(VEC) Bytes {
    unsigned char v[VEC];
};

// ---- bfloat16 is the upper half of a float ------------------------------------------

__device__ __forceinline__ float from_bf16(unsigned bits) {
    return __uint_as_float(bits << 16);
}

// Two floats to two bfloat16, rounded to nearest, ties to even; `low` in the lower half.
__device__ __forceinline__ unsigned to_bf16(float low, float high) {
#ifdef __CUDA_ARCH__
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
#else
    unsigned half[2];
    for (int i = 0; i < 2; ++i) {
        float f = i ? high : low;
        unsigned bits = __float_as_uint(f);
        half[i] = f != f ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    }
    return half[0] | half[1] << 16;
#endif
}

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(unsigned short x) { return from_bf16(x); }
__device__ __forceinline__ void put(float* at, float x) { *at = x; }
__device__ __forceinline__ void put(unsigned short* at, float x) {
    *at = (unsigned short)to_bf16(x, 0.f);
}

// ---- VEC numbers at once; wide ones must lie at a multiple of 16 bytes ---------------

__device__ __forceinline__ Floats widened(const Raw& raw) {
    Floats f;
#if VEC == 1
    f.v[0] = as_float(raw);
#else
    const unsigned word[4] = {raw.x, raw.y, raw.z, raw.w};
    EACH(i) {
#ifdef BF16
        f.v[i] = __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
#else
        f.v[i] = __uint_as_float(word[i]);
#endif
    }
#endif
    return f;
}

__device__ __forceinline__ Floats load(const T* at) {
    return widened(*reinterpret_cast<const Raw*>(at));
}

__device__ __forceinline__ void store(T* at, const Floats& f) {
#if VEC == 1
    put(at, f.v[0]);
#elif defined(BF16)
    *reinterpret_cast<uint4*>(at) =
        uint4{to_bf16(f.v[0], f.v[1]), to_bf16(f.v[2], f.v[3]),
              to_bf16(f.v[4 % VEC], f.v[5 % VEC]), to_bf16(f.v[6 % VEC], f.v[7 % VEC])};
#else
    *reinterpret_cast<uint4*>(at) =
        uint4{__float_as_uint(f.v[0]), __float_as_uint(f.v[1 % VEC]),
              __float_as_uint(f.v[2 % VEC]), __float_as_uint(f.v[3 % VEC])};
#endif
}

// Per-channel float32 values; they stay in the cache, so their width does not matter.
__device__ __forceinline__ Floats channels(const float* at) {
    Floats f;
    EACH(i) f.v[i] = at[i];
    return f;
}

__device__ __forceinline__ Floats filled(float x) {
    Floats f;
    EACH(i) f.v[i] = x;
    return f;
}

// What T keeps of x: a value compared with a stored one is rounded like it first.
__device__ __forceinline__ float rounded(float x) {
    T stored;
    put(&stored, x);
    return as_float(stored);
}

// ---- Tiles: a block takes some columns of a chunk of rows ----------------------------

// Threads are (columns / VEC, rows); blockIdx.x counts tiles of columns, blockIdx.y
// chunks of rows. A thread keeps its columns and walks down the rows, blockDim.y apart.
struct Tile {
    int col, begin, end;
    bool inside;
};

__device__ __forceinline__ Tile tile(int rows, int cols, int chunk) {
    Tile t;
    t.col = (blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    t.inside = t.col < cols;
    const int first = blockIdx.y * chunk;
    t.begin = first + threadIdx.y;
    t.end = t.inside ? min(first + chunk, rows) : 0;
    return t;
}

// The thread's columns of a row, as stored; zero beyond its last row. A loop first
// fetches DEEP rows and then works on them: so many reads are under way at once.
__device__ __forceinline__ Raw fetch(const T* x, int ld, int row, const Tile& t) {
    Raw raw = Raw();
    if (row < t.end) raw = *reinterpret_cast<const Raw*>(x + (size_t)row * ld + t.col);
    return raw;
}

// The same of N rows, `apart` from each other. Their addresses are added up, which takes
// a quarter of the instructions that come before the first read.
template <int N>
__device__ __forceinline__ void fetch_rows(const T* x, int ld, int row, int apart,
                                           const Tile& t, Raw (&raw)[N]) {
    const T* at = x + (size_t)row * ld + t.col;
    const size_t stride = (size_t)apart * ld;
    EACH_OF(n, N) {
        raw[n] = Raw();
        if (row + n * apart < t.end) raw[n] = *reinterpret_cast<const Raw*>(at);
        at += stride;
    }
}

__device__ __forceinline__ void keep(T* y, int ld, int row, const Tile& t,
                                     const Floats& f) {
    if (row < t.end) store(y + (size_t)row * ld + t.col, f);
}

// ---- Sums in a fixed order ----------------------------------------------------------

// The sum over threadIdx.y, for every thread; `buffer` has a place per thread.
__device__ __forceinline__ Floats sum_rows(Floats f, Floats* buffer) {
    const int me = threadIdx.y * blockDim.x + threadIdx.x, n = blockDim.y;
    int half = 1;
    while (half < n) half *= 2;
    buffer[me] = f;
    __syncthreads();
    for (half /= 2; half > 0; half /= 2) {
        if ((int)threadIdx.y < half && (int)threadIdx.y + half < n)
            EACH(i) buffer[me].v[i] += buffer[me + half * blockDim.x].v[i];
        __syncthreads();
    }
    f = buffer[threadIdx.x];
    __syncthreads();  // the buffer may be used again
    return f;
}

// The sum over a block, for every thread; `buffer` has a place per thread.
__device__ __forceinline__ double sum_block(double x, double* buffer) {
    const int me = threadIdx.y * blockDim.x + threadIdx.x, n = blockDim.x * blockDim.y;
    int half = 1;
    while (half < n) half *= 2;
    buffer[me] = x;
    __syncthreads();
    for (half /= 2; half > 0; half /= 2) {
        if (me < half && me + half < n) buffer[me] += buffer[me + half];
        __syncthreads();
    }
    x = buffer[0];
    __syncthreads();
    return x;
}

// ---- Sums of columns ----------------------------------------------------------------

// Q sums for every column of a tile lie in shared memory, a matrix (rows, wide) with
// wide = Q width, width = VEC blockDim.x. A thread adds up those of column `at` in some
// rows: it is the part-th of `parts`. blockDim.y is a multiple of 16, so of Q VEC.
struct Place {
    int at, part, parts, wide;
};

template <int Q>
__device__ __forceinline__ Place place() {
    const int x = blockDim.x, y = blockDim.y, row = threadIdx.y;
    return Place{row % (Q * VEC) * x + (int)threadIdx.x, row / (Q * VEC), y / (Q * VEC),
                 Q * VEC * x};
}

// The sum of the column that begins at `at`, in rows first, first + apart, ...: MANY of
// them, all asked for at once, as far as there are so many.
template <class V>
__device__ __forceinline__ V add_rows(const V* at, int first, int apart, int rows,
                                      int wide) {
    V some[MANY], sum = 0;
    EACH_PART(i) {
        const int row = first + i * apart;
        some[i] = row < rows ? at[row * wide] : 0;
    }
    EACH_PART(i) sum += some[i];
    return sum;
}

template <int Q, class V>
struct Sums {
    V of[Q];
};

// The Q sums of column `at`, for the threads of part 0 of place<1>(): the matrix has no
// more than MANY rows.
template <int Q, class V>
__device__ __forceinline__ Sums<Q, V> sum_few(const V* matrix, int rows) {
    const Place own = place<1>();
    Sums<Q, V> sums = Sums<Q, V>();
    if (own.part == 0)
        EACH_OF(q, Q)
        sums.of[q] = add_rows(matrix + q * own.wide + own.at, 0, 1, rows, Q * own.wide);
    return sums;
}

// The same of any number of rows: a barrier, and one more each time that MANY of them
// become one. `from` and `to`, which has a place per thread, take turns.
template <int Q, class V>
__device__ __forceinline__ Sums<Q, V> sum_columns(V* from, V* to, int rows) {
    const Place p = place<Q>();
    __syncthreads();
    while (rows > MANY) {
        const int parts = min(p.parts, (rows + MANY - 1) / MANY);
        if (p.part < parts) {
            V sum = 0;
            _Pragma("unroll 1") for (int r = p.part; r < rows; r += MANY * parts)
                sum += add_rows(from + p.at, r, parts, rows, p.wide);
            to[p.part * p.wide + p.at] = sum;
        }
        __syncthreads();
        V* const read = from;
        from = to, to = read, rows = parts;
    }
    return sum_few<Q, V>(from, rows);
}

// ---- What several blocks have left, finished by the last of them ---------------------

// One more has come; whether it is the last of `blocks`. The counter goes 0 ... blocks - 1
// and is 0 again. What this thread and, before a barrier, those of its block have written
// is seen by whoever comes later, and by its block after a barrier. A __threadfence on
// either side would do that too, but is a stronger and slower one.
__device__ __forceinline__ bool came_last(unsigned blocks, unsigned* counter) {
#ifdef __CUDA_ARCH__
    unsigned before;
    asm volatile("atom.acq_rel.gpu.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(blocks - 1)
                 : "memory");
#else
    const unsigned before = atomicInc(counter, blocks - 1);
#endif
    return before == blocks - 1;
}

// Whether this block is the last of `blocks` to come here; the same for all its threads.
// Then it sees what each of them wrote before it came, read with __ldcg.
__device__ __forceinline__ bool last_of(unsigned blocks, unsigned* counter) {
    __shared__ bool last;
    __syncthreads();
    if (blocks == 1) return true;
    if (threadIdx.x == 0 && threadIdx.y == 0) last = came_last(blocks, counter);
    __syncthreads();
    return last;
}
