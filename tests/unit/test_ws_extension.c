/* ws/ws_extension: offers of permessage-deflate, taken, passed over, or no list of extensions. */
#include "unit.h"

#include "ws/ws_extension.h"

enum want { BAD, NONE, TAKEN, WINDOW };

#define PD "permessage-deflate"
/* clang-format off */
static const struct {
    const char *value;
    enum want want;
} rows[] = {
    {"", NONE}, {" \t", NONE}, {",", NONE}, {" , ,", NONE}, {"x", NONE}, {"x;y=z, a", NONE},
    {PD, TAKEN}, {"PERMESSAGE-deflate", TAKEN}, {"\t" PD " ", TAKEN}, {",," PD ",", TAKEN},
    {PD "s", NONE}, {PD ";server_no_context_takeover", TAKEN},
    {PD "; CLIENT_NO_CONTEXT_TAKEOVER ", TAKEN},
    {PD " ; server_no_context_takeover; client_no_context_takeover ;client_max_window_bits", TAKEN},
    {PD "; server_no_context_takeover=1", NONE}, {PD "; client_no_context_takeover=\"1\"", NONE},
    {PD "; client_max_window_bits", TAKEN}, {PD "; client_max_window_bits=8", TAKEN},
    {PD "; client_max_window_bits=15", TAKEN}, {PD "; client_max_window_bits=\"10\"", TAKEN},
    {PD "; client_max_window_bits=7", NONE}, {PD "; client_max_window_bits=16", NONE},
    {PD "; client_max_window_bits=010", NONE}, {PD "; client_max_window_bits=08", NONE},
    {PD "; client_max_window_bits=1", NONE}, {PD "; client_max_window_bits=150", NONE},
    {PD "; client_max_window_bits=+9", NONE}, {PD "; client_max_window_bits=1x", NONE},
    {PD "; server_max_window_bits", NONE}, {PD "; server_max_window_bits=8", NONE},
    {PD "; server_max_window_bits=11", NONE}, {PD "; server_max_window_bits=12", WINDOW},
    {PD "; server_max_window_bits = 15", WINDOW},
    {PD "; server_max_window_bits=\"1\\2\"", WINDOW}, {PD "; server_max_window_bits=16", NONE},
    {PD "; server_max_window_bits=99", NONE},
    {PD "; server_max_window_bits=12; server_max_window_bits=12", NONE},
    {PD "; client_max_window_bits; client_max_window_bits", NONE},
    {PD "; server_no_context_takeover; Server_No_Context_Takeover", NONE}, {PD "; unknown", NONE},
    {PD "; client_max_window_bits; unknown=1", NONE}, {PD "; unknown, " PD, TAKEN},
    {PD "; server_max_window_bits=9, x, " PD "; server_max_window_bits=13", WINDOW},
    {PD ", " PD "; server_max_window_bits=13", TAKEN},
    {PD "; server_max_window_bits=9," PD, TAKEN}, {PD ";", BAD}, {PD "; ;a", BAD}, {";", BAD},
    {"; a", BAD}, {"=", BAD}, {"a=b", BAD}, {"a b", BAD}, {"a; b c", BAD}, {"a; b=", BAD},
    {"a; b=,", BAD}, {"a; b=\"", BAD}, {"a; b=\"\"", BAD}, {"a; b=\"c", BAD}, {"a; b=\"c\\", BAD},
    {"a; b=\"c\\\"", BAD}, {"a; b=\"c d\"", BAD}, {"a; b=\"c\"d", BAD}, {"a; b=c=d", BAD},
    {"a/b", BAD}, {"a; b=\"\\\"\"", BAD}, {"a;=b", BAD}, {"a, (b)", BAD}, {PD ", @", BAD},
    {"\x80", BAD}, {PD "; b=\"long-enough-to-be-cut\"", NONE},
    {PD "; server_max_window_bits=123456789", NONE},
};
/* clang-format on */

/* A copy of its exact size, so that a look past its end is seen. */
static enum err negotiate(const char *text, struct ws_deflate_offer *io)
{
    size_t n = strlen(text);
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    enum err e = ws_deflate_negotiate(slice_of(copy, n), io);
    free(copy);
    return e;
}

static void offers_are_taken_passed_over_or_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ws_deflate_offer offer = {0};
        enum err e = negotiate(rows[i].value, &offer);
        enum want got = e ? BAD : !offer.taken ? NONE : offer.window ? WINDOW : TAKEN;
        assert_true(!e || e == ERR_WS_HANDSHAKE);
        assert_false(e && offer.taken);
        if (got == rows[i].want)
            continue;
        print_error("%s: %d, not %d\n", rows[i].value, (int)got, (int)rows[i].want);
        fail();
    }
}

static void the_first_of_several_fields_counts(void **state)
{
    (void)state;
    struct ws_deflate_offer offer = {0};
    assert_err(negotiate("other", &offer), ERR_NONE);
    assert_err(negotiate(PD "; server_max_window_bits=10", &offer), ERR_NONE);
    assert_false(offer.taken);
    assert_err(negotiate(PD "; server_max_window_bits=14", &offer), ERR_NONE);
    assert_err(negotiate(PD, &offer), ERR_NONE);
    assert_true(offer.taken && offer.window);
    assert_err(negotiate("a;", &offer), ERR_WS_HANDSHAKE);
}

static void the_answer_repeats_what_it_must(void **state)
{
    (void)state;
    struct slice answer = SLICE(PD "; server_no_context_takeover; client_no_context_takeover"),
                 window = SLICE(PD "; server_no_context_takeover; client_no_context_takeover; "
                                   "server_max_window_bits=12");
    assert_true(slice_eq(ws_deflate_answer(&(struct ws_deflate_offer){true, false}), answer));
    assert_true(slice_eq(ws_deflate_answer(&(struct ws_deflate_offer){true, true}), window));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offers_are_taken_passed_over_or_refused),
        cmocka_unit_test(the_first_of_several_fields_counts),
        cmocka_unit_test(the_answer_repeats_what_it_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
