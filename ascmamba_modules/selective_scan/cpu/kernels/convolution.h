/* Causal depthwise convolution and SiLU, forward and backward, for one task.
 */

#ifndef CONVOLUTION_H
#define CONVOLUTION_H

#include "scan.h"

INLINE struct range range_of_convolution(
    const struct convolution *s, int64_t task)
{
    struct range r;
    r.part = task % s->splits;
    r.block = task / s->splits;
    r.first_channel = r.part * s->part_width;
    r.last_channel = smaller(s->channels, r.first_channel + s->part_width);
    r.vectors = (r.last_channel - r.first_channel + LANES - 1) / LANES;
    r.first_row = r.block * s->rows;
    r.last_row = smaller(s->batch, r.first_row + s->rows);
    return r;
}

INLINE vector masked_load(
    const struct convolution *s, const struct tensor *from, int64_t row,
    int64_t step, int64_t channel, int64_t lanes)
{
    vector x = load(at(from, row, step) + channel, lanes);
    return s->mask.data ? x * *at(&s->mask, row, step) : x;
}

/* x at the `count` steps from start - (width - 1), zero before the first. */
INLINE void load_window(
    const struct convolution *s, int64_t row, int64_t start, int64_t count,
    int64_t channel, int64_t lanes, vector *window)
{
    for (int64_t t = 0; t < count; t++) {
        int64_t step = start - (s->width - 1) + t;
        window[t] = step < 0
            ? (vector){}
            : masked_load(s, &s->x, row, step, channel, lanes);
    }
}

INLINE vector convolve(
    int64_t width, const vector *weight, vector bias, const vector *window)
{
    for (int64_t k = 0; k < width; k++)
        bias += weight[k] * window[k];
    return bias;
}

INLINE void load_weights(
    const struct convolution *s, int64_t channel, int64_t lanes,
    vector *weight, vector *bias)
{
    for (int64_t k = 0; k < s->width; k++)
        weight[k] =
            load((REAL *)s->weight + k * s->channels + channel, lanes);
    *bias = s->bias ? load((REAL *)s->bias + channel, lanes) : (vector){};
}

INLINE void convolution_forward_of(
    const struct convolution *s, vector *scratch, int64_t task, int64_t width)
{
    struct range r = range_of_convolution(s, task);
    vector *window = scratch, *weight = window + CHUNK + width - 1, bias;
    for (int64_t row = r.first_row; row < r.last_row; row++)
        for (int64_t start = 0; start < s->length; start += CHUNK)
            for (int64_t v = 0; v < r.vectors; v++) {
                int64_t steps = smaller(CHUNK, s->length - start);
                int64_t channel = r.first_channel + v * LANES;
                int64_t lanes = lanes_of(&r, channel);
                load_weights(s, channel, lanes, weight, &bias);
                load_window(s, row, start, steps + width - 1, channel, lanes,
                            window);
                for (int64_t t = 0; t < steps; t++) {
                    vector x = convolve(width, weight, bias, window + t);
                    x *= sigmoid(x);
                    if (s->mask.data)
                        x *= *at(&s->mask, row, start + t);
                    store(at(&s->y, row, start + t) + channel, x, lanes);
                }
            }
}

INLINE void convolution_backward_of(
    const struct convolution *s, vector *scratch, int64_t task, int64_t width)
{
    struct range r = range_of_convolution(s, task);
    int64_t before = width - 1;
    vector *window = scratch, *weight = window + CHUNK + before;
    vector *grad = weight + width; /* of the convolution, CHUNK + before */
    vector *later = grad + CHUNK + before; /* its first steps, per vector */
    vector *grad_weight = later + r.vectors * before;
    vector *grad_bias = grad_weight + r.vectors * width, bias;
    memset(grad_weight, 0, r.vectors * (width + 1) * sizeof(vector));

    int64_t last = (s->length - 1) / CHUNK * CHUNK;
    for (int64_t row = r.first_row; row < r.last_row; row++) {
        memset(later, 0, r.vectors * before * sizeof(vector));
        for (int64_t start = last; start >= 0; start -= CHUNK)
            for (int64_t v = 0; v < r.vectors; v++) {
                int64_t steps = smaller(CHUNK, s->length - start);
                int64_t channel = r.first_channel + v * LANES;
                int64_t lanes = lanes_of(&r, channel);
                load_weights(s, channel, lanes, weight, &bias);
                load_window(s, row, start, steps + before, channel, lanes,
                            window);
                memcpy(grad + steps, later + v * before,
                       before * sizeof(vector));
                for (int64_t t = 0; t < steps; t++) {
                    vector x = convolve(width, weight, bias, window + t);
                    vector gate = sigmoid(x);
                    grad[t] = masked_load(s, &s->grad_y, row, start + t,
                                          channel, lanes)
                            * (gate * (1 + x * (1 - gate)));
                    for (int64_t k = 0; k < width; k++)
                        grad_weight[v * width + k] += grad[t] * window[t + k];
                    grad_bias[v] += grad[t];
                }
                for (int64_t t = 0; t < steps; t++) {
                    vector x = {};
                    for (int64_t k = 0; k < width; k++)
                        x += weight[k] * grad[t + before - k];
                    if (s->mask.data)
                        x *= *at(&s->mask, row, start + t);
                    store(at(&s->grad_x, row, start + t) + channel, x, lanes);
                }
                memcpy(later + v * before, grad, before * sizeof(vector));
            }
    }
    for (int64_t v = 0; v < r.vectors; v++) {
        int64_t channel = r.first_channel + v * LANES;
        int64_t lanes = lanes_of(&r, channel);
        for (int64_t k = 0; k < width; k++)
            store((REAL *)s->grad_weight
                      + (r.block * width + k) * s->channels + channel,
                  grad_weight[v * width + k], lanes);
        store((REAL *)s->grad_bias + r.block * s->channels + channel,
              grad_bias[v], lanes);
    }
}

/* The width that Mamba has is worth code of its own. */
static void convolution_forward(
    const void *arguments, void *scratch, int64_t task)
{
    const struct convolution *s = arguments;
    if (s->width == 4)
        convolution_forward_of(s, scratch, task, 4);
    else
        convolution_forward_of(s, scratch, task, s->width);
}

static void convolution_backward(
    const void *arguments, void *scratch, int64_t task)
{
    const struct convolution *s = arguments;
    if (s->width == 4)
        convolution_backward_of(s, scratch, task, 4);
    else
        convolution_backward_of(s, scratch, task, s->width);
}

static int64_t convolution_scratch(const struct convolution *s)
{
    int64_t vectors = (s->part_width + LANES - 1) / LANES;
    return (2 * (CHUNK + s->width) + s->width + vectors * (2 * s->width + 1))
         * (int64_t)sizeof(vector);
}

#endif
