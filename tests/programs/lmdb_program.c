/* LMDB from C: a writable map grown between transactions, readers in threads beside a writer. */
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void put(MDB_txn *transaction, unsigned number) {
    char name[16], text[200];
    memset(text, 'a' + number % 26, sizeof text);
    MDB_val key = {(size_t)snprintf(name, sizeof name, "%08u", number), name}, value = {sizeof text, text};
    MUST(mdb_put(transaction, table, &key, &value, 0));
}

/* Whatever a reader sees is whole: a multiple of the 100 that each transaction puts. */
static void *read_all(void *argument) {
    for (int round = 0; round < 50; round++) {
        MDB_txn *transaction;
        MDB_cursor *cursor;
        MDB_val key, value;
        size_t count = 0;
        MUST(mdb_txn_begin(environment, NULL, MDB_RDONLY, &transaction));
        MUST(mdb_cursor_open(transaction, table, &cursor));
        while (mdb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
            const char *text = value.mv_data;
            if (value.mv_size != 200 || text[0] != text[199])
                exit(3);
            count++;
        }
        if (count % 100)
            exit(4);
        mdb_cursor_close(cursor);
        mdb_txn_abort(transaction);
    }
    return argument;
}

int main(int arguments, char **names) {
    unsigned flags = arguments > 1 && strcmp(names[1], "writemap") == 0 ? MDB_WRITEMAP | MDB_NOSYNC : MDB_NOSYNC;
    MDB_txn *transaction;
    pthread_t readers[2];
    MUST(mdb_env_create(&environment));
    MUST(mdb_env_set_mapsize(environment, 64UL << 20));
    MUST(mdb_env_open(environment, ".", flags, 0644));
    MUST(mdb_txn_begin(environment, NULL, 0, &transaction));
    MUST(mdb_dbi_open(transaction, NULL, 0, &table));
    MUST(mdb_txn_commit(transaction));
    for (int n = 0; n < 2; n++)
        pthread_create(&readers[n], NULL, read_all, NULL);
    for (unsigned number = 0; number < 20000; number += 100) {
        MUST(mdb_txn_begin(environment, NULL, 0, &transaction));
        for (unsigned n = 0; n < 100; n++)
            put(transaction, number + n);
        MUST(mdb_txn_commit(transaction));
    }
    for (int n = 0; n < 2; n++)
        pthread_join(readers[n], NULL);
    MUST(mdb_env_set_mapsize(environment, 256UL << 20));
    MUST(mdb_txn_begin(environment, NULL, 0, &transaction));
    for (unsigned number = 20000; number < 25000; number++)
        put(transaction, number);
    MUST(mdb_txn_commit(transaction));
    MUST(mdb_env_sync(environment, 1));
    MDB_stat status;
    MUST(mdb_env_stat(environment, &status));
    printf("entries %zu, depth %u, leaves %zu\n", status.ms_entries, status.ms_depth, status.ms_leaf_pages);
    mdb_env_close(environment);
    remove("lock.mdb");
    return 0;
}
