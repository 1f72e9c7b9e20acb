/* hub/effects: what an event asks for is kept in order, bounded, and applied or dropped whole. */
#include "unit.h"

#include "hub/effects.h"

static struct effects fx;
static char applied[4096];

static enum err add(enum effect_kind kind, uint64_t conn, uint16_t code, struct slice a,
                    struct slice b)
{
    const struct effect e = {.kind = (uint8_t)kind, .conn = conn, .code = code};
    return effects_add(&fx, &e, SLICE_NONE, a, b);
}

static void apply(void *arg, const struct effect *e)
{
    char *out = arg;
    struct slice bytes = effects_bytes(&fx, e);
    size_t at = strlen(out);
    snprintf(out + at, sizeof(applied) - at, "%d:%llu:%u:%.*s;", (int)e->kind,
             (unsigned long long)e->conn, (unsigned)e->code, (int)bytes.n,
             bytes.n ? (const char *)bytes.p : "");
}

static const char *apply_all(void)
{
    applied[0] = 0;
    effects_apply(&fx, apply, applied);
    return applied;
}

static int make(void **state)
{
    (void)state;
    effects_init(&fx);
    effects_limit(&fx, 100);
    return 0;
}

static int done(void **state)
{
    (void)state;
    effects_done(&fx);
    return mem_buffer_bytes() == 0 ? 0 : -1;
}

static void effects_are_applied_in_order_with_their_bytes(void **state)
{
    (void)state;
    assert_string_equal(apply_all(), "");
    assert_err(add(EFFECT_SEND, 7, 0, SLICE("ab"), SLICE("cd")), ERR_NONE);
    assert_err(add(EFFECT_CLOSE, 8, 1000, SLICE("bye"), SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_SEND, 7, 0, SLICE_NONE, SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_ATTACH, 9, 0, SLICE_NONE, SLICE("x")), ERR_NONE);
    assert_string_equal(apply_all(), "0:7:0:abcd;1:8:1000:bye;0:7:0:;2:9:0:x;");
    assert_string_equal(apply_all(), "0:7:0:abcd;1:8:1000:bye;0:7:0:;2:9:0:x;");
}

static void an_effect_without_bytes_may_stand_alone(void **state)
{
    (void)state;
    assert_err(add(EFFECT_CLOSE, 8, 1000, SLICE_NONE, SLICE_NONE), ERR_NONE);
    assert_string_equal(apply_all(), "1:8:1000:;");
}

static void what_was_dropped_is_not_applied(void **state)
{
    (void)state;
    assert_err(add(EFFECT_SEND, 7, 0, SLICE("ab"), SLICE("cd")), ERR_NONE);
    assert_err(buf_append(&fx.head, SLICE("a: b")), ERR_NONE);
    assert_err(buf_append(&fx.body, SLICE("body")), ERR_NONE);
    fx.status = 200;
    effects_clear(&fx);
    assert_string_equal(apply_all(), "");
    assert_int_equal(fx.status, 0);
    assert_int_equal(fx.head.len + fx.body.len, 0);
    assert_err(add(EFFECT_SEND, 1, 0, SLICE("z"), SLICE_NONE), ERR_NONE);
    assert_string_equal(apply_all(), "0:1:0:z;");
}

static void past_the_output_bound_nothing_is_added(void **state)
{
    (void)state;
    uint8_t big[101] = {0};
    memset(big, 'x', sizeof(big));
    assert_err(add(EFFECT_SEND, 1, 0, slice_of(big, 101), SLICE_NONE), ERR_LIMIT);
    assert_err(add(EFFECT_SEND, 1, 0, slice_of(big, 50), slice_of(big, 51)), ERR_LIMIT);
    assert_string_equal(apply_all(), "");
    assert_err(add(EFFECT_SEND, 1, 0, slice_of(big, 50), slice_of(big, 50)), ERR_NONE);
    assert_err(add(EFFECT_SEND, 2, 0, SLICE("y"), SLICE_NONE), ERR_LIMIT);
    assert_int_equal(effects_queued(&fx, 1), 100);
    assert_int_equal(effects_queued(&fx, 2), 0);
    assert_err(add(EFFECT_CLOSE, 3, 1001, SLICE_NONE, SLICE_NONE), ERR_NONE);
}

static void past_the_number_of_effects_nothing_is_added(void **state)
{
    (void)state;
    for (int i = 0; i < EFFECTS_MAX; i++)
        assert_err(add(EFFECT_CLOSE, 3, 1000, SLICE_NONE, SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_SEND, 3, 0, SLICE("a"), SLICE_NONE), ERR_LIMIT);
    assert_int_equal(fx.bytes.len, 0);
    assert_int_equal(effects_queued(&fx, 3), 0);
}

static void queued_counts_sends_of_one_connection(void **state)
{
    (void)state;
    assert_err(add(EFFECT_SEND, 7, 0, SLICE("ab"), SLICE("cd")), ERR_NONE);
    assert_err(add(EFFECT_SEND, 8, 0, SLICE("abc"), SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_CLOSE, 7, 1000, SLICE("reason"), SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_ATTACH, 7, 0, SLICE("state"), SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_SEND, 7, 0, SLICE("e"), SLICE_NONE), ERR_NONE);
    assert_int_equal(effects_queued(&fx, 7), 5);
    assert_int_equal(effects_queued(&fx, 8), 3);
    assert_int_equal(effects_queued(&fx, 9), 0);
}

static void clear_gives_large_buffers_back(void **state)
{
    (void)state;
    effects_limit(&fx, 1 << 20);
    uint8_t big[1000] = {0};
    for (int i = 0; i < 1000; i++)
        assert_err(add(EFFECT_SEND, 1, 0, slice_of(big, 1000), SLICE_NONE), ERR_NONE);
    assert_true(mem_buffer_bytes() > 1000000);
    effects_clear(&fx);
    assert_true(mem_buffer_bytes() < 10000);
}

static void without_a_limit_nothing_may_be_sent(void **state)
{
    (void)state;
    effects_done(&fx);
    effects_init(&fx);
    assert_err(add(EFFECT_SEND, 1, 0, SLICE("a"), SLICE_NONE), ERR_LIMIT);
    assert_err(buf_append(&fx.body, SLICE("a")), ERR_LIMIT);
    assert_err(add(EFFECT_CLOSE, 1, 1000, SLICE_NONE, SLICE_NONE), ERR_NONE);
    assert_string_equal(apply_all(), "1:1:1000:;");
}

/* What was kept of an event with a larger limit gives the next one no more than its own. */
static void each_event_has_its_own_limit(void **state)
{
    (void)state;
    static const uint32_t limits[] = {4000, 10, 0, 300, 64};
    uint8_t big[4000] = {0};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        uint32_t n = limits[i];
        effects_limit(&fx, n);
        assert_err(add(EFFECT_SEND, 1, 0, slice_of(big, n), SLICE("x")), ERR_LIMIT);
        assert_err(add(EFFECT_SEND, 1, 0, slice_of(big, n), SLICE_NONE), ERR_NONE);
        assert_err(buf_append(&fx.body, slice_of(big, n)), ERR_NONE);
        assert_err(buf_append(&fx.body, SLICE("x")), ERR_LIMIT);
        assert_int_equal(effects_queued(&fx, 1), n);
        effects_clear(&fx);
    }
}

static void the_last_of_a_kind_is_found(void **state)
{
    (void)state;
    assert_null(effects_last(&fx, EFFECT_ATTACH, SLICE_NONE));
    assert_err(add(EFFECT_ATTACH, 7, 0, SLICE("one"), SLICE_NONE), ERR_NONE);
    assert_err(add(EFFECT_ATTACH, 7, 0, SLICE("tw"), SLICE("o")), ERR_NONE);
    assert_err(add(EFFECT_SEND, 7, 0, SLICE("sent"), SLICE_NONE), ERR_NONE);
    assert_null(effects_last(&fx, EFFECT_CLOSE, SLICE_NONE));
    const struct effect *e = effects_last(&fx, EFFECT_ATTACH, SLICE_NONE);
    assert_true(slice_eq(effects_bytes(&fx, e), SLICE("two")));
    assert_err(add(EFFECT_ATTACH, 7, 0, SLICE_NONE, SLICE_NONE), ERR_NONE);
    e = effects_last(&fx, EFFECT_ATTACH, SLICE_NONE);
    assert_int_equal(effects_bytes(&fx, e).n, 0);
}

static void the_last_of_a_key_is_found(void **state)
{
    (void)state;
    const struct effect kv = {.kind = EFFECT_KV};
    assert_err(effects_add(&fx, &kv, SLICE("a"), SLICE("1"), SLICE_NONE), ERR_NONE);
    assert_err(effects_add(&fx, &kv, SLICE("ab"), SLICE("2"), SLICE_NONE), ERR_NONE);
    assert_err(effects_add(&fx, &kv, SLICE("a"), SLICE("b"), SLICE("3")), ERR_NONE);
    const struct effect *e = effects_last(&fx, EFFECT_KV, SLICE("a"));
    assert_true(slice_eq(effects_key(&fx, e), SLICE("a")));
    assert_true(slice_eq(effects_bytes(&fx, e), SLICE("b3")));
    e = effects_last(&fx, EFFECT_KV, SLICE("ab"));
    assert_true(slice_eq(effects_bytes(&fx, e), SLICE("2")));
    assert_null(effects_last(&fx, EFFECT_KV, SLICE("b")));
    assert_int_equal(fx.counts[EFFECT_KV], 3);
    effects_clear(&fx);
    assert_null(effects_last(&fx, EFFECT_KV, SLICE("a")));
}

#define EFFECTS_TEST(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EFFECTS_TEST(effects_are_applied_in_order_with_their_bytes),
        EFFECTS_TEST(an_effect_without_bytes_may_stand_alone),
        EFFECTS_TEST(what_was_dropped_is_not_applied),
        EFFECTS_TEST(past_the_output_bound_nothing_is_added),
        EFFECTS_TEST(past_the_number_of_effects_nothing_is_added),
        EFFECTS_TEST(queued_counts_sends_of_one_connection),
        EFFECTS_TEST(clear_gives_large_buffers_back),
        EFFECTS_TEST(without_a_limit_nothing_may_be_sent),
        EFFECTS_TEST(each_event_has_its_own_limit),
        EFFECTS_TEST(the_last_of_a_kind_is_found),
        EFFECTS_TEST(the_last_of_a_key_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
