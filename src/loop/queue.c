#include "loop/queue.h"

#include "base/buf.h"
#include "sys/sys.h"

#define NONE UINT32_MAX

static uint32_t index_of(uint64_t word)
{
    return (uint32_t)word;
}

/* The word that replaces `old`: another index under the next tag. */
static uint64_t word_after(uint64_t old, uint32_t index)
{
    return ((old >> 32) + 1) << 32 | index;
}

/* ---- free nodes ---- */

static void node_give(struct queue *q, uint32_t index)
{
    struct queue_node *n = &q->nodes[index];
    uint64_t top = atomic_load(&q->spare);
    do
        atomic_store(&n->next, word_after(atomic_load(&n->next), index_of(top)));
    while (!atomic_compare_exchange_weak(&q->spare, &top, word_after(top, index)));
}

static uint32_t node_take(struct queue *q)
{
    uint64_t top = atomic_load(&q->spare);
    while (index_of(top) != NONE) {
        /* May be of a node that others have taken meanwhile: the tag tells. */
        uint64_t next = atomic_load(&q->nodes[index_of(top)].next);
        if (atomic_compare_exchange_weak(&q->spare, &top, word_after(top, index_of(next))))
            return index_of(top);
    }
    return NONE;
}

/* ---- the queue ---- */

enum err queue_init(struct queue *q, uint32_t items, uint64_t bytes_max)
{
    memset(q, 0, sizeof(*q));
    q->n_nodes = items + 1;
    q->bytes_max = bytes_max;
    q->wake = sys_wake_open();
    if (q->wake < 0)
        return ERR_SYS;
    q->nodes = mem_alloc(q->n_nodes * sizeof(*q->nodes));
    if (!q->nodes) {
        sys_close(q->wake);
        return ERR_NO_MEMORY;
    }
    memset(q->nodes, 0, q->n_nodes * sizeof(*q->nodes));
    atomic_store(&q->spare, NONE);
    for (uint32_t i = q->n_nodes; i-- > 1;)
        node_give(q, i);
    atomic_store(&q->nodes[0].next, NONE);
    atomic_store(&q->head, 0);
    atomic_store(&q->tail, 0);
    return ERR_NONE;
}

void queue_done(struct queue *q)
{
    sys_close(q->wake);
    mem_free(q->nodes, q->n_nodes * sizeof(*q->nodes));
    q->nodes = NULL;
}

static void wake(struct queue *q)
{
    if (!atomic_exchange(&q->woken, true))
        sys_wake(q->wake);
}

static void link_last(struct queue *q, uint32_t index)
{
    for (;;) {
        uint64_t tail = atomic_load(&q->tail);
        struct queue_node *last = &q->nodes[index_of(tail)];
        uint64_t next = atomic_load(&last->next);
        if (tail != atomic_load(&q->tail))
            continue;
        if (index_of(next) != NONE) { /* another has linked one, and not moved the tail yet */
            atomic_compare_exchange_strong(&q->tail, &tail, word_after(tail, index_of(next)));
        } else if (atomic_compare_exchange_strong(&last->next, &next, word_after(next, index))) {
            atomic_compare_exchange_strong(&q->tail, &tail, word_after(tail, index));
            return;
        }
    }
}

bool queue_post(struct queue *q, void *item, uint64_t bytes)
{
    uint64_t before = atomic_fetch_add(&q->bytes, bytes);
    uint32_t index = before + bytes <= q->bytes_max ? node_take(q) : NONE;
    if (index == NONE) {
        atomic_fetch_sub(&q->bytes, bytes);
        return false;
    }
    struct queue_node *n = &q->nodes[index];
    atomic_store(&n->item, item);
    atomic_store(&n->next, word_after(atomic_load(&n->next), NONE));
    link_last(q, index);
    wake(q);
    return true;
}

void queue_look(struct queue *q)
{
    /* First, so that whoever posts what is not seen below wakes us again. */
    atomic_store(&q->woken, false);
}

void queue_again(struct queue *q)
{
    wake(q);
}

void *queue_take(struct queue *q)
{
    for (;;) {
        uint64_t head = atomic_load(&q->head), tail = atomic_load(&q->tail);
        uint64_t next = atomic_load(&q->nodes[index_of(head)].next);
        if (head != atomic_load(&q->head))
            continue;
        if (index_of(next) == NONE)
            return NULL;
        if (index_of(head) == index_of(tail)) {
            atomic_compare_exchange_strong(&q->tail, &tail, word_after(tail, index_of(next)));
            continue;
        }
        void *item = atomic_load(&q->nodes[index_of(next)].item);
        if (atomic_compare_exchange_strong(&q->head, &head, word_after(head, index_of(next)))) {
            node_give(q, index_of(head));
            return item;
        }
    }
}

void queue_taken(struct queue *q, uint64_t bytes)
{
    atomic_fetch_sub(&q->bytes, bytes);
}
