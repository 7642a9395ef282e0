/*
 * Shared mappings that the kernel serves alone (locked, executable, of a few pages and grown later), beside one that showed zeros of
 * the same file: what is stored through them is there at once.
 */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

#define LENGTH (8 * UNIT)

static void store_beside_zeros(bytes shown, bytes other) {
    static const size_t places[] = {0, UNIT + 17, 5 * UNIT, LENGTH - 1};
    for (size_t n = 0; n < sizeof places / sizeof *places; n++) {
        other[places[n]] = (uint8_t)(n + 1);
        CHECK_EQUAL(shown[places[n]], n + 1);
    }
}

static void beside(int rights, int flags) {
    int fd = sparse_file("file", LENGTH);
    bytes shown = map_shared(fd, LENGTH);
    CHECK_EQUAL(touch(shown, LENGTH), 0);
    store_beside_zeros(shown, map(fd, LENGTH, PROT_READ | PROT_WRITE | rights, MAP_SHARED | flags, 0));
}

EITHER_CASE(stores_through_a_locked_mapping, "who may lock less than the file is refused the mapping, and has nothing to serve") {
    /* Without the right to lock so much the kernel refuses the mapping, with udax and without. */
    int fd = sparse_file("probe", LENGTH);
    void *at = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_LOCKED, fd, 0);
    if (at == MAP_FAILED) {
        say("may not lock: %s", outcome(-1));
        return;
    }
    unmap(at, LENGTH);
    beside(0, MAP_LOCKED);
}

CASE(stores_through_an_executable_mapping) { beside(PROT_EXEC, 0); }

CASE(stores_through_a_mapping_with_the_hint_of_a_stack) { beside(0, MAP_STACK); }

CASE(stores_through_a_small_mapping_that_grew) {
    int fd = sparse_file("file", LENGTH);
    bytes small = map_shared(fd, PAGE);
    bytes shown = map_shared(fd, LENGTH);
    CHECK_EQUAL(touch(shown, LENGTH), 0);
    void *grown = mremap((void *)small, PAGE, LENGTH, MREMAP_MAYMOVE);
    CHECK(grown != MAP_FAILED);
    store_beside_zeros(shown, grown);
}

CASE(stores_through_a_copy_of_a_small_mapping) {
    int fd = sparse_file("file", LENGTH);
    bytes small = map_shared(fd, PAGE);
    bytes shown = map_shared(fd, LENGTH);
    CHECK_EQUAL(touch(shown, LENGTH), 0);
    void *copy = mremap((void *)small, 0, LENGTH, MREMAP_MAYMOVE);
    CHECK(copy != MAP_FAILED);
    store_beside_zeros(shown, copy);
}

#define LONG (256 * UNIT)

static bytes live;
static atomic_int replaced;
static atomic_size_t used;

static void *use_live(void *unused) {
    (void)unused;
    for (size_t n = 1; !replaced; n++) {
        size_t at = n % 4 * UNIT + n % 1000;
        live[at] = (uint8_t)n;
        CHECK_EQUAL(live[at], (uint8_t)n);
        CHECK_EQUAL(live[n % (LONG / UNIT) * UNIT + 5000], 0);
        used = n;
    }
    return NULL;
}

CASE(a_mapping_in_use_is_replaced_by_the_same) {
    int fd = sparse_file("file", LONG);
    live = map_shared(fd, LONG);
    pthread_t user;
    CHECK_EQUAL(pthread_create(&user, NULL, use_live, NULL), 0);
    for (int times = 0; times < 100; times++) {
        size_t before = used;
        while (used == before) {}
        CHECK(mmap((void *)live, LONG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == live);
    }
    replaced = 1;
    CHECK_EQUAL(pthread_join(user, NULL), 0);
    forget("file");
}
