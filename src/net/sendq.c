#include "net/sendq.h"

#include "base/metrics.h"

enum { CHUNK_LEAST = 64, CHUNK_MOST = 16 << 10 };

void sendqs_memory(struct sendqs *all, int64_t n)
{
    all->memory += (uint64_t)n;
    metrics.queues_bytes = all->memory;
}

/* ---- frames ---- */

static struct frame *frame_make(uint32_t cap)
{
    struct frame *f = mem_alloc_as(MEM_QUEUE, sizeof(*f) + cap);
    if (f)
        *f = (struct frame){.refs = 1, .cap = cap};
    return f;
}

static void frame_put(struct frame *f, struct slice s)
{
    slice_copy(f->bytes + f->n, s);
    f->n += (uint32_t)s.n;
}

struct frame *frame_new(struct slice a, struct slice b)
{
    struct frame *f = frame_make((uint32_t)(a.n + b.n));
    if (f) {
        frame_put(f, a);
        frame_put(f, b);
    }
    return f;
}

void frame_release(struct frame *f)
{
    ASSERT(f->refs > 0);
    if (--f->refs)
        return;
    if (f->twin && f->twin != f)
        frame_release(f->twin);
    mem_free_as(MEM_QUEUE, f, sizeof(*f) + f->cap);
}

/* ---- all queues ---- */

void sendqs_init(struct sendqs *all)
{
    all->memory = 0;
    for (int i = 0; i < SENDQ_SIZES; i++)
        list_init(&all->by_size[i]);
}

struct sendq *sendqs_largest(const struct sendqs *all)
{
    for (int i = SENDQ_SIZES; i-- > 0;)
        if (!list_empty(&all->by_size[i]))
            return CONTAINER_OF(all->by_size[i].next, struct sendq, node);
    return NULL;
}

/* Files it under its size. */
static void resize(struct sendqs *all, struct sendq *q, int64_t more)
{
    q->bytes += (uint32_t)more;
    metrics.queued_bytes += (uint64_t)more;
    uint32_t waits = q->bytes + q->below;
    uint8_t size = waits ? (uint8_t)(32 - __builtin_clz(waits)) : 0;
    if (size == q->size)
        return;
    q->size = size;
    list_remove(&q->node);
    list_append(&all->by_size[size], &q->node);
}

void sendq_below(struct sendqs *all, struct sendq *q, uint32_t n)
{
    q->below = n;
    resize(all, q, 0);
}

struct sendq *sendq_new(struct sendqs *all, struct conn *c)
{
    struct sendq *q = mem_alloc_as(MEM_QUEUE, sizeof(*q));
    if (!q)
        return NULL;
    *q = (struct sendq){.conn = c, .cap = SENDQ_FEW};
    q->parts = q->few;
    list_init(&q->node);
    list_append(&all->by_size[0], &q->node);
    sendqs_memory(all, sizeof(*q));
    metrics.queues_active++;
    return q;
}

/* ---- parts ---- */

static struct frame **part(const struct sendq *q, uint32_t i)
{
    return &q->parts[(q->head + i) & (q->cap - 1)];
}

static void part_forget(struct sendqs *all, struct frame *f)
{
    if (!--f->queued)
        sendqs_memory(all, -(int64_t)(sizeof(*f) + f->cap));
    frame_release(f);
}

static enum err part_add(struct sendqs *all, struct sendq *q, struct frame *f)
{
    if (q->n == q->cap) {
        struct frame **more = mem_alloc_as(MEM_QUEUE, 2 * q->cap * sizeof(struct frame *));
        if (!more)
            return ERR_NO_MEMORY;
        for (uint32_t i = 0; i < q->n; i++)
            more[i] = *part(q, i);
        sendqs_memory(all,
                      (int64_t)((q->parts == q->few ? 2 : 1) * q->cap * sizeof(struct frame *)));
        if (q->parts != q->few)
            mem_free_as(MEM_QUEUE, q->parts, q->cap * sizeof(struct frame *));
        q->parts = more;
        q->cap *= 2;
        q->head = 0;
    }
    *part(q, q->n++) = f;
    if (!f->queued++)
        sendqs_memory(all, (int64_t)(sizeof(*f) + f->cap));
    return ERR_NONE;
}

void sendq_free(struct sendqs *all, struct sendq *q)
{
    for (uint32_t i = 0; i < q->n; i++)
        part_forget(all, *part(q, i));
    metrics.queued_bytes -= q->bytes;
    metrics.queues_active--;
    list_remove(&q->node);
    if (q->parts != q->few) {
        sendqs_memory(all, -(int64_t)(q->cap * sizeof(struct frame *)));
        mem_free_as(MEM_QUEUE, q->parts, q->cap * sizeof(struct frame *));
    }
    sendqs_memory(all, -(int64_t)sizeof(*q));
    mem_free_as(MEM_QUEUE, q, sizeof(*q));
}

/* Where the first frame begins of which nothing was sent. */
static size_t begin(const uint8_t *p, size_t first, size_t sent, frame_length *length)
{
    bool data;
    while (first < sent)
        first += length(p + first, &data);
    return first;
}

/* The chunk at the end, where n bytes more fit; else a new one. NULL: no memory. */
static struct frame *room(struct sendqs *all, struct sendq *q, uint32_t n, bool frames)
{
    struct frame *last = q->n ? *part(q, q->n - 1) : NULL;
    bool own = last && last->refs == 1;
    if (own && n <= last->cap - last->n && (frames || last->first == last->n))
        return last;
    uint32_t more = own ? MIN(2 * last->cap, (uint32_t)CHUNK_MOST) : CHUNK_LEAST;
    struct frame *f = frame_make(MAX(n, more));
    if (f && part_add(all, q, f)) {
        frame_release(f);
        return NULL;
    }
    return f;
}

enum err sendq_append(struct sendqs *all, struct sendq *q, struct slice a, struct slice b,
                      size_t skip, frame_length *length)
{
    size_t n = a.n + b.n - skip;
    ASSERT(!skip || !q->n);
    struct frame *f = room(all, q, (uint32_t)n, length != NULL);
    if (!f)
        return ERR_NO_MEMORY;
    if (!length)
        f->first = f->n + (uint32_t)n;
    else if (skip)
        f->first = (uint32_t)(begin(a.p, 0, skip, length) - skip);
    if (skip < a.n)
        frame_put(f, slice_of(a.p + skip, a.n - skip));
    skip = skip > a.n ? skip - a.n : 0;
    if (skip < b.n)
        frame_put(f, slice_of(b.p + skip, b.n - skip));
    resize(all, q, (int64_t)n);
    return ERR_NONE;
}

enum err sendq_push(struct sendqs *all, struct sendq *q, struct frame *f, size_t skip)
{
    ASSERT(!skip || !q->n);
    if (part_add(all, q, f))
        return ERR_NO_MEMORY;
    f->refs++;
    if (skip)
        q->sent = (uint32_t)skip;
    resize(all, q, (int64_t)(f->n - skip));
    return ERR_NONE;
}

unsigned sendq_parts(const struct sendq *q, struct slice *v, unsigned max)
{
    unsigned n = MIN(max, q->n);
    for (unsigned i = 0; i < n; i++)
        v[i] = frame_slice(*part(q, i));
    if (n) {
        v[0].p += q->sent;
        v[0].n -= q->sent;
    }
    return n;
}

enum err sendq_copy(const struct sendq *q, frame_length *length, struct buf *out, uint32_t *begun)
{
    const struct frame *first = *part(q, 0);
    enum err e = ERR_NONE;
    size_t at = length ? begin(first->bytes, first->first, q->sent, length) : first->n;
    *begun = length ? (uint32_t)at - q->sent : q->bytes;
    for (uint32_t i = 0; i < q->n && !e; i++) {
        struct slice s = frame_slice(*part(q, i));
        uint32_t sent = i ? 0 : q->sent;
        e = buf_append(out, slice_of(s.p + sent, s.n - sent));
    }
    return e;
}

/* Whether s is whole frames, from any source. */
static bool frames_whole(struct slice s, frame_length *length)
{
    enum { HEAD_MAX = 10 }; /* a server's */
    for (size_t at = 0; at < s.n;) {
        uint8_t head[HEAD_MAX] = {0};
        bool data;
        size_t left = s.n - at;
        memcpy(head, s.p + at, MIN(left, (size_t)HEAD_MAX));
        size_t size = length(head, &data);
        if (size > left || size < 2)
            return false;
        at += size;
    }
    return true;
}

enum err sendq_restore(struct sendqs *all, struct sendq *q, struct slice s, uint32_t begun,
                       frame_length *length)
{
    ASSERT(!q->n && s.n);
    bool whole = length && begun <= s.n && frames_whole(slice_of(s.p + begun, s.n - begun), length);
    struct frame *f = room(all, q, (uint32_t)s.n, false);
    if (!f)
        return ERR_NO_MEMORY;
    frame_put(f, s);
    f->first = whole ? begun : f->n;
    resize(all, q, (int64_t)s.n);
    return ERR_NONE;
}

static void part_pop(struct sendqs *all, struct sendq *q)
{
    part_forget(all, *part(q, 0));
    q->head = (q->head + 1) & (q->cap - 1);
    q->n--;
    q->sent = 0;
}

void sendq_sent(struct sendqs *all, struct sendq *q, size_t n)
{
    ASSERT(n <= q->bytes);
    q->progressed |= n > 0;
    q->sent += (uint32_t)n;
    while (q->n && q->sent >= (*part(q, 0))->n) {
        uint32_t over = q->sent - (*part(q, 0))->n;
        part_pop(all, q);
        q->sent = over;
    }
    resize(all, q, -(int64_t)n);
}

/* What is left of a chunk does not keep all of its memory. None of it can be dropped. */
static void shrink(struct sendqs *all, struct sendq *q)
{
    struct frame *f = q->n ? *part(q, 0) : NULL, *less;
    uint32_t left = f ? f->n - q->sent : 0;
    if (!f || f->refs > 1 || f->cap - left < CHUNK_LEAST ||
        !(less = frame_new(slice_of(f->bytes + q->sent, left), SLICE_NONE)))
        return;
    part_forget(all, f);
    less->first = left;
    less->queued = 1;
    sendqs_memory(all, (int64_t)(sizeof(*less) + less->cap));
    *part(q, 0) = less;
    q->sent = 0;
}

uint32_t sendq_drop(struct sendqs *all, struct sendq *q, frame_length *length, uint32_t least,
                    bool control)
{
    uint32_t kept = 0, frames = 0, gone = 0;
    for (uint32_t i = 0; i < q->n; i++) {
        struct frame *f = *part(q, i);
        size_t to = begin(f->bytes, f->first, i ? 0 : q->sent, length), from = to, n = f->n;
        while (from < n && gone < least) {
            bool data;
            size_t size = length(f->bytes + from, &data);
            ASSERT(size <= n - from);
            if (data || control) {
                frames++;
                gone += (uint32_t)size;
            } else {
                memmove(f->bytes + to, f->bytes + from, size);
                to += size;
            }
            from += size;
        }
        if (to != from && from < n)
            memmove(f->bytes + to, f->bytes + from, n - from);
        size_t left = to + (n - from), sent = i ? 0 : q->sent;
        if (left == sent) { /* nothing of it is left to send */
            part_forget(all, f);
            q->sent = i ? q->sent : 0;
        } else {
            if (left < n)
                f->n = (uint32_t)left;
            *part(q, kept++) = f;
        }
    }
    q->n = kept;
    resize(all, q, -(int64_t)gone);
    return frames;
}

uint32_t sendq_cut(struct sendqs *all, struct sendq *q, frame_length *length)
{
    q->cut = true;
    uint32_t frames = sendq_drop(all, q, length, UINT32_MAX, true);
    shrink(all, q);
    return frames;
}

void sendq_check(const struct sendq *q, frame_length *length)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < q->n; i++) {
        const struct frame *f = *part(q, i);
        ASSERT(f->refs >= f->queued && f->queued && f->n <= f->cap && f->first <= f->n);
        ASSERT(!length || begin(f->bytes, f->first, f->n, length) == f->n);
        sum += f->n;
    }
    ASSERT(sum - q->sent == q->bytes && (!q->n || q->sent < (*part(q, 0))->n));
}
