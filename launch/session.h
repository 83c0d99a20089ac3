/* What verbs that run on several ranks share: the world, the mesh, the device, and an end that
 * leaves no rank waiting. */
#ifndef LS_LAUNCH_SESSION_H
#define LS_LAUNCH_SESSION_H

#include "collectives/comm_choose.h"
#include "runtime/config/config.h"
#include "runtime/device/device.h"
#include "runtime/mesh/mesh.h"

typedef struct ls_session {
    ls_comm *comm;   /* of all ranks: the world, or what was put over it */
    ls_comm *fabric; /* the same ranks, for the device's memory: comm where that is the host's */
    ls_comm *world;  /* MPI under mpirun or srun, else one rank */
    ls_comm *unwatched, *unwatched_fabric; /* beneath the flight record; NULL: there is none */
    ls_mesh mesh;
    ls_spread domains; /* on GPUs, of NVLink; hosts 0: not looked for */
    ls_device *dev;
    int threads;
    ls_cfg_attention attention; /* of a GPU; set before open, own otherwise */
} ls_session;

/* Joins the world, finds hosts and checks that all ranks run the same program. [collective] */
ls_status ls_session_begin(ls_session *session, int *argc, char ***argv);

/* Axes of the mesh that the configuration means for so many ranks, parallel.replicate perhaps 0. */
ls_status ls_session_axes(const ls_config_parallel *parallel, int64_t world,
                          int size[LS_AXIS_COUNT]);

/* The mesh (NULL: all ranks replicate), and the device with `threads` threads on the host (0:
 * OMP_NUM_THREADS, else the host's processors divided by its ranks). Ranks that share a GPU are
 * LS_E_CONFIG, unless NCCL_HOSTID says that it is a test. [collective] */
ls_status ls_session_open(ls_session *session, const ls_config_parallel *parallel,
                          ls_cfg_device device, int64_t threads);

/* After open: puts the back end of `transport` over the world (comm_choose.h), and NCCL where the
 * device is a GPU, with hier in the two levels of NVLink domains; the others are LS_E_CONFIG there.
 * [collective] */
ls_status ls_session_connect(ls_session *session, ls_cfg_transport transport);
/* For connect: fills in `domains`, and warns where they part tensor ranks. [collective] */
ls_status ls_session_find_domains(ls_session *session);

/* Did all ranks succeed? Marks the failure as one that every rank knows of, so that all of them
 * leave together. A rank whose MPI has failed does not ask: it gets its own status back, and ends
 * the others. [collective] */
ls_status ls_session_agree(ls_session *session, ls_status mine);

/* Keeps a flight record of what goes over session->comm from here on, and ends the job with a
 * report when a rank hangs (watch.h); records go to run_dir. Does nothing on one rank. [collective]
 */
ls_status ls_session_watch(ls_session *session, const ls_config_faults *faults,
                           const char *run_dir);

/* Do the other ranks know of the failure with which this one ends? If not they may be waiting for
 * it: nothing that is collective can be called any more. */
bool ls_session_failure_shared(void);

void ls_session_close(ls_session *session);

/* How a start has ended. */
typedef struct ls_outcome {
    int exit_status; /* -1: it left no word */
    char text[256];  /* the error with rank and host */
} ls_outcome;

/* From here on the end of the run is told in run_dir/outcome, one line: exit status, and the error
 * with rank and host. Launchers mask exit statuses (a killed job's is 137, 143 or 205, whatever
 * came first), so the rank that fails first writes it. The file of an earlier start is removed
 * here; *earlier is what it said, on rank 0. [collective] */
ls_status ls_session_tell_outcome(ls_session *session, const char *run_dir, ls_outcome *earlier);
/* Writes it, unless another rank or nobody has to. Not collective; a signal handler may call it. */
void ls_session_write_outcome(int exit_status, const char *text);
/* Tells it now that all ranks have come to the same end, and before any of them takes its
 * connections down, when nobody would name one that is lost. [collective] */
void ls_session_tell_end(ls_session *session, ls_status status);

/* Prints the failure and gives the exit status. A failure that the other ranks do not know of ends
 * them too, because they may be waiting for this one. Call once, last, from main. */
int ls_session_end(ls_status status);

/* Seconds since the process was started. */
double ls_session_age_s(void);

/* Asked to stop by SIGINT, SIGTERM or SIGUSR1, or by SIGHUP or SIGPIPE if they are not ignored?
 * Handlers are installed by watch; a SIGINT after another request ends the process at once. SIGCONT
 * is handled too: ls_watch_look_soon. */
void ls_session_watch_signals(void);
bool ls_session_stop_requested(void);

/* dtype of activations for numerics.compute on a device. */
ls_dtype ls_session_dtype(ls_compute compute, const ls_device *dev);

#endif
