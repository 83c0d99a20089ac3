/* Operations of the table that device_cuda.c supplies. */
#ifndef LS_DEVICE_CUDA_MEMORY_CUDA_H
#define LS_DEVICE_CUDA_MEMORY_CUDA_H

#include "runtime/device/cuda/device_cuda.h"

void ls_cuda_close(ls_device *dev);
ls_status ls_cuda_alloc(ls_device *dev, size_t bytes, void **memory);
void ls_cuda_free(ls_device *dev, void *memory);
void ls_cuda_peek_end(ls_cuda_device *cuda);
ls_status ls_cuda_free_bytes(ls_device *dev, int64_t *bytes);
ls_status ls_cuda_upload(ls_device *dev, void *to_device, const void *from_host, size_t bytes);
ls_status ls_cuda_download(ls_device *dev, void *to_host, const void *from_device, size_t bytes);
ls_status ls_cuda_copy(ls_device *dev, void *to, const void *from, size_t bytes);
ls_status ls_cuda_zero(ls_device *dev, void *memory, size_t bytes);
ls_status ls_cuda_pin(ls_device *dev, void *host, size_t bytes);
ls_status ls_cuda_unpin(ls_device *dev, void *host);
ls_status ls_cuda_fetch(ls_device *dev, void *pinned, const void *from_device, size_t bytes);
ls_status ls_cuda_hold(ls_device *dev);
ls_status ls_cuda_fetched(ls_device *dev, bool wait, bool *over);
ls_status ls_cuda_mark(ls_device *dev, int which);
ls_status ls_cuda_between(ls_device *dev, int from, int to, double *seconds);

#endif
