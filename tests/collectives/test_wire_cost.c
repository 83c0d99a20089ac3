/* The cost table against sums written out by hand. */
#include "collectives/wire_cost.h"
#include "tests/test.h"

static void test_names(void) {
    for (int c = 0; c < LS_COLL_COUNT; c++) {
        CHECK_INT(ls_coll_parse(ls_coll_name((ls_coll)c)), c);
    }
    CHECK_INT(ls_coll_parse("all_reduc"), LS_COLL_COUNT);
}

static void test_bytes(void) {
    CHECK(ls_wire_bytes(LS_COLL_ALL_REDUCE, 4, 1000) == 1500); /* two passes of three quarters */
    CHECK(ls_wire_bytes(LS_COLL_REDUCE_SCATTER, 4, 1000) == 750);
    CHECK(ls_wire_bytes(LS_COLL_ALL_GATHER, 2, 1000) == 500);
    CHECK(ls_wire_bytes(LS_COLL_ALL_TO_ALL, 8, 800) == 700);
    CHECK(ls_wire_bytes(LS_COLL_BROADCAST, 8, 800) == 800);
    CHECK(ls_wire_bytes(LS_COLL_REDUCE, 3, 800) == 800);
    CHECK(ls_wire_bytes(LS_COLL_SEND_RECV, 2, 800) == 800);
    CHECK(ls_wire_bytes(LS_COLL_BARRIER, 8, 0) == 0);
    for (int c = 0; c < LS_COLL_COUNT; c++) {
        CHECK(ls_wire_bytes((ls_coll)c, 1, 1000) == 0);
        CHECK(ls_wire_bus_factor((ls_coll)c, 1) == 0);
    }
}

static void test_time(void) {
    const ls_wire_link link = {.latency_s = 1e-6, .bytes_per_s = 1e9};
    CHECK_NEAR(ls_wire_time_s(LS_COLL_ALL_REDUCE, 4, 4e6, link), 6e-6 + 6e-3, 1e-12, 0);
    CHECK_NEAR(ls_wire_time_s(LS_COLL_BROADCAST, 5, 1e6, link), 3e-6 + 1e-3, 1e-12, 0);
    CHECK_NEAR(ls_wire_time_s(LS_COLL_BARRIER, 8, 0, link), 3e-6, 1e-12, 0);
    CHECK_NEAR(ls_wire_time_s(LS_COLL_SEND_RECV, 2, 1e6, link), 1e-6 + 1e-3, 1e-12, 0);
    CHECK(ls_wire_time_s(LS_COLL_ALL_REDUCE, 1, 1e6, link) == 0);
}

static void test_hierarchy(void) {
    const ls_wire_link fast = {.latency_s = 1e-6, .bytes_per_s = 1e10};
    const ls_wire_link slow = {.latency_s = 1e-5, .bytes_per_s = 1e8};
    ls_wire_hierarchy h = {.inner = 4, .outer = 2, .inside = fast, .across = slow};
    /* inside (3 steps, 3/4) twice; across 2 steps with a quarter of the bytes */
    CHECK_NEAR(ls_wire_hierarchical_time_s(LS_COLL_ALL_REDUCE, &h, 8e6),
               2 * (3e-6 + 6e6 / 1e10) + 2e-5 + 2e6 / 1e8, 1e-12, 0);
    CHECK_NEAR(ls_wire_hierarchical_time_s(LS_COLL_ALL_GATHER, &h, 8e6),
               3e-6 + 6e6 / 1e10 + 1e-5 + 1e6 / 1e8, 1e-12, 0);
    CHECK_NEAR(ls_wire_hierarchical_time_s(LS_COLL_ALL_TO_ALL, &h, 8e6),
               3 * (1e-6 + 1e6 / 1e10) + 4 * (1e-5 + 1e6 / 1e8), 1e-12, 0);
    CHECK_NEAR(ls_wire_hierarchical_time_s(LS_COLL_SEND_RECV, &h, 8e6), 1e-5 + 8e6 / 1e8, 1e-12, 0);
    h.outer = 1; /* one domain costs what the single level does */
    for (int c = 0; c < LS_COLL_COUNT; c++) {
        CHECK_NEAR(ls_wire_hierarchical_time_s((ls_coll)c, &h, 8e6),
                   ls_wire_time_s((ls_coll)c, 4, 8e6, fast), 1e-12, 0);
    }
}

int main(void) {
    test_names();
    test_bytes();
    test_time();
    test_hierarchy();
    return test_end();
}
