#include "app/commands.h"

#include <errno.h>
#include <stdlib.h>

#include "app/jwt.h"
#include "app/resume.h"
#include "app/supervisor.h"

enum err check_config_read(int fd, const char *file, struct config *out, struct buf *errors)
{
    struct slice yaml;
    memset(out, 0, sizeof(*out));
    enum err e = sys_fd_read(fd, CONFIG_MAX, &yaml);
    if (e)
        return e;
    e = config_parse(yaml, file, out, errors);
    sys_read_free(yaml);
    return e;
}

/* The files of keys; what is wrong is said. */
bool check_keys_read(const char *file, struct config *c, int *out)
{
    struct buf keys;
    bool any = false, ok = true;
    *out = -1;
    for (uint32_t i = 0; i < c->n_jwts; i++) {
        struct slice key;
        if (!*c->jwts[i].key_file)
            continue;
        enum err e = sys_file_read(c->jwts[i].key_file, CONFIG_KEY_MAX, &key);
        if (e) {
            fprintf(stderr, "%s:%u: key_file: %s: %s\n", file, c->jwts[i].line, c->jwts[i].key_file,
                    e == ERR_LIMIT ? "larger than 8 KiB" : strerror(errno));
        } else {
            size_t n = key.n && key.p[key.n - 1] == '\n' ? key.n - 1 : key.n;
            config_key_set(c, i, slice_of(key.p, n)); /* an editor's last line end is no secret */
            sys_read_free(key);
        }
        ok = ok && !e;
        any = true;
    }
    buf_init(&keys, UINT32_MAX);
    if (ok && any) {
        *out = config_keys_write(c, &keys) ? -ENOMEM : sys_memfd_sealed("keys", buf_slice(&keys));
        ok = *out >= 0;
    }
    buf_done(&keys);
    return ok;
}

/* Loads a module as a worker would, for its reasons against it. */
static bool module_check(struct supervisor *s, struct guests *g, uint32_t i)
{
    const struct config_module *m = &s->now.config.modules[i];
    struct guest_module module;
    struct buf why;
    if (s->now.changes.modules[i].now.fd < 0)
        return false; /* said already */
    buf_init(&why, 8192);
    gateway_module_init(&s->now.config, i, &module);
    bool pulley = strcmp(m->engine, "pulley") == 0;
    enum err e = guest_load(g, &module, pulley, s->now.changes.modules[i].now.fd, &why);
    e = e ? e : gateway_module_check(&s->now.config, i, &module, &why);
    if (e)
        changes_error(&s->now.changes, i, buf_slice(&why));
    guest_unload(&module);
    buf_done(&why);
    return !e;
}

static bool keys_check(const struct supervisor *s)
{
    struct buf why;
    bool ok = true;
    buf_init(&why, 1024);
    for (uint32_t i = 0; i < s->now.config.n_jwts; i++) {
        struct jwt j;
        bool fits = jwt_open(&j, &s->now.config.jwts[i], &why) == ERR_NONE;
        if (fits)
            jwt_done(&j);
        else
            fprintf(stderr, "%s:%u: %.*s\n", s->file, s->now.config.jwts[i].line, (int)why.len,
                    (const char *)why.p);
        buf_clear(&why, 1024);
        ok = ok && fits;
    }
    buf_done(&why);
    return ok;
}

static int check(const char *file, int yaml)
{
    static struct supervisor supervisor;
    struct supervisor *s = &supervisor;
    struct guests guests;
    struct guest_limits limits = {.slots = 1, .slots_module = 1, .memory_max = 65536};
    const uint64_t now_ns = 0;
    if (!supervisor_open(s, file, yaml))
        return EXIT_FAILURE;
    sys_inherit(yaml, false); /* it is nothing for the compiler */
    bool ok = supervisor_user(s, false);
    ok = changes_open(&s->now.changes, &s->now.config, file, &s->loop) && ok;
    ok = keys_check(s) && ok;
    ok = certificates_open(&s->now.certificates, &s->now.config, file, &s->loop) && ok;
    ok = certificates_check(&s->now.certificates) && ok;
    for (uint32_t i = 0; i < s->now.config.n_modules; i++)
        gateway_limits_raise(&limits, &s->now.config.modules[i].limits);
    guests_init(&guests, &limits, &event_ops, &now_ns);
    for (uint32_t i = 0; s->now.changes.modules && i < s->now.config.n_modules; i++)
        ok = module_check(s, &guests, i) && ok;
    guests_done(&guests);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int check_run(const char *file)
{
    return check(file, -1);
}

int check_probe(char **args)
{
    struct config config;
    struct buf errors;
    if (atoi(args[1]) != RESUME_FORMAT) {
        fprintf(stderr, "this version can't go on with what that one has: restart weir instead\n");
        return EXIT_FAILURE;
    }
    int next = atoi(args[2]), now = atoi(args[3]);
    buf_init(&errors, 64 << 10);
    enum err e = check_config_read(now, "the configuration in force", &config, &errors);
    if (e)
        fwrite(errors.len ? (const char *)errors.p : "", 1, errors.len, stderr);
    int status = e ? EXIT_FAILURE : check(args[0], next);
    return status == EXIT_SUCCESS ? PROBE_PASSED : EXIT_FAILURE;
}
