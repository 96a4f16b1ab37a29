// Batches from a set of byte images that lies on the device.
#include "common.cuh"
#include "philox.cuh"

// out[b, y, x, c] = table[c, byte]: image index[b], cut out at a random place of itself
// surrounded by `pad` black pixels, and mirrored with probability 1/2 (if `mirror`).
// Places come from philox(b, 0, step, stream); table (cols, 256) holds the normalised
// value of each byte. An image's entry (c, y, x) lies at c sc + y sy + x sx; images are
// `image` entries apart. Threads are (THREADS); blockIdx.y is the image.
// Traffic: reads a byte and writes an activation per entry, the floor.
extern "C" __global__ void __launch_bounds__(THREADS)
    augment(const unsigned char* __restrict__ images, long long image, int sc, int sy,
            int sx, const long long* index, const float* __restrict__ table, int height,
            int width, int cols, int pad, int mirror, unsigned long long seed,
            const unsigned int* step, unsigned int stream, T* __restrict__ out) {
    const int b = blockIdx.y, size = height * width * cols;
    const Four random = philox(b, 0, *step, stream, seed);
    const int top = below(random.v[0], 2 * pad + 1) - pad;
    const int left = below(random.v[1], 2 * pad + 1) - pad;
    const bool turned = mirror && random.v[2] >> 31;
    const unsigned char* from = images + index[b] * image;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < size;
         i += gridDim.x * blockDim.x) {
        const int c = i % cols, place = i / cols;
        const int y = place / width + top, column = place % width;
        const int x = (turned ? width - 1 - column : column) + left;
        const bool inside = y >= 0 && y < height && x >= 0 && x < width;
        const int byte = inside ? from[c * sc + y * sy + x * sx] : 0;
        put(out + (size_t)b * size + i, table[c * 256 + byte]);
    }
}
