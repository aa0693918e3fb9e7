/* The exponentials of the scan's kernels and nothing else: their floor. */

#include "vector.h"

void exponentials(REAL *to, const REAL *from, int64_t count, int64_t rounds)
{
    for (int64_t i = 0; i < rounds; i++) {
        for (int64_t k = 0; k < count; k += LANES)
            store(to + k, exp2_of(load(from + k, LANES)), LANES);
        __asm__ volatile("" : : : "memory"); /* each round anew */
    }
}
