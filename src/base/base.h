/* Words that every file speaks: slices, assertions, small arithmetic. */
#ifndef WEIR_BASE_H
#define WEIR_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"

/* Borrowed bytes. Whoever hands one out says how long it lives; by default until the callback that
 * received it returns. */
struct slice {
    const uint8_t *p;
    size_t n;
};

#define SLICE(literal) ((struct slice){(const uint8_t *)("" literal), sizeof(literal) - 1})
#define SLICE_NONE ((struct slice){NULL, 0})

static inline struct slice slice_of(const void *p, size_t n)
{
    return (struct slice){p, n};
}

static inline struct slice slice_str(const char *s)
{
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool slice_begins(struct slice s, struct slice with)
{
    return s.n >= with.n && slice_eq(slice_of(s.p, with.n), with);
}

/* What stands before the first `end`, which *rest then begins behind. None: all, and *rest is
 * SLICE_NONE. */
static inline struct slice slice_cut(struct slice *rest, uint8_t end)
{
    const uint8_t *at = rest->n ? memchr(rest->p, end, rest->n) : NULL;
    struct slice all = *rest, part = slice_of(all.p, at ? (size_t)(at - all.p) : all.n);
    *rest = at ? slice_of(at + 1, all.n - part.n - 1) : SLICE_NONE;
    return part;
}

/* An empty slice may have no address, which memcpy does not allow. */
static inline void slice_copy(void *to, struct slice s)
{
    if (s.n)
        memcpy(to, s.p, s.n);
}

static inline uint8_t ascii_lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

/* ASCII only, as HTTP compares tokens (RFC 9110 5.1). */
static inline bool slice_eq_nocase(struct slice a, struct slice b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MUST_USE __attribute__((warn_unused_result))
#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Programmers' errors only, and so kept in release builds: no peer, guest or file can trip one. */
#define ASSERT(cond)                                                                               \
    do {                                                                                           \
        if (UNLIKELY(!(cond)))                                                                     \
            assert_failed(#cond, __FILE__, __LINE__);                                              \
    } while (0)

/* Which of the program's loops the calling thread runs: 0 where there is one. All that base/ counts
 * is counted by thread. */
enum { THREADS_MAX = 64 };
extern _Thread_local uint8_t thread_number;

_Noreturn void assert_failed(const char *cond, const char *file, int line);

#endif
