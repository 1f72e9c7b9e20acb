/* The worker: the process that serves. It is started by the supervisor, which sends it all that it
 * needs; it opens no file and parses no WebAssembly. */
#ifndef WEIR_WORKER_H
#define WEIR_WORKER_H

#include "app/gateway.h"

int worker_main(void); /* the exit status */

/* worker_tls.c: takes what came by TLS or TICKETS to all loops, and answers. starting: they do not
 * run yet. false: it is known to be refused already. */
bool worker_tls(struct gateway *gw, const struct control *m, int fd, bool starting);

#endif
