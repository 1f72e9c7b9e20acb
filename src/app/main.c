/* The program weir: serve, check, docs, version. */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <malloc.h>
#include <sha256.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/gateway.h"
#include "base/log.h"

#define WEIR_VERSION "0.1.0"
enum { MODULE_MAX = 64 << 20 };

static volatile sig_atomic_t stopping;
static struct gateway gateway;

static void on_stop(int sig)
{
    (void)sig;
    stopping = 1;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

/* The key of a compiled module: its source, the engine and its settings, and this CPU. */
static void cache_key(struct slice wasm, const char *engine, char out[SHA256_DIGEST_STRING_LENGTH])
{
    SHA2_CTX sha;
    char line[4096];
    SHA256Init(&sha);
    SHA256Update(&sha, (const uint8_t *)WASMTIME_VERSION, strlen(WASMTIME_VERSION));
    SHA256Update(&sha, (const uint8_t *)engine, strlen(engine));
    FILE *cpu = fopen("/proc/cpuinfo", "r");
    while (cpu && fgets(line, sizeof(line), cpu))
        if (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0) {
            SHA256Update(&sha, (const uint8_t *)line, strlen(line));
            break;
        }
    if (cpu)
        fclose(cpu);
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
    else
        snprintf(out, PATH_MAX / 2, "%s/.cache/weir", home && home[0] ? home : "/var/cache");
    for (char *p = out + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(out, 0755);
            *p = '/';
        }
    mkdir(out, 0755);
}

/* Runs weirc, which stands beside this program. */
static enum err compile(const struct config_module *m, const char *out, struct buf *why)
{
    char self[PATH_MAX], weirc[PATH_MAX + 8];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = 0;
    snprintf(weirc, sizeof(weirc), "%s/weirc", dirname(self));
    pid_t pid = fork();
    if (pid == 0) {
        execl(weirc, "weirc", m->path, "-o", out, "--engine", m->engine, (char *)NULL);
        fprintf(stderr, "%s: %s; build it with make build, or give a .cwasm\n", weirc,
                strerror(errno));
        _exit(127);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0) {
        enum err e = buf_printf(why, "weirc could not compile it");
        return e ? e : ERR_MODULE_REFUSED;
    }
    return ERR_NONE;
}

/* The path of the compiled module; ours to load. */
static enum err artifact(const struct config *c, const struct config_module *m, bool anew,
                         char path[PATH_MAX], struct buf *why)
{
    struct slice wasm;
    char key[SHA256_DIGEST_STRING_LENGTH], folder[PATH_MAX / 2];
    snprintf(path, PATH_MAX, "%s", m->path);
    if (!ends_with(m->path, ".cwasm")) {
        enum err e = sys_file_read(m->path, MODULE_MAX, &wasm);
        if (e) {
            enum err p = buf_printf(why, "%s: %s", m->path,
                                    e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
            return p ? p : e;
        }
        cache_key(wasm, m->engine, key);
        mem_free((void *)(uintptr_t)wasm.p, wasm.n ? wasm.n : 1);
        cache_folder(c, folder);
        snprintf(path, PATH_MAX, "%s/%s.cwasm", folder, key);
        if (anew || access(path, R_OK) != 0) {
            e = compile(m, path, why);
            if (e)
                return e;
            if (log_begin(LOG_module_compiled)) {
                log_text("module", slice_str(m->name));
                log_end();
            }
        }
    }
    char open[PATH_MAX + 80];
    if (!sys_path_trusted(path, open, sizeof(open))) {
        enum err e = buf_printf(why, "%s", open);
        return e ? e : ERR_MODULE_REFUSED;
    }
    return ERR_NONE;
}

static enum err module_try(struct gateway *gw, uint32_t i, bool anew, struct buf *why)
{
    const struct config_module *m = &gw->config.modules[i];
    char path[PATH_MAX];
    struct slice code;
    enum err e = artifact(&gw->config, m, anew, path, why);
    if (!e)
        e = sys_file_read(path, MODULE_MAX, &code);
    if (e)
        return e;
    int fd = sys_memfd_sealed(m->name, code);
    mem_free((void *)(uintptr_t)code.p, code.n ? code.n : 1);
    if (fd < 0)
        return ERR_SYS;
    struct guest_module *out = &gw->modules[i];
    memset(out, 0, sizeof(*out));
    snprintf(out->name, sizeof(out->name), "%s", m->name);
    out->memory = (uint32_t)m->limits.memory;
    out->deadline_ms = (uint32_t)m->limits.deadline;
    out->timeout_ms = (uint32_t)m->limits.timeout;
    return guest_load(&gw->guests, out, strcmp(m->engine, "pulley") == 0, fd, why);
}

static enum err modules_load(struct gateway *gw, const char *file)
{
    enum err failed = ERR_NONE;
    gw->modules = calloc(gw->config.n_modules + 1, sizeof(*gw->modules));
    for (uint32_t i = 0; gw->modules && i < gw->config.n_modules; i++) {
        const struct config_module *m = &gw->config.modules[i];
        struct buf why;
        buf_init(&why, 8192);
        enum err e = module_try(gw, i, false, &why);
        /* A cached artifact that does not fit any more is made anew, once. */
        if (e == ERR_MODULE_REFUSED && !ends_with(m->path, ".cwasm") &&
            memmem(why.p, why.len, "compiled", 8)) {
            if (log_begin(LOG_module_stale)) {
                log_text("module", slice_str(m->name));
                log_text("detail", buf_slice(&why));
                log_end();
            }
            buf_clear(&why, 8192);
            e = module_try(gw, i, true, &why);
        }
        if (e) {
            failed = e;
            fprintf(stderr, "%s:%u: module %s: %.*s\n", file, m->line, m->name, (int)why.len,
                    why.p ? (char *)why.p : "");
        } else if (log_begin(LOG_module_loaded)) {
            log_text("module", slice_str(m->name));
            log_text("engine", slice_str(m->engine));
            log_end();
        }
        buf_done(&why);
    }
    return gw->modules ? failed : ERR_NO_MEMORY;
}

static enum err load(struct gateway *gw, const char *file)
{
    struct slice yaml;
    struct buf errors;
    buf_init(&errors, 64 << 10);
    enum err e = sys_file_read(file, 1 << 20, &yaml);
    if (e) {
        fprintf(stderr, "%s:1: %s\n", file, e == ERR_LIMIT ? "larger than 1 MiB" : strerror(errno));
        return e;
    }
    e = config_parse(yaml, file, &gw->config, &errors);
    mem_free((void *)(uintptr_t)yaml.p, yaml.n ? yaml.n : 1);
    fprintf(stderr, "%.*s", (int)errors.len, errors.p ? (char *)errors.p : "");
    buf_done(&errors);
    if (e)
        return e;
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (strcmp(levels[i], gw->config.root.log_level) == 0)
            log_open(2, (enum log_level)i);
    struct guest_limits limits = {.slots = (uint32_t)gw->config.limits.guests,
                                  .queue = (uint32_t)gw->config.limits.guest_queue,
                                  .memory_max = 65536,
                                  .slice_ms = 1,
                                  .iteration_ms = 2};
    for (uint32_t i = 0; i < gw->config.n_modules; i++)
        limits.memory_max = MAX(limits.memory_max, (uint32_t)gw->config.modules[i].limits.memory);
    e = guests_init(&gw->guests, &limits, &gateway_ops, NULL);
    return e ? e : modules_load(gw, file);
}

/* The loop's last phase: SIGTERM drains, then stops. */
static bool phase_stop(void *arg)
{
    struct gateway *gw = arg;
    if (!stopping)
        return false;
    if (!gw->draining) {
        gw->drain_until_ms = gw->loop.now_ms + gw->config.root.drain;
        gateway_drain(gw);
    }
    bool over = gw->loop.now_ms >= gw->drain_until_ms;
    if (over && metrics.connections_active && log_begin(LOG_drain_expired)) {
        log_number("connections", (int64_t)metrics.connections_active);
        log_end();
    }
    if (over || !metrics.connections_active)
        gw->loop.stop = true;
    else if (!timer_is_set(&gw->listeners[0].timer))
        wheel_set(&gw->loop.wheel, &gw->listeners[0].timer, 20);
    return false;
}

static int serve(const char *file)
{
    struct gateway *gw = &gateway;
    /* No SA_RESTART: a signal ends the wait. */
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_ONSTACK};
    if (load(gw, file))
        return 1;
    if (gateway_init(gw))
        return 1;
    loop_phase(&gw->loop, phase_stop, gw);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    if (sys_fd_limit() < gw->config.limits.connections + 32 && log_begin(LOG_descriptors_short)) {
        log_number("descriptors", sys_fd_limit());
        log_end();
    }
    gw->ready = true;
    malloc_trim(0);
    if (log_begin(LOG_worker_ready)) {
        log_number("pid", getpid());
        log_end();
    }
    loop_run(&gw->loop);
    gateway_done(gw);
    if (log_begin(LOG_stopped))
        log_end();
    return 0;
}

static int docs(const char *which)
{
    struct buf out;
    buf_init(&out, 1 << 20);
    enum err e = strcmp(which, "metrics") == 0 ? metrics_write_docs(&out) : config_write_docs(&out);
    fwrite(out.p, 1, out.len, stdout);
    buf_done(&out);
    return e ? 1 : 0;
}

static int usage(FILE *to, int code)
{
    fprintf(to, "usage: weir serve [FILE]    serve what FILE (weir.yaml) says\n"
                "       weir check [FILE]    say all that is wrong with it\n"
                "       weir docs config|metrics\n"
                "       weir version\n");
    return code;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    const char *file = argc > 2 ? argv[2] : "weir.yaml";
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
    if (strcmp(command, "--help") == 0 || (argc > 2 && strcmp(argv[2], "--help") == 0))
        return usage(stdout, 0);
    if (argc > 3)
        return usage(stderr, 2);
    if (strcmp(command, "serve") == 0)
        return serve(file);
    if (strcmp(command, "check") == 0)
        return load(&gateway, file) ? 1 : (printf("%s: ok\n", file), 0);
    if (strcmp(command, "docs") == 0)
        return docs(file);
    if (strcmp(command, "version") == 0) {
        printf("weir %s (wasmtime %s)\n", WEIR_VERSION, WASMTIME_VERSION);
        return 0;
    }
    return usage(stderr, 2);
}
