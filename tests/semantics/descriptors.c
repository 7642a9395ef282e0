/* Descriptors, locks and leases of the program: nothing of ours may be seen among them, or change them. */
#include "check.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <spawn.h>

#define FILE_BYTES (8 * UNIT)

extern char **environ;

static int fd;
static bytes at;

static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    at[UNIT] = 1;
}

static void say_descriptors(const char *when) {
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    int present[1024] = {0}, own = dirfd(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' && atoi(entry->d_name) < 1024)
            present[atoi(entry->d_name)] = 1;
    closedir(directory);
    printf("%s:", when);
    for (int n = 0; n < 1024; n++)
        if (present[n] && n != own)
            printf(" %d", n);
    putchar('\n');
}

CASE(no_descriptor_appears) {
    say_descriptors("at the start");
    touched_hole();
    say_descriptors("mapped");
    int next = dup(0);
    say("the next is %d", next);
    close(next);
    bytes copy = map_private(fd, FILE_BYTES);
    copy[1] = 1;
    say_descriptors("mapped twice");
    close(fd);
    at[3 * UNIT] = 3;
    say_descriptors("closed");
    unmap(at, FILE_BYTES);
    unmap(copy, FILE_BYTES);
    say_descriptors("unmapped");
}

CASE(closing_every_descriptor_leaves_the_mapping) {
    touched_hole();
    int output = dup(1);
    MUST(dup2(output, 3000 > (int)sysconf(_SC_OPEN_MAX) ? 200 : 900));
    MUST(close_range(3, 199, 0));
    CHECK_EQUAL(touch(at + 2 * UNIT, 6 * UNIT), 0);
    at[3 * UNIT] = 3;
    MUST(close_range(3, ~0U, 0));
    at[4 * UNIT] = 4;
    fd = open("file", O_RDWR);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    CHECK_EQUAL(byte_of_file(fd, 4 * UNIT), 4);
    bytes again = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(again, FILE_BYTES), 3);
    closefrom(3);
    again[6 * UNIT] = 6;
    CHECK_EQUAL(at[6 * UNIT], 6);
}

CASE(duplicates_may_land_on_any_number) {
    touched_hole();
    int null = open("/dev/null", O_RDWR);
    for (int number = 3; number < 1000; number++)
        if (number != fd && number != null)
            MUST(dup2(null, number));
    at[2 * UNIT] = 2;
    CHECK_EQUAL(touch(at + 3 * UNIT, 5 * UNIT), 0);
    int twin = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    say("twin %d", twin);
    MUST(dup3(twin, 500, O_CLOEXEC));
    CHECK_EQUAL(pwrite(500, "t", 1, 5 * UNIT), 1);
    CHECK_EQUAL(at[5 * UNIT], 't');
    bytes again = map_shared(500, FILE_BYTES);
    again[6 * UNIT] = 6;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_number_is_used_again_for_another_file) {
    for (int round = 0; round < 50; round++) {
        char name[32];
        snprintf(name, sizeof name, "file-%d", round);
        int one = sparse_file(name, 2 * UNIT);
        bytes view = map_shared(one, 2 * UNIT);
        CHECK_EQUAL(touch(view, 2 * UNIT), 0);
        int other = sparse_file("other", 2 * UNIT);
        MUST(dup2(other, one)); /* the same number, another file */
        close(other);
        bytes second = map_shared(one, 2 * UNIT);
        second[UNIT] = 2;
        view[UNIT + 1] = 1;
        CHECK_EQUAL(view[UNIT], 0);
        CHECK_EQUAL(pwrite(one, "z", 1, PAGE), 1);
        CHECK_EQUAL(second[PAGE], 'z');
        CHECK_EQUAL(view[PAGE], 0);
        unmap(view, 2 * UNIT);
        unmap(second, 2 * UNIT);
        close(one);
        MUST(unlink("other"));
    }
}

PLAIN_CASE(mapping_with_no_descriptor_left, "no descriptor is left for ours") {
    open_maps();
    fd = sparse_file("file", FILE_BYTES);
    struct rlimit limit = {(rlim_t)fd + 1, (rlim_t)fd + 1};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_EQUAL(dup(0), -1);
    say("dup: %s", outcome(-1));
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    at[UNIT] = 1;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
    tell_service(fd, at, FILE_BYTES);
    close(fd);
    fd = open("file", O_RDWR);
    CHECK_EQUAL(byte_of_file(fd, UNIT), 1);
}

CASE(position_and_flags_stay) {
    touched_hole();
    MUST(lseek(fd, 777, SEEK_SET));
    int before = fcntl(fd, F_GETFL), twin = dup(fd);
    bytes again = map_shared(fd, FILE_BYTES);
    again[2 * UNIT] = 2;
    CHECK_EQUAL(touch(again, FILE_BYTES), 2);
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 777);
    CHECK_EQUAL(fcntl(fd, F_GETFL), before);
    CHECK_EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQUAL(fcntl(twin, F_GETFD), 0);
    struct f_owner_ex owner = {0};
    MUST(fcntl(fd, F_GETOWN_EX, &owner));
    say("owner %d, signal %d", owner.pid, fcntl(fd, F_GETSIG));
}

static struct flock whole(short type) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET};
}

/* What another process finds out about record locks on the file. */
static int locked_for_others(void) {
    pid_t child = fork();
    if (child == 0) {
        int other = open("file", O_RDWR);
        struct flock lock = whole(F_WRLCK);
        _exit(fcntl(other, F_GETLK, &lock) == 0 ? lock.l_type != F_UNLCK : 9);
    }
    return end_of(child);
}

CASE(record_locks_survive_mapping_and_unmapping) {
    fd = sparse_file("file", FILE_BYTES);
    struct flock lock = whole(F_WRLCK);
    MUST(fcntl(fd, F_SETLK, &lock));
    for (int round = 0; round < 3; round++) {
        at = map_shared(fd, FILE_BYTES);
        bytes copy = map_private(fd, FILE_BYTES);
        CHECK_EQUAL(touch(copy, FILE_BYTES), (size_t)(round > 0));
        at[UNIT] = 1;
        unmap(copy, FILE_BYTES);
        unmap(at, FILE_BYTES);
    }
    CHECK_EQUAL(locked_for_others(), 1); /* only now: what was open at a fork is plain */
    lock = whole(F_UNLCK);
    MUST(fcntl(fd, F_SETLK, &lock));
    CHECK_EQUAL(locked_for_others(), 0);
    close(fd);
    forget("file");
    fd = sparse_file("file", FILE_BYTES);
    lock = whole(F_RDLCK);
    lock.l_pid = 0;
    MUST(fcntl(fd, F_OFD_SETLK, &lock));
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    unmap(at, FILE_BYTES);
    CHECK_EQUAL(locked_for_others(), 1);
}

CASE(closing_a_descriptor_drops_record_locks_as_ever) {
    fd = sparse_file("file", FILE_BYTES);
    struct flock lock = whole(F_WRLCK);
    MUST(fcntl(fd, F_SETLK, &lock));
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    close(fd);
    CHECK_EQUAL(locked_for_others(), 0);
    at[UNIT] = 1;
}

/* The opening ends with its last descriptor and mapping; then its flock is gone, at once. */
CASE(an_flock_ends_with_its_opening) {
    for (int round = 0; round < 20; round++) {
        fd = sparse_file("file", FILE_BYTES);
        CHECK_EQUAL(flock(fd, LOCK_EX | LOCK_NB), 0);
        at = map_shared(fd, FILE_BYTES);
        touch(at, FILE_BYTES);
        at[UNIT] = 1;
        close(fd);
        unmap(at, FILE_BYTES);
        int again = open("file", O_RDWR);
        CHECK(again >= 0);
        CHECK_EQUAL(flock(again, LOCK_EX | LOCK_NB), 0);
        close(again);
    }
}

CASE(an_flock_is_kept_by_the_mapping) {
    fd = sparse_file("file", FILE_BYTES);
    CHECK_EQUAL(flock(fd, LOCK_EX | LOCK_NB), 0);
    at = map_shared(fd, FILE_BYTES);
    touch(at, FILE_BYTES);
    close(fd);
    int again = open("file", O_RDWR);
    say("while it is mapped: %s", outcome(flock(again, LOCK_EX | LOCK_NB)));
    unmap(at + UNIT, FILE_BYTES - UNIT);
    say("while a part is: %s", outcome(flock(again, LOCK_EX | LOCK_NB)));
    unmap(at, UNIT);
    say("unmapped: %s", outcome(flock(again, LOCK_EX | LOCK_NB)));
}

CASE(leases_of_the_program_are_its_own) {
    touched_hole();
    say("before: %d", fcntl(fd, F_GETLEASE));
    say("write lease: %s", outcome(fcntl(fd, F_SETLEASE, F_WRLCK)));
    say("taken: %d", fcntl(fd, F_GETLEASE));
    at[2 * UNIT] = 2;
    CHECK_EQUAL(touch(at + 3 * UNIT, 5 * UNIT), 0);
    say("still: %d", fcntl(fd, F_GETLEASE));
    say("given back: %s", outcome(fcntl(fd, F_SETLEASE, F_UNLCK)));
    say("after: %d", fcntl(fd, F_GETLEASE));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

/* A linker does this: writes a program through a mapping, closes it, and somebody runs it right away. */
CASE(a_program_written_through_a_mapping_can_be_run) {
    int source = open("/bin/true", O_RDONLY);
    size_t length = (size_t)size_of(source);
    for (int round = 0; round < 10; round++) {
        fd = open("program", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
        MUST(ftruncate(fd, (off_t)(length + 4 * UNIT)));
        at = map_shared(fd, length + 4 * UNIT);
        CHECK_EQUAL(touch(at, length + 4 * UNIT), 0);
        CHECK_EQUAL(pread(source, (void *)at, length, 0), (ssize_t)length);
        if (round % 2) {
            close(fd);
            unmap(at, length + 4 * UNIT);
        } else {
            unmap(at, length + 4 * UNIT);
            close(fd);
        }
        pid_t child;
        char *arguments[] = {"program", NULL};
        CHECK_EQUAL(posix_spawn(&child, "./program", NULL, NULL, arguments, environ), 0);
        CHECK_EQUAL(end_of(child), 0);
    }
}

CASE(openings_wait_for_nobody_after_unmapping) {
    for (int round = 0; round < 30; round++) {
        touched_hole();
        unmap(at, FILE_BYTES);
        int lease = open("file", O_RDONLY);
        close(fd);
        /* granted only if no writer has the file open any more, anywhere */
        CHECK_EQUAL(fcntl(lease, F_SETLEASE, F_RDLCK), 0);
        CHECK_EQUAL(fcntl(lease, F_SETLEASE, F_UNLCK), 0);
        close(lease);
        MUST(unlink("file"));
    }
}
