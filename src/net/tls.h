/* TLS 1.2 and 1.3 under a connection (RFC 8446, 5246), by OpenSSL 3 until a handshake is done.
 *
 *             tls_start               a slot of limits.handshakes          the last flight
 *   (accepted) --------> WAITING ------------------------------> HANDSHAKE --------> OPEN
 *                           |      deadline, or the peer errs       |                  | tls_end:
 *                           +---------------> FAILED <--------------+------------------+
 * close_notify
 *
 * Until it is OPEN a connection speaks `protocol`, whose deadline ends it; then `opened` is called,
 * and lets it speak what is under TLS. conn.c calls tls_recv and tls_send where it would the
 * socket: they take and give plain bytes. What the socket did not take of a record waits here, and
 * tls_send then leaves one byte of it with its caller, so that a queue is empty only where all is
 * sent. OpenSSL is not started before tls_new. */
#ifndef WEIR_TLS_H
#define WEIR_TLS_H

#include "net/conn.h"

struct tls_limits {
    uint32_t connections;
    uint32_t handshakes; /* at one time; the rest wait */
    uint32_t handshake_ms;
    uint32_t records; /* under one key, each way; AES-GCM has 2^24.5 (RFC 8446 5.5) */
};

/* Makes net->tls. opened: a handshake is done. */
enum err tls_new(struct net *net, const struct tls_limits *limits, uint8_t protocol, void *owner,
                 void (*opened)(void *owner, struct conn *c)) MUST_USE;
void tls_done(struct net *net);

/* What a certificate is made of, in PEM: itself with its chain behind it, its key, and those who
 * may have signed a client's certificate (n 0: no client is asked for one). Where they are, nobody
 * gets in without: no session is resumed, neither one of this listener nor of another. */
enum tls_pem { TLS_PEM_CERTIFICATE, TLS_PEM_KEY, TLS_PEM_CLIENT_CA, TLS_PEMS };
/* A listener's certificates: for each the lengths of these as uint32_t, then them. The first is for
 * names that none of them has. New handshakes use them; on failure the old ones stay, and why says
 * what is wrong with which. */
enum { TLS_CERTIFICATES_MAX = 16, TLS_PEM_MAX = 1 << 20 };
enum err tls_certificates(struct net *net, uint32_t listener, struct slice all,
                          struct buf *why) MUST_USE;
/* What is wrong with one. ERR_NONE with a why: a warning. */
enum err tls_certificate_check(const struct slice pem[TLS_PEMS], struct buf *why) MUST_USE;

/* Keys of session tickets (RFC 5077 4): the first seals, each opens. */
enum { TLS_TICKET_KEY = 80, TLS_TICKET_KEYS = 3 };
void tls_tickets(struct net *net, struct slice keys);

/* A connection just opened, speaking `protocol`, gets TLS; it is closed where there is no memory.
 */
void tls_start(struct net *net, struct conn *c, uint32_t listener);
/* As sys_recv and sys_sendv. What ends a connection for an error is done in here: -EINTR then. */
ssize_t tls_recv(struct net *net, struct conn *c, void *p, size_t n);
ssize_t tls_send(struct net *net, struct conn *c, const struct slice *v, unsigned n);
bool tls_more(const struct net *net, const struct conn *c);      /* another tls_recv has news */
uint32_t tls_waits(const struct net *net, const struct conn *c); /* bytes, for the socket */
void tls_writable(struct net *net, struct conn *c);              /* the socket takes more */
void tls_end(struct net *net, struct conn *c); /* close_notify, and the end of the stream */
void tls_close(struct net *net, struct conn *c);

/* OpenSSL is started by the first, which reads no file. A process that never will calls the second,
 * which gives back the memory that OpenSSL takes even so; nothing of it may be used after that. */
void tls_library_open(void);
void tls_library_unused(void); /* none where it was opened */

#endif
