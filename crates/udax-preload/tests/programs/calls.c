/*
 * Every call that the preloaded library stands in front of, made in ways that show its arguments, its answer and its errno.
 * Run plainly and with the library preloaded; what is printed must be the same.
 */
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <wordexp.h>

#define PAGE 4096UL

extern char **environ;
static int waited(pid_t child);

/* Prints an answer, and errno if it is a failure; errno must survive a success. */
#define SHOW(call)                                                                                                      \
    do {                                                                                                                \
        errno = 77;                                                                                                     \
        long answer_ = (long)(call);                                                                                    \
        int errno_ = errno;                                                                                             \
        printf("%s: %ld", #call, answer_);                                                                              \
        if (errno_ != 77)                                                                                               \
            printf(" (%s)", strerrorname_np(errno_));                                                                   \
        printf("\n");                                                                                                   \
    } while (0)

/* The same for an address, of which only success shows. */
#define SHOW_ADDRESS(call)                                                                                              \
    ({                                                                                                                  \
        errno = 77;                                                                                                     \
        void *answer_ = (call);                                                                                         \
        int errno_ = errno;                                                                                             \
        printf("%s: %s", #call, answer_ == MAP_FAILED ? "failed" : "mapped");                                           \
        if (errno_ != 77)                                                                                               \
            printf(" (%s)", strerrorname_np(errno_));                                                                   \
        printf("\n");                                                                                                   \
        answer_;                                                                                                        \
    })

#define BAD ((void *)8)

static int make(const char *name, off_t size) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || ftruncate(fd, size) != 0) {
        perror(name);
        exit(9);
    }
    return fd;
}

static void show_file(int fd) {
    char text[200] = {0};
    ssize_t count = pread(fd, text, sizeof text - 1, 0);
    printf("the file:");
    for (ssize_t at = 0; at < count; at++)
        printf("%c", text[at] ? text[at] : '.');
    printf("\n");
}

static void memory(void) {
    int fd = fcntl(make("memory", 4 * PAGE), F_DUPFD, 10);
    /* The library looks at standard input before it maps; that this fails must not show. */
    close(STDIN_FILENO);
    char *at = SHOW_ADDRESS(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    SHOW_ADDRESS(mmap(NULL, 0, PROT_READ, MAP_SHARED, fd, 0));
    SHOW_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 1));
    SHOW_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, -1, 0));
    SHOW_ADDRESS(mmap(NULL, PAGE, PROT_READ, 0, fd, 0));
    SHOW_ADDRESS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, (off_t)(~0UL << 12)));
    SHOW_ADDRESS(mmap64(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SHOW(mprotect(at, PAGE, PROT_READ));
    SHOW(mprotect(at + 1, PAGE, PROT_READ));
    SHOW(madvise(at, PAGE, MADV_RANDOM));
    SHOW(madvise(at, PAGE, 12345));
    SHOW(posix_madvise(at, PAGE, POSIX_MADV_DONTNEED));
    SHOW(posix_madvise(at, PAGE, 12345));
    SHOW(posix_madvise(at + 1, PAGE, POSIX_MADV_RANDOM));
    SHOW(msync(at, 4 * PAGE, MS_SYNC));
    SHOW(msync(at, 4 * PAGE, MS_SYNC | MS_ASYNC));
    SHOW(mlock(at, PAGE));
    SHOW(mlock2(at, PAGE, MLOCK_ONFAULT));
    SHOW(mlock2(at, PAGE, 99));
    SHOW(munlock(at, PAGE));
    SHOW(mlock(BAD, PAGE));
    SHOW(mlockall(99));
    SHOW(pkey_mprotect(at, PAGE, PROT_READ | PROT_WRITE, -1));
    SHOW(remap_file_pages(at, 2 * PAGE, 0, 2, 0));
    SHOW(process_madvise(-1, NULL, 0, MADV_COLD, 0));
    char *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    private[5] = 55;
    SHOW(posix_madvise(private, PAGE, POSIX_MADV_DONTNEED));
    SHOW(private[5]);
    SHOW(madvise(private, PAGE, MADV_DONTNEED));
    SHOW(private[5]);
    at = SHOW_ADDRESS(mremap(at, 4 * PAGE, 2 * PAGE, 0));
    char *room = mmap(NULL, 4 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SHOW(mremap(at, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    SHOW_ADDRESS(mremap(room, PAGE, PAGE, MREMAP_FIXED, at));
    SHOW(munmap(room, 4 * PAGE));
    SHOW(munmap(room + 1, PAGE));
    SHOW(munmap(room, 0));
}

static void contents(void) {
    int fd = make("contents", 0), closed = make("closed", 0), reader = open("contents", O_RDONLY);
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
    close(closed);
    SHOW(write(fd, "write.", 6));
    SHOW(write(fd, BAD, 6));
    SHOW(write(closed, "x", 1));
    SHOW(write(reader, "x", 1));
    SHOW(writev(fd, parts, 2));
    SHOW(writev(fd, parts, -1));
    SHOW(writev(fd, BAD, 2));
    SHOW(pwrite(fd, "P", 1, 20));
    SHOW(pwrite64(fd, "Q", 1, 21));
    SHOW(pwrite(fd, "P", 1, -5));
    SHOW(pwritev(fd, parts, 2, 24));
    SHOW(pwritev64(fd, parts, 2, 30));
    SHOW(pwritev2(fd, parts, 2, 36, RWF_DSYNC));
    SHOW(pwritev2(fd, parts, 2, -1, 0));
    SHOW(pwritev2(fd, parts, 1, 0, RWF_APPEND));
    SHOW(pwritev64v2(fd, parts, 2, 50, 0));
    SHOW(lseek(fd, 0, SEEK_CUR));
    off_t from = 2;
    SHOW(sendfile(fd, reader, &from, 3));
    SHOW(sendfile64(fd, reader, NULL, 4));
    SHOW(from);
    loff_t here = 0, there = 70;
    SHOW(copy_file_range(reader, &here, fd, &there, 5, 0));
    SHOW(copy_file_range(reader, &here, fd, BAD, 5, 0));
    SHOW(copy_file_range(reader, NULL, fd, NULL, 5, 99));
    int ends[2];
    SHOW(pipe(ends));
    SHOW(vmsplice(ends[1], parts, 2, 0));
    SHOW(vmsplice(ends[1], BAD, 2, 0));
    there = 90;
    SHOW(splice(ends[0], NULL, fd, &there, 5, 0));
    SHOW(splice(ends[0], NULL, fd, &there, 5, SPLICE_F_NONBLOCK));
    SHOW(there);
    SHOW(ftruncate(fd, 100));
    SHOW(ftruncate64(fd, -1));
    SHOW(ftruncate(reader, 1));
    SHOW(fallocate(fd, 0, 0, 120));
    SHOW(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 3));
    SHOW(fallocate64(fd, 0, -1, 5));
    SHOW(posix_fallocate(fd, 0, 130));
    SHOW(posix_fallocate64(fd, 0, 0));
    SHOW(posix_fallocate(closed, 0, 1));
    struct winsize size;
    SHOW(ioctl(fd, TIOCGWINSZ, &size));
    int waiting = -1;
    SHOW(ioctl(ends[0], FIONREAD, &waiting));
    SHOW(waiting);
    SHOW(ioctl(fd, FICLONE, closed));
    show_file(fd);
}

static void print_list(int fd, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    SHOW(vdprintf(fd, format, arguments));
    va_end(arguments);
}

static void streams(void) {
    int fd = make("streams", 0);
    SHOW(dprintf(fd, "%d %s %.2f %g %c|", 1, "two", 3.25, 4.5, '5'));
    SHOW(dprintf(fd, "%d%d%d%d%d%d%d%d%d|", 1, 2, 3, 4, 5, 6, 7, 8, 9));
    SHOW(dprintf(fd, "%.1f%.1f%.1f%.1f%.1f%.1f%.1f%.1f%.1f|", 1., 2., 3., 4., 5., 6., 7., 8., 9.));
    SHOW(dprintf(fd, "nothing|"));
    SHOW(dprintf(-1, "x"));
    print_list(fd, "%s %.1f %ld|", "list", 1.5, 1L << 40);
    FILE *stream = fdopen(fd, "r+");
    SHOW(stream != NULL);
    SHOW(fileno(stream) == fd);
    SHOW(fileno_unlocked(stream) == fd);
    SHOW(fprintf(stream, "stream"));
    SHOW(fflush(stream));
    SHOW(fdopen(-1, "r") == NULL);
    SHOW(fdopen(fd, "?") == NULL);
    show_file(fd);
}

static void descriptors(void) {
    int fd = make("descriptors", 10);
    SHOW(dup(-1));
    SHOW(dup2(fd, 50));
    SHOW(dup2(-1, 50));
    SHOW(dup3(fd, 51, O_CLOEXEC));
    SHOW(dup3(fd, fd, 0));
    SHOW(fcntl(51, F_GETFD));
    SHOW(fcntl(fd, F_DUPFD, 60));
    SHOW(fcntl(fd, F_DUPFD_CLOEXEC, 61));
    SHOW(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    SHOW(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE));
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 2};
    SHOW(fcntl(fd, F_SETLK, &lock));
    SHOW(fcntl(fd, 12345, 0));
    SHOW(fcntl(-1, F_GETFL));
    SHOW(fcntl(fd, F_GETLEASE));
    SHOW(fcntl(fd, F_SETLEASE, F_UNLCK));
    SHOW(pidfd_getfd(-1, fd, 0));
    SHOW(unshare(0));
}

static void send_descriptor(int socket, int fd) {
    char control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(8))) = {0};
    struct iovec part = {"d", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    SHOW(sendmsg(socket, &message, 0));
}

static void messages(void) {
    int ends[2], fd = make("messages", 10);
    SHOW(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    send_descriptor(ends[0], fd);
    char byte = 0, control[CMSG_SPACE(sizeof fd)] __attribute__((aligned(8))) = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    SHOW(recvmsg(ends[1], &message, 0));
    int received;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    SHOW(byte == 'd' && write(received, "sent", 4) == 4);
    show_file(fd);
    struct iovec parts[2] = {{"1", 1}, {"22", 2}};
    struct mmsghdr many[2] = {{.msg_hdr = {.msg_iov = parts, .msg_iovlen = 1}},
                              {.msg_hdr = {.msg_iov = parts + 1, .msg_iovlen = 1}}};
    SHOW(sendmmsg(ends[0], many, 2, 0));
    char into[2][8];
    struct iovec rooms[2] = {{into[0], 8}, {into[1], 8}};
    many[0].msg_hdr.msg_iov = rooms, many[1].msg_hdr.msg_iov = rooms + 1;
    SHOW(recvmmsg(ends[1], many, 2, 0, NULL));
    SHOW(many[1].msg_len);
    SHOW(recvmmsg(ends[1], many, 2, MSG_DONTWAIT, NULL));
    SHOW(sendmsg(ends[0], BAD, 0));
    SHOW(sendmsg(-1, &message, 0));
    SHOW(recvmsg(ends[1], BAD, MSG_DONTWAIT));
    SHOW(sendmmsg(ends[0], BAD, 2, 0));
}

static void asynchronous(void) {
    int fd = make("asynchronous", 0);
    struct aiocb request = {.aio_fildes = fd, .aio_buf = "aio", .aio_nbytes = 3, .aio_lio_opcode = LIO_WRITE};
    struct aiocb *list[2] = {NULL, &request};
    SHOW(aio_write(&request));
    SHOW(aio_suspend((const struct aiocb *const *)list, 2, NULL));
    SHOW(aio_return(&request));
    request.aio_offset = 5;
    SHOW(lio_listio(LIO_WAIT, list, 2, NULL));
    SHOW(lio_listio(99, list, 2, NULL));
    show_file(fd);
}

static int waited(pid_t child) {
    int status = -1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Each way to execute a program, in a child: by the C function and by number. */
static void executing(void) {
    char *arguments[] = {"sh", "-c", "echo $0 $V; exit 12", NULL}, *environment[] = {"V=value", NULL};
    for (int way = 0; way < 12; way++) {
        fflush(stdout);
        pid_t pid = way < 11 ? fork() : 0;
        if (pid == 0) {
            switch (way) {
            case 0: execve("/bin/sh", arguments, environment); break;
            case 1: execv("/bin/sh", arguments); break;
            case 2: execvp("sh", arguments); break;
            case 3: execvpe("sh", arguments, environment); break;
            case 4: fexecve(open("/bin/sh", O_RDONLY), arguments, environment); break;
            case 5: execveat(AT_FDCWD, "/bin/sh", arguments, environment, 0); break;
            case 6: execl("/bin/sh", "sh", "-c", "echo $0 $1 $2 $3 $4 $5 $6 $7", "0", "1", "2", "3", "4", "5", "6", "7", NULL); break;
            case 7: execle("/bin/sh", "sh", "-c", "echo $0 $V", "0", NULL, environment); break;
            case 8: execlp("sh", "sh", "-c", "echo $0 $1 $2", "0", "1", "2", NULL); break;
            case 9: syscall(SYS_execve, "/bin/sh", arguments, environment); break;
            case 10: SHOW(execl("/does/not/exist", "x", NULL)); SHOW(execve(BAD, arguments, environment)); fflush(stdout); _exit(13);
            /* not in a child */
            case 11: SHOW(execl("/does/not/exist", "x", NULL)); fflush(stdout); execv("/bin/sh", arguments);
            }
            _exit(14);
        }
        SHOW(waited(pid));
    }
}

static int cloned(void *argument) { _exit(*(int *)argument); }

static int cloned_sharing(void *argument) {
    *(int *)argument = 34;
    return 0;
}

static int prepared, in_parent, in_child;
static void prepare(void) { prepared++; }
static void parent(void) { in_parent++; }
static void child(void) { in_child++; }

static void processes(void) {
    char *arguments[] = {"sh", "-c", "exit 5", NULL};
    pid_t pid;
    fflush(stdout);
    SHOW(pthread_atfork(prepare, parent, child));
    fflush(stdout);
    if ((pid = fork()) == 0)
        _exit(10 * prepared + in_child);
    SHOW(waited(pid));
    SHOW(in_parent);
    fflush(stdout);
    if ((pid = _Fork()) == 0)
        _exit(10 * prepared + in_child);
    SHOW(waited(pid));
    volatile int shared = 0;
    if ((pid = vfork()) == 0) {
        shared = execl("/does/not/exist", "x", NULL) == -1 ? errno : 0;
        _exit(6);
    }
    SHOW(waited(pid));
    SHOW(shared == ENOENT);
    if ((pid = vfork()) == 0)
        execv("/bin/sh", arguments);
    SHOW(waited(pid));
    SHOW(posix_spawn(&pid, "/bin/sh", NULL, NULL, arguments, environ));
    SHOW(waited(pid));
    SHOW(posix_spawnp(&pid, "sh", NULL, NULL, arguments, environ));
    SHOW(waited(pid));
    SHOW(posix_spawn(&pid, "/does/not/exist", NULL, NULL, arguments, environ));
    SHOW(WEXITSTATUS(system("exit 7")));
    SHOW(system(NULL));
    FILE *pipe = popen("echo from the pipe", "r");
    char line[64] = "";
    SHOW(fgets(line, sizeof line, pipe) != NULL);
    printf("%s", line);
    SHOW(pclose(pipe));
    SHOW(popen("true", "?") == NULL);
    wordexp_t words;
    SHOW(wordexp("a $(echo b) c", &words, 0));
    SHOW(words.we_wordc);
    static char stack[64 << 10] __attribute__((aligned(16)));
    int code = 33;
    pid = clone(cloned, stack + sizeof stack, SIGCHLD, &code);
    SHOW(waited(pid));
    pid = clone(cloned_sharing, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &code);
    SHOW(waited(pid));
    SHOW(code);
}

static void system_calls(void) {
    int fd = make("system_calls", 0), ends[2];
    char *at = SHOW_ADDRESS((void *)syscall(SYS_mmap, NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0L));
    SHOW_ADDRESS((void *)syscall(SYS_mmap, NULL, PAGE, PROT_READ, 0, fd, 0L));
    SHOW(syscall(SYS_mprotect, at, PAGE, PROT_READ | PROT_WRITE));
    SHOW(syscall(SYS_madvise, at, PAGE, 12345));
    SHOW(syscall(SYS_write, fd, "0123456789", 10L));
    SHOW(syscall(SYS_write, fd, BAD, 10L));
    SHOW(syscall(SYS_pwrite64, fd, "P", 1L, 3L));
    struct iovec parts[2] = {{"ab", 2}, {"cde", 3}};
    SHOW(syscall(SYS_writev, fd, parts, 2L));
    SHOW(syscall(SYS_pwritev, fd, parts, 2L, 20L, 0L));
    SHOW(syscall(SYS_pwritev2, fd, parts, 2L, 30L, 0L, 0));
    SHOW(syscall(SYS_ftruncate, fd, 40L));
    SHOW(syscall(SYS_fallocate, fd, 0, 0L, 50L));
    loff_t here = 0, there = 44;
    SHOW(syscall(SYS_copy_file_range, fd, &here, fd, &there, 3L, 0));
    SHOW(syscall(SYS_msync, at, PAGE, MS_SYNC));
    SHOW(at[3]);
    SHOW(syscall(SYS_munmap, at, PAGE));
    uint32_t word = 1;
    SHOW(syscall(SYS_futex, &word, FUTEX_WAIT, 2, NULL, NULL, 0));
    SHOW(syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SHOW(syscall(SYS_dup3, fd, 70, 0));
    SHOW(syscall(SYS_fcntl, fd, F_GETFL) & O_ACCMODE);
    SHOW(syscall(SYS_getppid) == getppid());
    SHOW(syscall(SYS_pipe2, ends, 0));
    SHOW(syscall(SYS_vmsplice, ends[1], parts, 2L, 0));
    SHOW(syscall(SYS_splice, ends[0], NULL, fd, NULL, 5L, 0));
    SHOW(syscall(99999));
    char parameters[256] = {0};
    SHOW(syscall(SYS_io_uring_setup, 0, parameters));
    SHOW(syscall(SYS_io_setup, 1, NULL));
    fflush(stdout);
    pid_t pid = (pid_t)syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
    if (pid == 0)
        _exit(8);
    SHOW(waited(pid));
#ifdef SYS_fork
    pid = (pid_t)syscall(SYS_fork);
    if (pid == 0)
        _exit(9);
    SHOW(waited(pid));
#endif
    uint64_t clone_arguments[8] = {[4] = SIGCHLD};
    pid = (pid_t)syscall(SYS_clone3, clone_arguments, sizeof clone_arguments);
    if (pid == 0)
        _exit(11);
    SHOW(waited(pid));
    SHOW(syscall(SYS_clone3, BAD, sizeof clone_arguments));
    show_file(fd);
}

static int pipe_ends[2];

static void *writes_for_ever(void *unused) {
    static char block[1 << 16];
    for (;;)
        if (write(pipe_ends[1], block, sizeof block) < 0)
            return unused;
}

static void noted(void *argument) { *(int *)argument = 1; }

static void *writes_for_ever_and_cleans_up(void *done) {
    pthread_cleanup_push(noted, done);
    writes_for_ever(NULL);
    pthread_cleanup_pop(0);
    return NULL;
}

/* A thread that waits in a write can be cancelled there, and its handlers run. */
static void cancellation(void) {
    pthread_t thread;
    int done = 0;
    void *answer = NULL;
    SHOW(pipe(pipe_ends));
    SHOW(pthread_create(&thread, NULL, writes_for_ever_and_cleans_up, &done));
    struct pollfd full = {pipe_ends[1], POLLOUT, 0};
    while (poll(&full, 1, 0) != 0)
        sched_yield();
    SHOW(pthread_cancel(thread));
    SHOW(pthread_join(thread, &answer));
    SHOW(answer == PTHREAD_CANCELED);
    SHOW(done);
}

static void on_signal(int number) { (void)number; }

/* A write that waits is interrupted by a handler, as ever. */
static void interruption(void) {
    struct sigaction action = {.sa_handler = on_signal};
    SHOW(sigaction(SIGALRM, &action, NULL));
    SHOW(pipe(pipe_ends));
    SHOW(fcntl(pipe_ends[1], F_SETFL, O_NONBLOCK));
    static char block[1 << 16];
    while (write(pipe_ends[1], block, sizeof block) > 0)
        ;
    SHOW(fcntl(pipe_ends[1], F_SETFL, 0));
    ualarm(20000, 20000);
    SHOW(write(pipe_ends[1], block, sizeof block));
    ualarm(0, 0);
}

static void leaving(void) {
    printf("leaving\n");
    fflush(stdout);
    _Exit(42);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"memory", memory},           {"contents", contents},   {"streams", streams},
    {"descriptors", descriptors}, {"messages", messages},   {"asynchronous", asynchronous},
    {"processes", processes},     {"system_calls", system_calls},
    {"cancellation", cancellation}, {"interruption", interruption}, {"leaving", leaving},
    {"executing", executing},
};

int main(int count, char **arguments) {
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++)
        if (count == 2 && strcmp(arguments[1], cases[at].name) == 0) {
            cases[at].run();
            return 3;
        }
    return 9;
}
