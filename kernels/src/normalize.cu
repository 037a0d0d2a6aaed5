// Bytes to normalised planes and back; kernels/normalize.py specifies both.
#include "elements.cuh"

// Where the NCHW index `i` lies: its channel, and its byte in NHWC, whose neighbours are `channels` apart.
struct Place {
    int64 channel, byte;

    __device__ Place(int64 i, int64 channels, int64 plane) : channel(i / plane % channels) {
        byte = (i / plane / channels * plane + i % plane) * channels + channel;
    }
};

template <class T>
struct Normalize {
    const byte* images;
    T* planes;
    const float* mean;
    const float* std;
    int64 count;
    int64 channels;
    int64 plane;
    int64 interleaved;  // 0: the bytes lie NCHW, 1: NHWC

    __device__ void run() const { sweep_grid<16 / sizeof(T)>(*this, count, plane, aligned(images, planes)); }

    template <int N>
    __device__ void at(int64 i) const {
        const Place place(i, channels, plane);
        Pack<byte, N> levels;
        if (interleaved) {
            for (int k = 0; k < N; ++k) levels.lane[k] = images[place.byte + k * channels];
        } else {
            levels = load<N>(images, i);
        }
        Pack<T, N> values;
        for (int k = 0; k < N; ++k) {
            narrow((levels.lane[k] / 255.0f - mean[place.channel]) / std[place.channel], values.lane[k]);
        }
        store(planes, i, values);
    }
};

template <class T>
struct Denormalize {
    const T* planes;
    byte* images;
    const float* mean;
    const float* std;
    int64 count;
    int64 channels;
    int64 plane;
    int64 interleaved;

    __device__ void run() const { sweep_grid<16 / sizeof(T)>(*this, count, plane, aligned(images, planes)); }

    // Round, do not truncate: truncation darkens every image that went through a float. NaN becomes 0.
    __device__ byte level(T value, int64 channel) const {
        const float scaled = rintf((widen(value) * std[channel] + mean[channel]) * 255.0f);
        return scaled != scaled ? 0 : static_cast<byte>(clip(scaled, 0.0f, 255.0f));
    }

    template <int N>
    __device__ void at(int64 i) const {
        const Place place(i, channels, plane);
        const Pack<T, N> values = load<N>(planes, i);
        Pack<byte, N> levels;
        for (int k = 0; k < N; ++k) levels.lane[k] = level(values.lane[k], place.channel);
        if (interleaved) {
            for (int k = 0; k < N; ++k) images[place.byte + k * channels] = levels.lane[k];
        } else {
            store(images, i, levels);
        }
    }
};

KERNEL_OF_EACH_SCALAR(normalize, Normalize)
KERNEL_OF_EACH_SCALAR(denormalize, Denormalize)
