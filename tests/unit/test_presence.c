/* hub/presence: against a model; and while threads ask, the table grows under them. */
#include "unit.h"

#include <pthread.h>
#include <sched.h>

#include "base/buf.h"
#include "hub/presence.h"

enum { LOOPS = 5, TOPICS = 700 };

static struct epochs epochs;
static struct presence presence;

static int setup(void **state)
{
    (void)state;
    epochs_init(&epochs, LOOPS);
    presence_init(&presence, &epochs);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    thread_number = 0;
    presence_done(&presence);
    epochs_done(&epochs);
    return mem_buffer_bytes() ? -1 : 0;
}

/* Few bits differ, and one of them is the hash that an empty place has. */
static uint64_t hash_of(uint32_t topic)
{
    return topic ? (uint64_t)topic << (topic % 3 * 20) : 0;
}

static void nobody_is_in_a_topic_that_nobody_joined(void **state)
{
    (void)state;
    uint32_t members = 9;
    assert_int_equal(presence_find(&presence, 1, &members), 0);
    assert_int_equal(members, 0);
    assert_err(presence_join(&presence, 1), ERR_NONE);
    assert_int_equal(presence_find(&presence, 2, &members), 0);
    assert_int_equal(presence_find(&presence, 1, &members), 1);
    assert_int_equal(members, 1);
    presence_leave(&presence, 1, true);
    assert_int_equal(presence_find(&presence, 1, &members), 0);
    assert_int_equal(members, 0);
}

static void many_topics_against_a_model(void **state)
{
    (void)state;
    static uint32_t in[LOOPS][TOPICS];
    uint64_t seed = 7;
    uint32_t count = 0;
    for (int step = 0; step < 60000; step++) {
        uint32_t loop = unit_random(&seed) % LOOPS, topic = unit_random(&seed) % TOPICS, all = 0;
        uint64_t loops = 0;
        thread_number = (uint8_t)loop;
        if (step % 20000 < 8000 || !in[loop][topic]) {
            assert_err(presence_join(&presence, hash_of(topic)), ERR_NONE);
            in[loop][topic]++;
        } else {
            presence_leave(&presence, hash_of(topic), in[loop][topic] == 1);
            in[loop][topic]--;
        }
        topic = unit_random(&seed) % TOPICS;
        for (uint32_t i = 0; i < LOOPS; i++) {
            all += in[i][topic];
            loops |= in[i][topic] ? UINT64_C(1) << i : 0;
        }
        uint32_t members;
        assert_int_equal(presence_find(&presence, hash_of(topic), &members), loops);
        assert_int_equal(members, all);
    }
    for (uint32_t topic = 0; topic < TOPICS; topic++) {
        uint32_t all = 0;
        for (uint32_t i = 0; i < LOOPS; i++)
            all += in[i][topic];
        count += all > 0;
    }
    assert_int_equal(atomic_load(&presence.count), count);
}

static void names_that_come_once_do_not_fill_it(void **state)
{
    (void)state;
    assert_err(presence_join(&presence, 1), ERR_NONE);
    for (uint64_t i = 2; i < 100000; i++) {
        assert_err(presence_join(&presence, i * 0x9e3779b97f4a7c15), ERR_NONE);
        presence_leave(&presence, i * 0x9e3779b97f4a7c15, true);
    }
    assert_true(mem_buffer_bytes() < 16 << 10);
}

static _Atomic bool over;

static void *churn(void *arg)
{
    uint32_t loop = (uint32_t)(uintptr_t)arg, members;
    uint64_t seed = loop + 1;
    thread_number = (uint8_t)loop;
    while (!atomic_load(&over)) {
        uint64_t own = (uint64_t)(unit_random(&seed) % 5000 + 2) << 8 | loop;
        epoch_work(&epochs, loop);
        bool right = !presence_join(&presence, own) &&
                     presence_find(&presence, own, &members) == UINT64_C(1) << loop && members == 1;
        presence_leave(&presence, own, true);
        /* One in which the first loop always is, wherever the table is by now. */
        right = right && presence_find(&presence, 1, &members) & 1 && members > 0;
        epoch_rest(&epochs, loop);
        if (!right)
            return (void *)1;
    }
    return NULL;
}

static void what_is_there_is_found_while_the_table_is_replaced(void **state)
{
    (void)state;
    pthread_t threads[LOOPS];
    assert_err(presence_join(&presence, 1), ERR_NONE);
    for (uintptr_t i = 1; i < LOOPS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)i), 0);
    for (uint64_t i = 1; i <= 3000; i++) { /* grows it to thousands of places */
        assert_err(presence_join(&presence, i << 40), ERR_NONE);
        if (i % 100 == 0)
            sched_yield();
    }
    atomic_store(&over, true);
    for (int i = 1; i < LOOPS; i++) {
        void *bad;
        assert_int_equal(pthread_join(threads[i], &bad), 0);
        assert_null(bad);
    }
    assert_int_equal(atomic_load(&presence.count), 3001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nobody_is_in_a_topic_that_nobody_joined, setup, teardown),
        cmocka_unit_test_setup_teardown(many_topics_against_a_model, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_come_once_do_not_fill_it, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_there_is_found_while_the_table_is_replaced, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
