/* System calls that change the file behind a mapping, and those whose buffer is the mapping. */
#include "check.h"
#include <aio.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define FILE_BYTES (16 * UNIT)

static int fd;
static bytes at;

/* Every call goes into its own 2 MiB hole, which has been read just before. */
static void touched_hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
}

static uint8_t text[3 * PAGE];
static void fill_text(uint8_t seed) {
    for (size_t n = 0; n < sizeof text; n++)
        text[n] = (uint8_t)(n * 7 + seed) | 1;
}

/* The next load after a call must show what it stored, and nothing around it may change. */
static void check_stored(size_t offset, const char *call, ssize_t count) {
    say("%s: %zd", call, count);
    CHECK(count > 0);
    CHECK(memcmp((const void *)(at + offset), text, (size_t)count) == 0);
    CHECK_EQUAL(at[offset - 1], 0);
    CHECK_EQUAL(at[offset + (size_t)count], 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

#define STORED(OFFSET, CALL) check_stored(OFFSET, #CALL, CALL)

CASE(writes_into_a_mapped_hole_are_seen) {
    touched_hole();
    fill_text(1);
    struct iovec two[2] = {{text, 100}, {text + 100, PAGE}};
    MUST(lseek(fd, UNIT + 5, SEEK_SET));
    STORED(UNIT + 5, write(fd, text, 2 * PAGE));
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), UNIT + 5 + 2 * PAGE);
    STORED(2 * UNIT + 5, pwrite(fd, text, 2 * PAGE, 2 * UNIT + 5));
    MUST(lseek(fd, 3 * UNIT + 5, SEEK_SET));
    STORED(3 * UNIT + 5, writev(fd, two, 2));
    STORED(4 * UNIT + 5, pwritev(fd, two, 2, 4 * UNIT + 5));
    STORED(5 * UNIT + 5, pwritev2(fd, two, 2, 5 * UNIT + 5, 0));
    MUST(lseek(fd, 6 * UNIT + 5, SEEK_SET));
    STORED(6 * UNIT + 5, pwritev2(fd, two, 2, -1, 0));
    STORED(7 * UNIT + 5, syscall(SYS_pwrite64, fd, text, PAGE, 7 * UNIT + 5));
    MUST(lseek(fd, 8 * UNIT + 5, SEEK_SET));
    STORED(8 * UNIT + 5, syscall(SYS_write, fd, text, PAGE));
    int twin = dup(fd);
    STORED(9 * UNIT + 5, pwrite(twin, text, PAGE, 9 * UNIT + 5));
    STORED(10 * UNIT + 5, pwrite64(fd, text, PAGE, 10 * UNIT + 5));
}

CASE(copies_into_a_mapped_hole_are_seen) {
    touched_hole();
    fill_text(2);
    int source = sparse_file("source", 0), ends[2];
    CHECK_EQUAL(write(source, text, sizeof text), (ssize_t)sizeof text);
    MUST(pipe(ends));
    off_t from = 0, to = UNIT + 5;
    MUST(lseek(fd, UNIT + 5, SEEK_SET));
    STORED(UNIT + 5, sendfile(fd, source, &from, 2 * PAGE));
    CHECK_EQUAL(write(ends[1], text, PAGE), PAGE);
    to = 2 * UNIT + 5;
    STORED(2 * UNIT + 5, splice(ends[0], NULL, fd, &to, PAGE, 0));
    from = 0;
    to = 3 * UNIT + 5;
    ssize_t count = copy_file_range(source, &from, fd, &to, 2 * PAGE, 0);
    if (count > 0)
        check_stored(3 * UNIT + 5, "copy_file_range", count);
    else
        say("copy_file_range: %s", outcome(count));
    struct iovec one = {text, PAGE};
    CHECK_EQUAL(vmsplice(ends[1], &one, 1, 0), PAGE);
    MUST(lseek(fd, 4 * UNIT + 5, SEEK_SET));
    STORED(4 * UNIT + 5, splice(ends[0], NULL, fd, NULL, PAGE, 0));
    /* from one hole of the file to another: still a hole, or zeros */
    from = 8 * UNIT;
    to = 9 * UNIT;
    say("copy of a hole: %s", outcome(copy_file_range(fd, &from, fd, &to, PAGE, 0)));
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(stdio_on_the_mapped_descriptor_is_seen) {
    touched_hole();
    fill_text(3);
    FILE *stream = fdopen(dup(fd), "r+");
    CHECK(stream);
    CHECK_EQUAL(fseeko(stream, UNIT + 5, SEEK_SET), 0);
    CHECK_EQUAL(fwrite(text, 1, 2 * PAGE, stream), 2 * PAGE);
    CHECK_EQUAL(fflush(stream), 0);
    check_stored(UNIT + 5, "fwrite", 2 * PAGE);
    CHECK_EQUAL(fseeko(stream, 2 * UNIT + 5, SEEK_SET), 0);
    CHECK_EQUAL(fwrite(text, 1, 100, stream), 100);
    CHECK_EQUAL(fclose(stream), 0);
    check_stored(2 * UNIT + 5, "fclose", 100);
    MUST(lseek(fd, 3 * UNIT, SEEK_SET));
    CHECK_EQUAL(dprintf(fd, "some %s", "text"), 9);
    CHECK(memcmp((const void *)(at + 3 * UNIT), "some text", 9) == 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(stdio_on_its_own_opening_is_seen) {
    touched_hole();
    fill_text(4);
    FILE *stream = fopen("file", "r+");
    CHECK(stream);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    CHECK_EQUAL(fseeko(stream, UNIT + 5, SEEK_SET), 0);
    CHECK_EQUAL(fwrite(text, 1, PAGE, stream), PAGE);
    CHECK_EQUAL(fclose(stream), 0);
    check_stored(UNIT + 5, "fwrite", PAGE);
    at[9 * UNIT] = 9;
    CHECK_EQUAL(byte_of_file(fd, 9 * UNIT), 9);
}

CASE(writes_through_a_second_opening_are_seen) {
    touched_hole();
    fill_text(5);
    int second = open("file", O_RDWR);
    CHECK(second >= 0);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    STORED(UNIT + 5, pwrite(second, text, PAGE, UNIT + 5));
    close(second);
    STORED(2 * UNIT + 5, pwrite(fd, text, PAGE, 2 * UNIT + 5));
    second = open("file", O_WRONLY | O_APPEND);
    CHECK(second >= 0);
    CHECK_EQUAL(write(second, text, PAGE), PAGE);
    CHECK_EQUAL(size_of(fd), FILE_BYTES + PAGE);
    at[3 * UNIT] = 3;
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(asynchronous_writes_are_seen) {
    touched_hole();
    fill_text(6);
    struct aiocb request = {.aio_fildes = fd, .aio_buf = text, .aio_nbytes = PAGE, .aio_offset = UNIT + 5};
    MUST(aio_write(&request));
    const struct aiocb *list[] = {&request};
    while (aio_error(&request) == EINPROGRESS)
        aio_suspend(list, 1, NULL);
    check_stored(UNIT + 5, "aio_write", aio_return(&request));
}

CASE(writes_to_the_mapping_through_proc_are_seen) {
    touched_hole();
    fill_text(7);
    int memory = open("/proc/self/mem", O_RDWR);
    CHECK(memory >= 0);
    STORED(UNIT + 5, pwrite(memory, text, 2 * PAGE, (off_t)(uintptr_t)(at + UNIT + 5)));
    static uint8_t copy[PAGE];
    CHECK_EQUAL(pread(memory, copy, PAGE, (off_t)(uintptr_t)(at + 5 * UNIT)), PAGE);
    CHECK(all_bytes_are(copy, PAGE, 0));
}

CASE(stores_of_process_vm_writev_are_seen) {
    touched_hole();
    fill_text(7);
    struct iovec local = {text, PAGE}, remote = {(void *)(at + UNIT + 5), PAGE};
    STORED(UNIT + 5, process_vm_writev(getpid(), &local, 1, &remote, 1, 0));
    static uint8_t copy[PAGE];
    local.iov_base = copy;
    remote.iov_base = (void *)(at + 5 * UNIT);
    CHECK_EQUAL(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), PAGE);
    CHECK(all_bytes_are(copy, PAGE, 0));
}

CASE(copies_between_processes_by_number_are_seen) {
    touched_hole();
    fill_text(7);
    struct iovec local = {text, PAGE}, remote = {(void *)(at + UNIT + 5), PAGE};
    STORED(UNIT + 5, syscall(SYS_process_vm_writev, getpid(), &local, 1L, &remote, 1L, 0L));
    static uint8_t copy[PAGE];
    local.iov_base = copy;
    remote.iov_base = (void *)(at + 5 * UNIT);
    CHECK_EQUAL(syscall(SYS_process_vm_readv, getpid(), &local, 1L, &remote, 1L, 0L), PAGE);
    CHECK(all_bytes_are(copy, PAGE, 0));
}

static void reads_into(int skew_in_pages, int first_load) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_skewed(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, (size_t)skew_in_pages * PAGE);
    if (first_load)
        CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    fill_text(8);
    int source = sparse_file("source", 0), ends[2], sockets[2];
    CHECK_EQUAL(write(source, text, sizeof text), (ssize_t)sizeof text);
    MUST(pipe(ends));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
#define INTO(UNITS) (void *)(at + UNITS * UNIT + 5)
    MUST(lseek(source, 0, SEEK_SET));
    STORED(UNIT + 5, read(source, INTO(1), sizeof text));
    STORED(2 * UNIT + 5, pread(source, INTO(2), sizeof text, 0));
    struct iovec parts[2] = {{INTO(3), PAGE}, {(uint8_t *)INTO(3) + PAGE, PAGE}};
    STORED(3 * UNIT + 5, preadv(source, parts, 2, 0));
    CHECK_EQUAL(write(ends[1], text, sizeof text), (ssize_t)sizeof text);
    STORED(4 * UNIT + 5, read(ends[0], INTO(4), sizeof text));
    CHECK_EQUAL(send(sockets[0], text, sizeof text, 0), (ssize_t)sizeof text);
    STORED(5 * UNIT + 5, recv(sockets[1], INTO(5), sizeof text, 0));
    struct iovec one = {INTO(6), sizeof text};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
    CHECK_EQUAL(write(sockets[0], text, sizeof text), (ssize_t)sizeof text);
    STORED(6 * UNIT + 5, recvmsg(sockets[1], &message, 0));
    struct iovec local = {INTO(7), sizeof text}, remote = {text, sizeof text};
    STORED(7 * UNIT + 5, process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
    MUST(fstat(fd, (struct stat *)(at + 8 * UNIT)));
    CHECK_EQUAL(((struct stat *)(at + 8 * UNIT))->st_size, FILE_BYTES);
    memset((void *)(at + 8 * UNIT), 8, sizeof(struct stat)); /* its times would differ from run to run */
    CHECK(getcwd((char *)(at + 9 * UNIT), PAGE));
    CHECK_EQUAL(at[9 * UNIT], '/');
    /* over the border of two holes */
    CHECK_EQUAL(pread(source, (void *)(at + 12 * UNIT - PAGE), sizeof text, 0), (ssize_t)sizeof text);
    CHECK(memcmp((const void *)(at + 12 * UNIT - PAGE), text, sizeof text) == 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(reads_into_an_untouched_hole) { reads_into(0, 0); }
CASE(reads_into_a_touched_hole) { reads_into(0, 1); }
CASE(reads_into_a_skewed_hole) { reads_into(3, 1); }

CASE(direct_reads_into_a_hole) {
    touched_hole();
    fill_text(9);
    int source = open("source", O_RDWR | O_CREAT, 0600), direct;
    CHECK_EQUAL(write(source, text, sizeof text), (ssize_t)sizeof text);
    MUST(fsync(source));
    direct = open("source", O_RDONLY | O_DIRECT);
    if (direct < 0) {
        say("no direct I/O: %s", outcome(direct));
        return;
    }
    CHECK_EQUAL(pread(direct, (void *)(at + UNIT), PAGE, 0), PAGE);
    CHECK(memcmp((const void *)(at + UNIT), text, PAGE) == 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(writes_from_a_hole) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
    int target = sparse_file("target", 0), ends[2];
    MUST(pipe(ends));
    CHECK_EQUAL(write(target, (void *)(at + UNIT + 5), 3 * UNIT), (ssize_t)(3 * UNIT));
    CHECK_EQUAL(size_of(target), 3 * UNIT);
    CHECK_EQUAL(byte_of_file(target, 2 * UNIT), 0);
    CHECK_EQUAL(write(ends[1], (void *)(at + 6 * UNIT), PAGE), PAGE);
    static uint8_t copy[PAGE];
    memset(copy, 1, sizeof copy);
    CHECK_EQUAL(read(ends[0], copy, PAGE), PAGE);
    CHECK(all_bytes_are(copy, PAGE, 0));
    /* onto the same file, onto another hole, and onto the very page that is the source */
    CHECK_EQUAL(pwrite(fd, (void *)(at + 8 * UNIT), 2 * PAGE, 10 * UNIT), 2 * PAGE);
    CHECK_EQUAL(pwrite(fd, (void *)(at + 11 * UNIT), PAGE, 11 * UNIT), PAGE);
    at[12 * UNIT] = 12;
    CHECK_EQUAL(pwrite(fd, (void *)(at + 12 * UNIT), PAGE, 13 * UNIT), PAGE);
    CHECK_EQUAL(at[13 * UNIT], 12);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(a_file_read_into_its_own_mapping) {
    touched_hole();
    fill_text(10);
    CHECK_EQUAL(pwrite(fd, text, sizeof text, UNIT), (ssize_t)sizeof text);
    CHECK_EQUAL(pread(fd, (void *)(at + 3 * UNIT), sizeof text, UNIT), (ssize_t)sizeof text);
    CHECK(memcmp((const void *)(at + 3 * UNIT), text, sizeof text) == 0);
    CHECK_EQUAL(pread(fd, (void *)(at + 5 * UNIT), PAGE, 5 * UNIT), PAGE);
    CHECK_EQUAL(pread(fd, (void *)(at + 6 * UNIT), 2 * UNIT, 0), 2 * UNIT);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(buffers_past_the_end_give_efault) {
    fd = sparse_file("file", 2 * UNIT);
    at = map_shared(fd, 4 * UNIT);
    int source = open("/dev/zero", O_RDWR);
    say("read past the end: %s", outcome(read(source, (void *)(at + 3 * UNIT), PAGE)));
    say("write from past the end: %s", outcome(pwrite(fd, (void *)(at + 3 * UNIT), PAGE, 0)));
    int ends[2];
    MUST(pipe(ends));
    say("pipe from past the end: %s", outcome(write(ends[1], (void *)(at + 3 * UNIT), PAGE)));
    CHECK_EQUAL(write(ends[1], "0123456789", 10), 10);
    say("pipe to past the end: %s", outcome(read(ends[0], (void *)(at + 3 * UNIT), 10)));
    bytes view = map(fd, 2 * UNIT, PROT_READ, MAP_SHARED, 0);
    CHECK_EQUAL(touch(view, 2 * UNIT), 0);
    say("read into a read-only mapping: %s", outcome(pread(source, (void *)(view + UNIT), PAGE, 0)));
    CHECK_EQUAL(view[UNIT], 0);
}

/* Pitfalls 74, 75: what a caller asks for by a flag is granted by the kernel or refused by it; nobody takes the flag away. */
CASE(pitfall_074_and_075_flags_of_writes_reach_the_kernel) {
    touched_hole();
    fill_text(12);
    static const int flags[] = {RWF_NOWAIT, 0x40 /* RWF_ATOMIC */, RWF_DSYNC, RWF_HIPRI, 0x40000000};
    struct iovec one = {text, PAGE};
    for (size_t n = 0; n < sizeof flags / sizeof *flags; n++) {
        off_t place = (off_t)((n + 1) * UNIT);
        ssize_t count = pwritev2(fd, &one, 1, place, flags[n]);
        say("flag %#x: %zd %s", flags[n], count, outcome(count));
        CHECK_EQUAL(at[place], count > 0 ? text[0] : 0);
        count = syscall(SYS_pwritev2, fd, &one, 1L, place + (off_t)PAGE, 0L, flags[n]);
        say("by number: %zd %s", count, outcome(count));
        CHECK_EQUAL(at[place + (off_t)PAGE], count > 0 ? text[0] : 0);
    }
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(seeking_for_data_and_holes_leaves_the_position) {
    touched_hole();
    MUST(lseek(fd, 1234, SEEK_SET));
    at[5 * UNIT] = 1;
    CHECK_EQUAL(touch(at, 4 * UNIT), 0);
    at[8 * UNIT] = 1;
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 1234);
    CHECK_EQUAL(read(fd, (void *)(at + 9 * UNIT), 100), 100);
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 1334);
    say("flags %x, descriptor flags %x", fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
}
