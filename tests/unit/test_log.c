/* base/log: whatever is logged, each line is one JSON object in UTF-8; what the pipe does not take
 * is counted. */
#include "unit.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/metrics.h"
#include "base/utf8.h"

enum { LINE_BOUND = 4096 };

static int pipes[2];
static char text[1 << 17];

static bool to_pipe(struct slice line)
{
    return write(pipes[1], line.p, line.n) == (ssize_t)line.n;
}

static uint64_t at_known_time(void)
{
    return 1709210096007; /* 2024-02-29T12:34:56.007Z */
}

/* Some event of a level, so that no row of log.def must stay what it is. */
static enum log_event event_of(enum log_level level)
{
    static const enum log_level levels[] = {
#define LOG(name, level, text, fields) LOG_##level,
#include "tbl/log.def"
#undef LOG
    };
    for (size_t e = 0; e < ARRAY_LEN(levels); e++)
        if (levels[e] == level && e != LOG_logs_dropped)
            return (enum log_event)e;
    fail();
    return LOG_COUNT;
}

static const struct log_output output = {to_pipe, at_known_time};

static int make_pipe(void **state)
{
    (void)state;
    memset(&metrics, 0, sizeof(metrics));
    if (pipe2(pipes, O_NONBLOCK | O_CLOEXEC) < 0)
        return -1;
    log_open(&output, LOG_DEBUG);
    return 0;
}

static int close_pipe(void **state)
{
    (void)state;
    log_open(&(struct log_output){NULL, NULL}, LOG_INFO);
    close(pipes[0]);
    close(pipes[1]);
    return 0;
}

/* All that was logged since, as a string. */
static char *logged(void)
{
    size_t n = 0;
    ssize_t r;
    while ((r = read(pipes[0], text + n, sizeof(text) - 1 - n)) > 0)
        n += (size_t)r;
    text[n] = 0;
    assert_int_equal(strlen(text), n);
    return text;
}

static const char *json_string(const char *p)
{
    assert_int_equal(*p, '"');
    for (p++; *p != '"'; p++) {
        assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
        if (*p != '\\')
            continue;
        p++;
        assert_true(*p && strchr("\"\\/bfnrtu", *p));
        if (*p == 'u') {
            assert_int_equal(strspn(p + 1, "0123456789abcdef") >= 4, 1);
            p += 4;
        }
    }
    return p + 1;
}

/* One flat object of strings and integers, and a newline; returns what follows it. */
static const char *json_line(const char *p)
{
    const char *start = p;
    for (char before = '{'; *p != '}'; before = ',') {
        assert_int_equal(*p++, before);
        p = json_string(p);
        assert_int_equal(*p++, ':');
        if (*p == '"') {
            p = json_string(p);
            continue;
        }
        p += *p == '-';
        assert_true(*p >= '0' && *p <= '9');
        p += strspn(p, "0123456789");
    }
    assert_int_equal(p[1], '\n');
    assert_true(utf8_valid(slice_of(start, (size_t)(p - start))));
    assert_true(p + 2 - start <= LINE_BOUND);
    return p + 2;
}

static void each_event_is_one_line_of_json(void **state)
{
    (void)state;
    for (int e = 0; e < LOG_COUNT; e++) {
        assert_true(log_begin((enum log_event)e));
        log_number("least", INT64_MIN);
        log_number("most", INT64_MAX);
        log_id("conn_id", 0xabc);
        log_text("empty", SLICE_NONE);
        log_end();
        char *got = logged();
        assert_int_equal(*json_line(got), 0);
        assert_non_null(strstr(got, ",\"least\":-9223372036854775808,\"most\":9223372036854775807,"
                                    "\"conn_id\":\"0000000000000abc\",\"empty\":\"\"}\n"));
        assert_non_null(strstr(got, "\"event\":\""));
        assert_ptr_equal(strstr(got, "{\"time\":\"2024-02-29T12:34:56.007Z\",\"level\":\""), got);
    }
}

static unsigned count(const char *of)
{
    unsigned n = 0;
    for (const char *p = logged(); (p = strstr(p, of)) != NULL; p++)
        n++;
    return n;
}

static uint64_t clock_ms = 5000;
static uint64_t at_any_time(void)
{
    return clock_ms;
}

static void what_repeats_is_counted_and_said(void **state)
{
    (void)state;
    log_open(&(struct log_output){to_pipe, at_any_time}, LOG_INFO);
    log_bound(3);
    uint64_t before = metrics.logs_suppressed_total;
    for (int i = 0; i < 10; i++) {
        if (log_begin_of(LOG_guest_info, 1))
            log_end();
        if (i < 2 && log_begin_of(LOG_guest_info, 2)) /* another module's are its own */
            log_end();
        if (i < 3 && log_begin(LOG_stopped))
            log_end();
        if (log_begin(LOG_request)) /* it was asked for */
            log_end();
    }
    assert_int_equal(metrics.logs_suppressed_total - before, 7);
    log_settle(); /* its second is not over */
    assert_int_equal(count("\"event\":\"guest_info\""), 5);
    assert_null(strstr(text, "suppressed"));
    clock_ms += 1000;
    assert_true(log_begin_of(LOG_guest_info, 1));
    log_end();
    log_settle();
    assert_int_equal(count("\"suppressed\":7}"), 1);
    for (int i = 0; i < 5; i++)
        if (log_begin(LOG_stopped))
            log_end();
    clock_ms += 1000;
    logged();
    log_settle();
    log_settle();
    assert_int_equal(count("\"event\":\"logs_suppressed\""), 1);
    assert_non_null(strstr(text, "\"of\":\"stopped\",\"suppressed\":2}"));
    log_bound(0);
}

static void the_latest_lines_are_kept(void **state)
{
    (void)state;
    struct buf out;
    uint64_t at, from = 0;
    buf_init(&out, LOG_RECENT);
    for (unsigned i = 0; i < 3000; i++) {
        assert_true(log_begin(LOG_stopped));
        log_number("i", i);
        log_text("fill", slice_of("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", i % 31));
        log_end();
        logged();
        buf_clear(&out, LOG_RECENT);
        assert_int_equal(log_recent(0, &out, &at), ERR_NONE);
        assert_in_range(out.len, 1, LOG_RECENT);
        assert_int_equal(out.p[0], '{');
        assert_int_equal(out.p[out.len - 1], '\n');
        uint64_t end = at + out.len;
        buf_clear(&out, LOG_RECENT);
        assert_int_equal(log_recent(from, &out, &at), ERR_NONE);
        assert_true(!from || (at == from && json_line((char *)out.p) == (char *)out.p + out.len));
        from = end;
    }
    buf_clear(&out, LOG_RECENT);
    assert_int_equal(log_recent(from - 7, &out, &at), ERR_NONE); /* inside a line */
    assert_true(at == from && !out.len);
    assert_int_equal(log_recent(UINT64_MAX, &out, &at), ERR_NONE); /* another process's */
    assert_true(out.len && out.p[0] == '{');
    buf_done(&out);
}

static void hostile_bytes_stay_inside_their_string(void **state)
{
    (void)state;
    uint8_t all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    for (int i = 0; i < 256; i++) {
        assert_true(log_begin(event_of(LOG_INFO)));
        log_text("one", slice_of(&all[i], 1));
        log_end();
    }
    assert_true(log_begin(event_of(LOG_INFO)));
    log_text("all", slice_of(all, sizeof(all)));
    log_text("inject", SLICE("\"}\n{\"level\":\"fatal\",\"x\":\"\\"));
    log_end();
    const char *p = logged();
    for (int i = 0; i < 257; i++)
        p = json_line(p);
    assert_int_equal(*p, 0);
    assert_non_null(strstr(text, "\"one\":\"\\u0000\"}"));
    assert_non_null(strstr(text, "\"one\":\"\\u00ff\"}"));
    assert_non_null(strstr(text, "\"one\":\"\\\"\"}"));
    assert_non_null(strstr(text, "\"one\":\"\\\\\"}"));
    assert_non_null(strstr(text, "\"one\":\"~\"}"));
}

static void utf8_is_kept_and_what_is_none_is_shown_by_byte(void **state)
{
    (void)state;
    static const struct {
        struct slice value;
        const char *want;
    } rows[] = {
        {SLICE("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"),
         "\"v\":\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80\"}"},
        {SLICE("\xc3\xbc\xff"), "\"v\":\"\\u00c3\\u00bc\\u00ff\"}"},
        {SLICE("\xc3"), "\"v\":\"\\u00c3\"}"},
        {SLICE("\x7f\t"), "\"v\":\"\\u007f\\u0009\"}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_true(log_begin(event_of(LOG_INFO)));
        log_text("v", rows[i].value);
        log_end();
        assert_int_equal(*json_line(logged()), 0);
        assert_non_null(strstr(text, rows[i].want));
    }
}

/* At each length around the bound, and with bytes of each width once escaped. */
static void long_lines_are_cut_and_stay_json(void **state)
{
    (void)state;
    static const struct {
        struct slice fill;
        size_t wide; /* bytes in the line */
    } fills[] = {
        {SLICE("a"), 1}, {SLICE("\""), 2}, {SLICE("\x01"), 6}, {SLICE("\xf0\x9f\x98\x80"), 4}};
    static uint8_t value[LINE_BOUND * 8];
    for (size_t f = 0; f < ARRAY_LEN(fills); f++) {
        struct slice fill = fills[f].fill;
        for (size_t i = 0; i < sizeof(value); i++)
            value[i] = fill.p[i % fill.n];
        size_t most = LINE_BOUND / fills[f].wide;
        for (size_t i = most - 250; i < most + 20; i++) {
            size_t n = i * fill.n;
            assert_true(log_begin(event_of(LOG_INFO)));
            log_text("first", slice_of(value, n));
            log_number("number", 7);
            log_text("second", slice_of(value, 40));
            log_id("id", 1);
            log_text("third", SLICE("abc"));
            log_end();
            assert_int_equal(*json_line(logged()), 0);
            assert_non_null(strstr(text, "\"first\":\""));
        }
    }
    assert_true(log_begin(event_of(LOG_INFO)));
    for (int i = 0; i < 1000; i++)
        log_number("a_key_of_some_length", i);
    log_end();
    assert_int_equal(*json_line(logged()), 0);
    assert_int_equal(metrics.logs_dropped_total, 0);
}

static void lines_below_the_level_are_not_begun(void **state)
{
    (void)state;
    log_open(&output, LOG_WARN);
    assert_false(log_wants(event_of(LOG_DEBUG)));
    assert_false(log_begin(event_of(LOG_INFO)));
    assert_true(log_wants(event_of(LOG_WARN)));
    assert_true(log_wants(event_of(LOG_ERROR)));
    assert_string_equal(logged(), "");
}

static void levels_are_known_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"debug", "info", "warn", "error"};
    enum log_level level = LOG_DEBUG;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_true(log_level_parse(names[i], &level));
        assert_int_equal(level, i);
    }
    assert_false(log_level_parse("WARN", &level));
    assert_false(log_level_parse("", &level));
    assert_int_equal(level, LOG_ERROR);
}

static void without_an_output_nothing_is_begun(void **state)
{
    (void)state;
    log_open(&(struct log_output){NULL, at_known_time}, LOG_DEBUG);
    assert_false(log_wants(event_of(LOG_ERROR)));
    assert_false(log_begin(event_of(LOG_ERROR)));
    assert_string_equal(logged(), "");
}

static void fill(size_t leave)
{
    static char space[LINE_BOUND];
    memset(space, ' ', sizeof(space));
    int size = fcntl(pipes[1], F_SETPIPE_SZ, LINE_BOUND);
    assert_int_equal(size, LINE_BOUND);
    assert_int_equal(write(pipes[1], space, (size_t)size - leave), size - (int)leave);
}

static bool say(void)
{
    bool begun = log_begin(event_of(LOG_INFO));
    log_end();
    return begun;
}

static void dropped_lines_are_counted_and_said_later(void **state)
{
    (void)state;
    fill(10);
    for (int i = 0; i < 5; i++)
        assert_true(say());
    assert_int_equal(metrics.logs_dropped_total, 5);
    logged();
    assert_int_equal(strspn(text, " "), strlen(text)); /* no part of a line */
    assert_true(say());
    assert_non_null(strstr(logged(), "\"event\":\"logs_dropped\""));
    assert_non_null(strstr(text, "\"dropped\":5}\n"));
    assert_int_equal(*json_line(json_line(text)), 0);
    assert_true(say());
    assert_null(strstr(logged(), "logs_dropped"));
    assert_int_equal(metrics.logs_dropped_total, 5);
}

/* The pipe has room for the next line, but not for the one that says how many were dropped. */
static void a_count_that_was_dropped_itself_is_said_later(void **state)
{
    (void)state;
    assert_true(say());
    size_t line = strlen(logged());
    fill(10);
    for (int i = 0; i < 5; i++)
        assert_true(say());
    logged();
    fill(line + 10);
    assert_true(say());
    assert_null(strstr(logged(), "logs_dropped"));
    assert_true(say());
    const char *p = strstr(logged(), "\"dropped\":");
    assert_non_null(p);
    assert_in_range(atoi(p + 10), 5, 6); /* whether or not the count is itself a line dropped */
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, make_pipe, close_pipe)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOG_TEST(each_event_is_one_line_of_json),
        LOG_TEST(what_repeats_is_counted_and_said),
        LOG_TEST(the_latest_lines_are_kept),
        LOG_TEST(hostile_bytes_stay_inside_their_string),
        LOG_TEST(utf8_is_kept_and_what_is_none_is_shown_by_byte),
        LOG_TEST(long_lines_are_cut_and_stay_json),
        LOG_TEST(lines_below_the_level_are_not_begun),
        LOG_TEST(levels_are_known_by_name),
        LOG_TEST(without_an_output_nothing_is_begun),
        LOG_TEST(dropped_lines_are_counted_and_said_later),
        LOG_TEST(a_count_that_was_dropped_itself_is_said_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
