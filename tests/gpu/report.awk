# Figures beside their targets, then as rows for benchmarks/README.md; -v gpu="NAME, DRIVER" -v date=DAY. Input: lines
# "FIGURE<tab>VALUE<tab>LEAST|MOST<tab>LIMIT" (VALUE empty: not measured), and "# tokens MODEL VALUE".
BEGIN { FS = "\t"; printf "%-64s %12s %14s  %s\n", "figure", "found", "wanted", "" }
$0 ~ /^# tokens / { split($0, w, " "); tokens[w[3]] = w[4]; next }
/^#/ { next }
{
    word = $2 == "" ? "not measured" : ($3 == "least" ? $2 + 0 >= $4 + 0 : $2 + 0 <= $4 + 0) ? "holds" : "DOES NOT HOLD"
    printf "%-64s %12s %14s  %s\n", $1, $2 == "" ? "-" : $2, $3 " " $4, word
    value[$1] = $2
    if (match($1, /^of [^:]*: /)) { # of one kind
        kind = substr($1, 1, RLENGTH - 2)
        name = substr($1, RLENGTH + 1)
        sub(/, %$/, "", name)
        names[kind] = names[kind] (names[kind] == "" ? "" : "; ") name " " $2
        if ($2 != "" && (!(kind in least) || $2 + 0 < least[kind])) { least[kind] = $2 + 0; least_of[kind] = name }
        if ($2 != "" && (!(kind in most) || $2 + 0 > most[kind])) most[kind] = $2 + 0
    }
}
function row(name, text) { printf "| %s | %s | %s, %s |\n", name, text == "" ? "not measured" : text, gpu, date }
function span(kind) {
    return kind in least ? least[kind] " to " most[kind] " % (least: " least_of[kind] ")" : ""
}
function peers(model, target,   text) {
    if (!(model in tokens)) return ""
    text = tokens[model] " tokens/s; beside llm.c " beside(model, "llm.c") ", torch.compile " beside(model, "torch.compile")
    if (target != "") text = text "; model FLOP/s " known(value[model ": model FLOP/s beside a product's, %"]) " % of a product's rate"
    return text
}
function known(x) { return x == "" ? "not measured" : x }
function beside(model, peer) { return known(value[model ": tokens/s, times those of " peer]) }
function memory(model) { return known(value[model ": device memory beside its plan, % off"]) }
END {
    print ""
    row("memory-bound kernels beside a copy, at least 85 %", span("of a copy"))
    row("products beside cuBLASLt called directly, within 3 %", span("of cuBLASLt alone"))
    row("attention T=4096 D=128 forward beside a product's rate, at least 70 %: lockstep's; cuDNN's", names["of a product's rate"])
    row("GPT-2 124M, tokens/s beside llm.c and torch.compile, at least 1.1", peers("gpt2-124m", ""))
    row("GPT-2 1558M, tokens/s beside llm.c and torch.compile, at least 1.1; model FLOP/s, at least 60 % of a product's rate", peers("gpt2-1558m", 60))
    row("device memory of either beside its plan, within 3 %", memory("gpt2-124m") " % and " memory("gpt2-1558m") " %")
}
