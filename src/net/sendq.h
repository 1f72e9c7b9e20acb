/* What a socket did not take: own bytes and shared frames, in order. Pure: no socket, no clock.
 *
 *   parts   [ begun | frame | frame ][ shared frame ][ frame | frame ... room ]
 *            ^ sent                                    own bytes, in chunks
 *
 * A queue is there while something waits, so that an idle connection has none. It knows no frames
 * but finds them: each part begins with one, behind its first `first` bytes, and a frame's head
 * says its length. Only frames of which nothing was sent can be dropped. */
#ifndef WEIR_SENDQ_H
#define WEIR_SENDQ_H

#include "base/buf.h"
#include "base/list.h"
#include "loop/wheel.h"

struct conn;

/* Bytes that go to peers as they are. A published one is shared by all its receivers, by counted
 * references; only a chunk of one queue's own bytes ever changes. */
struct frame {
    uint32_t refs;
    uint32_t queued; /* of them, by queues: it is counted as their memory while there is one */
    uint32_t n, cap;
    uint32_t first;     /* where the first frame begins: in front of it is what can't be dropped */
    struct frame *twin; /* compressed; itself: it is sent as it is; NULL: nobody has asked yet */
    uint8_t bytes[];
};

/* The length of the frame whose head is at p; whether it has data, or controls the connection. */
typedef size_t frame_length(const uint8_t *p, bool *data);

enum { SENDQ_FEW = 4, SENDQ_SIZES = 33 };

struct sendq {
    struct list node; /* of those of about its size */
    struct timer timer;
    struct conn *conn;
    uint32_t bytes;        /* that wait */
    uint32_t below;        /* that were taken, and wait all the same: sealed records */
    uint32_t sent;         /* of the first part */
    uint32_t head, n, cap; /* of the ring of parts; cap is a power of two */
    uint8_t size;          /* bits of bytes and below together */
    bool cut;              /* all but its last words was dropped: it ends with them */
    bool progressed;       /* the peer took something since the timer was set */
    struct frame **parts, *few[SENDQ_FEW];
};

/* All queues of a loop. */
struct sendqs {
    uint64_t memory; /* bytes allocated: chunks, references, and each shared frame once */
    struct list by_size[SENDQ_SIZES];
};

struct frame *frame_new(struct slice a, struct slice b) MUST_USE; /* NULL: no memory */
void frame_release(struct frame *f);

static inline struct frame *frame_hold(struct frame *f)
{
    f->refs++;
    return f;
}

static inline struct slice frame_slice(const struct frame *f)
{
    return slice_of(f->bytes, f->n);
}

void sendqs_init(struct sendqs *all);
/* Counts memory that is held for them elsewhere. */
void sendqs_memory(struct sendqs *all, int64_t n);
/* One of those that have most waiting; NULL: there is none. */
struct sendq *sendqs_largest(const struct sendqs *all);

struct sendq *sendq_new(struct sendqs *all, struct conn *c) MUST_USE; /* NULL: no memory */
void sendq_free(struct sendqs *all, struct sendq *q);
/* Copies a and b, whose first `skip` bytes were sent (only into an empty queue). length NULL: they
 * are no frames; else a begins with a frame, and what is in b belongs to the last one of a. */
enum err sendq_append(struct sendqs *all, struct sendq *q, struct slice a, struct slice b,
                      size_t skip, frame_length *length) MUST_USE;
/* The same by reference, of one frame. */
enum err sendq_push(struct sendqs *all, struct sendq *q, struct frame *f, size_t skip) MUST_USE;
/* What to send next, in order; returns how many. */
unsigned sendq_parts(const struct sendq *q, struct slice *v, unsigned max);
/* Appends all that waits; *begun: of it, what can't be dropped any more. */
enum err sendq_copy(const struct sendq *q, frame_length *length, struct buf *out,
                    uint32_t *begun) MUST_USE;
/* The same, into an empty queue. What are no whole frames behind the first `begun` bytes, though
 * they should be, can't be dropped either. */
enum err sendq_restore(struct sendqs *all, struct sendq *q, struct slice s, uint32_t begun,
                       frame_length *length) MUST_USE;
void sendq_sent(struct sendqs *all, struct sendq *q, size_t n);
/* Drops the oldest frames of which nothing was sent until `least` bytes have gone; those that
 * control the connection only where `control`. Returns how many. */
uint32_t sendq_drop(struct sendqs *all, struct sendq *q, frame_length *length, uint32_t least,
                    bool control);
/* Drops all that it may, for good. Returns how many frames. */
uint32_t sendq_cut(struct sendqs *all, struct sendq *q, frame_length *length);
void sendq_below(struct sendqs *all, struct sendq *q, uint32_t n); /* sets it, for its rank */
void sendq_check(const struct sendq *q, frame_length *length);

#endif
