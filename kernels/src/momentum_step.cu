// m' = decay * m + grad / |grad|_1, then the L-infinity step along m'; kernels/momentum_step.py specifies it.
// A block an image, so that the second pass over the gradient finds it in the cache.
#include "linf.cuh"
#include "reduce.cuh"

template <class T>
struct MomentumStep {
    const T* x;
    const T* grad;
    const T* origin;
    float* momentum;
    T* out;
    int64 images;
    int64 image_size;
    LinfBudget budget;
    double decay;

    __device__ void run() const {
        constexpr int N = 16 / sizeof(T);
        const bool packed = aligned(x, grad, origin, momentum, out) && image_size % N == 0;
        for (int64 image = blockIdx.x; image < images; image += gridDim.x) {
            double sum = 0;
            sweep_block<N>(Norm{grad + image * image_size, &sum}, image_size, packed);
            const float norm = static_cast<float>(block_sum(sum));
            sweep_block<N>(Move{*this, image, norm}, image_size, packed);
        }
    }

    struct Norm {
        const T* grad;
        double* sum;

        template <int N>
        __device__ void at(int64 i) const {
            const Pack<T, N> slopes = load<N>(grad, i);
            for (int k = 0; k < N; ++k) *sum += fabsf(widen(slopes.lane[k]));
        }
    };

    struct Move {
        const MomentumStep& all;
        int64 image;
        float norm;

        template <int N>
        __device__ void at(int64 offset) const {
            const int64 i = image * all.image_size + offset;
            Pack<T, N> values = load<N>(all.x, i);
            const LinfBall ball = all.budget.ball(image);
            const Pack<T, N> slopes = load<N>(all.grad, i), origins = load<N>(all.origin, i);
            Pack<float, N> momenta = load<N>(all.momentum, i);
            for (int k = 0; k < N; ++k) {
                // A zero gradient has no direction to add: 0/0 would poison the momentum for good.
                const float along = norm == 0 ? 0.0f : widen(slopes.lane[k]) / norm;
                momenta.lane[k] = static_cast<float>(all.decay) * momenta.lane[k] + along;
                narrow(linf_step(widen(values.lane[k]), momenta.lane[k], widen(origins.lane[k]), ball), values.lane[k]);
            }
            store(all.momentum, i, momenta);
            store(all.out, i, values);
        }
    };
};

KERNEL_OF_EACH_SCALAR(momentum_step, MomentumStep)
