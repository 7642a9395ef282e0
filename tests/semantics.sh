#!/usr/bin/env bash
# Black-box checks of what mmap means: every case of tests/semantics/*.c runs plainly and under `udax run`, on tmpfs and on
# disk. It asserts by itself, and its output, exit code and files must be the same both ways; and under udax its mappings are served, where it does not say
# why they are plain (see CASE in check.h).
#
#     tests/semantics.sh [PROGRAM[:CASE]]...      environment: see tests/lib.sh
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

in_every_place "$@"
limit=${UDAX_CASE_SECONDS:-120}

others=()
for option in "${run_options[@]}"; do [[ $option == --stats* ]] || others+=("$option"); done
run_options=("${others[@]}")
if [ "$UDAX_STUB" != 1 ]; then run_options+=("--stats=$work/stats"); fi

# run MODE PROGRAM CASE DIRECTORY: leaves output, exit code and file checksums in $work/MODE.*
run() {
    local mode=$1 program=$2 name=$3 directory=$4 code=0
    fresh "$directory"
    rm -f "$work/stats"
    (cd "$directory" && under "$mode" "$limit" "$program" "$name") \
        >"$work/$mode.out" 2>"$work/$mode.err" || code=$?
    echo "exit code $code" >>"$work/$mode.out"
    contents_of "$directory" >"$work/$mode.files"
}

# Whether a process of the case has met faults in files that were served, as the statistics of one of them say, or has told so by itself.
was_served() {
    local line='"faults":[1-9][0-9]*,"calls":' none='"files":\\[\\],"ended":\\[\\]'
    if [ -e "$work/stats" ] && awk -v line="$line" -v none="$none" '$0 ~ line && $0 !~ none { found = 1 } END { exit !found }' "$work/stats"; then
        return 0
    fi
    grep -q '^served: yes$' "$work/udax.err"
}

# served_as_meant WHAT PROGRAM CASE: a case that is plain where it need not be would prove nothing, and one that is served unawares nothing of the plain mapping.
served_as_meant() {
    local what=$1 service
    if [ "$UDAX_STUB" = 1 ] || grep -q ^SKIPPED "$work/udax.out"; then return 0; fi
    service=$("$2" --service "$3")
    if [ ! -s "$work/stats" ] && ! grep -q '^served: ' "$work/udax.err"; then
        fail "$what: nothing tells whether it was served" "$work/udax.err"
    elif [[ $service == served ]] && ! was_served; then
        fail "$what: nothing was served" "$work/stats" "$work/udax.err"
    elif [[ $service == plain:* ]] && was_served; then
        fail "$what: it was served, and is meant to be $service" "$work/stats" "$work/udax.err"
    else
        return 0
    fi
    return 1
}

check() {
    local program=$1 name=$2 place=$3 directory=$4 what
    what="$(basename "$program"):$name on $place"
    run plain "$program" "$name" "$directory"
    if grep -q ^FAILED "$work/plain.out"; then
        fail "$what does not hold on this kernel without udax" "$work/plain.out"
        return
    fi
    if grep -q ^SKIPPED "$work/plain.out"; then
        skip "$what$(sed -n 's/^SKIPPED//p' "$work/plain.out" | head -n 1)"
    fi
    run udax "$program" "$name" "$directory"
    if ! diff "$work/plain.out" "$work/udax.out" >"$work/difference"; then
        fail "$what (< plain, > udax)" "$work/difference" "$work/udax.err"
    elif ! diff "$work/plain.files" "$work/udax.files" >"$work/difference"; then
        fail "$what: the files differ (< plain, > udax)" "$work/difference" "$work/udax.err"
    elif served_as_meant "$what" "$program" "$name"; then
        pass
    fi
}

for source in "$root"/tests/semantics/*.c; do
    program=$work/$(basename "$source" .c)
    wanted=$#
    for pattern in "$@"; do
        # shellcheck disable=SC2053 # the pattern is meant as one
        [[ $(basename "$program") == ${pattern%%:*} ]] && wanted=0
    done
    [ "$wanted" = 0 ] || continue
    "$CC" -std=gnu17 -O1 -g -Wall -Wextra -Werror -D_GNU_SOURCE -pthread -o "$program" "$source" -lrt
    for name in $("$program" --list); do
        if [ $# -gt 0 ]; then
            wanted=0
            for pattern in "$@"; do
                # shellcheck disable=SC2053 # the pattern is meant as one
                [[ $(basename "$program"):$name == $pattern || $(basename "$program") == $pattern ]] && wanted=1
            done
            [ $wanted = 1 ] || continue
        fi
        for entry in "${places[@]}"; do
            check "$program" "$name" "${entry%%:*}" "${entry#*:}/$name"
        done
    done
done
summary
