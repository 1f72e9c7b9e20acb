/* Memory by who took it: of each `every` bytes that malloc gives, in the mean, one allocation is
 * noted with its stack, and struck out as it is freed. Sampling is a Poisson process over bytes, as
 * in tcmalloc and Go: one of n bytes is noted with the probability 1 - exp(-n / every), and stands
 * for as many as the reciprocal of that, so that sums are right in the mean.
 *
 * The linker puts these in front of malloc and its kin (--wrap, meson.build), for all that is
 * linked in. Off, each costs a look at one variable. On, taking costs a subtraction more, and
 * freeing a look at a byte, but for what was noted. */
#include <pthread.h>
#include <stdatomic.h>

#include "sys/sys.h"
#include "sys/sys_profile.h"

enum { TABLE = 192 << 10, LINES = 256, WAYS = 8 };

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
int __real_posix_memalign(void **out, size_t align, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
int __wrap_posix_memalign(void **out, size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);

/* What was noted and is there: found by a hash of its address, in one of a line's places. A thread
 * that frees an address sees it here if it is, as it came to that thread after it was noted; so it
 * looks without the lock. */
static _Atomic uintptr_t noted[LINES][WAYS];
static _Atomic uint8_t filled[LINES];
static struct {
    uint64_t n;
    struct stack *stack;
} notes[LINES][WAYS];

static _Atomic uint64_t every; /* 0: off */
static struct stacks *stacks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local bool holds;   /* the lock: what it takes meanwhile is not noted */
static _Thread_local int64_t left; /* bytes to the next that is noted */
static _Thread_local uint64_t random_state;

static uint32_t line_of(const void *p)
{
    return (uint32_t)(((uintptr_t)p >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 56) % LINES;
}

/* By own means, as the mathematical library's tables would be 40 KB of this process: of [1, 2) by
 * the series of artanh, to six digits. */
static double natural_log(uint64_t n)
{
    int bits = 63 - __builtin_clzll(n);
    double m = (double)n / (double)(UINT64_C(1) << bits), z = (m - 1) / (m + 1), zz = z * z;
    return bits * 0.69314718056 +
           2 * z * (1 + zz * (1. / 3 + zz * (1. / 5 + zz * (1. / 7 + zz * (1. / 9)))));
}

/* 1 - exp(-x), for small x too: of x halved until it is small, then 1 - exp(-2h) = t (2 - t). */
static double taken_of(double x)
{
    int halved = 0;
    for (; x > 0.0625 && halved < 12; halved++)
        x /= 2;
    double t = x > 0.0625 ? 1 : x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4)));
    while (halved-- > 0)
        t *= 2 - t;
    return t;
}

/* xorshift64*; exponential with the mean `mean`. */
static int64_t draw(uint64_t mean)
{
    uint64_t x = random_state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    random_state = x;
    uint64_t u = (x * UINT64_C(2685821657736338717) >> 12) + 1; /* of 2^52 */
    return (int64_t)((52 * 0.69314718056 - natural_log(u)) * (double)mean) + 1;
}

static void count(struct stack *k, unsigned objects, uint64_t n, uint64_t mean)
{
    double stands_for = 1 / taken_of((double)MAX(n, 1) / (double)mean);
    k->counts[objects] += (uint64_t)(stands_for * STACK_PARTS + 0.5);
    k->counts[objects + 1] += (uint64_t)(stands_for * (double)n + 0.5);
}

static void put(const void *p, size_t n, const uint64_t *pcs, unsigned depth, uint64_t mean)
{
    uint32_t line = line_of(p);
    unsigned way = 0;
    if (!stacks)
        return; /* switched off meanwhile */
    while (way < WAYS && atomic_load_explicit(&noted[line][way], memory_order_relaxed))
        way++;
    struct stack *k = way < WAYS ? stacks_get(stacks, mem_whose, pcs, depth) : NULL;
    if (!k) {
        stacks->dropped += way == WAYS;
        return;
    }
    count(k, STACK_ALLOCS, n, mean);
    notes[line][way].n = n;
    notes[line][way].stack = k;
    atomic_store_explicit(&noted[line][way], (uintptr_t)p, memory_order_relaxed);
    atomic_fetch_add_explicit(&filled[line], 1, memory_order_relaxed);
}

static __attribute__((noinline)) void note(const void *p, size_t n, void *frame)
{
    uint64_t pcs[STACK_DEPTH], mean = atomic_load_explicit(&every, memory_order_relaxed);
    if (!random_state) { /* this thread's first: not noted for being that */
        random_state = sys_now_ns() ^ (uintptr_t)&left;
        left = draw(mean) - (int64_t)MIN(n, (size_t)INT64_MAX / 2);
        if (left >= 0)
            return;
    }
    left = draw(mean);
    if (holds || !p || !mean)
        return;
    unsigned depth = stack_walk((uintptr_t)frame, (uintptr_t)frame, pcs, STACK_DEPTH);
    pthread_mutex_lock(&lock);
    put(p, n, pcs, depth, mean);
    pthread_mutex_unlock(&lock);
}

static __attribute__((noinline)) void strike(uint32_t line, const void *p)
{
    bool held = holds;
    for (unsigned way = 0; way < WAYS; way++) {
        if (atomic_load_explicit(&noted[line][way], memory_order_relaxed) != (uintptr_t)p)
            continue;
        if (!held)
            pthread_mutex_lock(&lock);
        /* Unless it was switched off, and perhaps on again, meanwhile. */
        if (stacks &&
            atomic_load_explicit(&noted[line][way], memory_order_relaxed) == (uintptr_t)p) {
            uint64_t mean = atomic_load_explicit(&every, memory_order_relaxed);
            count(notes[line][way].stack, STACK_FREES, notes[line][way].n, mean);
            atomic_store_explicit(&noted[line][way], 0, memory_order_relaxed);
            atomic_fetch_sub_explicit(&filled[line], 1, memory_order_relaxed);
        }
        if (!held)
            pthread_mutex_unlock(&lock);
        return;
    }
}

static bool is_on(void)
{
    return atomic_load_explicit(&every, memory_order_relaxed) != 0;
}

/* Before it is another's. */
static void gone(const void *p)
{
    uint32_t line = line_of(p);
    if (is_on() && atomic_load_explicit(&filled[line], memory_order_relaxed) && p)
        strike(line, p);
}

#define TAKEN(p, n)                                                                                \
    do {                                                                                           \
        if (is_on() && (left -= (int64_t)(n)) < 0)                                                 \
            note(p, n, __builtin_frame_address(0));                                                \
    } while (0)

void *__wrap_malloc(size_t n)
{
    void *p = __real_malloc(n);
    TAKEN(p, n);
    return p;
}

void *__wrap_calloc(size_t n, size_t size)
{
    void *p = __real_calloc(n, size);
    TAKEN(p, p ? n * size : 0);
    return p;
}

void *__wrap_realloc(void *p, size_t n)
{
    gone(p); /* where there is no room it stays, and is no longer noted */
    p = __real_realloc(p, n);
    TAKEN(p, n);
    return p;
}

void __wrap_free(void *p)
{
    gone(p);
    __real_free(p);
}

int __wrap_posix_memalign(void **out, size_t align, size_t n)
{
    int e = __real_posix_memalign(out, align, n);
    TAKEN(e ? NULL : *out, n);
    return e;
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    void *p = __real_aligned_alloc(align, n);
    TAKEN(p, n);
    return p;
}

/* ---- on and off ---- */

enum err sys_heap_start(uint64_t mean)
{
    struct stacks *s = stacks_new(TABLE);
    if (!s)
        return ERR_NO_MEMORY;
    pthread_mutex_lock(&lock);
    stacks = s;
    pthread_mutex_unlock(&lock);
    atomic_store(&every, mean);
    return ERR_NONE;
}

void sys_heap_stop(void)
{
    pthread_mutex_lock(&lock);
    struct stacks *s = stacks;
    stacks = NULL;
    atomic_store(&every, 0);
    for (unsigned i = 0; i < LINES; i++) {
        if (!atomic_load_explicit(&filled[i], memory_order_relaxed))
            continue; /* nor is its memory touched */
        for (unsigned way = 0; way < WAYS; way++)
            atomic_store_explicit(&noted[i][way], 0, memory_order_relaxed);
        atomic_store_explicit(&filled[i], 0, memory_order_relaxed);
    }
    pthread_mutex_unlock(&lock);
    stacks_free(s);
}

uint64_t sys_heap_every(void)
{
    return atomic_load_explicit(&every, memory_order_relaxed);
}

struct stacks *sys_heap_lock(void)
{
    pthread_mutex_lock(&lock);
    holds = stacks != NULL;
    if (!holds)
        pthread_mutex_unlock(&lock);
    return stacks;
}

void sys_heap_unlock(void)
{
    holds = false;
    pthread_mutex_unlock(&lock);
}
