/* TLS records after the handshake (RFC 8446 5, RFC 5246 6.2, RFC 5288, RFC 7905). OpenSSL does the
 * handshake and the ciphers; once its SSL object has gone, a connection is the keys below. Only
 * AEADs, no compression, no renegotiation, no early data: so a record is a header, a nonce that
 * counts, and a tag. docs/adr/0008-tls-records.md says why. */
#ifndef WEIR_TLS_RECORD_H
#define WEIR_TLS_RECORD_H

#include <openssl/ssl.h>

#include "base/base.h"

enum tls_type { TLS_CHANGE_CIPHER = 20, TLS_ALERT = 21, TLS_HANDSHAKE_MESSAGE = 22, TLS_DATA = 23 };
enum tls_suite { TLS_AES_128_GCM, TLS_AES_256_GCM, TLS_CHACHA20_POLY1305, TLS_SUITES };
enum {
    TLS_HEADER = 5,
    TLS_PLAIN_MAX = 16 << 10,
    TLS_SEAL_MAX = 8 + 1 + 16, /* what sealing adds: 1.2's nonce or 1.3's type, and the tag */
    TLS_SEALED_MAX = TLS_HEADER + TLS_PLAIN_MAX + 256 /* a record at all (RFC 8446 5.2) */
};

struct tls_half { /* a direction */
    uint64_t seq;
    uint8_t key[32], iv[12];
    uint8_t secret[48]; /* 1.3: of this generation of keys */
};

struct tls_keys {
    struct tls_half in, out;
    uint8_t suite;
    bool v13;
};

/* A loop's: contexts that any connection's keys are put into. */
struct tls_ciphers {
    EVP_CIPHER *cipher[TLS_SUITES];
    EVP_CIPHER_CTX *open[TLS_SUITES], *seal[TLS_SUITES];
};
bool tls_ciphers_init(struct tls_ciphers *c); /* tls_ciphers_done in every case */
void tls_ciphers_done(struct tls_ciphers *c);

/* Of a handshake that is done; for 1.3, keys hold both secrets already. seq: records that were sent
 * and received under these keys. */
bool tls_keys_derive(struct tls_keys *keys, SSL *ssl);
/* 1.3: one direction's, from its secret; and its next generation (RFC 8446 7.2, 7.3). */
bool tls_half_derive(struct tls_half *h, enum tls_suite suite);
bool tls_half_next(struct tls_half *h, enum tls_suite suite);

/* The record at p, opened where it lies. */
struct tls_opened {
    enum { TLS_RECORD_DONE, TLS_RECORD_MORE, TLS_RECORD_BAD } state;
    uint8_t alert;     /* BAD: what the peer is told (RFC 8446 6.2) */
    uint8_t type;      /* DONE */
    size_t consumed;   /* DONE; MORE: what the whole record has, or its header */
    struct slice data; /* DONE: within p */
};
struct tls_opened tls_open(const struct tls_ciphers *c, struct tls_keys *keys, uint8_t *p,
                           size_t n);
/* Seals the slices, together at most TLS_PLAIN_MAX, into out, which has TLS_HEADER + TLS_SEAL_MAX
 * more than that. Returns the record's length; 0: the cipher failed. */
size_t tls_seal(const struct tls_ciphers *c, struct tls_keys *keys, enum tls_type type,
                const struct slice *v, unsigned n_v, uint8_t *out);

#endif
