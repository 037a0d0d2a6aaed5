// Quantise and dequantise, with the straight-through mask; kernels/fake_quantize.py specifies it.
#include "elements.cuh"

template <class T>
struct FakeQuantize {
    const T* x;
    T* out;
    byte* mask;           // null: not wanted
    const float* scales;  // null: `scale` for all
    const int* zeros;     // null: symmetric
    int64 count;
    int64 channels;
    int64 inner;  // elements of one channel that lie side by side
    float scale;
    int zero;
    int qmin;
    int qmax;

    __device__ void run() const {
        const int64 segment = scales || zeros ? inner : count;
        sweep_grid<16 / sizeof(T)>(*this, count, segment, aligned(x, out, mask));
    }

    template <int N>
    __device__ void at(int64 i) const {
        const int64 channel = scales || zeros ? i / inner % channels : 0;
        const float step = scales ? scales[channel] : scale;
        const float origin = static_cast<float>(zeros ? zeros[channel] : zero);
        Pack<T, N> values = load<N>(x, i);
        Pack<byte, N> inside;
        for (int k = 0; k < N; ++k) {
            const float level = rintf(widen(values.lane[k]) / step) + origin;
            inside.lane[k] = level >= qmin && level <= qmax;
            narrow((clip(level, qmin, qmax) - origin) * step, values.lane[k]);
        }
        store(out, i, values);
        if (mask) store(mask, i, inside);
    }
};

KERNEL_OF_EACH_SCALAR(fake_quantize, FakeQuantize)
