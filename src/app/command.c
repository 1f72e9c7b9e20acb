/* WASI in events: standard output and error become log lines, the environment is the module's
 * `env:`. A command (`_start`) answers an HTTP request as a CGI script does (RFC 3875): the body is
 * its standard input, the request's data are variables, standard output is the response. */
#include <ctype.h>
#include <stdio.h>

#include "app/gateway.h"
#include "base/log.h"
#include "base/utf8.h"

enum { LINE_MAX_BYTES = 4096 };

static struct event *event_of(struct guest_call *call)
{
    return CONTAINER_OF(call, struct event, call);
}

uint32_t command_input(struct guest_call *call, uint8_t *p, uint32_t cap)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST__start || !ev->ex || ev->read >= ev->ex->body.n)
        return 0;
    uint32_t n = MIN(cap, (uint32_t)ev->ex->body.n - ev->read);
    slice_copy(p, slice_of(ev->ex->body.p + ev->read, n));
    ev->read += n;
    return n;
}

/* ---- output ---- */

static void line_say(struct event *ev, bool error)
{
    struct buf *line = &ev->lines[error];
    if (line->len && log_begin(error ? LOG_guest_warn : LOG_guest_info)) {
        log_text("module", slice_str(ev->call.module->name));
        if (ev->conn)
            log_id("conn_id", conn_id(ev->conn));
        log_text("text", utf8_cut(buf_slice(line), LINE_MAX_BYTES));
        log_end();
    }
    buf_clear(line, 0);
}

void command_lines_end(struct event *ev)
{
    line_say(ev, false);
    line_say(ev, true);
}

bool command_output(struct guest_call *call, bool error, struct slice data)
{
    struct event *ev = event_of(call);
    if (ev->kind == GUEST__start && !error)
        return buf_append(&ev->fx.body, data) == ERR_NONE;
    /* What goes to the log is bounded as what goes to peers. */
    if (ev->said + data.n > event_config(ev)->limits.output)
        return false;
    ev->said += (uint32_t)data.n;
    while (data.n) {
        struct buf *line = &ev->lines[error];
        const uint8_t *end = memchr(data.p, '\n', data.n);
        size_t n = end ? (size_t)(end - data.p) : data.n;
        line->max = LINE_MAX_BYTES;
        size_t take = MIN(n, (size_t)LINE_MAX_BYTES - line->len);
        if (buf_append(line, slice_of(data.p, take)))
            return false;
        bool ended = end && take == n;
        if (ended || line->len == LINE_MAX_BYTES)
            line_say(ev, error);
        take += ended;
        data = slice_of(data.p + take, data.n - take);
    }
    return true;
}

/* ---- environment ---- */

struct environment {
    struct buf *out;
    uint32_t n;
    bool full;
};

static void variable(struct environment *env, const char *name, struct slice value)
{
    uint32_t before = env->out->len;
    /* A NUL would end it early: no header has one, and a configuration neither. */
    if (env->full || memchr(value.n ? value.p : (const uint8_t *)"", 0, value.n))
        return;
    if (buf_append(env->out, slice_str(name)) || buf_append(env->out, SLICE("=")) ||
        buf_append(env->out, value) || buf_append(env->out, slice_of("", 1))) {
        env->out->len = before;
        env->full = true;
        return;
    }
    env->n++;
}

/* HTTP_NAME, for each field once; RFC 3875 4.1.18. Proxy stays out: it would be taken for the
 * variable of that name. */
static void fields(struct environment *env, const struct http_exchange *ex)
{
    for (uint32_t i = 0; i < ex->req.n_fields; i++) {
        struct slice name = http_span_slice(ex->head, ex->req.fields[i].name);
        char text[128] = "HTTP_";
        bool first = http_exchange_field(ex, name).p ==
                     http_span_slice(ex->head, ex->req.fields[i].value).p;
        if (!first || name.n + 6 > sizeof(text) || slice_eq_nocase(name, SLICE("proxy")) ||
            slice_eq_nocase(name, SLICE("authorization")))
            continue;
        for (size_t k = 0; k < name.n; k++)
            text[5 + k] = name.p[k] == '-' ? '_' : (char)toupper(name.p[k]);
        variable(env, text, http_span_slice(ex->head, ex->req.fields[i].value));
    }
}

static void cgi(struct environment *env, const struct event *ev)
{
    const struct http_exchange *ex = ev->ex;
    const struct http_request *r = &ex->req;
    struct sys_address peer, local;
    char length[24];
    snprintf(length, sizeof(length), "%zu", ex->body.n);
    variable(env, "GATEWAY_INTERFACE", SLICE("CGI/1.1"));
    variable(env, "SERVER_PROTOCOL", SLICE("HTTP/1.1"));
    variable(env, "SERVER_SOFTWARE", SLICE("weir"));
    variable(env, "REQUEST_METHOD", slice_str(http_method_name(r->method)));
    variable(env, "SCRIPT_NAME", SLICE_NONE);
    variable(env, "PATH_INFO", http_span_slice(ex->head, r->path));
    variable(env, "QUERY_STRING", http_span_slice(ex->head, r->query));
    variable(env, "CONTENT_LENGTH", slice_str(length));
    variable(env, "CONTENT_TYPE", http_exchange_field(ex, SLICE("content-type")));
    if (ev->conn->fd >= 0 && sys_peer(ev->conn->fd, &peer) == 0)
        variable(env, "REMOTE_ADDR",
                 slice_of(peer.text, strcspn(peer.text, "]") < strlen(peer.text)
                                         ? strcspn(peer.text, "]") + 1
                                         : strcspn(peer.text, ":")));
    if (ev->conn->fd >= 0 && sys_local(ev->conn->fd, &local) == 0)
        variable(env, "SERVER_PORT", slice_str(strrchr(local.text, ':') + 1));
    variable(env, "SERVER_NAME", http_exchange_field(ex, SLICE("host")));
    fields(env, ex);
}

uint32_t command_environment(struct guest_call *call, struct buf *out)
{
    struct event *ev = event_of(call);
    const struct config_module *m = event_config(ev);
    struct environment env = {.out = out};
    for (uint32_t i = 0; i < m->n_env; i++) {
        const char *value = strchr(m->env[i], '=') + 1;
        char name[CONFIG_ENV_NAME_MAX + 1];
        snprintf(name, sizeof(name), "%.*s", (int)(value - 1 - m->env[i]), m->env[i]);
        variable(&env, name, slice_str(value));
    }
    if (ev->kind == GUEST__start && ev->ex)
        cgi(&env, ev);
    return env.n;
}

/* ---- the response ---- */

struct head {
    unsigned status;
    size_t n; /* bytes of the output that are head; 0: it has none */
};

/* One line of a CGI head. false: it is none, or not one that a guest may send. */
static bool head_line(struct event *ev, struct slice line, struct head *head)
{
    const uint8_t *colon = line.n ? memchr(line.p, ':', line.n) : NULL;
    if (!colon)
        return false;
    struct slice name = slice_of(line.p, (size_t)(colon - line.p));
    struct slice value = slice_of(colon + 1, line.n - name.n - 1);
    while (value.n && (*value.p == ' ' || *value.p == '\t'))
        value = slice_of(value.p + 1, value.n - 1);
    if (slice_eq_nocase(name, SLICE("status"))) {
        unsigned n = 0;
        for (size_t i = 0; i < value.n && i < 3 && isdigit(value.p[i]); i++)
            n = n * 10 + (unsigned)(value.p[i] - '0');
        head->status = n;
        return n >= 200 && n <= 599;
    }
    if (!event_field_allowed(name, value))
        return false;
    const struct slice parts[] = {name, SLICE(": "), value, SLICE("\r\n")};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (buf_append(&ev->fx.head, parts[i]))
            return false;
    return true;
}

/* Lines up to an empty one; where one of them is no header, the output has no head. */
static bool head_read(struct event *ev, struct slice out, struct head *head)
{
    for (size_t from = 0; from < out.n;) {
        const uint8_t *end = memchr(out.p + from, '\n', out.n - from);
        if (!end)
            return false;
        size_t n = (size_t)(end - out.p) - from;
        struct slice line = slice_of(out.p + from, n && end[-1] == '\r' ? n - 1 : n);
        from += n + 1;
        if (!line.n) {
            head->n = from;
            return from > n + 1; /* at least one line */
        }
        if (!head_line(ev, line, head))
            return false;
    }
    return false;
}

void command_respond(struct event *ev)
{
    struct head head = {200, 0};
    struct slice out = buf_slice(&ev->fx.body), type = SLICE_NONE;
    if (!head_read(ev, out, &head)) {
        buf_clear(&ev->fx.head, 0);
        head = (struct head){200, 0};
        type = SLICE("text/plain; charset=utf-8");
    }
    struct http_response r = {head.status, type, buf_slice(&ev->fx.head),
                              slice_of(out.p + head.n, out.n - head.n)};
    if (out.n == head.n)
        r.body = SLICE_NONE;
    http_exchange_respond(&ev->gw->http, ev->conn, &r);
}
