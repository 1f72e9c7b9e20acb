/* http/http_parse, requests: what is taken and how it is understood, what is refused and as what,
 * and that neither depends on how the bytes arrive. The chunked coding is in test_http_chunked. */
#include "unit.h"

#include "http/http_parse.h"

#define H "Host: a.example\r\n"
#define GET "GET / HTTP/1.1\r\n"

static const struct http_limits limits = {.head = 8192, .target = 4096};

/* From a copy of exactly n bytes, so that ASan sees a look past the end. */
static struct http_result parse(struct slice s, size_t n, size_t *scanned, struct http_request *out)
{
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, s.p, n);
    struct http_result r = http_parse_request(copy, n, scanned, &limits, out);
    free(copy);
    return r;
}

static bool same_request(const struct http_request *a, const struct http_request *b)
{
    return a->method == b->method && a->minor == b->minor && a->keep_alive == b->keep_alive &&
           a->chunked == b->chunked && a->has_length == b->has_length && a->length == b->length &&
           a->expect_continue == b->expect_continue &&
           a->upgrade_websocket == b->upgrade_websocket &&
           memcmp(&a->target, &b->target, sizeof(a->target)) == 0 &&
           memcmp(&a->path, &b->path, sizeof(a->path)) == 0 &&
           memcmp(&a->query, &b->query, sizeof(a->query)) == 0 &&
           memcmp(&a->host, &b->host, sizeof(a->host)) == 0 && a->n_fields == b->n_fields &&
           a->head_len == b->head_len &&
           memcmp(a->fields, b->fields, a->n_fields * sizeof(a->fields[0])) == 0;
}

/* Byte by byte, and in two parts at every place: the same as at once. */
static struct http_result parse_each_way(struct slice s, struct http_request *out)
{
    static struct http_request other;
    size_t scanned = 0;
    struct http_result whole = parse(s, s.n, &scanned, out), r = {HTTP_MORE, ERR_NONE, 0};
    scanned = 0;
    for (size_t n = 0; n <= s.n && r.state == HTTP_MORE; n++) {
        r = parse(s, n, &scanned, &other);
        if (r.state == HTTP_MORE)
            assert_int_equal(r.consumed, 0);
        assert_true(scanned <= n);
    }
    assert_int_equal(r.state, whole.state);
    assert_err(r.err, whole.err);
    assert_int_equal(r.consumed, whole.consumed);
    for (size_t cut = 0; cut <= s.n; cut++) {
        scanned = 0;
        r = parse(s, cut, &scanned, &other);
        if (r.state == HTTP_DONE)
            assert_true(cut >= whole.consumed);
        if (r.state == HTTP_MORE)
            r = parse(s, s.n, &scanned, &other);
        assert_int_equal(r.state, whole.state);
        assert_err(r.err, whole.err);
        assert_int_equal(r.consumed, whole.consumed);
        if (r.state == HTTP_DONE)
            assert_true(same_request(&other, out));
    }
    return whole;
}

struct taken {
    struct slice input;
    const char *target, *path, *query, *host;
    struct http_request want; /* its spans are not looked at */
};

/* clang-format off */
#define ROW(in, target, path, query, host, ...) \
    {SLICE(in), target, path, query, host, {__VA_ARGS__}}
static const struct taken taken[] = {
    ROW(GET H "\r\n", "/", "/", "", "a.example", .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("\r\n" GET H "\r\n", "/", "/", "", "a.example", .minor = 1, .keep_alive = true,
        .n_fields = 1),
    ROW("GET /a/b?c=d?e HTTP/1.1\r\n" H "\r\n", "/a/b?c=d?e", "/a/b", "c=d?e", "a.example",
        .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("GET /%41%7e? HTTP/1.1\r\n" H "\r\n", "/%41%7e?", "/%41%7e", "", "a.example",
        .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("GET http://b.example:80/x?y HTTP/1.1\r\n" H "\r\n", "http://b.example:80/x?y", "/x", "y",
        "b.example:80", .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("GET HTTPS://[::1]/ HTTP/1.1\r\n" H "\r\n", "HTTPS://[::1]/", "/", "", "[::1]",
        .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("OPTIONS * HTTP/1.1\r\n" H "\r\n", "*", "*", "", "a.example", .method = HTTP_OPTIONS,
        .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("HEAD / HTTP/1.1\r\nhOST:\ta.example \t\r\n\r\n", "/", "/", "", "a.example",
        .method = HTTP_HEAD, .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n", "/", "/", "", "[2001:db8::1]:8080",
        .minor = 1, .keep_alive = true, .n_fields = 1),
    ROW("GET / HTTP/1.0\r\n\r\n", "/", "/", "", "", .n_fields = 0),
    ROW("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "/", "/", "", "", .keep_alive = true,
        .n_fields = 1),
    ROW("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "/", "/", "", "", .n_fields = 1),
    ROW(GET H "Connection: CLOSE\r\n\r\n", "/", "/", "", "a.example", .minor = 1, .n_fields = 2),
    ROW(GET H "Connection: x\r\nConnection: ,y , close\r\n\r\n", "/", "/", "", "a.example",
        .minor = 1, .n_fields = 3),
    ROW(GET H "Connection: closed, xclose\r\n\r\n", "/", "/", "", "a.example", .minor = 1,
        .keep_alive = true, .n_fields = 2),
    ROW("POST / HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n", "/", "/", "", "a.example",
        .method = HTTP_POST, .minor = 1, .keep_alive = true, .has_length = true, .n_fields = 2),
    ROW("PUT / HTTP/1.1\r\n" H "content-LENGTH:  0012 \r\n\r\n", "/", "/", "", "a.example",
        .method = HTTP_PUT, .minor = 1, .keep_alive = true, .has_length = true, .length = 12,
        .n_fields = 2),
    ROW("PATCH / HTTP/1.1\r\n" H "Content-Length: 9007199254740992\r\n\r\n", "/", "/", "",
        "a.example", .method = HTTP_PATCH, .minor = 1, .keep_alive = true, .has_length = true,
        .length = UINT64_C(1) << 53, .n_fields = 2),
    ROW("DELETE / HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\n\r\n", "/", "/", "", "a.example",
        .method = HTTP_DELETE, .minor = 1, .keep_alive = true, .chunked = true, .n_fields = 2),
    ROW(GET H "Expect: 100-Continue\r\n\r\n", "/", "/", "", "a.example", .minor = 1,
        .keep_alive = true, .expect_continue = true, .n_fields = 2),
    ROW("GET / HTTP/1.0\r\nExpect: 200-maybe\r\n\r\n", "/", "/", "", "", .n_fields = 1),
    ROW(GET H "Upgrade: h2c, WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n", "/", "/", "",
        "a.example", .minor = 1, .keep_alive = true, .upgrade_websocket = true, .n_fields = 3),
    ROW(GET H "Upgrade: websocket\r\n\r\n", "/", "/", "", "a.example", .minor = 1,
        .keep_alive = true, .n_fields = 2),
    ROW(GET H "Connection: Upgrade\r\nUpgrade: websockets\r\n\r\n", "/", "/", "", "a.example",
        .minor = 1, .keep_alive = true, .n_fields = 3),
    ROW("GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "/", "/", "", "",
        .n_fields = 2),
    ROW(GET H "x:\r\n!#$%&'*+-.^_`|~09: \xc3\xa4\tb\r\n\r\n", "/", "/", "", "a.example",
        .minor = 1, .keep_alive = true, .n_fields = 3),
};
/* clang-format on */

static void assert_span(const uint8_t *base, struct http_span s, const char *want)
{
    struct slice got = http_span_slice(base, s);
    if (!slice_eq(got, slice_str(want))) {
        print_error("%.*s, not %s\n", (int)got.n, (const char *)got.p, want);
        fail();
    }
}

static void requests_are_understood_however_they_arrive(void **state)
{
    (void)state;
    static struct http_request r;
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        const struct taken *t = &taken[i];
        struct http_result got = parse_each_way(t->input, &r);
        assert_err(got.err, ERR_NONE);
        assert_int_equal(got.state, HTTP_DONE);
        assert_int_equal(got.consumed, t->input.n);
        assert_int_equal(r.head_len, t->input.n);
        assert_span(t->input.p, r.target, t->target);
        assert_span(t->input.p, r.path, t->path);
        assert_span(t->input.p, r.query, t->query);
        assert_span(t->input.p, r.host, t->host);
        assert_int_equal(r.method, t->want.method);
        assert_int_equal(r.minor, t->want.minor);
        assert_int_equal(r.keep_alive, t->want.keep_alive);
        assert_int_equal(r.chunked, t->want.chunked);
        assert_int_equal(r.has_length, t->want.has_length);
        assert_int_equal(r.length, t->want.length);
        assert_int_equal(r.expect_continue, t->want.expect_continue);
        assert_int_equal(r.upgrade_websocket, t->want.upgrade_websocket);
        assert_int_equal(r.n_fields, t->want.n_fields);
    }
}

struct refused {
    const char *what;
    struct slice input;
    enum err err;
};

/* clang-format off */
#define LINE(what, line, e) {what, SLICE(line "\r\n" H "\r\n"), ERR_##e}
#define FIELD(what, field, e) {what, SLICE(GET H field "\r\n\r\n"), ERR_##e}
#define HOST(what, fields, e) {what, SLICE(GET fields "\r\n"), ERR_##e}
static const struct refused refused[] = {
    LINE("no method", " / HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("no target", "GET  HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("one word", "GET", HTTP_REQUEST_LINE),
    LINE("HTTP/0.9", "GET /", HTTP_REQUEST_LINE),
    LINE("two spaces before the target", "GET  / HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("two spaces after the target", "GET /  HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("a space at the end", "GET / HTTP/1.1 ", HTTP_REQUEST_LINE),
    LINE("a space in the target", "GET /a b HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("a tab for a space", "GET\t/ HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("a method that is no token", "G@T / HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("a space before the method", " GET / HTTP/1.1", HTTP_REQUEST_LINE),
    LINE("a lower-case protocol", "GET / http/1.1", HTTP_REQUEST_LINE),
    LINE("another protocol", "GET / HTTQ/1.1", HTTP_REQUEST_LINE),
    LINE("a version of two digits", "GET / HTTP/1.10", HTTP_REQUEST_LINE),
    LINE("a version without a point", "GET / HTTP/1,1", HTTP_REQUEST_LINE),
    LINE("a version of letters", "GET / HTTP/x.y", HTTP_REQUEST_LINE),
    LINE("HTTP/2 preface", "PRI * HTTP/2.0", HTTP_VERSION),
    LINE("HTTP/0.9 by name", "GET / HTTP/0.9", HTTP_VERSION),
    LINE("HTTP/1.2", "GET / HTTP/1.2", HTTP_VERSION),
    LINE("an unknown method", "BREW / HTTP/1.1", HTTP_METHOD),
    LINE("CONNECT", "CONNECT a.example:443 HTTP/1.1", HTTP_METHOD),
    LINE("TRACE", "TRACE / HTTP/1.1", HTTP_METHOD),
    LINE("a lower-case method", "get / HTTP/1.1", HTTP_METHOD),
    LINE("a longer method", "GETT / HTTP/1.1", HTTP_METHOD),
    LINE("a target without a slash", "GET a HTTP/1.1", HTTP_TARGET),
    LINE("* for GET", "GET * HTTP/1.1", HTTP_TARGET),
    LINE("** for OPTIONS", "OPTIONS ** HTTP/1.1", HTTP_TARGET),
    LINE("a fragment", "GET /a#b HTTP/1.1", HTTP_TARGET),
    LINE("a byte above ASCII", "GET /\xc3\xa4 HTTP/1.1", HTTP_TARGET),
    LINE("a tab in the target", "GET /\tb HTTP/1.1", HTTP_TARGET),
    LINE("% without hex", "GET /%zz HTTP/1.1", HTTP_TARGET),
    LINE("% with one digit", "GET /%4 HTTP/1.1", HTTP_TARGET),
    LINE("% at the end", "GET /% HTTP/1.1", HTTP_TARGET),
    LINE("another scheme", "GET ftp://a.example/ HTTP/1.1", HTTP_TARGET),
    LINE("an authority", "GET a.example:80 HTTP/1.1", HTTP_TARGET),
    LINE("an absolute form without host", "GET http:///x HTTP/1.1", HTTP_HOST),
    LINE("an absolute form with user", "GET http://u@a.example/ HTTP/1.1", HTTP_HOST),
    LINE("an absolute form with a bad port", "GET http://a.example:x/ HTTP/1.1", HTTP_HOST),
    {"a bare LF at the end of a line", SLICE("GET / HTTP/1.1\n" H "\r\n"), ERR_HTTP_LINE_END},
    {"a bare LF first", SLICE("\n" GET H "\r\n"), ERR_HTTP_LINE_END},
    {"a bare LF as the empty line", SLICE(GET H "\n"), ERR_HTTP_LINE_END},
    {"a bare LF in a value", SLICE(GET H "a: b\nc: d\r\n\r\n"), ERR_HTTP_LINE_END},
    {"a bare CR in a value", SLICE(GET H "a: b\rc: d\r\n\r\n"), ERR_HTTP_LINE_END},
    {"a bare CR in the line", SLICE("GET /\r HTTP/1.1\r\n" H "\r\n"), ERR_HTTP_LINE_END},
    {"CR CR LF", SLICE(GET H "a: b\r\r\n\r\n"), ERR_HTTP_LINE_END},
    {"CR first", SLICE("\rGET / HTTP/1.1\r\n" H "\r\n"), ERR_HTTP_LINE_END},
    {"NUL in a value", SLICE(GET H "a: b\0c\r\n\r\n"), ERR_HTTP_CONTROL},
    {"NUL in a name", SLICE(GET H "a\0: b\r\n\r\n"), ERR_HTTP_CONTROL},
    {"NUL in the target", SLICE("GET /\0 HTTP/1.1\r\n" H "\r\n"), ERR_HTTP_CONTROL},
    {"NUL first", SLICE("\0GET / HTTP/1.1\r\n" H "\r\n"), ERR_HTTP_CONTROL},
    {"a TLS hello", SLICE("\x16\x03\x01\x02\x00\x01"), ERR_HTTP_CONTROL},
    FIELD("escape in a value", "a: \x1b[2J", HTTP_CONTROL),
    FIELD("delete in a value", "a: \x7f", HTTP_CONTROL),
    FIELD("a space before the colon", "a : b", HTTP_FIELD_NAME),
    FIELD("a tab before the colon", "a\t: b", HTTP_FIELD_NAME),
    FIELD("no colon", "a", HTTP_FIELD_NAME),
    FIELD("no name", ": b", HTTP_FIELD_NAME),
    FIELD("a name that is no token", "a(b): c", HTTP_FIELD_NAME),
    FIELD("a name above ASCII", "\xc3\xa4: c", HTTP_FIELD_NAME),
    FIELD("a folded line", "a: b\r\n c", HTTP_FOLD),
    FIELD("a line folded by tab", "a: b\r\n\tc", HTTP_FOLD),
    HOST("a folded first field", " x\r\n" H, HTTP_FOLD),
    HOST("no Host", "", HTTP_HOST),
    HOST("two Hosts", H "Host: b\r\n", HTTP_HOST),
    HOST("the same Host twice", H H, HTTP_HOST),
    HOST("an empty Host", "Host:\r\n", HTTP_HOST),
    HOST("a Host of white space", "Host: \t\r\n", HTTP_HOST),
    HOST("a Host with a path", "Host: a/b\r\n", HTTP_HOST),
    HOST("a Host with a user", "Host: u@a\r\n", HTTP_HOST),
    HOST("two words", "Host: a b\r\n", HTTP_HOST),
    HOST("a list", "Host: a,b\r\n", HTTP_HOST),
    HOST("a port alone", "Host: :80\r\n", HTTP_HOST),
    HOST("a port of letters", "Host: a:http\r\n", HTTP_HOST),
    HOST("a port too long", "Host: a:123456\r\n", HTTP_HOST),
    HOST("two ports", "Host: a:1:2\r\n", HTTP_HOST),
    HOST("an open bracket", "Host: [::1\r\n", HTTP_HOST),
    HOST("empty brackets", "Host: []\r\n", HTTP_HOST),
    HOST("text after brackets", "Host: [::1]x\r\n", HTTP_HOST),
    HOST("a name in brackets", "Host: [xyz]\r\n", HTTP_HOST),
    HOST("a byte above ASCII", "Host: \xc3\xa4\r\n", HTTP_HOST),
    {"two Hosts in HTTP/1.0", SLICE("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), ERR_HTTP_HOST},
    FIELD("a length twice", "Content-Length: 5\r\nContent-Length: 6", HTTP_LENGTH),
    FIELD("the same length twice", "Content-Length: 5\r\nContent-Length: 5", HTTP_LENGTH),
    FIELD("a list of lengths", "Content-Length: 5, 5", HTTP_LENGTH),
    FIELD("an empty length", "Content-Length:", HTTP_LENGTH),
    FIELD("a length with plus", "Content-Length: +5", HTTP_LENGTH),
    FIELD("a length with minus", "Content-Length: -5", HTTP_LENGTH),
    FIELD("a length in hex", "Content-Length: 0x5", HTTP_LENGTH),
    FIELD("a length with a point", "Content-Length: 5.0", HTTP_LENGTH),
    FIELD("a length of two words", "Content-Length: 5 5", HTTP_LENGTH),
    FIELD("a length past 2^53", "Content-Length: 9007199254740993", HTTP_LENGTH),
    FIELD("a length past 2^64", "Content-Length: 18446744073709551621", HTTP_LENGTH),
    FIELD("a coding and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5", HTTP_CODING),
    FIELD("a length and a coding", "Content-Length: 5\r\nTransfer-Encoding: chunked", HTTP_CODING),
    FIELD("chunked and a length of 0", "Content-Length: 0\r\nTransfer-Encoding: chunked",
          HTTP_CODING),
    FIELD("chunked in two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
          HTTP_CODING),
    FIELD("chunked, then gzip", "Transfer-Encoding: chunked, gzip", HTTP_CODING),
    FIELD("chunked, then gzip, in two fields", 
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip", HTTP_CODING),
    FIELD("gzip, then chunked", "Transfer-Encoding: gzip, chunked", HTTP_CODING_UNKNOWN),
    FIELD("gzip", "Transfer-Encoding: gzip", HTTP_CODING_UNKNOWN),
    FIELD("xchunked", "Transfer-Encoding: xchunked", HTTP_CODING_UNKNOWN),
    FIELD("chunkedx", "Transfer-Encoding: chunkedx", HTTP_CODING_UNKNOWN),
    FIELD("chunked with a parameter", "Transfer-Encoding: chunked;a=b", HTTP_CODING_UNKNOWN),
    FIELD("chunked in quotes", "Transfer-Encoding: \"chunked\"", HTTP_CODING_UNKNOWN),
    FIELD("identity", "Transfer-Encoding: identity", HTTP_CODING_UNKNOWN),
    FIELD("chunked after VT", "Transfer-Encoding: \x0b""chunked", HTTP_CONTROL),
    {"a coding in HTTP/1.0", SLICE("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
     ERR_HTTP_CODING},
    FIELD("another expectation", "Expect: 200-maybe", HTTP_EXPECT),
    FIELD("an empty expectation", "Expect:", HTTP_EXPECT),
};
/* clang-format on */

static void refuse_all(const struct refused *rows, size_t n)
{
    static struct http_request r;
    int wrong = 0;
    for (size_t i = 0; i < n; i++) {
        struct http_result got = parse_each_way(rows[i].input, &r);
        if (got.state == HTTP_BAD && got.err == rows[i].err && !got.consumed)
            continue;
        print_error("%s: %s, not %s\n", rows[i].what,
                    got.state == HTTP_DONE   ? "taken"
                    : got.state == HTTP_MORE ? "more"
                                             : err_name(got.err),
                    err_name(rows[i].err));
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static void what_is_odd_is_refused_by_name(void **state)
{
    (void)state;
    refuse_all(refused, ARRAY_LEN(refused));
}

/* RFC 9112 6.1 and 7.1: chunked once, and last; whatever else stands there is malformed. */
static void chunked_twice_or_not_last_is_malformed(void **state)
{
    (void)state;
    static const struct refused rows[] = {
        FIELD("chunked twice", "Transfer-Encoding: chunked, chunked", HTTP_CODING),
        FIELD("chunked, gzip, chunked", "Transfer-Encoding: chunked, gzip, chunked", HTTP_CODING),
        FIELD("chunked, then xchunked", "Transfer-Encoding: chunked, xchunked", HTTP_CODING),
    };
    refuse_all(rows, ARRAY_LEN(rows));
}

/* RFC 3986 3.2.2: none of these can stand in a host; another parser may end the host there. */
static void a_host_has_the_characters_of_a_host(void **state)
{
    (void)state;
    static const struct refused rows[] = {
        HOST("a hash", "Host: a#b\r\n", HTTP_HOST),
        HOST("a bar", "Host: a|b\r\n", HTTP_HOST),
        HOST("a caret", "Host: a^b\r\n", HTTP_HOST),
        HOST("a backquote", "Host: a`b\r\n", HTTP_HOST),
        HOST("% without hex", "Host: a%b\r\n", HTTP_HOST),
    };
    refuse_all(rows, ARRAY_LEN(rows));
}

static void the_errors_say_their_status(void **state)
{
    (void)state;
    static const struct {
        enum err err;
        unsigned status;
    } rows[] = {
        {ERR_HTTP_REQUEST_LINE, 400}, {ERR_HTTP_VERSION, 505},   {ERR_HTTP_METHOD, 501},
        {ERR_HTTP_LINE_END, 400},     {ERR_HTTP_CODING, 400},    {ERR_HTTP_CODING_UNKNOWN, 501},
        {ERR_HTTP_EXPECT, 417},       {ERR_HTTP_TIMEOUT, 408},   {ERR_HTTP_BODY_SIZE, 413},
        {ERR_HTTP_TARGET_SIZE, 414},  {ERR_HTTP_HEAD_SIZE, 431}, {ERR_HTTP_HOST, 400},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(err_http_status(rows[i].err), rows[i].status);
    for (int e = 0; e < ERR_COUNT; e++)
        assert_string_not_equal(http_status_text(err_http_status((enum err)e)), "Status");
    assert_string_equal(http_status_text(413), "Content Too Large");
    assert_string_equal(http_method_name(HTTP_PATCH), "PATCH");
    assert_string_equal(http_method_name(HTTP_GET), "GET");
}

static struct http_result parse_limited(struct slice s, uint32_t head, uint32_t target)
{
    static struct http_request r;
    struct http_result got = {HTTP_MORE, ERR_NONE, 0};
    const struct http_limits l = {head, target};
    size_t scanned = 0;
    for (size_t n = 0; n <= s.n && got.state == HTTP_MORE; n++) {
        uint8_t *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, s.p, n);
        got = http_parse_request(copy, n, &scanned, &l, &r);
        free(copy);
    }
    scanned = 0;
    struct http_result whole = http_parse_request(s.p, s.n, &scanned, &l, &r);
    assert_int_equal(got.state, whole.state);
    assert_err(got.err, whole.err);
    assert_int_equal(got.consumed, whole.consumed);
    return whole;
}

static void sizes_up_to_the_limits_are_taken_and_none_above(void **state)
{
    (void)state;
    struct slice s = SLICE("GET /12345 HTTP/1.1\r\n" H "\r\n");
    assert_err(parse_limited(s, (uint32_t)s.n, 6).err, ERR_NONE);
    assert_err(parse_limited(s, (uint32_t)s.n - 1, 6).err, ERR_HTTP_HEAD_SIZE);
    assert_err(parse_limited(s, (uint32_t)s.n, 5).err, ERR_HTTP_TARGET_SIZE);
    assert_err(parse_limited(s, 21, 4096).err, ERR_HTTP_HEAD_SIZE);
    assert_err(parse_limited(s, 20, 4096).err, ERR_HTTP_TARGET_SIZE); /* no line ends in it */
    struct slice odd = SLICE("BREW /123456 HTTP/9.9\r\n" H "\r\n");
    assert_err(parse_limited(odd, 8192, 6).err, ERR_HTTP_TARGET_SIZE);
}

static void a_line_too_long_after_an_empty_one_is_a_target_too_long(void **state)
{
    (void)state;
    struct slice s = SLICE("\r\nGET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    assert_err(parse_limited(s, 32, 4096).err, ERR_HTTP_TARGET_SIZE);
}

static void the_number_of_fields_is_limited(void **state)
{
    (void)state;
    for (int n = HTTP_FIELDS_MAX - 1; n <= HTTP_FIELDS_MAX + 1; n++) {
        struct buf b;
        buf_init(&b, 8192);
        assert_err(buf_printf(&b, "%s", GET H), ERR_NONE);
        for (int i = 1; i < n; i++)
            assert_err(buf_printf(&b, "f%d: %d\r\n", i, i), ERR_NONE);
        assert_err(buf_printf(&b, "\r\n"), ERR_NONE);
        enum err want = n <= HTTP_FIELDS_MAX ? ERR_NONE : ERR_HTTP_HEAD_SIZE;
        assert_err(parse_limited(buf_slice(&b), 8192, 4096).err, want);
        buf_done(&b);
    }
}

static void pipelined_requests_come_one_by_one(void **state)
{
    (void)state;
    static const char *const paths[] = {"/one", "/two", "/three"};
    static struct http_request r;
    struct slice s = SLICE("GET /one HTTP/1.1\r\n" H "\r\n"
                           "POST /two HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n"
                           "\r\nGET /three HTTP/1.1\r\n" H "\r\nGE");
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        struct http_result got = parse_each_way(s, &r);
        assert_int_equal(got.state, HTTP_DONE);
        assert_span(s.p, r.path, paths[i]);
        s = slice_of(s.p + got.consumed, s.n - got.consumed);
    }
    assert_int_equal(parse_each_way(s, &r).state, HTTP_MORE);
}

static void fields_are_found_by_name(void **state)
{
    (void)state;
    static struct http_request r;
    struct slice s = SLICE(GET H "X-A: one\r\nx-a: two\r\nEmpty:\r\n\r\n");
    assert_int_equal(parse_each_way(s, &r).state, HTTP_DONE);
    assert_true(slice_eq(http_field_get(&r, s.p, SLICE("x-A")), SLICE("one")));
    assert_non_null(http_field_get(&r, s.p, SLICE("empty")).p);
    assert_null(http_field_get(&r, s.p, SLICE("x")).p);
    assert_int_equal(http_field_count(&r, s.p, SLICE("X-a")), 2);
    assert_int_equal(http_field_count(&r, s.p, SLICE("host")), 1);
    assert_int_equal(http_field_count(&r, s.p, SLICE("x")), 0);
}

static void a_list_has_its_members_whole_and_by_case(void **state)
{
    (void)state;
    static const struct {
        struct slice list, member;
        bool has;
    } rows[] = {
        {SLICE("chat"), SLICE("chat"), true},
        {SLICE("a, chat"), SLICE("chat"), true},
        {SLICE("chat,b"), SLICE("chat"), true},
        {SLICE(" ,\t chat \t, b"), SLICE("chat"), true},
        {SLICE("chat2, schat"), SLICE("chat"), false},
        {SLICE("Chat"), SLICE("chat"), false},
        {SLICE("a chat"), SLICE("chat"), false},
        {SLICE("\"chat\""), SLICE("chat"), false},
        {SLICE("a, b"), SLICE("a, b"), false},
        {SLICE(""), SLICE("chat"), false},
        {SLICE_NONE, SLICE("chat"), false},
        {SLICE(",,"), SLICE(""), false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(http_list_has(rows[i].list, rows[i].member), rows[i].has);
}

static void tokens_and_values_are_told_from_others(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        uint8_t b[3] = {'a', (uint8_t)c, 'b'};
        bool letter = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        bool token = letter || (c && strchr("!#$%&'*+-.^_`|~", (int)c));
        assert_int_equal(http_token_valid(slice_of(b, 3)), token);
        bool value = c == '\t' || (c >= 0x20 && c != 0x7f);
        assert_int_equal(http_field_value_valid(slice_of(b, 3)), value);
    }
    assert_false(http_token_valid(SLICE("")));
    assert_true(http_field_value_valid(SLICE("")));
}

/* Any byte at any place of a good request: an answer, and the same one however it arrives. */
static void a_changed_byte_gives_one_answer(void **state)
{
    (void)state;
    static struct http_request r;
    static const uint8_t bytes[] = {0, '\t', '\n', '\r', ' ', '%', ',', ':', 'A', 0x7f, 0xff};
    uint8_t copy[] = "POST /a%20b HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n";
    for (size_t i = 0; i + 1 < sizeof(copy); i++)
        for (size_t j = 0; j < ARRAY_LEN(bytes); j++) {
            uint8_t was = copy[i];
            copy[i] = bytes[j];
            struct http_result got = parse_each_way(slice_of(copy, sizeof(copy) - 1), &r);
            assert_int_equal(got.state == HTTP_BAD, got.err != ERR_NONE);
            copy[i] = was;
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_understood_however_they_arrive),
        cmocka_unit_test(what_is_odd_is_refused_by_name),
        cmocka_unit_test(chunked_twice_or_not_last_is_malformed),
        cmocka_unit_test(a_host_has_the_characters_of_a_host),
        cmocka_unit_test(the_errors_say_their_status),
        cmocka_unit_test(sizes_up_to_the_limits_are_taken_and_none_above),
        cmocka_unit_test(a_line_too_long_after_an_empty_one_is_a_target_too_long),
        cmocka_unit_test(the_number_of_fields_is_limited),
        cmocka_unit_test(pipelined_requests_come_one_by_one),
        cmocka_unit_test(fields_are_found_by_name),
        cmocka_unit_test(a_list_has_its_members_whole_and_by_case),
        cmocka_unit_test(tokens_and_values_are_told_from_others),
        cmocka_unit_test(a_changed_byte_gives_one_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
