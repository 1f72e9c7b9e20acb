#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void buf_done(struct buf *b)
{
    mem_free(b->p, b->cap);
    b->p = NULL;
    b->len = b->cap = 0;
}

enum err buf_reserve(struct buf *b, size_t n)
{
    if (n <= b->cap - b->len)
        return ERR_NONE;
    if (n > b->max - b->len)
        return ERR_LIMIT;
    size_t want = b->len + n;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < want)
        cap *= 2;
    cap = MIN(cap, b->max);
    if (!mem_take(MEM_BUFFER, cap - b->cap))
        return ERR_NO_MEMORY;
    mem_owner_set(MEM_BUFFER + 1);
    uint8_t *p = realloc(b->p, cap);
    mem_owner_set(0);
    if (!p) {
        mem_give(MEM_BUFFER, cap - b->cap);
        return ERR_NO_MEMORY;
    }
    b->p = p;
    b->cap = (uint32_t)cap;
    return ERR_NONE;
}

enum err buf_append(struct buf *b, struct slice s)
{
    enum err e = buf_reserve(b, s.n);
    if (e)
        return e;
    if (s.n)
        memcpy(b->p + b->len, s.p, s.n);
    b->len += (uint32_t)s.n;
    return ERR_NONE;
}

void buf_consume(struct buf *b, size_t n)
{
    ASSERT(n <= b->len);
    b->len -= (uint32_t)n;
    if (b->len)
        memmove(b->p, b->p + n, b->len);
}

void buf_clear(struct buf *b, uint32_t keep)
{
    b->len = 0;
    if (b->cap > keep)
        buf_done(b);
}

enum err buf_printf(struct buf *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    ASSERT(n >= 0);
    enum err e = buf_reserve(b, (size_t)n + 1);
    if (e)
        return e;
    va_start(args, format);
    vsnprintf((char *)b->p + b->len, (size_t)n + 1, format, args);
    va_end(args);
    b->len += (uint32_t)n;
    return ERR_NONE;
}
