/* What is done beside loads and stores: mappings that come, move and go; files that are punched and truncated; calls and syncs. */
#include "worker.h"
#include <sys/mman.h>

static void draw_range(struct random *random, uint64_t room, uint64_t *first, uint64_t *length) {
    *first = below(random, room);
    *length = 1 + below(random, room - *first);
}

static void map_view(struct self *self, struct view *view) {
    struct random *random = &self->random;
    uint64_t first, pages;
    draw_range(random, TAIL / PAGE, &first, &pages);
    bool read_first = one_in(random, 3), aligned = one_in(random, 2);
    view->file = (uint32_t)below(random, FILES);
    view->offset = (aligned ? first / 512 * 512 : first) * PAGE;
    view->length = pages * PAGE;
    uint8_t *at = MUST(mmap(NULL, view->length, read_first ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED,
                            files[view->file], (off_t)view->offset));
    if (read_first) {
        for (int n = 0; n < 20; n++) {
            uint64_t at_page = below(random, pages) * PAGE + below(random, LANES) * SLICE;
            check(self, LOAD, at + at_page, view->file, view->offset + at_page, SLICE);
        }
        MUST(mprotect(at, view->length, PROT_READ | PROT_WRITE));
    }
    view->at = at;
}

static void move_view(struct self *self, struct view *view) {
    struct random *random = &self->random;
    uint64_t length = (1 + below(random, (TAIL - view->offset) / PAGE)) * PAGE;
    int flags = MREMAP_MAYMOVE;
    uint8_t *to = NULL;
    if (one_in(random, 2)) {
        flags |= MREMAP_FIXED;
        to = MUST(mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
    to = mremap(view->at, view->length, length, flags, to);
    if (to == MAP_FAILED)
        give_up("mremap of %p, %lx, to %lx, flags %x, offset %lx of file %u: %s", (void *)view->at, view->length, length, flags,
                view->offset, view->file, strerror(errno));
    view->at = to;
    view->length = length;
}

/* A part of the view goes; the larger of what is left stays. */
static void cut_view(struct self *self, struct view *view) {
    uint64_t cut = below(&self->random, view->length / PAGE) * PAGE;
    if (cut == 0) {
        MUST(munmap(view->at, view->length));
        view->at = NULL;
    } else if (cut > view->length / 2) {
        MUST(munmap(view->at + cut, view->length - cut));
        view->length = cut;
    } else {
        MUST(munmap(view->at, cut));
        view->at += cut;
        view->offset += cut;
        view->length -= cut;
    }
}

void change_view(struct self *self) {
    struct random *random = &self->random;
    struct view *view = &self->views[below(random, VIEWS)];
    count(MAPPINGS);
    if (!view->at) {
        map_view(self, view);
        return;
    }
    uint64_t first, pages;
    draw_range(random, view->length / PAGE, &first, &pages);
    switch (below(random, 6)) {
    case 0: move_view(self, view); break;
    case 1: cut_view(self, view); break;
    case 2:
        MUST(munmap(view->at, view->length));
        view->at = NULL;
        break;
    case 3:
        MUST(mprotect(view->at + first * PAGE, pages * PAGE, one_in(random, 2) ? PROT_READ : PROT_NONE));
        check_somewhere(&(struct self){.actor = self->actor, .random = *random});
        MUST(mprotect(view->at + first * PAGE, pages * PAGE, PROT_READ | PROT_WRITE));
        break;
    case 4:
        if (madvise(view->at + first * PAGE, pages * PAGE, MADV_DONTNEED) < 0)
            give_up("madvise of %p, %lx in a view of %p, %lx: %s", (void *)(view->at + first * PAGE), pages * PAGE, (void *)view->at,
                    view->length, strerror(errno));
        break;
    default:
        MUST(munmap(view->at, view->length));
        map_view(self, view);
    }
}

/* Private copies of some pages: they keep what was stored, the file does not see it, and the other pages show the file. */
static void map_privately(struct self *self, uint32_t file, uint64_t unit) {
    enum { COPIES = 12 };
    struct random *random = &self->random;
    const uint8_t *model = segment->model[file] + unit;
    uint8_t *at = MUST(mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE, files[file], (off_t)unit));
    uint64_t copied[COPIES], number = 0;
    while (number < COPIES && !one_in(random, COPIES)) {
        uint64_t page = copied[number++] = below(random, UNIT / PAGE);
        at[page * PAGE + 8] = (uint8_t)~model[page * PAGE + 8];
        if (one_in(random, 4)) {
            uint64_t other = below(random, UNIT / PAGE);
            bool is_copied = false;
            for (uint64_t n = 0; n < number; n++)
                is_copied = is_copied || copied[n] == other;
            if (!is_copied)
                store_range(self, file, unit + other * PAGE, 1 + below(random, PAGE));
        }
    }
    for (uint64_t page = 0; page < UNIT / PAGE; page++) {
        uint8_t expected[PAGE];
        memcpy(expected, model + page * PAGE, PAGE);
        for (uint64_t n = 0; n < number; n++)
            if (copied[n] == page)
                expected[8] = (uint8_t)~model[page * PAGE + 8];
        for (uint64_t n = 0; n < PAGE; n++)
            if (at[page * PAGE + n] != expected[n])
                give_up("file %u, offset %lu: expected %02x, found %02x in a private mapping", file, unit + page * PAGE + n,
                        expected[n], at[page * PAGE + n]);
    }
    MUST(munmap(at, UNIT));
    count(PRIVATES);
}

/* Zeros by a call: they are a store like any other. */
static void make_zeros(struct self *self, uint32_t file, uint64_t offset, uint64_t length, int mode) {
    int lane = 2 * self->actor, result;
    begin(lane, ZERO, file, offset, length, 0);
    if (mode == 0)
        result = madvise(globals[file][below(&self->random, GLOBALS)] + offset, length, MADV_REMOVE);
    else
        result = fallocate(files[file], mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    if (result == 0) {
        finish(lane);
    } else if (errno == EOPNOTSUPP) {
        cancel(lane);
    } else {
        give_up("zeros by mode %d: %s", mode, strerror(errno));
    }
    count(LAYOUTS);
}

/* In a unit that belongs to this thread as a whole. */
void own_unit(struct self *self) {
    struct random *random = &self->random;
    uint32_t file = (uint32_t)below(random, FILES);
    uint64_t unit = below(random, UNITS - 1), first, length;
    if (owner_of(file, unit, segment->threads) != self->actor)
        return;
    draw_range(random, UNIT, &first, &length);
    if (one_in(random, 2)) {
        first = first / PAGE * PAGE;
        length = (length + PAGE - 1) / PAGE * PAGE;
    }
    uint64_t some = 1 + length % (4 * PAGE), at = unit * UNIT + first;
    some = some < length ? some : length;
    bool layout = profile.layout_files >> file & 1 && one_in(random, 8);
    if (layout) {
        switch (below(random, 4)) {
        case 0: make_zeros(self, file, at, length, FALLOC_FL_PUNCH_HOLE); break;
        case 1: make_zeros(self, file, at, length, FALLOC_FL_ZERO_RANGE); break;
        case 2: make_zeros(self, file, at / PAGE * PAGE, (length + PAGE - 1) / PAGE * PAGE, 0); break;
        default: MUST(fallocate(files[file], FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)some));
        }
    } else if (one_in(random, 30)) {
        map_privately(self, file, unit * UNIT);
    } else if (one_in(random, 3)) {
        check(self, LOAD, address_of(self, file, at, some), file, at, some < PAGE ? some : PAGE);
    } else {
        store_range(self, file, at, some);
    }
}

/* The first thread's: it shortens and lengthens the file, and stores up to its end. */
void resize(struct self *self) {
    struct random *random = &self->random;
    uint32_t file = (uint32_t)below(random, FILES);
    if (self->actor != 0)
        return;
    uint64_t size = segment->sizes[file];
    if (profile.layout_files >> file & 1 && one_in(random, 6)) {
        size = TAIL + 1 + below(random, UNIT);
        begin(0, RESIZE, file, size, 0, 0);
        MUST(ftruncate(files[file], (off_t)size));
        finish(0);
        count(LAYOUTS);
        return;
    }
    uint64_t first, length;
    draw_range(random, size - TAIL, &first, &length);
    length = length < 4 * PAGE ? length : 4 * PAGE;
    if (one_in(random, 2))
        check(self, LOAD, globals[file][0] + TAIL + first, file, TAIL + first, length < PAGE ? length : PAGE);
    else
        store_range(self, file, TAIL + first, length);
}

void sync_somewhere(struct self *self) {
    struct random *random = &self->random;
    uint32_t file = (uint32_t)below(random, FILES);
    uint64_t first, pages;
    draw_range(random, TAIL / PAGE, &first, &pages);
    uint8_t *at = globals[file][below(random, GLOBALS)] + first * PAGE;
    switch (below(random, 6)) {
    case 0: MUST(fsync(files[file])); break;
    case 1: MUST(fdatasync(files[file])); break;
    case 2: MUST(msync(at, pages * PAGE, MS_SYNC)); break;
    default: MUST(msync(at, pages * PAGE, MS_ASYNC));
    }
    count(SYNCS);
}

/* Calls that take what they write from a mapping; those that bring something are stores. */
void give_memory_to_calls(struct self *self) {
    struct random *random = &self->random;
    uint32_t file = (uint32_t)below(random, FILES);
    uint64_t offset = below(random, TAIL / SLICE) * SLICE;
    check(self, one_in(random, 2) ? PIPE : SEND, address_of(self, file, offset, SLICE), file, offset, SLICE);
    count(CALLS);
}

/* The first thread's: one of the mappings that are there for good is replaced, or loses what the kernel had put there. */
void map_anew(struct self *self) {
    struct random *random = &self->random;
    uint32_t file = (uint32_t)below(random, FILES);
    uint8_t *at = globals[file][below(random, GLOBALS)];
    if (self->actor != 0)
        return;
    if (one_in(random, 2))
        MUST(madvise(at, FILE_BYTES, MADV_DONTNEED));
    else
        MUST(mmap(at, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, files[file], 0));
    count(MAPPINGS);
}
