/* The kernels of one instruction set and one type; setup.py compiles this
 * file for each. */

#include "convolution.h"
#include "scan.h"

const struct kernels KERNELS = {
    scan_forward,        scan_backward, convolution_forward,
    convolution_backward, scan_scratch,  convolution_scratch,
};
