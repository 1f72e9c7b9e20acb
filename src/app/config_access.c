/* access:, and jwt: of a route or module. */
#include <stdlib.h>

#include "app/config_reader.h"

enum { SOURCES_MAX = 8, SOURCE_NAME_MAX = 64 };

#define CFG_access(k, t, d, lo, hi, x)                                                             \
    {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_access, k)},
#define CFG_jwt(k, t, d, lo, hi, x) {#k, CONFIG_##t, d, lo, hi, x, offsetof(struct config_jwt, k)},
const struct reader_row config_access_rows[] = {CONFIG_ACCESS(CFG_access){.key = NULL}};
const struct reader_row config_jwt_rows[] = {CONFIG_JWT(CFG_jwt){.key = NULL}};

static void block_add(struct reader *r, yaml_node_t *item, struct address_block **out, uint32_t *n)
{
    struct address_block block;
    char *text = reader_expand(r, item);
    if (text && !address_block_parse(slice_str(text), &block)) {
        reader_fail(r, item, "an address or block, as 10.0.0.0/8 or fd00::/8, not %.60s", text);
    } else if (text) {
        *out = reader_grow(*out, n, sizeof(**out));
        (*out)[*n - 1] = block;
    }
    free(text);
}

static void trusted_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_access *a = base;
    block_add(r, item, &a->trusted, &a->n_trusted);
}

static void allow_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_admin *a = base;
    block_add(r, item, &a->allow, &a->n_allow);
}

static void host_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_admin *a = base;
    reader_text_add(r, item, &a->hosts, &a->n_hosts);
}

static const struct reader_list trusted_list = {"address", "[10.0.0.0/8, ::1]", 0, READER_TEXTS_MAX,
                                                trusted_read};

static const struct reader_list allow_list = {"address", "[10.0.0.0/8, ::1]", 1, READER_TEXTS_MAX,
                                              allow_read};
static const struct reader_list hosts_list = {"name", "[weir.example]", 1, READER_TEXTS_MAX,
                                              host_read};

bool config_admin_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    const char *name = reader_key(key);
    if (strcmp(name, "allow") != 0 && strcmp(name, "hosts") != 0)
        return false;
    reader_list_read(r, value, *name == 'a' ? &allow_list : &hosts_list, base);
    return true;
}

static bool access_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    if (strcmp(reader_key(key), "trusted") != 0)
        return false;
    reader_list_read(r, value, &trusted_list, base);
    return true;
}

static const struct reader_map access_map = {READER_KEYS, .form = "connections_per_ip: 100",
                                             .rows = config_access_rows, .extra = access_extra,
                                             .known = "trusted"};

void config_access_read(struct reader *r, yaml_node_t *value, struct config *c)
{
    reader_map_read(r, value, &access_map, &c->access);
}

/* ---- tokens ---- */

static bool source_parse(const char *text, struct config_source *out)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    static const struct {
        const char *word;
        enum config_token kind;
        bool named;
    } kinds[] = {{"header", TOKEN_HEADER, false},
                 {"subprotocol", TOKEN_SUBPROTOCOL, false},
                 {"cookie:", TOKEN_COOKIE, true},
                 {"query:", TOKEN_QUERY, true}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i].word), left = strlen(text) - MIN(n, strlen(text));
        bool fits = strncmp(text, kinds[i].word, n) == 0 && (kinds[i].named ? left > 0 : !left);
        if (!fits || left > SOURCE_NAME_MAX || strspn(text + n, letters) != left)
            continue;
        *out = (struct config_source){kinds[i].kind, strdup(text + n)};
        ASSERT(out->name);
        return true;
    }
    return false;
}

static void from_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_jwt *j = base;
    struct config_source source;
    char *text = reader_expand(r, item);
    if (text && !source_parse(text, &source)) {
        reader_fail(r, item, "a token is from: [header, cookie:NAME, query:NAME, subprotocol]");
    } else if (text) {
        j->from = reader_grow(j->from, &j->n_from, sizeof(*j->from));
        j->from[j->n_from - 1] = source;
    }
    free(text);
}

static const struct reader_list from_list = {"source", "[header, cookie:NAME]", 1, SOURCES_MAX,
                                             from_read};

static bool jwt_extra(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    if (strcmp(reader_key(key), "from") != 0)
        return false;
    reader_list_read(r, value, &from_list, base);
    return true;
}

static const struct reader_map jwt_map = {READER_KEYS, .form = "algorithm: HS256",
                                          .rows = config_jwt_rows, .extra = jwt_extra,
                                          .known = "from"};

void config_jwt_read(struct reader *r, yaml_node_t *value, uint32_t *jwt)
{
    struct config *c = r->config;
    c->jwts = reader_grow(c->jwts, &c->n_jwts, sizeof(*c->jwts));
    struct config_jwt *j = &c->jwts[c->n_jwts - 1];
    *jwt = c->n_jwts;
    j->line = (unsigned)value->start_mark.line + 1;
    reader_defaults(r, config_jwt_rows, j);
    unsigned before = r->problems;
    reader_map_read(r, value, &jwt_map, j);
    j->key_file = reader_resolve(r->file, j->key_file);
    if (r->problems > before)
        return;
    if (!reader_one_of(j->algorithm, (const char *const[]){"HS256", "RS256", "ES256", NULL}))
        reader_fail(r, value, "jwt needs algorithm: HS256, RS256 or ES256");
    else if (!*j->key == !*j->key_file)
        reader_fail(r, value, "jwt needs one of key and key_file");
    if (!j->n_from) {
        j->from = reader_grow(j->from, &j->n_from, sizeof(*j->from));
        j->from[0] = (struct config_source){TOKEN_HEADER, NULL};
    }
}

void config_key_set(struct config *c, uint32_t jwt, struct slice key)
{
    struct config_jwt *j = &c->jwts[jwt];
    free(j->key);
    j->key = strndup(key.n ? (const char *)key.p : "", key.n);
    ASSERT(j->key);
}

enum err config_keys_write(const struct config *c, struct buf *out)
{
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < c->n_jwts && !e; i++)
        if (*c->jwts[i].key_file)
            e = buf_append(out, slice_of(c->jwts[i].key, strlen(c->jwts[i].key) + 1));
    return e;
}

bool config_keys_read(struct config *c, struct slice keys)
{
    for (uint32_t i = 0; i < c->n_jwts; i++) {
        if (!*c->jwts[i].key_file)
            continue;
        const uint8_t *end = keys.n ? memchr(keys.p, 0, keys.n) : NULL;
        if (!end)
            return false;
        size_t n = (size_t)(end - keys.p);
        config_key_set(c, i, slice_of(keys.p, n));
        keys = slice_of(end + 1, keys.n - n - 1);
    }
    return !keys.n;
}

void config_access_done(struct config *c)
{
    reader_rows_free(config_access_rows, &c->access);
    free(c->access.trusted);
    for (uint32_t i = 0; i < c->n_jwts; i++) {
        reader_rows_free(config_jwt_rows, &c->jwts[i]);
        for (uint32_t s = 0; s < c->jwts[i].n_from; s++)
            free(c->jwts[i].from[s].name);
        free(c->jwts[i].from);
    }
    free(c->jwts);
}
