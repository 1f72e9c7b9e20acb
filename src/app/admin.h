/* The admin listener: its routes are rows of tbl/admin.def. */
#ifndef WEIR_ADMIN_H
#define WEIR_ADMIN_H

#include <jansson.h>

#include "app/loops.h"

struct admin_call {
    struct gateway *gw;
    struct conn *conn;
    enum control_kind change; /* of the row */
    struct http_exchange *ex; /* until an ask is made, which moves it */
    struct slice name;        /* what the path's * or last / stands for */
    struct slice fields;      /* of an error: field lines */
    const char *detail;       /* and what is wrong; NULL: its own text */
};

/* Each answers, now or by an ask, or returns the error, which is then the answer. */
#define ROUTE(method, path, handler, change, guard) enum err handler(struct admin_call *a) MUST_USE;
#include "tbl/admin.def"
#undef ROUTE

/* Adds this loop's; sum.topics_active and names of modules are the first one's. */
void admin_count(const struct gateway *gw, struct metrics *sum, struct metrics_module *modules);
/* Of what an Accept field lists (RFC 9110 12.5): the weight of one, in thousandths. */
unsigned admin_weight(struct slice accept, struct slice type);
struct slice admin_query(const struct admin_call *a);
/* A 200 with the body, or the error. */
void admin_respond(struct gateway *gw, struct conn *c, enum err e, struct slice type,
                   struct slice body);
void admin_json(struct gateway *gw, struct conn *c, json_t *doc); /* a 200; takes doc */
/* The same at an ask's end, for whom waits yet; the ask is freed. */
void admin_end(struct gateway *gw, struct ask *ask, enum err e, struct slice type,
               struct slice body);
void admin_end_json(struct gateway *gw, struct ask *ask, enum err e, json_t *doc);
json_t *admin_hex(uint64_t v);                              /* an id; 0: null */
enum err admin_dump(json_t *doc, struct buf *out) MUST_USE; /* appends it; takes doc */

json_t *conns_api_one(struct gateway *gw, const struct conn *c); /* as it is listed */
/* The log's lines since `from` as server-sent events; *at: what to ask for next. */
enum err log_api_put(uint64_t from, struct buf *out, uint64_t *at) MUST_USE;
/* Where the caller is: "after=N", or what a browser says of the last event it got; or 0. */
enum err log_api_place(struct admin_call *call, uint64_t *out) MUST_USE;

/* Of a list that is made in all loops, one after the other, until it is full. The first byte of a
 * cursor is the loop in which the next page begins, as an id's is. */
struct admin_page {
    json_t *list; /* of limit at the most; NULL as it is read */
    uint64_t cursor, next;
    uint32_t limit;
    bool full;
};
/* The query: "cursor=HEX" and "limit=N", in any order. */
enum err admin_page_read(struct admin_call *a, struct admin_page *out) MUST_USE;
/* Whether a part of it may be in this loop; *at: where it begins there, 0 at the start. */
bool admin_page_here(const struct admin_page *page, const struct gateway *gw, uint64_t *at);

#endif
