/* libFuzzer entry for profiles of clusters and devices: any bytes end in a profile that is written
 * and read back the same, or in an error that says where. */
#include "runtime/plan/cluster.h"

#include "runtime/base/file.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise ends the process, which the driver reports. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static char path[64];

static void file_remove(void) {
    unlink(path);
}

/* Caller frees. */
static char *written(const ls_cluster *cluster, size_t *bytes) {
    char *text;
    if (!path[0]) {
        snprintf(path, sizeof path, "/dev/shm/lockstep-fuzz-%ld.yaml", (long)getpid());
        atexit(file_remove);
    }
    require(ls_cluster_write(cluster, path) == LS_OK);
    require(ls_file_read(path, 1 << 20, &text, bytes) == LS_OK);
    return text;
}

/* Numbers are written with 6 digits, so that it is the text which stays. */
static void require_same(const ls_cluster *cluster) {
    static ls_cluster again;
    size_t bytes, again_bytes;
    char *text = written(cluster, &bytes);
    require(ls_device_load_text("text", text, bytes, &again) == LS_OK);
    char *again_text = written(&again, &again_bytes);
    require(bytes == again_bytes && memcmp(text, again_text, bytes) == 0);
    free(text);
    free(again_text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ls_cluster cluster;
    const char *text = (const char *)data;
    if (ls_device_load_text("fuzz", text, size, &cluster) == LS_OK) {
        require_same(&cluster);
    } else {
        require(ls_error_last()->code == LS_E_CONFIG && ls_error_last()->message[0]);
    }
    (void)ls_cluster_load_text("fuzz", NULL, text, size, &cluster);
    return 0;
}
