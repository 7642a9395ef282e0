/*
 * One side of a coherence check: does to files what its standard input says, one line at a time, and answers each line with
 * one. Two of them, plain or under `udax run`, and a conductor that knows what each must see make the check.
 *
 *   open NAME r|w|rw [trunc|append]   fd N BYTES (take an inherited one)   close   create NAME BYTES   unlink NAME
 *   map shared|private r|rw BYTES     unmap
 *   touch                             loads a byte of every page: "N pages not zero"
 *   load OFFSET                       the byte there, or the signal
 *   store OFFSET VALUE                by an instruction, through the mapping
 *   write OFFSET VALUE [COUNT]        by pwrite(2)
 *   append VALUE · truncate BYTES · path-truncate NAME BYTES · punch OFFSET COUNT · zero OFFSET COUNT
 *   copy OFFSET VALUE                 by copy_file_range(2) from a file of its own
 *   splice OFFSET VALUE               through a pipe
 *   blocks NAME                       bytes of storage, by stat(2)
 *   exec                              replaces itself by a new self, keeping the descriptor; spawn-write NAME OFFSET VALUE
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL

static int fd = -1;
static volatile uint8_t *at;
static size_t mapped;
static sigjmp_buf jump;

static void on_fault(int number) { siglongjmp(jump, number); }

static void answer(long result) {
    if (result < 0)
        printf("%s\n", strerrorname_np(errno));
    else
        printf("%ld\n", result);
}

static long open_file(const char *name, const char *how, const char *more) {
    int flags = strcmp(how, "r") == 0 ? O_RDONLY : strcmp(how, "w") == 0 ? O_WRONLY : O_RDWR;
    if (strcmp(more, "trunc") == 0)
        flags |= O_TRUNC;
    if (strcmp(more, "append") == 0)
        flags |= O_APPEND;
    return (fd = open(name, flags | O_CLOEXEC)) < 0 ? -1 : 0;
}

static long create_file(const char *name, size_t length) {
    int file = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    return file < 0 || ftruncate(file, (off_t)length) < 0 ? -1 : close(file);
}

static long map_file(const char *how, const char *rights, size_t length) {
    int sharing = strcmp(how, "shared") == 0 ? MAP_SHARED : MAP_PRIVATE;
    void *place = mmap(NULL, length, strcmp(rights, "r") == 0 ? PROT_READ : PROT_READ | PROT_WRITE, sharing, fd, 0);
    if (place == MAP_FAILED)
        return -1;
    at = place;
    mapped = length;
    return 0;
}

static long touch_pages(void) {
    long found = 0;
    for (size_t offset = 0; offset < mapped; offset += PAGE)
        found += at[offset] != 0;
    return found;
}

static long store_by_pipe(size_t offset, uint8_t value) {
    int ends[2];
    if (pipe(ends) < 0 || write(ends[1], &value, 1) != 1)
        return -1;
    loff_t to = (loff_t)offset;
    long count = splice(ends[0], NULL, fd, &to, 1, 0);
    close(ends[0]);
    close(ends[1]);
    return count;
}

static long store_by_copy(size_t offset, uint8_t value) {
    char name[] = "source-XXXXXX";
    int source = mkstemp(name);
    if (source < 0 || write(source, &value, 1) != 1)
        return -1;
    unlink(name);
    loff_t from = 0, to = (loff_t)offset;
    long count = copy_file_range(source, &from, fd, &to, 1, 0);
    close(source);
    return count;
}

static long write_some(size_t offset, uint8_t value, size_t count) {
    static uint8_t block[1 << 16];
    count = count == 0 ? 1 : count > sizeof block ? sizeof block : count;
    memset(block, value, count);
    return pwrite(fd, block, count, (off_t)offset);
}

static long spawn_write(const char *name, size_t offset, uint8_t value) {
    char command[600];
    snprintf(command, sizeof command, "printf '\\%03o' | dd of='%s' bs=1 seek=%zu conv=notrunc 2>/dev/null", value, name,
             offset);
    return system(command) == 0 ? 0 : -1;
}

static void be_anew(char *self) {
    char number[16];
    fcntl(fd, F_SETFD, 0);
    snprintf(number, sizeof number, "%d", fd);
    fflush(stdout);
    execl("/proc/self/exe", self, number, (char *)NULL);
    answer(-1);
}

static void act(char *self, const char *line) {
    char verb[32] = "", a[300] = "", b[32] = "", c[32] = "";
    sscanf(line, "%31s %299s %31s %31s", verb, a, b, c);
    size_t first = strtoull(a, NULL, 0), second = strtoull(b, NULL, 0), third = strtoull(c, NULL, 0);
    struct stat status;
    int number = sigsetjmp(jump, 1);
    if (number != 0) {
        puts(number == SIGBUS ? "SIGBUS" : "SIGSEGV");
        return;
    }
#define VERB(NAME) strcmp(verb, NAME) == 0
    if (VERB("open")) answer(open_file(a, b, c));
    else if (VERB("create")) answer(create_file(a, second));
    else if (VERB("close")) { answer(close(fd)); fd = -1; }
    else if (VERB("unlink")) answer(unlink(a));
    else if (VERB("map")) answer(map_file(a, b, third));
    else if (VERB("unmap")) { answer(munmap((void *)at, mapped)); at = NULL; mapped = 0; }
    else if (VERB("touch")) answer(touch_pages());
    else if (VERB("load")) answer(at[first]);
    else if (VERB("store")) { at[first] = (uint8_t)second; answer(0); }
    else if (VERB("write")) answer(write_some(first, (uint8_t)second, third));
    else if (VERB("append")) answer(write(fd, &(uint8_t){(uint8_t)first}, 1));
    else if (VERB("truncate")) answer(ftruncate(fd, (off_t)first));
    else if (VERB("path-truncate")) answer(truncate(a, (off_t)second));
    else if (VERB("punch"))
        answer(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first, (off_t)second));
    else if (VERB("zero"))
        answer(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)first, (off_t)second));
    else if (VERB("copy")) answer(store_by_copy(first, (uint8_t)second));
    else if (VERB("splice")) answer(store_by_pipe(first, (uint8_t)second));
    else if (VERB("spawn-write")) answer(spawn_write(a, second, (uint8_t)third));
    else if (VERB("blocks")) answer(stat(a, &status) < 0 ? -1 : (long)status.st_blocks * 512);
    else if (VERB("exec")) be_anew(self);
    else printf("unknown: %s\n", line);
}

int main(int count, char **arguments) {
    static char line[1000];
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    setvbuf(stdin, NULL, _IONBF, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (count > 1)
        fd = atoi(arguments[1]);
    puts("0");
    while (fgets(line, sizeof line, stdin))
        act(arguments[0], line);
    return 0;
}
