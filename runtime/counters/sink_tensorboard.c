/* TensorBoard's event files: records of a length, its checksum, an Event in protocol-buffer coding
 * and its checksum (tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto). */
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/counters/counters.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct tensorboard {
    int fd;
    char path[1024];
} tensorboard;

/* Bytes of a message, appended to in order. The longest event has a dozen scalars. */
typedef struct message {
    uint8_t data[2048];
    size_t bytes;
} message;

/* CRC-32C (Castagnoli), reflected polynomial 0x82f63b78, masked as the record format wants it. */
static uint32_t masked_crc(const uint8_t *data, size_t bytes) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1u)));
        }
    }
    crc = ~crc;
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static void put(message *m, const void *data, size_t bytes) {
    if (m->bytes + bytes <= sizeof m->data) {
        memcpy(m->data + m->bytes, data, bytes);
        m->bytes += bytes;
    }
}

static void put_little_endian(message *m, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        put(m, &(uint8_t){(uint8_t)(value >> (8 * i))}, 1);
    }
}

static void put_varint(message *m, uint64_t value) {
    for (; value >= 0x80; value >>= 7) {
        put(m, &(uint8_t){(uint8_t)(value | 0x80)}, 1);
    }
    put(m, &(uint8_t){(uint8_t)value}, 1);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 }; /* wire types */

static void put_key(message *m, int field, int wire) {
    put_varint(m, (uint64_t)(field << 3 | wire));
}

static void put_bytes(message *m, int field, const void *data, size_t bytes) {
    put_key(m, field, BYTES);
    put_varint(m, bytes);
    put(m, data, bytes);
}

/* Event: 1 wall_time (double), 2 step, 3 file_version, 5 summary. */
static void begin_event(message *m, double wall_time_s, int64_t step) {
    m->bytes = 0;
    uint64_t bits;
    memcpy(&bits, &wall_time_s, sizeof bits);
    put_key(m, 1, FIXED64);
    put_little_endian(m, bits, 8);
    put_key(m, 2, VARINT);
    put_varint(m, (uint64_t)step);
}

/* Summary.Value (field 1 of the summary): 1 tag, 2 simple_value (float). */
static void put_scalar(message *summary, const char *tag, double value) {
    if (isnan(value)) {
        return;
    }
    message m = {.bytes = 0};
    put_bytes(&m, 1, tag, strlen(tag));
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    put_key(&m, 2, FIXED32);
    put_little_endian(&m, bits, 4);
    put_bytes(summary, 1, m.data, m.bytes);
}

static ls_status write_event(const tensorboard *s, const message *event) {
    message record = {.bytes = 0};
    put_little_endian(&record, event->bytes, 8);
    put_little_endian(&record, masked_crc(record.data, 8), 4);
    put(&record, event->data, event->bytes);
    put_little_endian(&record, masked_crc(event->data, event->bytes), 4);
    return ls_file_write_all(s->fd, record.data, record.bytes, s->path);
}

static ls_status tensorboard_open(const ls_sink_options *options, void **state) {
    tensorboard *s = calloc(1, sizeof *s);
    if (!s) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the event file");
    }
    char name[160], host[65] = "host";
    gethostname(host, sizeof host - 1);
    double now_s = ls_clock_wall_s();
    snprintf(name, sizeof name, "events.out.tfevents.%lld.%s.%d", (long long)now_s, host,
             (int)getpid());
    ls_status status = ls_path_join(s->path, sizeof s->path, options->run_dir, name);
    if (status == LS_OK) {
        s->fd = open(s->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        status =
            s->fd >= 0 ? LS_OK : LS_FAIL(LS_E_IO, "cannot open '%s': %s", s->path, strerror(errno));
    }
    if (status != LS_OK) {
        free(s);
        return status;
    }
    message event;
    begin_event(&event, now_s, 0);
    put_bytes(&event, 3, "brain.Event:2", 13);
    status = write_event(s, &event);
    if (status != LS_OK) {
        close(s->fd);
        free(s);
        return status;
    }
    *state = s;
    return LS_OK;
}

static ls_status tensorboard_step(void *state, const ls_step_record *r) {
    message summary = {.bytes = 0}, event;
    put_scalar(&summary, "loss/train", r->loss);
    put_scalar(&summary, "loss/validation", r->val_loss);
    put_scalar(&summary, "optimizer/gradient_norm", r->grad_norm);
    put_scalar(&summary, "optimizer/learning_rate", r->lr);
    put_scalar(&summary, "throughput/tokens_per_second", r->tokens_per_second);
    put_scalar(&summary, "throughput/flops_per_second", r->flops_per_second);
    put_scalar(&summary, "throughput/mfu", r->mfu);
    put_scalar(&summary, "memory/resident_bytes", (double)r->memory_bytes);
    put_scalar(&summary, "cost/usd", r->usd);
    put_scalar(&summary, "cost/goodput", r->goodput);
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        char tag[64];
        snprintf(tag, sizeof tag, "seconds/%s", ls_phase_name((ls_phase)p));
        put_scalar(&summary, tag, r->phase_seconds[p]);
    }
    begin_event(&event, r->wall_time_s, r->step);
    put_bytes(&event, 5, summary.data, summary.bytes);
    return write_event(state, &event);
}

static void tensorboard_close(void *state) {
    tensorboard *s = state;
    close(s->fd);
    free(s);
}

const ls_sink_ops ls_sink_tensorboard = {.name = "tensorboard",
                                         .open = tensorboard_open,
                                         .step = tensorboard_step,
                                         .close = tensorboard_close};
