#include "launch/chart.h"
#include "launch/cmd.h"
#include "launch/json_text.h"
#include "launch/receipt.h"
#include "launch/run_records.h"
#include "launch/session.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OPT_BY, OPT_LINES, OPT_CSV, OPT_JSON, OPT_PLOT, OPT_HTML, OPT_COUNT };

static const ls_option options[] = {
    [OPT_BY] = {"by", 'b', "KEY", NULL, "sum the runs by account or project"},
    [OPT_LINES] = {"lines", 'l', NULL, NULL,
                   "a line for each start: time, account, tokens, device-hours, dollars"},
    [OPT_CSV] = {"csv", 0, NULL, NULL, "print comma-separated values"},
    [OPT_JSON] = {"json", 0, NULL, NULL, "print JSON"},
    [OPT_PLOT] = {"plot", 0, "FILE.svg", NULL, "draw the losses and dollars of the runs"},
    [OPT_HTML] = {"html", 0, "FILE.html", NULL, "write a report of one file, without scripts"},
    {NULL, 0, NULL, NULL, NULL}};

/* The runs, and what was asked about them. */
typedef struct cost {
    ls_run_records *runs;
    int count;
    const char *values[OPT_COUNT];
} cost;

/* A line of a statement: a start, a run, or the runs of an account or project. */
typedef struct line {
    char time[32], account[64], project[64], run[64], job[64], price_kind[32];
    int64_t tokens;
    double device_hours, kwh, usd, goodput; /* NAN: unknown */
} line;

/* "": unknown, or so far from now that it is none. */
static void time_text(char *text, size_t size, double unix_s) {
    text[0] = '\0';
    if (fabs(unix_s) < 1e11) {
        const time_t seconds = (time_t)unix_s;
        struct tm utc;
        gmtime_r(&seconds, &utc);
        strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &utc);
    }
}

static double kwh(const ls_counters *c) {
    double joules = isfinite(c->measured_joules) ? c->measured_joules : c->modelled_joules;
    return joules / 3.6e6;
}

static line line_of_run(const ls_run_records *r) {
    line l = {.tokens = r->counters.tokens,
              .device_hours = r->counters.device_seconds / 3600.0,
              .kwh = kwh(&r->counters),
              .usd = r->counters.usd,
              .goodput = ls_counters_goodput(&r->counters)};
    time_text(l.time, sizeof l.time, r->start_count ? r->starts[0].begin_s : r->counters.as_of_s);
    memcpy(l.account, r->account, sizeof l.account);
    memcpy(l.project, r->project, sizeof l.project);
    memcpy(l.run, r->name, sizeof l.run);
    memcpy(l.price_kind, r->price_kind, sizeof l.price_kind);
    return l;
}

static line line_of_start(const ls_run_records *r, const ls_run_start *s) {
    line l = {.tokens = s->tokens,
              .device_hours = (s->end_s - s->begin_s) / 3600.0 * (double)s->ranks,
              .kwh = NAN,
              .usd = s->usd,
              .goodput = NAN};
    time_text(l.time, sizeof l.time, s->begin_s);
    memcpy(l.account, s->account, sizeof l.account);
    memcpy(l.project, s->project, sizeof l.project);
    memcpy(l.run, r->name, sizeof l.run);
    memcpy(l.job, s->job, sizeof l.job);
    memcpy(l.price_kind, r->price_kind, sizeof l.price_kind);
    return l;
}

static double add_known(double a, double b) {
    return isnan(a) ? b : isnan(b) ? a : a + b;
}

/* Adds a run to the line of its account or project. */
static void add_to_group(line *lines, int *count, const ls_run_records *r, bool by_account) {
    line one = line_of_run(r);
    const char *key = by_account ? one.account : one.project;
    for (int i = 0; i < *count; i++) {
        if (strcmp(by_account ? lines[i].account : lines[i].project, key) == 0) {
            lines[i].tokens += one.tokens;
            lines[i].device_hours += one.device_hours;
            lines[i].kwh = add_known(lines[i].kwh, one.kwh);
            lines[i].usd = add_known(lines[i].usd, one.usd);
            if (one.time[0] && (!lines[i].time[0] || strcmp(one.time, lines[i].time) < 0)) {
                memcpy(lines[i].time, one.time, sizeof one.time);
            }
            return;
        }
    }
    one.run[0] = one.price_kind[0] = '\0';
    one.goodput = NAN;
    (by_account ? one.project : one.account)[0] = '\0';
    lines[(*count)++] = one;
}

static ls_status make_lines(const cost *c, line **lines, int *count) {
    int most = c->count;
    for (int i = 0; i < c->count; i++) {
        most += c->runs[i].start_count;
    }
    LS_TRY(ls_calloc((size_t)most, sizeof **lines, lines));
    *count = 0;
    for (int i = 0; i < c->count; i++) {
        const ls_run_records *r = &c->runs[i];
        if (c->values[OPT_LINES]) {
            for (int s = 0; s < r->start_count; s++) {
                (*lines)[(*count)++] = line_of_start(r, &r->starts[s]);
            }
        } else if (c->values[OPT_BY]) {
            add_to_group(*lines, count, r, strcmp(c->values[OPT_BY], "account") == 0);
        } else {
            (*lines)[(*count)++] = line_of_run(r);
        }
    }
    return LS_OK;
}

static json_t *line_json(const line *l) {
    return json_pack(
        "{s:s, s:s, s:s, s:o, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "time", l->time, "account",
        l->account, "project", l->project, "run", ls_json_text(l->run), "job", l->job, "tokens",
        (json_int_t)l->tokens, "device_hours", ls_json_real(l->device_hours), "kwh",
        ls_json_real(l->kwh), "usd", ls_json_real(l->usd), "usd_per_mtoken",
        ls_json_real(l->usd / ((double)l->tokens * 1e-6)), "goodput", ls_json_real(l->goodput));
}

static ls_status print_json(const cost *c, const line *lines, int count) {
    json_t *statement = json_array(), *runs = json_array();
    for (int i = 0; i < count; i++) {
        json_array_append_new(statement, line_json(&lines[i]));
    }
    for (int i = 0; i < c->count; i++) {
        const ls_run_records *r = &c->runs[i];
        json_array_append_new(
            runs, json_pack("{s:o, s:i, s:s, s:o, s:O?}", "run", ls_json_text(r->name), "starts",
                            r->start_count, "outcome", r->outcome, "counters",
                            ls_counters_json(&r->counters), "prediction", r->prediction));
    }
    json_t *all = json_pack("{s:s, s:i, s:o, s:o}", "schema", "lockstep-cost", "version", 1,
                            "lines", statement, "runs", runs);
    return ls_json_print(all, 12);
}

/* RFC 4180: quoted, quotes doubled; unknown numbers are empty. */
static void csv_text(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') {
            putchar('"');
        }
        putchar(*text);
    }
    putchar('"');
}

static void csv_real(double x) {
    putchar(',');
    if (isfinite(x)) {
        printf("%.9g", x);
    }
}

static void print_csv(const line *lines, int count) {
    puts("time,account,project,run,job,tokens,device_hours,kwh,usd,usd_per_mtoken,price_kind");
    for (int i = 0; i < count; i++) {
        const line *l = &lines[i];
        const char *const texts[] = {l->time, l->account, l->project, l->run, l->job};
        for (size_t t = 0; t < 5; t++) {
            csv_text(texts[t]);
            putchar(',');
        }
        printf("%lld", (long long)l->tokens);
        csv_real(l->device_hours);
        csv_real(l->kwh);
        csv_real(l->usd);
        csv_real(l->usd / ((double)l->tokens * 1e-6));
        putchar(',');
        csv_text(l->price_kind);
        putchar('\n');
    }
}

static void print_table(const line *lines, int count) {
    printf("%-20s %-12s %-12s %-16s %12s %12s %10s %12s %12s\n", "time", "account", "project",
           "run", "tokens", "device-h", "kWh", "cost", "per Mtoken");
    for (int i = 0; i < count; i++) {
        const line *l = &lines[i];
        char tokens[32], hours[32], energy[32], usd[32], each[32];
        printf("%-20s %-12s %-12s %-16s %12s %12s %10s %12s %12s\n", l->time[0] ? l->time : "-",
               l->account[0] ? l->account : "-", l->project[0] ? l->project : "-",
               l->run[0] ? l->run : "-", ls_text_count(tokens, sizeof tokens, (double)l->tokens),
               ls_receipt_real(hours, sizeof hours, "%.4g", l->device_hours),
               ls_receipt_real(energy, sizeof energy, "%.4g", l->kwh),
               ls_text_usd(usd, sizeof usd, l->usd),
               ls_text_usd(each, sizeof each, l->usd / ((double)l->tokens * 1e-6)));
    }
}

static void receipt_money(FILE *out, bool html, const ls_run_records *r) {
    char text[256];
    if (isfinite(r->usd_per_device_hour)) {
        snprintf(text, sizeof text, "$%.4g a device-hour (%s%s%s)", r->usd_per_device_hour,
                 r->price_kind, r->price_date[0] ? ", " : "", r->price_date);
        ls_receipt_row(out, html, "price", text);
    }
    ls_receipt_money(out, html, &r->counters);
}

/* A step as the planner saw it when the run began, beside what its first steps took. */
static void receipt_prediction(FILE *out, bool html, const json_t *p) {
    const double predicted = json_number_value(json_object_get(p, "predicted_step_seconds"));
    const double measured = json_number_value(json_object_get(p, "measured_step_seconds"));
    const char *blame = json_string_value(json_object_get(p, "differs_most_in"));
    char text[256], by_plan[32], by_clock[32];
    snprintf(text, sizeof text, "%s predicted, %s measured (%+.0f %%), most in %s",
             ls_text_duration(by_plan, sizeof by_plan, predicted),
             ls_text_duration(by_clock, sizeof by_clock, measured),
             100.0 * (predicted / measured - 1.0), blame ? blame : "?");
    ls_receipt_row(out, html, "a step", text);
}

/* The receipt of one run. html: rows of a table. */
static void receipt(FILE *out, bool html, const ls_run_records *r) {
    const ls_counters *c = &r->counters;
    char text[sizeof r->outcome + 32], number[64];
    snprintf(text, sizeof text, "%lld of %lld, %s tokens", (long long)c->steps,
             (long long)r->planned_steps, ls_text_count(number, sizeof number, (double)c->tokens));
    ls_receipt_row(out, html, "steps", text);
    const int digits = (int)strspn(r->outcome, "0123456789");
    snprintf(text, sizeof text, "exit status %.*s,%s", digits, r->outcome, r->outcome + digits);
    ls_receipt_row(out, html, "how it ended", r->outcome[0] ? text : "no word of the end");
    snprintf(text, sizeof text, "%d, %lld steps lost", r->start_count, (long long)c->lost_steps);
    ls_receipt_row(out, html, "starts", text);
    ls_receipt_time(out, html, c);
    receipt_money(out, html, r);
    if (r->prediction) {
        receipt_prediction(out, html, r->prediction);
    }
    ls_receipt_phases(out, html, c);
}

/* One chart of all runs: y(step) of each. */
static ls_status draw(FILE *out, const cost *c, const char *title, const char *y_label,
                      double (*y_of)(const ls_run_step *)) {
    ls_chart_series *series;
    LS_TRY(ls_calloc((size_t)c->count, sizeof *series, &series));
    ls_status status = LS_OK;
    for (int i = 0; i < c->count && status == LS_OK; i++) {
        const ls_run_records *r = &c->runs[i];
        double *xy;
        status = ls_calloc((size_t)(2 * r->step_count + 1), sizeof *xy, &xy);
        if (status == LS_OK) {
            series[i] = (ls_chart_series){r->name, r->step_count, xy, xy + r->step_count};
            for (int64_t s = 0; s < r->step_count; s++) {
                xy[s] = (double)r->steps[s].step;
                xy[r->step_count + s] = y_of(&r->steps[s]);
            }
        }
    }
    if (status == LS_OK) {
        const ls_chart chart = {title, "optimizer step", y_label, series, c->count};
        ls_chart_svg(out, &chart);
    }
    for (int i = 0; i < c->count; i++) {
        free((void *)series[i].x);
    }
    free(series);
    return status;
}

static double loss_of(const ls_run_step *s) {
    return s->loss;
}
static double rate_of(const ls_run_step *s) {
    return s->tokens_per_second;
}
static double usd_of(const ls_run_step *s) {
    return s->usd;
}

static ls_status write_plot(FILE *out, const cost *c) {
    fputs("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"600\">\n", out);
    LS_TRY(draw(out, c, "training loss", "nats per token", loss_of));
    fputs("<g transform=\"translate(0,300)\">\n", out);
    LS_TRY(draw(out, c, "cost", "$", usd_of));
    fputs("</g>\n</svg>\n", out);
    return LS_OK;
}

static ls_status write_html(FILE *out, const cost *c) {
    fputs(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>lockstep: cost of "
        "runs</title>\n<style>body{font-family:sans-serif;max-width:60em;margin:2em auto;color:"
        "#1f2328}table{border-collapse:collapse}th,td{text-align:left;padding:.15em 1em .15em 0;"
        "font-weight:normal;border-bottom:1px solid #d0d7de}th{color:#57606a}</style></head>"
        "<body>\n<h1>What the runs cost</h1>\n",
        out);
    LS_TRY(draw(out, c, "training loss", "nats per token", loss_of));
    LS_TRY(draw(out, c, "throughput", "tokens per second", rate_of));
    LS_TRY(draw(out, c, "cost", "$", usd_of));
    for (int i = 0; i < c->count; i++) {
        fputs("<h2>", out);
        ls_chart_text(out, c->runs[i].name);
        fputs("</h2>\n<table>\n", out);
        receipt(out, true, &c->runs[i]);
        fputs("</table>\n", out);
    }
    fputs("</body></html>\n", out);
    return LS_OK;
}

static ls_status write_file(const cost *c, const char *path,
                            ls_status (*write)(FILE *, const cost *)) {
    char *text = NULL;
    size_t bytes = 0;
    LS_TRY(ls_file_replace_check(path));
    FILE *f = open_memstream(&text, &bytes);
    if (!f) {
        return LS_FAIL(LS_E_MEMORY, "no memory for '%s'", path);
    }
    ls_status status = write(f, c);
    if (fclose(f) != 0 && status == LS_OK) {
        status = LS_FAIL(LS_E_MEMORY, "no memory for '%s'", path);
    }
    if (status == LS_OK) {
        status = ls_file_replace(path, text, bytes);
    }
    free(text);
    LS_TRY(status);
    ls_log_info("wrote %s", path);
    return LS_OK;
}

static ls_status print(const cost *c) {
    if (c->values[OPT_PLOT]) {
        LS_TRY(write_file(c, c->values[OPT_PLOT], write_plot));
    }
    if (c->values[OPT_HTML]) {
        LS_TRY(write_file(c, c->values[OPT_HTML], write_html));
    }
    bool table = c->values[OPT_CSV] || c->values[OPT_JSON] || c->values[OPT_LINES] ||
                 c->values[OPT_BY] || c->count > 1;
    if (!table) {
        printf("%s\n", c->runs[0].name);
        receipt(stdout, false, &c->runs[0]);
        return LS_OK;
    }
    line *lines;
    int count;
    LS_TRY(make_lines(c, &lines, &count));
    ls_status status = LS_OK;
    if (c->values[OPT_JSON]) {
        status = print_json(c, lines, count);
    } else if (c->values[OPT_CSV]) {
        print_csv(lines, count);
    } else {
        print_table(lines, count);
    }
    free(lines);
    return status;
}

/* Of several directories, as a pattern gives them, those without a ledger are left out: data, and
 * runs that have not saved yet. */
static ls_status read_all(cost *c, char **dirs, int count) {
    for (int i = 0; i < count; i++) {
        char path[1024];
        LS_TRY(ls_path_join(path, sizeof path, dirs[i], "ledger.json"));
        const bool last = i == count - 1 && c->count == 0; /* which says what is wrong */
        if (!last && !ls_path_exists(path)) {
            ls_log_warn("'%s' is left out: it has no ledger.json", dirs[i]);
            continue;
        }
        LS_TRY(ls_run_records_read(dirs[i], &c->runs[c->count]));
        c->count++;
    }
    return LS_OK;
}

static ls_status run_cost(int argc, char **argv) {
    cost c = {0};
    int first;
    LS_TRY(ls_options_parse(&ls_verb_cost, argc, argv, c.values, &first));
    const char *by = c.values[OPT_BY];
    if (by && strcmp(by, "account") != 0 && strcmp(by, "project") != 0) {
        return LS_FAIL(LS_E_USAGE, "--by is '%s'; account or project is needed", by);
    }
    if (by && c.values[OPT_LINES]) {
        return LS_FAIL(LS_E_USAGE, "--by sums the runs and --lines shows each start: give one");
    }
    if (c.values[OPT_CSV] && c.values[OPT_JSON]) {
        return LS_FAIL(LS_E_USAGE, "--csv and --json exclude each other");
    }
    if (first == argc) {
        return LS_FAIL(LS_E_USAGE, "no run directory was given; usage: lockstep cost %s",
                       ls_verb_cost.synopsis);
    }
    LS_TRY(ls_calloc((size_t)(argc - first), sizeof *c.runs, &c.runs));
    ls_status status = read_all(&c, argv + first, argc - first);
    if (status == LS_OK) {
        status = print(&c);
    }
    for (int i = 0; i < c.count; i++) {
        ls_run_records_free(&c.runs[i]);
    }
    free(c.runs);
    return status;
}

const ls_verb ls_verb_cost = {
    .name = "cost",
    .synopsis = "RUN_DIR...",
    .summary = "the receipt of one run, or the statement of many",
    .text =
        "One run directory gives its receipt: tokens, device-hours, energy, dollars, goodput, and\n"
        "where the time went, over all its starts. Several give a line each, --by account or\n"
        "project their sums, or --lines a line for each start, as a usage log for charge-back has\n"
        "them. What was not measured or not given is unknown; nothing is assumed.\n"
        "\n"
        "  lockstep cost runs/first\n"
        "  lockstep cost runs/* --by account --csv\n"
        "  lockstep cost runs/first --html report.html",
    .options = options,
    .run = run_cost,
};
