/* The request parser and the chunked decoder. Input: a byte that says where to cut, then bytes of
 * a connection. Whatever they are, cutting them gives the same requests and bodies as not. */
#include "fuzz.h"

#include "http/http_trace.h"

enum { BODY_MAX = 2048 };

static const struct http_limits limits = {.head = 1024, .target = 128};

static void span_check(struct http_span s, size_t head)
{
    CHECK((size_t)s.off + s.len <= head);
}

static void request_check(const struct http_request *r, const struct http_result *result, size_t n)
{
    CHECK(result->consumed > 0 && result->consumed <= n && result->consumed <= limits.head);
    CHECK(r->head_len == result->consumed);
    CHECK(r->method < HTTP_METHOD_COUNT && r->minor <= 1 && r->n_fields <= HTTP_FIELDS_MAX);
    CHECK(r->target.len >= 1 && r->target.len <= limits.target);
    CHECK(!(r->chunked && r->has_length));
    CHECK(r->has_length || r->length == 0);
    CHECK(r->minor || !(r->chunked || r->upgrade_websocket || r->expect_continue));
    CHECK(!r->minor || r->host.len);
    span_check(r->target, r->head_len);
    span_check(r->path, r->head_len);
    span_check(r->query, r->head_len);
    span_check(r->host, r->head_len);
    for (uint32_t i = 0; i < r->n_fields; i++) {
        CHECK(r->fields[i].name.len > 0);
        span_check(r->fields[i].name, r->head_len);
        span_check(r->fields[i].value, r->head_len);
    }
}

static void requests_same(const struct http_request *a, const struct http_request *b)
{
    CHECK(a->method == b->method && a->minor == b->minor && a->length == b->length);
    CHECK(a->keep_alive == b->keep_alive && a->chunked == b->chunked);
    CHECK(a->has_length == b->has_length && a->expect_continue == b->expect_continue);
    CHECK(a->upgrade_websocket == b->upgrade_websocket && a->n_fields == b->n_fields);
    CHECK(memcmp(&a->target, &b->target, 4 * sizeof(a->target)) == 0);
    CHECK(memcmp(a->fields, b->fields, a->n_fields * sizeof(a->fields[0])) == 0);
}

static void trace_check(const struct http_request *r, const uint8_t *p, size_t n)
{
    char id[HTTP_TRACE_ID];
    uint8_t *copy = copy_of(p, n);
    if (http_trace_id(r, copy, id))
        CHECK(strspn(id, "0123456789abcdef") == 32 && strspn(id, "0") < 32 && !id[32]);
    free(copy);
}

static struct http_result parse(const uint8_t *p, size_t n, size_t *scanned, struct http_request *r)
{
    uint8_t *copy = copy_of(p, n);
    struct http_result result = http_parse_request(copy, n, scanned, &limits, r);
    CHECK(result.state == HTTP_DONE || result.consumed == 0);
    CHECK((result.state == HTTP_BAD) == (result.err != ERR_NONE));
    if (result.state == HTTP_MORE)
        CHECK(n < limits.head && *scanned <= n);
    free(copy);
    return result;
}

/* Returns the bytes of the head; 0 where there is none. */
static size_t try_request(const uint8_t *p, size_t n, size_t cut, struct http_request *r)
{
    static struct http_request other;
    size_t scanned = 0;
    struct http_result whole = parse(p, n, &scanned, r);
    if (whole.state == HTTP_DONE)
        request_check(r, &whole, n), trace_check(r, p, whole.consumed);
    scanned = 0;
    struct http_result split = parse(p, cut, &scanned, &other);
    if (split.state == HTTP_MORE)
        split = parse(p, n, &scanned, &other);
    CHECK(split.state == whole.state && split.err == whole.err);
    CHECK(split.consumed == whole.consumed);
    if (whole.state == HTTP_DONE)
        requests_same(r, &other);
    return whole.consumed;
}

static struct http_result decode(struct http_chunked *c, const uint8_t *p, size_t n,
                                 struct buf *out)
{
    uint8_t *copy = copy_of(p, n);
    uint32_t before = out->len;
    struct http_result r = http_chunked_decode(c, copy, n, out);
    CHECK(r.consumed <= n && out->len <= BODY_MAX && out->len >= before);
    CHECK(out->len - before <= n);
    CHECK(r.state != HTTP_MORE || r.consumed == n);
    CHECK((r.state == HTTP_BAD) == (r.err != ERR_NONE));
    free(copy);
    return r;
}

static size_t try_body(const uint8_t *p, size_t n, size_t cut)
{
    struct http_chunked c;
    struct buf a, b;
    buf_init(&a, BODY_MAX);
    buf_init(&b, BODY_MAX);
    http_chunked_init(&c);
    struct http_result whole = decode(&c, p, n, &a);
    http_chunked_init(&c);
    struct http_result split = decode(&c, p, cut, &b);
    size_t consumed = split.consumed;
    if (split.state == HTTP_MORE) {
        split = decode(&c, p + cut, n - cut, &b);
        consumed += split.consumed;
    }
    CHECK(split.state == whole.state && split.err == whole.err);
    CHECK(whole.state == HTTP_BAD || consumed == whole.consumed);
    CHECK(slice_eq(buf_slice(&a), buf_slice(&b)));
    buf_done(&a);
    buf_done(&b);
    return whole.state == HTTP_DONE ? whole.consumed : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct http_request r;
    if (n < 1)
        return 0;
    unsigned where = *data++;
    n--;
    if (where == 0xff) { /* a body on its own */
        where = n ? data[n - 1] : 0;
        try_body(data, n, n * where / 256);
        return 0;
    }
    for (int i = 0; i < 4 && n; i++) {
        size_t head = try_request(data, n, n * where / 256, &r);
        data += head;
        n -= head;
        if (!head)
            break;
        size_t body = r.chunked ? try_body(data, n, n * where / 256) : (size_t)MIN(r.length, n);
        if (r.chunked && !body)
            break;
        data += body;
        n -= body;
    }
    return 0;
}
