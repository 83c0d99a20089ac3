/* lockstep prep: text to token shards. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "launch/cmd.h"
#include "launch/json_text.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/data/packer.h"
#include "runtime/data/prep.h"

enum {
    OPT_OUTPUT,
    OPT_VAL,
    OPT_FIELD,
    OPT_PROMPT,
    OPT_CHAT,
    OPT_TOKENIZER,
    OPT_BEGIN,
    OPT_VOCAB,
    OPT_SEPARATOR,
    OPT_LOSS_MASK,
    OPT_INCLUDE,
    OPT_PACK,
    OPT_SHARD_TOKENS,
    OPT_SKIP_BAD,
    OPT_FORCE,
    OPT_JSON,
    OPT_COUNT
};

static const ls_option options[] = {
    [OPT_OUTPUT] = {"output", 'o', "DIR", NULL, "data directory to make"},
    [OPT_VAL] = {"val", 0, "FRACTION", "0.01",
                 "part of the documents kept for validation, at least one; 0: none"},
    [OPT_FIELD] =
        {"field", 0, "NAME", "text",
         "field of JSONL lines that holds the text; with --chat the messages, and its default "
         "is messages"},
    [OPT_PROMPT] = {"prompt", 0, "NAME", NULL,
                    "field of JSONL lines with what precedes the text: the model reads it, and is "
                    "not trained to write it (its tokens are no targets)"},
    [OPT_CHAT] = {"chat", 0, "FORMAT", NULL,
                  "with --tokenizer: documents are chats, arrays of {\"role\", \"content\"} with "
                  "the roles system, user and assistant, written as chatml (Qwen) or llama3 with "
                  "the tokenizer's own tokens; what the assistant says, and the token that ends "
                  "its turn, are the targets"},
    [OPT_TOKENIZER] = {"tokenizer", 0, "FILE", NULL,
                       "tokenizer.json of a Hugging Face model (or the model's folder), byte-pair "
                       "encoding, whose tokens text becomes; without it tokens are bytes"},
    [OPT_BEGIN] = {"begin", 0, "TOKEN", NULL,
                   "with --tokenizer: precedes each document that does not begin with it; none: "
                   "nothing does; default: its <|begin_of_text|>, <s> or <bos>, where it has one"},
    [OPT_VOCAB] = {"vocab", 0, "N", NULL,
                   "documents are tokens of another tokenizer, all below N: the field's array, or "
                   "packed in *.bin files"},
    [OPT_SEPARATOR] =
        {"separator", 0, "TOKEN", NULL,
         "follows each document, unless it is its last token; with --vocab, and with "
         "--tokenizer where its <|endoftext|>, <|end_of_text|>, </s> or <eos> is not wanted"},
    [OPT_LOSS_MASK] = {"loss-mask", 0, "NAME", NULL,
                       "with --vocab: field of JSONL lines with an array that has 1 for each token "
                       "that is a target, and 0 for the others"},
    [OPT_INCLUDE] = {"include", 0, "PATTERNS", NULL,
                     "names to read inside folders, such as '*.c,*.h'; otherwise all text files"},
    [OPT_PACK] = {"pack", 0, "TOKENS", NULL,
                  "arrange documents into samples of so many tokens, data.sequence of the runs, "
                  "each whole where it is not longer: of many that wait the longest that fit; what "
                  "they leave of a sample is filled with separators that are no targets"},
    [OPT_SHARD_TOKENS] =
        {"shard-tokens", 0, "N", "134217728",
         "most tokens of a shard (2 bytes each, 4 above a vocabulary of 65536), at least "
         "4096"},
    [OPT_SKIP_BAD] = {"skip-bad", 0, NULL, NULL,
                      "leave out JSONL lines that hold no document instead of stopping at the "
                      "first; they are counted, and the first ones named"},
    [OPT_FORCE] = {"force", 0, NULL, NULL, "replace an existing data directory"},
    [OPT_JSON] = {"json", 0, NULL, NULL, "print the result as JSON"},
    [OPT_COUNT] = {0},
};

static void print_split(const ls_prep_options *o, const char *name, int64_t tokens, int shards,
                        int64_t targets, int64_t padding) {
    char count[32];
    printf("%-6s %s tokens in %d shard%s", name, ls_text_count(count, sizeof count, (double)tokens),
           shards, shards == 1 ? "" : "s");
    if (ls_prep_is_masked(o) && tokens > 0) {
        printf(", %.1f %% of them targets", 100.0 * (double)targets / (double)tokens);
    }
    if (o->pack > 0 && tokens > 0) {
        printf(", %.2f %% padding", 100.0 * (double)padding / (double)tokens);
    }
    printf("\n");
}

static void print_text(const ls_prep_options *o, const ls_prep_result *r) {
    char bytes[32], time[32], rate[32];
    printf("%" PRId64 " document%s", r->documents, r->documents == 1 ? "" : "s");
    if (o->vocab == 0) {
        printf(" (%s%s)", ls_text_bytes(bytes, sizeof bytes, (double)r->bytes),
               ls_prep_is_masked(o) ? " of targets" : "");
    }
    printf(" from %" PRId64 " file%s", r->files, r->files == 1 ? "" : "s");
    if (r->skipped_files) {
        printf(", %" PRId64 " skipped (binary)", r->skipped_files);
    }
    if (r->bad_lines) {
        printf(", %" PRId64 " line%s left out (no documents)", r->bad_lines,
               r->bad_lines == 1 ? "" : "s");
    }
    if (r->duplicate_files) {
        printf(", %" PRId64 " left out (reached twice)", r->duplicate_files);
    }
    if (r->prepared_files) {
        printf(", %" PRId64 " left out (made by prep)", r->prepared_files);
    }
    if (r->cut) {
        printf(", %" PRId64 " cut (longer than a sample)", r->cut);
    }
    printf("\n");
    print_split(o, "train:", r->train_tokens, r->train_shards, r->train_targets, r->train_padding);
    print_split(o, "val:", r->val_tokens, r->val_shards, r->val_targets, r->val_padding);
    printf("%s", ls_text_duration(time, sizeof time, r->seconds));
    if (o->vocab == 0 && !ls_prep_is_masked(o)) {
        printf(", %s/s", ls_text_bytes(rate, sizeof rate, (double)r->bytes / r->seconds));
    }
    const char *quote = strpbrk(o->out_dir, " \t;&()$*?") ? "'" : "";
    printf("\n\nNext: lockstep train CONFIG.yaml data.dir=%s%s%s", quote, o->out_dir, quote);
    if (o->pack > 0) {
        printf(" data.sequence=%lld data.document_mask=true", (long long)o->pack);
    }
    printf("\n");
}

static ls_status print_json(const ls_prep_options *o, const ls_prep_result *r) {
    json_t *root =
        json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:I, s:I, s:i}, "
                  "s:{s:I, s:I, s:I, s:i}, s:f}",
                  "dir", ls_json_text(o->out_dir), "files", (json_int_t)r->files, "skipped_files",
                  (json_int_t)r->skipped_files, "duplicate_files", (json_int_t)r->duplicate_files,
                  "prepared_files", (json_int_t)r->prepared_files, "bad_lines",
                  (json_int_t)r->bad_lines, "documents", (json_int_t)r->documents, "cut_documents",
                  (json_int_t)r->cut, "bytes", (json_int_t)r->bytes, "train", "tokens",
                  (json_int_t)r->train_tokens, "targets", (json_int_t)r->train_targets, "padding",
                  (json_int_t)r->train_padding, "shards", r->train_shards, "val", "tokens",
                  (json_int_t)r->val_tokens, "targets", (json_int_t)r->val_targets, "padding",
                  (json_int_t)r->val_padding, "shards", r->val_shards, "seconds", r->seconds);
    return ls_json_print(root, 6);
}

/* Few documents, or a few large ones among many, cannot be parted as was asked. */
static void check_share(const ls_prep_options *o, const ls_prep_result *r) {
    const double wanted = o->val_fraction;
    const double share = (double)r->val_tokens / (double)(r->train_tokens + r->val_tokens);
    const double most_off = fmax(0.5 * wanted, 0.02);
    if (wanted <= 0 || (fabs(share - wanted) <= most_off && r->val_tokens > 0)) {
        return;
    }
    char why[160] = "the only document is small; give more text";
    if (r->documents > 1) {
        snprintf(why, sizeof why,
                 "each of the %" PRId64 " documents goes whole to the side that its hash says; "
                 "give more and smaller ones (each line of a *.jsonl file is one)",
                 r->documents);
    }
    ls_log_warn("%.3g %% of the tokens are for validation, asked for are %.3g %%: %s", 100 * share,
                100 * wanted, why);
}

static ls_status take_vocabulary(const char *const values[OPT_COUNT], ls_prep_options *o) {
    long long vocab = INT32_MAX, separator = -1, begin = -1;
    const char *first = values[OPT_BEGIN];
    o->tokenizer = values[OPT_TOKENIZER];
    if (o->tokenizer && values[OPT_VOCAB]) {
        return LS_FAIL(LS_E_USAGE, "--tokenizer makes tokens of text, and --vocab says that "
                                   "documents are tokens already; give one of them");
    }
    if (first && !o->tokenizer) {
        return LS_FAIL(LS_E_USAGE, "--begin is given without --tokenizer; other documents begin as "
                                   "they are");
    }
    if (o->tokenizer) {
        const bool none = first && strcmp(first, "none") == 0;
        LS_TRY(first && !none ? ls_option_int("begin", first, 0, vocab - 1, &begin) : LS_OK);
        o->begin = none ? LS_PREP_NO_BEGIN : begin;
        LS_TRY(values[OPT_SEPARATOR]
                   ? ls_option_int("separator", values[OPT_SEPARATOR], 0, vocab - 1, &separator)
                   : LS_OK);
        o->separator = separator;
        return LS_OK;
    }
    if (!values[OPT_VOCAB] != !values[OPT_SEPARATOR]) {
        return LS_FAIL(LS_E_USAGE,
                       "--%s is given without --%s; documents that are tokens need both, such as "
                       "--vocab 50257 --separator 50256 for those of GPT-2 (text needs "
                       "--tokenizer)",
                       values[OPT_VOCAB] ? "vocab" : "separator",
                       values[OPT_VOCAB] ? "separator" : "vocab");
    }
    if (!values[OPT_VOCAB]) {
        return LS_OK;
    }
    LS_TRY(ls_option_int("vocab", values[OPT_VOCAB], 2, INT32_MAX, &vocab));
    LS_TRY(ls_option_int("separator", values[OPT_SEPARATOR], 0, vocab - 1, &separator));
    o->vocab = vocab;
    o->separator = separator;
    return LS_OK;
}

static ls_status run_prep(int argc, char **argv) {
    const char *values[OPT_COUNT];
    int first;
    LS_TRY(ls_options_parse(&ls_verb_prep, argc, argv, values, &first));
    if (values[OPT_CHAT] && !values[OPT_FIELD]) {
        values[OPT_FIELD] = "messages";
    }
    for (int i = 0; i < OPT_COUNT; i++) {
        values[i] = values[i] ? values[i] : options[i].fallback;
    }
    if (!values[OPT_OUTPUT] || first == argc) {
        return LS_FAIL(LS_E_USAGE, "%s; usage: lockstep prep %s",
                       first == argc ? "no input is given" : "no data directory is given (-o DIR)",
                       ls_verb_prep.synopsis);
    }
    ls_prep_options o = {
        .inputs = (const char *const *)argv + first,
        .input_count = argc - first,
        .out_dir = values[OPT_OUTPUT],
        .jsonl_field = values[OPT_FIELD],
        .prompt_field = values[OPT_PROMPT],
        .chat = values[OPT_CHAT],
        .mask_field = values[OPT_LOSS_MASK],
        .include = values[OPT_INCLUDE],
        .skip_bad = values[OPT_SKIP_BAD] != NULL,
        .force = values[OPT_FORCE] != NULL,
        .stop = ls_signals_stop(),
    };
    long long shard_tokens, pack = 0;
    LS_TRY(ls_option_float("val", values[OPT_VAL], 0, 0.99, &o.val_fraction));
    LS_TRY(ls_option_int("shard-tokens", values[OPT_SHARD_TOKENS], 4096, 1LL << 40, &shard_tokens));
    LS_TRY(values[OPT_PACK]
               ? ls_option_int("pack", values[OPT_PACK], LS_PACKER_LEAST, LS_PACKER_MOST, &pack)
               : LS_OK);
    o.shard_tokens = shard_tokens;
    o.pack = pack;
    LS_TRY(take_vocabulary(values, &o));
    ls_prep_result result;
    LS_TRY(ls_prep_run(&o, &result));
    check_share(&o, &result);
    if (result.bad_lines > 0) {
        ls_log_warn("%" PRId64 " line%s held no document and %s left out; there are %" PRId64
                    " documents",
                    result.bad_lines, result.bad_lines == 1 ? "" : "s",
                    result.bad_lines == 1 ? "is" : "are", result.documents);
    }
    if (values[OPT_JSON]) {
        return print_json(&o, &result);
    }
    print_text(&o, &result);
    return LS_OK;
}

const ls_verb ls_verb_prep = {
    .name = "prep",
    .synopsis = "[options] INPUT... -o DIR",
    .summary = "turn text into token shards",
    .text =
        "Reads files, folders (walked in order of names, without hidden entries), patterns and -\n"
        "for standard input, and writes token shards for training and validation. A file is one\n"
        "document; a *.jsonl file, or a stream that starts with '{', holds one document a line.\n"
        "Tokens are bytes; token 256 follows each document. With --tokenizer text becomes the\n"
        "tokens of a tokenizer.json of GPT-2, Llama-3, Mistral, Qwen and their like, as the "
        "library\n"
        "makes them (special ones where the text spells them), each document behind the token\n"
        "with which its model has texts begin, if there is one; a copy of the file lies beside\n"
        "the shards. With --vocab and --separator the field holds an array of tokens of another\n"
        "tokenizer, and *.bin files are packed tokens (2 bytes each, 4 above a vocabulary of\n"
        "65536), as nanoGPT, Megatron-LM and llm.c, whose header is known, write them. With\n"
        "--prompt, --chat, or --loss-mask for arrays, training and evaluation count the loss of "
        "some\n"
        "tokens only; the others are read. Binary\n"
        "files are skipped, a file that is reached twice is read once, and what an earlier prep\n"
        "wrote is left out of folders. The hash of a document decides whether it is for\n"
        "validation: of up to 1024 documents those with the lowest ones are, of more those below\n"
        "a limit; of a single document the end is. Where few or large documents give validation\n"
        "another share than --val, a warning says so. The directory appears when all is written.\n"
        "\n"
        "  lockstep prep /usr/include --include '*.h' -o data\n"
        "  lockstep prep books/*.txt -o data --val 0.02\n"
        "  zstdcat corpus.jsonl.zst | lockstep prep - --field content -o data\n"
        "  lockstep prep corpus.jsonl --tokenizer llama3/tokenizer.json -o data\n"
        "  lockstep prep pairs.jsonl --prompt question --field answer --tokenizer llama3 -o data\n"
        "  lockstep prep chats.jsonl --chat chatml --tokenizer Qwen2.5-7B -o data\n"
        "  lockstep prep ids.jsonl --field input_ids --vocab 50257 --separator 50256 -o data\n"
        "  lockstep prep fineweb10B/*.bin --vocab 50257 --separator 50256 -o data",
    .options = options,
    .run = run_prep,
};
