#!/bin/sh
# two_hosts.sh [RATE_MBIT [ITERATIONS]]: 2 hosts with 2 ranks each on this machine, joined by a link of
# so many Mbit/s each way (1000), see tests/hosts.sh; as root. Prints
#   - all-reduce of 64 MiB by hier, by mpi and by the MPI library itself, beside the link's limit: each
#     host must send 64 MiB, whatever the algorithm;
#   - what computation hides of it, by hier and by mpi.
set -eu
rate_mbit=${1:-1000} iterations=${2:-7}
root=$(cd "$(dirname "$0")/../.." && pwd)
lockstep=${LOCKSTEP:-$root/build/release/bin/lockstep}
command -v python3 >/dev/null || { echo "two_hosts: python3 is needed" >&2; exit 3; }
on_hosts() {
    "$root/tests/hosts.sh" -r "${rate_mbit}mbit" 2 2 "$lockstep" bench collective --json --minbytes 64M -e 64M \
        -n "$iterations" "$@"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
for backend in hier mpi; do
    on_hosts -w 1 --backend $backend >"$work/$backend.json" || { cat "$work/$backend.json"; exit 1; }
    on_hosts --backend $backend --overlap >"$work/$backend-overlap.json"
done
python3 - "$work" "$rate_mbit" <<'END'
import json, sys
work, rate = sys.argv[1], float(sys.argv[2]) * 1e6 / 8
limit = (64 << 20) / rate
print(f"all-reduce of 64 MiB, 2 hosts x 2 ranks, {rate * 8e-6:.0f} Mbit/s; the link's limit is {limit:.3f} s")
for backend in "hier", "mpi":
    row = json.load(open(f"{work}/{backend}.json"))["sizes"][0]
    plain = row["plain_mpi"]["seconds"]
    for way in "out_of_place", "in_place":
        s = row[way]["seconds"]
        print(f"  {backend:5} {way:13} {s:7.3f} s  {s / limit:5.2f} x the limit  {plain / s:5.2f} x as fast as plain MPI")
    print(f"  plain MPI           {plain:7.3f} s  {plain / limit:5.2f} x the limit")
print("exposed beside computation of 1.5 times its length")
for backend in "hier", "mpi":
    row = json.load(open(f"{work}/{backend}-overlap.json"))["sizes"][0]
    comm, compute = row["comm_seconds"], row["compute_seconds"]
    for how in "polled", "blind":
        exposed = row[f"{how}_seconds"] - compute
        print(f"  {backend:5} {how:7} {exposed:7.3f} s of {comm:.3f} s ({100 * exposed / comm:.0f} %)")
END
