// Random numbers that are a function of (key, counter): Philox 4x32, ten rounds (Salmon
// et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). Nothing is stored, so a
// mask can be made again in the backward pass and a captured graph can be replayed: only
// the step in the counter changes.
#pragma once

struct Four {
    unsigned v[4];
};

__device__ __forceinline__ Four philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3,
                                       unsigned long long key) {
    unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Four{{c0, c1, c2, c3}};
}

// Uniform in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float uniform(unsigned bits) {
    return (float)(bits >> 8) * 5.9604644775390625e-8f;
}

// Uniform in 0 ... n - 1.
__device__ __forceinline__ int below(unsigned bits, int n) {
    return (int)__umulhi(bits, (unsigned)n);
}
