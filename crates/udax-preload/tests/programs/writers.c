/*
 * Ways to write a mapped file that do not go through a plain write: each must show in a mapping whose holes have been read.
 * Prints a line for each; run with the library preloaded.
 */
#define _GNU_SOURCE
#include <aio.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNIT (2UL << 20)
#define FILE_BYTES (8 * UNIT)

static int fd;
static volatile uint8_t *at;
static int console;

/* Maps a file that is one hole, and reads all of it. */
static volatile uint8_t *touched_hole(int of) {
    if (ftruncate(of, FILE_BYTES) != 0)
        exit(9);
    volatile uint8_t *mapped = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, of, 0);
    if (mapped == MAP_FAILED)
        exit(9);
    for (size_t byte = 0; byte < FILE_BYTES; byte += 4096)
        if (mapped[byte] != 0)
            exit(8);
    return mapped;
}

static void fresh(void) {
    if (at != NULL) {
        munmap((void *)at, FILE_BYTES);
        close(fd);
    }
    /* Never the same inode again: what is known of one file must not hide what happens to the next. */
    static int files;
    char name[20];
    snprintf(name, sizeof name, "file%d", files++);
    fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    at = touched_hole(fd);
}

static void say(const char *what, int seen) {
    /* Not through any of the ways under test. */
    char line[100];
    int length = snprintf(line, sizeof line, "%s: %s\n", what, seen ? "seen" : "STALE");
    if (write(console, line, (size_t)length) != length)
        exit(9);
}

static int child_that_writes(void *unused) {
    (void)unused;
    return pwrite(fd, "C", 1, UNIT) != 1;
}

static void *changes_user(void *unused) {
    (void)unused;
    return (void *)(intptr_t)(setuid(getuid()) != 0);
}

static void through_calls_and_children(void) {
    fresh();
    say("write", write(fd, "W", 1) == 1 && at[0] == 'W');

    fresh();
    pid_t child = fork();
    if (child == 0) {
        at[3 * UNIT] = 7;
        _exit(pwrite(fd, "K", 1, 4 * UNIT) != 1);
    }
    waitpid(child, NULL, 0);
    say("a child's store", at[3 * UNIT] == 7);
    say("a child's write", at[4 * UNIT] == 'K');
    at[5 * UNIT] = 9;
    char byte = 0;
    say("a store after the child", pread(fd, &byte, 1, 5 * UNIT) == 1 && byte == 9);
}

static void through_streams(void) {
    fresh();
    dprintf(fd, "%s", "D");
    say("dprintf", at[0] == 'D');

    fresh();
    FILE *stream = fdopen(dup(fd), "w");
    fputs("F", stream);
    fflush(stream);
    say("a stream made from the descriptor", at[0] == 'F');
    fclose(stream);

    stream = fopen("other", "w+");
    volatile uint8_t *other = touched_hole(fileno(stream));
    fputs("G", stream);
    fflush(stream);
    say("the descriptor of a stream", other[0] == 'G');
    fclose(stream);
    munmap((void *)other, FILE_BYTES);
}

static void through_standard_output(void) {
    fresh();
    dup2(fd, STDOUT_FILENO);
    printf("O");
    fflush(stdout);
    say("standard output, put there later", at[0] == 'O');

    close(STDOUT_FILENO);
    int standard = open("standard", O_RDWR | O_CREAT | O_TRUNC, 0644);
    volatile uint8_t *other = touched_hole(standard);
    printf("P");
    fflush(stdout);
    say("standard output itself", standard == STDOUT_FILENO && other[0] == 'P');
    munmap((void *)other, FILE_BYTES);
}

static void through_the_kernel(void) {
    int ends[2];
    loff_t offset = UNIT;
    fresh();
    if (pipe(ends) != 0 || write(ends[1], "S", 1) != 1)
        exit(9);
    splice(ends[0], NULL, fd, &offset, 1, 0);
    say("splice", at[UNIT] == 'S');

    fresh();
    static char stack[64 << 10] __attribute__((aligned(16)));
    clone(child_that_writes, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
    say("a child that shares the memory", at[UNIT] == 'C');

    fresh();
    int memory = open("/proc/self/mem", O_RDWR);
    ssize_t written = pwrite(memory, "M", 1, (off_t)(uintptr_t)(at + 7 * UNIT));
    char byte = 0;
    say("/proc/self/mem", written == 1 && at[7 * UNIT] == 'M' && pread(fd, &byte, 1, 7 * UNIT) == 1 && byte == 'M');

    fresh();
    struct aiocb request = {.aio_fildes = fd, .aio_buf = "A", .aio_nbytes = 1, .aio_offset = UNIT};
    const struct aiocb *list[] = {&request};
    aio_write(&request);
    aio_suspend(list, 1, NULL);
    say("aio", at[UNIT] == 'A');

    fresh();
    syscall(SYS_pwrite64, fd, "N", 1L, (long)UNIT);
    say("a system call by number", at[UNIT] == 'N');
}

int main(void) {
    console = dup(STDOUT_FILENO);
    through_calls_and_children();
    through_streams();
    through_standard_output();
    through_the_kernel();
    /* libc has every thread of the process change its user, and waits for all: ours must answer too. */
    pthread_t thread;
    void *refused;
    fresh();
    pthread_create(&thread, NULL, changes_user, NULL);
    pthread_join(thread, &refused);
    say("a change of user", refused == NULL);
    return 3;
}
