/* /api/v1/connections: who is connected, in pages, and how one of them is closed. */
#include <stdio.h>

#include "app/admin_json.h"
#include "app/json.h"
#include "app/loops.h"
#include "ws/ws_beat.h"

/* Pages are made in all loops as those of topics are: a cursor is a loop and a slot in it. */
struct conns_ask {
    struct ask ask;
    json_t *list;
    uint64_t cursor, next;
    uint32_t limit;
    bool full;
};

/* Bytes of one as JSON, at the most: jansson's memory is counted, but never refused. */
enum { CONN_JSON = 6 << 10, KICK_MOST = 4096 };

struct kick_ask {
    struct ask ask;
    uint64_t id;
    unsigned code;
    size_t reason_n;
    char reason[WS_CONTROL_MAX - 2];
    bool found;
};

static void flag(json_t *o, const char *key, bool value)
{
    json_object_set_new(o, key, json_boolean(value));
}

static void number(json_t *o, const char *key, uint64_t value)
{
    json_object_set_new(o, key, json_integer((json_int_t)value));
}

static void ago(const struct gateway *gw, json_t *o, const char *key, uint32_t tick)
{
    number(o, key, (uint64_t)(gw->loop.wheel.clock - tick) * WHEEL_TICK_MS);
}

static void put_websocket(struct gateway *gw, json_t *o, const struct conn *c)
{
    const struct config_route *r = &gw->config.routes[c->route];
    const struct guest_module *m = r->module < 0 ? NULL : upgrade_module(gw, c);
    const struct hub_conn *hub = c->hub;
    json_object_set_new(o, "route", json_string(r->path));
    json_object_set_new(o, "module", m ? json_string(m->name) : json_null());
    if (m)
        number(o, "version", CONTAINER_OF(m, struct module_code, guest)->version.number);
    ago(gw, o, "heard_ms_ago", c->heard);
    ago(gw, o, "pong_ms_ago", c->ponged);
    number(o, "topics", hub ? hub->n_members : 0);
    number(o, "attachment_bytes", hub ? hub->attachment.len : 0);
    flag(o, "suspect", c->beat & WS_SUSPECT);
    flag(o, "demoted", c->beat & WS_DEMOTED);
    flag(o, "compressed", c->flags & WS_DEFLATE);
}

static json_t *conn_put(struct gateway *gw, const struct conn *c)
{
    static const char *const names[] = {[PROTOCOL_HTTP] = "http",
                                        [PROTOCOL_WS] = "websocket",
                                        [PROTOCOL_PROXY] = "proxy",
                                        [PROTOCOL_TLS] = "tls"};
    struct address peer;
    char text[ADDRESS_TEXT];
    json_t *o = json_object();
    bool known = access_client(gw, c, NULL, &peer);
    bool closing = c->state != CONN_OPEN ||
                   (c->protocol == PROTOCOL_WS && c->flags & WS_CLOSE_SENT);
    if (known)
        address_write(&peer, text);
    json_object_set_new(o, "id", admin_hex(conn_id(c)));
    json_object_set_new(o, "peer", known ? json_string(text) : json_null());
    json_object_set_new(o, "protocol", json_string(names[c->protocol]));
    json_object_set_new(o, "state", json_string(closing ? "closing" : "open"));
    flag(o, "tls", c->tls);
    flag(o, "paused", c->paused || c->full);
    number(o, "queued_bytes", conn_queued(c));
    if (c->protocol == PROTOCOL_WS)
        put_websocket(gw, o, c);
    return o;
}

static void list_visit(struct gateway *gw, struct errand *errand)
{
    struct conns_ask *a = CONTAINER_OF(errand, struct conns_ask, ask.errand);
    uint32_t slot = a->cursor >> 56 == gw->number ? (uint32_t)a->cursor & 0xffffff : 0;
    bool here = !a->full && a->cursor >> 56 <= gw->number;
    for (; here && slot < gw->net.conns.count; slot++) {
        const struct conn *c = pool_at(&gw->net.conns, slot);
        if (!c || c->state == CONN_CLOSED || c->protocol == PROTOCOL_ADMIN)
            continue;
        if (json_array_size(a->list) == a->limit) {
            a->full = true;
            a->next = (uint64_t)gw->number << 56 | slot;
            break;
        }
        json_array_append_new(a->list, conn_put(gw, c));
    }
    errand_next(gw, errand);
}

static void list_home(struct gateway *gw, struct errand *errand)
{
    struct conns_ask *a = CONTAINER_OF(errand, struct conns_ask, ask.errand);
    json_t *doc = json_pack("{s:o,s:o}", "connections", a->list, "next", admin_hex(a->next));
    if (ask_waits(gw, &a->ask))
        admin_json(gw, a->ask.conn, doc);
    else
        json_decref(doc);
    ask_free(gw, &a->ask);
}

static void list(struct gateway *gw, struct conn *c, uint64_t cursor, uint32_t limit)
{
    if (!mem_fits(MEM_BUFFER, (uint64_t)limit * CONN_JSON)) {
        http_exchange_fail(&gw->admin, c, ERR_NO_MEMORY, SLICE_NONE,
                           SLICE("limits.memory has no room for so many: ask for fewer by limit="));
        return;
    }
    struct conns_ask *a = ask_new(gw, c, false, sizeof(*a));
    if (!a)
        return;
    a->list = json_array();
    a->cursor = cursor;
    a->limit = limit;
    a->ask.errand.visit = list_visit;
    a->ask.errand.home = list_home;
    errand_start(gw, &a->ask.errand);
}

/* ---- one is closed ---- */

static void kick_visit(struct gateway *gw, struct errand *errand)
{
    struct kick_ask *a = CONTAINER_OF(errand, struct kick_ask, ask.errand);
    struct conn *c = conn_get(&gw->net, a->id);
    if (c && c->protocol != PROTOCOL_ADMIN) {
        a->found = true;
        if (c->protocol == PROTOCOL_WS)
            ws_conn_close(&gw->ws, c, a->code, slice_of(a->reason, a->reason_n), CLOSE_KICKED);
        else
            conn_close(&gw->net, c, CLOSE_KICKED);
    }
    errand_next(gw, errand);
}

static void kick_home(struct gateway *gw, struct errand *errand)
{
    struct kick_ask *a = CONTAINER_OF(errand, struct kick_ask, ask.errand);
    if (!ask_waits(gw, &a->ask))
        ;
    else if (a->found)
        admin_json(gw, a->ask.conn, json_pack("{s:o}", "closed", admin_hex(a->id)));
    else
        http_exchange_fail(&gw->admin, a->ask.conn, ERR_CONNECTION_UNKNOWN, SLICE_NONE, SLICE_NONE);
    ask_free(gw, &a->ask);
}

/* "ID/close": 16 hex digits. 0: it is none. */
static uint64_t id_read(struct slice path)
{
    struct slice verb = SLICE("/close");
    uint64_t id = 0;
    if (path.n != 16 + verb.n || memcmp(path.p + 16, verb.p, verb.n) != 0)
        return 0;
    for (size_t i = 0; i < 16; i++) {
        uint8_t d = path.p[i];
        if (!(d >= '0' && d <= '9') && !(d >= 'a' && d <= 'f'))
            return 0;
        id = id << 4 | (uint64_t)(d <= '9' ? d - '0' : d - 'a' + 10);
    }
    return id;
}

/* {"code": 4000, "reason": ".."}, or nothing. NULL, or what is wrong. */
static const char *kick_read(struct slice body, unsigned *code, struct kick_ask *reason)
{
    static const char form[] = "send nothing, or {\"code\": a close code that can be sent, "
                               "\"reason\": at most 123 bytes}";
    json_t *doc = NULL;
    json_error_t where;
    const char *text = "", *wrong = NULL;
    size_t n = 0;
    int number = close_code(CLOSE_KICKED);
    if (body.n) {
        if (body.n > KICK_MOST || json_read(body, JSON_REJECT_DUPLICATES, &doc, &where) ||
            json_unpack(doc, "{s?i,s?s%!}", "code", &number, "reason", &text, &n) || number < 0 ||
            !ws_close_code_valid((unsigned)number) || n > sizeof(reason->reason))
            wrong = form;
        else
            memcpy(reason->reason, text, reason->reason_n = n);
        json_decref(doc);
    }
    *code = (unsigned)number;
    return wrong;
}

static const char *kick(struct gateway *gw, struct conn *c, const struct http_exchange *ex,
                        uint64_t id)
{
    struct kick_ask said = {.id = id}, *a;
    const char *wrong = kick_read(ex->body, &said.code, &said);
    if (wrong || !(a = ask_new(gw, c, false, sizeof(*a))))
        return wrong;
    a->id = id;
    a->code = said.code;
    memcpy(a->reason, said.reason, a->reason_n = said.reason_n);
    a->ask.errand.visit = kick_visit;
    a->ask.errand.home = kick_home;
    errand_start(gw, &a->ask.errand);
    return NULL;
}

bool conns_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, struct slice path)
{
    struct slice all = SLICE("connections"), under = SLICE("connections/");
    bool lists = slice_eq(path, all);
    bool reads = ex->req.method == HTTP_GET || ex->req.method == HTTP_HEAD;
    const char *detail = NULL;
    uint64_t cursor, id;
    uint32_t limit;
    enum err e = ERR_NONE;
    if (!lists && (path.n <= under.n || memcmp(path.p, under.p, under.n) != 0))
        return false;
    id = lists ? 0 : id_read(slice_of(path.p + under.n, path.n - under.n));
    if (!lists && !id)
        e = ERR_NOT_FOUND;
    else if (lists ? !reads : ex->req.method != HTTP_POST)
        e = ERR_METHOD;
    else if (!lists)
        e = (detail = kick(gw, c, ex, id)) ? ERR_INVALID : ERR_NONE;
    else if (!admin_page(ex, &cursor, &limit))
        e = ERR_INVALID, detail = ADMIN_PAGE_DETAIL;
    else
        list(gw, c, cursor, limit);
    struct slice allow = lists ? SLICE("Allow: GET, HEAD\r\n") : SLICE("Allow: POST\r\n");
    if (e)
        http_exchange_fail(&gw->admin, c, e, e == ERR_METHOD ? allow : SLICE_NONE,
                           detail ? slice_str(detail) : SLICE_NONE);
    return true;
}
