/*
 * Processes that read the same holes: children by fork and their children, and programs that are started.
 *
 *     readers            makes the file; all of them read it
 *     readers write      and then somebody writes it
 *     readers look WHO   one of the programs that are started
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH (64UL << 20)
#define MARK (40UL << 20)

static const volatile uint8_t *map_it(const char *name) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        perror(name);
        exit(1);
    }
    void *at = mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    close(fd);
    return at;
}

static void read_all(const volatile uint8_t *at, const char *who) {
    unsigned long sum = 0;
    for (size_t page = 0; page < LENGTH; page += 4096)
        sum += at[page];
    printf("%s: %lu\n", who, sum);
    fflush(stdout);
}

static int end_of(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int main(int count, char **arguments) {
    if (count == 3) {
        read_all(map_it("shared"), arguments[2]);
        return 0;
    }
    int fd = open("shared", O_RDWR | O_CREAT, 0644);
    if (fd < 0 || ftruncate(fd, LENGTH) != 0 || pwrite(fd, "*", 1, MARK) != 1)
        return 1;
    close(fd);
    const volatile uint8_t *first = map_it("shared"), *second = map_it("shared");
    read_all(first, "before");
    pid_t child = fork();
    if (child == 0) {
        read_all(first, "child, the parent's mapping");
        read_all(map_it("shared"), "child, its own");
        pid_t grandchild = fork();
        if (grandchild == 0) {
            read_all(second, "grandchild");
            exit(0);
        }
        printf("the grandchild ended with %d\n", end_of(grandchild));
        exit(0);
    }
    printf("the child ended with %d\n", end_of(child));
    read_all(second, "after the fork");
    char command[4096];
    snprintf(command, sizeof command, "%s look 'another program'", arguments[0]);
    fflush(stdout);
    printf("it ended with %d\n", system(command));
    read_all(first, "after the other program");
    if (count == 1)
        return 0;
    /* Somebody writes: everybody sees it. */
    int ends[2], back[2];
    char word;
    if (pipe(ends) != 0 || pipe(back) != 0)
        return 1;
    child = fork();
    if (child == 0) {
        read_all(first, "child");
        if (write(back[1], "!", 1) != 1 || read(ends[0], &word, 1) != 1)
            exit(1);
        read_all(first, "child, after the write");
        exit(0);
    }
    close(back[1]);
    if (read(back[0], &word, 1) != 1)
        return 1;
    fd = open("shared", O_RDWR | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, "+", 1, 4096 * 1000) != 1 || write(ends[1], "!", 1) != 1)
        return 1;
    printf("the child ended with %d\n", end_of(child));
    read_all(second, "after the write");
    return 0;
}
