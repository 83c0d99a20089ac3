/* Entry points of the HDF5 plugin: HDF5_PLUGIN_PATH=<its folder> lets h5dump, h5ls, h5py and every
 * other HDF5 program read and write filter 32015. */
#include "checkpoint/zstd_filter.h"

#include <H5PLextern.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT H5PL_type_t H5PLget_plugin_type(void) {
    return H5PL_TYPE_FILTER;
}

EXPORT const void *H5PLget_plugin_info(void) {
    return &ls_h5z_zstd;
}
