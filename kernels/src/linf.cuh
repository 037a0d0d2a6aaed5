// The L-infinity step of one pixel: move, project on the ball, clip to [0, 1].
#pragma once
#include "elements.cuh"

struct LinfBall {
    float step;  // signed: negative for descent
    double eps;
};

__device__ inline float linf_step(float x, float slope, float origin, const LinfBall& ball) {
    const float moved = x + ball.step * sign(slope);
    const float eps = static_cast<float>(ball.eps);
    return clip(clip(moved, origin - eps, origin + eps), 0.0f, 1.0f);
}

// What may differ from image to image; a null array means one value for all.
struct LinfBudget {
    const float* steps;
    const float* epsilons;
    double eps;
    float step;
    float sense;  // +1 ascent, -1 descent; it multiplies `steps` only, `step` carries its sign

    __device__ bool uniform() const { return !steps && !epsilons; }
    __device__ LinfBall ball(int64 image) const {
        return {steps ? sense * steps[image] : step, epsilons ? epsilons[image] : eps};
    }
};
