/*
 * One life under `udax run`: threads, signal handlers, forked and spawned children, all storing to the same files.
 *
 *     worker SEGMENT            in the directory of the files; the life is drawn from the segment's seed
 *     worker SEGMENT ACTOR      a spawned child
 */
#include "worker.h"
#include <pthread.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum operation { STORE_SLICE, CHECK, SCAN, OWN, VIEW, CALL, SYNC, SIZE, ANEW, FORK, SPAWN, FIGHT };

struct segment *segment;
struct profile profile;
int files[FILES];
uint8_t *globals[FILES][GLOBALS];
static char segment_name[32];
static __thread int handled_actor = -1;
static __thread struct random handler_random;

/* For who looks into a failure. */
static void copy_maps(void) {
    static char block[4096];
    int from = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), to = open("maps", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    for (ssize_t got = read(from, block, sizeof block); got > 0; got = read(from, block, sizeof block))
        if (write(to, block, (size_t)got) != got)
            break;
    close(from);
    close(to);
}

void give_up(const char *format, ...) {
    if (atomic_exchange(&segment->failing, 1) == 0) {
        copy_maps();
        va_list list;
        va_start(list, format);
        vsnprintf(segment->failure, sizeof segment->failure, format, list);
        va_end(list);
        size_t used = strlen(segment->failure);
        snprintf(segment->failure + used, sizeof segment->failure - used, " (process %d, actor %d; layout %x, %s%s%u threads)", getpid(),
                 handled_actor, profile.layout_files, profile.weights[FORK] ? "forks, " : "", profile.weights[SPAWN] ? "spawns, " : "",
                 segment->threads);
        atomic_store(&segment->failed, 1);
        atomic_store(&segment->ending, 1);
    }
    /* The supervisor ends all of it. */
    for (;;)
        pause();
}

/* Stores and loads of its own, in the middle of whatever the thread was doing. */
static void on_signal(int number) {
    int actor = handled_actor, saved = errno;
    if (actor < 0)
        return;
    store_slice(NULL, 2 * actor + 1, &handler_random, true);
    for (int n = 0; n < (number == SIGALRM ? 16 : 2); n++) {
        uint32_t file;
        uint64_t page, slice = below(&handler_random, LANES) * SLICE;
        draw_place(&handler_random, &file, &page);
        check(NULL, LOAD, globals[file][n % GLOBALS] + page * PAGE + slice, file, page * PAGE + slice, SLICE);
    }
    count(HANDLED);
    errno = saved;
}

static void on_term(int number) {
    (void)number;
    atomic_store(&segment->ending, 1);
}

static void take_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigaddset(&action.sa_mask, SIGUSR1);
    sigaddset(&action.sa_mask, SIGALRM);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    action.sa_handler = on_term;
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void draw_profile(void) {
    struct random random = {segment->life_seed};
    bool calm = one_in(&random, 2), forks = one_in(&random, 3), spawns = one_in(&random, 4);
    profile.in_order = one_in(&random, 3);
    profile.units = 1 | (uint32_t)(next(&random) & next(&random));
    profile.pace = 1U << below(&random, 9);
    profile.layout_files = one_in(&random, 2) ? 0 : (uint32_t)below(&random, 1 << FILES);
    profile.stay = 1U << below(&random, 7);
    profile.ways = 4 + (uint32_t)below(&random, 40);
    profile.childless = 1U << below(&random, 10);
    profile.pauses = one_in(&random, 3) ? 0 : 4U << below(&random, 8);
    /* Out of ten thousand, or about. */
    uint32_t weights[OPERATIONS] = {
        [STORE_SLICE] = 1000 + (uint32_t)below(&random, 6000),
        [CHECK] = 3000,
        [SCAN] = 2 + (uint32_t)below(&random, 60),
        [OWN] = (uint32_t)below(&random, 400),
        [VIEW] = calm ? 5 : 10 + (uint32_t)below(&random, 200),
        [CALL] = (uint32_t)below(&random, 100),
        [SYNC] = (uint32_t)below(&random, 6),
        [SIZE] = (uint32_t)below(&random, 100),
        [ANEW] = calm ? 0 : 1 + (uint32_t)below(&random, 20),
        [FORK] = forks ? 1 + (uint32_t)below(&random, 10) : 0,
        [FIGHT] = one_in(&random, 3) ? 0 : 1U << below(&random, 11),
        [SPAWN] = spawns ? 1 + (uint32_t)below(&random, 4) : 0,
    };
    memcpy(profile.weights, weights, sizeof weights);
}

static void open_files(void) {
    for (uint32_t file = 0; file < FILES; file++) {
        char name[16];
        snprintf(name, sizeof name, "file-%u", file);
        files[file] = MUST(open(name, O_RDWR | O_CLOEXEC));
        for (int n = 0; n < GLOBALS; n++)
            globals[file][n] = MUST(mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, files[file], 0));
    }
}

static void enrol(struct self *self, int number) {
    struct actor *actor = &segment->actors[number];
    self->actor = number;
    self->random.state = mix(segment->life_seed + (uint64_t)number);
    handler_random.state = mix(segment->life_seed + ACTORS + (uint64_t)number);
    handled_actor = number;
    atomic_store(&actor->doing, BEGINNING);
    atomic_store(&actor->process, getpid());
    atomic_store(&actor->thread, (int)syscall(SYS_gettid));
}

/* Takes note of children that have ended; waits for them if it is to. */
static void reap(struct self *self, int flags) {
    for (int n = 0; n < CHILDREN; n++) {
        int status = 0;
        pid_t child = self->children[n], ended = child == 0 ? 0 : waitpid(child, &status, flags);
        if (ended < 0 && errno == EINTR) {
            n--;
            continue;
        }
        if (ended < 0)
            give_up("waitpid: %s", strerror(errno));
        if (ended == 0)
            continue;
        if (status != 0 && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
            give_up("child %d ended with status %#x", child, status);
        self->children[n] = 0;
    }
}

static void run_actor(struct self *self);

static void have_child(struct self *self, bool by_fork) {
    int n = 0;
    while (n < CHILDREN && self->children[n] != 0)
        n++;
    if (n == CHILDREN || atomic_load(&segment->next_actor) >= ACTORS) {
        reap(self, WNOHANG);
        return;
    }
    uint32_t number = atomic_fetch_add(&segment->next_actor, 1);
    if (number >= ACTORS)
        return;
    count(by_fork ? FORKS : SPAWNS);
    pid_t child;
    if (by_fork) {
        /* A signal in the child before it is enrolled would be handled in the parent's lane. */
        sigset_t handled, before;
        sigemptyset(&handled);
        sigaddset(&handled, SIGUSR1);
        sigaddset(&handled, SIGALRM);
        pthread_sigmask(SIG_BLOCK, &handled, &before);
        child = MUST(fork());
        if (child == 0) {
            memset(self->children, 0, sizeof self->children);
            self->owns = false;
            enrol(self, (int)number);
            pthread_sigmask(SIG_SETMASK, &before, NULL);
            run_actor(self);
            _exit(0);
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    } else {
        extern char **environ;
        char name[16];
        snprintf(name, sizeof name, "%u", number);
        errno = posix_spawn(&child, "/proc/self/exe", NULL, NULL, (char *[]){"worker", segment_name, name, NULL}, environ);
        if (errno != 0)
            give_up("posix_spawn: %s", strerror(errno));
    }
    self->children[n] = child;
}

static void operate(struct self *self, enum operation operation) {
    switch (operation) {
    case STORE_SLICE: store_slice(self, 2 * self->actor, &self->random, false); break;
    case CHECK: check_somewhere(self); break;
    case SCAN: scan(self); break;
    case OWN: if (self->owns) own_unit(self); break;
    case VIEW: change_view(self); break;
    case CALL: give_memory_to_calls(self); break;
    case SYNC: sync_somewhere(self); break;
    case SIZE: if (self->owns) resize(self); break;
    case ANEW: if (self->owns) map_anew(self); break;
    case FIGHT: if (self->owns) fight(self); break;
    case FORK:
    case SPAWN:
        if (one_in(&self->random, profile.childless))
            have_child(self, operation == FORK);
        break;
    }
}

static void run_actor(struct self *self) {
    struct actor *actor = &segment->actors[self->actor];
    uint64_t sum = 0, left = self->owns ? UINT64_MAX : 200 + below(&self->random, 20000);
    for (int n = 0; n < OPERATIONS; n++)
        sum += profile.weights[n];
    while (!atomic_load(&segment->ending) && left-- > 0) {
        uint64_t drawn = below(&self->random, sum);
        int operation = 0;
        while (drawn >= profile.weights[operation])
            drawn -= profile.weights[operation++];
        if (self->owns && is_fight_on())
            operation = FIGHT;
        atomic_store(&actor->doing, (uint32_t)operation);
        operate(self, (enum operation)operation);
        if (profile.pauses && one_in(&self->random, profile.pauses))
            nanosleep(&(struct timespec){0, (long)below(&self->random, 1000000)}, NULL);
        atomic_fetch_add(&actor->progress, 1);
    }
    atomic_store(&actor->doing, REAPING);
    reap(self, 0);
    atomic_fetch_add(&actor->progress, 1);
    atomic_store(&actor->thread, 0);
}

static void *run_thread(void *argument) {
    struct self self = {.owns = true};
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    int number = (int)(intptr_t)argument;
    if (number % 2)
        sigaltstack(&stack, NULL);
    enrol(&self, number);
    run_actor(&self);
    handled_actor = -1;
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    free(stack.ss_sp);
    return NULL;
}

int main(int arguments, char **names) {
    if (arguments < 2)
        return 2;
    snprintf(segment_name, sizeof segment_name, "%s", names[1]);
    segment = shmat(atoi(names[1]), NULL, 0);
    if (segment == (void *)-1)
        return perror("shmat"), 2;
    draw_profile();
    take_signals();
    open_files();
    if (arguments > 2) {
        struct self self = {.owns = false};
        enrol(&self, atoi(names[2]));
        run_actor(&self);
        return 0;
    }
    pthread_t threads[THREADS];
    for (uint32_t n = 1; n < segment->threads; n++)
        if (pthread_create(&threads[n], NULL, run_thread, (void *)(intptr_t)n) != 0)
            give_up("pthread_create");
    run_thread((void *)0);
    for (uint32_t n = 1; n < segment->threads; n++)
        pthread_join(threads[n], NULL);
    return 0;
}
