// What a .cu file needs to be an ordinary C++ file: CUDA's words, and a machine.
//
// machine.cpp runs each thread of a block as a fiber, one at a time; a barrier is a
// switch to the scheduler. This header only declares; it is included before the source.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
// Blocks run one after the other, so one copy is enough. All of them lie in one section,
// which the machine fills with NaN before each block: nothing is zero by luck.
#define __shared__ static __attribute__((section("shared_memory")))

struct Dim {
    unsigned x, y, z;
};
extern "C" {
extern Dim threadIdx, blockIdx, blockDim, gridDim;
void machine_barrier();
void machine_exchange(void* value, int bytes, int lane_xor, int lane_down);
}

inline void __syncthreads() { machine_barrier(); }

template <class V>
V __shfl_xor_sync(unsigned, V value, int lanes) {
    machine_exchange(&value, sizeof(V), lanes, 0);
    return value;
}

template <class V>
V __shfl_down_sync(unsigned, V value, int lanes) {
    machine_exchange(&value, sizeof(V), 0, lanes);
    return value;
}

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};

template <class To, class From>
To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "the sizes differ");
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}
inline float __uint_as_float(unsigned u) { return bits_as<float>(u); }
inline unsigned __float_as_uint(float f) { return bits_as<unsigned>(f); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
// Blocks run one after the other and there are no caches: nothing to order.
inline unsigned atomicInc(unsigned* at, unsigned most) {
    const unsigned before = *at;
    *at = before >= most ? 0 : before + 1;
    return before;
}
template <class V>
V __ldcg(const V* at) {
    return *at;
}
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
template <class V>
V min(V a, V b) {
    return b < a ? b : a;
}
template <class V>
V max(V a, V b) {
    return a < b ? b : a;
}

// ---- Calling a kernel whose arguments are only known at run time -------------------

// One letter an argument: what Python must have passed.
template <class P>
struct Letter;
#define LETTER(type, letter)                  \
    template <>                               \
    struct Letter<type> {                     \
        static const char value = letter;     \
    };
LETTER(int, 'i')
LETTER(unsigned, 'I')
LETTER(long long, 'q')
LETTER(unsigned long long, 'Q')
LETTER(float, 'f')
LETTER(double, 'd')
LETTER(const void*, 'V')
#define POINTER(type, letter)  \
    LETTER(const type*, letter) \
    LETTER(type*, letter)
POINTER(float, 'F')
POINTER(double, 'D')
POINTER(unsigned short, 'H')
POINTER(unsigned char, 'B')
POINTER(int, 'L')
POINTER(unsigned, 'U')
POINTER(long long, 'X')

template <class... P>
struct Call {
    template <int... I>
    struct Places {};
    template <int N, int... I>
    struct Count : Count<N - 1, N - 1, I...> {};
    template <int... I>
    struct Count<0, I...> {
        using type = Places<I...>;
    };
    template <int... I>
    static void go(void (*kernel)(P...), void** a, Places<I...>) {
        kernel(*static_cast<P*>(a[I])...);
    }
    static void run(void (*kernel)(P...), void** a) {
        go(kernel, a, typename Count<sizeof...(P)>::type());
    }
    static const char* letters() {
        static const char text[] = {Letter<P>::value..., 0};
        return text;
    }
};
template <class... P>
void call(void (*kernel)(P...), void** a) {
    Call<P...>::run(kernel, a);
}
template <class... P>
const char* letters(void (*)(P...)) {
    return Call<P...>::letters();
}

// emulator.py appends EXPORT(name) for every kernel of the file.
#define EXPORT(name)                                                     \
    extern "C" void run_##name(void** arguments) { call(name, arguments); } \
    extern "C" const char* letters_##name() { return letters(name); }

extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" inline __attribute__((used)) size_t shared_span(char** start) {
    *start = __start_shared_memory;
    return __start_shared_memory
               ? static_cast<size_t>(__stop_shared_memory - __start_shared_memory)
               : 0;
}
