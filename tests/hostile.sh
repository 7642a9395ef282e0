#!/usr/bin/env bash
# What a machine may do to a program under udax: a full file system, a quota, little memory, others who open and cut its files all the time, another
# user's rights. It mounts small file systems and makes a cgroup, which takes root; what cannot be done here is named as skipped.
#
#     tests/hostile.sh [PATTERN]...         default: all; environment: see tests/lib.sh, and
#   UDAX_STORM_SECONDS  how long each storm blows (default 5)
#   UDAX_SEED           another seed for it
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/lib.sh"

patterns=("$@")
[ $# -gt 0 ] || patterns=('*')
mounted=() cgroup=

undo() {
    local place
    for place in "${mounted[@]}"; do umount -l "$place" 2>/dev/null || true; done
    [ -z "$cgroup" ] || rmdir "$cgroup" 2>/dev/null || true
    clean_up
}
trap undo EXIT

for source in machine storm; do
    "$CC" -std=gnu17 -O1 -g -Wall -Wextra -Werror -D_GNU_SOURCE -pthread -o "$work/$source" "$root/tests/hostile/$source.c"
done

# Where any user can get at it.
chmod 755 "$work"

wanted() {
    local pattern
    for pattern in "${patterns[@]}"; do
        # shellcheck disable=SC2053 # the pattern is meant as one
        [[ $1 == $pattern ]] && return 0
    done
    return 1
}

# is_root WHAT: else says what is skipped.
is_root() {
    [ "$(id -u)" = 0 ] && return 0
    skip "$1: it takes root"
    return 1
}

# mounted_at WHAT DIRECTORY ARGUMENT...: mounts, or says what is skipped and why.
mounted_at() {
    local what=$1 directory=$2 said
    shift 2
    mkdir -p "$directory"
    if said=$(mount "$@" "$directory" 2>&1); then
        mounted+=("$directory")
        return 0
    fi
    skip "$what: cannot be mounted: $(head -n 1 <<<"$said")"
    return 1
}

# ext4_at WHAT DIRECTORY MIB OPTION...: a file system of that size in a file, made with those options.
ext4_at() {
    local what=$1 directory=$2 size=$3
    shift 3
    if ! command -v mkfs.ext4 >/dev/null; then
        skip "$what: there is no mkfs.ext4"
        return 1
    fi
    truncate -s "${size}M" "$directory.image"
    mkfs.ext4 -q -m 0 "$@" "$directory.image"
    mounted_at "$what" "$directory" -o loop "$directory.image"
}

# play MODE WHAT DIRECTORY COMMAND...: leaves output and exit code in $work/MODE.out.
play() {
    local mode=$1 directory=$2 code=0
    shift 2
    (cd "$directory" && under "$mode" 120 "$@") >"$work/$mode.out" 2>"$work/$mode.err" || code=$?
    echo "exit code $code" >>"$work/$mode.out"
}

# was_served WHAT DIRECTORY: a case that was plain under udax would prove nothing.
was_served() {
    if [ "$UDAX_STUB" != 1 ] && [ "$(cat "$2/served" 2>/dev/null)" != yes ]; then
        fail "$1: nothing was served" "$work/udax.err"
        return 1
    fi
}

# same WHAT DIRECTORY: what was played plainly holds, and is the same under udax, which did serve it.
same() {
    local what=$1 directory=$2
    if grep -q -e ^FAILED "$work/plain.out" || ! grep -q '^exit code 0' "$work/plain.out"; then
        fail "$what does not hold on this kernel without udax" "$work/plain.out" "$work/plain.err"
    elif ! diff "$work/plain.out" "$work/udax.out" >"$work/difference"; then
        fail "$what (< plain, > udax)" "$work/difference" "$work/udax.err"
    elif was_served "$what" "$directory"; then
        pass
    fi
}

# both WHAT DIRECTORY PREPARE COMMAND...: plainly and under udax, PREPARE (a function) before each.
both() {
    local what=$1 directory=$2 prepare=$3 mode
    shift 3
    for mode in plain udax; do
        "$prepare" "$directory"
        play "$mode" "$directory" "$@"
    done
    same "$what" "$directory"
}

nothing() { rm -f "$1/served"; }

half_full() {
    rm -f "$1/ballast" "$1/file" "$1/served"
    sync -f "$1"
    dd if=/dev/zero of="$1/ballast" bs=1M count=8 status=none
    chown --reference="$1" "$1/ballast"
}

a_full_file_system() {
    local name
    is_root "$1" || return 0
    if mounted_at "$1 (tmpfs)" "$work/tmpfs" -t tmpfs -o size=16m none; then
        for name in scattered_stores stores_in_order; do
            both "$1: $name on tmpfs" "$work/tmpfs" half_full "$work/machine" "full_by_$name"
        done
    fi
    if ext4_at "$1 (ext4)" "$work/ext4" 24; then
        for name in scattered_stores stores_in_order; do
            both "$1: $name on ext4" "$work/ext4" half_full "$work/machine" "full_by_$name"
        done
    fi
}

# As user 65534: root's quota ends nothing.
a_quota() {
    local as=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all) what name place
    is_root "$1" || return 0
    mkdir "$work/bin"
    cp "$UDAX_BIN" "$(dirname "$UDAX_BIN")/libudax_preload.so" "$work/bin"
    if mounted_at "$1 (tmpfs)" "$work/quota-tmpfs" -t tmpfs -o size=64m,usrquota,usrquota_block_hardlimit=16m none; then
        one_quota "$1 on tmpfs" "$work/quota-tmpfs"
    fi
    if ext4_at "$1 (ext4)" "$work/quota-ext4" 64 -O quota; then
        place=$(findmnt -n -o SOURCE "$work/quota-ext4")
        QUOTA_DEVICE=$place QUOTA_BLOCKS=16384 "$work/machine" set_quota >"$work/quota.out"
        if grep -q '^quota: ok' "$work/quota.out"; then
            one_quota "$1 on ext4" "$work/quota-ext4"
        else
            skip "$1 (ext4): $(head -n 1 "$work/quota.out")"
        fi
    fi
}

one_quota() {
    chown 65534 "$2"
    chmod 777 "$2"
    for name in scattered_stores stores_in_order; do
        UDAX_BIN=$work/bin/udax both "$1: $name" "$2" half_full_of_the_user "${as[@]}" "$work/machine" "full_by_$name"
    done
}

half_full_of_the_user() {
    rm -f "$1/ballast" "$1/file" "$1/served"
    sync -f "$1"
    (cd "$1" && setpriv --reuid=65534 --regid=65534 --clear-groups dd if=/dev/zero of=ballast bs=1M count=8 status=none)
}

# A cgroup with that many MiB; its name is in $cgroup.
cgroup_of() {
    local what=$1 size=$2
    if [ -d /sys/fs/cgroup/memory ]; then
        cgroup=/sys/fs/cgroup/memory/udax-tests.$$
        mkdir "$cgroup" 2>/dev/null && echo "${size}M" >"$cgroup/memory.limit_in_bytes" && return 0
    elif grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
        cgroup=/sys/fs/cgroup/udax-tests.$$
        mkdir "$cgroup" 2>/dev/null && echo "${size}M" >"$cgroup/memory.max" && return 0
    fi
    cgroup=
    skip "$what: no cgroup of memory can be made here"
    return 1
}

little_memory() {
    local place=${places[-1]#*:} mode code
    is_root "$1" || return 0
    cgroup_of "$1" 24 || return 0
    for mode in plain udax; do
        nothing "$place"
        code=0
        (echo "$BASHPID" >"$cgroup/cgroup.procs" && cd "$place" && under "$mode" 240 "$work/machine" pressure) \
            >"$work/$mode.out" 2>"$work/$mode.err" || code=$?
        echo "exit code $code" >>"$work/$mode.out"
    done
    same "$1: contents under pressure, ${places[-1]%%:*}" "$place"
    if [ "$UDAX_STUB" != 1 ]; then
        place=${places[0]#*:} code=0
        nothing "$place"
        (echo "$BASHPID" >"$cgroup/cgroup.procs" && cd "$place" && under udax 120 "$work/machine" a_hole_larger_than_memory) \
            >"$work/udax.out" 2>"$work/udax.err" || code=$?
        if [ "$code" != 0 ]; then
            fail "$1: a hole larger than memory, exit code $code" "$work/udax.out" "$work/udax.err"
        elif was_served "$1: a hole larger than memory" "$place"; then
            pass
        fi
    fi
    rmdir "$cgroup"
    cgroup=
}

# Blocks of 1 KiB: a million pieces are 1 GiB.
a_million_extents() {
    is_root "$1" || return 0
    if [ "$(df --output=avail -k "$UDAX_TMPFS" | tail -n 1)" -lt 3000000 ]; then
        skip "$1: it takes 3 GB in $UDAX_TMPFS"
        return 0
    fi
    local image
    image=$(mktemp -d "$UDAX_TMPFS/udax-tests.XXXXXX")
    places+=("extents:$image") # for clean_up
    ext4_at "$1" "$image/ext4" 1800 -b 1024 -T largefile || { unset 'places[-1]' && rm -rf "$image"; return 0; }
    (cd "$image/ext4" && "$work/machine" make_pieces >/dev/null)
    play plain "$image/ext4" "$work/machine" a_million_extents
    rm "$image/ext4/served"
    play udax "$image/ext4" "$work/machine" a_million_extents
    same "$1" "$image/ext4"
    umount "$image/ext4"
    unset 'places[-1]'
    rm -rf "$image"
}

another_users_rights() {
    local entry place
    is_root "$1" || return 0
    for entry in "${places[@]}"; do
        place=${entry#*:}
        fresh "$place"
        chmod 777 "$place"
        cp "$work/machine" "$place/copy"
        chown 65534 "$place/copy"
        chmod 4755 "$place/copy"
        play plain "$place" ./copy set_user_id
        if ! grep -q '^secure: 1' "$work/plain.out"; then
            skip "$1 on ${entry%%:*}: set-user-ID bits do not count there"
            continue
        fi
        play udax "$place" ./copy set_user_id
        if [ "$(cat "$place/served")" = no ] && diff "$work/plain.out" "$work/udax.out" >"$work/difference"; then
            pass
        else
            fail "$1 on ${entry%%:*}" "$work/difference" "$work/udax.err" "$place/served"
        fi
    done
}

a_storm() {
    local entry name
    for name in without_forks with_forks; do
        for entry in "${places[@]}"; do
            fresh "${entry#*:}"
            STORM_SECONDS=${UDAX_STORM_SECONDS:-5} STORM_SEED=${UDAX_SEED:-$RANDOM} \
                play udax "${entry#*:}" "$work/storm" "$name"
            if ! grep -q '^exit code 0' "$work/udax.out"; then
                fail "$1 $name on ${entry%%:*}" "$work/udax.out" "$work/udax.err"
            elif was_served "$1 $name on ${entry%%:*}" "${entry#*:}"; then
                echo "a storm $name on ${entry%%:*}: $(tail -n 1 "$work/udax.err")"
                pass
            fi
        done
    done
}

for name in a_full_file_system a_quota little_memory a_million_extents another_users_rights a_storm; do
    if wanted "$name"; then "$name" "$name"; fi
done
summary
