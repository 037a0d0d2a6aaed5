// One perturbation (or one a class) added to a batch, and its batch-mean sign update; kernels/universal_apply.py
// specifies both.
#include "elements.cuh"

template <class T>
struct UniversalApply {
    const T* x;
    const T* delta;
    const int64* labels;  // null: one perturbation for all
    T* out;
    int64 count;
    int64 image_size;
    int64 classes;

    __device__ void run() const { sweep_grid<16 / sizeof(T)>(*this, count, image_size, aligned(x, delta, out)); }

    template <int N>
    __device__ void at(int64 i) const {
        const int64 image = i / image_size, pixel = i % image_size;
        const int64 label = labels ? labels[image] : 0;
        const bool known = label >= 0 && label < classes;
        Pack<T, N> values = load<N>(x, i), shifts;
        if (!known) {
            // A class outside the table gives NaN, never a read outside it.
            for (int k = 0; k < N; ++k) narrow(__uint_as_float(0x7fc00000u), shifts.lane[k]);
        } else if (N == 1 || aligned(delta + label * image_size + pixel)) {
            shifts = load<N>(delta, label * image_size + pixel);
        } else {
            for (int k = 0; k < N; ++k) shifts.lane[k] = delta[label * image_size + pixel + k];
        }
        for (int k = 0; k < N; ++k) {
            narrow(clip(widen(values.lane[k]) + widen(shifts.lane[k]), 0.0f, 1.0f), values.lane[k]);
        }
        store(out, i, values);
    }
};

constexpr int COLUMNS = 32, MAX_ROWS = 32;

// A block sums 32 neighbouring pixels: thread (column, row) takes every blockDim.y-th image, then the rows are added
// in order. No atomics, so that the same batch gives the same signs.
template <class T>
struct UniversalUpdate {
    const T* grad;
    const int64* labels;
    T* delta;
    int64 images;
    int64 image_size;
    int64 classes;
    float step;  // signed: negative for descent
    float eps;

    __device__ void run() const {
        const int64 tiles = (image_size + COLUMNS - 1) / COLUMNS;
        for (int64 tile = blockIdx.x; tile < tiles * classes; tile += gridDim.x) {
            update(tile / tiles, tile % tiles * COLUMNS + threadIdx.x);
        }
    }

    __device__ void update(int64 label, int64 pixel) const {
        __shared__ double partial[MAX_ROWS][COLUMNS];
        partial[threadIdx.y][threadIdx.x] = pixel < image_size ? row_sum(label, pixel) : 0.0;
        __syncthreads();
        if (threadIdx.y == 0 && pixel < image_size) {
            double sum = 0;
            for (unsigned row = 0; row < blockDim.y; ++row) sum += partial[row][threadIdx.x];
            T& value = delta[label * image_size + pixel];
            const float direction = static_cast<float>((sum > 0) - (sum < 0));
            narrow(clip(widen(value) + step * direction, -eps, eps), value);
        }
        __syncthreads();
    }

    __device__ double row_sum(int64 label, int64 pixel) const {
        double sum = 0;
        for (int64 image = threadIdx.y; image < images; image += blockDim.y) {
            if (!labels || labels[image] == label) sum += widen(grad[image * image_size + pixel]);
        }
        return sum;
    }
};

KERNEL_OF_EACH_SCALAR(universal_apply, UniversalApply)
KERNEL_OF_EACH_SCALAR(universal_update, UniversalUpdate)
