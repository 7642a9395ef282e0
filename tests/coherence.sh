#!/usr/bin/env bash
# Never a stale zero: one process stores into a file whose holes another has mapped and read under `udax run`; the next load
# must see it. Thousands of rounds over every arrangement of the two, on tmpfs and on disk.
#
#     tests/coherence.sh [ROUNDS]       default 10000, shared out between the places; environment: see tests/lib.sh
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${1:-10000}
in_every_place $((rounds / ${#places[@]}))
"$CC" -std=gnu17 -O1 -g -Wall -Wextra -Werror -D_GNU_SOURCE -o "$work/agent" "$root/tests/coherence/agent.c"

for entry in "${places[@]}"; do
    place=${entry%%:*}
    demand=()
    # tmpfs gives storage to every page of a hole that is read, so there one can see that udax is at work.
    if [ "$place" = tmpfs ] && [ "$UDAX_STUB" != 1 ]; then demand=(--need-holes); fi
    if python3 "$root/tests/coherence/conductor.py" --agent "$work/agent" \
        --udax "$(printf '%q ' "$UDAX_BIN" run "${run_options[@]}" --)" --directory "${entry#*:}" \
        --rounds "$rounds" --seed "${UDAX_SEED:-1}" "${demand[@]}" >"$work/rounds" 2>&1; then
        echo "$place: $(tail -n 1 "$work/rounds")"
        pass
    else
        fail "coherence on $place" "$work/rounds"
    fi
done
summary
