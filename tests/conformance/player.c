/*
 * Plays a script of the conformance language (README.md beside this file) with plain system calls, loads and stores, on files in the
 * current directory. Prints one JSON object for each line of the script, in the shape of the recordings.
 *
 *     player SCRIPT            plays
 *     player --bytes SCRIPT    the bytes of all the files that it creates: what they take when every page of them gets storage
 *
 * What only a DAX file system and its tracing can answer is printed as {"na":true}. An operation that the language does not have ends
 * the program with code 2. Where MAP_SYNC or O_DIRECT is refused, the line says so, and the file is mapped or opened without it, so
 * that the rest of the script has something to work on.
 */
#include "words.h"
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct file {
    char name[32];
    int fd;
};

struct mapping {
    char name[32];
    uint8_t *at;
    int64_t length, offset; /* `at` shows the file from `offset` on */
};

static struct file files[64];
static struct mapping mappings[128];
static size_t file_count, mapping_count;

/* ---- names ---- */

static struct file *find_file(const char *name) {
    for (size_t at = 0; at < file_count; at++)
        if (strcmp(files[at].name, name) == 0)
            return &files[at];
    return NULL;
}

/* The descriptor of the file; -1, on which every call fails with EBADF, if it is not open. */
static int descriptor(size_t at) {
    struct file *file = find_file(word(at));
    return file ? file->fd : -1;
}

static struct mapping *find_mapping(size_t at) {
    for (size_t n = mapping_count; n-- > 0;)
        if (strcmp(mappings[n].name, word(at)) == 0)
            return &mappings[n];
    return NULL;
}

/* Where the mapping shows the file's byte `offset`. */
static uint8_t *shown(const struct mapping *mapping, int64_t offset) { return mapping->at + (offset - mapping->offset); }

/* Aligned, for descriptors opened with O_DIRECT. */
static uint8_t *buffer_of(int64_t length) {
    void *buffer;
    if (posix_memalign(&buffer, PAGE, (size_t)length + PAGE) != 0)
        give_up("no memory");
    return buffer;
}

/* ---- loads and stores, whose faults are answers ---- */

static sigjmp_buf jump;
static volatile sig_atomic_t armed, signal_code;

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    if (!armed) {
        signal(number, SIG_DFL); /* tried again, and so the end of the program */
        return;
    }
    armed = 0;
    signal_code = info->si_code;
    siglongjmp(jump, number);
}

static const char *code_name(int number) {
    if (number == SIGBUS)
        return signal_code == BUS_ADRERR ? "BUS_ADRERR" : signal_code == BUS_OBJERR ? "BUS_OBJERR" : "other";
    return signal_code == SEGV_MAPERR ? "SEGV_MAPERR" : signal_code == SEGV_ACCERR ? "SEGV_ACCERR" : "other";
}

/* One access to each of `count` bytes, `step` apart. Progress is kept where a jump does not lose it. */
static volatile int64_t accesses_done, accesses_nonzero;
static volatile uint8_t last_loaded;

static void access_memory(volatile uint8_t *at, int64_t count, int64_t step, int store, uint8_t value) {
    accesses_done = accesses_nonzero = 0;
    int number = sigsetjmp(jump, 1);
    if (number == 0) {
        armed = 1;
        for (int64_t n = 0; n < count; n++) {
            if (store)
                at[n * step] = value;
            else
                accesses_nonzero += (last_loaded = at[n * step]) != 0;
            accesses_done++;
        }
        armed = 0;
    }
    more("\"ok\":%s", number ? "false" : "true");
    if (number)
        more("\"err\":\"%s\",\"code\":\"%s\"", number == SIGBUS ? "SIGBUS" : "SIGSEGV", code_name(number));
}

static void load_byte(void) {
    access_memory(shown(find_mapping(1), number(2) * PAGE + number_or(3, 0)), 1, 0, 0, 0);
    if (accesses_done)
        more("\"val\":\"%02x\"", last_loaded);
}

static void store_byte(void) {
    access_memory(shown(find_mapping(1), number(2) * PAGE + number_or(4, 0)), 1, 0, 1, hex_byte(word(3)));
}

static void touch_pages(void) {
    int store = strcmp(word(4), "w") == 0;
    uint8_t value = word_count > 6 ? hex_byte(word(6)) : 0x5a;
    access_memory(shown(find_mapping(1), number(2) * PAGE), number(3), number_or(5, 1) * PAGE, store, value);
    more("\"done\":%ld", (long)accesses_done);
    if (!store)
        more("\"nonzero\":%ld", (long)accesses_nonzero);
}

static void fill_pages(void) {
    access_memory(shown(find_mapping(1), number(2) * PAGE), number(3) * PAGE, 1, 1, hex_byte(word(4)));
    more("\"done\":%ld", (long)(accesses_done / PAGE));
}

/* ---- files ---- */

static int opening_flags(size_t first) {
    static const struct named known[] = {{"ro", O_RDONLY}, {"direct", O_DIRECT}, {"dsync", O_DSYNC}};
    int flags = has("ro", first) ? 0 : O_RDWR;
    for (size_t at = first; at < word_count; at++)
        flags |= value_of(words[at], known, COUNT_OF(known));
    return flags | O_CLOEXEC;
}

static void open_file(size_t first) {
    struct file *file = find_file(word(1));
    if (!file) {
        if (file_count == COUNT_OF(files))
            give_up("too many files");
        file = &files[file_count++];
        snprintf(file->name, sizeof file->name, "%s", word(1));
        file->fd = -1;
    }
    int flags = opening_flags(first), create = is("create");
    if (file->fd >= 0)
        close(file->fd);
    file->fd = open(file->name, create ? O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC : flags, 0644);
    if (create) {
        int sized = file->fd < 0 ? -1 : ftruncate(file->fd, number(2));
        if (sized == 0 && flags != (O_RDWR | O_CLOEXEC)) {
            close(file->fd);
            sized = file->fd = open(file->name, flags);
        }
        answer(sized);
    } else {
        answer(file->fd);
    }
    if (file->fd < 0 && errno == EINVAL && flags & O_DIRECT) {
        file->fd = open(file->name, flags & ~O_DIRECT);
        more("\"instead\":\"without O_DIRECT\"");
    }
}

static void close_file(void) {
    struct file *file = find_file(word(1));
    answer(close(descriptor(1)));
    if (file)
        file->fd = -1;
}

static void allocate(void) {
    static const struct named modes[] = {{"alloc", 0},
                                         {"keep", FALLOC_FL_KEEP_SIZE},
                                         {"punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE},
                                         {"zero", FALLOC_FL_ZERO_RANGE},
                                         {"zerokeep", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE},
                                         {"collapse", FALLOC_FL_COLLAPSE_RANGE},
                                         {"insert", FALLOC_FL_INSERT_RANGE},
                                         {"unshare", FALLOC_FL_UNSHARE_RANGE}};
    answer(fallocate(descriptor(1), value_of(word(2), modes, COUNT_OF(modes)), number(3), number(4)));
}

static void read_file(void) {
    int64_t length = number(3);
    uint8_t *buffer = buffer_of(length);
    ssize_t count = pread(descriptor(1), buffer, (size_t)length, number(2));
    answer(count);
    more("\"n\":%zd", count);
    if (count > 0 && all_the_same(buffer, (size_t)count))
        more("\"byte\":\"%02x\"", buffer[0]);
    if (count >= 0)
        more("\"crc32\":\"%08x\"", crc32_of(0, buffer, (size_t)count));
    free(buffer);
}

static void write_file(void) {
    int64_t length = number(3);
    uint8_t *buffer = buffer_of(length);
    memset(buffer, hex_byte(word(4)), (size_t)length);
    struct iovec whole = {buffer, (size_t)length};
    ssize_t count = has("dsync", 5) ? pwritev2(descriptor(1), &whole, 1, number(2), RWF_DSYNC)
                                    : pwrite(descriptor(1), buffer, (size_t)length, number(2));
    answer(count);
    more("\"n\":%zd", count);
    free(buffer);
}

static void transfer_mapped(void) {
    uint8_t *at = shown(find_mapping(4), number(5));
    size_t length = (size_t)number(3);
    ssize_t count = is("preadmap") ? pread(descriptor(1), at, length, number(2)) : pwrite(descriptor(1), at, length, number(2));
    answer(count);
    more("\"n\":%zd", count);
}

static void stat_file(void) {
    struct stat status;
    int result = fstat(descriptor(1), &status);
    answer(result);
    if (result == 0)
        more("\"size\":%ld,\"blocks512\":%ld,\"blksize\":%ld", status.st_size, status.st_blocks, status.st_blksize);
}

/* hash and pages: the whole file, through read(2). */
static void read_whole_file(void) {
    uint8_t *page = buffer_of(PAGE);
    int fd = descriptor(1), listed = is("pages");
    char run[40] = "", now[40];
    int64_t size = 0, pages = 0, since = 0;
    uint32_t crc = 0;
    ssize_t count;
    if (listed)
        printf(",\"runs\":[");
    while ((count = pread(fd, page, PAGE, size)) > 0) {
        if (!listed)
            crc = crc32_of(crc, page, (size_t)count);
        else if (all_the_same(page, (size_t)count))
            snprintf(now, sizeof now, "%02x", page[0]);
        else
            snprintf(now, sizeof now, "crc%08x/%zd", crc32_of(0, page, (size_t)count), count);
        if (listed && strcmp(now, run) != 0) {
            if (pages > since)
                printf("[%ld,%ld,\"%s\"],", since, pages - since, run);
            since = pages;
            strcpy(run, now);
        }
        size += count;
        pages++;
    }
    if (listed)
        printf(pages > since ? "[%ld,%ld,\"%s\"]]" : "]", since, pages - since, run);
    answer(count);
    if (!listed)
        more("\"crc32\":\"%08x\",\"n\":%ld", crc, size);
    free(page);
}

static void dump_file(void) {
    int64_t length = number(3);
    uint8_t *buffer = buffer_of(length);
    ssize_t count = pread(descriptor(1), buffer, (size_t)length, number(2));
    answer(count);
    more("\"hex\":\"");
    for (ssize_t at = 0; at < count; at++)
        printf("%02x", buffer[at]);
    putchar('"');
    free(buffer);
}

static void list_extents(void) {
    static union {
        struct fiemap map;
        uint8_t room[sizeof(struct fiemap) + 4096 * sizeof(struct fiemap_extent)];
    } list;
    list.map = (struct fiemap){.fm_length = ~0UL, .fm_extent_count = 4096};
    int result = ioctl(descriptor(1), FS_IOC_FIEMAP, &list.map);
    answer(result);
    if (result < 0)
        return;
    more("\"extents\":%u,\"ext\":[", list.map.fm_mapped_extents);
    for (uint32_t n = 0; n < list.map.fm_mapped_extents; n++) {
        struct fiemap_extent *one = &list.map.fm_extents[n];
        printf("%s{\"l\":%llu,\"n\":%llu,\"f\":\"%s%s%s\"}", n ? "," : "", one->fe_logical / PAGE, one->fe_length / PAGE,
               one->fe_flags & FIEMAP_EXTENT_UNWRITTEN ? "U" : "", one->fe_flags & FIEMAP_EXTENT_DELALLOC ? "D" : "",
               one->fe_flags & FIEMAP_EXTENT_LAST ? "L" : "");
    }
    putchar(']');
}

static void seek_holes(void) {
    int fd = descriptor(1), hole = 0;
    off_t size = lseek(fd, 0, SEEK_END), at = 0;
    answer(size);
    more("\"runs\":[");
    for (int first = 1; at < size; hole = !hole) {
        off_t next = lseek(fd, at, hole ? SEEK_DATA : SEEK_HOLE);
        next = next < 0 ? size : next;
        if (next > at)
            printf("%s[%ld,%ld,\"%s\"]", first ? "" : ",", at, next - at, hole ? "hole" : "data");
        first = first && next == at;
        at = next;
    }
    putchar(']');
}

/* ---- mappings ---- */

/* Reserves room of `length` bytes at an address `skew` bytes past a multiple of 2 MiB; MAP_FIXED then takes its place, so that no other
   thread of the process can come between. */
static uint8_t *reserve(int64_t length, int64_t skew) {
    size_t room = (size_t)(length + 2 * UNIT);
    uint8_t *area = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        give_up("no address space");
    uint8_t *at = (uint8_t *)(((uintptr_t)area + UNIT - 1) & ~(UNIT - 1UL)) + skew;
    uint8_t *end = at + ((length + PAGE - 1) & -PAGE);
    if (at > area)
        munmap(area, (size_t)(at - area));
    munmap(end, (size_t)(area + room - end));
    return at;
}

static int rights_of(const char *name) {
    static const struct named known[] = {
        {"ro", PROT_READ}, {"rw", PROT_READ | PROT_WRITE}, {"wo", PROT_WRITE}, {"none", PROT_NONE}};
    return value_of(name, known, COUNT_OF(known));
}

static int mapping_flags(void) {
    static const struct named kinds[] = {{"shared", MAP_SHARED}, {"private", MAP_PRIVATE}, {"validate", MAP_SHARED_VALIDATE}};
    /* Where the address comes from is no flag of its own. */
    static const struct named others[] = {{"populate", MAP_POPULATE}, {"locked", MAP_LOCKED}, {"rawsync", MAP_SYNC},
                                          {"sync", MAP_SYNC},         {"mis", 0},             {"auto", 0},
                                          {"noreplace", 0}};
    int flags = value_of(word(5), kinds, COUNT_OF(kinds));
    if (has("sync", 7) && flags == MAP_SHARED)
        flags = MAP_SHARED_VALIDATE;
    for (size_t at = 7; at < word_count; at++)
        flags |= value_of(words[at], others, COUNT_OF(others));
    return flags;
}

static void map_file(void) {
    int64_t offset = number(3), length = number(4);
    int fd = descriptor(2), rights = rights_of(word(6)), flags = mapping_flags(), sync = flags & MAP_SYNC;
    uint8_t *place = NULL, *at;
    if (!has("auto", 7)) {
        place = reserve(length, offset % UNIT + (has("mis", 7) ? PAGE : 0));
        flags |= has("noreplace", 7) ? MAP_FIXED_NOREPLACE : MAP_FIXED;
        if (has("noreplace", 7))
            munmap(place, (size_t)length);
    }
    at = mmap(place, (size_t)length, rights, flags, fd, offset);
    answer(at == MAP_FAILED ? -1 : 0);
    if (at == MAP_FAILED && sync && errno == EOPNOTSUPP) {
        flags = (flags & ~(MAP_SYNC | MAP_TYPE)) | ((flags & MAP_TYPE) == MAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED);
        at = mmap(place, (size_t)length, rights, flags, fd, offset);
        more("\"instead\":\"without MAP_SYNC\"");
    }
    if (at == MAP_FAILED) {
        if (place)
            munmap(place, (size_t)length);
        return;
    }
    more("\"addr_mod_2m\":%ld,\"off_mod_2m\":%ld", (long)((uintptr_t)at % UNIT / PAGE), offset % UNIT / PAGE);
    struct mapping *mapping = find_mapping(1);
    if (!mapping) {
        if (mapping_count == COUNT_OF(mappings))
            give_up("too many mappings");
        mapping = &mappings[mapping_count++];
    }
    *mapping = (struct mapping){.at = at, .length = length, .offset = offset};
    snprintf(mapping->name, sizeof mapping->name, "%s", word(1));
}

/* Calls on a part of a mapping: `M OFF LEN`, both in bytes of the mapping; without them the whole. */
static void change_mapping(void) {
    static const struct named syncs[] = {{"sync", MS_SYNC}, {"async", MS_ASYNC}, {"inval", MS_INVALIDATE}};
    static const struct named advice[] = {
        {"normal", MADV_NORMAL},         {"random", MADV_RANDOM},         {"sequential", MADV_SEQUENTIAL},
        {"willneed", MADV_WILLNEED},     {"dontneed", MADV_DONTNEED},     {"free", MADV_FREE},
        {"remove", MADV_REMOVE},         {"dontfork", MADV_DONTFORK},     {"dofork", MADV_DOFORK},
        {"hugepage", MADV_HUGEPAGE},     {"nohugepage", MADV_NOHUGEPAGE}, {"cold", MADV_COLD},
        {"pageout", MADV_PAGEOUT},       {"collapse", MADV_COLLAPSE},     {"mergeable", MADV_MERGEABLE},
        {"populate_read", MADV_POPULATE_READ}, {"populate_write", MADV_POPULATE_WRITE}};
    struct mapping *mapping = find_mapping(1);
    uint8_t *at = mapping->at + number_or(2, 0);
    size_t length = (size_t)number_or(3, mapping->length);
    if (is("munmap")) {
        answer(munmap(at, length));
        if (word_count == 2)
            *mapping = mappings[--mapping_count];
    } else if (is("mprotect"))
        answer(mprotect(at, length, rights_of(word(4))));
    else if (is("mlock"))
        answer(mlock(at, length));
    else if (is("msync"))
        answer(msync(at, length, word_count > 4 ? value_of(word(4), syncs, COUNT_OF(syncs)) : MS_SYNC));
    else
        answer(madvise(at, length, value_of(word(4), advice, COUNT_OF(advice))));
}

static void resize_mapping(void) {
    struct mapping *mapping = find_mapping(1);
    int64_t length = number(2);
    uint8_t *at = mremap(mapping->at, (size_t)mapping->length, (size_t)length, has("maymove", 3) ? MREMAP_MAYMOVE : 0);
    answer(at == MAP_FAILED ? -1 : 0);
    if (at != MAP_FAILED)
        mapping->at = at, mapping->length = length;
}

static void list_resident(void) {
    struct mapping *mapping = find_mapping(1);
    int64_t count = (mapping->length + PAGE - 1) / PAGE, first = mapping->offset / PAGE, resident = 0;
    uint8_t *pages = buffer_of(count);
    int result = mincore(mapping->at, (size_t)mapping->length, pages);
    answer(result);
    if (result == 0) {
        more("\"runs\":[");
        for (int64_t at = 0, next; at < count; at = next) {
            for (next = at; next < count && (pages[next] & 1) == (pages[at] & 1); next++)
                resident += pages[next] & 1;
            printf("%s[%ld,%ld,%d]", at ? "," : "", first + at, next - at, pages[at] & 1);
        }
        printf("],\"resident\":%ld", resident);
    }
    free(pages);
}

/* ---- the script ---- */

static const struct {
    const char *name;
    void (*play)(void);
    size_t mapping; /* which word names a mapping, if one does */
} operations[] = {{"close", close_file, 0},         {"falloc", allocate, 0},        {"fill", fill_pages, 1},
                  {"fiemap", list_extents, 0},      {"hash", read_whole_file, 0},   {"hexdump", dump_file, 0},
                  {"madvise", change_mapping, 1},   {"mincore", list_resident, 1},  {"mlock", change_mapping, 1},
                  {"mmap", map_file, 0},            {"mprotect", change_mapping, 1}, {"mremap", resize_mapping, 1},
                  {"msync", change_mapping, 1},     {"munmap", change_mapping, 1},  {"pages", read_whole_file, 0},
                  {"pread", read_file, 0},          {"preadmap", transfer_mapped, 4}, {"pwrite", write_file, 0},
                  {"pwritemap", transfer_mapped, 4}, {"read", load_byte, 1},        {"seek", seek_holes, 0},
                  {"stat", stat_file, 0},           {"touch", touch_pages, 1},      {"write", store_byte, 1}};

/* What only DAX, its tracing, or the owner of the whole machine can answer. */
static const char *const elsewhere[] = {"trace-start", "trace-stop", "trace-dump", "trace-count", "trace-clear", "pt",     "xa",  "smaps",
                                        "vmstat",      "faults",     "get",        "set",         "remount",     "chattr", "dropcaches"};

static void play_operation(void) {
    for (size_t at = 0; at < COUNT_OF(elsewhere); at++)
        if (is(elsewhere[at])) {
            more("\"na\":true");
            return;
        }
    for (size_t at = 0; at < COUNT_OF(operations); at++)
        if (is(operations[at].name)) {
            size_t mapping = operations[at].mapping;
            if (mapping && !find_mapping(mapping))
                more("\"ok\":false,\"err\":\"nothing is mapped as %s\"", word(mapping));
            else
                operations[at].play();
            return;
        }
    if (is("create") || is("open"))
        open_file(is("create") ? 3 : 2);
    else if (is("unlink"))
        answer(unlink(word(1)));
    else if (is("truncate"))
        answer(ftruncate(descriptor(1), number(2)));
    else if (is("fsync") || is("fdatasync"))
        answer(is("fsync") ? fsync(descriptor(1)) : fdatasync(descriptor(1)));
    else if (is("sleep"))
        nanosleep(&(struct timespec){.tv_sec = number(1) / 1000, .tv_nsec = number(1) % 1000 * 1000000}, NULL);
    else if (!is("label"))
        give_up("the language has no such operation");
}

/* The child goes on with the next line, its parent with the one after `endfork`, when the child has ended. */
static pid_t child = -1;
static int skipping, in_child;

static void fork_here(void) {
    fflush(stdout);
    child = fork();
    if (child < 0)
        give_up("fork: %s", strerror(errno));
    skipping = child > 0;
    in_child = child == 0;
}

static void end_fork(void) {
    int status = 0;
    if (in_child)
        exit(0);
    if (waitpid(child, &status, 0) < 0)
        give_up("there is no child");
    skipping = 0;
    printf("{\"i\":%zu,\"cmd\":\"endfork\",\"status\":%d}\n", line_number, status);
}

static void play_line(void) {
    if (is("endfork")) {
        end_fork();
        return;
    }
    if (skipping)
        return;
    if (is("fork")) {
        fork_here();
        if (in_child)
            printf("{\"i\":%zu,\"cmd\":\"fork\",\"child\":true}\n", line_number);
        return;
    }
    if (strpbrk(line, "\"\\"))
        give_up("a quotation mark or a backslash");
    printf("{\"i\":%zu,\"cmd\":\"%s\"", line_number, line);
    play_operation();
    printf("}\n");
}

static void list_files(void) {
    printf("{\"files\":[");
    for (size_t at = 0, listed = 0; at < file_count; at++) {
        struct stat status;
        if (stat(files[at].name, &status) == 0)
            printf("%s{\"name\":\"%s\",\"size\":%ld,\"blocks512\":%ld}", listed++ ? "," : "", files[at].name, status.st_size,
                   status.st_blocks);
    }
    printf("]}\n");
}

int main(int count, char **arguments) {
    FILE *script = count >= 2 ? script_of(arguments[count - 1]) : NULL;
    if (!script) {
        fprintf(stderr, "usage: %s [--bytes] SCRIPT\n", arguments[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(arguments[1], "--bytes") == 0) {
        int64_t sum = 0;
        while (next_line(script))
            sum += is("create") ? number(2) : 0;
        printf("%ld\n", sum);
        return 0;
    }
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    while (next_line(script))
        play_line();
    list_files();
    return 0;
}
