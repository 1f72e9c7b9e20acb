/* The gateway: what HTTP and WebSocket bring is routed to guests and built-in handlers, and what
 * comes back is applied.
 *
 *   gateway.c    listeners, routes, draining
 *   upgrade.c    the opening handshake, messages, the end of WebSockets
 *   event.c      guests' events: start, commit or discard
 *   event_ops.c  what host functions answer to them
 *   command.c    WASI in events: streams, environment, commands as CGI scripts
 *   exec.c       POST /api/exec: numbers in and out of JSON
 *   admin.c      the admin listener
 *   topics_api.c   what it says about topics, and publishes
 *   conns_api.c, log_api.c  connections, and the log
 *   pprof_api.c  profiles
 *   page.c       the live page, and the stream that feeds it
 *   access.c     addresses, their limits, tokens
 *   loops.c      several of them, each on its thread: what they share and tell one another
 *   modules.c    versions of modules: loading, swapping, unloading
 *   modules_api.c  what the admin listener says and does about them
 *   handover_give.c, handover_take.c  all that lives is handed to a new worker
 */
#ifndef WEIR_GATEWAY_H
#define WEIR_GATEWAY_H

#include "app/config.h"
#include "app/control.h"
#include "app/handover.h"
#include "base/hash.h"
#include "base/log.h"
#include "guest/guest.h"
#include "http/http_exchange.h"
#include "hub/effects.h"
#include "hub/kv.h"
#include "hub/timers.h"
#include "hub/topics.h"
#include "net/peers.h"
#include "net/refused.h"
#include "net/tls.h"
#include "ws/ws_conn.h"

enum {
    PROTOCOL_HTTP,
    PROTOCOL_ADMIN,
    PROTOCOL_WS,
    PROTOCOL_PROXY,
    PROTOCOL_TLS,      /* until a handshake is done */
    PROTOCOL_ADMIN_TLS /* the same, on the admin listener */
};

struct listener {
    int fd;
    struct http_server *server;
    bool paused, tls, proxy; /* proxy: what comes begins with a PROXY header */
    struct timer timer;      /* ends a pause */
};
enum { LISTENERS_MAX = 16 };
enum { ADMIN_CONNECTIONS = 64 }; /* of their own: who looks why it is full must get in */

/* A version of a module, there until the last of its events has gone. */
struct module_code {
    struct guest_module guest;
    struct list node; /* of those that were replaced */
    struct module_version version, before;
    struct change *change; /* that brings it, while it is tried */
    bool told;             /* its on_unload was started */
};

/* What a module keeps in the host, whatever instance or version of it runs. */
struct module_state {
    struct metrics_module counts;
    struct module_code *code;   /* new events run it */
    struct module_code *canary; /* those of some connections run this one; NULL: there is none */
    struct module_code *trial;  /* was tried, and waits for what the other loops say */
    struct kv *kv;              /* of all loops */
    uint32_t n_timers;
    struct change *going; /* removed, or refused at its first: freed with its last event */
};

/* Something of few connections, by their slots, in chunks that are made as they are needed. */
struct slots {
    void **chunks;
    uint32_t n;
};

/* Of a connection: whom a proxy has named. */
struct proxied {
    struct address address;
    bool unknown; /* nobody, but for somebody: address is the proxy's, and not to be trusted as such
                   */
    uint32_t generation;
};

/* Of a WebSocket that ends with its token. */
struct expiry {
    uint32_t generation, at_s; /* since 1970; 0: none */
};

struct gateway {
    struct config config;
    struct loop loop;
    struct loops *loops; /* NULL: this is the only one */
    uint8_t number;      /* of its loop */
    bool drained;
    struct word *outbox, **outbox_end; /* words that other loops had no room for */
    struct timer outbox_timer;
    struct net net;
    struct http_server http, admin;
    struct ws_server ws;
    struct guests guests;
    struct module_state *states; /* as config.modules, with places for those that are added */
    uint32_t states_max, n_going;
    struct list replaced; /* versions that are to be unloaded */
    struct list jobs;     /* changes of modules that were asked for; the first one runs */
    uint32_t n_jobs;
    struct watch *watch; /* of page.c; NULL: nobody watches */
    struct peers peers;
    struct slots proxied;  /* struct proxied; n 0: no listener speaks PROXY */
    struct jwt *jwts;      /* as config.jwts */
    struct slots expiries; /* struct expiry; n 0: no jwt has on_expiry: close */
    struct timer expiry_timer;
    uint32_t expiry_next_s; /* for which that is set */
    struct topics topics;
    struct timers timers;
    struct buf drains;           /* ids of connections that on_ws_drain is to be told of */
    struct timer throttle_timer; /* when a module may run again that used up its CPU time */
    struct listener listeners[LISTENERS_MAX];
    unsigned n_listeners;
    struct refused refused;
    int reserve; /* a descriptor to give up when they run out */
    bool ready, draining;
    bool leaving, unloaded, handed; /* see handover_give.c; its actors were told; it is done */
    bool met;                       /* the first loop's: all know that they leave */
    int successor; /* the first loop's: the way to the next worker, while leaving */
    uint64_t leave_until_ms;
    struct timer leave_timer;
    uint64_t trimmed_ms;
    uint64_t drain_until_ms, drain_spread_ms; /* by the second, all WebSockets have been told */
    uint32_t drain_next;                      /* slot of the connections: those before it were */
    uint32_t drain_left;                      /* to be told */
    struct timer drain_timer;
    struct list free_events;
};

struct event_read { /* a key that an event read, and in which version */
    uint64_t version;
    uint32_t key_n;
};

/* A guest's event: one call of an export, from its start to its commit. */
struct event {
    struct guest_call call;
    struct gateway *gw;
    struct conn *conn;                     /* held; NULL: a timer's */
    enum guest_export kind;                /* GUEST_EXPORTS: exec */
    const struct guest_function *function; /* exec's */
    struct http_exchange *ex; /* on_http, handshake, exec: the connection's; open: ours */
    struct slice message;
    struct buf copy; /* of the message, once the event outlives its input; then why it failed */
    struct effects fx;
    struct buf reads; /* struct event_read and its key, again and again */
    bool read_all;    /* it read more than that holds */
    uint8_t attempts; /* to run it again */
    bool kv_used;
    uint64_t kv_version;                     /* of all keys, as it was first used */
    int64_t kv_delta;                        /* bytes that its changes of keys add */
    struct weir_value args[WEIR_VALUES_MAX]; /* for another attempt */
    struct buf lines[2];                     /* of WASI's output and error, not yet logged */
    uint32_t read, said;                     /* bytes of WASI's input and to the log */
    uint32_t script_n, head_n; /* a command's: of the path, SCRIPT_NAME; of the output, its head */
    bool overflow;             /* a command's: it printed more than it may */
    bool active, kept, chose_protocol; /* kept: it outlived its input, which is paused */
};

/* gateway.c */
/* Whether a guest's event may start now: guests have time left in this iteration, the connection
 * has not had its turn, and the module (NULL: not known yet) has room. */
enum conn_ready gateway_ready(const struct gateway *gw, const struct guest_module *m);
/* config is set; modules and listeners are added afterwards. */
enum err gateway_init(struct gateway *gw) MUST_USE;
/* Raises what an engine must have room for to what a module may have. */
void gateway_limits_raise(struct guest_limits *g, const struct config_module_limits *l);
void gateway_module_init(const struct config *config, uint32_t i, struct guest_module *out);
/* The number of a WebSocket's route among metrics_topics. */
static inline uint32_t gateway_topic(const struct conn *c)
{
    return c->route + 1u < METRICS_TOPICS ? c->route + 1u : 0;
}
/* Where a module's topics live, or a route's. */
struct slice gateway_space(const struct gateway *gw, uint32_t module,
                           const struct config_route *route);
/* Whether a module exports what its routes need; why: what is missing. */
enum err gateway_module_check(const struct config *config, uint32_t i, const struct guest_module *m,
                              struct buf *why) MUST_USE;
enum err gateway_listen(struct gateway *gw, int fd, bool admin) MUST_USE; /* takes fd */
/* Puts certificates of a listener in force, as tls_certificates says. */
enum err gateway_tls(struct gateway *gw, uint32_t listener, struct slice pairs,
                     struct buf *why) MUST_USE;
void gateway_listener_watch(struct gateway *gw, struct listener *l);
void gateway_serve(struct gateway *gw); /* accepts from here on */
/* Stops accepting, ends what is idle, tells WebSockets; ends the loop when all have gone or the
 * drain time is over. */
void gateway_drain(struct gateway *gw);
void gateway_done(struct gateway *gw);

/* pprof_api.c */
/* Before all that takes memory, and before the cage. */
enum err pprof_open(const struct gateway *gw) MUST_USE;
void pprof_thread(const struct gateway *gw); /* before the cage, on each loop's thread */
bool pprof_waits(const struct gateway *gw);  /* whether somebody waits for one here */
/* A module is about to be unloaded: what was sampled in its code gets its functions' names. */
void pprof_code_gone(const struct gateway *gw, const struct guest_module *m);

/* access.c */
enum { ACCESS_PROXIED = 19 }; /* bytes, as a worker of before may send one fewer */
/* Makes ready what the configuration asks for; before the worker is caged. false: said. */
bool access_init(struct gateway *gw) MUST_USE;
void access_done(struct gateway *gw);
/* Whether who connects may; *peer: for conn.peer. */
enum err access_accept(struct gateway *gw, bool proxy, int fd, uint32_t *peer) MUST_USE;
/* For http_server.answered: a line of the access log. */
void access_log(void *owner, struct conn *c, const struct http_exchange *ex, unsigned status,
                size_t bytes);
bool access_admin(const struct gateway *gw, int fd); /* whether admin.allow has who connects */
/* Whose request it is; ex NULL: whose connection. false: nobody knows any more. */
bool access_client(const struct gateway *gw, const struct conn *c, const struct http_exchange *ex,
                   struct address *out);
/* Takes a handshake from what the client may do in a second. */
enum err access_handshake(struct gateway *gw, struct conn *c,
                          const struct http_exchange *ex) MUST_USE;
/* What of a connection goes over to another worker; false: no memory for it there. */
void access_give(const struct gateway *gw, const struct conn *c, struct handover_conn *out,
                 uint8_t proxied[ACCESS_PROXIED]);
bool access_take(struct gateway *gw, struct conn *c, const struct handover_conn *h);
/* For what becomes a WebSocket: counts it to the client that a proxy spoke for; it ends with its
 * token, where that is asked for. */
enum err access_join(struct gateway *gw, struct conn *c, const struct http_exchange *ex) MUST_USE;
/* Whether the request has the token that config.jwts[number - 1] asks for (0: none), whose claims
 * are in ex then. Else fields and detail are for the answer. */
enum err access_token(struct gateway *gw, struct conn *c, struct http_exchange *ex, uint32_t number,
                      struct slice *fields, struct slice *detail) MUST_USE;
/* Of an offered subprotocol: whether it is bearer.TOKEN, which is nobody's to choose. */
#define ACCESS_BEARER SLICE("bearer.")
bool access_is_token(struct slice protocol);

/* upgrade.c */
void upgrade_init(struct gateway *gw);
/* Starts on_ws_drain for those that wait for it, as far as guests have room. */
void upgrade_drains(struct gateway *gw);
void upgrade_send(struct gateway *gw, struct conn *c, struct slice frame); /* a guest's */
/* Hands a published frame to a WebSocket. */
void upgrade_deliver(void *owner, struct conn *c, struct frame *frame);
void upgrade_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, uint16_t route);
/* The 101, with a guest's fields; chosen: Sec-WebSocket-Protocol is among them. */
void upgrade_accept(struct gateway *gw, struct conn *c, struct slice fields, bool chosen);
struct guest_module *upgrade_module(struct gateway *gw, const struct conn *c); /* NULL: built in */

/* Frees what it has beside the connection itself. */
void upgrade_forget(struct gateway *gw, struct conn *c);
bool upgrade_in_room(const struct gateway *gw, const struct conn *c); /* of a pubsub route */

/* event_ops.c */
extern const struct guest_ops event_ops;
/* A connection that the module's guest may reach: an open WebSocket of its own, and of this loop.
 * NULL: there is none. */
struct conn *event_reach(struct gateway *gw, uint32_t module, uint64_t id);
struct slice event_space(const struct event *ev);              /* where its topics live */
bool event_field_own(struct slice name);                       /* which the gateway writes itself */
bool event_field_valid(struct slice name, struct slice value); /* in a guest's response */
bool event_topic_valid(const struct gateway *gw, struct slice name);

/* event.c */
/* log_begin with what all lines of a guest's event have. */
bool event_log(const struct event *ev, enum log_event e);
void event_failed(struct guest_call *call, enum err e, struct slice text);
/* Where an event's done() is another than its own: at the end of that. */
void event_free(struct event *ev);
/* conn NULL: a timer's. NULL: no memory. Arguments are added with guest_arg. */
struct event *event_new(struct gateway *gw, struct conn *c, enum guest_export kind,
                        struct guest_module *m, const struct weir_entry *entry);
/* Starts an event that answers an HTTP request; answers it with the error where it can't. */
void event_start_http(struct event *ev);
/* ERR_GUEST_BUSY and others: the event is gone. */
enum err event_start(struct event *ev) MUST_USE;
/* The same, but it waits for a turn of its module in any case, as it is not input that could. */
enum err event_queue(struct event *ev) MUST_USE;

static inline uint32_t gateway_module_number(const struct gateway *gw, const struct guest_module *m)
{
    (void)gw;
    return m->number;
}

/* The version that new events of a connection run; c NULL: that of no connection. It is the same
 * for all that a connection has, as its id alone decides. NULL: the module was removed, which none
 * of the configuration's is. */
static inline struct guest_module *gateway_module(const struct gateway *gw, uint32_t number,
                                                  const struct conn *c)
{
    const struct module_state *s = &gw->states[number];
    if (s->canary && c) {
        uint64_t id = conn_id(c);
        if (hash_bytes(slice_of(&id, sizeof(id))) % 100 < s->canary->version.percent)
            return &s->canary->guest;
    }
    return s->code ? &s->code->guest : NULL;
}

static inline struct module_state *event_state(const struct event *ev)
{
    return &ev->gw->states[gateway_module_number(ev->gw, ev->call.module)];
}

static inline const struct config_module *event_config(const struct event *ev)
{
    return &ev->gw->config.modules[gateway_module_number(ev->gw, ev->call.module)];
}

/* command.c */
uint32_t command_input(struct guest_call *call, uint8_t *p, uint32_t cap);
bool command_output(struct guest_call *call, bool error, struct slice data);
uint32_t command_environment(struct guest_call *call, struct buf *out);
void command_lines_end(struct event *ev); /* logs what has no line's end */
/* Makes a response of standard output. ERR_GUEST_RESPONSE, which is logged: it is none. */
enum err command_response(struct event *ev) MUST_USE;

/* Whether /api/exec reaches it. */
bool exec_reaches(const struct config_module *config, const struct guest_module *m);
void exec_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, struct slice rest);
void exec_finish(struct event *ev, enum err e);
/* modules.c */
/* Loads a version, from fd, which it takes, and puts it in force: at the start, when no event runs.
 * why: what is wrong. */
enum err modules_load(struct gateway *gw, uint32_t number, int fd, const char *versions,
                      struct buf *why) MUST_USE;
/* The same at run time: after a trial, which makes an instance. The supervisor is told the end. */
void modules_swap(struct gateway *gw, uint32_t number, int fd, const char *versions);
/* A module that the configuration does not name gets its place, before its first version. */
void modules_add(struct gateway *gw, uint32_t number, const char *words);
/* It gets no new event from now on. The supervisor is told the end, then when the place is free. */
void modules_remove(struct gateway *gw, uint32_t number);
/* Makes what modules that are added need, and what could not be made in the cage. */
void modules_foresee(struct gateway *gw);
int modules_find(const struct gateway *gw, struct slice name); /* -1: none is in force */
/* Puts a canary in force for all, or for none. The supervisor is told the end. */
void modules_canary_end(struct gateway *gw, uint32_t number, bool promote);
/* Unloads versions that no event names any more. */
void modules_reap(struct gateway *gw);

void modules_leave(struct gateway *gw); /* starts the actors' last events */
void modules_stay(struct gateway *gw);  /* they begin anew */

/* modules_api.c */
void modules_answer(struct gateway *gw, const struct control *m); /* the supervisor's */

/* page.c: those who follow the stream are sent off. */
void watch_end(struct gateway *gw);

void admin_request(struct gateway *gw, struct conn *c, struct http_exchange *ex);

/* handover_give.c */
void handover_give(struct gateway *gw, int fd); /* to the worker behind fd, which it takes */
bool handover_step(struct gateway *gw);         /* the loop's phase; true: it is to go on at once */
/* handover_take.c */
/* Takes all that the worker behind fd, which it takes, has. slots: of connections, there or here.
 * On an error nothing must be served: the process ends. */
void handover_take(struct gateway *gw, int fd, uint32_t slots);
/* What serves a WebSocket route, as text: the same text, the same service. */
enum err handover_target(const struct config *c, const struct config_route *r,
                         struct buf *out) MUST_USE;

#endif
