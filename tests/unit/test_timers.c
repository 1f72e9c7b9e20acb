/* hub/timers: when they are told, what ends them, and that all is given back. The clock is the
 * test's own: the wheel is told what time it is. */
#include "unit.h"

#include "base/buf.h"
#include "hub/timers.h"

static struct loop loop;
static struct timers timers;
static struct {
    unsigned told, gone[4];
    uint32_t module;
    uint64_t cookie, at_ms;
    unsigned refusals; /* times that due says no */
    bool cancels;      /* all of module 2's, within due */
} saw;

static bool due(void *owner, uint32_t module, uint64_t cookie)
{
    assert_ptr_equal(owner, &saw);
    if (saw.cancels)
        timers_drop(&timers, 2);
    if (saw.refusals) {
        saw.refusals--;
        return false;
    }
    saw.told++;
    saw.module = module;
    saw.cookie = cookie;
    saw.at_ms = loop.now_ms;
    return true;
}

static void gone(void *owner, uint32_t module)
{
    assert_ptr_equal(owner, &saw);
    saw.gone[module]++;
}

static int setup(void **state)
{
    (void)state;
    memset(&saw, 0, sizeof(saw));
    if (loop_init(&loop))
        return -1;
    loop.now_ms = 1000;
    wheel_init(&loop.wheel, loop.now_ms);
    timers_init(&timers, &loop);
    timers.due = due;
    timers.gone = gone;
    timers.owner = &saw;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    timers_done(&timers);
    wheel_check(&loop.wheel);
    bool empty = wheel_next_ms(&loop.wheel, loop.now_ms) == -1;
    loop_done(&loop);
    return empty && !mem_buffer_bytes() ? 0 : -1;
}

static void pass(uint64_t ms)
{
    loop.now_ms += ms;
    wheel_clock(&loop.wheel, loop.now_ms);
    loop_timers(&loop);
}

static uint64_t set(uint32_t module, uint64_t ms, uint64_t cookie)
{
    uint64_t id = timers_id(&timers);
    assert_err(timers_set(&timers, module, id, ms, cookie), ERR_NONE);
    return id;
}

static void told_once_with_its_cookie_and_not_before(void **state)
{
    (void)state;
    static const uint64_t delays[] = {0, 1, 3, 4, 5, 50, 999, 70000};
    for (size_t i = 0; i < ARRAY_LEN(delays); i++) {
        unsigned told = saw.told;
        uint64_t from = loop.now_ms, id = set(1, delays[i], UINT64_MAX - i);
        assert_true(timers_has(&timers, 1, id));
        while (saw.told == told && loop.now_ms < from + delays[i] + 100)
            pass(1);
        assert_int_equal(saw.told, told + 1);
        assert_int_equal(saw.module, 1);
        assert_int_equal(saw.cookie, UINT64_MAX - i);
        assert_true(saw.at_ms >= from + delays[i]);
        assert_true(saw.at_ms <= from + delays[i] + 2 * WHEEL_TICK_MS);
        assert_false(timers_has(&timers, 1, id));
        pass(100000);
        assert_int_equal(saw.told, told + 1);
        assert_int_equal(saw.gone[1], saw.told);
    }
}

/* The wheel's span is 18 hours; 30 days are longer. */
static void later_than_the_wheel_reaches(void **state)
{
    (void)state;
    const uint64_t day = UINT64_C(86400000), from = loop.now_ms;
    set(0, 30 * day, 7);
    for (int i = 0; i < 119; i++)
        pass(day / 4);
    assert_int_equal(saw.told, 0);
    pass(day / 4 - 1);
    assert_int_equal(saw.told, 0);
    pass(2 * WHEEL_TICK_MS);
    assert_int_equal(saw.told, 1);
    assert_true(saw.at_ms >= from + 30 * day);
}

static void more_than_the_longest_is_the_longest(void **state)
{
    (void)state;
    const uint64_t from = loop.now_ms;
    set(0, UINT64_MAX, 7);
    while (!saw.told && loop.now_ms < from + 2 * TIMERS_MS_MAX)
        pass(3600000);
    assert_int_equal(saw.told, 1);
    assert_true(saw.at_ms >= from + TIMERS_MS_MAX);
    assert_true(saw.at_ms <= from + TIMERS_MS_MAX + 2 * 3600000);
}

static void cancelled_is_not_told(void **state)
{
    (void)state;
    uint64_t id = set(1, 50, 7), other = set(1, 50, 8);
    timers_cancel(&timers, 0, id); /* it is another module's */
    timers_cancel(&timers, 1, id + 2);
    assert_true(timers_has(&timers, 1, id));
    assert_false(timers_has(&timers, 0, id));
    timers_cancel(&timers, 1, id);
    timers_cancel(&timers, 1, id);
    assert_false(timers_has(&timers, 1, id));
    assert_true(timers_has(&timers, 1, other));
    assert_int_equal(saw.gone[1], 1);
    pass(100);
    assert_int_equal(saw.told, 1);
    assert_int_equal(saw.cookie, 8);
}

static void drop_ends_those_of_one_module(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3 * TIMERS_BUCKETS; i++)
        set(i % 3, 10 + i, i);
    timers_drop(&timers, 1);
    assert_int_equal(saw.gone[1], TIMERS_BUCKETS);
    assert_int_equal(saw.gone[0] + saw.gone[2], 0);
    pass(5000);
    assert_int_equal(saw.told, 2 * TIMERS_BUCKETS);
    assert_int_equal(saw.gone[0], TIMERS_BUCKETS);
    assert_int_equal(saw.gone[2], TIMERS_BUCKETS);
}

/* Others may go while one is told, those that are due at the same tick among them. */
static void others_may_end_while_one_is_told(void **state)
{
    (void)state;
    saw.cancels = true;
    set(2, 20, 1);
    set(1, 10, 2);
    set(2, 12, 3);
    set(1, 12, 4);
    pass(11 + WHEEL_TICK_MS);
    pass(1000);
    assert_int_equal(saw.told, 2);
    assert_int_equal(saw.gone[2], 2);
}

static void refused_comes_again(void **state)
{
    (void)state;
    uint64_t id = set(1, 20, 7);
    saw.refusals = 3;
    pass(20 + WHEEL_TICK_MS);
    assert_int_equal(saw.refusals, 2);
    assert_true(timers_has(&timers, 1, id));
    for (int i = 0; i < 100 && !saw.told; i++)
        pass(1);
    assert_int_equal(saw.refusals, 0);
    assert_int_equal(saw.told, 1);
    assert_int_equal(saw.cookie, 7);
    assert_int_equal(saw.gone[1], 1);
}

static void ids_are_never_used_twice(void **state)
{
    (void)state;
    uint64_t last = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t id = set(0, 1, 0);
        assert_true(id > last);
        last = id;
        pass(10);
    }
}

#define TIMERS_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TIMERS_TEST(told_once_with_its_cookie_and_not_before),
        TIMERS_TEST(later_than_the_wheel_reaches),
        TIMERS_TEST(more_than_the_longest_is_the_longest),
        TIMERS_TEST(cancelled_is_not_told),
        TIMERS_TEST(drop_ends_those_of_one_module),
        TIMERS_TEST(others_may_end_while_one_is_told),
        TIMERS_TEST(refused_comes_again),
        TIMERS_TEST(ids_are_never_used_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
