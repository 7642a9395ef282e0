/*
 * Starts lives, disturbs them, ends them, and compares every byte that they leave with the model. It does not run under udax.
 *
 *     supervisor SECONDS SEED JOBS KEEP PLACE... -- COMMAND...      the segment's name is added to the command
 *
 * Environment: UDAX_HANG_SECONDS, how long an actor may make no progress (default 60); UDAX_FAILURES, after how many lives that failed it
 * ends (default 6).
 */
#include "supervisor.h"
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static double hang_seconds = 60, begun_at;
static uint64_t most_failures = 6;

/* The group of the life of this slot, for who is told to end. */
static volatile sig_atomic_t group;

static void on_term(int number) {
    if (group)
        kill(-group, SIGKILL);
    _exit(128 + number);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void pause_for(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

void complain(struct slot *slot, const char *format, ...) {
    char text[2000];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    printf("FAILED: seed %lu, slot %u in %s, life %u, %.0f s after the start: %s\n", slot->seed, slot->number, slot->directory,
           slot->segment->life, now() - begun_at, text);
    fflush(stdout);
    slot->failed = true;
}

static void start_life(struct slot *slot) {
    struct segment *segment = slot->segment;
    segment->life++;
    segment->life_seed = next(&slot->random);
    segment->threads = 1 + (uint32_t)below(&slot->random, THREADS);
    segment->next_actor = segment->threads;
    segment->ending = segment->failing = segment->failed = 0;
    segment->front = 0;
    memset(segment->actors, 0, sizeof segment->actors);
    memset(segment->counts, 0, sizeof segment->counts);
    slot->failed = false;
    slot->worker = fork();
    if (slot->worker == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int log = chdir(slot->directory) == 0 ? open("log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
        dup2(log, 1);
        dup2(log, 2);
        execvp(slot->command[0], slot->command);
        _exit(127);
    }
    setpgid(slot->worker, slot->worker);
    group = slot->worker;
}

static pid_t process_of(const struct slot *slot, int n) {
    pid_t process = atomic_load(&slot->segment->actors[n].process);
    return process > 0 && getpgid(process) == slot->worker ? process : 0;
}

/* Whether some actor stands still, or the worker has ended by itself. What each had done is in `seen`, and since when in `since`. */
static bool stands_still(struct slot *slot, uint64_t *seen, double *since) {
    for (int n = 0; n < ACTORS; n++) {
        const struct actor *actor = &slot->segment->actors[n];
        uint64_t progress = atomic_load(&actor->progress);
        if (!atomic_load(&actor->thread) || progress != seen[n] || since[n] == 0) {
            seen[n] = progress;
            since[n] = now();
        } else if (now() - since[n] > hang_seconds) {
            since[n] = now();
            if (process_of(slot, n) && lives(process_of(slot, n))) {
                complain(slot, "actor %d has done nothing for %.0f s", n, hang_seconds);
                show_processes(slot);
                return true;
            }
        }
    }
    return false;
}

/* A process that udax does not serve opens the files, maps them, and stores: whoever shows zeros by a lease has to give that up. */
static void let_stranger_in(struct slot *slot) {
    uint32_t number = atomic_load(&slot->segment->next_actor) < ACTORS ? atomic_fetch_add(&slot->segment->next_actor, 1) : ACTORS;
    if (number >= ACTORS)
        return;
    slot->totals->strangers++;
    if (fork() == 0) {
        char name[16];
        snprintf(name, sizeof name, "%u", number);
        int log = setpgid(0, slot->worker) == 0 && chdir(slot->directory) == 0 ? open("log", O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
        if (log < 0) /* The life is over, and with it the group in which it would be ended. */
            _exit(0);
        dup2(log, 1);
        dup2(log, 2);
        execl(slot->worker_path, slot->worker_path, slot->segment_name, name, (char *)NULL);
        _exit(0);
    }
}

/* Takes the status of the worker if it has ended, and of strangers, and of orphans that came to us. */
static bool has_ended(struct slot *slot, int *status) {
    bool ended = false;
    int one;
    for (pid_t process = waitpid(-1, &one, WNOHANG); process > 0; process = waitpid(-1, &one, WNOHANG))
        if (process == slot->worker) {
            ended = true;
            *status = one;
        } else if (one != 0 && !(WIFSIGNALED(one) && WTERMSIG(one) == SIGKILL)) {
            complain(slot, "process %d ended with status %#x", process, one);
        }
    return ended;
}

/* One signal, stop or kill for somebody. */
static void disturb(struct slot *slot) {
    struct random *random = &slot->random;
    int n = (int)below(random, ACTORS);
    struct actor *actor = &slot->segment->actors[n];
    pid_t process = process_of(slot, n), whole = one_in(random, 2) ? -slot->worker : slot->worker;
    switch (below(random, 12)) {
    case 0:
        if (!one_in(random, 4))
            break;
        kill(whole, SIGSTOP);
        pause_for((double)below(random, 40) / 1000);
        kill(whole, SIGCONT);
        slot->totals->stops++;
        break;
    case 1:
        for (n = (int)slot->segment->threads; n < ACTORS; n++)
            if ((process = process_of(slot, n)) && process != slot->worker && one_in(random, 3)) {
                kill(process, SIGKILL);
                slot->totals->child_kills++;
                break;
            }
        break;
    case 2:
        if (one_in(random, 20))
            let_stranger_in(slot);
        break;
    case 3:
        kill(slot->worker, one_in(random, 2) ? SIGUSR1 : SIGALRM);
        slot->totals->signals++;
        break;
    default:
        if (!process || !atomic_load(&actor->thread))
            break;
        syscall(SYS_tgkill, process, atomic_load(&actor->thread), one_in(random, 2) ? SIGUSR1 : SIGALRM);
        slot->totals->signals++;
    }
}

/* From the first operation to the moment that was drawn. False if it came to a bad end before. */
static bool disturb_life(struct slot *slot, int *status) {
    uint64_t seen[ACTORS] = {0};
    double since[ACTORS] = {0}, started = now(), length = 0.05 + (double)below(&slot->random, 2000) / 1000;
    bool quiet = one_in(&slot->random, 4), begun = false;
    while (!begun || now() - started < length) {
        if (!begun && atomic_load(&slot->segment->actors[0].progress) > 0) {
            begun = true;
            started = now();
        }
        if (has_ended(slot, status)) {
            complain(slot, "it ended by itself, with status %#x", *status);
            return false;
        }
        if (atomic_load(&slot->segment->failed) || stands_still(slot, seen, since))
            return false;
        if (!begun && now() - started > hang_seconds) {
            complain(slot, "it did not begin in %.0f s", hang_seconds);
            show_processes(slot);
            return false;
        }
        pause_for((double)(1 + below(&slot->random, 15)) / 1000);
        for (uint64_t n = begun && !quiet ? below(&slot->random, 6) : 0; n > 0; n--)
            disturb(slot);
    }
    return true;
}

static void end_life(struct slot *slot, int *status) {
    uint64_t seen[ACTORS] = {0}, way = below(&slot->random, 20);
    double since[ACTORS] = {0};
    if (way < 8) {
        kill(slot->worker, SIGTERM);
        slot->totals->ends++;
        for (double started = now(); !has_ended(slot, status);) {
            if (atomic_load(&slot->segment->failed) || stands_still(slot, seen, since))
                return;
            if (now() - started > 2 * hang_seconds) {
                complain(slot, "it did not end in %.0f s", 2 * hang_seconds);
                show_processes(slot);
                return;
            }
            if (one_in(&slot->random, 4))
                disturb(slot);
            pause_for(0.002);
        }
        if (*status != 0 && !atomic_load(&slot->segment->failed))
            complain(slot, "it ended with status %#x", *status);
        return;
    }
    slot->totals->kills++;
    if (way < 11) {
        /* Its children live on for a moment, and store. */
        kill(slot->worker, SIGKILL);
        pause_for((double)below(&slot->random, 30) / 1000);
    }
}

/* Nobody is left that could store. */
static void kill_all(struct slot *slot) {
    double started = now();
    kill(-slot->worker, SIGKILL);
    for (;;) {
        pid_t ended = waitpid(-1, NULL, WNOHANG);
        if (ended < 0 && errno == ECHILD) {
            group = 0;
            return;
        }
        if (ended != 0)
            continue;
        if (now() - started > hang_seconds) {
            complain(slot, "a killed process does not go away");
            show_processes(slot);
            exit(1);
        }
        pause_for(0.001);
    }
}

/* The files, the log, and what the model says, for who looks into it. */
static void keep_files(struct slot *slot) {
    char command[9000];
    snprintf(command, sizeof command, "mkdir -p '%s' && cp -r --sparse=always '%s' '%s/slot-%u-life-%u'", slot->keep, slot->directory,
             slot->keep, slot->number, slot->segment->life);
    if (system(command) == 0)
        printf("    kept in %s/slot-%u-life-%u\n", slot->keep, slot->number, slot->segment->life);
    snprintf(command, sizeof command, "sed 's/^/    log: /' '%s/log'", slot->directory);
    fflush(stdout);
    if (system(command) != 0)
        printf("    no log\n");
}

static void live_once(struct slot *slot) {
    int status = 0;
    start_life(slot);
    bool good = disturb_life(slot, &status);
    if (good)
        end_life(slot, &status);
    kill_all(slot);
    if (atomic_load(&slot->segment->failed))
        complain(slot, "%s", slot->segment->failure);
    verify_files(slot);
    read_statistics(slot);
    for (int n = 0; n < COUNTS; n++)
        slot->totals->counts[n] += slot->segment->counts[n];
    if (slot->failed) {
        slot->totals->failed++;
        keep_files(slot);
    } else {
        slot->totals->passed++;
    }
}

static void run_slot(struct slot *slot, double deadline) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGTERM, on_term);
    signal(SIGINT, on_term);
    int id = shmget(IPC_PRIVATE, sizeof(struct segment), 0600);
    slot->segment = shmat(id, NULL, 0);
    /* It goes with its last user. */
    shmctl(id, IPC_RMID, NULL);
    snprintf(slot->segment_name, sizeof slot->segment_name, "%d", id);
    snprintf(slot->directory, sizeof slot->directory, "%s/soak-%u", slot->place, slot->number);
    if (slot->segment == (void *)-1 || mkdir(slot->directory, 0755) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) {
        perror(slot->directory);
        exit(1);
    }
    for (uint64_t left = 0; now() < deadline && slot->totals->failed < most_failures; left--) {
        if (left == 0 || slot->failed) {
            slot->failed = false;
            make_files(slot);
            left = 1 + below(&slot->random, 6);
        }
        live_once(slot);
    }
    exit(0);
}

static void summarize(struct totals *totals, bool demand) {
    static const char *const names[] = {"stores", "loads", "ranges compared", "forks", "spawns", "signals handled", "calls with mapped buffers",
                                        "punches and resizes", "changes of mappings", "syncs", "private mappings", "fights for a fresh file"};
    printf("%lu lives: %lu killed, %lu ended; %lu children killed, %lu signals, %lu stops, %lu strangers; %lu operations were under way "
           "at a kill\n",
           totals->passed + totals->failed, totals->kills, totals->ends, totals->child_kills, totals->signals, totals->stops,
           totals->strangers, totals->flying);
    for (int n = 0; n < COUNTS; n++)
        printf("%s%lu %s", n ? ", " : "", totals->counts[n], names[n]);
    printf("\n%lu lives told what was served: %lu of them were shown zeros; %lu faults in user space, zeros over %lu MiB, "
           "%lu MiB given back\n",
           totals->told, totals->served, totals->faults, totals->zero_pages * PAGE >> 20, totals->given_back * PAGE >> 20);
    if (demand && (totals->told == 0 || 2 * totals->served < totals->told)) {
        printf("FAILED: too few lives were shown zeros: this proves nothing\n");
        totals->failed++;
    }
    printf("%lu passed, %lu failed, 0 skipped\n", totals->passed, totals->failed);
}

int main(int count, char **arguments) {
    int places = 0;
    while (5 + places < count && strcmp(arguments[5 + places], "--") != 0)
        places++;
    if (count < 8 || places == 0)
        return 2;
    begun_at = now();
    double deadline = begun_at + atof(arguments[1]);
    uint64_t seed = strtoull(arguments[2], NULL, 0);
    int jobs = atoi(arguments[3]), first = 6 + places;
    if (getenv("UDAX_HANG_SECONDS"))
        hang_seconds = atof(getenv("UDAX_HANG_SECONDS"));
    if (getenv("UDAX_FAILURES"))
        most_failures = strtoull(getenv("UDAX_FAILURES"), NULL, 0);
    struct totals *totals = mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int n = 0; n < jobs; n++) {
        if (fork() != 0)
            continue;
        struct slot slot = {.number = (uint32_t)n, .place = arguments[5 + n % places], .keep = arguments[4], .totals = totals, .seed = seed};
        slot.random.state = mix(seed) + (uint64_t)n;
        slot.command = calloc((size_t)(count - first) + 2, sizeof *slot.command);
        memcpy(slot.command, arguments + first, (size_t)(count - first) * sizeof *slot.command);
        slot.command[count - first] = slot.segment_name;
        slot.worker_path = arguments[count - 1];
        run_slot(&slot, deadline);
    }
    for (int status; wait(&status) > 0;)
        if (status != 0)
            totals->failed++;
    summarize(totals, getenv("UDAX_STUB") == NULL || strcmp(getenv("UDAX_STUB"), "1") != 0);
    return totals->failed != 0;
}
