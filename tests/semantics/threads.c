/* Threads that touch the same holes at once, and the locks that live in mapped files. */
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>

#define THREADS 8
#define PAGES 4096UL
#define FILE_BYTES (PAGES * PAGE)

static int fd;
static bytes at;
static pthread_barrier_t start;

static void hole(void) {
    fd = sparse_file("file", FILE_BYTES);
    at = map_shared(fd, FILE_BYTES);
}

static void run_threads(void *(*body)(void *)) {
    pthread_t threads[THREADS];
    CHECK_EQUAL(pthread_barrier_init(&start, NULL, THREADS), 0);
    for (size_t n = 0; n < THREADS; n++)
        CHECK_EQUAL(pthread_create(&threads[n], NULL, body, (void *)n), 0);
    for (size_t n = 0; n < THREADS; n++)
        pthread_join(threads[n], NULL);
    pthread_barrier_destroy(&start);
}

static uint32_t *counter(size_t page, size_t thread) { return (uint32_t *)(at + page * PAGE + thread * 64); }

static void count_pages(size_t thread) {
    for (size_t page = 0; page < PAGES; page++)
        ++*counter(page, thread); /* its own counter, in a page that all others store to as well */
}

static void *count_own(void *argument) {
    pthread_barrier_wait(&start);
    count_pages((size_t)argument);
    return NULL;
}

static void check_counters(uint32_t expected) {
    for (size_t page = 0; page < PAGES; page++)
        for (size_t thread = 0; thread < THREADS; thread++)
            CHECK_EQUAL(*counter(page, thread), expected);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

CASE(eight_threads_store_into_every_hole_page) {
    for (int round = 0; round < 5; round++) {
        hole();
        run_threads(count_own);
        check_counters(1);
        run_threads(count_own);
        check_counters(2);
        unmap(at, FILE_BYTES);
        close(fd);
        MUST(unlink("file"));
    }
}

CASE(eight_threads_store_into_touched_holes) {
    for (int round = 0; round < 5; round++) {
        hole();
        CHECK_EQUAL(touch(at, FILE_BYTES), 0);
        run_threads(count_own);
        check_counters(1);
        unmap(at, FILE_BYTES);
        close(fd);
        MUST(unlink("file"));
    }
}

static void *count_together(void *argument) {
    (void)argument;
    pthread_barrier_wait(&start);
    for (size_t page = 0; page < PAGES; page++)
        __atomic_fetch_add(counter(page, 0), 1, __ATOMIC_RELAXED);
    return NULL;
}

CASE(eight_threads_add_to_one_counter_in_every_page) {
    hole();
    run_threads(count_together);
    for (size_t page = 0; page < PAGES; page++)
        CHECK_EQUAL(*counter(page, 0), THREADS);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

static void *count_or_watch(void *argument) {
    size_t thread = (size_t)argument;
    pthread_barrier_wait(&start);
    if (thread % 2 == 0) {
        count_pages(thread);
        return NULL;
    }
    static _Thread_local uint32_t seen[PAGES];
    for (int pass = 0; pass < 4; pass++)
        for (size_t page = 0; page < PAGES; page++) {
            uint32_t now = __atomic_load_n(counter(page, thread - 1), __ATOMIC_ACQUIRE);
            CHECK(now >= seen[page]); /* a stored value never turns into zero again */
            seen[page] = now;
        }
    return NULL;
}

CASE(loads_never_see_a_store_vanish) {
    for (int round = 0; round < 5; round++) {
        hole();
        run_threads(count_or_watch);
        for (size_t page = 0; page < PAGES; page++)
            for (size_t thread = 0; thread < THREADS; thread += 2)
                CHECK_EQUAL(*counter(page, thread), 1);
        unmap(at, FILE_BYTES);
        close(fd);
        MUST(unlink("file"));
    }
}

static void *store_sync_write(void *argument) {
    size_t thread = (size_t)argument;
    pthread_barrier_wait(&start);
    for (size_t page = 0; page < PAGES; page++)
        switch (thread) {
        case 0:
            if (page % 64 == 0)
                CHECK_EQUAL(msync((void *)(at + page * PAGE), 64 * PAGE, MS_SYNC), 0);
            break;
        case 1:
            CHECK_EQUAL(pwrite(fd, &(uint32_t){1}, 4, (off_t)((PAGES - 1 - page) * PAGE + 64)), 4);
            break;
        case 2: {
            uint8_t value;
            CHECK_EQUAL(pread(fd, &value, 1, (off_t)(page * PAGE)), 1);
            break;
        }
        case 3:
            if (page % 16 == 0) {
                bytes other = map(fd, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, (off_t)(page / 32 * 32 * PAGE));
                for (size_t n = 0; n < 32; n++)
                    *(volatile uint32_t *)(other + n * PAGE + 3 * 64) = 1;
                unmap(other, 32 * PAGE);
            }
            break;
        case 4:
            if (page % 128 == 0)
                CHECK_EQUAL(madvise((void *)(at + page * PAGE), 128 * PAGE, MADV_DONTNEED), 0);
            break;
        default:
            ++*counter(page, thread);
        }
    return NULL;
}

CASE(stores_syncs_writes_and_mappings_race) {
    for (int round = 0; round < 3; round++) {
        hole();
        CHECK_EQUAL(touch(at, FILE_BYTES / 2), 0);
        run_threads(store_sync_write);
        for (size_t page = 0; page < PAGES; page++)
            for (size_t thread = 0; thread < THREADS; thread++)
                CHECK_EQUAL(*counter(page, thread), thread == 0 || thread == 2 || thread == 4 ? 0 : 1);
        CHECK(same_as_file(at, fd, 0, FILE_BYTES));
        unmap(at, FILE_BYTES);
        close(fd);
        MUST(unlink("file"));
    }
}

static void *own_mappings(void *argument) {
    size_t thread = (size_t)argument;
    char name[32];
    snprintf(name, sizeof name, "file-%zu", thread);
    pthread_barrier_wait(&start);
    for (int round = 0; round < 50; round++) {
        int own = sparse_file(name, 4 * UNIT);
        bytes view = map_shared(own, 4 * UNIT);
        CHECK_EQUAL(touch(view, 4 * UNIT), 0);
        view[UNIT + (size_t)round] = (uint8_t)(round + 1);
        CHECK_EQUAL(byte_of_file(own, (off_t)UNIT + round), round + 1);
        close(own);
        view[2 * UNIT] = 2;
        unmap(view, 4 * UNIT);
        MUST(unlink(name));
    }
    return NULL;
}

CASE(threads_open_map_and_unmap_their_own_files) { run_threads(own_mappings); }

static long futex(uint32_t *word, int operation, uint32_t value) {
    return syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

static void *wait_for_word(void *argument) {
    uint32_t *word = argument;
    __atomic_fetch_add(word + 16, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
        futex(word, FUTEX_WAIT, 0);
    __atomic_fetch_add(word + 32, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

/* A store, then a wake: whoever waits on the word, or is just about to, goes on. */
static void wake_word(uint32_t *word) {
    while (__atomic_load_n(word + 16, __ATOMIC_SEQ_CST) == 0)
        sched_yield();
    __atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
    futex(word, FUTEX_WAKE, 1000);
}

CASE(futexes_in_a_hole_wake_threads) {
    hole();
    for (size_t n = 0; n < 64; n++) {
        uint32_t *word = (uint32_t *)(at + n * 61 * PAGE);
        if (n % 2)
            CHECK_EQUAL(*word, 0);
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, wait_for_word, word), 0);
        wake_word(word);
        pthread_join(thread, NULL);
        CHECK_EQUAL(word[32], 1);
    }
}

/* The waiter sleeps on a word of a zero page; another mapping of the file brings the store and the wake. */
CASE(futexes_are_the_same_through_two_mappings) {
    hole();
    bytes other = map_skewed(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, PAGE);
    for (size_t n = 0; n < 32; n++) {
        uint32_t *word = (uint32_t *)(at + n * 61 * PAGE), *same = (uint32_t *)(other + n * 61 * PAGE);
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, wait_for_word, word), 0);
        wake_word(same);
        pthread_join(thread, NULL);
        CHECK_EQUAL(same[32], 1);
    }
}

static uint32_t is_waiting;

static void *only_wait_for_word(void *argument) {
    uint32_t *word = argument;
    __atomic_store_n(&is_waiting, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 0)
        futex(word, FUTEX_WAIT, 0);
    return NULL;
}

/* Who waits has stored nothing, and neither has anybody else before it is found through the other mapping. */
CASE(who_waits_in_a_page_of_zeros_is_found_through_another_mapping) {
    hole();
    bytes other = map_skewed(fd, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, PAGE);
    for (size_t n = 0; n < 16; n++) {
        uint32_t *word = (uint32_t *)(at + n * 61 * PAGE), *same = (uint32_t *)(other + n * 61 * PAGE);
        if (n % 2)
            CHECK_EQUAL(*word + *same, 0);
        is_waiting = 0;
        pthread_t thread;
        CHECK_EQUAL(pthread_create(&thread, NULL, only_wait_for_word, word), 0);
        while (__atomic_load_n(&is_waiting, __ATOMIC_SEQ_CST) == 0)
            sched_yield();
        long woken;
        while ((woken = futex(same, FUTEX_WAKE, 1)) == 0)
            sched_yield();
        CHECK_EQUAL(woken, 1);
        __atomic_store_n(same, 1, __ATOMIC_SEQ_CST);
        futex(same, FUTEX_WAKE, 1000);
        pthread_join(thread, NULL);
    }
}

CASE(futexes_in_a_hole_wake_processes) {
    hole();
    uint32_t *word = (uint32_t *)(at + 3 * UNIT);
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    pid_t child = fork();
    if (child == 0) {
        wait_for_word(word);
        _exit(0);
    }
    wake_word(word);
    CHECK_EQUAL(end_of(child), 0);
    CHECK_EQUAL(word[32], 1);
}

/* A call by number on two words that nobody has touched, and what it made of the first. */
static void try_futex(const char *name, int operation, uint32_t *word, uint32_t *second, uint32_t value) {
    struct timespec soon = {0, 1000000};
    uintptr_t fourth = (uintptr_t)&soon;
    int number = operation & FUTEX_CMD_MASK;
    if (number == FUTEX_CMP_REQUEUE || number == FUTEX_WAKE_OP || number == FUTEX_CMP_REQUEUE_PI)
        fourth = 0; /* how many go over, or are woken there */
    uint32_t last = number == FUTEX_WAKE_OP ? (uint32_t)FUTEX_OP(FUTEX_OP_SET, 5, FUTEX_OP_CMP_EQ, 0)
                    : number == FUTEX_WAIT_BITSET || number == FUTEX_WAIT_REQUEUE_PI ? FUTEX_BITSET_MATCH_ANY
                                                                                     : value;
    uint32_t count = number == FUTEX_CMP_REQUEUE || number == FUTEX_CMP_REQUEUE_PI ? 1 : value;
    long answer = syscall(SYS_futex, word, operation, count, fourth, second, last);
    say("%s %s: %s, %s, then %u", name, operation & FUTEX_PRIVATE_FLAG ? "private" : "shared", outcome(answer),
        *word == (uint32_t)gettid() ? "mine" : *word ? "not zero" : "zero", *second);
}

static void try_futexes(bytes memory, int flag) {
    size_t page = 0;
#define TRY(OPERATION, VALUE)                                                                                          \
    try_futex(#OPERATION, OPERATION | flag, (uint32_t *)(memory + page * PAGE),                                         \
              (uint32_t *)(memory + (page + 512) * PAGE), VALUE),                                                      \
        page += 1024
    TRY(FUTEX_WAIT, 0);
    TRY(FUTEX_WAIT, 1);
    TRY(FUTEX_WAIT_BITSET, 0);
    TRY(FUTEX_WAKE, 1);
    TRY(FUTEX_CMP_REQUEUE, 0);
    TRY(FUTEX_CMP_REQUEUE, 1);
    TRY(FUTEX_WAKE_OP, 1);
    TRY(FUTEX_LOCK_PI, 0);
    TRY(FUTEX_LOCK_PI2, 0);
    TRY(FUTEX_TRYLOCK_PI, 0);
    TRY(FUTEX_UNLOCK_PI, 0);
    TRY(FUTEX_WAIT_REQUEUE_PI, 0);
    TRY(FUTEX_CMP_REQUEUE_PI, 0);
#undef TRY
}

CASE(futex_calls_in_untouched_holes) {
    const size_t length = 13 * 2 * UNIT;
    for (int round = 0; round < 4; round++) {
        fd = sparse_file("file", length);
        at = round < 2 ? map_shared(fd, length) : map_private(fd, length);
        try_futexes(at, round % 2 ? FUTEX_PRIVATE_FLAG : 0);
        unmap(at, length);
        close(fd);
        MUST(unlink("file"));
    }
}

static void *wait_privately(void *argument) {
    uint32_t *word = argument;
    say("woken: %s", outcome(futex(word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0)));
    return NULL;
}

/* Nothing that others need is held while somebody waits. */
CASE(who_waits_in_a_hole_holds_nobody_up) {
    hole();
    bytes other = map_shared(fd, FILE_BYTES);
    uint32_t *word = (uint32_t *)(at + UNIT);
    pthread_t thread;
    CHECK_EQUAL(pthread_create(&thread, NULL, wait_privately, word), 0);
    /* Once it can be sent elsewhere, it sleeps. */
    uint32_t elsewhere = 0;
    while (MUST(syscall(SYS_futex, word, FUTEX_REQUEUE | FUTEX_PRIVATE_FLAG, 0, 1, &elsewhere, 0)) == 0)
        sched_yield();
    unmap(other, FILE_BYTES);
    at[3 * UNIT] = 1;
    MUST(msync((void *)at, FILE_BYTES, MS_SYNC));
    CHECK_EQUAL(futex(&elsewhere, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1), 1);
    pthread_join(thread, NULL);
    CHECK_EQUAL(*word, 0);
    CHECK(same_as_file(at, fd, 0, FILE_BYTES));
}

struct shared_locks {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    sem_t semaphore;
    pthread_barrier_t barrier;
    long count, ready;
};

static void count_under_lock(struct shared_locks *locks) {
    pthread_mutex_lock(&locks->mutex);
    locks->ready++;
    pthread_cond_broadcast(&locks->changed);
    while (locks->ready < 2)
        pthread_cond_wait(&locks->changed, &locks->mutex);
    pthread_mutex_unlock(&locks->mutex);
    for (int n = 0; n < 20000; n++) {
        pthread_mutex_lock(&locks->mutex);
        locks->count++;
        pthread_mutex_unlock(&locks->mutex);
    }
    sem_post(&locks->semaphore);
    pthread_barrier_wait(&locks->barrier);
}

CASE(process_shared_locks_live_in_a_hole) {
    hole();
    CHECK_EQUAL(touch(at, FILE_BYTES), 0);
    struct shared_locks *locks = (struct shared_locks *)(at + 5 * UNIT);
    pthread_mutexattr_t mutex;
    pthread_condattr_t condition;
    pthread_barrierattr_t barrier;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_barrierattr_init(&barrier);
    pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED);
    CHECK_EQUAL(pthread_mutex_init(&locks->mutex, &mutex), 0);
    CHECK_EQUAL(pthread_cond_init(&locks->changed, &condition), 0);
    CHECK_EQUAL(pthread_barrier_init(&locks->barrier, &barrier, 2), 0);
    MUST(sem_init(&locks->semaphore, 1, 0));
    pid_t child = fork();
    if (child == 0) {
        count_under_lock(locks);
        pthread_mutex_lock(&locks->mutex);
        _exit(0); /* with the lock held: the next owner is told */
    }
    count_under_lock(locks);
    MUST(sem_wait(&locks->semaphore));
    CHECK_EQUAL(end_of(child), 0);
    CHECK_EQUAL(pthread_mutex_lock(&locks->mutex), EOWNERDEAD);
    CHECK_EQUAL(locks->count, 40000);
    forget("file");
}

/* ---- two threads, one instruction, one page ---- */

static volatile int round_begun, stores_made;
#define ROUNDS 2000

static void *store_once_a_round(void *argument) {
    size_t which = (size_t)argument;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(which, &one);
    (void)sched_setaffinity(0, sizeof one, &one); /* so that they meet; where there is no second processor they need not */
    for (int round = 1; round <= ROUNDS; round++) {
        while (round_begun != round)
            sched_yield();
        at[3 * PAGE + which] = (uint8_t)(round | 1);
        __atomic_add_fetch(&stores_made, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

/* Whoever comes second finds the page opened already. That it does so again and again is no reason to be refused it. */
CASE(two_threads_race_for_the_same_page_of_file_after_file) {
    pthread_t threads[2];
    fd = sparse_file("file", FILE_BYTES);
    for (size_t n = 0; n < 2; n++)
        CHECK_EQUAL(pthread_create(&threads[n], NULL, store_once_a_round, (void *)n), 0);
    for (int round = 1; round <= ROUNDS; round++) {
        at = map_shared(fd, FILE_BYTES);
        stores_made = 0;
        round_begun = round;
        while (stores_made != 2)
            sched_yield();
        CHECK_EQUAL(at[3 * PAGE], (uint8_t)(round | 1));
        CHECK_EQUAL(at[3 * PAGE + 1], (uint8_t)(round | 1));
        unmap(at, FILE_BYTES);
        MUST(ftruncate(fd, 0));
        MUST(ftruncate(fd, (off_t)FILE_BYTES));
    }
    for (size_t n = 0; n < 2; n++)
        pthread_join(threads[n], NULL);
}
