/* access:, jwt: of a route or module, and tls: of a listener. */
#include <stdlib.h>

#include "app/config_reader.h"

enum { SOURCES_MAX = 8, SOURCE_NAME_MAX = 64 };

#define CFG_access(k, t, d, lo, hi, x)                                                             \
    {#k, READER_##t, d, lo, hi, x, offsetof(struct config_access, k)},
#define CFG_jwt(k, t, d, lo, hi, x) {#k, READER_##t, d, lo, hi, x, offsetof(struct config_jwt, k)},
const struct reader_row config_access_rows[] = {CONFIG_ACCESS(CFG_access){.key = NULL}};
const struct reader_row config_jwt_rows[] = {CONFIG_JWT(CFG_jwt){.key = NULL}};

static const struct reader_list trusted_list = {"address", "[10.0.0.0/8, ::1]", 0, READER_TEXTS_MAX,
                                                reader_block_item};
static const struct reader_key access_keys[] = {
    {"trusted", offsetof(struct config_access, trusted), .list = &trusted_list}, {.key = NULL}};
const struct reader_map config_access_map = {READER_KEYS, .form = "connections_per_ip: 100",
                                             .rows = config_access_rows, .keys = access_keys};

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

static const struct reader_key jwt_keys[] = {{"from", 0, .list = &from_list}, {.key = NULL}};
static const struct reader_map jwt_map = {READER_KEYS, .form = "algorithm: HS256",
                                          .rows = config_jwt_rows, .keys = jwt_keys};

void config_jwt_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    uint32_t *jwt = base;
    (void)key;
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
    if (reader_word(j->algorithm, "HS256, RS256 or ES256") < 0)
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
        struct slice key = slice_cut(&keys, 0);
        if (!keys.p)
            return false;
        config_key_set(c, i, key);
    }
    return !keys.n;
}

/* ---- tls ---- */

static void file_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    char *text = reader_expand(r, value), **file = base;
    if (text && !*text)
        reader_fail(r, value, "%s is a file", reader_key(key));
    *file = text ? reader_resolve(r->file, text) : NULL;
}

static void client_ca_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    if (r->listener != READER_ADMIN)
        reader_fail(r, key, "client_ca is of admin.tls alone");
    r->config->admin.client_ca = true;
    file_read(r, key, value, base);
}

static const struct reader_key certificate_keys[] = {
    {"certificate", offsetof(struct config_certificate, certificate), .read = file_read},
    {"key", offsetof(struct config_certificate, key), .read = file_read},
    {"client_ca", offsetof(struct config_certificate, client_ca), .read = client_ca_read},
    {.key = NULL}};
static const struct reader_map certificate_map = {
    READER_KEYS, .form = "certificate: FILE, key: FILE", .keys = certificate_keys};

static void certificate_read(struct reader *r, yaml_node_t *item, void *base)
{
    struct config *c = base;
    c->certificates = reader_grow(c->certificates, &c->n_certificates, sizeof(*c->certificates));
    struct config_certificate *one = &c->certificates[c->n_certificates - 1];
    unsigned before = r->problems;
    one->line = (unsigned)item->start_mark.line + 1;
    one->listener = r->listener;
    reader_map_read(r, item, &certificate_map, one);
    if (r->problems == before && !(one->certificate && one->key))
        reader_fail(r, item, "tls needs certificate: FILE and key: FILE");
}

static const struct reader_list certificates_list = {"certificate",
                                                     "[{certificate: FILE, key: FILE}]", 1,
                                                     CONFIG_CERTIFICATES_MAX, certificate_read};

void config_certificates_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    (void)key;
    if (value->type == YAML_MAPPING_NODE)
        certificate_read(r, value, base);
    else
        reader_list_read(r, value, &certificates_list, base);
}

void config_admin_tls_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base)
{
    (void)key, (void)base;
    r->listener = READER_ADMIN;
    certificate_read(r, value, r->config);
}

void config_access_done(struct config *c)
{
    free(c->access.trusted.v);
    for (uint32_t i = 0; i < c->n_jwts; i++) {
        reader_rows_free(config_jwt_rows, &c->jwts[i]);
        for (uint32_t s = 0; s < c->jwts[i].n_from; s++)
            free(c->jwts[i].from[s].name);
        free(c->jwts[i].from);
    }
    free(c->jwts);
    for (uint32_t i = 0; i < c->n_certificates; i++) {
        free(c->certificates[i].certificate);
        free(c->certificates[i].key);
        free(c->certificates[i].client_ca);
    }
    free(c->certificates);
}
