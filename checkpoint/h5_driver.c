/* An HDF5 file driver for files that are written once: plain pwrite, and a first failure that
 * stays.
 *
 * Why not HDF5's own driver: when a write fails there (a full disk), HDF5 1.10 keeps what it could
 * not write, fails to close the file, holds its descriptor (so that the disk stays full even after
 * the file is removed) and may crash when the process ends. Here a failure is remembered outside
 * the file, the file is emptied, and everything after it succeeds without being written: HDF5
 * closes the file as usual and ls_ckpt_h5_complete reports the failure. Closing syncs the file.
 *
 * Chunks are put into the file past HDF5, which allows for one thread at a time: it is asked to
 * write a chunk, and the driver keeps the place. */
#include "checkpoint/format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct driver_file {
    H5FD_t base; /* first: HDF5's part */
    int fd;
    ls_ckpt_h5_output *output;
    haddr_t eoa, eof;
    dev_t device;
    ino_t inode;
} driver_file;

typedef struct driver_info {
    ls_ckpt_h5_output *output;
} driver_info;

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr) {
    (void)maxaddr;
    const driver_info *info = H5Pget_driver_info(fapl);
    if (!info || !(flags & H5F_ACC_CREAT)) {
        return NULL;
    }
    driver_file *f = calloc(1, sizeof *f);
    if (!f) {
        info->output->error = ENOMEM;
        return NULL;
    }
    f->output = info->output;
    f->fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    struct stat st;
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        f->output->error = errno;
        if (f->fd >= 0) {
            close(f->fd);
        }
        free(f);
        return NULL;
    }
    f->output->fd = f->fd;
    f->device = st.st_dev;
    f->inode = st.st_ino;
    return &f->base;
}

/* Syncs here, by the descriptor that wrote: a later one may not be told of what the kernel could
 * not write meanwhile. */
static herr_t driver_close(H5FD_t *file) {
    driver_file *f = (driver_file *)file;
    int failed = 0;
    do {
        failed = !f->output->error && fsync(f->fd) != 0;
    } while (failed && errno == EINTR);
    if (failed && errno != EINVAL) {
        ls_ckpt_h5_fault(f->output, errno);
    }
    if (close(f->fd) != 0 && !f->output->error) {
        f->output->error = errno;
    }
    free(f);
    return 0;
}

static int driver_cmp(const H5FD_t *a, const H5FD_t *b) {
    const driver_file *x = (const driver_file *)a, *y = (const driver_file *)b;
    if (x->device != y->device) {
        return x->device < y->device ? -1 : 1;
    }
    return (x->inode > y->inode) - (x->inode < y->inode);
}

static herr_t driver_query(const H5FD_t *file, unsigned long *flags) {
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *file, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)file)->eoa;
}

static herr_t driver_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr) {
    (void)type;
    ((driver_file *)file)->eoa = addr;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *file, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)file)->eof;
}

/* What lies behind the end, or was never written, reads as zeros. */
static herr_t driver_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size,
                          void *buffer) {
    (void)type;
    (void)dxpl;
    driver_file *f = (driver_file *)file;
    char *to = buffer;
    while (size > 0) {
        ssize_t n = pread(f->fd, to, size, (off_t)addr);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            ls_ckpt_h5_fault(f->output, errno);
        }
        if (n <= 0) {
            memset(to, 0, size);
            return 0;
        }
        to += n;
        addr += (haddr_t)n;
        size -= (size_t)n;
    }
    return 0;
}

static herr_t driver_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size,
                           const void *buffer) {
    (void)type;
    (void)dxpl;
    driver_file *f = (driver_file *)file;
    if (addr + size > f->eof) {
        f->eof = addr + size;
    }
    if (buffer == f->output->later) {
        f->output->later = NULL;
        f->output->later_at = (int64_t)addr;
    } else {
        ls_ckpt_h5_write(f->output, buffer, size, (int64_t)addr);
    }
    return 0;
}

/* HDF5 asks for the file to end where its allocations end. */
static herr_t driver_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing) {
    (void)dxpl;
    (void)closing;
    driver_file *f = (driver_file *)file;
    if (f->eof != f->eoa) {
        int failed;
        do {
            failed = !f->output->error && ftruncate(f->fd, (off_t)f->eoa) != 0;
        } while (failed && errno == EINTR);
        if (failed) {
            ls_ckpt_h5_fault(f->output, errno);
        }
        f->eof = f->eoa;
    }
    return 0;
}

static const H5FD_class_t driver_class = {
#ifdef H5FD_CLASS_VERSION /* from HDF5 1.13 on */
    .version = H5FD_CLASS_VERSION,
    .value = H5_VFD_MAX, /* nobody looks for it by number */
#endif
    .name = "lockstep_write_once",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(driver_info),
    .open = driver_open,
    .close = driver_close,
    .cmp = driver_cmp,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

ls_status ls_ckpt_h5_driver_set(hid_t fapl, ls_ckpt_h5_output *output) {
    static hid_t driver = H5I_INVALID_HID; /* registered once a process */
    *output = (ls_ckpt_h5_output){.fd = -1};
    const driver_info info = {.output = output};
    herr_t done = -1;
    pthread_mutex_lock(&ls_ckpt_h5_mutex);
    if (driver < 0) {
        driver = H5FDregister(&driver_class);
    }
    if (driver >= 0) {
        done = H5Pset_driver(fapl, driver, &info);
    }
    pthread_mutex_unlock(&ls_ckpt_h5_mutex);
    return done >= 0 ? LS_OK : LS_H5_FAIL(LS_E_UNSUPPORTED, "HDF5 refuses the file driver");
}
