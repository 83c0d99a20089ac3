#include "launch/train_ledger.h"

#include "launch/train_predict.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/process.h"
#include "runtime/counters/cost.h"
#include "runtime/plan/cluster.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the lines of starts.jsonl say of earlier starts. */
typedef struct earlier_starts {
    int64_t count;
    double first_s;          /* Unix time of the first one; 0: there was none */
    double time_s, uptime_s; /* of the newest, and how long its host had been up then */
    char boot[48];           /* which start of its host that was; "": not told */
    int64_t ranks;           /* of the newest */
    char job[64];
} earlier_starts;

static const char *job_id(void) {
    static const char *const variables[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"};
    for (size_t i = 0; i < sizeof variables / sizeof variables[0]; i++) {
        const char *id = getenv(variables[i]);
        if (id && id[0]) {
            return id;
        }
    }
    return "";
}

static ls_status starts_path(const ls_train *train, char *path, size_t size) {
    return ls_path_join(path, size, train->run_dir, "starts.jsonl");
}

static void copy_text(char *out, size_t size, const json_t *text) {
    const char *value = json_string_value(text);
    snprintf(out, size, "%s", value ? value : "");
}

static ls_status read_starts(const ls_train *train, earlier_starts *earlier) {
    *earlier = (earlier_starts){0};
    char path[1024];
    LS_TRY(starts_path(train, path, sizeof path));
    FILE *f = fopen(path, "r");
    if (!f) {
        return errno == ENOENT ? LS_OK
                               : LS_FAIL(LS_E_IO, "cannot read '%s': %s", path, strerror(errno));
    }
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, f) > 0) {
        json_t *start = json_loads(line, 0, NULL);
        if (!json_is_object(start)) { /* torn by a kill */
            json_decref(start);
            continue;
        }
        if (earlier->count++ == 0) {
            earlier->first_s = json_number_value(json_object_get(start, "time"));
        }
        earlier->ranks = json_integer_value(json_object_get(start, "ranks"));
        earlier->time_s = json_number_value(json_object_get(start, "time"));
        earlier->uptime_s = json_number_value(json_object_get(start, "uptime"));
        copy_text(earlier->job, sizeof earlier->job, json_object_get(start, "job"));
        copy_text(earlier->boot, sizeof earlier->boot, json_object_get(start, "boot"));
        json_decref(start);
    }
    free(line);
    fclose(f);
    return LS_OK;
}

static const char *price_kind(const ls_config_cost *cost) {
    static const char *const kinds[] = {"on-demand", "spot", "reserved", "capacity-block",
                                        "contract"};
    return kinds[cost->kind];
}

static json_t *price_json(const ls_train *train) {
    const ls_config_cost *cost = &train->config.cost;
    return json_pack("{s:o, s:s, s:s}", "usd_per_device_hour",
                     ls_json_real(train->usd_per_device_hour), "kind", price_kind(cost), "date",
                     cost->price_date);
}

static ls_status write_start(const ls_train *train, int64_t number, double start_s) {
    const ls_session *session = &train->session;
    char host[65] = "?", path[1024], boot[48];
    gethostname(host, sizeof host - 1);
    LS_TRY(ls_process_boot(boot, sizeof boot));
    LS_TRY(starts_path(train, path, sizeof path));
    const ls_outcome *earlier = &train->earlier_outcome;
    json_t *after = earlier->exit_status < 0 ? json_null()
                                             : json_pack("{s:i, s:s}", "exit", earlier->exit_status,
                                                         "outcome", earlier->text);
    json_t *line =
        json_pack("{s:I, s:f, s:s, s:f, s:I, s:s, s:s, s:i, s:i, s:s, s:o, s:s, s:s, s:o, s:o}",
                  "start", (json_int_t)number, "time", start_s, "boot", boot, "uptime",
                  ls_clock_boot_s() - ls_session_age_s(), "step", (json_int_t)train->step, "job",
                  job_id(), "host", host, "ranks", session->comm->size, "hosts",
                  session->mesh.hosts, "device", session->dev->describe, "attention",
                  ls_train_attention_json(train), "account", train->config.run.account, "project",
                  train->config.run.project, "price", price_json(train), "after", after);
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(16)) : NULL;
    json_decref(line);
    ls_status status = text ? ls_file_append_line(path, text)
                            : LS_FAIL(LS_E_MEMORY, "no memory for a line of '%s'", path);
    free(text);
    return status;
}

static void take(double *setting, double none, const ls_cluster *cluster, ls_figure_id id) {
    if (*setting == none) {
        *setting = ls_cluster_value(cluster, id, none);
    }
}

/* What the configuration does not say of price, power and carbon is the cluster profile's, if it
 * knows; a contract's price is its own. */
static ls_status fill_from_profile(ls_config_cost *cost) {
    static const ls_figure_id prices[] = {LS_FIG_PRICE_ON_DEMAND, LS_FIG_PRICE_SPOT,
                                          LS_FIG_PRICE_RESERVED, LS_FIG_PRICE_CAPACITY_BLOCK};
    static ls_cluster cluster;
    LS_TRY(ls_cluster_load(cost->cluster, &cluster));
    if (cost->kind != LS_PRICE_CONTRACT && cost->usd_per_device_hour == 0.0) {
        const ls_figure *price = &cluster.figure[prices[cost->kind]];
        if (isfinite(price->value)) {
            cost->usd_per_device_hour = price->value;
            snprintf(cost->price_date, sizeof cost->price_date, "%s", price->date);
        }
    }
    if (cost->watts_per_device == 0.0) { /* of whole domains: hosts and fans too */
        const double devices = ls_cluster_value(&cluster, LS_FIG_DOMAIN_DEVICES, NAN);
        const double watts = ls_cluster_value(&cluster, LS_FIG_DOMAIN_W, NAN) / devices;
        cost->watts_per_device =
            isfinite(watts) ? watts : ls_cluster_value(&cluster, LS_FIG_DEVICE_W, 0.0);
    }
    take(&cost->pue, 1.0, &cluster, LS_FIG_PUE);
    take(&cost->carbon_g_per_kwh, 0.0, &cluster, LS_FIG_CARBON);
    return LS_OK;
}

ls_status ls_train_ledger_price(ls_train *train) {
    LS_TRY(train->config.cost.cluster[0] ? fill_from_profile(&train->config.cost) : LS_OK);
    return ls_cost_price(&train->config.cost, &train->usd_per_device_hour);
}

void ls_train_ledger_spend(ls_train *train, double seconds) {
    ls_cost_spend(&train->config.cost, train->usd_per_device_hour,
                  seconds * train->session.comm->size, &train->counters);
}

/* By how much the clock of the day was set forward since the newest start, on the same host.
 * Records have the time of their own start's clock, and must not be taken for older or younger. */
static ls_status clock_shift(const earlier_starts *earlier, double start_s, double *shift_s) {
    char boot[48];
    *shift_s = 0.0;
    LS_TRY(ls_process_boot(boot, sizeof boot));
    if (strcmp(boot, earlier->boot) == 0) {
        const double uptime_s = ls_clock_boot_s() - ls_session_age_s();
        *shift_s = (start_s - uptime_s) - (earlier->time_s - earlier->uptime_s);
    }
    return LS_OK;
}

/* From the loaded counters, or the first start of a run that never saved, to this start. A stop
 * that was asked for is not down time. */
static ls_status add_earlier(ls_train *train, const earlier_starts *earlier, double start_s) {
    ls_counters *c = &train->counters;
    ls_history h;
    double from_s = c->as_of_s > 0.0 ? c->as_of_s : earlier->first_s;
    c->restarts = earlier->count;
    if (from_s <= 0.0) {
        return LS_OK;
    }
    double shift_s;
    LS_TRY(clock_shift(earlier, start_s, &shift_s));
    LS_TRY(ls_history_since(train->run_dir, train->step, from_s, start_s - shift_s, &h));
    double devices = earlier->ranks > 0 ? (double)earlier->ranks : train->session.comm->size;
    bool asked = train->earlier_outcome.exit_status == 0 ||
                 train->earlier_outcome.exit_status == ls_status_exit(LS_E_STOPPED);
    double silence_s = asked ? 0.0 : h.silence_s;
    bool held = strcmp(earlier->job, job_id()) == 0; /* the devices, meanwhile */
    c->lost_steps += h.lost_steps;
    c->seconds[LS_PHASE_CHECKPOINT] += h.save_s;
    c->seconds[LS_PHASE_LOST] += h.lost_s;
    c->seconds[LS_PHASE_DOWN] += h.down_s - h.silence_s + silence_s;
    const ls_config_cost *cost = &train->config.cost;
    double price = train->usd_per_device_hour, before_s = h.save_s + h.lost_s;
    ls_cost_spend(cost, price, (before_s + h.down_s - h.silence_s) * devices, c);
    if (isfinite(h.usd)) { /* what was paid by then, at the price of then */
        c->usd = h.usd;
    }
    if (held) {
        ls_cost_spend(cost, price, silence_s * devices, c);
    }
    if (isfinite(h.measured_joules)) {
        c->measured_joules = h.measured_joules;
    }
    return LS_OK;
}

static ls_status begin_on_root(ls_train *train) {
    double start_s = ls_clock_steady_wall_s() - ls_session_age_s();
    earlier_starts earlier;
    LS_TRY(read_starts(train, &earlier));
    if (earlier.count > 0) {
        LS_TRY(add_earlier(train, &earlier, start_s));
    }
    return write_start(train, earlier.count, start_s);
}

/* The best kind of counter that any rank has; the ranks then read that kind alone, so that nothing
 * is counted twice. Without any there is nothing to sum. */
static ls_status open_energy(ls_train *train) {
    const ls_session *session = &train->session;
    const ls_energy_options options = {.gpu_bus_id = session->dev->bus_id,
                                       .first_of_host = session->mesh.host_rank == 0,
                                       .first_of_job = session->comm->rank == 0};
    for (int kind = 0; kind < LS_ENERGY_KINDS && !train->energy_measured; kind++) {
        ls_status status = ls_energy_open((ls_energy_kind)kind, &options, &train->energy);
        LS_TRY(ls_session_agree(&train->session, status));
        int32_t measured = train->energy != NULL;
        LS_TRY(session->comm->ops->all_reduce(session->comm, &measured, 1, LS_I32, LS_MAX));
        train->energy_measured = measured != 0;
    }
    train->energy_before_j =
        isfinite(train->counters.measured_joules) ? train->counters.measured_joules : 0.0;
    return LS_OK;
}

ls_status ls_train_ledger_begin(ls_train *train) {
    ls_comm *comm = train->session.comm;
    LS_TRY(ls_session_agree(&train->session, comm->rank == 0 ? begin_on_root(train) : LS_OK));
    LS_TRY(comm->ops->broadcast(comm, &train->counters, sizeof train->counters, 0));
    LS_TRY(open_energy(train));
    double startup_s = ls_session_age_s();
    train->counters.seconds[LS_PHASE_STARTUP] += startup_s;
    ls_train_ledger_spend(train, startup_s);
    train->last_ns = ls_clock_ns();
    return LS_OK;
}

/* A counter that fails ends no run: from there on nobody knows the whole. */
static ls_status read_energy(ls_train *train) {
    ls_comm *comm = train->session.comm;
    double found[2] = {0.0, 0.0}; /* joules; ranks that could not read theirs */
    if (train->energy && ls_energy_joules(train->energy, &found[0]) != LS_OK) {
        ls_log_warn("%s; energy is not measured any more", ls_error_last()->message);
        ls_error_clear();
        found[1] = 1.0;
    }
    LS_TRY(comm->ops->all_reduce(comm, found, 2, LS_F64, LS_SUM));
    train->energy_measured = found[1] == 0.0;
    train->counters.measured_joules =
        train->energy_measured ? train->energy_before_j + found[0] : NAN;
    return LS_OK;
}

ls_status ls_train_ledger_record(ls_train *train, bool due, ls_step_record *record) {
    if (due && train->energy_measured) {
        LS_TRY(read_energy(train));
    }
    const ls_counters *c = &train->counters;
    record->usd = c->usd;
    record->measured_joules = c->measured_joules;
    record->goodput = ls_counters_goodput(c);
    record->devices = train->session.comm->size;
    record->usd_per_mtoken = c->usd / ((double)c->tokens * 1e-6);
    record->left_usd = record->left_seconds / 3600.0 * record->devices * train->usd_per_device_hour;
    return LS_OK;
}

/* null before the end of a start, when peaks are known. */
static json_t *memory_json(const ls_memory_record *m) {
    return m->peak_bytes == 0
               ? json_null()
               : json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "program_bytes",
                           (json_int_t)m->program_bytes, "planned_bytes",
                           (json_int_t)m->planned_bytes, "uneven_bytes",
                           (json_int_t)m->uneven_bytes, "peak_bytes", (json_int_t)m->peak_bytes,
                           "others_bytes", (json_int_t)m->others_bytes, "rank", (json_int_t)m->rank,
                           "device_bytes", (json_int_t)m->device_bytes, "device_planned_bytes",
                           (json_int_t)m->device_planned_bytes, "device_nccl_bytes",
                           (json_int_t)m->device_nccl_bytes, "device_foreign_bytes",
                           (json_int_t)m->device_foreign_bytes);
}

static ls_status write_ledger(const ls_train *train) {
    const ls_config_cost *cost = &train->config.cost;
    char path[1024];
    LS_TRY(ls_path_join(path, sizeof path, train->run_dir, "ledger.json"));
    json_t *energy =
        json_pack("{s:o, s:o, s:o, s:f}", "scope",
                  train->energy ? json_string(ls_energy_scope(train->energy)) : json_null(),
                  "watts_per_device",
                  cost->watts_per_device > 0.0 ? json_real(cost->watts_per_device) : json_null(),
                  "carbon_g_per_kwh",
                  cost->carbon_g_per_kwh > 0.0 ? json_real(cost->carbon_g_per_kwh) : json_null(),
                  "pue", cost->pue);
    json_t *ledger =
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "schema",
                  "lockstep-ledger", "version", 1, "run", train->config.run.name, "account",
                  train->config.run.account, "project", train->config.run.project, "planned_steps",
                  (json_int_t)train->total_steps, "training_loss", ls_json_real(train->train_loss),
                  "validation_loss", ls_json_real(train->val_loss), "price", price_json(train),
                  "energy", energy, "counters", ls_counters_json(&train->counters), "memory",
                  memory_json(&train->memory), "prediction", ls_train_predict_json());
    char *text = ledger ? json_dumps(ledger, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(ledger);
    ls_status status = text ? ls_file_replace(path, text, strlen(text))
                            : LS_FAIL(LS_E_MEMORY, "no memory for '%s'", path);
    free(text);
    return status;
}

void ls_train_ledger_write(const ls_train *train) {
    if (train->session.comm->rank == 0 && write_ledger(train) != LS_OK) {
        ls_log_warn("the ledger was not written: %s", ls_error_last()->message);
    }
}

void ls_train_ledger_end(ls_train *train) {
    ls_energy_close(train->energy);
    train->energy = NULL;
}
