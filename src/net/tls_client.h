/* TLS of the program's own requests to an admin listener: https://ADDRESS:PORT. */
#ifndef WEIR_TLS_CLIENT_H
#define WEIR_TLS_CLIENT_H

#include "base/buf.h"

struct tls_client {
    const char *ca;                /* who signed the gateway's certificate; NULL: the system's */
    const char *certificate, *key; /* ours; a NULL key: it is in the certificate's file */
    const char *name;              /* that its certificate has; NULL: the address */
};

/* Sends both over fd, and appends to answer what comes until the gateway ends it. NULL, or what
 * went wrong, which is gone at the next call. */
const char *tls_client_exchange(int fd, const struct tls_client *t, const char *host,
                                struct slice head, struct slice body, struct buf *answer) MUST_USE;

#endif
