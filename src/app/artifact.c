#include "app/artifact.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <sha256.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "guest/guest.h"

enum { MODULE_MAX = 64 << 20 };
static const char WEIRC_MAKES[] = "3";

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

enum err artifact_source(const struct config_module *m, struct slice *out, struct buf *why)
{
    enum err e = sys_file_read(m->path, MODULE_MAX, out);
    if (e)
        return refuse(why, m->path, e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
    return ERR_NONE;
}

/* Where weirc finds its source: a file, or the descriptor that it is started with. */
static const char *in_path(const struct config_module *m, const struct artifact *a)
{
    return a->source < 0 ? m->path : "/proc/self/fd/3";
}

/* The key of compiled code: its source, all that weirc is told, the engine's version, and what this
 * CPU can do. The last row counts the changes of what weirc makes of the same source. */
static void cache_key(struct slice wasm, const struct config_module *m,
                      char out[SHA256_DIGEST_STRING_LENGTH])
{
    SHA2_CTX sha;
    const char *version = guest_engine_version(), *cpu = sys_cpu_features();
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)version, strlen(version) + 1);
    SHA256Update(&sha, (const uint8_t *)m->engine, strlen(m->engine) + 1);
    SHA256Update(&sha, (const uint8_t *)m->snapshot, strlen(m->snapshot) + 1);
    SHA256Update(&sha, (const uint8_t *)&m->limits.memory, sizeof(m->limits.memory));
    SHA256Update(&sha, (const uint8_t *)cpu, strlen(cpu) + 1);
    SHA256Update(&sha, (const uint8_t *)WEIRC_MAKES, sizeof(WEIRC_MAKES));
    for (uint32_t i = 0; i < m->n_env; i++)
        SHA256Update(&sha, (const uint8_t *)m->env[i], strlen(m->env[i]) + 1);
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

/* Starts weirc, which stands beside this program. As another user it can't replace a file of the
 * cache: it fills one that we put there. */
static enum err compile(const struct config *config, const struct config_module *m,
                        struct artifact *a, struct buf *why)
{
    char self[PATH_MAX], weirc[PATH_MAX + 8], memory[24], user[32];
    const struct sys_user *run_as = &config->run_as;
    if (run_as->other)
        snprintf(a->made, sizeof(a->made), "%s.%d.new", a->path, sys_pid());
    sys_self_path(self, sizeof(self));
    snprintf(weirc, sizeof(weirc), "%s/weirc", dirname(self));
    snprintf(memory, sizeof(memory), "%llu", (unsigned long long)m->limits.memory);
    const char *snapshot = strcmp(m->snapshot, "yes") == 0  ? "--snapshot"
                           : strcmp(m->snapshot, "no") == 0 ? "--no-snapshot"
                                                            : NULL;
    const char *out = *a->made ? a->made : a->path, *sandbox = config->root.sandbox;
    const char *argv[14 + 2 * CONFIG_ENV_MAX] = {"weirc",    in_path(m, a), "-o",       out,
                                                 "--engine", m->engine,     "--memory", memory};
    size_t n = 8;
    if (run_as->other) {
        snprintf(user, sizeof(user), "%u:%u", run_as->uid, run_as->gid);
        argv[n++] = "--user";
        argv[n++] = user;
    }
    if (strcmp(sandbox, "off") != 0) {
        argv[n++] = "--cage";
        argv[n++] = strcmp(sandbox, "require") == 0 ? "require" : "say";
    }
    for (uint32_t i = 0; i < m->n_env; i++) { /* what an initialisation sees of it is stored */
        argv[n++] = "--env";
        argv[n++] = m->env[i];
    }
    argv[n] = snapshot;
    int errors[2];
    if (sys_pipe(errors) < 0)
        return refuse(why, weirc, strerror(errno));
    pid_t pid = sys_spawn(weirc, argv, errors[1], a->source);
    sys_close(errors[1]);
    if (pid < 0) {
        sys_close(errors[0]);
        return refuse(why, weirc, "it must stand beside weir: run make build, or give a .cwasm");
    }
    a->pid = pid;
    a->errors = errors[0];
    return ERR_NONE;
}

/* Takes the lines that tell what is missing of weirc's cage off what it said; each run says the
 * same, so the first one is logged. */
static struct slice cage_said(struct slice said)
{
    static bool logged;
    struct slice key = SLICE("cage: ");
    bool any = false;
    while (slice_begins(said, key)) {
        struct slice line = slice_cut(&said, '\n');
        struct slice detail = slice_of(line.p + key.n, line.n - key.n);
        struct slice layer = slice_cut(&detail, ':');
        if (!logged && log_begin(LOG_sandbox_missing)) {
            log_text("process", SLICE("weirc"));
            log_text("layer", layer);
            log_text("detail", detail.n ? slice_of(detail.p + 1, detail.n - 1) : SLICE_NONE);
            log_end();
        }
        any = true;
    }
    logged = logged || any;
    return said;
}

/* Says why weirc failed, by its own words where it had some. It calls what it got by a descriptor
 * by that: nothing that its user knows. */
static enum err failed(const struct config_module *m, const struct artifact *a, struct slice said,
                       int signal, struct buf *why)
{
    struct slice path = slice_str(in_path(m, a));
    const char *own_name = *m->path ? m->path : m->name;
    bool own = a->source >= 0 && said.n > path.n && slice_begins(said, path);
    enum err e = own       ? buf_printf(why, "%s%.*s", m->name, (int)(said.n - path.n),
                                        (const char *)said.p + path.n)
                 : said.n  ? buf_append(why, said)
                 : !signal ? buf_printf(why, "%s: weirc failed", own_name)
                           : buf_printf(why, "%s: weirc ended by signal %d", own_name, signal);
    return e ? e : ERR_MODULE_REFUSED;
}

enum err artifact_start(const struct config *config, const struct config_module *m,
                        const struct slice *source, bool anew, struct artifact *a, struct buf *why)
{
    struct slice wasm = source ? *source : SLICE_NONE;
    char key[SHA256_DIGEST_STRING_LENGTH], folder[PATH_MAX / 2];
    *a = (struct artifact){.source = -1, .errors = -1};
    snprintf(a->path, sizeof(a->path), "%s", m->path);
    if (!source && !artifact_compiles(m))
        return ERR_NONE;
    enum err e = source ? ERR_NONE : artifact_source(m, &wasm, why);
    if (e)
        return e;
    cache_key(wasm, m, key);
    cache_folder(config, folder);
    snprintf(a->path, sizeof(a->path), "%s/%s.cwasm", folder, key);
    a->cache_most = config->root.cache_size;
    sys_file_used(a->path);
    if (anew || !sys_file_exists(a->path)) {
        a->source = source ? sys_memfd_sealed(m->name, wasm) : -1;
        e = source && a->source < 0 ? refuse(why, m->name, strerror(-a->source))
                                    : compile(config, m, a, why);
        sys_close(a->source);
    }
    if (!source)
        sys_read_free(wasm);
    return e;
}

static enum err code_open(const struct config_module *m, const char *path, int *fd, struct buf *why)
{
    char trusted[SYS_PATH_MAX], open_to[PATH_MAX + 80];
    struct slice code;
    if (!sys_path_trusted(path, trusted, open_to, sizeof(open_to))) {
        enum err e = buf_append(why, slice_str(open_to));
        return e ? e : ERR_MODULE_REFUSED;
    }
    enum err e = sys_file_read(trusted, MODULE_MAX, &code);
    if (e)
        return refuse(why, path, e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
    int made = sys_memfd_sealed(m->name, code);
    sys_read_free(code);
    if (made < 0)
        return refuse(why, path, strerror(-made));
    *fd = made;
    return ERR_NONE;
}

enum err artifact_finish(const struct config_module *m, struct artifact *a,
                         const struct sys_exit *end, int *fd, struct buf *why)
{
    char text[1024];
    enum err e;
    if (!a->pid)
        return code_open(m, a->path, fd, why);
    ssize_t n = sys_read(a->errors, text, sizeof(text));
    sys_close(a->errors);
    a->pid = 0;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    struct slice all = slice_of(text, n > 0 ? (size_t)n : 0), said = cage_said(all);
    bool ended = a->late || end->code || end->signal;
    if (*a->made && ended)
        sys_file_remove(a->made);
    if (a->late)
        return refuse(why, m->name, "weirc took too long");
    if (ended) /* for want of its cage, where it says nothing else */
        return failed(m, a, said.n ? said : all, end->signal, why);
    if (*a->made && sys_file_move(a->made, a->path))
        return refuse(why, a->path, strerror(errno));
    log_compiled(m, said);
    e = code_open(m, a->path, fd, why);
    char folder[PATH_MAX], *name = strrchr(strcpy(folder, a->path), '/');
    *name++ = '\0';
    sys_folder_trim(folder, ".cwasm", a->cache_most, name);
    return e;
}

enum err artifact_open(const struct config *config, const struct config_module *m, bool anew,
                       int *fd, struct buf *why)
{
    struct artifact a;
    struct sys_exit end = {.code = -1};
    enum err e = artifact_start(config, m, NULL, anew, &a, why);
    if (e)
        return e;
    if (a.pid)
        a.late = !sys_wait_for(a.pid, COMPILE_MAX_MS, &end);
    return artifact_finish(m, &a, &end, fd, why);
}
