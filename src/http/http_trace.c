#include "http/http_trace.h"

/* "00-" trace-id "-" parent-id "-" flags: lower case hex of 32, 16 and 2 digits. */
enum { VERSION = 0, TRACE = 3, PARENT = 36, FLAGS = 53, END = 55 };

/* Hex digits in lower case, not all zeros unless they may be. */
static bool hex(const uint8_t *p, size_t n, bool zeros)
{
    for (size_t i = 0; i < n; i++) {
        if (!(p[i] >= '0' && p[i] <= '9') && !(p[i] >= 'a' && p[i] <= 'f'))
            return false;
        zeros |= p[i] != '0';
    }
    return zeros;
}

bool http_trace_id(const struct http_request *r, const uint8_t *head, char out[HTTP_TRACE_ID])
{
    struct slice name = SLICE("traceparent"), v = http_field_get(r, head, name);
    if (v.n < END || http_field_count(r, head, name) != 1)
        return false;
    const uint8_t *p = v.p;
    bool first = p[0] == '0' && p[1] == '0'; /* later versions may say more behind it (3.2.4) */
    if (!hex(p + VERSION, 2, true) || (p[0] == 'f' && p[1] == 'f') || p[TRACE - 1] != '-' ||
        !hex(p + TRACE, 32, false) || p[PARENT - 1] != '-' || !hex(p + PARENT, 16, false) ||
        p[FLAGS - 1] != '-' || !hex(p + FLAGS, 2, true))
        return false;
    if (v.n > END && (first || p[END] != '-'))
        return false;
    memcpy(out, p + TRACE, 32);
    out[32] = 0;
    return true;
}
