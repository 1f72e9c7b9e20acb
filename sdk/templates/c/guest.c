/* @NAME@: answers HTTP with a count of the visits, and sends WebSocket messages back. */
#include "weir.h"

static char text[65536];
static const char key[] = "visits";

int32_t on_http(void)
{
    uint32_t visits = 0;
    char digits[12] = "\n", *p = digits + sizeof(digits) - 1;
    weir_kv_get(key, sizeof(key) - 1, &visits, sizeof(visits));
    visits++;
    weir_kv_set(key, sizeof(key) - 1, &visits, sizeof(visits), 0);
    static const char hello[] = "hello from @NAME@, visit ";
    weir_resp_write(hello, sizeof(hello) - 1);
    *p = '\n';
    for (uint32_t n = visits; n || *p == '\n'; n /= 10)
        *--p = (char)('0' + n % 10);
    weir_resp_write(p, (uint32_t)(digits + sizeof(digits) - p));
    return 0;
}

int32_t on_ws_message(uint64_t conn, uint32_t kind, uint32_t len)
{
    if (weir_msg_read(text, sizeof(text)) > (int32_t)sizeof(text))
        return 1009; /* too big */
    /* A peer that does not read what it is sent is told to try again later. */
    return weir_ws_send(conn, kind, text, len) == WEIR_LIMIT ? 1013 : 0;
}
