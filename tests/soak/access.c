/* Stores with a note in the log before and after, and loads that must see them. */
#include "worker.h"
#include <sys/socket.h>
#include <sys/uio.h>

void begin(int number, enum kind kind, uint32_t file, uint64_t offset, uint64_t length, uint64_t seed) {
    struct lane *lane = &segment->lanes[number];
    atomic_fetch_add(&lane->number, 1);
    lane->kind = kind;
    lane->file = file;
    lane->offset = offset;
    lane->length = length;
    lane->seed = seed;
    atomic_store(&lane->state, FLYING);
}

void finish(int number) {
    struct lane *lane = &segment->lanes[number];
    atomic_store(&lane->state, DONE);
    enter(segment, lane);
    atomic_store(&lane->state, IDLE);
}

void cancel(int number) { atomic_store(&segment->lanes[number].state, IDLE); }

/* One of the mappings that show the range. */
uint8_t *address_of(struct self *self, uint32_t file, uint64_t offset, uint64_t length) {
    if (self && one_in(&self->random, 2)) {
        struct view *view = &self->views[below(&self->random, VIEWS)];
        if (view->at && view->file == file && view->offset <= offset && offset + length <= view->offset + view->length)
            return view->at + (offset - view->offset);
    }
    uint64_t which = self ? below(&self->random, GLOBALS) : offset / PAGE % GLOBALS;
    return globals[file][which] + offset;
}

/* A page that is shared out, near where everybody stores at the moment. */
void draw_place(struct random *random, uint32_t *file, uint64_t *page) {
    uint64_t at = atomic_load(&segment->front) + below(random, 6);
    *file = (uint32_t)(at % FILES);
    at /= FILES;
    /* A while in the same unit, so that others become quiet and are holes again. */
    uint64_t in_units = profile.in_order ? at : mix(segment->life_seed + at / profile.stay) / 512 * 512 + mix(at) % 512;
    for (uint64_t unit = in_units / 512 % UNITS;; unit = (unit + 1) % UNITS)
        if (owner_of(*file, unit, segment->threads) < 0 && profile.units >> unit & 1) {
            *page = unit * 512 + in_units % 512;
            return;
        }
}

/* A slice through every mapping that is there for good. */
static void check_all(struct self *self, uint32_t file, uint64_t offset) {
    for (int n = 0; n < GLOBALS; n++)
        check(self, LOAD, globals[file][n] + offset, file, offset, SLICE);
}

static void fill(uint8_t *bytes, uint64_t seed, uint64_t offset, uint64_t length) {
    for (uint64_t n = 0; n < length; n++)
        bytes[n] = byte_of(seed, offset + n);
}

static void store_through_pipe(uint8_t *to, const uint8_t *bytes, uint64_t length, uint64_t way) {
    int ends[2];
    MUST(pipe2(ends, O_CLOEXEC));
    if (write(ends[1], bytes, length) != (ssize_t)length)
        give_up("a pipe takes no %lu bytes: %s", length, strerror(errno));
    struct iovec parts[2] = {{to, length / 2}, {to + length / 2, length - length / 2}};
    ssize_t got = way ? readv(ends[0], parts, 2) : read(ends[0], to, length);
    if (got != (ssize_t)length)
        give_up("read into a mapping: %zd of %lu: %s", got, length, strerror(errno));
    close(ends[0]);
    close(ends[1]);
}

/* By one of the ways in which bytes come to a file. */
static void store(struct self *self, uint32_t file, uint64_t offset, const uint8_t *bytes, uint64_t length, uint64_t way) {
    if (way == 0) {
        if (pwrite(files[file], bytes, length, (off_t)offset) != (ssize_t)length)
            give_up("pwrite: %s", strerror(errno));
        count(CALLS);
        return;
    }
    uint8_t *to = address_of(self, file, offset, length);
    if (way <= 2 && length <= 4 * PAGE) {
        store_through_pipe(to, bytes, length, way - 1);
        count(CALLS);
    } else if (way & 1) {
        for (uint64_t n = 0; n < length; n++)
            ((volatile uint8_t *)to)[n] = bytes[n];
    } else {
        memcpy(to, bytes, length);
    }
}

/* Bytes of the lane's own in a page that all lanes share. `self` is null in a signal handler. */
void store_slice(struct self *self, int lane, struct random *random, bool in_handler) {
    uint32_t file;
    uint64_t page, in_slice = below(random, SLICE), length = 1 + below(random, SLICE - in_slice);
    draw_place(random, &file, &page);
    uint64_t offset = page * PAGE + (uint64_t)lane * SLICE + in_slice, seed = next(random);
    uint8_t bytes[SLICE];
    fill(bytes, seed, offset, length);
    bool closely = one_in(random, 4);
    if (closely)
        check_all(self, file, offset - in_slice);
    begin(lane, STORE, file, offset, length, seed);
    store(self, file, offset, bytes, length, in_handler ? 3 + below(random, 2) : below(random, profile.ways));
    finish(lane);
    if (closely)
        check_all(self, file, offset - in_slice);
    count(STORES);
    if (one_in(random, profile.pace))
        atomic_fetch_add(&segment->front, 1);
}

/* Any range of what belongs to the actor alone. */
void store_range(struct self *self, uint32_t file, uint64_t offset, uint64_t length) {
    uint8_t bytes[5 * PAGE];
    uint64_t seed = next(&self->random);
    fill(bytes, seed, offset, length);
    begin(2 * self->actor, STORE, file, offset, length, seed);
    store(self, file, offset, bytes, length, below(&self->random, profile.ways));
    finish(2 * self->actor);
    count(STORES);
}

static int lane_of(uint32_t file, uint64_t offset) {
    int owner = owner_of(file, offset / UNIT, segment->threads);
    return owner >= 0 ? 2 * owner : (int)(offset % PAGE / SLICE);
}

/* Brings bytes to `found` by a load or by a call. */
static void look(uint8_t *found, enum look way, const uint8_t *from, uint32_t file, uint64_t offset, uint64_t length) {
    int ends[2];
    if (way == LOAD) {
        memcpy(found, from, length);
    } else if (way == PREAD) {
        if (pread(files[file], found, length, (off_t)offset) != (ssize_t)length)
            give_up("pread of %lu bytes at %lu: %s", length, offset, strerror(errno));
    } else {
        MUST(way == PIPE ? pipe2(ends, O_CLOEXEC) : socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends));
        ssize_t given = way == PIPE ? write(ends[1], from, length) : send(ends[1], from, length, 0);
        if (given != (ssize_t)length || read(ends[0], found, length) != (ssize_t)length)
            give_up("a call that takes %lu bytes from a mapping gave %zd: %s", length, given, strerror(errno));
        close(ends[0]);
        close(ends[1]);
    }
}

/*
 * Whether a look at a range of one lane shows what the model says; `from` is where a mapping shows it. Answers false where that cannot be
 * told, since the lane was not idle all along; where it can be told and is not so, the life ends.
 */
bool check(struct self *self, enum look way, const uint8_t *from, uint32_t file, uint64_t offset, uint64_t length) {
    static const char *const names[] = {"load", "pread", "write to a pipe", "send"};
    struct lane *lane = &segment->lanes[lane_of(file, offset)];
    uint64_t number = atomic_load(&lane->number);
    if (atomic_load(&lane->state) != IDLE)
        return false;
    uint8_t expected[PAGE], found[PAGE];
    memcpy(expected, segment->model[file] + offset, length);
    atomic_thread_fence(memory_order_seq_cst);
    look(found, way, from, file, offset, length);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&lane->state) != IDLE || atomic_load(&lane->number) != number)
        return false;
    for (uint64_t n = 0; n < length; n++)
        if (expected[n] != found[n])
            give_up("file %u, offset %lu: expected %02x, found %02x by a %s of actor %d", file, offset + n, expected[n],
                    found[n], names[way], self ? self->actor : -1);
    count(CHECKS);
    return true;
}

/* A slice, or more where one actor owns it, where others store at the moment or anywhere. */
void check_somewhere(struct self *self) {
    struct random *random = &self->random;
    uint32_t file;
    uint64_t page, offset, length = SLICE;
    draw_place(random, &file, &page);
    if (one_in(random, 3))
        page = below(random, TAIL / PAGE);
    offset = page * PAGE + below(random, PAGE / SLICE) * SLICE;
    check(self, one_in(random, 40) ? PREAD : LOAD, address_of(self, file, offset, length), file, offset, length);
    count(LOADS);
}

/* Loads a word of each page of a part: this is what makes windows of zeros. */
void scan(struct self *self) {
    struct random *random = &self->random;
    uint32_t file = (uint32_t)below(random, FILES);
    uint64_t first = below(random, TAIL / PAGE), pages = 1 + below(random, TAIL / PAGE - first), lane = below(random, LANES);
    if (pages > 1024)
        pages = 1024;
    uint8_t *from = address_of(self, file, first * PAGE, pages * PAGE);
    for (uint64_t page = 0; page < pages; page++)
        check(self, LOAD, from + page * PAGE + lane * SLICE, file, (first + page) * PAGE + lane * SLICE, 8);
    count(LOADS);
}
