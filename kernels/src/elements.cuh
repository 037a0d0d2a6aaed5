// Scalars, 16-byte packs and the grid-stride sweep that all kernels share.
//
// No CUDA header is included, so that NVRTC compiles this where only its own wheel is installed, and a C++ compiler
// builds it for the host behind a header of stand-ins that defines HOST_BUILD (tests/kernels/cuda_on_cpu.h).
// Every kernel takes one struct by value; the module of the same name in kernels/ packs it, field by field.
#pragma once

typedef long long int64;
typedef unsigned char byte;

struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

#ifndef HOST_BUILD
__device__ inline float float_of_f16(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline unsigned short f16_of_float(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#define KERNEL(name, Parameters, suffix, T) \
    extern "C" __global__ void name##_##suffix(const Parameters<T> parameters) { parameters.run(); }
#endif

#define KERNEL_OF_EACH_SCALAR(name, Parameters) \
    KERNEL(name, Parameters, f32, float)        \
    KERNEL(name, Parameters, f16, f16)          \
    KERNEL(name, Parameters, bf16, bf16)

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(f16 value) { return float_of_f16(value.bits); }
__device__ inline float widen(bf16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

__device__ inline void narrow(float value, float& out) { out = value; }
__device__ inline void narrow(float value, f16& out) { out.bits = f16_of_float(value); }
// In integers, because Turing has no instruction for it: round to nearest even, NaN to the quiet NaN.
__device__ inline void narrow(float value, bf16& out) {
    const unsigned bits = __float_as_uint(value);
    out.bits = value != value ? 0x7fc0 : static_cast<unsigned short>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// NaN in either operand gives NaN, as in torch; fmaxf and fminf would drop it.
__device__ inline float highest(float a, float b) { return a >= b || a != a ? a : b; }
__device__ inline float lowest(float a, float b) { return a <= b || a != a ? a : b; }
__device__ inline float clip(float value, float low, float high) { return lowest(highest(value, low), high); }
// Of NaN it is 0, as in torch.
__device__ inline float sign(float value) { return static_cast<float>((value > 0) - (value < 0)); }

template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Pack {
    T lane[N];
};

template <int N, class T>
__device__ inline Pack<T, N> load(const T* from, int64 i) {
    return *reinterpret_cast<const Pack<T, N>*>(from + i);
}

template <int N, class T>
__device__ inline void store(T* to, int64 i, const Pack<T, N>& values) {
    *reinterpret_cast<Pack<T, N>*>(to + i) = values;
}

template <class... Pointers>
__device__ inline bool aligned(Pointers... pointers) {
    return ((reinterpret_cast<unsigned long long>(pointers) | ... | 0ull) & 15) == 0;
}

// Calls body.at<N>(i) for the indices of [0, count) that are this thread's share: in packs where all arrays are
// aligned, then the tail one by one. A pack never reaches over a multiple of `segment` (an image, a channel): such a
// one is taken apart, so that a body has one image or one channel to look up.
template <int N, class Body>
__device__ inline void sweep(const Body& body, int64 count, int64 segment, bool packed, int64 thread, int64 threads) {
    const int64 packs = packed ? count / N : 0;
    for (int64 i = thread * N; i < packs * N; i += threads * N) {
        if (segment == count || i % segment + N <= segment) {
            body.template at<N>(i);
        } else {
#pragma unroll 1
            for (int k = 0; k < N; ++k) body.template at<1>(i + k);
        }
    }
#pragma unroll 1
    for (int64 i = packs * N + thread; i < count; i += threads) body.template at<1>(i);
}

template <int N, class Body>
__device__ inline void sweep_grid(const Body& body, int64 count, int64 segment, bool packed) {
    const int64 thread = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
    sweep<N>(body, count, segment, packed, thread, static_cast<int64>(gridDim.x) * blockDim.x);
}

template <int N, class Body>
__device__ inline void sweep_block(const Body& body, int64 count, bool packed) {
    sweep<N>(body, count, count, packed, threadIdx.x, blockDim.x);
}
