/* The admin listener: health, metrics, and the way to what is changed at run time. */
#include "app/gateway.h"

/* Only names of this machine: a page on another site must not reach the admin listener through a
 * name of its own that resolves to loopback (DNS rebinding). */
static bool host_allowed(struct slice host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct slice name = slice_str(names[i]);
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

static void metrics_respond(struct gateway *gw, struct conn *c)
{
    struct buf out;
    struct metrics sum = {0};
    buf_init(&out, 1 << 20);
    metrics_add(&sum);
    enum err e = metrics_write(&sum, &out);
    if (e)
        http_exchange_fail(&gw->admin, c, e, SLICE_NONE, SLICE_NONE);
    else
        respond(gw, c, 200, SLICE("text/plain; version=0.0.4; charset=utf-8"), buf_slice(&out));
    buf_done(&out);
}

void admin_request(struct gateway *gw, struct conn *c, struct http_exchange *ex)
{
    struct slice path = http_span_slice(ex->head, ex->req.path);
    struct slice text = SLICE("text/plain; charset=utf-8"), api = SLICE("/api/v1/");
    bool serving = gw->ready && !gw->draining;
    if (!host_allowed(http_span_slice(ex->head, ex->req.host)) || !origin_allowed(ex))
        http_exchange_fail(&gw->admin, c, ERR_FORBIDDEN, SLICE_NONE, SLICE_NONE);
    else if (path.n >= api.n && memcmp(path.p, api.p, api.n) == 0)
        modules_request(gw, c, ex, slice_of(path.p + api.n, path.n - api.n));
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
