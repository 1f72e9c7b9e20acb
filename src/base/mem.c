#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/metrics.h"

enum { HALF_MIN = 512 << 10, UNSAID_MAX = 16 << 10, TRIM = 768 << 10 };
/* Pages of the program that are touched for the first time later, and the allocator's waste. */
enum { ALLOWANCE = 512 << 10 };

/* By thread, so that counting is an addition of its own: memory may be freed by another thread than
 * took it, and only the sum of all means something. */
static struct {
    _Alignas(64) _Atomic uint64_t held[MEM_KINDS];
} threads[THREADS_MAX];

/* The halves: 0 all but guests, 1 guests. A thread adds to a half only now and then. */
static struct {
    _Alignas(64) _Atomic int64_t total;
    int64_t limit;
} halves[2] = {{.limit = INT64_MAX}, {.limit = INT64_MAX}};
static _Thread_local int64_t unsaid[2];
static _Thread_local uint32_t spare;
static _Thread_local int64_t most; /* of all but guests, since mem_trim_due */
static uint64_t promised, base;    /* base: what is not of any kind */

_Thread_local struct mem_whose mem_whose;

static void count(enum mem_kind kind, int64_t n)
{
    int half = kind == MEM_GUEST;
    _Atomic uint64_t *held = &threads[thread_number].held[kind];
    uint64_t now = atomic_load_explicit(held, memory_order_relaxed) + (uint64_t)n;
    atomic_store_explicit(held, now, memory_order_relaxed);
    unsaid[half] += n;
    if (unsaid[half] > UNSAID_MAX || unsaid[half] < -UNSAID_MAX) {
        int64_t sum = atomic_fetch_add_explicit(&halves[half].total, unsaid[half],
                                                memory_order_relaxed) +
                      unsaid[half];
        most = half ? most : MAX(most, sum);
        unsaid[half] = 0;
    }
}

static bool fits(int half, uint64_t n, int64_t limit)
{
    int64_t now = atomic_load_explicit(&halves[half].total, memory_order_relaxed) + unsaid[half];
    return n <= INT64_MAX / 2 && now + (int64_t)n <= limit;
}

void mem_spare(uint32_t n)
{
    spare = MIN(n, (uint32_t)MEM_SPARE);
}

bool mem_fits(enum mem_kind kind, uint64_t n)
{
    int half = kind == MEM_GUEST;
    return fits(half, n, halves[half].limit + (half ? 0 : spare));
}

bool mem_could(enum mem_kind kind, uint64_t n)
{
    return n <= (uint64_t)halves[kind == MEM_GUEST].limit;
}

bool mem_room(enum mem_kind kind, uint64_t n)
{
    int half = kind == MEM_GUEST;
    return fits(half, n, halves[half].limit / 8 * 7);
}

bool mem_trim_due(void)
{
    int64_t now = atomic_load_explicit(&halves[0].total, memory_order_relaxed);
    if (most - now < TRIM)
        return false;
    most = now;
    return true;
}

bool mem_take(enum mem_kind kind, uint64_t n)
{
    if (!mem_fits(kind, n)) {
        metrics.memory_refused_total++;
        return false;
    }
    count(kind, (int64_t)n);
    return true;
}

void mem_give(enum mem_kind kind, uint64_t n)
{
    count(kind, -(int64_t)n);
}

uint64_t mem_bytes(enum mem_kind kind)
{
    uint64_t sum = 0;
    for (int i = 0; i < THREADS_MAX; i++)
        sum += atomic_load_explicit(&threads[i].held[kind], memory_order_relaxed);
    return sum;
}

const char *mem_name(enum mem_kind kind)
{
    static const char *const names[] = {
#define MEM_KIND(kind, name) name,
#include "tbl/mem.def"
#undef MEM_KIND
    };
    return names[kind];
}

uint64_t mem_buffer_bytes(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < MEM_POOL; i++)
        sum += mem_bytes((enum mem_kind)i);
    return sum;
}

void *mem_alloc_as(enum mem_kind kind, size_t n)
{
    if (!mem_take(kind, n))
        return NULL;
    mem_owner_set(kind + 1);
    void *p = malloc(n);
    mem_owner_set(0);
    if (!p)
        mem_give(kind, n);
    return p;
}

void mem_free_as(enum mem_kind kind, void *p, size_t n)
{
    if (!p)
        return;
    mem_give(kind, n);
    free(p);
}

void *mem_alloc(size_t n)
{
    return mem_alloc_as(MEM_BUFFER, n);
}

void *mem_alloc_foreseen(size_t n)
{
    mem_owner_set(MEM_BUFFER + 1);
    void *p = malloc(n);
    mem_owner_set(0);
    ASSERT(p);
    count(MEM_BUFFER, (int64_t)n);
    return p;
}

void mem_free(void *p, size_t n)
{
    mem_free_as(MEM_BUFFER, p, n);
}

bool mem_promise(uint64_t total, uint64_t process)
{
    uint64_t own = mem_buffer_bytes() + mem_bytes(MEM_POOL) + mem_bytes(MEM_TLS),
             guests = mem_bytes(MEM_GUEST);
    base = process + ALLOWANCE - MIN(process, own + guests);
    promised = total;
    if (total < base || (total - base) / 2 < HALF_MIN)
        return false;
    halves[0].limit = halves[1].limit = (int64_t)((total - base) / 2);
    halves[0].limit -= MEM_SPARE;
    return true;
}

uint64_t mem_promised(void)
{
    return promised;
}

uint64_t mem_accounted(void)
{
    uint64_t sum = base;
    for (int i = 0; promised && i < MEM_KINDS; i++)
        sum += mem_bytes((enum mem_kind)i);
    return sum;
}
