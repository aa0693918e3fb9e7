/* Runs tasks on threads. */

#ifndef THREADS_H
#define THREADS_H

#include <stdint.h>

/* Calls task(arguments, scratch, i) for each i below `tasks`, on the calling
 * thread and up to threads - 1 others, each with its own aligned scratch
 * memory.  Returns 0, or -1 if there is no memory. */
int run_tasks(
    void (*task)(const void *, void *, int64_t), const void *arguments,
    int64_t tasks, int64_t threads, int64_t scratch_bytes);

/* GOMP_parallel(function, data, threads, flags), by which compilers start a
 * parallel region of OpenMP. */
typedef void openmp_parallel(void (*)(void *), void *, unsigned, unsigned);

/* From now on tasks run on the threads of this OpenMP. */
void use_openmp(openmp_parallel *parallel);

#endif
