#include "app/config.h"

#include <stdio.h>
#include <stdlib.h>

#include "app/config_reader.h"
#include "guest/host.h"

/* More than a configuration needs; less than takes long to read or to say. */
/* RFC 6750 2.1 */
#define TOKEN_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
enum { TOKEN_LEAST = 16 };
enum {
    ENV_VALUE_MAX = 4096,
    MODULES_MAX = 256,
    AUTO_REPLIES_MAX = 8,
    AUTO_REPLY_MAX = 125,
    LISTEN_MAX = 15 /* the gateway has 16 listeners, and one is the admin's */
};

#define ROWS(name, LIST) static const struct reader_row name[] = {LIST(CFG_##name){.key = NULL}};
#define CFG_root_rows(k, t, d, lo, hi, x)                                                          \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_root, k)},
#define CFG_admin_rows(k, t, d, lo, hi, x)                                                         \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_admin, k)},
#define CFG_heartbeat_rows(k, t, d, lo, hi, x)                                                     \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_heartbeat, k)},
#define CFG_limit_rows(k, t, d, lo, hi, x)                                                         \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_limits, k)},
#define CFG_tls_rows(k, t, d, lo, hi, x)                                                           \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_tls, k)},
#define CFG_module_rows(k, t, d, lo, hi, x)                                                        \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_module, k)},
#define CFG_module_limit_rows(k, t, d, lo, hi, x)                                                  \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_module_limits, k)},
ROWS(root_rows, CONFIG_ROOT)
ROWS(admin_rows, CONFIG_ADMIN)
ROWS(heartbeat_rows, CONFIG_HEARTBEAT)
ROWS(limit_rows, CONFIG_LIMITS)
ROWS(tls_rows, CONFIG_TLS)
ROWS(module_rows, CONFIG_MODULE)
ROWS(module_limit_rows, CONFIG_MODULE_LIMITS)

static const struct reader_map module_limit_map = {READER_KEYS, .form = "memory: SIZE",
                                                   .rows = module_limit_rows};

static const struct {
    const char *name, *group;
} hosts[] = {
#define HOST(name, group, params, result, text) {#name, #group},
#include "tbl/host.def"
#undef HOST
    [GUEST_ALLOW_WASI] = {"wasi", "wasi"},
};

static void allow_item(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_module *m = base;
    char *word = reader_expand(r, item);
    uint64_t bits = 0;
    for (size_t i = 0; word && i < ARRAY_LEN(hosts); i++)
        if (strcmp(word, hosts[i].name) == 0 || strcmp(word, hosts[i].group) == 0)
            bits |= UINT64_C(1) << i;
    if (word && !bits)
        reader_fail(r, item,
                    "allow lists functions of weir_v1, or groups of them (docs/GUEST.md): "
                    "not %.60s",
                    word);
    m->allow |= bits;
    free(word);
}

static const struct reader_list allow_list = {"function", "[ws, log]", 0, READER_TEXTS_MAX,
                                              allow_item};

static void env_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_module *m = base;
    const char *name = reader_key(key);
    char *text = reader_expand(r, value), *line = NULL;
    size_t n = strlen(name);
    if (!n || n > CONFIG_ENV_NAME_MAX || strchr(name, '='))
        reader_fail(r, key, "a variable's name has 1 to 128 characters and no =");
    else if (text && strlen(text) > ENV_VALUE_MAX)
        reader_fail(r, value, "a variable has at most %d bytes", ENV_VALUE_MAX);
    else if (text && asprintf(&line, "%s=%s", name, text) > 0) {
        m->env = reader_grow(m->env, &m->n_env, sizeof(*m->env));
        m->env[m->n_env - 1] = line;
    }
    free(text);
}

const char *config_env_get(const struct config_module *m, struct slice name)
{
    for (uint32_t i = 0; i < m->n_env; i++) {
        const char *value = strchr(m->env[i], '=') + 1;
        if (slice_eq(slice_of(m->env[i], (size_t)(value - 1 - m->env[i])), name))
            return value;
    }
    return NULL;
}

static const struct reader_map env_map = {
    .noun = "variable", .form = "NAME: value", .most = CONFIG_ENV_MAX, .entry = env_read};

static void allow_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_module *m = base;
    (void)key;
    m->allow = 0;
    reader_list_read(r, value, &allow_list, m);
}

static const struct reader_key module_keys[] = {
    {"allow", 0, .read = allow_read},
    {"env", 0, .map = &env_map},
    {"jwt", offsetof(struct config_module, jwt), .read = config_jwt_read},
    {"limits", offsetof(struct config_module, limits), .map = &module_limit_map},
    {.key = NULL}};
static const struct reader_map module_map = {READER_KEYS, .form = "path: FILE", .rows = module_rows,
                                             .keys = module_keys, .shows_rows = true};

bool config_name_valid(struct slice name)
{
    static const char fits[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    for (size_t i = 0; i < name.n; i++)
        if (!memchr(fits, name.p[i], sizeof(fits) - 1))
            return false;
    return name.n && name.n <= 64;
}

static void module_defaults(struct reader *r, struct config_module *m, const char *name)
{
    m->name = strdup(name);
    ASSERT(m->name);
    m->allow = ~UINT64_C(0);
    reader_defaults(r, module_rows, m);
    reader_defaults(r, module_limit_rows, &m->limits);
}

static void module_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    const char *name = reader_key(key);
    c->modules = reader_grow(c->modules, &c->n_modules, sizeof(*c->modules));
    struct config_module *m = &c->modules[c->n_modules - 1];
    module_defaults(r, m, name);
    m->line = (unsigned)key->start_mark.line + 1;
    if (!config_name_valid(slice_str(name)))
        reader_fail(r, key, "a module's name has 1 to 64 letters, digits, _ or -");
    unsigned before = r->problems;
    if (value->type == YAML_SCALAR_NODE) {
        char *text = reader_expand(r, value);
        if (text)
            reader_set(r, value->start_mark, reader_row_find(module_rows, "path"), m, text);
    } else {
        reader_map_read(r, value, &module_map, m);
    }
    if (!*m->path && r->problems == before)
        reader_fail(r, key, "a module needs path: FILE");
    m->path = reader_resolve(r->file, m->path);
}

static void texts_free(struct config_texts t)
{
    for (uint32_t i = 0; i < t.n; i++)
        free(t.v[i]);
    free(t.v);
}

void reader_rows_free(const struct reader_row *row, void *base)
{
    for (; row->key; row++)
        if (row->type == CONFIG_TEXT)
            free(*(char **)((char *)base + row->offset));
}

static void module_free(struct config_module *m)
{
    reader_rows_free(module_rows, m);
    free(m->name);
    texts_free((struct config_texts){m->env, m->n_env});
    memset(m, 0, sizeof(*m));
}

void config_limits_default(struct config_module_limits *out)
{
    struct reader r = {.config = NULL};
    memset(out, 0, sizeof(*out));
    reader_defaults(&r, module_limit_rows, out);
}

static bool word_fits(const char *key, const char *text)
{
    return reader_word(text, reader_row_find(module_rows, key)->words) >= 0;
}

static void text_set(struct reader *r, struct config_module *m, const char *key, const char *text)
{
    reader_set(r, (yaml_mark_t){0}, reader_row_find(module_rows, key), m, strdup(text));
}

bool config_module_set(struct config *c, uint32_t i, const char *words)
{
    struct reader r = {.config = c};
    char engine[8] = "native", instance[8] = "event", exec[8] = "auto", name[66] = "", space[68];
    if (i < c->n_modules && !config_module_added(&c->modules[i]))
        return false;
    if (words && (sscanf(words, "%7s %7s %7s %65s", engine, instance, exec, name) != 4 ||
                  !config_name_valid(slice_str(name)) || !word_fits("engine", engine) ||
                  !word_fits("instance", instance) || !word_fits("exec", exec)))
        return false;
    while (i >= c->n_modules) {
        c->modules = reader_grow(c->modules, &c->n_modules, sizeof(*c->modules));
        module_defaults(&r, &c->modules[c->n_modules - 1], "");
    }
    struct config_module *m = &c->modules[i];
    module_free(m);
    module_defaults(&r, m, name);
    text_set(&r, m, "engine", engine);
    text_set(&r, m, "instance", instance);
    text_set(&r, m, "exec", exec);
    snprintf(space, sizeof(space), "+%s", name);
    text_set(&r, m, "space", space);
    return true;
}

static const struct reader_map modules_map = {
    .noun = "module", .form = "NAME: FILE", .most = MODULES_MAX, .entry = module_read};

static const struct reader_list origins_list = {"origin", "[a, b]", 0, READER_TEXTS_MAX,
                                                reader_text_item};
static const struct reader_list subprotocols_list = {"subprotocol", "[a, b]", 0, READER_TEXTS_MAX,
                                                     reader_text_item};

static void target_module(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    char *name = reader_expand(r, value);
    (void)key;
    for (uint32_t i = 0; name && i < r->config->n_modules; i++)
        if (strcmp(r->config->modules[i].name, name) == 0)
            route->module = (int)i;
    if (name && route->module < 0)
        reader_fail(r, value, "no such module; add it to modules: %.60s", name);
    free(name);
}

static void handler_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    (void)key;
    int i = reader_word_read(r, value, "a handler", "echo or pubsub");
    route->handler = (enum route_handler)(i + 1);
}

static void space_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    char *space = reader_expand(r, value), **field = base;
    (void)key;
    if (space && !*space)
        reader_fail(r, value, "a space has a name");
    *field = space;
}

static void on_slow_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    *(bool *)base = reader_word_read(r, value, reader_key(key), "close or drop-oldest") == 1;
}

static void compress_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    *(bool *)base = reader_word_read(r, value, reader_key(key), "yes or no") == 0;
}

static void auto_reply_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_texts *texts = base;
    uint32_t n = texts->n;
    reader_text_item(r, key, texts);
    if (texts->n == n + 1)
        reader_text_item(r, value, texts);
    for (uint32_t i = n; i < texts->n; i++) {
        size_t length = strlen(texts->v[i]);
        if (!length || length > AUTO_REPLY_MAX)
            reader_fail(r, i == n ? key : value, "a text of auto_reply has 1 to %d bytes",
                        AUTO_REPLY_MAX);
    }
}

static const struct reader_map auto_reply_map = {
    .noun = "text", .form = "ping: pong", .most = AUTO_REPLIES_MAX, .entry = auto_reply_read};

static const struct reader_key websocket_keys[] = {
    {"module", 0, .read = target_module},
    {"handler", 0, .read = handler_read},
    {"space", offsetof(struct config_route, space), .read = space_read},
    {"compress", offsetof(struct config_route, compress), .read = compress_read},
    {"origins", offsetof(struct config_route, origins), .list = &origins_list},
    {"subprotocols", offsetof(struct config_route, subprotocols), .list = &subprotocols_list},
    {"on_slow", offsetof(struct config_route, drops_oldest), .read = on_slow_read},
    {"auto_reply", offsetof(struct config_route, auto_replies), .map = &auto_reply_map},
    {.key = NULL}};
static const struct reader_key http_keys[] = {{"module", 0, .read = target_module}, {.key = NULL}};
static const struct reader_map target_maps[] = {
    [ROUTE_WEBSOCKET] = {READER_KEYS, .form = "module: NAME", .keys = websocket_keys},
    [ROUTE_HTTP] = {READER_KEYS, .form = "module: NAME", .keys = http_keys}};

static void target_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    if (r->target) {
        reader_fail(r, value, "a route has either websocket or http");
        return;
    }
    r->target = true;
    route->kind = *reader_key(key) == 'w' ? ROUTE_WEBSOCKET : ROUTE_HTTP;
    unsigned before = r->problems;
    reader_map_read(r, value, &target_maps[route->kind], route);
    if (r->problems == before && (route->module < 0) == (route->handler == HANDLER_NONE))
        reader_fail(r, value, "a route needs one of module and handler");
}

static void path_check(struct reader *r, const yaml_node_t *at, const char *path)
{
    const char *star = strchr(path, '*');
    if (path[0] != '/' || (star && (star[1] || star[-1] != '/')))
        reader_fail(r, at, "path begins with / and may end in /*");
}

static void path_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    char *text = reader_expand(r, value), **path = base;
    (void)key;
    if (text)
        path_check(r, value, text);
    *path = text ? text : strdup("");
}

static const struct reader_key route_keys[] = {
    {"path", offsetof(struct config_route, path), .read = path_read},
    {"websocket", 0, .read = target_read},
    {"http", 0, .read = target_read},
    {"jwt", offsetof(struct config_route, jwt), .read = config_jwt_read},
    {.key = NULL}};
static const struct reader_map route_map = {READER_KEYS, .form = "path: /PATH", .keys = route_keys};

static void route_read(struct reader *r, yaml_node_t *node, void *base)
{
    struct config *c = base;
    c->routes = reader_grow(c->routes, &c->n_routes, sizeof(*c->routes));
    struct config_route *route = &c->routes[c->n_routes - 1];
    route->module = -1;
    r->target = false;
    unsigned before = r->problems;
    reader_map_read(r, node, &route_map, route);
    if (r->problems == before) {
        if (!route->path)
            path_check(r, node, "");
        if (!r->target)
            reader_fail(r, node, "a route needs one of module and handler, in websocket or http");
    }
    for (uint32_t i = 0; route->path && i + 1 < c->n_routes; i++)
        if (c->routes[i].kind == route->kind && c->routes[i].path &&
            strcmp(c->routes[i].path, route->path) == 0) {
            reader_fail(r, node, "this path is routed twice: %.60s", route->path);
            break;
        }
}

static const struct reader_list routes_list = {"route", "[{path: /PATH, http: {module: NAME}}]", 0,
                                               ROUTES_MAX, route_read};

static void address_check(struct reader *r, const yaml_node_t *at, const char *text, bool admin,
                          bool guarded)
{
    bool loopback;
    bool path = strncmp(text, "unix:", 5) == 0;
    if (!config_listenable(text, &loopback) || (path && !admin))
        reader_fail(r, at, "an address is IP:PORT or [IPv6]:PORT%s, not %.60s",
                    admin ? ", or unix:/PATH of 63 bytes at most" : "", text);
    else if (admin && !guarded && !loopback)
        reader_fail(r, at,
                    "the admin address must be on loopback, or admin.token or "
                    "admin.tls.client_ca be set: others reach it");
    else if (path && r->config->n_certificates && /* what was read last is the admin's own */
             r->config->certificates[r->config->n_certificates - 1].listener == READER_ADMIN)
        reader_fail(r, at, "a Unix socket is its owner's alone: it takes no tls");
}

static void token_check(struct reader *r, const yaml_node_t *at, const char *token)
{
    size_t n = strlen(token);
    if (n && (n < TOKEN_LEAST || strspn(token, TOKEN_CHARS) != n))
        reader_fail(r, at, "admin.token has at least 16 letters, digits or -._~+/=");
}

static void proxy_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    char *text = reader_expand(r, value);
    int i = text ? reader_word(text, "yes, true, on, no, false or off") : 0;
    (void)base;
    r->proxy = text && i >= 0 && i < 3;
    if (i < 0)
        reader_fail(r, value, "%s is yes or no", reader_key(key));
    free(text);
}

static void listen_address_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    uint32_t n = c->n_listen;
    (void)key;
    reader_text_add(r, value, &c->listen, &c->n_listen);
    if (c->n_listen > n)
        address_check(r, value, c->listen[n], false, false);
}

static const struct reader_key listener_keys[] = {{"address", 0, .read = listen_address_read},
                                                  {"tls", 0, .read = config_certificates_read},
                                                  {"proxy_protocol", 0, .read = proxy_read},
                                                  {.key = NULL}};
static const struct reader_map listener_map = {READER_KEYS, .form = "address: IP:PORT",
                                               .keys = listener_keys};

static void listener_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config *c = base;
    uint32_t n = c->n_listen;
    unsigned before = r->problems;
    r->proxy = false;
    r->listener = n;
    reader_map_read(r, item, &listener_map, c);
    c->listen_proxy |= r->proxy && c->n_listen > n ? UINT32_C(1) << n : 0;
    if (c->n_listen == n && r->problems == before)
        reader_fail(r, item, "a listener needs address: IP:PORT");
}

static const struct reader_list listen_list = {"listener", "[{address: IP:PORT}]", 1, LISTEN_MAX,
                                               listener_read};
static const struct reader_list allow_from_list = {"address", "[10.0.0.0/8, ::1]", 1,
                                                   READER_TEXTS_MAX, reader_block_item};
static const struct reader_list hosts_list = {"name", "[weir.example]", 1, READER_TEXTS_MAX,
                                              reader_text_item};
static const struct reader_key admin_keys[] = {
    {"allow", offsetof(struct config_admin, allow), .list = &allow_from_list},
    {"hosts", offsetof(struct config_admin, hosts), .list = &hosts_list},
    {"tls", 0, .read = config_admin_tls_read},
    {.key = NULL}};
static const struct reader_map admin_map = {READER_KEYS, .form = "address: IP:PORT",
                                            .rows = admin_rows, .keys = admin_keys};
static const struct reader_map heartbeat_map = {READER_KEYS, .form = "interval: 15s",
                                                .rows = heartbeat_rows};
static const struct reader_map tls_map = {READER_KEYS, .form = "handshakes: 64", .rows = tls_rows};
static const struct reader_map limit_map = {READER_KEYS, .form = "connections: 20000",
                                            .rows = limit_rows};

static void admin_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_admin *a = base;
    (void)key;
    reader_map_read(r, value, &admin_map, a);
    address_check(r, value, a->address, true, *a->token || a->client_ca);
    token_check(r, value, a->token);
}

static void heartbeat_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_heartbeat *h = base;
    unsigned before = r->problems;
    (void)key;
    reader_map_read(r, value, &heartbeat_map, h);
    if (r->problems == before && h->interval && h->interval + h->timeout > h->evict)
        reader_fail(r, value,
                    "interval + timeout (%llu ms) is more than evict (%llu ms): a connection would "
                    "be evicted before its ping's time is over",
                    (unsigned long long)(h->interval + h->timeout), (unsigned long long)h->evict);
}

static void routes_later(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    (void)key, (void)base;
    r->routes = value;
}

static const struct reader_key root_keys[] = {
    {"listen", 0, .list = &listen_list},
    {"admin", offsetof(struct config, admin), .read = admin_read},
    {"heartbeat", offsetof(struct config, heartbeat), .read = heartbeat_read},
    {"limits", offsetof(struct config, limits), .map = &limit_map},
    {"tls", offsetof(struct config, tls), .map = &tls_map},
    {"access", offsetof(struct config, access), .map = &config_access_map},
    {"modules", 0, .map = &modules_map},
    {"routes", 0, .read = routes_later},
    {.key = NULL}};
static const struct reader_map root_map = {READER_KEYS, .form = "key: value", .rows = root_rows,
                                           .keys = root_keys};

/* A queue holds at least what began to be sent: a message, or a module's output. */
static void queues_check(struct reader *r, const yaml_node_t *root)
{
    const struct config *c = r->config;
    uint64_t most = 0;
    for (uint32_t i = 0; i < c->n_modules; i++)
        most = MAX(most, c->modules[i].limits.output);
    if (c->limits.send_queue < c->limits.message)
        reader_fail(r, root, "limits.send_queue has to be at least limits.message");
    if (c->limits.queues < c->limits.send_queue + most)
        reader_fail(r, root,
                    "limits.queues has to be at least limits.send_queue and the largest "
                    "limits.output of a module");
}

static void root_read(struct reader *r, yaml_node_t *root)
{
    struct config *c = r->config;
    reader_map_read(r, root, &root_map, c);
    if (r->routes)
        reader_list_read(r, r->routes, &routes_list, c);
    queues_check(r, root);
    if (c->listen_proxy && !c->access.trusted.n)
        reader_fail(r, root, "proxy_protocol: yes needs access: {trusted: [addresses of proxies]}");
    c->root.cache = reader_resolve(r->file, c->root.cache);
    for (uint32_t i = 0; i < c->n_modules && c->root.workers > 1; i++)
        if (strcmp(c->modules[i].instance, "module") == 0)
            reader_fail_at(r, (yaml_mark_t){.line = c->modules[i].line - 1},
                           "%.60s has instance: module, and so one place for all its events: set "
                           "workers: 1, or instance: event",
                           c->modules[i].name);
}

static void document_read(struct reader *r, yaml_parser_t *parser)
{
    if (!yaml_parser_load(parser, &r->doc)) {
        reader_yaml_fail(r, parser);
        return;
    }
    yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (root)
        root_read(r, root);
    yaml_document_delete(&r->doc);
}

static const struct {
    const char *title;
    const struct reader_row *rows;
    size_t offset; /* in struct config */
    bool many;     /* not there */
} sections[] = {
    {"Top level", root_rows, offsetof(struct config, root), false},
    {"admin", admin_rows, offsetof(struct config, admin), false},
    {"heartbeat", heartbeat_rows, offsetof(struct config, heartbeat), false},
    {"limits", limit_rows, offsetof(struct config, limits), false},
    {"access", config_access_rows, offsetof(struct config, access), false},
    {"jwt, of a route or a module", config_jwt_rows, 0, true},
    {"tls", tls_rows, offsetof(struct config, tls), false},
    {"modules.NAME", module_rows, 0, true},
    {"modules.NAME.limits", module_limit_rows, 0, true},
};

enum err config_parse(struct slice yaml, const char *file, struct config *out, struct buf *errors)
{
    struct reader r = {.yaml = yaml, .file = file, .config = out, .errors = errors};
    memset(out, 0, sizeof(*out));
    for (size_t i = 0; i < ARRAY_LEN(sections); i++)
        if (!sections[i].many)
            reader_defaults(&r, sections[i].rows, (char *)out + sections[i].offset);
    if (yaml.n > CONFIG_MAX)
        return ERR_LIMIT;
    enum err e = reader_run(&r, reader_events_check);
    e = e ? e : reader_run(&r, document_read);
    if (!out->n_listen) {
        out->listen = reader_grow(out->listen, &out->n_listen, sizeof(*out->listen));
        out->listen[0] = strdup("0.0.0.0:8080");
    }
    for (uint32_t i = 0; i < out->n_certificates; i++)
        if (out->certificates[i].listener == READER_ADMIN)
            out->certificates[i].listener = out->n_listen;
    return e;
}

void config_done(struct config *c)
{
    for (size_t i = 0; i < ARRAY_LEN(sections); i++)
        if (!sections[i].many)
            reader_rows_free(sections[i].rows, (char *)c + sections[i].offset);
    config_access_done(c);
    texts_free((struct config_texts){c->listen, c->n_listen});
    texts_free(c->admin.hosts);
    free(c->admin.allow.v);
    for (uint32_t i = 0; i < c->n_modules; i++)
        module_free(&c->modules[i]);
    for (uint32_t i = 0; i < c->n_routes; i++) {
        free(c->routes[i].path);
        free(c->routes[i].space);
        texts_free(c->routes[i].origins);
        texts_free(c->routes[i].subprotocols);
        texts_free(c->routes[i].auto_replies);
    }
    free(c->modules);
    free(c->routes);
    memset(c, 0, sizeof(*c));
}

static enum err docs_section(struct buf *out, const char *title, const struct reader_row *row)
{
    enum err e = buf_printf(
        out, "\n## %s\n\n| key | type | default | meaning |\n|---|---|---|---|\n", title);
    for (; row->key && !e; row++)
        e = buf_printf(out, "| `%s` | %s | `%s` | %s |\n", row->key, reader_type_names[row->type],
                       row->def, row->text);
    return e;
}

enum err config_write_docs(struct buf *out)
{
    enum err e = buf_printf(
        out, "# Configuration\n\nMade by `weir docs config` from `src/tbl/config.def`.\n");
    for (size_t i = 0; i < ARRAY_LEN(sections) && !e; i++)
        e = docs_section(out, sections[i].title, sections[i].rows);
    return e;
}
