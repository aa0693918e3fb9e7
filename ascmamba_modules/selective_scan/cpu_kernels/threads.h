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

#endif
