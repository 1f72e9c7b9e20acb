#include "app/admin_json.h"

#include <inttypes.h>
#include <stdio.h>

enum { PAGE_DEFAULT = 100, PAGE_MOST = 1000, PAGE_BYTES = 16 << 20 };

static int put(const char *text, size_t n, void *out)
{
    return buf_append(out, slice_of(text, n)) ? -1 : 0;
}

void admin_json(struct gateway *gw, struct conn *c, json_t *doc)
{
    struct buf out;
    buf_init(&out, PAGE_BYTES);
    if (doc && json_dump_callback(doc, put, &out, JSON_COMPACT) == 0 && !put("\n", 1, &out)) {
        struct http_response r = {200, SLICE("application/json"), SLICE_NONE, buf_slice(&out)};
        http_exchange_respond(&gw->admin, c, &r);
    } else {
        http_exchange_fail(&gw->admin, c, ERR_NO_MEMORY, SLICE_NONE, SLICE_NONE);
    }
    json_decref(doc);
    buf_done(&out);
}

bool admin_page(const struct http_exchange *ex, uint64_t *cursor, uint32_t *limit)
{
    struct slice query = http_span_slice(ex->head, ex->req.query);
    char text[64] = "", *rest = query.n ? text : NULL, *pair, *end;
    *cursor = 0;
    *limit = PAGE_DEFAULT;
    if (query.n >= sizeof(text) || memchr(query.p ? query.p : (const uint8_t *)"", 0, query.n))
        return false;
    slice_copy(text, query);
    while ((pair = strsep(&rest, "&")) != NULL) {
        unsigned long long v;
        bool is_cursor = strncmp(pair, "cursor=", 7) == 0;
        const char *digits = strchr(pair, '=');
        if ((!is_cursor && strncmp(pair, "limit=", 6) != 0) || strchr("+- \t\n\v\f\r", digits[1]))
            return false;
        v = strtoull(digits + 1, &end, is_cursor ? 16 : 10);
        if (*end || (!is_cursor && (!v || v > PAGE_MOST)))
            return false;
        if (is_cursor)
            *cursor = v;
        else
            *limit = (uint32_t)v;
    }
    return true;
}

json_t *admin_hex(uint64_t v)
{
    char text[17];
    snprintf(text, sizeof(text), "%016" PRIx64, v);
    return v ? json_string(text) : json_null();
}
