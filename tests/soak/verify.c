/* Every byte of every file, by plain read(2) of a process that udax does not serve, beside the model. */
#include "supervisor.h"
#include <sys/stat.h>

static const char *name_of(uint32_t file) {
    static char name[16];
    snprintf(name, sizeof name, "file-%u", file);
    return name;
}

static int open_file(struct slot *slot, uint32_t file, int flags) {
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", slot->directory, name_of(file));
    int fd = open(path, flags | O_CLOEXEC, 0644);
    if (fd < 0)
        complain(slot, "%s: %s", path, strerror(errno));
    return fd;
}

/* Sparse files with a little data here and there. */
void make_files(struct slot *slot) {
    struct segment *segment = slot->segment;
    memset(segment->model, 0, sizeof segment->model);
    for (uint32_t file = 0; file < FILES; file++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", slot->directory, name_of(file));
        unlink(path);
        uint64_t size = segment->sizes[file] = TAIL + 1 + below(&slot->random, UNIT), blocks = below(&slot->random, 8);
        int fd = open_file(slot, file, O_RDWR | O_CREAT | O_EXCL);
        if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
            complain(slot, "%s: %s", path, strerror(errno));
        for (uint64_t n = 0; n < blocks; n++) {
            uint64_t offset = below(&slot->random, TAIL - 3 * PAGE), length = 1 + below(&slot->random, 3 * PAGE);
            uint8_t *bytes = segment->model[file] + offset;
            memset(bytes, 1 + (int)below(&slot->random, 255), length);
            if (pwrite(fd, bytes, length, (off_t)offset) != (ssize_t)length)
                complain(slot, "%s: %s", path, strerror(errno));
        }
        close(fd);
    }
}

/* The operation under way when the life ended, in whose range the byte is. */
static const struct lane *flying_at(const struct segment *segment, uint32_t file, uint64_t offset) {
    for (int n = 0; n < LANES; n++) {
        const struct lane *lane = &segment->lanes[n];
        if (atomic_load(&lane->state) != FLYING || lane->file != file || offset < lane->offset)
            continue;
        if (lane->kind == RESIZE || offset < lane->offset + lane->length)
            return lane;
    }
    return NULL;
}

static void verify_size(struct slot *slot, uint32_t file, uint64_t size) {
    struct segment *segment = slot->segment;
    const struct lane *lane = &segment->lanes[0];
    bool resized = atomic_load(&lane->state) == FLYING && lane->kind == RESIZE && lane->file == file;
    if (size != segment->sizes[file] && !(resized && size == lane->offset))
        complain(slot, "%s: expected %lu bytes, found %lu", name_of(file), segment->sizes[file], size);
    segment->sizes[file] = size;
}

/* Compares, and takes over into the model what operations under way have left. */
static void verify_bytes(struct slot *slot, uint32_t file, const uint8_t *found, uint64_t size) {
    struct segment *segment = slot->segment;
    uint8_t *model = segment->model[file];
    uint64_t wrong = 0;
    memset(model + size, 0, FILE_BYTES - size);
    for (uint64_t page = 0; page < size; page += PAGE) {
        uint64_t end = page + PAGE < size ? page + PAGE : size;
        if (memcmp(found + page, model + page, end - page) == 0)
            continue;
        for (uint64_t offset = page; offset < end; offset++) {
            const struct lane *lane;
            if (found[offset] == model[offset])
                continue;
            lane = flying_at(segment, file, offset);
            if (lane && found[offset] == outcome(lane, offset)) {
                model[offset] = found[offset];
                continue;
            }
            if (wrong++ < 10)
                complain(slot, "%s, offset %lu (unit %lu, page %lu, byte %lu of it): expected %02x%s, found %02x", name_of(file),
                         offset, offset / UNIT, offset / PAGE, offset % PAGE, model[offset], lane ? " or what was under way" : "",
                         found[offset]);
        }
    }
    if (wrong)
        complain(slot, "%s: %lu bytes are wrong", name_of(file), wrong);
}

static void verify_file(struct slot *slot, uint32_t file) {
    static uint8_t found[FILE_BYTES];
    struct stat status;
    int fd = open_file(slot, file, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) < 0)
        return;
    uint64_t size = (uint64_t)status.st_size, got = 0;
    verify_size(slot, file, size);
    if (size <= FILE_BYTES) {
        while (got < size) {
            ssize_t more = read(fd, found + got, size - got);
            if (more <= 0) {
                complain(slot, "%s: read at %lu: %zd, %s", name_of(file), got, more, strerror(errno));
                break;
            }
            got += (uint64_t)more;
        }
        verify_bytes(slot, file, found, got);
    }
    close(fd);
}

void verify_files(struct slot *slot) {
    for (int n = 0; n < LANES; n++) {
        struct lane *lane = &slot->segment->lanes[n];
        uint32_t state = atomic_load(&lane->state);
        if (state == DONE) {
            enter(slot->segment, lane);
            atomic_store(&lane->state, IDLE);
        }
        if (state == FLYING)
            slot->totals->flying++;
    }
    for (uint32_t file = 0; file < FILES; file++)
        verify_file(slot, file);
    for (int n = 0; n < LANES; n++)
        atomic_store(&slot->segment->lanes[n].state, IDLE);
}

/* The number after the last place where the name stands in a line. */
static uint64_t number_in(const char *line, const char *name) {
    const char *last = NULL;
    for (const char *at = strstr(line, name); at; at = strstr(at + 1, name))
        last = at;
    return last ? strtoull(last + strlen(name), NULL, 10) : 0;
}

/* What `udax run --stats` has told at the end of this life and of its spawned children. */
void read_statistics(struct slot *slot) {
    static char line[1 << 20];
    char path[4200];
    bool told = false;
    uint64_t zero_pages = 0;
    snprintf(path, sizeof path, "%s/stats", slot->directory);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        told = true;
        zero_pages += number_in(line, "\"window_pages\":");
        slot->totals->faults += number_in(line, "\"faults\":");
        slot->totals->given_back += number_in(line, "\"given_back_pages\":");
        uint64_t rescued = number_in(line, "\"rescued_pages\":");
        if (rescued)
            complain(slot, "%lu pages had missed the file and were saved", rescued);
    }
    if (file)
        fclose(file);
    unlink(path);
    slot->totals->told += told;
    slot->totals->served += zero_pages > 0;
    slot->totals->zero_pages += zero_pages;
}
