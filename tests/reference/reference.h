/* The reference device: the specification of every operation of runtime/device/device.h.
 *
 * acc is LS_F64, every operation takes dtype LS_F64 (else LS_E_UNSUPPORTED), memory is the host's,
 * one thread works, and each operation is written as its formula in plain loops. Errors are those
 * of the seam. */
#ifndef LS_TESTS_REFERENCE_H
#define LS_TESTS_REFERENCE_H

#include "runtime/device/device.h"

/* options may be NULL; its threads are not used. dev->ops->close ends the device. */
ls_status ls_device_open_reference(const ls_device_options *options, ls_device **dev);

#endif
