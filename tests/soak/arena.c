/*
 * A file of its own for a few milliseconds, again and again: fresh, mapped several times, all hole; all threads store to the same units at
 * once, and load what they and the others have stored through the other mappings. The races of a first store are met much more often
 * than in the files that live longer. A thread has eight bytes in each page, in which only greater numbers come; so a smaller one is old.
 */
#include "worker.h"
#include <sched.h>
#include <sys/mman.h>

#define ARENA_UNITS 8UL
#define ARENA_PAGES (ARENA_UNITS * UNIT / PAGE)
#define SHOWN 3

enum stage { NONE, BUILDING, OPEN, CLOSING };

static struct {
    _Atomic uint32_t stage, users;
    /* Stores that are left until it is closed. */
    _Atomic int64_t left;
    _Atomic uint64_t front;
    int fd;
    /* Mappings of it, and the byte of the file at which each begins. */
    uint64_t *at[SHOWN];
    uint64_t offsets[SHOWN];
    bool in_order;
    /* What each thread has stored to each page; noted after it is stored. */
    _Atomic uint64_t stored[THREADS][ARENA_PAGES];
} arena;

static void build(struct random *random) {
    char name[40];
    snprintf(name, sizeof name, "arena-%lx", next(random));
    arena.fd = MUST(open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    MUST(unlink(name));
    MUST(ftruncate(arena.fd, ARENA_UNITS * UNIT));
    memset(arena.stored, 0, sizeof arena.stored);
    for (int n = 0; n < SHOWN; n++) {
        /* The last one begins and ends in the middle of 2 MiB. */
        uint64_t cut = n == SHOWN - 1 ? below(random, 512) * PAGE : 0;
        arena.offsets[n] = cut;
        arena.at[n] = MUST(mmap(NULL, ARENA_UNITS * UNIT - 2 * cut, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, (off_t)cut));
    }
    arena.in_order = one_in(random, 3);
    atomic_store(&arena.left, 1 + (int64_t)below(random, 1000));
    atomic_store(&arena.front, 0);
}

/* Every byte through the file; then it is gone. Only one thread is here at a time. */
static void take_down(void) {
    static uint64_t found[64 * PAGE / 8];
    for (uint64_t page = 0; page < ARENA_PAGES; page++) {
        const uint64_t *words = found + page % 64 * (PAGE / 8);
        if (page % 64 == 0 && pread(arena.fd, found, sizeof found, (off_t)(page * PAGE)) != sizeof found)
            give_up("arena: pread of page %lu: %s", page, strerror(errno));
        for (int n = 0; n < (int)(PAGE / 8); n++) {
            uint64_t expected = n < THREADS ? atomic_load(&arena.stored[n][page]) : 0;
            if (words[n] != expected)
                give_up("arena: page %lu of the file, word %d: expected %lx, found %lx", page, n, expected, words[n]);
        }
    }
    for (int n = 0; n < SHOWN; n++)
        MUST(munmap(arena.at[n], ARENA_UNITS * UNIT - 2 * arena.offsets[n]));
    MUST(close(arena.fd));
}

/* Where a mapping shows a word of the file; null: it does not. */
static volatile uint64_t *shown(int mapping, uint64_t page, int word) {
    uint64_t cut = arena.offsets[mapping], offset = page * PAGE;
    if (offset < cut || offset >= ARENA_UNITS * UNIT - cut)
        return NULL;
    return arena.at[mapping] + (offset - cut) / 8 + word;
}

/* No mapping shows less than what was there before the look. */
static void look_everywhere(uint64_t page, int thread, int looker) {
    for (int n = 0; n < SHOWN; n++) {
        uint64_t least = atomic_load(&arena.stored[thread][page]);
        volatile uint64_t *word = shown(n, page, thread);
        uint64_t found = word ? *word : least;
        if (found < least)
            give_up("arena: page %lu, word %d: thread %d finds %lx by mapping %d (from %lx on), where %lx had been stored", page, thread,
                    looker, found, n, arena.offsets[n], least);
        count(CHECKS);
    }
}

static void store_once(struct self *self) {
    struct random *random = &self->random;
    uint64_t place = atomic_fetch_add(&arena.front, one_in(random, 3)) + below(random, 2);
    uint64_t page = (arena.in_order ? place : place % ARENA_UNITS * 512 + place / ARENA_UNITS * 37 % 512) % ARENA_PAGES;
    uint64_t value = atomic_load(&arena.stored[self->actor][page]) + 1 + below(random, 1 << 20);
    volatile uint64_t *word = shown((int)below(random, SHOWN), page, self->actor);
    if (one_in(random, 2))
        look_everywhere(page, self->actor, self->actor);
    if (!word || one_in(random, 8)) {
        if (pwrite(arena.fd, &value, 8, (off_t)(page * PAGE + (uint64_t)self->actor * 8)) != 8)
            give_up("arena: pwrite: %s", strerror(errno));
    } else {
        *word = value;
    }
    atomic_store(&arena.stored[self->actor][page], value);
    look_everywhere(page, self->actor, self->actor);
    look_everywhere(page, (int)below(random, segment->threads), self->actor);
    count(STORES);
}

bool is_fight_on(void) { return atomic_load(&arena.stage) == OPEN; }

/* The first threads' alone: what a forked child inherits of it is not used. */
void fight(struct self *self) {
    uint32_t none = NONE, open = OPEN;
    if (atomic_load(&arena.stage) == NONE && atomic_compare_exchange_strong(&arena.stage, &none, BUILDING)) {
        build(&self->random);
        atomic_store(&arena.stage, OPEN);
    }
    atomic_fetch_add(&arena.users, 1);
    while (atomic_load(&arena.stage) == OPEN && atomic_fetch_sub(&arena.left, 1) > 0)
        store_once(self);
    atomic_fetch_sub(&arena.users, 1);
    if (atomic_load(&arena.stage) != OPEN || !atomic_compare_exchange_strong(&arena.stage, &open, CLOSING))
        return;
    while (atomic_load(&arena.users) != 0)
        sched_yield();
    take_down();
    count(ARENAS);
    atomic_store(&arena.stage, NONE);
}
