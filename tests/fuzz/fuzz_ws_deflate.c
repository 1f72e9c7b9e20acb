/* Compressed messages. Input: two bytes for the bound of what comes out, then bytes that are
 * inflated, and that come back when they are compressed. */
#include "fuzz.h"

#include "ws/ws_deflate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint64_t now_ns;
    struct slice out, frame, again;
    if (n < 2)
        return 0;
    uint32_t max = (uint32_t)(data[0] << 8 | data[1]);
    data += 2;
    n -= 2;
    uint64_t held = mem_buffer_bytes();
    struct ws_deflate *d = ws_deflate_new(&now_ns, 1);
    CHECK(d);
    uint8_t *copy = copy_of(data, n);
    enum err e = ws_deflate_inflate(d, slice_of(copy, n), max, &out);
    CHECK(!e || e == ERR_WS_INFLATE || e == ERR_WS_MESSAGE_SIZE);
    if (!e) {
        CHECK(out.n <= max);
        uint8_t *once = copy_of(out.p, out.n);
        size_t once_n = out.n;
        CHECK(!ws_deflate_inflate(d, slice_of(copy, n), (uint32_t)once_n, &again));
        CHECK(slice_eq(again, slice_of(once, once_n))); /* nothing is left of a message before */
        CHECK(!once_n || ws_deflate_inflate(d, slice_of(copy, n), (uint32_t)once_n - 1, &again) ==
                             ERR_WS_MESSAGE_SIZE);
        free(once);
    }
    now_ns++;
    if (ws_deflate_frame(d, WS_BINARY, slice_of(copy, n), &frame)) {
        size_t header = frame.p[1] < 126 ? 2 : frame.p[1] == 126 ? 4 : 10;
        struct slice payload = slice_of(frame.p + header, frame.n - header);
        CHECK(!ws_deflate_inflate(d, payload, (uint32_t)n, &again));
        CHECK(slice_eq(again, slice_of(copy, n)) && payload.n < n);
    }
    free(copy);
    ws_deflate_free(d);
    CHECK(mem_buffer_bytes() == held);
    return 0;
}
