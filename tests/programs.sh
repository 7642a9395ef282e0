#!/usr/bin/env bash
# Unmodified programs that map files: each runs plainly and under `udax run`, in a fresh directory on tmpfs and on disk. Output,
# exit code and the files it leaves must be the same; the storage that they take is shown beside.
#
#     tests/programs.sh [PATTERN]...     only what matches; environment: see tests/lib.sh, and PYTHON (default python3)
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

in_every_place "$@"
PYTHON=${PYTHON:-python3}
here=$root/tests/programs
limit=${UDAX_CASE_SECONDS:-300}
patterns=("$@")
export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1 LC_ALL=C

wanted() {
    local pattern
    [ ${#patterns[@]} = 0 ] && return 0
    for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053 # meant as a pattern
        [[ $1 == $pattern || $1 == $pattern-* ]] && return 0
    done
    return 1
}

# Whether anything of a family, such as sqlite of sqlite-wal, is asked for.
wanted_family() {
    local pattern
    wanted "$1" && return 0
    for pattern in "${patterns[@]}"; do [[ $pattern == "$1"-* ]] && return 0; done
    return 1
}

have() {
    wanted_family "$1" || return 1
    if ! command -v "$2" >/dev/null; then
        skip "$1: $2 is not installed"
        return 1
    fi
}

have_module() {
    have "$1" "$PYTHON" || return 1
    if ! "$PYTHON" -c "import $2" 2>/dev/null; then
        skip "$1: the Python module $2 is not installed"
        return 1
    fi
}

as_it_is() { cat; }

# run MODE DIRECTORY FILTER COMMAND...: leaves $work/MODE.{raw,out,err,files,storage}
run() {
    local mode=$1 directory=$2 filter=$3 code=0
    shift 3
    fresh "$directory"
    (cd "$directory" && under "$mode" "$limit" "$@") >"$work/$mode.raw" 2>"$work/$mode.err" </dev/null || code=$?
    { "$filter" <"$work/$mode.raw" && echo "exit code $code"; } >"$work/$mode.out"
    contents_of "$directory" >"$work/$mode.files"
    storage_of "$directory" >"$work/$mode.storage"
}

# compare NAME FILTER FILES COMMAND...: FILES is `files` (they must be the same) or `any`.
compare() {
    local name=$1 filter=$2 files=$3 entry place directory
    shift 3
    wanted "$name" || return 0
    for entry in "${places[@]}"; do
        place=${entry%%:*} directory=${entry#*:}/program
        run plain "$directory" "$filter" "$@"
        if grep -q 'setup failed, errno=1 ' "$work/plain.raw"; then
            skip "$name on $place: $(grep -o '[^:]*setup failed.*' "$work/plain.raw")"
            continue
        elif ! tail -n 1 "$work/plain.out" | grep -qx 'exit code 0'; then
            fail "$name on $place does not even run plainly" "$work/plain.raw" "$work/plain.err"
            continue
        fi
        run udax "$directory" "$filter" "$@"
        if ! diff "$work/plain.out" "$work/udax.out" >"$work/difference"; then
            fail "$name on $place (< plain, > udax)" "$work/difference" "$work/udax.err"
        elif [ "$files" = files ] && ! diff "$work/plain.files" "$work/udax.files" >"$work/difference"; then
            fail "$name on $place: the files differ (< plain, > udax)" "$work/difference" "$work/udax.err"
        else
            pass
            printf '%-30s %-6s storage: plain %12s, udax %12s\n' "$name" "$place" \
                "$(<"$work/plain.storage")" "$(<"$work/udax.storage")"
        fi
        rm -rf "$directory"
    done
}

# A scan of 256 MiB of holes must leave them holes: on tmpfs one sees it in the file's storage.
check_hole_scan() {
    local name=hole-scan entry directory
    have_module $name numpy || return 0
    compare $name as_it_is files "$PYTHON" "$here/hole_scan.py"
    [ "$UDAX_STUB" = 1 ] && return 0
    for entry in "${places[@]}"; do
        [ "${entry%%:*}" = tmpfs ] || continue
        directory=${entry#*:}/program
        run udax "$directory" as_it_is "$PYTHON" "$here/hole_scan.py"
        if [ "$(<"$work/udax.storage")" -lt $((4 << 20)) ]; then
            pass
        else
            fail "$name on tmpfs: reading holes took $(<"$work/udax.storage") bytes of storage" "$work/udax.err"
        fi
        rm -rf "$directory"
    done
}

# Processes that read the holes of a file leave them holes, whoever maps it; and see what is written.
check_readers() {
    local name=readers entry directory
    wanted_family $name || return 0
    "$CC" -std=gnu17 -O1 -Wall -Wextra -Werror -D_GNU_SOURCE -o "$work/readers" "$here/readers.c"
    compare $name as_it_is files "$work/readers"
    compare "$name-write" as_it_is files "$work/readers" write
    [ "$UDAX_STUB" = 1 ] && return 0
    for entry in "${places[@]}"; do
        [ "${entry%%:*}" = tmpfs ] || continue
        directory=${entry#*:}/program
        run udax "$directory" as_it_is "$work/readers"
        if [ "$(<"$work/udax.storage")" -lt $((4 << 20)) ]; then
            pass
        else
            fail "$name on tmpfs: reading holes took $(<"$work/udax.storage") bytes of storage" "$work/udax.err"
        fi
        rm -rf "$directory"
    done
}

check_python() {
    have mmap-module "$PYTHON" && compare mmap-module as_it_is files "$PYTHON" "$here/mmap_module.py"
    have processes "$PYTHON" && compare processes as_it_is files "$PYTHON" "$here/processes.py"
    have_module numpy-memmap numpy && compare numpy-memmap as_it_is files "$PYTHON" "$here/numpy_memmap.py"
    return 0
}

check_databases() {
    local mode
    have_module lmdb-python lmdb && for mode in writemap plainmap; do
        compare "lmdb-python-$mode" as_it_is any "$PYTHON" "$here/lmdb_python.py" $mode
    done
    if wanted_family lmdb-program; then
        if echo '#include <lmdb.h>' | "$CC" -E - >/dev/null 2>&1; then
            "$CC" -std=gnu17 -O1 -D_GNU_SOURCE -pthread -o "$work/lmdb_program" "$here/lmdb_program.c" -llmdb
            for mode in writemap plainmap; do
                compare "lmdb-program-$mode" as_it_is any "$work/lmdb_program" $mode
            done
        else
            skip "lmdb-program: the header lmdb.h is not installed"
        fi
    fi
    have sqlite sqlite3 && for mode in delete truncate persist memory wal; do
        compare "sqlite-$mode" as_it_is files "$here/sqlite.sh" $mode
    done
    return 0
}

check_tools() {
    have toolchain cc && compare toolchain as_it_is files "$here/toolchain.sh"
    have git git && compare git as_it_is any "$here/git.sh"
    return 0
}

# fio prints times; what counts is that no job met an error and every block verified.
fio_verdict() { grep -oE 'err= *[0-9]+|verify: bad.*' | sort | uniq -c | tr -s ' '; }

check_fio() {
    local pattern
    local -a job=(fio --thread --name=job --ioengine=mmap --filename=data --size=48M --bs=4k --randseed=3 --fallocate=none)
    local -a verify=(--verify=crc32c --do_verify=1 --verify_fatal=1)
    have fio fio || return 0
    for pattern in write randwrite randrw rw; do
        compare fio-$pattern fio_verdict any "${job[@]}" --rw=$pattern "${verify[@]}"
    done
    for pattern in read randread; do
        compare fio-$pattern fio_verdict files "${job[@]}" --rw=$pattern
    done
    compare fio-sync fio_verdict any "${job[@]}" --rw=randwrite --fsync=64 "${verify[@]}"
    compare fio-process fio_verdict any fio --name=job --ioengine=mmap --filename=data --size=48M --bs=4k --rw=randrw \
        --randseed=3 --fallocate=none "${verify[@]}"
    compare fio-threads fio_verdict any fio --thread --name=job --numjobs=4 --ioengine=mmap --size=24M --bs=16k \
        --rw=randwrite --randseed=5 --fallocate=none "${verify[@]}"
    compare fio-allocated fio_verdict any fio --thread --name=job --ioengine=mmap --filename=data --size=32M \
        --bsrange=1k-64k --rw=randrw --randseed=6 --fallocate=posix "${verify[@]}"
}

# stress-ng prints times too; the verdict is what failed, and how the run ended.
stress_verdict() { grep -oE 'fail: .*|(un)?successful run|aborted early' | sed -E 's/\[[0-9]+\]//' | sort -u || true; }

# STRESSOR:OPERATIONS[:OPTIONS]
stressors=(
    "mmap:5:--mmap-file --mmap-bytes 16M" "mmap:5:--mmap-file --mmap-bytes 16M --mmap-async --mmap-mprotect"
    "mmapfork:1" mmapaddr:500 mmapfixed:20 mmapmany:500 "msync:100:--msync-bytes 16M" msyncmany:20
    "mremap:5:--mremap-bytes 16M" madvise:20 munmap:5 mincore:500 mlock:50 mprotect:500 pagemove:10 remap:10 rmap:50
    "fallocate:20:--fallocate-bytes 64M" fpunch:1 "hdd:200:--hdd-bytes 64M" file-ioctl:50 sendfile:50 splice:50
    copy-file:30 seek:200 lease:100 lockf:100 flock:100 fcntl:100 close:500 dup:50 fork:100 vfork:100 exec:50 clone:50
    daemon:20 sigsegv:200 sigio:50 stackmmap:20 futex:500 shm:10 memfd:2 aio:50 io-uring:50 userfaultfd:100 vm-rw:10
    iomix:100 revio:50 readahead:50
)

check_stress() {
    local entry stressor operations options command
    have stress-ng stress-ng || return 0
    for entry in "${stressors[@]}"; do
        IFS=: read -r stressor operations options <<<"$entry"
        wanted "stress-ng-$stressor" || continue
        if ! stress-ng --"$stressor" 1 --dry-run >/dev/null 2>&1; then
            skip "stress-ng-$stressor: no such stressor in this version"
            continue
        fi
        command="stress-ng --$stressor 1 --$stressor-ops $operations $options --timeout 3 --verify --seed 3 --temp-path ."
        # What stress-ng leaves when it is cut short differs from run to run.
        compare "stress-ng-$stressor" stress_verdict any sh -c "$command 2>&1; code=\$?; rm -rf tmp-*; exit \$code"
    done
}

check_hole_scan
check_readers
check_python
check_databases
check_tools
check_fio
check_stress
summary
