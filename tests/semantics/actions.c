/* Actions and masks of signals by syscall(2), as runtimes of languages set them: with the kernel's own structures. */
#include "check.h"
#include <linux/sched.h>

#define FILE_BYTES (16 * UNIT)
#define SEGV_BIT (1ULL << (SIGSEGV - 1))

/* As the kernel knows it. */
struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

static int fd;
static bytes at;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

static long action_by_number(int number, const struct kernel_action *new, struct kernel_action *old) {
    return syscall(SYS_rt_sigaction, number, new, old, 8);
}

static long mask_by_number(int how, uint64_t new, uint64_t *old) {
    return syscall(SYS_rt_sigprocmask, how, &new, old, 8);
}

/* One that the kernel can return from: the C library's way, as another action has it. */
static struct kernel_action returning(void *handler, unsigned long flags, uint64_t mask) {
    struct kernel_action action;
    MUST(action_by_number(SIGBUS, NULL, &action));
    const unsigned long needs_restorer = 0x04000000;
    return (struct kernel_action){handler, flags | (action.flags & needs_restorer), action.restorer, mask};
}

static volatile sig_atomic_t opened_pages;
static bytes guarded;

static void open_the_page(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    uintptr_t page = (uintptr_t)info->si_addr & ~(PAGE - 1);
    if (page < (uintptr_t)guarded || page >= (uintptr_t)guarded + UNIT || info->si_code != SEGV_ACCERR) {
        printf("FAILED: a stray signal, code %d\n", info->si_code);
        fflush(stdout);
        _exit(1);
    }
    opened_pages++;
    mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE);
    at[2 * UNIT + (size_t)opened_pages % 512 * PAGE] = 1; /* a first store to another hole, in the handler */
}

static void guard(void) {
    guarded = mmap(NULL, UNIT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t page = 0; page < 256; page++) {
        guarded[page * PAGE] = (uint8_t)(page | 1);
        at[8 * UNIT + page * PAGE] = (uint8_t)(page | 1); /* faults of ours in between */
    }
    CHECK_EQUAL(opened_pages, 256);
    for (size_t page = 0; page < 256; page++) {
        CHECK_EQUAL(guarded[page * PAGE], (uint8_t)(page | 1));
        CHECK_EQUAL(at[8 * UNIT + page * PAGE], (uint8_t)(page | 1));
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(an_action_by_number_from_before_the_mapping) {
    struct kernel_action action = returning(open_the_page, SA_SIGINFO, ~0ULL);
    MUST(action_by_number(SIGSEGV, &action, NULL));
    touched_hole();
    guard();
}

CASE(an_action_by_number_from_after_the_mapping) {
    touched_hole();
    struct kernel_action action = returning(open_the_page, SA_SIGINFO, ~0ULL);
    MUST(action_by_number(SIGSEGV, &action, NULL));
    guard();
}

CASE(an_action_by_number_is_put_back) {
    struct sigaction by_name = {.sa_sigaction = open_the_page, .sa_flags = SA_SIGINFO};
    touched_hole();
    MUST(sigaction(SIGSEGV, &by_name, NULL));
    struct kernel_action before, none = {0};
    MUST(action_by_number(SIGSEGV, &none, &before));
    MUST(action_by_number(SIGSEGV, &before, &none));
    CHECK(none.handler == (void *)SIG_DFL);
    guard();
}

static void tell(const char *what) {
    struct kernel_action by_number;
    struct sigaction by_name;
    MUST(action_by_number(SIGSEGV, NULL, &by_number));
    MUST(sigaction(SIGSEGV, NULL, &by_name));
    CHECK(by_number.handler == (void *)by_name.sa_sigaction);
    CHECK(by_number.restorer == (void *)by_name.sa_restorer);
    uint64_t mask;
    memcpy(&mask, &by_name.sa_mask, sizeof mask);
    say("%s: handler %d, flags %lx and %x, restorer %d, mask %lx and %lx", what, by_number.handler == open_the_page, by_number.flags,
        (unsigned)by_name.sa_flags, by_number.restorer != NULL, by_number.mask, mask);
}

static void set_and_tell(void) {
    struct sigaction by_name = {.sa_sigaction = open_the_page, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigfillset(&by_name.sa_mask);
    MUST(sigaction(SIGSEGV, &by_name, NULL));
    tell("by name");
    struct kernel_action action = returning(open_the_page, SA_SIGINFO | SA_NODEFER | 0x40000400, ~0ULL);
    MUST(action_by_number(SIGSEGV, &action, NULL));
    tell("by number");
    action = (struct kernel_action){0};
    MUST(action_by_number(SIGSEGV, &action, NULL));
    tell("none");
    signal(SIGSEGV, SIG_IGN);
    tell("by signal");
    by_name.sa_flags = 0;
    MUST(sigaction(SIGSEGV, &by_name, NULL));
}

CASE(what_is_told_of_an_action_by_number) {
    tell("at first");
    set_and_tell();
    touched_hole();
    tell("mapped");
    set_and_tell();
}

CASE(calls_by_number_that_are_refused) {
    touched_hole();
    struct kernel_action action = returning(open_the_page, SA_SIGINFO, 0), before, after;
    bytes none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(action_by_number(SIGSEGV, NULL, &before));
    say("size %s", outcome(syscall(SYS_rt_sigaction, SIGSEGV, &action, NULL, 16)));
    say("numbers %s", outcome(action_by_number(0, &action, NULL)));
    say("numbers %s", outcome(action_by_number(65, &action, NULL)));
    say("numbers %s", outcome(action_by_number(SIGKILL, &action, NULL)));
    say("new %s", outcome(action_by_number(SIGSEGV, (void *)none, NULL)));
    MUST(action_by_number(SIGSEGV, NULL, &after));
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    say("old %s", outcome(action_by_number(SIGSEGV, NULL, (void *)none)));
    say("new and old %s", outcome(action_by_number(SIGSEGV, &action, (void *)none)));
    MUST(action_by_number(SIGSEGV, NULL, &after));
    say("it is set: %d", after.handler == open_the_page);
    say("mask %s", outcome(syscall(SYS_rt_sigprocmask, SIG_BLOCK, none, NULL, 8)));
    say("mask %s", outcome(syscall(SYS_rt_sigprocmask, 7, &action.mask, NULL, 8)));
    say("mask %s", outcome(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &action.mask, NULL, 16)));
    guard();
}

/* ---- SIGSEGV in masks ---- */

static volatile size_t handled;

static void touch_holes(int number) {
    (void)number;
    size_t unit = handled++ % 16;
    CHECK_EQUAL(touch(at + unit * UNIT, UNIT), 0);
    at[unit * UNIT] = 1;
}

static void a_full_mask_by_number(void) {
    struct kernel_action action = returning(touch_holes, 0, ~0ULL), before;
    MUST(action_by_number(SIGUSR1, &action, NULL));
    MUST(action_by_number(SIGUSR1, NULL, &before));
    say("mask %lx", before.mask);
}

CASE(a_handler_by_number_with_a_full_mask_touches_holes) {
    a_full_mask_by_number();
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    for (int n = 0; n < 8; n++)
        raise(SIGUSR1);
    a_full_mask_by_number();
    for (int n = 0; n < 8; n++)
        raise(SIGUSR1);
    CHECK_EQUAL(touch(at, FILE_BYTES), 16);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_mask_by_number_blocks_no_fault) {
    touched_hole();
    uint64_t before, now;
    MUST(mask_by_number(SIG_BLOCK, SEGV_BIT, &before));
    at[UNIT] = 1;
    MUST(mask_by_number(SIG_BLOCK, 0, &now));
    CHECK_EQUAL(now, before | SEGV_BIT);
    MUST(mask_by_number(SIG_UNBLOCK, SEGV_BIT, &now));
    at[2 * UNIT] = 1;
    MUST(mask_by_number(SIG_SETMASK, SEGV_BIT, &now));
    CHECK_EQUAL(now, before);
    at[3 * UNIT] = 1;
    sigset_t by_name;
    MUST(sigprocmask(SIG_BLOCK, NULL, &by_name));
    CHECK(sigismember(&by_name, SIGSEGV));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static volatile sig_atomic_t caught;

static void count(int number) {
    (void)number;
    caught++;
}

static void sent_while_blocked(void) {
    caught = 0;
    struct kernel_action action = returning(count, 0, 0);
    MUST(action_by_number(SIGSEGV, &action, NULL));
    uint64_t before, pending;
    MUST(mask_by_number(SIG_BLOCK, SEGV_BIT, &before));
    raise(SIGSEGV);
    CHECK_EQUAL(caught, 0);
    MUST(syscall(SYS_rt_sigpending, &pending, 8));
    say("pending %lx", pending);
    MUST(mask_by_number(SIG_SETMASK, before, NULL));
    CHECK_EQUAL(caught, 1);
    MUST(syscall(SYS_rt_sigpending, &pending, 8));
    say("pending %lx", pending);
}

CASE(one_that_is_sent_while_blocked_by_number_waits) {
    sent_while_blocked();
    touched_hole();
    sent_while_blocked();
    at[UNIT] = 1;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_wait_by_number_with_a_full_mask) {
    touched_hole();
    a_full_mask_by_number();
    uint64_t usr1 = 1ULL << (SIGUSR1 - 1), all_but = ~usr1;
    MUST(mask_by_number(SIG_BLOCK, usr1, NULL));
    raise(SIGUSR1);
    say("wait %s", outcome(syscall(SYS_rt_sigsuspend, &all_but, 8)));
    CHECK_EQUAL(handled, 1);
    CHECK_EQUAL(touch(at, FILE_BYTES), 1);
}

/* ---- children that share the memory ---- */

CASE(a_child_of_vfork_changes_its_own_action_alone) {
    touched_hole();
    struct kernel_action action = returning(open_the_page, SA_SIGINFO, 0), none = {0};
    struct sigaction by_name = {.sa_handler = SIG_DFL};
    MUST(action_by_number(SIGSEGV, &action, NULL));
    for (int way = 0; way < 3; way++) {
        pid_t child = vfork();
        if (child == 0) {
            way == 0 ? (void)action_by_number(SIGSEGV, &none, NULL)
            : way == 1 ? (void)sigaction(SIGSEGV, &by_name, NULL)
                       : (void)signal(SIGSEGV, SIG_IGN);
            _exit(0);
        }
        CHECK_EQUAL(end_of(child), 0);
        struct kernel_action after;
        MUST(action_by_number(SIGSEGV, NULL, &after));
        CHECK(after.handler == open_the_page);
    }
    guard();
}

/* A child that begins without its parent's handlers, as those of posix_spawn do. */
CASE(a_child_by_number_begins_without_handlers) {
    touched_hole();
    struct kernel_action action = returning(open_the_page, SA_SIGINFO, 0), ignored = {.handler = (void *)SIG_IGN};
    for (int way = 0; way < 2; way++) {
        MUST(action_by_number(SIGSEGV, way ? &ignored : &action, NULL));
        struct clone_args clear = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
        long child = MUST(syscall(SYS_clone3, &clear, sizeof clear));
        if (child == 0) {
            tell("in the child");
            at[UNIT] = 1;
            *(bytes)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
            _exit(3);
        }
        say("child %d", end_of((pid_t)child));
        struct kernel_action after;
        MUST(action_by_number(SIGSEGV, NULL, &after));
        say("the parent's stays: %d", after.handler == (way ? ignored : action).handler);
    }
    CHECK_EQUAL(at[UNIT], 1);
}

/* ---- the end ---- */

static int end_with(struct kernel_action action, int blocked) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        touched_hole();
        tell_service(fd, at, FILE_BYTES);
        MUST(action_by_number(SIGSEGV, &action, NULL));
        if (blocked)
            MUST(mask_by_number(SIG_BLOCK, SEGV_BIT, NULL));
        at[UNIT] = 1;
        *(bytes)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
        _exit(3);
    }
    int end = end_of(child);
    forget("file");
    return end;
}

CASE(an_access_ends_the_program_by_number) {
    struct kernel_action none = {0}, ignored = {.handler = (void *)SIG_IGN};
    say("default %d", end_with(none, 0));
    say("ignored %d", end_with(ignored, 0));
    say("blocked %d", end_with(returning(count, 0, 0), 1));
    say("for once %d", end_with(returning(count, SA_RESETHAND, 0), 0));
}
