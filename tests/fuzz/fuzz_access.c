/* PROXY headers, X-Forwarded-For and addresses; and tokens, signed with a key that is known here,
 * so that what lies behind a signature is reached too. The first byte says which. */
#include "fuzz.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "app/jwt.h"
#include "base/address.h"
#include "net/proxy.h"

#define SECRET "0123456789abcdef0123456789abcdef"

static void address_check(const struct address *a)
{
    struct address again;
    char text[ADDRESS_TEXT];
    address_write(a, text);
    CHECK(address_port_parse(slice_str(text), &again));
    CHECK(memcmp(a->ip, again.ip, sizeof(a->ip)) == 0 && a->port == again.port);
}

static enum proxy_state parse(const uint8_t *p, size_t n, struct proxy_header *out)
{
    uint8_t *copy = copy_of(p, n);
    enum proxy_state state = proxy_parse(copy, n, out);
    free(copy);
    return state;
}

/* However it is cut, the answer is the same, and no later than the header's end. */
static void try_proxy(const uint8_t *p, size_t n)
{
    struct proxy_header whole, part;
    enum proxy_state state = parse(p, n, &whole);
    if (state == PROXY_DONE) {
        CHECK(whole.consumed > 0 && whole.consumed <= n && whole.consumed <= PROXY_HEADER_MAX);
        if (whole.known)
            address_check(&whole.client);
        CHECK(parse(p, whole.consumed, &part) == PROXY_DONE);
        CHECK(part.consumed == whole.consumed && part.known == whole.known);
    }
    CHECK(state != PROXY_MORE || n < PROXY_HEADER_MAX);
    for (size_t cut = 0; cut < MIN(n, (size_t)128); cut++) {
        enum proxy_state s = parse(p, cut, &part);
        CHECK(s == PROXY_MORE || s == state);
        CHECK(s != PROXY_DONE || cut >= whole.consumed);
    }
}

static void try_forwarded(struct slice list)
{
    struct address_block blocks[2], other;
    struct address at, from;
    unsigned hops = 0;
    CHECK(address_block_parse(SLICE("10.0.0.0/8"), &blocks[0]));
    CHECK(address_block_parse(SLICE("fd00::/8"), &blocks[1]));
    CHECK(address_ip_parse(SLICE("10.0.0.1"), &at));
    from = at;
    struct slice rest = address_forwarded(list, blocks, 2, &hops, &at);
    CHECK(hops <= ADDRESS_HOPS_MAX + 1 && rest.n <= list.n);
    address_check(&at);
    hops = 0;
    struct address stranger = {{1}, 0}, still = stranger;
    address_forwarded(list, blocks, 2, &hops, &stranger);
    CHECK(memcmp(&stranger, &still, sizeof(still)) == 0 && hops == 0);
    if (address_port_parse(list, &from))
        address_check(&from);
    if (address_block_parse(list, &other))
        CHECK(other.bits <= 128);
}

static size_t base64url(const uint8_t *p, size_t n, char *out)
{
    size_t len = (size_t)EVP_EncodeBlock((uint8_t *)out, p, (int)n);
    while (len && out[len - 1] == '=')
        len--;
    for (size_t i = 0; i < len; i++)
        out[i] = out[i] == '+' ? '-' : out[i] == '/' ? '_' : out[i];
    return len;
}

/* header 0 claims, as they are; or a whole token. */
static void try_token(const uint8_t *p, size_t n, bool sign)
{
    static struct jwt jwt;
    static struct config_jwt config = {
        .algorithm = "HS256", .key = SECRET, .audience = "", .issuer = "", .key_file = ""};
    char token[16384];
    uint8_t claim[8192], mac[EVP_MAX_MD_SIZE];
    unsigned mac_n = 0;
    struct slice claims = SLICE_NONE;
    struct buf why;
    const uint8_t *zero = n ? memchr(p, 0, n) : NULL;
    buf_init(&why, 256);
    if (!jwt.config)
        CHECK(jwt_open(&jwt, &config, &why) == ERR_NONE);
    if (n > 4096 || (sign && !zero))
        return;
    size_t len = n;
    memcpy(token, p, n);
    if (sign) {
        len = base64url(p, (size_t)(zero - p), token);
        token[len++] = '.';
        len += base64url(zero + 1, n - (size_t)(zero - p) - 1, token + len);
        HMAC(EVP_sha256(), SECRET, 32, (uint8_t *)token, len, mac, &mac_n);
        token[len++] = '.';
        len += base64url(mac, mac_n, token + len);
    }
    uint8_t *copy = copy_of((uint8_t *)token, len);
    const char *wrong = jwt_check(&jwt, slice_of(copy, len), 1000, &claims);
    CHECK(wrong || (claims.p > copy && claims.p + claims.n < copy + len));
    if (!wrong) {
        int64_t m = jwt_claim(claims, SLICE("sub"), claim, sizeof(claim));
        CHECK(m >= -1);
        CHECK(jwt_claim(claims, SLICE("exp"), claim, sizeof(claim)) > 0);
        CHECK(jwt_claim(claims, SLICE("sub"), claim, 0) == m);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 1)
        return 0;
    uint8_t *copy = copy_of(data + 1, n - 1);
    if (data[0] == 'P')
        try_proxy(copy, n - 1);
    else if (data[0] == 'F')
        try_forwarded(slice_of(copy, n - 1));
    else
        try_token(copy, n - 1, data[0] == 'S');
    free(copy);
    return 0;
}
