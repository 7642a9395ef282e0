#!/bin/sh
# SQLite with a memory-mapped database: rollback journal and write-ahead log. $1: the journal mode.
set -e
sqlite3 data.db <<SQL
PRAGMA page_size = 4096;
PRAGMA mmap_size = 268435456;
PRAGMA journal_mode = $1;
PRAGMA synchronous = normal;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, payload BLOB);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO item SELECT i, 'name ' || (i * 7919 % 60000), zeroblob(i % 300) FROM n;
COMMIT;
CREATE INDEX by_name ON item(name);
SELECT count(*), sum(length(payload)), min(name), max(name) FROM item;
UPDATE item SET payload = zeroblob(500) WHERE id % 10 = 3;
DELETE FROM item WHERE id % 4 = 1;
SELECT count(*), sum(length(payload)) FROM item;
BEGIN; DELETE FROM item; ROLLBACK;
SELECT id FROM item WHERE name = 'name 42';
VACUUM;
PRAGMA integrity_check;
SQL
# A second and a third process on the same database.
sqlite3 data.db "PRAGMA mmap_size = 268435456; INSERT INTO item(name, payload) VALUES ('later', zeroblob(100000));"
sqlite3 data.db "PRAGMA mmap_size = 268435456; SELECT count(*), sum(length(payload)) FROM item; PRAGMA wal_checkpoint(truncate);"
sqlite3 data.db "PRAGMA mmap_size = 268435456; PRAGMA integrity_check; PRAGMA page_count;"
rm -f data.db-wal data.db-shm
