/* The configuration: weir.yaml, typed by the rows of tbl/config.def. */
#ifndef WEIR_CONFIG_H
#define WEIR_CONFIG_H

#include "base/address.h"
#include "base/buf.h"
#include "sys/sys.h"

enum { CONFIG_MAX = 1 << 20 }; /* bytes of a file */

#define CONFIG_FIELD_INT uint64_t
#define CONFIG_FIELD_SIZE uint64_t
#define CONFIG_FIELD_DURATION uint64_t
#define CONFIG_FIELD_TEXT char *
#define CONFIG_FIELD_WORD(words) char *
#define CFG(key, type, def, min, max, text) CONFIG_FIELD_##type key;
#include "tbl/config.def"

struct config_texts {
    char **v;
    uint32_t n;
};
struct config_blocks {
    struct address_block *v;
    uint32_t n;
};
struct config_root {
    CONFIG_ROOT(CFG)
};
struct config_admin {
    CONFIG_ADMIN(CFG)
    struct config_blocks allow; /* who may connect; none: all that can */
    struct config_texts hosts;  /* names for it beside those of loopback */
    bool client_ca;             /* tls.client_ca is there: who gets in has shown a certificate */
};
struct config_heartbeat {
    CONFIG_HEARTBEAT(CFG)
};
struct config_limits {
    CONFIG_LIMITS(CFG)
};
struct config_access {
    CONFIG_ACCESS(CFG)
    struct config_blocks trusted; /* proxies that may say for whom they speak */
};
enum config_token { TOKEN_HEADER, TOKEN_SUBPROTOCOL, TOKEN_COOKIE, TOKEN_QUERY };
struct config_source {
    enum config_token kind;
    char *name; /* of a cookie, of a query's parameter */
};
struct config_jwt {
    CONFIG_JWT(CFG)
    unsigned line;
    struct config_source *from;
    uint32_t n_from;
};
struct config_tls {
    CONFIG_TLS(CFG)
};
struct config_module_limits {
    CONFIG_MODULE_LIMITS(CFG)
};
struct config_module {
    CONFIG_MODULE(CFG)
    char *name;
    unsigned line;
    uint64_t allow; /* bits of enum guest_host */
    uint32_t jwt;   /* as a route's, for /api/exec */
    char **env;     /* "NAME=value" */
    uint32_t n_env;
    struct config_module_limits limits;
};
#undef CFG

enum { ROUTES_MAX = 1024 };
enum { CONFIG_ENV_NAME_MAX = 128, CONFIG_ENV_MAX = 64 }; /* variables of a module */
enum { CONFIG_CERTIFICATES_MAX = 16 };                   /* of a listener */

struct config_certificate {
    char *certificate, *key; /* files */
    char *client_ca;   /* admin's: who signs its clients' certificates; NULL: none asked for */
    uint32_t listener; /* of config.listen; n_listen: admin's */
    unsigned line;
};

enum route_kind { ROUTE_WEBSOCKET, ROUTE_HTTP };
enum route_handler { HANDLER_NONE, HANDLER_ECHO, HANDLER_PUBSUB }; /* built in */
struct config_route {
    char *path; /* a last "*" matches the rest */
    enum route_kind kind;
    enum route_handler handler;
    bool drops_oldest; /* on_slow: of a peer that leaves too much unread, its oldest messages */
    bool compress;     /* permessage-deflate, where the client offers it */
    int module;        /* index, -1 with a handler */
    char *space;       /* of topics; NULL: the module's, or "public" */
    struct config_texts origins, subprotocols;
    uint32_t jwt;                     /* whose token it takes: config.jwts[jwt - 1]; 0: none */
    struct config_texts auto_replies; /* a text, what answers it; the next text, .. */
};

struct config {
    struct config_root root;
    struct config_admin admin;
    struct config_heartbeat heartbeat;
    struct config_limits limits;
    struct config_access access;
    struct config_jwt *jwts;
    uint32_t n_jwts;
    char **listen; /* addresses */
    uint32_t n_listen;
    uint32_t listen_proxy; /* bits of those that speak the PROXY protocol */
    struct config_tls tls;
    struct config_certificate *certificates; /* a listener has TLS that has some */
    uint32_t n_certificates;
    struct config_module *modules;
    uint32_t n_modules;
    struct config_route *routes;
    uint32_t n_routes;
    struct sys_user run_as; /* user and group as the supervisor found them: nothing of the file */
};

/* Reads no file: relative paths are resolved against the folder of `file`. On ERR_INVALID every
 * problem (of 100) is a line of errors: "file:line: what, and the mend". ERR_LIMIT: yaml is larger
 * than 1 MiB. config_done in every case. */
enum err config_parse(struct slice yaml, const char *file, struct config *out,
                      struct buf *errors) MUST_USE;
void config_done(struct config *c);
/* Whether it can be a module's: 1 to 64 letters, digits, _ or -. */
bool config_name_valid(struct slice name);
/* Modules that are added at run time come behind the file's, have the default settings, and no
 * path; their topics are in a space that is no module's by its name alone. Puts one at place i,
 * behind the file's. words: "ENGINE INSTANCE EXEC NAME"; NULL: the place is empty, as those before
 * it that were not there yet, and so is its name. false: the words are wrong. */
bool config_module_set(struct config *c, uint32_t i, const char *words);
void config_limits_default(struct config_module_limits *out);
static inline bool config_module_added(const struct config_module *m)
{
    return !*m->path;
}
enum { CONFIG_WORDS_MAX = 100 }; /* of those words */
/* Keys that were read from key_files: as bytes that another process can be handed, and back.
 * false: they are not those of this configuration. */
void config_key_set(struct config *c, uint32_t jwt, struct slice key);
enum err config_keys_write(const struct config *c, struct buf *out) MUST_USE;
bool config_keys_read(struct config *c, struct slice keys) MUST_USE;
enum { CONFIG_KEY_MAX = 8192 };
/* A value of a module's `env:`; NULL: there is none. */
const char *config_env_get(const struct config_module *m, struct slice name);
enum err config_write_docs(struct buf *out) MUST_USE;
/* "1.2.3.4:80" or "[::1]:80" taken apart; host has no brackets, and may be no address. */
bool config_address(const char *text, char host[64], uint16_t *port);

#endif
