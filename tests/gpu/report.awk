# The table of figures beside their targets: lines "FIGURE<tab>VALUE<tab>LEAST|MOST<tab>LIMIT" (VALUE empty: not measured).
BEGIN { FS = "\t"; printf "%-64s %12s %14s  %s\n", "figure", "found", "wanted", "" }
/^#/ { next }
{
    word = $2 == "" ? "not measured" : ($3 == "least" ? $2 + 0 >= $4 + 0 : $2 + 0 <= $4 + 0) ? "holds" : "DOES NOT HOLD"
    printf "%-64s %12s %14s  %s\n", $1, $2 == "" ? "-" : $2, $3 " " $4, word
}
