#include "base/pool.h"

#include <stdlib.h>

#include "base/buf.h"

#define NO_SLOT UINT32_MAX

uint64_t pool_bytes(void)
{
    return mem_bytes(MEM_POOL);
}

static uint32_t chunks_of(uint32_t items)
{
    return (items + POOL_CHUNK - 1) / POOL_CHUNK;
}

static struct pool_slot *slot_at(const struct pool *p, uint32_t i)
{
    return (struct pool_slot *)(p->chunks[i / POOL_CHUNK] +
                                (size_t)(i % POOL_CHUNK) * p->item_size);
}

void pool_init(struct pool *p, uint32_t item_size, uint32_t max)
{
    ASSERT(item_size >= sizeof(struct pool_slot) && item_size % _Alignof(struct pool_slot) == 0);
    *p = (struct pool){.item_size = item_size, .max = max, .free_head = NO_SLOT};
}

void pool_done(struct pool *p)
{
    for (uint32_t i = 0; i < chunks_of(p->count); i++) {
        free(p->chunks[i]);
        mem_give(MEM_POOL, (uint64_t)POOL_CHUNK * p->item_size);
    }
    free(p->chunks);
    mem_give(MEM_POOL, chunks_of(p->count) * sizeof(*p->chunks));
    pool_init(p, p->item_size, p->max);
}

static bool grow(struct pool *p)
{
    uint32_t have = chunks_of(p->count);
    uint64_t more = (uint64_t)POOL_CHUNK * p->item_size + sizeof(*p->chunks);
    if (!mem_take(MEM_POOL, more))
        return false;
    uint8_t **chunks = realloc(p->chunks, (have + 1) * sizeof(*chunks));
    if (chunks) {
        p->chunks = chunks;
        mem_owner_set(MEM_POOL + 1);
        chunks[have] = calloc(POOL_CHUNK, p->item_size);
        mem_owner_set(0);
        if (chunks[have])
            return true;
    }
    mem_give(MEM_POOL, more);
    return false;
}

void *pool_alloc(struct pool *p)
{
    struct pool_slot *s;
    uint32_t index;
    if (p->in_use >= p->max)
        return NULL;
    if (p->free_head != NO_SLOT) {
        index = p->free_head;
        s = slot_at(p, index);
        p->free_head = s->index;
    } else {
        if (p->count % POOL_CHUNK == 0 && !grow(p))
            return NULL;
        index = p->count++;
        s = slot_at(p, index);
        s->generation = p->settled;
    }
    memset(s + 1, 0, p->item_size - sizeof(*s));
    s->generation++;
    s->index = index;
    p->in_use++;
    return s;
}

void pool_free(struct pool *p, void *item)
{
    struct pool_slot *s = item;
    ASSERT(s->generation & 1);
    uint32_t index = s->index;
    s->generation++;
    s->index = p->free_head;
    p->free_head = index;
    p->in_use--;
}

void *pool_adopt(struct pool *p, uint32_t index, uint32_t generation)
{
    if (!(generation & 1) || index == NO_SLOT)
        return NULL;
    while (p->count <= index) {
        if (!grow(p))
            return NULL;
        p->count = (chunks_of(p->count) + 1) * POOL_CHUNK;
    }
    struct pool_slot *s = slot_at(p, index);
    if (s->generation & 1)
        return NULL;
    memset(s + 1, 0, p->item_size - sizeof(*s));
    *s = (struct pool_slot){generation, index};
    p->in_use++;
    return s;
}

void pool_settle(struct pool *p, uint32_t generation)
{
    p->free_head = NO_SLOT;
    p->settled = generation & ~UINT32_C(1);
    for (uint32_t i = p->count; i-- > 0;) {
        struct pool_slot *s = slot_at(p, i);
        if (s->generation & 1)
            continue;
        *s = (struct pool_slot){p->settled, p->free_head};
        p->free_head = i;
    }
}

uint32_t pool_generation(const struct pool *p)
{
    uint32_t most = p->settled;
    for (uint32_t i = 0; i < p->count; i++)
        most = MAX(most, slot_at(p, i)->generation + 1);
    return most & ~UINT32_C(1);
}

void *pool_at(const struct pool *p, uint32_t index)
{
    if (index >= p->count)
        return NULL;
    struct pool_slot *s = slot_at(p, index);
    return s->generation & 1 ? s : NULL;
}
