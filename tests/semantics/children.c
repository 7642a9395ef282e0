/* Children by fork begin anew: what they open themselves is served, what they share with their parents is the kernel's. */
#include "check.h"
#include <pthread.h>

#define FILE_BYTES (8 * UNIT)

static int in_child(void (*what)(void)) {
    pid_t child = MUST(fork());
    if (child == 0) {
        what();
        exit(0);
    }
    return end_of(child);
}

/* A hole that was read stays one, and a store reaches the file: by as many ways as there are to look at it. */
static void use_a_file(const char *name) {
    unlink(name);
    int fd = sparse_file(name, FILE_BYTES);
    bytes at = map_shared(fd, FILE_BYTES);
    bytes copy = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    CHECK_EQUAL(touch(copy, FILE_BYTES), 0);
    at[UNIT + 5] = 1;
    copy[2 * UNIT] = 2;
    CHECK_EQUAL(copy[UNIT + 5], 1);
    CHECK_EQUAL(byte_of_file(fd, UNIT + 5), 1);
    CHECK_EQUAL(pwrite(fd, "w", 1, 3 * UNIT), 1);
    CHECK_EQUAL(at[3 * UNIT], 'w');
    CHECK_EQUAL(pread(fd, (void *)(at + 4 * UNIT), 16, UNIT), 16);
    CHECK_EQUAL(at[4 * UNIT + 5], 1);
    MUST(ftruncate(fd, 5 * UNIT));
    MUST(ftruncate(fd, FILE_BYTES));
    at[7 * UNIT] = 7;
    MUST(msync((void *)at, FILE_BYTES, MS_SYNC));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    unmap(at, FILE_BYTES);
    unmap(copy, FILE_BYTES);
    MUST(close(fd));
}

static void a_file_of_its_own(void) { use_a_file("of-the-child"); }

CASE(a_child_with_a_file_of_its_own) {
    CHECK_EQUAL(in_child(a_file_of_its_own), 0);
    use_a_file("of-the-parent");
}

CASE(a_child_of_a_parent_that_has_mapped) {
    use_a_file("of-the-parent");
    int fd = sparse_file("shared", FILE_BYTES);
    bytes at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    CHECK_EQUAL(in_child(a_file_of_its_own), 0);
    at[UNIT] = 1;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static void a_child_too(void) {
    use_a_file("of-the-child");
    CHECK_EQUAL(in_child(a_file_of_its_own), 0);
    use_a_file("of-the-child");
}

CASE(children_of_children) {
    use_a_file("of-the-parent");
    CHECK_EQUAL(in_child(a_child_too), 0);
}

CASE(a_daemon_maps) {
    int ends[2];
    MUST(pipe(ends));
    pid_t child = MUST(fork());
    if (child == 0) {
        MUST(daemon(1, 0));
        use_a_file("of-the-daemon");
        CHECK_EQUAL(write(ends[1], "!", 1), 1);
        exit(0);
    }
    MUST(close(ends[1]));
    CHECK_EQUAL(end_of(child), 0);
    char word;
    CHECK_EQUAL(read(ends[0], &word, 1), 1);
    CHECK_EQUAL(read(ends[0], &word, 1), 0);
}

/* Parent and child open the same file by its name, and store by turns: each sees the other's. */
EITHER_CASE(parent_and_child_open_the_same_file, "whoever opens it first may be served until the other does") {
    int to_child[2], to_parent[2];
    char word;
    MUST(pipe(to_child));
    MUST(pipe(to_parent));
    MUST(close(sparse_file("file", FILE_BYTES)));
    pid_t child = MUST(fork());
    int fd = sparse_file("file", FILE_BYTES);
    bytes at = map_shared(fd, FILE_BYTES);
    size_t mine = child == 0, other = !mine;
    for (size_t turn = 0; turn < 64; turn++) {
        if (turn % 2 == mine) {
            size_t next = (turn + 1) % 64 * (FILE_BYTES / 64);
            CHECK_EQUAL(at[next], turn == 63); /* often a hole still, and looked at before the other stores there */
            at[turn * (FILE_BYTES / 64)] = (uint8_t)(turn | 1);
            CHECK_EQUAL(write(mine ? to_parent[1] : to_child[1], "!", 1), 1);
        } else {
            CHECK_EQUAL(read(other ? to_parent[0] : to_child[0], &word, 1), 1);
            CHECK_EQUAL(at[turn * (FILE_BYTES / 64)], (uint8_t)(turn | 1));
        }
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    if (child == 0)
        exit(0);
    CHECK_EQUAL(end_of(child), 0);
}

/* What was open at the fork is open in both: neither may show a hole that the other has filled. */
PLAIN_CASE(what_was_open_at_the_fork, "both have the descriptor") {
    int to_child[2], to_parent[2];
    char word;
    MUST(pipe(to_child));
    MUST(pipe(to_parent));
    int fd = sparse_file("file", FILE_BYTES);
    pid_t child = MUST(fork());
    bytes at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    if (child == 0) {
        CHECK_EQUAL(write(to_parent[1], "!", 1), 1);
        CHECK_EQUAL(read(to_child[0], &word, 1), 1);
        CHECK_EQUAL(at[UNIT], 1);
        CHECK_EQUAL(at[2 * UNIT], 'p');
        at[3 * UNIT] = 3;
        CHECK_EQUAL(pwrite(fd, "c", 1, 4 * UNIT), 1);
        exit(0);
    }
    CHECK_EQUAL(read(to_parent[0], &word, 1), 1);
    at[UNIT] = 1;
    CHECK_EQUAL(pwrite(fd, "p", 1, 2 * UNIT), 1);
    CHECK_EQUAL(write(to_child[1], "!", 1), 1);
    CHECK_EQUAL(end_of(child), 0);
    CHECK_EQUAL(at[3 * UNIT], 3);
    CHECK_EQUAL(at[4 * UNIT], 'c');
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static int turns_left;
static bytes held;

static void *store_and_map(void *unused) {
    (void)unused;
    for (unsigned turn = 0; __atomic_load_n(&turns_left, __ATOMIC_RELAXED) > 0; turn++) {
        held[(turn * 37 % 2048) * PAGE] = 1;
        int fd = open("moving", O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        CHECK(fd >= 0);
        MUST(ftruncate(fd, FILE_BYTES));
        bytes at = map_shared(fd, FILE_BYTES);
        CHECK_EQUAL(at[UNIT], 0);
        unmap(at, FILE_BYTES);
        MUST(close(fd));
    }
    return NULL;
}

CASE(threads_map_while_others_fork_and_the_children_map) {
    int fd = sparse_file("held", FILE_BYTES);
    held = map_shared(fd, FILE_BYTES);
    turns_left = 40;
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, store_and_map, NULL), 0);
    for (; turns_left > 0; __atomic_fetch_sub(&turns_left, 1, __ATOMIC_RELAXED))
        CHECK_EQUAL(in_child(a_file_of_its_own), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(same_as_file(held, fd, 0, FILE_BYTES));
    forget("held");
    forget("moving");
}

/* The handler that the parent has installed is the child's as well, and so is what it says of its own. */
static sigjmp_buf back;
static void leave(int signal) { siglongjmp(back, signal); }

static void a_wild_access_and_a_hole(void) {
    bytes wild = map(-1, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
    if (sigsetjmp(back, 1) == 0) {
        wild[0] = 1;
        CHECK(0);
    }
    use_a_file("of-the-child");
    CHECK(signal(SIGSEGV, SIG_DFL) == leave);
    CHECK(signal(SIGSEGV, leave) == SIG_DFL);
    if (sigsetjmp(back, 1) == 0) {
        wild[0] = 1;
        CHECK(0);
    }
}

CASE(handlers_of_the_parent_in_the_child) {
    signal(SIGSEGV, leave);
    use_a_file("of-the-parent");
    CHECK_EQUAL(in_child(a_wild_access_and_a_hole), 0);
    a_wild_access_and_a_hole();
}

/* A child that ends in the middle of its threads' faults takes nobody with it. */
static void *store_everywhere(void *argument) {
    bytes at = argument;
    for (size_t page = 0;; page = (page + 7) % (FILE_BYTES / PAGE))
        at[page * PAGE] = 1;
    return NULL;
}

static void end_amid_faults(void) {
    int fd = sparse_file("of-the-child", FILE_BYTES);
    bytes at = map_shared(fd, FILE_BYTES);
    pthread_t thread;
    for (int number = 0; number < 4; number++)
        CHECK_EQUAL(pthread_create(&thread, NULL, store_everywhere, (void *)at), 0);
    at[5 * UNIT] = 1;
    _exit(0);
}

CASE(a_child_that_ends_amid_faults) {
    CHECK_EQUAL(in_child(end_amid_faults), 0);
    use_a_file("of-the-parent");
    forget("of-the-child");
}

/* A mapping on one side of `place`, as near as there is room. */
static bytes map_beside(uintptr_t place, int fd, int is_above) {
    for (uintptr_t step = 1; step < 1024; step++) {
        uintptr_t wanted = (place & ~(UNIT - 1)) + (is_above ? step : -step) * 32 * UNIT;
        void *got = mmap((void *)wanted, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(got != MAP_FAILED);
        if (is_above ? (uintptr_t)got > place : (uintptr_t)got < place)
            return got;
        unmap(got, FILE_BYTES);
    }
    CHECK(0);
    return NULL;
}

static void *fork_between_mappings(void *unused) {
    void *own = malloc(64); /* of a heap of this thread's, which is where its other memory will be */
    int fds[2] = {sparse_file("below", FILE_BYTES), sparse_file("above", FILE_BYTES)};
    for (int round = 0; round < 8; round++) {
        bytes at[2];
        for (int n = 0; n < 2; n++) {
            at[n] = map_beside((uintptr_t)own, fds[n], n);
            CHECK_EQUAL(touch(at[n], FILE_BYTES), 0);
        }
        pid_t child = MUST(fork());
        if (child == 0) {
            at[0][UNIT] = at[1][UNIT] = 1;
            _exit(0);
        }
        CHECK_EQUAL(end_of(child), 0);
        for (int n = 0; n < 2; n++) {
            const char *name = n ? "above" : "below";
            CHECK_EQUAL(at[n][UNIT], 1);
            unmap(at[n], FILE_BYTES);
            close(fds[n]);
            MUST(unlink(name));
            fds[n] = sparse_file(name, FILE_BYTES); /* what a child may write is served no more */
        }
    }
    free(own);
    return unused;
}

/* Its memory lies where faults are served, as far as two bounds can tell: it may not be waited for as if it were mapped from a file. */
CASE(a_thread_forks_whose_memory_lies_between_mappings) {
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, fork_between_mappings, NULL), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
}
