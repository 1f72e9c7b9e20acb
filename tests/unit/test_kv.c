/* hub/kv: what it holds against a model, its bound, versions and ends of life. */
#include "unit.h"

#include "base/buf.h"
#include "hub/kv.h"

enum { MAX = 4096 };

static struct kv kv;

static int setup(void **state)
{
    (void)state;
    kv_init(&kv, MAX);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kv_done(&kv);
    return kv.count || kv.bytes || mem_buffer_bytes() ? -1 : 0;
}

static enum err set(const char *key, const char *value, uint64_t expires_ms, uint64_t now_ms)
{
    return kv_set(&kv, slice_str(key), slice_str(value), expires_ms, now_ms);
}

/* The value as text; NULL: it is not there. */
static const char *get(const char *key, uint64_t now_ms)
{
    static char text[64];
    struct slice value;
    if (!kv_get(&kv, slice_str(key), now_ms, &value))
        return NULL;
    assert_true(value.n < sizeof(text));
    slice_copy((uint8_t *)text, value);
    text[value.n] = 0;
    return text;
}

static uint64_t version(const char *key, uint64_t now_ms)
{
    struct slice value;
    return kv_get(&kv, slice_str(key), now_ms, &value);
}

static void values_come_back(void **state)
{
    (void)state;
    assert_null(get("a", 0));
    assert_err(set("a", "1", 0, 0), ERR_NONE);
    assert_err(set("", "", 0, 0), ERR_NONE);
    assert_err(set("ab", "22", 0, 0), ERR_NONE);
    assert_string_equal(get("a", 0), "1");
    assert_string_equal(get("ab", 0), "22");
    assert_string_equal(get("", 0), "");
    assert_err(set("a", "333", 0, 0), ERR_NONE);
    assert_string_equal(get("a", 0), "333");
    assert_int_equal(kv.count, 3);
    kv_delete(&kv, SLICE("a"));
    kv_delete(&kv, SLICE("a"));
    kv_delete(&kv, SLICE("never"));
    assert_null(get("a", 0));
    assert_string_equal(get("ab", 0), "22");
    assert_int_equal(kv.count, 2);
}

static void nothing_is_deleted_from_an_empty_one(void **state)
{
    (void)state;
    kv_delete(&kv, SLICE("a"));
    assert_int_equal(kv.version, 0);
}

/* A key that was deleted and made again, with the same value, is another version. */
static void each_change_is_another_version(void **state)
{
    (void)state;
    uint64_t seen[4];
    assert_int_equal(version("a", 0), 0);
    assert_err(set("a", "1", 0, 0), ERR_NONE);
    seen[0] = version("a", 0);
    assert_err(set("b", "1", 0, 0), ERR_NONE);
    assert_int_equal(version("a", 0), seen[0]);
    assert_err(set("a", "1", 0, 0), ERR_NONE);
    seen[1] = version("a", 0);
    kv_delete(&kv, SLICE("a"));
    assert_int_equal(version("a", 0), 0);
    uint64_t all = kv.version;
    assert_err(set("a", "1", 0, 0), ERR_NONE);
    assert_true(kv.version > all);
    seen[2] = version("a", 0);
    seen[3] = version("b", 0);
    for (size_t i = 0; i < ARRAY_LEN(seen); i++)
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(seen[i], seen[j]);
}

static void the_bound_is_exact(void **state)
{
    (void)state;
    static uint8_t bytes[MAX];
    uint64_t most = MAX - KV_ENTRY_COST - 1;
    assert_err(kv_set(&kv, SLICE("k"), slice_of(bytes, most + 1), 0, 5000), ERR_LIMIT);
    assert_int_equal(kv.count, 0);
    assert_err(kv_set(&kv, SLICE("k"), slice_of(bytes, most), 0, 5000), ERR_NONE);
    assert_int_equal(kv.bytes, MAX);
    assert_true(kv_fits(&kv, 0, 5000));
    assert_false(kv_fits(&kv, 1, 5000));
    /* another key has no room; the same one has its own; and the old value stays */
    assert_err(set("l", "", 0, 5000), ERR_LIMIT);
    assert_err(kv_set(&kv, SLICE("k"), slice_of(bytes, most + 1), 0, 5000), ERR_LIMIT);
    assert_int_equal(kv.bytes, MAX);
    assert_err(kv_set(&kv, SLICE("k"), slice_of(bytes, 10), 0, 5000), ERR_NONE);
    assert_int_equal(kv.bytes, KV_ENTRY_COST + 11);
    assert_err(set("l", "", 0, 5000), ERR_NONE);
}

static void what_has_expired_is_not_there(void **state)
{
    (void)state;
    assert_err(set("a", "1", 1000, 900), ERR_NONE);
    assert_string_equal(get("a", 999), "1");
    assert_null(get("a", 1000));
    assert_null(get("a", 5000));
    assert_err(set("a", "2", 0, 2000), ERR_NONE);
    assert_string_equal(get("a", UINT64_MAX), "2");
    assert_int_equal(kv.count, 1);
    assert_int_equal(kv.bytes, KV_ENTRY_COST + 2);
}

static void what_has_expired_makes_room(void **state)
{
    (void)state;
    static uint8_t half[MAX / 2 - KV_ENTRY_COST - 1];
    struct slice v = slice_of(half, sizeof(half));
    assert_err(kv_set(&kv, SLICE("a"), v, 2000, 1500), ERR_NONE);
    assert_err(kv_set(&kv, SLICE("b"), v, 0, 1500), ERR_NONE);
    assert_err(set("c", "", 0, 1999), ERR_LIMIT);
    assert_err(set("c", "", 0, 3100), ERR_NONE);
    assert_int_equal(kv.count, 2);
    assert_null(get("a", 0));
}

/* All of a table is not looked at again and again, as it may be large. */
static void a_full_table_is_swept_once_a_second(void **state)
{
    (void)state;
    for (int i = 0; i < 40; i++) {
        char key[8];
        snprintf(key, sizeof(key), "k%d", i);
        assert_err(set(key, "", i ? 0 : 2400, 1500), ERR_NONE);
    }
    assert_false(kv_fits(&kv, MAX, 2000));
    assert_int_equal(kv.count, 40);
    assert_false(kv_fits(&kv, MAX, 2999));
    assert_int_equal(kv.count, 40);
    assert_false(kv_fits(&kv, MAX, 3000));
    assert_int_equal(kv.count, 39);
}

/* Keys that nobody asks for again go as others change. */
static void changes_sweep(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        char key[8];
        snprintf(key, sizeof(key), "k%d", i);
        assert_err(set(key, "", 2000, 1500), ERR_NONE);
    }
    for (uint32_t i = 0; i < kv.n_buckets && kv.count > 1; i++)
        assert_err(set("x", "", 0, 2500), ERR_NONE);
    assert_int_equal(kv.count, 1);
    assert_string_equal(get("x", 2500), "");
}

static void many_keys_against_a_model(void **state)
{
    (void)state;
    enum { KEYS = 700, STEPS = 40000 };
    static uint32_t model[KEYS]; /* 0: not there */
    uint64_t seed = 11, bytes = 0;
    kv_init(&kv, 1 << 20);
    for (int i = 0; i < STEPS; i++) {
        uint32_t k = unit_random(&seed) % KEYS, v = unit_random(&seed) % 5 ? unit_random(&seed) : 0;
        struct slice key = slice_of(&k, sizeof(k)), value;
        assert_int_equal(kv_get(&kv, key, 0, &value) != 0, model[k] != 0);
        if (model[k])
            assert_memory_equal(value.p, &model[k], sizeof(v));
        bytes += (v != 0) * (KV_ENTRY_COST + 8ul) - (model[k] != 0) * (KV_ENTRY_COST + 8ul);
        if (v)
            assert_err(kv_set(&kv, key, slice_of(&v, sizeof(v)), 0, 0), ERR_NONE);
        else
            kv_delete(&kv, key);
        model[k] = v;
        assert_int_equal(kv.bytes, bytes);
    }
    assert_true(kv.n_buckets >= kv.count);
    assert_true(kv.count > 400);
}

#define KV_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        KV_TEST(values_come_back),
        KV_TEST(nothing_is_deleted_from_an_empty_one),
        KV_TEST(each_change_is_another_version),
        KV_TEST(the_bound_is_exact),
        KV_TEST(what_has_expired_is_not_there),
        KV_TEST(what_has_expired_makes_room),
        KV_TEST(a_full_table_is_swept_once_a_second),
        KV_TEST(changes_sweep),
        KV_TEST(many_keys_against_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
