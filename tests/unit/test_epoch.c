/* loop/epoch: what is retired is freed when, and only when, no loop can be reading it. */
#include "unit.h"

#include <pthread.h>
#include <sched.h>

#include "base/buf.h"
#include "loop/epoch.h"

struct table {
    struct epoch_retired retired;
    uint64_t a, b; /* the same, while it is there */
};

static unsigned freed;

static void table_free(struct epoch_retired *r)
{
    struct table *t = CONTAINER_OF(r, struct table, retired);
    t->a = 0;
    t->b = 1;
    mem_free(t, sizeof(*t));
    freed++;
}

static struct table *table_new(uint64_t n)
{
    struct table *t = mem_alloc(sizeof(*t));
    assert_non_null(t);
    *t = (struct table){.a = n, .b = n};
    return t;
}

static void it_waits_for_each_loop_that_works(void **state)
{
    (void)state;
    static struct epochs e;
    epochs_init(&e, 3);
    freed = 0;
    epoch_retire(&e, &table_new(1)->retired, table_free);
    assert_int_equal(epoch_reclaim(&e), 0); /* all rest */
    assert_int_equal(freed, 1);

    epoch_work(&e, 0);
    epoch_work(&e, 2);
    epoch_retire(&e, &table_new(2)->retired, table_free);
    assert_int_equal(epoch_reclaim(&e), 1);
    epoch_rest(&e, 0);
    epoch_work(&e, 0);
    assert_int_equal(epoch_reclaim(&e), 1); /* 2 has not rested since */
    epoch_work(&e, 1);                      /* it began afterwards */
    epoch_retire(&e, &table_new(3)->retired, table_free);
    epoch_rest(&e, 2);
    assert_int_equal(epoch_reclaim(&e), 1); /* the second is seen by 0 and 1 */
    assert_int_equal(freed, 2);
    epoch_rest(&e, 1);
    epoch_rest(&e, 0);
    assert_int_equal(epoch_reclaim(&e), 0);
    assert_int_equal(freed, 3);

    epoch_work(&e, 1);
    epoch_retire(&e, &table_new(4)->retired, table_free);
    epochs_done(&e);
    assert_int_equal(freed, 4);
    assert_int_equal(mem_buffer_bytes(), 0);
}

enum { READERS = 6, ROUNDS = 20000 };

static struct epochs shared;
static _Atomic(struct table *) current;
static _Atomic bool over;
static _Atomic uint64_t looks;

static void *reader(void *arg)
{
    uint32_t loop = (uint32_t)(uintptr_t)arg;
    uint64_t last = 0;
    thread_number = (uint8_t)(loop + 1);
    while (!atomic_load(&over)) {
        epoch_work(&shared, loop);
        for (int i = 0; i < 5; i++) {
            const struct table *t = atomic_load(&current);
            sched_yield();
            /* A table that was freed meanwhile would differ; ASan and TSan would say so as well. */
            if (t->a != t->b || t->a < last)
                return (void *)1;
            last = t->a;
            atomic_fetch_add(&looks, 1);
        }
        epoch_rest(&shared, loop);
    }
    return NULL;
}

static void readers_never_see_what_was_freed(void **state)
{
    (void)state;
    pthread_t threads[READERS];
    uint32_t most = 0;
    epochs_init(&shared, READERS);
    atomic_store(&current, table_new(0));
    freed = 0;
    for (uintptr_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, (void *)i), 0);
    while (atomic_load(&looks) < 100)
        sched_yield();
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        struct table *old = atomic_exchange(&current, table_new(n));
        epoch_retire(&shared, &old->retired, table_free);
        uint32_t left = epoch_reclaim(&shared);
        most = MAX(most, left);
        if (left > 100)
            sched_yield();
    }
    while (atomic_load(&looks) < 1000)
        sched_yield();
    atomic_store(&over, true);
    for (int i = 0; i < READERS; i++) {
        void *bad;
        assert_int_equal(pthread_join(threads[i], &bad), 0);
        assert_null(bad);
    }
    assert_int_equal(epoch_reclaim(&shared), 0);
    assert_int_equal(freed, ROUNDS);
    assert_true(most > 0); /* some had to wait */
    table_free(&atomic_load(&current)->retired);
    epochs_done(&shared);
    assert_int_equal(mem_buffer_bytes(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_waits_for_each_loop_that_works),
        cmocka_unit_test(readers_never_see_what_was_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
