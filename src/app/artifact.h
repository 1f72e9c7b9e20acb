/* Compiled modules: from a .wasm or .wat through weirc and a cache, or a .cwasm as it is. */
#ifndef WEIR_ARTIFACT_H
#define WEIR_ARTIFACT_H

#include "app/config.h"

/* The module's code as a sealed memfd of the caller's. anew: the cache is not asked. On an error
 * `why` says what is wrong. A .cwasm is native code, trusted like this program: it is taken only
 * from where nobody but root and our own user can write. */
enum err artifact_open(const struct config *config, const struct config_module *m, bool anew,
                       int *fd, struct buf *why) MUST_USE;
/* Whether weirc could make it anew. */
bool artifact_compiles(const struct config_module *m);

#endif
