# Shared by the black-box scripts: where udax is, where to work, how results are counted. Sourced, not run.
#
# Environment
#   UDAX_BIN      the command under test (default: target/release/udax of this repository)
#   UDAX_RUN      options of `udax run`, in one string (default: none)
#   UDAX_STUB=1   UDAX_BIN runs programs plainly: what only udax can do is not demanded (to test the scripts themselves)
#   UDAX_PLACES   "tmpfs disk" or one of them
#   UDAX_TMPFS    a directory on tmpfs (default /dev/shm)
#   UDAX_DISK     a directory on a disk file system (default /var/tmp)
#   CC            the C compiler (default cc)
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
UDAX_BIN=${UDAX_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/udax}
UDAX_STUB=${UDAX_STUB:-0}
UDAX_PLACES=${UDAX_PLACES:-tmpfs disk}
UDAX_TMPFS=${UDAX_TMPFS:-/dev/shm}
UDAX_DISK=${UDAX_DISK:-/var/tmp}
CC=${CC:-cc}
read -r -a run_options <<<"${UDAX_RUN:-}"

passed=0 failed=0 skipped=0
work=$(mktemp -d "${TMPDIR:-/tmp}/udax-tests.XXXXXX")
places=()
for place in $UDAX_PLACES; do
    case $place in
    tmpfs) parent=$UDAX_TMPFS ;;
    disk) parent=$UDAX_DISK ;;
    *) echo "UDAX_PLACES: unknown place $place" >&2 && exit 2 ;;
    esac
    if [ "$place" = disk ] && [ "$(stat -f -c %T "$parent")" = tmpfs ]; then
        echo "UDAX_DISK=$parent lies on tmpfs: set it to a directory on a disk" >&2
        exit 2
    fi
    places+=("$place:$(mktemp -d "$parent/udax-tests.XXXXXX")")
done

clean_up() {
    local entry
    for entry in "${places[@]}"; do rm -rf "${entry#*:}"; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ ! -x "$UDAX_BIN" ]; then
    echo "no udax at $UDAX_BIN: build it (cargo build --release) or set UDAX_BIN" >&2
    exit 2
fi

pass() { passed=$((passed + 1)); }

# fail WHAT [FILE...]: counts a failure and shows the files.
fail() {
    failed=$((failed + 1))
    echo "FAILED: $1"
    shift
    local file
    for file in "$@"; do
        [ -s "$file" ] && sed "s|^|    $(basename "$file"): |" "$file" | tail -n 25
    done
    return 0
}

skip() {
    skipped=$((skipped + 1))
    echo "SKIPPED: $1"
}

# under MODE SECONDS COMMAND...: the command as it is, or under udax; killed (exit code 137) when it takes too long.
under() {
    local mode=$1 seconds=$2
    shift 2
    local wrapper=()
    if [ "$mode" = udax ]; then wrapper=("$UDAX_BIN" run "${run_options[@]}" --); fi
    timeout -s KILL "$seconds" "${wrapper[@]}" "$@"
}

# fresh DIRECTORY: makes it empty.
fresh() { rm -rf "$1" && mkdir -p "$1"; }

# What a directory holds: names, lengths, checksums.
contents_of() {
    (cd "$1" && find . -type f -print0 | sort -z | xargs -0 -r cksum)
}

# Bytes of storage that a file or directory takes.
storage_of() { du -s --block-size=1 "$1" | cut -f1; }

# in_every_place ARGUMENT...: where there are several places, the script runs for each by itself, at the same time, and ends with their sum.
in_every_place() {
    local place log logs=()
    [ ${#places[@]} -gt 1 ] || return 0
    for place in "${places[@]%%:*}"; do
        log=$work/in-$place logs+=("$log")
        { UDAX_PLACES=$place "$0" "$@" 2>&1 | tee "$log" || true; } &
    done
    wait
    for log in "${logs[@]}"; do
        if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
            passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
        else
            fail "$0 did not come to its end on ${log##*/in-}"
        fi
    done
    summary && exit
    exit 1
}

# summary: the closing line; the exit code says whether anything failed.
summary() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
