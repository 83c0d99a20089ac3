/* Open MPI ends a process at once and without a word when its connection to another rank breaks
 * (mca_pml_ob1_error_handler), whatever the error handlers say: then nobody is left who could tell
 * which rank was lost. The function that it calls for that is defined here, too, and for its
 * components this definition is the one. */
#include "collectives/comm.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>

static void (*on_loss)(void);

void ls_comm_mpi_on_loss(void (*lost)(void)) {
    on_loss = lost;
}

__attribute__((visibility("default"))) void ompi_rte_abort(int code, char *format, ...);

void ompi_rte_abort(int code, char *format, ...) {
    char text[1024] = "";
    if (format) {
        va_list values;
        va_start(values, format);
        vsnprintf(text, sizeof text, format, values);
        va_end(values);
    }
    if (on_loss) {
        on_loss();
    }
    void (*library)(int, char *, ...);
    *(void **)&library = dlsym(RTLD_NEXT, "ompi_rte_abort"); /* does not return */
    library(code, format ? "%s" : NULL, text);
}
