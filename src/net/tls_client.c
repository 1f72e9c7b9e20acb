#include "net/tls_client.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "net/tls.h"
#include "sys/sys.h"

static char said[512];

static const char *say(const char *what, const char *of)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    snprintf(said, sizeof(said), "%s%.200s%s%s", what, of, reason ? ": " : "",
             reason ? reason : "");
    return said;
}

/* What can't be written is no failure yet: the gateway may have said why. */
static int socket_write(BIO *bio, const char *p, size_t n, size_t *taken)
{
    if (sys_write(*(int *)BIO_get_data(bio), slice_of(p, n)) < 0)
        sys_shutdown_write(*(int *)BIO_get_data(bio));
    *taken = n;
    return 1;
}

static int socket_read(BIO *bio, char *p, size_t n, size_t *got)
{
    ssize_t r = sys_read(*(int *)BIO_get_data(bio), p, n);
    *got = r > 0 ? (size_t)r : 0;
    return r > 0;
}

static long socket_control(BIO *bio, int command, long n, void *p)
{
    (void)bio, (void)n, (void)p;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *socket_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "gateway");
    if (m && BIO_meth_set_write_ex(m, socket_write) && BIO_meth_set_read_ex(m, socket_read) &&
        BIO_meth_set_ctrl(m, socket_control))
        return m;
    BIO_meth_free(m);
    return NULL;
}

static const char *files_use(SSL_CTX *ctx, const struct tls_client *t)
{
    if (t->ca ? SSL_CTX_load_verify_locations(ctx, t->ca, NULL) != 1
              : SSL_CTX_set_default_verify_paths(ctx) != 1)
        return say("--ca: ", t->ca ? t->ca : "the system's");
    if (t->certificate && SSL_CTX_use_certificate_chain_file(ctx, t->certificate) != 1)
        return say("--cert: ", t->certificate);
    const char *key = t->key ? t->key : t->certificate;
    if (key && SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        return say("--key: ", key);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    return NULL;
}

/* The certificate has to have the name, or the address. */
static bool name_set(SSL *ssl, const char *name, const char *host)
{
    if (!name && X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1)
        return true;
    ERR_clear_error();
    name = name ? name : host;
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

static const char *talk(SSL *ssl, struct slice head, struct slice body, struct buf *answer)
{
    size_t n = 0;
    if (SSL_connect(ssl) != 1) {
        long refused = SSL_get_verify_result(ssl);
        return refused ? say("its certificate is refused: ", X509_verify_cert_error_string(refused))
                       : say("the TLS handshake failed", "");
    }
    if (SSL_write_ex(ssl, head.p, head.n, &n) != 1 ||
        (body.n && SSL_write_ex(ssl, body.p, body.n, &n) != 1))
        return say("TLS failed", "");
    do {
        if (buf_reserve(answer, 4096))
            return "the answer is too long";
        n = 0;
        if (SSL_read_ex(ssl, answer->p + answer->len, answer->cap - answer->len, &n) == 1)
            answer->len += (uint32_t)n;
    } while (n);
    return SSL_get_error(ssl, 0) == SSL_ERROR_ZERO_RETURN ? NULL : say("TLS failed", "");
}

const char *tls_client_exchange(int fd, const struct tls_client *t, const char *host,
                                struct slice head, struct slice body, struct buf *answer)
{
    tls_library_open();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    BIO_METHOD *method = socket_method();
    BIO *bio = method ? BIO_new(method) : NULL;
    const char *wrong = ctx && bio && SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1
                            ? files_use(ctx, t)
                            : "TLS can't be set up";
    SSL *ssl = wrong ? NULL : SSL_new(ctx);
    if (ssl) {
        BIO_set_data(bio, &fd);
        BIO_set_init(bio, 1);
        SSL_set_bio(ssl, bio, bio);
        wrong = name_set(ssl, t->name, host) ? talk(ssl, head, body, answer)
                                             : "the name can't be a certificate's";
    } else {
        BIO_free(bio);
        wrong = wrong ? wrong : "TLS can't be set up";
    }
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    BIO_meth_free(method);
    return wrong;
}
