/* app/handover: records that come back as they were written, and what is no record. */
#include "unit.h"

#include "app/handover.h"

static struct handover_record conn_record(void)
{
    struct handover_record r = {.kind = HANDOVER_conn};
    r.conn = (struct handover_conn){.id = UINT64_C(0x00123456ffffffff),
                                    .protocol = 2,
                                    .flags = 5,
                                    .close_code = 4999,
                                    .route = 1023,
                                    .attached = 1,
                                    .topics = SLICE("\1\0x"),
                                    .saved = SLICE("saved"),
                                    .queue = SLICE("q")};
    return r;
}

static struct buf written(const struct handover_record *r)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_err(handover_write(&out, r), ERR_NONE);
    return out;
}

static void a_record_comes_back(void **state)
{
    (void)state;
    struct handover_record r = conn_record(), got;
    struct buf b = written(&r);
    size_t n = 0;
    assert_int_equal(handover_read(buf_slice(&b), &got, &n), HANDOVER_DONE);
    assert_int_equal(n, b.len);
    assert_int_equal(got.kind, HANDOVER_conn);
    assert_false(got.unknown);
    assert_true(got.conn.id == r.conn.id && got.conn.route == 1023 && got.conn.attached == 1);
    assert_int_equal(got.conn.close_code, 4999);
    assert_true(got.conn.watched == 0 && got.conn.attachment.n == 0 && got.conn.replay.n == 0);
    assert_true(slice_eq(got.conn.topics, r.conn.topics));
    assert_true(slice_eq(got.conn.saved, r.conn.saved) && slice_eq(got.conn.queue, r.conn.queue));
    buf_done(&b);
}

static void every_kind_comes_back_empty_and_is_told_apart(void **state)
{
    (void)state;
    for (unsigned kind = 1; kind < HANDOVER_KINDS; kind++) {
        struct handover_record r = {.kind = (enum handover_kind)kind}, got;
        struct buf b = written(&r);
        size_t n = 0;
        assert_int_equal(handover_read(buf_slice(&b), &got, &n), HANDOVER_DONE);
        assert_true(got.kind == kind && n == b.len && !got.unknown);
        buf_done(&b);
    }
}

static void a_part_of_one_is_more(void **state)
{
    (void)state;
    struct handover_record r = conn_record(), got;
    struct buf b = written(&r);
    size_t n = 0;
    for (uint32_t part = 0; part < b.len; part++)
        assert_int_equal(handover_read(slice_of(b.p, part), &got, &n), HANDOVER_MORE);
    assert_int_equal(n, 0);
    assert_err(buf_append(&b, SLICE("next")), ERR_NONE);
    assert_int_equal(handover_read(buf_slice(&b), &got, &n), HANDOVER_DONE);
    assert_int_equal(n, b.len - 4);
    buf_done(&b);
}

#define BAD(bytes) assert_int_equal(handover_read(SLICE(bytes), &got, &n), HANDOVER_BAD)

static void what_is_no_record(void **state)
{
    (void)state;
    struct handover_record got;
    size_t n = 0;
    BAD("\0\0\0\0\0");                         /* no kind */
    BAD("\xff\0\0\0\0");                       /* likewise */
    BAD("\7\0\0\0\xff");                       /* too large */
    BAD("\7\4\0\0\0\0\1\0\0");                 /* half the head of a field */
    BAD("\7\6\0\0\0\0\2\0\0\0x");              /* a field beyond its record */
    BAD("\7\6\0\0\0\0\1\0\0\0x");              /* a number of one byte */
    BAD("\3\x0c\0\0\0\0\1\0\0\0x\0\1\0\0\0y"); /* a field twice */
    BAD("\7\5\0\0\0\0\xff\xff\xff\xff");       /* longer than there can be */
    assert_int_equal(n, 0);
}

static void a_field_that_is_not_known_is_told(void **state)
{
    (void)state;
    struct handover_record got;
    size_t n = 0;
    assert_int_equal(handover_read(SLICE("\3\x0c\0\0\0\0\1\0\0\0x\x0f\1\0\0\0y"), &got, &n),
                     HANDOVER_DONE);
    assert_true(got.unknown && got.kind == HANDOVER_module);
    assert_true(slice_eq(got.module.name, SLICE("x")));
    assert_int_equal(handover_read(SLICE("\3\x05\0\0\0\xfe\0\0\0\0"), &got, &n), HANDOVER_DONE);
    assert_true(got.unknown);
}

static void what_does_not_fit_leaves_nothing(void **state)
{
    (void)state;
    struct handover_record r = conn_record();
    struct buf b;
    buf_init(&b, 60);
    assert_err(buf_append(&b, SLICE("before")), ERR_NONE);
    assert_err(handover_write(&b, &r), ERR_LIMIT);
    assert_int_equal(b.len, 6);
    buf_done(&b);
}

static void items(void **state)
{
    (void)state;
    struct buf b;
    struct slice item, list;
    buf_init(&b, 100);
    assert_err(handover_item_write(&b, SLICE("one")), ERR_NONE);
    assert_err(handover_item_write(&b, SLICE_NONE), ERR_NONE);
    list = buf_slice(&b);
    assert_true(handover_item_read(&list, &item) && slice_eq(item, SLICE("one")));
    assert_true(handover_item_read(&list, &item) && item.n == 0);
    assert_false(handover_item_read(&list, &item));
    assert_int_equal(list.n, 0);
    list = SLICE("\4\0abc");
    assert_false(handover_item_read(&list, &item));
    assert_int_equal(list.n, 5); /* which tells it from the end */
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_comes_back),
        cmocka_unit_test(every_kind_comes_back_empty_and_is_told_apart),
        cmocka_unit_test(a_part_of_one_is_more),
        cmocka_unit_test(what_is_no_record),
        cmocka_unit_test(a_field_that_is_not_known_is_told),
        cmocka_unit_test(what_does_not_fit_leaves_nothing),
        cmocka_unit_test(items),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
