/* Programs that have plenty of something: mappings, files, length. */
#include "check.h"
#include <pthread.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/vfs.h>

/* As many as the case is about in memory; a disk that is asked for so many takes minutes, plainly too. */
static size_t so_many(size_t in_memory, size_t on_disk) {
    struct statfs status;
    MUST(statfs(".", &status));
    return status.f_type == TMPFS_MAGIC ? in_memory : on_disk;
}

static void every_unit_is_right(bytes at, int fd, size_t units, size_t step) {
    for (size_t unit = 0; unit < units; unit++) {
        uint8_t expected = unit % step == 0 ? (uint8_t)(unit | 1) : 0;
        if (step == 1 || unit % step == 0 || unit % 97 == 0)
            CHECK_EQUAL(byte_of_file(fd, (off_t)(unit * UNIT + unit % PAGE)), expected);
        if (unit % step == 0)
            CHECK_EQUAL(at[unit * UNIT + unit % PAGE], expected);
    }
}

/* ---- mappings ---- */

/* Each store would make two more mappings of what was one: more than a process may have. */
CASE(scattered_stores_over_a_large_file) {
    size_t units = 80000;
    int fd = sparse_file("file", units * UNIT);
    bytes at = map_shared(fd, units * UNIT);
    for (size_t unit = 0; unit < units; unit += 2)
        at[unit * UNIT + unit % PAGE] = (uint8_t)(unit | 1);
    every_unit_is_right(at, fd, units, 2);
    forget("file");
}

CASE(scattered_loads_and_stores_over_a_large_file) {
    size_t units = so_many(80000, 8000);
    int fd = sparse_file("file", units * UNIT);
    bytes at = map_shared(fd, units * UNIT);
    for (size_t unit = 0; unit < units; unit += 4) {
        CHECK_EQUAL(at[(unit + 2) * UNIT], 0);
        at[unit * UNIT + unit % PAGE] = (uint8_t)(unit | 1);
    }
    every_unit_is_right(at, fd, units, 4);
    forget("file");
}

/* Takes mappings of its own until the kernel gives no more; how many pages they lie in. 0 where there may be too many to try. */
static bytes own_mappings;
static size_t own_pages;

static int use_up_mappings(size_t leave) {
    FILE *limit_file = fopen("/proc/sys/vm/max_map_count", "r");
    size_t limit = 0;
    CHECK(limit_file && fscanf(limit_file, "%zu", &limit) == 1);
    fclose(limit_file);
    if (limit > 300000) {
        say("SKIPPED: vm.max_map_count is %zu, too many to use up", limit);
        return 0;
    }
    own_pages = limit + 100;
    own_mappings = mmap(NULL, own_pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(own_mappings != MAP_FAILED);
    size_t page = 1;
    while (page < own_pages && mprotect((void *)(own_mappings + page * PAGE), PAGE, PROT_READ) == 0)
        page += 2;
    CHECK(page < own_pages);
    if (leave)
        MUST(munmap((void *)own_mappings, 2 * leave * PAGE));
    return 1;
}

#define NEAR_UNITS 8UL

/* Two shared mappings side by side, and a private one, each read; then nothing is left, and everything goes on. */
static void at_the_limit(size_t leave) {
    int one = sparse_file("one", NEAR_UNITS * UNIT), other = sparse_file("other", NEAR_UNITS * UNIT);
    int third = sparse_file("third", NEAR_UNITS * UNIT);
    uint8_t *area = mmap(NULL, (2 * NEAR_UNITS + 1) * UNIT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *first = (uint8_t *)(((uintptr_t)area + UNIT - 1) & ~(UNIT - 1));
    CHECK(mmap(first, NEAR_UNITS * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, one, 0) == first);
    uint8_t *second = first + NEAR_UNITS * UNIT;
    CHECK(mmap(second, NEAR_UNITS * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0) == second);
    bytes copies = map_private(third, NEAR_UNITS * UNIT);
    CHECK_EQUAL(touch(copies, NEAR_UNITS * UNIT), 0);
    for (size_t unit = 0; unit < 4; unit++)
        copies[unit * UNIT + 5] = 5;
    if (!use_up_mappings(leave))
        return;
    for (size_t unit = 0; unit < NEAR_UNITS; unit++) {
        first[unit * UNIT + unit % PAGE] = (uint8_t)(unit | 1);
        second[unit * UNIT + unit % PAGE] = (uint8_t)(unit | 1);
        copies[unit * UNIT + 9] = 9;
    }
    every_unit_is_right(first, one, NEAR_UNITS, 1);
    every_unit_is_right(second, other, NEAR_UNITS, 1);
    /* The ends of the proofs: all of it has to become plain. */
    int again = open("third", O_RDWR);
    CHECK_EQUAL(pwrite(again, "p", 1, 7 * UNIT), 1);
    CHECK_EQUAL(copies[7 * UNIT + 9], 9);
    CHECK_EQUAL(pwrite(again, "p", 1, 7 * UNIT + 3 * PAGE), 1);
    CHECK_EQUAL(copies[7 * UNIT + 3 * PAGE], 'p');
    for (size_t unit = 0; unit < NEAR_UNITS; unit++)
        CHECK(copies[unit * UNIT + 5] == (unit < 4 ? 5 : 0) && copies[unit * UNIT + 9] == 9);
    again = open("one", O_RDWR);
    CHECK_EQUAL(pwrite(again, "s", 1, 3 * UNIT + PAGE), 1);
    CHECK_EQUAL(first[3 * UNIT + PAGE], 's');
    pid_t child = fork();
    if (child == 0) {
        second[2 * UNIT + PAGE] = 'c';
        _exit(0);
    }
    CHECK_EQUAL(end_of(child), 0);
    CHECK_EQUAL(second[2 * UNIT + PAGE], 'c');
    MUST(munmap((void *)own_mappings, own_pages * PAGE));
    first[4 * UNIT + PAGE] = 4;
    CHECK(same_as_file(first, one, 0, NEAR_UNITS * UNIT));
    CHECK(same_as_file(second, other, 0, NEAR_UNITS * UNIT));
}

CASE(at_the_limit_of_mappings) { at_the_limit(0); }
CASE(two_before_the_limit_of_mappings) { at_the_limit(1); }
CASE(ten_before_the_limit_of_mappings) { at_the_limit(5); }
CASE(a_hundred_before_the_limit_of_mappings) { at_the_limit(50); }

PLAIN_CASE(mapping_at_the_limit_of_mappings, "no mapping is left for ours") {
    int fd = sparse_file("file", NEAR_UNITS * UNIT);
    if (!use_up_mappings(2))
        return;
    bytes at = map_shared(fd, NEAR_UNITS * UNIT);
    CHECK_EQUAL(touch(at, NEAR_UNITS * UNIT), 0);
    for (size_t unit = 0; unit < NEAR_UNITS; unit++)
        at[unit * UNIT + unit % PAGE] = (uint8_t)(unit | 1);
    every_unit_is_right(at, fd, NEAR_UNITS, 1);
}

/* ---- length ---- */

/* As long as ext4 can: 16 TiB less a page. */
CASE(the_far_ends_of_sixteen_tebibytes) {
    size_t length = (16UL << 40) - PAGE;
    int fd = sparse_file("file", length);
    bytes at = map_shared(fd, length);
    bytes copy = map(fd, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, 0);
    size_t places[] = {0, 12345, UNIT, length / 2, length - UNIT - 1, length - PAGE, length - 1};
    size_t count = sizeof places / sizeof *places;
    for (size_t n = 0; n < count; n++)
        CHECK(at[places[n]] == 0 && copy[places[n]] == 0);
    for (size_t n = 0; n < count; n++)
        at[places[n]] = (uint8_t)(n + 1);
    copy[length - 2] = 9;
    for (size_t n = 0; n < count; n++) {
        CHECK_EQUAL(byte_of_file(fd, (off_t)places[n]), n + 1);
        CHECK_EQUAL(at[places[n]], n + 1);
    }
    CHECK_EQUAL(byte_of_file(fd, (off_t)length - 2), 0);
    CHECK_EQUAL(copy[length - 2], 9);
    CHECK_EQUAL(pwrite(fd, "m", 1, (off_t)length / 4 * 3), 1);
    CHECK_EQUAL(at[length / 4 * 3], 'm');
    MUST(msync((void *)(at + (length & ~(UNIT - 1)) - UNIT), UNIT, MS_SYNC));
    MUST(ftruncate(fd, (off_t)(length / 2)));
    CHECK_EQUAL(signal_of_load(at + length - 1), SIGBUS);
    CHECK_EQUAL(signal_of_load(at + length / 2 - 1), 0);
    forget("file");
}

/* ---- files ---- */

#define FILES 10000UL
static int files[FILES];
static bytes views[FILES];

CASE(ten_thousand_files_mapped_at_once) {
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    size_t wanted = so_many(FILES, 1500), count = limit.rlim_cur < wanted + 100 ? limit.rlim_cur - 100 : wanted;
    if (count < wanted)
        say("SKIPPED in part: this user may have %zu files open, not %zu", count, wanted);
    for (size_t n = 0; n < count; n++) {
        files[n] = sparse_file("file", 2 * UNIT);
        forget("file");
        views[n] = map_shared(files[n], 2 * UNIT);
        CHECK_EQUAL(views[n][n * 7 % (2 * UNIT)], 0);
    }
    for (size_t n = 0; n < count; n++)
        views[n][n * 131 % (2 * UNIT)] = (uint8_t)(n | 1);
    for (size_t n = 0; n < count; n++) {
        CHECK_EQUAL(byte_of_file(files[n], (off_t)(n * 131 % (2 * UNIT))), (uint8_t)(n | 1));
        CHECK_EQUAL(views[n][(n * 131 + UNIT) % (2 * UNIT)], 0);
    }
}

/* The same with no more descriptors than the program itself needs. */
CASE(as_many_files_as_descriptors) {
    struct rlimit limit = {600, 600};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    size_t count = 0;
    while (count < 600 && (files[count] = open("file", O_RDWR | O_CREAT | O_CLOEXEC, 0644)) >= 0) {
        forget("file");
        MUST(ftruncate(files[count], 2 * UNIT));
        views[count] = map_shared(files[count], 2 * UNIT);
        CHECK_EQUAL(touch(views[count], 2 * UNIT), 0);
        if (count == 0)
            tell_service(files[0], views[0], 2 * UNIT);
        count++;
    }
    say("%s after more than 500: %d", outcome(-1), count > 500);
    for (size_t n = 0; n < count; n++)
        views[n][n * 131 % (2 * UNIT)] = (uint8_t)(n | 1);
    for (size_t n = 0; n < count; n++)
        CHECK_EQUAL(byte_of_file(files[n], (off_t)(n * 131 % (2 * UNIT))), (uint8_t)(n | 1));
}
