// Optimisers: one launch updates all parameters.
//
// `addresses` is (slots, tensors): gradient (T), parameter (float), bfloat16 copy of the
// parameter or 0, then the optimiser's state (float). A block takes CHUNK entries of one
// tensor, as the chunk tables say. What changes from step to step is read from the
// device, so a captured graph can be replayed with another learning rate:
//   steps     how many steps have been taken, counted by advance_*
//   rates     what advance_* made of the step and the learning rate
//   clip      a factor for all gradients (from squares), a double, or null; where it is
//             no number (from outcome) nothing is changed
// Nothing is added up across threads but the norm, in a fixed order.
#include "common.cuh"

#define CHUNK 4096

struct Piece {
    int tensor, begin, end;
};

// The entries of this block.
__device__ __forceinline__ Piece piece(const int* chunk_tensor, const int* chunk_index,
                                       const int* sizes) {
    Piece p;
    p.tensor = chunk_tensor[blockIdx.x];
    p.begin = chunk_index[blockIdx.x] * CHUNK;
    p.end = min(p.begin + CHUNK, sizes[p.tensor]);
    return p;
}

template <class E>
__device__ __forceinline__ E* slot(const long long* addresses, int tensors, int which,
                                   int tensor) {
    return reinterpret_cast<E*>(addresses[(size_t)which * tensors + tensor]);
}

// DEEP entries of a tensor, THREADS apart; 0 beyond the end.
template <class E>
__device__ __forceinline__ void fetch_entries(const E* at, int i, const Piece& p,
                                              float* values) {
    EACH_ROW(k) {
        const int j = i + k * THREADS;
        values[k] = at && j < p.end ? as_float(at[j]) : 0.f;
    }
}

// ---- What changes from step to step, one thread --------------------------------------

// rates = (lr, gain): the first gradient enters the momentum in full, later ones with
// 1 - dampening.
extern "C" __global__ void advance_sgd(int* steps, const float* lr, float dampening,
                                       float* rates) {
    const int t = ++*steps;
    rates[0] = *lr;
    rates[1] = t == 1 ? 1.f : 1.f - dampening;
}

// rates = (lr / (1 - beta1^t), sqrt(1 - beta2^t), 1 - lr decay), the last one for AdamW.
extern "C" __global__ void advance_adam(int* steps, const float* lr, double beta1,
                                        double beta2, double decay, float* rates) {
    const int t = ++*steps;
    rates[0] = (float)(*lr / (1 - pow(beta1, (double)t)));
    rates[1] = (float)sqrt(1 - pow(beta2, (double)t));
    rates[2] = (float)(1 - *lr * decay);
}

// ---- Updates ------------------------------------------------------------------------

// g <- clip g + decay p;  b <- momentum b + gain g;  p <- p - lr b, or with Nesterov's
// variant p - lr (g + momentum b). Without momentum there is no slot for b, and b = g.
// Traffic: reads g, p, b and writes p, b [and the copy], the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    sgd(const long long* addresses, int tensors, const int* chunk_tensor,
        const int* chunk_index, const int* sizes, const float* rates, const double* clip,
        float momentum, float decay, int nesterov) {
    const Piece part = piece(chunk_tensor, chunk_index, sizes);
    const T* gs = slot<T>(addresses, tensors, 0, part.tensor);
    float* ps = slot<float>(addresses, tensors, 1, part.tensor);
    unsigned short* copy = slot<unsigned short>(addresses, tensors, 2, part.tensor);
    float* bs = momentum ? slot<float>(addresses, tensors, 3, part.tensor) : nullptr;
    const float lr = rates[0], gain = rates[1];
    const double shrink = clip ? *clip : 1.;
    if (shrink != shrink) return;
    for (int i = part.begin + threadIdx.x; i < part.end; i += DEEP * THREADS) {
        float g[DEEP], p[DEEP], b[DEEP];
        fetch_entries(gs, i, part, g);
        fetch_entries<float>(ps, i, part, p);
        fetch_entries<float>(bs, i, part, b);
        EACH_ROW(k) if (i + k * THREADS < part.end) {
            const int j = i + k * THREADS;
            g[k] = (float)(shrink * g[k]) + decay * p[k];
            b[k] = bs ? momentum * b[k] + gain * g[k] : g[k];
            p[k] -= lr * (nesterov ? g[k] + momentum * b[k] : b[k]);
            ps[j] = p[k];
            if (bs) bs[j] = b[k];
            if (copy) put(copy + j, p[k]);
        }
    }
}

// Adam, or AdamW with decay = 0 here and the decay in rates[2]:
//   g <- clip g + decay p;  m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
//   p <- rates[2] p - rates[0] m / (sqrt(v) / rates[1] + eps)
// Traffic: reads g, p, m, v and writes p, m, v [and the copy], the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    adam(const long long* addresses, int tensors, const int* chunk_tensor,
         const int* chunk_index, const int* sizes, const float* rates, const double* clip,
         float beta1, float rest1, float beta2, float rest2, float eps, float decay,
         int decoupled) {
    const Piece part = piece(chunk_tensor, chunk_index, sizes);
    const T* gs = slot<T>(addresses, tensors, 0, part.tensor);
    float* ps = slot<float>(addresses, tensors, 1, part.tensor);
    unsigned short* copy = slot<unsigned short>(addresses, tensors, 2, part.tensor);
    float* ms = slot<float>(addresses, tensors, 3, part.tensor);
    float* vs = slot<float>(addresses, tensors, 4, part.tensor);
    const float rate = rates[0], root = rates[1], kept = decoupled ? rates[2] : 1.f;
    const double shrink = clip ? *clip : 1.;
    if (shrink != shrink) return;
    for (int i = part.begin + threadIdx.x; i < part.end; i += DEEP * THREADS) {
        float g[DEEP], p[DEEP], m[DEEP], v[DEEP];
        fetch_entries(gs, i, part, g);
        fetch_entries<float>(ps, i, part, p);
        fetch_entries<float>(ms, i, part, m);
        fetch_entries<float>(vs, i, part, v);
        EACH_ROW(k) if (i + k * THREADS < part.end) {
            const int j = i + k * THREADS;
            g[k] = (float)(shrink * g[k]) + decay * p[k];
            m[k] = beta1 * m[k] + rest1 * g[k];
            v[k] = beta2 * v[k] + rest2 * (g[k] * g[k]);
            p[k] = kept * p[k] - rate * (m[k] / (sqrtf(v[k]) / root + eps));
            ps[j] = p[k];
            ms[j] = m[k];
            vs[j] = v[k];
            if (copy) put(copy + j, p[k]);
        }
    }
}

// ---- The norm of all gradients --------------------------------------------------------

// out = (norm, min(1, most / (norm + 1e-6))): the second is `clip` of the updates; 1 if
// the norm is no number. partial[chunk] = sum of g^2 over the chunk, in double, which
// holds the square of every float; the last block adds up. Traffic: reads g once, the
// floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    squares(const long long* addresses, int tensors, const int* chunk_tensor,
            const int* chunk_index, const int* sizes, double* partial, unsigned* counter,
            double most, double* out) {
    __shared__ double buffer[THREADS];
    const Piece part = piece(chunk_tensor, chunk_index, sizes);
    const T* gs = slot<T>(addresses, tensors, 0, part.tensor);
    double sum = 0;
    for (int i = part.begin + threadIdx.x; i < part.end; i += DEEP * THREADS) {
        float g[DEEP];
        fetch_entries(gs, i, part, g);
        EACH_ROW(k) sum += (double)g[k] * g[k];
    }
    const double own = sum_block(sum, buffer);
    if (threadIdx.x == 0) partial[blockIdx.x] = own;

    const int chunks = gridDim.x;
    if (!last_of(chunks, counter)) return;
    double total = 0;
    for (int n = threadIdx.x; n < chunks; n += MANY * THREADS) {
        double more[MANY];
        EACH_PART(k) more[k] = __ldcg(partial + min(n + k * THREADS, chunks - 1));
        EACH_PART(k) if (n + k * THREADS < chunks) total += more[k];
    }
    const double norm = sqrt(sum_block(total, buffer)), scale = most / (norm + 1e-6);
    if (threadIdx.x == 0) {
        out[0] = norm;
        out[1] = scale < 1 ? scale : 1;
    }
}
