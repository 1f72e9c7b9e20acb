/* The gateway: routes what HTTP and WebSocket bring to guests and built-in handlers, and applies
 * what comes back. gateway.c HTTP, gateway_ws.c WebSocket, gateway_event.c guests' events,
 * exec.c numbers in and out of JSON. */
#ifndef WEIR_GATEWAY_H
#define WEIR_GATEWAY_H

#include "app/config.h"
#include "guest/guest.h"
#include "http/http_parse.h"
#include "hub/effects.h"
#include "ws/ws_frame.h"

enum { PROTOCOL_HTTP, PROTOCOL_ADMIN, PROTOCOL_WS };
enum { WS_OPENED = 1, WS_CLOSE_SENT = 2, WS_CLEAN = 4 }; /* conn.flags on PROTOCOL_WS */

struct listener {
    int fd;
    uint8_t protocol;
    bool paused;
    struct timer timer;
};
enum { LISTENERS_MAX = 16 };

struct gateway {
    struct config config;
    struct loop loop;
    struct net net;
    struct guests guests;
    struct guest_module *modules;
    struct listener listeners[LISTENERS_MAX];
    unsigned n_listeners;
    int reserve;
    bool ready, draining;
    uint64_t drain_until_ms;
    struct list free_events, stalled; /* stalled: WebSocket events refused a guest for now */
    uint64_t date_s;
    char date[40];
};

/* One HTTP request from its head to its response; conn.detail meanwhile. */
struct exchange {
    struct http_request req;
    size_t scanned;
    bool in_body, answered, pending; /* pending: a guest has it */
    struct http_chunked chunked;
    struct buf head, body;
    const struct config_route *route;
};

struct event {
    struct guest_call call;
    struct gateway *gw;
    struct conn *conn;      /* held */
    enum guest_export kind; /* GUEST_EXPORTS: exec */
    const struct guest_function *function;
    struct exchange *ex;
    struct slice message;
    struct buf copy; /* of the message, once the event outlives its input */
    struct effects fx;
    bool active;
};

enum err gateway_init(struct gateway *gw) MUST_USE; /* config is set; listeners open here */
void gateway_run(struct gateway *gw);
void gateway_drain(struct gateway *gw); /* async-signal-safe flags are the caller's */
void gateway_done(struct gateway *gw);

/* gateway.c */
struct answer {
    unsigned status;
    const char *type;    /* Content-Type or NULL */
    struct slice fields; /* further field lines, each with CR LF */
    struct slice body;
};
void http_answer(struct gateway *gw, struct conn *c, struct exchange *ex, const struct answer *a);
void http_problem(struct gateway *gw, struct conn *c, struct exchange *ex, enum err e,
                  struct slice fields, struct slice detail);
void exchange_free(struct conn *c);

/* gateway_ws.c */
size_t ws_input(struct net *net, struct conn *c, uint8_t *p, size_t n);
void ws_timeout(struct net *net, struct conn *c);
void ws_closed(struct net *net, struct conn *c);
void ws_upgrade(struct gateway *gw, struct conn *c, struct exchange *ex);
void ws_accept(struct gateway *gw, struct conn *c, struct exchange *ex, struct slice fields);
void ws_send_close(struct gateway *gw, struct conn *c, unsigned code, struct slice why,
                   enum close_reason reason);
struct guest_module *ws_module(struct gateway *gw, const struct conn *c); /* NULL: built in */

/* gateway_event.c */
extern const struct guest_ops gateway_ops;
struct event *event_new(struct gateway *gw, struct conn *c, enum guest_export kind,
                        struct guest_module *m, const struct weir_entry *entry);
enum err event_start(struct event *ev);
bool events_retry(void *gateway); /* the loop's phase */

/* exec.c: false: answered already */
void exec_request(struct gateway *gw, struct conn *c, struct exchange *ex, struct slice rest);
void exec_finish(struct event *ev, enum err e);

#endif
