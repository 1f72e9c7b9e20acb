#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/rand.h>

#include "net/tls_inner.h"

enum { STEPS = 4 };                  /* an iteration: a signature is up to 1 ms */
enum { HANDSHAKE_ROOM = 128 << 10 }; /* memory */
enum { KEY_NAME = 16, KEY_MAC = 32 };
enum { FINISHED = 20 }; /* a handshake message */

/* ---- the socket, as OpenSSL sees it ---- */

static int socket_write(BIO *bio, const char *p, size_t n, size_t *taken)
{
    struct tls *t = BIO_get_data(bio);
    *taken = n;
    return tls_put(t->net, t->now, tls_of(t->net, t->now), slice_of(p, n));
}

static int socket_read(BIO *bio, char *p, size_t n, size_t *got)
{
    struct tls *t = BIO_get_data(bio);
    struct tls_conn *tc = tls_of(t->net, t->now);
    BIO_clear_retry_flags(bio);
    if (t->raw_at == t->raw_n && !tls_fill(t, t->now, tc)) {
        if (!tc->ended && !tc->broken)
            BIO_set_retry_read(bio);
        return 0;
    }
    *got = MIN(n, t->raw_n - t->raw_at);
    memcpy(p, t->raw + t->raw_at, *got);
    t->raw_at += *got;
    return 1;
}

static long socket_control(BIO *bio, int command, long n, void *p)
{
    (void)bio, (void)n, (void)p;
    return command == BIO_CTRL_FLUSH;
}

/* ---- what OpenSSL asks ---- */

static int choose_certificate(SSL *ssl, int *alert, void *arg)
{
    (void)alert;
    struct tls *t = arg;
    struct tls_conn *tc = tls_of(t->net, t->now);
    SSL_CTX *ctx = tls_names_find(&t->names[tc->listener],
                                  SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name));
    if (ctx != SSL_get_SSL_CTX(ssl))
        SSL_set_SSL_CTX(ssl, ctx);
    return SSL_TLSEXT_ERR_OK;
}

/* RFC 7301: http/1.1, or an alert where only others are offered. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_n,
                           const unsigned char *in, unsigned in_n, void *arg)
{
    static const unsigned char http[] = "\x08http/1.1";
    (void)ssl, (void)arg;
    int r = SSL_select_next_proto((unsigned char **)(uintptr_t)out, out_n, http, sizeof(http) - 1,
                                  in, in_n);
    return r == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                      EVP_MAC_CTX *mac, int sealing)
{
    const struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    unsigned i = 0;
    while (!sealing && i < t->n_keys && memcmp(name, t->keys[i], KEY_NAME) != 0)
        i++;
    if (i >= t->n_keys)
        return 0; /* none: a full handshake */
    const uint8_t *key = t->keys[i];
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)(key + KEY_NAME),
                                          KEY_MAC),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
        OSSL_PARAM_construct_end()};
    if (sealing) {
        memcpy(name, key, KEY_NAME);
        if (RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1)
            return -1;
    }
    if (EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key + KEY_NAME + KEY_MAC, iv, sealing) !=
            1 ||
        EVP_MAC_CTX_set_params(mac, params) != 1)
        return -1;
    return i ? 2 : 1; /* opened by an older key: a new ticket is sent */
}

/* 1.3: both secrets of the application's data, as "LABEL <client's random> <secret>" in hex. */
static void on_secret(const SSL *ssl, const char *line)
{
    struct tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    struct tls_keys *keys = &tls_of(t->net, t->now)->keys;
    bool client = strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0;
    if (!client && strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) != 0)
        return;
    uint8_t *secret = client ? keys->in.secret : keys->out.secret;
    size_t n = sizeof(keys->in.secret), got = 0;
    if (OPENSSL_hexstr2buf_ex(secret, n, &got, line + 24 + 64 + 1, '\0') != 1)
        memset(secret, 0, n); /* tls_keys_derive takes none */
}

/* Counts records under the keys that the handshake ends with: 1.2, from ChangeCipherSpec; 1.3, from
 * Finished. */
static void on_message(int written, int version, int type, const void *p, size_t n, SSL *ssl,
                       void *arg)
{
    struct tls *t = arg;
    struct tls_keys *keys = &tls_of(t->net, t->now)->keys;
    struct tls_half *h = written ? &keys->out : &keys->in;
    uint8_t first = n ? *(const uint8_t *)p : 0;
    (void)version;
    if (type == SSL3_RT_HEADER)
        h->seq = first == TLS_CHANGE_CIPHER ? 0 : h->seq + 1;
    else if (type == SSL3_RT_HANDSHAKE && first == FINISHED && SSL_version(ssl) == TLS1_3_VERSION)
        h->seq = 0;
}

static void context_prepare(struct tls *t, uint32_t listener, SSL_CTX *ctx)
{
    SSL_CTX_set_app_data(ctx, t);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS); /* while the peer's turn is waited for */
    SSL_CTX_set_msg_callback(ctx, on_message);
    SSL_CTX_set_msg_callback_arg(ctx, t);
    SSL_CTX_set_keylog_callback(ctx, on_secret);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)&listener, sizeof(listener));
    SSL_CTX_set_tlsext_servername_callback(ctx, choose_certificate);
    SSL_CTX_set_tlsext_servername_arg(ctx, t);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key);
}

/* ---- handshakes ---- */

static enum err failure(unsigned long code)
{
    switch (ERR_GET_REASON(code)) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        return ERR_TLS_PLAIN;
    case SSL_R_NO_APPLICATION_PROTOCOL:
        return ERR_TLS_ALPN;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
        return ERR_TLS_VERSION;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
        return ERR_TLS_CLIENT;
    }
    return ERR_GET_REASON(code) >= SSL_AD_REASON_OFFSET ? ERR_TLS_ALERT : ERR_TLS_PROTOCOL;
}

void tls_slot_leave(struct net *net, struct tls_conn *tc)
{
    struct tls *t = net->tls;
    list_remove(&tc->node);
    if (tc->state == TLS_HANDSHAKE)
        metrics.tls_handshakes_active = --t->handshakes;
    /* Also if this one was waiting: it may have been called, and gone before it came. */
    bool place = t->handshakes < t->limits.handshakes;
    struct list *first = place ? list_pop(&t->waiting) : NULL;
    if (!first)
        return;
    struct conn *next = conn_get(net, CONTAINER_OF(first, struct tls_conn, node)->conn);
    if (next)
        conn_resume(net, next);
}

static void handshake_failed(struct net *net, struct conn *c, struct tls_conn *tc)
{
    static const struct slice plain = SLICE("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n"
                                            "Content-Length: 32\r\n\r\nthis port speaks HTTPS, not "
                                            "HTTP");
    unsigned long code = ERR_peek_error();
    enum err e = failure(code);
    ERR_clear_error();
    if (tc->broken || tc->ended) {
        conn_close(net, c, tc->broken ? CLOSE_PEER_RESET : CLOSE_PEER);
        return;
    }
    if (e == ERR_TLS_PLAIN)
        tls_put(net, c, tc, plain);
    long refused = SSL_get_verify_result(tc->ssl); /* of the client's certificate, where one came */
    tls_failed(net, c, tc, e,
               refused ? X509_verify_cert_error_string(refused) : ERR_reason_error_string(code));
}

static SSL *ssl_new(struct tls *t, const struct tls_conn *tc)
{
    SSL *ssl = SSL_new(t->names[tc->listener].contexts[0]);
    BIO *bio = ssl ? BIO_new(t->socket) : NULL;
    if (!bio) {
        SSL_free(ssl);
        return NULL;
    }
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_accept_state(ssl);
    return ssl;
}

/* Whether input may be taken of a connection that is not open yet. */
static enum conn_ready ready(void *owner, struct conn *c)
{
    struct net *net = owner;
    struct tls *t = net->tls;
    struct tls_conn *tc = tls_of(net, c);
    if (t->iteration != net->loop->now_ns) {
        t->iteration = net->loop->now_ns;
        t->steps = 0;
    }
    bool full = c->protocol == t->protocol && /* others have places of their own */
                (t->handshakes >= t->limits.handshakes ||
                 (t->handshakes && !mem_room(MEM_TLS, HANDSHAKE_ROOM)));
    if (tc->state == TLS_WAITING && full) {
        metrics.tls_handshakes_held_total++;
        list_remove(&tc->node);
        list_append(&t->waiting, &tc->node);
        conn_pause(c);
        return CONN_NO_ROOM;
    }
    if (t->steps >= STEPS)
        return CONN_NO_ROOM;
    t->steps++;
    return CONN_ALWAYS;
}

/* What came behind a PROXY header: the handshake's beginning. */
static size_t early(void *owner, struct conn *c, uint8_t *p, size_t n)
{
    struct net *net = owner;
    if (buf_append(&tls_of(net, c)->in, slice_of(p, n)))
        conn_close(net, c, CLOSE_NO_MEMORY);
    c->readable = true; /* so that it is looked at */
    return n;
}

static void timeout(void *owner, struct conn *c)
{
    tls_report(c, ERR_TLS_TIMEOUT, NULL);
    conn_close(owner, c, CLOSE_TLS);
}

static bool closed(void *owner, struct conn *c)
{
    (void)owner, (void)c;
    return true;
}

int tls_handshake(struct net *net, struct conn *c, struct tls_conn *tc)
{
    struct tls *t = net->tls;
    if (tc->state == TLS_WAITING) {
        tc->ssl = ssl_new(t, tc);
        if (!tc->ssl) {
            conn_close(net, c, CLOSE_NO_MEMORY);
            return -1;
        }
        tc->state = TLS_HANDSHAKE;
        metrics.tls_handshakes_active = ++t->handshakes;
    }
    ERR_clear_error();
    int r = SSL_do_handshake(tc->ssl);
    if (r != 1 && SSL_get_error(tc->ssl, r) == SSL_ERROR_WANT_READ)
        return 0;
    if (r != 1) {
        handshake_failed(net, c, tc);
        return -1;
    }
    if (SSL_has_pending(tc->ssl) || !tls_keys_derive(&tc->keys, tc->ssl)) {
        tls_failed(net, c, tc, ERR_TLS_PROTOCOL, NULL);
        return -1;
    }
    tls_slot_leave(net, tc);
    tc->state = TLS_OPEN;
    metrics.tls_handshakes_total++;
    metrics.tls_resumptions_total += SSL_session_reused(tc->ssl) == 1;
    unsigned fragment = SSL_SESSION_get_max_fragment_length(SSL_get_session(tc->ssl));
    tc->most = fragment && fragment <= 4 ? (uint16_t)(256 << fragment) : TLS_PLAIN_MAX;
    SSL_free(tc->ssl);
    tc->ssl = NULL;
    t->opened(t->owner, c);
    return 1;
}

/* ---- settings ---- */

/* One of `all`, which it goes on from. */
static bool pem_next(struct slice *all, struct slice pem[TLS_PEMS])
{
    uint32_t n[TLS_PEMS];
    if (all->n < sizeof(n))
        return false;
    memcpy(n, all->p, sizeof(n));
    *all = slice_of(all->p + sizeof(n), all->n - sizeof(n));
    for (int i = 0; i < TLS_PEMS; i++) {
        if (all->n < n[i])
            return false;
        pem[i] = slice_of(all->p, n[i]);
        *all = slice_of(all->p + n[i], all->n - n[i]);
    }
    return true;
}

enum err tls_certificates(struct net *net, uint32_t listener, struct slice all, struct buf *why)
{
    struct tls *t = net->tls;
    struct tls_names names = {.n = 0};
    struct slice pem[TLS_PEMS];
    ASSERT(listener < TLS_LISTENERS);
    while (names.n < TLS_CERTIFICATES_MAX && pem_next(&all, pem)) {
        struct buf text;
        buf_init(&text, 512);
        SSL_CTX *ctx = tls_context_new(pem, &text);
        if (text.len && buf_printf(why, "%scertificate %u: %.*s", why->len ? "; " : "", names.n + 1,
                                   (int)text.len, (const char *)text.p))
            why->len = 0;
        buf_done(&text);
        if (!ctx) {
            tls_names_done(&names);
            return ERR_INVALID;
        }
        context_prepare(t, listener, ctx);
        names.contexts[names.n++] = ctx;
    }
    if (!names.n)
        return ERR_INVALID;
    tls_names_done(&t->names[listener]); /* connections keep theirs */
    t->names[listener] = names;
    return ERR_NONE;
}

void tls_tickets(struct net *net, struct slice keys)
{
    struct tls *t = net->tls;
    if (!t)
        return; /* no listener's certificates were taken */
    t->n_keys = (unsigned)MIN(keys.n / TLS_TICKET_KEY, (size_t)TLS_TICKET_KEYS);
    slice_copy(t->keys, slice_of(keys.p, (size_t)t->n_keys * TLS_TICKET_KEY));
}

enum err tls_new(struct net *net, const struct tls_limits *limits, uint8_t protocol, void *owner,
                 void (*opened)(void *owner, struct conn *c))
{
    tls_library_open();
    struct tls *t = mem_alloc(sizeof(*t));
    if (!t)
        return ERR_NO_MEMORY;
    memset(t, 0, offsetof(struct tls, raw));
    t->limits = *limits;
    t->protocol = protocol;
    t->owner = owner;
    t->opened = opened;
    t->net = net;
    list_init(&t->waiting);
    pool_init(&t->conns, sizeof(struct tls_conn), limits->connections);
    t->socket = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "connection");
    if (!tls_ciphers_init(&t->ciphers) || !t->socket) {
        tls_ciphers_done(&t->ciphers);
        BIO_meth_free(t->socket);
        mem_free(t, sizeof(*t));
        return ERR_NO_MEMORY;
    }
    BIO_meth_set_write_ex(t->socket, socket_write);
    BIO_meth_set_read_ex(t->socket, socket_read);
    BIO_meth_set_ctrl(t->socket, socket_control);
    net->tls = t;
    net->protocols[protocol] = (struct conn_protocol){
        .owner = net, .ready = ready, .input = early, .timeout = timeout, .closed = closed};
    return ERR_NONE;
}

void tls_done(struct net *net)
{
    struct tls *t = net->tls;
    if (!t)
        return;
    for (int i = 0; i < TLS_LISTENERS; i++)
        tls_names_done(&t->names[i]);
    pool_done(&t->conns);
    mem_free(t->places, t->n_places * sizeof(*t->places));
    BIO_meth_free(t->socket);
    tls_ciphers_done(&t->ciphers);
    mem_free(t, sizeof(*t));
    net->tls = NULL;
}
