#include "runtime/plan/bill.h"

#include <math.h>
#include <string.h>

/* Where neither a measurement nor a profile says: what a node writes to shared storage, and the
 * wait of a requeued job (ByteRobust, arXiv 2509.16293, saw 454 to 768 s). */
#define DEFAULT_WRITE_BYTES_S 2e9
#define DEFAULT_RESTART_S     600.0
/* A snapshot is copied to host memory at this rate a device, after all have agreed on the step; the
 * rest happens in the background. */
#define SNAPSHOT_BYTES_S 10e9
#define AGREE_S          1.0
#define LEAST_GOODPUT    1e-3

static ls_status find_price(const ls_cluster *c, const ls_bill_options *o, ls_bill *bill) {
    bill->price = LS_FIG_COUNT;
    bill->usd_per_hour = o->usd_per_hour;
    if (!isnan(o->usd_per_hour)) {
        return LS_OK;
    }
    char known[128] = "";
    for (int i = LS_FIG_PRICE_ON_DEMAND; i <= LS_FIG_PRICE_SPOT; i++) {
        const double value = c->figure[i].value;
        const char *key = ls_figure_key((ls_figure_id)i);
        if (isnan(value)) {
            continue;
        }
        if (o->price_kind ? strcmp(key, o->price_kind) == 0 : bill->price == LS_FIG_COUNT) {
            bill->price = (ls_figure_id)i;
            bill->usd_per_hour = value;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", used ? ", " : "", key);
    }
    if (o->price_kind && bill->price == LS_FIG_COUNT) {
        return LS_FAIL(LS_E_CONFIG,
                       "the profile of '%s' has no '%s' price; it has %s; give --price otherwise",
                       c->text[LS_CLUSTER_NAME], o->price_kind, known[0] ? known : "none");
    }
    return LS_OK;
}

static void set_failures(const ls_cluster *c, const ls_bill_options *o, int devices,
                         double checkpoint_bytes, ls_bill *b) {
    const double mtbf_h = isnan(o->mtbf_hours)
                              ? ls_cluster_value(c, LS_FIG_MTBF_H, LS_MTBF_DEVICE_HOURS)
                              : o->mtbf_hours;
    const double nodes = ceil(devices / ls_cluster_value(c, LS_FIG_NODE_DEVICES, 1));
    const double write =
        nodes * ls_cluster_value(c, LS_FIG_STORAGE_GB_S, DEFAULT_WRITE_BYTES_S * 1e-9) * 1e9;
    b->failures = (ls_failures){
        .mtbf_s = mtbf_h * 3600 / devices,
        .stall_s = isnan(o->save_stall_s) ? AGREE_S + checkpoint_bytes / devices / SNAPSHOT_BYTES_S
                                          : o->save_stall_s,
        .commit_s = isnan(o->save_commit_s) ? checkpoint_bytes / write : o->save_commit_s,
        .restart_s = isnan(o->restart_s) ? ls_cluster_value(c, LS_FIG_RESTART_S, DEFAULT_RESTART_S)
                                         : o->restart_s,
    };
    b->save_interval_s = ls_failures_best_interval_s(&b->failures);
    /* One save at a time: the next begins when the last is safe. */
    b->save_interval_s = fmax(b->save_interval_s, b->failures.commit_s);
    b->goodput = ls_failures_goodput(&b->failures, b->save_interval_s);
}

ls_status ls_bill_make(const ls_cluster *c, const ls_bill_options *o, int devices,
                       double tokens_per_s, double tokens_per_step, double checkpoint_bytes,
                       ls_bill *b) {
    *b = (ls_bill){0};
    LS_TRY(find_price(c, o, b));
    set_failures(c, o, devices, checkpoint_bytes, b);
    if (!(b->goodput > LEAST_GOODPUT)) {
        return LS_FAIL(
            LS_E_NO,
            "%d devices would not get anywhere: one of them fails every %.3g s, and from "
            "there to the next step it takes %.3g s; take fewer devices, or give --mtbf "
            "and --restart",
            devices, b->failures.mtbf_s, b->failures.restart_s);
    }
    const double seconds = o->tokens / tokens_per_s / b->goodput, hours = seconds / 3600;
    b->steps = ceil(o->tokens / tokens_per_step);
    b->days = hours / 24;
    b->device_hours = hours * devices;
    b->interruptions = seconds / b->failures.mtbf_s;
    b->usd = b->device_hours * b->usd_per_hour;
    b->usd_per_mtoken = b->usd / (o->tokens * 1e-6);
    const double domain_w = c->figure[LS_FIG_DOMAIN_W].value;
    b->whole_nodes = !isnan(domain_w);
    const double each = b->whole_nodes ? domain_w / ls_cluster_value(c, LS_FIG_DOMAIN_DEVICES, 1)
                                       : c->figure[LS_FIG_DEVICE_W].value;
    const double pue = c->figure[LS_FIG_PUE].value;
    b->power_w = each * devices * (isnan(pue) ? 1 : pue);
    b->it_mwh = each * b->device_hours * 1e-6;
    b->mwh = b->it_mwh * pue;
    b->carbon_t = b->mwh * c->figure[LS_FIG_CARBON].value * 1e-3;
    return LS_OK;
}
