/* TLS records. Input: a byte for cipher, version and type, two for a size and for what is changed,
 * then bytes: as they are they are no record of ours, sealed they open to what they were, and with
 * a bit changed they don't. */
#include "fuzz.h"

#include "net/tls_record.h"

static struct tls_ciphers ciphers;

static void any(struct tls_keys k, const uint8_t *p, size_t n)
{
    uint8_t *copy = copy_of(p, n);
    struct tls_opened o = tls_open(&ciphers, &k, copy, n);
    CHECK(o.state != TLS_RECORD_DONE);
    CHECK((o.state == TLS_RECORD_BAD) == (o.alert != 0));
    CHECK(o.state != TLS_RECORD_MORE || (o.consumed > n && o.consumed <= TLS_SEALED_MAX));
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (!ciphers.seal[0])
        CHECK(tls_ciphers_init(&ciphers));
    if (n < 3 || n - 3 > TLS_PLAIN_MAX)
        return 0;
    struct tls_keys k = {.suite = data[0] % TLS_SUITES, .v13 = data[0] / 4 & 1};
    enum tls_type type = (enum tls_type)(TLS_CHANGE_CIPHER + (data[0] >> 4) % 4);
    uint8_t change = data[1], cut = data[2];
    data += 3;
    n -= 3;
    any(k, data, n);
    const struct slice parts[] = {slice_of(data, n * cut / 256),
                                  slice_of(data + n * cut / 256, n - n * cut / 256)};
    uint8_t *sealed = malloc(TLS_HEADER + n + TLS_SEAL_MAX);
    CHECK(sealed);
    struct tls_keys same = k;
    size_t len = tls_seal(&ciphers, &k, type, parts, 2, sealed);
    CHECK(len > n && len <= TLS_HEADER + n + TLS_SEAL_MAX);
    any(same, sealed, len * cut / 256);
    uint8_t *other = copy_of(sealed, len);
    other[len * change / 256] ^= (uint8_t)(1 << change % 8);
    any(same, other, len);
    struct tls_opened o = tls_open(&ciphers, &same, sealed, len);
    CHECK(o.state == TLS_RECORD_DONE && o.type == type && o.consumed == len);
    CHECK(o.data.n == n && (!n || memcmp(o.data.p, data, n) == 0));
    free(other);
    free(sealed);
    return 0;
}
