/* base/pool: handles that outlive what they name. */
#include "unit.h"

#include "base/pool.h"

struct item {
    struct pool_slot slot;
    uint64_t payload[5];
};

struct handle {
    uint32_t index, generation;
};

static struct handle handle_of(const struct item *i)
{
    return (struct handle){i->slot.index, i->slot.generation};
}

static void handles_of_freed_slots_resolve_to_null(void **state)
{
    (void)state;
    struct pool p;
    pool_init(&p, sizeof(struct item), 10);
    struct item *a = pool_alloc(&p), *b = pool_alloc(&p);
    assert_non_null(a);
    assert_non_null(b);
    struct handle ha = handle_of(a), hb = handle_of(b);
    assert_ptr_equal(pool_get(&p, ha.index, ha.generation), a);
    pool_free(&p, a);
    assert_null(pool_get(&p, ha.index, ha.generation));
    assert_null(pool_at(&p, ha.index));
    assert_ptr_equal(pool_get(&p, hb.index, hb.generation), b);
    struct item *c = pool_alloc(&p);
    assert_ptr_equal(c, a);                             /* reused, */
    assert_null(pool_get(&p, ha.index, ha.generation)); /* but another one */
    assert_ptr_equal(pool_get(&p, ha.index, c->slot.generation), c);
    pool_done(&p);
}

static void generations_are_odd_in_use_and_never_repeat(void **state)
{
    (void)state;
    struct pool p;
    pool_init(&p, sizeof(struct item), 1);
    uint32_t last = 0;
    for (int i = 0; i < 1000; i++) {
        struct item *a = pool_alloc(&p);
        assert_non_null(a);
        assert_int_equal(a->slot.index, 0);
        assert_true(a->slot.generation & 1);
        assert_true(a->slot.generation > last);
        last = a->slot.generation;
        pool_free(&p, a);
        assert_false(a->slot.generation & 1);
        assert_null(pool_get(&p, 0, a->slot.generation)); /* free, whatever is asked for */
    }
    pool_done(&p);
}

static void indices_out_of_range_resolve_to_null(void **state)
{
    (void)state;
    struct pool p;
    pool_init(&p, sizeof(struct item), 1000);
    assert_null(pool_at(&p, 0));
    assert_null(pool_get(&p, 0, 0));
    struct item *a = pool_alloc(&p);
    assert_non_null(a);
    static const uint32_t far[] = {1, POOL_CHUNK, POOL_CHUNK + 1, 1000, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(far); i++) {
        assert_null(pool_at(&p, far[i]));
        assert_null(pool_get(&p, far[i], 1));
        assert_null(pool_get(&p, far[i], 0));
    }
    pool_done(&p);
}

static void gives_no_more_than_its_maximum(void **state)
{
    (void)state;
    static const uint32_t maxima[] = {0, 1, POOL_CHUNK - 1, POOL_CHUNK, POOL_CHUNK + 1, 1000};
    for (size_t m = 0; m < ARRAY_LEN(maxima); m++) {
        struct pool p;
        pool_init(&p, sizeof(struct item), maxima[m]);
        struct item *last = NULL;
        for (uint32_t i = 0; i < maxima[m]; i++) {
            last = pool_alloc(&p);
            assert_non_null(last);
            assert_int_equal(last->slot.index, i);
        }
        assert_null(pool_alloc(&p));
        assert_int_equal(p.in_use, maxima[m]);
        if (last) {
            pool_free(&p, last);
            assert_ptr_equal(pool_alloc(&p), last);
            assert_null(pool_alloc(&p));
        }
        pool_done(&p);
    }
}

static void items_are_zeroed_whatever_was_there(void **state)
{
    (void)state;
    struct pool p;
    static const uint64_t zero[5];
    pool_init(&p, sizeof(struct item), 2);
    for (int i = 0; i < 3; i++) {
        struct item *a = pool_alloc(&p);
        assert_non_null(a);
        assert_memory_equal(a->payload, zero, sizeof(zero));
        memset(a->payload, 0xee, sizeof(a->payload));
        pool_free(&p, a);
    }
    pool_done(&p);
}

static void items_stay_where_they_are_while_it_grows(void **state)
{
    (void)state;
    struct pool p;
    enum { N = POOL_CHUNK * 5 };
    static struct item *items[N];
    pool_init(&p, sizeof(struct item), N);
    for (uint32_t i = 0; i < N; i++) {
        items[i] = pool_alloc(&p);
        assert_non_null(items[i]);
        items[i]->payload[0] = i;
    }
    for (uint32_t i = 0; i < N; i++) {
        assert_ptr_equal(pool_at(&p, i), items[i]);
        assert_int_equal(items[i]->payload[0], i);
    }
    pool_done(&p);
}

static void a_model_agrees_over_random_use(void **state)
{
    (void)state;
    enum { N = 600, STEPS = 40000 };
    static struct {
        struct item *item;
        struct handle handle;
    } live[N];
    static struct handle dead[STEPS];
    uint64_t seed = 1;
    uint32_t n = 0, n_dead = 0;
    struct pool p;
    pool_init(&p, sizeof(struct item), N);
    for (int i = 0; i < STEPS; i++) {
        if (unit_random(&seed) % 100 < 52) {
            struct item *a = pool_alloc(&p);
            assert_int_equal(a == NULL, n == N);
            if (!a)
                continue;
            live[n].item = a;
            live[n++].handle = handle_of(a);
        } else if (n) {
            uint32_t k = unit_random(&seed) % n;
            pool_free(&p, live[k].item);
            dead[n_dead++] = live[k].handle;
            live[k] = live[--n];
        }
        assert_int_equal(p.in_use, n);
        if (n_dead) {
            struct handle h = dead[unit_random(&seed) % n_dead];
            assert_null(pool_get(&p, h.index, h.generation));
        }
        if (n) {
            uint32_t k = unit_random(&seed) % n;
            assert_ptr_equal(pool_get(&p, live[k].handle.index, live[k].handle.generation),
                             live[k].item);
        }
    }
    pool_done(&p);
}

static void handles_of_another_process_are_taken_over(void **state)
{
    (void)state;
    struct pool old, p;
    struct handle live[400];
    uint32_t n = 0, free_n = 0;
    uint64_t random = 7;
    pool_init(&old, sizeof(struct item), 1000);
    pool_init(&p, sizeof(struct item), 1000);
    for (int i = 0; i < 700; i++)
        assert_non_null(pool_alloc(&old));
    for (uint32_t i = 0; i < 700; i++) /* some are there for the second time */
        if (unit_random(&random) % 3)
            pool_free(&old, pool_at(&old, i));
    for (int i = 0; i < 200; i++)
        assert_non_null(pool_alloc(&old));
    for (uint32_t i = 0; i < 700; i++) {
        struct item *item = pool_at(&old, i);
        free_n += !item;
        if (!item || i < 300)
            continue;
        live[n++ % 400] = handle_of(item);
        struct item *taken = pool_adopt(&p, i, item->slot.generation);
        assert_non_null(taken);
        assert_int_equal(taken->payload[4], 0);
        assert_null(pool_adopt(&p, i, item->slot.generation)); /* once */
    }
    assert_true(n > 50 && n < 400 && free_n > 100);
    assert_null(pool_adopt(&p, 3, 0));
    assert_null(pool_adopt(&p, 3, 2)); /* of no object */
    pool_settle(&p, pool_generation(&old));
    assert_int_equal(p.in_use, n);
    for (uint32_t i = 0; i < n; i++)
        assert_non_null(pool_get(&p, live[i].index, live[i].generation));
    while (p.in_use < 1000) { /* new ones are others than any that there was */
        struct item *item = pool_alloc(&p);
        assert_non_null(item);
        assert_true(item->slot.generation > pool_generation(&old));
    }
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(handle_of(pool_at(&p, live[i].index)).generation, live[i].generation);
    pool_done(&old);
    pool_done(&p);
}

static void handles_are_new_where_nothing_was_handed_over(void **state)
{
    (void)state;
    struct pool old, p;
    pool_init(&old, sizeof(struct item), 10);
    pool_init(&p, sizeof(struct item), 10);
    pool_free(&old, pool_alloc(&old));
    struct item *stays = pool_alloc(&old); /* what is in use there counts too */
    pool_settle(&p, pool_generation(&old));
    assert_true(((struct item *)pool_alloc(&p))->slot.generation > stays->slot.generation);
    assert_true(pool_generation(&p) > pool_generation(&old));
    pool_done(&old);
    pool_done(&p);
}

static void what_is_held_is_counted(void **state)
{
    (void)state;
    uint64_t before = pool_bytes();
    struct pool p;
    pool_init(&p, sizeof(struct item), 10000);
    assert_int_equal(pool_bytes(), before);
    for (int i = 0; i < 1000; i++)
        assert_non_null(pool_alloc(&p));
    assert_true(pool_bytes() >= before + 1000 * sizeof(struct item));
    assert_true(pool_bytes() <= before + 2 * 1024 * sizeof(struct item));
    pool_done(&p);
    assert_int_equal(pool_bytes(), before);
    struct item *a = pool_alloc(&p); /* usable again */
    assert_non_null(a);
    pool_done(&p);
    pool_done(&p);
    assert_int_equal(pool_bytes(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handles_of_freed_slots_resolve_to_null),
        cmocka_unit_test(generations_are_odd_in_use_and_never_repeat),
        cmocka_unit_test(indices_out_of_range_resolve_to_null),
        cmocka_unit_test(gives_no_more_than_its_maximum),
        cmocka_unit_test(items_are_zeroed_whatever_was_there),
        cmocka_unit_test(items_stay_where_they_are_while_it_grows),
        cmocka_unit_test(a_model_agrees_over_random_use),
        cmocka_unit_test(handles_of_another_process_are_taken_over),
        cmocka_unit_test(handles_are_new_where_nothing_was_handed_over),
        cmocka_unit_test(what_is_held_is_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
