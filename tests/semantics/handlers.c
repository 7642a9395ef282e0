/* Programs that live by SIGSEGV, and programs that want no signal at all. */
#include "check.h"
#include <pthread.h>
#include <ucontext.h>

#define FILE_BYTES (16 * UNIT)

static int fd;
static bytes at;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

/* ---- memory that a handler makes accessible, page by page, as garbage collectors and virtual memories in libraries do ---- */

static volatile sig_atomic_t opened_pages, on_its_stack;
static uint8_t handler_stack[1 << 16] __attribute__((aligned(4096)));
static bytes guarded;
static size_t guarded_bytes;

static void open_the_page(int number, siginfo_t *info, void *context) {
    (void)context;
    volatile uint8_t here = 0;
    on_its_stack = &here >= handler_stack && &here < handler_stack + sizeof handler_stack;
    uintptr_t page = (uintptr_t)info->si_addr & ~(PAGE - 1);
    if (number != SIGSEGV || page < (uintptr_t)guarded || page >= (uintptr_t)guarded + guarded_bytes ||
        info->si_code != SEGV_ACCERR) {
        printf("FAILED: a stray signal %d, code %d\n", number, info->si_code);
        fflush(stdout);
        _exit(1);
    }
    opened_pages++;
    mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE);
    at[2 * UNIT + (size_t)opened_pages % 512 * PAGE] = 1; /* a first store to another hole, in the handler */
}

static void handle_by_opening(int flags) {
    struct sigaction action = {.sa_sigaction = open_the_page, .sa_flags = SA_SIGINFO | flags};
    sigfillset(&action.sa_mask);
    if (flags & SA_ONSTACK) {
        stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
        MUST(sigaltstack(&stack, NULL));
    }
    MUST(sigaction(SIGSEGV, &action, NULL));
    MUST(sigaction(SIGBUS, &action, NULL));
}

/* The guarded memory is anonymous, or the file's own. */
static void guard(bytes memory, size_t length) {
    guarded = memory, guarded_bytes = length;
    MUST(mprotect((void *)memory, length, PROT_NONE));
    for (size_t page = 0; page < 256; page++) {
        memory[page * PAGE] = (uint8_t)(page | 1);
        at[8 * UNIT + page * PAGE] = (uint8_t)(page | 1); /* faults of ours in between */
    }
    CHECK_EQUAL(opened_pages, 256);
    for (size_t page = 0; page < 256; page++) {
        CHECK_EQUAL(memory[page * PAGE], (uint8_t)(page | 1));
        CHECK_EQUAL(at[8 * UNIT + page * PAGE], (uint8_t)(page | 1));
    }
    CHECK(same_as_file(at, fd, 8 * UNIT * 0, 4 * UNIT));
}

static bytes anonymous(void) {
    return mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

CASE(a_handler_from_before_the_mapping_opens_pages) {
    handle_by_opening(0);
    touched_hole();
    guard(anonymous(), UNIT);
}

CASE(a_handler_from_after_the_mapping_opens_pages) {
    touched_hole();
    handle_by_opening(0);
    guard(anonymous(), UNIT);
}

CASE(a_handler_on_its_own_stack_opens_pages) {
    handle_by_opening(SA_ONSTACK);
    touched_hole();
    guard(anonymous(), UNIT);
    CHECK(on_its_stack);
}

CASE(a_handler_that_may_be_nested_opens_pages) {
    touched_hole();
    handle_by_opening(SA_NODEFER | SA_RESTART);
    guard(anonymous(), UNIT);
}

CASE(a_handler_opens_pages_of_the_file_itself) {
    handle_by_opening(SA_ONSTACK);
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    guard(at + 12 * UNIT, UNIT);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* ---- jumps out of handlers ---- */

static sigjmp_buf back;
static volatile sig_atomic_t jumps;

static void jump_back(int number) {
    jumps++;
    siglongjmp(back, number);
}

static void jump_out_of(int flags, int saves_mask) {
    struct sigaction action = {.sa_handler = jump_back, .sa_flags = flags};
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    MUST(sigaltstack(&stack, NULL));
    MUST(sigaction(SIGSEGV, &action, NULL));
    bytes none = mmap(NULL, UNIT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t n = 0; n < 300; n++) {
        if (sigsetjmp(back, saves_mask) == 0) {
            none[n * PAGE] = 1;
            CHECK(0);
        }
        at[n * 13 * PAGE] = (uint8_t)(n | 1);
    }
    CHECK_EQUAL(jumps, 300);
    for (size_t n = 0; n < 300; n++)
        CHECK_EQUAL(at[n * 13 * PAGE], (uint8_t)(n | 1));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(jumps_out_of_a_handler) { touched_hole(), jump_out_of(0, 1); }
CASE(jumps_out_of_a_handler_on_its_own_stack) { touched_hole(), jump_out_of(SA_ONSTACK, 1); }
CASE(jumps_out_of_a_handler_that_leave_the_mask) { touched_hole(), jump_out_of(SA_NODEFER, 0); }

/* A handler that was told of one access past the end jumps back, and the mapping goes on. */
CASE(jumps_out_of_accesses_past_the_end) {
    touched_hole();
    MUST(ftruncate(fd, 4 * UNIT));
    for (size_t n = 0; n < 100; n++) {
        CHECK_EQUAL(signal_of_load(at + 4 * UNIT + n * PAGE), SIGBUS);
        CHECK_EQUAL(signal_of_store(at + 5 * UNIT + n * PAGE, 1), SIGBUS);
        at[n * PAGE] = 1;
    }
    CHECK(same_as_file(at, fd, 0, 4 * UNIT));
}

/* A timer's handler jumps out of whatever is under way: a fault, or a system call that loads from or stores to a hole. */
static volatile sig_atomic_t may_jump;

static void jump_on_tick(int number) {
    (void)number;
    if (may_jump) {
        may_jump = 0;
        siglongjmp(back, 1);
    }
}

CASE(jumps_out_of_the_middle_of_faults) {
    struct sigaction action = {.sa_handler = jump_on_tick};
    MUST(sigaction(SIGALRM, &action, NULL));
    touched_hole();
    static volatile size_t page;
    while (page < FILE_BYTES / PAGE) {
        if (sigsetjmp(back, 1) == 0) {
            may_jump = 1;
            ualarm(100, 0);
            for (; page < FILE_BYTES / PAGE; page++)
                at[page * PAGE] = (uint8_t)(page | 1);
        }
        may_jump = 0;
    }
    ualarm(0, 0);
    for (size_t n = 0; n < FILE_BYTES / PAGE; n++)
        CHECK_EQUAL(at[n * PAGE], (uint8_t)(n | 1));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* ---- signals that are blocked ---- */

static void *store_with_all_blocked(void *argument) {
    size_t which = (size_t)argument;
    sigset_t all;
    sigfillset(&all);
    CHECK_EQUAL(pthread_sigmask(SIG_SETMASK, &all, NULL), 0);
    for (size_t page = which; page < FILE_BYTES / PAGE; page += 4)
        at[page * PAGE] = (uint8_t)(page | 1);
    return NULL;
}

static void four_threads_with_all_blocked(void) {
    pthread_t threads[4];
    for (size_t n = 0; n < 4; n++)
        CHECK_EQUAL(pthread_create(&threads[n], NULL, store_with_all_blocked, (void *)n), 0);
    for (size_t n = 0; n < 4; n++)
        pthread_join(threads[n], NULL);
    for (size_t page = 0; page < FILE_BYTES / PAGE; page++)
        CHECK_EQUAL(at[page * PAGE], (uint8_t)(page | 1));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(threads_with_every_signal_blocked_touch_holes) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    four_threads_with_all_blocked();
}

/* Also those that the C library keeps for itself, by the system call. */
CASE(even_the_c_librarys_signals_blocked) {
    uint64_t all = ~0ULL, before;
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, 8));
    touched_hole();
    at[UNIT] = 1;
    bytes copy = map_private(fd, FILE_BYTES);
    copy[3 * UNIT] = 3;
    CHECK_EQUAL(copy[UNIT], 1);
    uint64_t now;
    MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, &now, 8));
    say("mask %d", now == (all & ~(1ULL << (SIGKILL - 1)) & ~(1ULL << (SIGSTOP - 1))));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static volatile size_t handled;

static void touch_holes_with_all_blocked(int number) {
    (void)number;
    size_t unit = handled++ % 16;
    CHECK_EQUAL(touch(at + unit * UNIT, UNIT), unit < handled / 16 ? 1 : 0);
    at[unit * UNIT] = 1;
}

CASE(a_handler_with_a_full_mask_touches_holes) {
    struct sigaction action = {.sa_handler = touch_holes_with_all_blocked};
    sigfillset(&action.sa_mask);
    MUST(sigaction(SIGUSR1, &action, NULL));
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    for (int n = 0; n < 16; n++)
        raise(SIGUSR1);
    CHECK_EQUAL(handled, 16);
    CHECK_EQUAL(touch(at, FILE_BYTES), 16);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* Signals that are accepted by waiting, or read from a descriptor, go to nobody else. */
CASE(a_thread_that_waits_for_every_signal) {
    sigset_t all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_SETMASK, &all, NULL));
    touched_hole();
    for (int n = 0; n < 100; n++) {
        MUST(kill(getpid(), n % 2 ? SIGUSR1 : SIGRTMIN + 5));
        at[(size_t)n * 17 * PAGE] = 1;
        siginfo_t info;
        CHECK_EQUAL(sigwaitinfo(&all, &info), n % 2 ? SIGUSR1 : SIGRTMIN + 5);
        CHECK_EQUAL(info.si_pid, getpid());
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* ---- whether SIGSEGV is blocked goes where the mask goes ---- */

static void block_all(int number) {
    (void)number;
    sigset_t all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_BLOCK, &all, NULL));
}

static void block_all_and_jump(int number) {
    block_all(number);
    siglongjmp(back, 1);
}

static void say_mask(const char *when) {
    sigset_t mask;
    MUST(sigprocmask(SIG_BLOCK, NULL, &mask));
    printf("%s:", when);
    for (int number = 1; number < NSIG; number++)
        if (sigismember(&mask, number) == 1)
            printf(" %d", number);
    say(" .");
}

CASE(a_mask_ends_with_the_handler_that_has_set_it) {
    struct sigaction returns = {.sa_handler = block_all}, jumps = {.sa_handler = block_all_and_jump};
    MUST(sigaction(SIGUSR1, &returns, NULL));
    MUST(sigaction(SIGUSR2, &jumps, NULL));
    touched_hole();
    raise(SIGUSR1);
    say_mask("returned");
    say("%s", signal_name(signal_of_store((bytes)8, 1)));
    if (sigsetjmp(back, 1) == 0)
        raise(SIGUSR2);
    say_mask("jumped");
    say("%s", signal_name(signal_of_store((bytes)8, 1)));
    at[PAGE] = 1;
}

/* A handler of SIGSEGV sees the mask that its end will put back, and may change it. */
static int edited_mask;

static void edit_the_mask(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    sigset_t *mask = &((ucontext_t *)context)->uc_sigmask;
    say("told of: %d %d %d", sigismember(mask, SIGSEGV), sigismember(mask, SIGSTKFLT), sigismember(mask, SIGUSR1));
    uint64_t set = edited_mask == 0 ? ~0ULL : edited_mask == 1 ? 1ULL << (SIGSEGV - 1) : 1ULL << (SIGUSR1 - 1);
    memcpy(mask, &set, sizeof set);
}

CASE(a_handler_edits_the_mask_that_its_end_puts_back) {
    touched_hole();
    struct sigaction action = {.sa_sigaction = edit_the_mask, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGSEGV, &action, NULL));
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    for (edited_mask = 0; edited_mask < 3; edited_mask++) {
        raise(SIGSEGV);
        say_mask("edited");
        at[(size_t)edited_mask * UNIT] = 1;
        /* The next comes when it is unblocked, with the others still in the mask. */
        MUST(sigprocmask(SIG_UNBLOCK, &segv, NULL));
        say_mask("and without it");
    }
    CHECK_EQUAL(touch(at, FILE_BYTES), 3);
}

CASE(masks_are_seen_as_they_were_set) {
    touched_hole();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    MUST(sigprocmask(SIG_SETMASK, &set, NULL));
    say_mask("one");
    at[PAGE] = 1;
    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    MUST(sigprocmask(SIG_SETMASK, &set, NULL));
    say_mask("all but it");
    at[2 * PAGE] = 1;
    sigaddset(&set, SIGSEGV);
    MUST(sigprocmask(SIG_SETMASK, &set, NULL));
    say_mask("all");
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    MUST(sigprocmask(SIG_UNBLOCK, &set, NULL));
    say_mask("all but it");
    sigfillset(&set);
    MUST(sigprocmask(SIG_UNBLOCK, &set, NULL));
    say_mask("none");
}

static volatile int handler_calls;

static void fail_again(int number) {
    (void)number;
    handler_calls++;
    say("called %d", handler_calls);
    if (handler_calls < 100) {
        at[PAGE * (size_t)handler_calls] = 1; /* which is none of its business */
        *(volatile int *)8 = 1;
    }
    _exit(3);
}

/* The kernel asks no handler while the signal is blocked, as it is in its own. */
CASE(an_access_that_fails_in_its_own_handler_ends_the_process) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    struct sigaction action = {.sa_handler = fail_again};
    MUST(sigaction(SIGSEGV, &action, NULL));
    *(volatile int *)8 = 1;
}

static void *store_a_little(void *argument) {
    (void)argument;
    say_mask("in the thread");
    at[7 * PAGE] = 5;
    at[3 * UNIT] = 7;
    return NULL;
}

CASE(a_thread_that_begins_with_every_signal_blocked) {
    touched_hole();
    sigset_t all, seen;
    sigfillset(&all);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    CHECK_EQUAL(pthread_attr_setsigmask_np(&attributes, &all), 0);
    CHECK_EQUAL(pthread_attr_getsigmask_np(&attributes, &seen), 0);
    CHECK_EQUAL(sigismember(&seen, SIGSEGV), 1);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, &attributes, store_a_little, NULL), 0);
    pthread_join(thread, NULL);
    CHECK_EQUAL(at[7 * PAGE], 5);
    CHECK_EQUAL(pthread_sigmask(SIG_SETMASK, &all, NULL), 0);
    CHECK_EQUAL(pthread_create(&thread, NULL, store_a_little, NULL), 0);
    pthread_join(thread, NULL);
}

static ucontext_t here, there;
static char context_stack[1 << 16];

static void store_in_context(void) {
    say_mask("there");
    at[9 * PAGE] = 9;
    at[4 * UNIT] = 1;
    swapcontext(&there, &here);
}

CASE(a_context_with_every_signal_blocked) {
    touched_hole();
    MUST(getcontext(&there));
    there.uc_stack.ss_sp = context_stack;
    there.uc_stack.ss_size = sizeof context_stack;
    sigfillset(&there.uc_sigmask);
    makecontext(&there, store_in_context, 0);
    MUST(swapcontext(&here, &there));
    say_mask("here");
    CHECK_EQUAL(at[9 * PAGE], 9);
}
