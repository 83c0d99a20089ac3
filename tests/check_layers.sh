#!/bin/sh
# The house's order: a room includes its own folder, runtime/base/ and rooms of lower floors, never a
# sibling; and no source file, of tests too, is longer than 600 lines. Prints file:line of each breach.
# Usage: check_layers.sh [TREE]
set -eu
tree=${1:-$(dirname "$0")/..}
cd "$tree"
rooms='runtime/base:0 runtime/config:1 runtime/mesh:2 runtime/data:2 runtime/device:3 collectives:4
runtime/model:5 runtime/step:6 optim:7 checkpoint:8 runtime/counters:8 runtime/plan:8 launch:9'

files=$(for folder in $rooms tests benchmarks; do
    if [ -d "${folder%:*}" ]; then
        find "${folder%:*}" \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) -print
    fi
done | sort)
if [ -z "$files" ]; then
    echo "no source files under $(pwd)" >&2
    exit 1
fi

# shellcheck disable=SC2086 # one word a file
awk -v rooms="$rooms" -v max_lines=600 '
function room_of(path, name) {
    for (name in floor) {
        if (index(path, name "/") == 1) {
            return name
        }
    }
    return ""
}
function breach(text) {
    print FILENAME ":" FNR ": " text
    breaches++
}
BEGIN {
    count = split(rooms, list, /[ \n]+/)
    for (i = 1; i <= count; i++) {
        split(list[i], part, ":")
        floor[part[1]] = part[2]
    }
}
FNR == 1 {
    own = room_of(FILENAME)
    files++
}
FNR == max_lines + 1 {
    breach("the file has more than " max_lines " lines; part it")
}
own != "" && /^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, quoted, "\"")
    path = quoted[2]
    other = room_of(path)
    includes++
    if (other == "") {
        breach("\"" path "\" is no path from the top of the tree into a room")
    } else if (other != own && floor[other] >= floor[own]) {
        breach(own " (floor " floor[own] ") may not include " other " (floor " floor[other] ")")
    } else if ((getline line < path) < 0) {
        breach("\"" path "\" does not exist")
    }
    close(path)
}
END {
    printf "%d files, %d includes, %d breaches\n", files, includes, breaches
    exit breaches > 0 || includes == 0
}' $files
