/* Programs that do everything to their processes: clones of both kinds, no descriptors, tracers, limits, ends in the middle of faults. */
#include "check.h"
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

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

static void every_page_was_stored_to(bytes from, size_t length) {
    for (size_t page = 0; page < length / PAGE; page++)
        CHECK_EQUAL(from[page * PAGE + page % PAGE], (uint8_t)(page | 1));
}

/* ---- a case that runs as a program of its own, started by the case itself: a child of fork alone would not be served ---- */

#define WAS_STARTED "CHECK_STARTED"

static int was_started(void) { return getenv(WAS_STARTED) != NULL; }

static pid_t start_case(const char *name) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        setenv(WAS_STARTED, "1", 1);
        execl("/proc/self/exe", "check", name, (char *)NULL);
        _exit(126);
    }
    CHECK(child > 0);
    return child;
}

static void tell(int end) { CHECK_EQUAL(write(end, "!", 1), 1); }
static int await(int end) {
    char word;
    return (int)read(end, &word, 1);
}

/* ---- clone ---- */

static uint8_t clone_stack[1 << 20] __attribute__((aligned(4096)));
static int to_clone[2], from_clone[2];

static int stores_in_its_own_time(void *argument) {
    (void)argument;
    tell(from_clone[1]);
    await(to_clone[0]);
    store_into_every_page(at, FILE_BYTES);
    return 7;
}

/* A process that shares the memory, but is no thread: holes that were mapped after it was made are its holes too. */
CASE(a_clone_with_shared_memory_stores_into_holes) {
    MUST(pipe(to_clone));
    MUST(pipe(from_clone));
    pid_t child = (pid_t)MUST(clone(stores_in_its_own_time, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, NULL));
    await(from_clone[0]);
    touched_hole();
    tell(to_clone[1]);
    CHECK_EQUAL(end_of(child), 7);
    every_page_was_stored_to(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_clone_with_shared_memory_and_descriptors_stores_into_holes) {
    MUST(pipe(to_clone));
    MUST(pipe(from_clone));
    int flags = CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD;
    pid_t child = (pid_t)MUST(clone(stores_in_its_own_time, clone_stack + sizeof clone_stack, flags, NULL));
    await(from_clone[0]);
    touched_hole();
    tell(to_clone[1]);
    CHECK_EQUAL(end_of(child), 7);
    every_page_was_stored_to(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* It has the handlers of its beginning, even where there were none. */
CASE(a_clone_with_shared_memory_and_no_handler_stores_into_holes) {
    signal(SIGSEGV, SIG_DFL);
    MUST(pipe(to_clone));
    MUST(pipe(from_clone));
    pid_t child = (pid_t)MUST(clone(stores_in_its_own_time, clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, NULL));
    await(from_clone[0]);
    touched_hole();
    tell(to_clone[1]);
    CHECK_EQUAL(end_of(child), 7);
    every_page_was_stored_to(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static int stores_at_once(void *argument) {
    (void)argument;
    store_into_every_page(at, FILE_BYTES);
    return 8;
}

CASE(a_clone_without_shared_memory_stores_into_holes) {
    touched_hole();
    pid_t child = (pid_t)MUST(clone(stores_at_once, clone_stack + sizeof clone_stack, SIGCHLD, NULL));
    CHECK_EQUAL(end_of(child), 8);
    every_page_was_stored_to(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(forks_by_number_store_into_holes) {
    touched_hole();
#ifdef SYS_fork
    long child = MUST(syscall(SYS_fork));
#else
    long child = MUST(syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L));
#endif
    if (child == 0) {
        store_into_every_page(at, FILE_BYTES / 2);
        _exit(9);
    }
    CHECK_EQUAL(end_of((pid_t)child), 9);
    child = MUST(syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L));
    if (child == 0) {
        store_into_every_page(at, FILE_BYTES);
        _exit(9);
    }
    CHECK_EQUAL(end_of((pid_t)child), 9);
    every_page_was_stored_to(at, FILE_BYTES);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_vfork_child_stores_into_holes) {
    touched_hole();
    pid_t child = vfork();
    if (child == 0) {
        for (size_t page = 0; page < FILE_BYTES / PAGE; page += 3)
            at[page * PAGE] = (uint8_t)(page | 1);
        _exit(0);
    }
    CHECK_EQUAL(end_of(child), 0);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
        CHECK_EQUAL(at[page * PAGE], page % 3 ? 0 : (uint8_t)(page | 1));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* ---- daemons ---- */

/* By daemon(3), which forks; and then another program, as a child of fork alone is not served. */
CASE(a_daemon_without_a_single_descriptor) {
    if (was_started()) {
        MUST(daemon(1, 1));
        execl("/proc/self/exe", "check", "daemon_body", (char *)NULL);
        _exit(126);
    }
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
    CHECK_EQUAL(end_of(start_case("a_daemon_without_a_single_descriptor")), 0);
    int status;
    MUST(waitpid(-1, &status, 0));
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(WEXITSTATUS(status), 5);
    fd = open("file", O_RDWR);
    at = map_shared(fd, FILE_BYTES);
    every_page_was_stored_to(at, FILE_BYTES);
}

/* It has no descriptor before it maps but the file's (as 3: what stands where standard streams do is written unseen), none at all after, and nowhere to say what went wrong but in its exit code. */
PLAIN_CASE(daemon_body, "it does nothing by itself") {
    if (!was_started())
        return;
    MUST(close_range(0, ~0U, 0));
    fd = open("file", O_RDWR | O_CREAT, 0644);
    if (fd != 0 || ftruncate(fd, FILE_BYTES) != 0 || dup2(fd, 3) != 3)
        _exit(1);
    close(fd);
    fd = 3;
    at = map_shared(fd, FILE_BYTES);
    if (touch(at, FILE_BYTES / 2) != 0)
        _exit(2);
    store_into_every_page(at, FILE_BYTES / 4);
    closefrom(0);
    if (touch(at + FILE_BYTES / 4, 3 * FILE_BYTES / 4) != 0)
        _exit(3);
    store_into_every_page(at, FILE_BYTES);
    _exit(5);
}

/* ---- tracers ---- */

static void be_traced(void) {
    MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    raise(SIGSTOP);
    touched_hole();
    at[UNIT] = 7;
    int where = open("where", O_RDWR | O_CREAT, 0644);
    CHECK_EQUAL(write(where, &at, sizeof at), sizeof at);
    raise(SIGSTOP);
    for (size_t page = 0; page < 3; page++)
        at[5 * UNIT + page * 100 * PAGE] = (uint8_t)(page + 1); /* step by step */
    raise(SIGSTOP);
    CHECK_EQUAL(at[UNIT + 1], 9);
    store_into_every_page(at, FILE_BYTES);
    _exit(6);
}

/* What a stopped program is to be given, where faults come to it as signals: a tracer hands them on, as debuggers are told to. */
static void *fault_of(int status) {
    return WSTOPSIG(status) == SIGSEGV ? (void *)SIGSEGV : NULL;
}

/* Goes on with whatever thread has stopped, until `wanted` has for its own SIGSTOP, or has ended. */
static int until_it_stops(pid_t wanted) {
    for (;;) {
        int status;
        pid_t who = (pid_t)MUST(waitpid(-1, &status, __WALL));
        if (who == wanted && !WIFSTOPPED(status))
            return status;
        if (!WIFSTOPPED(status))
            continue; /* another thread of it has ended */
        if (who == wanted && WSTOPSIG(status) == SIGSTOP)
            return status;
        ptrace(PTRACE_CONT, who, NULL, fault_of(status));
    }
}

static void trace(const char *name, long options) {
    if (was_started())
        be_traced();
    pid_t child = start_case(name);
    CHECK(WIFSTOPPED(until_it_stops(child)));
    MUST(ptrace(PTRACE_SETOPTIONS, child, NULL, options | PTRACE_O_EXITKILL));
    MUST(ptrace(PTRACE_CONT, child, NULL, NULL));
    CHECK(WIFSTOPPED(until_it_stops(child)));
    int told = open("where", O_RDONLY);
    long where;
    CHECK_EQUAL(read(told, &where, sizeof where), sizeof where);
    forget("where");
    errno = 0;
    long word = ptrace(PTRACE_PEEKDATA, child, where + UNIT, NULL);
    CHECK_EQUAL(errno, 0);
    CHECK_EQUAL(word, 7);
    CHECK_EQUAL(ptrace(PTRACE_PEEKDATA, child, where + 3 * UNIT, NULL), 0);
    CHECK_EQUAL(errno, 0);
    MUST(ptrace(PTRACE_POKEDATA, child, where + UNIT, 7L | 9L << 8));
    /* The next stores are made one instruction at a time. */
    int status, steps = 0;
    void *fault = NULL;
    do {
        MUST(ptrace(PTRACE_SINGLESTEP, child, NULL, fault));
        MUST(waitpid(child, &status, __WALL));
        fault = fault_of(status);
        steps++;
    } while (WIFSTOPPED(status) && (fault || WSTOPSIG(status) == SIGTRAP));
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    CHECK(steps > 20);
    MUST(ptrace(PTRACE_CONT, child, NULL, NULL));
    status = until_it_stops(child);
    CHECK(WIFEXITED(status));
    CHECK_EQUAL(WEXITSTATUS(status), 6);
    fd = open("file", O_RDWR);
    at = map_shared(fd, FILE_BYTES);
    at[UNIT + 1] = 0; /* the tracer's; page 512 has its byte elsewhere */
    at[UNIT] = (uint8_t)(512 | 1);
    at[5 * UNIT] = (uint8_t)(5 * 512 | 1);
    every_page_was_stored_to(at, FILE_BYTES);
}

CASE(a_traced_program_is_looked_at_and_changed) { trace("a_traced_program_is_looked_at_and_changed", 0); }

/* As strace -f and gdb do: every thread of the process is stopped when it is made, ours too. */
CASE(a_tracer_of_every_thread) { trace("a_tracer_of_every_thread", PTRACE_O_TRACECLONE); }

/* ---- userfaultfd of the program's own ---- */

static int uffd;
static bytes registered;

static void *serve_own_faults(void *argument) {
    (void)argument;
    struct uffd_msg message;
    while (read(uffd, &message, sizeof message) == sizeof message) {
        uint64_t place = message.arg.pagefault.address & ~(PAGE - 1);
        size_t page = (place - (uint64_t)registered) / PAGE;
        if (page == 0)
            break;
        /* What the program gives is what lies in a hole that may not have been touched: zeros, and one byte that was stored. */
        struct uffdio_copy copy = {.dst = place, .src = (uint64_t)(at + page * PAGE), .len = PAGE};
        CHECK_EQUAL(ioctl(uffd, UFFDIO_COPY, &copy), 0);
    }
    struct uffdio_zeropage rest = {.range = {(uint64_t)registered, PAGE}};
    CHECK_EQUAL(ioctl(uffd, UFFDIO_ZEROPAGE, &rest), 0);
    return NULL;
}

static int open_userfaultfd(void) {
    uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) != 0) {
        say("SKIPPED: userfaultfd is refused to the program: %s", outcome(-1));
        return 0;
    }
    return 1;
}

static int register_missing(bytes from, size_t length) {
    struct uffdio_register what = {.range = {(uint64_t)from, length}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    return ioctl(uffd, UFFDIO_REGISTER, &what);
}

CASE(the_programs_own_userfaultfd_copies_out_of_holes) {
    if (!open_userfaultfd())
        return;
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    registered = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(madvise((void *)registered, FILE_BYTES, MADV_NOHUGEPAGE));
    CHECK_EQUAL(register_missing(registered, FILE_BYTES), 0);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, serve_own_faults, NULL), 0);
    at[UNIT + 9] = 9;
    for (size_t page = 1; page < 2000; page += 7)
        CHECK_EQUAL(registered[page * PAGE + 9], page == 512 ? 9 : 0);
    CHECK_EQUAL(registered[UNIT + 9], 9);
    CHECK_EQUAL(registered[0], 0);
    pthread_join(thread, NULL);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* Each fault of its own gets a page of 'u', until there is one on the last page of the mapping. */
static void *serve_own_faults_with_u(void *argument) {
    static uint8_t page_of_u[PAGE] __attribute__((aligned(PAGE)));
    struct uffd_msg message;
    uint64_t last = (uint64_t)registered + FILE_BYTES - PAGE, place = 0;
    memset(page_of_u, 'u', PAGE);
    while (place != last && read(uffd, &message, sizeof message) == sizeof message) {
        place = message.arg.pagefault.address & ~(PAGE - 1);
        struct uffdio_copy copy = {.dst = place, .src = (uint64_t)page_of_u, .len = PAGE};
        CHECK_EQUAL(ioctl(uffd, UFFDIO_COPY, &copy), 0);
        (*(size_t *)argument)++;
    }
    return NULL;
}

static void load_u(size_t offset) {
    CHECK_EQUAL(at[offset], 'u');
    CHECK_EQUAL(byte_of_file(fd, (off_t)offset), 'u');
}

/* A file of a disk cannot be registered; one in memory can, and faults there are the program's from then on. What was
 * loaded before has storage plainly, and is a hole yet under udax: then the fault comes all the same. */
CASE(the_programs_own_userfaultfd_on_the_mapping_itself) {
    if (!open_userfaultfd())
        return;
    fd = sparse_file("file", FILE_BYTES);
    registered = at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, 8 * UNIT), 0);
    int answer = register_missing(at + 8 * UNIT, FILE_BYTES - 8 * UNIT);
    say("registered: %s", outcome(answer));
    at[UNIT] = 1;
    if (answer == 0) {
        pthread_t thread;
        size_t faults = 0;
        CHECK_EQUAL(pthread_create(&thread, NULL, serve_own_faults_with_u, &faults), 0);
        load_u(8 * UNIT);
        load_u(9 * UNIT + 5 * PAGE + 7);
        at[10 * UNIT + 1] = 's';
        CHECK_EQUAL(byte_of_file(fd, 10 * UNIT + 1), 's');
        load_u(10 * UNIT);
        /* What had been looked at before it was registered. */
        say("touched, registered: %s", outcome(register_missing(at + 4 * UNIT, UNIT)));
        uint8_t seen = at[4 * UNIT + 3 * PAGE];
        CHECK(seen == 0 || seen == 'u');
        CHECK_EQUAL(byte_of_file(fd, 4 * UNIT + 3 * PAGE), seen);
        at[4 * UNIT + 4 * PAGE] = 4;
        CHECK_EQUAL(byte_of_file(fd, 4 * UNIT + 4 * PAGE), 4);
        load_u(FILE_BYTES - PAGE);
        CHECK_EQUAL(pthread_join(thread, NULL), 0);
        CHECK(faults >= 4);
    }
    CHECK(same_as_file(at, fd, 0, 4 * UNIT));
    forget("file");
}

/* ---- memory taken away behind the C library ---- */

static long raw_munmap(bytes from, size_t length) {
    long answer;
#if defined(__x86_64__)
    __asm__ volatile("syscall"
                     : "=a"(answer)
                     : "a"((long)SYS_munmap), "D"(from), "S"(length)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long number __asm__("x8") = SYS_munmap;
    register long first __asm__("x0") = (long)from;
    register long second __asm__("x1") = (long)length;
    __asm__ volatile("svc 0" : "+r"(first) : "r"(number), "r"(second) : "memory");
    answer = first;
#endif
    return answer;
}

/* What else comes to lie there is the program's, whatever becomes of the file: opened again, written, cut, inherited by a child. */
static void replaced_by_something_else(bytes place, size_t length) {
    void *other = mmap((void *)place, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(other == (void *)place);
    memset(other, 'o', length);
    int second = open("file", O_RDWR);
    CHECK_EQUAL(pwrite(second, "s", 1, 3 * UNIT), 1);
    CHECK_EQUAL(pwrite(fd, "f", 1, 5 * UNIT), 1);
    close(second);
    CHECK(all_bytes_are(place, length, 'o'));
    pid_t child = fork();
    if (child == 0)
        _exit(all_bytes_are(place, length, 'o') ? 3 : 4);
    CHECK_EQUAL(end_of(child), 3);
    CHECK(all_bytes_are(place, length, 'o'));
    MUST(ftruncate(fd, UNIT));
    CHECK(all_bytes_are(place, length, 'o'));
}

CASE(unmapped_by_number_and_replaced) {
    touched_hole();
    MUST(syscall(SYS_munmap, at, FILE_BYTES));
    replaced_by_something_else(at, FILE_BYTES);
}

CASE(unmapped_by_an_instruction_and_replaced) {
    touched_hole();
    CHECK_EQUAL(raw_munmap(at, FILE_BYTES), 0);
    replaced_by_something_else(at, FILE_BYTES);
}

CASE(untouched_and_unmapped_by_an_instruction_and_replaced) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    tell_service(fd, at, FILE_BYTES);
    CHECK_EQUAL(raw_munmap(at, FILE_BYTES), 0);
    replaced_by_something_else(at, FILE_BYTES);
}

CASE(a_part_unmapped_by_an_instruction_and_replaced) {
    touched_hole();
    CHECK_EQUAL(raw_munmap(at + 4 * UNIT, 8 * UNIT), 0);
    at[0] = 1;
    at[12 * UNIT] = 1;
    replaced_by_something_else(at + 4 * UNIT, 8 * UNIT);
    CHECK_EQUAL(at[0], 1);
}

CASE(a_private_mapping_unmapped_by_an_instruction_and_replaced) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_private(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    at[UNIT] = 1;
    CHECK_EQUAL(raw_munmap(at, FILE_BYTES), 0);
    replaced_by_something_else(at, FILE_BYTES);
}
