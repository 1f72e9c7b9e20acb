/* The supervisor's side of TLS: it reads the files of certificates and keys, at the start and at
 * each reload, makes the keys of session tickets, and hands both to the worker, which opens no
 * file. What a worker refuses does not replace what is in force; a restarted worker gets that. */
#ifndef WEIR_CERTIFICATES_H
#define WEIR_CERTIFICATES_H

#include "app/config.h"
#include "app/control.h"
#include "loop/loop.h"
#include "net/tls.h"

enum { CERTIFICATES_LISTENERS = 16 };

struct certificates {
    const struct config *config;
    const char *file;
    struct loop *loop;
    int worker;                                                    /* its control socket, or -1 */
    int now[CERTIFICATES_LISTENERS], next[CERTIFICATES_LISTENERS]; /* sealed memfds; -1: none */
    uint8_t keys[TLS_TICKET_KEYS][TLS_TICKET_KEY];                 /* the newest first */
    uint32_t n_keys;
    struct timer rotation;
    bool pending[CERTIFICATES_LISTENERS]; /* the worker is to answer */
    bool serves, asked;                   /* it does; a reload waits until then */
};

/* Reads all files; says each that can't be read on standard error. */
bool certificates_open(struct certificates *c, const struct config *config, const char *file,
                       struct loop *loop);
/* For `weir check`, after certificates_open: says what is wrong with what. false: an error is. */
bool certificates_check(const struct certificates *c);
void certificates_worker(struct certificates *c, int control); /* one starts; -1: it has gone */
void certificates_serve(struct certificates *c);               /* it serves */
void certificates_reload(struct certificates *c);
void certificates_rotate(struct certificates *c); /* the timer's */
/* For another configuration, after certificates_open: with the keys of tickets that `old` has. */
void certificates_inherit(struct certificates *c, const struct certificates *old);
/* c was copied to where it is, its timer being none. */
void certificates_moved(struct certificates *c, const struct config *config);
void certificates_done(struct certificates *c); /* zeroed: nothing to do */
/* false: the worker can't start with what it was given; it is logged. */
bool certificates_message(struct certificates *c, const struct control *m);

#endif
