#include <openssl/err.h>
#include <openssl/pem.h>

#include "net/tls_inner.h"

/* AEADs with forward secrecy only (RFC 9325 4.2). */
#define CIPHERS_1_2 "ECDHE+AESGCM:ECDHE+CHACHA20"
#define CIPHERS_1_3 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
#define GROUPS "X25519:P-256:P-384"
enum { CLIENT_DEPTH = 4, CLIENT_CHAIN = 32 << 10 }; /* of a client's certificates; bytes */

/* OpenSSL frees without a size, so it stands before each piece. */
static void *crypto_alloc(size_t n, const char *file, int line)
{
    (void)file, (void)line;
    size_t *p = n ? mem_alloc_as(MEM_TLS, n + 16) : NULL;
    if (!p)
        return NULL;
    *p = n;
    return p + 2;
}

static void crypto_free(void *p, const char *file, int line)
{
    (void)file, (void)line;
    if (!p)
        return;
    size_t *at = (size_t *)p - 2, n = *at;
    mem_free_as(MEM_TLS, at, n + 16);
}

static void *crypto_resize(void *p, size_t n, const char *file, int line)
{
    void *out = crypto_alloc(n, file, line);
    if (p && (out || !n)) {
        size_t have = ((size_t *)p)[-2];
        memcpy(out ? out : p, p, out ? MIN(have, n) : 0);
        crypto_free(p, file, line);
    }
    return out;
}

/* Its tables of pointers (meson.build): the loader has written them, in every process. */
extern char __start_weir_openssl[], __stop_weir_openssl[];

static enum { UNUSED, OPEN, GIVEN_BACK } library;

void tls_library_unused(void)
{
    if (library != UNUSED)
        return;
    library = GIVEN_BACK;
    sys_data_drop(__start_weir_openssl, __stop_weir_openssl);
}

void tls_library_open(void)
{
    ASSERT(library != GIVEN_BACK);
    if (library == OPEN)
        return;
    library = OPEN;
    sys_data_seal(__start_weir_openssl, __stop_weir_openssl);
    CRYPTO_set_mem_functions(crypto_alloc, crypto_resize, crypto_free);
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
}

static SSL_CTX *fail(SSL_CTX *ctx, struct buf *why, const char *text)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    why->len = 0; /* a warning is nothing beside that */
    if (buf_printf(why, reason ? "%s (%s)" : "%s", text, reason))
        why->len = 0;
    ERR_clear_error();
    SSL_CTX_free(ctx);
    return NULL;
}

/* A key that asks for a passphrase has none here, and nobody to ask. */
static int no_passphrase(char *out, int n, int for_writing, void *arg)
{
    (void)out, (void)n, (void)for_writing, (void)arg;
    return -1;
}

static bool ended(void)
{
    unsigned long e = ERR_peek_last_error();
    return ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;
}

static const char *certificate_use(SSL_CTX *ctx, struct slice pem)
{
    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    X509 *x = bio ? PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL) : NULL;
    const char *wrong = !x ? "the certificate's file holds no certificate in PEM" : NULL;
    if (x && SSL_CTX_use_certificate(ctx, x) != 1)
        wrong = "the certificate can't be used";
    X509_free(x);
    while (!wrong && (x = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL)) != NULL)
        if (SSL_CTX_add0_chain_cert(ctx, x) != 1) {
            X509_free(x);
            wrong = "a certificate of the chain can't be used";
        }
    if (!wrong && !ended())
        wrong = "a certificate of the chain is malformed";
    BIO_free(bio);
    if (!wrong)
        ERR_clear_error();
    return wrong;
}

static const char *key_use(SSL_CTX *ctx, struct slice pem)
{
    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    const char *wrong = NULL;
    if (!key)
        wrong = "the key's file holds no private key in PEM without a passphrase";
    else if (SSL_CTX_use_PrivateKey(ctx, key) != 1 || SSL_CTX_check_private_key(ctx) != 1)
        wrong = "the key is not the certificate's: give the one that it was made with";
    EVP_PKEY_free(key);
    BIO_free(bio);
    return wrong;
}

static void warn(struct buf *why, const char *text)
{
    if (buf_printf(why, "%s%s", why->len ? "; " : "", text))
        why->len = 0;
}

static void time_check(const X509 *x, struct buf *why)
{
    if (X509_cmp_current_time(X509_get0_notAfter(x)) < 0)
        warn(why, "the certificate has expired: clients refuse it; renew it");
    else if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
        warn(why, "the certificate is not valid yet: clients refuse it until then");
}

/* Who may have signed a client's certificate: exactly those of the file, each of which is trusted
 * by itself, so that an issuer's own issuer need not be. Lists of what was revoked may be among
 * them, and are looked at for the client's own certificate. */
static const char *client_ca_use(SSL_CTX *ctx, struct slice pem, struct buf *why)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    STACK_OF(X509_INFO) *all = bio ? PEM_X509_INFO_read_bio(bio, NULL, no_passphrase, NULL) : NULL;
    const char *wrong = all ? NULL : "client_ca is malformed";
    unsigned long flags = X509_V_FLAG_PARTIAL_CHAIN;
    int n = 0;
    for (int i = 0; i < sk_X509_INFO_num(all) && !wrong; i++) {
        const X509_INFO *one = sk_X509_INFO_value(all, i);
        if ((one->x509 && (X509_STORE_add_cert(store, one->x509) != 1 ||
                           SSL_CTX_add_client_CA(ctx, one->x509) != 1)) ||
            (one->crl && X509_STORE_add_crl(store, one->crl) != 1))
            wrong = "a certificate of client_ca can't be used";
        if (one->x509 && X509_cmp_current_time(X509_get0_notAfter(one->x509)) < 0)
            warn(why, "a certificate of client_ca has expired: whom it signed is refused");
        n += one->x509 != NULL;
        flags |= one->crl ? X509_V_FLAG_CRL_CHECK : 0;
    }
    if (!wrong && !n)
        wrong = "client_ca's file holds no certificate in PEM";
    X509_STORE_set_flags(store, flags);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_verify_depth(ctx, CLIENT_DEPTH);
    SSL_CTX_set_max_cert_list(ctx, CLIENT_CHAIN);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET); /* no session stands for a certificate */
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN); /* of ours: it is in the certificate's file */
    sk_X509_INFO_pop_free(all, X509_INFO_free);
    BIO_free(bio);
    return wrong;
}

SSL_CTX *tls_context_new(const struct slice pem[TLS_PEMS], struct buf *why)
{
    tls_library_open();
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ctx, CIPHERS_1_2) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, CIPHERS_1_3) != 1 ||
        SSL_CTX_set1_groups_list(ctx, GROUPS) != 1)
        return fail(ctx, why, "TLS can't be set up");
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 1); /* connections here are few a client, and long */
    const char *wrong = certificate_use(ctx, pem[TLS_PEM_CERTIFICATE]);
    wrong = wrong ? wrong : key_use(ctx, pem[TLS_PEM_KEY]);
    if (!wrong && pem[TLS_PEM_CLIENT_CA].n)
        wrong = client_ca_use(ctx, pem[TLS_PEM_CLIENT_CA], why);
    if (wrong)
        return fail(ctx, why, wrong);
    time_check(SSL_CTX_get0_certificate(ctx), why);
    return ctx;
}

enum err tls_certificate_check(const struct slice pem[TLS_PEMS], struct buf *why)
{
    SSL_CTX *ctx = tls_context_new(pem, why);
    SSL_CTX_free(ctx);
    return ctx ? ERR_NONE : ERR_INVALID;
}

static SSL_CTX *find(const struct tls_names *names, const char *name, unsigned flags)
{
    for (uint32_t i = 0; i < names->n; i++) {
        X509 *x = SSL_CTX_get0_certificate(names->contexts[i]);
        if (X509_check_host(x, name, strlen(name), flags, NULL) == 1)
            return names->contexts[i];
    }
    return NULL;
}

SSL_CTX *tls_names_find(const struct tls_names *names, const char *name)
{
    SSL_CTX *ctx = name ? find(names, name, X509_CHECK_FLAG_NO_WILDCARDS) : NULL;
    if (!ctx && name)
        ctx = find(names, name, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return ctx ? ctx : names->contexts[0];
}

void tls_names_done(struct tls_names *names)
{
    for (uint32_t i = 0; i < names->n; i++)
        SSL_CTX_free(names->contexts[i]);
    names->n = 0;
}
