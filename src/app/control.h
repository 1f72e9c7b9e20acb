/* Words between supervisor and worker, over a SOCK_SEQPACKET pair.
 *
 *   supervisor                                      worker
 *     START {restarts, its PSS and whom to
 *            run as} + configuration    ---->
 *     LISTENER {admin} + socket         ---->          for each
 *     KEYS + those of key_files         ---->          where there are any
 *     TLS {listener} + certificates     ---->          for each that has TLS
 *                                       <----         TLS_LOADED, or TLS_REFUSED {listener, why}
 *     TICKETS + keys                    ---->
 *     MODULE {index} + compiled code    ---->          for each, one at a time
 *                                       <----         LOADED {index}, or REFUSED {index, why}
 *     SERVE                             ---->
 *                                       <----         READY
 *     DRAIN                             ---->         (an end of file means the same)
 *
 * A module is changed at any time between READY and DRAIN:
 *                                       <----         CHUNK {module} + part of a body, and again
 *     MORE                              ---->           when it is wanted; then, or instead,
 *                                       <----         PUT {module, canary}, ROLLBACK or
 *                                                     PROMOTE {module}, or RELOAD
 *     MODULE {index} + compiled code    ---->           for each that changes (or, for a canary,
 *                                                       PROMOTE {index} or DROP {index})
 *                                       <----         LOADED, or REFUSED: the old one stays
 *     ANSWER {error, text}              ---->         (CHANGED where the worker did not ask)
 *
 * Modules that the configuration does not name come behind its own; the supervisor gives each a
 * place (an index), of which the worker hears by ADD before the first MODULE of it:
 *                                       <----         ADD + its words (config.h), as a PUT
 *     ADD {index} + its words           ---->         (at a worker's start too, for each)
 *                                       <----         REMOVE {index}
 *     REMOVE {index}                    ---->         which answers LOADED
 *                                       <----         FREED {index}: nothing of one that was
 * removed, or refused at its first, is left: the place may be given again
 *
 * So are certificates, by TLS (without them: a text says why they can't be read) and its answer.
 * A worker that follows another one, which serves meanwhile, is told SUCCEED instead of SERVE, is
 * READY, and waits:
 *     GIVE + one end of a pair          ---->         to the old one
 *     TAKE {slots} + the other end      ---->         to the new one (without: no old one)
 *                                       <----         TAKEN, or, from the old one, KEPT
 *
 * Nothing is sent that the other side need not read soon: a send never waits. */
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
    CONTROL_READY,
    CONTROL_CHUNK,
    CONTROL_MORE,
    CONTROL_PUT,
    CONTROL_ROLLBACK,
    CONTROL_PROMOTE,
    CONTROL_DROP,
    CONTROL_RELOAD,
    CONTROL_ANSWER,
    CONTROL_CHANGED,
    CONTROL_ADD,
    CONTROL_REMOVE,
    CONTROL_FREED,
    CONTROL_KEYS,
    CONTROL_TLS, /* its text is the size */
    CONTROL_TLS_LOADED,
    CONTROL_TLS_REFUSED,
    CONTROL_TICKETS,
    CONTROL_SUCCEED,
    CONTROL_GIVE,
    CONTROL_TAKE,
    CONTROL_TAKEN,
    CONTROL_KEPT,
    CONTROL_UPGRADE /* as RELOAD, by the program as it is on disk now */
};
enum { CONTROL_TEXT = 16 << 10 };

/* Of a module's code. Its text in MODULE is that of it and of the one that it replaced. */
struct module_version {
    uint32_t number;  /* 0: there is none */
    uint32_t percent; /* of connections that it is for, as a canary; 0: all */
    char sha256[17];  /* of its source, the first digits */
    uint64_t since_ms;
};
enum { VERSIONS_TEXT = 160 };
void control_versions_write(char out[VERSIONS_TEXT], const struct module_version *now,
                            const struct module_version *before);
void control_versions_read(const char *text, struct module_version *now,
                           struct module_version *before);

struct control {
    uint32_t kind, number;
    char text[CONTROL_TEXT + 1]; /* a NUL follows */
    size_t n;                    /* of text; not sent */
};

/* fd -1: none is sent. false: the other side has gone. */
bool control_send(int to, enum control_kind kind, uint32_t number, const char *text, int fd);
/* bytes: at most CONTROL_TEXT. */
bool control_send_bytes(int to, enum control_kind kind, uint32_t number, struct slice bytes);
/* *fd: the receiver's, or -1. false: the other side has gone, or talks nonsense. */
bool control_recv(int from, struct control *out, int *fd);

#endif
