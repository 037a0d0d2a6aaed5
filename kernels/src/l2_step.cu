// x' = clip(origin + project(x - origin + s * step * grad / |grad|_2), 0, 1); kernels/l2_step.py specifies it.
// A block an image, one pass for the three sums and one to move.
#include "reduce.cuh"

struct Sums {
    double slope2, cross, offset2;  // <g, g>, <g, d>, <d, d> with d = x - origin

    __device__ void operator+=(const Sums& other) {
        slope2 += other.slope2;
        cross += other.cross;
        offset2 += other.offset2;
    }
};

template <class T>
struct L2Step {
    const T* x;
    const T* grad;
    const T* origin;
    T* out;
    const float* steps;
    const float* epsilons;
    int64 images;
    int64 image_size;
    double step;  // signed: negative for descent
    double eps;
    double sense;  // +1 ascent, -1 descent, for `steps`

    __device__ void run() const {
        constexpr int N = 16 / sizeof(T);
        const bool packed = aligned(x, grad, origin, out) && image_size % N == 0;
        for (int64 image = blockIdx.x; image < images; image += gridDim.x) {
            Sums sums = {0, 0, 0};
            sweep_block<N>(Measure{*this, image, &sums}, image_size, packed);
            sweep_block<N>(move(image, block_sum(sums)), image_size, packed);
        }
    }

    struct Measure {
        const L2Step& all;
        int64 image;
        Sums* sums;

        template <int N>
        __device__ void at(int64 offset) const {
            const int64 i = image * all.image_size + offset;
            const Pack<T, N> values = load<N>(all.x, i), slopes = load<N>(all.grad, i), origins = load<N>(all.origin, i);
            for (int k = 0; k < N; ++k) {
                const double slope = widen(slopes.lane[k]);
                const double offset = widen(values.lane[k]) - widen(origins.lane[k]);
                *sums += {slope * slope, slope * offset, offset * offset};
            }
        }
    };

    struct Move {
        const L2Step& all;
        int64 image;
        double rate;   // step / |g|; 0 where the gradient gives no direction
        float shrink;  // onto the ball

        template <int N>
        __device__ void at(int64 offset) const {
            const int64 i = image * all.image_size + offset;
            Pack<T, N> values = load<N>(all.x, i);
            const Pack<T, N> slopes = load<N>(all.grad, i), origins = load<N>(all.origin, i);
            for (int k = 0; k < N; ++k) {
                const float origin = widen(origins.lane[k]);
                const float along = rate == 0 ? 0.0f : static_cast<float>(rate * widen(slopes.lane[k]));
                const float moved = (widen(values.lane[k]) - origin) + along;
                narrow(clip(origin + shrink * moved, 0.0f, 1.0f), values.lane[k]);
            }
            store(all.out, i, values);
        }
    };

    __device__ Move move(int64 image, const Sums& sums) const {
        const double budget = epsilons ? epsilons[image] : eps;
        const double length = sqrt(sums.slope2);
        const bool moves = length > 0 && length <= 1.7976931348623157e308;
        const double rate = moves ? (steps ? sense * steps[image] : step) / length : 0.0;
        const double square = sums.offset2 + (moves ? rate * (2 * sums.cross + rate * sums.slope2) : 0.0);
        return {*this, image, rate, square > budget * budget ? static_cast<float>(budget / sqrt(square)) : 1.0f};
    }
};

KERNEL_OF_EACH_SCALAR(l2_step, L2Step)
