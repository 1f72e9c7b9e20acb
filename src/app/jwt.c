#include "app/jwt.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>

#include "net/tls.h"

enum {
    HEADER_MAX = 1024,    /* decoded */
    SIGNATURE_MAX = 1024, /* of an RSA key of 8,192 bits */
    CLAIMS_MAX = JWT_MAX / 4 * 3,
    DEPTH_MAX = 16, /* of lists and objects: guests' stacks read them too */
    HS256_BYTES = 32,
    ES256_HALF = 32,
    RSA_BITS_MIN = 2048, /* RFC 7518 3.3 */
    RSA_BITS_MAX = 8 * SIGNATURE_MAX
};

/* RFC 4648 5, without padding, and nothing that two encoders could write in two ways. */
static bool base64url(struct slice s, uint8_t *out, size_t cap, size_t *n)
{
    uint32_t bits = 0;
    size_t have = 0, at = 0;
    if (s.n % 4 == 1 || s.n / 4 * 3 + 2 > cap)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i], v;
        if (c >= 'A' && c <= 'Z')
            v = c - 'A';
        else if (c >= 'a' && c <= 'z')
            v = (uint8_t)(c - 'a' + 26);
        else if (c >= '0' && c <= '9')
            v = (uint8_t)(c - '0' + 52);
        else if (c == '-' || c == '_')
            v = c == '-' ? 62 : 63;
        else
            return false;
        bits = bits << 6 | v;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[at++] = (uint8_t)(bits >> have);
            bits &= (1u << have) - 1;
        }
    }
    *n = at;
    return bits == 0;
}

static bool deep(struct slice json)
{
    unsigned depth = 0;
    bool text = false;
    for (size_t i = 0; i < json.n; i++) {
        uint8_t c = json.p[i];
        if (text)
            i += c == '\\';
        else
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        text ^= c == '"';
        if (depth > DEPTH_MAX) /* less than none too */
            return true;
    }
    return false;
}

/* NULL: no object of JSON, or one with a name that is there twice. */
static json_t *object_of(struct slice part, uint8_t *space, size_t cap)
{
    size_t n;
    if (!base64url(part, space, cap, &n) || deep(slice_of(space, n)))
        return NULL;
    json_t *root = json_loadb((const char *)space, n, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(root))
        return root;
    json_decref(root);
    return NULL;
}

/* RFC 7515 4.1: of all that a header may say, alg has to be ours, and crit, which names what must
 * be understood, must not be there. */
static const char *header_check(const struct jwt *j, struct slice part)
{
    uint8_t space[HEADER_MAX];
    const char *wrong = NULL;
    json_t *root = object_of(part, space, sizeof(space));
    const json_t *typ = json_object_get(root, "typ");
    const char *alg = json_string_value(json_object_get(root, "alg"));
    struct slice type = slice_str(json_is_string(typ) ? json_string_value(typ) : "");
    if (!root)
        wrong = "the token's header is malformed";
    else if (!alg || strcmp(alg, j->config->algorithm) != 0)
        wrong = "the token's algorithm is not the one that is expected";
    else if (json_object_get(root, "crit"))
        wrong = "the token has critical extensions";
    else if (typ && !slice_eq_nocase(type, SLICE("JWT")) && !slice_eq_nocase(type, SLICE("at+jwt")))
        wrong = "the token's type is not JWT";
    json_decref(root);
    return wrong;
}

/* ---- signatures ---- */

static bool hmac_holds(const struct jwt *j, struct slice signed_part, struct slice signature)
{
    uint8_t want[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    return HMAC(EVP_sha256(), j->config->key, (int)strlen(j->config->key), signed_part.p,
                signed_part.n, want, &n) &&
           n == HS256_BYTES && signature.n == n && CRYPTO_memcmp(want, signature.p, n) == 0;
}

/* The two numbers of ECDSA as OpenSSL wants them; bytes of *der, 0: none (RFC 7518 3.4). */
static int ecdsa_der(struct slice signature, uint8_t *out)
{
    int n = 0;
    uint8_t *at = out;
    ECDSA_SIG *sig = signature.n == 2 * ES256_HALF ? ECDSA_SIG_new() : NULL;
    BIGNUM *r = sig ? BN_bin2bn(signature.p, ES256_HALF, NULL) : NULL;
    BIGNUM *s = sig ? BN_bin2bn(signature.p + ES256_HALF, ES256_HALF, NULL) : NULL;
    if (r && s && ECDSA_SIG_set0(sig, r, s)) {
        r = s = NULL;
        n = i2d_ECDSA_SIG(sig, &at);
    }
    BN_free(r);
    BN_free(s);
    ECDSA_SIG_free(sig);
    return MAX(n, 0);
}

static bool signature_holds(const struct jwt *j, struct slice signed_part, struct slice signature)
{
    uint8_t der[2 * ES256_HALF + 16];
    if (!j->key)
        return hmac_holds(j, signed_part, signature);
    if (EVP_PKEY_get_base_id(j->key) == EVP_PKEY_EC) {
        signature = slice_of(der, (size_t)ecdsa_der(signature, der));
        if (!signature.n)
            return false;
    }
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool holds = ctx && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, j->key) == 1 &&
                 EVP_DigestVerify(ctx, signature.p, signature.n, signed_part.p, signed_part.n) == 1;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return holds;
}

/* ---- claims (RFC 7519 4.1) ---- */

static bool audience_has(const json_t *aud, const char *want)
{
    bool has = json_is_string(aud) && strcmp(json_string_value(aud), want) == 0;
    for (size_t i = 0; json_is_array(aud) && i < json_array_size(aud); i++) {
        const char *one = json_string_value(json_array_get(aud, i));
        if (!one)
            return false;
        has |= strcmp(one, want) == 0;
    }
    return has;
}

static const char *claims_check(const struct config_jwt *c, struct slice part, uint64_t wall_ms)
{
    uint8_t space[CLAIMS_MAX];
    const double now = (double)wall_ms / 1000, leeway = (double)c->leeway / 1000;
    const char *wrong = NULL;
    json_t *root = object_of(part, space, sizeof(space));
    const json_t *exp = json_object_get(root, "exp"), *nbf = json_object_get(root, "nbf");
    const char *iss = json_string_value(json_object_get(root, "iss"));
    if (!root)
        wrong = "the token's claims are malformed";
    else if (!json_is_number(exp) || (nbf && !json_is_number(nbf)))
        wrong = "the token has no exp, or one or an nbf that is no number";
    else if (now >= json_number_value(exp) + leeway)
        wrong = "the token has expired";
    else if (nbf && now < json_number_value(nbf) - leeway)
        wrong = "the token is not valid yet";
    else if (*c->audience && !audience_has(json_object_get(root, "aud"), c->audience))
        wrong = "the token is for another audience";
    else if (*c->issuer && (!iss || strcmp(iss, c->issuer) != 0))
        wrong = "the token is of another issuer";
    json_decref(root);
    return wrong;
}

const char *jwt_check(const struct jwt *j, struct slice token, uint64_t wall_ms,
                      struct slice *claims)
{
    uint8_t space[SIGNATURE_MAX + 2];
    size_t n;
    struct slice sig = token, head = slice_cut(&sig, '.'), body = slice_cut(&sig, '.');
    if (!sig.p || token.n > JWT_MAX)
        return "the token has not the form of a JWT, or more than 8192 bytes";
    const char *wrong = header_check(j, head);
    if (wrong)
        return wrong;
    if (!base64url(sig, space, sizeof(space), &n) ||
        !signature_holds(j, slice_of(token.p, head.n + 1 + body.n), slice_of(space, n)))
        return "the token's signature does not hold";
    wrong = claims_check(j->config, body, wall_ms);
    if (!wrong)
        *claims = body;
    return wrong;
}

int64_t jwt_claim(struct slice claims, struct slice name, uint8_t *out, size_t cap)
{
    uint8_t space[CLAIMS_MAX];
    json_t *root = name.n && name.n <= CLAIMS_MAX ? object_of(claims, space, sizeof(space)) : NULL;
    const json_t *value = root ? json_object_getn(root, (const char *)name.p, name.n) : NULL;
    int64_t n = -1;
    if (json_is_string(value)) {
        n = (int64_t)json_string_length(value);
        if ((size_t)n <= cap)
            slice_copy(out, slice_of(json_string_value(value), (size_t)n));
    } else if (value) {
        const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17);
        n = (int64_t)json_dumpb(value, NULL, 0, flags);
        if ((size_t)n <= cap)
            json_dumpb(value, (char *)out, cap, flags);
    }
    json_decref(root);
    return n;
}

/* ---- keys ---- */

static bool key_fits(const struct jwt *j, const char **wrong)
{
    char group[32] = "";
    int kind = EVP_PKEY_get_base_id(j->key), bits = EVP_PKEY_get_bits(j->key);
    if (strcmp(j->config->algorithm, "RS256") == 0)
        *wrong = "RS256 needs an RSA key of 2048 to 8192 bits";
    else
        *wrong = "ES256 needs a key on P-256";
    if (strcmp(j->config->algorithm, "RS256") == 0)
        return kind == EVP_PKEY_RSA && bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX;
    return kind == EVP_PKEY_EC &&
           EVP_PKEY_get_group_name(j->key, group, sizeof(group), NULL) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

/* Whatever is set up at its first use is set up here: later nothing can be asked of the system. */
static void warm_up(const struct jwt *j)
{
    uint8_t signature[SIGNATURE_MAX] = {0};
    size_t n = j->key ? (size_t)EVP_PKEY_get_size(j->key) : HS256_BYTES;
    if (j->key && EVP_PKEY_get_base_id(j->key) == EVP_PKEY_EC)
        n = 2 * ES256_HALF;
    memset(signature + n - 8, 1, 8);
    memset(signature, 1, 8);
    bool holds = signature_holds(j, SLICE("warm up"), slice_of(signature, n));
    ASSERT(!holds);
}

enum err jwt_open(struct jwt *out, const struct config_jwt *config, struct buf *why)
{
    const char *wrong = NULL;
    struct jwt j = {.config = config};
    size_t n = strlen(config->key);
    tls_library_open();
    if (strcmp(config->algorithm, "HS256") == 0) {
        if (n < HS256_BYTES)
            wrong = "a secret of HS256 has 32 bytes or more";
        else if (strstr(config->key, "-----BEGIN "))
            wrong = "HS256 takes a secret, not a key that others may know";
    } else {
        BIO *bio = BIO_new_mem_buf(config->key, (int)n);
        j.key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
        BIO_free(bio);
        if (!j.key)
            wrong = "no public key in PEM (-----BEGIN PUBLIC KEY-----)";
        else if (key_fits(&j, &wrong))
            wrong = NULL;
    }
    if (wrong) {
        jwt_done(&j);
        enum err e = buf_printf(why, "jwt of line %u: %s", config->line, wrong);
        return e ? e : ERR_INVALID;
    }
    warm_up(&j);
    *out = j;
    return ERR_NONE;
}

void jwt_done(struct jwt *j)
{
    EVP_PKEY_free(j->key);
    ERR_clear_error();
    j->key = NULL;
}
