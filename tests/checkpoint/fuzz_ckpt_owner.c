/* libFuzzer entry for lock.json and owner.json: any text ends in an owner, of whom can be told, or
 * in an error. */
#include "checkpoint/owner.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise ends the process, which the driver reports. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static void require_line(const char *text, size_t room) {
    require(strnlen(text, room) < room && !strchr(text, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ls_owner owner;
    char text[320];
    if (ls_owner_parse((const char *)data, size, "fuzz", &owner) != LS_OK) {
        require(ls_error_last()->code == LS_E_CORRUPT);
        return 0;
    }
    require_line(owner.host, sizeof owner.host);
    require_line(owner.boot, sizeof owner.boot);
    require_line(owner.space, sizeof owner.space);
    require_line(owner.cluster, sizeof owner.cluster);
    require_line(owner.job, sizeof owner.job);
    require_line(owner.step, sizeof owner.step);
    owner.job[0] = '\0'; /* nobody is to ask Slurm */
    require_line(ls_owner_text(&owner, text, sizeof text), sizeof text);
    (void)ls_owner_look(&owner);
    return 0;
}
