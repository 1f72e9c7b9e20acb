/* Who may come in, and for whom he speaks: addresses by the PROXY protocol and X-Forwarded-For,
 * their limits, and tokens. docs/ACCESS.md says it in full.
 *
 *   the peer      the other end of the TCP connection
 *   the address   of a connection: the peer's, or what a trusted peer's PROXY header says
 *   the client    of a request: the address, or what trusted ones say in X-Forwarded-For
 */
#include <math.h>
#include <stdlib.h>

#include "app/jwt.h"
#include "app/loops.h"
#include "base/log.h"
#include "http/http_trace.h"
#include "net/proxy.h"

enum { CHECK_ROOM = 256 << 10 }; /* more than a token's JSON takes */
enum { LOGGED_PATH = 1024 };
enum { PEERS_IDLE = 4096 };      /* addresses that have nothing open and are remembered */
enum { EXPIRY_STEP = 256 };      /* WebSockets that are closed at one time */
enum { EXPIRY_LOOK_MS = 60000 }; /* the system's time may be set */

static bool trusted(const struct gateway *gw, const struct address *a)
{
    return address_in(a, gw->config.access.trusted.v, gw->config.access.trusted.n);
}

/* ---- connections ---- */

enum err access_accept(struct gateway *gw, bool proxy, int fd, uint32_t *peer)
{
    struct address a;
    *peer = 0;
    if (!proxy && !gw->config.access.connections_per_ip)
        return ERR_NONE;
    bool known = sys_peer(fd, &a) == 0;
    if (proxy)
        return known && trusted(gw, &a) ? ERR_NONE : ERR_PROXY;
    if (!known || trusted(gw, &a))
        return ERR_NONE; /* it has gone, or may speak for many */
    *peer = peers_join(&gw->peers, &a);
    return *peer ? ERR_NONE : ERR_PEER_CONNECTIONS;
}

void access_log(void *owner, struct conn *c, const struct http_exchange *ex, unsigned status,
                size_t bytes)
{
    const struct gateway *gw = owner;
    struct slice path = http_span_slice(ex->head, ex->req.path); /* a query may hold secrets */
    struct address client;
    char text[ADDRESS_TEXT], trace[HTTP_TRACE_ID];
    if (!log_begin(LOG_request))
        return;
    log_text("method", slice_str(http_method_name(ex->req.method)));
    log_number("status", status);
    log_number("bytes", (int64_t)bytes);
    log_number("us", (int64_t)((sys_now_ns() - ex->began_ns) / 1000));
    if (access_client(gw, c, ex, &client)) {
        address_write(&client, text);
        log_text("peer", slice_str(text));
    }
    log_id("conn_id", conn_id(c));
    if (http_trace_id(&ex->req, ex->head, trace))
        log_text("trace_id", slice_str(trace));
    log_text("path", slice_of(path.p, MIN(path.n, (size_t)LOGGED_PATH))); /* last: it may be cut */
    log_end();
}

bool access_admin(const struct gateway *gw, int fd)
{
    const struct config_admin *a = &gw->config.admin;
    struct address peer;
    return !a->allow.n || a->address[0] == 'u' || /* unix: whom its file lets in */
           (sys_peer(fd, &peer) == 0 && address_in(&peer, a->allow.v, a->allow.n));
}

/* ---- what is known of few connections ---- */

/* Another worker may have given out slots beyond what limits.connections has here. */
static bool slots_grow(struct slots *t, uint32_t n)
{
    if (n <= t->n)
        return true;
    void **more = mem_alloc(n * sizeof(*more));
    if (!more)
        return false;
    memset(more, 0, n * sizeof(*more));
    slice_copy((uint8_t *)more, slice_of(t->chunks, t->n * sizeof(*more)));
    mem_free(t->chunks, t->n * sizeof(*more));
    *t = (struct slots){more, n};
    return true;
}

/* What is in its place, of `size` bytes; NULL: none is made yet. */
static void *slots_at(const struct slots *t, const struct conn *c, size_t size)
{
    uint32_t i = c->slot.index / POOL_CHUNK;
    uint8_t *chunk = i < t->n ? t->chunks[i] : NULL;
    return chunk ? chunk + c->slot.index % POOL_CHUNK * size : NULL;
}

static void *slots_make(struct slots *t, const struct conn *c, size_t size)
{
    uint32_t i = c->slot.index / POOL_CHUNK;
    if (slots_grow(t, i + 1) && !t->chunks[i] && (t->chunks[i] = mem_alloc(POOL_CHUNK * size)))
        memset(t->chunks[i], 0, POOL_CHUNK * size);
    return slots_at(t, c, size);
}

static void slots_done(struct slots *t, size_t size)
{
    for (uint32_t i = 0; i < t->n; i++)
        mem_free(t->chunks[i], POOL_CHUNK * size);
    mem_free(t->chunks, t->n * sizeof(*t->chunks));
    *t = (struct slots){.n = 0};
}

/* ---- addresses ---- */

/* Whom a proxy has named for it; NULL: it has no proxy, or that means itself. */
static const struct proxied *proxied_of(const struct gateway *gw, const struct conn *c)
{
    const struct proxied *p = slots_at(&gw->proxied, c, sizeof(*p));
    return p && p->generation == c->slot.generation ? p : NULL;
}

static bool address_of(const struct gateway *gw, const struct conn *c, struct address *out)
{
    const struct proxied *p = proxied_of(gw, c);
    if (c->fd >= 0 && p)
        *out = p->address;
    return c->fd >= 0 && (p || sys_peer(c->fd, out) == 0);
}

/* Whether the connection's own address may say for whom it speaks, and is not counted. */
static bool speaks_for_others(const struct gateway *gw, const struct conn *c,
                              const struct address *a)
{
    const struct proxied *p = proxied_of(gw, c);
    return !(p && p->unknown) && trusted(gw, a);
}

/* Remembers whom a proxy has named. false: no memory. */
static bool address_set(struct gateway *gw, const struct conn *c, const struct address *a,
                        bool unknown)
{
    struct proxied *p = slots_make(&gw->proxied, c, sizeof(*p));
    if (p)
        *p = (struct proxied){*a, unknown, c->slot.generation};
    return p;
}

/* ---- WebSockets that end with their tokens ---- */

static void expiry_wait(struct gateway *gw, uint32_t at_s)
{
    uint64_t now_ms = sys_wall_ms(), at_ms = at_s * UINT64_C(1000);
    wheel_set(&gw->loop.wheel, &gw->expiry_timer,
              MIN(at_ms > now_ms ? at_ms - now_ms : 0, (uint64_t)EXPIRY_LOOK_MS));
}

/* false: no memory. */
static bool expiry_set(struct gateway *gw, const struct conn *c, uint32_t at_s)
{
    struct expiry *e = slots_make(&gw->expiries, c, sizeof(*e));
    if (!e)
        return false;
    *e = (struct expiry){c->slot.generation, at_s};
    if (!timer_is_set(&gw->expiry_timer) || at_s < gw->expiry_next_s) {
        gw->expiry_next_s = at_s;
        expiry_wait(gw, at_s);
    }
    return true;
}

static uint32_t expiry_of(const struct gateway *gw, const struct conn *c)
{
    const struct expiry *e = slots_at(&gw->expiries, c, sizeof(*e));
    return e && e->generation == c->slot.generation ? e->at_s : 0;
}

/* Goes through all, which 8 bytes each make cheaper than an order that each one takes part in. */
static void expiry_due(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    uint64_t now_s = sys_wall_ms() / 1000;
    uint32_t next = UINT32_MAX, n = 0;
    (void)t;
    for (uint32_t i = 0; i < gw->net.conns.count; i++) {
        struct conn *c = pool_at(&gw->net.conns, i);
        uint32_t at_s = c && c->state == CONN_OPEN ? expiry_of(gw, c) : 0;
        if (!at_s || c->protocol != PROTOCOL_WS || c->flags & WS_CLOSE_SENT)
            continue;
        if (at_s > now_s || n == EXPIRY_STEP || gw->leaving) {
            next = MIN(next, MAX(at_s, (uint32_t)now_s + gw->leaving));
            continue;
        }
        n++;
        ws_conn_close(&gw->ws, c, close_code(CLOSE_TOKEN_EXPIRED),
                      slice_str(close_name(CLOSE_TOKEN_EXPIRED)), CLOSE_TOKEN_EXPIRED);
    }
    gw->expiry_next_s = next;
    if (next != UINT32_MAX)
        expiry_wait(gw, next);
}

/* What the token of a request says, which holds; 0: that does not matter. */
static uint32_t expiry_asked(const struct gateway *gw, const struct conn *c,
                             const struct http_exchange *ex)
{
    char text[64] = "";
    uint32_t number = gw->config.routes[c->route].jwt;
    const struct config_jwt *j = number ? &gw->config.jwts[number - 1] : NULL;
    if (!j || strcmp(j->on_expiry, "close") != 0)
        return 0;
    jwt_claim(http_span_slice(ex->head, ex->claims), SLICE("exp"), (uint8_t *)text,
              sizeof(text) - 1);
    double at_s = ceil(strtod(text, NULL) + (double)j->leeway / 1000);
    return at_s >= UINT32_MAX ? UINT32_MAX - 1 : at_s < 1 ? 1 : (uint32_t)at_s;
}

void access_give(const struct gateway *gw, const struct conn *c, struct handover_conn *out,
                 uint8_t proxied[ACCESS_PROXIED])
{
    const struct proxied *p = proxied_of(gw, c);
    out->expires_s = expiry_of(gw, c);
    out->counted = c->peer != 0;
    out->peer_key = c->peer ? peers_key(&gw->peers, c->peer) : 0;
    if (!p)
        return;
    memcpy(proxied, p->address.ip, 16);
    memcpy(proxied + 16, &p->address.port, 2);
    proxied[18] = p->unknown;
    out->proxied = slice_of(proxied, ACCESS_PROXIED);
}

bool access_take(struct gateway *gw, struct conn *c, const struct handover_conn *h)
{
    struct address a;
    if (h->counted && gw->config.access.connections_per_ip)
        c->peer = peers_join_key(&gw->peers, h->peer_key);
    if (h->expires_s && gw->expiries.n && !expiry_set(gw, c, (uint32_t)h->expires_s))
        return false;
    bool older = h->proxied.n == ACCESS_PROXIED - 1;
    if ((h->proxied.n != ACCESS_PROXIED && !older) || !gw->proxied.n)
        return !h->proxied.n || !gw->proxied.n; /* no listener asks for that any more */
    memcpy(a.ip, h->proxied.p, 16);
    memcpy(&a.port, h->proxied.p + 16, 2);
    return address_set(gw, c, &a, !older && h->proxied.p[18]);
}

static size_t proxy_input(void *owner, struct conn *c, uint8_t *p, size_t n)
{
    struct gateway *gw = owner;
    struct proxy_header header;
    enum proxy_state state = proxy_parse(p, n, &header);
    if (state == PROXY_MORE)
        return 0;
    bool unknown = state == PROXY_DONE && !header.known && !header.local &&
                   sys_peer(c->fd, &header.client) == 0;
    bool named = state == PROXY_DONE && (header.known || unknown);
    metrics.proxy_unknown_total += unknown;
    if (state == PROXY_BAD || (named && !address_set(gw, c, &header.client, unknown))) {
        metrics.errors_total[state == PROXY_BAD ? ERR_PROXY : ERR_NO_MEMORY]++;
        conn_close(&gw->net, c, state == PROXY_BAD ? CLOSE_PROTOCOL : CLOSE_NO_MEMORY);
        return n;
    }
    bool tls = gw->listeners[c->route].tls;
    conn_speak(&gw->net, c, tls ? PROTOCOL_TLS : PROTOCOL_HTTP);
    if (tls)
        tls_start(&gw->net, c, c->route);
    else
        http_server_open(&gw->http, c);
    if (c->state == CONN_OPEN && named && gw->config.access.connections_per_ip &&
        !speaks_for_others(gw, c, &header.client)) {
        c->peer = peers_join(&gw->peers, &header.client);
        if (!c->peer && tls) {
            conn_close(&gw->net, c, CLOSE_LIMIT); /* no answer would be understood */
            return n;
        }
        if (!c->peer) {
            http_exchange_fail(&gw->http, c, ERR_PEER_CONNECTIONS, SLICE_NONE, SLICE_NONE);
            return n;
        }
    }
    return c->state == CONN_OPEN ? header.consumed : n;
}

static enum conn_ready proxy_ready(void *owner, struct conn *c)
{
    (void)owner, (void)c;
    return CONN_ALWAYS;
}

static void proxy_timeout(void *owner, struct conn *c)
{
    struct gateway *gw = owner;
    conn_close(&gw->net, c, CLOSE_REQUEST_TIMEOUT);
}

static bool proxy_closed(void *owner, struct conn *c)
{
    (void)owner, (void)c;
    return true;
}

/* ---- clients ---- */

bool access_client(const struct gateway *gw, const struct conn *c, const struct http_exchange *ex,
                   struct address *out)
{
    const struct config_access *a = &gw->config.access;
    unsigned hops = 0;
    struct slice rest = SLICE("");
    if (!address_of(gw, c, out))
        return false;
    bool asked = ex && speaks_for_others(gw, c, out);
    for (uint32_t i = asked ? ex->req.n_fields : 0; i-- > 0 && rest.p;) {
        const struct http_field *f = &ex->req.fields[i];
        if (slice_eq_nocase(http_span_slice(ex->head, f->name), SLICE("x-forwarded-for")))
            rest = address_forwarded(http_span_slice(ex->head, f->value), a->trusted.v,
                                     a->trusted.n, &hops, out);
    }
    return true;
}

/* Whether the client counts; *out is its address. */
static bool counted(const struct gateway *gw, const struct conn *c, const struct http_exchange *ex,
                    struct address *out)
{
    const struct config_access *a = &gw->config.access;
    return (a->handshakes_per_ip || a->connections_per_ip) && access_client(gw, c, ex, out) &&
           !speaks_for_others(gw, c, out);
}

enum err access_handshake(struct gateway *gw, struct conn *c, const struct http_exchange *ex)
{
    struct address client;
    bool may = !counted(gw, c, ex, &client) || peers_take(&gw->peers, &client, gw->loop.now_ms);
    return may ? ERR_NONE : ERR_PEER_RATE;
}

enum err access_join(struct gateway *gw, struct conn *c, const struct http_exchange *ex)
{
    struct address client;
    uint32_t expires_s = expiry_asked(gw, c, ex);
    if (expires_s && !expiry_set(gw, c, expires_s))
        return ERR_NO_MEMORY;
    if (c->peer || !gw->config.access.connections_per_ip || !counted(gw, c, ex, &client))
        return ERR_NONE;
    c->peer = peers_join(&gw->peers, &client);
    return c->peer ? ERR_NONE : ERR_PEER_CONNECTIONS;
}

/* ---- tokens ---- */

struct found {
    struct slice token;
    unsigned n;
};

static void found_add(struct found *f, struct slice token)
{
    f->token = token;
    f->n++;
}

/* The values of NAME=value in a list: a query's, or a cookie's (RFC 6265 4.2.1). */
static void pairs_find(struct slice list, uint8_t separator, struct slice name, struct found *f)
{
    while (list.n) {
        struct slice pair = slice_cut(&list, separator);
        while (separator == ';' && pair.n && pair.p[0] == ' ')
            pair = slice_of(pair.p + 1, pair.n - 1);
        if (pair.n > name.n && pair.p[name.n] == '=' && slice_begins(pair, name))
            found_add(f, slice_of(pair.p + name.n + 1, pair.n - name.n - 1));
    }
}

/* What begins with a word, whatever its case. */
static bool begins(struct slice s, struct slice word)
{
    return s.n >= word.n && slice_eq_nocase(slice_of(s.p, word.n), word);
}

static void protocols_find(struct slice list, struct found *f)
{
    while (list.n) {
        struct slice one = slice_cut(&list, ',');
        while (one.n && (one.p[0] == ' ' || one.p[0] == '\t'))
            one = slice_of(one.p + 1, one.n - 1);
        while (one.n && (one.p[one.n - 1] == ' ' || one.p[one.n - 1] == '\t'))
            one.n--;
        if (access_is_token(one))
            found_add(f, slice_of(one.p + ACCESS_BEARER.n, one.n - ACCESS_BEARER.n));
    }
}

bool access_is_token(struct slice protocol)
{
    return begins(protocol, ACCESS_BEARER);
}

static void header_find(struct slice value, struct found *f)
{
    struct slice scheme = SLICE("bearer ");
    if (!begins(value, scheme))
        return;
    value = slice_of(value.p + scheme.n, value.n - scheme.n);
    while (value.n && value.p[0] == ' ')
        value = slice_of(value.p + 1, value.n - 1);
    found_add(f, value);
}

/* In all fields of the source's header, or in the query. */
static void source_find(const struct http_exchange *ex, const struct config_source *from,
                        struct found *f)
{
    static const char *const headers[] = {[TOKEN_HEADER] = "authorization",
                                          [TOKEN_SUBPROTOCOL] = "sec-websocket-protocol",
                                          [TOKEN_COOKIE] = "cookie"};
    if (from->kind == TOKEN_QUERY) {
        pairs_find(http_span_slice(ex->head, ex->req.query), '&', slice_str(from->name), f);
        return;
    }
    for (uint32_t i = 0; i < ex->req.n_fields; i++) {
        struct slice value = http_span_slice(ex->head, ex->req.fields[i].value);
        if (!slice_eq_nocase(http_span_slice(ex->head, ex->req.fields[i].name),
                             slice_str(headers[from->kind])))
            continue;
        if (from->kind == TOKEN_HEADER)
            header_find(value, f);
        else if (from->kind == TOKEN_SUBPROTOCOL)
            protocols_find(value, f);
        else
            pairs_find(value, ';', slice_str(from->name), f);
    }
}

enum err access_token(struct gateway *gw, struct conn *c, struct http_exchange *ex, uint32_t number,
                      struct slice *fields, struct slice *detail)
{
    struct found f = {SLICE_NONE, 0};
    struct slice claims;
    struct address client;
    if (!number)
        return ERR_NONE;
    const struct jwt *j = &gw->jwts[number - 1];
    for (uint32_t i = 0; i < j->config->n_from; i++)
        source_find(ex, &j->config->from[i], &f);
    *fields = SLICE("WWW-Authenticate: Bearer\r\n");
    if (!f.n)
        return ERR_TOKEN_MISSING;
    /* Who sends what does not hold makes the loop work: that is what its rate is for. */
    bool limited = counted(gw, c, ex, &client);
    if (limited && !peers_may(&gw->peers, &client, gw->loop.now_ms)) {
        *fields = SLICE_NONE;
        return ERR_PEER_RATE;
    }
    if (!mem_room(MEM_BUFFER, CHECK_ROOM)) {
        *fields = SLICE_NONE;
        return ERR_NO_MEMORY; /* rather than a token that seems malformed */
    }
    uint64_t before = sys_now_ns();
    const char *wrong = f.n > 1 ? "there is more than one token"
                                : jwt_check(j, f.token, sys_wall_ms(), &claims);
    metrics.token_checks_total++;
    metrics.token_check_seconds += sys_now_ns() - before;
    if (!wrong) {
        ex->claims = (struct http_span){(uint16_t)(claims.p - ex->head), (uint16_t)claims.n};
        *fields = SLICE_NONE;
        return ERR_NONE;
    }
    if (limited)
        peers_take(&gw->peers, &client, gw->loop.now_ms);
    *fields = SLICE("WWW-Authenticate: Bearer error=\"invalid_token\"\r\n");
    *detail = slice_str(wrong);
    return ERR_TOKEN;
}

/* ---- life ---- */

static bool jwts_open(struct gateway *gw)
{
    const struct config *config = &gw->config;
    struct buf why;
    enum err e = ERR_NONE;
    if (!config->n_jwts)
        return true;
    gw->jwts = mem_alloc(config->n_jwts * sizeof(*gw->jwts));
    buf_init(&why, 1024);
    for (uint32_t i = 0; gw->jwts && i < config->n_jwts && !e; i++)
        e = jwt_open(&gw->jwts[i], &config->jwts[i], &why);
    if (e && log_begin(LOG_key_refused)) {
        log_text("detail", why.len ? buf_slice(&why) : slice_str(err_text(e)));
        log_end();
    }
    buf_done(&why);
    return gw->jwts && !e;
}

bool access_init(struct gateway *gw)
{
    const struct config_access *a = &gw->config.access;
    const struct peers_limits limits = {gw->net.limits.connections + PEERS_IDLE,
                                        (uint32_t)loops_share(&gw->config, a->connections_per_ip),
                                        (uint32_t)loops_share(&gw->config, a->handshakes_per_ip),
                                        (uint32_t)loops_share(&gw->config, a->handshake_burst)};
    gw->net.protocols[PROTOCOL_PROXY] = (struct conn_protocol){.owner = gw,
                                                               .ready = proxy_ready,
                                                               .input = proxy_input,
                                                               .timeout = proxy_timeout,
                                                               .closed = proxy_closed};
    if (a->connections_per_ip || a->handshakes_per_ip) {
        if (peers_init(&gw->peers, &limits))
            return false;
        gw->net.peers = &gw->peers;
    }
    const uint32_t n_chunks = gw->net.limits.connections / POOL_CHUNK + 1;
    if (gw->config.listen_proxy && !slots_grow(&gw->proxied, n_chunks))
        return false;
    for (uint32_t i = 0; i < gw->config.n_jwts; i++)
        if (strcmp(gw->config.jwts[i].on_expiry, "close") == 0 &&
            !slots_grow(&gw->expiries, n_chunks))
            return false;
    gw->expiry_timer.kind = LOOP_EXPIRY;
    loop_on(&gw->loop, LOOP_EXPIRY, NULL, expiry_due, gw);
    return jwts_open(gw);
}

void access_done(struct gateway *gw)
{
    for (uint32_t i = 0; gw->jwts && i < gw->config.n_jwts; i++)
        jwt_done(&gw->jwts[i]);
    mem_free(gw->jwts, gw->config.n_jwts * sizeof(*gw->jwts));
    slots_done(&gw->proxied, sizeof(struct proxied));
    slots_done(&gw->expiries, sizeof(struct expiry));
    peers_done(&gw->peers);
}
