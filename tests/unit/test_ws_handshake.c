/* ws/ws_handshake: the examples of RFC 6455, and what must not pass for them. */
#include "unit.h"

#include "ws/ws_handshake.h"

static void keys_are_base64_of_sixteen_bytes(void **state)
{
    (void)state;
    static const struct {
        struct slice key;
        bool valid;
    } rows[] = {
        {SLICE("dGhlIHNhbXBsZSBub25jZQ=="), true},
        {SLICE("AAAAAAAAAAAAAAAAAAAAAA=="), true},
        {SLICE("////////////////////+w=="), true},
        {SLICE("AAAAAAAAAAAAAAAAAAAAAB=="), false}, /* bits that mean nothing */
        {SLICE("AAAAAAAAAAAAAAAAAAAAAAA="), false}, /* 17 bytes */
        {SLICE("AAAAAAAAAAAAAAAAAAAAAAAA"), false},
        {SLICE("AAAAAAAAAAAAAAAAAAAAA==="), false},
        {SLICE("AAAAAAAAAAAAAAAAAAAAA-=="), false},
        {SLICE("AAAAAAAAAA AAAAAAAAAAA=="), false},
        {SLICE("AAAAAAAAAA\0AAAAAAAAAAA=="), false},
        {SLICE("AAAAAAAAAAAAAAAAAAAAA\xc3=="), false},
        {SLICE("AAAAAAAAAAAAAAAAAAAAA=="), false},
        {SLICE("AAAAAAAAAAAAAAAAAAAAAA==A"), false},
        {SLICE(""), false},
        {SLICE_NONE, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(ws_key_valid(rows[i].key), rows[i].valid);
}

static void accept_is_the_hash_of_key_and_guid(void **state)
{
    (void)state;
    char out[29];
    ws_accept_key(SLICE("dGhlIHNhbXBsZSBub25jZQ=="), out); /* RFC 6455 1.3 */
    assert_string_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    ws_accept_key(SLICE("x3JJHMbDL1EzLkh9GBhXDw=="), out); /* RFC 6455's common second example */
    assert_string_equal(out, "HSmrc0sMlYUkAGmm5OPpG2HaGWk=");
}

static void origins_fit_exactly_or_by_a_label(void **state)
{
    (void)state;
    static const struct {
        const char *pattern;
        struct slice origin;
        bool allowed;
    } rows[] = {
        {"*", SLICE("https://any.example"), true},
        {"*", SLICE("null"), true},
        {"https://a.example", SLICE("https://a.example"), true},
        {"https://a.example", SLICE("HTTPS://A.example"), true},
        {"https://a.example", SLICE("http://a.example"), false},
        {"https://a.example", SLICE("https://a.example:8443"), false},
        {"https://a.example", SLICE("https://a.example.evil"), false},
        {"https://a.example", SLICE(""), false},
        {"https://*.a.example", SLICE("https://x.a.example"), true},
        {"https://*.a.example", SLICE("https://y.x.a.example"), true},
        {"https://*.a.example", SLICE("https://a.example"), false},
        {"https://*.a.example", SLICE("https://.a.example"), false},
        {"https://*.a.example", SLICE("https://xa.example"), false},
        {"https://*.a.example", SLICE("http://x.a.example"), false},
        {"https://*.a.example", SLICE("https://x.a.example.evil"), false},
        {"https://*.a.example", SLICE("https://x.a.example:1"), false},
        {"https://*.a.example:1", SLICE("https://x.a.example:1"), true},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *list[2] = {"https://other.example", rows[i].pattern};
        if (ws_origin_allowed(list, 2, rows[i].origin) != rows[i].allowed) {
            print_error("%s %.*s\n", rows[i].pattern, (int)rows[i].origin.n,
                        (const char *)rows[i].origin.p);
            fail();
        }
    }
    assert_true(ws_origin_allowed(NULL, 0, SLICE("https://any.example")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_base64_of_sixteen_bytes),
        cmocka_unit_test(accept_is_the_hash_of_key_and_guid),
        cmocka_unit_test(origins_fit_exactly_or_by_a_label),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
