/* What the parts of a worker share. */
#ifndef WORKER_H
#define WORKER_H

#include "soak.h"

#define OPERATIONS 12
#define VIEWS 3
#define GLOBALS 2
#define CHILDREN 4

/* A mapping of an actor's own. */
struct view {
    uint8_t *at;
    uint64_t offset, length;
    uint32_t file;
};

struct self {
    int actor;
    /* Whether it is one of the first threads, which own units. */
    bool owns;
    struct random random;
    struct view views[VIEWS];
    pid_t children[CHILDREN];
};

/* What a life is fond of; drawn from its seed. */
struct profile {
    /* Stores go forward page by page, or here and there. */
    bool in_order;
    /* The files that are punched and resized: a bit each. */
    uint32_t layout_files;
    /* The units that stores go to: a bit each. */
    uint32_t units;
    /* One store in so many moves the front on. */
    uint32_t pace;
    /* So many pages are stored to in a unit before another one's turn comes. */
    uint32_t stay;
    /* How often each operation comes. */
    uint32_t weights[OPERATIONS];
    /* One of so many ways of storing; the first three are calls. */
    uint32_t ways;
    /* One operation in so many is followed by a pause, so that what was opened is given back; 0: none is. */
    uint32_t pauses;
    /* So rarely, besides, it has a child: from then on the kernel serves all of its mappings. */
    uint32_t childless;
};

extern struct segment *segment;
extern struct profile profile;
/* Descriptors of the files; the numbers stay the same when a file is opened anew. */
extern int files[FILES];
/* Mappings that are there for good: replaced in one step only. */
extern uint8_t *globals[FILES][GLOBALS];

/* Notes the failure, and ends the whole life. */
__attribute__((format(printf, 1, 2), noreturn)) void give_up(const char *format, ...);

#define MUST(CALL)                                                                                                     \
    ({                                                                                                                 \
        __auto_type result_ = (CALL);                                                                                  \
        if (result_ == (__typeof__(result_))-1)                                                                        \
            give_up("%s: %s", #CALL, strerror(errno));                                                                 \
        result_;                                                                                                       \
    })

static inline void count(enum count which) {
    atomic_fetch_add_explicit(&segment->counts[which], 1, memory_order_relaxed);
}

/* How bytes are looked at: by a load, by pread(2), or by a call that is given the mapping as its buffer. */
enum look { LOAD, PREAD, PIPE, SEND };

/* access.c: memory and the model */
void begin(int lane, enum kind kind, uint32_t file, uint64_t offset, uint64_t length, uint64_t seed);
void finish(int lane);
/* It was not done after all. */
void cancel(int lane);
uint8_t *address_of(struct self *self, uint32_t file, uint64_t offset, uint64_t length);
void draw_place(struct random *random, uint32_t *file, uint64_t *page);
void store_slice(struct self *self, int lane, struct random *random, bool in_handler);
void store_range(struct self *self, uint32_t file, uint64_t offset, uint64_t length);
bool check(struct self *self, enum look way, const uint8_t *from, uint32_t file, uint64_t offset, uint64_t length);
void check_somewhere(struct self *self);
void scan(struct self *self);

/* operations.c: what is done beside loads and stores */
void change_view(struct self *self);
void own_unit(struct self *self);
void resize(struct self *self);
void sync_somewhere(struct self *self);
void give_memory_to_calls(struct self *self);
void map_anew(struct self *self);

/* arena.c: all threads at once, in files of which nothing is known yet */
void fight(struct self *self);
/* Others had better come, or it is no race. */
bool is_fight_on(void);

#endif
