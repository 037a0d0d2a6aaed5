// The L-infinity step of one pixel: move, project on the ball, clip to [0, 1], and the uint8 grid if asked for.
#pragma once
#include "elements.cuh"

struct LinfBall {
    float step;  // signed: negative for descent
    double eps;
    bool grid;
};

// In double, and with 1e-4 of a level to spare: a float32 k/255 lies up to 1e-5 of a level beside level k.
__device__ inline float on_grid(float value, float origin, double eps) {
    const double low = ceil(origin * 255.0 - eps * 255.0 - 1e-4), high = floor(origin * 255.0 + eps * 255.0 + 1e-4);
    const float level = static_cast<float>(rint(value * 255.0));
    const float inside = clip(level, static_cast<float>(low), static_cast<float>(high));
    return clip(inside, 0.0f, 255.0f) / 255.0f;
}

__device__ inline float linf_step(float x, float slope, float origin, const LinfBall& ball) {
    const float moved = x + ball.step * sign(slope);
    const float eps = static_cast<float>(ball.eps);
    const float value = clip(clip(moved, origin - eps, origin + eps), 0.0f, 1.0f);
    return ball.grid ? on_grid(value, origin, ball.eps) : value;
}

// What may differ from image to image; a null array means one value for all.
struct LinfBudget {
    const float* steps;
    const float* epsilons;
    const byte* frozen;
    double eps;
    float step;
    float sense;  // +1 ascent, -1 descent; it multiplies `steps` only, `step` carries its sign
    int64 grid;

    __device__ bool uniform() const { return !steps && !epsilons && !frozen; }
    __device__ bool holds(int64 image) const { return frozen && frozen[image]; }
    __device__ LinfBall ball(int64 image) const {
        return {steps ? sense * steps[image] : step, epsilons ? epsilons[image] : eps, grid != 0};
    }
};
