/* A thread that moves operations on while the main thread computes: between two looks of the main
 * thread a link of a network would run dry, where a GPU's would not. Only what recorded
 * communicators (recorded.h) start counts; while the thread runs, nothing else may call the
 * library.
 *
 * Hoefler, Lumsdaine 2008, doi:10.1109/CLUSTR.2008.4663774: threads for progress pay where they do
 * not spin on a processor that computes; this one sleeps between its looks. */
#ifndef LS_COLLECTIVES_PROGRESS_H
#define LS_COLLECTIVES_PROGRESS_H

#include "runtime/base/status.h"

/* LS_E_UNSUPPORTED where the library wants all calls from one thread (below MPI_THREAD_SERIALIZED).
 * Main thread; nothing is under way. */
ls_status ls_progress_start(void);
/* Safe when not started. Main thread. */
void ls_progress_stop(void);

/* Around every call of a back end by the main thread; they do nothing while there is no thread.
 * LS_HELD(call) is the call between the two, and has its status. */
void ls_progress_hold(void);
ls_status ls_progress_released(ls_status status);
#define LS_HELD(call) (ls_progress_hold(), ls_progress_released(call))

#endif
