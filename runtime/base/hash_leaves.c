/* Digests of many equal parts. With Intel's multi-buffer library parts are hashed side by side in
 * the lanes of vector registers, 2 to 3 times as fast as one after the other; elsewhere by OpenSSL.
 */
#include "runtime/base/hash.h"

#ifdef LS_HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(LS_SHA256_LEAF < 65535, "lanes count bytes in 16 bits");

/* Managers are large and slow to make; each is one thread's at a time, and kept for the next. */
typedef struct manager {
    struct manager *next;
    IMB_MGR *lanes;
} manager;

/* Half the lanes of the widest registers; for fewer the library is not worth its memory. */
#define WORTHWHILE ((size_t)8 * LS_SHA256_LEAF)
/* Of its code, nearly all of which is that of self-tests when a manager is made (version 1.3). */
#define CODE_BYTES ((size_t)3400 << 10)

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static manager *idle;

/* NULL when there is none to be had. */
static manager *manager_take(void) {
    pthread_mutex_lock(&mutex);
    manager *m = idle;
    idle = m ? m->next : NULL;
    pthread_mutex_unlock(&mutex);
    if (m || !(m = calloc(1, sizeof *m))) {
        return m;
    }
    m->lanes = alloc_mb_mgr(0);
    if (m->lanes) {
        init_mb_mgr_auto(m->lanes, NULL);
    }
    if (!m->lanes || imb_get_errno(m->lanes) != 0) {
        if (m->lanes) {
            free_mb_mgr(m->lanes);
        }
        free(m);
        return NULL;
    }
    return m;
}

static void manager_give(manager *m) {
    pthread_mutex_lock(&mutex);
    m->next = idle;
    idle = m;
    pthread_mutex_unlock(&mutex);
}

static void job_fill(IMB_JOB *job, const uint8_t *data, size_t bytes, ls_sha256 *out) {
    memset(job, 0, sizeof *job);
    job->cipher_mode = IMB_CIPHER_NULL;
    job->cipher_direction = IMB_DIR_ENCRYPT;
    job->chain_order = IMB_ORDER_HASH_CIPHER;
    job->hash_alg = IMB_AUTH_SHA_256;
    job->src = data;
    job->msg_len_to_hash_in_bytes = bytes;
    job->auth_tag_output = out->bytes;
    job->auth_tag_output_len_in_bytes = sizeof out->bytes;
}

/* Were all of them made? */
static bool leaves_at_once(const uint8_t *data, size_t bytes, ls_sha256 *leaves) {
    manager *m = bytes < WORTHWHILE ? NULL : manager_take();
    if (!m) {
        return false;
    }
    bool good = true;
    IMB_JOB *done;
    for (size_t at = 0; at < bytes; at += LS_SHA256_LEAF) {
        job_fill(IMB_GET_NEXT_JOB(m->lanes), data + at,
                 bytes - at < LS_SHA256_LEAF ? bytes - at : LS_SHA256_LEAF, leaves++);
        for (done = IMB_SUBMIT_JOB(m->lanes); done; done = IMB_GET_COMPLETED_JOB(m->lanes)) {
            good = good && done->status == IMB_STATUS_COMPLETED;
        }
    }
    while ((done = IMB_FLUSH_JOB(m->lanes))) {
        good = good && done->status == IMB_STATUS_COMPLETED;
    }
    manager_give(m);
    return good;
}

size_t ls_sha256_leaves_memory(int threads, size_t bytes) {
    return bytes < WORTHWHILE ? 0 : CODE_BYTES + (size_t)threads * imb_get_mb_mgr_size();
}
#else
static bool leaves_at_once(const uint8_t *data, size_t bytes, ls_sha256 *leaves) {
    (void)data;
    (void)bytes;
    (void)leaves;
    return false;
}

size_t ls_sha256_leaves_memory(int threads, size_t bytes) {
    (void)threads;
    (void)bytes;
    return 0;
}
#endif

ls_status ls_sha256_leaves(const void *data, size_t bytes, ls_sha256 *leaves) {
    if (leaves_at_once(data, bytes, leaves)) {
        return LS_OK;
    }
    for (size_t at = 0; at < bytes; at += LS_SHA256_LEAF) {
        LS_TRY(ls_sha256_of((const uint8_t *)data + at,
                            bytes - at < LS_SHA256_LEAF ? bytes - at : LS_SHA256_LEAF, leaves++));
    }
    return LS_OK;
}
