/* /api/v1/topics and /api/v1/publish: who is in which topic, and messages of back-ends to all of
 * one. */
#include <inttypes.h>
#include <stdio.h>

#include "app/admin_json.h"
#include "app/json.h"
#include "app/loops.h"

enum { NAME_MOST = 2048 };

/* A page is made in all loops, one after the other, until it is full. A cursor's first byte is the
 * loop in which the next page begins, as an id's is. */
struct topics_ask {
    struct ask ask;
    json_t *list;
    uint64_t cursor, next;
    uint32_t limit, members;
    enum err e;
    bool full;
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
        json_array_append_new(a->list, topic_put(space.p, space.n, name.p, name.n,
                                                 topics_members(a->topics, t, space, name)));
}

static void list_visit(struct gateway *gw, struct errand *errand)
{
    struct topics_ask *a = CONTAINER_OF(errand, struct topics_ask, ask.errand);
    uint64_t at = a->cursor >> 56 == gw->number ? a->cursor & 0xffffffff : 0;
    size_t n = json_array_size(a->list);
    a->topics = &gw->topics;
    if (a->full || a->cursor >> 56 > gw->number) {
        errand_next(gw, errand);
        return;
    }
    if (n < a->limit) {
        topics_scan(&gw->topics, &at, a->limit - (uint32_t)n, topic_found, a);
        a->full = at != 0;
    } else {
        a->full = true; /* the next page begins here */
    }
    a->next = a->full ? (uint64_t)gw->number << 56 | at : 0;
    errand_next(gw, errand);
}

static void list_home(struct gateway *gw, struct errand *errand)
{
    struct topics_ask *a = CONTAINER_OF(errand, struct topics_ask, ask.errand);
    json_t *doc = json_pack("{s:I,s:o,s:o}", "count", (json_int_t)topics_count(&gw->topics),
                            "topics", a->list, "next", admin_hex(a->next));
    if (ask_waits(gw, &a->ask))
        admin_json(gw, a->ask.conn, doc);
    else
        json_decref(doc);
    ask_free(gw, &a->ask);
}

/* NULL: it was answered. */
static struct topics_ask *topics_ask_new(struct gateway *gw, struct conn *c, uint64_t cursor,
                                         uint32_t limit)
{
    struct topics_ask *a = ask_new(gw, c, false, sizeof(*a));
    if (!a)
        return NULL;
    a->list = json_array();
    a->cursor = cursor;
    a->limit = limit;
    return a;
}

static void topics_list(struct gateway *gw, struct conn *c, uint64_t cursor, uint32_t limit)
{
    struct topics_ask *a = topics_ask_new(gw, c, cursor, limit);
    if (!a)
        return;
    a->ask.errand.visit = list_visit;
    a->ask.errand.home = list_home;
    errand_start(gw, &a->ask.errand);
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
    uint64_t at = a->cursor >> 56 == gw->number ? a->cursor : 0, next = 0;
    struct slice space = slice_of(a->space, a->space_n), name = slice_of(a->name, a->name_n);
    const struct topic *t = topics_find(&gw->topics, space, name);
    a->members = topics_members(&gw->topics, t, space, name);
    bool here = t && !a->full && !a->e && a->cursor >> 56 <= gw->number;
    if (at && !t)
        a->e = ERR_CURSOR;
    while (here && topics_next(&gw->topics, t, at, &next) && next && !a->full) {
        a->full = json_array_size(a->list) == a->limit;
        if (!a->full)
            json_array_append_new(a->list, admin_hex(a->next = next));
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
    json_object_set_new(doc, "connections", a->list);
    json_object_set_new(doc, "next", admin_hex(a->full ? a->next : 0));
    if (!ask_waits(gw, &a->ask))
        json_decref(doc);
    else if (!e)
        admin_json(gw, a->ask.conn, doc);
    else {
        http_exchange_fail(&gw->admin, a->ask.conn, e, SLICE_NONE, SLICE_NONE);
        json_decref(doc);
    }
    ask_free(gw, &a->ask);
}

/* "SPACE/TOPIC": a page of its members, in each loop in the order in which they joined. */
static enum err topic_show(struct gateway *gw, struct conn *c, struct slice path, uint64_t cursor,
                           uint32_t limit)
{
    uint8_t space[NAME_MOST], name[NAME_MOST];
    const uint8_t *slash = memchr(path.p, '/', path.n);
    size_t at = slash ? (size_t)(slash - path.p) : path.n, space_n, name_n;
    if (!slash || !decode(slice_of(path.p, at), space, sizeof(space), &space_n) ||
        !decode(slice_of(slash + 1, path.n - at - 1), name, sizeof(name), &name_n))
        return ERR_NOT_FOUND;
    struct topics_ask *a = topics_ask_new(gw, c, cursor, limit);
    if (!a)
        return ERR_NONE;
    memcpy(a->space, space, a->space_n = space_n);
    memcpy(a->name, name, a->name_n = name_n);
    a->ask.errand.visit = show_visit;
    a->ask.errand.home = show_home;
    errand_start(gw, &a->ask.errand);
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

static enum err publish_request(struct gateway *gw, struct conn *c, const struct http_exchange *ex,
                                const char **detail)
{
    struct published p = {.kind = WS_TEXT};
    struct slice coding = http_exchange_field(ex, SLICE("content-encoding"));
    uint32_t receivers = 0;
    if (coding.n && !slice_eq_nocase(coding, SLICE("identity")))
        return ERR_CONTENT_CODING;
    if (ex->body.n > 6 * gw->config.limits.message + 4096) /* each byte of it as \u00xx */
        return ERR_WS_MESSAGE_SIZE;
    json_t *doc = NULL;
    json_error_t where;
    enum err e = json_read(ex->body, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &doc, &where);
    *detail = e ? NULL : publish_read(doc, gw->config.limits.message, &p);
    if (!e && p.own_n && !p.own) {
        e = ERR_NO_MEMORY; /* nothing is wrong with it: it may be tried again */
        *detail = NULL;
    }
    if (!e)
        e = *detail ? ERR_PUBLISH : publish(gw, &p, &receivers);
    mem_free(p.own, p.own_n);
    json_decref(doc);
    if (!e)
        admin_json(gw, c, json_pack("{s:I}", "receivers", (json_int_t)receivers));
    return e;
}

bool topics_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, struct slice path)
{
    struct slice list = SLICE("topics"), under = SLICE("topics/"), fields = SLICE_NONE;
    bool publishes = slice_eq(path, SLICE("publish")), lists = slice_eq(path, list);
    bool shows = path.n > under.n && memcmp(path.p, under.p, under.n) == 0;
    bool reads = ex->req.method == HTTP_GET || ex->req.method == HTTP_HEAD;
    const char *detail = NULL;
    enum err e = ERR_NONE;
    uint64_t cursor;
    uint32_t limit;
    if (!publishes && !lists && !shows)
        return false;
    if (publishes ? ex->req.method != HTTP_POST : !reads) {
        e = ERR_METHOD;
        fields = publishes ? SLICE("Allow: POST\r\n") : SLICE("Allow: GET, HEAD\r\n");
    } else if (publishes) {
        e = publish_request(gw, c, ex, &detail);
        fields = e == ERR_CONTENT_CODING ? SLICE("Accept-Encoding: identity\r\n") : SLICE_NONE;
    } else if (!admin_page(ex, &cursor, &limit)) {
        e = ERR_INVALID;
        detail = ADMIN_PAGE_DETAIL;
    } else if (lists) {
        topics_list(gw, c, cursor, limit);
    } else {
        e = topic_show(gw, c, slice_of(path.p + under.n, path.n - under.n), cursor, limit);
    }
    if (e)
        http_exchange_fail(&gw->admin, c, e, fields, detail ? slice_str(detail) : SLICE_NONE);
    return true;
}
