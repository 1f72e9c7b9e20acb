/* app/config: each row of config.def, and what is said of a file that is wrong. What is odd about
 * YAML itself is in test_config_yaml. */
#define CONFIG_FILE "etc/w.yaml"
#include "config_fixture.h"

enum section { ROOT, ADMIN, HEARTBEAT, LIMITS, TLS, MODULE, MODULE_LIMITS };
enum type { INT, SIZE, DURATION, TEXT };
#define WORD(words) TEXT

static const struct row {
    enum section section;
    enum type type;
    const char *key, *def;
    uint64_t min, max;
    size_t offset;
} rows[] = {
#define IN(section, type, key, t, def, lo, hi) {section, t, #key, def, lo, hi, offsetof(type, key)},
#define CFG(k, t, d, lo, hi, x) IN(ROOT, struct config_root, k, t, d, lo, hi)
    CONFIG_ROOT(CFG)
#undef CFG
#define CFG(k, t, d, lo, hi, x) IN(ADMIN, struct config_admin, k, t, d, lo, hi)
        CONFIG_ADMIN(CFG)
#undef CFG
#define CFG(k, t, d, lo, hi, x) IN(HEARTBEAT, struct config_heartbeat, k, t, d, lo, hi)
            CONFIG_HEARTBEAT(CFG)
#undef CFG
#define CFG(k, t, d, lo, hi, x) IN(LIMITS, struct config_limits, k, t, d, lo, hi)
                CONFIG_LIMITS(CFG)
#undef CFG
#define CFG(k, t, d, lo, hi, x) IN(TLS, struct config_tls, k, t, d, lo, hi)
                    CONFIG_TLS(CFG)
#undef CFG
#define CFG(k, t, d, lo, hi, x) IN(MODULE, struct config_module, k, t, d, lo, hi)
                        CONFIG_MODULE(CFG)
#undef CFG
#define CFG(k, t, d, lo, hi, x) IN(MODULE_LIMITS, struct config_module_limits, k, t, d, lo, hi)
                            CONFIG_MODULE_LIMITS(CFG)
#undef CFG
};

static enum err parse(const char *yaml)
{
    return parse_bytes(slice_str(yaml));
}

/* A file with this one setting, on line 5 whatever its section. */
static const char *document(const struct row *r, const char *value)
{
    static const char *const before[] = {
        "#\n#\n#\n#\n",
        "#\n#\n#\nadmin:\n  ",
        "#\n#\nheartbeat:\n  %s\n  ", /* whatever the value, interval + timeout <= evict */
        "#\n#\n#\nlimits:\n  ",
        "#\n#\n#\ntls:\n  ",
        "#\nmodules:\n  m:\n    %s\n    ",
        "modules:\n  m:\n    path: x.wat\n    limits:\n      ",
    };
    static char text[2048];
    bool is_path = strcmp(r->key, "path") == 0;
    const char *other = is_path ? "#" : "path: x.wat";
    if (r->section == HEARTBEAT)
        other = strcmp(r->key, "interval") == 0 ? "evict: 2h" : "interval: 0ms";
    int n = snprintf(text, sizeof(text), before[r->section], other);
    snprintf(text + n, sizeof(text) - (size_t)n, "%s: %s\n", r->key, value);
    return text;
}

static const void *field(const struct row *r)
{
    const void *base = r->section == ROOT        ? (const void *)&config.root
                       : r->section == ADMIN     ? (const void *)&config.admin
                       : r->section == HEARTBEAT ? (const void *)&config.heartbeat
                       : r->section == LIMITS    ? (const void *)&config.limits
                       : r->section == TLS       ? (const void *)&config.tls
                       : r->section == MODULE    ? (const void *)config.modules
                                                 : (const void *)&config.modules[0].limits;
    return (const char *)base + r->offset;
}

static uint64_t number(const struct row *r)
{
    return *(const uint64_t *)field(r);
}

/* By hand, so that the defaults are not read by what is tested. */
static uint64_t amount(const char *text)
{
    static const struct {
        const char *unit;
        uint64_t factor;
    } units[] = {{"", 1},   {"KiB", 1024}, {"MiB", 1024 * 1024}, {"GiB", 1024 * 1024 * 1024},
                 {"ms", 1}, {"s", 1000},   {"m", 60000},         {"h", 3600000}};
    char *end;
    uint64_t n = strtoull(text, &end, 10);
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        if (strcmp(units[i].unit, end) == 0)
            return n * units[i].factor;
    fail();
    return 0;
}

static void each_setting_has_its_default(void **state)
{
    (void)state;
    assert_err(parse("modules:\n  m: {path: x.wat}\n"), ERR_NONE);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        if (r->type != TEXT)
            assert_int_equal(number(r), amount(r->def));
        else if (strcmp(r->key, "path") != 0)
            assert_string_equal(*(char *const *)field(r), r->def);
        assert_true(r->type == TEXT || (amount(r->def) >= r->min && amount(r->def) <= r->max));
    }
    assert_int_equal(config.n_listen, 1);
    assert_string_equal(config.listen[0], "0.0.0.0:8080");
}

/* What is in range may still not fit another setting. */
static void take(const struct row *r, const char *value, uint64_t want)
{
    enum err e = parse(document(r, value));
    if ((e && !strstr(said(), "has to be at least")) || number(r) != want) {
        print_error("%s: %s: %s", r->key, value, said());
        fail();
    }
}

static void refuse(const struct row *r, const char *value, const char *why)
{
    enum err e = parse(document(r, value));
    if (e != ERR_INVALID || strncmp(said(), "etc/w.yaml:5: ", 14) != 0 ||
        (why && (!strstr(said(), r->key) || !strstr(said(), why)))) {
        print_error("%s: '%s': %s %s\n", r->key, value, err_name(e), said());
        fail();
    }
    if (r->type != TEXT)
        assert_true(number(r) == amount(r->def)); /* what is refused is not taken */
}

static void each_number_keeps_to_its_range(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        const char *unit = r->type == DURATION ? "ms" : "";
        char text[64];
        if (r->type == TEXT)
            continue;
        snprintf(text, sizeof(text), "%llu%s", (unsigned long long)r->min, unit);
        take(r, text, r->min);
        snprintf(text, sizeof(text), "\"000%llu%s\"", (unsigned long long)r->min, unit);
        take(r, text, r->min); /* decimal, not octal */
        snprintf(text, sizeof(text), "%llu%s", (unsigned long long)r->max, unit);
        take(r, text, r->max);
        snprintf(text, sizeof(text), "%llu%s", (unsigned long long)r->max + 1, unit);
        refuse(r, text, "range");
        if (r->min) {
            snprintf(text, sizeof(text), "%llu%s", (unsigned long long)r->min - 1, unit);
            refuse(r, text, "range");
        }
    }
}

static void each_setting_takes_its_type_only(void **state)
{
    (void)state;
    static const char *const wrong[3][10] = {
        {"8KiB", "8s", "yes", "1_000", NULL},
        {"8s", "8KB", "8kib", "8 KiB", "KiB", "8KiBs", NULL},
        {"8", "8KiB", "8S", "1h30m", "8 s", "ms", "8sec", NULL},
    };
    static const char *const never[] = {"abc",
                                        "\"\"",
                                        "-1",
                                        "+1",
                                        "1.5",
                                        "1e3",
                                        "0x10",
                                        "~",
                                        "null",
                                        "'1 1'",
                                        "[1, 2]",
                                        "{a: b}",
                                        "99999999999999999999",
                                        "18446744073709551617s"};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        if (r->type == TEXT) {
            refuse(r, "[a, b]", NULL);
            refuse(r, "{a: b}", NULL);
            continue;
        }
        for (size_t j = 0; j < ARRAY_LEN(never); j++)
            refuse(r, never[j], NULL);
        for (size_t j = 0; wrong[r->type][j]; j++)
            refuse(r, wrong[r->type][j], " takes a ");
    }
}

static void units_multiply(void **state)
{
    (void)state;
    assert_err(parse("drain: 2m\nlimits: {message: 2097152, send_queue: 3MiB, head: 9KiB, "
                     "head_timeout: 1h, body_timeout: 1500ms}\n"
                     "modules: {m: {path: x, limits: {memory: 1GiB}}}\n"),
               ERR_NONE);
    assert_int_equal(config.root.drain, 120000);
    assert_int_equal(config.limits.message, 2 << 20);
    assert_int_equal(config.limits.send_queue, 3 << 20);
    assert_int_equal(config.limits.head, 9 << 10);
    assert_int_equal(config.limits.head_timeout, 3600000);
    assert_int_equal(config.limits.body_timeout, 1500);
    assert_int_equal(config.modules[0].limits.memory, 1 << 30);
}

static void words_are_one_of_those_known(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        bool ok;
    } cases[] = {
        {"log_level: debug", true},
        {"log_level: error", true},
        {"log_level: warning", false},
        {"log_level: INFO", false},
        {"log_level: ''", false},
        {"modules: {m: {path: x, engine: pulley, exec: no}}", true}, /* no is text here */
        {"modules: {m: {path: x, engine: native, exec: yes}}", true},
        {"modules: {m: {path: x, engine: jit}}", false},
        {"modules: {m: {path: x, exec: true}}", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_err(parse(cases[i].yaml), cases[i].ok ? ERR_NONE : ERR_INVALID);
}

struct wrong {
    const char *yaml, *want; /* part of what is said */
};

static void say_of_each(const struct wrong *cases, size_t n)
{
    int bad = 0;
    for (size_t i = 0; i < n; i++) {
        enum err e = parse(cases[i].yaml);
        if (e == ERR_INVALID && strstr(said(), cases[i].want))
            continue;
        print_error("%s\n  %s: %s  wanted: %s\n", cases[i].yaml, err_name(e), said(),
                    cases[i].want);
        bad++;
    }
    assert_int_equal(bad, 0);
}

static void unknown_and_repeated_keys_are_named(void **state)
{
    (void)state;
    static const struct wrong cases[] = {
        {"\ndrian: 1s", "w.yaml:2: unknown key: drian; did you mean drain?"},
        {"log-level: info", "did you mean log_level?"},
        {"limits:\n  conections: 5",
         "w.yaml:2: unknown key: conections; did you mean connections?"},
        {"limits: {hed: 8KiB}", "did you mean head?"},
        {"admin: {adress: x}", "did you mean address?"},
        {"modules: {m: {pth: x}}", "did you mean path?"},
        {"modules: {m: {path: x, limits: {memmory: 1}}}", "did you mean memory?"},
        {"zzz: 1", "unknown key: zzz; known here: listen, admin, heartbeat, limits, tls, access, "
                   "modules, routes"},
        {"routes: [{path: /a, websocket: {modul: x}}]", "unknown key: modul; known here: module"},
        {"routes: [{path: /a, http: {handler: echo}}]", "unknown key: handler"},
        {"listen: [{port: 80}]", "unknown key: port; known here: address, tls"},
        {"drain: 1s\ndrain: 2s", "w.yaml:2: this key is here twice: drain"},
        {"limits: {head: 8KiB,\n body: 1,\n head: 8KiB}", "w.yaml:3: this key is here twice: head"},
        {"modules:\n  a: x\n  b: x\n  a: y", "w.yaml:4: this module is here twice: a"},
    };
    say_of_each(cases, ARRAY_LEN(cases));
}

static void variables_come_from_the_environment(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want; /* NULL: an error */
    } cases[] = {
        {"a${W_SET}b", "avalueb"},
        {"${W_SET}${W_SET}", "valuevalue"},
        {"${W_UNSET:-x}", "x"},
        {"${W_UNSET:-}", ""},
        {"${W_SET:-x}", "value"},
        {"${W_EMPTY}", ""},
        {"$$", "$"},
        {"$${W_SET}", "${W_SET}"},
        {"$$$$", "$$"},
        {"a$b", "a$b"},
        {"$", "$"},
        {"${W_SET", "${W_SET"},
        {"${W_UNSET:-$${x}", "$${x"},
        {"${W_UNSET:-a:-b}", "a:-b"},
        {"${W_UNSET}", NULL},
        {"${}", NULL},
        {"${W_DOLLAR}", "${W_SET}"}, /* what comes out is not looked at again */
    };
    setenv("W_SET", "value", 1);
    setenv("W_EMPTY", "", 1);
    setenv("W_DOLLAR", "${W_SET}", 1);
    unsetenv("W_UNSET");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char yaml[128];
        snprintf(yaml, sizeof(yaml), "modules: {m: {path: '/%s'}}", cases[i].text);
        enum err e = parse(yaml);
        if (!cases[i].want) {
            assert_err(e, ERR_INVALID);
            assert_non_null(strstr(said(), "w.yaml:1: set this environment variable"));
            continue;
        }
        assert_err(e, ERR_NONE);
        assert_string_equal(config.modules[0].path + 1, cases[i].want);
    }
    setenv("W_SET", "4KiB", 1);
    assert_err(parse("limits: {message: '${W_SET}', head: '${W_UNSET:-9}KiB'}"), ERR_NONE);
    assert_int_equal(config.limits.message, 4096);
    assert_int_equal(config.limits.head, 9 << 10);
}

static void paths_are_relative_to_the_file(void **state)
{
    (void)state;
    static const struct {
        const char *file, *path, *want;
    } cases[] = {
        {"w.yaml", "a.wat", "a.wat"},
        {"./w.yaml", "a.wat", "./a.wat"},
        {"/etc/weir/w.yaml", "m/a.wat", "/etc/weir/m/a.wat"},
        {"/w.yaml", "a.wat", "/a.wat"},
        {"/etc/w.yaml", "/opt/a.wat", "/opt/a.wat"},
        {"../x/w.yaml", "../a.wat", "../x/../a.wat"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (int form = 0; form < 2; form++) {
            char yaml[128];
            snprintf(yaml, sizeof(yaml), form ? "modules: {m: %s}" : "modules: {m: {path: %s}}",
                     cases[i].path);
            config_done(&config);
            assert_err(config_parse(slice_str(yaml), cases[i].file, &config, &errors), ERR_NONE);
            assert_string_equal(config.modules[0].path, cases[i].want);
        }
}

static void the_cache_is_relative_to_the_file_too(void **state)
{
    (void)state;
    config_done(&config);
    assert_err(config_parse(SLICE("cache: my-cache"), "/etc/weir/w.yaml", &config, &errors),
               ERR_NONE);
    assert_string_equal(config.root.cache, "/etc/weir/my-cache");
}

static void routes_are_read(void **state)
{
    (void)state;
    assert_err(parse("modules: {m: x, n: y}\n"
                     "routes:\n"
                     "  - {path: /a, websocket: {module: n, origins: [a, b], subprotocols: [c]}}\n"
                     "  - {path: /a, http: {module: m}}\n"
                     "  - {path: /b/*, websocket: {handler: echo, compress: yes}}\n"
                     "  - {path: '/*', http: {module: n}}\n"),
               ERR_NONE);
    assert_int_equal(config.n_routes, 4);
    assert_true(config.routes[2].compress && !config.routes[0].compress);
    const struct config_route *r = config.routes;
    assert_string_equal(r[0].path, "/a");
    assert_int_equal(r[0].kind, ROUTE_WEBSOCKET);
    assert_int_equal(r[0].module, 1);
    assert_int_equal(r[0].handler, HANDLER_NONE);
    assert_int_equal(r[0].origins.n, 2);
    assert_string_equal(r[0].origins.v[1], "b");
    assert_int_equal(r[0].subprotocols.n, 1);
    assert_string_equal(r[0].subprotocols.v[0], "c");
    assert_int_equal(r[1].kind, ROUTE_HTTP);
    assert_int_equal(r[1].module, 0);
    assert_int_equal(r[2].handler, HANDLER_ECHO);
    assert_int_equal(r[2].module, -1);
    assert_string_equal(r[3].path, "/*");
}

static void heartbeats_and_replies_are_read(void **state)
{
    (void)state;
    static const struct wrong cases[] = {
        {"heartbeat: {interval: 16s}",
         "w.yaml:1: interval + timeout (26000 ms) is more than evict"},
        {"heartbeat: {interval: 1s, timeout: 2s, evict: 2999ms}", "interval + timeout (3000 ms)"},
        {"heartbeat: {demoted: 5}", "unknown key: demoted"},
        {"routes: [{path: /a, websocket: {handler: echo, auto_reply: [a]}}]", "a map is expected"},
        {"routes: [{path: /a, websocket: {handler: echo, auto_reply: {a: [b]}}}]", "a plain value"},
        {"routes: [{path: /a, websocket: {handler: echo, auto_reply: {a: ''}}}]", "1 to 125 bytes"},
        {"routes: [{path: /a, websocket: {handler: echo, auto_reply: {'': a}}}]", "1 to 125 bytes"},
        {"routes: [{path: /a, websocket: {handler: echo, auto_reply: {a: b, a: c}}}]", "twice: a"},
        {"routes: [{path: /a, websocket: {handler: echo, auto_reply: {a: 1, b: 2, c: 3, d: 4, e: "
         "5, "
         "f: 6, g: 7, h: 8, i: 9}}}]",
         "8"},
        {"modules: {m: x}\nroutes: [{path: /a, http: {module: m, auto_reply: {a: b}}}]",
         "unknown key: auto_reply"},
    };
    say_of_each(cases, ARRAY_LEN(cases));
    assert_err(parse("heartbeat: {interval: 0s, timeout: 5s, evict: 1s}\n"
                     "routes: [{path: /a, websocket: {handler: echo, auto_reply: {ping: pong, a: "
                     "b}}}]\n"),
               ERR_NONE);
    assert_int_equal(config.heartbeat.interval, 0);
    assert_int_equal(config.routes[0].auto_replies.n, 4);
    assert_string_equal(config.routes[0].auto_replies.v[0], "ping");
    assert_string_equal(config.routes[0].auto_replies.v[3], "b");
}

static void bad_routes_modules_and_addresses_are_named(void **state)
{
    (void)state;
    static const struct wrong cases[] = {
        {"routes: [{path: a, websocket: {handler: echo}}]", "w.yaml:1: path begins with /"},
        {"routes: [{websocket: {handler: echo}}]", "path begins with /"},
        {"routes: [{path: '*', websocket: {handler: echo}}]", "path begins with /"},
        {"routes: [{path: /a*, websocket: {handler: echo}}]", "may end in /*"},
        {"routes: [{path: /*/a, websocket: {handler: echo}}]", "may end in /*"},
        {"routes:\n  - path: /a", "w.yaml:2: a route needs one of module and handler"},
        {"routes: [{path: /a, websocket: {}}]", "a route needs one of module and handler"},
        {"modules: {m: x}\nroutes: [{path: /a, websocket: {module: m, handler: echo}}]",
         "w.yaml:2: a route needs one of module and handler"},
        {"routes: [{path: /a, websocket: {module: m}}]", "no such module; add it to modules: m"},
        {"routes: [{path: /a, websocket: {module: [m]}}]", "a plain value is expected"},
        {"routes: [{path: /a, websocket: {handler: pong}}]", "handler"},
        {"routes: [{path: /a, websocket: {handler: echo, compress: 1}}]", "compress is yes or no"},
        {"modules: {m: x}\nroutes: [{path: /a, http: {module: m, compress: yes}}]", "unknown key"},
        {"modules: {m: x}\nroutes: [{path: /a, websocket: {module: m}, http: {module: m}}]",
         "either websocket or http"},
        {"modules: {m: x}\nroutes: [{path: /a, http: {module: m}},\n {path: /a, http: {module: "
         "m}}]",
         "w.yaml:3: this path is routed twice: /a"},
        {"routes: [{path: /a, websocket: {}, http: {module: m}}]", "either websocket or http"},
        {"modules: {m: x}\nroutes: [{path: /a, http: {module: n}}]", "w.yaml:2: no such module"},
        {"routes:\n  - path: /a\n    http:\n      module: n\nmodules: {m: x}",
         "w.yaml:4: no such module; add it to modules: n"},
        {"routes: [{path: /a, websocket: {handler: echo, origins: x}}]", "a list is expected"},
        {"routes: [{path: /a, websocket: {handler: echo, origins: [[x]]}}]", "a plain value"},
        {"routes: [{path: /a, websocket: 5}]", "a map is expected"},
        {"routes: [5]", "a map is expected"},
        {"modules: {m: {}}", "a module needs path"},
        {"modules: {m: ''}", "a module needs path"},
        {"modules: {m: [x]}", "a map is expected"},
        {"modules: {'a b': x}", "a module's name"},
        {"modules: {'': x}", "a module's name"},
        {"modules: {a/b: x}", "a module's name"},
        {"modules: {? [a] : x}", "a module's name"},
        {"modules: {m: {path: x, limits: 5}}", "a map is expected"},
        {"limits: 5", "a map is expected"},
        {"admin: 5", "a map is expected"},
        {"[]", "a map is expected"},
        {"text", "a map is expected"},
        {"listen: [{}]", "a listener needs address: IP:PORT"},
        {"listen: []", "1 to 15 listeners are expected here"},
        {"listen: 8080", "a list is expected here: [{address: IP:PORT}]"},
        {"listen:", "a list is expected"},
        {"routes: {}", "a list is expected here: [{path: /PATH"},
        {"modules: [a]", "a map is expected here: NAME: FILE"},
        {"listen: [{address: '8080'}]", "an address is IP:PORT"},
        {"listen: [{address: '::1:80'}]", "an address is IP:PORT"},
        {"listen: [{address: '[1.2.3.4]:80'}]", "an address is IP:PORT"},
        {"listen: [{address: '[localhost]:80'}]", "an address is IP:PORT"},
        {"listen: [{address: '1.2.3.4:'}]", "an address is IP:PORT"},
        {"listen: [{address: ':80'}]", "an address is IP:PORT"},
        {"listen: [{address: '1.2.3.4:65536'}]", "an address is IP:PORT"},
        {"listen: [{address: '1.2.3.4:x'}]", "an address is IP:PORT"},
        {"listen: [{address: '[]:80'}]", "an address is IP:PORT"},
        {"admin: {address: '0.0.0.0:6060'}", "must be on loopback"},
        {"admin: {address: '[::]:6060'}", "must be on loopback"},
        {"admin: {address: '128.0.0.1:6060'}", "must be on loopback"},
        {"admin: {address: '6060'}", "an address is IP:PORT"},
    };
    say_of_each(cases, ARRAY_LEN(cases));
}

static void addresses_are_taken_apart(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        unsigned port;
    } cases[] = {{"1.2.3.4:80", "1.2.3.4", 80},
                 {"[::1]:0", "::1", 0},
                 {"localhost:65535", "localhost", 65535},
                 {"1.2.3.4", NULL, 0},
                 {"1.2.3.4:-1", NULL, 0},
                 {"1.2.3.4:80 ", NULL, 0},
                 {"", NULL, 0},
                 {":", NULL, 0}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char host[64] = "";
        uint16_t port = 7;
        assert_int_equal(config_address(cases[i].text, host, &port), cases[i].host != NULL);
        assert_string_equal(host, cases[i].host ? cases[i].host : "");
        assert_int_equal(port, cases[i].host ? cases[i].port : 7);
    }
    char longest[128], host[64];
    uint16_t port;
    memset(longest, '1', sizeof(longest));
    strcpy(longest + 64, ":80");
    assert_false(config_address(longest, host, &port));
    assert_true(config_address(longest + 1, host, &port));
    assert_int_equal(strlen(host), 63);
}

static void any_loopback_is_for_the_admin(void **state)
{
    (void)state;
    static const char *const addresses[] = {"127.0.0.1:0", "127.255.255.254:6060", "[::1]:6060",
                                            "[0:0::1]:6060", "localhost:6060"};
    for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
        char yaml[128];
        snprintf(yaml, sizeof(yaml), "admin: {address: '%s'}\nlisten: [{address: '%s'}]",
                 addresses[i], addresses[i]);
        assert_err(parse(yaml), ERR_NONE);
        assert_string_equal(config.admin.address, addresses[i]);
        assert_string_equal(config.listen[0], addresses[i]);
    }
}

/* What follows from a problem is none of its own. */
static void one_mistake_is_one_line(void **state)
{
    (void)state;
    static const char *const cases[] = {
        "listen: [{address: [x]}]",
        "listen: [5]",
        "listen: [{adress: '1.2.3.4:5'}]",
        "modules: {m: [x]}",
        "modules: {m: {path: [x]}}",
        "modules: {m: {pth: x}}",
        "modules: {m: '${W_UNSET}'}",
        "limits: {head: '${W_UNSET}'}",
        "routes: [5]",
        "routes: [{path: [x], websocket: {handler: echo}}]",
        "routes: [{path: '${W_UNSET}', websocket: {handler: echo}}]",
        "routes: [{path: a, websocket: {handler: echo}}]",
        "routes: [{path: /a, websocket: {handler: pong}}]",
        "routes: [{path: /a, websocket: {handler: [echo]}}]",
        "routes: [{path: /a, http: {module: m}}]",
        "routes: [{path: /a, http: {}}]",
        "routes: [{path: /a}]",
        "routes: [{path: /a, http: 5}]",
    };
    unsetenv("W_UNSET");
    int bad = 0;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        enum err e = parse(cases[i]);
        if (e == ERR_INVALID && strchr(said(), '\n') == said() + errors.len - 1)
            continue;
        print_error("%s\n%s", cases[i], said());
        bad++;
    }
    assert_int_equal(bad, 0);
}

static void all_that_is_wrong_is_said_at_once(void **state)
{
    (void)state;
    assert_err(parse("drain: soon\n"
                     "drian: 1s\n"
                     "limits:\n"
                     "  head: 1\n"
                     "  hed: 1\n"
                     "modules:\n"
                     "  m: {engine: jit}\n"
                     "routes:\n"
                     "  - {path: a}\n"
                     "admin: {address: '1.2.3.4:5'}\n"),
               ERR_INVALID);
    static const char *const lines[] = {":1: ", ":2: ", ":4: ", ":5: ", ":7: ", ":9: ", ":10: "};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        char want[32];
        snprintf(want, sizeof(want), "etc/w.yaml%s", lines[i]);
        assert_non_null(strstr(said(), want));
    }
    for (const char *p = said(); *p; p = strchr(p, '\n') + 1)
        assert_memory_equal(p, "etc/w.yaml:", 11);
}

static void the_page_names_every_setting(void **state)
{
    (void)state;
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_err(config_write_docs(&out), ERR_NONE);
    assert_err(buf_append(&out, SLICE("\0")), ERR_NONE);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char want[128];
        snprintf(want, sizeof(want), "\n| `%s` | ", rows[i].key);
        assert_non_null(strstr((char *)out.p, want));
    }
    buf_done(&out);
}

static void modules_are_added_and_removed(void **state)
{
    (void)state;
    static const char *const bad[] = {"native event auto",     "jit event auto x",
                                      "native once auto x",    "native event maybe x",
                                      "native event auto a/b", ""};
    char text[128];
    assert_err(parse("modules: {a: a.wat}"), ERR_NONE);
    assert_false(config_module_set(&config, 0, "native event auto x")); /* the file's own */
    assert_false(config_module_set(&config, 0, NULL));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(config_module_set(&config, 1, bad[i]));
    for (size_t n = 64; n < 80; n++) {
        memset(text, 'x', sizeof(text));
        memcpy(text, "pulley module yes ", 18);
        text[18 + n] = 0;
        assert_int_equal(config_module_set(&config, 3, text), n == 64);
    }
    assert_int_equal(config.n_modules, 4);
    const struct config_module *m = &config.modules[3];
    assert_string_equal(m->engine, "pulley");
    assert_string_equal(m->instance, "module");
    assert_string_equal(m->exec, "yes");
    assert_int_equal(strlen(m->name), 64);
    assert_true(m->space[0] == '+' && strcmp(m->space + 1, m->name) == 0);
    assert_int_equal(m->limits.memory, config.modules[0].limits.memory);
    assert_int_equal(m->limits.kv, config.modules[0].limits.kv);
    assert_true(m->allow == config.modules[0].allow && config_module_added(m));
    assert_true(config_module_set(&config, 3, NULL));
    for (uint32_t i = 1; i < 4; i++)
        assert_string_equal(config.modules[i].name, "");
}

#define CONFIG_TEST(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONFIG_TEST(each_setting_has_its_default),
        CONFIG_TEST(each_number_keeps_to_its_range),
        CONFIG_TEST(each_setting_takes_its_type_only),
        CONFIG_TEST(units_multiply),
        CONFIG_TEST(words_are_one_of_those_known),
        CONFIG_TEST(unknown_and_repeated_keys_are_named),
        CONFIG_TEST(variables_come_from_the_environment),
        CONFIG_TEST(paths_are_relative_to_the_file),
        CONFIG_TEST(the_cache_is_relative_to_the_file_too),
        CONFIG_TEST(routes_are_read),
        CONFIG_TEST(bad_routes_modules_and_addresses_are_named),
        CONFIG_TEST(addresses_are_taken_apart),
        CONFIG_TEST(any_loopback_is_for_the_admin),
        CONFIG_TEST(one_mistake_is_one_line),
        CONFIG_TEST(heartbeats_and_replies_are_read),
        CONFIG_TEST(all_that_is_wrong_is_said_at_once),
        CONFIG_TEST(the_page_names_every_setting),
        CONFIG_TEST(modules_are_added_and_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
