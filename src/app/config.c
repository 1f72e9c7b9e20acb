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
    FILE_MAX = 1 << 20,
    MODULES_MAX = 256,
    AUTO_REPLIES_MAX = 8,
    AUTO_REPLY_MAX = 125,
    LISTEN_MAX = 15 /* the gateway has 16 listeners, and one is the admin's */
};

#define ROWS(name, LIST) static const struct reader_row name[] = {LIST(CFG_##name){.key = NULL}};
#define CFG_root_rows(k, t, d, lo, hi, x)                                                          \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_root, k)},
#define CFG_admin_rows(k, t, d, lo, hi, x)                                                         \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_admin, k)},
#define CFG_heartbeat_rows(k, t, d, lo, hi, x)                                                     \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_heartbeat, k)},
#define CFG_limit_rows(k, t, d, lo, hi, x)                                                         \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_limits, k)},
#define CFG_tls_rows(k, t, d, lo, hi, x)                                                           \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_tls, k)},
#define CFG_module_rows(k, t, d, lo, hi, x)                                                        \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_module, k)},
#define CFG_module_limit_rows(k, t, d, lo, hi, x)                                                  \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_module_limits, k)},
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

static void allow_read(struct reader *r, yaml_node_t *item, void *base)
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
                                              allow_read};

static bool env_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
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
    return true;
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

static const struct reader_map env_map = {.noun = "variable",
                                          .form = "NAME: value",
                                          .most = CONFIG_ENV_MAX,
                                          .rows = reader_no_rows,
                                          .extra = env_read};

static bool module_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_module *m = base;
    if (strcmp(reader_key(key), "limits") == 0) {
        reader_map_read(r, value, &module_limit_map, &m->limits);
    } else if (strcmp(reader_key(key), "allow") == 0) {
        m->allow = 0;
        reader_list_read(r, value, &allow_list, m);
    } else if (strcmp(reader_key(key), "env") == 0) {
        reader_map_read(r, value, &env_map, m);
    } else if (strcmp(reader_key(key), "jwt") == 0) {
        config_jwt_read(r, value, &m->jwt);
    } else {
        return false;
    }
    return true;
}

static const struct reader_map module_map = {
    READER_KEYS, .form = "path: FILE", .rows = module_rows, .extra = module_extra,
    .known = "path, engine, instance, exec, snapshot, space, allow, env, jwt, limits"};

static const char *const engines[] = {"native", "pulley", NULL};
static const char *const instances[] = {"event", "module", NULL};
static const char *const autos[] = {"auto", "yes", "no", NULL};

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

static bool module_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
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
    if (!reader_one_of(m->engine, engines))
        reader_fail(r, value, "engine is native or pulley");
    if (!reader_one_of(m->instance, instances))
        reader_fail(r, value, "instance is event or module");
    if (!reader_one_of(m->exec, autos))
        reader_fail(r, value, "exec is auto, yes or no");
    if (!reader_one_of(m->snapshot, autos))
        reader_fail(r, value, "snapshot is auto, yes or no");
    return true;
}

static void texts_free(char **v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(v[i]);
    free(v);
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
    texts_free(m->env, m->n_env);
    memset(m, 0, sizeof(*m));
}

void config_limits_default(struct config_module_limits *out)
{
    struct reader r = {.config = NULL};
    memset(out, 0, sizeof(*out));
    reader_defaults(&r, module_limit_rows, out);
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
                  !config_name_valid(slice_str(name)) || !reader_one_of(engine, engines) ||
                  !reader_one_of(instance, instances) || !reader_one_of(exec, autos)))
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

static const struct reader_map modules_map = {.noun = "module",
                                              .form = "NAME: FILE",
                                              .most = MODULES_MAX,
                                              .rows = reader_no_rows,
                                              .extra = module_read};

static void origin_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_route *route = base;
    reader_text_add(r, item, &route->origins, &route->n_origins);
}

static void subprotocol_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_route *route = base;
    reader_text_add(r, item, &route->subprotocols, &route->n_subprotocols);
}

static const struct reader_list origins_list = {"origin", "[a, b]", 0, READER_TEXTS_MAX,
                                                origin_read};
static const struct reader_list subprotocols_list = {"subprotocol", "[a, b]", 0, READER_TEXTS_MAX,
                                                     subprotocol_read};

static void target_module(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *name = reader_expand(r, value);
    for (uint32_t i = 0; name && i < r->config->n_modules; i++)
        if (strcmp(r->config->modules[i].name, name) == 0)
            route->module = (int)i;
    if (name && route->module < 0)
        reader_fail(r, value, "no such module; add it to modules: %.60s", name);
    free(name);
}

static void target_handler(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *name = reader_expand(r, value);
    if (name && strcmp(name, "echo") == 0)
        route->handler = HANDLER_ECHO;
    else if (name && strcmp(name, "pubsub") == 0)
        route->handler = HANDLER_PUBSUB;
    else if (name)
        reader_fail(r, value, "a handler is echo or pubsub");
    free(name);
}

static void space_read(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *space = reader_expand(r, value);
    if (space && !*space)
        reader_fail(r, value, "a space has a name");
    free(route->space);
    route->space = space;
}

static void on_slow_read(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *what = reader_expand(r, value);
    route->drops_oldest = what && strcmp(what, "drop-oldest") == 0;
    if (what && !route->drops_oldest && strcmp(what, "close") != 0)
        reader_fail(r, value, "on_slow is close or drop-oldest");
    free(what);
}

static void compress_read(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *word = reader_expand(r, value);
    route->compress = word && strcmp(word, "yes") == 0;
    if (word && !reader_one_of(word, (const char *const[]){"yes", "no", NULL}))
        reader_fail(r, value, "compress is yes or no");
    free(word);
}

static bool auto_reply_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    uint32_t n = route->n_auto_replies;
    reader_text_add(r, key, &route->auto_replies, &route->n_auto_replies);
    if (route->n_auto_replies == n + 1)
        reader_text_add(r, value, &route->auto_replies, &route->n_auto_replies);
    for (uint32_t i = n; i < route->n_auto_replies; i++) {
        size_t length = strlen(route->auto_replies[i]);
        if (!length || length > AUTO_REPLY_MAX)
            reader_fail(r, i == n ? key : value, "a text of auto_reply has 1 to %d bytes",
                        AUTO_REPLY_MAX);
    }
    return true;
}

static const struct reader_map auto_reply_map = {.noun = "text",
                                                 .form = "ping: pong",
                                                 .most = AUTO_REPLIES_MAX,
                                                 .rows = reader_no_rows,
                                                 .extra = auto_reply_read};

static bool target_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    const char *name = reader_key(key);
    if (strcmp(name, "module") == 0)
        target_module(r, value, route);
    else if (route->kind != ROUTE_WEBSOCKET)
        return false;
    else if (strcmp(name, "handler") == 0)
        target_handler(r, value, route);
    else if (strcmp(name, "origins") == 0)
        reader_list_read(r, value, &origins_list, route);
    else if (strcmp(name, "subprotocols") == 0)
        reader_list_read(r, value, &subprotocols_list, route);
    else if (strcmp(name, "space") == 0)
        space_read(r, value, route);
    else if (strcmp(name, "on_slow") == 0)
        on_slow_read(r, value, route);
    else if (strcmp(name, "compress") == 0)
        compress_read(r, value, route);
    else if (strcmp(name, "auto_reply") == 0)
        reader_map_read(r, value, &auto_reply_map, route);
    else
        return false;
    return true;
}

static const struct reader_map target_maps[] = {
    [ROUTE_WEBSOCKET] = {READER_KEYS, .form = "module: NAME", .rows = reader_no_rows,
                         .extra = target_extra,
                         .known = "module, handler, space, compress, origins, subprotocols, "
                                  "on_slow, auto_reply"},
    [ROUTE_HTTP] = {READER_KEYS, .form = "module: NAME", .rows = reader_no_rows,
                    .extra = target_extra, .known = "module"},
};

static void target_read(struct reader *r, yaml_node_t *value, struct config_route *route)
{
    if (r->target) {
        reader_fail(r, value, "a route has either websocket or http");
        return;
    }
    r->target = true;
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

static bool route_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    const char *name = reader_key(key);
    if (strcmp(name, "path") == 0) {
        route->path = reader_expand(r, value);
        if (route->path)
            path_check(r, value, route->path);
        else
            route->path = strdup("");
    } else if (strcmp(name, "websocket") == 0 || strcmp(name, "http") == 0) {
        if (!r->target)
            route->kind = *name == 'w' ? ROUTE_WEBSOCKET : ROUTE_HTTP;
        target_read(r, value, route);
    } else if (strcmp(name, "jwt") == 0) {
        config_jwt_read(r, value, &route->jwt);
    } else {
        return false;
    }
    return true;
}

static const struct reader_map route_map = {READER_KEYS, .form = "path: /PATH",
                                            .rows = reader_no_rows, .extra = route_extra,
                                            .known = "path, websocket, http, jwt"};

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
        reader_fail(r, at, "the admin address must be on loopback, or admin.token be set");
}

static void token_check(struct reader *r, const yaml_node_t *at, const char *token)
{
    size_t n = strlen(token);
    if (n && (n < TOKEN_LEAST || strspn(token, TOKEN_CHARS) != n))
        reader_fail(r, at, "admin.token has at least 16 letters, digits or -._~+/=");
}

static bool listener_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    if (strcmp(reader_key(key), "proxy_protocol") == 0) {
        r->proxy = reader_yes(r, value, "proxy_protocol");
        return true;
    }
    if (strcmp(reader_key(key), "tls") == 0) {
        config_certificates_read(r, value, c);
        return true;
    }
    if (strcmp(reader_key(key), "address") != 0)
        return false;
    uint32_t n = c->n_listen;
    reader_text_add(r, value, &c->listen, &c->n_listen);
    if (c->n_listen > n)
        address_check(r, value, c->listen[n], false, false);
    return true;
}

static const struct reader_map listener_map = {READER_KEYS, .form = "address: IP:PORT",
                                               .rows = reader_no_rows, .extra = listener_extra,
                                               .known = "address, tls, proxy_protocol"};

static void listener_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config *c = base;
    uint32_t n = c->n_listen;
    unsigned before = r->problems;
    r->proxy = false;
    reader_map_read(r, item, &listener_map, c);
    c->listen_proxy |= r->proxy && c->n_listen > n ? UINT32_C(1) << n : 0;
    for (uint32_t i = 0; i < c->n_certificates; i++)
        c->certificates[i].listener = MIN(c->certificates[i].listener, n);
    if (c->n_listen == n && r->problems == before)
        reader_fail(r, item, "a listener needs address: IP:PORT");
}

static const struct reader_list listen_list = {"listener", "[{address: IP:PORT}]", 1, LISTEN_MAX,
                                               listener_read};
static const struct reader_map admin_map = {READER_KEYS, .form = "address: IP:PORT",
                                            .rows = admin_rows, .extra = config_admin_extra,
                                            .known = "allow, hosts"};
static const struct reader_map heartbeat_map = {READER_KEYS, .form = "interval: 15s",
                                                .rows = heartbeat_rows};
static const struct reader_map tls_map = {READER_KEYS, .form = "handshakes: 64", .rows = tls_rows};
static const struct reader_map limit_map = {READER_KEYS, .form = "connections: 20000",
                                            .rows = limit_rows};

static void heartbeat_read(struct reader *r, yaml_node_t *value, struct config_heartbeat *h)
{
    unsigned before = r->problems;
    reader_map_read(r, value, &heartbeat_map, h);
    if (r->problems == before && h->interval && h->interval + h->timeout > h->evict)
        reader_fail(r, value,
                    "interval + timeout (%llu ms) is more than evict (%llu ms): a connection would "
                    "be evicted before its ping's time is over",
                    (unsigned long long)(h->interval + h->timeout), (unsigned long long)h->evict);
}

static bool root_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    const char *name = reader_key(key);
    if (strcmp(name, "listen") == 0) {
        reader_list_read(r, value, &listen_list, c);
    } else if (strcmp(name, "admin") == 0) {
        reader_map_read(r, value, &admin_map, &c->admin);
        address_check(r, value, c->admin.address, true, *c->admin.token);
        token_check(r, value, c->admin.token);
    } else if (strcmp(name, "heartbeat") == 0) {
        heartbeat_read(r, value, &c->heartbeat);
    } else if (strcmp(name, "limits") == 0) {
        reader_map_read(r, value, &limit_map, &c->limits);
    } else if (strcmp(name, "access") == 0) {
        config_access_read(r, value, c);
    } else if (strcmp(name, "tls") == 0) {
        reader_map_read(r, value, &tls_map, &c->tls);
    } else if (strcmp(name, "modules") == 0) {
        reader_map_read(r, value, &modules_map, c);
    } else if (strcmp(name, "routes") == 0) {
        r->routes = value;
    } else {
        return false;
    }
    return true;
}

static const struct reader_map root_map = {
    READER_KEYS, .form = "key: value", .rows = root_rows, .extra = root_extra,
    .known = "listen, admin, heartbeat, limits, tls, access, modules, routes"};

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
    if (c->listen_proxy && !c->access.n_trusted)
        reader_fail(r, root, "proxy_protocol: yes needs access: {trusted: [addresses of proxies]}");
    c->root.cache = reader_resolve(r->file, c->root.cache);
    if (!reader_one_of(c->root.log_level,
                       (const char *const[]){"debug", "info", "warn", "error", NULL}))
        reader_fail(r, root, "log_level is debug, info, warn or error");
    if (!reader_one_of(c->root.access_log, (const char *const[]){"on", "off", NULL}))
        reader_fail(r, root, "access_log is on or off");
    for (uint32_t i = 0; i < c->n_modules && c->root.workers > 1; i++)
        if (strcmp(c->modules[i].instance, "module") == 0)
            reader_fail_at(r, (yaml_mark_t){.line = c->modules[i].line - 1},
                           "%.60s has instance: module, and so one place for all its events: set "
                           "workers: 1, or instance: event",
                           c->modules[i].name);
    if (!reader_one_of(c->root.sandbox, (const char *const[]){"auto", "require", "off", NULL}))
        reader_fail(r, root, "sandbox is auto, require or off");
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

enum err config_parse(struct slice yaml, const char *file, struct config *out, struct buf *errors)
{
    struct reader r = {.yaml = yaml, .file = file, .config = out, .errors = errors};
    memset(out, 0, sizeof(*out));
    reader_defaults(&r, root_rows, &out->root);
    reader_defaults(&r, admin_rows, &out->admin);
    reader_defaults(&r, heartbeat_rows, &out->heartbeat);
    reader_defaults(&r, limit_rows, &out->limits);
    reader_defaults(&r, config_access_rows, &out->access);
    reader_defaults(&r, tls_rows, &out->tls);
    if (yaml.n > FILE_MAX)
        return ERR_LIMIT;
    enum err e = reader_run(&r, reader_events_check);
    e = e ? e : reader_run(&r, document_read);
    if (!out->n_listen) {
        out->listen = reader_grow(out->listen, &out->n_listen, sizeof(*out->listen));
        out->listen[0] = strdup("0.0.0.0:8080");
    }
    return e;
}

void config_done(struct config *c)
{
    reader_rows_free(root_rows, &c->root);
    reader_rows_free(admin_rows, &c->admin);
    config_access_done(c);
    texts_free(c->listen, c->n_listen);
    texts_free(c->admin.hosts, c->admin.n_hosts);
    free(c->admin.allow);
    for (uint32_t i = 0; i < c->n_certificates; i++) {
        free(c->certificates[i].certificate);
        free(c->certificates[i].key);
    }
    free(c->certificates);
    for (uint32_t i = 0; i < c->n_modules; i++)
        module_free(&c->modules[i]);
    for (uint32_t i = 0; i < c->n_routes; i++) {
        free(c->routes[i].path);
        free(c->routes[i].space);
        texts_free(c->routes[i].origins, c->routes[i].n_origins);
        texts_free(c->routes[i].subprotocols, c->routes[i].n_subprotocols);
        texts_free(c->routes[i].auto_replies, c->routes[i].n_auto_replies);
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
    e = e ? e : docs_section(out, "Top level", root_rows);
    e = e ? e : docs_section(out, "admin", admin_rows);
    e = e ? e : docs_section(out, "heartbeat", heartbeat_rows);
    e = e ? e : docs_section(out, "limits", limit_rows);
    e = e ? e : docs_section(out, "access", config_access_rows);
    e = e ? e : docs_section(out, "jwt, of a route or a module", config_jwt_rows);
    e = e ? e : docs_section(out, "tls", tls_rows);
    e = e ? e : docs_section(out, "modules.NAME", module_rows);
    e = e ? e : docs_section(out, "modules.NAME.limits", module_limit_rows);
    return e;
}
