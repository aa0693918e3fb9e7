/* The selective scan, forward and backward, for one task.
 *
 * Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with
 * Selective State Spaces", 2023, section 3.3.2: states are recomputed in the
 * backward pass.  Here those at every CHUNK-th step are kept, so that the
 * backward pass recomputes each state once.
 *
 * Vectors run over channels.  For a chunk of steps and a vector of channels
 * the states go TILE at a time through all the steps, and stay in registers
 * meanwhile. */

#ifndef SCAN_H
#define SCAN_H

#include "arguments.h"
#include "vector.h"

#define TILE 4

/* Channels and sequences of one task. */
struct range {
    int64_t part, first_channel, last_channel, vectors;
    int64_t block, first_row, last_row;
    int64_t group_of_B, group_of_C;
};

INLINE int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Tasks count parts fastest. */
INLINE struct range range_of(const struct scan *s, int64_t task)
{
    struct range r;
    int64_t parts = s->groups * s->splits;
    int64_t group_width = s->channels / s->groups;
    r.part = task % parts;
    r.block = task / parts;
    int64_t group = r.part / s->splits;
    int64_t offset = r.part % s->splits * s->part_width;
    r.first_channel = group * group_width + offset;
    r.last_channel =
        group * group_width + smaller(group_width, offset + s->part_width);
    r.vectors = (r.last_channel - r.first_channel + LANES - 1) / LANES;
    r.first_row = r.block * s->rows;
    r.last_row = smaller(s->batch, r.first_row + s->rows);
    r.group_of_B = group * s->B.groups / s->groups;
    r.group_of_C = group * s->C.groups / s->groups;
    return r;
}

INLINE int64_t lanes_of(const struct range *r, int64_t channel)
{
    return smaller(LANES, r->last_channel - channel);
}

INLINE REAL *at(const struct tensor *t, int64_t row, int64_t step)
{
    return (REAL *)t->data + row * t->batch + step * t->step;
}

INLINE REAL *at_group(
    const struct projection *p, int64_t group, int64_t row, int64_t step)
{
    return (REAL *)p->data + row * p->batch + group * p->group
         + step * p->step;
}

/* Per-channel rows (rows, channels) <-> vectors [vector][row]. */
INLINE void gather(
    const struct scan *s, const struct range *r, const REAL *from,
    int64_t rows, vector *to)
{
    for (int64_t v = 0; v < r->vectors; v++) {
        int64_t channel = r->first_channel + v * LANES;
        for (int64_t n = 0; n < rows; n++)
            to[v * rows + n] = from
                ? load(from + n * s->channels + channel, lanes_of(r, channel))
                : (vector){};
    }
}

INLINE void scatter(
    const struct scan *s, const struct range *r, const vector *from,
    int64_t rows, REAL *to)
{
    for (int64_t v = 0; v < r->vectors; v++) {
        int64_t channel = r->first_channel + v * LANES;
        for (int64_t n = 0; n < rows; n++)
            store(to + n * s->channels + channel, from[v * rows + n],
                  lanes_of(r, channel));
    }
}

/* One line of memory a step, to be fetched ahead: steps lie too far apart for
 * the processor to foresee where it will read and write next.  The tiles ask
 * for one line a step, as their arithmetic leaves time for no more. */
struct stream {
    const REAL *first;
    int64_t step;
};

INLINE void fetch(struct stream stream, int64_t t)
{
    __builtin_prefetch(stream.first + t * stream.step, 0, 2);
}

/* Where a vector of channels stands in its chunk. */
struct place {
    int64_t row, chunk, vector;
};

/* The place that comes next, with chunks counted up or down (`by` 1 or -1). */
INLINE struct place next_place(
    const struct range *r, struct place p, int64_t chunks, int64_t by)
{
    if (++p.vector < r->vectors)
        return p;
    p.vector = 0;
    p.chunk += by;
    if (p.chunk >= 0 && p.chunk < chunks)
        return p;
    p.chunk = by > 0 ? 0 : chunks - 1;
    if (p.row + 1 < r->last_row)
        p.row++;
    return p;
}

/* An absent tensor leaves its turn to u, which costs nothing twice. */
INLINE struct stream stream_of(
    const struct scan *s, const struct range *r, struct place p,
    const struct tensor *x)
{
    if (!x->data)
        x = &s->u;
    struct stream stream = {
        at(x, p.row, p.chunk * CHUNK) + r->first_channel + p.vector * LANES,
        x->step};
    return stream;
}

/* The step sizes of a chunk, before bias and softplus. */
INLINE vector raw_delta(
    const struct scan *s, int64_t row, int64_t step, int64_t channel,
    int64_t lanes, const vector *weight)
{
    if (s->delta.data)
        return load(at(&s->delta, row, step) + channel, lanes);
    const REAL *factors = at(&s->step, row, step);
    vector sum = {};
    for (int64_t i = 0; i < s->rank; i++)
        sum += factors[i] * weight[i];
    return sum;
}

/* B or C of one step: a scalar for all channels, or constant vectors. */
struct operand {
    const REAL *varying; /* [step][state], or NULL */
    int64_t step;
    const vector *constant; /* [state] */
};

INLINE vector pick(const struct operand *o, int is_constant, int64_t t, int n)
{
    return is_constant ? o->constant[n] : constant(o->varying[t * o->step + n]);
}

/* ---- forward ---- */

#define FORWARD_STREAMS 4

INLINE void forward_tile(
    int tile, int constant_B, int constant_C, int64_t steps, const vector *A,
    struct operand B, struct operand C, const vector *delta,
    const vector *drive, vector *state, vector *y, struct stream ahead)
{
    vector h[TILE], rate[TILE];
    for (int i = 0; i < tile; i++) {
        h[i] = state[i];
        rate[i] = A[i];
    }
    for (int64_t t = 0; t < steps; t++) {
        vector sum = y[t];
        fetch(ahead, t);
#pragma GCC unroll 4
        for (int i = 0; i < tile; i++) {
            vector decay = exp2_of(delta[t] * rate[i]);
            h[i] = decay * h[i] + drive[t] * pick(&B, constant_B, t, i);
            sum += h[i] * pick(&C, constant_C, t, i);
        }
        y[t] = sum;
    }
    for (int i = 0; i < tile; i++)
        state[i] = h[i];
}

/* All states of one vector of channels through one chunk. */
INLINE void forward_states(
    int constant_B, int constant_C, int64_t states, int64_t steps,
    const vector *A, struct operand B, struct operand C, const vector *delta,
    const vector *drive, vector *state, vector *y, const struct stream *ahead)
{
    int64_t n = 0;
#define RUN(tile)                                                              \
    do {                                                                       \
        struct operand B_n = {B.varying + n, B.step, B.constant + n};          \
        struct operand C_n = {C.varying + n, C.step, C.constant + n};          \
        forward_tile(tile, constant_B, constant_C, steps, A + n, B_n, C_n,     \
                     delta, drive, state + n, y,                               \
                     ahead[n / TILE % FORWARD_STREAMS]);                       \
    } while (0)
    for (; n + TILE <= states; n += TILE)
        RUN(TILE);
    for (; n < states; n++)
        RUN(1);
#undef RUN
}

static void scan_forward(const void *arguments, void *scratch, int64_t task)
{
    const struct scan *s = arguments;
    struct range r = range_of(s, task);
    int64_t states = s->states, count = r.vectors * states;
    vector *A = scratch;
    vector *B = A + count, *C = B + count, *state = C + count;
    vector *D = state + count, *bias = D + r.vectors;
    vector *weight = bias + r.vectors;
    vector delta[CHUNK], drive[CHUNK], u[CHUNK], y[CHUNK];

    gather(s, &r, s->A, states, A);
    gather(s, &r, s->D, 1, D);
    gather(s, &r, s->bias, 1, bias);
    gather(s, &r, s->weight, s->rank, weight);
    if (!s->B.groups)
        gather(s, &r, s->B.data, states, B);
    if (!s->C.groups)
        gather(s, &r, s->C.data, states, C);

    int64_t chunks = (s->length + CHUNK - 1) / CHUNK;
    for (int64_t row = r.first_row; row < r.last_row; row++) {
        memset(state, 0, count * sizeof *state);
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            int64_t start = chunk * CHUNK;
            int64_t steps = smaller(CHUNK, s->length - start);
            if (s->checkpoints && chunk)
                scatter(s, &r, state, states,
                        (REAL *)s->checkpoints
                            + (row * (chunks - 1) + chunk - 1) * states
                                  * s->channels);
            for (int64_t v = 0; v < r.vectors; v++) {
                int64_t channel = r.first_channel + v * LANES;
                int64_t lanes = lanes_of(&r, channel);
                struct place place = {row, chunk, v};
                place = next_place(&r, place, chunks, 1);
                const struct stream ahead[FORWARD_STREAMS] = {
                    stream_of(s, &r, place, &s->u),
                    stream_of(s, &r, place, &s->y),
                    stream_of(s, &r, place, &s->z),
                    stream_of(s, &r, place, &s->delta),
                };
                for (int64_t t = 0; t < steps; t++) {
                    vector x = raw_delta(s, row, start + t, channel, lanes,
                                         weight + v * s->rank)
                             + bias[v];
                    vector slope;
                    delta[t] = s->softplus ? softplus(x, &slope) : x;
                    u[t] = load(at(&s->u, row, start + t) + channel, lanes);
                    drive[t] = delta[t] * u[t];
                    y[t] = D[v] * u[t];
                }
                struct operand B_v = {0, s->B.step, B + v * states};
                struct operand C_v = {0, s->C.step, C + v * states};
                if (s->B.groups)
                    B_v.varying = at_group(&s->B, r.group_of_B, row, start);
                if (s->C.groups)
                    C_v.varying = at_group(&s->C, r.group_of_C, row, start);
#define RUN(constant_B, constant_C)                                            \
    forward_states(constant_B, constant_C, states, steps, A + v * states, B_v, \
                   C_v, delta, drive, state + v * states, y, ahead)
                if (s->B.groups && s->C.groups)
                    RUN(0, 0);
                else if (s->B.groups)
                    RUN(0, 1);
                else if (s->C.groups)
                    RUN(1, 0);
                else
                    RUN(1, 1);
#undef RUN
                for (int64_t t = 0; t < steps; t++) {
                    if (s->z.data) {
                        vector z =
                            load(at(&s->z, row, start + t) + channel, lanes);
                        y[t] *= z * sigmoid(z);
                    }
                    store(at(&s->y, row, start + t) + channel, y[t], lanes);
                }
            }
        }
        scatter(s, &r, state, states,
                (REAL *)s->last_state + row * states * s->channels);
    }
}

/* ---- backward ---- */

#define BACKWARD_STREAMS 8

/* What the states of one vector of channels share in a chunk. */
struct chunk_vectors {
    vector delta[CHUNK], drive[CHUNK], grad_y[CHUNK];
    /* Gradients of the drive and of delta A / log(e), y without D u. */
    vector grad_drive[CHUNK], grad_exponent[CHUNK], y[CHUNK];
};

INLINE void backward_tile(
    int tile, int constant_B, int constant_C, int64_t steps, int64_t states,
    const vector *A, struct operand B, struct operand C,
    struct chunk_vectors *c, const vector *border, vector *grad_state,
    vector *grad_A, vector *grad_B, vector *grad_C, const struct stream *ahead)
{
    struct {
        vector before[TILE], decay[TILE];
    } past[CHUNK];
    vector h[TILE], g[TILE], rate[TILE], sum_A[TILE];
    for (int i = 0; i < tile; i++) {
        h[i] = border[i];
        rate[i] = A[i];
    }
    for (int64_t t = 0; t < steps; t++) {
        fetch(ahead[0], t);
#pragma GCC unroll 4
        for (int i = 0; i < tile; i++) {
            vector decay = exp2_of(c->delta[t] * rate[i]);
            past[t].before[i] = h[i];
            past[t].decay[i] = decay;
            h[i] = decay * h[i] + c->drive[t] * pick(&B, constant_B, t, i);
        }
    }
    for (int i = 0; i < tile; i++) {
        g[i] = grad_state[i];
        sum_A[i] = grad_A[i];
    }
    for (int64_t t = steps - 1; t >= 0; t--) {
        vector delta = c->delta[t], drive = c->drive[t];
        vector grad_y = c->grad_y[t];
        vector grad_drive = c->grad_drive[t];
        vector grad_exponent = c->grad_exponent[t], y = c->y[t];
        fetch(ahead[1], t);
        /* Constant projections have one sum, others one a step. */
        vector *sum_B = grad_B + (constant_B ? 0 : t * 2 * states);
        vector *sum_C = grad_C + (constant_C ? 0 : t * 2 * states);
#pragma GCC unroll 4
        for (int i = 0; i < tile; i++) {
            vector b = pick(&B, constant_B, t, i);
            vector c_t = pick(&C, constant_C, t, i);
            g[i] += grad_y * c_t;
            sum_C[i] += grad_y * h[i];
            y += c_t * h[i];
            sum_B[i] += g[i] * drive;
            grad_drive += g[i] * b;
            g[i] *= past[t].decay[i];
            h[i] = past[t].before[i];
            vector through_decay = g[i] * h[i];
            sum_A[i] += through_decay * delta;
            grad_exponent += through_decay * rate[i];
        }
        c->grad_drive[t] = grad_drive;
        c->grad_exponent[t] = grad_exponent;
        c->y[t] = y;
    }
    for (int i = 0; i < tile; i++) {
        grad_state[i] = g[i];
        grad_A[i] = sum_A[i];
    }
}

INLINE void backward_states(
    int constant_B, int constant_C, int64_t states, int64_t steps,
    const vector *A, struct operand B, struct operand C,
    struct chunk_vectors *c, const vector *border, vector *grad_state,
    vector *grad_A, vector *grad_B, vector *grad_C, const struct stream *ahead)
{
    int64_t n = 0;
#define RUN(tile)                                                              \
    do {                                                                       \
        struct operand B_n = {B.varying + n, B.step, B.constant + n};          \
        struct operand C_n = {C.varying + n, C.step, C.constant + n};          \
        backward_tile(tile, constant_B, constant_C, steps, states, A + n, B_n, \
                      C_n, c, border + n, grad_state + n, grad_A + n,          \
                      grad_B + n, grad_C + n,                                  \
                      ahead + 2 * (n / TILE) % BACKWARD_STREAMS);              \
    } while (0)
    for (; n + TILE <= states; n += TILE)
        RUN(TILE);
    for (; n < states; n++)
        RUN(1);
#undef RUN
}

/* Sums over lanes, of one chunk. */
INLINE void store_sums(
    const struct scan *s, const struct range *r, const struct tensor *to,
    int64_t row, int64_t start, int64_t steps, int64_t n, int64_t stride,
    const vector *sums)
{
    for (int64_t t = 0; t < steps; t++) {
        REAL *grad = at(to, row, start + t) + r->part * s->grad_part;
        for (int64_t i = 0; i < n; i++)
            grad[i] = sum_of_lanes(sums[t * stride + i]);
    }
}

static void scan_backward(const void *arguments, void *scratch, int64_t task)
{
    const struct scan *s = arguments;
    struct range r = range_of(s, task);
    int64_t states = s->states, rank = s->rank, count = r.vectors * states;
    int constant_B = !s->B.groups, constant_C = !s->C.groups;
    vector *A = scratch;
    vector *B = A + count, *C = B + count;
    vector *border = C + count, *grad_state = border + count;
    vector *grad_A = grad_state + count;
    vector *weight = grad_A + count, *grad_weight = weight + r.vectors * rank;
    vector *D = grad_weight + r.vectors * rank, *bias = D + r.vectors;
    vector *grad_D = bias + r.vectors, *grad_bias = grad_D + r.vectors;
    vector *grad_step = grad_bias + r.vectors;
    /* Sums over channels of one chunk lie step by step: B, C.  Apart from each
     * other they would be a multiple of 4 KiB away, and loads from the one
     * wait for stores to the other. */
    vector *sums = grad_step + CHUNK * rank;
    vector *grad_B = constant_B ? sums + CHUNK * 2 * states : sums;
    vector *grad_C =
        constant_C ? sums + CHUNK * 2 * states + count : sums + states;
    vector *end = sums + CHUNK * 2 * states + 2 * count;
    struct chunk_vectors c;
    vector u[CHUNK], slope[CHUNK], z[CHUNK], grad_y[CHUNK];

    memset(scratch, 0, (char *)end - (char *)scratch);
    gather(s, &r, s->A, states, A);
    gather(s, &r, s->D, 1, D);
    gather(s, &r, s->bias, 1, bias);
    gather(s, &r, s->weight, rank, weight);
    if (constant_B)
        gather(s, &r, s->B.data, states, B);
    if (constant_C)
        gather(s, &r, s->C.data, states, C);

    int64_t chunks = (s->length + CHUNK - 1) / CHUNK;
    for (int64_t row = r.first_row; row < r.last_row; row++) {
        gather(s, &r,
               s->grad_last_state
                   ? (REAL *)s->grad_last_state + row * states * s->channels
                   : 0,
               states, grad_state);
        for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
            int64_t start = chunk * CHUNK;
            int64_t steps = smaller(CHUNK, s->length - start);
            gather(s, &r,
                   chunk ? (REAL *)s->checkpoints
                               + (row * (chunks - 1) + chunk - 1) * states
                                     * s->channels
                         : 0,
                   states, border);
            memset(sums, 0, steps * 2 * states * sizeof *sums);
            memset(grad_step, 0, steps * rank * sizeof *grad_step);

            for (int64_t v = 0; v < r.vectors; v++) {
                int64_t channel = r.first_channel + v * LANES;
                int64_t lanes = lanes_of(&r, channel);
                struct place place = {row, chunk, v};
                place = next_place(&r, place, chunks, -1);
                const struct stream ahead[BACKWARD_STREAMS] = {
                    stream_of(s, &r, place, &s->u),
                    stream_of(s, &r, place, &s->grad_y),
                    stream_of(s, &r, place, &s->grad_u),
                    stream_of(s, &r, place, &s->z),
                    stream_of(s, &r, place, &s->grad_z),
                    stream_of(s, &r, place, &s->delta),
                    stream_of(s, &r, place, &s->grad_delta),
                    stream_of(s, &r, place, &s->u), /* a tile takes two */
                };
                for (int64_t t = 0; t < steps; t++) {
                    vector x = raw_delta(s, row, start + t, channel, lanes,
                                         weight + v * rank)
                             + bias[v];
                    slope[t] = constant(1);
                    c.delta[t] = s->softplus ? softplus(x, &slope[t]) : x;
                    u[t] = load(at(&s->u, row, start + t) + channel, lanes);
                    c.drive[t] = c.delta[t] * u[t];
                    grad_y[t] =
                        load(at(&s->grad_y, row, start + t) + channel, lanes);
                    c.grad_y[t] = grad_y[t];
                    if (s->z.data) {
                        z[t] = load(at(&s->z, row, start + t) + channel, lanes);
                        vector gate = sigmoid(z[t]);
                        c.grad_y[t] *= z[t] * gate;
                        /* From here on the slope of silu(z). */
                        z[t] = gate * (1 + z[t] * (1 - gate));
                    }
                    c.grad_drive[t] = c.grad_exponent[t] = c.y[t] = (vector){};
                }
                struct operand B_v = {0, s->B.step, B + v * states};
                struct operand C_v = {0, s->C.step, C + v * states};
                if (!constant_B)
                    B_v.varying = at_group(&s->B, r.group_of_B, row, start);
                if (!constant_C)
                    C_v.varying = at_group(&s->C, r.group_of_C, row, start);
                vector *grad_B_v = grad_B + (constant_B ? v * states : 0);
                vector *grad_C_v = grad_C + (constant_C ? v * states : 0);
#define RUN(constant_B, constant_C)                                            \
    backward_states(constant_B, constant_C, states, steps, A + v * states,     \
                    B_v, C_v, &c, border + v * states,                         \
                    grad_state + v * states, grad_A + v * states, grad_B_v,    \
                    grad_C_v, ahead)
                if (!constant_B && !constant_C)
                    RUN(0, 0);
                else if (!constant_B)
                    RUN(0, 1);
                else if (!constant_C)
                    RUN(1, 0);
                else
                    RUN(1, 1);
#undef RUN
                for (int64_t t = 0; t < steps; t++) {
                    vector grad_u =
                        c.grad_drive[t] * c.delta[t] + c.grad_y[t] * D[v];
                    store(at(&s->grad_u, row, start + t) + channel, grad_u,
                          lanes);
                    /* A holds log2(e) as a factor. */
                    vector grad_delta =
                        (c.grad_drive[t] * u[t] + c.grad_exponent[t] * LN_2)
                        * slope[t];
                    if (s->grad_delta.data)
                        store(at(&s->grad_delta, row, start + t) + channel,
                              grad_delta, lanes);
                    if (s->z.data)
                        store(at(&s->grad_z, row, start + t) + channel,
                              grad_y[t] * z[t] * (c.y[t] + D[v] * u[t]), lanes);
                    grad_D[v] += c.grad_y[t] * u[t];
                    grad_bias[v] += grad_delta;
                    if (rank) {
                        const REAL *step = at(&s->step, row, start + t);
                        for (int64_t i = 0; i < rank; i++) {
                            grad_weight[v * rank + i] += grad_delta * step[i];
                            grad_step[t * rank + i] +=
                                grad_delta * weight[v * rank + i];
                        }
                    }
                }
            }
            if (!constant_B)
                store_sums(s, &r, &s->grad_B, row, start, steps, states,
                           2 * states, grad_B);
            if (!constant_C)
                store_sums(s, &r, &s->grad_C, row, start, steps, states,
                           2 * states, grad_C);
            if (rank)
                store_sums(s, &r, &s->grad_step, row, start, steps, rank,
                           rank, grad_step);
        }
    }
    int64_t slot = r.block * s->channels;
    scatter(s, &r, grad_A, states, (REAL *)s->grad_A + slot * states);
    scatter(s, &r, grad_D, 1, (REAL *)s->grad_D + slot);
    scatter(s, &r, grad_bias, 1, (REAL *)s->grad_bias + slot);
    if (rank)
        scatter(s, &r, grad_weight, rank, (REAL *)s->grad_weight + slot * rank);
    if (constant_B)
        scatter(s, &r, grad_B, states, (REAL *)s->grad_B.data + slot * states);
    if (constant_C)
        scatter(s, &r, grad_C, states, (REAL *)s->grad_C.data + slot * states);
}

/* Bytes of scratch memory that a task needs, forward or backward. */
static int64_t scan_scratch(const struct scan *s)
{
    int64_t vectors = (s->part_width + LANES - 1) / LANES;
    int64_t per_vector = 8 * s->states + 2 * s->rank + 4;
    int64_t per_chunk = CHUNK * (2 * s->states + s->rank);
    return (vectors * per_vector + per_chunk) * (int64_t)sizeof(vector);
}

#endif
