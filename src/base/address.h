/* Addresses of IPv4 and IPv6, one shape for both: IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2). */
#ifndef WEIR_ADDRESS_H
#define WEIR_ADDRESS_H

#include "base/base.h"

struct address {
    uint8_t ip[16];
    uint16_t port; /* 0: not known */
};

struct address_block { /* the first `bits` of ip; those of IPv4 have 96 more than they are written
                        */
    uint8_t ip[16];
    uint8_t bits;
};

enum { ADDRESS_TEXT = 56 }; /* "[" 45 "]:65535" and a NUL */

/* An address alone, numeric: "1.2.3.4", "::1". *out is untouched where it is none. */
bool address_ip_parse(struct slice text, struct address *out) MUST_USE;
/* The same with or without a port: "1.2.3.4:80", "[::1]:80", "[::1]". */
bool address_port_parse(struct slice text, struct address *out) MUST_USE;
/* "10.0.0.0/8", "fd00::/8", or an address alone. Bits beyond the prefix must be 0. */
bool address_block_parse(struct slice text, struct address_block *out) MUST_USE;
void address_write(const struct address *a, char out[ADDRESS_TEXT]); /* "1.2.3.4:80", "[::1]:80" */
bool address_in(const struct address *a, const struct address_block *blocks, uint32_t n);
bool address_port(struct slice text, uint16_t *out) MUST_USE; /* decimal, no leading zeros */
/* Who counts as one: an IPv4 address, a /64 of IPv6. */
uint64_t address_key(const struct address *a);

/* The client of whom proxies tell: *at is the peer; while it is one of the blocks, it becomes the
 * last address of the list, then the one before (X-Forwarded-For). Returns the rest of the list;
 * p NULL: *at is the client, whatever else was said. For lists in several fields: the last first.
 */
struct slice address_forwarded(struct slice list, const struct address_block *blocks, uint32_t n,
                               unsigned *hops, struct address *at);
enum { ADDRESS_HOPS_MAX = 32 };

#endif
