/* loop/loop: the order of an iteration, and time. */
#include "unit.h"

#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/metrics.h"
#include "loop/loop.h"

static struct loop loop;
static struct timer timer;
static char trace[64]; /* a letter for each thing that happened */
static unsigned iterations, last;
static uint64_t set_at, fired_at;
static int fd;

static void note(char c)
{
    size_t n = strlen(trace);
    assert_true(n + 1 < sizeof(trace));
    trace[n] = c;
    trace[n + 1] = 0;
}

static int make_loop(void **state)
{
    (void)state;
    memset(trace, 0, sizeof(trace));
    memset(&timer, 0, sizeof(timer));
    iterations = last = 0;
    set_at = fired_at = 0;
    fd = -1;
    return loop_init(&loop) ? -1 : 0;
}

static int drop_loop(void **state)
{
    (void)state;
    loop_done(&loop);
    if (fd >= 0)
        close(fd);
    return 0;
}

static bool stop_after(void *arg)
{
    assert_ptr_equal(arg, &last);
    note('p');
    loop.stop = ++iterations >= last;
    return false;
}

static bool stop_after_more(void *arg)
{
    stop_after(arg);
    return true;
}

static void on_ready(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    assert_ptr_equal(arg, trace);
    assert_int_equal(slot, 0xfffffe);
    assert_int_equal(generation, 0xfedcba98);
    assert_true(ready & SYS_IN);
    note('r');
}

static void on_timer(void *arg, struct timer *t)
{
    assert_ptr_equal(arg, trace);
    assert_ptr_equal(t, &timer);
    assert_int_equal(t->kind & 0xff, LOOP_CONTROL);
    note('t');
}

static bool second_phase(void *arg)
{
    (void)arg;
    note('q');
    return false;
}

static void an_iteration_dispatches_fires_then_runs_phases(void **state)
{
    (void)state;
    fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(fd >= 0);
    loop_on(&loop, LOOP_CONTROL, on_ready, on_timer, trace);
    loop_phase(&loop, stop_after, &last);
    loop_phase(&loop, second_phase, NULL);
    uint64_t data = loop_data(LOOP_CONTROL, 0xfffffe, 0xfedcba98);
    assert_int_equal(sys_poller_add(loop.poller, fd, SYS_IN, data), 0);
    timer.kind = LOOP_CONTROL | 0xab00; /* the owner's bits above the kind do not matter */
    wheel_set(&loop.wheel, &timer, 0);
    last = 1;
    loop_run(&loop);
    for (int i = 0; i < 20 && !strchr(trace, 't'); i++) { /* until a tick has passed */
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
        trace[0] = 0;
        loop.stop = false;
        loop_run(&loop);
    }
    assert_string_equal(trace, "rtpq");
}

/* Nothing is ready and no timer is set: only "there is more" keeps it from waiting for ever. */
static void more_to_do_does_not_wait(void **state)
{
    (void)state;
    timer.kind = LOOP_CONTROL;
    loop_on(&loop, LOOP_CONTROL, on_ready, on_timer, trace);
    loop_phase(&loop, stop_after_more, &last);
    wheel_set(&loop.wheel, &timer, 1); /* for the first wait, which knows of no more */
    last = 4;
    loop_run(&loop);
    assert_int_equal(iterations, 4);
    assert_int_equal(strlen(trace), 5);
}

static void stop_before_running_runs_nothing(void **state)
{
    (void)state;
    loop_phase(&loop, stop_after, &last);
    loop.stop = true;
    loop_run(&loop);
    assert_string_equal(trace, "");
}

static void fired(void *arg, struct timer *t)
{
    (void)arg;
    (void)t;
    fired_at = sys_now_ns();
    loop.stop = true;
}

static void set_timer(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)arg;
    (void)slot;
    (void)generation;
    (void)ready;
    uint64_t n;
    assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
    timer.kind = LOOP_CONTROL;
    wheel_set(&loop.wheel, &timer, 20);
    set_at = loop.now_ns;
}

/* The loop slept for 40 ms with no timer; what wakes it sets one of 20 ms. */
static void a_timer_set_after_a_long_wait_is_not_early(void **state)
{
    (void)state;
    struct itimerspec in = {.it_value = {0, 40 * 1000 * 1000}};
    fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    assert_true(fd >= 0);
    loop_on(&loop, LOOP_CONTROL, set_timer, fired, NULL);
    assert_int_equal(sys_poller_add(loop.poller, fd, SYS_IN, loop_data(LOOP_CONTROL, 0, 0)), 0);
    assert_int_equal(timerfd_settime(fd, 0, &in, NULL), 0);
    loop_run(&loop);
    assert_true(set_at > 0);
    assert_true(fired_at >= set_at + 20 * 1000 * 1000);
}

static void time_is_read_once_an_iteration(void **state)
{
    (void)state;
    assert_int_equal(loop.now_ms, loop.now_ns / 1000000);
    uint64_t before = sys_now_ns();
    timer.kind = LOOP_CONTROL;
    loop_on(&loop, LOOP_CONTROL, on_ready, fired, NULL);
    wheel_set(&loop.wheel, &timer, 5);
    loop_run(&loop);
    assert_true(loop.now_ns >= before + 5 * 1000 * 1000);
    assert_true(loop.now_ns <= fired_at);
    assert_int_equal(loop.now_ms, loop.now_ns / 1000000);
    assert_true(metrics.loop_away_max_seconds > 0);
}

static void spin_ms(uint64_t ms)
{
    for (uint64_t end = sys_now_ns() + ms * 1000000; sys_now_ns() < end;)
        ;
}

/* In turns: all the time that each took counts, not the longest piece; of guests' time nobody's. */
static bool busy_phase(void *arg)
{
    (void)arg;
    for (int i = 0; i < 3; i++) {
        loop_cause(&loop, CAUSE_tls);
        spin_ms(20);
        loop_cause(&loop, CAUSE_ws);
        spin_ms(1);
    }
    spin_ms(10);
    loop_cause(&loop, CAUSE_admin);
    uint64_t before = sys_now_ns();
    spin_ms(iterations ? 500 : 20);
    metrics.guest_cpu_seconds_total += sys_now_ns() - before;
    return true;
}

static uint64_t iterations_by(enum cause cause)
{
    uint64_t sum = 0;
    for (int i = 0; i <= METRICS_BUCKETS_pause; i++)
        sum += metrics.pause_seconds[cause][i];
    return sum;
}

static void an_iteration_is_its_largest_causes(void **state)
{
    (void)state;
    memset(&metrics, 0, sizeof(metrics));
    loop_phase(&loop, busy_phase, NULL);
    loop_phase(&loop, stop_after, &last);
    timer.kind = LOOP_CONTROL;
    loop_on(&loop, LOOP_CONTROL, on_ready, on_timer, trace);
    wheel_set(&loop.wheel, &timer, 1);
    last = 2;
    loop_run(&loop);
    assert_int_equal(iterations_by(CAUSE_tls), 1);
    assert_int_equal(iterations_by(CAUSE_guest), 1); /* the second one */
    assert_int_equal(iterations_by(CAUSE_ws) + iterations_by(CAUSE_admin), 0);
    assert_true(metrics.pause_seconds[CAUSE_tls][METRICS_BUCKETS_pause + 1] >= 93000000);
}

static void data_words_keep_kind_slot_and_generation(void **state)
{
    (void)state;
    assert_int_equal(loop_data(LOOP_CONN, 0, 0), (uint64_t)LOOP_CONN << 56);
    assert_int_equal(loop_data(LOOP_LISTENER, 0xffffff, 0xffffffff),
                     (uint64_t)LOOP_LISTENER << 56 | 0xffffffffffffff);
    assert_int_equal(loop_data(LOOP_CONTROL, 1, 2), (uint64_t)LOOP_CONTROL << 56 | 0x100000002);
}

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, make_loop, drop_loop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(an_iteration_dispatches_fires_then_runs_phases),
        LOOP_TEST(more_to_do_does_not_wait),
        LOOP_TEST(stop_before_running_runs_nothing),
        LOOP_TEST(a_timer_set_after_a_long_wait_is_not_early),
        LOOP_TEST(time_is_read_once_an_iteration),
        LOOP_TEST(an_iteration_is_its_largest_causes),
        LOOP_TEST(data_words_keep_kind_slot_and_generation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
