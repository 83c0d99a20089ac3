/* The HDF5 filter 32015 (zstd), for this process and for the plugin.
 * https://github.com/HDFGroup/hdf5_plugins: registered by Frank Willmore / Andrey Paramonov. */
#ifndef LS_CHECKPOINT_ZSTD_FILTER_H
#define LS_CHECKPOINT_ZSTD_FILTER_H

#include <hdf5.h>

#define LS_H5Z_ZSTD 32015

/* cd_values[0] is the level (default 3). Writes frames with content size and checksum; reads any
 * single frame whose content size is stated and below HDF5's 4 GiB limit on chunks. Calls no HDF5
 * function, so that the plugin works with whatever HDF5 library loads it. */
extern const H5Z_class2_t ls_h5z_zstd;

#endif
