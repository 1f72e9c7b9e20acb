/* A module's keys and values: bounded, with an end of life where one was given, and a version for
 * each key, by which an event finds out that what it read has changed meanwhile. */
#ifndef WEIR_KV_H
#define WEIR_KV_H

#include <pthread.h>

#include "base/base.h"

enum { KV_ENTRY_COST = 64, KV_KEY_MAX = 512 }; /* bytes accounted beside key and value */

struct kv_entry;
/* Shared by all loops: who calls what is below holds the lock, and values are his until he gives it
 * back. */
struct kv {
    pthread_mutex_t lock;
    struct kv_entry **buckets;
    uint32_t n_buckets, count;
    uint64_t bytes, max; /* of all entries, each with KV_ENTRY_COST */
    uint64_t version;    /* grows with each change of any key */
    uint32_t hand;       /* the bucket that is looked at next for what has expired */
    uint64_t swept_ms;   /* when all were last looked at */
};

void kv_init(struct kv *kv, uint64_t max);
void kv_done(struct kv *kv);

/* The version of the key, which changes with its value; 0: it is not there. value: until the next
 * change. */
uint64_t kv_get(const struct kv *kv, struct slice key, uint64_t now_ms, struct slice *value);
/* expires_ms 0: never. ERR_LIMIT past max, ERR_NO_MEMORY; the old value stays then. */
enum err kv_set(struct kv *kv, struct slice key, struct slice value, uint64_t expires_ms,
                uint64_t now_ms) MUST_USE;
/* Whether `more` bytes fit. What has expired makes room. */
bool kv_fits(struct kv *kv, int64_t more, uint64_t now_ms);
void kv_delete(struct kv *kv, struct slice key);
/* Calls `take` for each entry until it returns an error, which is the answer. */
enum err kv_each(const struct kv *kv,
                 enum err (*take)(void *arg, struct slice key, struct slice value,
                                  uint64_t expires_ms),
                 void *arg) MUST_USE;

static inline uint64_t kv_cost(struct slice key, struct slice value)
{
    return KV_ENTRY_COST + key.n + value.n;
}

#endif
