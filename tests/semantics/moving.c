/* mremap: growing, shrinking, moving and duplicating mappings whose holes have been read. */
#include "check.h"
#include <pthread.h>

#define FILE_BYTES (8 * UNIT)

static bytes touched_hole(int *fd, size_t mapped) {
    *fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(*fd, mapped);
    CHECK_EQUAL(touch(at, mapped), 0);
    return at;
}

static bytes free_area(size_t length) {
    bytes at = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    unmap(at, length);
    return at;
}

CASE(growing_in_place) {
    int fd = sparse_file("file", FILE_BYTES);
    /* Threads that come with the first mapping take their stacks now, not from the area below. */
    bytes first = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK_EQUAL(touch(first, FILE_BYTES), 0);
    unmap(first, FILE_BYTES);
    bytes area = free_area(FILE_BYTES);
    CHECK(mmap((void *)area, 2 * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == area);
    CHECK_EQUAL(touch(area, 2 * UNIT), 0);
    area[UNIT] = 1;
    CHECK(mremap((void *)area, 2 * UNIT, FILE_BYTES, 0) == area);
    CHECK_EQUAL(touch(area + 2 * UNIT, 6 * UNIT), 0);
    area[7 * UNIT + 3] = 2;
    CHECK_EQUAL(byte_of_file(fd, 7 * UNIT + 3), 2);
    CHECK(same_as_file(area, fd, 0, FILE_BYTES));
}

CASE(growing_where_there_is_no_room) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes area = mmap(NULL, FILE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
    CHECK(mmap((void *)area, 2 * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == area);
    CHECK_EQUAL(touch(area, 2 * UNIT), 0);
    area[UNIT + 1] = 1;
    void *refused = mremap((void *)area, 2 * UNIT, 4 * UNIT, 0);
    say("in place: %s", outcome(refused == MAP_FAILED ? -1 : 0));
    CHECK_EQUAL(area[UNIT + 1], 1);
    bytes moved = mremap((void *)area, 2 * UNIT, 4 * UNIT, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved != area);
    CHECK(same_as_file(moved, fd, 0, 4 * UNIT));
    moved[3 * UNIT] = 7;
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT), 7);
    CHECK_EQUAL(signal_of_load(area), SIGSEGV);
}

CASE(shrinking) {
    int fd;
    bytes at = touched_hole(&fd, FILE_BYTES);
    at[2 * UNIT] = 1;
    CHECK(mremap((void *)at, FILE_BYTES, 3 * UNIT + PAGE, 0) == at);
    CHECK_EQUAL(signal_of_load(at + 3 * UNIT + PAGE), SIGSEGV);
    at[3 * UNIT + PAGE - 1] = 2;
    CHECK(same_as_file(at, fd, 0, 3 * UNIT + PAGE));
    CHECK(mremap((void *)at, 3 * UNIT + PAGE, PAGE, MREMAP_MAYMOVE) == at);
    at[1] = 3;
    CHECK(same_as_file(at, fd, 0, PAGE));
}

CASE(moving_to_a_fixed_place) {
    int fd;
    bytes at = touched_hole(&fd, FILE_BYTES), target = free_area(FILE_BYTES + UNIT) + 5 * PAGE;
    at[UNIT] = 1;
    bytes moved = mremap((void *)at, FILE_BYTES, FILE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK(moved == target);
    CHECK(same_as_file(moved, fd, 0, FILE_BYTES));
    CHECK_EQUAL(signal_of_load(at), SIGSEGV);
    moved[2 * UNIT] = 2;
    moved[7 * UNIT] = 3;
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT), 2);
    CHECK_EQUAL(byte_of_file(fd, 7 * UNIT), 3);
    CHECK(same_as_file(moved, fd, 0, FILE_BYTES));
}

CASE(moving_over_another_mapping) {
    int fd, other = sparse_file("other", FILE_BYTES);
    bytes at = touched_hole(&fd, 2 * UNIT), target = map_shared(other, FILE_BYTES);
    CHECK_EQUAL(touch(target, FILE_BYTES), 0);
    bytes moved = mremap((void *)at, 2 * UNIT, 2 * UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, target + 3 * UNIT);
    CHECK(moved == target + 3 * UNIT);
    moved[5] = 5;
    target[3 * UNIT - 1] = 6;
    target[5 * UNIT] = 7;
    CHECK_EQUAL(byte_of_file(fd, 5), 5);
    CHECK_EQUAL(byte_of_file(other, 3 * UNIT + 5), 0);
    CHECK_EQUAL(byte_of_file(other, 3 * UNIT - 1), 6);
    CHECK_EQUAL(byte_of_file(other, 5 * UNIT), 7);
}

CASE(one_page_leaves_the_middle_of_two_megabytes) {
    int fd;
    bytes at = touched_hole(&fd, FILE_BYTES), target = free_area(PAGE);
    size_t page = 2 * UNIT + 100 * PAGE;
    bytes moved = mremap((void *)(at + page), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK(moved == target);
    CHECK_EQUAL(signal_of_load(at + page), SIGSEGV);
    moved[0] = 9;
    at[page - 1] = 8;
    at[page + PAGE] = 7;
    CHECK_EQUAL(byte_of_file(fd, (off_t)page), 9);
    CHECK_EQUAL(byte_of_file(fd, (off_t)page - 1), 8);
    CHECK_EQUAL(byte_of_file(fd, (off_t)(page + PAGE)), 7);
}

CASE(a_length_of_zero_duplicates_a_shared_mapping) {
    int fd;
    bytes at = touched_hole(&fd, FILE_BYTES);
    bytes twin = mremap((void *)at, 0, FILE_BYTES, MREMAP_MAYMOVE);
    say("duplicate: %s", outcome(twin == MAP_FAILED ? -1 : 0));
    if (twin == MAP_FAILED)
        return;
    CHECK_EQUAL(touch(twin, FILE_BYTES), 0);
    twin[UNIT] = 1;
    CHECK_EQUAL(at[UNIT], 1);
    at[3 * UNIT] = 2;
    CHECK_EQUAL(twin[3 * UNIT], 2);
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
}

CASE(moving_without_unmapping) {
#ifdef MREMAP_DONTUNMAP
    int fd;
    bytes at = touched_hole(&fd, FILE_BYTES);
    at[UNIT] = 1;
    bytes moved = mremap((void *)at, FILE_BYTES, FILE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    say("moved: %s", outcome(moved == MAP_FAILED ? -1 : 0));
    if (moved == MAP_FAILED)
        return;
    moved[2 * UNIT] = 2;
    at[3 * UNIT] = 3;
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT), 2);
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT), 3);
    CHECK(same_as_file(moved, fd, 0, FILE_BYTES) && same_as_file(at, fd, 0, FILE_BYTES));
#endif
}

CASE(errors_of_moving) {
    int fd;
    bytes at = touched_hole(&fd, FILE_BYTES);
    unmap(at + 4 * UNIT, UNIT);
#define TRY(...) say("%s: %s", #__VA_ARGS__, mremap(__VA_ARGS__) == MAP_FAILED ? strerrorname_np(errno) : "ok")
    TRY((void *)(at + 1), PAGE, 2 * PAGE, MREMAP_MAYMOVE);
    TRY((void *)at, PAGE, 0, MREMAP_MAYMOVE);
    TRY((void *)(at + 4 * UNIT), PAGE, 2 * PAGE, MREMAP_MAYMOVE);
    TRY((void *)(at + 3 * UNIT), 2 * UNIT, 3 * UNIT, MREMAP_MAYMOVE);
    TRY((void *)at, UNIT, 1UL << 50, MREMAP_MAYMOVE);
    TRY((void *)at, UNIT, 2 * UNIT, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(at + PAGE));
    TRY((void *)at, UNIT, 2 * UNIT, MREMAP_FIXED, (void *)at);
    CHECK_EQUAL(touch(at, 4 * UNIT), 0);
    at[UNIT] = 1;
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
}

CASE(moving_a_private_mapping_keeps_its_copies) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page += 50)
        at[page * PAGE] = (uint8_t)(page | 1);
    bytes moved = mremap((void *)at, FILE_BYTES, FILE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, free_area(FILE_BYTES));
    CHECK(moved != MAP_FAILED);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
        CHECK_EQUAL(moved[page * PAGE], page % 50 ? 0 : (uint8_t)(page | 1));
    CHECK_EQUAL(byte_of_file(fd, 0), 0);
}

/* Advice goes to all of it, or to none. */
CASE(an_advised_mapping_grows_in_one_piece) {
    int file = sparse_file("file", 16 * UNIT);
    bytes memory = map_shared(file, 8 * UNIT);
    MUST(madvise((void *)memory, 8 * UNIT, MADV_RANDOM));
    CHECK_EQUAL(touch(memory, 8 * UNIT), 0);
    memory[UNIT + 5] = 1;
    memory[3 * UNIT + 7] = 2;
    MUST(madvise((void *)memory, 8 * UNIT, MADV_SEQUENTIAL));
    memory = mremap((void *)memory, 8 * UNIT, 12 * UNIT, MREMAP_MAYMOVE);
    CHECK(memory != MAP_FAILED);
    memory[11 * UNIT] = 3;
    CHECK_EQUAL(touch(memory, 12 * UNIT), 1);
    CHECK(same_as_file(memory, file, 0, 12 * UNIT));
}

/* A private mapping with copies in every other 2 MiB, of a file with some data. */
static bytes with_copies(int *fd, off_t data) {
    *fd = sparse_file("file", 16 * UNIT);
    if (data)
        CHECK_EQUAL(pwrite(*fd, "data", 4, data), 4);
    bytes at = map_private(*fd, FILE_BYTES);
    touch(at, FILE_BYTES);
    for (size_t unit = 1; unit < 8; unit += 2)
        at[unit * UNIT + unit] = (uint8_t)unit;
    return at;
}

static void check_copies(bytes at, size_t length, off_t data) {
    for (size_t page = 0; page < length / PAGE; page++)
        for (size_t byte = 0; byte < 8; byte++) {
            size_t unit = page / 512;
            int copied = page % 512 == 0 && unit < 8 && unit % 2 && byte == unit;
            int filled = data && page == (size_t)data / PAGE && byte < 4;
            CHECK_EQUAL(at[page * PAGE + byte], copied ? (int)unit : filled ? "data"[byte] : 0);
        }
}

static void check_grown(bytes at, size_t length, int fd, off_t data) {
    check_copies(at, length, data);
    at[length - PAGE] = 77;
    CHECK_EQUAL(at[length - PAGE], 77);
    at[length - PAGE] = 0;
    CHECK_EQUAL(byte_of_file(fd, UNIT + 1), 0);
    CHECK_EQUAL(byte_of_file(fd, (off_t)(length - PAGE)), 0);
}

/* Several times: what has grown once grows again. */
static void grow_copies(off_t data, int flags) {
    int fd;
    bytes at = with_copies(&fd, data);
    for (size_t length = FILE_BYTES; length < 16 * UNIT; length += 2 * UNIT) {
        bytes blocker = mmap((void *)(at + length), PAGE, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        void *refused = mremap((void *)at, length, length + 2 * UNIT, 0);
        CHECK_EQUAL(refused == MAP_FAILED ? errno : 0, ENOMEM);
        check_copies(at, length, data);
        if (blocker != MAP_FAILED && length != 12 * UNIT)
            unmap(blocker, PAGE);
        bytes old = at;
        void *target = flags & MREMAP_FIXED ? (void *)free_area(length + 2 * UNIT) : NULL;
        at = mremap((void *)at, length, length + 2 * UNIT, flags, target);
        CHECK(at != MAP_FAILED);
        if (at != old)
            CHECK_EQUAL(signal_of_load(old + UNIT), SIGSEGV);
        check_grown(at, length + 2 * UNIT, fd, data);
    }
}

CASE(a_private_mapping_with_copies_grows) { grow_copies(0, MREMAP_MAYMOVE); }

CASE(a_private_mapping_with_copies_and_data_grows) { grow_copies(4 * UNIT + 7 * PAGE, MREMAP_MAYMOVE); }

CASE(a_private_mapping_with_copies_grows_at_a_fixed_place) {
    grow_copies(5 * UNIT + 9 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED);
}

CASE(a_private_mapping_with_copies_grows_in_place) {
    int fd;
    unmap(with_copies(&fd, 0), FILE_BYTES);
    bytes area = free_area(16 * UNIT);
    CHECK(mmap((void *)area, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == area);
    CHECK_EQUAL(touch(area, FILE_BYTES), 0);
    for (size_t unit = 1; unit < 8; unit += 2)
        area[unit * UNIT + unit] = (uint8_t)unit;
    for (size_t length = FILE_BYTES; length < 16 * UNIT; length += 4 * UNIT) {
        CHECK(mremap((void *)area, length, length + 4 * UNIT, 0) == area);
        check_grown(area, length + 4 * UNIT, fd, 0);
    }
}

/* A part of it that grows goes elsewhere; what is left before and behind stays as it is, and grows as well. */
CASE(a_part_of_a_private_mapping_with_copies_grows) {
    int fd;
    bytes at = with_copies(&fd, 0);
    bytes moved = mremap((void *)(at + 2 * UNIT), 4 * UNIT, 6 * UNIT, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED);
    CHECK_EQUAL(moved[UNIT + 3], 3);
    CHECK_EQUAL(moved[3 * UNIT + 5], 5);
    CHECK_EQUAL(touch(moved, 6 * UNIT), 0);
    CHECK_EQUAL(signal_of_load(at + 3 * UNIT), SIGSEGV);
    CHECK_EQUAL(at[UNIT + 1], 1);
    CHECK_EQUAL(at[7 * UNIT + 7], 7);
    bytes first = mremap((void *)at, 2 * UNIT, 3 * UNIT, MREMAP_MAYMOVE);
    bytes last = mremap((void *)(at + 6 * UNIT), 2 * UNIT, 3 * UNIT, MREMAP_MAYMOVE);
    CHECK(first != MAP_FAILED && last != MAP_FAILED);
    CHECK_EQUAL(first[UNIT + 1], 1);
    CHECK_EQUAL(last[UNIT + 7], 7);
}

CASE(a_private_mapping_with_copies_shrinks_as_it_moves) {
    int fd;
    bytes at = with_copies(&fd, 2 * UNIT), target = free_area(6 * UNIT);
    bytes moved = mremap((void *)at, FILE_BYTES, 5 * UNIT + PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    CHECK(moved == target);
    check_copies(moved, 5 * UNIT + PAGE, 2 * UNIT);
    CHECK_EQUAL(signal_of_load(moved + 5 * UNIT + PAGE), SIGSEGV);
    CHECK_EQUAL(signal_of_load(at + 7 * UNIT), SIGSEGV);
    CHECK_EQUAL(signal_of_load(at + UNIT), SIGSEGV);
}

CASE(copies_go_where_a_private_mapping_is_moved_without_unmapping) {
#ifdef MREMAP_DONTUNMAP
    int fd;
    bytes at = with_copies(&fd, 4 * UNIT);
    bytes moved = mremap((void *)at, FILE_BYTES, FILE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    say("moved: %s", outcome(moved == MAP_FAILED ? -1 : 0));
    if (moved == MAP_FAILED)
        return;
    check_copies(moved, FILE_BYTES, 4 * UNIT);
    CHECK_EQUAL(at[UNIT + 1], 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    at[UNIT + 1] = 9;
    CHECK_EQUAL(moved[UNIT + 1], 1);
#endif
}

/* The kernel moves nothing that is sealed. */
CASE(a_private_mapping_with_copies_that_may_not_move_stays) {
    int fd;
    off_t data = 4 * UNIT;
    bytes at;
    fd = sparse_file("file", 16 * UNIT);
    for (size_t page = 0; page < 512; page++)
        CHECK_EQUAL(pwrite(fd, "data", 4, data + (off_t)(page * PAGE)), 4);
    at = map_private(fd, FILE_BYTES);
    touch(at, FILE_BYTES);
    for (size_t unit = 1; unit < 8; unit += 2)
        at[unit * UNIT + unit] = (uint8_t)unit;
    if (syscall(462 /* mseal */, at + data, UNIT, 0) == -1) {
        say("SKIPPED no mseal: %s", strerrorname_np(errno));
        return;
    }
    for (int round = 0; round < 2; round++) {
        CHECK(mremap((void *)at, FILE_BYTES, 12 * UNIT, MREMAP_MAYMOVE) == MAP_FAILED);
        for (size_t unit = 1; unit < 8; unit += 2) {
            CHECK_EQUAL(at[unit * UNIT + unit], unit);
            at[unit * UNIT + UNIT - 1] = (uint8_t)round;
        }
        CHECK(memcmp((const void *)(at + data), "data", 4) == 0);
    }
}

static void *grow_and_check(void *argument) {
    bytes memory = map_private(*(int *)argument, FILE_BYTES);
    for (size_t unit = 1; unit < 8; unit += 2)
        memory[unit * UNIT + unit] = (uint8_t)unit;
    for (size_t length = FILE_BYTES; length < 16 * UNIT; length += UNIT) {
        memory = mremap((void *)memory, length, length + UNIT, MREMAP_MAYMOVE);
        CHECK(memory != MAP_FAILED);
        for (size_t unit = 1; unit < 8; unit += 2)
            CHECK_EQUAL(memory[unit * UNIT + unit], unit);
    }
    unmap(memory, 16 * UNIT);
    return NULL;
}

/* Addresses that are left are not taken from who gets them next. */
CASE(threads_grow_private_mappings_side_by_side) {
    int fd = sparse_file("file", 16 * UNIT);
    pthread_t threads[4];
    for (int round = 0; round < 5; round++) {
        for (size_t n = 0; n < 4; n++)
            CHECK_EQUAL(pthread_create(&threads[n], NULL, grow_and_check, &fd), 0);
        for (size_t n = 0; n < 4; n++)
            pthread_join(threads[n], NULL);
    }
}
