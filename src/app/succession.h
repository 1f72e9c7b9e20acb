/* A new worker takes over from the one that serves, for another configuration or another program.
 *
 *          asked for           `weir probe FILE` ended well     READY             TAKEN
 *   NONE -----------> CHECK ------------------------------> START -----> TRANSFER -----> NONE
 *                       | it failed          it ended, refused |             | it ended, or is
 *                       +---------> NONE <---- a module, is late +-----------+   late
 *
 * An upgrade is that of the file on disk: it is checked by that program, which the supervisor then
 * becomes (resume.h), and START follows there.
 * Until TAKEN the old worker, its configuration and its listeners are in force, and on any failure
 * they stay so. Afterwards the old worker drains what it could not hand over (`leaving`). */
#ifndef WEIR_SUCCESSION_H
#define WEIR_SUCCESSION_H

#include "app/certificates.h"
#include "app/changes.h"
#include "app/config.h"
#include "app/gateway.h"

enum { LEAVING_MAX = 8 };

struct leaving {
    pid_t pid; /* 0: none */
    int control;
    struct timer kill;
};

/* What one configuration has in force. Listeners are in its order, each with a socket for each
 * loop; the admin's, which has one, is the last. */
struct service {
    struct config config;
    int yaml, keys; /* sealed memfds; -1: none */
    int listeners[LISTENERS_MAX * THREADS_MAX];
    unsigned n_listeners;
    struct changes changes;
    struct certificates certificates;
};

enum succession_state { SUCCESSION_NONE, SUCCESSION_CHECK, SUCCESSION_START, SUCCESSION_TRANSFER };

struct succession {
    enum succession_state state;
    uint32_t kind; /* CONTROL_RELOAD, CONTROL_UPGRADE */
    pid_t pid;     /* of the check, then of the new worker; 0: none */
    int said;      /* what the check says; -1: none */
    int control;   /* of the new worker; -1: none */
    struct service next;
    struct timer timer;
    struct leaving leaving[LEAVING_MAX];
};

struct supervisor;
void succession_init(struct supervisor *s);
/* Goes on with an upgrade, in the new program: resume_read has set the supervisor's state. */
void succession_resume(struct supervisor *s);
/* Asked by changes: false, the file says what is in force, and only modules are to be looked at. */
bool succession_begin(void *supervisor, uint32_t kind);
void succession_message(struct supervisor *s); /* the new worker says something */
void succession_child(struct supervisor *s);   /* a child has ended */
void succession_timer(struct supervisor *s, struct timer *t);
void succession_stop(struct supervisor *s); /* there is to be no new worker */
void succession_kept(struct supervisor *s); /* the old worker says that it serves on */
/* The worker that serves has died: true, the new one goes on without it. */
bool succession_orphaned(struct supervisor *s);
bool succession_leaving(const struct supervisor *s); /* old workers are there yet */
void succession_kill(struct supervisor *s);          /* those */

#endif
