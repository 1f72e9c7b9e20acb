#include "app/supervisor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/certificates.h"
#include "app/changes.h"
#include "app/gateway.h"
#include "app/jwt.h"
#include "base/log.h"
#include "loop/loop.h"
#include "sys/sys_cage.h"

enum { CONFIG_MAX = 1 << 20, LOG_CARRY = 16 << 10 };
/* Back-off after a worker's death: none after the first, then doubled, forgotten after a while. */
enum { BACKOFF_FIRST_MS = 100, BACKOFF_MAX_MS = 5000, BACKOFF_FORGET_MS = 10000 };
enum { START_MAX_MS = 30000 };                    /* for a worker to be ready */
enum { KILL_AFTER_MS = 2000, LOG_RETRY_MS = 20 }; /* after the drain time; when stderr is full */

struct supervisor {
    const char *file;
    struct config config;
    struct loop loop;
    int yaml, keys;                             /* sealed memfds; keys: -1 where there are none */
    int listeners[LISTENERS_MAX * THREADS_MAX]; /* a loop each; the last one is the admin's */
    unsigned n_listeners;
    struct changes changes;
    struct certificates certificates;
    int signals, log[2];
    struct timer restart, kill, log_retry;
    pid_t worker; /* 0: none */
    int control;  /* -1: none */
    uint64_t started_ms;
    uint32_t restarts, backoff_ms;
    bool served, ready, stopping; /* a worker did once; this one does */
    int status;
    char carry[LOG_CARRY]; /* the worker's output up to a line's end */
    size_t carried;
};

static struct supervisor supervisor;

/* ---- configuration ---- */

enum err supervisor_configure(const char *file, struct config *out, struct slice *yaml)
{
    struct buf errors;
    buf_init(&errors, 64 << 10);
    enum err e = sys_file_read(file, CONFIG_MAX, yaml);
    if (e) {
        fprintf(stderr, "%s:1: %s\n", file, e == ERR_LIMIT ? "larger than 1 MiB" : strerror(errno));
        return e;
    }
    e = config_parse(*yaml, file, out, &errors);
    if (errors.len)
        fwrite(errors.p, 1, errors.len, stderr);
    buf_done(&errors);
    return e;
}

/* Whom the children run as. serve: it must be possible, too. */
static bool user_find(struct supervisor *s, bool serve)
{
    char why[256];
    const struct config_root *r = &s->config.root;
    bool ok = sys_user_find(r->user, r->group, &s->config.run_as, why, sizeof(why));
    if (ok && serve && s->config.run_as.other && !sys_user_root()) {
        snprintf(why, sizeof(why),
                 "user: only root can become another user: start weir as root, or as %s itself",
                 r->user);
        ok = false;
    }
    if (!ok)
        fprintf(stderr, "%s:1: %s\n", s->file, why);
    return ok;
}

static bool listener_open(struct supervisor *s, const char *address, uint64_t loops)
{
    char host[64];
    uint16_t port;
    int fd = -EMFILE;
    if (!config_address(address, host, &port))
        fd = -EINVAL;
    else
        fd = sys_listen(host, port);
    for (uint64_t i = 0; fd >= 0 && i < loops; i++) {
        s->listeners[s->n_listeners++] = fd;
        fd = i + 1 < loops ? sys_listen_more(fd) : fd;
    }
    if (fd < 0)
        fprintf(stderr, "%s:1: can't listen on %s: %s\n", s->file, address, strerror(-fd));
    return fd >= 0;
}

static bool listeners_open(struct supervisor *s)
{
    bool ok = true;
    for (uint32_t i = 0; i < s->config.n_listen; i++)
        ok = listener_open(s, s->config.listen[i], s->config.root.workers) && ok;
    return listener_open(s, s->config.admin.address, 1) && ok;
}

/* ---- the worker's output ---- */

/* A line of the worker's: passed on if it is one of its JSON lines, else wrapped in one. */
static bool line_forward(struct slice line)
{
    if (line.n > 1 && line.p[0] == '{')
        return sys_log_write(line);
    if (log_begin(LOG_worker_output)) {
        log_text("text", slice_of(line.p, line.n - 1));
        log_end();
    }
    return true;
}

/* false: standard error is full, and what is left waits. */
static bool carry_flush(struct supervisor *s)
{
    size_t at = 0;
    bool taken = true;
    while (taken && at < s->carried) {
        char *end = memchr(s->carry + at, '\n', s->carried - at);
        if (!end && s->carried - at < sizeof(s->carry))
            break;
        size_t n = end ? (size_t)(end - s->carry) + 1 - at : s->carried - at;
        taken = line_forward(slice_of(s->carry + at, n));
        at += taken ? n : 0;
    }
    s->carried -= at;
    memmove(s->carry, s->carry + at, s->carried);
    return taken;
}

static void log_carry(struct supervisor *s)
{
    ssize_t n;
    bool taken = carry_flush(s);
    while (taken &&
           (n = sys_read(s->log[0], s->carry + s->carried, sizeof(s->carry) - s->carried)) > 0) {
        s->carried += (size_t)n;
        taken = carry_flush(s);
    }
    /* The pipe fills meanwhile, and the worker drops and counts: it is never held up. */
    sys_poller_change(s->loop.poller, s->log[0], taken ? SYS_IN : 0, loop_data(LOOP_LOG, 0, 0));
    if (!taken)
        wheel_set(&s->loop.wheel, &s->log_retry, LOG_RETRY_MS);
}

static void on_log(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)slot, (void)generation, (void)ready;
    log_carry(arg);
}

static void on_log_retry(void *arg, struct timer *t)
{
    (void)t;
    log_carry(arg);
}

/* ---- the worker's life ---- */

static void control_end(struct supervisor *s)
{
    if (s->control < 0)
        return;
    sys_poller_remove(s->loop.poller, s->control);
    sys_close(s->control);
    s->control = -1;
}

/* Sends module i, or what comes after the last. */
static void module_send(struct supervisor *s, uint32_t i)
{
    i = changes_next(&s->changes, i);
    if (i < s->config.n_modules)
        changes_send(&s->changes, s->control, i);
    else
        control_send(s->control, CONTROL_SERVE, 0, "", -1);
}

static void worker_start(struct supervisor *s)
{
    int pair[2];
    const char *argv[] = {"weir", "worker", NULL};
    char self[SYS_PATH_MAX];
    sys_self_path(self, sizeof(self));
    s->started_ms = s->loop.now_ms;
    wheel_set(&s->loop.wheel, &s->restart, BACKOFF_MAX_MS); /* unless one is started */
    if (sys_control_pair(pair) < 0)
        return;
    pid_t pid = sys_spawn(self, argv, s->log[1], pair[1]);
    sys_close(pair[1]);
    if (pid < 0) {
        sys_close(pair[0]);
        return;
    }
    wheel_cancel(&s->loop.wheel, &s->restart);
    wheel_set(&s->loop.wheel, &s->kill, START_MAX_MS);
    s->worker = pid;
    s->control = pair[0];
    sys_poller_add(s->loop.poller, s->control, SYS_IN, loop_data(LOOP_CONTROL, 0, 0));
    if (log_begin(LOG_worker_start)) {
        log_number("pid", pid);
        log_number("restarts", s->restarts);
        log_end();
    }
    char words[64];
    const struct sys_user *u = &s->config.run_as;
    snprintf(words, sizeof(words), "%" PRIu64 " %d %u %u", sys_memory_pss(), u->other, u->uid,
             u->gid);
    control_send(s->control, CONTROL_START, s->restarts, words, s->yaml);
    for (unsigned i = 0; i < s->n_listeners; i++)
        control_send(s->control, CONTROL_LISTENER, i + 1 == s->n_listeners, "", s->listeners[i]);
    if (s->keys >= 0)
        control_send(s->control, CONTROL_KEYS, 0, "", s->keys);
    certificates_worker(&s->certificates, s->control);
    module_send(s, 0);
}

/* A cached module that does not fit any more is made anew, once; others end the start, and where
 * they were added they are left out of the next one. */
static void module_refused(struct supervisor *s, uint32_t i, struct slice text)
{
    const struct config_module *m = &s->config.modules[i];
    struct buf why;
    buf_init(&why, 8192);
    bool again = changes_anew(&s->changes, i, &why);
    if (again && log_begin(LOG_module_stale)) {
        log_text("module", slice_str(m->name));
        log_text("detail", text);
        log_end();
    }
    text = why.len ? buf_slice(&why) : text;
    if (again) {
        module_send(s, i);
    } else {
        if (log_begin(LOG_module_refused)) {
            log_text("module", slice_str(m->name));
            log_text("file", slice_str(s->file));
            log_number("line", m->line);
            log_text("detail", text);
            log_end();
        }
        changes_drop(&s->changes, i);
        sys_kill(s->worker, true);
    }
    buf_done(&why);
}

static void on_control(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)slot, (void)generation, (void)ready;
    struct supervisor *s = arg;
    struct control m;
    int fd;
    if (!control_recv(s->control, &m, &fd)) {
        control_end(s); /* its end is reported as a signal */
        return;
    }
    sys_close(fd);
    if (m.kind == CONTROL_RELOAD)
        certificates_reload(&s->certificates);
    if (m.kind == CONTROL_TLS_LOADED || m.kind == CONTROL_TLS_REFUSED) {
        if (!certificates_message(&s->certificates, &m))
            sys_kill(s->worker, true);
    } else if (s->ready)
        changes_message(&s->changes, &m);
    else if (m.kind == CONTROL_LOADED && m.number < s->config.n_modules &&
             (m.n || !changes_send_canary(&s->changes, s->control, m.number)))
        module_send(s, m.number + 1);
    else if (m.kind == CONTROL_REFUSED && m.number < s->config.n_modules)
        module_refused(s, m.number, slice_str(m.text));
    else if (m.kind == CONTROL_READY) {
        s->served = s->ready = true;
        if (!s->stopping) {
            wheel_cancel(&s->loop.wheel, &s->kill);
            changes_worker(&s->changes, s->control);
            certificates_serve(&s->certificates);
            sys_code_trim();
        }
    }
}

static void stop(struct supervisor *s, int status)
{
    s->status = status;
    s->loop.stop = true;
}

static void worker_ended(struct supervisor *s, const struct sys_exit *end)
{
    control_end(s);
    log_carry(s);
    s->ready = false;
    changes_worker(&s->changes, -1);
    certificates_worker(&s->certificates, -1);
    wheel_cancel(&s->loop.wheel, &s->kill);
    s->worker = 0;
    bool expected = s->stopping && !end->code && !end->signal;
    if (!expected && log_begin(LOG_worker_exit)) {
        log_number("status", end->code);
        log_number("signal", end->signal);
        log_end();
    }
    if (s->stopping || !s->served) {
        stop(s, expected ? EXIT_SUCCESS : EXIT_FAILURE);
        return;
    }
    if (s->loop.now_ms - s->started_ms >= BACKOFF_FORGET_MS)
        s->backoff_ms = 0;
    wheel_set(&s->loop.wheel, &s->restart, s->backoff_ms);
    s->backoff_ms = s->backoff_ms ? MIN(s->backoff_ms * 2, (uint32_t)BACKOFF_MAX_MS)
                                  : BACKOFF_FIRST_MS;
    s->restarts++;
}

/* Once: let it drain. Again: end it. */
static void stop_asked(struct supervisor *s)
{
    if (!s->worker) {
        stop(s, EXIT_SUCCESS);
    } else if (s->stopping) {
        sys_kill(s->worker, true);
    } else {
        s->stopping = true;
        changes_stop(&s->changes);
        /* The worker closes its own: with these gone, who comes now is refused by the system. */
        for (unsigned i = 0; i < s->n_listeners; i++)
            sys_close(s->listeners[i]);
        s->n_listeners = 0;
        control_send(s->control, CONTROL_DRAIN, 0, "", -1);
        wheel_set(&s->loop.wheel, &s->kill, s->config.root.drain + KILL_AFTER_MS);
    }
}

static void on_signal(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)slot, (void)generation, (void)ready;
    struct supervisor *s = arg;
    struct sys_exit end;
    enum sys_signal sig = sys_signal_next(s->signals);
    if (sig == SYS_SIGNAL_STOP)
        stop_asked(s);
    else if (sig == SYS_SIGNAL_RELOAD) {
        changes_reload(&s->changes);
        certificates_reload(&s->certificates);
    }
    if (sig != SYS_SIGNAL_CHILD)
        return;
    /* One signal may stand for several children. */
    changes_child(&s->changes);
    if (s->worker && sys_wait(s->worker, &end))
        worker_ended(s, &end);
}

static void on_compile(void *arg, struct timer *t)
{
    struct supervisor *s = arg;
    (void)t;
    changes_timer(&s->changes);
}

static void on_tickets(void *arg, struct timer *t)
{
    struct supervisor *s = arg;
    (void)t;
    certificates_rotate(&s->certificates);
}

static void on_restart(void *arg, struct timer *t)
{
    struct supervisor *s = arg;
    if (t == &s->restart)
        worker_start(s);
    else if (s->worker)
        sys_kill(s->worker, true); /* it did not drain, or get ready, in time */
}

/* ---- start ---- */

/* The files of keys; what is wrong is said. */
static bool keys_read(struct supervisor *s)
{
    struct config *c = &s->config;
    struct buf keys;
    bool any = false, ok = true;
    s->keys = -1;
    for (uint32_t i = 0; i < c->n_jwts; i++) {
        struct slice key;
        if (!*c->jwts[i].key_file)
            continue;
        enum err e = sys_file_read(c->jwts[i].key_file, CONFIG_KEY_MAX, &key);
        if (e) {
            fprintf(stderr, "%s:%u: key_file: %s: %s\n", s->file, c->jwts[i].line,
                    c->jwts[i].key_file, e == ERR_LIMIT ? "larger than 8 KiB" : strerror(errno));
        } else {
            size_t n = key.n && key.p[key.n - 1] == '\n' ? key.n - 1 : key.n;
            config_key_set(c, i, slice_of(key.p, n)); /* an editor's last line end is no secret */
            mem_free((void *)(uintptr_t)key.p, key.n ? key.n : 1);
        }
        ok = ok && !e;
        any = true;
    }
    buf_init(&keys, UINT32_MAX);
    if (ok && any) {
        s->keys = config_keys_write(c, &keys) ? -ENOMEM
                                              : sys_memfd_sealed("keys", buf_slice(&keys));
        ok = s->keys >= 0;
    }
    buf_done(&keys);
    return ok;
}

static bool configure(struct supervisor *s, const char *file)
{
    struct log_output output = {sys_log_write, sys_wall_ms};
    struct slice yaml;
    enum log_level least = LOG_INFO;
    s->file = file;
    s->control = -1;
    if (supervisor_configure(file, &s->config, &yaml))
        return false;
    if (!log_level_parse(s->config.root.log_level, &least))
        least = LOG_INFO;
    log_open(&output, least);
    s->yaml = sys_memfd_sealed("weir.yaml", yaml);
    mem_free((void *)(uintptr_t)yaml.p, yaml.n ? yaml.n : 1);
    if (s->yaml < 0)
        fprintf(stderr, "%s:1: memfd: %s\n", file, strerror(-s->yaml));
    return s->yaml >= 0 && keys_read(s);
}

/* Loads a module as a worker would, for its reasons against it. */
static bool module_check(struct supervisor *s, struct guests *g, uint32_t i)
{
    const struct config_module *m = &s->config.modules[i];
    struct guest_module module;
    struct buf why;
    if (s->changes.modules[i].now.fd < 0)
        return false; /* said already */
    buf_init(&why, 8192);
    gateway_module_init(&s->config, i, &module);
    bool pulley = strcmp(m->engine, "pulley") == 0;
    enum err e = guest_load(g, &module, pulley, s->changes.modules[i].now.fd, &why);
    e = e ? e : gateway_module_check(&s->config, i, &module, &why);
    if (e)
        changes_error(&s->changes, i, buf_slice(&why));
    guest_unload(&module);
    buf_done(&why);
    return !e;
}

static bool keys_check(const struct supervisor *s)
{
    struct buf why;
    bool ok = true;
    buf_init(&why, 1024);
    for (uint32_t i = 0; i < s->config.n_jwts; i++) {
        struct jwt j;
        bool fits = jwt_open(&j, &s->config.jwts[i], &why) == ERR_NONE;
        if (fits)
            jwt_done(&j);
        else
            fprintf(stderr, "%s:%u: %.*s\n", s->file, s->config.jwts[i].line, (int)why.len,
                    (const char *)why.p);
        buf_clear(&why, 1024);
        ok = ok && fits;
    }
    buf_done(&why);
    return ok;
}

int supervisor_check(const char *file)
{
    struct supervisor *s = &supervisor;
    struct guests guests;
    struct guest_limits limits = {.slots = 1, .slots_module = 1, .memory_max = 65536};
    const uint64_t now_ns = 0;
    if (!configure(s, file))
        return EXIT_FAILURE;
    bool ok = user_find(s, false);
    ok = changes_open(&s->changes, &s->config, file, &s->loop) && ok;
    ok = keys_check(s) && ok;
    ok = certificates_open(&s->certificates, &s->config, file, &s->loop) && ok;
    ok = certificates_check(&s->certificates) && ok;
    for (uint32_t i = 0; i < s->config.n_modules; i++)
        gateway_limits_raise(&limits, &s->config.modules[i].limits);
    guests_init(&guests, &limits, &event_ops, &now_ns);
    for (uint32_t i = 0; s->changes.modules && i < s->config.n_modules; i++)
        ok = module_check(s, &guests, i) && ok;
    guests_done(&guests);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* What was to be opened by root is open. */
static void root_less(const struct supervisor *s)
{
    if (!sys_user_root())
        return;
    if (!*s->config.root.user && log_begin(LOG_running_as_root)) {
        log_text("mend", SLICE("make a user (useradd --system weir) and name it by user:"));
        log_end();
    }
    if (sys_cage_privileges(SYS_CAGE_SUPERVISOR) && log_begin(LOG_sandbox_missing)) {
        log_text("process", SLICE("supervisor"));
        log_text("layer", SLICE("capabilities"));
        log_end();
    }
}

int supervisor_serve(const char *file)
{
    struct supervisor *s = &supervisor;
    tls_library_unused();
    if (!configure(s, file) || !user_find(s, true) ||
        !changes_open(&s->changes, &s->config, file, &s->loop) ||
        !certificates_open(&s->certificates, &s->config, file, &s->loop) || !listeners_open(s))
        return EXIT_FAILURE;
    s->signals = sys_signals_open();
    if (s->signals < 0 || sys_pipe(s->log) < 0 || loop_init(&s->loop))
        return EXIT_FAILURE;
    loop_on(&s->loop, LOOP_CONTROL, on_control, NULL, s);
    loop_on(&s->loop, LOOP_SIGNAL, on_signal, NULL, s);
    loop_on(&s->loop, LOOP_LOG, on_log, on_log_retry, s);
    loop_on(&s->loop, LOOP_COMPILE, NULL, on_compile, s);
    loop_on(&s->loop, LOOP_TICKETS, NULL, on_tickets, s);
    loop_on(&s->loop, LOOP_RESTART, NULL, on_restart, s);
    s->restart.kind = s->kill.kind = LOOP_RESTART;
    s->log_retry.kind = LOOP_LOG;
    sys_poller_add(s->loop.poller, s->signals, SYS_IN, loop_data(LOOP_SIGNAL, 0, 0));
    sys_poller_add(s->loop.poller, s->log[0], SYS_IN, loop_data(LOOP_LOG, 0, 0));
    root_less(s);
    worker_start(s);
    loop_run(&s->loop);
    return s->status;
}
