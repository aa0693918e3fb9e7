/* Threads live as long as one call: starting them costs microseconds against
 * milliseconds of work, none is lost in a fork, and none waits in a loop
 * while others want the core. */

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
    int64_t tasks, next;
};

struct worker {
    struct work *work;
    void *scratch;
};

static void *run(void *argument)
{
    struct worker *worker = argument;
    struct work *work = worker->work;
#if defined(__SSE2__)
    /* States that fade out (in padding, say) would become denormal, and each
     * operation on them cost a hundred others.  Set for the call alone. */
    unsigned int control = _mm_getcsr();
    _mm_setcsr(control | 0x8040);
#endif
    for (;;) {
        int64_t i = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED);
        if (i >= work->tasks)
            break;
        work->task(work->arguments, worker->scratch, i);
    }
#if defined(__SSE2__)
    _mm_setcsr(control);
#endif
    return NULL;
}

int run_tasks(
    void (*task)(const void *, void *, int64_t), const void *arguments,
    int64_t tasks, int64_t threads, int64_t scratch_bytes)
{
    if (threads > tasks)
        threads = tasks;
    if (threads < 1)
        threads = 1;
    scratch_bytes = (scratch_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *scratch = NULL;
    struct worker *workers = malloc(threads * sizeof *workers);
    pthread_t *ids = malloc(threads * sizeof *ids);
    if (!workers || !ids
        || posix_memalign(&scratch, ALIGNMENT, threads * scratch_bytes)) {
        free(workers);
        free(ids);
        return -1;
    }

    struct work work = {task, arguments, tasks, 0};
    int64_t started = 0;
    for (int64_t i = 0; i < threads; i++) {
        workers[i].work = &work;
        workers[i].scratch = (char *)scratch + i * scratch_bytes;
    }
    /* Where no more threads are to be had, those at work take all tasks. */
    while (started < threads - 1
           && !pthread_create(&ids[started], NULL, run, &workers[started + 1]))
        started++;
    run(&workers[0]);
    for (int64_t i = 0; i < started; i++)
        pthread_join(ids[i], NULL);
    free(scratch);
    free(workers);
    free(ids);
    return 0;
}
