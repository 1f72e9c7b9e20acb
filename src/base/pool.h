/* Pools of fixed-size objects whose handles outlive them: a {slot, generation} that names an
 * object which has gone resolves to NULL. An object begins with a struct pool_slot. Memory grows
 * by chunks and is not given back, so a handle can always be looked up. */
#ifndef WEIR_POOL_H
#define WEIR_POOL_H

#include "base/base.h"

struct pool_slot {
    uint32_t generation; /* odd while in use; 0 before the first use */
    uint32_t index;      /* in use: its own; free: the next free one */
};

struct pool {
    uint8_t **chunks;
    uint32_t item_size, max, count, free_head, in_use;
    uint32_t settled; /* generation that slots which are used first begin behind; even */
};

enum { POOL_CHUNK = 256 }; /* objects a chunk */

void pool_init(struct pool *p, uint32_t item_size, uint32_t max);
void pool_done(struct pool *p);
void *pool_alloc(struct pool *p) MUST_USE; /* zeroed behind its slot; NULL past max or no memory */
void pool_free(struct pool *p, void *item);
/* Objects of another process that come here with their handles, before any pool_alloc: each gets
 * that very slot. NULL: it is taken, or no handle, or there is no memory. When all are there,
 * pool_settle makes the other slots free; their handles, and those of slots that are used first
 * later, begin behind `generation`, which is the other's pool_generation. */
void *pool_adopt(struct pool *p, uint32_t index, uint32_t generation) MUST_USE;
void pool_settle(struct pool *p, uint32_t generation);
uint32_t pool_generation(const struct pool *p);      /* even; no slot's was ever beyond it */
void *pool_at(const struct pool *p, uint32_t index); /* NULL where it is not in use */
uint64_t pool_bytes(void);                           /* held by all pools */

static inline void *pool_get(const struct pool *p, uint32_t index, uint32_t generation)
{
    struct pool_slot *s = pool_at(p, index);
    return s && s->generation == generation ? s : NULL;
}

#endif
