/* Cluster profiles: what a planner must know about machines, each figure with its source and date.
 *
 * A profile is a YAML file of sections with `key: value` lines; `cluster.device` names a second
 * file in devices/ with what belongs to the device alone, whose figures it may override. A figure
 * is {value: 400, source: KEY, date: 2026-08-12}, KEY one of the file's section `sources`, or null:
 * unknown stays unknown (NAN). Unknown keys, wrong types and values out of range are refused with
 * file and line. */
#ifndef LS_PLAN_CLUSTER_H
#define LS_PLAN_CLUSTER_H

#include "collectives/operation.h"
#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* X(id, section, key, unit, min, max, help). Bandwidths of one direction, FLOP/s dense. */
#define LS_EFFICIENCY_LIST(X, P, p)                                                                \
    X(GEMM_##P, efficiency_##p, gemm, "of peak", 0.01, 1, "large matrix products")                 \
    X(ATTENTION_##P, efficiency_##p, attention, "of bf16 peak", 0.005, 1, "fused attention")       \
    X(MEMORY_##P, efficiency_##p, memory, "of bandwidth", 0.01, 1.5, "memory-bound operations")    \
    X(LINK_##P, efficiency_##p, link, "of bandwidth", 0.01, 1, "collectives inside a domain")      \
    X(NETWORK_##P, efficiency_##p, network, "of bandwidth", 0.01, 1, "collectives across domains")
/* Operations of a step on one host, by what they carry (ls_comm_use). Each is found as a step has
 * it, with caches that other work has gone through in between. */
#define LS_LINK_ROW(X, USE, use, OP, op)                                                           \
    X(USE##_##OP##_US, links, use##_##op##_us, "us", 0, 1e6, "of a step of the operation")         \
    X(USE##_##OP##_GB_S, links, use##_##op##_gb_s, "GB/s", 1e-3, 1e6, "of its bytes on the wire")
/* R(X, USE, use, OP, op) */
#define LS_LINK_ROWS(R, X)                                                                         \
    R(X, ACTIVATIONS, activations, ALL_REDUCE, all_reduce)                                         \
    R(X, ACTIVATIONS, activations, REDUCE_SCATTER, reduce_scatter)                                 \
    R(X, ACTIVATIONS, activations, ALL_GATHER, all_gather)                                         \
    R(X, ACTIVATIONS, activations, ALL_TO_ALL, all_to_all)                                         \
    R(X, ACTIVATIONS, activations, SEND_RECV, send_recv)                                           \
    R(X, BESIDE, beside, ALL_REDUCE, all_reduce)                                                   \
    R(X, BESIDE, beside, REDUCE_SCATTER, reduce_scatter)                                           \
    R(X, BESIDE, beside, ALL_GATHER, all_gather)                                                   \
    R(X, BESIDE, beside, ALL_TO_ALL, all_to_all)                                                   \
    R(X, BESIDE, beside, SEND_RECV, send_recv)                                                     \
    R(X, KEPT, kept, ALL_REDUCE, all_reduce)                                                       \
    R(X, KEPT, kept, REDUCE_SCATTER, reduce_scatter)                                               \
    R(X, KEPT, kept, ALL_GATHER, all_gather)                                                       \
    R(X, STATE, state, ALL_REDUCE, all_reduce)                                                     \
    R(X, STATE, state, REDUCE_SCATTER, reduce_scatter)                                             \
    R(X, STATE, state, ALL_GATHER, all_gather)                                                     \
    R(X, STATE, state, ALL_TO_ALL, all_to_all)                                                     \
    R(X, STATE, state, SEND_RECV, send_recv)                                                       \
    R(X, LAST, last, ALL_REDUCE, all_reduce)                                                       \
    R(X, LAST, last, REDUCE_SCATTER, reduce_scatter)                                               \
    R(X, BLOCKS, blocks, ALL_GATHER, all_gather)
#define LS_FIGURE_LIST(X)                                                                          \
    X(MEMORY_GB, device, memory_gb, "GB", 0.001, 1e6, "memory of a device")                        \
    X(HBM_GB_S, device, hbm_gb_s, "GB/s", 0.1, 1e6, "its bandwidth")                               \
    X(UNITS, device, units, "", 1, 4096, "processors (SMs) that share a matrix product's tiles")   \
    X(HALF_SPEED_K, device, half_speed_k, "", 0, 1e5,                                              \
      "inner dimension of half the speed of large products")                                       \
    X(TFLOPS_FP32, device, fp32_tflops, "TFLOP/s", 1e-4, 1e6, "peak in fp32")                      \
    X(TFLOPS_BF16, device, bf16_tflops, "TFLOP/s", 1e-4, 1e6, "dense peak in bf16")                \
    X(TFLOPS_FP8, device, fp8_tflops, "TFLOP/s", 1e-4, 1e6, "dense peak in fp8")                   \
    X(TFLOPS_FP4, device, fp4_tflops, "TFLOP/s", 1e-4, 1e6, "dense peak in fp4")                   \
    X(ACHIEVED_BF16, device, achieved_bf16_tflops, "TFLOP/s", 1e-4, 1e6,                           \
      "measured on the best large matrix product")                                                 \
    X(LINK_GB_S, device, link_gb_s, "GB/s", 1e-3, 1e6, "to the devices of its domain")             \
    X(DEVICE_W, device, power_w, "W", 0.1, 1e5, "design power of a device")                        \
    X(LAUNCH_US, device, launch_us, "us", 0, 1e4, "between operations that wait for each other")   \
    X(NODE_DEVICES, node, devices, "devices", 1, 4096, "run by one operating system")              \
    X(DOMAIN_DEVICES, node, domain_devices, "devices", 1, 65536, "that fast links join")           \
    X(LINK_LATENCY_US, node, link_latency_us, "us", 0, 1e6, "of a step inside the domain")         \
    X(NETWORK_GBIT_S, network, gbit_s, "Gb/s", 1e-3, 1e6, "of one device to other domains")        \
    X(NETWORK_LATENCY_US, network, latency_us, "us", 0, 1e6, "of a step across domains")           \
    X(DOMAIN_W, power, domain_w, "W", 1, 1e7, "a whole domain with hosts and fans, at most")       \
    X(PUE, power, pue, "", 1, 5, "energy of the site over that of its computers")                  \
    X(CARBON, power, carbon_g_kwh, "g/kWh", 0, 5000, "carbon intensity of the supply")             \
    X(PRICE_ON_DEMAND, price, on_demand, "USD/h", 0, 1e4, "of a device")                           \
    X(PRICE_LIST, price, list, "USD/h", 0, 1e4, "of a device")                                     \
    X(PRICE_RESERVED, price, reserved, "USD/h", 0, 1e4, "of a device")                             \
    X(PRICE_CAPACITY_BLOCK, price, capacity_block, "USD/h", 0, 1e4, "of a device")                 \
    X(PRICE_SPOT, price, spot, "USD/h", 0, 1e4, "of a device")                                     \
    X(MTBF_H, failures, mtbf_device_hours, "h", 1, 1e12, "device-hours between failures")          \
    X(RESTART_S, failures, restart_s, "s", 0, 1e6, "from a failure to the first new step")         \
    LS_LINK_ROWS(LS_LINK_ROW, X)                                                                   \
    X(STORAGE_GB_S, storage, write_gb_s, "GB/s", 1e-3, 1e6, "of one node to checkpoints")          \
    LS_EFFICIENCY_LIST(X, FP32, fp32)                                                              \
    LS_EFFICIENCY_LIST(X, BF16, bf16)                                                              \
    LS_EFFICIENCY_LIST(X, FP8, fp8)                                                                \
    LS_EFFICIENCY_LIST(X, FP4, fp4)

typedef enum ls_figure_id {
#define X(id, ...) LS_FIG_##id,
    LS_FIGURE_LIST(X)
#undef X
        LS_FIG_COUNT
} ls_figure_id;

/* X(id, section, key, help) */
#define LS_CLUSTER_TEXT_LIST(X)                                                                    \
    X(NAME, cluster, name, "as --cluster takes it")                                                \
    X(TITLE, cluster, title, "for people")                                                         \
    X(PROVIDER, cluster, provider, "who runs it")                                                  \
    X(DEVICE, cluster, device, "file in devices/")                                                 \
    X(NOTE, cluster, note, "what to know about the figures")                                       \
    X(KIND, device, kind, "device model")                                                          \
    X(FABRIC, network, fabric, "between domains")                                                  \
    X(SCHEDULER, launch, scheduler, "slurm or none")                                               \
    X(ENVIRONMENT, launch, environment, "NAME=value ... for every rank")

typedef enum ls_cluster_text_id {
#define X(id, ...) LS_CLUSTER_##id,
    LS_CLUSTER_TEXT_LIST(X)
#undef X
        LS_CLUSTER_TEXT_COUNT
} ls_cluster_text_id;

/* The figures of an operation of that use; false: it has none. */
bool ls_link_figures(ls_comm_use use, ls_coll coll, ls_figure_id *us, ls_figure_id *gb_s);

typedef struct ls_figure {
    double value; /* NAN: unknown */
    char source[48], date[24], note[96];
    bool given; /* in the file, if only as null */
} ls_figure;

typedef struct ls_source {
    char key[48], text[320];
} ls_source;

enum { LS_MAX_SOURCES = 32 };

typedef struct ls_cluster {
    char text[LS_CLUSTER_TEXT_COUNT][256];
    ls_figure figure[LS_FIG_COUNT];
    ls_source sources[LS_MAX_SOURCES];
    int source_count;
} ls_cluster;

const char *ls_figure_section(ls_figure_id id);
const char *ls_figure_key(ls_figure_id id);

/* The folder with the profiles: $LOCKSTEP_CLUSTERS, else the nearest share/lockstep/clusters in a
 * folder above the program's. LS_E_INPUT when there is none. */
ls_status ls_cluster_dir(char *out, size_t size);

/* A profile by name ("aws-p5"), or a file when `name` ends in .yaml. LS_E_CONFIG for an unknown
 * name tells the nearest. */
ls_status ls_cluster_load(const char *name, ls_cluster *cluster);
/* From text; `name` stands for the file, dir (may be NULL) holds devices/. */
ls_status ls_cluster_load_text(const char *name, const char *dir, const char *text, size_t bytes,
                               ls_cluster *cluster);

/* A file of devices/ alone: nothing about nodes is required. */
ls_status ls_device_load_text(const char *name, const char *text, size_t bytes, ls_cluster *device);

/* Names of the installed profiles, sorted; caller frees each and the list. */
ls_status ls_cluster_list(char ***names, int *count);

/* Value of a figure, or `fallback` when it is unknown. */
double ls_cluster_value(const ls_cluster *cluster, ls_figure_id id, double fallback);
/* Are its devices processors, whose memory is the host's? Their kind begins with "CPU". */
bool ls_cluster_on_host(const ls_cluster *cluster);

/* For measurements, which add to the profile at `path`: reads it, as ls_device_load_text does; when
 * there is none, *cluster is an empty one that is named "local". LS_E_CONFIG; LS_E_IO, also when it
 * cannot be written there afterwards. */
ls_status ls_cluster_begin(const char *path, ls_cluster *cluster);
/* Adds a source; one of that key gets this text. LS_E_CONFIG when there is no room for another. */
ls_status ls_cluster_cite(ls_cluster *cluster, const char *key, const char *text);
/* A figure that was measured today, by the source of that key. */
void ls_cluster_set(ls_cluster *cluster, ls_figure_id id, double value, const char *key);

/* Writes the profile as YAML that ls_cluster_load_text reads back (a device file's figures
 * included). LS_E_IO. */
ls_status ls_cluster_write(const ls_cluster *cluster, const char *path);

#endif
