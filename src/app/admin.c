/* The admin listener: health, metrics, and the way to what is changed at run time. */
#include "app/config_value.h"
#include "app/loops.h"

/* Only names of this machine: a page on another site must not reach the admin listener through a
 * name of its own that resolves to loopback (DNS rebinding). */
static bool host_allowed(const struct config_admin *a, struct slice host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < ARRAY_LEN(names) + a->n_hosts; i++) {
        bool own = i < ARRAY_LEN(names);
        struct slice name = slice_str(own ? names[i] : a->hosts[i - ARRAY_LEN(names)]);
        if (host.n >= name.n && slice_eq_nocase(slice_of(host.p, name.n), name) &&
            (host.n == name.n || host.p[name.n] == ':'))
            return true;
    }
    return false;
}

/* A browser says where a page comes from: only this listener's own may read here. */
static bool origin_allowed(const struct http_exchange *ex)
{
    struct slice origin = http_exchange_field(ex, SLICE("origin"));
    struct slice host = http_span_slice(ex->head, ex->req.host), scheme = SLICE("http://");
    return !origin.p ||
           (origin.n == scheme.n + host.n && memcmp(origin.p, scheme.p, scheme.n) == 0 &&
            slice_eq_nocase(slice_of(origin.p + scheme.n, host.n), host));
}

static void respond(struct gateway *gw, struct conn *c, unsigned status, struct slice type,
                    struct slice body)
{
    struct http_response r = {status, type, SLICE_NONE, body};
    http_exchange_respond(&gw->admin, c, &r);
}

struct metrics_ask {
    struct ask ask;
    struct metrics sum;
};

static void metrics_visit(struct gateway *gw, struct errand *e)
{
    struct metrics *sum = &CONTAINER_OF(e, struct metrics_ask, ask.errand)->sum;
    metrics_add(sum);
    sum->topics_active = topics_count(&gw->topics); /* of all loops already */
    errand_next(gw, e);
}

static void metrics_home(struct gateway *gw, struct errand *errand)
{
    struct metrics_ask *a = CONTAINER_OF(errand, struct metrics_ask, ask.errand);
    struct buf out;
    buf_init(&out, 1 << 20);
    enum err e = metrics_write(&a->sum, &out);
    if (!ask_waits(gw, &a->ask))
        ;
    else if (e)
        http_exchange_fail(&gw->admin, a->ask.conn, e, SLICE_NONE, SLICE_NONE);
    else
        respond(gw, a->ask.conn, 200, SLICE("text/plain; version=0.0.4; charset=utf-8"),
                buf_slice(&out));
    buf_done(&out);
    ask_free(gw, &a->ask);
}

static void metrics_respond(struct gateway *gw, struct conn *c)
{
    struct metrics_ask *a = ask_new(gw, c, false, sizeof(*a));
    if (!a)
        return;
    a->ask.errand.visit = metrics_visit;
    a->ask.errand.home = metrics_home;
    errand_start(gw, &a->ask.errand);
}

/* Whether the request has the token; the time that takes tells nothing of it. */
static bool token_right(const struct http_exchange *ex, struct slice token)
{
    struct slice field = http_exchange_field(ex, SLICE("authorization")), scheme = SLICE("Bearer ");
    if (field.n < scheme.n || !slice_eq_nocase(slice_of(field.p, scheme.n), scheme) ||
        http_field_count(&ex->req, ex->head, SLICE("authorization")) != 1)
        return false;
    struct slice got = slice_of(field.p + scheme.n, field.n - scheme.n);
    volatile uint8_t wrong = got.n != token.n;
    for (size_t i = 0; i < got.n; i++)
        wrong |= got.p[i] ^ token.p[i % token.n];
    return !wrong;
}

/* Without a token, whoever is on this machine may ask, but no page of another site. With one,
 * /api asks for it; on an address that others reach, so does all but health. */
static enum err access_check(const struct gateway *gw, const struct http_exchange *ex, bool api,
                             bool health)
{
    struct slice token = slice_str(gw->config.admin.token);
    bool loopback = true, own = host_allowed(&gw->config.admin, http_span_slice(ex->head, ex->req.host));
    config_listenable(gw->config.admin.address, &loopback);
    if (token.n && token_right(ex, token))
        return ERR_NONE; /* which no page has */
    if (!loopback)
        return health ? ERR_NONE : ERR_UNAUTHORIZED;
    if (!own || !origin_allowed(ex))
        return ERR_FORBIDDEN;
    return token.n && api ? ERR_UNAUTHORIZED : ERR_NONE;
}

void admin_request(struct gateway *gw, struct conn *c, struct http_exchange *ex)
{
    struct slice path = http_span_slice(ex->head, ex->req.path);
    struct slice text = SLICE("text/plain; charset=utf-8"), api = SLICE("/api/v1/");
    bool serving = gw->ready && !gw->draining;
    bool is_api = path.n >= api.n && memcmp(path.p, api.p, api.n) == 0;
    bool health = slice_eq(path, SLICE("/healthz")) || slice_eq(path, SLICE("/readyz"));
    struct slice rest = is_api ? slice_of(path.p + api.n, path.n - api.n) : SLICE_NONE;
    enum err e = access_admin(gw, c->fd) ? access_check(gw, ex, is_api, health) : ERR_ADMIN_PEER;
    if (e)
        http_exchange_fail(
            &gw->admin, c, e,
            e == ERR_UNAUTHORIZED ? SLICE("WWW-Authenticate: Bearer\r\n") : SLICE_NONE, SLICE_NONE);
    else if (is_api && (topics_request(gw, c, ex, rest) || conns_request(gw, c, ex, rest) ||
                        log_request(gw, c, ex, rest)))
        return;
    else if (is_api)
        modules_request(gw, c, ex, rest);
    else if (ex->req.method != HTTP_GET && ex->req.method != HTTP_HEAD)
        http_exchange_fail(&gw->admin, c, ERR_METHOD, SLICE("Allow: GET, HEAD\r\n"), SLICE_NONE);
    else if (slice_eq(path, SLICE("/healthz")))
        respond(gw, c, 200, text, SLICE("ok\n"));
    else if (slice_eq(path, SLICE("/readyz")))
        respond(gw, c, serving ? 200 : 503, text,
                serving ? SLICE("ready\n") : SLICE("not ready\n"));
    else if (slice_eq(path, SLICE("/metrics")))
        metrics_respond(gw, c);
    else
        http_exchange_fail(&gw->admin, c, ERR_NOT_FOUND, SLICE_NONE, SLICE_NONE);
}
