/* app/config: files that are no YAML, or more of it than a configuration needs, and values that
 * are easily lost on the way. */
#define CONFIG_FILE "w.yaml"
#include "config_fixture.h"

#include <time.h>

static void all_refused(const struct slice *rows, size_t n)
{
    int wrong = 0;
    for (size_t i = 0; i < n; i++)
        if (parse_bytes(rows[i]) != ERR_INVALID) {
            print_error("taken: %.*s", (int)rows[i].n, (const char *)rows[i].p);
            wrong++;
        }
    assert_int_equal(wrong, 0);
}

static void nothing_at_all_is_the_defaults(void **state)
{
    (void)state;
    static const struct slice nothings[] = {SLICE(""),   SLICE("\n\n"),         SLICE("# a\n"),
                                            SLICE("{}"), SLICE("\xef\xbb\xbf"), SLICE_NONE};
    for (size_t i = 0; i < ARRAY_LEN(nothings); i++) {
        assert_err(parse_bytes(nothings[i]), ERR_NONE);
        assert_int_equal(config.n_listen, 1);
        assert_int_equal(config.n_modules + config.n_routes, 0);
        assert_int_equal(config.limits.connections, 20000);
    }
}

static void what_is_no_yaml_is_said_with_its_line(void **state)
{
    (void)state;
    static const struct {
        struct slice yaml;
        const char *want;
    } rows[] = {
        {SLICE("a: [b\n"), "w.yaml:2: not YAML: "},
        {SLICE("a: b\n\tc: d\n"), "w.yaml:2: not YAML: "},
        {SLICE("a: b\nc: 'd\n"), "w.yaml:3: not YAML: "},
        {SLICE("a: b: c\n"), "w.yaml:1: not YAML: "},
        {SLICE("a: *none\n"), "w.yaml:1: not YAML: "},
        {SLICE("a: b\n}\n"), "w.yaml:2: not YAML: "},
        {SLICE("a: \"\\q\"\n"), "w.yaml:1: not YAML: "},
        {SLICE("\xff\xfe\xff"), "w.yaml:1: not YAML: "},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_err(parse_bytes(rows[i].yaml), ERR_INVALID);
        if (strstr(said(), rows[i].want) != said()) {
            print_error("%zu: %s", i, said());
            fail();
        }
    }
}

static void bytes_that_are_no_text_are_said_with_their_line(void **state)
{
    (void)state;
    static const struct slice rows[] = {SLICE("drain: 1s\n\ncache: \xff\n"),
                                        SLICE("drain: 1s\n\ncache: a\x01\n"),
                                        SLICE("drain: 1s\n\ncache: a\0b\n")};
    int wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_err(parse_bytes(rows[i]), ERR_INVALID);
        if (strstr(said(), "w.yaml:3: ") != said()) {
            print_error("%zu: %s", i, said());
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

static double cpu_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

/* Each level names the one before ten times: 10^9 values, were they written out. */
static void a_bomb_of_aliases_is_soon_over(void **state)
{
    (void)state;
    static const char *const uses[] = {
        "x: *l9\n",
        "routes: *l9\n",
        "listen: *l9\n",
        "routes: [{path: /a, websocket: {handler: echo, origins: *l9}}]\n",
        "modules: {m: {path: *l9, limits: *l9}}\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(uses); i++) {
        struct buf b;
        buf_init(&b, 1 << 16);
        assert_err(buf_printf(&b, "l0: &l0 [a,a,a,a,a,a,a,a,a,a]\n"), ERR_NONE);
        for (int level = 1; level < 10; level++) {
            assert_err(buf_printf(&b, "l%d: &l%d [*l%d", level, level, level - 1), ERR_NONE);
            for (int j = 1; j < 10; j++)
                assert_err(buf_printf(&b, ",*l%d", level - 1), ERR_NONE);
            assert_err(buf_printf(&b, "]\n"), ERR_NONE);
        }
        assert_err(buf_printf(&b, "%s", uses[i]), ERR_NONE);
        double before = cpu_seconds();
        enum err e = parse_bytes(buf_slice(&b));
        buf_done(&b);
        assert_err(e, ERR_INVALID);
        assert_true(cpu_seconds() - before < 1);
        assert_true(errors.len < 1 << 16);
    }
}

static void an_alias_may_stand_for_a_value(void **state)
{
    (void)state;
    assert_err(parse_bytes(SLICE("modules: {a: &m {path: x, limits: &l {memory: 1MiB}}, b: *m,\n"
                                 "          c: {path: y, limits: *l}}\n")),
               ERR_NONE);
    assert_int_equal(config.n_modules, 3);
    assert_string_equal(config.modules[1].path, "x");
    assert_int_equal(config.modules[2].limits.memory, 1 << 20);
}

static void a_value_within_itself_is_refused(void **state)
{
    (void)state;
    static const struct slice rows[] = {
        SLICE("modules: &m {a: *m}\n"),   SLICE("routes: &r [*r, *r]\n"),
        SLICE("limits: &l {head: *l}\n"), SLICE("&root {limits: *root, modules: *root}\n"),
        SLICE("listen: &l [*l]\n"),       SLICE("modules: {a: &m {path: x, limits: *m}}\n"),
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(parse_bytes(rows[i]), ERR_INVALID);
}

static void very_deep_nesting_is_refused(void **state)
{
    (void)state;
    static const uint32_t depths[] = {100, 2000, 10000};
    static const char *const opens[] = {"[", "{a: ", "- "};
    for (size_t i = 0; i < ARRAY_LEN(depths); i++)
        for (size_t j = 0; j < ARRAY_LEN(opens); j++) {
            struct buf b;
            buf_init(&b, 1 << 20);
            assert_err(buf_printf(&b, j == 2 ? "x:\n" : "x: "), ERR_NONE);
            for (uint32_t k = 0; k < depths[i]; k++)
                assert_err(buf_append(&b, slice_str(opens[j])), ERR_NONE);
            for (uint32_t k = 0; j < 2 && k < depths[i]; k++)
                assert_err(buf_append(&b, slice_str(j ? "}" : "]")), ERR_NONE);
            double before = cpu_seconds();
            enum err e = parse_bytes(buf_slice(&b));
            buf_done(&b);
            assert_err(e, ERR_INVALID);
            assert_true(cpu_seconds() - before < 2);
        }
}

static void repeat(struct buf *b, const char *text, int times)
{
    for (int i = 0; i < times; i++)
        assert_err(buf_append(b, slice_str(text)), ERR_NONE);
}

/* Brackets in quotes do not hide the depth, or make one. */
static void depth_is_counted_without_quoted_brackets(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_err(buf_printf(&b, "x: "), ERR_NONE);
    repeat(&b, "[']',", 100000);
    double before = cpu_seconds();
    assert_err(parse_bytes(buf_slice(&b)), ERR_INVALID);
    assert_non_null(strstr(said(), "w.yaml:1: lists and maps are at most 64 deep"));
    assert_true(cpu_seconds() - before < 1);
    buf_clear(&b, UINT32_MAX);
    assert_err(buf_printf(&b, "cache: '/"), ERR_NONE);
    repeat(&b, "[{", 1000);
    assert_err(buf_printf(&b, "'\n"), ERR_NONE);
    assert_err(parse_bytes(buf_slice(&b)), ERR_NONE);
    buf_done(&b);
}

/* libyaml looks through all anchors for each. */
static void very_many_anchors_are_refused(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_err(buf_printf(&b, "x: ["), ERR_NONE);
    for (int i = 0; i < 70000; i++)
        assert_err(buf_printf(&b, "&a%d x,", i), ERR_NONE);
    assert_err(buf_printf(&b, "]\n"), ERR_NONE);
    double before = cpu_seconds();
    assert_err(parse_bytes(buf_slice(&b)), ERR_INVALID);
    buf_done(&b);
    assert_true(cpu_seconds() - before < 1);
}

/* Each of 1,000 routes names one list of long origins: 600 MB, were they copied, or as much to look
 * through for variables. */
static void values_are_bounded_with_their_aliases(void **state)
{
    (void)state;
    static const struct {
        const char *part;
        int times;
    } values[] = {{"${W_LONG}", 1}, {"${:-}", 12000}, {"${", 30000}, {"x", 60000}};
    struct buf b;
    buf_init(&b, 1 << 20);
    repeat(&b, "x", 60000);
    assert_err(buf_append(&b, SLICE("\0")), ERR_NONE);
    setenv("W_LONG", (char *)b.p, 1);
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        b.len = 0;
        assert_err(buf_printf(&b, "cache: &v '/"), ERR_NONE);
        repeat(&b, values[i].part, values[i].times);
        assert_err(buf_printf(&b, "'\nroutes:\n  - {path: /, websocket: {handler: echo, origins: "
                                  "&o [*v, *v, *v, *v, *v, *v, *v, *v, *v, *v]}}\n"),
                   ERR_NONE);
        for (int j = 0; j < 1000; j++)
            assert_err(
                buf_printf(&b, "  - {path: /%d, websocket: {handler: echo, origins: *o}}\n", j),
                ERR_NONE);
        double before = cpu_seconds();
        assert_err(parse_bytes(buf_slice(&b)), ERR_INVALID);
        assert_non_null(strstr(said(), "all values together 4 MiB"));
        assert_true(cpu_seconds() - before < 1);
    }
    buf_done(&b);
    unsetenv("W_LONG");
}

static void a_file_too_large_is_refused(void **state)
{
    (void)state;
    static char big[(1 << 20) + 1];
    memset(big, '#', sizeof(big));
    assert_err(parse_bytes(slice_of(big, sizeof(big))), ERR_LIMIT);
    assert_err(parse_bytes(slice_of(big, sizeof(big) - 1)), ERR_NONE);
}

static size_t lines_said(void)
{
    size_t n = 0;
    for (const char *p = said(); *p; p++)
        n += *p == '\n';
    return n;
}

/* Not once for each pair: that is the square of their number, in lines and in time. */
static void each_repetition_is_said_once(void **state)
{
    (void)state;
    enum { TIMES = 100 };
    static const char *const forms[][2] = {
        {"routes:\n", "  - {path: /a, websocket: {handler: echo}}\n"},
        {"", "drain: 1s\n"},
        {"modules:\n", "  m: {path: x}\n"},
    };
    int wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct buf b;
        buf_init(&b, 1 << 16);
        assert_err(buf_append(&b, slice_str(forms[i][0])), ERR_NONE);
        for (int j = 0; j < TIMES; j++)
            assert_err(buf_append(&b, slice_str(forms[i][1])), ERR_NONE);
        enum err e = parse_bytes(buf_slice(&b));
        buf_done(&b);
        assert_err(e, ERR_INVALID);
        if (lines_said() > TIMES) {
            print_error("%d times %s is said on %zu lines\n", TIMES, forms[i][1], lines_said());
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

static void after_a_hundred_problems_it_ends(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_err(buf_printf(&b, "routes:\n"), ERR_NONE);
    repeat(&b, "  - {}\n", 1000);
    assert_err(parse_bytes(buf_slice(&b)), ERR_INVALID);
    buf_done(&b);
    assert_int_equal(lines_said(), 101);
    assert_non_null(strstr(said(), ": these are 100 problems; the rest"));
}

/* One more is refused; n without a problem of their own are taken. */
static void there_are_at_most_so_many_of_each(void **state)
{
    (void)state;
    static const struct {
        const char *head, *form;
        int most;
        const char *want;
    } rows[] = {
        {"modules:\n", "  m%d: x\n", 256, "w.yaml:2: at most 256 modules"},
        {"routes:\n", "  - {path: /%d, websocket: {handler: echo}}\n", 1024,
         "w.yaml:2: 0 to 1024 routes"},
        {"listen:\n", "  - {address: '1.2.3.4:%d'}\n", 15, "w.yaml:2: 1 to 15 listeners"},
        {"routes:\n - path: /\n   websocket:\n    handler: echo\n    origins:\n", "     - o%d\n",
         64, "w.yaml:6: 0 to 64 origins"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (int more = 0; more < 2; more++) {
            struct buf b;
            buf_init(&b, 1 << 20);
            assert_err(buf_printf(&b, "%s", rows[i].head), ERR_NONE);
            for (int j = 0; j < rows[i].most + more; j++)
                assert_err(buf_printf(&b, rows[i].form, j), ERR_NONE);
            enum err e = parse_bytes(buf_slice(&b));
            buf_done(&b);
            assert_err(e, more ? ERR_INVALID : ERR_NONE);
            assert_true(!more || strstr(said(), rows[i].want) == said());
        }
}

static void the_order_of_keys_does_not_matter(void **state)
{
    (void)state;
    assert_err(parse_bytes(SLICE("routes: [{path: /a, http: {module: m}}]\nmodules: {m: x}\n")),
               ERR_NONE);
    assert_int_equal(config.n_routes, 1);
    assert_int_equal(config.routes[0].module, 0);
}

static void a_long_default_of_a_variable_is_kept_whole(void **state)
{
    (void)state;
    char yaml[600], want[301];
    memset(want, 'y', 300);
    want[300] = 0;
    unsetenv("W_UNSET");
    snprintf(yaml, sizeof(yaml), "modules: {m: {path: '${W_UNSET:-/%s}'}}", want);
    assert_err(parse_bytes(slice_str(yaml)), ERR_NONE);
    assert_string_equal(config.modules[0].path + 1, want);
}

static void a_value_too_long_is_said(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_err(buf_printf(&b, "drain: 1s\ncache: /%070000d\n", 0), ERR_NONE);
    enum err e = parse_bytes(buf_slice(&b));
    buf_done(&b);
    assert_err(e, ERR_INVALID); /* or taken; but never dropped in silence */
    assert_non_null(strstr(said(), "w.yaml:2: "));
}

static void a_zero_byte_does_not_end_a_value(void **state)
{
    (void)state;
    static const struct slice rows[] = {SLICE("cache: \"/a\\0b\"\n"), SLICE("\"drain\\0x\": 1s\n"),
                                        SLICE("limits: {message: \"1KiB\\0\"}\n")};
    all_refused(rows, ARRAY_LEN(rows));
}

static void a_known_key_of_the_wrong_kind_is_not_called_unknown(void **state)
{
    (void)state;
    static const struct slice rows[] = {SLICE("listen: 8080\n"), SLICE("routes: {}\n"),
                                        SLICE("modules: [a]\n"), SLICE("modules: x\n"),
                                        SLICE("listen: [{address: [x]}]\n")};
    int wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_err(parse_bytes(rows[i]), ERR_INVALID);
        if (strstr(said(), "unknown key")) {
            print_error("%.*s  %s", (int)rows[i].n, (const char *)rows[i].p, said());
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

static void a_listener_needs_its_address(void **state)
{
    (void)state;
    assert_err(parse_bytes(SLICE("listen: [{}]\n")), ERR_INVALID); /* not 0.0.0.0:8080 */
}

static void addresses_that_can_not_be_listened_on_are_refused(void **state)
{
    (void)state;
    static const struct slice rows[] = {
        SLICE("listen: [{address: 'example.org:80'}]\n"), SLICE("listen: [{address: '[::1:80'}]\n"),
        SLICE("listen: [{address: '1.2.3:80'}]\n"), SLICE("listen: [{address: '1.2.3.4.5:80'}]\n"),
        SLICE("admin: {address: '127.0.0.1.example.org:80'}\n")};
    all_refused(rows, ARRAY_LEN(rows));
}

static void a_second_document_is_not_ignored(void **state)
{
    (void)state;
    assert_err(parse_bytes(SLICE("drain: 1s\n---\ndrain: 2s\n")), ERR_INVALID);
}

static void a_route_may_name_its_module_by_a_variable(void **state)
{
    (void)state;
    setenv("W_MODULE", "m", 1);
    assert_err(
        parse_bytes(SLICE("modules: {m: x}\nroutes: [{path: /a, http: {module: '${W_MODULE}'}}]")),
        ERR_NONE);
}

/* Each problem is a line: what a file says can't make another of it, or reach the terminal. */
static void hostile_text_stays_on_its_line(void **state)
{
    (void)state;
    static const struct slice rows[] = {SLICE("\"a\\nw.yaml:9: all is well\": 1\n"),
                                        SLICE("\"a\\e[2J\": 1\n"),
                                        SLICE("routes: [{path: /a, http: {module: \"x\\ny\"}}]\n"),
                                        SLICE("listen: [{address: \"x\\ny\"}]\n"),
                                        SLICE("\"a\\x9b2J\": 1\n"),
                                        SLICE("\"a\\x7f\": 1\n"),
                                        SLICE("admin: {address: '${W_BYTES}'}\n")};
    setenv("W_BYTES", "\x9b\xff", 1);
    int wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_err(parse_bytes(rows[i]), ERR_INVALID);
        bool clean = strpbrk(said(), "\x1b\x7f\x9b\xff") == NULL;
        for (const char *p = said(); *p; p = strchr(p, '\n') + 1)
            clean &= strncmp(p, "w.yaml:1: ", 10) == 0;
        if (!clean) {
            print_error("%zu: %s", i, said());
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

static void text_is_said_as_it_is(void **state)
{
    (void)state;
    assert_err(parse_bytes(SLICE("gr\xc3\xb6\xc3\x9f\x65 \xe2\x82\xac \xf0\x9f\x98\x80: 1\n")),
               ERR_INVALID);
    assert_non_null(strstr(said(), "gr\xc3\xb6\xc3\x9f\x65 \xe2\x82\xac \xf0\x9f\x98\x80;"));
    assert_err(parse_bytes(SLICE("\"a\\nb\": 1\n")), ERR_INVALID);
    assert_non_null(strstr(said(), "unknown key: a\\x0ab;"));
}

#define YAML_TEST(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
    const struct CMUnitTest tests[] = {
        YAML_TEST(nothing_at_all_is_the_defaults),
        YAML_TEST(what_is_no_yaml_is_said_with_its_line),
        YAML_TEST(bytes_that_are_no_text_are_said_with_their_line),
        YAML_TEST(a_bomb_of_aliases_is_soon_over),
        YAML_TEST(an_alias_may_stand_for_a_value),
        YAML_TEST(a_value_within_itself_is_refused),
        YAML_TEST(very_deep_nesting_is_refused),
        YAML_TEST(depth_is_counted_without_quoted_brackets),
        YAML_TEST(very_many_anchors_are_refused),
        YAML_TEST(values_are_bounded_with_their_aliases),
        YAML_TEST(a_file_too_large_is_refused),
        YAML_TEST(each_repetition_is_said_once),
        YAML_TEST(after_a_hundred_problems_it_ends),
        YAML_TEST(there_are_at_most_so_many_of_each),
        YAML_TEST(the_order_of_keys_does_not_matter),
        YAML_TEST(a_long_default_of_a_variable_is_kept_whole),
        YAML_TEST(a_value_too_long_is_said),
        YAML_TEST(a_zero_byte_does_not_end_a_value),
        YAML_TEST(a_known_key_of_the_wrong_kind_is_not_called_unknown),
        YAML_TEST(a_listener_needs_its_address),
        YAML_TEST(addresses_that_can_not_be_listened_on_are_refused),
        YAML_TEST(a_second_document_is_not_ignored),
        YAML_TEST(a_route_may_name_its_module_by_a_variable),
        YAML_TEST(hostile_text_stays_on_its_line),
        YAML_TEST(text_is_said_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
