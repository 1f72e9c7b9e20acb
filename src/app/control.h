/* Words between supervisor and worker, over a SOCK_SEQPACKET pair.
 *
 *   supervisor                                      worker
 *     START {restarts} + configuration  ---->
 *     LISTENER {admin} + socket         ---->          for each
 *     MODULE {index} + compiled code    ---->          for each, one at a time
 *                                       <----         LOADED {index}, or REFUSED {index, why}
 *     SERVE                             ---->
 *                                       <----         READY
 *     DRAIN                             ---->         (an end of file means the same)
 */
#ifndef WEIR_CONTROL_H
#define WEIR_CONTROL_H

#include "base/base.h"

enum control_kind {
    CONTROL_START,
    CONTROL_LISTENER,
    CONTROL_MODULE,
    CONTROL_SERVE,
    CONTROL_DRAIN,
    CONTROL_LOADED,
    CONTROL_REFUSED,
    CONTROL_READY
};

struct control {
    uint32_t kind, number;
    char text[1000]; /* NUL-terminated */
};

/* fd -1: none is sent. false: the other side has gone. */
bool control_send(int to, enum control_kind kind, uint32_t number, const char *text, int fd);
/* *fd: the receiver's, or -1. false: the other side has gone, or talks nonsense. */
bool control_recv(int from, struct control *out, int *fd);

#endif
