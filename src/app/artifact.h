/* Compiled modules: from a .wasm or .wat through weirc and a cache, or a .cwasm as it is. */
#ifndef WEIR_ARTIFACT_H
#define WEIR_ARTIFACT_H

#include <limits.h>

#include "app/config.h"
#include "sys/sys.h"

enum { COMPILE_MAX_MS = 60000 };

/* Code that is being made, or is there. */
struct artifact {
    pid_t pid; /* weirc's; 0: the code is there already */
    int errors, source;
    uint64_t cache_most;                      /* bytes of the cache */
    bool late;                                /* set by whoever killed it as its time was over */
    char path[PATH_MAX], made[PATH_MAX + 32]; /* where it is written, if elsewhere first */
};

/* The module's code as a sealed memfd of the caller's. anew: the cache is not asked. On an error
 * `why` says what is wrong. A .cwasm is native code, trusted like this program: it is taken only
 * from where nobody but root and our own user can write. */
enum err artifact_open(const struct config *config, const struct config_module *m, bool anew,
                       int *fd, struct buf *why) MUST_USE;
/* The same in two steps, which do not wait. source: what is compiled, else the module's file; as it
 * was when this returns. Where a->pid is set, the second step comes when that process has ended. */
enum err artifact_start(const struct config *config, const struct config_module *m,
                        const struct slice *source, bool anew, struct artifact *a,
                        struct buf *why) MUST_USE;
enum err artifact_finish(const struct config_module *m, struct artifact *a,
                         const struct sys_exit *end, int *fd, struct buf *why) MUST_USE;
/* The module's file. */
enum err artifact_source(const struct config_module *m, struct slice *out,
                         struct buf *why) MUST_USE;
/* Whether weirc could make it anew. */
bool artifact_compiles(const struct config_module *m);

#endif
