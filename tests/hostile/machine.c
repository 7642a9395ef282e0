/* What the machine does to a program: no space, no quota, little memory, others who cut and open its files. Played by tests/hostile.sh, which prepares the place. */
#include "../semantics/check.h"
#include <linux/quota.h>
#include <sys/auxv.h>
#include <sys/quota.h>

/* Told beside the output, which is the same plainly. */
static void tell_if_served(int served) {
    FILE *note = fopen("served", "w");
    CHECK(note);
    fputs(served ? "yes\n" : "no\n", note);
    fclose(note);
}

/* ---- no space ---- */

#define FULL_BYTES (64 * UNIT)
#define FULL_PAGES (FULL_BYTES / PAGE)
static uint8_t stored[FULL_PAGES];

/* Stores here and there until a store is refused; everything that was not refused is there. */
static size_t store_until_refused(bytes at, size_t from, size_t step) {
    for (size_t n = from; n < FULL_PAGES; n++) {
        size_t page = n * step % FULL_PAGES;
        if (stored[page])
            continue;
        int number = signal_of_store(at + page * PAGE + page % PAGE, (uint8_t)(page | 1));
        if (number != 0) {
            CHECK_EQUAL(number, SIGBUS);
            return n;
        }
        stored[page] = 1;
    }
    return FULL_PAGES;
}

static size_t check_stored(bytes at, int fd) {
    size_t count = 0;
    for (size_t page = 0; page < FULL_PAGES; page++) {
        if (!stored[page])
            continue;
        count++;
        CHECK_EQUAL(at[page * PAGE + page % PAGE], (uint8_t)(page | 1));
        CHECK_EQUAL(byte_of_file(fd, (off_t)(page * PAGE + page % PAGE)), (uint8_t)(page | 1));
    }
    return count;
}

/* `ballast` takes half of what there is; the script has made it. */
static void full(size_t step) {
    int fd = sparse_file("file", FULL_BYTES);
    bytes at = map_shared(fd, FULL_BYTES);
    CHECK_EQUAL(at[FULL_BYTES - 1], 0);
    tell_if_served(is_served(fd, at, FULL_BYTES));
    size_t reached = store_until_refused(at, 0, step);
    CHECK(reached > 200 && reached < FULL_PAGES);
    size_t before = check_stored(at, fd);
    /* It is refused to a system call too, and again to a store, and a load from a hole of a disk's file is not. */
    char page[PAGE];
    memset(page, 1, sizeof page);
    long answer = 0;
    for (size_t n = 0; n < FULL_PAGES && answer != -1; n++)
        if (!stored[n] && (answer = pwrite(fd, page, PAGE, (off_t)(n * PAGE))) == PAGE)
            stored[n] = 2, CHECK_EQUAL(pwrite(fd, &(uint8_t){(uint8_t)(n | 1)}, 1, (off_t)(n * PAGE + n % PAGE)), 1);
    say("a write: %s", outcome(answer));
    CHECK_EQUAL(store_until_refused(at, reached, step) < FULL_PAGES, 1);
    CHECK(check_stored(at, fd) >= before);
    /* The space comes back: stores go on where they were refused. */
    MUST(unlink("ballast"));
    sync();
    CHECK_EQUAL(signal_of_store(at + reached * step % FULL_PAGES * PAGE, 7), 0);
    at[reached * step % FULL_PAGES * PAGE] = 0;
    size_t again = store_until_refused(at, reached, step);
    CHECK(again > reached + 100);
    CHECK(check_stored(at, fd) > before);
    say("msync: %s", outcome(msync((void *)at, FULL_BYTES, MS_SYNC)));
    unmap(at, FULL_BYTES);
    at = map_shared(fd, FULL_BYTES);
    check_stored(at, fd);
    forget("file");
}

CASE(full_by_scattered_stores) { full(8191); }
CASE(full_by_stores_in_order) { full(1); }

/* Sets the quota of user 65534 on the file system whose device is in QUOTA_DEVICE. As root. */
CASE(set_quota) {
    const char *device = getenv("QUOTA_DEVICE"), *blocks = getenv("QUOTA_BLOCKS");
    if (!device || !blocks)
        return;
    struct dqblk limits = {.dqb_bhardlimit = strtoull(blocks, NULL, 10), .dqb_valid = QIF_BLIMITS};
    say("quota: %s", outcome(quotactl(QCMD(Q_SETQUOTA, USRQUOTA), device, 65534, (caddr_t)&limits)));
}

/* ---- little memory ---- */

/* More storage than there is memory: the kernel takes pages away all the time, and they come back with what was stored. Runs of pages here and there, as a
 * disk that is given single pages would take minutes. */
#define RUNS 160UL
#define RUN_PAGES 64UL

static bytes page_of_run(bytes at, size_t n, size_t page) {
    return at + (n * 37 % (2 * RUNS)) * 4 * RUN_PAGES * PAGE + page * PAGE;
}

CASE(pressure) {
    size_t length = 2 * RUNS * 4 * RUN_PAGES * PAGE;
    int fd = sparse_file("file", length);
    bytes at = map_shared(fd, length), copy = map_private(fd, length);
    CHECK_EQUAL(at[0], 0);
    tell_if_served(is_served(fd, at, length));
    for (size_t n = 0; n < 500; n++)
        copy[n * 163 * PAGE] = 9;
    for (size_t n = 0; n < RUNS; n++)
        for (size_t page = 0; page < RUN_PAGES; page++)
            page_of_run(at, n, page)[8] = (uint8_t)((n + page) % 251 + 1);
    for (size_t round = 0; round < 2; round++)
        for (size_t n = 0; n < 2 * RUNS; n++)
            for (size_t page = 0; page < RUN_PAGES; page++)
                CHECK_EQUAL(page_of_run(at, n, page)[8], n < RUNS ? (n + page) % 251 + 1 : 0);
    for (size_t n = 0; n < 500; n++)
        CHECK_EQUAL(copy[n * 163 * PAGE], 9);
    forget("file");
}

/* A hole many times as large as the memory. Plainly that is the end of the process on tmpfs; the script plays it under udax only. */
CASE(a_hole_larger_than_memory) {
    int fd = sparse_file("file", 2048 * UNIT);
    bytes at = map_shared(fd, 2048 * UNIT);
    CHECK_EQUAL(at[0], 0);
    int served = is_served(fd, at, 2048 * UNIT);
    CHECK_EQUAL(touch(at, 2048 * UNIT), 0);
    at[1000 * UNIT] = 1;
    CHECK_EQUAL(byte_of_file(fd, 1000 * UNIT), 1);
    tell_if_served(served);
    forget("file");
}

/* ---- a million pieces ---- */

#define PIECES 1000000UL
#define PIECE_STEP (2 * PAGE)

/* One byte in every other page; made plainly, on a file system of small blocks. */
CASE(make_pieces) {
    int fd = sparse_file("pieces", PIECES * PIECE_STEP);
    for (size_t n = 0; n < PIECES; n++)
        CHECK_EQUAL(pwrite(fd, "x", 1, (off_t)(n * PIECE_STEP)), 1);
    MUST(fsync(fd));
}

CASE(a_million_extents) {
    int fd = open("pieces", O_RDWR);
    size_t length = PIECES * PIECE_STEP;
    int served = 0;
    for (int round = 0; round < 20; round++) {
        bytes at = map_shared(fd, length);
        served |= is_served(fd, at, length);
        for (size_t n = (size_t)round * 9973 % 4000; n < PIECES; n += 4000) {
            CHECK_EQUAL(at[n * PIECE_STEP], 'x');
            CHECK_EQUAL(at[n * PIECE_STEP + PAGE], 0);
        }
        for (size_t n = 7; n < PIECES; n += 50021) {
            size_t place = n * PIECE_STEP + PAGE + (size_t)round;
            at[place] = 'y';
            CHECK_EQUAL(byte_of_file(fd, (off_t)place), 'y');
        }
        unmap(at, length);
    }
    tell_if_served(served);
}

/* ---- another user's rights ---- */

/* With another user's rights no library is put before a program. */
CASE(set_user_id) {
    say("secure: %lu", getauxval(AT_SECURE));
    int fd = sparse_file("of-the-user", 4 * UNIT);
    bytes at = map_shared(fd, 4 * UNIT);
    CHECK_EQUAL(touch(at, 4 * UNIT), 0);
    at[UNIT] = 1;
    CHECK(same_as_file(at, fd, 0, 4 * UNIT));
    if (getauxval(AT_SECURE))
        CHECK(!is_served(fd, at, 4 * UNIT));
    tell_if_served(is_served(fd, at, 4 * UNIT));
    forget("of-the-user");
}
