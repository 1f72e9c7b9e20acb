/* /api/v1/connections: who is connected, in pages, and how one of them is closed. */
#include <stdio.h>

#include "app/admin.h"
#include "app/json.h"
#include "ws/ws_beat.h"

struct conns_ask {
    struct ask ask;
    struct admin_page page; /* a cursor is a loop and a slot in it */
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

json_t *conns_api_one(struct gateway *gw, const struct conn *c)
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
    struct admin_page *page = &CONTAINER_OF(errand, struct conns_ask, ask.errand)->page;
    uint64_t from;
    bool here = admin_page_here(page, gw, &from);
    for (uint32_t slot = from & 0xffffff; here && slot < gw->net.conns.count; slot++) {
        const struct conn *c = pool_at(&gw->net.conns, slot);
        if (!c || c->state == CONN_CLOSED || c->protocol == PROTOCOL_ADMIN ||
            c->protocol == PROTOCOL_ADMIN_TLS)
            continue;
        if (json_array_size(page->list) == page->limit) {
            page->full = true;
            page->next = (uint64_t)gw->number << 56 | slot;
            break;
        }
        json_array_append_new(page->list, conns_api_one(gw, c));
    }
    errand_next(gw, errand);
}

static void list_home(struct gateway *gw, struct errand *errand)
{
    struct conns_ask *a = CONTAINER_OF(errand, struct conns_ask, ask.errand);
    admin_end_json(
        gw, &a->ask, ERR_NONE,
        json_pack("{s:o,s:o}", "connections", a->page.list, "next", admin_hex(a->page.next)));
}

enum err conns_api_list(struct admin_call *call)
{
    struct admin_page page;
    enum err e = admin_page_read(call, &page);
    if (e)
        return e;
    if (!mem_fits(MEM_BUFFER, (uint64_t)page.limit * CONN_JSON)) {
        call->detail = "limits.memory has no room for so many: ask for fewer by limit=";
        return ERR_NO_MEMORY;
    }
    struct conns_ask *a = ask_new(call->gw, call->conn, false, sizeof(*a));
    if (!a)
        return ERR_NONE;
    a->page = page;
    a->page.list = json_array();
    ask_start(call->gw, &a->ask, list_visit, list_home);
    return ERR_NONE;
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
    admin_end_json(gw, &a->ask, a->found ? ERR_NONE : ERR_CONNECTION_UNKNOWN,
                   json_pack("{s:o}", "closed", admin_hex(a->id)));
}

/* 16 hex digits. 0: it is none. */
static uint64_t id_read(struct slice text)
{
    uint64_t id = 0;
    if (text.n != 16)
        return 0;
    for (size_t i = 0; i < 16; i++) {
        uint8_t d = text.p[i];
        if (!(d >= '0' && d <= '9') && !(d >= 'a' && d <= 'f'))
            return 0;
        id = id << 4 | (uint64_t)(d <= '9' ? d - '0' : d - 'a' + 10);
    }
    return id;
}

/* {"code": 4000, "reason": ".."}, or nothing. NULL, or what is wrong. */
static const char *kick_read(struct slice body, struct kick_ask *out)
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
            !ws_close_code_valid((unsigned)number) || n > sizeof(out->reason))
            wrong = form;
        else
            memcpy(out->reason, text, out->reason_n = n);
        json_decref(doc);
    }
    out->code = (unsigned)number;
    return wrong;
}

enum err conns_api_kick(struct admin_call *call)
{
    struct kick_ask said = {.id = id_read(call->name)};
    if (!said.id)
        return ERR_NOT_FOUND;
    call->detail = kick_read(call->ex->body, &said);
    if (call->detail)
        return ERR_INVALID;
    struct kick_ask *a = ask_new(call->gw, call->conn, false, sizeof(*a));
    if (!a)
        return ERR_NONE;
    said.ask = a->ask;
    *a = said;
    ask_start(call->gw, &a->ask, kick_visit, kick_home);
    return ERR_NONE;
}
