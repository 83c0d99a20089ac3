/* In place of the CUDA device where lockstep is built without the CUDA Toolkit. */
#include "runtime/device/device.h"

#define WHY "this lockstep was built without CUDA"

ls_status ls_device_open_cuda(const ls_device_options *options, ls_device **dev) {
    (void)options;
    *dev = NULL;
    return LS_FAIL(LS_E_UNSUPPORTED,
                   WHY "; install the CUDA Toolkit and build with -DLS_CUDA=ON, or set run.device "
                       "to cpu");
}

bool ls_device_has_cuda(int *count, const char **how) {
    *count = 0;
    *how = WHY;
    return false;
}
