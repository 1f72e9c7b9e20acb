/* The admin listener: health, metrics, and the way to what is changed at run time. */
#include "app/admin.h"
#include "app/config_value.h"
#include "app/memory.h"

#include <inttypes.h>
#include <stdio.h>

enum { PAGE_DEFAULT = 100, PAGE_MOST = 100, PAGE_BYTES = 16 << 20 };

/* Only names of this machine: a page on another site must not reach the admin listener through a
 * name of its own that resolves to it (DNS rebinding). What is no name but an address is asked for
 * only by who means it. */
static bool host_allowed(const struct config_admin *a, struct slice host, bool addresses)
{
    struct address any;
    if (addresses && address_port_parse(host, &any))
        return true;
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < ARRAY_LEN(names) + a->hosts.n; i++) {
        bool own = i < ARRAY_LEN(names);
        struct slice name = slice_str(own ? names[i] : a->hosts.v[i - ARRAY_LEN(names)]);
        if (host.n >= name.n && slice_eq_nocase(slice_of(host.p, name.n), name) &&
            (host.n == name.n || host.p[name.n] == ':'))
            return true;
    }
    return false;
}

/* A browser says where a page comes from: only this listener's own may read here. */
static bool origin_allowed(const struct http_exchange *ex, bool tls)
{
    struct slice origin = http_exchange_field(ex, SLICE("origin"));
    struct slice host = http_span_slice(ex->head, ex->req.host);
    struct slice scheme = tls ? SLICE("https://") : SLICE("http://");
    return !origin.p ||
           (origin.n == scheme.n + host.n && memcmp(origin.p, scheme.p, scheme.n) == 0 &&
            slice_eq_nocase(slice_of(origin.p + scheme.n, host.n), host));
}

/* Nor may one make a browser ask here in its name, as an image or a link: such a request has no
 * Origin, but browsers say whose it is (W3C Fetch Metadata). */
static bool site_allowed(const struct http_exchange *ex)
{
    struct slice site = http_exchange_field(ex, SLICE("sec-fetch-site"));
    return !site.p || slice_eq(site, SLICE("same-origin")) || slice_eq(site, SLICE("none"));
}

struct metrics_ask {
    struct ask ask;
    bool openmetrics;
    struct metrics sum;
    struct metrics_module modules[]; /* gw.states_max */
};

unsigned admin_weight(struct slice accept, struct slice type)
{
    unsigned weight = 0;
    for (size_t at = 0; at < accept.n;) {
        const uint8_t *from = (const uint8_t *)accept.p + at;
        const uint8_t *comma = memchr(from, ',', accept.n - at);
        size_t n = comma ? (size_t)(comma - from) : accept.n - at, i = 0;
        at += n + 1;
        while (i < n && (from[i] == ' ' || from[i] == '\t'))
            i++;
        if (n - i < type.n || !slice_eq_nocase(slice_of(from + i, type.n), type) ||
            (n - i > type.n && !strchr("; \t", from[i + type.n])))
            continue;
        const uint8_t *q = memmem(from + i, n - i, "q=", 2);
        unsigned v = 1000, place = 100;
        if (q && q + 2 < from + n && q[2] == '0') {
            v = 0;
            for (q += 4; q < from + n && *q >= '0' && *q <= '9'; q++, place /= 10)
                v += (unsigned)(*q - '0') * place;
        }
        weight = MAX(weight, v);
    }
    return weight;
}

static bool wants_openmetrics(const struct http_exchange *ex)
{
    struct slice accept = http_exchange_field(ex, SLICE("accept"));
    unsigned w = admin_weight(accept, SLICE("application/openmetrics-text"));
    return w && w >= admin_weight(accept, SLICE("text/plain"));
}

void admin_count(const struct gateway *gw, struct metrics *sum, struct metrics_module *modules)
{
    metrics_add(sum);
    for (uint32_t i = 0; i < gw->config.n_modules && i < gw->states_max; i++) {
        if (!gw->number && gw->states[i].code)
            modules[i].name = gw->config.modules[i].name;
        metrics_module_add(&modules[i], &gw->states[i].counts);
    }
    sum->topics_active = topics_count(&gw->topics); /* of all loops already */
}

static void metrics_visit(struct gateway *gw, struct errand *e)
{
    struct metrics_ask *a = CONTAINER_OF(e, struct metrics_ask, ask.errand);
    admin_count(gw, &a->sum, a->modules);
    errand_next(gw, e);
}

/* What process exporters of any language call so, and which build it is. */
static void process_write(struct metrics_out *o)
{
    struct sys_process p;
    metrics_head(o, "weir_build_info", METRICS_GAUGE, "Which build this is; always 1.");
    metrics_line(o, "weir_build_info{version=\"" WEIR_VERSION "\",engine=\"%s\"} 1\n",
                 guest_engine_version());
    sys_process(&p);
    metrics_head(o, "process_start_time_seconds", METRICS_GAUGE,
                 "When the worker started, in seconds since 1970.");
    metrics_line(o, "process_start_time_seconds %" PRIu64 ".%03" PRIu64 "\n", p.started_ms / 1000,
                 p.started_ms % 1000);
    metrics_head(o, "process_cpu_seconds_total", METRICS_COUNTER,
                 "CPU time of the worker, user and system.");
    metrics_line(o, "process_cpu_seconds_total %" PRIu64 ".%09" PRIu64 "\n", p.cpu_ns / 1000000000,
                 p.cpu_ns % 1000000000);
    metrics_head(o, "process_max_fds", METRICS_GAUGE, "Descriptors that it may have open.");
    metrics_line(o, "process_max_fds %" PRIu32 "\n", p.fds_max);
    if (p.fds) { /* the kernel says it since 6.2 */
        metrics_head(o, "process_open_fds", METRICS_GAUGE, "Descriptors that it has open.");
        metrics_line(o, "process_open_fds %" PRIu64 "\n", p.fds);
    }
    if (!p.resident)
        return;
    metrics_head(o, "process_resident_memory_bytes", METRICS_GAUGE, "Its resident memory.");
    metrics_line(o, "process_resident_memory_bytes %" PRIu64 "\n", p.resident);
    metrics_head(o, "process_virtual_memory_bytes", METRICS_GAUGE,
                 "Its address space, most of which is reserved for the engine's pool.");
    metrics_line(o, "process_virtual_memory_bytes %" PRIu64 "\n", p.reserved);
}

static void metrics_home(struct gateway *gw, struct errand *errand)
{
    struct metrics_ask *a = CONTAINER_OF(errand, struct metrics_ask, ask.errand);
    struct buf out;
    struct metrics_out o = {.out = &out, .openmetrics = a->openmetrics};
    buf_init(&out, 16 << 20);
    metrics_write(&o, &a->sum, a->modules, gw->states_max);
    process_write(&o);
    if (o.openmetrics)
        metrics_line(&o, "# EOF\n");
    admin_end(gw, &a->ask, o.e,
              o.openmetrics ? SLICE("application/openmetrics-text; version=1.0.0; charset=utf-8")
                            : SLICE("text/plain; version=0.0.4; charset=utf-8"),
              buf_slice(&out));
    buf_done(&out);
}

enum err admin_metrics(struct admin_call *call)
{
    bool openmetrics = wants_openmetrics(call->ex);
    struct metrics_ask *a = ask_new(call->gw, call->conn, false,
                                    sizeof(*a) +
                                        call->gw->states_max * sizeof(struct metrics_module));
    if (!a)
        return ERR_NONE;
    a->openmetrics = openmetrics;
    ask_start(call->gw, &a->ask, metrics_visit, metrics_home);
    return ERR_NONE;
}

struct memory_ask {
    struct ask ask;
    struct {
        uint64_t code, image, instances, peak;
    } modules[];
};

static void memory_visit(struct gateway *gw, struct errand *e)
{
    struct memory_ask *a = CONTAINER_OF(e, struct memory_ask, ask.errand);
    for (uint32_t i = 0; i < gw->config.n_modules && i < gw->states_max; i++) {
        const struct module_code *c = gw->states[i].code;
        a->modules[i].code += c ? c->guest.code_bytes : 0;
        a->modules[i].image += c ? c->guest.image_n : 0;
        a->modules[i].instances += c ? c->guest.running + c->guest.n_kept : 0;
        a->modules[i].peak = MAX(a->modules[i].peak, gw->states[i].counts.module_memory_peak_bytes);
    }
    errand_next(gw, e);
}

static enum err memory_modules(const struct gateway *gw, const struct memory_ask *a,
                               struct buf *out)
{
    const char *comma = "";
    enum err e = buf_append(out, SLICE(",\"modules\":["));
    for (uint32_t i = 0; i < gw->config.n_modules && !e; i++) {
        if (!gw->states[i].code)
            continue;
        e = buf_printf(out,
                       "%s{\"name\":\"%s\",\"code_bytes\":%" PRIu64 ",\"image_bytes\":%" PRIu64
                       ",\"instances\":%" PRIu64 ",\"instance_peak_bytes\":%" PRIu64 "}",
                       comma, gw->config.modules[i].name, a->modules[i].code, a->modules[i].image,
                       a->modules[i].instances, a->modules[i].peak);
        comma = ",";
    }
    return e ? e : buf_append(out, SLICE("]}\n"));
}

static void memory_home(struct gateway *gw, struct errand *errand)
{
    struct memory_ask *a = CONTAINER_OF(errand, struct memory_ask, ask.errand);
    struct memory m;
    struct buf out;
    buf_init(&out, 1 << 20);
    enum err e = memory_take(&m);
    e = e ? e : buf_append(&out, SLICE("{"));
    e = e ? e : memory_write(&m, &out);
    e = e ? e : memory_modules(gw, a, &out);
    admin_end(gw, &a->ask, e, SLICE("application/json"), buf_slice(&out));
    buf_done(&out);
}

enum err admin_memory(struct admin_call *call)
{
    struct memory_ask *a = ask_new(call->gw, call->conn, false,
                                   sizeof(*a) + call->gw->states_max * sizeof(a->modules[0]));
    if (a)
        ask_start(call->gw, &a->ask, memory_visit, memory_home);
    return ERR_NONE;
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

/* Without a token, whoever is on this machine, or has shown a certificate, may ask, but no page of
 * another site: browsers show certificates for any. With a token, /api asks for it; on an address
 * that others reach without a certificate, so does all but health and the page. */
static enum err access_check(const struct gateway *gw, const struct conn *c,
                             const struct http_exchange *ex, bool api, bool health)
{
    const struct config_admin *a = &gw->config.admin;
    struct slice token = slice_str(a->token);
    bool loopback = true, proven = a->client_ca && c->tls;
    config_listenable(a->address, &loopback);
    if (token.n && token_right(ex, token))
        return ERR_NONE; /* which no page has */
    if (!loopback && !proven)
        return health ? ERR_NONE : ERR_UNAUTHORIZED;
    if (!host_allowed(a, http_span_slice(ex->head, ex->req.host), proven && !loopback) ||
        !origin_allowed(ex, c->tls) || (!health && !site_allowed(ex)))
        return ERR_FORBIDDEN;
    return token.n && api ? ERR_UNAUTHORIZED : ERR_NONE;
}

/* ---- routes ---- */

enum guard { TOKEN, OUTSIDE, HEALTH };
static const struct route {
    const char *name, *path;
    enum err (*answer)(struct admin_call *a);
    enum http_method method;
    enum control_kind change;
    enum guard guard;
} routes[] = {
#define ROUTE(method, path, handler, change, guard)                                                \
    {#method, path, handler, HTTP_##method, (enum control_kind)change, guard},
#include "tbl/admin.def"
#undef ROUTE
};

/* *name: what stands for its *, or behind its last slash. */
static bool path_is(struct slice path, const char *pattern, struct slice *name)
{
    size_t n = strcspn(pattern, "*");
    bool one = pattern[n] == '*', under = !one && n > 1 && pattern[n - 1] == '/';
    struct slice end = slice_str(pattern + n + one);
    if (path.n < n + end.n || memcmp(path.p, pattern, n) != 0 ||
        memcmp(path.p + path.n - end.n, end.p, end.n) != 0)
        return false;
    *name = slice_of(path.p + n, path.n - n - end.n);
    return name->n ? under || (one && !memchr(name->p, '/', name->n)) : !one;
}

/* The request's row; or else one of its path, with what may be asked of it as a field. NULL: none.
 */
static const struct route *route_of(struct admin_call *a, char allow[64])
{
    struct slice path = http_span_slice(a->ex->head, a->ex->req.path);
    enum http_method method = a->ex->req.method == HTTP_HEAD ? HTTP_GET : a->ex->req.method;
    const struct route *found = NULL;
    int n = 0;
    for (const struct route *r = routes; r < routes + ARRAY_LEN(routes); r++) {
        if (!path_is(path, r->path, &a->name))
            continue;
        found = r;
        if (r->method == method) {
            *allow = 0;
            return r;
        }
        n += snprintf(allow + n, 64 - (size_t)n, "%s%s%s", n ? ", " : "Allow: ", r->name,
                      r->method == HTTP_GET ? ", HEAD" : "");
    }
    snprintf(allow + n, 64 - (size_t)n, "\r\n");
    return found;
}

void admin_request(struct gateway *gw, struct conn *c, struct http_exchange *ex)
{
    char allow[64];
    struct admin_call a = {.gw = gw, .conn = c, .ex = ex};
    const struct route *r = route_of(&a, allow);
    enum guard guard = r ? r->guard : TOKEN;
    struct slice coding = http_exchange_field(ex, SLICE("content-encoding"));
    enum err e = access_admin(gw, c->fd) ? access_check(gw, c, ex, guard == TOKEN, guard == HEALTH)
                                         : ERR_ADMIN_PEER;
    if (e) {
        a.fields = e == ERR_UNAUTHORIZED ? SLICE("WWW-Authenticate: Bearer\r\n") : SLICE_NONE;
    } else if (!r) {
        e = ERR_NOT_FOUND;
    } else if (*allow) {
        e = ERR_METHOD;
        a.fields = slice_str(allow);
    } else if (r->method != HTTP_GET && coding.n && !slice_eq_nocase(coding, SLICE("identity"))) {
        e = ERR_CONTENT_CODING;
        a.fields = SLICE("Accept-Encoding: identity\r\n");
    } else {
        a.change = r->change;
        e = r->answer(&a);
    }
    if (e)
        http_exchange_fail(&gw->admin, c, e, a.fields, a.detail ? slice_str(a.detail) : SLICE_NONE);
}

enum err admin_health(struct admin_call *a)
{
    admin_respond(a->gw, a->conn, ERR_NONE, SLICE("text/plain; charset=utf-8"), SLICE("ok\n"));
    return ERR_NONE;
}

enum err admin_ready(struct admin_call *a)
{
    bool serving = a->gw->ready && !a->gw->draining;
    struct http_response r = {serving ? 200 : 503, SLICE("text/plain; charset=utf-8"), SLICE_NONE,
                              serving ? SLICE("ready\n") : SLICE("not ready\n")};
    http_exchange_respond(&a->gw->admin, a->conn, &r);
    return ERR_NONE;
}

/* ---- answers ---- */

struct slice admin_query(const struct admin_call *a)
{
    return http_span_slice(a->ex->head, a->ex->req.query);
}

void admin_respond(struct gateway *gw, struct conn *c, enum err e, struct slice type,
                   struct slice body)
{
    struct http_response r = {200, type, SLICE_NONE, body};
    if (e)
        http_exchange_fail(&gw->admin, c, e, SLICE_NONE, SLICE_NONE);
    else
        http_exchange_respond(&gw->admin, c, &r);
}

void admin_end(struct gateway *gw, struct ask *ask, enum err e, struct slice type,
               struct slice body)
{
    if (ask_waits(gw, ask))
        admin_respond(gw, ask->conn, e, type, body);
    ask_free(gw, ask);
}

static int put(const char *text, size_t n, void *out)
{
    return buf_append(out, slice_of(text, n)) ? -1 : 0;
}

enum err admin_dump(json_t *doc, struct buf *out)
{
    bool ok = doc && json_dump_callback(doc, put, out, JSON_COMPACT) == 0;
    json_decref(doc);
    return ok ? ERR_NONE : ERR_NO_MEMORY;
}

static enum err dump(json_t *doc, struct buf *out)
{
    enum err e = admin_dump(doc, out);
    return e ? e : buf_append(out, SLICE("\n"));
}

void admin_json(struct gateway *gw, struct conn *c, json_t *doc)
{
    struct buf out;
    buf_init(&out, PAGE_BYTES);
    enum err e = dump(doc, &out);
    admin_respond(gw, c, e, SLICE("application/json"), buf_slice(&out));
    buf_done(&out);
}

void admin_end_json(struct gateway *gw, struct ask *ask, enum err e, json_t *doc)
{
    struct buf out;
    buf_init(&out, PAGE_BYTES);
    enum err dumped = dump(doc, &out);
    admin_end(gw, ask, e ? e : dumped, SLICE("application/json"), buf_slice(&out));
    buf_done(&out);
}

json_t *admin_hex(uint64_t v)
{
    char text[17];
    snprintf(text, sizeof(text), "%016" PRIx64, v);
    return v ? json_string(text) : json_null();
}

/* ---- pages ---- */

enum err admin_page_read(struct admin_call *a, struct admin_page *out)
{
    struct slice query = admin_query(a);
    char text[64] = "", *rest = query.n ? text : NULL, *pair, *end;
    *out = (struct admin_page){.limit = PAGE_DEFAULT};
    a->detail = "the query is limit=1 to limit=100 and cursor=, the `next` of the page before";
    if (query.n >= sizeof(text) || memchr(query.p ? query.p : (const uint8_t *)"", 0, query.n))
        return ERR_INVALID;
    slice_copy(text, query);
    while ((pair = strsep(&rest, "&")) != NULL) {
        unsigned long long v;
        bool is_cursor = strncmp(pair, "cursor=", 7) == 0;
        const char *digits = strchr(pair, '=');
        if ((!is_cursor && strncmp(pair, "limit=", 6) != 0) || strchr("+- \t\n\v\f\r", digits[1]))
            return ERR_INVALID;
        v = strtoull(digits + 1, &end, is_cursor ? 16 : 10);
        if (*end || (!is_cursor && (!v || v > PAGE_MOST)))
            return ERR_INVALID;
        if (is_cursor)
            out->cursor = v;
        else
            out->limit = (uint32_t)v;
    }
    a->detail = NULL;
    return ERR_NONE;
}

bool admin_page_here(const struct admin_page *page, const struct gateway *gw, uint64_t *at)
{
    uint32_t home = loops_home(gw, page->cursor);
    *at = home == gw->number ? page->cursor : 0;
    return !page->full && home <= gw->number;
}
