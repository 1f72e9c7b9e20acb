#include "http/http_exchange.h"

#include <stdio.h>
#include <time.h>

/* Head lines of a response, written without printf: every answer passes here. */
struct head {
    char text[512];
    size_t n;
};

static void head_put(struct head *h, struct slice s)
{
    ASSERT(s.n <= sizeof(h->text) - h->n);
    slice_copy(h->text + h->n, s);
    h->n += s.n;
}

static void head_number(struct head *h, uint64_t v)
{
    char digits[20];
    size_t n = 0;
    do
        digits[sizeof(digits) - ++n] = (char)('0' + v % 10);
    while (v /= 10);
    head_put(h, slice_of(digits + sizeof(digits) - n, n));
}

static struct slice date_line(struct http_server *s)
{
    uint64_t now_ms = s->net->loop->now_ms;
    if (now_ms >= s->date_until_ms) {
        uint64_t wall_ms = sys_wall_ms();
        time_t t = (time_t)(wall_ms / 1000);
        struct tm tm;
        s->date_until_ms = now_ms + 1000 - wall_ms % 1000;
        gmtime_r(&t, &tm);
        strftime(s->date, sizeof(s->date), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    }
    return slice_str(s->date);
}

void http_exchange_free(struct http_exchange *ex)
{
    if (!ex || !ex->own.max)
        return; /* the server's passing one */
    buf_done(&ex->own);
    mem_free(ex, sizeof(*ex));
}

struct http_exchange *http_exchange_detach(struct conn *c)
{
    struct http_exchange *ex = c->detail;
    c->detail = NULL;
    c->scanned = 0;
    return ex;
}

enum then { END, KEEP, STREAM }; /* what becomes of the connection */

static void respond(struct http_server *s, struct conn *c, const struct http_response *r,
                    enum then then)
{
    const struct http_exchange *ex = c->detail;
    struct head h = {.n = 0};
    bool is_head = ex && ex->complete && ex->req.method == HTTP_HEAD;
    bool no_body = r->status == 204 || r->status == 304;
    head_put(&h, SLICE("HTTP/1.1 "));
    head_number(&h, r->status);
    head_put(&h, SLICE(" "));
    head_put(&h, slice_str(http_status_text(r->status)));
    head_put(&h, SLICE("\r\n"));
    head_put(&h, date_line(s));
    if (r->type.n) {
        head_put(&h, SLICE("Content-Type: "));
        head_put(&h, r->type);
        head_put(&h, SLICE("\r\n"));
    }
    if (!no_body && then != STREAM) {
        head_put(&h, SLICE("Content-Length: "));
        head_number(&h, r->body.n);
        head_put(&h, SLICE("\r\n"));
    }
    if (r->status == 503 || r->status == 429)
        head_put(&h, SLICE("Retry-After: 1\r\n"));
    if (then != KEEP)
        head_put(&h, SLICE("Connection: close\r\n"));
    else if (ex->req.minor == 0)
        head_put(&h, SLICE("Connection: keep-alive\r\n"));
    if (!r->fields.n)
        head_put(&h, SLICE("\r\n"));
    metrics.http_requests_total++;
    bool ok = conn_write(s->net, c, slice_of(h.text, h.n), r->fields);
    struct slice body = no_body || is_head ? SLICE_NONE : r->body;
    if (ok && (r->fields.n || body.n))
        ok = conn_write(s->net, c, r->fields.n ? SLICE("\r\n") : SLICE_NONE, body);
    if (s->answered && ex && ex->complete)
        s->answered(s->owner, c, ex, r->status, body.n);
    http_exchange_free(http_exchange_detach(c));
    if (!ok)
        return;
    conn_timer(s->net, c, then == KEEP ? s->limits.idle_timeout_ms : 0);
    if (then == STREAM && !is_head)
        conn_pause(c);
    else if (then != KEEP)
        conn_shutdown(s->net, c, CLOSE_DONE);
}

void http_exchange_respond(struct http_server *s, struct conn *c, const struct http_response *r)
{
    const struct http_exchange *ex = c->detail;
    ASSERT(ex && ex->complete);
    respond(s, c, r, ex->req.keep_alive && !s->draining ? KEEP : END);
}

void http_exchange_stream(struct http_server *s, struct conn *c, struct slice type,
                          struct slice fields)
{
    const struct http_response r = {200, type, fields, SLICE_NONE};
    respond(s, c, &r, STREAM);
}

static enum err json_string(struct buf *out, struct slice s)
{
    enum err e = buf_append(out, SLICE("\""));
    for (size_t i = 0; i < s.n && !e; i++) {
        if (s.p[i] == '"' || s.p[i] == '\\' || s.p[i] < 0x20 || s.p[i] >= 0x7f)
            e = buf_printf(out, "\\u%04x", s.p[i]);
        else
            e = buf_append(out, slice_of(s.p + i, 1));
    }
    return e ? e : buf_append(out, SLICE("\""));
}

void http_exchange_fail(struct http_server *s, struct conn *c, enum err err, struct slice fields,
                        struct slice detail)
{
    const struct http_exchange *ex = c->detail;
    unsigned status = err_http_status(err);
    struct slice text = detail.n ? slice_of(detail.p, MIN(detail.n, (size_t)1024))
                                 : slice_str(err_text(err));
    struct buf body;
    buf_init(&body, 8192); /* 1,024 bytes of detail, each as \uXXXX, and the rest */
    metrics.errors_total[err]++;
    enum err e = buf_printf(&body,
                            "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u,"
                            "\"code\":\"%s\",\"detail\":",
                            http_status_text(status), status, err_name(err));
    e = e ? e : json_string(&body, text);
    e = e ? e : buf_append(&body, SLICE("}\n"));
    struct http_response r = {status, SLICE("application/problem+json"), fields,
                              e ? SLICE_NONE : buf_slice(&body)};
    /* Where a request could not be read whole, nobody knows where the next one begins. */
    bool keep = ex && ex->complete && ex->req.keep_alive && !s->draining;
    respond(s, c, &r, keep ? KEEP : END);
    buf_done(&body);
}

/* What can't be read any further is answered and ended; the rest of its input is dropped. */
static size_t refuse(struct http_server *s, struct conn *c, enum err e, size_t n)
{
    conn_reason(c, e == ERR_HTTP_TIMEOUT ? CLOSE_REQUEST_TIMEOUT
                   : e == ERR_NO_MEMORY  ? CLOSE_NO_MEMORY
                                         : CLOSE_PROTOCOL);
    http_exchange_fail(s, c, e, SLICE_NONE, SLICE_NONE);
    return n;
}

struct http_exchange *http_exchange_own(struct http_server *s, struct http_exchange *from)
{
    if (from->own.max)
        return from;
    struct http_exchange *ex = mem_alloc(sizeof(*ex));
    if (!ex)
        return NULL;
    memcpy(ex, from,
           offsetof(struct http_exchange, req.fields) +
               from->req.n_fields * sizeof(from->req.fields[0]));
    buf_init(&ex->own, from->req.head_len + s->limits.body);
    if (buf_append(&ex->own, slice_of(from->head, from->req.head_len)) ||
        buf_append(&ex->own, from->body)) {
        http_exchange_free(ex);
        return NULL;
    }
    ex->head = ex->own.p;
    ex->body = slice_of(ex->own.p + ex->req.head_len, from->body.n);
    return ex;
}

struct http_exchange *http_exchange_keep(struct http_server *s, struct conn *c)
{
    struct http_exchange *ex = http_exchange_own(s, c->detail);
    if (!ex)
        return NULL;
    c->detail = ex;
    conn_timer(s->net, c, 0);
    conn_pause(c);
    return ex;
}

static void request(struct http_server *s, struct conn *c, struct http_exchange *ex)
{
    ex->complete = true;
    ex->began_ns = s->answered ? sys_now_ns() : 0;
    c->scanned = 0;
    s->request(s->owner, c, ex);
    /* Answered, kept, or upgraded: the passing exchange is free for the next connection. */
    ASSERT(c->detail != &s->passing);
}

static size_t body_input(struct http_server *s, struct conn *c, const uint8_t *p, size_t n)
{
    struct http_exchange *ex = c->detail;
    size_t took;
    bool whole;
    if (ex->req.chunked) {
        struct http_result r = http_chunked_decode(&ex->chunked, p, n, &ex->own);
        if (r.state == HTTP_BAD)
            return refuse(s, c, r.err, n);
        took = r.consumed;
        whole = r.state == HTTP_DONE;
    } else {
        took = MIN(n, ex->req.length + ex->req.head_len - ex->own.len);
        enum err e = buf_append(&ex->own, slice_of(p, took));
        if (e)
            return refuse(s, c, e, n);
        whole = ex->own.len == ex->req.length + ex->req.head_len;
    }
    ex->head = ex->own.p;
    ex->body = slice_of(ex->own.p + ex->req.head_len, ex->own.len - ex->req.head_len);
    if (whole)
        request(s, c, ex);
    return took;
}

/* A body that is not all there, or chunked: it gathers in memory of its own. */
static size_t body_begin(struct http_server *s, struct conn *c, size_t head_len, size_t n)
{
    struct http_exchange *ex = http_exchange_own(s, c->detail);
    if (!ex)
        return refuse(s, c, ERR_NO_MEMORY, n);
    c->detail = ex;
    http_chunked_init(&ex->chunked);
    conn_timer(s->net, c, s->limits.body_timeout_ms);
    if (ex->req.expect_continue && head_len == n)
        conn_write(s->net, c, SLICE("HTTP/1.1 100 Continue\r\n\r\n"), SLICE_NONE);
    return head_len;
}

static size_t input(void *owner, struct conn *c, uint8_t *p, size_t n)
{
    struct http_server *s = owner;
    if (s->ready(s->owner, c) < CONN_TURN) {
        conn_defer(s->net, c);
        return 0;
    }
    if (c->detail)
        return body_input(s, c, p, n);
    if (c->queue) {
        conn_pause_full(c); /* one response at a time: its size is what bounds the queue */
        return 0;
    }
    struct http_exchange *ex = &s->passing;
    size_t scanned = c->scanned;
    struct http_result r = http_parse_request(p, n, &scanned, &s->limits.parse, &ex->req);
    if (r.state == HTTP_BAD)
        return refuse(s, c, r.err, n);
    if (r.state == HTTP_MORE) {
        if (!c->scanned)
            conn_timer(s->net, c, s->limits.head_timeout_ms);
        c->scanned = (uint16_t)MAX(scanned, (size_t)1);
        return 0;
    }
    ex->head = p;
    ex->body = SLICE_NONE;
    ex->own.max = 0;
    ex->claims.len = 0;
    ex->complete = false;
    c->detail = ex;
    if (ex->req.has_length && ex->req.length > s->limits.body)
        return refuse(s, c, ERR_HTTP_BODY_SIZE, n);
    if (ex->req.chunked || (ex->req.has_length && ex->req.length > n - r.consumed))
        return body_begin(s, c, r.consumed, n);
    ex->body = slice_of(p + r.consumed, ex->req.has_length ? ex->req.length : 0);
    size_t took = r.consumed + ex->body.n;
    request(s, c, ex);
    return took;
}

static void timeout(void *owner, struct conn *c)
{
    struct http_server *s = owner;
    if (conn_progressed(c))
        conn_timer(s->net, c, s->limits.idle_timeout_ms); /* it still takes the response */
    else if ((c->scanned || c->detail) && !c->queue)
        refuse(s, c, ERR_HTTP_TIMEOUT, 0);
    else
        conn_close(s->net, c, CLOSE_IDLE);
}

static bool closed(void *owner, struct conn *c)
{
    (void)owner;
    struct http_exchange *ex = c->detail;
    if (ex && !ex->complete)
        http_exchange_free(
            http_exchange_detach(c)); /* else whoever has it still answers, in vain */
    return true;
}

static enum conn_ready ready(void *owner, struct conn *c)
{
    struct http_server *s = owner;
    return s->ready(s->owner, c);
}

void http_server_init(struct http_server *s, struct net *net, uint8_t protocol)
{
    s->net = net;
    net->protocols[protocol] = (struct conn_protocol){.owner = s,
                                                      .queue_max = s->limits.queue_max,
                                                      .ready = ready,
                                                      .input = input,
                                                      .timeout = timeout,
                                                      .closed = closed};
}

void http_server_open(struct http_server *s, struct conn *c)
{
    conn_timer(s->net, c, s->limits.head_timeout_ms);
}
