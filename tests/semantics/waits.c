/* SIGSEGV that somebody sent while it was blocked: it is pending, and is waited for, read or delivered as any other signal. */
#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>

#define FILE_BYTES (16 * UNIT)

static int fd;
static bytes at;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

static sigset_t all_signals(void) {
    sigset_t all;
    sigfillset(&all);
    return all;
}

static sigset_t one_signal(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    return set;
}

static sigset_t all_but(int number) {
    sigset_t set = all_signals();
    sigdelset(&set, number);
    return set;
}

static void block(sigset_t set) { MUST(sigprocmask(SIG_SETMASK, &set, NULL)); }

static int is_pending(int number) {
    sigset_t set;
    MUST(sigpending(&set));
    return sigismember(&set, number);
}

static void say_info(const siginfo_t *info) {
    say("%s code %d, from %d, value %d", signal_name(info->si_signo), info->si_code, info->si_pid == getpid(),
        info->si_code == SI_QUEUE ? info->si_value.sival_int : 0);
}

/* Each with every signal blocked, and first stores in between. */
CASE(one_that_was_sent_is_waited_for) {
    block(all_signals());
    touched_hole();
    sigset_t segv = one_signal(SIGSEGV);
    siginfo_t info;
    raise(SIGSEGV);
    at[UNIT] = 1;
    say("pending %d", is_pending(SIGSEGV));
    CHECK_EQUAL(sigwaitinfo(&segv, &info), SIGSEGV);
    say_info(&info);
    say("pending %d", is_pending(SIGSEGV));
    MUST(kill(getpid(), SIGSEGV));
    MUST(kill(getpid(), SIGSEGV));
    CHECK_EQUAL(sigwaitinfo(&segv, &info), SIGSEGV);
    say_info(&info);
    MUST(sigqueue(getpid(), SIGSEGV, (union sigval){.sival_int = 77}));
    struct timespec none = {0, 0};
    CHECK_EQUAL(sigtimedwait(&segv, &info, &none), SIGSEGV);
    say_info(&info);
    say("none %s", outcome(sigtimedwait(&segv, NULL, &none)));
    CHECK_EQUAL(pthread_kill(pthread_self(), SIGSEGV), 0);
    int number;
    CHECK_EQUAL(sigwait(&segv, &number), 0);
    say("sigwait %s", signal_name(number));
    at[2 * UNIT] = 1;
    CHECK_EQUAL(touch(at, FILE_BYTES), 2);
}

CASE(one_that_was_sent_is_waited_for_by_number) {
    block(all_signals());
    touched_hole();
    uint64_t segv = 1ULL << (SIGSEGV - 1);
    siginfo_t info;
    struct timespec none = {0, 0};
    say("none %s", outcome(syscall(SYS_rt_sigtimedwait, &segv, NULL, &none, 8)));
    raise(SIGSEGV);
    CHECK_EQUAL(syscall(SYS_rt_sigtimedwait, &segv, &info, &none, 8), SIGSEGV);
    say_info(&info);
    say("size %s", outcome(syscall(SYS_rt_sigtimedwait, &segv, &info, &none, 16)));
    at[UNIT] = 1;
}

CASE(what_a_wait_refuses) {
    block(all_signals());
    touched_hole();
    sigset_t segv = one_signal(SIGSEGV), *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct timespec none = {0, 0}, wrong = {0, -1};
    siginfo_t info;
    raise(SIGSEGV);
    say("set %s", outcome(sigtimedwait(nothing, &info, &none)));
    say("time %s", outcome(sigtimedwait(&segv, &info, &wrong)));
    say("info %s", outcome(sigtimedwait(&segv, (siginfo_t *)nothing, &none)));
    say("gone %s", outcome(sigtimedwait(&segv, &info, &none)));
}

CASE(every_signal_is_waited_for) {
    block(all_signals());
    touched_hole();
    for (int number = 1; number < 32; number++)
        if (number != SIGKILL && number != SIGSTOP && number != SIGSTKFLT)
            MUST(kill(getpid(), number));
    at[UNIT] = 1;
    sigset_t all = all_signals();
    struct timespec none = {0, 0};
    uint64_t got = 0;
    for (int number; (number = sigtimedwait(&all, NULL, &none)) > 0;)
        got |= 1ULL << number;
    say("got %lx", got);
}

static void *wait_for_any(void *argument) {
    int *number = argument;
    sigset_t set = one_signal(SIGSEGV);
    sigaddset(&set, SIGUSR1);
    return sigwait(&set, number) == 0 ? NULL : argument;
}

/* The usual thread that takes all the signals, while the others want none. */
CASE(a_thread_waits_for_one_that_is_sent_to_the_process) {
    block(all_signals());
    touched_hole();
    for (int round = 0; round < 50; round++) {
        pthread_t thread;
        int number = 0;
        void *failed;
        CHECK_EQUAL(pthread_create(&thread, NULL, wait_for_any, &number), 0);
        if (round % 2)
            MUST(kill(getpid(), SIGSEGV));
        else
            CHECK_EQUAL(pthread_kill(thread, SIGSEGV), 0);
        at[(size_t)round * PAGE] = 1;
        CHECK_EQUAL(pthread_join(thread, &failed), 0);
        CHECK(failed == NULL);
        CHECK_EQUAL(number, SIGSEGV);
    }
    say("pending %d", is_pending(SIGSEGV));
}

CASE(one_that_was_sent_is_read_from_a_descriptor) {
    block(all_signals());
    touched_hole();
    sigset_t segv = one_signal(SIGSEGV);
    int signals = (int)MUST(signalfd(-1, &segv, SFD_NONBLOCK | SFD_CLOEXEC));
    struct signalfd_siginfo told[2];
    say("none %s", outcome(read(signals, told, sizeof told)));
    MUST(kill(getpid(), SIGSEGV));
    struct pollfd polled = {.fd = signals, .events = POLLIN};
    CHECK_EQUAL(poll(&polled, 1, -1), 1);
    CHECK_EQUAL(read(signals, told, sizeof told), sizeof *told);
    say("%s code %d, from %d", signal_name((int)told->ssi_signo), told->ssi_code, (pid_t)told->ssi_pid == getpid());
    raise(SIGSEGV);
    CHECK_EQUAL(syscall(SYS_read, signals, told, sizeof told), sizeof *told);
    say("%s code %d", signal_name((int)told->ssi_signo), told->ssi_code);
    /* Another set for the same descriptor. */
    sigset_t both = one_signal(SIGUSR1);
    CHECK_EQUAL(signalfd(signals, &both, 0), signals);
    raise(SIGSEGV);
    raise(SIGUSR1);
    CHECK_EQUAL(read(signals, told, sizeof told), sizeof *told);
    say("usr1 %d", told->ssi_signo == SIGUSR1);
    sigaddset(&both, SIGSEGV);
    CHECK_EQUAL(signalfd(signals, &both, 0), signals);
    raise(SIGUSR1);
    CHECK_EQUAL(read(signals, told, sizeof told), 2 * sizeof *told);
    say("both %d", told[0].ssi_signo + told[1].ssi_signo == SIGUSR1 + SIGSEGV);
    close(signals);
    at[UNIT] = 1;
}

/* ---- delivered ---- */

static volatile sig_atomic_t caught, caught_code;
static sigjmp_buf back;

static void catch_one(int number, siginfo_t *info, void *context) {
    (void)context;
    CHECK(number == SIGSEGV && info->si_signo == SIGSEGV && info->si_pid == getpid());
    caught++, caught_code = info->si_code;
    at[(size_t)caught * UNIT] = 1;
}

static void catch_segv(int flags) {
    struct sigaction action = {.sa_sigaction = catch_one, .sa_flags = SA_SIGINFO | flags};
    MUST(sigaction(SIGSEGV, &action, NULL));
    caught = 0;
}

static void say_caught(const char *when) {
    say("%s: %d, code %d, pending %d", when, (int)caught, (int)caught_code, is_pending(SIGSEGV));
}

CASE(one_that_was_sent_is_delivered_when_it_may_be) {
    touched_hole();
    catch_segv(0);
    block(all_signals());
    raise(SIGSEGV);
    say_caught("blocked");
    block(all_but(SIGSEGV));
    say_caught("by sigprocmask");
    if (sigsetjmp(back, 1) == 0) {
        block(all_signals());
        MUST(kill(getpid(), SIGSEGV));
        say_caught("blocked");
        siglongjmp(back, 1);
    }
    say_caught("by siglongjmp");
    CHECK_EQUAL(touch(at, FILE_BYTES), 2);
}

static void raise_it(int number) {
    (void)number;
    raise(SIGSEGV);
    say_caught("in the handler");
}

CASE(one_that_was_sent_is_delivered_when_a_handler_ends) {
    touched_hole();
    catch_segv(0);
    struct sigaction action = {.sa_handler = raise_it, .sa_mask = one_signal(SIGSEGV)};
    MUST(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    say_caught("after it");
}

static void wait_in_every_way(const sigset_t *mask, void (*before)(void)) {
    int epoll = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event;
    before();
    say("sigsuspend %s", outcome(sigsuspend(mask)));
    say_caught("after it");
    before();
    say("ppoll %s", outcome(ppoll(NULL, 0, NULL, mask)));
    say_caught("after it");
    before();
    say("pselect %s", outcome(pselect(0, NULL, NULL, NULL, NULL, mask)));
    say_caught("after it");
    before();
    say("epoll_pwait %s", outcome(epoll_pwait(epoll, &event, 1, -1, mask)));
    say_caught("after it");
    before();
    say("epoll_pwait2 %s", outcome(epoll_pwait2(epoll, &event, 1, NULL, mask)));
    say_caught("after it");
    close(epoll);
    CHECK_EQUAL(touch(at, FILE_BYTES), 5);
}

static void wait_in_every_way_by_number(const sigset_t *mask, void (*before)(void)) {
    int epoll = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event;
    struct {
        const sigset_t *mask;
        size_t size;
    } sized = {mask, 8};
    before();
    say("sigsuspend %s", outcome(syscall(SYS_rt_sigsuspend, mask, 8)));
    say_caught("after it");
    before();
    say("ppoll %s", outcome(syscall(SYS_ppoll, NULL, 0, NULL, mask, 8)));
    say_caught("after it");
    before();
    say("pselect6 %s", outcome(syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, &sized)));
    say_caught("after it");
    before();
    say("epoll_pwait %s", outcome(syscall(SYS_epoll_pwait, epoll, &event, 1, -1, mask, (size_t)8)));
    say_caught("after it");
    before();
    say("epoll_pwait2 %s", outcome(syscall(SYS_epoll_pwait2, epoll, &event, 1, NULL, mask, (size_t)8)));
    say_caught("after it");
    close(epoll);
    CHECK_EQUAL(touch(at, FILE_BYTES), 5);
}

/* The older ones, which are given one signal to let through, or as many as a number has bits. */
int __sigpause(int mask_or_number, int is_number);
int xpg_sigpause(int number) __asm__("__xpg_sigpause");
int bsd_sigpause(int mask) __asm__("sigpause");

static void pause_in_every_way(const sigset_t *mask, void (*before)(void)) {
    uint32_t bits;
    memcpy(&bits, mask, sizeof bits);
    before();
    say("sigpause %s", outcome(xpg_sigpause(SIGSEGV)));
    say_caught("after it");
    before();
    say("__sigpause %s", outcome(__sigpause(SIGSEGV, 1)));
    say_caught("after it");
    before();
    say("__sigpause %s", outcome(__sigpause((int)bits, 0)));
    say_caught("after it");
    before();
    say("sigpause of BSD %s", outcome(bsd_sigpause((int)bits)));
    say_caught("after it");
    CHECK_EQUAL(touch(at, FILE_BYTES), 4);
}

static void send_now(void) { raise(SIGSEGV); }

static pthread_t main_thread;

static void *send_to_main(void *nothing) {
    CHECK_EQUAL(pthread_kill(main_thread, SIGSEGV), 0);
    return nothing;
}

/* Before the wait or in it. */
static void send_soon(void) {
    pthread_t thread;
    main_thread = pthread_self();
    CHECK_EQUAL(pthread_create(&thread, NULL, send_to_main, NULL), 0);
    CHECK_EQUAL(pthread_detach(thread), 0);
}

static void wait_with_it_blocked(void (*before)(void), void (*wait_in)(const sigset_t *, void (*)(void))) {
    touched_hole();
    catch_segv(0);
    block(all_signals());
    sigset_t mask = all_but(SIGSEGV);
    wait_in(&mask, before);
}

CASE(one_that_was_sent_is_delivered_in_a_wait) { wait_with_it_blocked(send_now, wait_in_every_way); }
CASE(one_that_is_sent_in_a_wait_is_delivered) { wait_with_it_blocked(send_soon, wait_in_every_way); }

CASE(one_that_was_sent_is_delivered_in_a_wait_by_number) { wait_with_it_blocked(send_now, wait_in_every_way_by_number); }
CASE(one_that_is_sent_in_a_wait_by_number_is_delivered) { wait_with_it_blocked(send_soon, wait_in_every_way_by_number); }
CASE(one_that_was_sent_is_delivered_in_a_pause) { wait_with_it_blocked(send_now, pause_in_every_way); }
CASE(one_that_is_sent_in_a_pause_is_delivered) { wait_with_it_blocked(send_soon, pause_in_every_way); }

/* A handler that is called in a wait with all the others blocked touches holes. */
static void touch_in_wait(int number) {
    (void)number;
    at[(size_t)++caught * UNIT] = 1;
}

static void send_usr1(void) { raise(SIGUSR1); }

static void touch_holes_in_a_wait(void (*wait_in)(const sigset_t *, void (*)(void))) {
    touched_hole();
    struct sigaction action = {.sa_handler = touch_in_wait};
    MUST(sigaction(SIGUSR1, &action, NULL));
    block(one_signal(SIGUSR1));
    sigset_t mask = all_but(SIGUSR1);
    wait_in(&mask, send_usr1);
}

CASE(a_handler_touches_holes_in_a_wait_with_all_blocked) { touch_holes_in_a_wait(wait_in_every_way); }
CASE(a_handler_touches_holes_in_a_wait_by_number_with_all_blocked) { touch_holes_in_a_wait(wait_in_every_way_by_number); }

static void pause_with_all_blocked(const sigset_t *mask, void (*before)(void)) {
    uint32_t bits;
    memcpy(&bits, mask, sizeof bits);
    before();
    say("sigpause of BSD %s", outcome(bsd_sigpause((int)bits)));
    CHECK_EQUAL(touch(at, FILE_BYTES), 1);
}

CASE(a_handler_touches_holes_in_a_pause_with_all_blocked) { touch_holes_in_a_wait(pause_with_all_blocked); }

CASE(waits_by_number_that_are_refused) {
    touched_hole();
    uint64_t mask = ~0ULL, *nothing = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct {
        const uint64_t *mask;
        size_t size;
    } wrong = {&mask, 16}, empty = {NULL, 8}, unreadable = {nothing, 8};
    struct timespec none = {0, 0};
    say("ppoll %s", outcome(syscall(SYS_ppoll, NULL, 0, &none, &mask, 16)));
    say("ppoll %s", outcome(syscall(SYS_ppoll, NULL, 0, &none, nothing, 8)));
    say("ppoll %s", outcome(syscall(SYS_ppoll, NULL, 0, &none, NULL, 8)));
    say("pselect6 %s", outcome(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &none, &wrong)));
    say("pselect6 %s", outcome(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &none, &unreadable)));
    say("pselect6 %s", outcome(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &none, nothing)));
    say("pselect6 %s", outcome(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &none, &empty)));
    say("pselect6 %s", outcome(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &none, NULL)));
}

CASE(one_that_was_sent_ends_the_process_when_it_may) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    signal(SIGSEGV, SIG_DFL);
    block(all_signals());
    raise(SIGSEGV);
    at[UNIT] = 1;
    say("blocked");
    block(all_but(SIGSEGV));
    say("not reached");
}

CASE(one_that_was_sent_is_ignored_when_it_may_be) {
    touched_hole();
    signal(SIGSEGV, SIG_IGN);
    block(one_signal(SIGSEGV));
    raise(SIGSEGV);
    block(one_signal(SIGUSR1));
    say("pending %d", is_pending(SIGSEGV));
    at[UNIT] = 1;
}

/* ---- the others stay what they are ---- */

static volatile sig_atomic_t last_number;

static void note_number(int number) { last_number = number; }

CASE(a_signal_that_nobody_uses_has_actions_of_its_own) {
    touched_hole();
    tell_service(fd, at, FILE_BYTES);
    struct sigaction action = {.sa_handler = note_number, .sa_flags = SA_RESTART}, before;
    MUST(sigaction(SIGSTKFLT, NULL, &before));
    CHECK(before.sa_handler == SIG_DFL);
    for (int number = 1; number < 32; number++)
        if (number != SIGKILL && number != SIGSTOP && number != SIGSEGV)
            MUST(sigaction(number, &action, NULL));
    raise(SIGSTKFLT);
    say("number %d", (int)last_number);
    MUST(sigaction(SIGSTKFLT, NULL, &before));
    CHECK(before.sa_handler == note_number && (before.sa_flags & SA_RESTART));
    CHECK(signal(SIGSTKFLT, SIG_IGN) == note_number);
    raise(SIGSTKFLT);
    catch_segv(0);
    block(one_signal(SIGSEGV));
    raise(SIGSEGV);
    block(one_signal(SIGUSR2));
    say_caught("unblocked");
    CHECK(signal(SIGSTKFLT, SIG_DFL) == SIG_IGN);
    raise(SIGSTKFLT);
    say("not reached");
}
