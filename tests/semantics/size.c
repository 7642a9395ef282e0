/* The end of the file and its storage: truncation, extension, fallocate, names that come and go. */
#include "check.h"

#define FILE_BYTES (8 * UNIT)

static bytes touched_hole(int *fd) {
    *fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(*fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    return at;
}

CASE(shrinking_gives_sigbus_and_growing_gives_zeros) {
    int fd;
    bytes at = touched_hole(&fd);
    memset((void *)(at + 2 * UNIT), 7, 3 * UNIT);
    MUST(ftruncate(fd, 3 * UNIT + 100));
    say("load past the end: %s code %d", signal_name(signal_of_load(at + 3 * UNIT + PAGE)), fault_code);
    CHECK(fault_address == (uintptr_t)(at + 3 * UNIT + PAGE));
    say("store past the end: %s", signal_name(signal_of_store(at + 7 * UNIT, 1)));
    say("load of what was a touched hole: %s", signal_name(signal_of_load(at + 6 * UNIT)));
    CHECK(all_bytes_are(at + 2 * UNIT, UNIT + 100, 7));
    CHECK(all_bytes_are(at + 3 * UNIT + 100, PAGE - 100, 0));
    MUST(ftruncate(fd, FILE_BYTES));
    CHECK(all_bytes_are(at + 3 * UNIT + 100, FILE_BYTES - 3 * UNIT - 100, 0));
    at[4 * UNIT] = 1;
    at[7 * UNIT] = 2;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(truncation_by_name_is_seen) {
    int fd;
    bytes at = touched_hole(&fd);
    at[5 * UNIT] = 5;
    MUST(truncate("file", UNIT));
    CHECK_EQUAL(signal_of_load(at + UNIT), SIGBUS);
    CHECK_EQUAL(signal_of_store(at + 5 * UNIT, 1), SIGBUS);
    MUST(truncate("file", FILE_BYTES));
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    at[5 * UNIT] = 6;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(truncation_to_nothing_by_opening) {
    int fd;
    bytes at = touched_hole(&fd);
    at[UNIT] = 1;
    int again = open("file", O_RDWR | O_TRUNC);
    CHECK(again >= 0);
    CHECK_EQUAL(size_of(fd), 0);
    CHECK_EQUAL(signal_of_load(at), SIGBUS);
    CHECK_EQUAL(signal_of_load(at + UNIT), SIGBUS);
    CHECK_EQUAL(pwrite(again, "abc", 3, UNIT), 3);
    CHECK_EQUAL(at[UNIT], 'a');
    CHECK_EQUAL(at[0], 0);
    CHECK_EQUAL(signal_of_load(at + UNIT + PAGE), SIGBUS);
}

CASE(shrinking_and_growing_again_and_again) {
    int fd;
    bytes at = touched_hole(&fd);
    uint32_t state = 12345;
    for (int round = 0; round < 300; round++) {
        state = state * 1664525 + 1013904223;
        size_t length = state % FILE_BYTES + 1;
        MUST(ftruncate(fd, (off_t)length));
        at[length - 1] = (uint8_t)(round | 1);
        size_t past = (length + PAGE - 1) / PAGE * PAGE;
        if (past < FILE_BYTES) {
            CHECK_EQUAL(signal_of_load(at + past), SIGBUS);
            CHECK_EQUAL(signal_of_store(at + past, 1), SIGBUS);
        }
        CHECK_EQUAL(byte_of_file(fd, (off_t)length - 1), (uint8_t)(round | 1));
    }
    MUST(ftruncate(fd, FILE_BYTES));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    say("hash %016llx", (unsigned long long)hash_of(at, FILE_BYTES));
}

CASE(a_mapping_longer_than_the_file) {
    int fd = sparse_file("file", 3 * UNIT + 10);
    bytes at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, 3 * UNIT + 10), 0);
    CHECK(all_bytes_are(at + 3 * UNIT, PAGE, 0));
    CHECK_EQUAL(signal_of_load(at + 3 * UNIT + PAGE), SIGBUS);
    CHECK_EQUAL(signal_of_store(at + 3 * UNIT + PAGE, 1), SIGBUS);
    CHECK_EQUAL(signal_of_load(at + FILE_BYTES - 1), SIGBUS);
    at[3 * UNIT + 9] = 1;
    at[3 * UNIT + 10] = 2; /* past the end, in the last page: allowed, and never part of the file */
    CHECK_EQUAL(size_of(fd), 3 * UNIT + 10);
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT + 9), 1);
    MUST(ftruncate(fd, FILE_BYTES));
    CHECK_EQUAL(touch(at + 4 * UNIT, 4 * UNIT), 0);
    at[FILE_BYTES - 1] = 3;
    CHECK_EQUAL(byte_of_file(fd, FILE_BYTES - 1), 3);
    say("what was stored past the end: %d", byte_of_file(fd, 3 * UNIT + 10));
}

PLAIN_CASE(a_mapping_of_an_empty_file, "a file of less than 2 MiB") {
    int fd = sparse_file("file", 0);
    bytes at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(signal_of_load(at), SIGBUS);
    CHECK_EQUAL(signal_of_store(at + UNIT, 1), SIGBUS);
    CHECK_EQUAL(pwrite(fd, "x", 1, UNIT + PAGE), 1);
    CHECK_EQUAL(at[0], 0);
    CHECK_EQUAL(at[UNIT + PAGE], 'x');
    at[UNIT] = 2;
    CHECK(same_as_file(at, fd, 0, UNIT + PAGE + 1));
}

PLAIN_CASE(a_mapping_past_the_end_only, "there is no hole in the range") {
    int fd = sparse_file("file", UNIT);
    bytes at = map(fd, 2 * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, 4 * UNIT);
    CHECK_EQUAL(signal_of_load(at), SIGBUS);
    MUST(ftruncate(fd, 5 * UNIT));
    CHECK_EQUAL(touch(at, UNIT), 0);
    at[7] = 7;
    CHECK_EQUAL(byte_of_file(fd, 4 * UNIT + 7), 7);
    CHECK_EQUAL(signal_of_load(at + UNIT), SIGBUS);
}

PLAIN_CASE(appending_by_write_extends_the_view, "a file of less than 2 MiB") {
    int fd = sparse_file("file", 0);
    bytes at = map_shared(fd, FILE_BYTES);
    MUST(lseek(fd, 0, SEEK_END));
    static uint8_t block[100000];
    memset(block, 3, sizeof block);
    for (size_t done = 0; done + sizeof block < FILE_BYTES; done += sizeof block) {
        CHECK_EQUAL(write(fd, block, sizeof block), (ssize_t)sizeof block);
        CHECK_EQUAL(at[done], 3);
        CHECK_EQUAL(at[done + sizeof block - 1], 3);
    }
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), size_of(fd));
    CHECK(same_as_file(at, fd, 0, (size_t)size_of(fd)));
}

static void fallocate_case(const char *name, int mode, off_t offset, off_t length) {
    int fd;
    bytes at = touched_hole(&fd), copy = map(fd, FILE_BYTES, PROT_READ, MAP_PRIVATE, 0);
    for (size_t page = 0; page < 3 * 512; page++)
        at[page * PAGE + 1] = (uint8_t)(page | 1);
    at[6 * UNIT] = 6;
    CHECK(same_as_file(copy, fd, 0, FILE_BYTES));
    int result = fallocate(fd, mode, offset, length);
    say("%s at %lld for %lld: %s, size %lld", name, (long long)offset, (long long)length, outcome(result),
        (long long)size_of(fd));
    size_t shown = (size_t)size_of(fd) < FILE_BYTES ? (size_t)size_of(fd) : FILE_BYTES;
    CHECK(same_as_file(at, fd, 0, shown) && same_as_file(copy, fd, 0, shown));
    say("hash %016llx", (unsigned long long)hash_of(at, shown));
    at[UNIT + 5] = 5;
    at[4 * UNIT + 5] = 5;
    CHECK(same_as_file(at, fd, 0, shown) && same_as_file(copy, fd, 0, shown));
    unmap(at, FILE_BYTES);
    unmap(copy, FILE_BYTES);
    close(fd);
    MUST(unlink("file"));
}

CASE(fallocate_allocates_without_change) {
    fallocate_case("allocate", 0, UNIT, 6 * UNIT);
    fallocate_case("allocate to a new end", 0, 7 * UNIT, 3 * UNIT);
    fallocate_case("keep size", FALLOC_FL_KEEP_SIZE, 7 * UNIT, 3 * UNIT);
    fallocate_case("no bytes", 0, 0, 0);
}

CASE(fallocate_punches_holes) {
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    fallocate_case("punch a page", mode, UNIT + PAGE, PAGE);
    fallocate_case("punch bytes", mode, UNIT + 10, 100);
    fallocate_case("punch a unit", mode, UNIT, UNIT);
    fallocate_case("punch unaligned", mode, UNIT + 10, 3 * UNIT);
    fallocate_case("punch all", mode, 0, FILE_BYTES);
    fallocate_case("punch past the end", mode, 7 * UNIT, 9 * UNIT);
    fallocate_case("punch without keep size", FALLOC_FL_PUNCH_HOLE, UNIT, UNIT);
}

CASE(fallocate_zeroes_ranges) {
    fallocate_case("zero", FALLOC_FL_ZERO_RANGE, UNIT + 10, 3 * UNIT);
    fallocate_case("zero to a new end", FALLOC_FL_ZERO_RANGE, 7 * UNIT, 2 * UNIT);
    fallocate_case("zero, keep size", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, UNIT, UNIT);
}

CASE(fallocate_moves_what_is_behind) {
    fallocate_case("collapse", FALLOC_FL_COLLAPSE_RANGE, UNIT, 2 * UNIT);
    fallocate_case("collapse unaligned", FALLOC_FL_COLLAPSE_RANGE, UNIT + 1, UNIT);
    fallocate_case("insert", FALLOC_FL_INSERT_RANGE, UNIT, 2 * UNIT);
    fallocate_case("insert a page", FALLOC_FL_INSERT_RANGE, UNIT + PAGE, PAGE);
}

CASE(a_punched_hole_takes_stores_again) {
    int fd;
    bytes at = touched_hole(&fd);
    for (int round = 0; round < 50; round++) {
        memset((void *)(at + UNIT), round + 1, 3 * UNIT);
        MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, UNIT, 3 * UNIT));
        CHECK_EQUAL(touch(at, FILE_BYTES), 0);
        at[2 * UNIT + (size_t)round] = 9;
        CHECK_EQUAL(byte_of_file(fd, 2 * UNIT + round), 9);
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_mapping_outlives_its_descriptor) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes before = map_shared(fd, FILE_BYTES);
    close(fd);
    CHECK_EQUAL(touch(before, FILE_BYTES), 0);
    before[UNIT] = 1;
    fd = open("file", O_RDWR);
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
    CHECK_EQUAL(pwrite(fd, "z", 1, 3 * UNIT), 1);
    CHECK_EQUAL(before[3 * UNIT], 'z');
    bytes again = map_shared(fd, FILE_BYTES);
    close(fd);
    before[5 * UNIT] = 5;
    CHECK_EQUAL(again[5 * UNIT], 5);
    again[6 * UNIT] = 6;
    CHECK_EQUAL(before[6 * UNIT], 6);
}

CASE(a_mapping_outlives_its_name) {
    int fd;
    bytes at = touched_hole(&fd);
    MUST(unlink("file"));
    at[UNIT] = 1;
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
    CHECK_EQUAL(pwrite(fd, "y", 1, 2 * UNIT), 1);
    CHECK_EQUAL(at[2 * UNIT], 'y');
    int other = sparse_file("file", FILE_BYTES);
    bytes new_file = map_shared(other, FILE_BYTES);
    CHECK_EQUAL(touch(new_file, FILE_BYTES), 0);
    new_file[3 * UNIT] = 3;
    CHECK_EQUAL(at[3 * UNIT], 0);
    close(fd);
    CHECK_EQUAL(touch(at + 3 * UNIT, 5 * UNIT), 0);
    at[4 * UNIT] = 4;
    CHECK_EQUAL(new_file[4 * UNIT], 0);
}

CASE(a_mapping_follows_its_file_to_another_name) {
    int fd;
    bytes at = touched_hole(&fd);
    close(sparse_file("other", FILE_BYTES));
    MUST(rename("file", "other"));
    at[UNIT] = 1;
    int again = open("other", O_RDWR);
    CHECK_EQUAL(byte_of_file(again, UNIT), 1);
    CHECK_EQUAL(pwrite(again, "q", 1, 4 * UNIT), 1);
    CHECK_EQUAL(at[4 * UNIT], 'q');
    CHECK_EQUAL(open("file", O_RDWR), -1);
}

PLAIN_CASE(a_memfd_is_a_file_too, "no lease is to be had on it") {
    int fd = memfd_create("memory", MFD_CLOEXEC);
    CHECK(fd >= 0);
    MUST(ftruncate(fd, FILE_BYTES));
    bytes at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    at[3 * UNIT] = 1;
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT), 1);
    CHECK_EQUAL(pwrite(fd, "m", 1, 5 * UNIT), 1);
    CHECK_EQUAL(at[5 * UNIT], 'm');
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_file_of_odd_length) {
    int fd = sparse_file("file", 4 * UNIT + 3 * PAGE + 77);
    bytes at = map_shared(fd, 4 * UNIT + 3 * PAGE + 77);
    CHECK_EQUAL(touch(at, 4 * UNIT + 3 * PAGE + 77), 0);
    CHECK(all_bytes_are(at + 4 * UNIT, 4 * PAGE, 0));
    at[4 * UNIT + 3 * PAGE + 76] = 1;
    CHECK_EQUAL(byte_of_file(fd, 4 * UNIT + 3 * PAGE + 76), 1);
    CHECK_EQUAL(size_of(fd), 4 * UNIT + 3 * PAGE + 77);
}

CASE(ending_by_sigbus_ends_by_sigbus) {
    int fd;
    bytes at = touched_hole(&fd);
    tell_service(fd, at, FILE_BYTES);
    MUST(ftruncate(fd, UNIT));
    signal(SIGBUS, SIG_DFL);
    say("about to load past the end");
    (void)at[2 * UNIT];
    say("not reached");
}
