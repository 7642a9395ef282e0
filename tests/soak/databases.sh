#!/usr/bin/env bash
# Databases that map their files, killed in the middle of their transactions, again and again: SQLite and LMDB under `udax run`. After each
# kill one that udax does not serve checks the database: it is whole, and nothing that was committed is missing. A part of tests/soak.sh.
#
#     tests/soak/databases.sh SECONDS      environment: see tests/lib.sh; UDAX_SEED
set -euo pipefail
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

end=$((SECONDS + $1))
RANDOM=$((${UDAX_SEED:-1} % 32768))
here=$root/tests/soak

# draw_moment: a second at most. Not in a subshell, which would draw the same each time.
draw_moment() { printf -v moment '0.%03d' $((RANDOM % 1000)); }

# kill_in_the_middle COMMAND...: in the current directory, at the moment that was drawn; stdin and stdout are the caller's.
kill_in_the_middle() {
    "$UDAX_BIN" run "${run_options[@]}" -- "$@" <&0 &
    local process=$! code=0
    sleep "$moment"
    kill -KILL $process 2>/dev/null || true
    wait $process 2>/dev/null || code=$?
    # Killed, or it had done all that there was to do.
    [ $code = 137 ] || [ $code = 0 ]
}

transactions() {
    echo "PRAGMA mmap_size = 268435456; PRAGMA journal_mode = $1; PRAGMA synchronous = off;"
    echo "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT, payload BLOB);"
    echo "CREATE INDEX IF NOT EXISTS by_name ON item(name);"
    for ((n = 0; n < 400; n++)); do
        echo "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
            INSERT INTO item(name, payload) SELECT 'name ' || random(), zeroblob(abs(random() % 3000)) || i FROM n;
            UPDATE item SET payload = randomblob(500) WHERE id % 97 = $n % 97;
            DELETE FROM item WHERE id % 31 = $n % 31 AND id < (SELECT max(id) FROM item); COMMIT;
            SELECT 'committed', max(id) FROM item;"
    done
}

sqlite() {
    local mode=$1 directory=$2 committed found
    fresh "$directory"
    transactions "$mode" >"$work/script"
    for _ in 1 2 3 4; do
        draw_moment
        if ! (cd "$directory" && kill_in_the_middle stdbuf -oL sqlite3 data.db <"$work/script" >"$work/told" 2>"$work/errors"); then
            fail "SQLite ($mode) ended by itself" "$work/errors"
            return
        fi
        committed=$(grep -a '^committed|[0-9]*$' "$work/told" | tail -n 1 | cut -d'|' -f2) || committed=0
        found=$(cd "$directory" && sqlite3 data.db 'PRAGMA integrity_check;
            CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT, payload BLOB); SELECT ifnull(max(id), 0) FROM item;' 2>&1)
        if [ "$(head -n 1 <<<"$found")" != ok ] || [ "$(tail -n 1 <<<"$found")" -lt "${committed:-0}" ]; then
            fail "SQLite ($mode) after a kill: ${committed:-nothing} was committed; found: $found"
            return
        fi
        pass
    done
}

lmdb() {
    local mode=$1 directory=$2
    fresh "$directory"
    for _ in 1 2 3 4; do
        draw_moment
        if ! (cd "$directory" && kill_in_the_middle "$work/lmdb" write "$mode" >"$work/told" 2>&1); then
            fail "LMDB ($mode) ended by itself" "$work/told"
            return
        fi
        if ! (cd "$directory" && under plain 60 "$work/lmdb" check "$mode") >"$work/told" 2>&1; then
            fail "LMDB ($mode) after a kill" "$work/told"
            return
        fi
        pass
    done
}

have_sqlite=1 have_lmdb=1
command -v sqlite3 >/dev/null || { have_sqlite=0 && skip "sqlite3 is not installed"; }
if echo '#include <lmdb.h>' | "$CC" -E - >/dev/null 2>&1; then
    "$CC" -std=gnu17 -O1 -g -Wall -Wextra -Werror -D_GNU_SOURCE -o "$work/lmdb" "$here/lmdb.c" -llmdb
else
    have_lmdb=0
    skip "the header lmdb.h is not installed"
fi
while [ $((have_sqlite + have_lmdb)) -gt 0 ] && [ $SECONDS -lt $end ] && [ $failed -lt 3 ]; do
    for entry in "${places[@]}"; do
        [ $have_lmdb = 0 ] || lmdb writemap "${entry#*:}/database"
        [ $have_lmdb = 0 ] || lmdb plainmap "${entry#*:}/database"
        [ $SECONDS -lt $end ] || break
        [ $have_sqlite = 0 ] || sqlite wal "${entry#*:}/database"
        [ $have_sqlite = 0 ] || sqlite delete "${entry#*:}/database"
    done
done
echo "databases: $passed checks were good"
summary
