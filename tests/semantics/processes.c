/* fork, vfork, spawn, exec: children see what their parents store, and the other way round. */
#include "check.h"
#include <pthread.h>
#include <linux/capability.h>
#include <spawn.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>

#define FILE_BYTES (8 * UNIT)

extern char **environ;

static int fd;
static bytes at;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

/* A pair of pipes: each side tells the other to go on, so that nobody has to guess when. */
struct turn {
    int to_child[2], to_parent[2];
};

static void open_turn(struct turn *turn) {
    MUST(pipe(turn->to_child));
    MUST(pipe(turn->to_parent));
}

static void tell(int end) { CHECK_EQUAL(write(end, "!", 1), 1); }
static void await(int end) {
    char word;
    CHECK_EQUAL(read(end, &word, 1), 1);
}

CASE(parent_and_child_see_each_others_stores) {
    touched_hole();
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    copy[5 * UNIT] = 5;
    struct turn turn;
    open_turn(&turn);
    pid_t child = fork();
    if (child == 0) {
        CHECK_EQUAL(touch(at, FILE_BYTES), 0);
        at[UNIT] = 1;
        copy[5 * UNIT] = 6;
        copy[6 * UNIT] = 7;
        tell(turn.to_parent[1]);
        await(turn.to_child[0]);
        CHECK_EQUAL(at[2 * UNIT], 2);
        CHECK_EQUAL(copy[2 * UNIT], 2);
        CHECK_EQUAL(pwrite(fd, "c", 1, 3 * UNIT), 1);
        tell(turn.to_parent[1]);
        _exit(0);
    }
    await(turn.to_parent[0]);
    CHECK_EQUAL(at[UNIT], 1);
    CHECK_EQUAL(copy[5 * UNIT], 5);
    CHECK_EQUAL(copy[6 * UNIT], 0);
    at[2 * UNIT] = 2;
    tell(turn.to_child[1]);
    await(turn.to_parent[0]);
    CHECK_EQUAL(at[3 * UNIT], 'c');
    CHECK_EQUAL(copy[3 * UNIT], 'c');
    CHECK_EQUAL(end_of(child), 0);
    at[4 * UNIT] = 4;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_child_stores_into_every_page) {
    touched_hole();
    pid_t child = fork();
    if (child == 0) {
        for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
            at[page * PAGE + page % PAGE] = (uint8_t)(page | 1);
        _exit(0);
    }
    CHECK_EQUAL(end_of(child), 0);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
        CHECK_EQUAL(at[page * PAGE + page % PAGE], (uint8_t)(page | 1));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_grandchild_stores_after_its_parent_has_gone) {
    touched_hole();
    int ends[2];
    MUST(pipe(ends));
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0) {
            at[3 * UNIT] = 3;
            tell(ends[1]);
        }
        _exit(0);
    }
    CHECK_EQUAL(end_of(child), 0);
    await(ends[0]);
    CHECK_EQUAL(at[3 * UNIT], 3);
}

CASE(a_child_makes_and_drops_its_own_mappings) {
    touched_hole();
    pid_t child = fork();
    if (child == 0) {
        unmap(at + UNIT, UNIT);
        bytes again = map_shared(fd, FILE_BYTES);
        CHECK_EQUAL(touch(again, FILE_BYTES), 0);
        again[2 * UNIT] = 2;
        int other = sparse_file("other", FILE_BYTES);
        bytes own = map_shared(other, FILE_BYTES);
        CHECK_EQUAL(touch(own, FILE_BYTES), 0);
        own[UNIT] = 9;
        CHECK_EQUAL(byte_of_file(other, UNIT), 9);
        MUST(munmap((void *)at, FILE_BYTES));
        CHECK(mremap((void *)own, FILE_BYTES, UNIT, 0) == own);
        exit(0);
    }
    CHECK_EQUAL(end_of(child), 0);
    CHECK_EQUAL(at[2 * UNIT], 2);
    at[UNIT] = 1;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(the_parent_maps_holes_again_after_a_fork) {
    touched_hole();
    struct turn turn;
    open_turn(&turn);
    pid_t child = fork();
    if (child == 0) {
        await(turn.to_child[0]);
        at[5 * UNIT] = 5; /* into a hole that the parent has mapped and read since */
        CHECK_EQUAL(pwrite(fd, "p", 1, 6 * UNIT), 1);
        _exit(0);
    }
    bytes again = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(again, FILE_BYTES), 0);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    tell(turn.to_child[1]);
    CHECK_EQUAL(end_of(child), 0);
    CHECK_EQUAL(at[5 * UNIT], 5);
    CHECK_EQUAL(again[5 * UNIT], 5);
    CHECK_EQUAL(again[6 * UNIT], 'p');
}

PLAIN_CASE(an_inherited_descriptor_of_a_file_mapped_later, "both have the descriptor") {
    fd = sparse_file("file", FILE_BYTES);
    struct turn turn;
    open_turn(&turn);
    pid_t child = fork();
    if (child == 0) {
        await(turn.to_child[0]);
        CHECK_EQUAL(pwrite(fd, "i", 1, 2 * UNIT), 1);
        bytes mine = map_shared(fd, FILE_BYTES);
        mine[3 * UNIT] = 3;
        tell(turn.to_parent[1]);
        await(turn.to_child[0]);
        _exit(0);
    }
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    tell(turn.to_child[1]);
    await(turn.to_parent[0]);
    CHECK_EQUAL(at[2 * UNIT], 'i');
    CHECK_EQUAL(at[3 * UNIT], 3);
    tell(turn.to_child[1]);
    CHECK_EQUAL(end_of(child), 0);
}

/* What is open at a fork is served no more, nor is what has its inode: each fork has files of its own, which stay. In each unit one store is the first. */
#define FORKS 20
#define FORK_UNITS 16
#define FORK_THREADS 4
#define STORED_BY_CHILD(UNIT_OF_FILE) ((UNIT_OF_FILE) % 4 == 3)

static bytes fork_units[FORK_UNITS];
static pthread_barrier_t fork_start;
static size_t fork_stores;

static void *store_on(void *argument) {
    size_t which = (size_t)argument;
    pthread_barrier_wait(&fork_start);
    for (size_t page = 0; page < 8; page++)
        for (size_t n = 0; n < FORK_UNITS; n++) {
            size_t unit = (n * 5 + which * 4) % FORK_UNITS;
            if (STORED_BY_CHILD(unit))
                continue;
            __atomic_fetch_add((uint32_t *)(fork_units[unit] + page * PAGE), 1, __ATOMIC_RELAXED);
            __atomic_fetch_add(&fork_stores, 1, __ATOMIC_SEQ_CST);
        }
    return NULL;
}

/* A fork when the threads have made so many stores. */
static void fork_amid_stores(size_t stores) {
    char name[32];
    snprintf(name, sizeof name, "file%zu", stores);
    int file = sparse_file(name, FORK_UNITS * UNIT);
    for (size_t unit = 0; unit < FORK_UNITS; unit++)
        fork_units[unit] = map(file, UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, (off_t)(unit * UNIT));
    pthread_t threads[FORK_THREADS];
    fork_stores = 0;
    CHECK_EQUAL(pthread_barrier_init(&fork_start, NULL, FORK_THREADS + 1), 0);
    for (size_t n = 0; n < FORK_THREADS; n++)
        CHECK_EQUAL(pthread_create(&threads[n], NULL, store_on, (void *)n), 0);
    pthread_barrier_wait(&fork_start);
    while (__atomic_load_n(&fork_stores, __ATOMIC_SEQ_CST) < stores) {}
    pid_t child = fork();
    if (child == 0) {
        for (size_t unit = 0; unit < FORK_UNITS; unit++)
            if (STORED_BY_CHILD(unit))
                __atomic_fetch_add((uint32_t *)fork_units[unit], 7, __ATOMIC_RELAXED);
        _exit(0);
    }
    CHECK_EQUAL(end_of(child), 0);
    for (size_t n = 0; n < FORK_THREADS; n++)
        pthread_join(threads[n], NULL);
    for (size_t unit = 0; unit < FORK_UNITS; unit++) {
        for (size_t page = 0; page < 8; page++)
            CHECK_EQUAL(*(uint32_t *)(fork_units[unit] + page * PAGE),
                        STORED_BY_CHILD(unit) ? (page == 0 ? 7 : 0) : FORK_THREADS);
        CHECK(same_as_file(fork_units[unit], file, (off_t)(unit * UNIT), UNIT));
        unmap(fork_units[unit], UNIT);
    }
    close(file);
}

CASE(forks_amid_storing_threads) {
    for (size_t stores = 0; stores < FORKS; stores++)
        fork_amid_stores(stores);
}

CASE(vfork_and_exec) {
    touched_hole();
    for (int round = 0; round < 20; round++) {
        pid_t child = vfork();
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
            _exit(1);
        }
        CHECK_EQUAL(end_of(child), 7);
        at[(size_t)round * 93 * PAGE] = 1;
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(spawned_programs_write_the_file) {
    touched_hole();
    char *arguments[] = {"sh", "-c", "printf spawn | dd of=file bs=1 seek=2097152 conv=notrunc 2>/dev/null", NULL};
    pid_t child;
    CHECK_EQUAL(posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ), 0);
    CHECK_EQUAL(end_of(child), 0);
    CHECK(memcmp((void *)(at + UNIT), "spawn", 5) == 0);
    CHECK_EQUAL(touch(at + 2 * UNIT, 6 * UNIT), 0);
    CHECK_EQUAL(system("printf shell | dd of=file bs=1 seek=4194304 conv=notrunc 2>/dev/null"), 0);
    CHECK(memcmp((void *)(at + 2 * UNIT), "shell", 5) == 0);
    FILE *pipe_to = popen("dd of=file bs=1 seek=6291456 conv=notrunc 2>/dev/null", "w");
    CHECK(pipe_to && fputs("pipe", pipe_to) >= 0 && pclose(pipe_to) == 0);
    CHECK(memcmp((void *)(at + 3 * UNIT), "pipe", 4) == 0);
    CHECK_EQUAL(system("truncate -s 10M file"), 0);
    CHECK_EQUAL(signal_of_load(at + 5 * UNIT), SIGBUS);
    CHECK_EQUAL(touch(at + 4 * UNIT, UNIT), 0);
    say("size %lld", (long long)size_of(fd));
}

CASE(children_see_what_was_stored_before_them) {
    touched_hole();
    at[UNIT] = 'A';
    at[5 * UNIT] = 'B';
    FILE *from = popen("dd if=file bs=1 skip=2097152 count=1 2>/dev/null; dd if=file bs=1 skip=10485760 count=1 2>/dev/null", "r");
    char text[8] = {0};
    CHECK(from && fread(text, 1, 7, from) == 2 && pclose(from) == 0);
    say("%s", text);
}

CASE(exec_replaces_the_program_and_its_mappings) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    at[UNIT] = 1;
    MUST(fcntl(fd, F_SETFD, 0));
    char text[16];
    snprintf(text, sizeof text, "%d", fd);
    setenv("CHECK_FD", text, 1);
    fflush(stdout);
    execl("/proc/self/exe", "check", "after_exec", (char *)NULL);
    CHECK(0);
}

PLAIN_CASE(after_exec, "it does nothing by itself") {
    const char *text = getenv("CHECK_FD");
    if (!text)
        return;
    fd = atoi(text);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 1);
    at[2 * UNIT] = 2;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    close(fd);
    fd = open("file", O_RDWR);
    bytes again = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(again, FILE_BYTES), 2);
    again[3 * UNIT] = 3;
    CHECK_EQUAL(at[3 * UNIT], 3);
}

CASE(exec_without_an_environment) {
    touched_hole();
    pid_t child = fork();
    if (child == 0) {
        execle("/proc/self/exe", "check", "after_exec", (char *)NULL, (char *[]){NULL});
        _exit(1);
    }
    CHECK_EQUAL(end_of(child), 0);
    at[UNIT] = 1;
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
}

static void *exec_from_thread(void *argument) {
    (void)argument;
    execl("/bin/sh", "sh", "-c", "exit 0", (char *)NULL);
    return NULL;
}

CASE(exec_from_a_second_thread) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    fflush(stdout);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, exec_from_thread, NULL), 0);
    pthread_join(thread, NULL);
}

static void store_at_exit(void) { at[7 * UNIT] = 7; }

CASE(handlers_at_exit_may_store) {
    touched_hole();
    atexit(store_at_exit);
    exit(3);
}

CASE(leaving_without_cleaning_up_loses_nothing) {
    touched_hole();
    for (size_t page = 0; page < FILE_BYTES / PAGE; page += 3)
        at[page * PAGE] = (uint8_t)(page | 1);
    _exit(4);
}

CASE(aborting_loses_nothing) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    at[UNIT] = 1;
    say("aborting");
    abort();
}

static void *leave_later(void *argument) {
    pthread_join(*(pthread_t *)argument, NULL);
    at[4 * UNIT] = 4;
    exit(5);
}

CASE(the_main_thread_leaves_first) {
    touched_hole();
    static pthread_t first, later;
    first = pthread_self();
    CHECK_EQUAL(pthread_create(&later, NULL, leave_later, &first), 0);
    pthread_exit(NULL);
}

static int prepared, in_parent;
static void prepare(void) { prepared++; at[UNIT] = 1; }
static void parent(void) { in_parent++; at[2 * UNIT] = 2; }
static void child_side(void) { at[3 * UNIT] = 3; }

CASE(fork_handlers_may_touch_mappings) {
    touched_hole();
    CHECK_EQUAL(pthread_atfork(prepare, parent, child_side), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(at[1 * UNIT] == 1 && at[3 * UNIT] == 3 ? 0 : 1);
    CHECK_EQUAL(end_of(child), 0);
    CHECK(prepared == 1 && in_parent == 1);
    CHECK_EQUAL(at[3 * UNIT], 3);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* A lease is given back by the file's owner, or by who has the right to any: by neither, once those rights are given up. Then whoever opens the file would
   wait until the kernel takes it, which is longer than a case may last. */
static void be_told_without_rights(long give_up(void)) {
    if (geteuid() != 0) {
        say("SKIPPED: there are no rights to give up");
        return;
    }
    struct turn turn;
    open_turn(&turn);
    pid_t stranger = MUST(fork());
    if (stranger == 0) {
        await(turn.to_child[0]);
        int opened = open("file", O_RDWR);
        CHECK_EQUAL(pwrite(opened, "w", 1, 3 * UNIT), 1);
        tell(turn.to_parent[1]);
        _exit(0);
    }
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    CHECK_EQUAL(give_up(), 0);
    tell(turn.to_child[1]);
    await(turn.to_parent[0]);
    CHECK_EQUAL(at[3 * UNIT], 'w');
    CHECK_EQUAL(touch(at + 4 * UNIT, 4 * UNIT), 0);
    at[5 * UNIT] = 5;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    CHECK_EQUAL(end_of(stranger), 0);
}

#define NOBODY 65534
static long by_setuid(void) { return setuid(NOBODY); }
static long by_seteuid(void) { return seteuid(NOBODY); }
static long by_setreuid(void) { return setreuid(NOBODY, NOBODY); }
static long by_setresuid(void) { return setresuid(NOBODY, NOBODY, NOBODY); }
static long by_setfsuid(void) { return setfsuid(NOBODY); }
static long by_number(void) { return syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY); }

CASE(a_program_that_becomes_another_user) { be_told_without_rights(by_setuid); }
CASE(a_program_whose_effective_user_is_another) { be_told_without_rights(by_seteuid); }
CASE(a_program_that_sets_two_users) { be_told_without_rights(by_setreuid); }
CASE(a_program_that_sets_three_users) { be_told_without_rights(by_setresuid); }
CASE(a_program_that_uses_files_as_another_user) { be_told_without_rights(by_setfsuid); }
CASE(a_thread_that_becomes_another_user) { be_told_without_rights(by_number); }

static long by_capset(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};
    MUST(fchown(fd, NOBODY, NOBODY));
    return syscall(SYS_capset, &header, none);
}
CASE(a_program_that_gives_up_its_capabilities) { be_told_without_rights(by_capset); }
