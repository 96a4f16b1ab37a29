// Dropout with a mask that is never stored.
#include "common.cuh"
#include "philox.cuh"

// Counts a step: one thread.
extern "C" __global__ void advance(unsigned int* step) { ++*step; }

// y = x factor where u >= p, else 0; u is word i % 4 of philox(i / 4, step, stream) for
// entry i, whatever the type and the vector length. The backward pass is the same kernel
// on g. `stream` tells the layers of a network apart, `step` is read from the device.
// Traffic: reads x, writes y, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    dropout(const T* __restrict__ x, T* __restrict__ y, long long size, float p,
            float factor, unsigned long long seed, const unsigned int* step,
            unsigned int stream) {
    // A thread takes `many` entries, a whole number of vectors and of philox's four.
    const int many = VEC > 4 ? VEC : 4;
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * many;
    if (first >= size) return;
    const unsigned s = *step;
    float u[many];
    for (int k = 0; k < many; k += 4) {
        const unsigned long long block = (unsigned long long)(first + k) / 4;
        const Four four =
            philox((unsigned)block, (unsigned)(block >> 32), s, stream, seed);
        for (int i = 0; i < 4; ++i) u[k + i] = uniform(four.v[i]);
    }
    for (int k = 0; k < many; k += VEC) {
        if (first + k >= size) return;  // VEC divides size
        Floats f = load(x + first + k);
        EACH(i) f.v[i] = u[k + i] >= p ? f.v[i] * factor : 0.f;
        store(y + first + k, f);
    }
}
