/*
 * Frame for the black-box checks: a program holds named cases, asserts by itself, and prints the same lines whether
 * its mappings are the kernel's or udax's, so that the two outputs can be compared.
 *
 *     PROGRAM --list           the names of its cases
 *     PROGRAM --service NAME   "served", or "plain" or "either" and why: what becomes of its mappings under udax
 *     PROGRAM NAME             runs one case in the current directory, which should be empty
 */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define UNIT (2UL << 20)

typedef volatile uint8_t *bytes;

struct named_case {
    const char *name;
    void (*run)(void);
    const char *service;
    struct named_case *next;
};

static struct named_case *first_case, **last_case = &first_case;

/* Registers and opens the definition of one case. Under udax a mapping of it is served and meets faults, which the statistics tell at the end; where there are
 * none (it ends by a signal, becomes another program, has no descriptor) the case calls `tell_service`. */
#define CASE(NAME) REGISTERED_CASE(NAME, "served")
/* One whose mappings are the kernel's under udax too, for a reason. */
#define PLAIN_CASE(NAME, WHY) REGISTERED_CASE(NAME, "plain: " WHY)
/* One whose mappings are the kernel's in one run and served in another. */
#define EITHER_CASE(NAME, WHY) REGISTERED_CASE(NAME, "either: " WHY)
#define REGISTERED_CASE(NAME, SERVICE)                                                                                 \
    static void case_##NAME(void);                                                                                     \
    static struct named_case entry_##NAME = {#NAME, case_##NAME, SERVICE, NULL};                                         \
    __attribute__((constructor)) static void register_##NAME(void) {                                                   \
        *last_case = &entry_##NAME;                                                                                    \
        last_case = &entry_##NAME.next;                                                                                \
    }                                                                                                                  \
    static void case_##NAME(void)

#define CHECK(CONDITION) check_true((CONDITION) ? 1 : 0, #CONDITION, __FILE__, __LINE__)
#define CHECK_EQUAL(LEFT, RIGHT) check_equal((long long)(LEFT), (long long)(RIGHT), #LEFT " == " #RIGHT, __FILE__, __LINE__)
/* For calls that return -1 and set errno. */
#define MUST(CALL) must((long)(CALL), #CALL, __FILE__, __LINE__)

__attribute__((unused)) static void check_true(int holds, const char *what, const char *file, int line) {
    if (!holds) {
        int error = errno;
        printf("FAILED %s:%d: %s (errno %s)\n", file, line, what, strerrorname_np(error));
        fflush(stdout);
        _exit(1);
    }
}

__attribute__((unused)) static void check_equal(long long left, long long right, const char *what, const char *file,
                                                int line) {
    if (left != right) {
        printf("FAILED %s:%d: %s: %lld and %lld\n", file, line, what, left, right);
        fflush(stdout);
        _exit(1);
    }
}

__attribute__((unused)) static long must(long result, const char *what, const char *file, int line) {
    check_true(result != -1, what, file, line);
    return result;
}

__attribute__((unused, format(printf, 1, 2))) static void say(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    putchar('\n');
    fflush(stdout);
}

/* "ok" or the errno's name of a call that returns -1 on failure. */
__attribute__((unused)) static const char *outcome(long result) {
    return result == -1 ? strerrorname_np(errno) : "ok";
}

/* ---- signals as results ---- */

static _Thread_local sigjmp_buf fault_jump;
static _Thread_local volatile sig_atomic_t fault_armed;
static _Thread_local volatile uintptr_t fault_address;
static _Thread_local volatile int fault_code;

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    if (!fault_armed) {
        signal(number, SIG_DFL); /* the access is tried again, and ends the process as it would have */
        return;
    }
    fault_address = (uintptr_t)info->si_addr;
    fault_code = info->si_code;
    fault_armed = 0;
    siglongjmp(fault_jump, number);
}

__attribute__((unused)) static void catch_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
}

__attribute__((unused)) static const char *signal_name(int number) {
    return number == 0 ? "none" : number == SIGBUS ? "SIGBUS" : number == SIGSEGV ? "SIGSEGV" : "other";
}

/* The signal that a load or a store ends in; 0 for none. */
__attribute__((unused, noinline)) static int signal_of_load(const volatile uint8_t *at) {
    int number = sigsetjmp(fault_jump, 1);
    if (number == 0) {
        fault_armed = 1;
        (void)*at;
        fault_armed = 0;
    }
    return number;
}

__attribute__((unused, noinline)) static int signal_of_store(volatile uint8_t *at, uint8_t value) {
    int number = sigsetjmp(fault_jump, 1);
    if (number == 0) {
        fault_armed = 1;
        *at = value;
        fault_armed = 0;
    }
    return number;
}

/* ---- files and mappings ---- */

__attribute__((unused)) static int sparse_file(const char *name, size_t length) {
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    CHECK(fd >= 0);
    MUST(ftruncate(fd, (off_t)length));
    return fd;
}

__attribute__((unused)) static bytes map(int fd, size_t length, int rights, int flags, off_t offset) {
    void *at = mmap(NULL, length, rights, flags, fd, offset);
    CHECK(at != MAP_FAILED);
    return at;
}

__attribute__((unused)) static bytes map_shared(int fd, size_t length) {
    return map(fd, length, PROT_READ | PROT_WRITE, MAP_SHARED, 0);
}

__attribute__((unused)) static bytes map_private(int fd, size_t length) {
    return map(fd, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0);
}

/* At an address that is `skew` bytes past a multiple of 2 MiB. */
__attribute__((unused)) static bytes map_skewed(int fd, size_t length, int rights, int flags, size_t skew) {
    size_t room = length + 2 * UNIT;
    uint8_t *area = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(area != MAP_FAILED);
    uint8_t *at = (uint8_t *)(((uintptr_t)area + UNIT - 1) & ~(UNIT - 1)) + skew;
    MUST(munmap(area, room));
    void *got = mmap(at, length, rights, flags | MAP_FIXED, fd, 0);
    CHECK(got == at);
    return got;
}

__attribute__((unused)) static void unmap(bytes at, size_t length) {
    MUST(munmap((void *)at, length));
}

/* One load in every page; how many were not zero. */
__attribute__((unused)) static size_t touch(bytes at, size_t length) {
    size_t found = 0;
    for (size_t offset = 0; offset < length; offset += PAGE)
        found += at[offset] != 0;
    return found;
}

__attribute__((unused)) static int all_bytes_are(bytes at, size_t length, uint8_t value) {
    for (size_t offset = 0; offset < length; offset++)
        if (at[offset] != value)
            return 0;
    return 1;
}

__attribute__((unused)) static uint8_t byte_of_file(int fd, off_t offset) {
    uint8_t value = 0;
    CHECK_EQUAL(pread(fd, &value, 1, offset), 1);
    return value;
}

__attribute__((unused)) static off_t size_of(int fd) {
    struct stat status;
    MUST(fstat(fd, &status));
    return status.st_size;
}

/* Whether the mapping shows what read(2) shows, byte for byte, of the file's `length` bytes at `offset`. */
__attribute__((unused)) static int same_as_file(bytes at, int fd, off_t offset, size_t length) {
    static uint8_t buffer[1 << 16];
    for (size_t done = 0; done < length;) {
        size_t part = length - done < sizeof buffer ? length - done : sizeof buffer;
        ssize_t count = pread(fd, buffer, part, offset + (off_t)done);
        if (count <= 0 || memcmp((const void *)(at + done), buffer, (size_t)count) != 0)
            return 0;
        done += (size_t)count;
    }
    return 1;
}

__attribute__((unused)) static uint64_t hash_of(bytes at, size_t length) {
    uint64_t hash = 14695981039346656037ULL;
    for (size_t offset = 0; offset < length; offset++)
        hash = (hash ^ at[offset]) * 1099511628211ULL;
    return hash;
}

/* Where mappings are told of. To be opened by hand only where no descriptor is left when it is read. */
static FILE *maps_of_this_process;

__attribute__((unused)) static void open_maps(void) {
    maps_of_this_process = fopen("/proc/self/maps", "r");
    CHECK(maps_of_this_process);
}

/* Whether a part of the file's mapping shows something else than the file's own pages, which is what udax does to holes. */
__attribute__((unused)) static int is_served(int fd, bytes at, size_t length) {
    struct stat status;
    char line[512];
    int found = 0;
    MUST(fstat(fd, &status));
    if (!maps_of_this_process)
        open_maps();
    while (fgets(line, sizeof line, maps_of_this_process)) {
        uintptr_t start, end;
        unsigned long inode;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) == 3)
            found |= start < (uintptr_t)at + length && (uintptr_t)at < end && inode != status.st_ino;
    }
    fclose(maps_of_this_process);
    maps_of_this_process = NULL;
    return found;
}

/* Told beside the output, which is the same plainly. */
__attribute__((unused)) static void tell_service(int fd, bytes at, size_t length) {
    fputs(is_served(fd, at, length) ? "served: yes\n" : "served: no\n", stderr);
}

/* For cases whose file ends up different from run to run: it is not to be compared. */
__attribute__((unused)) static void forget(const char *name) { MUST(unlink(name)); }

/* Waits for a child and returns its exit status, or 1000 + the signal that ended it. */
__attribute__((unused)) static int end_of(pid_t child) {
    int status;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "--list") == 0) {
        for (struct named_case *one = first_case; one; one = one->next)
            puts(one->name);
        return 0;
    }
    if (count == 3 && strcmp(arguments[1], "--service") == 0) {
        for (struct named_case *one = first_case; one; one = one->next)
            if (strcmp(arguments[2], one->name) == 0)
                puts(one->service);
        return 0;
    }
    catch_faults();
    for (struct named_case *one = first_case; one; one = one->next)
        if (count >= 2 && strcmp(arguments[1], one->name) == 0) {
            one->run();
            puts("done");
            return 0;
        }
    fprintf(stderr, "usage: %s --list | --service NAME | NAME\n", arguments[0]);
    return 2;
}

#endif
