/* What Python calls: picks the kernels for this machine. */

#include <stddef.h>

#include "arguments.h"
#include "threads.h"

#if HAVE_X86
extern const struct kernels kernels_avx512_float, kernels_avx512_double;
extern const struct kernels kernels_avx2_float, kernels_avx2_double;
#endif
extern const struct kernels kernels_baseline_float, kernels_baseline_double;

/* Instruction sets by number, slowest first. */
enum { BASELINE, AVX2, AVX512 };

/* The best instruction set that this machine has. */
int best_instruction_set(void)
{
#if HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return AVX2;
#endif
    return BASELINE;
}

static const struct kernels *kernels_of(int instruction_set, int is_double)
{
#if HAVE_X86
    if (instruction_set == AVX512)
        return is_double ? &kernels_avx512_double : &kernels_avx512_float;
    if (instruction_set == AVX2)
        return is_double ? &kernels_avx2_double : &kernels_avx2_float;
#endif
    return is_double ? &kernels_baseline_double : &kernels_baseline_float;
}

static int run_scan(
    const struct scan *s, int instruction_set, int is_double, int64_t threads,
    int backward)
{
    const struct kernels *k = kernels_of(instruction_set, is_double);
    int64_t blocks = (s->batch + s->rows - 1) / s->rows;
    return run_tasks(backward ? k->scan_backward : k->scan_forward, s,
                     blocks * s->groups * s->splits, threads,
                     k->scan_scratch(s));
}

int scan_forward(
    const struct scan *s, int instruction_set, int is_double, int64_t threads)
{
    return run_scan(s, instruction_set, is_double, threads, 0);
}

int scan_backward(
    const struct scan *s, int instruction_set, int is_double, int64_t threads)
{
    return run_scan(s, instruction_set, is_double, threads, 1);
}

static int run_convolution(
    const struct convolution *s, int instruction_set, int is_double,
    int64_t threads, int backward)
{
    const struct kernels *k = kernels_of(instruction_set, is_double);
    int64_t blocks = (s->batch + s->rows - 1) / s->rows;
    return run_tasks(
        backward ? k->convolution_backward : k->convolution_forward, s,
        blocks * s->splits, threads, k->convolution_scratch(s));
}

int convolution_forward(
    const struct convolution *s, int instruction_set, int is_double,
    int64_t threads)
{
    return run_convolution(s, instruction_set, is_double, threads, 0);
}

int convolution_backward(
    const struct convolution *s, int instruction_set, int is_double,
    int64_t threads)
{
    return run_convolution(s, instruction_set, is_double, threads, 1);
}
