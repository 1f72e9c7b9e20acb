/* loop/wheel against a model that only remembers when each timer was set and for how long. */
#include "unit.h"

#include "loop/wheel.h"

enum { TIMERS = 200 };
#define SPAN_MS (((UINT64_C(1) << 24) - 1) * WHEEL_TICK_MS)

/* A timer fires at a tick, so no sooner than set + delay, and no later than a tick after the delay
 * rounded up to ticks. */
struct entry {
    struct timer timer;
    bool set;
    uint64_t early, late; /* ms */
};

static struct model {
    struct wheel wheel;
    struct entry entries[TIMERS];
    uint64_t now, seed, last;
    unsigned fired, meddle; /* meddle: per cent of firings that change timers within */
} m;

static void model_init(uint64_t start, uint64_t seed)
{
    memset(&m, 0, sizeof(m));
    m.now = start;
    m.seed = seed;
    wheel_init(&m.wheel, start);
}

static uint64_t tick_ms(void)
{
    return m.wheel.start_ms + (uint64_t)m.wheel.now * WHEEL_TICK_MS;
}

/* Delays count from the time that the wheel was told last. */
static void model_set(struct entry *e, uint64_t delay)
{
    uint64_t up = (delay + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS * WHEEL_TICK_MS + WHEEL_TICK_MS;
    wheel_set(&m.wheel, &e->timer, delay);
    assert_true(timer_is_set(&e->timer));
    e->set = true;
    e->early = MIN(m.now + delay, tick_ms() + SPAN_MS);
    e->late = MIN(m.now + up, tick_ms() + SPAN_MS);
}

static void model_cancel(struct entry *e)
{
    wheel_cancel(&m.wheel, &e->timer);
    assert_false(timer_is_set(&e->timer));
    e->set = false;
}

static uint64_t random_delay(void)
{
    static const uint64_t most[] = {
        1, 10, 300, 20000, 1 << 20, UINT64_C(1) << 26, SPAN_MS * 2, UINT64_C(1) << 40};
    uint64_t wide = (uint64_t)unit_random(&m.seed) << 32 | unit_random(&m.seed);
    return wide % most[unit_random(&m.seed) % ARRAY_LEN(most)];
}

static struct entry *random_entry(void)
{
    return &m.entries[unit_random(&m.seed) % TIMERS];
}

static void on_fire(struct timer *t, void *arg)
{
    struct entry *e = CONTAINER_OF(t, struct entry, timer);
    assert_ptr_equal(arg, &m);
    uint64_t at = tick_ms();
    assert_true(e->set);
    assert_false(timer_is_set(t));
    assert_true(at >= e->early);
    assert_true(at <= e->late);
    assert_true(at >= m.last); /* in the order of their ticks */
    m.last = at;
    e->set = false;
    m.fired++;
    if (unit_random(&m.seed) % 100 >= m.meddle)
        return;
    model_set(e, random_delay());
    struct entry *other = random_entry();
    if (unit_random(&m.seed) % 2)
        model_cancel(other);
    else
        model_set(other, random_delay());
}

/* As in an iteration: time is told first, then timers may be set, then the others fire. */
static void model_advance_setting(uint64_t ms, unsigned sets)
{
    m.now += ms;
    if (sets)
        wheel_clock(&m.wheel, m.now);
    for (unsigned i = 0; i < sets; i++)
        model_set(random_entry(), random_delay());
    wheel_check(&m.wheel);
    wheel_advance(&m.wheel, m.now, on_fire, &m);
    wheel_check(&m.wheel);
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < TIMERS; i++) {
        struct entry *e = &m.entries[i];
        assert_int_equal(timer_is_set(&e->timer), e->set);
        if (!e->set)
            continue;
        assert_true(e->late > m.now); /* else it should have fired */
        next = MIN(next, e->late);
    }
    int wait = wheel_next_ms(&m.wheel, m.now);
    if (next == UINT64_MAX) {
        assert_int_equal(wait, -1);
    } else {
        assert_true(wait > 0); /* 0 would spin without firing anything */
        assert_true(m.now + (uint64_t)wait <= next);
    }
}

static void model_advance(uint64_t ms)
{
    model_advance_setting(ms, 0);
}

static uint64_t random_step(void)
{
    static const uint32_t most[] = {4, 4, 30, 300, 5000, 300000, 20000000, 90000000};
    return unit_random(&m.seed) % most[unit_random(&m.seed) % ARRAY_LEN(most)];
}

static void model_run(unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        unsigned what = unit_random(&m.seed) % 10;
        if (what < 6)
            model_set(random_entry(), random_delay());
        else if (what < 7)
            model_cancel(random_entry());
        else
            model_advance_setting(random_step(), what < 8 ? 3 : 0);
        wheel_check(&m.wheel);
    }
    for (int i = 0; i < TIMERS; i++)
        model_cancel(&m.entries[i]);
    wheel_check(&m.wheel);
    assert_int_equal(wheel_next_ms(&m.wheel, m.now), -1);
}

static void a_model_agrees_over_random_use(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        model_init(seed * 1000003, seed);
        model_run(4000);
        assert_true(m.fired > 100);
    }
}

static void a_model_agrees_where_firing_changes_timers(void **state)
{
    (void)state;
    model_init(17, 99);
    m.meddle = 40;
    model_run(6000);
    assert_true(m.fired > 100);
}

/* As the loop does: sleep for what next_ms says, advance, and so on; each timer fires in time. */
static void following_next_ms_misses_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        model_init(seed, seed + 50);
        for (int i = 0; i < TIMERS; i++)
            model_set(&m.entries[i], random_delay());
        unsigned turns = 0;
        int wait;
        while ((wait = wheel_next_ms(&m.wheel, m.now)) >= 0) {
            model_advance((uint64_t)wait);
            assert_true(++turns < TIMERS * (WHEEL_LEVELS + 1));
        }
        assert_int_equal(m.fired, TIMERS);
    }
}

static void delays_around_each_level_are_exact(void **state)
{
    (void)state;
    static const uint64_t edges[] = {0, 64, 4096, 262144, 16777215};
    for (uint32_t lead = 0; lead < 130; lead += 13)
        for (size_t i = 0; i < ARRAY_LEN(edges); i++)
            for (int off = -3; off <= 3; off++) {
                int64_t ticks = (int64_t)edges[i] + off;
                if (ticks < 0)
                    continue;
                model_init(0, 1);
                model_advance(lead * WHEEL_TICK_MS);
                uint64_t delay = (uint64_t)ticks * WHEEL_TICK_MS;
                model_set(&m.entries[0], delay);
                uint64_t late = m.entries[0].late;
                model_advance(late - m.now - 1);
                assert_int_equal(m.fired, 0);
                model_advance(1);
                assert_int_equal(m.fired, 1);
            }
}

static void cancelling_what_is_not_set_does_nothing(void **state)
{
    (void)state;
    model_init(0, 1);
    model_cancel(&m.entries[0]);
    model_set(&m.entries[1], 100);
    model_cancel(&m.entries[0]);
    model_advance(200);
    assert_int_equal(m.fired, 1);
    model_cancel(&m.entries[1]);
}

/* Ticks are 32 bits wide: they wrap after 198 days. */
static void timers_work_across_the_wrap_of_ticks(void **state)
{
    (void)state;
    static const uint64_t delays[] = {0, 40, 4000, 60000, 3600000};
    model_init(0, 7);
    m.now = ((UINT64_C(1) << 32) - 300) * WHEEL_TICK_MS;
    wheel_advance(&m.wheel, m.now, on_fire, &m);
    for (size_t i = 0; i < ARRAY_LEN(delays); i++)
        wheel_set(&m.wheel, &m.entries[i].timer, delays[i]);
    uint64_t start = m.now;
    for (size_t i = 0; i < ARRAY_LEN(delays); i++) {
        m.entries[i].set = true;
        m.entries[i].late = UINT64_MAX; /* the model's time does not wrap: looked at here */
        for (unsigned turns = 0; timer_is_set(&m.entries[i].timer); turns++) {
            int wait = wheel_next_ms(&m.wheel, m.now);
            assert_true(turns < 100);
            assert_true(wait > 0); /* 0 for ever: a loop that spins */
            m.now += (uint64_t)wait;
            wheel_advance(&m.wheel, m.now, on_fire, &m);
            m.last = 0;
        }
        assert_true(m.now >= start + delays[i]);
        assert_true(m.now <= start + delays[i] + 2 * WHEEL_TICK_MS);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_agrees_over_random_use),
        cmocka_unit_test(a_model_agrees_where_firing_changes_timers),
        cmocka_unit_test(following_next_ms_misses_nothing),
        cmocka_unit_test(delays_around_each_level_are_exact),
        cmocka_unit_test(cancelling_what_is_not_set_does_nothing),
        cmocka_unit_test(timers_work_across_the_wrap_of_ticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
