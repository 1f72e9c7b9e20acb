/* JSON Web Tokens (RFC 7519) as JWS in the compact form (RFC 7515), by HS256, RS256 or ES256
 * (RFC 7518). What a route demands is configuration: nothing that a token says of itself chooses an
 * algorithm or a key (RFC 8725 3.1). */
#ifndef WEIR_JWT_H
#define WEIR_JWT_H

#include "app/config.h"

enum { JWT_MAX = 8192 }; /* bytes of a token */

struct jwt {
    const struct config_jwt *config;
    struct evp_pkey_st *key; /* NULL: HS256, by config->key */
};

/* Makes ready, so that a check later takes nothing from the system. config lives as long as *out.
 * ERR_INVALID: why says what is wrong with the key. */
enum err jwt_open(struct jwt *out, const struct config_jwt *config, struct buf *why) MUST_USE;
void jwt_done(struct jwt *j);
/* NULL: the token holds, and *claims is its second part, undecoded. Else what is wrong with it. */
const char *jwt_check(const struct jwt *j, struct slice token, uint64_t wall_ms,
                      struct slice *claims) MUST_USE;
/* A claim of a token that held: a string as it is, another value as JSON. Its length; more than
 * cap: nothing was written. -1: there is none. */
int64_t jwt_claim(struct slice claims, struct slice name, uint8_t *out, size_t cap);

#endif
