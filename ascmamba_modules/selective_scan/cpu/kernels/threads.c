/* Tasks run on the threads of OpenMP that PyTorch works with, where there are
 * any.  They still wait in a loop, for milliseconds, when PyTorch is done with
 * them: threads of our own would have to share the cores with them, which
 * doubled the time of a Mamba block.
 *
 * Without OpenMP, and after a fork, which its threads do not outlive, threads
 * live as long as one call. */

#include "threads.h"

#include <pthread.h>
#include <stdlib.h>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#define ALIGNMENT 64

struct work {
    void (*task)(const void *, void *, int64_t);
    const void *arguments;
    int64_t tasks, next_task;
    char *scratch;
    int64_t scratch_bytes, threads, next_thread;
};

static openmp_parallel *openmp;

static void forget_openmp(void)
{
    openmp = NULL;
}

__attribute__((visibility("default"))) void use_openmp(
    openmp_parallel *parallel)
{
    if (!pthread_atfork(NULL, NULL, forget_openmp))
        openmp = parallel;
}

static void run(void *argument)
{
    struct work *work = argument;
    int64_t thread =
        __atomic_fetch_add(&work->next_thread, 1, __ATOMIC_RELAXED);
    if (thread >= work->threads)
        return;
    char *scratch = work->scratch + thread * work->scratch_bytes;
#if defined(__SSE2__)
    /* States that fade out (in padding, say) would become denormal, and each
     * operation on them cost a hundred others.  Set for the call alone. */
    unsigned int control = _mm_getcsr();
    _mm_setcsr(control | 0x8040);
#endif
    for (;;) {
        int64_t i = __atomic_fetch_add(&work->next_task, 1, __ATOMIC_RELAXED);
        if (i >= work->tasks)
            break;
        work->task(work->arguments, scratch, i);
    }
#if defined(__SSE2__)
    _mm_setcsr(control);
#endif
}

static void *run_thread(void *work)
{
    run(work);
    return NULL;
}

static int run_on_own_threads(struct work *work)
{
    pthread_t *ids = malloc(work->threads * sizeof *ids);
    if (!ids)
        return -1;
    int64_t started = 0;
    /* Where no more threads are to be had, those at work take all tasks. */
    while (started < work->threads - 1
           && !pthread_create(&ids[started], NULL, run_thread, work))
        started++;
    run(work);
    for (int64_t i = 0; i < started; i++)
        pthread_join(ids[i], NULL);
    free(ids);
    return 0;
}

int run_tasks(
    void (*task)(const void *, void *, int64_t), const void *arguments,
    int64_t tasks, int64_t threads, int64_t scratch_bytes)
{
    if (threads < 1)
        threads = 1;
    scratch_bytes = (scratch_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *scratch = NULL;
    if (posix_memalign(&scratch, ALIGNMENT, threads * scratch_bytes))
        return -1;

    struct work work = {
        .task = task,
        .arguments = arguments,
        .tasks = tasks,
        .scratch = scratch,
        .scratch_bytes = scratch_bytes,
        .threads = threads,
    };
    int failed = 0;
    if (threads == 1)
        run(&work);
    else if (openmp)
        openmp(run, &work, (unsigned)threads, 0);
    else
        failed = run_on_own_threads(&work);
    free(scratch);
    return failed;
}
