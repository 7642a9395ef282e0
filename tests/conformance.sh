#!/usr/bin/env bash
# What Linux DAX did, on real memory: every script of tests/conformance/scripts is played by real loads, stores and system calls, plainly
# and under `udax run`, on tmpfs and on disk. Results, errors and bytes must be the same both ways, and those of the recordings.
# The scripts of tests/conformance/sparse have no recordings: there it is only that udax changes nothing.
#
#     tests/conformance.sh [SCRIPTS RECORDINGS]      other folders; environment: see tests/lib.sh
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

in_every_place "$@"
limit=${UDAX_CASE_SECONDS:-120}
here=$root/tests/conformance
scripts=$(cd "${1:-$here/scripts}" && pwd)
recordings=$(cd "${2:-$here}" && pwd)
player=$work/player
applied=$work/applied
served=0 played=0

# This suite has a report of its own.
others=()
for option in "${run_options[@]}"; do [[ $option == --stats* ]] || others+=("$option"); done
run_options=("${others[@]}")
if [ "$UDAX_STUB" != 1 ]; then run_options+=("--stats=$work/stats"); fi

# play MODE DIRECTORY SCRIPT: leaves $work/MODE.jsonl and .err
play() {
    fresh "$2"
    (cd "$2" && under "$1" "$limit" "$player" "$3") >"$work/$1.jsonl" 2>"$work/$1.err"
}

# Whether a place has room for every page of every file of a script: without udax, reading a hole on tmpfs takes storage.
has_room() {
    local wanted blocks size
    wanted=$("$player" --bytes "$2")
    read -r blocks size < <(stat -f -c '%a %S' "$1")
    [ $((blocks * size)) -gt $((wanted + (64 << 20))) ]
}

check() {
    local script=$1 place=$2 directory=$3 name what plain=() stats=()
    name=$(basename "$script" .txt) what="$name on $place"
    if ! has_room "$(dirname "$directory")" "$script"; then
        skip "$what without udax: it takes $("$player" --bytes "$script") bytes there"
    elif play plain "$directory" "$script"; then
        plain=(--plain "$work/plain.jsonl")
    else
        fail "$what does not even play without udax" "$work/plain.err"
        return
    fi
    rm -f "$work/stats"
    if ! play udax "$directory" "$script"; then
        fail "$what did not come to its end under udax" "$work/udax.err" "$work/udax.jsonl"
        return
    fi
    if [ "$UDAX_STUB" != 1 ]; then stats=(--stats "$work/stats"); fi
    if [ "$(dirname "$script")" != "$here/sparse" ] && [ -z "$(find "$recordings" -name "$name.jsonl" -print -quit)" ]; then
        skip "$what against Linux DAX: there is no recording"
    fi
    played=$((played + 1))
    if python3 "$here/compare.py" --script "$script" --place "$place" --udax "$work/udax.jsonl" "${plain[@]}" "${stats[@]}" \
        --recordings "$recordings" --applied "$applied" >"$work/verdict" 2>&1; then
        pass
        printf '%-30s %-6s %s\n' "$name" "$place" "$(<"$work/verdict")"
        grep -q 'served: none$' "$work/verdict" || served=$((served + 1))
    else
        fail "$what" "$work/verdict" "$work/udax.err"
    fi
    rm -rf "$directory"
}

: >"$applied"
"$CC" -std=gnu17 -O1 -g -Wall -Wextra -Werror -D_GNU_SOURCE -o "$player" "$here/player.c"
all=("$scripts"/*.txt)
if [ $# = 0 ]; then all+=("$here"/sparse/*.txt); fi
for script in "${all[@]}"; do
    for entry in "${places[@]}"; do
        check "$script" "${entry%%:*}" "${entry#*:}/script"
    done
done

# Without this, a udax that leaves everything to the kernel would do.
if [ "$UDAX_STUB" != 1 ]; then
    if [ "$served" -gt 0 ] && [ $((2 * served)) -ge "$played" ]; then pass; else fail "udax served files in $served of $played plays only"; fi
fi
if [ $# = 0 ]; then
    names=()
    for entry in "${places[@]}"; do names+=("${entry%%:*}"); done
    if python3 "$here/compare.py" --unused "$applied" "${names[@]}" >"$work/unused"; then pass; else fail "rules" "$work/unused"; fi
fi
summary
