/* libFuzzer entry for the reader: a manifest (without the lines of its hash, which is made right),
 * a NUL, and the bytes of rank-00000.h5. All tensors of at most TENSOR_BYTES are loaded: any input
 * ends in right values or in an error, in memory that its manifest justifies. */
#include "checkpoint/format.h"
#include "tests/checkpoint/fuzz_manifest.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TENSOR_BYTES = 1 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[64];

static void directory_remove(void) {
    char path[96];
    snprintf(path, sizeof path, "%s/rank-00000.h5", directory);
    unlink(path);
    rmdir(directory);
}

static void file_write(const void *data, size_t bytes) {
    char path[96];
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/dev/shm/lockstep-fuzz-XXXXXX");
        if (!mkdtemp(directory)) {
            abort();
        }
        atexit(directory_remove);
    }
    snprintf(path, sizeof path, "%s/rank-00000.h5", directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) {
        abort();
    }
    close(fd);
}

static void entry_load(ls_ckpt *ckpt, const ls_ckpt_entry *entry) {
    ls_ckpt_tensor t = {.name = entry->name, .dtype = entry->dtype, .ndim = entry->ndim};
    memcpy(t.dims, entry->dims, sizeof t.dims);
    t.box = ls_box_whole(t.ndim, t.dims);
    int64_t bytes = ls_box_elems(&t.box) * (int64_t)ls_dtype_bytes(t.dtype);
    if (bytes > TENSOR_BYTES) {
        return;
    }
    t.data = malloc((size_t)bytes);
    if (t.data) {
        ls_ckpt_load(ckpt, &t, 1);
    }
    free(t.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, '\0', size);
    if (!end) {
        return 0;
    }
    size_t text_bytes = (size_t)(end - data);
    ls_ckpt *ckpt = fuzz_manifest_parse(data, text_bytes);
    if (ckpt) {
        file_write(end + 1, size - text_bytes - 1);
        ckpt->path = strdup(directory);
        for (int i = 0; i < ckpt->entry_count; i++) {
            entry_load(ckpt, &ckpt->entries[i]);
        }
        ls_ckpt_close(ckpt);
    }
    return 0;
}
