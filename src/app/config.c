#include "app/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

enum type { TYPE_INT, TYPE_SIZE, TYPE_DURATION, TYPE_TEXT };
static const char *const type_names[] = {"number", "size, such as 64KiB", "time, such as 15s",
                                         "text"};

struct row {
    const char *key;
    enum type type;
    const char *def;
    uint64_t min, max;
    const char *text;
    size_t offset;
};

#define ROWS(name, section, LIST) static const struct row name[] = {LIST(CFG_##name)};
#define CFG_root_rows(k, t, d, lo, hi, x)                                                          \
    {#k, TYPE_##t, d, lo, hi, x, offsetof(struct config_root, k)},
#define CFG_admin_rows(k, t, d, lo, hi, x)                                                         \
    {#k, TYPE_##t, d, lo, hi, x, offsetof(struct config_admin, k)},
#define CFG_limit_rows(k, t, d, lo, hi, x)                                                         \
    {#k, TYPE_##t, d, lo, hi, x, offsetof(struct config_limits, k)},
#define CFG_module_rows(k, t, d, lo, hi, x)                                                        \
    {#k, TYPE_##t, d, lo, hi, x, offsetof(struct config_module, k)},
#define CFG_module_limit_rows(k, t, d, lo, hi, x)                                                  \
    {#k, TYPE_##t, d, lo, hi, x, offsetof(struct config_module_limits, k)},
ROWS(root_rows, root, CONFIG_ROOT)
ROWS(admin_rows, admin, CONFIG_ADMIN)
ROWS(limit_rows, limits, CONFIG_LIMITS)
ROWS(module_rows, module, CONFIG_MODULE)
ROWS(module_limit_rows, module_limits, CONFIG_MODULE_LIMITS)

struct reader {
    yaml_document_t doc;
    const char *file;
    struct config *config;
    struct buf *errors;
    bool failed;
};

static void fail(struct reader *r, const yaml_node_t *at, const char *what, const char *detail)
{
    r->failed = true;
    if (buf_printf(r->errors, "%s:%zu: %s%s\n", r->file, at ? at->start_mark.line + 1 : 1, what,
                   detail))
        return; /* the list is full: enough is said */
}

static const char *text_of(const yaml_node_t *n)
{
    return n && n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : NULL;
}

/* ${VAR} and ${VAR:-default} from the environment, "$$" a dollar. NULL: said. */
static char *expand(struct reader *r, const yaml_node_t *n)
{
    const char *s = text_of(n);
    struct buf out;
    buf_init(&out, 1 << 16);
    if (!s) {
        fail(r, n, "a plain value is expected here, not a list or map", "");
        return NULL;
    }
    enum err e = ERR_NONE;
    while (*s && !e) {
        const char *end = s[0] == '$' && s[1] == '{' ? strchr(s, '}') : NULL;
        if (end) {
            char name[128];
            size_t len = MIN((size_t)(end - s - 2), sizeof(name) - 1);
            memcpy(name, s + 2, len);
            name[len] = 0;
            char *def = strstr(name, ":-");
            if (def)
                *def = 0;
            const char *v = getenv(name);
            if (!v && !def)
                fail(r, n, "set this environment variable, or give ${NAME:-default}: ", name);
            e = buf_append(&out, slice_str(v ? v : def ? def + 2 : ""));
            s = end + 1;
        } else {
            e = buf_append(&out, slice_of(s, 1));
            s += s[0] == '$' && s[1] == '$' ? 2 : 1;
        }
    }
    char *text = e ? NULL : strndup(out.len ? (char *)out.p : "", out.len);
    buf_done(&out);
    return text;
}

static bool number_parse(const char *s, enum type type, uint64_t *out)
{
    static const struct {
        const char *unit;
        enum type type;
        uint64_t factor;
    } units[] = {
        {"", TYPE_INT, 1},           {"", TYPE_SIZE, 1},          {"KiB", TYPE_SIZE, 1 << 10},
        {"MiB", TYPE_SIZE, 1 << 20}, {"GiB", TYPE_SIZE, 1 << 30}, {"ms", TYPE_DURATION, 1},
        {"s", TYPE_DURATION, 1000},  {"m", TYPE_DURATION, 60000}, {"h", TYPE_DURATION, 3600000}};
    uint64_t n = 0;
    const char *p = s;
    for (; isdigit((unsigned char)*p); p++) {
        if (n > UINT64_MAX / 100)
            return false;
        n = n * 10 + (uint64_t)(*p - '0');
    }
    for (size_t i = 0; p > s && i < ARRAY_LEN(units); i++)
        if (units[i].type == type && strcmp(units[i].unit, p) == 0 && n < UINT64_C(1) << 33) {
            *out = n * units[i].factor;
            return true;
        }
    return false;
}

static void set(struct reader *r, const yaml_node_t *at, const struct row *row, void *base,
                char *text)
{
    char detail[256];
    uint64_t n;
    if (row->type == TYPE_TEXT) {
        char **field = (char **)((char *)base + row->offset);
        free(*field);
        *field = text;
        return;
    }
    if (!number_parse(text, row->type, &n)) {
        snprintf(detail, sizeof(detail), "%s takes a %s", row->key, type_names[row->type]);
        fail(r, at, detail, "");
    } else if (n < row->min || n > row->max) {
        snprintf(detail, sizeof(detail), "%s is out of range: from %" PRIu64 " to %" PRIu64 "%s",
                 row->key, row->min, row->max, row->type == TYPE_DURATION ? " ms" : "");
        fail(r, at, detail, "");
    } else {
        *(uint64_t *)((char *)base + row->offset) = n;
    }
    free(text);
}

static void defaults(struct reader *r, const struct row *rows, size_t n, void *base)
{
    for (size_t i = 0; i < n; i++) {
        char *text = strdup(rows[i].def);
        if (text)
            set(r, NULL, &rows[i], base, text);
    }
}

static unsigned distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t n = strlen(b);
    if (n >= 63 || strlen(a) >= 63)
        return 99;
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            unsigned up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            best = MIN(best, MIN(up, row[j - 1]) + 1);
            diagonal = up;
            row[j] = best;
        }
    }
    return row[n];
}

static void unknown(struct reader *r, const yaml_node_t *key, const struct row *rows, size_t n,
                    const char *more)
{
    const char *name = text_of(key) ? text_of(key) : "?", *best = NULL;
    char detail[256];
    for (size_t i = 0; i < n; i++)
        if (distance(name, rows[i].key) <= 2)
            best = rows[i].key;
    if (best)
        snprintf(detail, sizeof(detail), "%.60s; did you mean %s?", name, best);
    else
        snprintf(detail, sizeof(detail), "%.60s%s%s", name, *more ? "; known here: " : "", more);
    fail(r, key, "unknown key: ", detail);
}

static const struct row *row_find(const struct row *rows, size_t n, const char *key)
{
    for (size_t i = 0; key && i < n; i++)
        if (strcmp(rows[i].key, key) == 0)
            return &rows[i];
    return NULL;
}

typedef bool extra_fn(struct reader *r, const char *key, yaml_node_t *value, void *base);

/* A map whose keys are rows; `extra` takes the others that it knows. */
static void map_read(struct reader *r, yaml_node_t *map, const struct row *rows, size_t n,
                     void *base, extra_fn *extra, const char *more)
{
    if (map->type != YAML_MAPPING_NODE) {
        fail(r, map, "a map is expected here: key: value", "");
        return;
    }
    yaml_node_pair_t *p = map->data.mapping.pairs.start;
    for (; p < map->data.mapping.pairs.top; p++) {
        yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
        const char *name = text_of(key);
        for (yaml_node_pair_t *q = map->data.mapping.pairs.start; name && q < p; q++) {
            const char *other = text_of(yaml_document_get_node(&r->doc, q->key));
            if (other && strcmp(other, name) == 0)
                fail(r, key, "this key is here twice: ", name);
        }
        const struct row *row = row_find(rows, n, name);
        if (row) {
            char *text = expand(r, value);
            if (text)
                set(r, value, row, base, text);
        } else if (!name || !extra || !extra(r, name, value, base)) {
            unknown(r, key, rows, n, more);
        }
    }
}

/* Grows *array of *n elements by one zeroed element. */
static void *grow(void *array, uint32_t *n, size_t size)
{
    char *p = realloc(array, (*n + 1) * size);
    ASSERT(p); /* bounded by the document's size */
    memset(p + *n * size, 0, size);
    ++*n;
    return p;
}

static void texts_read(struct reader *r, yaml_node_t *list, char ***out, uint32_t *n)
{
    if (list->type != YAML_SEQUENCE_NODE) {
        fail(r, list, "a list is expected here: [a, b]", "");
        return;
    }
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top;
         i++) {
        char *text = expand(r, yaml_document_get_node(&r->doc, *i));
        if (!text)
            continue;
        *out = grow(*out, n, sizeof(**out));
        (*out)[*n - 1] = text;
    }
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

static bool module_extra(struct reader *r, const char *key, yaml_node_t *value, void *base)
{
    struct config_module *m = base;
    if (strcmp(key, "limits") != 0)
        return false;
    map_read(r, value, module_limit_rows, ARRAY_LEN(module_limit_rows), &m->limits, NULL, "");
    return true;
}

static void module_read(struct reader *r, yaml_node_t *key, yaml_node_t *value)
{
    struct config *c = r->config;
    const char *name = text_of(key);
    c->modules = grow(c->modules, &c->n_modules, sizeof(*c->modules));
    struct config_module *m = &c->modules[c->n_modules - 1];
    m->name = strdup(name ? name : "");
    m->line = (unsigned)key->start_mark.line + 1;
    defaults(r, module_rows, ARRAY_LEN(module_rows), m);
    defaults(r, module_limit_rows, ARRAY_LEN(module_limit_rows), &m->limits);
    if (!name || !*name || strlen(name) > 64 ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
            strlen(name))
        fail(r, key, "a module's name has 1 to 64 letters, digits, _ or -", "");
    for (uint32_t i = 0; i + 1 < c->n_modules; i++)
        if (name && strcmp(c->modules[i].name, name) == 0)
            fail(r, key, "this module is here twice: ", name);
    if (value->type == YAML_SCALAR_NODE) {
        char *text = expand(r, value);
        free(m->path);
        m->path = text ? text : strdup("");
    } else {
        map_read(r, value, module_rows, ARRAY_LEN(module_rows), m, module_extra, "limits");
    }
    if (!*m->path)
        fail(r, key, "a module needs path: FILE", "");
    m->path = resolve(r->file, m->path);
    if (!one_of(m->engine, (const char *const[]){"native", "pulley", NULL}))
        fail(r, value, "engine is native or pulley", "");
    if (!one_of(m->exec, (const char *const[]){"auto", "yes", "no", NULL}))
        fail(r, value, "exec is auto, yes or no", "");
}

static bool target_extra(struct reader *r, const char *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    const char *text = text_of(value);
    if (strcmp(key, "module") == 0) {
        for (uint32_t i = 0; text && i < r->config->n_modules; i++)
            if (strcmp(r->config->modules[i].name, text) == 0)
                route->module = (int)i;
        if (route->module < 0)
            fail(r, value, "no such module; add it to modules: ", text ? text : "");
    } else if (strcmp(key, "handler") == 0 && route->kind == ROUTE_WEBSOCKET) {
        route->echo = text && strcmp(text, "echo") == 0;
        if (!route->echo)
            fail(r, value, "the only handler is echo", "");
    } else if (strcmp(key, "origins") == 0 && route->kind == ROUTE_WEBSOCKET) {
        texts_read(r, value, &route->origins, &route->n_origins);
    } else if (strcmp(key, "subprotocols") == 0 && route->kind == ROUTE_WEBSOCKET) {
        texts_read(r, value, &route->subprotocols, &route->n_subprotocols);
    } else {
        return false;
    }
    return true;
}

static bool route_extra(struct reader *r, const char *key, yaml_node_t *value, void *base)
{
    struct config_route *route = base;
    bool websocket = strcmp(key, "websocket") == 0;
    if (strcmp(key, "path") == 0) {
        free(route->path);
        route->path = expand(r, value);
        return true;
    }
    if (!websocket && strcmp(key, "http") != 0)
        return false;
    if (route->module >= 0 || route->echo)
        fail(r, value, "a route has either websocket or http", "");
    route->kind = websocket ? ROUTE_WEBSOCKET : ROUTE_HTTP;
    map_read(r, value, NULL, 0, route, target_extra,
             websocket ? "module, handler, origins, subprotocols" : "module");
    return true;
}

static void route_read(struct reader *r, yaml_node_t *node)
{
    struct config *c = r->config;
    c->routes = grow(c->routes, &c->n_routes, sizeof(*c->routes));
    struct config_route *route = &c->routes[c->n_routes - 1];
    route->module = -1;
    map_read(r, node, NULL, 0, route, route_extra, "path, websocket, http");
    if (!route->path)
        route->path = strdup("");
    const char *star = strchr(route->path, '*');
    if (route->path[0] != '/' || (star && (star[1] || star[-1] != '/')))
        fail(r, node, "path begins with / and may end in /*", "");
    if ((route->module < 0) == !route->echo)
        fail(r, node, "a route needs one of module and handler", "");
    for (uint32_t i = 0; i + 1 < c->n_routes; i++)
        if (c->routes[i].kind == route->kind && strcmp(c->routes[i].path, route->path) == 0)
            fail(r, node, "this path is routed twice: ", route->path);
}

bool config_address(const char *text, char host[64], uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    size_t n = colon ? (size_t)(colon - text) : 0;
    uint64_t value;
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    if (!n || n >= 64 || !number_parse(colon + 1, TYPE_INT, &value) || value > 65535)
        return false;
    memcpy(host, text, n);
    host[n] = 0;
    *port = (uint16_t)value;
    return true;
}

static void address_check(struct reader *r, const yaml_node_t *at, const char *text, bool loopback)
{
    char host[64];
    uint16_t port;
    if (!config_address(text, host, &port))
        fail(r, at, "an address is IP:PORT or [IPv6]:PORT, not ", text);
    else if (loopback && strncmp(host, "127.", 4) != 0 && strcmp(host, "::1") != 0 &&
             strcmp(host, "localhost") != 0)
        fail(r, at, "the admin address must be on loopback", "");
}

static bool listen_extra(struct reader *r, const char *key, yaml_node_t *value, void *base)
{
    (void)base;
    struct config *c = r->config;
    char *text = strcmp(key, "address") == 0 ? expand(r, value) : NULL;
    if (!text)
        return false;
    address_check(r, value, text, false);
    c->listen = grow(c->listen, &c->n_listen, sizeof(*c->listen));
    c->listen[c->n_listen - 1] = text;
    return true;
}

static bool root_extra(struct reader *r, const char *key, yaml_node_t *value, void *base)
{
    struct config *c = base;
    bool listen = strcmp(key, "listen") == 0, routes = strcmp(key, "routes") == 0;
    if (strcmp(key, "limits") == 0) {
        map_read(r, value, limit_rows, ARRAY_LEN(limit_rows), &c->limits, NULL, "");
    } else if (strcmp(key, "admin") == 0) {
        map_read(r, value, admin_rows, ARRAY_LEN(admin_rows), &c->admin, NULL, "");
        address_check(r, value, c->admin.address, true);
    } else if (strcmp(key, "modules") == 0 && value->type == YAML_MAPPING_NODE) {
        for (yaml_node_pair_t *p = value->data.mapping.pairs.start;
             p < value->data.mapping.pairs.top; p++)
            module_read(r, yaml_document_get_node(&r->doc, p->key),
                        yaml_document_get_node(&r->doc, p->value));
    } else if ((listen || routes) && value->type == YAML_SEQUENCE_NODE) {
        for (yaml_node_item_t *i = value->data.sequence.items.start;
             i < value->data.sequence.items.top; i++) {
            yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
            if (listen)
                map_read(r, item, NULL, 0, NULL, listen_extra, "address");
            else
                route_read(r, item);
        }
    } else {
        return false;
    }
    return true;
}

static void read_root(struct reader *r, yaml_node_t *root)
{
    struct config *c = r->config;
    map_read(r, root, root_rows, ARRAY_LEN(root_rows), c, root_extra,
             "listen, admin, limits, modules, routes");
    if (!one_of(c->root.log_level, (const char *const[]){"debug", "info", "warn", "error", NULL}))
        fail(r, root, "log_level is debug, info, warn or error", "");
}

enum err config_parse(struct slice yaml, const char *file, struct config *out, struct buf *errors)
{
    struct reader r = {.file = file, .config = out, .errors = errors};
    yaml_parser_t parser;
    memset(out, 0, sizeof(*out));
    defaults(&r, root_rows, ARRAY_LEN(root_rows), &out->root);
    defaults(&r, admin_rows, ARRAY_LEN(admin_rows), &out->admin);
    defaults(&r, limit_rows, ARRAY_LEN(limit_rows), &out->limits);
    if (yaml.n > 1 << 20 || !yaml_parser_initialize(&parser))
        return ERR_LIMIT;
    yaml_parser_set_input_string(&parser, yaml.p, yaml.n);
    if (!yaml_parser_load(&parser, &r.doc)) {
        r.failed = true;
        if (buf_printf(errors, "%s:%zu: not YAML: %s\n", file, parser.problem_mark.line + 1,
                       parser.problem ? parser.problem : "unreadable"))
            r.failed = true;
        yaml_parser_delete(&parser);
        return ERR_INVALID;
    }
    yaml_node_t *root = yaml_document_get_root_node(&r.doc);
    if (root)
        read_root(&r, root);
    if (!out->n_listen) {
        out->listen = grow(out->listen, &out->n_listen, sizeof(*out->listen));
        out->listen[0] = strdup("0.0.0.0:8080");
    }
    yaml_document_delete(&r.doc);
    yaml_parser_delete(&parser);
    return r.failed ? ERR_INVALID : ERR_NONE;
}

static void texts_free(char **v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        free(v[i]);
    free(v);
}

static void rows_free(const struct row *rows, size_t n, void *base)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i].type == TYPE_TEXT)
            free(*(char **)((char *)base + rows[i].offset));
}

void config_done(struct config *c)
{
    rows_free(root_rows, ARRAY_LEN(root_rows), &c->root);
    rows_free(admin_rows, ARRAY_LEN(admin_rows), &c->admin);
    texts_free(c->listen, c->n_listen);
    for (uint32_t i = 0; i < c->n_modules; i++) {
        rows_free(module_rows, ARRAY_LEN(module_rows), &c->modules[i]);
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

static enum err docs_section(struct buf *out, const char *title, const struct row *rows, size_t n)
{
    enum err e = buf_printf(
        out, "\n## %s\n\n| key | type | default | meaning |\n|---|---|---|---|\n", title);
    for (size_t i = 0; i < n && !e; i++)
        e = buf_printf(out, "| `%s` | %s | `%s` | %s |\n", rows[i].key, type_names[rows[i].type],
                       rows[i].def, rows[i].text);
    return e;
}

enum err config_write_docs(struct buf *out)
{
    enum err e = buf_printf(
        out, "# Configuration\n\nMade by `weir docs config` from `src/tbl/config.def`.\n");
    e = e ? e : docs_section(out, "Top level", root_rows, ARRAY_LEN(root_rows));
    e = e ? e : docs_section(out, "admin", admin_rows, ARRAY_LEN(admin_rows));
    e = e ? e : docs_section(out, "limits", limit_rows, ARRAY_LEN(limit_rows));
    e = e ? e : docs_section(out, "modules.NAME", module_rows, ARRAY_LEN(module_rows));
    e = e ? e
          : docs_section(out, "modules.NAME.limits", module_limit_rows,
                         ARRAY_LEN(module_limit_rows));
    return e;
}
