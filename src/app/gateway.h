/* The gateway: what HTTP and WebSocket bring is routed to guests and built-in handlers, and what
 * comes back is applied.
 *
 *   gateway.c    listeners, routes, draining
 *   upgrade.c    the opening handshake, messages, the end of WebSockets
 *   event.c      guests' events: what host functions answer, commit or discard
 *   exec.c       POST /api/exec: numbers in and out of JSON
 *   admin.c      the admin listener
 */
#ifndef WEIR_GATEWAY_H
#define WEIR_GATEWAY_H

#include "app/config.h"
#include "guest/guest.h"
#include "http/http_exchange.h"
#include "hub/effects.h"
#include "ws/ws_conn.h"

enum { PROTOCOL_HTTP, PROTOCOL_ADMIN, PROTOCOL_WS };

struct listener {
    int fd;
    struct http_server *server;
    bool paused;
    struct timer timer; /* ends a pause */
};
enum { LISTENERS_MAX = 16 };

struct gateway {
    struct config config;
    struct loop loop;
    struct net net;
    struct http_server http, admin;
    struct ws_server ws;
    struct guests guests;
    struct guest_module *modules; /* as config.modules */
    struct listener listeners[LISTENERS_MAX];
    unsigned n_listeners;
    int reserve; /* a descriptor to give up when they run out */
    bool ready, draining;
    uint64_t drain_until_ms;
    struct timer drain_timer;
    struct list free_events;
};

/* A guest's event: one call of an export, from its start to its commit. */
struct event {
    struct guest_call call;
    struct gateway *gw;
    struct conn *conn;                     /* held */
    enum guest_export kind;                /* GUEST_EXPORTS: exec */
    const struct guest_function *function; /* exec's */
    struct http_exchange *ex; /* on_http, handshake, exec: the connection's; open: ours */
    struct slice message;
    struct buf copy; /* of the message, once the event outlives its input; then why it failed */
    struct effects fx;
    bool active, kept, chose_protocol; /* kept: it outlived its input, which is paused */
};

/* gateway.c */
/* Whether a guest's event may start now: guests have time left in this iteration, the connection
 * has not had its turn, and the module (NULL: not known yet) has room. */
enum conn_ready gateway_ready(const struct gateway *gw, const struct guest_module *m);
/* config is set; modules and listeners are added afterwards. */
enum err gateway_init(struct gateway *gw) MUST_USE;
/* Whether a module exports what its routes need; why: what is missing. */
enum err gateway_module_check(const struct config *config, uint32_t i, const struct guest_module *m,
                              struct buf *why) MUST_USE;
enum err gateway_listen(struct gateway *gw, int fd, bool admin) MUST_USE; /* takes fd */
/* Stops accepting, ends what is idle, tells WebSockets; ends the loop when all have gone or the
 * drain time is over. */
void gateway_drain(struct gateway *gw);
void gateway_done(struct gateway *gw);

/* upgrade.c */
void upgrade_init(struct gateway *gw);
void upgrade_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, uint16_t route);
/* The 101, with a guest's fields; chosen: Sec-WebSocket-Protocol is among them. */
void upgrade_accept(struct gateway *gw, struct conn *c, struct slice fields, bool chosen);
struct guest_module *upgrade_module(struct gateway *gw, const struct conn *c); /* NULL: built in */

/* event.c */
extern const struct guest_ops event_ops;
/* NULL: no memory. Arguments are added with guest_arg. */
struct event *event_new(struct gateway *gw, struct conn *c, enum guest_export kind,
                        struct guest_module *m, const struct weir_entry *entry);
/* Starts an event that answers an HTTP request; answers it with the error where it can't. */
void event_start_http(struct event *ev);
/* ERR_GUEST_BUSY and others: the event is gone. */
enum err event_start(struct event *ev) MUST_USE;
/* The same, but it waits for a turn of its module in any case, as it is not input that could. */
enum err event_queue(struct event *ev) MUST_USE;
void attachment_free(struct conn *c);

void exec_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, struct slice rest);
void exec_finish(struct event *ev, enum err e);
void admin_request(struct gateway *gw, struct conn *c, struct http_exchange *ex);

#endif
