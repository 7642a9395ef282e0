/*
 * LMDB to be killed at any moment. `write` puts numbered records in transactions for as long as it lives, and notes in the file `done`
 * the last number that is committed; `check` demands that nothing that was committed is missing, and nothing that was not is there.
 *
 *     lmdb write|check writemap|plainmap       in a directory of its own
 */
#include <fcntl.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* So many records are kept; the oldest go. */
#define KEPT 6000
#define PER_COMMIT 40

#define MUST(CALL)                                                                                                     \
    do {                                                                                                               \
        int code_ = (CALL);                                                                                            \
        if (code_) {                                                                                                   \
            printf("%s: %s\n", #CALL, mdb_strerror(code_));                                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static MDB_env *environment;
static MDB_dbi table;

static size_t content_of(uint32_t number, uint8_t *bytes) {
    size_t length = 20 + number * 2654435761U % 1500;
    for (size_t n = 0; n < length; n++)
        bytes[n] = (uint8_t)(1 + (number + n * 7) % 255);
    return length;
}

static MDB_val key_of(uint32_t number, char *text) {
    return (MDB_val){(size_t)sprintf(text, "%010u", number), text};
}

static uint32_t number_of(MDB_val key) {
    char text[16] = "";
    memcpy(text, key.mv_data, key.mv_size < 15 ? key.mv_size : 15);
    return (uint32_t)strtoul(text, NULL, 10);
}

/* The numbers of the first and the last record; none: last is 0. */
static void look_at_ends(MDB_txn *transaction, uint32_t *first, uint32_t *last) {
    MDB_cursor *cursor;
    MDB_val key, value;
    *first = 1, *last = 0;
    MUST(mdb_cursor_open(transaction, table, &cursor));
    if (mdb_cursor_get(cursor, &key, &value, MDB_LAST) == 0) {
        *last = number_of(key);
        MUST(mdb_cursor_get(cursor, &key, &value, MDB_FIRST));
        *first = number_of(key);
    }
    mdb_cursor_close(cursor);
}

static void write_for_ever(void) {
    int done = open("done", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    for (;;) {
        MDB_txn *transaction;
        uint32_t first, last;
        char text[16];
        uint8_t bytes[2000];
        MUST(mdb_txn_begin(environment, NULL, 0, &transaction));
        look_at_ends(transaction, &first, &last);
        for (uint32_t number = last + 1; number <= last + PER_COMMIT; number++) {
            MDB_val key = key_of(number, text), value = {content_of(number, bytes), bytes};
            MUST(mdb_put(transaction, table, &key, &value, 0));
        }
        last += PER_COMMIT;
        for (; last - first >= KEPT; first++) {
            MDB_val key = key_of(first, text);
            MUST(mdb_del(transaction, table, &key, NULL));
        }
        MUST(mdb_txn_commit(transaction));
        if (pwrite(done, &last, sizeof last, 0) != sizeof last)
            exit(2);
    }
}

static int check(void) {
    MDB_txn *transaction;
    MDB_cursor *cursor;
    MDB_val key, value;
    uint32_t first, last, committed = 0, expected;
    uint8_t bytes[2000];
    int done = open("done", O_RDONLY | O_CLOEXEC);
    if (done >= 0 && read(done, &committed, sizeof committed) < 0)
        return 2;
    MUST(mdb_txn_begin(environment, NULL, MDB_RDONLY, &transaction));
    look_at_ends(transaction, &first, &last);
    expected = first;
    MUST(mdb_cursor_open(transaction, table, &cursor));
    while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        uint32_t number = number_of(key);
        if (number != expected++ || value.mv_size != content_of(number, bytes) || memcmp(value.mv_data, bytes, value.mv_size) != 0) {
            printf("record %u is wrong, expected %u\n", number, expected - 1);
            return 1;
        }
    }
    printf("records %u to %u, %u was committed\n", first, last, committed);
    return last < committed || last % PER_COMMIT || expected != last + 1;
}

int main(int count, char **arguments) {
    if (count < 3)
        return 2;
    unsigned flags = strcmp(arguments[2], "writemap") == 0 ? MDB_WRITEMAP | MDB_NOSYNC : MDB_NOSYNC;
    MDB_txn *transaction;
    MUST(mdb_env_create(&environment));
    MUST(mdb_env_set_mapsize(environment, 64UL << 20));
    MUST(mdb_env_open(environment, ".", flags, 0644));
    MUST(mdb_txn_begin(environment, NULL, 0, &transaction));
    MUST(mdb_dbi_open(transaction, NULL, 0, &table));
    MUST(mdb_txn_commit(transaction));
    if (strcmp(arguments[1], "write") == 0)
        write_for_ever();
    return check();
}
