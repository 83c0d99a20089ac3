/* The checks of `lockstep doctor`: what each finds on one rank. */
#ifndef LS_LAUNCH_DOCTOR_H
#define LS_LAUNCH_DOCTOR_H

#include "launch/session.h"
#include "runtime/plan/cluster.h"

typedef enum ls_verdict { LS_PASS, LS_WARN, LS_FAULT } ls_verdict;

/* What a check found; of fixed size, so that ranks can gather them. text says what was found and,
 * unless it is a PASS, what to do. */
typedef struct ls_finding {
    char check[24], host[64], text[280];
    int32_t verdict, rank;
} ls_finding;

enum { LS_FINDINGS_MAX = 48 };

typedef struct ls_findings {
    ls_finding list[LS_FINDINGS_MAX];
    int64_t count;
} ls_findings;

void ls_findings_add(ls_findings *findings, const char *check, ls_verdict verdict, const char *fmt,
                     ...) __attribute__((format(printf, 4, 5)));

/* Of this node: its memory, limits, libraries and, when dir is given, the disk there. Not
 * collective. */
void ls_doctor_node(ls_findings *findings, const char *dir);

/* Where HDF5's tools find the zstd filter that is built and installed beside the program. */
const char *ls_doctor_plugin_path(void);

/* Of this node's NVIDIA GPUs: lost ones, memory errors, Xid events, throttling, NVLinks, fabric and
 * IMEX. Adds nothing where there are none. Not collective. */
void ls_doctor_gpus(ls_findings *findings);

/* Between the ranks: the same libraries, clocks, a shared dir; the speed of each rank and of the
 * network, beside the profile's (NULL: none). Findings of single ranks are theirs, those of all are
 * rank 0's. [collective] */
ls_status ls_doctor_job(ls_session *session, ls_findings *findings, const char *dir,
                        const ls_cluster *profile);

#endif
