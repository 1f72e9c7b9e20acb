/* net/peers: counts, rates, and a table that stays as large as it may be. */
#include "unit.h"

#include "base/mem.h"
#include "base/metrics.h"
#include "net/peers.h"

static struct peers peers;

static struct address v4(uint32_t n)
{
    struct address a = {{[10] = 0xff, [11] = 0xff}, 0};
    for (int i = 0; i < 4; i++)
        a.ip[12 + i] = (uint8_t)(n >> (24 - 8 * i));
    return a;
}

static void begin(uint32_t most, uint32_t connections, uint32_t rate, uint32_t burst)
{
    const struct peers_limits limits = {most, connections, rate, burst};
    memset(&metrics, 0, sizeof(metrics));
    assert_err(peers_init(&peers, &limits), ERR_NONE);
}

static void end(void)
{
    peers_check(&peers);
    peers_done(&peers);
    assert_int_equal(mem_buffer_bytes(), 0);
}

static void connections_are_counted(void **state)
{
    (void)state;
    begin(16, 2, 0, 0);
    struct address a = v4(1), b = v4(2);
    uint32_t one = peers_join(&peers, &a), two = peers_join(&peers, &a);
    assert_true(one && one == two);
    assert_int_equal(peers_join(&peers, &a), 0);
    uint32_t other = peers_join(&peers, &b);
    assert_true(other && other != one);
    peers_leave(&peers, one);
    assert_int_equal(peers_join(&peers, &a), one);
    assert_int_equal(peers_join(&peers, &a), 0);
    peers_leave(&peers, 0);
    assert_int_equal(metrics.peers_known, 2);
    end();
}

static void a_rate_and_its_burst(void **state)
{
    (void)state;
    begin(16, 0, 10, 3); /* one each 100 ms, and three more */
    struct address a = v4(1), b = v4(2);
    for (int i = 0; i < 4; i++) {
        assert_true(peers_may(&peers, &a, 1000));
        assert_true(peers_take(&peers, &a, 1000));
    }
    assert_false(peers_may(&peers, &a, 1000));
    assert_false(peers_take(&peers, &a, 1000));
    assert_true(peers_take(&peers, &b, 1000));
    assert_false(peers_take(&peers, &a, 1099));
    assert_true(peers_take(&peers, &a, 1100)); /* what was refused cost nothing */
    assert_false(peers_take(&peers, &a, 1100));
    for (int i = 0; i < 4; i++)
        assert_true(peers_take(&peers, &a, UINT64_C(1) << 50)); /* far away */
    assert_false(peers_take(&peers, &a, UINT64_C(1) << 50));
    end();
}

static void without_a_rate_there_is_none(void **state)
{
    (void)state;
    begin(16, 0, 0, 0);
    struct address a = v4(1);
    for (int i = 0; i < 1000; i++)
        assert_true(peers_take(&peers, &a, 1000) && peers_may(&peers, &a, 1000));
    assert_int_equal(metrics.peers_known, 0);
    end();
}

/* Those with connections stay; of the others the one that was heard of least lately goes. */
static void a_full_table(void **state)
{
    (void)state;
    enum { MOST = 100, BUSY = 40 };
    begin(MOST, 5, 1, 0);
    for (uint32_t i = 0; i < BUSY; i++) {
        struct address a = v4(i);
        assert_true(peers_join(&peers, &a));
    }
    struct address kept = v4(1000);
    assert_true(peers_take(&peers, &kept, 5));
    for (uint32_t i = 0; i < 10000; i++) {
        struct address a = v4(0x10000 + i);
        assert_true(peers_take(&peers, &a, 5));
        assert_false(peers_take(&peers, &a, 5));
        assert_false(peers_take(&peers, &kept, 5)); /* heard of again and again */
    }
    peers_check(&peers);
    assert_int_equal(metrics.peers_known, MOST);
    assert_int_equal(metrics.peers_forgotten_total, BUSY + 1 + 10000 - MOST);
    for (uint32_t i = 0; i < BUSY; i++) {
        struct address a = v4(i);
        for (int n = 1; n < 5; n++)
            assert_int_equal(peers_join(&peers, &a), i + 1);
        assert_int_equal(peers_join(&peers, &a), 0);
    }
    end();
}

/* Nobody idle to make room: refused, and nothing breaks. */
static void a_table_full_of_connections(void **state)
{
    (void)state;
    begin(8, 5, 1, 0);
    uint32_t joined[8];
    for (uint32_t i = 0; i < 8; i++) {
        struct address a = v4(i);
        joined[i] = peers_join(&peers, &a);
        assert_true(joined[i]);
    }
    struct address a = v4(99);
    assert_int_equal(peers_join(&peers, &a), 0);
    assert_false(peers_take(&peers, &a, 1));
    peers_leave(&peers, joined[3]);
    assert_int_equal(peers_join(&peers, &a), joined[3]);
    end();
}

/* Against a plain array that does the same. */
static void as_a_model(void **state)
{
    (void)state;
    enum { ADDRESSES = 40, MOST = 24, JOINS = 64 };
    uint64_t seed = 5;
    uint32_t counts[ADDRESSES] = {0}, joined[JOINS] = {0}, whose[JOINS] = {0}, n = 0;
    begin(MOST, 3, 1000, 5);
    for (int step = 0; step < 20000; step++) {
        uint32_t which = unit_random(&seed) % ADDRESSES, busy = 0;
        struct address a = v4(which);
        switch (unit_random(&seed) % 3) {
        case 0:
            for (uint32_t i = 0; i < ADDRESSES; i++)
                busy += counts[i] > 0;
            bool room = counts[which] ? counts[which] < 3 : busy < MOST;
            if (n == JOINS)
                break;
            joined[n] = peers_join(&peers, &a);
            assert_int_equal(joined[n] != 0, room);
            whose[n] = which;
            counts[which] += room;
            n += room;
            break;
        case 1:
            if (!n)
                break;
            which = unit_random(&seed) % n;
            peers_leave(&peers, joined[which]);
            counts[whose[which]]--;
            n--;
            joined[which] = joined[n];
            whose[which] = whose[n];
            break;
        default:
            peers_take(&peers, &a, (uint64_t)step);
        }
        peers_check(&peers);
    }
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connections_are_counted),      cmocka_unit_test(a_rate_and_its_burst),
        cmocka_unit_test(without_a_rate_there_is_none), cmocka_unit_test(a_full_table),
        cmocka_unit_test(a_table_full_of_connections),  cmocka_unit_test(as_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
