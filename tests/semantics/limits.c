/* Programs at their limits, and programs that end while others of their threads are in the middle of faults. */
#include "check.h"
#include <pthread.h>
#include <sys/resource.h>

#define FILE_BYTES (16 * UNIT)

static int fd;
static bytes at;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

static void store_into_every_page(bytes from, size_t length) {
    for (size_t page = 0; page < length / PAGE; page++)
        from[page * PAGE + page % PAGE] = (uint8_t)(page | 1);
}

static void limit_to(__rlimit_resource_t what, rlim_t value) {
    struct rlimit limit = {value, value};
    MUST(setrlimit(what, &limit));
}

/* A number of /proc/self/status, in bytes. */
static size_t status_of(const char *name) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    size_t found = 0;
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            found = strtoul(line + strlen(name) + 1, NULL, 10) << 10;
    CHECK(file && found > 0);
    fclose(file);
    return found;
}

/* ---- descriptors ---- */

CASE(no_descriptor_left_after_mapping) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    limit_to(RLIMIT_NOFILE, 0);
    CHECK_EQUAL(dup(0), -1);
    say("dup: %s", outcome(-1));
    store_into_every_page(at, FILE_BYTES / 2);
    copy[UNIT] = 3;
    CHECK_EQUAL(pwrite(fd, "w", 1, 12 * UNIT), 1);
    CHECK_EQUAL(at[12 * UNIT], 'w');
    CHECK_EQUAL(copy[12 * UNIT], 'w');
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    MUST(ftruncate(fd, UNIT));
    CHECK_EQUAL(signal_of_load(at + 2 * UNIT), SIGBUS);
}

PLAIN_CASE(no_descriptor_left_before_mapping, "no descriptor is left for ours") {
    open_maps();
    fd = sparse_file("file", FILE_BYTES);
    limit_to(RLIMIT_NOFILE, 0);
    CHECK_EQUAL(dup(0), -1);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    tell_service(fd, at, FILE_BYTES);
    store_into_every_page(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* What the child has open as well has to be listed, which takes a descriptor. Nobody may be shown zeros where the child has written. */
static void fork_without_descriptors(rlim_t most) {
    touched_hole();
    int to_child[2], to_parent[2];
    MUST(pipe(to_child));
    MUST(pipe(to_parent));
    struct rlimit before, few;
    MUST(getrlimit(RLIMIT_NOFILE, &before));
    few = (struct rlimit){most, before.rlim_max};
    MUST(setrlimit(RLIMIT_NOFILE, &few));
    while (dup(fd) >= 0)
        continue;
    pid_t child = MUST(fork());
    char word = 0;
    if (child == 0) {
        CHECK_EQUAL(read(to_child[0], &word, 1), 1);
        CHECK_EQUAL(pwrite(fd, "w", 1, 12 * UNIT), 1);
        CHECK_EQUAL(write(to_parent[1], &word, 1), 1);
        _exit(0);
    }
    MUST(setrlimit(RLIMIT_NOFILE, &before));
    unmap(at, FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    CHECK_EQUAL(write(to_child[1], "!", 1), 1);
    CHECK_EQUAL(read(to_parent[0], &word, 1), 1);
    CHECK_EQUAL(at[12 * UNIT], 'w');
    CHECK_EQUAL(end_of(child), 0);
}

CASE(a_fork_with_no_descriptor_left) { fork_without_descriptors(64); }
CASE(a_fork_with_no_descriptor_to_be_had) { fork_without_descriptors(0); }

/* ---- address space ---- */

CASE(no_address_space_left_after_mapping) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES / 2), 0);
    limit_to(RLIMIT_AS, status_of("VmSize"));
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    store_into_every_page(at, FILE_BYTES);
    limit_to(RLIMIT_AS, 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* There is room for the file and little else: not for what a library might want besides. */
PLAIN_CASE(hardly_any_address_space_left_before_mapping, "who has such a limit gets plain mappings") {
    fd = sparse_file("file", FILE_BYTES);
    limit_to(RLIMIT_AS, status_of("VmSize") + FILE_BYTES + (1 << 20));
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    store_into_every_page(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

PLAIN_CASE(no_address_space_for_the_mapping_itself, "who has such a limit gets plain mappings") {
    fd = sparse_file("file", FILE_BYTES);
    limit_to(RLIMIT_AS, status_of("VmSize") + FILE_BYTES / 2);
    void *none = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(none == MAP_FAILED);
    say("mmap: %s", outcome(-1));
    at = map_shared(fd, FILE_BYTES / 4);
    store_into_every_page(at, FILE_BYTES / 4);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES / 4));
}

/* ---- data ---- */

/* What a shared mapping of a file takes is no data of the process: what the program is allowed of that stays its own. */
PLAIN_CASE(a_limit_of_data_is_the_programs_own, "who has such a limit gets plain mappings") {
    limit_to(RLIMIT_DATA, status_of("VmData") + 4 * FILE_BYTES);
    int large = sparse_file("large", 16 * FILE_BYTES);
    bytes view = map_shared(large, 16 * FILE_BYTES);
    CHECK_EQUAL(touch(view, 16 * FILE_BYTES), 0);
    void *memory = mmap(NULL, 2 * FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 1, FILE_BYTES);
    store_into_every_page(view, FILE_BYTES);
    CHECK(same_as_file(view, large, 0, FILE_BYTES));
    CHECK_EQUAL(touch(view + FILE_BYTES, 15 * FILE_BYTES), 0);
}

CASE(no_data_allowed_any_more) {
    touched_hole();
    limit_to(RLIMIT_DATA, 1);
    CHECK(mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    store_into_every_page(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* ---- length of files ---- */

CASE(a_limit_of_file_length_does_not_touch_what_is_there) {
    touched_hole();
    signal(SIGXFSZ, SIG_IGN);
    limit_to(RLIMIT_FSIZE, UNIT);
    store_into_every_page(at, FILE_BYTES);
    CHECK_EQUAL(pwrite(fd, "no", 2, 8 * UNIT), -1);
    say("a write past it: %s", outcome(-1));
    CHECK_EQUAL(pwrite(fd, "part", 4, UNIT - 2), 2);
    CHECK_EQUAL(ftruncate(fd, 2 * FILE_BYTES), -1);
    say("growing: %s", outcome(-1));
    say("allocating: %s", outcome(fallocate(fd, 0, 0, 2 * FILE_BYTES)));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(ending_by_the_limit_of_file_length) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    limit_to(RLIMIT_FSIZE, UNIT);
    at[8 * UNIT] = 1;
    say("about to write past it");
    pwrite(fd, "no", 2, 8 * UNIT);
    say("not reached");
}

/* ---- ends ---- */

/* Many children end amid the faults of their threads, each after some more stores than the one before, and each with a file of its own: for each, a thread's stores are
 * noted once they are made, in memory that outlives the child. What has been noted is in the file. */
#define ENDS 100
#define END_THREADS 4
#define END_UNITS 8

struct noted {
    size_t stores; /* of all the threads */
    uint8_t of[END_THREADS * END_UNITS];
};

static struct noted *noted;
static bytes end_units[END_THREADS * END_UNITS];

/* Each unit is a mapping of its own, so that each store is the first to one, and a fault. */
static void *store_in_units(void *argument) {
    size_t first = (size_t)argument * END_UNITS;
    for (size_t unit = first; unit < first + END_UNITS; unit++) {
        end_units[unit][unit] = 5;
        noted->of[unit] = 5;
        __atomic_fetch_add(&noted->stores, 1, __ATOMIC_SEQ_CST);
    }
    for (;;)
        pause();
    return NULL;
}

static void threads_in_faults(int file, size_t until) {
    for (size_t unit = 0; unit < END_THREADS * END_UNITS; unit++)
        end_units[unit] = map(file, UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, (off_t)(unit * UNIT));
    tell_service(file, end_units[0], UNIT);
    for (size_t n = 0; n < END_THREADS; n++) {
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, store_in_units, (void *)n), 0);
    }
    while (__atomic_load_n(&noted->stores, __ATOMIC_SEQ_CST) < until) {}
}

static void ends_amid_faults(void (*end)(void), int expected) {
    size_t amid = 0;
    noted = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(noted != MAP_FAILED);
    for (size_t round = 0; round < ENDS; round++) {
        memset(noted, 0, sizeof *noted);
        pid_t child = fork();
        if (child == 0) {
            /* Nobody else has it open, so it is served. */
            threads_in_faults(sparse_file("file", END_THREADS * END_UNITS * UNIT), round % (END_THREADS * END_UNITS));
            if (!end)
                return; /* from main as well */
            end();
            _exit(99);
        }
        CHECK_EQUAL(end_of(child), expected);
        int file = open("file", O_RDWR);
        for (size_t unit = 0; unit < END_THREADS * END_UNITS; unit++)
            if (noted->of[unit])
                CHECK_EQUAL(byte_of_file(file, (off_t)(unit * UNIT + unit)), noted->of[unit]);
        amid += noted->stores < END_THREADS * END_UNITS;
        close(file);
        forget("file");
    }
    CHECK(amid > 0);
}

static void by_exit(void) { exit(11); }
static void by__exit(void) { _exit(12); }
static void by_exit_group(void) { syscall(SYS_exit_group, 13); }
static void by_exec(void) { execl("/bin/sh", "sh", "-c", "exit 14", (char *)NULL); }
static void by_a_kill(void) { kill(getpid(), SIGKILL); }

CASE(exit_while_threads_are_in_faults) { ends_amid_faults(by_exit, 11); }
CASE(_exit_while_threads_are_in_faults) { ends_amid_faults(by__exit, 12); }
CASE(exit_group_while_threads_are_in_faults) { ends_amid_faults(by_exit_group, 13); }
CASE(exec_while_threads_are_in_faults) { ends_amid_faults(by_exec, 14); }
CASE(killed_while_threads_are_in_faults) { ends_amid_faults(by_a_kill, 1000 + SIGKILL); }
CASE(main_returns_while_threads_are_in_faults) { ends_amid_faults(NULL, 0); }
