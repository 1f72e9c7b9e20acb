/* /api/v1/log, the level, and /api/v1/events, the latest lines. Events are answered at once and in
 * one piece, as server-sent events that end: who follows asks again after `retry`, with the id of
 * the last (a browser's EventSource does by itself). So nothing is kept for whoever follows, and
 * one that is slow misses lines, and is told so. */
#include <inttypes.h>
#include <stdlib.h>

#include "app/admin.h"

enum err log_api_level_show(struct admin_call *call)
{
    admin_json(call->gw, call->conn, json_pack("{s:s}", "level", log_level_name()));
    return ERR_NONE;
}

enum err log_api_level_put(struct admin_call *call)
{
    struct slice query = admin_query(call), key = SLICE("level=");
    char name[8] = "";
    enum log_level level;
    call->detail = "the query is level=debug, info, warn or error";
    if (!slice_begins(query, key) || query.n - key.n >= sizeof(name))
        return ERR_INVALID;
    slice_copy(name, slice_of(query.p + key.n, query.n - key.n));
    if (!log_level_parse(name, &level))
        return ERR_INVALID;
    log_level_set(level);
    if (log_begin(LOG_log_level)) {
        log_text("now", slice_str(name));
        log_end();
    }
    return log_api_level_show(call);
}

/* Digits alone. */
static bool place_read(struct slice text, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9' || i == 18)
            return false;
        *out = *out * 10 + (text.p[i] - '0');
    }
    return text.n > 0;
}

enum err log_api_place(struct admin_call *call, uint64_t *out)
{
    struct slice query = admin_query(call), key = SLICE("after=");
    struct slice last = http_exchange_field(call->ex, SLICE("last-event-id"));
    bool after = slice_begins(query, key);
    *out = 0;
    if (last.n ? place_read(last, out)
               : !query.n || (after && place_read(slice_of(query.p + key.n, query.n - key.n), out)))
        return ERR_NONE;
    call->detail = "the query is after=, the id of an event, or nothing";
    return ERR_INVALID;
}

enum err log_api_put(uint64_t from, struct buf *out, uint64_t *at)
{
    struct buf lines;
    buf_init(&lines, LOG_RECENT);
    enum err e = log_recent(from, &lines, at);
    if (from && *at != from && !e)
        e = buf_append(out, SLICE("event: missed\ndata: {}\n\n"));
    for (struct slice rest = buf_slice(&lines); rest.n && !e;) {
        struct slice line = slice_cut(&rest, '\n');
        e = buf_printf(out, "id: %" PRIu64 "\ndata: ", *at += line.n + 1);
        e = e ? e : buf_append(out, line);
        e = e ? e : buf_append(out, SLICE("\n\n"));
    }
    buf_done(&lines);
    return e;
}

enum err log_api_events(struct admin_call *call)
{
    struct buf out;
    uint64_t from, at;
    enum err e = log_api_place(call, &from);
    buf_init(&out, 4 * LOG_RECENT);
    e = e ? e : buf_append(&out, SLICE("retry: 500\n\n"));
    e = e ? e : log_api_put(from, &out, &at);
    struct http_response r = {200, SLICE("text/event-stream"), SLICE("Cache-Control: no-store\r\n"),
                              buf_slice(&out)};
    if (!e)
        http_exchange_respond(&call->gw->admin, call->conn, &r);
    buf_done(&out);
    return e;
}
