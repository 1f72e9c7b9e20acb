#include "net/peers.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/metrics.h"

/* An entry's number is its index + 1: 0 is none. */
struct peer {
    uint64_t key;
    uint64_t seen_ms;
    uint32_t chain;        /* of its bucket */
    uint32_t older, newer; /* where it has no connections */
    uint32_t connections;
    uint32_t excess; /* thousandths of what it did beyond its rate */
};

enum { PEERS_FIRST = 64, BUCKETS_MAX = 1 << 14 };

static struct peer *at(const struct peers *p, uint32_t peer)
{
    return &p->entries[peer - 1];
}

static uint32_t *bucket(const struct peers *p, uint64_t key)
{
    return &p->buckets[hash_bytes(slice_of(&key, sizeof(key))) & (p->n_buckets - 1)];
}

static void idle_remove(struct peers *p, uint32_t peer)
{
    struct peer *e = at(p, peer);
    *(e->older ? &at(p, e->older)->newer : &p->oldest) = e->newer;
    *(e->newer ? &at(p, e->newer)->older : &p->newest) = e->older;
    e->older = e->newer = 0;
}

static void idle_add(struct peers *p, uint32_t peer)
{
    struct peer *e = at(p, peer);
    e->older = p->newest;
    *(p->newest ? &at(p, p->newest)->newer : &p->oldest) = peer;
    p->newest = peer;
}

static uint32_t find(const struct peers *p, uint64_t key)
{
    uint32_t peer = *bucket(p, key);
    while (peer && at(p, peer)->key != key)
        peer = at(p, peer)->chain;
    return peer;
}

/* A place that nobody has, or the oldest idle one's. 0: no memory. */
static uint32_t place(struct peers *p)
{
    if (p->n_entries == p->cap && p->cap < p->limits.peers) {
        uint32_t cap = MIN(MAX(p->cap * 2, (uint32_t)PEERS_FIRST), p->limits.peers);
        struct peer *more = mem_alloc(cap * sizeof(*more));
        if (more) {
            slice_copy(more, slice_of(p->entries, p->n_entries * sizeof(*more)));
            mem_free(p->entries, p->cap * sizeof(*more));
            p->entries = more;
            p->cap = cap;
        }
    }
    if (p->n_entries < p->cap) {
        metrics.peers_known++;
        return ++p->n_entries;
    }
    uint32_t peer = p->oldest;
    if (!peer)
        return 0;
    metrics.peers_forgotten_total++;
    idle_remove(p, peer);
    uint32_t *link = bucket(p, at(p, peer)->key);
    while (*link != peer)
        link = &at(p, *link)->chain;
    *link = at(p, peer)->chain;
    return peer;
}

/* The address's entry, made where there is none, without connections as the newest. */
static uint32_t entry(struct peers *p, uint64_t key)
{
    uint32_t peer = find(p, key);
    if (peer && !at(p, peer)->connections) {
        idle_remove(p, peer);
        idle_add(p, peer);
    }
    if (peer || !(peer = place(p)))
        return peer;
    uint32_t *b = bucket(p, key);
    *at(p, peer) = (struct peer){.key = key, .chain = *b};
    *b = peer;
    idle_add(p, peer);
    return peer;
}

uint32_t peers_join(struct peers *p, const struct address *a)
{
    uint32_t peer = entry(p, address_key(a));
    struct peer *e = peer ? at(p, peer) : NULL;
    if (!e || (p->limits.connections && e->connections >= p->limits.connections))
        return 0;
    if (!e->connections++)
        idle_remove(p, peer);
    return peer;
}

uint32_t peers_join_key(struct peers *p, uint64_t key)
{
    uint32_t peer = entry(p, key);
    if (peer && !at(p, peer)->connections++)
        idle_remove(p, peer);
    return peer;
}

uint64_t peers_key(const struct peers *p, uint32_t peer)
{
    return at(p, peer)->key;
}

void peers_leave(struct peers *p, uint32_t peer)
{
    if (!peer)
        return;
    ASSERT(peer <= p->n_entries && at(p, peer)->connections);
    if (!--at(p, peer)->connections)
        idle_add(p, peer);
}

/* What it did beyond its rate until now, in thousandths. */
static uint32_t excess(const struct peers *p, const struct peer *e, uint64_t now_ms)
{
    uint64_t ms = now_ms - e->seen_ms;
    uint64_t less = ms > UINT32_MAX ? UINT32_MAX : ms * p->limits.rate;
    return e->excess > less ? e->excess - (uint32_t)less : 0;
}

bool peers_may(struct peers *p, const struct address *a, uint64_t now_ms)
{
    uint32_t peer = p->limits.rate ? find(p, address_key(a)) : 0;
    return !peer || excess(p, at(p, peer), now_ms) <= (uint64_t)p->limits.burst * 1000;
}

bool peers_take(struct peers *p, const struct address *a, uint64_t now_ms)
{
    uint32_t peer = p->limits.rate ? entry(p, address_key(a)) : 0;
    if (!peer)
        return !p->limits.rate; /* no memory is no reason to let anybody do as he likes */
    struct peer *e = at(p, peer);
    uint32_t now = excess(p, e, now_ms);
    if (now > (uint64_t)p->limits.burst * 1000)
        return false;
    e->excess = now + 1000;
    e->seen_ms = now_ms;
    return true;
}

enum err peers_init(struct peers *p, const struct peers_limits *limits)
{
    *p = (struct peers){.limits = *limits, .n_buckets = PEERS_FIRST};
    while (p->n_buckets < limits->peers / 2 && p->n_buckets < BUCKETS_MAX)
        p->n_buckets *= 2;
    p->buckets = mem_alloc(p->n_buckets * sizeof(*p->buckets));
    if (!p->buckets)
        return ERR_NO_MEMORY;
    memset(p->buckets, 0, p->n_buckets * sizeof(*p->buckets));
    return ERR_NONE;
}

void peers_done(struct peers *p)
{
    mem_free(p->entries, p->cap * sizeof(*p->entries));
    mem_free(p->buckets, p->n_buckets * sizeof(*p->buckets));
    *p = (struct peers){.n_entries = 0};
}

void peers_check(const struct peers *p)
{
    uint32_t idle = 0, busy = 0, before = 0, chained = 0;
    ASSERT(p->n_entries <= p->cap && p->cap <= p->limits.peers);
    for (uint32_t i = p->oldest; i; i = at(p, i)->newer) {
        ASSERT(!at(p, i)->connections && at(p, i)->older == before && ++idle <= p->n_entries);
        before = i;
    }
    ASSERT(before == p->newest);
    for (uint32_t i = 0; i < p->n_entries; i++)
        busy += p->entries[i].connections > 0;
    ASSERT(idle + busy == p->n_entries);
    for (uint32_t i = 0; p->n_entries && i < p->n_buckets; i++)
        for (uint32_t peer = p->buckets[i]; peer; peer = at(p, peer)->chain)
            ASSERT(find(p, at(p, peer)->key) == peer && ++chained <= p->n_entries);
    ASSERT(chained == p->n_entries);
}
