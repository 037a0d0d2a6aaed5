// Runs our CUDA sources on the CPU, for tests: stand-ins for the few CUDA names that they use.
//
// Of each kernel it makes a C function that takes the launch geometry and the packed parameters, as cuLaunchKernel does.
// Blocks run one after the other. The threads of a block do too, unless the kernel has barriers: then each is an OS thread.
#pragma once
#define HOST_BUILD

#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static /* one block runs at a time */

struct Index {
    unsigned x, y;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::barrier<>* block_barrier;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

template <class To, class From>
inline To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline float float_of_f16(unsigned short bits) { return same_bits<_Float16>(bits); }
inline unsigned short f16_of_float(float value) { return same_bits<unsigned short>(static_cast<_Float16>(value)); }

template <class Parameters>
inline void run_blocks(const Parameters& parameters, Index thread, bool barriers) {
    threadIdx = thread;
    for (blockIdx = {0, 0}; blockIdx.x < gridDim.x; ++blockIdx.x) {
        parameters.run();
        if (barriers) __syncthreads();  // the next block takes over the shared memory
    }
}

template <class Parameters>
inline void run_grid(const Parameters& parameters, Index blocks, Index threads, bool barriers) {
    gridDim = blocks, blockDim = threads;
    std::barrier<> barrier(threads.x * threads.y);
    block_barrier = &barrier;
    std::vector<std::thread> running;
    for (unsigned y = 0; y < threads.y; ++y) {
        for (unsigned x = 0; x < threads.x; ++x) {
            if (barriers) {
                running.emplace_back([=] { run_blocks(parameters, {x, y}, true); });
            } else {
                run_blocks(parameters, {x, y}, false);
            }
        }
    }
    for (std::thread& thread : running) thread.join();
}

// Returns 0, or the size that the parameters should have had.
#define KERNEL(name, Parameters, suffix, T)                                                                         \
    extern "C" unsigned long name##_##suffix(unsigned blocks, unsigned columns, unsigned rows, int barriers,        \
                                             const void* bytes, unsigned long size) {                               \
        Parameters<T> parameters;                                                                                   \
        if (size != sizeof parameters) return sizeof parameters;                                                    \
        std::memcpy(static_cast<void*>(&parameters), bytes, size);                                                  \
        run_grid(parameters, {blocks, 1}, {columns, rows}, barriers != 0);                                          \
        return 0;                                                                                                   \
    }
