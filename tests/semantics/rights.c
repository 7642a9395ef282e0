/* mprotect, madvise, msync, mlock: what the calls on a mapped range answer, and what loads and stores see after them. */
#include "check.h"

#define FILE_BYTES (8 * UNIT)

static bytes touched_hole(int *fd) {
    *fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(*fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    return at;
}

static int protect(bytes at, size_t length, int rights) {
    return mprotect((void *)at, length, rights);
}

static int advise(bytes at, size_t length, int advice) {
    return madvise((void *)at, length, advice);
}

CASE(a_read_only_descriptor_never_becomes_writable) {
    close(sparse_file("file", FILE_BYTES));
    int fd = open("file", O_RDONLY);
    bytes at = map(fd, FILE_BYTES, PROT_READ, MAP_SHARED, 0);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    say("all: %s", outcome(protect(at, FILE_BYTES, PROT_READ | PROT_WRITE)));
    say("a page: %s", outcome(protect(at + 3 * UNIT, PAGE, PROT_WRITE)));
    say("store: %s", signal_name(signal_of_store(at + UNIT, 1)));
    say("code %d, at the address: %d", fault_code, fault_address == (uintptr_t)(at + UNIT));
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    bytes copy = map(fd, FILE_BYTES, PROT_READ, MAP_PRIVATE, 0);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    MUST(protect(copy, FILE_BYTES, PROT_READ | PROT_WRITE));
    copy[UNIT] = 1;
    CHECK_EQUAL(at[UNIT], 0);
    CHECK_EQUAL(byte_of_file(fd, UNIT), 0);
}

CASE(a_read_only_mapping_gives_sigsegv) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map(fd, FILE_BYTES, PROT_READ, MAP_SHARED, 0);
    say("untouched: %s code %d", signal_name(signal_of_store(at + UNIT + 1, 1)), fault_code);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    say("after loads: %s code %d", signal_name(signal_of_store(at + UNIT + 1, 1)), fault_code);
    CHECK(fault_address == (uintptr_t)(at + UNIT + 1));
    CHECK_EQUAL(byte_of_file(fd, UNIT + 1), 0);
    CHECK(all_bytes_are(at + UNIT, PAGE, 0));
}

CASE(no_rights_means_no_access) {
    int fd;
    bytes at = touched_hole(&fd);
    at[UNIT] = 1;
    MUST(protect(at + PAGE, 4 * UNIT, PROT_NONE));
    say("load: %s code %d", signal_name(signal_of_load(at + UNIT)), fault_code);
    say("store: %s code %d", signal_name(signal_of_store(at + 2 * UNIT, 3)), fault_code);
    at[PAGE - 1] = 2;
    at[4 * UNIT + PAGE] = 3;
    MUST(protect(at, FILE_BYTES, PROT_READ | PROT_WRITE));
    CHECK_EQUAL(at[UNIT], 1);
    CHECK_EQUAL(at[2 * UNIT], 0);
    at[2 * UNIT] = 4;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT), 4);
}

CASE(mapped_without_rights_and_given_them_later) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map(fd, FILE_BYTES, PROT_NONE, MAP_SHARED, 0);
    say("load: %s", signal_name(signal_of_load(at)));
    MUST(protect(at, FILE_BYTES, PROT_READ));
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    say("store: %s", signal_name(signal_of_store(at, 1)));
    MUST(protect(at + UNIT, 2 * UNIT, PROT_READ | PROT_WRITE));
    at[UNIT] = 1;
    at[3 * UNIT - 1] = 2;
    CHECK_EQUAL(signal_of_store(at + 3 * UNIT, 1), SIGSEGV);
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT - 1), 2);
}

CASE(rights_of_single_pages) {
    int fd;
    bytes at = touched_hole(&fd);
    for (size_t page = 0; page < 1024; page += 2)
        MUST(protect(at + UNIT + page * PAGE, PAGE, PROT_READ));
    for (size_t page = 0; page < 1024; page++)
        CHECK_EQUAL(signal_of_store(at + UNIT + page * PAGE, 5), page % 2 ? 0 : SIGSEGV);
    for (size_t page = 0; page < 1024; page++)
        CHECK_EQUAL(byte_of_file(fd, (off_t)(UNIT + page * PAGE)), page % 2 ? 5 : 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(errors_of_protecting) {
    int fd;
    bytes at = touched_hole(&fd);
    unmap(at + 4 * UNIT, UNIT);
    say("unaligned: %s", outcome(protect(at + 1, PAGE, PROT_READ)));
    say("over a gap: %s", outcome(protect(at + 3 * UNIT, 3 * UNIT, PROT_READ)));
    say("in the gap: %s", outcome(protect(at + 4 * UNIT, PAGE, PROT_READ)));
    say("unknown right: %s", outcome(protect(at, PAGE, 0x40000)));
    say("grows down: %s", outcome(protect(at, PAGE, PROT_READ | PROT_GROWSDOWN)));
    say("before the gap: %s", signal_name(signal_of_store(at + 4 * UNIT - 1, 1)));
    say("behind the gap: %s", signal_name(signal_of_store(at + 5 * UNIT, 1)));
    CHECK_EQUAL(touch(at, 3 * UNIT), 0);
}

CASE(code_in_a_mapped_file_runs) {
#ifdef __x86_64__
    int fd = sparse_file("file", FILE_BYTES);
    static const uint8_t code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; /* mov eax, 42; ret */
    CHECK_EQUAL(pwrite(fd, code, sizeof code, 3 * UNIT), (ssize_t)sizeof code);
    bytes writable = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(writable + 4 * UNIT, 2 * UNIT), 0);
    bytes at = map(fd, FILE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, 0);
    CHECK_EQUAL(touch(at + 4 * UNIT, UNIT), 0);
    int (*function)(void) = (int (*)(void))(uintptr_t)(at + 3 * UNIT);
    CHECK_EQUAL(function(), 42);
    memcpy((void *)(writable + 5 * UNIT), code, sizeof code);
    MUST(protect(writable, FILE_BYTES, PROT_READ | PROT_EXEC));
    function = (int (*)(void))(uintptr_t)(writable + 5 * UNIT);
    CHECK_EQUAL(function(), 42);
#endif
}

CASE(dont_need_on_a_shared_mapping_loses_nothing) {
    int fd;
    bytes at = touched_hole(&fd);
    at[UNIT] = 1;
    MUST(advise(at, FILE_BYTES, MADV_DONTNEED));
    CHECK_EQUAL(at[UNIT], 1);
    at[2 * UNIT] = 2; /* straight into an emptied hole */
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT), 2);
    CHECK_EQUAL(touch(at + 3 * UNIT, 5 * UNIT), 0);
    for (size_t page = 0; page < 512; page++) {
        MUST(advise(at + 5 * UNIT + page * PAGE, PAGE, MADV_DONTNEED));
        at[5 * UNIT + page * PAGE] = (uint8_t)(page | 1);
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(dont_need_on_a_private_mapping_drops_the_copies) {
    int fd = sparse_file("file", FILE_BYTES);
    CHECK_EQUAL(pwrite(fd, "x", 1, UNIT), 1);
    bytes at = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 1);
    memset((void *)at, 9, FILE_BYTES);
    MUST(advise(at + PAGE, 4 * UNIT, MADV_DONTNEED));
    CHECK_EQUAL(at[0], 9);
    CHECK_EQUAL(at[PAGE], 0);
    CHECK_EQUAL(at[UNIT], 'x');
    CHECK(all_bytes_are(at + 2 * UNIT, 2 * UNIT, 0));
    CHECK_EQUAL(at[4 * UNIT + PAGE], 9);
    at[2 * UNIT] = 4;
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT), 0);
    CHECK_EQUAL(at[2 * UNIT], 4);
}

CASE(remove_punches_a_hole) {
    int fd;
    bytes at = touched_hole(&fd), other = map_shared(fd, FILE_BYTES);
    memset((void *)at, 5, 4 * UNIT);
    CHECK_EQUAL(touch(other + 4 * UNIT, 4 * UNIT), 0);
    MUST(advise(at + UNIT + PAGE, 2 * UNIT, MADV_REMOVE));
    CHECK(all_bytes_are(at + UNIT + PAGE, 2 * UNIT, 0) && all_bytes_are(other + UNIT + PAGE, 2 * UNIT, 0));
    CHECK_EQUAL(at[UNIT + PAGE - 1], 5);
    CHECK_EQUAL(at[3 * UNIT + PAGE], 5);
    other[2 * UNIT] = 6;
    CHECK_EQUAL(at[2 * UNIT], 6);
    MUST(advise(at + 5 * UNIT, UNIT, MADV_REMOVE)); /* of what is a hole */
    at[5 * UNIT] = 7;
    CHECK_EQUAL(other[5 * UNIT], 7);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES) && same_as_file(other, fd, 0, FILE_BYTES));
    close(sparse_file("read only", UNIT));
    bytes view = map(open("read only", O_RDONLY), UNIT, PROT_READ, MAP_SHARED, 0);
    say("remove through a read-only descriptor: %s", outcome(advise(view, PAGE, MADV_REMOVE)));
}

CASE(populate_reads_and_writes) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(fd, FILE_BYTES + UNIT);
    say("read: %s", outcome(advise(at, 2 * UNIT, MADV_POPULATE_READ)));
    say("write: %s", outcome(advise(at + UNIT, 2 * UNIT, MADV_POPULATE_WRITE)));
    say("read past the end: %s", outcome(advise(at + 7 * UNIT, 2 * UNIT, MADV_POPULATE_READ)));
    say("write past the end: %s", outcome(advise(at + FILE_BYTES, PAGE, MADV_POPULATE_WRITE)));
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    for (size_t unit = 0; unit < 8; unit++)
        at[unit * UNIT + 77] = (uint8_t)(unit + 1);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    bytes view = map(fd, UNIT, PROT_READ, MAP_SHARED, 0);
    say("write without the right: %s", outcome(advise(view, PAGE, MADV_POPULATE_WRITE)));
}

CASE(the_populate_flag_shows_the_file) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes shared = map(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, 0);
    bytes copy = map(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_POPULATE, 0);
    CHECK_EQUAL(touch(shared, FILE_BYTES) + touch(copy, FILE_BYTES), 0);
    shared[UNIT] = 1;
    copy[2 * UNIT] = 2;
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
    CHECK_EQUAL(shared[2 * UNIT], 0);
    CHECK(same_as_file(shared, fd, 0, FILE_BYTES));
}

CASE(every_advice_answers_as_the_kernel) {
    static const int advices[] = {MADV_NORMAL,   MADV_RANDOM,     MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTFORK,
                                  MADV_DOFORK,   MADV_MERGEABLE,  MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
                                  MADV_DONTDUMP, MADV_DODUMP,     MADV_COLD,        MADV_PAGEOUT,  MADV_FREE,
                                  MADV_WIPEONFORK, MADV_KEEPONFORK, 12345};
    int fd;
    bytes shared = touched_hole(&fd), copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    copy[3 * UNIT] = 3;
    for (size_t n = 0; n < sizeof advices / sizeof *advices; n++) {
        say("advice %d shared: %s", advices[n], outcome(advise(shared + UNIT, 3 * UNIT, advices[n])));
        say("advice %d private: %s", advices[n], outcome(advise(copy + UNIT, 3 * UNIT, advices[n])));
        shared[2 * UNIT + n] = (uint8_t)(n + 1);
        CHECK_EQUAL(byte_of_file(fd, (off_t)(2 * UNIT + n)), n + 1);
        CHECK_EQUAL(copy[3 * UNIT], 3);
        CHECK_EQUAL(copy[3 * UNIT + PAGE], 0);
    }
    say("unaligned: %s", outcome(advise(shared + 1, PAGE, MADV_NORMAL)));
    unmap(shared + UNIT, PAGE);
    say("over a gap: %s", outcome(advise(shared, 2 * UNIT, MADV_NORMAL)));
    CHECK(same_as_file(shared + 2 * UNIT, fd, 2 * UNIT, 6 * UNIT));
}

CASE(msync_answers_as_the_kernel) {
    int fd;
    bytes at = touched_hole(&fd);
    at[UNIT] = 1;
    say("sync: %s", outcome(msync((void *)at, FILE_BYTES, MS_SYNC)));
    say("async: %s", outcome(msync((void *)at, FILE_BYTES, MS_ASYNC)));
    say("neither: %s", outcome(msync((void *)at, FILE_BYTES, 0)));
    say("invalidate: %s", outcome(msync((void *)at, FILE_BYTES, MS_SYNC | MS_INVALIDATE)));
    say("both: %s", outcome(msync((void *)at, FILE_BYTES, MS_SYNC | MS_ASYNC)));
    say("unknown flag: %s", outcome(msync((void *)at, FILE_BYTES, 64)));
    say("unaligned: %s", outcome(msync((void *)(at + 1), PAGE, MS_SYNC)));
    say("no bytes: %s", outcome(msync((void *)at, 0, MS_SYNC)));
    say("odd length: %s", outcome(msync((void *)(at + UNIT), 5, MS_SYNC)));
    unmap(at + 3 * UNIT, UNIT);
    say("over a gap: %s", outcome(msync((void *)(at + 2 * UNIT), 3 * UNIT, MS_SYNC)));
    say("in the gap: %s", outcome(msync((void *)(at + 3 * UNIT), PAGE, MS_SYNC)));
    at[2 * UNIT] = 2; /* a store after a sync must be let through like the first */
    MUST(msync((void *)(at + 2 * UNIT), PAGE, MS_SYNC));
    at[2 * UNIT + 1] = 3;
    CHECK(same_as_file(at, fd, 0, 3 * UNIT));
    bytes copy = map_private(fd, UNIT);
    say("private: %s", outcome(msync((void *)copy, UNIT, MS_SYNC)));
    say("fsync %s, fdatasync %s", outcome(fsync(fd)), outcome(fdatasync(fd)));
}

CASE(locking_into_memory) {
    int fd;
    bytes at = touched_hole(&fd), copy = map_private(fd, FILE_BYTES);
    say("mlock: %s", outcome(mlock((void *)(at + UNIT), 2 * UNIT)));
    say("invalidate what is locked: %s", outcome(msync((void *)at, FILE_BYTES, MS_SYNC | MS_INVALIDATE)));
    at[UNIT] = 1;
    at[UNIT + PAGE] = 2;
    say("mlock private: %s", outcome(mlock((void *)copy, 2 * UNIT)));
    copy[PAGE] = 3;
    CHECK_EQUAL(copy[UNIT], 1);
    say("dont need what is locked: %s", outcome(advise(at + UNIT, PAGE, MADV_DONTNEED)));
    say("munlock: %s", outcome(munlock((void *)(at + UNIT), 2 * UNIT)));
    say("on fault: %s", outcome(mlock2((void *)(at + 4 * UNIT), UNIT, MLOCK_ONFAULT)));
    at[4 * UNIT + 5] = 4;
    unmap(at + 6 * UNIT, PAGE);
    say("over a gap: %s", outcome(mlock((void *)(at + 5 * UNIT), 2 * UNIT)));
    say("munlock over a gap: %s", outcome(munlock((void *)(at + 5 * UNIT), 2 * UNIT)));
    CHECK(same_as_file(at, fd, 0, 6 * UNIT));
    CHECK_EQUAL(byte_of_file(fd, PAGE), 0);
}

CASE(locking_everything_into_memory) {
    int fd;
    bytes at = touched_hole(&fd);
    say("current: %s", outcome(mlockall(MCL_CURRENT)));
    at[UNIT] = 1;
    say("future: %s", outcome(mlockall(MCL_CURRENT | MCL_FUTURE)));
    bytes later = map_shared(fd, FILE_BYTES), copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(later, FILE_BYTES), 1);
    later[2 * UNIT] = 2;
    copy[3 * UNIT] = 3;
    CHECK_EQUAL(at[2 * UNIT], 2);
    CHECK_EQUAL(at[3 * UNIT], 0);
    say("munlockall: %s", outcome(munlockall()));
    bytes after = map_shared(fd, FILE_BYTES);
    after[4 * UNIT] = 4;
    CHECK_EQUAL(at[4 * UNIT], 4);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* Pitfall 81: a system call that stores into a mapping for reading is refused, and changes nothing: neither a hole nor data. */
CASE(pitfall_081_calls_do_not_store_into_a_mapping_for_reading) {
    int fd = sparse_file("file", FILE_BYTES), ends[2];
    CHECK_EQUAL(pwrite(fd, "x", 1, UNIT), 1);
    int source = sparse_file("source", 4 * PAGE);
    CHECK_EQUAL(pwrite(source, "0123456789", 10, 0), 10);
    bytes at = map(fd, FILE_BYTES, PROT_READ, MAP_SHARED, 0), untouched = map(fd, FILE_BYTES, PROT_READ, MAP_SHARED, 0);
    bytes taken = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 1);
    CHECK_EQUAL(touch(taken, FILE_BYTES), 1);
    MUST(protect(taken, FILE_BYTES, PROT_READ));
    MUST(pipe(ends));
    int direct = open("source", O_RDONLY | O_DIRECT);
    for (size_t offset = UNIT; offset <= 3 * UNIT; offset += 2 * UNIT) {
        bytes all[] = {at + offset, untouched + offset, taken + offset};
        for (size_t n = 0; n < 3; n++) {
            void *into = (void *)all[n];
            CHECK_EQUAL(write(ends[1], "0123456789", 10), 10);
            say("pread: %s, pipe: %s", outcome(pread(source, into, 10, 0)), outcome(read(ends[0], into, 10)));
            say("fstat: %s", outcome(syscall(SYS_fstat, fd, into)));
            if (direct >= 0)
                say("direct: %s", outcome(pread(direct, into, PAGE, 0)));
            CHECK_EQUAL(all[n][0], offset == UNIT ? 'x' : 0);
            CHECK_EQUAL(all[n][1], 0);
        }
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static long locked_kib(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[200];
    long kib = -1;
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmLck: %ld", &kib) == 1)
            break;
    fclose(status);
    return kib;
}

/* Pitfall 94: what is locked into memory is counted as locked until it is gone, however its 2 MiB are taken apart. */
CASE(pitfall_094_locked_memory_is_counted_whatever_is_taken_apart) {
    int fd;
    bytes at = touched_hole(&fd);
    long before = locked_kib();
    say("mlock: %s", outcome(mlock((void *)(at + UNIT), 2 * UNIT)));
    say("locked: %ld KiB", locked_kib() - before);
    at[UNIT] = 1;
    at[3 * UNIT - 1] = 2;
    say("after stores: %ld KiB", locked_kib() - before);
    MUST(protect(at + UNIT + 5 * PAGE, 7 * PAGE, PROT_READ));
    CHECK_EQUAL(at[UNIT + 5 * PAGE], 0);
    say("after a part was protected: %ld KiB", locked_kib() - before);
    unmap(at + 2 * UNIT, 9 * PAGE);
    say("after a part was unmapped: %ld KiB", locked_kib() - before);
    unmap(at, FILE_BYTES);
    say("at the end: %ld KiB", locked_kib() - before);
}

CASE(residency_can_be_asked_for) {
    int fd;
    bytes at = touched_hole(&fd);
    static unsigned char pages[FILE_BYTES / PAGE];
    say("mincore: %s", outcome(mincore((void *)at, FILE_BYTES, pages)));
    say("unaligned: %s", outcome(mincore((void *)(at + 1), PAGE, pages)));
    unmap(at + UNIT, PAGE);
    say("over a gap: %s", outcome(mincore((void *)at, 2 * UNIT, pages)));
}

CASE(pages_of_a_mapping_are_reordered) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(fd, FILE_BYTES);
    at[5 * UNIT] = 5;
    CHECK_EQUAL(touch(at, FILE_BYTES), 1);
    int result = syscall(SYS_remap_file_pages, (void *)(at + UNIT), UNIT, 0, 5 * UNIT / PAGE, 0);
    say("remap_file_pages: %s, shows %d", outcome(result), at[UNIT]);
    at[UNIT + 1] = 6;
    say("the file has %d and %d", byte_of_file(fd, UNIT + 1), byte_of_file(fd, 5 * UNIT + 1));
}
