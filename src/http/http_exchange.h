/* HTTP/1.1 on connections: requests out of bytes, responses into bytes. Whoever owns the server
 * answers each request, in its callback or later.
 *
 *           first bytes          complete               complete             http_exchange_respond
 *   IDLE ---------------> HEAD ----------> BODY or none ---------> request() --------------> IDLE
 *    | idle_timeout         | head_timeout   | body_timeout                     (kept alive) or end
 *    v                      v                v
 *   end                    408              408
 *
 * A request that is all there, and answered in its callback, costs no memory of its own. Responses
 * go out in the order of their requests: a request is not looked at before the one in front of it
 * is answered. Sources: RFC 9110, RFC 9112, RFC 9457 (problem details). */
#ifndef WEIR_HTTP_EXCHANGE_H
#define WEIR_HTTP_EXCHANGE_H

#include "http/http_parse.h"
#include "net/conn.h"

struct http_server_limits {
    struct http_limits parse;
    uint32_t body;      /* bytes */
    uint32_t queue_max; /* bytes of a response that may wait for the peer */
    uint64_t head_timeout_ms, body_timeout_ms, idle_timeout_ms; /* 1 or more */
};

/* A request until its response. head and body are borrowed from the receive buffer until the
 * callback returns or http_exchange_keep is called. */
struct http_exchange {
    const uint8_t *head; /* what the spans of req are relative to */
    struct slice body;
    struct buf own; /* head and body, once they outlive their input */
    struct http_chunked chunked;
    bool complete;           /* request() was called */
    uint64_t began_ns;       /* when; where the server has answered() */
    struct http_span claims; /* of the token that was checked; its base64url; len 0: none */
    struct http_request req;
};

struct http_server {
    struct net *net;
    struct http_server_limits limits;
    void *owner;
    bool draining; /* each response is its connection's last */
    enum conn_ready (*ready)(void *owner, struct conn *c); /* see struct conn_protocol */
    void (*request)(void *owner, struct conn *c, struct http_exchange *ex);
    /* Each answer to a request that was read whole; bytes: of its body. May be NULL. */
    void (*answered)(void *owner, struct conn *c, const struct http_exchange *ex, unsigned status,
                     size_t bytes);
    struct http_exchange passing; /* the one that lives only during request() */
    uint64_t date_until_ms;
    char date[40];
};

struct http_response {
    unsigned status;
    struct slice type;   /* Content-Type, or none */
    struct slice fields; /* further field lines, each with CR LF */
    struct slice body;
};

/* limits, owner, ready and request are set by the caller. */
void http_server_init(struct http_server *s, struct net *net, uint8_t protocol);
/* Hands over an accepted connection. */
void http_server_open(struct http_server *s, struct conn *c);

/* Each ends the exchange. 429 and 503 carry Retry-After; a 405 needs Allow among the fields. */
void http_exchange_respond(struct http_server *s, struct conn *c, const struct http_response *r);
/* A 200 without a length: what follows is the caller's, by conn_write, up to conn_shutdown, and
 * nothing more is read. A HEAD's ends here. */
void http_exchange_stream(struct http_server *s, struct conn *c, struct slice type,
                          struct slice fields);
/* An application/problem+json; detail empty: the error's own text. */
void http_exchange_fail(struct http_server *s, struct conn *c, enum err e, struct slice fields,
                        struct slice detail);
/* Keeps the exchange beyond the callback, and pauses the connection. Its address changes; NULL:
 * no memory, and all is as before. */
struct http_exchange *http_exchange_keep(struct http_server *s, struct conn *c) MUST_USE;

/* Takes the exchange off a connection that speaks another protocol from here on. It still ends
 * with the callback, unless _own gives it memory of its own (its address changes; NULL: none). */
struct http_exchange *http_exchange_detach(struct conn *c);
struct http_exchange *http_exchange_own(struct http_server *s, struct http_exchange *ex) MUST_USE;
void http_exchange_free(struct http_exchange *ex);

static inline struct slice http_exchange_field(const struct http_exchange *ex, struct slice name)
{
    return http_field_get(&ex->req, ex->head, name);
}

#endif
