/* Which ranks of a pipeline stage plan the same, so that a dry run of many thousand ranks plans
 * each kind once. */
#ifndef LS_LAUNCH_TRAIN_DRY_ROLES_H
#define LS_LAUNCH_TRAIN_DRY_ROLES_H

#include "launch/train_layout.h"

typedef struct ls_dry_roles {
    int data_ranks; /* those from here on repeat the ones before */
    int experts, tensor;
    bool *is_new; /* [experts][tensor]: no lower tensor rank holds rows of the same sizes */
} ls_dry_roles;

/* Of the stage of this layout. Release it, after a failure too. */
ls_status ls_dry_roles_init(const ls_layout *layout, ls_dry_roles *roles);
void ls_dry_roles_release(ls_dry_roles *roles);

/* False: a rank of the stage with lower numbers takes the same memory, to the byte. */
bool ls_dry_roles_is_new(const ls_dry_roles *roles, int data_rank, int tensor_rank);

#endif
