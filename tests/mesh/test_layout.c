#include "runtime/base/rng.h"
#include "runtime/mesh/layout.h"
#include "tests/test.h"

static uint64_t drawn;

static int64_t below(int64_t limit) {
    return (int64_t)(ls_rng_uniform(11, 0, drawn++) * (double)limit);
}

static ls_box random_box(int ndim, const int64_t *dims) {
    ls_box box = {.ndim = ndim};
    for (int d = 0; d < ndim; d++) {
        bool whole = below(3) == 0; /* so that runs over several dimensions are met too */
        box.start[d] = whole ? 0 : below(dims[d]);
        box.extent[d] = whole ? dims[d] : 1 + below(dims[d] - box.start[d]);
    }
    return box;
}

/* Offset of a tensor element in a box's buffer, -1 outside: the definition, element by element. */
static int64_t place_in(const ls_box *box, const int64_t *index) {
    int64_t place = 0;
    for (int d = 0; d < box->ndim; d++) {
        int64_t i = index[d] - box->start[d];
        if (i < 0 || i >= box->extent[d]) {
            return -1;
        }
        place = place * box->extent[d] + i;
    }
    return place;
}

/* Copies random boxes of random tensors and compares every byte of the destination with the
 * definition, bytes that must not change included. */
static void test_copy_against_definition(void) {
    enum { ROUNDS = 3000, MAX_BYTES = 6 * 6 * 6 * 6 * 8 };
    static unsigned char src[MAX_BYTES], dst[MAX_BYTES], expected[MAX_BYTES];
    static const size_t sizes[] = {1, 2, 4, 8};
    int disjoint = 0, wrong = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t dims[LS_MAX_DIMS], total = 1;
        int ndim = (int)below(LS_MAX_DIMS + 1);
        for (int d = 0; d < ndim; d++) {
            dims[d] = 1 + below(6);
            total *= dims[d];
        }
        size_t elem = sizes[below(4)];
        ls_box from = random_box(ndim, dims), to = random_box(ndim, dims), overlap;
        bool meets = ls_box_intersect(&from, &to, &overlap);
        for (int i = 0; i < MAX_BYTES; i++) {
            src[i] = (unsigned char)below(256);
            expected[i] = dst[i] = 0xee;
            if (i >= (int)elem * ls_box_elems(&from) && i >= (int)elem * ls_box_elems(&to)) {
                break; /* the buffers end here; what is behind holds an earlier round's bytes */
            }
        }
        int64_t common = 0;
        for (int64_t i = 0; i < total; i++) {
            int64_t index[LS_MAX_DIMS], rest = i;
            for (int d = ndim - 1; d >= 0; d--) {
                index[d] = rest % dims[d];
                rest /= dims[d];
            }
            int64_t a = place_in(&from, index), b = place_in(&to, index);
            if (a >= 0 && b >= 0) {
                memcpy(expected + b * (int64_t)elem, src + a * (int64_t)elem, elem);
                common++;
            }
        }
        wrong += meets != (common > 0);
        disjoint += !meets;
        if (meets) {
            wrong += ls_box_elems(&overlap) != common;
            ls_box_copy(&overlap, &from, src, &to, dst, elem);
            wrong += memcmp(dst, expected, (size_t)ls_box_elems(&to) * elem) != 0;
        }
    }
    CHECK_INT(wrong, 0);
    CHECK(disjoint > 100 && disjoint < ROUNDS / 2);
}

static void test_boxes(void) {
    const int64_t dims[] = {5, 7};
    ls_box whole = ls_box_whole(2, dims), out = {.ndim = 9};
    CHECK_INT(ls_box_elems(&whole), 35);
    CHECK_INT(whole.start[1], 0);
    ls_box other = ls_box_whole(1, dims);
    CHECK(!ls_box_intersect(&whole, &other, &out)); /* different ranks never meet */
    other = (ls_box){.ndim = 2, .start = {2, 7}, .extent = {1, 1}};
    CHECK(!ls_box_intersect(&whole, &other, &out)); /* touching is not meeting */
    other = (ls_box){.ndim = 2, .start = {2, 2}, .extent = {0, 3}};
    CHECK(!ls_box_intersect(&whole, &other, &out)); /* an empty box meets nothing */
    CHECK_INT(out.ndim, 9);
    CHECK_INT(ls_box_elems(&other), 0);
    other = (ls_box){.ndim = 2, .start = {4, 3}, .extent = {4, 2}};
    CHECK(ls_box_intersect(&other, &whole, &other)); /* the result may replace an operand */
    CHECK_INT(other.start[0], 4);
    CHECK_INT(other.extent[0], 1);
    CHECK_INT(other.extent[1], 2);
}

static void test_assign(void) {
    ls_param params[] = {{.ndim = 2, .dims = {3, 5}},
                         {.ndim = 1, .dims = {16}},
                         {.ndim = 1, .dims = {17}},
                         {.ndim = 3, .dims = {1 << 12, 1 << 12, 1 << 10}},
                         {.ndim = 0}};
    static const int64_t elems[] = {15, 16, 17, 1ll << 34, 1};
    static const int64_t offsets[] = {0, 16, 32, 64, 64 + (1ll << 34)};
    int64_t flat_elems = -1;
    ls_layout_assign(params, 5, &flat_elems);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(params[i].elems, elems[i]);
        CHECK_INT(params[i].offset, offsets[i]);
    }
    CHECK_INT(flat_elems, 80 + (1ll << 34));
    ls_layout_assign(params, 0, &flat_elems);
    CHECK_INT(flat_elems, 0);
}

int main(void) {
    test_boxes();
    test_copy_against_definition();
    test_assign();
    return test_end();
}
