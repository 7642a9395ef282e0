/* What the parts of the supervisor share. */
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include "soak.h"

/* Sums over all slots; shared by their processes. */
struct totals {
    _Atomic uint64_t passed, failed, kills, ends, child_kills, signals, stops, strangers, flying;
    /* Lives that came to their own end and told what was served, those of them that were shown zeros, and what they told. */
    _Atomic uint64_t told, served, faults, zero_pages, given_back;
    _Atomic uint64_t counts[COUNTS];
};

struct slot {
    uint32_t number;
    const char *place, *keep;
    /* `udax run ... -- worker`, and a place for the segment's name. */
    char **command;
    const char *worker_path;
    char segment_name[32], directory[4096];
    struct random random;
    struct segment *segment;
    struct totals *totals;
    /* The process of this life, which leads a group of its own. */
    pid_t worker;
    bool failed;
    uint64_t seed;
};

/* Says what went wrong in this life, once a line. */
__attribute__((format(printf, 2, 3))) void complain(struct slot *slot, const char *format, ...);

/* verify.c */
void make_files(struct slot *slot);
void verify_files(struct slot *slot);
void read_statistics(struct slot *slot);

/* look.c: who is stuck, and where */
void show_processes(struct slot *slot);
bool lives(pid_t process);

#endif
