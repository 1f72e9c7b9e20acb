#include "app/supervisor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/certificates.h"
#include "app/changes.h"
#include "app/commands.h"
#include "app/gateway.h"
#include "app/resume.h"
#include "base/log.h"
#include "loop/loop.h"
#include "sys/sys_cage.h"

/* Back-off after a worker's death: none after the first, then doubled, forgotten after a while. */
enum { BACKOFF_FIRST_MS = 100, BACKOFF_MAX_MS = 5000, BACKOFF_FORGET_MS = 10000 };
enum { LOG_RETRY_MS = 20 }; /* when stderr is full */

static struct supervisor supervisor;

/* ---- configuration ---- */

static enum err parse(const char *file, int fd, struct config *out, struct slice *yaml)
{
    struct buf errors;
    buf_init(&errors, 64 << 10);
    enum err e = fd < 0 ? sys_file_read(file, CONFIG_MAX, yaml) : sys_fd_read(fd, CONFIG_MAX, yaml);
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
bool supervisor_user_find(struct config *c, bool serve, char why[USER_WHY_MAX])
{
    const struct config_root *r = &c->root;
    if (!sys_user_find(r->user, r->group, &c->run_as, why, USER_WHY_MAX))
        return false;
    if (!serve || !c->run_as.other || sys_user_root())
        return true;
    snprintf(why, USER_WHY_MAX,
             "user: only root can become another user: start weir as root, or as %s itself",
             r->user);
    return false;
}

bool supervisor_user(struct supervisor *s, bool serve)
{
    char why[USER_WHY_MAX];
    bool ok = supervisor_user_find(&s->now.config, serve, why);
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
        s->now.listeners[s->now.n_listeners++] = fd;
        fd = i + 1 < loops ? sys_listen_more(fd) : fd;
    }
    if (fd < 0)
        fprintf(stderr, "%s:1: can't listen on %s: %s\n", s->file, address, strerror(-fd));
    return fd >= 0;
}

static bool listeners_open(struct supervisor *s)
{
    bool ok = true;
    for (uint32_t i = 0; i < s->now.config.n_listen; i++)
        ok = listener_open(s, s->now.config.listen[i], s->now.config.root.workers) && ok;
    return listener_open(s, s->now.config.admin.address, 1) && ok;
}

/* ---- the worker's output ---- */

/* A line of the worker's: passed on if it is one of its JSON lines, else wrapped in one. */
bool supervisor_line(struct slice line)
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
        taken = supervisor_line(slice_of(s->carry + at, n));
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

/* ---- the worker's life ---- */

static void control_end(struct supervisor *s)
{
    if (s->control < 0)
        return;
    sys_poller_remove(s->loop.poller, s->control);
    sys_close(s->control);
    s->control = -1;
}

pid_t supervisor_worker_new(struct supervisor *s, int *control, uint32_t slot)
{
    int pair[2];
    const char *argv[] = {"weir", "worker", NULL};
    if (sys_control_pair(pair) < 0)
        return -1;
    pid_t pid = sys_spawn("/proc/self/exe", argv, s->log[1], pair[1]);
    sys_close(pair[1]);
    if (pid < 0) {
        sys_close(pair[0]);
        return pid;
    }
    *control = pair[0];
    sys_poller_add(s->loop.poller, *control, SYS_IN, loop_data(LOOP_CONTROL, slot, 0));
    if (log_begin(LOG_worker_start)) {
        log_number("pid", pid);
        log_number("restarts", s->restarts);
        log_end();
    }
    return pid;
}

void supervisor_worker_begin(struct service *v, int control, uint32_t restarts)
{
    char words[64];
    const struct sys_user *u = &v->config.run_as;
    snprintf(words, sizeof(words), "%" PRIu64 " %d %u %u", sys_memory_pss(), u->other, u->uid,
             u->gid);
    control_send(control, CONTROL_START, restarts, words, v->yaml);
    for (unsigned i = 0; i < v->n_listeners; i++)
        control_send(control, CONTROL_LISTENER, i + 1 == v->n_listeners, "", v->listeners[i]);
    if (v->keys >= 0)
        control_send(control, CONTROL_KEYS, 0, "", v->keys);
    certificates_worker(&v->certificates, control);
}

static void worker_start(struct supervisor *s)
{
    s->started_ms = s->loop.now_ms;
    wheel_set(&s->loop.wheel, &s->restart, BACKOFF_MAX_MS); /* unless one is started */
    pid_t pid = supervisor_worker_new(s, &s->control, 0);
    if (pid < 0)
        return;
    wheel_cancel(&s->loop.wheel, &s->restart);
    wheel_set(&s->loop.wheel, &s->kill, START_MAX_MS);
    s->worker = pid;
    supervisor_worker_begin(&s->now, s->control, s->restarts);
    changes_send(&s->now.changes, s->control, 0, CONTROL_SERVE);
}

/* A cached module that does not fit any more is made anew, once; others end the start, and where
 * they were added they are left out of the next one. */
static void module_refused(struct supervisor *s, uint32_t i, struct slice text)
{
    const struct config_module *m = &s->now.config.modules[i];
    struct buf why;
    buf_init(&why, 8192);
    bool again = changes_anew(&s->now.changes, i, &why);
    if (again && log_begin(LOG_module_stale)) {
        log_text("module", slice_str(m->name));
        log_text("detail", text);
        log_end();
    }
    text = why.len ? buf_slice(&why) : text;
    if (again) {
        changes_send(&s->now.changes, s->control, i, CONTROL_SERVE);
    } else {
        if (log_begin(LOG_module_refused)) {
            log_text("module", slice_str(m->name));
            log_text("file", slice_str(s->file));
            log_number("line", m->line);
            log_text("detail", text);
            log_end();
        }
        changes_drop(&s->now.changes, i);
        sys_kill(s->worker, true);
    }
    buf_done(&why);
}

static void on_control(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)generation, (void)ready;
    struct supervisor *s = arg;
    struct control m;
    int fd;
    if (slot) {
        succession_message(s);
        return;
    }
    /* What woke us may have been said of the worker before, whose place this one just took. */
    if (!sys_readable(s->control))
        return;
    if (!control_recv(s->control, &m, &fd)) {
        control_end(s); /* its end is reported as a signal */
        return;
    }
    sys_close(fd);
    if (m.kind == CONTROL_RELOAD)
        certificates_reload(&s->now.certificates);
    if (m.kind == CONTROL_TLS_LOADED || m.kind == CONTROL_TLS_REFUSED) {
        if (!certificates_message(&s->now.certificates, &m))
            sys_kill(s->worker, true);
    } else if (s->ready && m.kind == CONTROL_KEPT)
        succession_kept(s);
    else if (s->ready)
        changes_message(&s->now.changes, &m);
    else if (m.kind == CONTROL_LOADED && m.number < s->now.config.n_modules)
        changes_loaded(&s->now.changes, s->control, &m, CONTROL_SERVE);
    else if (m.kind == CONTROL_REFUSED && m.number < s->now.config.n_modules)
        module_refused(s, m.number, slice_str(m.text));
    else if (m.kind == CONTROL_READY) {
        s->served = s->ready = true;
        if (!s->stopping) {
            sys_notify("READY=1");
            wheel_cancel(&s->loop.wheel, &s->kill);
            changes_worker(&s->now.changes, s->control);
            certificates_serve(&s->now.certificates);
            sys_code_trim();
        }
    }
}

static void stop(struct supervisor *s, int status)
{
    s->status = status;
    s->loop.stop = true;
}

void supervisor_ended(struct supervisor *s)
{
    if (s->stopping && !s->worker && !succession_leaving(s))
        s->loop.stop = true;
}

static void worker_ended(struct supervisor *s, const struct sys_exit *end)
{
    control_end(s);
    log_carry(s);
    s->ready = false;
    changes_worker(&s->now.changes, -1);
    certificates_worker(&s->now.certificates, -1);
    wheel_cancel(&s->loop.wheel, &s->kill);
    s->worker = 0;
    bool expected = s->stopping && !end->code && !end->signal;
    if (!expected && log_begin(LOG_worker_exit)) {
        log_number("status", end->code);
        log_number("signal", end->signal);
        log_end();
    }
    if (s->stopping) {
        s->status = expected ? EXIT_SUCCESS : EXIT_FAILURE;
        supervisor_ended(s);
        return;
    }
    if (!s->served) {
        stop(s, EXIT_FAILURE);
        return;
    }
    if (succession_orphaned(s))
        return;
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
    succession_stop(s);
    if (!s->worker && !succession_leaving(s)) {
        stop(s, EXIT_SUCCESS);
    } else if (s->stopping) {
        if (s->worker)
            sys_kill(s->worker, true);
        succession_kill(s);
    } else {
        s->stopping = true;
        sys_notify("STOPPING=1");
        wheel_cancel(&s->loop.wheel, &s->restart);
        changes_stop(&s->now.changes);
        /* The worker closes its own: with these gone, who comes now is refused by the system. */
        for (unsigned i = 0; i < s->now.n_listeners; i++)
            sys_close(s->now.listeners[i]);
        s->now.n_listeners = 0;
        if (s->worker)
            control_send(s->control, CONTROL_DRAIN, 0, "", -1);
        wheel_set(&s->loop.wheel, &s->kill, s->now.config.root.drain + KILL_AFTER_MS);
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
        changes_reload(&s->now.changes);
        certificates_reload(&s->now.certificates);
    } else if (sig == SYS_SIGNAL_UPGRADE)
        changes_upgrade(&s->now.changes);
    if (sig != SYS_SIGNAL_CHILD)
        return;
    /* One signal may stand for several children. */
    changes_child(&s->now.changes);
    succession_child(s);
    if (s->worker && sys_wait(s->worker, &end))
        worker_ended(s, &end);
}

/* Tells the service manager that this loop turns, thrice as often as it wants to hear it. */
static void watchdog(struct supervisor *s)
{
    uint32_t ms = sys_notify_watchdog_ms();
    if (!ms)
        return;
    sys_notify("WATCHDOG=1"); /* one that is not taken is made good by the next */
    wheel_set(&s->loop.wheel, &s->watchdog, MAX(ms / 3, 1u));
}

static void on_timer(void *arg, struct timer *t)
{
    struct supervisor *s = arg;
    if (t->kind == LOOP_LOG)
        log_carry(s);
    else if (t->kind == LOOP_COMPILE)
        changes_timer(&s->now.changes);
    else if (t->kind == LOOP_TICKETS)
        certificates_rotate(&s->now.certificates);
    else if (t->kind == LOOP_HANDOVER)
        succession_timer(s, t);
    else if (t == &s->watchdog)
        watchdog(s);
    else if (t == &s->restart)
        worker_start(s);
    else if (s->worker)
        sys_kill(s->worker, true); /* it did not drain, or get ready, in time */
}

/* ---- start ---- */

void supervisor_log_level(const struct config *c)
{
    struct log_output output = {sys_log_write, sys_wall_ms};
    enum log_level least = LOG_INFO;
    if (!log_level_parse(c->root.log_level, &least))
        least = LOG_INFO;
    log_open(&output, least);
}

bool supervisor_open(struct supervisor *s, const char *file, int fd)
{
    struct slice yaml;
    s->file = file;
    s->control = -1;
    if (parse(file, fd, &s->now.config, &yaml))
        return false;
    supervisor_log_level(&s->now.config);
    s->now.yaml = sys_memfd_sealed("weir.yaml", yaml);
    sys_read_free(yaml);
    if (s->now.yaml < 0)
        fprintf(stderr, "%s:1: memfd: %s\n", file, strerror(-s->now.yaml));
    return s->now.yaml >= 0 && check_keys_read(file, &s->now.config, &s->now.keys);
}

static bool open_all(struct supervisor *s, const char *file)
{
    return supervisor_open(s, file, -1) && supervisor_user(s, true) &&
           changes_open(&s->now.changes, &s->now.config, file, &s->loop) &&
           certificates_open(&s->now.certificates, &s->now.config, file, &s->loop) &&
           listeners_open(s) && sys_pipe(s->log) >= 0;
}

/* What was to be opened by root is open. */
static void root_less(const struct supervisor *s)
{
    if (!sys_user_root())
        return;
    if (!*s->now.config.root.user && log_begin(LOG_running_as_root)) {
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
    int resumed = resume_asked();
    sys_signals_hold();
    tls_library_unused();
    s->file = file;
    sys_self_path(s->program, sizeof(s->program));
    if (!(resumed < 0 ? open_all(s, file) : resume_read(s, resumed)))
        return EXIT_FAILURE;
    s->signals = sys_signals_open();
    if (s->signals < 0 || loop_init(&s->loop))
        return EXIT_FAILURE;
    loop_on(&s->loop, LOOP_CONTROL, on_control, NULL, s);
    loop_on(&s->loop, LOOP_SIGNAL, on_signal, NULL, s);
    loop_on(&s->loop, LOOP_LOG, on_log, on_timer, s);
    loop_on(&s->loop, LOOP_COMPILE, NULL, on_timer, s);
    loop_on(&s->loop, LOOP_TICKETS, NULL, on_timer, s);
    loop_on(&s->loop, LOOP_RESTART, NULL, on_timer, s);
    loop_on(&s->loop, LOOP_HANDOVER, NULL, on_timer, s);
    succession_init(s);
    s->restart.kind = s->kill.kind = s->watchdog.kind = LOOP_RESTART;
    s->log_retry.kind = LOOP_LOG;
    sys_poller_add(s->loop.poller, s->signals, SYS_IN, loop_data(LOOP_SIGNAL, 0, 0));
    sys_poller_add(s->loop.poller, s->log[0], SYS_IN, loop_data(LOOP_LOG, 0, 0));
    root_less(s);
    if (resumed < 0) {
        worker_start(s);
    } else {
        s->ready = s->served = true;
        supervisor_log_level(&s->now.config);
        sys_poller_add(s->loop.poller, s->control, SYS_IN, loop_data(LOOP_CONTROL, 0, 0));
        succession_resume(s);
    }
    watchdog(s);
    loop_run(&s->loop);
    return s->status;
}
