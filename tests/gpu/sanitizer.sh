#!/bin/sh
# sanitizer.sh TOOL COMMAND...: NVIDIA's compute-sanitizer, where it is there and serves this machine's GPU; else skipped.
tool=$1
shift
command -v compute-sanitizer >/dev/null || {
    echo "skipped: no compute-sanitizer on the PATH"
    exit 77
}
said=$(mktemp)
trap 'rm -f "$said"' EXIT
compute-sanitizer --tool "$tool" --error-exitcode 1 "$@" >"$said" 2>&1
status=$?
tail -n 40 "$said"
if grep -q 'Device not supported' "$said"; then
    echo "skipped: compute-sanitizer does not serve this GPU or virtual machine"
    exit 77
fi
exit $status
