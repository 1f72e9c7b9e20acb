/* loop/queue: bounds, order, wake-ups; and more producers than cores. */
#include "unit.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "base/buf.h"
#include "loop/queue.h"

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void what_is_posted_is_taken_in_order(void **state)
{
    (void)state;
    static int items[5];
    struct queue q;
    assert_err(queue_init(&q, 5, 100), ERR_NONE);
    assert_null(queue_take(&q));
    for (int round = 0; round < 1000; round++) {
        int n = round % 5 + 1;
        for (int i = 0; i < n; i++)
            assert_true(queue_post(&q, &items[i], 3));
        for (int i = 0; i < n; i++) {
            assert_ptr_equal(queue_take(&q), &items[i]);
            queue_taken(&q, 3);
        }
        assert_null(queue_take(&q));
    }
    queue_done(&q);
    assert_int_equal(mem_buffer_bytes(), 0);
}

static void it_is_bounded_in_items_and_in_bytes(void **state)
{
    (void)state;
    static int items[4];
    struct queue q;
    assert_err(queue_init(&q, 3, 100), ERR_NONE);
    for (int i = 0; i < 3; i++)
        assert_true(queue_post(&q, &items[i], 0));
    for (int i = 0; i < 5; i++)
        assert_false(queue_post(&q, &items[3], 0));
    assert_ptr_equal(queue_take(&q), &items[0]);
    assert_true(queue_post(&q, &items[3], 0)); /* the place is free again */
    for (int i = 1; i < 4; i++)
        assert_ptr_equal(queue_take(&q), &items[i]);
    assert_null(queue_take(&q));

    assert_true(queue_room(&q, 100));
    assert_false(queue_room(&q, 101));
    assert_false(queue_post(&q, &items[0], 101));
    assert_true(queue_post(&q, &items[0], 60));
    assert_false(queue_post(&q, &items[1], 41));
    assert_true(queue_post(&q, &items[1], 40));
    assert_false(queue_room(&q, 1));
    assert_ptr_equal(queue_take(&q), &items[0]);
    assert_false(queue_post(&q, &items[2], 1)); /* taken, and not given back yet */
    queue_taken(&q, 60);
    assert_true(queue_post(&q, &items[2], 60));
    queue_done(&q);
}

static void it_wakes_once_for_all_that_comes_before_a_look(void **state)
{
    (void)state;
    static int item;
    uint64_t n;
    struct queue q;
    assert_err(queue_init(&q, 10, 100), ERR_NONE);
    assert_false(readable(q.wake));
    for (int i = 0; i < 4; i++)
        assert_true(queue_post(&q, &item, 1));
    assert_int_equal(read(q.wake, &n, sizeof(n)), sizeof(n));
    assert_int_equal(n, 1);
    assert_false(queue_post(&q, &item, 97)); /* full: nothing to wake for */
    assert_false(readable(q.wake));
    queue_look(&q);
    assert_true(queue_post(&q, &item, 1));
    assert_int_equal(read(q.wake, &n, sizeof(n)), sizeof(n));
    queue_look(&q);
    queue_again(&q);
    queue_again(&q);
    assert_int_equal(read(q.wake, &n, sizeof(n)), sizeof(n));
    assert_int_equal(n, 1);
    queue_done(&q);
}

enum { PRODUCERS = 16, EACH = 20000, PLACES = 64 };

struct producer {
    pthread_t thread;
    struct queue *q;
    uint32_t id, refused;
};

/* An item is its producer and its number, in a pointer. */
static void *produce(void *arg)
{
    struct producer *p = arg;
    for (uint32_t i = 1; i <= EACH;) {
        void *item = (void *)(uintptr_t)((uint64_t)p->id << 32 | i);
        if (queue_post(p->q, item, 1)) {
            i++;
        } else {
            p->refused++;
            sched_yield();
        }
    }
    return NULL;
}

/* The consumer sleeps where nothing is left: were a wake-up lost, the test would not end. */
static void nothing_is_lost_doubled_or_out_of_order_with_more_producers_than_cores(void **state)
{
    (void)state;
    struct queue q;
    static struct producer producers[PRODUCERS];
    static uint32_t last[PRODUCERS];
    uint64_t taken = 0, n, refused = 0, sleeps = 0;
    assert_err(queue_init(&q, PLACES, 1 << 20), ERR_NONE);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.q = &q, .id = i};
        assert_int_equal(pthread_create(&producers[i].thread, NULL, produce, &producers[i]), 0);
    }
    while (taken < (uint64_t)PRODUCERS * EACH) {
        struct pollfd p = {.fd = q.wake, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 10000), 1);
        assert_int_equal(read(q.wake, &n, sizeof(n)), sizeof(n));
        sleeps++;
        queue_look(&q);
        for (void *item; (item = queue_take(&q)) != NULL; taken++) {
            uint64_t word = (uintptr_t)item;
            queue_taken(&q, 1);
            assert_true(word >> 32 < PRODUCERS);
            assert_int_equal((uint32_t)word, ++last[word >> 32]);
        }
    }
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        assert_int_equal(pthread_join(producers[i].thread, NULL), 0);
        assert_int_equal(last[i], EACH);
        refused += producers[i].refused;
    }
    assert_null(queue_take(&q));
    assert_true(queue_room(&q, 1 << 20)); /* every byte was given back */
    assert_true(refused > 0);             /* its bound was reached */
    for (uint32_t i = 0; i < PLACES; i++) /* and every place is there again */
        assert_true(queue_post(&q, &q, 0));
    assert_false(queue_post(&q, &q, 0));
    queue_done(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_posted_is_taken_in_order),
        cmocka_unit_test(it_is_bounded_in_items_and_in_bytes),
        cmocka_unit_test(it_wakes_once_for_all_that_comes_before_a_look),
        cmocka_unit_test(nothing_is_lost_doubled_or_out_of_order_with_more_producers_than_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
