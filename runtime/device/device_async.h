/* What a device does by itself whose operations go on when a call has returned: for these the host
 * would otherwise have to wait. Part of the device seam (device.h). */
#ifndef LS_DEVICE_DEVICE_ASYNC_H
#define LS_DEVICE_DEVICE_ASYNC_H

#include "runtime/device/device.h"

/* The norm is the root of an exact sum of squares (runtime/base/exact_sum.h) over all ranks;
 * factor = min(1, clip_norm / norm), 1 with clip_norm 0; wrong = the norm is not finite, or with
 * losses, another such sum, these are not finite or more than `most`. All in device memory. */
typedef struct ls_judge {
    const int32_t *scale;
    const int64_t *digits; /* [LS_EXACT_DIGITS] */
    const int32_t *loss_scale;
    const int64_t *loss_digits; /* NULL: no losses */
    double most, clip_norm;
    ls_update_verdict *verdict;
    ls_update_verdict *gate; /* the same with factor 1, for what is clipped already; or NULL */
} ls_judge;

/* Which slot each choice of a mixture's routing takes, on the device: expert e has the slots
 * [e * room, (e + 1) * room), filled from the first on in order of the choices; -1 is a choice
 * without a slot, and the row of a slot without a choice. With room 0 its slots follow those of the
 * expert before, as many as are kept. All in device memory.
 *
 * What is kept of an expert's choices depends on those of other ranks, in segments: rows of a
 * sequence in a row on one of `contexts` ranks, low ones, then high ones (seq elements, of which
 * `low` are low; seq 0: all rows are one segment), each split over `tensors` ranks. In order of the
 * positions, low segments by context rank and high ones the other way round, `capacity` are kept.
 *   place_count: counts [segments, experts] of this rank's choices
 *   place_keep: from all [contexts, tensors, segments, experts], the counts of all: kept [tensors,
 *       experts], that ranks of this context keep; wanted [experts] acc, all their choices; and
 *       places [3, segments, experts] of this rank: kept, choices before, kept before
 *   place_rows: slots [rows, each] and slot_rows [experts, room], or as many as are kept; with room
 *       0 and if wanted bounds [experts + 1], the first slot of each expert and the end */
typedef struct ls_place {
    int64_t rows, each, experts, segments, first, seq, low; /* first: row 0 of this tensor rank */
    const int32_t *chosen;                                  /* [rows, each] */
    int32_t *counts;
    const int32_t *all;
    int contexts, tensors, context, tensor;
    int64_t capacity, room;
    int32_t *kept, *places, *slots, *slot_rows;
    void *wanted;
    int32_t *bounds; /* NULL: not wanted */
} ls_place;

/* Rows of experts [first, first + local) that arrive in the slots of `ranks` ranks, [ranks, local,
 * room], to rows [local, each], by rank; kept [ranks, experts]. order [local, each]: where a row
 * arrives, -1: nowhere; back [ranks, local, room]: the other way round. With room and each 0 both
 * have as many as are kept, one behind another. */
typedef struct ls_place_order {
    int64_t experts, first, local, room, each;
    int ranks;
    const int32_t *kept;
    int32_t *order, *back;
} ls_place_order;

/* Products of experts, expert e's with rows [bounds[e], bounds[e + 1]) of `rows`: without the host,
 * which may not know how many these are. Weights w [experts, out, in].
 *   FORWARD: c [rows, out] = a [rows, in] w^T, b = w
 *   INPUT_GRAD: c [rows, in] = a [rows, out] w, b = w
 *   WEIGHT_GRAD: c [experts, out, in] acc += a^T b, a [rows, out], b [rows, in] */
typedef enum ls_expert_product {
    LS_EXPERT_FORWARD,
    LS_EXPERT_INPUT_GRAD,
    LS_EXPERT_WEIGHT_GRAD
} ls_expert_product;
typedef struct ls_expert_products {
    ls_expert_product what;
    ls_dtype dtype; /* of all but the gradient of weights */
    int64_t experts, rows, out, in;
    const int32_t *bounds;
    const void *a, *b;
    void *c;
} ls_expert_products;

/* Of all parameters of an optimizer at once, with what is summed over them as exact sums (sizes: of
 * their squares, updates: of those of u). Of a parameter's matrices or, without matrices, of itself
 * there are `terms` from first_term on.
 *   SPLITS: terms' splits from grads, which were summed without grad_scale
 *   STATES: row and column states x = beta2 x + (1 - beta2) sum / elems; row_totals [terms] of the
 *       states of rows that count, and row_means [count] the same where the parameter is one matrix
 *   FACTORS: 1 over the mean of a matrix's row states, from row_means (summed over ranks) or
 *       row_totals
 *   RATES: lr of the update, relative to the size of the parameter, and of an update's root mean
 *       square of at most 1 */
typedef enum ls_adafactor_what {
    LS_ADAFACTOR_SPLITS,
    LS_ADAFACTOR_STATES,
    LS_ADAFACTOR_FACTORS,
    LS_ADAFACTOR_RATES
} ls_adafactor_what;

typedef struct ls_adafactor_param {
    int64_t first_term, matrices, rows, cols; /* rows 0: no matrix */
    int64_t row_entry, col_entry;             /* the first state */
    int64_t padded_elems;
    double real_elems, row_elems, col_elems; /* of the whole; in a whole row and column */
    double lr_scale;
    bool whole; /* one matrix */
} ls_adafactor_param;

typedef struct ls_adafactor_sums {
    int32_t *scales; /* [count] */
    int64_t *digits; /* [count, LS_EXACT_DIGITS] */
} ls_adafactor_sums;

typedef struct ls_adafactor_all {
    ls_adafactor_what what;
    int64_t count;
    const ls_adafactor_param *params; /* [count] device memory, as all below */
    ls_adafactor_sums grads, sizes, updates;
    const double *row_sums, *col_sums; /* pairs, as ls_adafactor has them */
    void *row_states, *col_states;
    const uint8_t *row_counts; /* of each row state: does it count here? */
    double *row_totals, *row_means;
    ls_adafactor_terms *terms;
    double beta2, grad_scale, lr, least_size;
    const ls_update_verdict *verdict;
} ls_adafactor_all;

/* What another library than lockstep would do of the attention that was reserved. Devices whose
 * offers have the same number round alike. */
typedef struct ls_attention_offer {
    int64_t number; /* 0: nothing; -1: and nothing was asked for */
    char text[256]; /* the library, or why it does not */
} ls_attention_offer;

/* For devices whose operations go on when a call has returned: what the host would otherwise wait
 * for stays on the device. Nothing here waits but fetched, peeked and unpin. Pointers are device
 * memory. */
struct ls_device_async_ops {
    /* What is enqueued between the two is kept and not executed; only operations that neither wait
     * nor touch the host's memory, on memory and of shapes that were used before. Free ends what
     * replay has enqueued. After a failure in between, record_end frees what there is. */
    ls_status (*record_begin)(ls_device *dev);
    ls_status (*record_end)(ls_device *dev, ls_recording **recording);
    ls_status (*replay)(ls_device *dev, ls_recording *recording);
    void (*recording_free)(ls_device *dev, ls_recording *recording);
    /* As sum_squares. */
    ls_status (*squares)(ls_device *dev, int64_t first, int64_t n, const void *x, double *sums);
    /* *scale = the largest ls_exact_scale of x [n]. */
    ls_status (*exact_scale)(ls_device *dev, int64_t n, const double *x, int32_t *scale);
    /* digits [LS_EXACT_DIGITS] = what ls_exact_add makes of x [n]. */
    ls_status (*exact_digits)(ls_device *dev, int64_t n, const double *x, const int32_t *scale,
                              int64_t *digits);
    ls_status (*judge)(ls_device *dev, const ls_judge *op);
    /* y = a f x + b y with the factor f of a verdict, or nothing where it says so; n elements. */
    ls_status (*blend)(ls_device *dev, const ls_update_verdict *verdict, int64_t n, double a,
                       const void *x, double b, void *y);
    /* As exact_scale and exact_digits, of `count` pieces of x that end at ends[1 .. count]; ends[0]
     * is 0. */
    ls_status (*segment_scales)(ls_device *dev, int64_t count, const int64_t *ends, const double *x,
                                int32_t *scales);
    ls_status (*segment_digits)(ls_device *dev, int64_t count, const int64_t *ends, const double *x,
                                const int32_t *scales, int64_t *digits);
    /* As adafactor_norm of the other table, to device memory. */
    ls_status (*adafactor_norm)(ls_device *dev, const ls_adafactor *op, double *sums);
    ls_status (*adafactor_all)(ls_device *dev, const ls_adafactor_all *op);
    /* x = x / (2-norm of x + eps), n elements; squares: scratch [ls_squares_count(0, n) + 1]. */
    ls_status (*normalize)(ls_device *dev, int64_t n, double eps, void *x, double *squares);
    ls_status (*place_count)(ls_device *dev, const ls_place *op);
    ls_status (*place_keep)(ls_device *dev, const ls_place *op);
    ls_status (*place_rows)(ls_device *dev, const ls_place *op);
    ls_status (*place_order)(ls_device *dev, const ls_place_order *op);
    ls_status (*expert_products)(ls_device *dev, const ls_expert_products *op);
    /* Copies to the host beside the operations, on a stream of their own. pin opens host memory for
     * them, until unpin. fetch puts one behind what is enqueued so far; what is enqueued after hold
     * comes after the copies, and may change what they read. fetched: are they over? wait: waits
     * for it. */
    ls_status (*pin)(ls_device *dev, void *host, size_t bytes);
    ls_status (*unpin)(ls_device *dev, void *host);
    ls_status (*fetch)(ls_device *dev, void *pinned, const void *from_device, size_t bytes);
    ls_status (*hold)(ls_device *dev);
    ls_status (*fetched)(ls_device *dev, bool wait, bool *over);
    /* A small result for the host, which goes on enqueuing: peek copies it beside what is enqueued
     * after it, peeked waits for the newest peek, of as many bytes, and hands it over. */
    ls_status (*peek)(ls_device *dev, const void *from_device, size_t bytes);
    ls_status (*peeked)(ls_device *dev, void *to_host, size_t bytes);
    /* After reserve, with LS_ATTENTION_AUTO: offer says who could do attention, settle whether it
     * does. Until then, and of shapes that were not reserved, attention is lockstep's. */
    ls_status (*attention_offer)(ls_device *dev, ls_attention_offer *offer);
    void (*attention_settle)(ls_device *dev, bool accept);
};

#endif
