/* /api/v1/topics and /api/v1/publish: who is in which topic, and messages of back-ends to all of
 * one. */
#include <inttypes.h>
#include <stdio.h>

#include "app/admin.h"
#include "app/json.h"

enum { NAME_MOST = 2048 };

struct topics_ask {
    struct ask ask;
    struct admin_page page;
    uint32_t members;
    enum err e;
    const struct topics *topics; /* of the loop where it is */
    size_t space_n, name_n;
    uint8_t space[NAME_MOST], name[NAME_MOST]; /* of the topic whose members are asked for */
};

static json_t *topic_put(const uint8_t *space, size_t space_n, const uint8_t *name, size_t name_n,
                         uint32_t members)
{
    return json_pack("{s:o,s:o,s:I}", "space", json_stringn((const char *)space, space_n), "topic",
                     json_stringn((const char *)name, name_n), "members", (json_int_t)members);
}

static void topic_found(void *arg, const struct topic *t)
{
    struct topics_ask *a = arg;
    size_t space_n = strlen((const char *)t->key); /* a zero byte ends it */
    struct slice space = slice_of(t->key, space_n);
    struct slice name = slice_of(t->key + space_n + 1, t->key_n - space_n - 1);
    if (topics_first(a->topics, t))
        json_array_append_new(a->page.list, topic_put(space.p, space.n, name.p, name.n,
                                                      topics_members(a->topics, t, space, name)));
}

static void list_visit(struct gateway *gw, struct errand *errand)
{
    struct topics_ask *a = CONTAINER_OF(errand, struct topics_ask, ask.errand);
    struct admin_page *page = &a->page;
    size_t n = json_array_size(page->list);
    uint64_t at;
    a->topics = &gw->topics;
    if (admin_page_here(page, gw, &at)) {
        at &= 0xffffffff;
        if (n < page->limit)
            topics_scan(&gw->topics, &at, page->limit - (uint32_t)n, topic_found, a);
        page->full = n == page->limit || at; /* then the next page begins here */
        page->next = page->full ? (uint64_t)gw->number << 56 | at : 0;
    }
    errand_next(gw, errand);
}

static void list_home(struct gateway *gw, struct errand *errand)
{
    struct topics_ask *a = CONTAINER_OF(errand, struct topics_ask, ask.errand);
    admin_end_json(gw, &a->ask, ERR_NONE,
                   json_pack("{s:I,s:o,s:o}", "count", (json_int_t)topics_count(&gw->topics),
                             "topics", a->page.list, "next", admin_hex(a->page.next)));
}

/* NULL: it was answered, or *e is the error. */
static struct topics_ask *topics_ask_new(struct admin_call *call, enum err *e)
{
    struct admin_page page;
    *e = admin_page_read(call, &page);
    struct topics_ask *a = *e ? NULL : ask_new(call->gw, call->conn, false, sizeof(*a));
    if (a) {
        a->page = page;
        a->page.list = json_array();
    }
    return a;
}

enum err topics_api_list(struct admin_call *call)
{
    enum err e;
    struct topics_ask *a = topics_ask_new(call, &e);
    if (a)
        ask_start(call->gw, &a->ask, list_visit, list_home);
    return e;
}

static uint8_t digit(uint8_t c)
{
    return (uint8_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

/* The parser has seen to it that two hex digits follow each %. false: too long, or a zero byte. */
static bool decode(struct slice from, uint8_t *out, size_t most, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < from.n; i++, ++*n) {
        if (*n == most)
            return false;
        bool coded = from.p[i] == '%' && i + 2 < from.n;
        out[*n] = coded ? (uint8_t)(digit(from.p[i + 1]) << 4 | digit(from.p[i + 2])) : from.p[i];
        i += coded ? 2 : 0;
        if (!out[*n])
            return false;
    }
    return true;
}

static void show_visit(struct gateway *gw, struct errand *errand)
{
    struct topics_ask *a = CONTAINER_OF(errand, struct topics_ask, ask.errand);
    struct admin_page *page = &a->page;
    uint64_t at, next = 0;
    struct slice space = slice_of(a->space, a->space_n), name = slice_of(a->name, a->name_n);
    const struct topic *t = topics_find(&gw->topics, space, name);
    bool here = admin_page_here(page, gw, &at) && t && !a->e;
    a->members = topics_members(&gw->topics, t, space, name);
    if (at && !t)
        a->e = ERR_CURSOR;
    while (here && topics_next(&gw->topics, t, at, &next) && next && !page->full) {
        page->full = json_array_size(page->list) == page->limit;
        if (!page->full)
            json_array_append_new(page->list, admin_hex(page->next = next));
        at = next;
    }
    if (here && at && !next && !topics_next(&gw->topics, t, at, &next))
        a->e = ERR_CURSOR;
    errand_next(gw, errand);
}

static void show_home(struct gateway *gw, struct errand *errand)
{
    struct topics_ask *a = CONTAINER_OF(errand, struct topics_ask, ask.errand);
    enum err e = a->e ? a->e : a->members ? ERR_NONE : ERR_TOPIC_UNKNOWN;
    json_t *doc = topic_put(a->space, a->space_n, a->name, a->name_n, a->members);
    json_object_set_new(doc, "connections", a->page.list);
    json_object_set_new(doc, "next", admin_hex(a->page.full ? a->page.next : 0));
    admin_end_json(gw, &a->ask, e, doc);
}

/* "SPACE/TOPIC": a page of its members, in each loop in the order in which they joined. */
enum err topics_api_show(struct admin_call *call)
{
    uint8_t space[NAME_MOST], name[NAME_MOST];
    struct slice topic = call->name, within = slice_cut(&topic, '/');
    size_t space_n, name_n;
    enum err e;
    if (!topic.p || !decode(within, space, sizeof(space), &space_n) ||
        !decode(topic, name, sizeof(name), &name_n))
        return ERR_NOT_FOUND;
    struct topics_ask *a = topics_ask_new(call, &e);
    if (!a)
        return e;
    memcpy(a->space, space, a->space_n = space_n);
    memcpy(a->name, name, a->name_n = name_n);
    ask_start(call->gw, &a->ask, show_visit, show_home);
    return ERR_NONE;
}

/* ---- publish ---- */

/* RFC 4648 4, padded. false: it is none. */
static bool base64_read(const char *s, size_t n, uint8_t *out, size_t *out_n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t pad = n && s[n - 1] == '=' ? 1 + (n > 1 && s[n - 2] == '=') : 0;
    *out_n = 0;
    if (n % 4)
        return false;
    for (size_t i = 0; i < n; i += 4) {
        uint32_t v = 0;
        size_t bytes = i + 4 == n ? 3 - pad : 3;
        for (size_t k = 0; k < 4; k++) {
            const char *d = k > bytes ? digits : s[i + k] ? strchr(digits, s[i + k]) : NULL;
            if (!d)
                return false;
            v = v << 6 | (uint32_t)(d - digits);
        }
        for (size_t k = 0; k < bytes; k++)
            out[(*out_n)++] = (uint8_t)(v >> (16 - 8 * k));
        if (v & ((1u << (8 * (3 - bytes))) - 1))
            return false;
    }
    return true;
}

struct published {
    struct slice space, topic, data;
    enum ws_opcode kind;
    uint64_t except;
    uint8_t *own; /* data, where it came as base64 */
    size_t own_n;
};

static struct slice text_of(const json_t *doc, const char *key, unsigned *known)
{
    const json_t *v = json_object_get(doc, key);
    *known += v != NULL;
    return json_is_string(v) ? slice_of(json_string_value(v), json_string_length(v)) : SLICE_NONE;
}

/* What is wrong with it; NULL: nothing. */
static const char *publish_read(const json_t *doc, uint64_t most, struct published *out)
{
    unsigned known = 0;
    struct slice text = text_of(doc, "text", &known), binary = text_of(doc, "binary", &known);
    struct slice except = text_of(doc, "except", &known);
    char id[17] = "", *end = id;
    out->space = text_of(doc, "space", &known);
    out->topic = text_of(doc, "topic", &known);
    if (!json_is_object(doc) || known != json_object_size(doc))
        return "send an object with topic, and text or binary; and, if need be, space and except";
    if (!out->topic.p)
        return "topic is the name of a topic";
    if (!out->space.p && json_object_get(doc, "space"))
        return "space is the name of a space; without it, it is public";
    if (!out->space.p)
        out->space = SLICE("public");
    if (!text.p == !binary.p)
        return "one of text and binary (base64) is the message";
    if (json_object_get(doc, "except")) {
        if (except.n == 16 && !memchr(except.p, 0, 16) && !strpbrk((const char *)except.p, "+- xX"))
            memcpy(id, except.p, 16);
        out->except = strtoull(id, &end, 16);
        if (end != id + 16)
            return "except is a connection's id: 16 hex digits";
    }
    out->kind = text.p ? WS_TEXT : WS_BINARY;
    out->data = text;
    size_t n = binary.n / 4 * 3;
    if (text.p || n > most + 2) {
        out->data.n = text.p ? text.n : n; /* too large: it is not looked at */
        return NULL;
    }
    out->own_n = binary.n + 1;
    out->own = mem_alloc(out->own_n);
    if (!out->own || !base64_read((const char *)binary.p, binary.n, out->own, &n))
        return "binary is base64, padded";
    out->data = slice_of(out->own, n);
    return NULL;
}

static enum err publish(struct gateway *gw, const struct published *p, uint32_t *receivers)
{
    uint8_t header[WS_HEADER_MAX];
    const struct topic *t = topics_find(&gw->topics, p->space, p->topic);
    const struct conn *except = conn_get(&gw->net, p->except);
    if (!event_topic_valid(gw, p->topic))
        return ERR_TOPIC_NAME;
    if (p->data.n > gw->config.limits.message)
        return ERR_WS_MESSAGE_SIZE;
    if (!topics_room(&gw->topics, 1, p->data.n) || !loops_room(gw, p->data.n))
        return ERR_LIMIT;
    *receivers = topics_members(&gw->topics, t, p->space, p->topic) -
                 (t && except && topics_has(t, except));
    size_t n = ws_frame_header(header, p->kind, true, p->data.n);
    metrics.api_published_total++;
    return loops_publish(gw, p->space, p->topic, p->except, slice_of(header, n), p->data);
}

enum err topics_api_publish(struct admin_call *call)
{
    struct published p = {.kind = WS_TEXT};
    uint64_t most = call->gw->config.limits.message;
    uint32_t receivers = 0;
    if (call->ex->body.n > 6 * most + 4096) /* each byte of it as \u00xx */
        return ERR_WS_MESSAGE_SIZE;
    json_t *doc = NULL;
    json_error_t where;
    enum err e = json_read(call->ex->body, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &doc, &where);
    const char *wrong = e ? NULL : publish_read(doc, most, &p);
    if (!e && p.own_n && !p.own)
        e = ERR_NO_MEMORY; /* nothing is wrong with it: it may be tried again */
    else if (!e && wrong)
        e = ERR_PUBLISH, call->detail = wrong;
    else if (!e)
        e = publish(call->gw, &p, &receivers);
    mem_free(p.own, p.own_n);
    json_decref(doc);
    if (!e)
        admin_json(call->gw, call->conn, json_pack("{s:I}", "receivers", (json_int_t)receivers));
    return e;
}
