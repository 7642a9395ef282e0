/* What the address space does: placing, replacing, cutting and moving mappings. */
#include "check.h"

#define FILE_BYTES (8 * UNIT)

/* A mapping of a hole that has been read, so that whatever follows happens to live zero pages. */
static bytes touched_hole(int *fd) {
    *fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(*fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    return at;
}

static void *anonymous_at(bytes at, size_t length, int flags) {
    return mmap((void *)at, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

CASE(fixed_anonymous_memory_replaces_the_middle) {
    int fd;
    bytes at = touched_hole(&fd);
    size_t from = 3 * UNIT + 5 * PAGE, length = UNIT + 7 * PAGE;
    CHECK(anonymous_at(at + from, length, MAP_FIXED) == at + from);
    memset((void *)(at + from), 7, length);
    at[from - 1] = 1;
    at[from + length] = 2;
    CHECK(all_bytes_are(at + from, length, 7));
    CHECK(same_as_file(at, fd, 0, from));
    CHECK(same_as_file(at + from + length, fd, (off_t)(from + length), FILE_BYTES - from - length));
    CHECK_EQUAL(byte_of_file(fd, (off_t)from - 1), 1);
    CHECK_EQUAL(byte_of_file(fd, (off_t)from), 0);
    CHECK_EQUAL(byte_of_file(fd, (off_t)(from + length)), 2);
    unmap(at, FILE_BYTES);
}

CASE(fixed_mapping_of_another_file_replaces_a_part) {
    int fd, other = sparse_file("other", FILE_BYTES);
    bytes at = touched_hole(&fd);
    CHECK(mmap((void *)(at + UNIT), 2 * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0) == at + UNIT);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    at[UNIT + 9] = 3;
    at[UNIT - 1] = 4;
    at[3 * UNIT] = 5;
    CHECK_EQUAL(byte_of_file(other, 9), 3);
    CHECK_EQUAL(byte_of_file(fd, UNIT + 9), 0);
    CHECK_EQUAL(byte_of_file(fd, UNIT - 1), 4);
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT), 5);
}

CASE(fixed_mapping_of_the_same_file_elsewhere) {
    int fd;
    bytes at = touched_hole(&fd);
    CHECK(mmap((void *)(at + UNIT), UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 6 * UNIT) == at + UNIT);
    at[UNIT + 17] = 8;
    CHECK_EQUAL(at[6 * UNIT + 17], 8);
    CHECK_EQUAL(byte_of_file(fd, 6 * UNIT + 17), 8);
    CHECK_EQUAL(byte_of_file(fd, UNIT + 17), 0);
    at[6 * UNIT + 18] = 9;
    CHECK_EQUAL(at[UNIT + 18], 9);
}

CASE(fixed_mapping_replaces_itself_again_and_again) {
    int fd;
    bytes at = touched_hole(&fd);
    for (int round = 0; round < 200; round++) {
        size_t from = (size_t)(round * 37 % 2000) * PAGE, length = (size_t)(1 + round * 13 % 40) * PAGE;
        if (from + length > FILE_BYTES)
            continue;
        CHECK(mmap((void *)(at + from), length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)from) ==
              at + from);
        at[from + (size_t)round] = (uint8_t)(round + 1);
        CHECK_EQUAL(byte_of_file(fd, (off_t)from + round), (uint8_t)(round + 1));
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    say("hash %016llx", (unsigned long long)hash_of(at, FILE_BYTES));
}

CASE(a_hint_is_taken_where_it_is_free) {
    int fd;
    bytes at = touched_hole(&fd);
    unmap(at, FILE_BYTES);
    void *again = mmap((void *)at, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    say("hint taken: %d", again == at);
    void *other = mmap((void *)at, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(other != MAP_FAILED && other != again);
    CHECK_EQUAL(touch(other, FILE_BYTES), 0);
    ((bytes)other)[5] = 5;
    CHECK_EQUAL(((bytes)again)[5], 5);
}

CASE(fixed_noreplace_refuses_what_is_taken) {
    int fd;
    bytes at = touched_hole(&fd);
    void *again = mmap((void *)(at + UNIT), UNIT, PROT_READ, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    say("taken: %s", outcome(again == MAP_FAILED ? -1 : 0));
    unmap(at + UNIT, UNIT);
    again = mmap((void *)(at + UNIT), UNIT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, UNIT);
    say("free: %s", outcome(again == MAP_FAILED ? -1 : 0));
    at[UNIT] = 3;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(unmapping_the_middle_leaves_both_ends) {
    int fd;
    bytes at = touched_hole(&fd);
    unmap(at + 2 * UNIT + PAGE, UNIT + PAGE);
    say("load in the gap: %s", signal_name(signal_of_load(at + 2 * UNIT + PAGE)));
    say("code %d, at the address: %d", fault_code, fault_address == (uintptr_t)(at + 2 * UNIT + PAGE));
    say("store at its end: %s", signal_name(signal_of_store(at + 3 * UNIT + 2 * PAGE - 1, 1)));
    at[2 * UNIT + PAGE - 1] = 1;
    at[3 * UNIT + 2 * PAGE] = 2;
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT + PAGE - 1), 1);
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT + 2 * PAGE), 2);
    CHECK_EQUAL(touch(at, 2 * UNIT), 0);
    CHECK_EQUAL(touch(at + 4 * UNIT, 4 * UNIT), 0);
    CHECK(anonymous_at(at + 2 * UNIT + PAGE, UNIT + PAGE, MAP_FIXED_NOREPLACE) == at + 2 * UNIT + PAGE);
    CHECK_EQUAL(touch(at + 2 * UNIT + PAGE, UNIT + PAGE), 0);
}

CASE(unmapping_head_and_tail_page_by_page) {
    int fd;
    bytes at = touched_hole(&fd);
    for (size_t page = 0; page < 600; page++) {
        unmap(at + page * PAGE, PAGE);
        unmap(at + FILE_BYTES - (page + 1) * PAGE, PAGE);
    }
    at[600 * PAGE] = 1;
    at[FILE_BYTES - 600 * PAGE - 1] = 2;
    CHECK_EQUAL(signal_of_load(at + 600 * PAGE - 1), SIGSEGV);
    CHECK_EQUAL(signal_of_load(at + FILE_BYTES - 600 * PAGE), SIGSEGV);
    CHECK(same_as_file(at + 600 * PAGE, fd, 600 * PAGE, FILE_BYTES - 1200 * PAGE));
}

CASE(one_unmap_takes_many_mappings_and_gaps) {
    int fd;
    bytes at = touched_hole(&fd);
    unmap(at + UNIT, PAGE);
    unmap(at + 3 * UNIT, UNIT);
    CHECK(anonymous_at(at + 5 * UNIT, PAGE, MAP_FIXED) == at + 5 * UNIT);
    MUST(munmap((void *)(at + PAGE), FILE_BYTES - 2 * PAGE));
    at[0] = 1;
    at[FILE_BYTES - 1] = 2;
    CHECK_EQUAL(signal_of_load(at + PAGE), SIGSEGV);
    CHECK_EQUAL(signal_of_load(at + 5 * UNIT), SIGSEGV);
    CHECK_EQUAL(byte_of_file(fd, 0), 1);
    CHECK_EQUAL(byte_of_file(fd, FILE_BYTES - 1), 2);
    MUST(munmap((void *)at, FILE_BYTES));
    CHECK_EQUAL(signal_of_load(at), SIGSEGV);
}

/* Pitfall 89: with MAP_SHARED a flag that is not known or not possible is ignored, with MAP_SHARED_VALIDATE it is refused. Some file systems refuse
 * MAP_SYNC either way. */
CASE(pitfall_089_flags_are_ignored_or_refused_as_the_kernel_does) {
    int fd = sparse_file("file", FILE_BYTES);
    static const int flags[] = {MAP_SYNC, 0x4000000, MAP_SYNC | 0x4000000};
    for (size_t n = 0; n < sizeof flags / sizeof *flags; n++) {
        void *validated = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | flags[n], fd, 0);
        say("validated: %s", validated == MAP_FAILED ? strerrorname_np(errno) : "ok");
        bytes other = map_shared(fd, FILE_BYTES);
        CHECK_EQUAL(touch(other, FILE_BYTES), n);
        bytes at = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | flags[n], fd, 0);
        say("shared: %s", at == MAP_FAILED ? strerrorname_np(errno) : "ok");
        if (at == MAP_FAILED) {
            CHECK_EQUAL(errno, EOPNOTSUPP);
            CHECK(flags[n] & MAP_SYNC);
            at = map_shared(fd, FILE_BYTES);
        }
        at[n * UNIT + 5 * PAGE] = (uint8_t)(n + 1);
        CHECK_EQUAL(other[n * UNIT + 5 * PAGE], n + 1);
    }
    CHECK(same_as_file(map_shared(fd, FILE_BYTES), fd, 0, FILE_BYTES));
}

CASE(errors_are_the_kernels_own) {
    int fd = sparse_file("file", FILE_BYTES), read_only = open("file", O_RDONLY), write_only = open("file", O_WRONLY);
    int directory = open(".", O_RDONLY | O_DIRECTORY), ends[2];
    MUST(pipe(ends));
    const int both = PROT_READ | PROT_WRITE;
#define TRY(...) say("%s: %s", #__VA_ARGS__, mmap(__VA_ARGS__) == MAP_FAILED ? strerrorname_np(errno) : "ok")
    TRY(NULL, 0, both, MAP_SHARED, fd, 0);
    TRY(NULL, PAGE, both, MAP_SHARED, fd, 1);
    TRY(NULL, PAGE, both, MAP_SHARED, -1, 0);
    TRY(NULL, PAGE, both, MAP_SHARED, 1000, 0);
    TRY(NULL, PAGE, both, 0, fd, 0);
    TRY(NULL, PAGE, both, MAP_SHARED | MAP_PRIVATE, fd, 0);
    TRY(NULL, PAGE, both, MAP_SHARED_VALIDATE, fd, 0);
    TRY(NULL, PAGE, both, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
    TRY(NULL, PAGE, both, MAP_SHARED | MAP_SYNC, fd, 0);
    TRY(NULL, PAGE, both, MAP_SHARED, read_only, 0);
    TRY(NULL, PAGE, both, MAP_PRIVATE, read_only, 0);
    TRY(NULL, PAGE, PROT_READ, MAP_SHARED, read_only, 0);
    TRY(NULL, PAGE, PROT_READ, MAP_SHARED, write_only, 0);
    TRY(NULL, PAGE, PROT_WRITE, MAP_SHARED, write_only, 0);
    TRY(NULL, PAGE, PROT_READ, MAP_SHARED, directory, 0);
    TRY(NULL, PAGE, PROT_READ, MAP_SHARED, ends[0], 0);
    TRY(NULL, ~0UL, PROT_READ, MAP_SHARED, fd, 0);
    TRY(NULL, 1UL << 50, PROT_READ, MAP_SHARED, fd, 0);
    TRY(NULL, PAGE, PROT_READ, MAP_SHARED, fd, (off_t)(~0UL << 12));
    TRY((void *)1, PAGE, both, MAP_SHARED | MAP_FIXED, fd, 0);
    fd = sparse_file("another", FILE_BYTES); /* of which nothing is open or mapped in another way, so that there is a lease to be had */
    bytes at = map_shared(fd, FILE_BYTES);
    say("munmap unaligned: %s", outcome(munmap((void *)(at + 1), PAGE)));
    say("munmap nothing: %s", outcome(munmap((void *)at, 0)));
    say("munmap too much: %s", outcome(munmap((void *)at, ~0UL)));
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

CASE(mapping_of_a_length_that_is_no_multiple_of_a_page) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(fd, 2 * UNIT + 100);
    CHECK_EQUAL(touch(at, 2 * UNIT + 100), 0);
    at[2 * UNIT + PAGE - 1] = 4;
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT + PAGE - 1), 4);
    unmap(at, 2 * UNIT + 1);
    CHECK_EQUAL(signal_of_load(at + 2 * UNIT), SIGSEGV);
}

CASE(mapping_at_every_offset_shows_its_own_part) {
    int fd = sparse_file("file", FILE_BYTES);
    for (size_t unit = 0; unit < 8; unit += 2)
        CHECK_EQUAL(pwrite(fd, &(uint8_t){(uint8_t)(unit + 1)}, 1, (off_t)(unit * UNIT + 3 * PAGE)), 1);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page += 93) {
        bytes at = map(fd, FILE_BYTES - page * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, (off_t)(page * PAGE));
        CHECK(same_as_file(at, fd, (off_t)(page * PAGE), FILE_BYTES - page * PAGE));
        at[7] = (uint8_t)page;
        CHECK_EQUAL(byte_of_file(fd, (off_t)(page * PAGE + 7)), (uint8_t)page);
        unmap(at, FILE_BYTES - page * PAGE);
    }
    bytes at = map_shared(fd, FILE_BYTES);
    say("hash %016llx", (unsigned long long)hash_of(at, FILE_BYTES));
}

CASE(mapping_at_every_skew_shows_the_same) {
    int fd = sparse_file("file", FILE_BYTES);
    for (size_t skew = 0; skew < UNIT; skew += 101 * PAGE) {
        bytes at = map_skewed(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, skew);
        CHECK(same_as_file(at, fd, 0, FILE_BYTES));
        at[skew + 1] = 6;
        CHECK_EQUAL(byte_of_file(fd, (off_t)skew + 1), 6);
        unmap(at, FILE_BYTES);
    }
}

CASE(several_mappings_of_one_file_are_one) {
    int fd;
    bytes one = touched_hole(&fd), two = map_skewed(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, 3 * PAGE);
    bytes copy = map_private(fd, FILE_BYTES), part = map(fd, UNIT, PROT_READ, MAP_SHARED, 5 * UNIT);
    CHECK_EQUAL(touch(two, FILE_BYTES) + touch(copy, FILE_BYTES) + touch(part, UNIT), 0);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page += 7) {
        bytes from = page % 2 ? one : two, to = page % 2 ? two : one;
        from[page * PAGE + 11] = (uint8_t)(page | 1);
        CHECK_EQUAL(to[page * PAGE + 11], (uint8_t)(page | 1));
        CHECK_EQUAL(copy[page * PAGE + 11], (uint8_t)(page | 1));
    }
    CHECK(same_as_file(one, fd, 0, FILE_BYTES) && same_as_file(two, fd, 0, FILE_BYTES));
    CHECK(same_as_file(copy, fd, 0, FILE_BYTES) && same_as_file(part, fd, 5 * UNIT, UNIT));
    unmap(two, FILE_BYTES);
    one[9] = 9;
    CHECK_EQUAL(copy[9], 9);
}

PLAIN_CASE(a_thousand_small_mappings, "each is smaller than 2 MiB") {
    int fd = sparse_file("file", FILE_BYTES);
    static bytes at[1000];
    for (size_t n = 0; n < 1000; n++) {
        at[n] = map(fd, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, (off_t)(n * 2 * PAGE));
        CHECK_EQUAL(touch(at[n], 2 * PAGE), 0);
    }
    for (size_t n = 0; n < 1000; n++)
        at[n][n] = (uint8_t)(n | 1);
    for (size_t n = 0; n < 1000; n++) {
        CHECK_EQUAL(byte_of_file(fd, (off_t)(n * 2 * PAGE + n)), (uint8_t)(n | 1));
        unmap(at[n], 2 * PAGE);
    }
}

static int map_in_constructor_fd;
static bytes mapped_in_constructor;
__attribute__((constructor)) static void map_before_main(void) {
    char name[] = "early-XXXXXX";
    map_in_constructor_fd = mkstemp(name);
    if (map_in_constructor_fd < 0)
        return;
    unlink(name);
    if (ftruncate(map_in_constructor_fd, 4 * UNIT) == 0)
        mapped_in_constructor =
            mmap(NULL, 4 * UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, map_in_constructor_fd, 0);
}

CASE(a_mapping_made_before_main_works) {
    CHECK(mapped_in_constructor && mapped_in_constructor != MAP_FAILED);
    CHECK_EQUAL(touch(mapped_in_constructor, 4 * UNIT), 0);
    mapped_in_constructor[3 * UNIT + 5] = 5;
    CHECK_EQUAL(byte_of_file(map_in_constructor_fd, 3 * UNIT + 5), 5);
}
