/*
 * One program maps, loads, stores, syncs and forks; others open its files, write, cut, lengthen and punch them at random meanwhile, faster than leases can be answered.
 *
 * Whoever writes a byte writes the same there, so each byte is that or zero at all times; and when all have ended, mappings and files are the same.
 *
 *     STORM_SECONDS=5 STORM_SEED=1 storm without_forks|with_forks      (in an empty directory)
 */
#include "../semantics/check.h"
#include <time.h>

#define FILES 4
#define LENGTH (8 * UNIT)
#define OTHERS 6

static uint64_t state;
static uint64_t any(uint64_t below) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (uint64_t)(((unsigned __int128)state * below) >> 64);
}

static uint8_t right_byte(size_t file, size_t offset) {
    return (uint8_t)((offset * 2654435761UL >> 13) + file * 37) | 1;
}

static const char *name_of(size_t file) {
    static char name[FILES][16];
    snprintf(name[file], sizeof name[file], "file-%zu", file);
    return name[file];
}

static time_t ends_at;
static int time_is_over(void) { return time(NULL) >= ends_at; }

static void write_some(int fd, size_t file) {
    uint8_t buffer[9000];
    size_t offset = any(LENGTH), length = any(sizeof buffer) + 1;
    for (size_t n = 0; n < length; n++)
        buffer[n] = right_byte(file, offset + n);
    if (pwrite(fd, buffer, length, (off_t)offset) < 0)
        CHECK(errno == ENOSPC || errno == EBADF);
}

/* Opens a file in one way or the other, does one thing to it, closes it. */
static void disturb(void) {
    size_t file = any(FILES);
    int flags = any(8) == 0 ? O_RDONLY : any(30) == 0 ? O_RDWR | O_TRUNC : O_RDWR;
    if (any(10) == 0)
        flags |= O_NONBLOCK;
    int fd = open(name_of(file), flags | O_CLOEXEC);
    if (fd < 0) {
        CHECK(errno == EWOULDBLOCK);
        return;
    }
    off_t from = (off_t)any(LENGTH), length = (off_t)any(LENGTH / 4) + 1;
    switch (flags & O_ACCMODE ? any(8) : 7) {
    case 0:
    case 1:
    case 2: write_some(fd, file); break;
    case 3: MUST(ftruncate(fd, from)); break;
    case 4: MUST(ftruncate(fd, LENGTH)); break;
    case 5: fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, length); break;
    case 6: fallocate(fd, 0, from, length % (64 * (off_t)PAGE) + 1); break;
    default: break;
    }
    close(fd);
    if (any(4) == 0)
        MUST(truncate(name_of(file), LENGTH));
}

static void be_another(uint64_t seed) {
    state = seed;
    while (!time_is_over()) {
        disturb();
        /* Now and then the files are left alone for a while, so that leases are to be had. */
        if (any(20) == 0) {
            struct timespec some = {0, (long)any(20000000)};
            nanosleep(&some, NULL);
        }
    }
    _exit(0);
}

static int fds[FILES];
static bytes at[FILES], copies[FILES];
static size_t served, mapped, buses;
static int forks;

static void map_anew(size_t file) {
    if (at[file]) {
        unmap(at[file], LENGTH);
        unmap(copies[file], LENGTH);
        close(fds[file]);
    }
    /* What was open at a fork may be written through that descriptor unseen: a file of its own is served after one. */
    if (forks) {
        int fresh = sparse_file("fresh", LENGTH);
        MUST(rename("fresh", name_of(file)));
        close(fresh);
    }
    fds[file] = open(name_of(file), O_RDWR | O_CLOEXEC);
    CHECK(fds[file] >= 0);
    at[file] = map_shared(fds[file], LENGTH);
    copies[file] = map_private(fds[file], LENGTH);
    mapped++;
    served += (size_t)is_served(fds[file], at[file], LENGTH);
}

static void look(bytes where, size_t file) {
    size_t offset = any(LENGTH);
    int number = signal_of_load(where + offset);
    if (number) {
        CHECK_EQUAL(number, SIGBUS);
        buses++;
        return;
    }
    static volatile uint8_t value;
    int again = sigsetjmp(fault_jump, 1);
    if (again == 0) {
        fault_armed = 1;
        value = where[offset];
        fault_armed = 0;
        CHECK(value == 0 || value == right_byte(file, offset));
    }
}

static void step(void) {
    size_t file = any(FILES), offset = any(LENGTH);
    int number;
    switch (any(40)) {
    case 0: map_anew(file); break;
    case 1: msync((void *)at[file], LENGTH, any(2) ? MS_SYNC : MS_ASYNC); break;
    case 2: write_some(fds[file], file); break;
    case 3: {
        if (!forks)
            break;
        pid_t child = fork();
        if (child == 0) {
            state += 77;
            for (int n = 0; n < 20; n++) {
                size_t which = any(FILES);
                look(at[which], which);
            }
            _exit(0);
        }
        CHECK_EQUAL(end_of(child), 0);
        break;
    }
    case 4: MUST(ftruncate(fds[file], LENGTH)); break;
    case 5:
    case 6:
    case 7: look(copies[file], file); break;
    case 8: number = signal_of_store(copies[file] + offset, right_byte(file, offset)); CHECK(number == 0 || number == SIGBUS); break;
    default:
        if (any(2)) {
            look(at[file], file);
            break;
        }
        number = signal_of_store(at[file] + offset, right_byte(file, offset));
        CHECK(number == 0 || number == SIGBUS);
    }
}

static void storm(void) {
    const char *seconds = getenv("STORM_SECONDS"), *seed = getenv("STORM_SEED");
    ends_at = time(NULL) + (seconds ? atoi(seconds) : 5);
    state = seed ? strtoull(seed, NULL, 10) : 1;
    for (size_t file = 0; file < FILES; file++)
        close(sparse_file(name_of(file), LENGTH));
    pid_t others[OTHERS];
    for (size_t n = 0; n < OTHERS; n++)
        if ((others[n] = fork()) == 0)
            be_another(state * 31 + n);
    for (size_t file = 0; file < FILES; file++)
        map_anew(file);
    while (!time_is_over())
        step();
    for (size_t n = 0; n < OTHERS; n++)
        CHECK_EQUAL(end_of(others[n]), 0);
    for (size_t file = 0; file < FILES; file++) {
        MUST(ftruncate(fds[file], LENGTH));
        CHECK(same_as_file(at[file], fds[file], 0, LENGTH));
        for (size_t offset = 0; offset < LENGTH; offset++)
            CHECK(at[file][offset] == 0 || at[file][offset] == right_byte(file, offset));
        for (size_t offset = file; offset < LENGTH; offset += 9 * PAGE + 7)
            at[file][offset] = right_byte(file, offset);
        CHECK(same_as_file(at[file], fds[file], 0, LENGTH));
        forget(name_of(file));
    }
    fprintf(stderr, "mapped %zu times, %zu of them served; %zu loads past the end\n", mapped, served, buses);
    FILE *note = fopen("served", "w");
    fputs(served ? "yes\n" : "no\n", note);
    fclose(note);
}

CASE(without_forks) { storm(); }
CASE(with_forks) { forks = 1, storm(); }
