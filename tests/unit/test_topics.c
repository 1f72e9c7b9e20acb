/* hub/topics: who gets what, in which order, how much of it in an iteration, and what becomes of
 * messages on their way when members go. */
#include "conn_fixture.h"

#include "base/buf.h"
#include "hub/topics.h"

enum { HEARD = 2048 };

static struct topics topics;
static struct conn *conns[CONNECTIONS];
static struct {
    uint64_t id;
    char text[16];
} heard_by[HEARD];
static size_t n_heard;
static const struct slice space = {(const uint8_t *)"space", 5};

static void deliver(void *owner, struct conn *conn, struct frame *shared)
{
    struct slice frame = frame_slice(shared);
    assert_ptr_equal(owner, &topics);
    assert_int_equal(conn->state, CONN_OPEN);
    assert_true(n_heard < HEARD && frame.n < sizeof(heard_by[0].text));
    heard_by[n_heard].id = conn_id(conn);
    slice_copy((uint8_t *)heard_by[n_heard].text, frame);
    heard_by[n_heard++].text[frame.n] = 0;
}

static void forget(struct conn *conn)
{
    topics_conn_free(&topics, conn);
}

static int peers[CONNECTIONS];

static int topics_setup(void **state)
{
    if (setup_stream(state))
        return -1;
    topics_init(&topics, &net);
    topics.deliver = deliver;
    topics.owner = &topics;
    proto.on_closed = forget;
    n_heard = 0;
    conns[0] = c;
    for (int i = 1; i < CONNECTIONS; i++)
        if ((peers[i] = pair_open(SOCK_STREAM, &conns[i])) < 0)
            return -1;
    return 0;
}

static int topics_teardown(void **state)
{
    for (int i = 0; i < CONNECTIONS; i++)
        if (conns[i])
            conn_close(&net, conns[i], CLOSE_SHUTDOWN);
    run(2);
    bool left = topics.count || topics.n_pending || topics.pending_bytes || metrics.topic_members ||
                metrics.topics_active;
    topics_done(&topics);
    for (int i = 1; i < CONNECTIONS; i++)
        close(peers[i]);
    return teardown(state) || left ? -1 : 0;
}

static void join(int i, const char *name)
{
    assert_err(topics_join(&topics, conns[i], space, slice_str(name)), ERR_NONE);
}

static void leave(int i, const char *name)
{
    topics_leave(&topics, conns[i], space, slice_str(name));
}

static void publish_but(const char *name, const char *text, uint64_t except)
{
    assert_err(topics_publish(&topics, space, slice_str(name), except, slice_str(text), SLICE_NONE),
               ERR_NONE);
}

static void publish(const char *name, const char *text)
{
    publish_but(name, text, 0);
}

static struct topic *find(const char *name)
{
    return topics_find(&topics, space, slice_str(name));
}

static void shut(int i)
{
    conn_close(&net, conns[i], CLOSE_SHUTDOWN);
    conns[i] = NULL;
    run(1);
}

static bool got(int i, const char *text)
{
    for (size_t j = 0; j < n_heard; j++)
        if (heard_by[j].id == conn_id(conns[i]) && strcmp(heard_by[j].text, text) == 0)
            return true;
    return false;
}

/* No writes are left in this iteration: what is published now waits. */
static void use_up(void)
{
    assert_true(topics.left > 0);
    topics.left = 0;
}

static void members_get_it_in_the_order_they_joined(void **state)
{
    (void)state;
    join(2, "t");
    join(0, "t");
    join(1, "t");
    join(3, "other");
    publish("t", "hello");
    static const int order[] = {2, 0, 1};
    assert_int_equal(n_heard, ARRAY_LEN(order));
    for (size_t i = 0; i < n_heard; i++) {
        assert_int_equal(heard_by[i].id, conn_id(conns[order[i]]));
        assert_string_equal(heard_by[i].text, "hello");
    }
    assert_int_equal(topics.n_pending, 0);
    publish("nobody", "lost");
    assert_int_equal(n_heard, 3);
    assert_null(find("nobody"));
}

static void all_but_one(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        join(i, "t");
    publish_but("t", "x", conn_id(conns[1]));
    assert_int_equal(n_heard, 2);
    assert_false(got(1, "x"));
    publish_but("t", "y", conn_id(conns[4])); /* who is not in it */
    assert_int_equal(n_heard, 5);
}

static void joining_again_does_nothing(void **state)
{
    (void)state;
    join(0, "t");
    join(0, "t");
    assert_int_equal(find("t")->n_members, 1);
    assert_int_equal(((struct hub_conn *)conns[0]->hub)->n_members, 1);
    publish("t", "x");
    assert_int_equal(n_heard, 1);
    leave(0, "t");
    assert_null(find("t"));
    leave(0, "t");
    leave(1, "t");
    assert_int_equal(metrics.topic_members, 0);
    assert_false(topics_has(NULL, conns[0]));
}

static void spaces_and_names_do_not_mix(void **state)
{
    (void)state;
    static const struct {
        struct slice space, name;
    } pairs[] = {{{(const uint8_t *)"a", 1}, {(const uint8_t *)"bc", 2}},
                 {{(const uint8_t *)"ab", 2}, {(const uint8_t *)"c", 1}},
                 {{(const uint8_t *)"a", 1}, {(const uint8_t *)"b", 1}},
                 {{(const uint8_t *)"", 0}, {(const uint8_t *)"abc", 3}}};
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        assert_err(topics_join(&topics, conns[i], pairs[i].space, pairs[i].name), ERR_NONE);
    assert_int_equal(topics.count, ARRAY_LEN(pairs));
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        const struct topic *t = topics_find(&topics, pairs[i].space, pairs[i].name);
        for (size_t j = 0; j < ARRAY_LEN(pairs); j++)
            assert_int_equal(topics_has(t, conns[j]), i == j);
    }
}

static void a_name_that_is_too_long_is_refused(void **state)
{
    (void)state;
    static uint8_t name[4096];
    assert_err(topics_join(&topics, conns[0], space, slice_of(name, sizeof(name))), ERR_LIMIT);
    assert_null(topics_find(&topics, space, slice_of(name, sizeof(name))));
    assert_err(topics_join(&topics, conns[0], space, slice_of(name, 1024)), ERR_NONE);
    topics_leave(&topics, conns[0], space, slice_of(name, sizeof(name)));
}

static void who_joins_afterwards_does_not_get_it(void **state)
{
    (void)state;
    join(0, "t");
    use_up();
    publish("t", "1");
    join(1, "t");
    publish("t", "2");
    join(2, "t");
    assert_int_equal(n_heard, 0);
    assert_int_equal(topics.n_pending, 2);
    assert_false(topics_run(&topics));
    assert_int_equal(n_heard, 3);
    assert_true(got(0, "1") && got(0, "2") && got(1, "2"));
    assert_int_equal(topics.pending_bytes, 0);
}

/* One that left and came back is new. */
static void who_leaves_does_not_get_what_is_on_its_way(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        join(i, "t");
    use_up();
    publish("t", "1");
    publish("t", "2");
    leave(0, "t"); /* the one that both would reach next */
    leave(1, "t"); /* and the one that they moved on to */
    join(0, "t");
    leave(3, "t"); /* one further on */
    assert_false(topics_run(&topics));
    assert_int_equal(n_heard, 2);
    assert_true(got(2, "1") && got(2, "2"));
    publish("t", "3");
    assert_int_equal(n_heard, 4);
    assert_true(got(0, "3"));
}

static void the_last_member_takes_what_is_on_its_way_along(void **state)
{
    (void)state;
    join(0, "t");
    join(1, "t");
    join(2, "u");
    use_up();
    publish("t", "1");
    publish("u", "2");
    leave(1, "t");
    shut(0);
    assert_null(find("t"));
    assert_int_equal(topics.n_pending, 1);
    assert_int_equal(topics.pending_bytes, 1);
    join(1, "t"); /* a topic of the same name is another one */
    assert_false(topics_run(&topics));
    assert_int_equal(n_heard, 1);
    assert_true(got(2, "2"));
}

static void the_end_of_a_message_may_leave_before_it_comes(void **state)
{
    (void)state;
    join(0, "t");
    join(1, "t");
    topics.left = 1;
    publish("t", "1");
    assert_int_equal(n_heard, 1);
    assert_int_equal(topics.n_pending, 1);
    leave(1, "t");
    publish("t", "2"); /* behind the first, of which nothing is left to do */
    assert_false(topics_run(&topics));
    assert_int_equal(n_heard, 2);
    assert_string_equal(heard_by[1].text, "2");
    assert_int_equal(topics.n_pending, 0);
}

/* Of each iteration, so many writes, in which a member gets what is on its way to it; and for each
 * the order of a topic's messages is kept. */
static void an_iteration_has_so_many_writes(void **state)
{
    (void)state;
    enum { MESSAGES = 100 };
    char text[16];
    for (int i = 0; i < CONNECTIONS; i++)
        join(i, "t");
    for (int i = 0; i < MESSAGES; i++) {
        snprintf(text, sizeof(text), "%d", i);
        publish("t", text);
    }
    assert_int_equal(n_heard, TOPIC_WRITES);
    unsigned iterations = 0;
    while (topics_run(&topics))
        iterations++;
    assert_true(iterations < 2); /* 544 of them, but several in a write */
    assert_int_equal(n_heard, MESSAGES * CONNECTIONS);
    for (int j = 0; j < CONNECTIONS; j++) {
        int next = 0;
        for (size_t i = 0; i < n_heard; i++)
            if (heard_by[i].id == conn_id(conns[j]))
                assert_int_equal(atoi(heard_by[i].text), next++);
        assert_int_equal(next, MESSAGES);
    }
}

static void who_has_closed_is_passed_over(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        join(i, "t");
    conn_close(&net, conns[1], CLOSE_SHUTDOWN); /* it is not reaped yet */
    publish("t", "x");
    assert_int_equal(n_heard, 2);
    conns[1] = NULL;
}

static void the_cursor_walks_all(void **state)
{
    (void)state;
    uint64_t at = 0, gone_id = conn_id(conns[2]);
    for (int i = 0; i < 4; i++)
        join(i, "t");
    const struct topic *t = find("t");
    for (int i = 0; i < 4; i++) {
        assert_true(topics_next(&topics, t, at, &at));
        assert_int_equal(at, conn_id(conns[i]));
    }
    assert_true(topics_next(&topics, t, at, &at));
    assert_int_equal(at, 0);
    assert_false(topics_next(&topics, t, conn_id(conns[5]), &at)); /* not in it */
    conn_close(&net, conns[2], CLOSE_SHUTDOWN);
    conns[2] = NULL;
    assert_true(topics_next(&topics, t, conn_id(conns[1]), &at));
    assert_int_equal(at, conn_id(conns[3]));
    run(1);
    assert_false(topics_next(&topics, t, gone_id, &at));
    leave(1, "t");
    assert_false(topics_next(&topics, t, conn_id(conns[1]), &at));
}

static void room_ends_at_messages_and_at_bytes(void **state)
{
    (void)state;
    assert_true(topics_room(&topics, TOPIC_PENDING, TOPIC_PENDING_BYTES));
    assert_false(topics_room(&topics, TOPIC_PENDING + 1, 0));
    assert_true(topics_room(&topics, 1, TOPIC_PENDING_BYTES + 1)); /* alone */
    assert_false(topics_room(&topics, 2, TOPIC_PENDING_BYTES + 1));
    join(0, "t");
    use_up();
    publish("t", "123");
    assert_true(topics_room(&topics, TOPIC_PENDING - 1, TOPIC_PENDING_BYTES - 3));
    assert_false(topics_room(&topics, TOPIC_PENDING, 0));
    assert_false(topics_room(&topics, 1, TOPIC_PENDING_BYTES - 2));
    assert_false(topics_room(&topics, 1, 2 * TOPIC_PENDING_BYTES));
}

static void many_topics_of_a_connection(void **state)
{
    (void)state;
    enum { TOPICS = 300 };
    char name[16];
    for (int i = 0; i < TOPICS; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        join(i % 2, name);
        join(2, name);
    }
    assert_int_equal(topics.count, TOPICS);
    assert_int_equal(metrics.topics_active, TOPICS);
    assert_int_equal(metrics.topic_members, 2 * TOPICS);
    for (int i = 0; i < TOPICS; i++) {
        snprintf(name, sizeof(name), "t%d", i);
        assert_true(topics_has(find(name), conns[i % 2]));
        assert_false(topics_has(find(name), conns[1 - i % 2]));
    }
    shut(2);
    topics_leave_all(&topics, conns[0]);
    assert_int_equal(topics.count, TOPICS / 2);
    assert_int_equal(metrics.topic_members, TOPICS / 2);
}

enum { STEPS = 3000 };

static void model_take(char (*want)[CONNECTIONS])
{
    for (size_t i = 0; i < n_heard; i++)
        for (int j = 0; j < CONNECTIONS; j++)
            if (heard_by[i].id == conn_id(conns[j])) {
                assert_int_equal(want[atoi(heard_by[i].text)][j], 1);
                want[atoi(heard_by[i].text)][j] = 0;
            }
}

/* Whatever happens, each message reaches who was in the topic from it on until its end. */
static void a_model(void **state)
{
    (void)state;
    static bool in[CONNECTIONS];
    static char want[STEPS][CONNECTIONS];
    uint64_t seed = 3;
    memset(in, 0, sizeof(in));
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(unit_random(&seed) % CONNECTIONS);
        uint32_t what = unit_random(&seed) % 10;
        char text[16];
        n_heard = 0;
        topics.left = unit_random(&seed) % 12;
        if (what < 3) {
            join(i, "t");
            in[i] = true;
        } else if (what < 5) {
            leave(i, "t");
            in[i] = false;
            for (int s = 0; s < step; s++)
                want[s][i] = 0;
        } else if (what < 9) {
            snprintf(text, sizeof(text), "%d", step);
            for (int j = 0; j < CONNECTIONS; j++)
                want[step][j] = in[j] && j != i;
            publish_but("t", text, conn_id(conns[i]));
        } else {
            topics_run(&topics);
        }
        model_take(want);
    }
    do {
        n_heard = 0;
        topics_run(&topics);
        model_take(want);
    } while (topics.n_pending);
    for (int s = 0; s < STEPS; s++)
        for (int i = 0; i < CONNECTIONS; i++)
            assert_int_equal(want[s][i], 0);
}

#define TOPICS_TEST(f) cmocka_unit_test_setup_teardown(f, topics_setup, topics_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TOPICS_TEST(members_get_it_in_the_order_they_joined),
        TOPICS_TEST(all_but_one),
        TOPICS_TEST(joining_again_does_nothing),
        TOPICS_TEST(spaces_and_names_do_not_mix),
        TOPICS_TEST(a_name_that_is_too_long_is_refused),
        TOPICS_TEST(who_joins_afterwards_does_not_get_it),
        TOPICS_TEST(who_leaves_does_not_get_what_is_on_its_way),
        TOPICS_TEST(the_last_member_takes_what_is_on_its_way_along),
        TOPICS_TEST(the_end_of_a_message_may_leave_before_it_comes),
        TOPICS_TEST(an_iteration_has_so_many_writes),
        TOPICS_TEST(who_has_closed_is_passed_over),
        TOPICS_TEST(the_cursor_walks_all),
        TOPICS_TEST(room_ends_at_messages_and_at_bytes),
        TOPICS_TEST(many_topics_of_a_connection),
        TOPICS_TEST(a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
