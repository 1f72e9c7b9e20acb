/* net/proxy: beside what tests/integration/test_access.py sends to the program, the edges of the
 * buffer that it is given. */
#include "unit.h"

#include "net/proxy.h"

#define V2 "\r\n\r\n\0\r\nQUIT\n"

/* A copy that ends where its bytes do, so that a look past its end is seen by the sanitizer. */
static enum proxy_state parse(struct slice s, struct proxy_header *out)
{
    uint8_t *copy = malloc(s.n ? s.n : 1);
    assert_non_null(copy);
    slice_copy(copy, s);
    enum proxy_state state = proxy_parse(copy, s.n, out);
    free(copy);
    return state;
}

static void every_part_asks_for_more(void **state)
{
    (void)state;
    static const struct slice headers[] = {
        SLICE("PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n"),
        SLICE("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
              "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
        SLICE("PROXY UNKNOWN\r\n"),
        SLICE(V2 "\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x13\x88\0\x50"),
        SLICE(V2 "\x20\0\0\0"),
    };
    struct proxy_header h;
    for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
        for (size_t n = 0; n < headers[i].n; n++)
            assert_int_equal(parse(slice_of(headers[i].p, n), &h), PROXY_MORE);
        assert_int_equal(parse(headers[i], &h), PROXY_DONE);
        assert_int_equal(h.consumed, headers[i].n);
        assert_int_equal(h.known, i != 2 && i != 4);
    }
}

static void what_follows_is_left(void **state)
{
    (void)state;
    struct proxy_header h;
    char text[ADDRESS_TEXT];
    assert_int_equal(parse(SLICE("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET"), &h), PROXY_DONE);
    assert_int_equal(h.consumed, 33);
    address_write(&h.client, text);
    assert_string_equal(text, "1.2.3.4:9");
    struct slice v2 = SLICE(V2 "\x21\x11\0\x10\1\2\3\4\5\6\7\x8\0\x9\0\xa"
                               "tlvsGET");
    assert_int_equal(parse(v2, &h), PROXY_DONE);
    assert_int_equal(h.consumed, v2.n - 3);
    address_write(&h.client, text);
    assert_string_equal(text, "1.2.3.4:9");
}

static void the_longest_line_has_107_bytes(void **state)
{
    (void)state;
    struct proxy_header h;
    char line[109];
    memset(line, 'x', sizeof(line));
    memcpy(line, "PROXY UNKNOWN ", 14);
    assert_int_equal(parse(slice_of(line, 106), &h), PROXY_MORE);
    assert_int_equal(parse(slice_of(line, 107), &h), PROXY_BAD);
    memcpy(line + 105, "\r\n", 2);
    assert_int_equal(parse(slice_of(line, 107), &h), PROXY_DONE);
    memcpy(line + 105, "x\r\n", 3);
    assert_int_equal(parse(slice_of(line, 108), &h), PROXY_BAD);
}

/* A wrong byte is not waited for. */
static void the_first_wrong_byte_ends_it(void **state)
{
    (void)state;
    static const struct slice wrong[] = {
        SLICE("G"),
        SLICE("PROXX"),
        SLICE("\r\n\r\nx"),
        SLICE(V2 "\x11"),
        SLICE(V2 "\x22"),
        SLICE(V2 "\x21\x11\0\x0b"),
        SLICE(V2 "\x21\x21\0\x23"),
        SLICE(V2 "\x20\0\xff\xff"),
        SLICE(V2 "\x21\x31\0\xd8"),
    };
    struct proxy_header h;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_int_equal(parse(wrong[i], &h), PROXY_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_asks_for_more),
        cmocka_unit_test(what_follows_is_left),
        cmocka_unit_test(the_longest_line_has_107_bytes),
        cmocka_unit_test(the_first_wrong_byte_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
