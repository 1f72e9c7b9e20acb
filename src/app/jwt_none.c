/* In place of jwt.c in the program `weir`, which is linked without libcrypto: its pages would cost
 * each process a megabyte, used or not. `weir-crypto` is the same program with it. */
#include "app/jwt.h"

const bool jwt_built = false;

enum err jwt_open(struct jwt *out, const struct config_jwt *config, struct buf *why)
{
    (void)out;
    enum err e = buf_printf(why, "jwt of line %u: only weir-crypto has tokens", config->line);
    return e ? e : ERR_INVALID;
}

void jwt_done(struct jwt *j)
{
    (void)j;
}

const char *jwt_check(const struct jwt *j, struct slice token, uint64_t wall_ms,
                      struct slice *claims)
{
    (void)j, (void)token, (void)wall_ms, (void)claims;
    return "tokens are not built in";
}

int64_t jwt_claim(struct slice claims, struct slice name, uint8_t *out, size_t cap)
{
    (void)claims, (void)name, (void)out, (void)cap;
    return -1;
}
