#include "app/artifact.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <sha256.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "guest/guest.h"
#include "sys/sys.h"

enum { MODULE_MAX = 64 << 20, COMPILE_MAX_MS = 60000 };
static const char WEIRC_MAKES[] = "1";

static enum err refuse(struct buf *why, const char *path, const char *what)
{
    enum err e = buf_printf(why, "%s: %s", path, what);
    return e ? e : ERR_MODULE_REFUSED;
}

bool artifact_compiles(const struct config_module *m)
{
    size_t n = strlen(m->path);
    return n < 6 || strcmp(m->path + n - 6, ".cwasm") != 0;
}

static void slice_free(struct slice s)
{
    mem_free((void *)(uintptr_t)s.p, s.n ? s.n : 1);
}

/* The key of compiled code: its source, all that weirc is told, the engine's version, and what this
 * CPU can do. The last row counts the changes of what weirc makes of the same source. */
static void cache_key(struct slice wasm, const struct config_module *m,
                      char out[SHA256_DIGEST_STRING_LENGTH])
{
    SHA2_CTX sha;
    const char *version = guest_engine_version(), *cpu = sys_cpu_features();
    static const char form[] = "restorable modules are marked"; /* what weirc does beside */
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)form, sizeof(form));
    SHA256Update(&sha, (const uint8_t *)version, strlen(version) + 1);
    SHA256Update(&sha, (const uint8_t *)m->engine, strlen(m->engine) + 1);
    SHA256Update(&sha, (const uint8_t *)m->snapshot, strlen(m->snapshot) + 1);
    SHA256Update(&sha, (const uint8_t *)&m->limits.memory, sizeof(m->limits.memory));
    SHA256Update(&sha, (const uint8_t *)cpu, strlen(cpu) + 1);
    SHA256Update(&sha, (const uint8_t *)WEIRC_MAKES, sizeof(WEIRC_MAKES));
    SHA256Update(&sha, wasm.p, wasm.n);
    SHA256End(&sha, out);
}

static void cache_folder(const struct config *c, char out[PATH_MAX / 2])
{
    const char *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME");
    if (c->root.cache[0])
        snprintf(out, PATH_MAX / 2, "%s", c->root.cache);
    else if (xdg && xdg[0])
        snprintf(out, PATH_MAX / 2, "%s/weir", xdg);
    else if (home && home[0])
        snprintf(out, PATH_MAX / 2, "%s/.cache/weir", home);
    else
        snprintf(out, PATH_MAX / 2, "/var/cache/weir");
    sys_folder_make(out);
}

static void log_compiled(const struct config_module *m, struct slice said)
{
    if (log_begin(LOG_module_compiled)) {
        log_text("module", slice_str(m->name));
        log_text("engine", slice_str(m->engine));
        log_end();
    }
    if (said.n && log_begin(LOG_module_snapshot)) {
        log_text("module", slice_str(m->name));
        log_text("what", said);
        log_end();
    }
}

/* Runs weirc, which stands beside this program. */
static enum err compile(const struct config_module *m, const char *out, struct buf *why)
{
    char self[PATH_MAX], weirc[PATH_MAX + 8], memory[24];
    sys_self_path(self, sizeof(self));
    snprintf(weirc, sizeof(weirc), "%s/weirc", dirname(self));
    snprintf(memory, sizeof(memory), "%llu", (unsigned long long)m->limits.memory);
    const char *snapshot = strcmp(m->snapshot, "yes") == 0  ? "--snapshot"
                           : strcmp(m->snapshot, "no") == 0 ? "--no-snapshot"
                                                            : NULL;
    const char *argv[] = {"weirc",   m->path,    "-o",   out,      "--engine",
                          m->engine, "--memory", memory, snapshot, NULL};
    int errors[2];
    struct sys_exit end = {.code = -1};
    if (sys_pipe(errors) < 0)
        return refuse(why, weirc, strerror(errno));
    pid_t pid = sys_spawn(weirc, argv, errors[1], -1);
    sys_close(errors[1]);
    if (pid < 0) {
        sys_close(errors[0]);
        return refuse(why, weirc, "it must stand beside weir: run make build, or give a .cwasm");
    }
    if (!sys_wait_for(pid, COMPILE_MAX_MS, &end)) {
        sys_close(errors[0]);
        return refuse(why, m->path, "weirc took too long");
    }
    char text[1024];
    ssize_t n = sys_read(errors[0], text, sizeof(text));
    sys_close(errors[0]);
    while (n > 0 && text[n - 1] == '\n')
        n--;
    if (end.code == 0 && end.signal == 0) {
        log_compiled(m, slice_of(text, n > 0 ? (size_t)n : 0));
        return ERR_NONE;
    }
    enum err e = n > 0 ? buf_append(why, slice_of(text, (size_t)n))
                       : buf_printf(why, "%s: weirc ended by signal %d", m->path, end.signal);
    return e ? e : ERR_MODULE_REFUSED;
}

/* The path of the code in the cache, compiled if need be. */
static enum err cached(const struct config *c, const struct config_module *m, bool anew,
                       char path[PATH_MAX], struct buf *why)
{
    struct slice wasm;
    char key[SHA256_DIGEST_STRING_LENGTH], folder[PATH_MAX / 2];
    enum err e = sys_file_read(m->path, MODULE_MAX, &wasm);
    if (e)
        return refuse(why, m->path, e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
    cache_key(wasm, m, key);
    slice_free(wasm);
    cache_folder(c, folder);
    snprintf(path, PATH_MAX, "%s/%s.cwasm", folder, key);
    if (!anew && sys_file_exists(path))
        return ERR_NONE;
    return compile(m, path, why);
}

enum err artifact_open(const struct config *config, const struct config_module *m, bool anew,
                       int *fd, struct buf *why)
{
    char path[PATH_MAX], trusted[SYS_PATH_MAX], open_to[PATH_MAX + 80];
    struct slice code;
    snprintf(path, sizeof(path), "%s", m->path);
    enum err e = artifact_compiles(m) ? cached(config, m, anew, path, why) : ERR_NONE;
    if (e)
        return e;
    if (!sys_path_trusted(path, trusted, open_to, sizeof(open_to))) {
        e = buf_append(why, slice_str(open_to));
        return e ? e : ERR_MODULE_REFUSED;
    }
    e = sys_file_read(trusted, MODULE_MAX, &code);
    if (e)
        return refuse(why, path, e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
    int made = sys_memfd_sealed(m->name, code);
    slice_free(code);
    if (made < 0)
        return refuse(why, path, strerror(-made));
    *fd = made;
    return ERR_NONE;
}
