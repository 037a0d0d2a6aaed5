// x' = clip(clip(x + s * step * sign(grad), origin - eps, origin + eps), 0, 1); kernels/linf_step.py specifies it.
#include "linf.cuh"

template <class T>
struct LinfStep {
    const T* x;
    const T* grad;
    const T* origin;
    T* out;
    int64 count;
    int64 image_size;
    LinfBudget budget;

    __device__ void run() const {
        const int64 segment = budget.uniform() ? count : image_size;
        sweep_grid<16 / sizeof(T)>(*this, count, segment, aligned(x, grad, origin, out));
    }

    template <int N>
    __device__ void at(int64 i) const {
        Pack<T, N> values = load<N>(x, i);
        const int64 image = budget.uniform() ? 0 : i / image_size;
        const LinfBall ball = budget.ball(image);
        const Pack<T, N> slopes = load<N>(grad, i), origins = load<N>(origin, i);
        for (int k = 0; k < N; ++k) {
            narrow(linf_step(widen(values.lane[k]), widen(slopes.lane[k]), widen(origins.lane[k]), ball), values.lane[k]);
        }
        store(out, i, values);
    }
};

KERNEL_OF_EACH_SCALAR(linf_step, LinfStep)
