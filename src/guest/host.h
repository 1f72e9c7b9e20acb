/* The functions of weir_v1 by number, for whoever does not know the engine. */
#ifndef WEIR_HOST_H
#define WEIR_HOST_H

enum guest_host {
#define HOST(name, group, params, result, text) GUEST_HOST_##name,
#include "tbl/host.def"
#undef HOST
    GUEST_HOSTS,
    GUEST_ALLOW_WASI = GUEST_HOSTS /* the bit of `allow:` for WASI and env.abort */
};

#endif
