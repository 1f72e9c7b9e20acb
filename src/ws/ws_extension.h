/* Sec-WebSocket-Extensions (RFC 6455 9.1) and what permessage-deflate says in it (RFC 7692 7.1).
 * Pure. */
#ifndef WEIR_WS_EXTENSION_H
#define WEIR_WS_EXTENSION_H

#include "base/base.h"

/* Of our compressor, in bits: 4 KiB. An offer whose server_max_window_bits is less is declined. */
enum { WS_DEFLATE_WINDOW = 12 };

struct ws_deflate_offer {
    bool taken;
    bool window; /* it has server_max_window_bits, which the answer must then have too */
};

/* One field's value, a list of offers in the client's order of preference; zero *io before the
 * first. The first offer that can be met is taken, over all fields. An offer with a parameter that
 * is unknown, repeated or out of range is passed over. ERR_WS_HANDSHAKE: not a list of extensions,
 * on which the handshake fails. */
enum err ws_deflate_negotiate(struct slice value, struct ws_deflate_offer *io) MUST_USE;
/* The answer to a taken offer: without context takeover in both directions. */
struct slice ws_deflate_answer(const struct ws_deflate_offer *offer);

#endif
