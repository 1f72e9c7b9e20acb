#include "hub/kv.h"

#include "base/buf.h"
#include "base/hash.h"

enum { BUCKETS_FIRST = 16, SWEEP = 4, SWEEP_ALL_MS = 1000 };

struct kv_entry {
    struct kv_entry *next;
    uint64_t hash, version, expires_ms;
    uint32_t key_n, value_n;
    uint8_t bytes[]; /* key, value */
};

void kv_init(struct kv *kv, uint64_t max)
{
    *kv = (struct kv){.max = max};
    pthread_mutex_init(&kv->lock, NULL);
}

static struct slice key_of(const struct kv_entry *e)
{
    return slice_of(e->bytes, e->key_n);
}

static struct slice value_of(const struct kv_entry *e)
{
    return slice_of(e->bytes + e->key_n, e->value_n);
}

static bool expired(const struct kv_entry *e, uint64_t now_ms)
{
    return e->expires_ms && e->expires_ms <= now_ms;
}

/* The pointer to the entry, or to where one would be. */
static struct kv_entry **find(const struct kv *kv, struct slice key, uint64_t hash)
{
    struct kv_entry **at = &kv->buckets[hash & (kv->n_buckets - 1)];
    while (*at && ((*at)->hash != hash || !slice_eq(key_of(*at), key)))
        at = &(*at)->next;
    return at;
}

static void entry_remove(struct kv *kv, struct kv_entry **at)
{
    struct kv_entry *e = *at;
    *at = e->next;
    kv->bytes -= kv_cost(key_of(e), value_of(e));
    kv->count--;
    kv->version++;
    mem_free_as(MEM_KV, e, sizeof(*e) + e->key_n + e->value_n);
}

uint64_t kv_get(const struct kv *kv, struct slice key, uint64_t now_ms, struct slice *value)
{
    struct kv_entry *const *at = kv->n_buckets ? find(kv, key, hash_bytes(key)) : NULL;
    if (!at || !*at || expired(*at, now_ms))
        return 0;
    *value = value_of(*at);
    return (*at)->version;
}

/* A few buckets at each change: what has expired goes without a timer. */
static void sweep(struct kv *kv, uint32_t buckets, uint64_t now_ms)
{
    for (uint32_t i = 0; i < MIN(buckets, kv->n_buckets); i++) {
        struct kv_entry **at = &kv->buckets[kv->hand++ & (kv->n_buckets - 1)];
        while (*at)
            if (expired(*at, now_ms))
                entry_remove(kv, at);
            else
                at = &(*at)->next;
    }
}

bool kv_fits(struct kv *kv, int64_t more, uint64_t now_ms)
{
    if ((int64_t)kv->bytes + more > (int64_t)kv->max && now_ms - kv->swept_ms >= SWEEP_ALL_MS) {
        kv->swept_ms = now_ms;
        sweep(kv, kv->n_buckets, now_ms);
    }
    return (int64_t)kv->bytes + more <= (int64_t)kv->max;
}

/* Doubles the table once there is an entry a bucket. */
static enum err grow(struct kv *kv)
{
    uint32_t n = kv->n_buckets ? kv->n_buckets * 2 : BUCKETS_FIRST;
    if (kv->count < kv->n_buckets)
        return ERR_NONE;
    struct kv_entry **buckets = mem_alloc_as(MEM_KV, n * sizeof(struct kv_entry *));
    if (!buckets)
        return ERR_NO_MEMORY;
    memset(buckets, 0, n * sizeof(struct kv_entry *));
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        for (struct kv_entry *e = kv->buckets[i], *next; e; e = next) {
            next = e->next;
            e->next = buckets[e->hash & (n - 1)];
            buckets[e->hash & (n - 1)] = e;
        }
    mem_free_as(MEM_KV, kv->buckets, kv->n_buckets * sizeof(struct kv_entry *));
    kv->buckets = buckets;
    kv->n_buckets = n;
    return ERR_NONE;
}

enum err kv_set(struct kv *kv, struct slice key, struct slice value, uint64_t expires_ms,
                uint64_t now_ms)
{
    uint64_t hash = hash_bytes(key);
    enum err e = grow(kv);
    if (e)
        return e;
    sweep(kv, SWEEP, now_ms);
    struct kv_entry **at = find(kv, key, hash);
    uint64_t old = *at ? kv_cost(key, value_of(*at)) : 0;
    if (!kv_fits(kv, (int64_t)kv_cost(key, value) - (int64_t)old, now_ms))
        return ERR_LIMIT;
    at = find(kv, key, hash); /* what has expired may have gone */
    struct kv_entry *made = mem_alloc_as(MEM_KV, sizeof(*made) + key.n + value.n);
    if (!made)
        return ERR_NO_MEMORY;
    if (*at)
        entry_remove(kv, at);
    *made = (struct kv_entry){
        *at, hash, ++kv->version, expires_ms, (uint32_t)key.n, (uint32_t)value.n};
    slice_copy(made->bytes, key);
    slice_copy(made->bytes + key.n, value);
    *at = made;
    kv->bytes += kv_cost(key, value);
    kv->count++;
    return ERR_NONE;
}

void kv_delete(struct kv *kv, struct slice key)
{
    struct kv_entry **at = kv->n_buckets ? find(kv, key, hash_bytes(key)) : NULL;
    if (at && *at)
        entry_remove(kv, at);
}

enum err kv_each(const struct kv *kv,
                 enum err (*take)(void *arg, struct slice key, struct slice value,
                                  uint64_t expires_ms),
                 void *arg)
{
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        for (const struct kv_entry *e = kv->buckets[i]; e; e = e->next) {
            enum err err = take(arg, key_of(e), value_of(e), e->expires_ms);
            if (err)
                return err;
        }
    return ERR_NONE;
}

void kv_done(struct kv *kv)
{
    for (uint32_t i = 0; i < kv->n_buckets; i++)
        while (kv->buckets[i])
            entry_remove(kv, &kv->buckets[i]);
    mem_free_as(MEM_KV, kv->buckets, kv->n_buckets * sizeof(struct kv_entry *));
    kv_init(kv, kv->max);
}
