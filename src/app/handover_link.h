/* Records and descriptors between two workers, over a SOCK_SEQPACKET pair whose waits end by
 * themselves (sys_handover_pair). */
#ifndef WEIR_HANDOVER_LINK_H
#define WEIR_HANDOVER_LINK_H

#include "app/handover.h"
#include "sys/sys.h"

struct handover_link {
    int fd;
    struct buf out, in; /* records, on their way */
    size_t taken;       /* of in */
    int sent[SYS_CONTROL_FDS], received[4 * SYS_CONTROL_FDS];
    unsigned n_sent, n_received;
};

struct handover_link *handover_link_new(int fd); /* takes fd; NULL: no memory */
void handover_link_free(struct handover_link *l);
/* fd -1: none; it stays the caller's. All that waits goes with handover_link_flush. */
enum err handover_link_put(struct handover_link *l, const struct handover_record *r,
                           int fd) MUST_USE;
enum err handover_link_flush(struct handover_link *l) MUST_USE;
/* The next record; its bytes are borrowed until the next call. ERR_SYS: the other one has gone, or
 * does not answer; ERR_INVALID: it talks nonsense. */
enum err handover_link_get(struct handover_link *l, struct handover_record *out) MUST_USE;
int handover_link_fd(struct handover_link *l); /* the next one that came, the caller's; -1: none */

#endif
