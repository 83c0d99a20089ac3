/* Numbers as training has them, for memory that benchmarks move and multiply. Zeros will not do:
 * processors move lines of zeros faster than others (Zen 5 streams them 1.3 to 1.5 times as fast),
 * and chips that multiply them draw less power. */
#ifndef LS_LAUNCH_BENCH_FILL_H
#define LS_LAUNCH_BENCH_FILL_H

#include "runtime/device/device.h"

/* `bytes` of host memory: numbers of dtype between -1 and 1, of integers any; the same in every
 * process, so that sums in place grow to infinity but never to NaN. */
void ls_bench_fill(ls_dtype dtype, void *memory, size_t bytes);

/* Of the device's memory. */
ls_status ls_bench_fill_device(ls_device *dev, ls_dtype dtype, void *memory, size_t bytes);

#endif
