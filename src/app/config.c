#include "app/config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "app/config_value.h"

/* More than a configuration needs; less than takes long to read or to say. */
enum {
    FILE_MAX = 1 << 20,
    DEPTH_MAX = 64,
    ANCHORS_MAX = 256,
    KEYS_MAX = 64,
    TEXTS_MAX = 64,
    MODULES_MAX = 256,
    ROUTES_MAX = 1024,
    LISTEN_MAX = 15, /* the gateway has 16 listeners, and one is the admin's */
    VALUE_MAX = 64 << 10,
    VALUES_MAX = 4 << 20, /* all of them, each alias counted, before and after expansion */
    PROBLEMS_MAX = 100
};

static const char *const type_names[] = {"number", "size, such as 64KiB", "time, such as 15s",
                                         "text"};

struct row {
    const char *key; /* NULL: the last row */
    enum config_type type;
    const char *def;
    uint64_t min, max;
    const char *text;
    size_t offset;
};

#define ROWS(name, LIST) static const struct row name[] = {LIST(CFG_##name){.key = NULL}};
#define CFG_root_rows(k, t, d, lo, hi, x)                                                          \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_root, k)},
#define CFG_admin_rows(k, t, d, lo, hi, x)                                                         \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_admin, k)},
#define CFG_limit_rows(k, t, d, lo, hi, x)                                                         \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_limits, k)},
#define CFG_module_rows(k, t, d, lo, hi, x)                                                        \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_module, k)},
#define CFG_module_limit_rows(k, t, d, lo, hi, x)                                                  \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_module_limits, k)},
ROWS(root_rows, CONFIG_ROOT)
ROWS(admin_rows, CONFIG_ADMIN)
ROWS(limit_rows, CONFIG_LIMITS)
ROWS(module_rows, CONFIG_MODULE)
ROWS(module_limit_rows, CONFIG_MODULE_LIMITS)
static const struct row no_rows[] = {{.key = NULL}};

struct reader {
    yaml_document_t doc;
    struct slice yaml;
    const char *file;
    struct config *config;
    struct buf *errors;
    unsigned problems;
    size_t values;       /* their bytes until now */
    yaml_node_t *routes; /* read last: they name modules */
    bool target;         /* the route that is read has websocket or http */
};

/* Says a problem. Past PROBLEMS_MAX a last line tells that there are more, and reading ends. */
__attribute__((format(printf, 3, 4))) static void fail_at(struct reader *r, yaml_mark_t at,
                                                          const char *format, ...)
{
    char text[CONFIG_SHOWN_MAX], line[4 * CONFIG_SHOWN_MAX + 1];
    if (r->problems > PROBLEMS_MAX)
        return;
    if (r->problems++ == PROBLEMS_MAX)
        format = "these are 100 problems; the rest of the file was not looked at";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    config_show(text, line);
    if (buf_printf(r->errors, "%s:%zu: %s\n", r->file, at.line + 1, line))
        return; /* the list is full: enough is said */
}

#define fail(r, node, ...) fail_at(r, (node)->start_mark, __VA_ARGS__)

static bool stopped(const struct reader *r)
{
    return r->problems > PROBLEMS_MAX;
}

/* "?" is no key that anything knows. */
static const char *key_text(const yaml_node_t *n)
{
    return n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : "?";
}

/* The text of a plain value, its variables replaced; to be freed. NULL: said. */
static char *expand(struct reader *r, const yaml_node_t *n)
{
    struct slice unset;
    struct buf out;
    if (n->type != YAML_SCALAR_NODE) {
        fail(r, n, "a plain value is expected here, not a list or map");
        return NULL;
    }
    buf_init(&out, VALUE_MAX);
    r->values += n->data.scalar.length;
    enum err e = r->values > VALUES_MAX
                     ? ERR_LIMIT
                     : config_expand((const char *)n->data.scalar.value, &out, &unset);
    char *text = e ? NULL : strndup(out.len ? (char *)out.p : "", out.len);
    r->values += out.len;
    buf_done(&out);
    if (e == ERR_INVALID)
        fail(r, n, "set this environment variable, or give ${NAME:-default}: %.*s",
             (int)MIN(unset.n, 60), (const char *)unset.p);
    else if (e == ERR_LIMIT)
        fail(r, n, "a value has at most 64 KiB, and all values together 4 MiB");
    else if (!text)
        fail(r, n, "out of memory");
    return text;
}

static void set(struct reader *r, yaml_mark_t at, const struct row *row, void *base, char *text)
{
    uint64_t n;
    if (row->type == CONFIG_TEXT) {
        char **field = (char **)((char *)base + row->offset);
        free(*field);
        *field = text;
        return;
    }
    if (!config_number(text, row->type, &n))
        fail_at(r, at, "%s takes a %s", row->key, type_names[row->type]);
    else if (n < row->min || n > row->max)
        fail_at(r, at, "%s is out of range: from %" PRIu64 " to %" PRIu64 "%s", row->key, row->min,
                row->max, row->type == CONFIG_DURATION ? " ms" : "");
    else
        *(uint64_t *)((char *)base + row->offset) = n;
    free(text);
}

static void defaults(struct reader *r, const struct row *row, void *base)
{
    for (; row->key; row++) {
        char *text = strdup(row->def);
        ASSERT(text);
        set(r, (yaml_mark_t){0}, row, base, text);
    }
}

/* What a map may hold: keys that are rows, and others that `extra` takes. */
struct map {
    const char *noun, *form; /* of its keys; of an entry */
    size_t most;
    const struct row *rows;
    bool (*extra)(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base);
    const char *known; /* the keys of extra */
};

#define KEYS .noun = "key", .most = KEYS_MAX

static void unknown(struct reader *r, const yaml_node_t *key, const struct map *kind)
{
    const char *name = key_text(key), *best = NULL;
    for (const struct row *row = kind->rows; row->key; row++)
        if (config_distance(name, row->key) <= 2)
            best = row->key;
    if (best)
        fail(r, key, "unknown key: %.60s; did you mean %s?", name, best);
    else
        fail(r, key, "unknown key: %.60s%s%s", name, kind->known ? "; known here: " : "",
             kind->known ? kind->known : "");
}

static const struct row *row_find(const struct row *row, const char *key)
{
    while (row->key && strcmp(row->key, key) != 0)
        row++;
    return row->key ? row : NULL;
}

static bool key_before(struct reader *r, const yaml_node_pair_t *first, const yaml_node_pair_t *end,
                       const char *key)
{
    for (; first < end; first++)
        if (strcmp(key_text(yaml_document_get_node(&r->doc, first->key)), key) == 0)
            return true;
    return false;
}

static void map_read(struct reader *r, yaml_node_t *map, const struct map *kind, void *base)
{
    if (map->type != YAML_MAPPING_NODE) {
        fail(r, map, "a map is expected here: %s", kind->form);
        return;
    }
    yaml_node_pair_t *first = map->data.mapping.pairs.start, *end = map->data.mapping.pairs.top;
    if ((size_t)(end - first) > kind->most) {
        fail(r, map, "at most %zu %ss are expected here", kind->most, kind->noun);
        return;
    }
    for (yaml_node_pair_t *p = first; p < end && !stopped(r); p++) {
        yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
        const struct row *row = row_find(kind->rows, key_text(key));
        if (key_before(r, first, p, key_text(key))) {
            fail(r, key, "this %s is here twice: %.60s", kind->noun, key_text(key));
        } else if (row) {
            char *text = expand(r, value);
            if (text)
                set(r, value->start_mark, row, base, text);
        } else if (!kind->extra || !kind->extra(r, key, value, base)) {
            unknown(r, key, kind);
        }
    }
}

struct list {
    const char *noun, *form; /* of an item; of the whole */
    size_t least, most;
    void (*item)(struct reader *r, yaml_node_t *item, void *base);
};

static void list_read(struct reader *r, yaml_node_t *list, const struct list *kind, void *base)
{
    if (list->type != YAML_SEQUENCE_NODE) {
        fail(r, list, "a list is expected here: %s", kind->form);
        return;
    }
    yaml_node_item_t *i = list->data.sequence.items.start, *end = list->data.sequence.items.top;
    if ((size_t)(end - i) < kind->least || (size_t)(end - i) > kind->most) {
        fail(r, list, "%zu to %zu %ss are expected here", kind->least, kind->most, kind->noun);
        return;
    }
    for (; i < end && !stopped(r); i++)
        kind->item(r, yaml_document_get_node(&r->doc, *i), base);
}

/* Grows *array of *n elements by one zeroed element. */
static void *grow(void *array, uint32_t *n, size_t size)
{
    char *p = realloc(array, (*n + 1) * size);
    ASSERT(p); /* maps and lists are bounded */
    memset(p + *n * size, 0, size);
    ++*n;
    return p;
}

static void text_add(struct reader *r, const yaml_node_t *item, char ***out, uint32_t *n)
{
    char *text = expand(r, item);
    if (!text)
        return;
    *out = grow(*out, n, sizeof(**out));
    (*out)[*n - 1] = text;
}

static char *resolve(const char *file, char *path)
{
    const char *slash = strrchr(file, '/');
    if (!*path || *path == '/' || !slash)
        return path;
    char *out = NULL;
    if (asprintf(&out, "%.*s/%s", (int)(slash - file), file, path) < 0)
        return path;
    free(path);
    return out;
}

static bool one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(s, *words) == 0)
            return true;
    return false;
}

static const struct map module_limit_map = {KEYS, .form = "memory: SIZE",
                                            .rows = module_limit_rows};

static bool module_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_module *m = base;
    if (strcmp(key_text(key), "limits") != 0)
        return false;
    map_read(r, value, &module_limit_map, &m->limits);
    return true;
}

static const struct map module_map = {KEYS, .form = "path: FILE", .rows = module_rows,
                                      .extra = module_extra, .known = "path, engine, exec, limits"};

static bool module_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    const char *name = key_text(key);
    c->modules = grow(c->modules, &c->n_modules, sizeof(*c->modules));
    struct config_module *m = &c->modules[c->n_modules - 1];
    m->name = strdup(name);
    ASSERT(m->name);
    m->line = (unsigned)key->start_mark.line + 1;
    defaults(r, module_rows, m);
    defaults(r, module_limit_rows, &m->limits);
    size_t n = strlen(name);
    if (!n || n > 64 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != n)
        fail(r, key, "a module's name has 1 to 64 letters, digits, _ or -");
    unsigned before = r->problems;
    if (value->type == YAML_SCALAR_NODE) {
        char *text = expand(r, value);
        if (text)
            set(r, value->start_mark, row_find(module_rows, "path"), m, text);
    } else {
        map_read(r, value, &module_map, m);
    }
    if (!*m->path && r->problems == before)
        fail(r, key, "a module needs path: FILE");
    m->path = resolve(r->file, m->path);
    if (!one_of(m->engine, (const char *const[]){"native", "pulley", NULL}))
        fail(r, value, "engine is native or pulley");
    if (!one_of(m->exec, (const char *const[]){"auto", "yes", "no", NULL}))
        fail(r, value, "exec is auto, yes or no");
    return true;
}

static const struct map modules_map = {.noun = "module",
                                       .form = "NAME: FILE",
                                       .most = MODULES_MAX,
                                       .rows = no_rows,
                                       .extra = module_read};

static void origin_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_route *route = base;
    text_add(r, item, &route->origins, &route->n_origins);
}

static void subprotocol_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_route *route = base;
    text_add(r, item, &route->subprotocols, &route->n_subprotocols);
}

static const struct list origins_list = {"origin", "[a, b]", 0, TEXTS_MAX, origin_read};
static const struct list subprotocols_list = {"subprotocol", "[a, b]", 0, TEXTS_MAX,
                                              subprotocol_read};

static void target_module(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *name = expand(r, value);
    for (uint32_t i = 0; name && i < r->config->n_modules; i++)
        if (strcmp(r->config->modules[i].name, name) == 0)
            route->module = (int)i;
    if (name && route->module < 0)
        fail(r, value, "no such module; add it to modules: %.60s", name);
    free(name);
}

static void target_handler(struct reader *r, const yaml_node_t *value, struct config_route *route)
{
    char *name = expand(r, value);
    route->echo = name && strcmp(name, "echo") == 0;
    if (name && !route->echo)
        fail(r, value, "the only handler is echo");
    free(name);
}

static bool target_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    const char *name = key_text(key);
    if (strcmp(name, "module") == 0)
        target_module(r, value, route);
    else if (route->kind != ROUTE_WEBSOCKET)
        return false;
    else if (strcmp(name, "handler") == 0)
        target_handler(r, value, route);
    else if (strcmp(name, "origins") == 0)
        list_read(r, value, &origins_list, route);
    else if (strcmp(name, "subprotocols") == 0)
        list_read(r, value, &subprotocols_list, route);
    else
        return false;
    return true;
}

static const struct map target_maps[] = {
    [ROUTE_WEBSOCKET] = {KEYS, .form = "module: NAME", .rows = no_rows, .extra = target_extra,
                         .known = "module, handler, origins, subprotocols"},
    [ROUTE_HTTP] = {KEYS, .form = "module: NAME", .rows = no_rows, .extra = target_extra,
                    .known = "module"},
};

static void target_read(struct reader *r, yaml_node_t *value, struct config_route *route)
{
    if (r->target) {
        fail(r, value, "a route has either websocket or http");
        return;
    }
    r->target = true;
    unsigned before = r->problems;
    map_read(r, value, &target_maps[route->kind], route);
    if (r->problems == before && (route->module < 0) == !route->echo)
        fail(r, value, "a route needs one of module and handler");
}

static void path_check(struct reader *r, const yaml_node_t *at, const char *path)
{
    const char *star = strchr(path, '*');
    if (path[0] != '/' || (star && (star[1] || star[-1] != '/')))
        fail(r, at, "path begins with / and may end in /*");
}

static bool route_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    const char *name = key_text(key);
    if (strcmp(name, "path") == 0) {
        route->path = expand(r, value);
        if (route->path)
            path_check(r, value, route->path);
        else
            route->path = strdup("");
    } else if (strcmp(name, "websocket") == 0 || strcmp(name, "http") == 0) {
        if (!r->target)
            route->kind = *name == 'w' ? ROUTE_WEBSOCKET : ROUTE_HTTP;
        target_read(r, value, route);
    } else {
        return false;
    }
    return true;
}

static const struct map route_map = {KEYS, .form = "path: /PATH", .rows = no_rows,
                                     .extra = route_extra, .known = "path, websocket, http"};

static void route_read(struct reader *r, yaml_node_t *node, void *base)
{
    struct config *c = base;
    c->routes = grow(c->routes, &c->n_routes, sizeof(*c->routes));
    struct config_route *route = &c->routes[c->n_routes - 1];
    route->module = -1;
    r->target = false;
    unsigned before = r->problems;
    map_read(r, node, &route_map, route);
    if (r->problems == before) {
        if (!route->path)
            path_check(r, node, "");
        if (!r->target)
            fail(r, node, "a route needs one of module and handler, in websocket or http");
    }
    for (uint32_t i = 0; route->path && i + 1 < c->n_routes; i++)
        if (c->routes[i].kind == route->kind && c->routes[i].path &&
            strcmp(c->routes[i].path, route->path) == 0) {
            fail(r, node, "this path is routed twice: %.60s", route->path);
            break;
        }
}

static const struct list routes_list = {"route", "[{path: /PATH, http: {module: NAME}}]", 0,
                                        ROUTES_MAX, route_read};

static void address_check(struct reader *r, const yaml_node_t *at, const char *text, bool admin)
{
    bool loopback;
    if (!config_listenable(text, &loopback))
        fail(r, at, "an address is IP:PORT or [IPv6]:PORT, not %.60s", text);
    else if (admin && !loopback)
        fail(r, at, "the admin address must be on loopback");
}

static bool listener_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    if (strcmp(key_text(key), "address") != 0)
        return false;
    uint32_t n = c->n_listen;
    text_add(r, value, &c->listen, &c->n_listen);
    if (c->n_listen > n)
        address_check(r, value, c->listen[n], false);
    return true;
}

static const struct map listener_map = {KEYS, .form = "address: IP:PORT", .rows = no_rows,
                                        .extra = listener_extra, .known = "address"};

static void listener_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config *c = base;
    uint32_t n = c->n_listen;
    unsigned before = r->problems;
    map_read(r, item, &listener_map, c);
    if (c->n_listen == n && r->problems == before)
        fail(r, item, "a listener needs address: IP:PORT");
}

static const struct list listen_list = {"listener", "[{address: IP:PORT}]", 1, LISTEN_MAX,
                                        listener_read};
static const struct map admin_map = {KEYS, .form = "address: IP:PORT", .rows = admin_rows};
static const struct map limit_map = {KEYS, .form = "connections: 20000", .rows = limit_rows};

static bool root_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    const char *name = key_text(key);
    if (strcmp(name, "listen") == 0) {
        list_read(r, value, &listen_list, c);
    } else if (strcmp(name, "admin") == 0) {
        map_read(r, value, &admin_map, &c->admin);
        address_check(r, value, c->admin.address, true);
    } else if (strcmp(name, "limits") == 0) {
        map_read(r, value, &limit_map, &c->limits);
    } else if (strcmp(name, "modules") == 0) {
        map_read(r, value, &modules_map, c);
    } else if (strcmp(name, "routes") == 0) {
        r->routes = value;
    } else {
        return false;
    }
    return true;
}

static const struct map root_map = {KEYS, .form = "key: value", .rows = root_rows,
                                    .extra = root_extra,
                                    .known = "listen, admin, limits, modules, routes"};

static void root_read(struct reader *r, yaml_node_t *root)
{
    struct config *c = r->config;
    map_read(r, root, &root_map, c);
    if (r->routes)
        list_read(r, r->routes, &routes_list, c);
    c->root.cache = resolve(r->file, c->root.cache);
    if (!one_of(c->root.log_level, (const char *const[]){"debug", "info", "warn", "error", NULL}))
        fail(r, root, "log_level is debug, info, warn or error");
    if (!one_of(c->root.sandbox, (const char *const[]){"auto", "require", "off", NULL}))
        fail(r, root, "sandbox is auto, require or off");
}

/* Bytes that can't be read at all have an offset, other problems a mark. */
static void yaml_fail(struct reader *r, const yaml_parser_t *parser)
{
    yaml_mark_t at = parser->problem_mark;
    if (parser->error == YAML_READER_ERROR)
        for (size_t i = 0; i < MIN(parser->problem_offset, r->yaml.n); i++)
            at.line += r->yaml.p[i] == '\n';
    fail_at(r, at, "not YAML: %s", parser->problem ? parser->problem : "unreadable");
}

/* Before the file is loaded: what would take libyaml the square of its size, and what it or C's
 * strings would leave out in silence. */
static void events_check(struct reader *r, yaml_parser_t *parser)
{
    unsigned depth = 0, anchors = 0, documents = 0;
    yaml_event_type_t type = YAML_NO_EVENT;
    while (type != YAML_STREAM_END_EVENT && !r->problems) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            yaml_fail(r, parser);
            return;
        }
        type = event.type;
        if (type == YAML_SCALAR_EVENT) {
            if (memchr(event.data.scalar.value, 0, event.data.scalar.length))
                fail_at(r, event.start_mark, "a key or value can't hold a zero byte");
            anchors += event.data.scalar.anchor != NULL;
        } else if (type == YAML_SEQUENCE_START_EVENT) {
            anchors += event.data.sequence_start.anchor != NULL;
            depth++;
        } else if (type == YAML_MAPPING_START_EVENT) {
            anchors += event.data.mapping_start.anchor != NULL;
            depth++;
        } else if (type == YAML_SEQUENCE_END_EVENT || type == YAML_MAPPING_END_EVENT) {
            depth--;
        } else if (type == YAML_DOCUMENT_START_EVENT) {
            documents++;
        }
        if (depth > DEPTH_MAX)
            fail_at(r, event.start_mark, "lists and maps are at most %d deep", DEPTH_MAX);
        if (anchors > ANCHORS_MAX)
            fail_at(r, event.start_mark, "at most %d &anchors are expected", ANCHORS_MAX);
        if (documents > 1)
            fail_at(r, event.start_mark, "a second document; a configuration is a single one");
        yaml_event_delete(&event);
    }
}

static void document_read(struct reader *r, yaml_parser_t *parser)
{
    if (!yaml_parser_load(parser, &r->doc)) {
        yaml_fail(r, parser);
        return;
    }
    yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (root)
        root_read(r, root);
    yaml_document_delete(&r->doc);
}

static enum err parser_run(struct reader *r, void (*use)(struct reader *, yaml_parser_t *))
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return ERR_NO_MEMORY;
    /* libyaml asserts that there is some address. */
    yaml_parser_set_input_string(&parser, r->yaml.n ? r->yaml.p : (const uint8_t *)"", r->yaml.n);
    use(r, &parser);
    yaml_parser_delete(&parser);
    return r->problems ? ERR_INVALID : ERR_NONE;
}

enum err config_parse(struct slice yaml, const char *file, struct config *out, struct buf *errors)
{
    struct reader r = {.yaml = yaml, .file = file, .config = out, .errors = errors};
    memset(out, 0, sizeof(*out));
    defaults(&r, root_rows, &out->root);
    defaults(&r, admin_rows, &out->admin);
    defaults(&r, limit_rows, &out->limits);
    if (yaml.n > FILE_MAX)
        return ERR_LIMIT;
    enum err e = parser_run(&r, events_check);
    e = e ? e : parser_run(&r, document_read);
    if (!out->n_listen) {
        out->listen = grow(out->listen, &out->n_listen, sizeof(*out->listen));
        out->listen[0] = strdup("0.0.0.0:8080");
    }
    return e;
}

static void texts_free(char **v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(v[i]);
    free(v);
}

static void rows_free(const struct row *row, void *base)
{
    for (; row->key; row++)
        if (row->type == CONFIG_TEXT)
            free(*(char **)((char *)base + row->offset));
}

void config_done(struct config *c)
{
    rows_free(root_rows, &c->root);
    rows_free(admin_rows, &c->admin);
    texts_free(c->listen, c->n_listen);
    for (uint32_t i = 0; i < c->n_modules; i++) {
        rows_free(module_rows, &c->modules[i]);
        free(c->modules[i].name);
    }
    for (uint32_t i = 0; i < c->n_routes; i++) {
        free(c->routes[i].path);
        texts_free(c->routes[i].origins, c->routes[i].n_origins);
        texts_free(c->routes[i].subprotocols, c->routes[i].n_subprotocols);
    }
    free(c->modules);
    free(c->routes);
    memset(c, 0, sizeof(*c));
}

static enum err docs_section(struct buf *out, const char *title, const struct row *row)
{
    enum err e = buf_printf(
        out, "\n## %s\n\n| key | type | default | meaning |\n|---|---|---|---|\n", title);
    for (; row->key && !e; row++)
        e = buf_printf(out, "| `%s` | %s | `%s` | %s |\n", row->key, type_names[row->type],
                       row->def, row->text);
    return e;
}

enum err config_write_docs(struct buf *out)
{
    enum err e = buf_printf(
        out, "# Configuration\n\nMade by `weir docs config` from `src/tbl/config.def`.\n");
    e = e ? e : docs_section(out, "Top level", root_rows);
    e = e ? e : docs_section(out, "admin", admin_rows);
    e = e ? e : docs_section(out, "limits", limit_rows);
    e = e ? e : docs_section(out, "modules.NAME", module_rows);
    e = e ? e : docs_section(out, "modules.NAME.limits", module_limit_rows);
    return e;
}
