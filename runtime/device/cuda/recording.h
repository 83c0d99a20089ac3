/* Operations of the table that recording.c supplies. */
#ifndef LS_DEVICE_CUDA_RECORDING_H
#define LS_DEVICE_CUDA_RECORDING_H

#include "runtime/device/device.h"

ls_status ls_cuda_record_begin(ls_device *dev);
ls_status ls_cuda_record_end(ls_device *dev, ls_recording **recording);
ls_status ls_cuda_replay(ls_device *dev, ls_recording *recording);
void ls_cuda_recording_free(ls_device *dev, ls_recording *recording);

#endif
