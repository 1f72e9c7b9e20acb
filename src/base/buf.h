/* Bounded growable byte buffers. With pool.h the only allocator of this program, so that
 * accounting and limits have one home. */
#ifndef WEIR_BUF_H
#define WEIR_BUF_H

#include "base/mem.h"

struct buf {
    uint8_t *p;
    uint32_t len, cap, max; /* bytes; max is given once and never exceeded */
};

static inline void buf_init(struct buf *b, uint32_t max)
{
    *b = (struct buf){NULL, 0, 0, max};
}

void buf_done(struct buf *b); /* frees; usable again with the same max */

/* Room for n more bytes at p + len. ERR_LIMIT past max, ERR_NO_MEMORY. */
enum err buf_reserve(struct buf *b, size_t n) MUST_USE;
enum err buf_append(struct buf *b, struct slice s) MUST_USE;
void buf_consume(struct buf *b, size_t n);    /* drops n bytes from the front */
void buf_clear(struct buf *b, uint32_t keep); /* empties; frees what is larger than keep bytes */

/* printf at the end; ERR_LIMIT and nothing written where it does not fit. */
enum err buf_printf(struct buf *b, const char *format, ...)
    __attribute__((format(printf, 2, 3))) MUST_USE;

static inline struct slice buf_slice(const struct buf *b)
{
    return (struct slice){b->p, b->len};
}

#endif
