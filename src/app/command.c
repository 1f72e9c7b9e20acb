/* WASI in events: standard output and error become log lines, the environment is the module's
 * `env:`. A command (`_start`) answers an HTTP request as a CGI script does (RFC 3875): the body is
 * its standard input, the request's data are variables, standard output is the response. What is
 * said of that to users stands in docs/COMMANDS.md. */
#include "app/gateway.h"
#include "base/log.h"
#include "base/utf8.h"

enum { LINE_MAX_BYTES = 4096, HTTP_NAME_MAX = 134 };
/* Bytes of the log an event, as a host call can't be interrupted and the log's pipe holds 64 KiB;
 * a line costs more than its text. */
enum { SAID_MAX = 16 << 10, LINE_COST = 64 };

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

static void text_say(struct event *ev, bool error, struct slice text)
{
    if (!text.n || !event_log(ev, error ? LOG_guest_warn : LOG_guest_info))
        return;
    log_text("text", utf8_cut(text, LINE_MAX_BYTES));
    log_end();
}

static void line_say(struct event *ev, bool error)
{
    text_say(ev, error, buf_slice(&ev->lines[error]));
    buf_clear(&ev->lines[error], 0);
}

void command_lines_end(struct event *ev)
{
    line_say(ev, false);
    line_say(ev, true);
}

/* Past the bound output is dropped, and the guest not told: a program that prints too much is still
 * answered. */
static void say(struct event *ev, bool error, struct slice data)
{
    struct buf *line = &ev->lines[error];
    line->max = LINE_MAX_BYTES;
    while (data.n && ev->said < SAID_MAX) {
        const uint8_t *end = memchr(data.p, '\n', data.n);
        size_t n = end ? (size_t)(end - data.p) : data.n;
        size_t take = MIN(n, (size_t)LINE_MAX_BYTES - line->len);
        if (buf_append(line, slice_of(data.p, take)))
            return;
        bool ended = end && take == n;
        ev->said += (uint32_t)take + LINE_COST;
        if (ended || line->len == LINE_MAX_BYTES)
            line_say(ev, error);
        take += ended;
        data = slice_of(data.p + take, data.n - take);
        if (ev->said >= SAID_MAX)
            text_say(ev, true, SLICE("(what else it prints in this event is dropped)"));
    }
}

bool command_output(struct guest_call *call, bool error, struct slice data)
{
    struct event *ev = event_of(call);
    if (ev->kind == GUEST__start && !error) {
        ev->overflow |= buf_append(&ev->fx.body, data) != ERR_NONE;
        return !ev->overflow;
    }
    say(ev, error, data);
    return true;
}

/* ---- environment ---- */

struct variables { /* texts with their NULs; those of `env:` come first, and stay */
    struct buf *out;
    const struct config_module *m;
    uint32_t n;
    enum err e;
};

static void put(struct variables *v, struct slice s)
{
    if (!v->e)
        v->e = buf_append(v->out, s);
}

static bool begin(struct variables *v, const char *name)
{
    if (config_env_get(v->m, slice_str(name)))
        return false;
    v->n++;
    put(v, slice_str(name));
    put(v, SLICE("="));
    return true;
}

static void end(struct variables *v)
{
    put(v, slice_of("", 1));
}

static void variable(struct variables *v, const char *name, struct slice value)
{
    if (!begin(v, name))
        return;
    put(v, value);
    end(v);
}

static uint8_t hex(uint8_t c)
{
    return c <= '9' ? c - '0' : (uint8_t)(ascii_lower(c) - 'a' + 10);
}

/* Decoded, as CGI wants it; %00, which no variable can hold, stays as it is. The parser has seen to
 * it that two hex digits follow each %. */
static void path_info(struct variables *v, struct slice path)
{
    if (!begin(v, "PATH_INFO"))
        return;
    for (size_t i = 0; i < path.n && !v->e; i++) {
        uint8_t c = path.p[i];
        if (c == '%' && i + 2 < path.n) {
            uint8_t decoded = (uint8_t)(hex(path.p[i + 1]) << 4 | hex(path.p[i + 2]));
            i += decoded ? 2 : 0;
            c = decoded ? decoded : c;
        }
        put(v, slice_of(&c, 1));
    }
    end(v);
}

/* HTTP_NAME, or "" for fields that are none: Proxy would be taken for HTTP_PROXY, and a name with
 * other characters than these for one with '-'. */
static void meta_name(struct slice name, char out[HTTP_NAME_MAX])
{
    size_t n = 5;
    out[0] = 0;
    if (name.n > HTTP_NAME_MAX - 6 || slice_eq_nocase(name, SLICE("proxy")) ||
        slice_eq_nocase(name, SLICE("content-type")) ||
        slice_eq_nocase(name, SLICE("content-length")))
        return;
    for (size_t i = 0; i < name.n; i++) {
        uint8_t c = ascii_lower(name.p[i]);
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-')
            return;
        out[n++] = c == '-' ? '_' : c >= 'a' ? (char)(c - 32) : (char)c;
    }
    out[n] = 0;
    memcpy(out, "HTTP_", 5);
}

/* One variable for all fields of a name, at its first. */
static void field_variable(struct variables *v, const struct http_exchange *ex, uint32_t first)
{
    const struct http_request *r = &ex->req;
    struct slice name = http_span_slice(ex->head, r->fields[first].name);
    char meta[HTTP_NAME_MAX];
    meta_name(name, meta);
    for (uint32_t i = 0; i < first; i++)
        if (slice_eq_nocase(http_span_slice(ex->head, r->fields[i].name), name))
            return;
    if (!meta[0] || !begin(v, meta))
        return;
    for (uint32_t i = first; i < r->n_fields; i++) {
        if (!slice_eq_nocase(http_span_slice(ex->head, r->fields[i].name), name))
            continue;
        if (i > first)
            put(v, slice_eq_nocase(name, SLICE("cookie")) ? SLICE("; ") : SLICE(", "));
        put(v, http_span_slice(ex->head, r->fields[i].value));
    }
    end(v);
}

static void address_variables(struct variables *v, const char *text, const char *host_name,
                              const char *port_name)
{
    char host[64];
    uint16_t port;
    const char *colon = strrchr(text, ':');
    if (!colon || !config_address(text, host, &port))
        return;
    if (host_name)
        variable(v, host_name, slice_str(host));
    variable(v, port_name, slice_str(colon + 1));
}

/* The Host without its port. */
static struct slice server_name(const struct http_exchange *ex)
{
    struct slice host = http_exchange_field(ex, SLICE("host"));
    const uint8_t *colon = memrchr(host.p, ':', host.n);
    bool address = host.n && host.p[host.n - 1] == ']';
    return colon && !address ? slice_of(host.p, (size_t)(colon - host.p)) : host;
}

static void request_variables(struct variables *v, const struct event *ev)
{
    const struct http_exchange *ex = ev->ex;
    const struct http_request *r = &ex->req;
    struct slice path = http_span_slice(ex->head, r->path);
    struct sys_address address;
    struct address client;
    char digits[16], peer[ADDRESS_TEXT];
    size_t at = sizeof(digits);
    variable(v, "GATEWAY_INTERFACE", SLICE("CGI/1.1"));
    variable(v, "SERVER_SOFTWARE", SLICE("weir"));
    variable(v, "SERVER_PROTOCOL", r->minor ? SLICE("HTTP/1.1") : SLICE("HTTP/1.0"));
    variable(v, "REQUEST_METHOD", slice_str(http_method_name(r->method)));
    variable(v, "SCRIPT_NAME", slice_of(path.p, ev->script_n));
    path_info(v, slice_of(path.p + ev->script_n, path.n - ev->script_n));
    variable(v, "QUERY_STRING", http_span_slice(ex->head, r->query));
    struct slice type = http_exchange_field(ex, SLICE("content-type"));
    if (type.n)
        variable(v, "CONTENT_TYPE", type);
    for (size_t n = ex->body.n; n; n /= 10)
        digits[--at] = (char)('0' + n % 10);
    if (ex->body.n)
        variable(v, "CONTENT_LENGTH", slice_of(digits + at, sizeof(digits) - at));
    variable(v, "SERVER_NAME", server_name(ex));
    if (ev->conn->fd >= 0 && sys_local(ev->conn->fd, &address) == 0)
        address_variables(v, address.text, NULL, "SERVER_PORT");
    if (access_client(ev->gw, ev->conn, ex, &client)) {
        address_write(&client, peer);
        address_variables(v, peer, "REMOTE_ADDR", "REMOTE_PORT");
    }
    for (uint32_t i = 0; i < r->n_fields; i++)
        field_variable(v, ex, i);
}

uint32_t command_environment(struct guest_call *call, struct buf *out)
{
    const struct event *ev = event_of(call);
    struct variables v = {out, event_config(ev), 0, ERR_NONE};
    for (; v.n < v.m->n_env; v.n++)
        put(&v, slice_of(v.m->env[v.n], strlen(v.m->env[v.n]) + 1));
    if (ev->kind == GUEST__start && ev->ex)
        request_variables(&v, ev);
    if (v.e) { /* too much, or no memory: none rather than a part */
        buf_clear(out, 0);
        return 0;
    }
    return v.n;
}

/* ---- the response ---- */

static struct slice trim(struct slice s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = slice_of(s.p + 1, s.n - 1);
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t' || s.p[s.n - 1] == '\r'))
        s.n--;
    return s;
}

/* "404 Not Found"; 0: none. */
static unsigned status_of(struct slice value)
{
    unsigned status = 0;
    if (value.n < 3 || (value.n > 3 && value.p[3] != ' '))
        return 0;
    for (int i = 0; i < 3; i++) {
        if (value.p[i] < '0' || value.p[i] > '9')
            return 0;
        status = 10 * status + value.p[i] - '0';
    }
    return status >= 200 && status <= 599 ? status : 0;
}

struct header {
    unsigned status;
    bool type, location;
};

/* One line of the header block into the response's fields. NULL, or what is wrong with it. */
static const char *header_line(struct event *ev, struct slice line, struct header *h)
{
    struct slice rest = line, name = slice_cut(&rest, ':'), value = trim(rest);
    bool type = slice_eq_nocase(name, SLICE("content-type"));
    bool location = slice_eq_nocase(name, SLICE("location"));
    const struct slice parts[] = {name, SLICE(": "), value, SLICE("\r\n")};
    if (!rest.p || !event_field_valid(name, value))
        return "a line of the header block on stdout is no field";
    if (slice_eq_nocase(name, SLICE("status"))) {
        bool twice = h->status;
        h->status = status_of(value);
        return twice || !h->status ? "Status on stdout is no status of 200 to 599" : NULL;
    }
    if ((type && h->type) || (location && h->location))
        return "a field on stdout is there twice";
    h->type |= type;
    h->location |= location;
    if (event_field_own(name))
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (buf_append(&ev->fx.head, parts[i]))
            return "the header block on stdout is too large";
    return NULL;
}

/* Whether output begins with a header block: lines with a colon up to an empty one, among them one
 * of the three fields of which CGI wants one. */
static bool block_begins(struct slice out)
{
    static const char *const wanted[] = {"content-type", "location", "status"};
    bool found = false;
    while (out.n) {
        struct slice line = slice_cut(&out, '\n');
        if (out.p && (!line.n || slice_eq(line, SLICE("\r"))))
            return found;
        struct slice name = slice_cut(&line, ':');
        if (!out.p || !line.p)
            return false;
        for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
            found |= slice_eq_nocase(name, slice_str(wanted[i]));
    }
    return false;
}

/* Takes the header block off the output. NULL, or what is wrong with it. */
static const char *block_take(struct event *ev)
{
    struct slice rest = buf_slice(&ev->fx.body);
    struct header h = {0};
    for (bool more = true; more;) {
        struct slice line = slice_cut(&rest, '\n'); /* block_begins saw its end */
        if (line.n && line.p[line.n - 1] == '\r')
            line.n--;
        more = line.n > 0;
        const char *wrong = more ? header_line(ev, line, &h) : NULL;
        if (wrong)
            return wrong;
    }
    ev->fx.status = (uint16_t)(h.status ? h.status : h.location ? 302 : 200);
    ev->head_n = (uint32_t)(ev->fx.body.len - rest.n);
    return NULL;
}

enum err command_response(struct event *ev)
{
    const char *wrong = NULL;
    buf_clear(&ev->fx.head, 0);
    if (ev->overflow)
        wrong = "it printed more than limits.output";
    else if (block_begins(buf_slice(&ev->fx.body)))
        wrong = block_take(ev);
    else if (buf_append(&ev->fx.head, SLICE("Content-Type: text/plain; charset=utf-8\r\n")))
        return ERR_NO_MEMORY;
    if (wrong)
        event_failed(&ev->call, ERR_GUEST_RESPONSE, slice_str(wrong));
    return wrong ? ERR_GUEST_RESPONSE : ERR_NONE;
}
