/* http/http_parse, the decoder of the chunked coding (RFC 9112 7.1). */
#include "unit.h"

#include "http/http_parse.h"

enum { BODY_MAX = 64 };

struct outcome {
    struct http_result result;
    size_t consumed; /* over all parts */
    struct buf out;
};

/* In parts that end at the cuts (ascending) and at the end, each a copy of its exact size. */
static struct outcome decode(struct slice s, const size_t *cuts, size_t n_cuts)
{
    struct outcome o = {.result = {HTTP_MORE, ERR_NONE, 0}};
    struct http_chunked c;
    http_chunked_init(&c);
    buf_init(&o.out, BODY_MAX);
    size_t at = 0;
    for (size_t i = 0; i <= n_cuts && o.result.state == HTTP_MORE; i++) {
        size_t n = (i < n_cuts ? cuts[i] : s.n) - at;
        uint8_t *copy = malloc(n ? n : 1);
        assert_non_null(copy);
        memcpy(copy, s.p + at, n);
        o.result = http_chunked_decode(&c, copy, n, &o.out);
        free(copy);
        assert_true(o.result.consumed <= n);
        if (o.result.state == HTTP_MORE)
            assert_int_equal(o.result.consumed, n);
        at += o.result.consumed;
    }
    o.consumed = at;
    return o;
}

static void assert_same(const struct outcome *a, const struct outcome *b)
{
    assert_int_equal(a->result.state, b->result.state);
    assert_err(a->result.err, b->result.err);
    if (a->result.state != HTTP_BAD)
        assert_int_equal(a->consumed, b->consumed);
    assert_true(slice_eq(buf_slice(&a->out), buf_slice(&b->out)));
}

/* Whole, in two parts at each place, and byte by byte. */
static struct outcome decode_each_way(struct slice s)
{
    static size_t all[8192];
    struct outcome whole = decode(s, NULL, 0);
    for (size_t cut = 0; cut <= s.n; cut++) {
        struct outcome o = decode(s, &cut, 1);
        assert_same(&o, &whole);
        buf_done(&o.out);
    }
    assert_true(s.n <= ARRAY_LEN(all));
    for (size_t i = 0; i < s.n; i++)
        all[i] = i;
    struct outcome o = decode(s, all, s.n);
    assert_same(&o, &whole);
    buf_done(&o.out);
    return whole;
}

struct row {
    const char *what;
    struct slice input, body;
    size_t rest; /* bytes that follow the message */
    enum http_state state;
    enum err err;
};

/* clang-format off */
#define DONE(what, in, body, rest) \
    {what, SLICE(in rest), SLICE(body), sizeof(rest) - 1, HTTP_DONE, ERR_NONE}
#define MORE(what, in, body) {what, SLICE(in), SLICE(body), 0, HTTP_MORE, ERR_NONE}
#define BAD(what, in, body, e) {what, SLICE(in), SLICE(body), 0, HTTP_BAD, ERR_##e}
static const struct row rows[] = {
    DONE("an empty body", "0\r\n\r\n", "", ""),
    DONE("zeros", "00000000\r\n\r\n", "", ""),
    DONE("one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", ""),
    DONE("two chunks", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "hello!", ""),
    DONE("hex of both cases", "a\r\n0123456789\r\nB\r\n0123456789x\r\n0\r\n\r\n",
         "01234567890123456789x", ""),
    DONE("line ends as data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", ""),
    DONE("an extension", "1;a=b;c=\"d e\"\r\nx\r\n0;last\r\n\r\n", "x", ""),
    DONE("an extension above ASCII", "1;\xc3\xa4\t\r\nx\r\n0\r\n\r\n", "x", ""),
    DONE("trailers", "0\r\nA: b\r\nC: d\r\n\r\n", "", ""),
    DONE("the next request is left", "1\r\nx\r\n0\r\n\r\n", "x", "GET / HTTP/1.1\r\n"),
    DONE("an empty line is left", "0\r\n\r\n", "", "\r\n"),
    DONE("as much as may be",
         "40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n0\r\n\r\n",
         "0123456789012345678901234567890123456789012345678901234567890123", ""),
    MORE("nothing", "", ""),
    MORE("a size", "5", ""),
    MORE("a size and CR", "5\r", ""),
    MORE("part of the data", "5\r\nhel", "hel"),
    MORE("the data", "5\r\nhello", "hello"),
    MORE("the last size", "5\r\nhello\r\n0\r\n", "hello"),
    MORE("a trailer", "0\r\nA: b\r\n", ""),
    MORE("the last CR", "0\r\n\r", ""),
    BAD("no size", "\r\nhello", "", HTTP_CHUNK),
    BAD("an extension for a size", ";a\r\n", "", HTTP_CHUNK),
    BAD("a space for a size", " 5\r\nhello\r\n", "", HTTP_CHUNK),
    BAD("a space after the size", "5 \r\nhello\r\n", "", HTTP_CHUNK),
    BAD("a size with minus", "-5\r\nhello\r\n", "", HTTP_CHUNK),
    BAD("a size with plus", "+5\r\nhello\r\n", "", HTTP_CHUNK),
    BAD("a size as 0x", "0x5\r\nhello\r\n", "", HTTP_CHUNK),
    BAD("a size of no hex", "g\r\n", "", HTTP_CHUNK),
    BAD("a size of nine digits", "000000005\r\nhello\r\n", "", HTTP_CHUNK),
    BAD("a bare LF after the size", "5\nhello\r\n", "", HTTP_CHUNK),
    BAD("a bare CR after the size", "5\rhello\r\n", "", HTTP_CHUNK),
    BAD("a bare LF in an extension", "5;a\nhello\r\n", "", HTTP_CHUNK),
    BAD("a NUL in an extension", "5;a\0b\r\nhello\r\n", "", HTTP_CHUNK),
    BAD("no line end after the data", "5\r\nhello0\r\n\r\n", "hello", HTTP_CHUNK),
    BAD("a bare LF after the data", "5\r\nhello\n0\r\n\r\n", "hello", HTTP_CHUNK),
    BAD("a bare CR after the data", "5\r\nhello\r0\r\n\r\n", "hello", HTTP_CHUNK),
    BAD("more data than said", "5\r\nhelloo\r\n0\r\n\r\n", "hello", HTTP_CHUNK),
    BAD("a bare LF at the end", "0\r\n\n", "", HTTP_CHUNK),
    BAD("a bare CR at the end", "0\r\n\rx", "", HTTP_CHUNK),
    BAD("a trailer that begins with a space", "0\r\n a: b\r\n\r\n", "", HTTP_CHUNK),
    BAD("a trailer that begins with a colon", "0\r\n: b\r\n\r\n", "", HTTP_CHUNK),
    BAD("a trailer without a colon", "0\r\nabc\r\n\r\n", "", HTTP_CHUNK),
    BAD("a space before a trailer's colon", "0\r\na : b\r\n\r\n", "", HTTP_CHUNK),
    BAD("a control character in a trailer", "0\r\na: \x01\r\n\r\n", "", HTTP_CHUNK),
    BAD("a bare LF in a trailer", "0\r\na: b\n\r\n", "", HTTP_CHUNK),
    BAD("a bare CR in a trailer", "0\r\na: b\rc\r\n\r\n", "", HTTP_CHUNK),
    BAD("a body too large", "41\r\n", "", HTTP_BODY_SIZE),
    BAD("chunks too large together", "20\r\n01234567890123456789012345678901\r\n21\r\n",
        "01234567890123456789012345678901", HTTP_BODY_SIZE),
    BAD("the largest size", "ffffffff\r\n", "", HTTP_BODY_SIZE),
    BAD("a size past 2^32", "100000005\r\nhello\r\n", "", HTTP_BODY_SIZE),
    BAD("a size past 2^64", "10000000000000005\r\nhello\r\n", "", HTTP_BODY_SIZE),
};
/* clang-format on */

static void bodies_come_out_or_are_refused_however_they_arrive(void **state)
{
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        struct outcome o = decode_each_way(r->input);
        bool size = r->state == HTTP_BAD || o.consumed == r->input.n - r->rest;
        if (o.result.state != r->state || o.result.err != r->err || !size ||
            !slice_eq(buf_slice(&o.out), r->body)) {
            print_error("%s: %d %s, %zu bytes out\n", r->what, (int)o.result.state,
                        err_name(o.result.err), (size_t)o.out.len);
            wrong++;
        }
        buf_done(&o.out);
    }
    assert_int_equal(wrong, 0);
}

/* The most that is let through, by finding where it ends; it must be bounded, and be what it is
 * however often it is asked. */
static size_t most(const char *before, const char *fill, const char *after)
{
    static char text[40000];
    size_t good = 0;
    for (size_t step = 4096; step; step /= 2)
        for (;;) {
            size_t n = good + step, at = strlen(before);
            assert_true(n * strlen(fill) + 64 < sizeof(text));
            strcpy(text, before);
            for (size_t i = 0; i < n; i++, at += strlen(fill))
                strcpy(text + at, fill);
            strcpy(text + at, after);
            struct outcome o = decode(slice_str(text), NULL, 0);
            buf_done(&o.out);
            if (o.result.state != HTTP_DONE) {
                assert_err(o.result.err, ERR_HTTP_CHUNK);
                break;
            }
            good = n;
        }
    return good;
}

static void extensions_and_trailers_are_bounded(void **state)
{
    (void)state;
    assert_int_equal(most("1;", "a", "\r\nx\r\n0\r\n\r\n"), 256);
    assert_int_equal(most("1\r\nx\r\n0;", "a", "\r\n\r\n"), 256);
    /* The names, colons and values of all trailers together: 4096. */
    assert_int_equal(most("0\r\n", "a", ":\r\n\r\n"), 4095);
    assert_int_equal(most("0\r\n", "a:\r\n", "\r\n"), 2048);
    assert_int_equal(most("0\r\na: ", "\t", "\r\n\r\n"), 4093);
}

static void each_chunk_may_have_its_own_extension(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 16);
    for (int i = 0; i < 8; i++)
        assert_err(buf_printf(&b, "1;%0255d\r\nx\r\n", 0), ERR_NONE);
    assert_err(buf_printf(&b, "0\r\n\r\n"), ERR_NONE);
    struct outcome o = decode_each_way(buf_slice(&b));
    assert_int_equal(o.result.state, HTTP_DONE);
    assert_true(slice_eq(buf_slice(&o.out), SLICE("xxxxxxxx")));
    buf_done(&o.out);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies_come_out_or_are_refused_however_they_arrive),
        cmocka_unit_test(extensions_and_trailers_are_bounded),
        cmocka_unit_test(each_chunk_may_have_its_own_extension),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
