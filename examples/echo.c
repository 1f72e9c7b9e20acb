/* Sends every message back to where it came from. */
#include "weir.h"

/* As large as limits.message is by default. Only the pages that a message fills cost anything. */
static char message[64 << 10];

int32_t on_ws_message(uint64_t conn, uint32_t kind, uint32_t len)
{
    if (len > sizeof(message))
        return 1009; /* message too big */
    weir_msg_read(message, sizeof(message));
    /* A peer that sends without reading fills its queue: it is told to try again later. One that
     * has gone (WEIR_GONE) needs no answer. */
    return weir_ws_send(conn, kind, message, len) == WEIR_LIMIT ? 1013 : 0;
}
