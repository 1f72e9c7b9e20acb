#include "hub/topics.h"

#include "base/hash.h"

enum { BUCKETS_FIRST = 16, KEY_MAX = 2048, TOGETHER = 32 };

/* A message on its way to those of its topic that it has not reached. */
struct publication {
    struct list pending, of_topic;
    struct topic *topic;
    struct topic_member *at; /* the next one; NULL: there is none */
    uint64_t number, except;
    struct frame *frame;
};

void topics_init(struct topics *t, struct net *net)
{
    memset(t, 0, sizeof(*t));
    t->net = net;
    t->left = TOPIC_WRITES;
    list_init(&t->pending);
}

/* ---- topics ---- */

struct key {
    uint8_t bytes[KEY_MAX];
    size_t n;
    uint64_t hash;
};

/* false: longer than any. */
static bool key_make(struct key *key, struct slice space, struct slice name)
{
    key->n = space.n + 1 + name.n;
    if (key->n > sizeof(key->bytes))
        return false;
    slice_copy(key->bytes, space);
    key->bytes[space.n] = 0;
    slice_copy(key->bytes + space.n + 1, name);
    key->hash = hash_bytes(slice_of(key->bytes, key->n));
    return true;
}

static struct topic *find(const struct topics *t, const struct key *key)
{
    struct topic *at = t->n_buckets ? t->buckets[key->hash & (t->n_buckets - 1)] : NULL;
    while (at && (at->hash != key->hash || at->key_n != key->n ||
                  memcmp(at->key, key->bytes, key->n) != 0))
        at = at->next;
    return at;
}

struct topic *topics_find(const struct topics *t, struct slice space, struct slice name)
{
    struct key key;
    return key_make(&key, space, name) ? find(t, &key) : NULL;
}

uint64_t topics_elsewhere(const struct topics *t, struct slice space, struct slice name)
{
    struct key key;
    uint32_t members;
    uint64_t loops = t->presence && key_make(&key, space, name)
                         ? presence_find(t->presence, key.hash, &members)
                         : 0;
    return loops & ~(UINT64_C(1) << thread_number);
}

uint32_t topics_members(const struct topics *t, const struct topic *topic, struct slice space,
                        struct slice name)
{
    struct key key;
    uint32_t members = 0;
    if (!t->presence)
        return topic ? topic->n_members : 0;
    if (topic || key_make(&key, space, name))
        presence_find(t->presence, topic ? topic->hash : key.hash, &members);
    return members;
}

uint32_t topics_count(const struct topics *t)
{
    return t->presence ? atomic_load(&t->presence->count) : t->count;
}

bool topics_first(const struct topics *t, const struct topic *topic)
{
    uint32_t members;
    uint64_t loops = t->presence ? presence_find(t->presence, topic->hash, &members) : 1;
    return !(loops & ((UINT64_C(1) << thread_number) - 1));
}

static enum err grow(struct topics *t)
{
    uint32_t n = t->n_buckets ? t->n_buckets * 2 : BUCKETS_FIRST;
    if (t->count < t->n_buckets)
        return ERR_NONE;
    struct topic **buckets = mem_alloc_as(MEM_TOPIC, n * sizeof(struct topic *));
    if (!buckets)
        return ERR_NO_MEMORY;
    memset(buckets, 0, n * sizeof(struct topic *));
    for (uint32_t i = 0; i < t->n_buckets; i++)
        for (struct topic *at = t->buckets[i], *next; at; at = next) {
            next = at->next;
            at->next = buckets[at->hash & (n - 1)];
            buckets[at->hash & (n - 1)] = at;
        }
    mem_free_as(MEM_TOPIC, t->buckets, t->n_buckets * sizeof(struct topic *));
    t->buckets = buckets;
    t->n_buckets = n;
    return ERR_NONE;
}

static struct topic *make(struct topics *t, const struct key *key)
{
    struct topic *topic = grow(t) ? NULL : mem_alloc_as(MEM_TOPIC, sizeof(*topic) + key->n);
    if (!topic)
        return NULL;
    struct topic **bucket = &t->buckets[key->hash & (t->n_buckets - 1)];
    *topic = (struct topic){.next = *bucket, .hash = key->hash, .key_n = (uint32_t)key->n};
    memcpy(topic->key, key->bytes, key->n);
    list_init(&topic->members);
    list_init(&topic->publications);
    *bucket = topic;
    t->count++;
    metrics.topics_active = t->count;
    return topic;
}

static void topic_free(struct topics *t, struct topic *topic)
{
    struct topic **at = &t->buckets[topic->hash & (t->n_buckets - 1)];
    while (*at != topic)
        at = &(*at)->next;
    *at = topic->next;
    t->count--;
    metrics.topics_active = t->count;
    mem_free_as(MEM_TOPIC, topic, sizeof(*topic) + topic->key_n);
}

/* ---- members ---- */

struct hub_conn *topics_conn(struct conn *c)
{
    struct hub_conn *h = c->hub;
    if (!h && (h = mem_alloc_as(MEM_TOPIC, sizeof(*h))) != NULL) {
        memset(h, 0, sizeof(*h));
        c->hub = h;
    }
    return h;
}

/* The pointer to a connection's membership, or to the end of its list. */
static struct topic_member **member_of(struct hub_conn *h, const struct topic *topic)
{
    struct topic_member **at = &h->members;
    while (*at && (*at)->topic != topic)
        at = &(*at)->next;
    return at;
}

bool topics_has(const struct topic *topic, const struct conn *c)
{
    struct hub_conn *h = c->hub;
    return h && topic && *member_of(h, topic);
}

static struct topic_member *member_after(const struct topic *topic, const struct list *node)
{
    return node->next == &topic->members ? NULL
                                         : CONTAINER_OF(node->next, struct topic_member, node);
}

static void publication_free(struct topics *t, struct publication *p)
{
    list_remove(&p->pending);
    list_remove(&p->of_topic);
    t->n_pending--;
    t->pending_bytes -= p->frame->n;
    frame_release(p->frame);
    mem_free_as(MEM_TOPIC, p, sizeof(*p));
}

static void leave(struct topics *t, struct hub_conn *h, struct topic_member **at)
{
    struct topic_member *m = *at;
    struct topic *topic = m->topic;
    for (struct list *n = topic->publications.next; n != &topic->publications; n = n->next) {
        struct publication *p = CONTAINER_OF(n, struct publication, of_topic);
        if (p->at == m)
            p->at = member_after(topic, &m->node);
    }
    *at = m->next;
    h->n_members--;
    list_remove(&m->node);
    topic->n_members--;
    if (t->presence)
        presence_leave(t->presence, topic->hash, !topic->n_members);
    metrics.topic_members--;
    mem_free_as(MEM_TOPIC, m, sizeof(*m));
    if (topic->n_members)
        return;
    while (!list_empty(&topic->publications))
        publication_free(t, CONTAINER_OF(topic->publications.next, struct publication, of_topic));
    topic_free(t, topic);
}

void topics_leave_all(struct topics *t, struct conn *c)
{
    struct hub_conn *h = c->hub;
    while (h && h->members)
        leave(t, h, &h->members);
}

void topics_conn_free(struct topics *t, struct conn *c)
{
    struct hub_conn *h = c->hub;
    if (!h)
        return;
    topics_leave_all(t, c);
    buf_done(&h->attachment);
    mem_free_as(MEM_TOPIC, h, sizeof(*h));
    c->hub = NULL;
}

enum err topics_join(struct topics *t, struct conn *c, struct slice space, struct slice name)
{
    struct key key;
    struct hub_conn *h = topics_conn(c);
    if (!h)
        return ERR_NO_MEMORY;
    if (!key_make(&key, space, name))
        return ERR_LIMIT;
    struct topic *topic = find(t, &key);
    if (topic && *member_of(h, topic))
        return ERR_NONE;
    struct topic_member *m = mem_alloc_as(MEM_TOPIC, sizeof(*m));
    if (!m || (t->presence && presence_join(t->presence, key.hash))) {
        mem_free_as(MEM_TOPIC, m, m ? sizeof(*m) : 0);
        return ERR_NO_MEMORY;
    }
    if (!topic && !(topic = make(t, &key))) {
        if (t->presence)
            presence_leave(t->presence, key.hash, true);
        mem_free_as(MEM_TOPIC, m, sizeof(*m));
        return ERR_NO_MEMORY;
    }
    *m = (struct topic_member){
        .next = h->members, .topic = topic, .conn = conn_id(c), .joined = t->published};
    h->members = m;
    h->n_members++;
    list_append(&topic->members, &m->node);
    topic->n_members++;
    metrics.topic_members++;
    return ERR_NONE;
}

void topics_leave(struct topics *t, struct conn *c, struct slice space, struct slice name)
{
    struct topic *topic = topics_find(t, space, name);
    struct hub_conn *h = c->hub;
    struct topic_member **at = topic && h ? member_of(h, topic) : NULL;
    if (at && *at)
        leave(t, h, at);
}

bool topics_next(const struct topics *t, const struct topic *topic, uint64_t cursor, uint64_t *out)
{
    const struct list *node = &topic->members;
    *out = 0;
    if (cursor) {
        struct conn *c = conn_get(t->net, cursor);
        struct topic_member *m = c && c->hub ? *member_of(c->hub, topic) : NULL;
        if (!m)
            return false;
        node = &m->node;
    }
    for (struct topic_member *m; (m = member_after(topic, node)) != NULL; node = &m->node)
        if (conn_get(t->net, m->conn)) {
            *out = m->conn;
            break;
        }
    return true;
}

static uint32_t reversed(uint32_t v)
{
    uint32_t r = 0;
    for (int i = 0; i < 32; i++)
        r |= (v >> i & 1) << (31 - i);
    return r;
}

/* The order is that of the reversed numbers of buckets, in which those that a bucket is split into
 * when the table grows stand where it stood. Source: Redis, dictScan. */
void topics_scan(const struct topics *t, uint64_t *cursor, uint32_t n,
                 void (*found)(void *arg, const struct topic *topic), void *arg)
{
    uint32_t at = (uint32_t)*cursor, seen = 0;
    while (t->n_buckets && seen < n) {
        for (const struct topic *x = t->buckets[at & (t->n_buckets - 1)]; x; x = x->next, seen++)
            found(arg, x);
        at = reversed(reversed(at | ~(t->n_buckets - 1)) + 1);
        if (!at)
            break;
    }
    *cursor = t->n_buckets ? at : 0;
}

/* ---- publishing ---- */

/* What a write takes of an iteration's: more where it is large. */
static uint32_t cost(const struct frame *f)
{
    return 1 + f->n / NET_GATHER_ONE;
}

/* Reaches members while this iteration has writes left. Those messages behind it that stand at the
 * same member go on with it: a member gets them in one write. */
static void spread(struct topics *t, struct publication *first)
{
    struct topic *topic = first->topic;
    while (first->at && t->left) {
        struct topic_member *at = first->at;
        struct conn *c = conn_get(t->net, at->conn);
        struct list *n = &first->of_topic;
        uint32_t spent = 0;
        for (int i = 0; i < TOGETHER && n != &topic->publications; i++, n = n->next) {
            struct publication *p = CONTAINER_OF(n, struct publication, of_topic);
            /* Members are in the order in which they joined: the first that is too late ends it. */
            bool late = at->joined >= p->number;
            if (p->at != at)
                break;
            p->at = late ? NULL : member_after(topic, &at->node);
            if (late || !c || at->conn == p->except)
                continue;
            spent = spent ? spent + cost(p->frame) - 1 : cost(p->frame);
            t->deliver(t->owner, c, p->frame);
        }
        t->left -= MIN(t->left, spent);
    }
}

bool topics_room(const struct topics *t, uint32_t n, uint64_t bytes)
{
    uint64_t least = n == 1 ? MIN(bytes, (uint64_t)TOPIC_PENDING_BYTES) : bytes;
    return t->n_pending + n <= TOPIC_PENDING && t->pending_bytes + least <= TOPIC_PENDING_BYTES;
}

enum err topics_publish(struct topics *t, struct slice space, struct slice name, uint64_t except,
                        struct slice head, struct slice data)
{
    struct topic *topic = topics_find(t, space, name);
    struct publication *p = topic ? mem_alloc_as(MEM_TOPIC, sizeof(*p)) : NULL;
    struct frame *frame = p ? frame_new(head, data) : NULL;
    if (!frame) {
        mem_free_as(MEM_TOPIC, p, sizeof(*p));
        return topic ? ERR_NO_MEMORY : ERR_NONE;
    }
    bool only = list_empty(&topic->publications);
    *p = (struct publication){.topic = topic,
                              .at = member_after(topic, &topic->members),
                              .number = ++t->published,
                              .except = except,
                              .frame = frame};
    list_append(&t->pending, &p->pending);
    list_append(&topic->publications, &p->of_topic);
    t->n_pending++;
    t->pending_bytes += frame->n;
    if (only)
        spread(t, p);
    if (!p->at)
        publication_free(t, p);
    return ERR_NONE;
}

bool topics_run(struct topics *t)
{
    t->left = TOPIC_WRITES;
    if (!list_empty(&t->pending))
        loop_cause(t->net->loop, CAUSE_ws);
    while (t->left && !list_empty(&t->pending)) {
        struct publication *p = CONTAINER_OF(t->pending.next, struct publication, pending);
        spread(t, p);
        if (!p->at)
            publication_free(t, p);
    }
    return !list_empty(&t->pending);
}

void topics_done(struct topics *t)
{
    while (!list_empty(&t->pending))
        publication_free(t, CONTAINER_OF(t->pending.next, struct publication, pending));
    mem_free_as(MEM_TOPIC, t->buckets, t->n_buckets * sizeof(struct topic *));
}
