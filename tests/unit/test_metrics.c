/* base/metrics and base/err: the tables, and the exposition format. */
#include "unit.h"

#include <ctype.h>
#include <pthread.h>

#include "base/metrics.h"
#include "base/pool.h"

/* Close codes that a server may send (RFC 6455 7.4.1), by hand; 1006 is never on the wire. */
static bool close_code_known(unsigned code)
{
    return code == 1000 || code == 1001 || code == 1002 || code == 1003 ||
           (code >= 1006 && code <= 1014) || (code >= 4000 && code <= 4999);
}

static bool is_name(const char *s)
{
    for (const char *p = s; *p; p++)
        if (!isupper((unsigned char)*p) && !isdigit((unsigned char)*p) && *p != '_')
            return false;
    return *s != 0;
}

static void each_error_has_a_name_a_text_and_codes(void **state)
{
    (void)state;
    for (int i = 0; i < ERR_COUNT; i++) {
        enum err e = (enum err)i;
        assert_true(is_name(err_name(e)));
        assert_true(strlen(err_text(e)) > 1);
        assert_null(strpbrk(err_text(e), "\"\\\n")); /* goes into JSON and headers as it is */
        assert_true(err_text(e)[strlen(err_text(e)) - 1] != '.');
        assert_in_range(err_http_status(e), 200, 599);
        assert_true(close_code_known(err_close_code(e)));
        assert_int_not_equal(err_close_code(e), 1006);
        for (int j = 0; j < i; j++)
            assert_string_not_equal(err_name(e), err_name((enum err)j));
    }
    assert_int_equal(ERR_NONE, 0);
    assert_int_equal(err_http_status(ERR_HTTP_TARGET_SIZE), 414);
    assert_int_equal(err_close_code(ERR_WS_UTF8), 1007);
}

static void each_close_reason_has_a_name_a_text_and_a_code(void **state)
{
    (void)state;
    for (int i = 0; i < CLOSE_COUNT; i++) {
        enum close_reason r = (enum close_reason)i;
        assert_true(is_name(close_name(r)));
        assert_null(strpbrk(close_text(r), "\"\\\n"));
        assert_true(close_code_known(close_code(r)));
        if (close_code(r) == 1000)
            assert_false(close_is_error(r));
    }
    assert_false(close_is_error(CLOSE_PEER));
    assert_true(close_is_error(CLOSE_PROTOCOL));
}

static struct metrics_module modules[3]; /* the second is not there */

static char *write_as(bool openmetrics)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    struct metrics sum = {0};
    struct metrics_out o = {.out = &out, .openmetrics = openmetrics};
    metrics_add(&sum);
    metrics_write(&o, &sum, modules, ARRAY_LEN(modules));
    assert_err(o.e, ERR_NONE);
    assert_null(memchr(out.p, 0, out.len));
    char *text = strndup((char *)out.p, out.len);
    buf_done(&out);
    return text;
}

static char *write_all(void)
{
    return write_as(false);
}

/* # HELP and # TYPE once before the samples of their metric, each sample "name[{label}] number". */
static void the_text_is_prometheus_format(void **state)
{
    (void)state;
    char *text = write_all(), *rest = text, *line, metric[128] = "", type[16] = "";
    unsigned families = 0, samples = 0;
    assert_int_equal(text[strlen(text) - 1], '\n');
    while ((line = strsep(&rest, "\n")) != NULL && *line) {
        char name[128], tail[64];
        double value;
        if (sscanf(line, "# HELP %127s %63s", name, tail) == 2) {
            assert_true(strncmp(name, "weir_", 5) == 0);
            strcpy(metric, name);
            families++;
            continue;
        }
        if (sscanf(line, "# TYPE %127s %15s", name, type) == 2) {
            assert_string_equal(name, metric);
            bool total = strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_total") == 0;
            bool seconds = strcmp(name, "weir_pause_seconds") == 0 ||
                           strcmp(name, "weir_message_latency_seconds") == 0;
            assert_string_equal(type, total ? "counter" : seconds ? "histogram" : "gauge");
            continue;
        }
        size_t n = strcspn(line, "{ ");
        assert_true(n >= strlen(metric));
        assert_memory_equal(line, metric, strlen(metric));
        if (n > strlen(metric))
            assert_string_equal(type, "histogram");
        char *end = strrchr(line, ' ');
        assert_non_null(end);
        assert_int_equal(sscanf(end, " %lf%63s", &value, tail), 1);
        assert_true(value >= 0);
        if (line[n] == '{')
            assert_ptr_equal(strstr(line, "} ") + 1, end);
        samples++;
    }
    assert_true(families > 20);
    assert_true(samples > families + ERR_COUNT + CLOSE_COUNT - 3);
    free(text);
}

static void values_are_written_where_they_belong(void **state)
{
    (void)state;
    metrics.connections_active = UINT64_MAX;
    metrics.loop_away_max_seconds = 1500000001;
    metrics.errors_total[ERR_WS_UTF8] = 12;
    metrics.connections_closed_total[CLOSE_IDLE] = 13;
    void *held = mem_alloc(12345);
    char *text = write_all(), want[64];
    assert_non_null(strstr(text, "\nweir_connections_active 18446744073709551615\n"));
    assert_non_null(strstr(text, "\nweir_loop_away_max_seconds 1.500000001\n"));
    assert_non_null(strstr(text, "\nweir_errors_total{code=\"WS_UTF8\"} 12\n"));
    assert_non_null(strstr(text, "\nweir_connections_closed_total{reason=\"IDLE\"} 13\n"));
    snprintf(want, sizeof(want), "\nweir_pool_bytes %llu\n", (unsigned long long)pool_bytes());
    assert_non_null(strstr(text, want));
    snprintf(want, sizeof(want), "\nweir_buffer_bytes %llu\n",
             (unsigned long long)mem_buffer_bytes());
    assert_non_null(strstr(text, want));
    assert_true(mem_buffer_bytes() >= 12345);
    mem_free(held, 12345);
    free(text);
    memset(&metrics, 0, sizeof(metrics));
}

/* By hand from the bounds: 25 µs, 50 µs ... 1 s. */
static void a_histogram_counts_what_is_within_each_bound(void **state)
{
    (void)state;
    metrics_iteration(CAUSE_tls, 25000);
    metrics_iteration(CAUSE_tls, 25001);
    metrics_iteration(CAUSE_tls, 3000000000);
    char *text = write_all();
#define HAS(sample) assert_non_null(strstr(text, "\nweir_" sample "\n"))
    HAS("pause_seconds_bucket{cause=\"tls\",le=\"2.5e-05\"} 1");
    HAS("pause_seconds_bucket{cause=\"tls\",le=\"5e-05\"} 2");
    HAS("pause_seconds_bucket{cause=\"tls\",le=\"1\"} 2");
    HAS("pause_seconds_bucket{cause=\"tls\",le=\"+Inf\"} 3");
    HAS("pause_seconds_sum{cause=\"tls\"} 3.000050001");
    HAS("pause_seconds_count{cause=\"tls\"} 3");
    HAS("pause_seconds_count{cause=\"ws\"} 0");
    free(text);
    memset(&metrics, 0, sizeof(metrics));
}

/* What a message took is known when its iteration ends, or is told. */
static void messages_are_counted_by_topic(void **state)
{
    (void)state;
    metrics_topics[5] = "/a\"b\\c\nd";
    metrics_topics[63] = "/last";
    metrics_message(5);
    metrics_message(63);
    metrics_message(63);
    char *text = write_all();
    HAS("message_latency_seconds_count{topic=\"/last\"} 0");
    free(text);
    metrics_iteration(CAUSE_ws, 1000);
    metrics_iteration(CAUSE_ws, 1000);
    metrics_message_late(5, 60000);
    text = write_all();
    HAS("message_latency_seconds_count{topic=\"/last\"} 2");
    HAS("message_latency_seconds_sum{topic=\"/last\"} 0.000002000");
    HAS("message_latency_seconds_bucket{topic=\"/a\\\"b\\\\c\\nd\",le=\"5e-05\"} 1");
    HAS("message_latency_seconds_bucket{topic=\"/a\\\"b\\\\c\\nd\",le=\"0.0001\"} 2");
    HAS("message_latency_seconds_count{topic=\"other\"} 0");
    free(text);
    metrics_topics[5] = metrics_topics[63] = NULL;
    memset(&metrics, 0, sizeof(metrics));
}

static void modules_are_summed_and_named(void **state)
{
    (void)state;
    struct metrics_module more = {.module_events_total = 2, .module_memory_peak_bytes = 70};
    modules[0].name = "add";
    modules[2].name = "echo";
    modules[0].module_events_total = 40;
    modules[0].module_memory_peak_bytes = 60;
    modules[0].module_cpu_seconds_total = 1500000000;
    modules[0].module_failed_total[TRAP_unreachable] = 3;
    metrics_module_add(&modules[0], &more);
    char *text = write_all();
    HAS("module_events_total{module=\"add\"} 42");
    HAS("module_events_total{module=\"echo\"} 0");
    HAS("module_memory_peak_bytes{module=\"add\"} 70");
    HAS("module_cpu_seconds_total{module=\"add\"} 1.500000000");
    HAS("module_failed_total{module=\"add\",code=\"unreachable\"} 3");
    assert_null(strstr(text, "code=\"stack_overflow\"")); /* those that did not happen */
    assert_string_equal(modules[0].name, "add");
    free(text);
    memset(modules, 0, sizeof(modules));
}

/* Counters are called without _total there, but for their samples. */
static void open_metrics_has_its_own_names(void **state)
{
    (void)state;
    char *text = write_as(true);
    assert_non_null(strstr(text, "\n# TYPE weir_guest_traps counter\nweir_guest_traps_total 0\n"));
    assert_non_null(strstr(text, "\n# TYPE weir_pause_seconds histogram\n"));
    assert_null(strstr(text, "_total counter\n"));
    free(text);
}

static void *another_thread(void *arg)
{
    struct metrics *sum = arg;
    thread_number = 1;
    metrics.connections_active = 3;
    metrics.errors_total[ERR_WS_UTF8] = 4;
    metrics.loop_away_max_seconds = 5;
    metrics.loop_busy_max_seconds = 70;
    metrics_iteration(CAUSE_admin, 7);
    metrics_add(sum);
    return mem_alloc(100);
}

static void threads_count_for_themselves_and_are_summed(void **state)
{
    (void)state;
    struct metrics sum = {0};
    pthread_t thread;
    void *taken;
    uint64_t before = mem_buffer_bytes();
    metrics.connections_active = 10;
    metrics.errors_total[ERR_WS_UTF8] = 20;
    metrics.loop_away_max_seconds = 50;
    metrics.loop_busy_max_seconds = 60;
    metrics_iteration(CAUSE_admin, 8);
    metrics_add(&sum);
    assert_int_equal(pthread_create(&thread, NULL, another_thread, &sum), 0);
    assert_int_equal(pthread_join(thread, &taken), 0);
    assert_int_equal(metrics.connections_active, 10);
    assert_int_equal(sum.connections_active, 13);
    assert_int_equal(sum.errors_total[ERR_WS_UTF8], 24);
    assert_int_equal(sum.loop_away_max_seconds, 50);
    assert_int_equal(sum.loop_busy_max_seconds, 70);
    assert_int_equal(sum.pause_seconds[CAUSE_admin][0], 2);
    assert_int_equal(sum.pause_seconds[CAUSE_admin][METRICS_BUCKETS_pause + 1], 15);
    assert_int_equal(mem_buffer_bytes(), before + 100);
    mem_free(taken, 100); /* by another thread than took it */
    assert_int_equal(mem_buffer_bytes(), before);
    memset(&metrics, 0, sizeof(metrics));
}

static void a_buffer_too_small_is_an_error(void **state)
{
    (void)state;
    struct buf out;
    for (uint32_t max = 0; max < 4000; max += 97) {
        buf_init(&out, max);
        struct metrics_out o = {.out = &out};
        metrics_write(&o, &metrics, NULL, 0);
        assert_err(o.e, ERR_LIMIT);
        buf_done(&out);
        buf_init(&out, MIN(max, 1000));
        assert_err(metrics_write_docs(&out), ERR_LIMIT);
        buf_done(&out);
    }
}

static bool has(const struct buf *b, const char *text)
{
    return memmem(b->p, b->len, text, strlen(text)) != NULL;
}

static void json_has_what_there_is(void **state)
{
    (void)state;
    struct buf out;
    struct metrics_module modules[] = {
        {.name = NULL, .module_events_total = 3},
        {.name = "a\"\\\n\x01z", .module_cpu_seconds_total = 1500000000},
        {.name = "b"}};
    memset(&metrics, 0, sizeof(metrics));
    metrics.connections_active = 7;
    metrics.errors_total[ERR_LIMIT] = 2;
    modules[2].module_failed_total[0] = 4;
    metrics_iteration(CAUSE_ws, 30000);
    buf_init(&out, 1 << 20);
    struct metrics_out o = {.out = &out};
    metrics_write_json(&o, &metrics, modules, ARRAY_LEN(modules));
    assert_err(o.e, ERR_NONE);
    assert_true(has(&out, "\"metrics\":{\"connections_active\":7,"));
    assert_true(has(&out, ",\"errors_total\":{\"LIMIT\":2},"));
    assert_true(has(&out, ",\"pause_seconds\":{\"ws\":[0,1,0,0,0,0,0,0,0,0,0,0,0,0.000030000]},"));
    assert_true(
        has(&out, "\"modules\":{\"a\\u0022\\u005c\\u000a\\u0001z\":{\"module_events_total\":0,"));
    assert_true(has(&out, "\"module_cpu_seconds_total\":1.500000000,"));
    assert_true(has(&out, ",\"module_failed_total\":{}},\"b\":{"));
    assert_true(has(&out, "\"bounds\":{\"pause_seconds\":[2.5e-05,5e-05,"));
    size_t whole = out.len;
    buf_done(&out);
    for (uint32_t max = 0; max < whole; max += 97) {
        buf_init(&out, max);
        o = (struct metrics_out){.out = &out};
        metrics_write_json(&o, &metrics, modules, ARRAY_LEN(modules));
        assert_err(o.e, ERR_LIMIT);
        buf_done(&out);
    }
    memset(&metrics, 0, sizeof(metrics));
}

static void the_page_names_every_metric(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 20);
    assert_err(metrics_write_docs(&out), ERR_NONE);
    assert_err(buf_append(&out, SLICE("\0")), ERR_NONE);
#define NAMED(name) assert_non_null(strstr((char *)out.p, "| `weir_" #name "` | "));
#define COUNTER(name, help) NAMED(name)
#define GAUGE(name, help) NAMED(name)
#define GAUGE_NS(name, help) NAMED(name)
#define COUNTER_NS(name, help) NAMED(name)
#define FAMILY(name, label, table, help) NAMED(name)
#define HISTOGRAM(name, label, table, buckets, help) NAMED(name)
#define MODULE_COUNTER(name, help) NAMED(name)
#define MODULE_NS(name, help) NAMED(name)
#define MODULE_MOST(name, help) NAMED(name)
#define MODULE_FAMILY(name, label, table, help) NAMED(name)
#include "tbl/metrics.def"
    buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_error_has_a_name_a_text_and_codes),
        cmocka_unit_test(each_close_reason_has_a_name_a_text_and_a_code),
        cmocka_unit_test(the_text_is_prometheus_format),
        cmocka_unit_test(values_are_written_where_they_belong),
        cmocka_unit_test(a_histogram_counts_what_is_within_each_bound),
        cmocka_unit_test(messages_are_counted_by_topic),
        cmocka_unit_test(modules_are_summed_and_named),
        cmocka_unit_test(open_metrics_has_its_own_names),
        cmocka_unit_test(threads_count_for_themselves_and_are_summed),
        cmocka_unit_test(a_buffer_too_small_is_an_error),
        cmocka_unit_test(json_has_what_there_is),
        cmocka_unit_test(the_page_names_every_metric),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
