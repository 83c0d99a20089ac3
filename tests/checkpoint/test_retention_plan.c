/* Which checkpoints stay: by number, step and validation loss; never without the newest valid one.
 */
#include "checkpoint/prune.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"

static char root[256];
static ls_comm *comm;

/* loss < 0: none. */
static void save(int64_t step, double loss, const ls_ckpt_keep *keep) {
    json_t *run = json_pack("{s:o}", "val_loss", loss < 0 ? json_null() : json_real(loss));
    json_t *counters = case_counters();
    ls_ckpt_tensor tensor = case_tensor(0, NULL);
    const ls_ckpt_save_options options = {.root = root,
                                          .step = step,
                                          .level = 1,
                                          .threads = 1,
                                          .keep = keep ? *keep : (ls_ckpt_keep){0},
                                          .config_text = "run: {}\n",
                                          .run = run,
                                          .counters = counters};
    CHECK_OK(ls_ckpt_save(comm, &options, &tensor, 1, NULL));
    free(tensor.data);
    json_decref(run);
    json_decref(counters);
}

/* fates: a letter a checkpoint, newest first. */
static void check_plan(ls_ckpt_keep keep, const char *fates) {
    static const char letters[] = {
        [LS_FATE_NEWEST] = 'N', [LS_FATE_LAST] = 'l',    [LS_FATE_EVERY] = 'e',
        [LS_FATE_BEST] = 'b',   [LS_FATE_DAMAGED] = 'X', [LS_FATE_REMOVE] = '-'};
    ls_ckpt_verdict *plan;
    size_t count;
    char found[64] = "";
    CHECK_OK(ls_ckpt_prune_plan(root, &keep, &plan, &count));
    for (size_t i = 0; i < count && i < 63; i++) {
        found[i] = letters[plan[i].fate];
    }
    CHECK_STR(found, fates);
    free(plan);
}

/* steps: those that are there, newest first, with a comma after each. */
static void check_there(const char *steps) {
    int64_t *list;
    size_t count, n = 0;
    char found[256] = "";
    CHECK_OK(ls_ckpt_list(root, &list, &count));
    for (size_t i = 0; i < count && n < 200; i++) {
        n += (size_t)snprintf(found + n, sizeof found - n, "%lld,", (long long)list[i]);
    }
    CHECK_STR(found, steps);
    free(list);
    ls_ckpt_stale *stale;
    CHECK_OK(ls_ckpt_stale_list(root, &stale, &count));
    CHECK_INT(count, 0);
    free(stale);
}

static void manifest_damage(int64_t step) {
    char path[400];
    snprintf(path, sizeof path, "%s/step-%08lld/manifest.json", root, (long long)step);
    CHECK_OK(ls_file_replace(path, "x", 1));
}

static void test_plan(void) {
    const double losses[] = {3.0, -1, 2.0, 2.5, 2.0, -1, 9.0, 4.0};
    for (int i = 0; i < 8; i++) {
        save(10 * (i + 1), losses[i], NULL); /* steps 10 to 80 */
    }
    check_plan((ls_ckpt_keep){0}, "Nlllllll");
    check_plan((ls_ckpt_keep){.last = 1}, "N-------");
    check_plan((ls_ckpt_keep){.last = 3}, "Nll-----");
    check_plan((ls_ckpt_keep){.last = 100}, "Nlllllll");
    check_plan((ls_ckpt_keep){.every = 40}, "N---e---");
    check_plan((ls_ckpt_keep){.every = 1000}, "N-------");
    check_plan((ls_ckpt_keep){.best = 1}, "N--b----"); /* 50 and 30 are equal: the newer */
    check_plan((ls_ckpt_keep){.best = 2}, "N--b-b--");
    check_plan((ls_ckpt_keep){.best = 4}, "N--bbb-b");
    check_plan((ls_ckpt_keep){.best = 100}, "Nb-bbb-b"); /* without a loss none is best */
    check_plan((ls_ckpt_keep){.last = 2, .every = 20, .best = 1}, "Nlebe-e-");
    manifest_damage(80);
    manifest_damage(50);
    check_plan((ls_ckpt_keep){.last = 1}, "XN-X----");
    check_plan((ls_ckpt_keep){.best = 1}, "XN-X-b--");
}

static void test_carry_out(void) {
    const ls_ckpt_keep keep = {.last = 1, .best = 1};
    CHECK_OK(ls_ckpt_prune(root, &(ls_ckpt_keep){0}));
    check_there("80,70,60,50,40,30,20,10,");
    CHECK_OK(ls_ckpt_prune(root, &keep));
    check_there("80,70,50,30,"); /* damaged ones are left */
    CHECK_OK(ls_ckpt_prune(root, &keep));
    check_there("80,70,50,30,");
    CHECK_STATUS(ls_ckpt_prune("/nonexistent", &keep), LS_E_INPUT);
}

/* A save removes what its options do not keep. */
static void test_with_saves(void) {
    const ls_ckpt_keep keep = {.last = 2, .every = 100};
    for (int64_t step = 90; step <= 130; step += 10) {
        save(step, 5.0, &keep);
    }
    check_there("130,120,100,80,50,");
    /* The newest is the one with the highest step, whatever was saved last. */
    save(95, 1.0, &(ls_ckpt_keep){.last = 1});
    check_there("130,80,50,");
}

/* An old checkpoint was moved to another disk, with a link in its place: it stays, and keeps none
 * of the others. */
static void test_link(void) {
    char place[400], disk[400];
    snprintf(place, sizeof place, "%s/step-00000200", root);
    snprintf(disk, sizeof disk, "%s/disk", root);
    for (int64_t step = 200; step <= 220; step += 10) {
        save(step, -1, NULL);
    }
    CHECK(rename(place, disk) == 0 && symlink("disk", place) == 0);
    CHECK_STATUS(ls_ckpt_prune(root, &(ls_ckpt_keep){.last = 1}), LS_E_IO);
    CHECK_MESSAGE("step-00000200' to remove it");
    check_there("220,200,80,50,");
}

int main(void) {
    ls_log_set_quiet(true);
    CHECK_OK(ls_comm_self(&comm));
    snprintf(root, sizeof root, "%s", case_directory());
    test_plan();
    test_carry_out();
    test_with_saves();
    test_link();
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
