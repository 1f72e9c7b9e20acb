/* Sec-WebSocket-Extensions: any bytes are a list of extensions or none; two fields are one list. */
#include "fuzz.h"

#include "ws/ws_extension.h"

static enum err negotiate(const uint8_t *p, size_t n, struct ws_deflate_offer *io)
{
    const struct ws_deflate_offer before = *io;
    uint8_t *copy = copy_of(p, n);
    enum err e = ws_deflate_negotiate(slice_of(copy, n), io);
    free(copy);
    CHECK(e == ERR_NONE || e == ERR_WS_HANDSHAKE);
    CHECK(!e || memcmp(&before, io, sizeof(before)) == 0);
    CHECK(io->taken || !io->window);
    return e;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct ws_deflate_offer whole = {0}, parts = {0};
    const uint8_t *comma = n ? memchr(data, ',', n) : NULL;
    enum err e = negotiate(data, n, &whole);
    if (!comma)
        return 0;
    size_t first = (size_t)(comma - data);
    enum err split = negotiate(data, first, &parts);
    split = split ? split : negotiate(comma + 1, n - first - 1, &parts);
    CHECK(split == e); /* a quoted string has no comma: it is a token */
    CHECK(e || memcmp(&whole, &parts, sizeof(whole)) == 0);
    return 0;
}
