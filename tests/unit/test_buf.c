/* base/buf, and the small words of base.h and list.h that have no file of their own. */
#include "unit.h"

#include "base/buf.h"
#include "base/list.h"

static void grows_to_its_maximum_and_not_past_it(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    for (int i = 0; i < 100; i++) {
        uint8_t byte = (uint8_t)i;
        assert_err(buf_append(&b, slice_of(&byte, 1)), ERR_NONE);
        assert_true(b.cap <= 100);
    }
    assert_err(buf_append(&b, SLICE("x")), ERR_LIMIT);
    assert_int_equal(b.len, 100);
    for (int i = 0; i < 100; i++)
        assert_int_equal(b.p[i], i);
    assert_err(buf_append(&b, SLICE_NONE), ERR_NONE);
    buf_done(&b);
}

static void refuses_sizes_that_would_wrap(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, UINT32_MAX);
    assert_err(buf_append(&b, SLICE("abc")), ERR_NONE);
    assert_err(buf_reserve(&b, SIZE_MAX), ERR_LIMIT);
    assert_err(buf_reserve(&b, SIZE_MAX - 2), ERR_LIMIT);
    assert_err(buf_reserve(&b, (size_t)UINT32_MAX - 2), ERR_LIMIT);
    assert_true(slice_eq(buf_slice(&b), SLICE("abc")));
    buf_done(&b);
}

static void reserved_room_can_be_written(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 5000);
    for (size_t n = 1; n < 1000; n += 37) {
        assert_err(buf_reserve(&b, n), ERR_NONE);
        assert_true(b.cap - b.len >= n);
        memset(b.p + b.len, 7, n);
        buf_clear(&b, UINT32_MAX);
    }
    buf_done(&b);
}

static void consume_drops_from_the_front(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 64);
    assert_err(buf_append(&b, SLICE("abcdef")), ERR_NONE);
    buf_consume(&b, 0);
    assert_true(slice_eq(buf_slice(&b), SLICE("abcdef")));
    buf_consume(&b, 4);
    assert_true(slice_eq(buf_slice(&b), SLICE("ef")));
    buf_consume(&b, 2);
    assert_int_equal(b.len, 0);
    buf_done(&b);
}

static void clear_keeps_small_buffers_only(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    assert_err(buf_append(&b, SLICE("abc")), ERR_NONE);
    const uint8_t *was = b.p;
    buf_clear(&b, b.cap);
    assert_ptr_equal(b.p, was);
    assert_int_equal(b.len, 0);
    buf_clear(&b, b.cap - 1);
    assert_null(b.p);
    assert_int_equal(b.cap, 0);
    assert_err(buf_append(&b, SLICE("again")), ERR_NONE);
    assert_int_equal(b.max, 4096);
    buf_done(&b);
}

static void printf_appends_whole_or_not_at_all(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 16);
    assert_err(buf_printf(&b, "%s-%d", "ab", 7), ERR_NONE);
    assert_err(buf_printf(&b, "%s", ""), ERR_NONE);
    assert_true(slice_eq(buf_slice(&b), SLICE("ab-7")));
    assert_err(buf_printf(&b, "%013d", 1), ERR_LIMIT);
    assert_true(slice_eq(buf_slice(&b), SLICE("ab-7")));
    assert_err(buf_printf(&b, "%011d", 1), ERR_NONE);
    assert_true(slice_eq(buf_slice(&b), SLICE("ab-700000000001")));
    buf_done(&b);
}

static void what_is_held_is_counted(void **state)
{
    (void)state;
    uint64_t before = mem_buffer_bytes();
    struct buf b;
    buf_init(&b, 1 << 20);
    void *p = mem_alloc(1000);
    assert_non_null(p);
    assert_int_equal(mem_buffer_bytes(), before + 1000);
    for (int i = 0; i < 3000; i++) {
        assert_err(buf_append(&b, SLICE("0123456789")), ERR_NONE);
        assert_int_equal(mem_buffer_bytes(), before + 1000 + b.cap);
    }
    mem_free(p, 1000);
    mem_free(NULL, 77);
    buf_done(&b);
    buf_done(&b);
    assert_int_equal(mem_buffer_bytes(), before);
}

static void slices_compare_bytes_and_ascii_case(void **state)
{
    (void)state;
    static const struct {
        struct slice a, b;
        bool equal, nocase;
    } rows[] = {
        {SLICE_NONE, SLICE(""), true, true},
        {SLICE("Host"), SLICE("Host"), true, true},
        {SLICE("Host"), SLICE("hOST"), false, true},
        {SLICE("Host"), SLICE("Hos"), false, false},
        {SLICE("@[`{"), SLICE("`{@["), false, false}, /* the neighbours of A-Z and a-z */
        {SLICE("\xc3\x84"), SLICE("\xc3\xa4"), false, false},
        {SLICE("a\0b"), SLICE("a\0c"), false, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(slice_eq(rows[i].a, rows[i].b), rows[i].equal);
        assert_int_equal(slice_eq_nocase(rows[i].a, rows[i].b), rows[i].nocase);
    }
}

static void lists_keep_their_order(void **state)
{
    (void)state;
    struct list head, nodes[4];
    list_init(&head);
    assert_true(list_empty(&head));
    assert_null(list_pop(&head));
    for (int i = 0; i < 4; i++)
        list_append(&head, &nodes[i]);
    list_remove(&nodes[1]);
    assert_true(list_empty(&nodes[1]));
    list_remove(&nodes[1]); /* in no list: does nothing */
    assert_ptr_equal(list_pop(&head), &nodes[0]);
    assert_ptr_equal(list_pop(&head), &nodes[2]);
    list_append(&head, &nodes[0]);
    assert_ptr_equal(list_pop(&head), &nodes[3]);
    assert_ptr_equal(list_pop(&head), &nodes[0]);
    assert_true(list_empty(&head));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_to_its_maximum_and_not_past_it),
        cmocka_unit_test(refuses_sizes_that_would_wrap),
        cmocka_unit_test(reserved_room_can_be_written),
        cmocka_unit_test(consume_drops_from_the_front),
        cmocka_unit_test(clear_keeps_small_buffers_only),
        cmocka_unit_test(printf_appends_whole_or_not_at_all),
        cmocka_unit_test(what_is_held_is_counted),
        cmocka_unit_test(slices_compare_bytes_and_ascii_case),
        cmocka_unit_test(lists_keep_their_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
