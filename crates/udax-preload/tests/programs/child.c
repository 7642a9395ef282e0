/* A child of fork reads the holes of a file of its own, whose name is told. Its parent maps nothing. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BYTES (8UL << 20)

static int reads_zeros(const char *name) {
    int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0644);
    if (fd < 0 || ftruncate(fd, BYTES) != 0)
        return 0;
    const volatile char *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return 0;
    for (size_t byte = 0; byte < BYTES; byte += 4096)
        if (at[byte] != 0)
            return 0;
    return 1;
}

int main(int count, char **arguments) {
    pid_t child = fork();
    if (child == 0)
        exit(count == 2 && reads_zeros(arguments[1]) ? 6 : 7);
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 8;
}
