/* Signals of the program stay the program's: handlers may touch mappings, masks and pending signals are untouched. */
#include "check.h"
#include <pthread.h>
#include <sys/time.h>

#define FILE_BYTES (16 * UNIT)

static int fd;
static bytes at;
static volatile size_t next_page;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

static void store_in_handler(int number) {
    (void)number;
    at[next_page * PAGE] = (uint8_t)(next_page | 1);
    next_page += 11;
}

static void install(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
}

CASE(a_handler_stores_into_holes) {
    touched_hole();
    install(SIGUSR1, store_in_handler, 0);
    for (int n = 0; n < 300; n++) {
        size_t page = next_page;
        raise(SIGUSR1);
        CHECK_EQUAL(byte_of_file(fd, (off_t)(page * PAGE)), (uint8_t)(page | 1));
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static volatile uint32_t ticks;
static void store_on_tick(int number) {
    (void)number;
    size_t page = ticks++ * 13 % 4000;
    at[page * PAGE + 4095] = 1;
}

/* A timer interrupts the first stores wherever they happen to be, and its handler makes first stores too. */
CASE(handlers_interrupt_first_stores) {
    install(SIGALRM, store_on_tick, SA_RESTART);
    for (int round = 0; round < 5; round++) {
        touched_hole();
        struct itimerval timer = {{0, 200}, {0, 200}}, stop = {{0, 0}, {0, 0}};
        MUST(setitimer(ITIMER_REAL, &timer, NULL));
        for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
            at[page * PAGE] = (uint8_t)(page | 1);
        MUST(setitimer(ITIMER_REAL, &stop, NULL));
        for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
            CHECK_EQUAL(at[page * PAGE], (uint8_t)(page | 1));
        CHECK(same_as_file(at, fd, 0, FILE_BYTES));
        unmap(at, FILE_BYTES);
        close(fd);
        MUST(unlink("file"));
    }
}

/* The mapping calls themselves are interrupted, and the handler touches other holes meanwhile. */
CASE(handlers_interrupt_mapping_calls) {
    touched_hole();
    install(SIGALRM, store_on_tick, SA_RESTART);
    struct itimerval timer = {{0, 300}, {0, 300}}, stop = {{0, 0}, {0, 0}};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    for (int round = 0; round < 300; round++) {
        char name[32];
        snprintf(name, sizeof name, "other-%d", round % 3);
        int other = sparse_file(name, 4 * UNIT);
        bytes view = map_shared(other, 4 * UNIT);
        CHECK_EQUAL(touch(view, 4 * UNIT), 0);
        view[UNIT] = 1;
        CHECK_EQUAL(byte_of_file(other, UNIT), 1);
        MUST(ftruncate(other, UNIT));
        CHECK_EQUAL(signal_of_load(view + UNIT), SIGBUS);
        unmap(view, 4 * UNIT);
        close(other);
        MUST(unlink(name));
    }
    MUST(setitimer(ITIMER_REAL, &stop, NULL));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    forget("file");
}

CASE(stores_with_every_signal_blocked) {
    touched_hole();
    sigset_t all, before;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, &before));
    at[UNIT] = 1;
    bytes other = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(other, FILE_BYTES), 1);
    other[2 * UNIT] = 2;
    MUST(ftruncate(fd, 4 * UNIT));
    unmap(other, FILE_BYTES);
    sigset_t now;
    MUST(sigprocmask(SIG_SETMASK, &before, &now));
    CHECK(sigismember(&now, SIGUSR1) && sigismember(&now, SIGIO) && sigismember(&now, SIGSEGV));
    CHECK_EQUAL(byte_of_file(fd, 2 * UNIT), 2);
}

CASE(calls_leave_the_mask_alone) {
    sigset_t some, now;
    sigemptyset(&some);
    sigaddset(&some, SIGUSR2);
    MUST(sigprocmask(SIG_SETMASK, &some, NULL));
    touched_hole();
    at[UNIT] = 1;
    CHECK_EQUAL(pwrite(fd, "a", 1, 3 * UNIT), 1);
    MUST(msync((void *)at, FILE_BYTES, MS_SYNC));
    unmap(at, FILE_BYTES);
    MUST(sigprocmask(SIG_SETMASK, NULL, &now));
    for (int number = 1; number < 32; number++)
        CHECK_EQUAL(sigismember(&now, number), number == SIGUSR2);
}

/* A signal that is blocked in every thread of the program stays pending: nobody else may swallow it. */
CASE(a_blocked_signal_stays_pending) {
    touched_hole();
    sigset_t set, pending;
    sigfillset(&set);
    MUST(sigprocmask(SIG_SETMASK, &set, NULL));
    for (int number = 1; number < 32; number++)
        if (number != SIGKILL && number != SIGSTOP)
            MUST(kill(getpid(), number));
    kill(getpid(), SIGRTMIN + 3);
    at[UNIT] = 1;
    MUST(sigpending(&pending));
    for (int number = 1; number < 32; number++)
        if (number != SIGKILL && number != SIGSTOP && number != SIGCONT && !sigismember(&pending, number))
            say("not pending: %d", number);
    CHECK(sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGRTMIN + 3));
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK_EQUAL(sigwaitinfo(&set, &info), SIGUSR1);
    CHECK_EQUAL(info.si_pid, getpid());
}

static volatile sig_atomic_t handled_in_main;
static pthread_t main_thread;
static void note_thread(int number) {
    (void)number;
    handled_in_main += pthread_equal(pthread_self(), main_thread) ? 1 : 1000;
}

CASE(signals_of_the_process_go_to_its_own_threads) {
    touched_hole();
    main_thread = pthread_self();
    install(SIGUSR1, note_thread, 0);
    for (int n = 0; n < 100; n++)
        MUST(kill(getpid(), SIGUSR1));
    say("handled in the only thread: %d", (int)handled_in_main);
    CHECK_EQUAL(handled_in_main, 100);
}

CASE(no_signal_arrives_that_nobody_sent) {
    sigset_t all, pending;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    touched_hole();
    at[UNIT] = 1;
    int second = open("file", O_RDWR); /* breaks a lease, if one is held */
    CHECK(second >= 0);
    CHECK_EQUAL(pwrite(second, "s", 1, 2 * UNIT), 1);
    CHECK_EQUAL(at[2 * UNIT], 's');
    close(second);
    unmap(at, FILE_BYTES);
    close(fd);
    MUST(sigpending(&pending));
    for (int number = 1; number <= SIGRTMAX; number++)
        if (sigismember(&pending, number) == 1)
            say("pending: %d", number);
}

CASE(an_alternate_stack_in_a_hole) {
    touched_hole();
    stack_t stack = {.ss_sp = (void *)(at + 4 * UNIT), .ss_size = UNIT};
    MUST(sigaltstack(&stack, NULL));
    install(SIGUSR1, store_in_handler, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK_EQUAL(at[0], 1);
    CHECK(same_as_file(at, fd, 0, 4 * UNIT));
    forget("file");
}

static void *run_on_mapped_stack(void *argument) {
    volatile uint8_t room[8 * PAGE];
    for (size_t n = 0; n < sizeof room; n++)
        room[n] = (uint8_t)n;
    return argument == (void *)room ? NULL : (void *)1;
}

CASE(a_thread_whose_stack_is_a_hole) {
    touched_hole();
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK_EQUAL(pthread_attr_setstack(&attributes, (void *)(at + 4 * UNIT), UNIT), 0);
    pthread_t thread;
    void *result;
    CHECK_EQUAL(pthread_create(&thread, &attributes, run_on_mapped_stack, NULL), 0);
    pthread_join(thread, &result);
    CHECK(result == (void *)1);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    forget("file");
}

CASE(faults_of_the_program_reach_its_handler) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    say("null: %s code %d", signal_name(signal_of_load((bytes)8)), fault_code);
    CHECK_EQUAL(fault_address, 8);
    MUST(mprotect((void *)(at + UNIT), PAGE, PROT_READ));
    say("read-only: %s code %d", signal_name(signal_of_store(at + UNIT, 1)), fault_code);
    CHECK(fault_address == (uintptr_t)(at + UNIT));
    signal(SIGSEGV, SIG_DFL);
    at[UNIT - 1] = 1;
    at[UNIT + PAGE] = 1;
    say("now for good");
    at[UNIT] = 2;
    say("not reached");
}

CASE(ignored_faults_end_the_program) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    signal(SIGSEGV, SIG_IGN);
    signal(SIGBUS, SIG_IGN);
    at[UNIT] = 1; /* a first store must not depend on the program's handlers */
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
    say("about to store into nothing");
    *(bytes)8 = 1;
    say("not reached");
}
