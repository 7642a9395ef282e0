/*
 * Random operations on one file, its mappings and its storage, against an array of bytes that says what must be there.
 * Every case is one seed: it replays the same operations each time.
 */
#include "check.h"

#define LIMIT (6 * UNIT)
#define MAPPINGS 4

struct view {
    bytes at;
    size_t offset, length;
};

static uint8_t *model;
static size_t model_length;
static int fd;
static struct view views[MAPPINGS];
static uint64_t state;

static size_t random_below(size_t bound) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (size_t)(state >> 33) % bound;
}

static void map_view(struct view *view) {
    if (view->at)
        unmap(view->at, view->length);
    view->offset = random_below(LIMIT / PAGE) * PAGE;
    view->length = (1 + random_below((LIMIT - view->offset) / PAGE)) * PAGE;
    view->at = map(fd, view->length, PROT_READ | PROT_WRITE, MAP_SHARED, (off_t)view->offset);
}

/* Where a view shows the file; 0 if it shows nothing of it. */
static size_t shown(const struct view *view) {
    if (!view->at || view->offset >= model_length)
        return 0;
    size_t rest = model_length - view->offset;
    return rest < view->length ? rest : view->length;
}

static void store_into(struct view *view) {
    size_t room = shown(view);
    if (!room)
        return;
    size_t from = random_below(room), count = 1 + random_below(300);
    if (count > room - from)
        count = room - from;
    uint8_t value = (uint8_t)random_below(256);
    memset((void *)(view->at + from), value, count);
    memset(model + view->offset + from, value, count);
}

static void check_part(struct view *view) {
    size_t room = shown(view);
    if (!room)
        return;
    size_t from = random_below(room), count = 1 + random_below(3 * PAGE);
    if (count > room - from)
        count = room - from;
    CHECK(memcmp((const void *)(view->at + from), model + view->offset + from, count) == 0);
}

static void past_the_end(struct view *view) {
    size_t first = (shown(view) + PAGE - 1) / PAGE * PAGE;
    if (!view->at || first >= view->length)
        return;
    size_t at = first + random_below(view->length - first);
    CHECK_EQUAL(random_below(2) ? signal_of_load(view->at + at) : signal_of_store(view->at + at, 1), SIGBUS);
}

static void write_somewhere(void) {
    static uint8_t block[5000];
    size_t from = random_below(LIMIT - sizeof block), count = 1 + random_below(sizeof block);
    memset(block, (int)random_below(256), count);
    CHECK_EQUAL(pwrite(fd, block, count, (off_t)from), (ssize_t)count);
    memcpy(model + from, block, count);
    if (from + count > model_length)
        model_length = from + count;
}

static void set_length(void) {
    size_t length = random_below(LIMIT) + 1;
    MUST(ftruncate(fd, (off_t)length));
    if (length < model_length)
        memset(model + length, 0, model_length - length);
    model_length = length;
}

static void punch(void) {
    size_t from = random_below(LIMIT), count = 1 + random_below(LIMIT - from);
    MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)count));
    memset(model + from, 0, count);
}

static void check_all(void) {
    CHECK_EQUAL(size_of(fd), model_length);
    for (size_t n = 0; n < MAPPINGS; n++) {
        size_t room = shown(&views[n]);
        if (room)
            CHECK(memcmp((const void *)views[n].at, model + views[n].offset, room) == 0);
    }
    CHECK(same_as_file(model, fd, 0, model_length));
}

static void operate(void) {
    struct view *view = &views[random_below(MAPPINGS)];
    switch (random_below(40)) {
    case 0: map_view(view); break;
    case 1: set_length(); break;
    case 2: punch(); break;
    case 3: case 4: case 5: write_somewhere(); break;
    case 6: if (view->at) MUST(msync((void *)view->at, view->length, MS_SYNC)); break;
    case 7: if (view->at) MUST(madvise((void *)view->at, view->length, MADV_DONTNEED)); break;
    case 8: case 9: past_the_end(view); break;
    case 10: check_all(); break;
    case 11: if (shown(view)) (void)touch(view->at, shown(view)); break;
    default:
        if (random_below(2)) store_into(view); else check_part(view);
    }
}

static void run_seed(uint64_t seed) {
    state = seed;
    model = calloc(1, LIMIT);
    model_length = LIMIT;
    fd = sparse_file("file", LIMIT);
    for (size_t n = 0; n < MAPPINGS; n++)
        map_view(&views[n]);
    for (int step = 0; step < 3000; step++)
        operate();
    check_all();
    say("seed %llu: length %zu, hash %016llx", (unsigned long long)seed, model_length,
        (unsigned long long)hash_of(model, model_length));
}

CASE(seed_1) { run_seed(1); }
CASE(seed_2) { run_seed(2); }
CASE(seed_3) { run_seed(3); }
CASE(seed_4) { run_seed(4); }
CASE(seed_5) { run_seed(5); }
CASE(seed_6) { run_seed(6); }
CASE(seed_7) { run_seed(7); }
CASE(seed_8) { run_seed(8); }

/* UDAX_SEED=N replays or explores any other. */
CASE(seed_of_the_environment) {
    const char *seed = getenv("UDAX_SEED");
    run_seed(seed ? strtoull(seed, NULL, 0) : 9);
}
