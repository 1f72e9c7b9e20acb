/* Words from other threads to one loop: bounded, many producers, none of which ever waits.
 *
 * A queue of Michael & Scott ("Simple, fast, and practical non-blocking and blocking concurrent
 * queue algorithms", 1996) over an array of nodes that are named by {index, tag}: the tag changes
 * with each use of a word, so that a node that was used again meanwhile is not taken for the old
 * one. Free nodes are a stack of the same kind (Treiber 1986). All words are C11 atomics.
 *
 * The consumer's poller watches `wake`, edge-triggered. Who posts writes to it only if nobody has
 * since the consumer last began to look: as a rule, only where the queue was empty. */
#ifndef WEIR_QUEUE_H
#define WEIR_QUEUE_H

#include <stdatomic.h>

#include "base/base.h"

struct queue_node {
    _Atomic uint64_t next; /* {tag 32, index 32} */
    _Atomic(void *) item;
};

struct queue {
    struct queue_node *nodes;
    uint32_t n_nodes;
    int wake; /* a descriptor */
    uint64_t bytes_max;
    _Alignas(64) _Atomic uint64_t head; /* the node before the first item */
    _Alignas(64) _Atomic uint64_t tail;
    _Alignas(64) _Atomic uint64_t spare; /* the top of the free nodes */
    _Atomic uint64_t bytes;              /* of all items that wait */
    _Atomic bool woken;
};

/* At most `items`, and bytes_max bytes as their posters count them. */
enum err queue_init(struct queue *q, uint32_t items, uint64_t bytes_max) MUST_USE;
void queue_done(struct queue *q); /* what is in it belongs to nobody: take it out before */

/* From any thread. false: full. The item is the consumer's from then on. */
bool queue_post(struct queue *q, void *item, uint64_t bytes) MUST_USE;
/* The consumer: before it takes what there is, because `wake` was readable. */
void queue_look(struct queue *q);
/* The consumer: NULL, it is empty. What was counted for the item is given back by queue_taken. */
void *queue_take(struct queue *q);
void queue_taken(struct queue *q, uint64_t bytes);
/* The consumer leaves some for later: the loop is woken again. */
void queue_again(struct queue *q);

/* Roughly, while others post: whether that much fits. */
static inline bool queue_room(const struct queue *q, uint64_t bytes)
{
    return atomic_load_explicit(&q->bytes, memory_order_relaxed) + bytes <= q->bytes_max;
}

#endif
