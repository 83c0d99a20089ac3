/* Speeds of a device out of its profile. */
#include "runtime/plan/cost.h"

#include <math.h>
#include <string.h>

/* Where a profile knows no efficiency: what large kernels commonly reach. */
#define DEFAULT_GEMM      0.70
#define DEFAULT_ATTENTION 0.50
#define DEFAULT_MEMORY    0.75
#define DEFAULT_LINK      0.75
#define DEFAULT_NETWORK   0.75
/* Seconds of a step of a collective where a profile says nothing: NVLink, and RDMA through a fabric
 * of two or three switches. */
#define DEFAULT_LINK_LATENCY_S    2e-6
#define DEFAULT_NETWORK_LATENCY_S 8e-6
#define DEFAULT_UNITS             148
/* Where a product's start and end cost as much as its middle, on GPUs. */
#define DEFAULT_HALF_SPEED_K 96
/* One direction of NVLink-C2C (450 GB/s), of which copies reach three quarters. */
#define HOST_LINK_BYTES_S 340e9

typedef struct precision_row {
    const char *name;
    ls_figure_id peak, gemm, attention, memory, link, network;
    double operand_bytes;
} precision_row;

static const precision_row rows[LS_PRECISION_COUNT] = {
#define ROW(P, bytes)                                                                              \
    LS_FIG_TFLOPS_##P, LS_FIG_GEMM_##P, LS_FIG_ATTENTION_##P, LS_FIG_MEMORY_##P, LS_FIG_LINK_##P,  \
        LS_FIG_NETWORK_##P, bytes
    [LS_PRECISION_FP32] = {"fp32", ROW(FP32, 4)},
    [LS_PRECISION_BF16] = {"bf16", ROW(BF16, 2)},
    [LS_PRECISION_FP8] = {"fp8", ROW(FP8, 1)},
    [LS_PRECISION_FP4] = {"fp4", ROW(FP4, 0.5625)}, /* a scale for each 16 elements */
#undef ROW
};

const char *ls_precision_name(ls_precision precision) {
    return rows[precision].name;
}

ls_precision ls_precision_parse(const char *name) {
    int p = 0;
    while (p < LS_PRECISION_COUNT && strcmp(rows[p].name, name) != 0) {
        p++;
    }
    return (ls_precision)p;
}

ls_status ls_plan_rates_of(const ls_cluster *c, ls_precision precision, ls_plan_rates *rates) {
    const precision_row *row = &rows[precision];
    const double peak = c->figure[row->peak].value * 1e12;
    if (isnan(peak)) {
        return LS_FAIL(LS_E_CONFIG,
                       "the profile of '%s' knows no device.%s; choose another precision",
                       c->text[LS_CLUSTER_NAME], ls_figure_key(row->peak));
    }
    const double half = precision == LS_PRECISION_FP32
                            ? peak
                            : ls_cluster_value(c, LS_FIG_TFLOPS_BF16, peak * 1e-12) * 1e12;
    const double hbm = ls_cluster_value(c, LS_FIG_HBM_GB_S, NAN) * 1e9;
    const double link = ls_cluster_value(c, LS_FIG_LINK_GB_S, NAN) * 1e9;
    const double network = c->figure[LS_FIG_NETWORK_GBIT_S].value * 1e9 / 8;
    const double across = ls_cluster_value(c, row->network, DEFAULT_NETWORK);
    *rates = (ls_plan_rates){
        .products = peak * ls_cluster_value(c, row->gemm, DEFAULT_GEMM),
        .bf16_products =
            half * ls_cluster_value(c,
                                    precision == LS_PRECISION_FP32 ? row->gemm : LS_FIG_GEMM_BF16,
                                    DEFAULT_GEMM),
        .attention = half * ls_cluster_value(c, row->attention, DEFAULT_ATTENTION),
        .memory = hbm * ls_cluster_value(c, row->memory, DEFAULT_MEMORY),
        .hbm = hbm,
        .host_link = HOST_LINK_BYTES_S,
        .operand_bytes = row->operand_bytes,
        .units = (int)ls_cluster_value(c, LS_FIG_UNITS, DEFAULT_UNITS),
        .domain = (int)ls_cluster_value(c, LS_FIG_DOMAIN_DEVICES, 1),
        .inside = {.latency_s =
                       ls_cluster_value(c, LS_FIG_LINK_LATENCY_US, DEFAULT_LINK_LATENCY_S * 1e6) *
                       1e-6,
                   .bytes_per_s =
                       (isnan(link) ? hbm : link) * ls_cluster_value(c, row->link, DEFAULT_LINK)},
        .across = {.latency_s = ls_cluster_value(c, LS_FIG_NETWORK_LATENCY_US,
                                                 DEFAULT_NETWORK_LATENCY_S * 1e6) *
                                1e-6,
                   .bytes_per_s = (isnan(network) ? 1.0 : network) * across},
        .launch_s = ls_cluster_value(c, LS_FIG_LAUNCH_US, 0) * 1e-6,
        .half_k = ls_cluster_value(c, LS_FIG_HALF_SPEED_K, DEFAULT_HALF_SPEED_K),
        .shared_engine = strncmp(c->text[LS_CLUSTER_KIND], "CPU", 3) == 0,
        .peak_flops = peak,
        .network_known = !isnan(network),
    };
    for (int i = 0; i < LS_USE_COUNT * LS_COLL_COUNT; i++) {
        ls_figure_id us, gb_s;
        const ls_comm_use use = (ls_comm_use)(i / LS_COLL_COUNT);
        const ls_coll coll = (ls_coll)(i % LS_COLL_COUNT);
        if (ls_link_figures(use, coll, &us, &gb_s)) {
            rates->links[use][coll] =
                (ls_wire_link){.latency_s = 1e-6 * ls_cluster_value(c, us, 0),
                               .bytes_per_s = 1e9 * ls_cluster_value(c, gb_s, 0)};
        }
    }
    return LS_OK;
}
