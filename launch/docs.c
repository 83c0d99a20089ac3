#include "launch/docs.h"
#include "collectives/comm.h"
#include "collectives/nccl/comm_nccl.h"
#include "runtime/base/cpu.h"
#include "runtime/base/text.h"
#include "runtime/config/config.h"

#include <hdf5.h>
#include <jansson.h>
#include <oneapi/dnnl/dnnl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>
#include <zstd.h>

void ls_docs_help(FILE *out) {
    fprintf(out, "lockstep " LS_VERSION ": distributed training of transformer language models\n\n"
                 "usage: lockstep VERB ...\n\n");
    for (const ls_verb *const *v = ls_verbs; *v; v++) {
        fprintf(out, "  %-7s %s\n", (*v)->name, (*v)->summary);
    }
    fprintf(out,
            "\n'lockstep VERB --help' explains every option. 'lockstep --version' shows the\n"
            "libraries and what the processor can do. Exit status: 0 done, 1 the answer is no,\n"
            "2 usage or configuration, 3 a fault of the machine, 75 stopped on request.\n");
}

void ls_docs_verb_help(FILE *out, const ls_verb *verb) {
    fprintf(out, "usage: lockstep %s %s\n\n%s\n", verb->name, verb->synopsis, verb->text);
    if (verb->options && verb->options->name) {
        fprintf(out, "\noptions:\n");
    }
    for (const ls_option *o = verb->options; o && o->name; o++) {
        char left[64], letter[8] = "";
        if (o->letter) {
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        }
        snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->arg ? " " : "",
                 o->arg ? o->arg : "");
        const int column = fprintf(out, "  %-24s ", left);
        const char *fallback = o->fallback;
        char *help = ls_text_format(fallback ? "%s [default: %s]" : "%s", o->help, fallback);
        ls_text_wrap(out, column, 27, 100, help ? help : o->help);
        free(help);
    }
    if (verb == &ls_verb_train) {
        fprintf(out,
                "\nconfiguration keys (in the file as section: {key: value}, or on the command "
                "line\nas section.key=value):\n\n");
        ls_config_print_help(out);
    }
}

void ls_docs_version(FILE *out) {
    char cpu[160];
    unsigned major, minor, release;
    int y0, y1, y2;
    const dnnl_version_t *dnnl = dnnl_version();
    H5get_libversion(&major, &minor, &release);
    yaml_get_version(&y0, &y1, &y2);
    fprintf(out, "lockstep " LS_VERSION "\n");
    fprintf(out, "processor  %s\n", ls_cpu_describe(cpu, sizeof cpu));
    fprintf(out, "compiler   %s\n", __VERSION__);
    fprintf(out, "MPI        %s\n", ls_comm_mpi_version());
    fprintf(out, "oneDNN     %d.%d.%d\n", dnnl->major, dnnl->minor, dnnl->patch);
    fprintf(out, "HDF5       %u.%u.%u\n", major, minor, release);
    fprintf(out, "zstd       %s\n", ZSTD_versionString());
    fprintf(out, "jansson    %s\nlibyaml    %d.%d.%d\n", jansson_version_str(), y0, y1, y2);
    fprintf(out, "OpenSSL    %s\n", OpenSSL_version(OPENSSL_VERSION_STRING));
    char nccl[64];
    int gpus;
    const char *how;
    const bool found = ls_device_has_cuda(&gpus, &how);
    fprintf(out, "CUDA       %.0d%s%s%s\n", found ? gpus : 0, found ? " " : "", how,
            gpus > 1 ? "s" : "");
    fprintf(out, "           %s\n", ls_comm_nccl_version(nccl, sizeof nccl));
}

/* roff wants backslashes and leading dots out of the way. */
static void roff(FILE *out, const char *text) {
    bool line_start = true;
    for (const char *c = text; *c; c++) {
        if (line_start && (*c == '.' || *c == '\'')) {
            fputs("\\&", out);
        }
        if (*c == '\\') {
            fputs("\\e", out);
        } else if (*c == '-') {
            fputs("\\-", out);
        } else {
            fputc(*c, out);
        }
        line_start = *c == '\n';
    }
    fputc('\n', out);
}

static void man_verb(FILE *out, const ls_verb *verb) {
    fprintf(out, ".SS lockstep %s\n.B lockstep %s\n", verb->name, verb->name);
    roff(out, verb->synopsis);
    fputs(".PP\n", out);
    roff(out, verb->text);
    for (const ls_option *o = verb->options; o && o->name; o++) {
        fputs(".TP\n.B ", out);
        if (o->letter) {
            fprintf(out, "\\-%c, ", o->letter);
        }
        fprintf(out, "\\-\\-%s%s%s\n", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        roff(out, o->help);
        if (o->fallback) {
            fprintf(out, "Default: %s.\n", o->fallback);
        }
    }
}

void ls_docs_man(FILE *out) {
    fprintf(out, ".TH LOCKSTEP 1 \"\" \"lockstep " LS_VERSION "\" \"User Commands\"\n"
                 ".SH NAME\nlockstep \\- distributed training of transformer language models\n"
                 ".SH SYNOPSIS\n.B lockstep\n.I VERB\n[options] ...\n.SH VERBS\n");
    for (const ls_verb *const *v = ls_verbs; *v; v++) {
        man_verb(out, *v);
    }
    fputs(".SH CONFIGURATION\nKeys of the YAML file given to\n.B lockstep train;\n"
          "each can be given as section.key=value on the command line too.\n",
          out);
    size_t count;
    const ls_field *fields = ls_config_fields(&count);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, ".TP\n.B %s.%s\n", fields[i].section, fields[i].key);
        roff(out, fields[i].help);
        if (*fields[i].default_text) {
            fprintf(out, "Default: %s%s%s.\n", fields[i].default_text, *fields[i].unit ? " " : "",
                    fields[i].unit);
        }
    }
    fputs(".SH EXIT STATUS\n.TP\n.B 0\ndone\n.TP\n.B 1\nthe answer is no: corrupt, different, "
          "diverged\n.TP\n.B 2\nusage, configuration or input\n.TP\n.B 3\na fault of the machine: "
          "I/O, memory, a lost rank\n.TP\n.B 75\nstopped on request with a checkpoint written\n"
          ".SH ENVIRONMENT\n.TP\n.B LOCKSTEP_ISA\nUse a lower instruction set level than the "
          "processor has (generic, avx2, ...).\n.TP\n.B LOCKSTEP_GEMM\nMatrix products on the CPU: "
          "packed (lockstep's own) or library (oneDNN's); without it, what is fastest.\n.TP\n.B "
          "LOCKSTEP_START_LIMIT_S\nSeconds that ranks wait for each other in each part of a start "
          "and of the end (300; 0: no limit).\n.TP\n.B LOCKSTEP_CLUSTERS\nThe folder with cluster "
          "profiles, in "
          "place "
          "of share/lockstep/clusters above the program.\n.TP\n.B LOCKSTEP_CUDNN\nThe cuDNN "
          "library to open, in place of that "
          "which the loader finds.\n.TP\n.B "
          "LOCKSTEP_DEBUG\nShow file and line of "
          "errors.\n.TP\n.B OMP_NUM_THREADS\nThreads of each rank when run.threads is 0.\n"
          ".TP\n.B NO_COLOR\nNo colour on the terminal.\n.TP\n.B HDF5_PLUGIN_PATH\nWhere HDF5 "
          "tools find the zstd filter that lockstep installs.\n",
          out);
}

void ls_docs_completion(FILE *out) {
    fputs("# bash completion of lockstep; source it, or install it as\n"
          "# share/bash-completion/completions/lockstep\n"
          "_lockstep() {\n    local cur=${COMP_WORDS[COMP_CWORD]} words=\n"
          "    if [ \"$COMP_CWORD\" = 1 ]; then\n        words=\"",
          out);
    for (const ls_verb *const *v = ls_verbs; *v; v++) {
        fprintf(out, "%s ", (*v)->name);
    }
    fputs("--help --version\"\n    else\n        case ${COMP_WORDS[1]} in\n", out);
    for (const ls_verb *const *v = ls_verbs; *v; v++) {
        fprintf(out, "        %s) words=\"--help", (*v)->name);
        for (const ls_option *o = (*v)->options; o && o->name; o++) {
            fprintf(out, " --%s", o->name);
        }
        size_t count = 0;
        const ls_field *fields = *v == &ls_verb_train ? ls_config_fields(&count) : NULL;
        for (size_t i = 0; i < count; i++) {
            fprintf(out, " %s.%s=", fields[i].section, fields[i].key);
        }
        fputs("\" ;;\n", out);
    }
    fputs("        esac\n    fi\n"
          "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\") $(compgen -f -- \"$cur\"))\n"
          "    case ${COMPREPLY[0]} in *=) compopt -o nospace ;; esac\n}\n"
          "complete -o filenames -F _lockstep lockstep\n",
          out);
}
