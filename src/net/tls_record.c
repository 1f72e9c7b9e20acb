#include "net/tls_record.h"

#include <openssl/core_names.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/obj_mac.h>

enum { TAG = 16, NONCE = 12, EXPLICIT = 8 }; /* EXPLICIT: the part of 1.2's GCM in a record */
enum { ALERT_BAD_MAC = 20, ALERT_OVERFLOW = 22, ALERT_UNEXPECTED = 10 };

static const struct {
    const char *name;
    uint8_t key, secret; /* bytes */
    const char *digest;
} suites[] = {[TLS_AES_128_GCM] = {"AES-128-GCM", 16, 32, "SHA256"},
              [TLS_AES_256_GCM] = {"AES-256-GCM", 32, 48, "SHA384"},
              [TLS_CHACHA20_POLY1305] = {"ChaCha20-Poly1305", 32, 32, "SHA256"}};

bool tls_ciphers_init(struct tls_ciphers *c)
{
    bool ok = true;
    for (int i = 0; i < TLS_SUITES; i++) {
        c->cipher[i] = EVP_CIPHER_fetch(NULL, suites[i].name, NULL);
        c->open[i] = EVP_CIPHER_CTX_new();
        c->seal[i] = EVP_CIPHER_CTX_new();
        ok = ok && c->cipher[i] && c->open[i] && c->seal[i] &&
             EVP_DecryptInit_ex(c->open[i], c->cipher[i], NULL, NULL, NULL) == 1 &&
             EVP_EncryptInit_ex(c->seal[i], c->cipher[i], NULL, NULL, NULL) == 1;
    }
    return ok;
}

void tls_ciphers_done(struct tls_ciphers *c)
{
    for (int i = 0; i < TLS_SUITES; i++) {
        EVP_CIPHER_CTX_free(c->open[i]);
        EVP_CIPHER_CTX_free(c->seal[i]);
        EVP_CIPHER_free(c->cipher[i]);
    }
}

/* ---- keys ---- */

/* HKDF-Expand-Label without a context (RFC 8446 7.1): n is at most one block of the digest. */
static bool expand(const struct tls_half *h, enum tls_suite suite, const char *label, uint8_t *out,
                   size_t n)
{
    uint8_t info[32] = {0, (uint8_t)n}, block[EVP_MAX_MD_SIZE];
    size_t of_label = strlen(label), at = 3;
    info[2] = (uint8_t)(6 + of_label);
    memcpy(info + at, "tls13 ", 6);
    memcpy(info + at + 6, label, of_label);
    at += 6 + of_label;
    info[at++] = 0;
    info[at++] = 1; /* the block's number, behind HkdfLabel */
    unsigned got = 0;
    bool ok = HMAC(suite == TLS_AES_256_GCM ? EVP_sha384() : EVP_sha256(), h->secret,
                   suites[suite].secret, info, at, block, &got) &&
              got >= n;
    if (ok)
        memcpy(out, block, n);
    OPENSSL_cleanse(block, sizeof(block));
    return ok;
}

bool tls_half_derive(struct tls_half *h, enum tls_suite suite)
{
    return expand(h, suite, "key", h->key, suites[suite].key) &&
           expand(h, suite, "iv", h->iv, NONCE);
}

bool tls_half_next(struct tls_half *h, enum tls_suite suite)
{
    h->seq = 0;
    return expand(h, suite, "traffic upd", h->secret, suites[suite].secret) &&
           tls_half_derive(h, suite);
}

/* RFC 5246 6.3: the client's key, the server's, their nonces. */
static bool keys_derive_12(struct tls_keys *keys, SSL *ssl)
{
    uint8_t master[48], randoms[64], block[2 * (32 + NONCE)];
    size_t key = suites[keys->suite].key;
    size_t iv = keys->suite == TLS_CHACHA20_POLY1305 ? NONCE : NONCE - EXPLICIT;
    size_t n = SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master));
    SSL_get_server_random(ssl, randoms, 32);
    SSL_get_client_random(ssl, randoms + 32, 32);
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST,
                                         (char *)(uintptr_t)suites[keys->suite].digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master, n),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (char[]){"key expansion"}, 13),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, randoms, sizeof(randoms)),
        OSSL_PARAM_construct_end()};
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    bool ok = n == sizeof(master) && ctx && EVP_KDF_derive(ctx, block, 2 * (key + iv), params) == 1;
    if (ok) {
        memcpy(keys->in.key, block, key);
        memcpy(keys->out.key, block + key, key);
        memcpy(keys->in.iv, block + 2 * key, iv);
        memcpy(keys->out.iv, block + 2 * key + iv, iv);
    }
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    OPENSSL_cleanse(master, sizeof(master));
    OPENSSL_cleanse(block, sizeof(block));
    return ok;
}

/* Keys from a secret that OpenSSL did not tell would be everybody's. */
static bool known(const struct tls_half *h)
{
    static const uint8_t none[sizeof(h->secret)];
    return memcmp(h->secret, none, sizeof(none)) != 0;
}

bool tls_keys_derive(struct tls_keys *keys, SSL *ssl)
{
    switch (SSL_CIPHER_get_cipher_nid(SSL_get_current_cipher(ssl))) {
    case NID_aes_128_gcm:
        keys->suite = TLS_AES_128_GCM;
        break;
    case NID_aes_256_gcm:
        keys->suite = TLS_AES_256_GCM;
        break;
    case NID_chacha20_poly1305:
        keys->suite = TLS_CHACHA20_POLY1305;
        break;
    default:
        return false;
    }
    keys->v13 = SSL_version(ssl) == TLS1_3_VERSION;
    if (!keys->v13)
        return keys_derive_12(keys, ssl);
    return known(&keys->in) && known(&keys->out) && tls_half_derive(&keys->in, keys->suite) &&
           tls_half_derive(&keys->out, keys->suite);
}

/* ---- records ---- */

static bool explicit_nonce(const struct tls_keys *keys)
{
    return !keys->v13 && keys->suite != TLS_CHACHA20_POLY1305;
}

static void big_endian(uint8_t out[8], uint64_t n)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(n >> (56 - 8 * i));
}

/* RFC 8446 5.3 and RFC 7905 2; RFC 5288 3, where the eight bytes are in the record. */
static void nonce_of(const struct tls_keys *keys, const struct tls_half *h,
                     const uint8_t in_record[EXPLICIT], uint8_t out[NONCE])
{
    uint8_t seq[8];
    big_endian(seq, h->seq);
    memcpy(out, h->iv, NONCE);
    for (int i = 0; i < 8; i++)
        out[NONCE - 8 + i] = explicit_nonce(keys) ? in_record[i]
                                                  : (uint8_t)(h->iv[NONCE - 8 + i] ^ seq[i]);
}

/* What is authenticated beside the content: 1.3, the header; 1.2, the number, and the header with
 * the content's length (RFC 5246 6.2.3.3). */
static int aad_of(const struct tls_keys *keys, const struct tls_half *h, const uint8_t *header,
                  size_t plain_n, uint8_t out[13])
{
    if (keys->v13) {
        memcpy(out, header, TLS_HEADER);
        return TLS_HEADER;
    }
    big_endian(out, h->seq);
    memcpy(out + 8, header, 3);
    out[11] = (uint8_t)(plain_n >> 8);
    out[12] = (uint8_t)plain_n;
    return 13;
}

static struct tls_opened bad(uint8_t alert)
{
    return (struct tls_opened){.state = TLS_RECORD_BAD, .alert = alert};
}

/* 1.3: the content ends with its type and zeros (RFC 8446 5.4). */
static bool inner(struct tls_opened *o)
{
    while (o->data.n && !o->data.p[o->data.n - 1])
        o->data.n--;
    if (!o->data.n)
        return false;
    o->type = o->data.p[--o->data.n];
    return true;
}

static bool decrypt(const struct tls_ciphers *c, const struct tls_keys *keys, const uint8_t *header,
                    uint8_t *data, size_t n)
{
    EVP_CIPHER_CTX *ctx = c->open[keys->suite];
    uint8_t nonce[NONCE], aad[13];
    int got, aad_n = aad_of(keys, &keys->in, header, n, aad);
    nonce_of(keys, &keys->in, header + TLS_HEADER, nonce);
    return EVP_DecryptInit_ex(ctx, NULL, NULL, keys->in.key, nonce) == 1 &&
           EVP_DecryptUpdate(ctx, NULL, &got, aad, aad_n) == 1 &&
           EVP_DecryptUpdate(ctx, data, &got, data, (int)n) == 1 &&
           EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG, data + n) == 1 &&
           EVP_DecryptFinal_ex(ctx, data + got, &got) == 1;
}

struct tls_opened tls_open(const struct tls_ciphers *c, struct tls_keys *keys, uint8_t *p, size_t n)
{
    struct tls_opened o = {.state = TLS_RECORD_MORE, .consumed = TLS_HEADER};
    if (n < TLS_HEADER)
        return o;
    size_t len = (size_t)p[3] << 8 | p[4], before = explicit_nonce(keys) ? EXPLICIT : 0;
    o.type = p[0];
    if (p[1] != 3 || (keys->v13 ? o.type != TLS_DATA
                                : p[2] != 3 || o.type < TLS_CHANGE_CIPHER || o.type > TLS_DATA))
        return bad(ALERT_UNEXPECTED);
    if (len > TLS_SEALED_MAX - TLS_HEADER)
        return bad(ALERT_OVERFLOW);
    if (len < before + TAG)
        return bad(ALERT_BAD_MAC);
    o.consumed += len;
    if (n < o.consumed)
        return o;
    o.data = slice_of(p + TLS_HEADER + before, len - before - TAG);
    if (!decrypt(c, keys, p, p + TLS_HEADER + before, o.data.n))
        return bad(ALERT_BAD_MAC);
    keys->in.seq++;
    if (o.data.n > (size_t)TLS_PLAIN_MAX + keys->v13)
        return bad(ALERT_OVERFLOW); /* padding is no exception (RFC 8446 5.4) */
    if (keys->v13 && !inner(&o))
        return bad(ALERT_UNEXPECTED);
    o.state = TLS_RECORD_DONE;
    return o;
}

static bool encrypt(EVP_CIPHER_CTX *ctx, const struct slice *v, unsigned n_v, uint8_t **at)
{
    int got;
    for (unsigned i = 0; i < n_v; i++) {
        if (EVP_EncryptUpdate(ctx, *at, &got, v[i].p, (int)v[i].n) != 1)
            return false;
        *at += v[i].n;
    }
    return true;
}

size_t tls_seal(const struct tls_ciphers *c, struct tls_keys *keys, enum tls_type type,
                const struct slice *v, unsigned n_v, uint8_t *out)
{
    EVP_CIPHER_CTX *ctx = c->seal[keys->suite];
    uint8_t nonce[NONCE], aad[13], inner_type = (uint8_t)type;
    const struct slice tail = slice_of(&inner_type, keys->v13);
    size_t before = explicit_nonce(keys) ? EXPLICIT : 0, n = 0;
    for (unsigned i = 0; i < n_v; i++)
        n += v[i].n;
    size_t len = before + n + keys->v13 + TAG;
    uint8_t *at = out + TLS_HEADER + before;
    int got = 0;
    out[0] = keys->v13 ? TLS_DATA : inner_type;
    out[1] = out[2] = 3;
    out[3] = (uint8_t)(len >> 8);
    out[4] = (uint8_t)len;
    if (before)
        big_endian(out + TLS_HEADER, keys->out.seq);
    nonce_of(keys, &keys->out, out + TLS_HEADER, nonce);
    int aad_n = aad_of(keys, &keys->out, out, n, aad);
    bool ok = EVP_EncryptInit_ex(ctx, NULL, NULL, keys->out.key, nonce) == 1 &&
              EVP_EncryptUpdate(ctx, NULL, &got, aad, aad_n) == 1 && encrypt(ctx, v, n_v, &at) &&
              encrypt(ctx, &tail, keys->v13, &at) && EVP_EncryptFinal_ex(ctx, at, &got) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG, at) == 1;
    keys->out.seq++;
    return ok ? TLS_HEADER + len : 0;
}
