/* Private mappings: what they copy, what they still share, and when the copies go. */
#include "check.h"
#include <pthread.h>

#define FILE_BYTES (8 * UNIT)

CASE(private_stores_never_reach_the_file) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES), shared = map_shared(fd, FILE_BYTES);
    copy[0] = 1; /* before any load */
    CHECK_EQUAL(touch(copy, FILE_BYTES), 1);
    CHECK_EQUAL(touch(shared, FILE_BYTES), 0);
    for (size_t page = 1; page < FILE_BYTES / PAGE; page += 3)
        copy[page * PAGE + 5] = (uint8_t)(page | 1);
    CHECK(all_bytes_are(shared, FILE_BYTES, 0));
    CHECK_EQUAL(msync((void *)copy, FILE_BYTES, MS_SYNC), 0);
    for (size_t page = 1; page < FILE_BYTES / PAGE; page++)
        CHECK_EQUAL(copy[page * PAGE + 5], page % 3 == 1 ? (uint8_t)(page | 1) : 0);
    unmap(copy, FILE_BYTES);
    CHECK(all_bytes_are(shared, FILE_BYTES, 0));
    CHECK_EQUAL(byte_of_file(fd, 0), 0);
}

CASE(private_pages_show_the_file_until_they_are_copied) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES), shared = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    copy[UNIT] = 1;
    copy[UNIT + 7 * PAGE] = 2;
    for (size_t page = 512; page < 1024; page++)
        shared[page * PAGE + 9] = 9;
    CHECK_EQUAL(pwrite(fd, "w", 1, 3 * UNIT), 1);
    for (size_t page = 512; page < 1024; page++)
        CHECK_EQUAL(copy[page * PAGE + 9], page == 512 || page == 519 ? 0 : 9);
    CHECK_EQUAL(copy[UNIT], 1);
    CHECK_EQUAL(copy[UNIT + 7 * PAGE], 2);
    CHECK_EQUAL(copy[3 * UNIT], 'w');
    copy[3 * UNIT + 1] = 3;
    CHECK_EQUAL(byte_of_file(fd, 3 * UNIT + 1), 0);
    CHECK_EQUAL(copy[3 * UNIT], 'w');
}

CASE(private_mapping_of_a_read_only_descriptor) {
    close(sparse_file("file", FILE_BYTES));
    int fd = open("file", O_RDONLY);
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    memset((void *)(copy + UNIT), 4, 2 * UNIT);
    CHECK(all_bytes_are(copy + UNIT, 2 * UNIT, 4));
    CHECK_EQUAL(byte_of_file(fd, UNIT), 0);
    int writer = open("file", O_WRONLY);
    CHECK_EQUAL(pwrite(writer, "v", 1, 5 * UNIT), 1);
    CHECK_EQUAL(pwrite(writer, "v", 1, UNIT), 1);
    CHECK_EQUAL(copy[5 * UNIT], 'v');
    CHECK_EQUAL(copy[UNIT], 4);
    CHECK(all_bytes_are(copy + UNIT, 2 * UNIT, 4));
}

CASE(copies_survive_when_their_surroundings_become_storage) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page += 2)
        for (size_t byte = 0; byte < PAGE; byte += 64)
            copy[page * PAGE + byte] = (uint8_t)(page | 1);
    static uint8_t block[PAGE];
    memset(block, 0xaa, sizeof block);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
        CHECK_EQUAL(pwrite(fd, block, PAGE, (off_t)(page * PAGE)), PAGE);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
        for (size_t byte = 0; byte < PAGE; byte += 64)
            CHECK_EQUAL(copy[page * PAGE + byte], page % 2 ? 0xaa : (uint8_t)(page | 1));
}

CASE(copies_without_rights_are_kept) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    memset((void *)(copy + UNIT), 3, PAGE);
    memset((void *)(copy + 2 * UNIT), 4, PAGE);
    MUST(mprotect((void *)copy, 2 * UNIT, PROT_NONE));
    MUST(mprotect((void *)(copy + 2 * UNIT), UNIT, PROT_READ));
    CHECK_EQUAL(pwrite(fd, "a", 1, UNIT + PAGE), 1);
    CHECK_EQUAL(pwrite(fd, "b", 1, 2 * UNIT + PAGE), 1);
    CHECK_EQUAL(signal_of_load(copy + UNIT), SIGSEGV);
    CHECK_EQUAL(signal_of_store(copy + 2 * UNIT, 1), SIGSEGV);
    CHECK(all_bytes_are(copy + 2 * UNIT, PAGE, 4));
    CHECK_EQUAL(copy[2 * UNIT + PAGE], 'b');
    MUST(mprotect((void *)copy, FILE_BYTES, PROT_READ | PROT_WRITE));
    CHECK(all_bytes_are(copy + UNIT, PAGE, 3));
    CHECK_EQUAL(copy[UNIT + PAGE], 'a');
}

CASE(truncation_takes_the_copies_along) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    memset((void *)copy, 6, FILE_BYTES);
    MUST(ftruncate(fd, 2 * UNIT));
    CHECK(all_bytes_are(copy, 2 * UNIT, 6));
    CHECK_EQUAL(signal_of_load(copy + 2 * UNIT), SIGBUS);
    CHECK_EQUAL(signal_of_store(copy + 5 * UNIT, 1), SIGBUS);
    MUST(ftruncate(fd, FILE_BYTES));
    CHECK(all_bytes_are(copy, 2 * UNIT, 6));
    CHECK(all_bytes_are(copy + 2 * UNIT, 6 * UNIT, 0));
    copy[5 * UNIT] = 5;
    CHECK_EQUAL(byte_of_file(fd, 5 * UNIT), 0);
}

CASE(punching_leaves_the_copies) {
    int fd = sparse_file("file", FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES), shared = map_shared(fd, FILE_BYTES);
    memset((void *)shared, 7, FILE_BYTES);
    copy[UNIT] = 1;
    CHECK_EQUAL(copy[UNIT + PAGE], 7);
    MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, UNIT, 2 * UNIT));
    say("the copy: %d, its page: %d, the next: %d", copy[UNIT], copy[UNIT + 1], copy[UNIT + PAGE]);
    CHECK(all_bytes_are(shared + UNIT, 2 * UNIT, 0));
    copy[2 * UNIT] = 2;
    CHECK_EQUAL(shared[2 * UNIT], 0);
    CHECK_EQUAL(copy[4 * UNIT], 7);
}

struct race {
    bytes copy;
    int fd;
};

static void *store_copies(void *argument) {
    struct race *race = argument;
    for (size_t page = 0; page < FILE_BYTES / PAGE; page += 2)
        for (size_t byte = 0; byte < PAGE; byte += 512)
            race->copy[page * PAGE + byte] = (uint8_t)(page | 1);
    return NULL;
}

static void *write_file(void *argument) {
    struct race *race = argument;
    for (size_t page = 1; page < FILE_BYTES / PAGE; page += 2)
        CHECK_EQUAL(pwrite(race->fd, "f", 1, (off_t)(page * PAGE)), 1);
    return NULL;
}

CASE(copies_and_the_files_writers_race) {
    for (int round = 0; round < 10; round++) {
        struct race race = {.fd = sparse_file("file", FILE_BYTES)};
        race.copy = map_private(race.fd, FILE_BYTES);
        CHECK_EQUAL(touch(race.copy, FILE_BYTES), 0);
        pthread_t one, two;
        CHECK_EQUAL(pthread_create(&one, NULL, store_copies, &race), 0);
        CHECK_EQUAL(pthread_create(&two, NULL, write_file, &race), 0);
        pthread_join(one, NULL);
        pthread_join(two, NULL);
        for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
            for (size_t byte = 0; byte < PAGE; byte += 512)
                CHECK_EQUAL(race.copy[page * PAGE + byte], page % 2 == 0 ? (uint8_t)(page | 1) : byte ? 0 : 'f');
        unmap(race.copy, FILE_BYTES);
        close(race.fd);
        MUST(unlink("file"));
    }
}

CASE(reads_into_private_holes) {
    int fd = sparse_file("file", FILE_BYTES), source = open("/proc/self/exe", O_RDONLY);
    bytes copy = map_private(fd, FILE_BYTES), other = map_skewed(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, PAGE);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    CHECK_EQUAL(pread(source, (void *)(copy + 2 * UNIT - 2 * PAGE), 4 * PAGE, 0), 4 * PAGE);
    CHECK_EQUAL(pread(source, (void *)(other + 2 * UNIT - 2 * PAGE), 4 * PAGE, 0), 4 * PAGE);
    CHECK(memcmp((void *)copy, (void *)other, FILE_BYTES) == 0);
    CHECK_EQUAL(copy[2 * UNIT - 2 * PAGE + 1], 'E');
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT - 2 * PAGE + 1), 0);
}

/* The kernel makes the copies at once, and so what is written to the file afterwards is not seen. */
PLAIN_CASE(a_populated_mapping_is_a_copy_from_the_beginning, "the kernel copies every page at once") {
    int file = sparse_file("file", 8 * UNIT);
    CHECK_EQUAL(pwrite(file, "before", 6, 3 * UNIT + 9), 6);
    bytes copy = map(file, 8 * UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_POPULATE, 0);
    CHECK_EQUAL(pwrite(file, "behind", 6, 3 * UNIT + 9), 6);
    CHECK_EQUAL(pwrite(file, "behind", 6, 5 * UNIT), 6);
    say("%.6s", (const char *)(copy + 3 * UNIT + 9));
    say("%d", copy[5 * UNIT]);
    MUST(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 3 * UNIT, UNIT));
    say("%.6s", (const char *)(copy + 3 * UNIT + 9));
}
