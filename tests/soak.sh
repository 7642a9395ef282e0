#!/usr/bin/env bash
# A soak: programs under `udax run` store through mappings from many threads and processes, while signals stop, disturb and kill
# them; after each life every byte of every file is compared with a model that survives the kill. Beside it SQLite and LMDB are killed in
# their transactions, and checked. On tmpfs and on disk.
#
#     tests/soak.sh [MINUTES]       default 60; environment: see tests/lib.sh, and
#
#   UDAX_SEED          what is drawn from (default: a fresh one; it is printed)
#   UDAX_JOBS          how many programs side by side (default 4)
#   UDAX_ENGINE        by which engine faults are served (default: the best that there is)
#   UDAX_HANG_SECONDS  how long a thread may make no progress (default 60)
#   UDAX_FAILURES      after how many failures it ends (default 6)
#   UDAX_ON_HANG       a command that is given the process that does not go on
#   UDAX_KEEP          where the files of a failure are kept (default: a fresh directory beside the temporary files)
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

minutes=${1:-60}
seconds=$(awk "BEGIN { print int($minutes * 60) }")
seed=${UDAX_SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
jobs=${UDAX_JOBS:-4}
keep=${UDAX_KEEP:-$(mktemp -d -u "${TMPDIR:-/tmp}/udax-soak-kept.XXXXXX")}
here=$root/tests/soak
flags=(-std=gnu17 -g -Wall -Wextra -Werror -D_GNU_SOURCE)
"$CC" "${flags[@]}" -O1 -pthread -o "$work/worker" "$here"/{worker,access,operations,arena}.c
"$CC" "${flags[@]}" -O2 -o "$work/supervisor" "$here"/{supervisor,verify,look}.c

engine=${UDAX_ENGINE:-the default engine}
echo "soak of $seconds s by $engine, UDAX_SEED=$seed, $jobs jobs, on ${places[*]%%:*}"
UDAX_SEED=$seed "$here/databases.sh" "$seconds" >"$work/databases" 2>&1 &
databases=$!
trap 'kill $databases 2>/dev/null; clean_up' EXIT
command=("$UDAX_BIN" run "--stats=stats" "${run_options[@]}" -- "$work/worker")
"$work/supervisor" "$seconds" "$seed" "$jobs" "$keep" "${places[@]#*:}" -- "${command[@]}" | tee "$work/lives" || true

# add_counts LOG WHAT: adds up the closing line.
add_counts() {
    local last
    last=$(tail -n 1 "$1")
    if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
    else
        fail "$2 did not come to an end" "$1"
    fi
}

wait $databases || true
trap clean_up EXIT
cat "$work/databases"
add_counts "$work/lives" "the supervisor"
add_counts "$work/databases" "the databases"
summary
