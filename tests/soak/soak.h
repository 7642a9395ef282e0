/*
 * What the supervisor and the workers of the soak share: the model of every file, and the log of what is under way. It is System V
 * shared memory, which no mmap(2) sees, held by the supervisor; so it survives whatever becomes of a worker.
 *
 * A *slot* is a directory with its files and its segment. A *life* is one worker process, with its threads and children, from its start
 * to its end or its kill. A *lane* is one who stores: a thread, its signal handlers (a lane of their own), a forked or spawned child.
 * Pages of most units are shared out among all lanes, 64 bytes each, so that everybody stores to the same pages and each byte has one
 * owner, who alone knows what must be there. Some units belong to one thread as a whole: there it punches, zeroes and maps privately.
 * The last unit is the first thread's, and there it truncates and lengthens the file.
 *
 * A lane notes what it is about to do (state FLYING), does it, notes that it is done (DONE), enters it into the model, and is IDLE. After
 * a kill a byte under an operation in flight may be the old or the new one; every other byte must be what the model says.
 */
#ifndef SOAK_H
#define SOAK_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define PAGE 4096UL
#define UNIT (2UL << 20)
#define FILES 2
#define UNITS 24UL
#define FILE_BYTES (UNITS * UNIT)
/* Where the part begins that is truncated, by the first thread alone. */
#define TAIL (FILE_BYTES - UNIT)
#define ACTORS 32
#define THREADS 6
/* An actor and its signal handlers. */
#define LANES (2 * ACTORS)
#define SLICE (PAGE / LANES)

enum state { IDLE, FLYING, DONE };
enum kind { STORE, ZERO, RESIZE };

struct lane {
    /* Counts operations: who sees the same number twice, and IDLE, has seen nothing change between. */
    _Atomic uint64_t number;
    _Atomic uint32_t state;
    uint32_t kind, file;
    uint64_t offset, length, seed;
};

struct actor {
    /* The thread of this actor while it runs; 0 before and after. */
    _Atomic int thread;
    _Atomic int process;
    /* Moves with everything it does. */
    _Atomic uint64_t progress;
    /* What it is doing, for who finds it stuck: the index of an operation, or one of enum doing. */
    _Atomic uint32_t doing;
};

enum doing { BEGINNING = 100, REAPING, JOINING, EXITING };

enum count { STORES, LOADS, CHECKS, FORKS, SPAWNS, HANDLED, CALLS, LAYOUTS, MAPPINGS, SYNCS, PRIVATES, ARENAS, COUNTS };

struct segment {
    uint64_t life_seed;
    uint32_t life;
    uint32_t threads;
    /* Everybody comes to an end. */
    _Atomic uint32_t ending;
    _Atomic uint32_t next_actor;
    /* How far the stores of this life have come; they all go for the same few pages. */
    _Atomic uint64_t front;
    /* Somebody writes down what is wrong; has done so. */
    _Atomic uint32_t failing, failed;
    char failure[1000];
    _Atomic uint64_t counts[COUNTS];
    struct actor actors[ACTORS];
    struct lane lanes[LANES];
    uint64_t sizes[FILES];
    uint8_t model[FILES][FILE_BYTES];
};

static inline uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

struct random {
    uint64_t state;
};

static inline uint64_t next(struct random *random) { return mix(random->state += 0x9e3779b97f4a7c15ULL); }

static inline uint64_t below(struct random *random, uint64_t bound) { return next(random) % bound; }

static inline bool one_in(struct random *random, uint64_t bound) { return below(random, bound) == 0; }

/* What a store of that seed puts at an offset; never zero, so that a lost store is seen. */
static inline uint8_t byte_of(uint64_t seed, uint64_t offset) {
    return (uint8_t)(1 + (mix(seed + offset / 8) >> (offset % 8 * 8) & 0xff) % 255);
}

/* Who owns a unit as a whole: -1 for units that are shared out by slices. */
static inline int owner_of(uint32_t file, uint64_t unit, uint32_t threads) {
    if (unit == UNITS - 1)
        return 0;
    return unit % 4 == 2 ? (int)((unit / 4 + file) % threads) : -1;
}

/* What an operation leaves at an offset inside its range. */
static inline uint8_t outcome(const struct lane *lane, uint64_t offset) {
    return lane->kind == STORE ? byte_of(lane->seed, offset) : 0;
}

/* Enters an operation into the model. */
static inline void enter(struct segment *segment, const struct lane *lane) {
    uint8_t *model = segment->model[lane->file];
    if (lane->kind == RESIZE) {
        memset(model + lane->offset, 0, FILE_BYTES - lane->offset);
        segment->sizes[lane->file] = lane->offset;
        return;
    }
    for (uint64_t offset = lane->offset; offset < lane->offset + lane->length; offset++)
        model[offset] = outcome(lane, offset);
}

#endif
