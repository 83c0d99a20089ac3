#include "collectives/combine.h"
#include "collectives/comm_choose.h"
#include "launch/bench.h"
#include "launch/bench_call.h"
#include "launch/bench_fill.h"
#include "launch/cmd.h"
#include "launch/json_text.h"
#include "launch/session.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/sort.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Operations below SHORT_BYTES are timed in runs of RUN, since the clock and the barrier before
 * them would count otherwise. */
enum { SHORT_BYTES = 64 << 10, RUN = 20 };

/* Who makes the operation, and where. ONE_RESULT: into memory that all ranks have in common, from a
 * buffer of a rank's own or (ONE_IN_PLACE) from the rank's block of it, where it was made. COPY:
 * every rank copies so many bytes at once, from ordinary memory to ordinary memory, for comparison
 * with what memory can do. LEAST: likewise, every rank reads and writes what it must at least for
 * the result out of place. */
typedef enum way {
    OUT_OF_PLACE,
    IN_PLACE,
    ONE_RESULT,
    ONE_IN_PLACE,
    PLAIN_OUT_OF_PLACE,
    PLAIN_IN_PLACE,
    COPY,
    LEAST,
    WAYS
} way;

static bool is_mpi(way w) {
    return w == PLAIN_OUT_OF_PLACE || w == PLAIN_IN_PLACE;
}

static bool is_one(way w) {
    return w == ONE_RESULT || w == ONE_IN_PLACE;
}

typedef struct bench {
    ls_comm *world;
    ls_transport transport;
    ls_bench_call call; /* of ours */
    int64_t min_bytes, max_bytes;
    long long factor, iterations, warmup;
    bool private_buffers, json;
    char *send, *recv;         /* of ours */
    char *one;                 /* the ranks' in common; NULL: not of this operation or back end */
    char *mpi_send, *mpi_recv; /* always the process's own */
    const void **from;         /* [size], of LEAST */
    void **to;                 /* [size] */
    double *times;             /* [iterations] */
    json_t *rows;
} bench;

typedef struct result {
    bool made;
    double seconds;
    int64_t wrong; /* elements, on all ranks */
} result;

static const char *const reductions[] = {
    [LS_SUM] = "sum", [LS_MAX] = "max", [LS_MIN] = "min", [LS_AVG] = "avg", [LS_SUM_TREE] = "tree"};

static bool reduces(const bench *b) {
    return b->call.coll == LS_COLL_ALL_REDUCE || b->call.coll == LS_COLL_REDUCE ||
           b->call.coll == LS_COLL_REDUCE_SCATTER;
}

static const char *reduction_name(const bench *b) {
    return reduces(b) ? reductions[b->call.op] : "none";
}

static ls_status parse_bytes(const char *name, const char *value, int64_t *bytes) {
    char *end;
    long long n = strtoll(value, &end, 10);
    const char *suffixes = "KMG", *suffix = *end ? strchr(suffixes, *end) : NULL;
    const int shift = suffix ? 10 * (int)(suffix - suffixes + 1) : 0;
    if (end == value || n < 0 || end[suffix ? 1 : 0] || n > (INT64_C(1) << 40) >> shift) {
        return LS_FAIL(LS_E_USAGE, "--%s is '%s'; bytes up to 1024G are needed, such as 8 or 256M",
                       name, value);
    }
    *bytes = n << shift;
    return LS_OK;
}

static ls_status parse_operation(bench *b, const ls_bench_collective_options *o) {
    b->call.coll = ls_coll_parse(o->operation);
    if (b->call.coll == LS_COLL_COUNT || b->call.coll == LS_COLL_BARRIER) {
        return LS_FAIL(LS_E_USAGE,
                       "--operation is '%s'; all_reduce, reduce_scatter, all_gather, all_to_all, "
                       "broadcast, reduce or send_recv is needed",
                       o->operation);
    }
    const char *dtype = strcmp(o->dtype, "auto") == 0   ? "float32"
                        : strcmp(o->dtype, "fp32") == 0 ? "float32"
                        : strcmp(o->dtype, "bf16") == 0 ? "bfloat16"
                        : strcmp(o->dtype, "fp16") == 0 ? "float16"
                                                        : o->dtype;
    b->call.dtype = ls_dtype_parse(dtype);
    if (b->call.dtype != LS_F32 && b->call.dtype != LS_F64 && b->call.dtype != LS_F16 &&
        b->call.dtype != LS_BF16 && b->call.dtype != LS_I32 && b->call.dtype != LS_I64) {
        return LS_FAIL(LS_E_USAGE,
                       "--dtype is '%s'; fp32, bf16, fp16, float64, int32 or int64 is needed",
                       o->dtype);
    }
    int op = 0;
    while (op <= LS_SUM_TREE && strcmp(reductions[op], o->reduction) != 0) {
        op++;
    }
    if (op > LS_SUM_TREE) {
        return LS_FAIL(LS_E_USAGE, "--redop is '%s'; sum, max, min, avg or tree is needed",
                       o->reduction);
    }
    b->call.op = (ls_reduce)op;
    if (op != LS_SUM && !reduces(b)) {
        return LS_FAIL(
            LS_E_USAGE,
            "--redop is '%s' for %s, which reduces nothing; all_reduce, reduce_scatter or "
            "reduce is needed",
            o->reduction, o->operation);
    }
    if (o->overlap &&
        (b->call.coll != LS_COLL_ALL_REDUCE || op != LS_SUM || b->call.dtype != LS_F32)) {
        return LS_FAIL(
            LS_E_USAGE,
            "--overlap is of an all_reduce of fp32 sums; found --operation %s --redop %s "
            "--dtype %s",
            o->operation, o->reduction, o->dtype);
    }
    return LS_OK;
}

static ls_status parse(bench *b, const ls_bench_collective_options *o) {
    LS_TRY(parse_operation(b, o));
    if (!ls_transport_parse(o->backend, &b->transport)) {
        return LS_FAIL(LS_E_USAGE, "--backend is '%s'; auto, mpi, shm or hier is needed",
                       o->backend);
    }
    LS_TRY(parse_bytes("minbytes", o->min_bytes, &b->min_bytes));
    LS_TRY(parse_bytes("maxbytes", o->max_bytes, &b->max_bytes));
    LS_TRY(ls_option_int("stepfactor", o->factor, 2, 1 << 20, &b->factor));
    LS_TRY(ls_option_int("iters", o->iterations, 1, 1000000, &b->iterations));
    LS_TRY(ls_option_int("warmup", o->warmup, 0, 1000000, &b->warmup));
    b->private_buffers = o->private_buffers;
    b->json = o->json;
    return b->min_bytes > 0 && b->min_bytes <= b->max_bytes
               ? LS_OK
               : LS_FAIL(LS_E_USAGE,
                         "--minbytes %s and --maxbytes %s give no sizes; from 1 byte on, the last "
                         "not below the first",
                         o->min_bytes, o->max_bytes);
}

static ls_bench_shape shape_of(const bench *b, int64_t bytes) {
    return ls_bench_shape_of(&b->call, bytes);
}

/* Data: small integers, whose sums every type holds exactly. */

static int value(int rank, int64_t i) {
    return (int)((i + 3 * (int64_t)rank) & 7);
}

static void set(const bench *b, char *buf, int64_t i, int n, int divisor) {
    const float x = (float)n / (float)divisor;
    switch (b->call.dtype) {
    case LS_F32:
        ((float *)buf)[i] = x;
        break;
    case LS_F64:
        ((double *)buf)[i] = (double)n / divisor;
        break;
    case LS_F16:
        ((ls_f16 *)buf)[i] = ls_f16_from_f32(x);
        break;
    case LS_BF16:
        ((ls_bf16 *)buf)[i] = ls_bf16_from_f32(x);
        break;
    case LS_I32:
        ((int32_t *)buf)[i] = n / divisor;
        break;
    default:
        ((int64_t *)buf)[i] = n / divisor;
        break;
    }
}

/* Element i of the ranks' reduction, before it is averaged. */
static int reduced(const bench *b, int64_t i) {
    int n = value(0, i);
    for (int rank = 1; rank < b->call.comm->size; rank++) {
        const int other = value(rank, i);
        n = b->call.op == LS_MAX   ? (other > n ? other : n)
            : b->call.op == LS_MIN ? (other < n ? other : n)
                                   : n + other;
    }
    return n;
}

/* What element i of this rank's result must be; false where there is none. */
static bool expected(const bench *b, ls_bench_shape s, int64_t i, int *n) {
    const int me = b->call.comm->rank, size = b->call.comm->size;
    switch (b->call.coll) {
    case LS_COLL_ALL_REDUCE:
        *n = reduced(b, i);
        return true;
    case LS_COLL_REDUCE:
        *n = reduced(b, i);
        return me == 0;
    case LS_COLL_REDUCE_SCATTER:
        *n = reduced(b, me * s.block + i);
        return true;
    case LS_COLL_ALL_GATHER:
        *n = value((int)(i / s.block), i % s.block);
        return true;
    case LS_COLL_ALL_TO_ALL:
        *n = value((int)(i / s.block), me * s.block + i % s.block);
        return true;
    case LS_COLL_BROADCAST:
        *n = value(0, i);
        return true;
    default: /* send_recv, from the rank before */
        *n = value((me + size - 1) % size, i);
        return true;
    }
}

static int64_t count_wrong(const bench *b, ls_bench_shape s, const char *recv) {
    const int divisor = reduces(b) && b->call.op == LS_AVG ? b->call.comm->size : 1;
    const size_t bytes = ls_dtype_bytes(b->call.dtype);
    int64_t wrong = 0;
    for (int64_t i = 0; i < s.recv; i++) {
        int n;
        uint64_t right[1] = {0};
        if (expected(b, s, i, &n)) {
            set(b, (char *)right, 0, n, divisor);
            wrong += memcmp(right, recv + i * (int64_t)bytes, bytes) != 0;
        }
    }
    return wrong;
}

/* Operations */

static bool has_way(const bench *b, way w) {
    /* The library has no 16-bit floating-point types and no average. */
    if (is_mpi(w) && (b->call.comm->size == 1 || b->call.dtype == LS_F16 ||
                      b->call.dtype == LS_BF16 || (reduces(b) && b->call.op == LS_AVG))) {
        return false;
    }
    switch (w) {
    case ONE_RESULT:
    case ONE_IN_PLACE:
        return b->one;
    case OUT_OF_PLACE:
    case PLAIN_OUT_OF_PLACE:
        return b->call.coll != LS_COLL_BROADCAST;
    case IN_PLACE:
    case PLAIN_IN_PLACE:
        return b->call.coll != LS_COLL_ALL_TO_ALL && b->call.coll != LS_COLL_SEND_RECV;
    default:
        return true;
    }
}

/* Where a way sends from and receives in. */
static void places(const bench *b, way w, ls_bench_shape s, char **send, char **recv) {
    const int64_t own = b->call.comm->rank * s.block * (int64_t)ls_dtype_bytes(b->call.dtype);
    const bool own_memory = w > ONE_IN_PLACE;
    *send = own_memory ? b->mpi_send : b->send;
    *recv = own_memory ? b->mpi_recv : is_one(w) ? b->one : b->recv;
    if (w != IN_PLACE && w != ONE_IN_PLACE && w != PLAIN_IN_PLACE) {
        return;
    }
    if (b->call.coll == LS_COLL_ALL_GATHER) {
        *send = *recv + own;
    } else if (b->call.coll == LS_COLL_REDUCE_SCATTER && w == IN_PLACE) {
        *recv = *send + own;
    } else { /* the library leaves a block of a reduce-scatter at the beginning */
        *recv = *send;
    }
}

/* A rank's share of the bytes that ranks of one host read and write at least, each with a result of
 * its own: those that are to be added are read once, and so is what several get. */
static void run_least(bench *b, ls_bench_shape s, char *send, char *recv) {
    const int64_t elem = (int64_t)ls_dtype_bytes(b->call.dtype);
    const int64_t slice = s.all / b->call.comm->size, bytes = slice * elem;
    const int size = b->call.comm->size;
    for (int rank = 0; rank < size; rank++) {
        b->from[rank] = send + rank * bytes;
        b->to[rank] = recv + rank * bytes;
    }
    const int places = b->call.coll == LS_COLL_ALL_REDUCE ? size : 1;
    if (reduces(b)) {
        ls_combine_ranks(b->call.dtype, b->call.op, size, b->from, places, b->to, slice,
                         (size + places) * s.all * elem > LS_CACHE_BYTES);
    } else if (b->call.coll == LS_COLL_ALL_GATHER) {
        ls_copy_to_all(size, b->to, send, bytes, (1 + size) * s.all * elem > LS_COPIED_BYTES);
    } else {
        ls_copy(recv, send, s.all * elem, s.all * elem);
    }
}

static ls_status run_way(bench *b, way w, ls_bench_shape s, const char *send, char *recv) {
    if (w == COPY) {
        memcpy(recv, send, (size_t)s.all * ls_dtype_bytes(b->call.dtype));
        return LS_OK;
    }
    if (w == LEAST) {
        run_least(b, s, b->mpi_send, b->mpi_recv);
        return LS_OK;
    }
    return is_mpi(w) ? ls_bench_call_run_mpi(&b->call, s, send, recv, w == PLAIN_IN_PLACE)
                     : ls_bench_call_run(&b->call, s, send, recv);
}

/* Measuring */

/* The median over the iterations of the slowest rank's time. */
static ls_status time_way(bench *b, way w, ls_bench_shape s, int64_t bytes, double *seconds) {
    char *send, *recv;
    places(b, w, s, &send, &recv);
    const int run = bytes < SHORT_BYTES ? RUN : 1;
    for (long long i = 0; i < b->warmup; i++) {
        LS_TRY(run_way(b, w, s, send, recv));
    }
    for (long long i = 0; i < b->iterations; i++) {
        LS_TRY(b->world->ops->barrier(b->world));
        const uint64_t start_ns = ls_clock_ns();
        for (int j = 0; j < run; j++) {
            LS_TRY(run_way(b, w, s, send, recv));
        }
        if (w >= COPY) { /* nothing else makes ranks that share a processor wait for each other */
            LS_TRY(b->world->ops->barrier(b->world));
        }
        b->times[i] = 1e-9 * (double)(ls_clock_ns() - start_ns) / run;
    }
    LS_TRY(b->world->ops->all_reduce(b->world, b->times, b->iterations, LS_F64, LS_MAX));
    ls_sort_doubles(b->times, (size_t)b->iterations);
    *seconds = b->times[b->iterations / 2];
    return LS_OK;
}

static ls_status check_way(bench *b, way w, ls_bench_shape s, int64_t *wrong) {
    char *send, *recv;
    const int64_t elem = (int64_t)ls_dtype_bytes(b->call.dtype);
    places(b, w, s, &send, &recv);
    const int64_t own = is_one(w) ? b->call.comm->rank * s.block : 0; /* the rest is the others' */
    memset(recv + own * elem, 0x77, (size_t)((is_one(w) ? s.block : s.recv) * elem));
    for (int64_t i = 0; i < s.send; i++) {
        set(b, send, i, value(b->call.comm->rank, i), 1);
    }
    LS_TRY(b->world->ops->barrier(b->world));
    LS_TRY(run_way(b, w, s, send, recv));
    *wrong = count_wrong(b, s, recv);
    return b->world->ops->all_reduce(b->world, wrong, 1, LS_I64, LS_SUM);
}

static ls_status measure_size(bench *b, int64_t bytes, result *results) {
    const ls_bench_shape s = shape_of(b, bytes);
    for (int w = 0; w < WAYS; w++) {
        result *r = &results[w];
        r->made = has_way(b, (way)w) && (!is_mpi((way)w) || s.all <= INT32_MAX);
        if (r->made) {
            ls_bench_fill(b->call.dtype, is_mpi((way)w) ? b->mpi_send : b->send, (size_t)bytes);
            LS_TRY(time_way(b, (way)w, s, bytes, &r->seconds));
            if (w < COPY) {
                LS_TRY(check_way(b, (way)w, s, &r->wrong));
            }
        }
    }
    return LS_OK;
}

/* Output, by rank 0 */

static bool has_column(const bench *b, int w) {
    return !is_one((way)w) || b->one;
}

static void print_heading(const bench *b) {
    printf("# %s, back end %s on %d ranks, %s%s; plain MPI is %s\n", ls_coll_name(b->call.coll),
           b->call.comm->ops->name, b->call.comm->size, b->private_buffers ? "private" : "its own",
           " buffers", ls_comm_mpi_version());
    printf("%12s %12s %9s %5s", "size", "count", "type", "redop");
    const char *const names[] = {"out of place", "in place",  "one result",
                                 "one in place", "plain MPI", "in place"};
    for (int w = 0; w < COPY; w++) {
        if (has_column(b, w)) {
            printf(" | %-12s %7s %7s %6s", names[w], "algbw", "busbw", "#wrong");
        }
    }
    printf(" | %-12s %7s | %12s", "a copy", "", "the least");
    printf("\n%12s %12s %9s %5s", "(B)", "(elements)", "", "");
    for (int w = 0; w < COPY; w++) {
        if (has_column(b, w)) {
            printf(" | %12s %7s %7s %6s", "time (us)", "(GB/s)", "(GB/s)", "");
        }
    }
    printf(" | %12s %7s | %12s\n", "time (us)", "(GB/s)", "time (us)");
}

static json_t *result_json(const bench *b, const result *r, int64_t bytes) {
    if (!r->made) {
        return json_null();
    }
    const double rate = (double)bytes / r->seconds;
    return json_pack("{s:f, s:f, s:f, s:I}", "seconds", r->seconds, "algbw_bytes_per_s", rate,
                     "busbw_bytes_per_s",
                     rate * ls_wire_bus_factor(b->call.coll, b->call.comm->size), "wrong",
                     (json_int_t)r->wrong);
}

static void print_row(bench *b, int64_t bytes, const result *results) {
    const ls_bench_shape s = shape_of(b, bytes);
    bytes = s.all * (int64_t)ls_dtype_bytes(b->call.dtype);
    if (b->json) {
        json_t *row = json_pack(
            "{s:I, s:I, s:f, s:f, s:f}", "bytes", (json_int_t)bytes, "count", (json_int_t)s.all,
            "wire_bytes", ls_wire_bytes(b->call.coll, b->call.comm->size, (double)bytes),
            "copy_seconds", results[COPY].seconds, "least_seconds", results[LEAST].seconds);
        const char *const names[] = {"out_of_place",        "in_place",  "one_result",
                                     "one_result_in_place", "plain_mpi", "plain_mpi_in_place"};
        for (int w = 0; w < COPY; w++) {
            if (has_column(b, w)) {
                json_object_set_new(row, names[w], result_json(b, &results[w], bytes));
            }
        }
        json_array_append_new(b->rows, row);
        return;
    }
    printf("%12lld %12lld %9s %5s", (long long)bytes, (long long)s.all,
           ls_dtype_name(b->call.dtype), reduction_name(b));
    for (int w = 0; w < COPY; w++) {
        const double rate = 1e-9 * (double)bytes / results[w].seconds;
        if (results[w].made) {
            printf(" | %12.2f %7.2f %7.2f %6lld", 1e6 * results[w].seconds, rate,
                   rate * ls_wire_bus_factor(b->call.coll, b->call.comm->size),
                   (long long)results[w].wrong);
        } else if (has_column(b, w)) {
            printf(" | %12s %7s %7s %6s", "-", "-", "-", "-");
        }
    }
    printf(" | %12.2f %7.2f | %12.2f\n", 1e6 * results[COPY].seconds,
           1e-9 * (double)bytes / results[COPY].seconds, 1e6 * results[LEAST].seconds);
    fflush(stdout);
}

static ls_status print_json(bench *b) {
    json_t *json =
        json_pack("{s:i, s:s, s:s, s:i, s:s, s:s, s:b, s:s, s:I, s:O}", "schema", 1, "operation",
                  ls_coll_name(b->call.coll), "backend", b->call.comm->ops->name, "ranks",
                  b->call.comm->size, "dtype", ls_dtype_name(b->call.dtype), "redop",
                  reduction_name(b), "private_buffers", b->private_buffers, "mpi",
                  ls_comm_mpi_version(), "iterations", (json_int_t)b->iterations, "sizes", b->rows);
    return ls_json_print(json, LS_JSON_ALL_DIGITS);
}

static ls_status measure(bench *b) {
    const bool speaks = b->call.comm->rank == 0;
    int64_t wrong = 0;
    if (speaks && !b->json) {
        print_heading(b);
    }
    for (int64_t bytes = b->min_bytes; bytes <= b->max_bytes; bytes *= b->factor) {
        result results[WAYS] = {0};
        LS_TRY(measure_size(b, bytes, results));
        for (int w = 0; w < PLAIN_OUT_OF_PLACE; w++) {
            wrong += results[w].wrong;
        }
        if (speaks) {
            print_row(b, bytes, results);
        }
    }
    if (speaks && b->json) {
        LS_TRY(print_json(b));
    }
    return wrong == 0
               ? LS_OK
               : LS_FAIL(LS_E_NO, "%lld elements of the results are wrong", (long long)wrong);
}

static bool wants_common(const bench *b) {
    return b->call.coll == LS_COLL_ALL_GATHER && !b->private_buffers && b->call.comm->size > 1;
}

/* Ours and the library's; its share of one result; and what the library takes while it reduces in
 * place, up to a vector (Open MPI). */
static ls_status check_room(const bench *b) {
    const int64_t vectors = reduces(b) ? 5 : 4;
    const int64_t common = wants_common(b) ? b->max_bytes / b->world->size : 0;
    return ls_bench_check_room(b->world, vectors * b->max_bytes + common, b->max_bytes);
}

/* Where the back end has it. */
static ls_status take_common(bench *b, int64_t bytes) {
    ls_comm *comm = b->call.comm;
    void *memory = NULL;
    if (!wants_common(b)) {
        return LS_OK;
    }
    const ls_status status = ls_comm_agree(b->world, comm->ops->alloc_common(comm, bytes, &memory));
    b->one = memory;
    return status == LS_E_UNSUPPORTED ? LS_OK : status;
}

static ls_status take_memory(bench *b) {
    const int64_t bytes = b->max_bytes;
    const size_t size = (size_t)b->world->size;
    ls_comm *from = b->private_buffers ? b->world : b->call.comm;
    char **const buffers[] = {&b->send, &b->recv, &b->mpi_send, &b->mpi_recv};
    ls_status status = ls_calloc(size, sizeof *b->call.counts, &b->call.counts);
    if (status == LS_OK) {
        status = ls_calloc(size, sizeof *b->call.offsets, &b->call.offsets);
    }
    if (status == LS_OK) {
        status = ls_calloc(size, sizeof *b->from, &b->from);
    }
    if (status == LS_OK) {
        status = ls_calloc(size, sizeof *b->to, &b->to);
    }
    if (status == LS_OK) {
        status = ls_calloc((size_t)b->iterations, sizeof *b->times, &b->times);
    }
    if (status == LS_OK && !(b->rows = json_array())) {
        status = LS_FAIL(LS_E_MEMORY, "no memory for the result");
    }
    LS_TRY(ls_comm_agree(b->world, status));
    for (int i = 0; i < 4; i++) {
        ls_comm *owner = i < 2 ? from : b->world;
        void *memory = NULL;
        LS_TRY(ls_comm_agree(b->world, owner->ops->alloc(owner, bytes, &memory)));
        *buffers[i] = memory;
    }
    return take_common(b, bytes);
}

static void release(bench *b) {
    ls_comm *from = b->private_buffers ? b->world : b->call.comm;
    from->ops->give_back(from, b->send);
    from->ops->give_back(from, b->recv);
    b->call.comm->ops->give_back(b->call.comm, b->one);
    b->world->ops->give_back(b->world, b->mpi_send);
    b->world->ops->give_back(b->world, b->mpi_recv);
    if (b->call.comm != b->world) {
        b->call.comm->ops->destroy(b->call.comm);
    }
    free(b->call.counts);
    free(b->call.offsets);
    free(b->from);
    free(b->to);
    free(b->times);
    json_decref(b->rows);
}

ls_status ls_bench_collective(const ls_bench_collective_options *options) {
    bench b = {0};
    ls_session session;
    LS_TRY(parse(&b, options));
    if (options->profile) {
        return ls_bench_profile(options->profile, b.json);
    }
    if (options->overlap) {
        const ls_bench_sizes sizes = {b.min_bytes, b.max_bytes, b.factor, b.iterations};
        return ls_bench_overlap(&sizes, b.transport, b.json);
    }
    LS_TRY(ls_session_begin(&session, NULL, NULL));
    b.world = b.call.comm = session.comm;
    LS_TRY(ls_session_agree(&session, ls_comm_choose(session.comm, b.transport, &b.call.comm)));
    ls_status status = ls_session_agree(&session, check_room(&b));
    if (status == LS_OK) {
        status = ls_session_agree(&session, take_memory(&b));
    }
    if (status == LS_OK) {
        status = ls_session_agree(&session, measure(&b));
    }
    release(&b);
    return status;
}
