#include "hub/presence.h"

#include "base/buf.h"

enum { PLACES_FIRST = 64 };

struct entry {
    _Atomic uint64_t hash; /* 0: nothing was here yet, and a search ends */
    _Atomic uint64_t loops;
    _Atomic uint32_t members;
};

struct presence_table {
    struct epoch_retired retired;
    uint32_t n_places; /* a power of two */
    struct entry places[];
};

void presence_init(struct presence *p, struct epochs *epochs)
{
    memset(p, 0, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    p->epochs = epochs;
}

static size_t size_of(uint32_t n_places)
{
    return sizeof(struct presence_table) + n_places * sizeof(struct entry);
}

static void table_free(struct epoch_retired *r)
{
    struct presence_table *t = CONTAINER_OF(r, struct presence_table, retired);
    mem_free(t, size_of(t->n_places));
}

void presence_done(struct presence *p)
{
    struct presence_table *t = atomic_load(&p->table);
    if (t)
        table_free(&t->retired);
    pthread_mutex_destroy(&p->lock);
}

/* The topic's place, or the one where it would be; NULL: there is no table yet. */
static struct entry *find(struct presence_table *t, uint64_t hash)
{
    for (uint32_t i = (uint32_t)hash; t; i++) {
        struct entry *e = &t->places[i & (t->n_places - 1)];
        uint64_t has = atomic_load(&e->hash);
        if (!has || has == hash)
            return e;
    }
    return NULL;
}

static uint64_t nonzero(uint64_t hash)
{
    return hash ? hash : 1;
}

uint64_t presence_find(const struct presence *p, uint64_t hash, uint32_t *members)
{
    const struct entry *e = find(atomic_load(&p->table), nonzero(hash));
    *members = e ? atomic_load(&e->members) : 0;
    return e ? atomic_load(&e->loops) : 0;
}

/* Makes a table of those that have members, with room for as many again. */
static enum err grow(struct presence *p, struct presence_table *old)
{
    uint32_t live = 0, n = PLACES_FIRST;
    for (uint32_t i = 0; old && i < old->n_places; i++)
        live += atomic_load(&old->places[i].members) > 0;
    while (n < live * 4)
        n *= 2;
    struct presence_table *t = mem_alloc(size_of(n));
    if (!t)
        return ERR_NO_MEMORY;
    memset(t, 0, size_of(n));
    t->n_places = n;
    for (uint32_t i = 0; old && i < old->n_places; i++) {
        const struct entry *from = &old->places[i];
        if (!atomic_load(&from->members))
            continue;
        struct entry *to = find(t, atomic_load(&from->hash));
        atomic_store(&to->hash, atomic_load(&from->hash));
        atomic_store(&to->loops, atomic_load(&from->loops));
        atomic_store(&to->members, atomic_load(&from->members));
    }
    p->used = live;
    atomic_store(&p->table, t);
    if (old)
        epoch_retire(p->epochs, &old->retired, table_free);
    return ERR_NONE;
}

static enum err join(struct presence *p, uint64_t hash)
{
    struct presence_table *t = atomic_load(&p->table);
    epoch_reclaim(p->epochs);
    if (!t || p->used >= t->n_places / 4 * 3) {
        enum err e = grow(p, t);
        if (e)
            return e;
        t = atomic_load(&p->table);
    }
    struct entry *e = find(t, hash);
    if (!atomic_load(&e->hash)) {
        atomic_store(&e->hash, hash);
        p->used++;
    }
    if (!atomic_fetch_add(&e->members, 1))
        atomic_fetch_add(&p->count, 1);
    atomic_fetch_or(&e->loops, UINT64_C(1) << thread_number);
    return ERR_NONE;
}

enum err presence_join(struct presence *p, uint64_t hash)
{
    pthread_mutex_lock(&p->lock);
    enum err e = join(p, nonzero(hash));
    pthread_mutex_unlock(&p->lock);
    return e;
}

void presence_leave(struct presence *p, uint64_t hash, bool last)
{
    pthread_mutex_lock(&p->lock);
    struct entry *e = find(atomic_load(&p->table), nonzero(hash));
    ASSERT(e && atomic_load(&e->members));
    if (atomic_fetch_sub(&e->members, 1) == 1)
        atomic_fetch_sub(&p->count, 1);
    if (last)
        atomic_fetch_and(&e->loops, ~(UINT64_C(1) << thread_number));
    pthread_mutex_unlock(&p->lock);
}
