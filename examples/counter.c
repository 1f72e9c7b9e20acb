/* Counts the messages of each connection. The count is kept in the connection's attachment, as
 * every event has an instance of its own: a static variable would be 0 each time. */
#include "weir.h"

static char out[256];
static uint32_t used;

static void put(const char *s)
{
    while (*s && used < sizeof(out))
        out[used++] = *s++;
}

static void put_decimal(uint32_t n)
{
    char digits[11], *p = digits + 10;
    *p = 0;
    do {
        *--p = (char)('0' + n % 10);
    } while (n /= 10);
    put(p);
}

static void put_connection(uint64_t conn)
{
    char digits[17];
    for (int i = 15; i >= 0; i--, conn >>= 4)
        digits[i] = "0123456789abcdef"[conn & 15];
    digits[16] = 0;
    put(",\"connection\":\"");
    put(digits);
    put("\"}");
}

static uint32_t count_of(uint64_t conn)
{
    uint32_t count = 0; /* stays so where nothing is attached yet */
    weir_ws_attachment_get(conn, &count, sizeof(count));
    return count;
}

void on_ws_open(uint64_t conn)
{
    char peer[64];
    int32_t n = weir_req_get(WEIR_PEER, 0, 0, peer, sizeof(peer) - 1);
    peer[n > 0 && n < (int32_t)sizeof(peer) ? n : 0] = 0;
    put("{\"hello\":\"");
    put(peer);
    put("\"");
    put_connection(conn);
    weir_ws_send(conn, WEIR_TEXT, out, used);
}

int32_t on_ws_message(uint64_t conn, uint32_t kind, uint32_t len)
{
    (void)kind, (void)len; /* what it says does not matter: it is never read */
    uint32_t count = count_of(conn) + 1;
    weir_ws_attachment_set(&count, sizeof(count));
    put("{\"count\":");
    put_decimal(count);
    put_connection(conn);
    /* Closing with 1013 is an effect like any other, so that this message still counts. */
    return weir_ws_send(conn, WEIR_TEXT, out, used) == WEIR_LIMIT ? 1013 : 0;
}

void on_ws_close(uint64_t conn, uint32_t code, uint32_t clean)
{
    (void)clean;
    put("closed with ");
    put_decimal(code);
    put(" after ");
    put_decimal(count_of(conn));
    put(" messages");
    weir_log(WEIR_INFO, out, used);
}
