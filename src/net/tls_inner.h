/* What the files of TLS share: tls.c (data, and the ends of connections), tls_handshake.c
 * (OpenSSL's part), tls_cert.c (contexts of certificates), tls_record.c (records). */
#ifndef WEIR_TLS_INNER_H
#define WEIR_TLS_INNER_H

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/list.h"
#include "net/tls.h"
#include "net/tls_record.h"

enum { TLS_LISTENERS = 16, TLS_RAW = 32 << 10 };
enum { TLS_SEALED = TLS_HEADER + TLS_PLAIN_MAX + TLS_SEAL_MAX, TLS_BATCH = 2 }; /* records a send */

struct tls_names { /* a listener's certificates */
    SSL_CTX *contexts[TLS_CERTIFICATES_MAX];
    uint32_t n;
};

enum tls_state { TLS_WAITING, TLS_HANDSHAKE, TLS_OPEN, TLS_FAILED };

struct tls_conn {
    struct pool_slot slot;
    uint64_t conn;    /* its id */
    SSL *ssl;         /* of the handshake; NULL before and after it */
    struct list node; /* of those that wait for one */
    struct tls_keys keys;
    struct buf in;  /* read from the socket, not yet taken */
    struct buf out; /* written, not yet taken by the socket */
    uint16_t clear; /* bytes at the front of `in` that are opened already */
    uint16_t most;  /* bytes of data that a record of ours has: RFC 6066 4 */
    uint8_t state, listener;
    uint8_t odd;          /* records running that were no data */
    uint8_t update_n;     /* bytes of a KeyUpdate that goes on in the next record */
    bool more;            /* `in` has what can be taken at once */
    bool owed;            /* the caller's next byte is in a record already */
    bool update_due;      /* the peer asked for new keys of ours */
    bool ended, notified; /* the peer's end; ours */
    bool broken;          /* the socket is */
};

struct tls {
    struct tls_limits limits;
    struct pool conns;
    uint32_t *places, n_places; /* in conns, by the connection's slot */
    struct tls_names names[TLS_LISTENERS];
    struct list waiting;
    uint32_t handshakes;
    uint64_t iteration;
    unsigned steps;
    uint8_t protocol;
    void *owner;
    void (*opened)(void *owner, struct conn *c);
    BIO_METHOD *socket;
    uint8_t keys[TLS_TICKET_KEYS][TLS_TICKET_KEY];
    unsigned n_keys;
    struct net *net;
    struct conn *now; /* whose OpenSSL runs */
    struct tls_ciphers ciphers;
    size_t raw_at, raw_n; /* of raw: taken, and read */
    uint8_t raw[TLS_RAW], sealed[TLS_BATCH * TLS_SEALED + 64 /* a KeyUpdate */];
};

static inline struct tls_conn *tls_of(const struct net *net, const struct conn *c)
{
    return pool_at(&net->tls->conns, net->tls->places[c->slot.index]);
}

/* tls.c */
bool tls_flush(struct net *net, struct conn *c, struct tls_conn *tc); /* true: nothing waits */
/* Sends, or keeps; no more is sent before that is gone. false: the socket is broken. */
bool tls_put(struct net *net, struct conn *c, struct tls_conn *tc, struct slice s);
/* Reads behind what is in raw. false: nothing came. */
bool tls_fill(struct tls *t, struct conn *c, struct tls_conn *tc);
void tls_report(struct conn *c, enum err e, const char *detail); /* counts and logs */
/* The same, and ends the connection as one that has said all: the alert is on its way. */
void tls_failed(struct net *net, struct conn *c, struct tls_conn *tc, enum err e,
                const char *detail);

/* tls_handshake.c */
/* A step. 1: done; 0: the peer's turn; negative: it has failed, and the connection is ended. */
int tls_handshake(struct net *net, struct conn *c, struct tls_conn *tc);
void tls_slot_leave(struct net *net, struct tls_conn *tc); /* it is in no handshake any more */

/* tls_cert.c */
/* NULL: why says it. A warning may be there in any case. */
SSL_CTX *tls_context_new(const struct slice pem[TLS_PEMS], struct buf *why);
/* The context of the certificate that has the name (RFC 6125 6.4); the first where none has, or
 * name is NULL. */
SSL_CTX *tls_names_find(const struct tls_names *names, const char *name);
void tls_names_done(struct tls_names *names);

#endif
