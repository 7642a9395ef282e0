#!/usr/bin/env bash
# The black-box suites under every engine, as root and as an ordinary user. Ends with a table, and with the sums of its closing lines.
#
#     tests/engines.sh [SUITE]...       default: semantics programs
#
# Environment: as tests/lib.sh says, and
#   UDAX_USERS    "root ordinary" or one of them; root needs to be root
#   UDAX_ENGINES  which engines (default: all); "container" is what udax chooses where userfaultfd, and what else a container's usual seccomp profile
#                 refuses, is refused
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$(dirname "${UDAX_BIN:-${CARGO_TARGET_DIR:-$root/target}/release/udax}")
users=${UDAX_USERS:-root ordinary}
[ "$(id -u)" = 0 ] || users=ordinary
engines=${UDAX_ENGINES:-userfaultfd userfaultfd-user signals container}
suites=("$@")
[ $# -gt 0 ] || suites=(semantics programs)

# Where an ordinary user can get at it.
place=$(mktemp -d "${TMPDIR:-/tmp}/udax-engines.XXXXXX")
trap 'rm -rf "$place"' EXIT
mkdir "$place/bin" "$place/tmp"
cp "$bin/udax" "$bin/libudax_preload.so" "$place/bin"
cp -r "$root/tests" "$place/tests"
chmod 755 "$place" "$place/bin"
chmod 1777 "$place/tmp"

"${CC:-cc}" -O1 -Wall -Wextra -o "$place/bin/container" "$root/tests/engines/container.c"

# as USER ENGINE COMMAND...: in a directory that the user may write.
as() {
    local user=$1 engine=$2
    shift 2
    local drop=() within=()
    if [ "$user" = ordinary ] && [ "$(id -u)" = 0 ]; then
        drop=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all)
    fi
    if [ "$engine" = container ]; then
        unset UDAX_ENGINE
        # There the device is missing. Root could open it.
        [ "$(id -u)" != 0 ] || within=(unshare --mount sh -c 'test ! -e /dev/userfaultfd || mount --bind /dev/null /dev/userfaultfd; exec "$@"' sh)
        drop+=("$place/bin/container")
    else
        export UDAX_ENGINE=$engine
    fi
    (cd "$place/tmp" && HOME=$place/tmp TMPDIR=$place/tmp UDAX_BIN=$place/bin/udax "${within[@]}" "${drop[@]}" "$@")
}

passed=0 failed=0 skipped=0 table=()
for user in $users; do
    for engine in $engines; do
        if ! as "$user" "$engine" "$place/bin/udax" info >"$place/info" 2>&1; then
            table+=("$(printf '%-10s %-18s %s' "$user" "$engine" "refused: $(sed -n 2p "$place/info" | cut -c1-90)")")
            continue
        fi
        for suite in "${suites[@]}"; do
            echo "== $suite, $user, $engine"
            as "$user" "$engine" "$place/tests/$suite.sh" 2>&1 | tee "$place/log" || true
            last=$(tail -n 1 "$place/log")
            if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
                passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
            else
                last="did not come to its end"
                failed=$((failed + 1))
            fi
            table+=("$(printf '%-10s %-18s %-12s %s' "$user" "$engine" "$suite" "$last")")
        done
    done
done

printf '\n%-10s %-18s %-12s %s\n' user engine suite result
printf '%s\n' "${table[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
