/* What the callers hand over.  ../library.py mirrors these structures.
 *
 * Every size and stride is an int64_t and counts elements.  Tensors lie with
 * channels (or states) next to each other; steps may have any stride, a
 * negative one to read time backwards. */

#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include <stdint.h>

/* (batch, length, channels or states) */
struct tensor {
    void *data;  /* NULL if absent */
    int64_t batch, step;
};

/* (batch, groups, length, states); without groups constant: (states,
 * channels), the same for all steps. */
struct projection {
    void *data;
    int64_t batch, group, step, groups;
};

/* One task reads `rows` sequences in one part of the channels: a group, or
 * where sequences are few, one of `splits` pieces of it.  Sums over sequences
 * go into one slot a block of rows, sums over channels into one slot a part,
 * so that results do not depend on the number of threads. */
struct scan {
    int64_t batch, length, channels, states, rank;
    int64_t groups, splits, part_width, rows, softplus;
    struct tensor u, delta, z, y;
    void *A;          /* (states, channels), times log2(e) */
    void *D, *bias;   /* (channels) or NULL */
    struct tensor step;  /* if delta is absent: delta = weight step */
    void *weight;        /* (rank, channels) */
    struct projection B, C;
    void *checkpoints; /* (batch, chunks - 1, states, channels) or NULL */
    void *last_state; /* (batch, states, channels) */

    /* Backward only. */
    struct tensor grad_y, grad_u, grad_delta, grad_z;
    void *grad_last_state; /* as last_state, or NULL */
    /* Of blocks of rows: (blocks, states or 1 or rank, channels). */
    void *grad_A, *grad_D, *grad_bias, *grad_weight;
    /* Of parts, (parts, batch, length, n), or as grad_A if constant. */
    struct tensor grad_step, grad_B, grad_C;
    int64_t grad_part; /* stride between the parts of the last three */
};

/* A causal depthwise convolution and SiLU. */
struct convolution {
    int64_t batch, length, channels, width;
    int64_t splits, part_width, rows;
    struct tensor x, y;
    struct tensor mask;   /* (batch, length), on x and on y; may be absent */
    void *weight, *bias;  /* (width, channels), (channels) or NULL */

    /* Backward only. */
    struct tensor grad_y, grad_x;
    void *grad_weight, *grad_bias; /* (blocks of rows, as weight and bias) */
};

/* The kernels of one instruction set and one type. */
struct kernels {
    void (*scan_forward)(const void *, void *, int64_t);
    void (*scan_backward)(const void *, void *, int64_t);
    void (*convolution_forward)(const void *, void *, int64_t);
    void (*convolution_backward)(const void *, void *, int64_t);
    int64_t (*scan_scratch)(const struct scan *);
    int64_t (*convolution_scratch)(const struct convolution *);
};

/* Steps between stored states. */
#define CHUNK 32

#endif
