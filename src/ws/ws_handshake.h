/* The opening handshake's small parts (RFC 6455 4.2). */
#ifndef WEIR_WS_HANDSHAKE_H
#define WEIR_WS_HANDSHAKE_H

#include "base/base.h"

bool ws_key_valid(struct slice key);                /* base64 of 16 bytes */
void ws_accept_key(struct slice key, char out[29]); /* with its NUL */
/* Entries are origins, a lone star, or a scheme and a star label (see docs/CONFIG.md); an empty
 * list allows all. */
bool ws_origin_allowed(const char *const *list, size_t n, struct slice origin);

#endif
