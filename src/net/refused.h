/* Connections that are refused with an answer. Closing one at once would reset it where its peer
 * has sent more than was read by then, and a reset destroys an answer that is on its way. So it is
 * told that nothing follows, and kept for a while: no longer than a time, and no more than a
 * number, of which the oldest goes first. Nothing else is kept of it. */
#ifndef WEIR_REFUSED_H
#define WEIR_REFUSED_H

#include "loop/loop.h"

struct refused_one {
    uint64_t until_ms;
    int fd;
};

struct refused {
    struct loop *loop;
    struct timer timer;
    uint32_t max, linger_ms;
    uint32_t head, n; /* of the ring, whose `max` places are made when the first is needed */
    struct refused_one *ring;
};

void refused_init(struct refused *r, struct loop *loop, uint32_t max, uint32_t linger_ms);
void refused_clear(struct refused *r); /* closes all */
void refused_done(struct refused *r);
void refused_add(struct refused *r, int fd); /* takes fd, which was answered */

#endif
