// The sum of one value a thread over a block.
#pragma once
#include "elements.cuh"

constexpr int MAX_THREADS = 512;

// Needs a power of two of threads; every thread gets the total. In double: the squares of a gradient of 1e-25, common
// behind a saturated loss, vanish in float.
template <class Sum>
__device__ inline Sum block_sum(const Sum& value) {
    __shared__ Sum partial[MAX_THREADS];
    partial[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    const Sum total = partial[0];
    __syncthreads();
    return total;
}
