/* The PROXY protocol, versions 1 and 2: whom a proxy in front of us speaks for, said before all
 * else. Pure and strict. Source: HAProxy, "The PROXY protocol", 2020-03-05. */
#ifndef WEIR_PROXY_H
#define WEIR_PROXY_H

#include "base/address.h"

enum {
    PROXY_V1_MAX = 107,
    PROXY_HEADER_MAX = 4096
}; /* of version 2: with its TLVs, not looked at */
enum proxy_state { PROXY_DONE, PROXY_MORE, PROXY_BAD };

struct proxy_header {
    bool known; /* false: UNKNOWN, UNSPEC or LOCAL: the connection's own address stands for it */
    bool local; /* LOCAL: the proxy means itself, as for a health check */
    struct address client;
    size_t consumed;
};

/* *out has a meaning after PROXY_DONE only. UDP and UNIX addresses are PROXY_BAD. */
enum proxy_state proxy_parse(const uint8_t *p, size_t n, struct proxy_header *out) MUST_USE;

#endif
