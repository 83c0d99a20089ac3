/* The NCCL communicator: every operation with exactly summable inputs, against what it must give;
 * order with the device's work; uneven counts; groups; two communicators at once; refusals; on 4
 * ranks once more in two levels of two. With the argument "mismatch" ranks call differently, which
 * the emulated NCCL must name. */
#include "collectives/comm_hier.h"
#include "collectives/nccl/comm_nccl.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

enum { ELEMS = 1037 };

static ls_device *dev;
static ls_comm *world, *comm;
static bool in_levels;

/* Element i of rank r: small whole numbers, whose sums are exact in every type. */
static float value(int r, int64_t i) {
    return (float)((r * 7 + i * 3) % 32 - 11);
}

static void *on_device(size_t bytes) {
    void *memory = NULL;
    CHECK_OK(comm->ops->alloc(comm, (int64_t)bytes, &memory));
    return memory;
}

static float *filled(int64_t elems) {
    float *host = malloc((size_t)elems * sizeof *host), *memory = on_device((size_t)elems * 4);
    for (int64_t i = 0; i < elems; i++) {
        host[i] = value(comm->rank, i);
    }
    CHECK_OK(dev->ops->upload(dev, memory, host, (size_t)elems * sizeof *host));
    free(host);
    return memory;
}

static float expected(ls_reduce op, int64_t i) {
    float sum = 0.0f, most = -1e9f, least = 1e9f;
    for (int r = 0; r < comm->size; r++) {
        const float v = value(r, i);
        sum += v;
        most = v > most ? v : most;
        least = v < least ? v : least;
    }
    return op == LS_SUM   ? sum
           : op == LS_AVG ? sum / (float)comm->size
           : op == LS_MAX ? most
                          : least;
}

static void check_reduced(const float *memory, ls_reduce op, int64_t first, int64_t elems) {
    float *host = calloc((size_t)elems + 1, sizeof *host);
    int wrong = 0;
    CHECK_OK(dev->ops->download(dev, host, memory, (size_t)elems * sizeof *host));
    for (int64_t i = 0; i < elems; i++) {
        wrong += host[i] != expected(op, first + i);
    }
    CHECK_INT(wrong, 0);
    free(host);
}

static void wait_for(ls_comm_request *request) {
    bool done = false;
    while (!done) {
        CHECK_OK(comm->ops->test(comm, request, &done));
    }
}

static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_F16, LS_BF16, LS_I32, LS_I64, LS_U64};

static void set(void *buf, ls_dtype dtype, int64_t i, double value) {
    switch (dtype) {
    case LS_F32:
        ((float *)buf)[i] = (float)value;
        break;
    case LS_F64:
        ((double *)buf)[i] = value;
        break;
    case LS_F16:
        ((ls_f16 *)buf)[i] = ls_f16_from_f32((float)value);
        break;
    case LS_BF16:
        ((ls_bf16 *)buf)[i] = ls_bf16_from_f32((float)value);
        break;
    case LS_I32:
        ((int32_t *)buf)[i] = (int32_t)value;
        break;
    default:
        ((int64_t *)buf)[i] = (int64_t)value;
        break;
    }
}

/* x of this rank, or what the reduction of all ranks' must be; `high` keeps them above 0. */
static void *numbers(ls_dtype dtype, int op, int64_t elems) {
    const double high = dtype == LS_U64 ? 11.0 : 0.0;
    char *buf = calloc((size_t)elems + 1, 8);
    for (int64_t i = 0; i < elems; i++) {
        const double sum = expected(LS_SUM, i) + high * comm->size;
        set(buf, dtype, i,
            op < 0         ? value(comm->rank, i) + high
            : op == LS_SUM ? sum
            : op == LS_AVG ? sum / comm->size
                           : expected((ls_reduce)op, i) + high);
    }
    return buf;
}

static void check_same(const void *memory, const void *right, size_t bytes) {
    char *host = calloc(bytes + 1, 1);
    CHECK_OK(dev->ops->download(dev, host, memory, bytes));
    CHECK(memcmp(host, right, bytes) == 0);
    free(host);
}

/* All-reduce out of place and in place, reduce, reduce-scatter. */
static void check_reductions(ls_dtype dtype, ls_reduce op, int64_t elems) {
    const size_t width = ls_dtype_bytes(dtype), bytes = (size_t)elems * width;
    const int64_t block = elems / comm->size;
    int64_t counts[64];
    for (int r = 0; r < comm->size; r++) {
        counts[r] = block;
    }
    char *own = numbers(dtype, -1, elems), *right = numbers(dtype, op, elems);
    char *x = on_device(bytes + 1), *y = on_device(bytes + 1);
    ls_comm_request *request;
    CHECK_OK(dev->ops->upload(dev, x, own, bytes));
    CHECK_OK(comm->ops->all_reduce_start(comm, x, y, elems, dtype, op, &request));
    wait_for(request);
    check_same(y, right, bytes);
    CHECK_OK(comm->ops->reduce_scatter_start(comm, x, y, counts, dtype, op, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    check_same(y, right + (size_t)(comm->rank * block) * width, (size_t)block * width);
    CHECK_OK(comm->ops->reduce_start(comm, x, y, elems, dtype, op, comm->size - 1, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    if (comm->rank == comm->size - 1) {
        check_same(y, right, bytes);
    }
    CHECK_OK(ls_comm_all_reduce_by_start(comm, x, elems, dtype, op));
    check_same(x, right, bytes);
    comm->ops->give_back(comm, x);
    comm->ops->give_back(comm, y);
    free(own);
    free(right);
}

static void test_reductions(void) {
    static const int64_t sizes[] = {0, 1, 37, ELEMS};
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        for (int op = LS_SUM; op <= LS_AVG; op++) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                if (!in_levels || (int)(d + s) % 4 == op) { /* of which each has many operations */
                    check_reductions(dtypes[d], (ls_reduce)op, sizes[s]);
                }
            }
        }
    }
}

/* Even counts, in place; then counts that differ, one of them 0. */
static void test_scatter_and_gather(void) {
    int64_t *counts = calloc((size_t)comm->size * 3, sizeof *counts);
    int64_t *bytes = counts + comm->size, *offsets = bytes + comm->size;
    for (int uneven = 0; uneven < 2; uneven++) {
        int64_t total = 0, first = 0;
        for (int r = 0; r < comm->size; r++) {
            counts[r] = uneven ? (r == 0 ? 0 : 100 + 3 * r) : 64;
            bytes[r] = counts[r] * (int64_t)sizeof(float);
            offsets[r] = total * (int64_t)sizeof(float);
            first = r == comm->rank ? total : first;
            total += counts[r];
        }
        float *x = filled(total + 1), *all = on_device((size_t)(total + 1) * sizeof *all);
        ls_comm_request *request;
        CHECK_OK(
            comm->ops->reduce_scatter_start(comm, x, x + first, counts, LS_F32, LS_SUM, &request));
        CHECK_OK(comm->ops->wait(comm, request));
        check_reduced(x + first, LS_SUM, first, counts[comm->rank]);
        CHECK_OK(comm->ops->all_gather_start(comm, x + first, all, bytes, offsets, &request));
        CHECK_OK(comm->ops->wait(comm, request));
        check_reduced(all, LS_SUM, 0, total);
        comm->ops->give_back(comm, x);
        comm->ops->give_back(comm, all);
    }
    free(counts);
}

/* Rank r sends r + p + 1 numbers to p; then a ring of messages. */
static void test_exchange(void) {
    const int size = comm->size, rank = comm->rank;
    int64_t *counts = calloc((size_t)size * 2, sizeof *counts), *offsets = counts + size;
    int64_t total = 0;
    for (int p = 0; p < size; p++) {
        counts[p] = (rank + p + 1) * (int64_t)sizeof(float);
        offsets[p] = total;
        total += counts[p];
    }
    float *x = filled(total), *y = on_device((size_t)total);
    ls_comm_request *request, *other;
    CHECK_OK(comm->ops->all_to_all_start(comm, x, counts, offsets, y, counts, offsets, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    float *host = calloc((size_t)total, 1);
    CHECK_OK(dev->ops->download(dev, host, y, (size_t)total));
    int wrong = 0;
    int64_t at = 0;
    for (int p = 0; p < size; p++) {
        int64_t there = 0; /* where p keeps what is for this rank */
        for (int q = 0; q < rank; q++) {
            there += p + q + 1;
        }
        for (int64_t i = 0; i < rank + p + 1; i++) {
            wrong += host[at++] != value(p, there + i);
        }
    }
    CHECK_INT(wrong, 0);
    if (size > 1) {
        const int next = (rank + 1) % size, before = (rank + size - 1) % size;
        float *first = rank % 2 ? y : x;
        CHECK_OK(rank % 2 ? comm->ops->recv_start(comm, first, 4, before, &request)
                          : comm->ops->send_start(comm, first, 4, next, &request));
        CHECK_OK(rank % 2 ? comm->ops->send_start(comm, x, 4, next, &other)
                          : comm->ops->recv_start(comm, y, 4, before, &other));
        CHECK_OK(comm->ops->wait(comm, request));
        CHECK_OK(comm->ops->wait(comm, other));
        CHECK_OK(dev->ops->download(dev, host, y, 4));
        CHECK(host[0] == value(before, 0));
    }
    free(host);
    free(counts);
    comm->ops->give_back(comm, x);
    comm->ops->give_back(comm, y);
}

/* A collective sees what the device was given before, without a wait between them. */
static void test_order(void) {
    float *x = filled(ELEMS);
    ls_comm_request *request;
    CHECK_OK(dev->ops->zero(dev, x, ELEMS * sizeof *x));
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, ELEMS, LS_F32, LS_MAX, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    float host[ELEMS];
    CHECK_OK(dev->ops->download(dev, host, x, sizeof host));
    CHECK(host[0] == 0.0f && host[ELEMS - 1] == 0.0f);
    comm->ops->give_back(comm, x);
}

/* Operations on a part and on a copy go on beside those of the whole. */
static void test_groups(void) {
    ls_comm *part, *copy;
    CHECK_OK(comm->ops->split(comm, comm->rank % 2, &part));
    CHECK_INT(part->rank, comm->rank / 2);
    CHECK_OK(comm->ops->duplicate(comm, &copy));
    int64_t *x = on_device(2 * sizeof *x), ones[] = {1, 1};
    CHECK_OK(dev->ops->upload(dev, x, ones, sizeof ones));
    ls_comm_request *a, *b;
    CHECK_OK(part->ops->all_reduce_start(part, x, x, 1, LS_I64, LS_SUM, &a));
    CHECK_OK(copy->ops->all_reduce_start(copy, x + 1, x + 1, 1, LS_I64, LS_SUM, &b));
    CHECK_OK(copy->ops->wait(copy, b));
    CHECK_OK(part->ops->wait(part, a));
    CHECK_OK(dev->ops->download(dev, ones, x, sizeof ones));
    CHECK_INT(ones[0], part->size);
    CHECK_INT(ones[1], comm->size);
    comm->ops->give_back(comm, x);
    copy->ops->destroy(copy);
    part->ops->destroy(part);
}

static void test_refusals(void) {
    ls_comm_request *request;
    CHECK_STATUS(comm->ops->all_reduce_start(comm, NULL, NULL, 1, LS_F32, LS_SUM_TREE, &request),
                 LS_E_UNSUPPORTED);
    CHECK_STATUS(comm->ops->all_reduce_start(comm, NULL, NULL, -1, LS_F32, LS_SUM, &request),
                 LS_E_SHAPE);
    CHECK_STATUS(comm->ops->all_reduce_start(comm, NULL, NULL, 1, LS_U8, LS_SUM, &request),
                 LS_E_UNSUPPORTED);
    CHECK_MESSAGE("uint8");
    CHECK_STATUS(comm->ops->broadcast_start(comm, NULL, 1, comm->size, &request), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->send_start(comm, NULL, 1, comm->rank, &request), LS_E_SHAPE);
    ls_device *cpu;
    ls_comm *none;
    CHECK_OK(ls_device_open_cpu(NULL, &cpu));
    CHECK_STATUS(ls_comm_nccl(&(ls_comm_nccl_options){.host = world, .dev = cpu}, &none),
                 LS_E_UNSUPPORTED);
    cpu->ops->close(cpu);
}

/* Rank 0 gives another count: the emulated NCCL ends the rank that sees it. */
static void mismatch(void) {
    float *x = filled(ELEMS);
    ls_comm_request *request;
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, comm->rank == 0 ? 10 : 11, LS_F32, LS_SUM,
                                         &request));
    CHECK_OK(comm->ops->wait(comm, request));
    CHECK_OK(dev->ops->sync(dev));
}

/* What is not started is for the host's memory, and beside what is under way on the GPU. */
static void test_host(void) {
    int64_t sum = comm->rank + 1, all[64] = {0};
    char word[4] = "";
    ls_comm_request *request;
    float *x = filled(ELEMS);
    CHECK(comm->on_device && comm->host_side->size == comm->size);
    CHECK_OK(comm->ops->all_reduce_start(comm, x, x, ELEMS, LS_F32, LS_SUM, &request));
    CHECK_OK(comm->ops->all_gather(comm, &sum, all, sizeof sum));
    CHECK_OK(comm->ops->all_reduce(comm, &sum, 1, LS_I64, LS_SUM));
    if (comm->rank == 0) {
        memcpy(word, "all", sizeof word);
    }
    CHECK_OK(comm->ops->broadcast(comm, word, sizeof word, 0));
    CHECK_STR(word, "all");
    CHECK_INT(sum, comm->size * (comm->size + 1) / 2);
    CHECK_INT(all[comm->size - 1], comm->size);
    CHECK_OK(comm->ops->wait(comm, request));
    check_reduced(x, LS_SUM, 0, ELEMS);
    comm->ops->give_back(comm, x);
}

static void test_all(void) {
    test_reductions();
    test_scatter_and_gather();
    test_exchange();
    test_order();
    test_host();
    test_groups();
    test_refusals();
    CHECK_OK(comm->ops->barrier(comm));
}

/* Several of a kind under way at once, in two levels, waited for in another order than started. */
static void test_many(void) {
    enum { MANY = 5 };
    ls_comm_request *requests[MANY];
    float *x[MANY];
    for (int i = 0; i < MANY; i++) {
        x[i] = filled(ELEMS);
        CHECK_OK(
            comm->ops->all_reduce_start(comm, x[i], x[i], ELEMS, LS_F32, LS_SUM, &requests[i]));
    }
    for (int i = MANY - 1; i >= 0; i--) {
        CHECK_OK(comm->ops->wait(comm, requests[i]));
        check_reduced(x[i], LS_SUM, 0, ELEMS);
    }
    for (int i = 0; i < MANY; i++) {
        comm->ops->give_back(comm, x[i]);
    }
}

/* Domains of neighbours, and of every other rank. */
static void test_levels(void) {
    const ls_comm_nccl_options options = {.host = world, .dev = dev};
    in_levels = true;
    ls_comm_hier_least_bytes = 0;
    ls_comm_hier_chunk_bytes = 32;
    ls_comm_hier_piece_bytes = 1;
    for (int i = 0; i < 2; i++) {
        CHECK_OK(ls_comm_nccl_levels(&options, (uint64_t)(i ? world->rank % 2 : world->rank / 2),
                                     &comm));
        CHECK_STR(comm->ops->name, "hier");
        CHECK(comm->on_device && comm->orders);
        test_all();
        test_many();
        comm->ops->destroy(comm);
    }
    CHECK_OK(ls_comm_nccl_levels(&options, (uint64_t)(world->rank / 3), &comm));
    CHECK_STR(comm->ops->name, "nccl"); /* 3 ranks and 1 */
    comm->ops->destroy(comm);
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    if (ls_device_open_cuda(NULL, &dev) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        ls_comm_mpi_finalize();
        return 77;
    }
    CHECK_OK(ls_comm_nccl(&(ls_comm_nccl_options){.host = world, .dev = dev}, &comm));
    if (!comm) {
        return test_end();
    }
    CHECK_INT(comm->size, world->size);
    if (argc > 1 && strcmp(argv[1], "mismatch") == 0) {
        mismatch();
    } else {
        test_all();
    }
    comm->ops->destroy(comm);
    if (argc == 1 && world->size == 4) {
        test_levels();
    }
    dev->ops->close(dev);
    ls_comm_mpi_finalize();
    return test_end();
}
