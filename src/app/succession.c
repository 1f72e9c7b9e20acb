#include "app/succession.h"

#include <errno.h>
#include <stdio.h>

#include "app/commands.h"
#include "app/resume.h"
#include "app/supervisor.h"
#include "base/log.h"

enum { CHECK_MAX_MS = 120000, WHY_MAX = 8192, KILLED_MS = 1000 };
/* For the old worker to let events end, and for each word of the two: a silent one is given up long
 * before the whole is. */
enum { TRANSFER_MAX_MS = 10000, TRANSFER_WAIT_MS = 3000 };

static const char *const kinds[2] = {"reload", "upgrade"};

static const char *kind_name(const struct succession *q)
{
    return kinds[q->kind == CONTROL_UPGRADE];
}

void succession_init(struct supervisor *s)
{
    struct succession *q = &s->succession;
    q->said = q->control = q->next.keys = -1;
    if (!q->next.yaml)
        q->next.yaml = -1; /* else it came with what is resumed */
    q->timer.kind = LOOP_HANDOVER;
    for (unsigned i = 0; i < LEAVING_MAX; i++) {
        q->leaving[i].kill.kind = LOOP_HANDOVER;
        if (!q->leaving[i].pid)
            q->leaving[i].control = -1;
    }
    s->now.changes.succeed = succession_begin;
    s->now.changes.owner = s;
}

/* ---- listeners ---- */

/* Of socket i. */
static const char *address_of(const struct config *c, unsigned i)
{
    uint64_t of_listen = i / c->root.workers;
    return of_listen < c->n_listen ? c->listen[of_listen] : c->admin.address;
}

/* The n-th socket that `v` has for an address; -1: there is none. */
static int listener_of(const struct service *v, const char *address, uint64_t n)
{
    for (unsigned i = 0; i < v->n_listeners; i++)
        if (strcmp(address_of(&v->config, i), address) == 0 && n-- == 0)
            return v->listeners[i];
    return -1;
}

static bool listener_in(const struct service *v, int fd)
{
    for (unsigned i = 0; i < v->n_listeners; i++)
        if (v->listeners[i] == fd)
            return true;
    return false;
}

static void listeners_close(struct service *v, const struct service *but)
{
    for (unsigned i = 0; i < v->n_listeners; i++)
        if (!listener_in(but, v->listeners[i]))
            sys_close(v->listeners[i]);
    v->n_listeners = 0;
}

static bool listeners_open(struct supervisor *s, struct buf *why)
{
    struct service *v = &s->succession.next;
    const struct config *c = &v->config;
    unsigned n = (unsigned)(c->n_listen * c->root.workers) + 1;
    for (unsigned i = 0, of_address = 0; i < n; i++) {
        const char *address = address_of(c, i);
        char host[64];
        uint16_t port;
        of_address = i && strcmp(address, address_of(c, i - 1)) == 0 ? of_address + 1 : 0;
        int fd = listener_of(&s->now, address, of_address);
        if (fd < 0 && of_address)
            fd = sys_listen_more(v->listeners[i - 1]);
        else if (fd < 0)
            fd = config_address(address, host, &port) ? sys_listen(host, port) : -EINVAL;
        if (fd < 0)
            return buf_printf(why, "can't listen on %s: %s", address, strerror(-fd)) != ERR_NONE;
        v->listeners[v->n_listeners++] = fd;
    }
    return true;
}

/* ---- the end, one way or the other ---- */

static void service_done(struct service *v, const struct service *but)
{
    listeners_close(v, but);
    sys_close(v->yaml);
    sys_close(v->keys);
    v->yaml = v->keys = -1;
    changes_done(&v->changes);
    certificates_done(&v->certificates);
    config_done(&v->config);
}

static void fail(struct supervisor *s, struct slice why)
{
    struct succession *q = &s->succession;
    wheel_cancel(&s->loop.wheel, &q->timer);
    if (q->control >= 0) {
        sys_poller_remove(s->loop.poller, q->control);
        sys_close(q->control);
    }
    sys_close(q->said);
    if (q->pid) {
        struct sys_exit end;
        sys_kill(q->pid, true);
        if (!sys_wait_for(q->pid, KILLED_MS, &end))
            q->pid = 0;
    }
    service_done(&q->next, &s->now);
    q->pid = 0;
    q->control = q->said = -1;
    q->state = SUCCESSION_NONE;
    if (log_begin(LOG_handover_failed)) {
        log_text("kind", slice_str(kind_name(q)));
        log_text("detail", why);
        log_end();
    }
    changes_handover_failed(&s->now.changes, why);
    if (!s->worker && !s->stopping)
        wheel_set(&s->loop.wheel, &s->restart, 0);
}

static void fail_str(struct supervisor *s, const char *why)
{
    fail(s, slice_str(why));
}

static struct leaving *leaving_free(struct succession *q)
{
    for (unsigned i = 0; i < LEAVING_MAX; i++)
        if (!q->leaving[i].pid)
            return &q->leaving[i];
    return NULL;
}

/* The old worker drains on its own; its control socket stays, as an answer may be on its way. */
static void old_leaves(struct supervisor *s)
{
    struct leaving *l = leaving_free(&s->succession);
    sys_poller_remove(s->loop.poller, s->control);
    l->pid = s->worker;
    l->control = s->control;
    wheel_set(&s->loop.wheel, &l->kill, s->now.config.root.drain + KILL_AFTER_MS);
    wheel_cancel(&s->loop.wheel, &s->kill);
}

static void taken(struct supervisor *s)
{
    struct succession *q = &s->succession;
    wheel_cancel(&s->loop.wheel, &q->timer);
    changes_handover_done(&s->now.changes);
    if (s->worker)
        old_leaves(s);
    changes_carried(&q->next.changes, &s->now.changes);
    service_done(&s->now, &q->next);
    wheel_cancel(&s->loop.wheel, &q->next.certificates.rotation);
    s->now = q->next;
    certificates_moved(&s->now.certificates, &s->now.config);
    s->now.changes.config = &s->now.config;
    s->now.changes.succeed = succession_begin;
    s->now.changes.owner = s;
    q->next = (struct service){.yaml = -1, .keys = -1};
    s->worker = q->pid;
    s->control = q->control;
    sys_poller_change(s->loop.poller, s->control, SYS_IN, loop_data(LOOP_CONTROL, 0, 0));
    s->started_ms = s->loop.now_ms;
    s->ready = s->served = true;
    q->pid = 0;
    q->control = -1;
    q->state = SUCCESSION_NONE;
    supervisor_log_level(&s->now.config);
    if (log_begin(LOG_handover_done)) {
        log_text("kind", slice_str(kind_name(q)));
        log_number("pid", s->worker);
        log_end();
    }
    changes_worker(&s->now.changes, s->control);
    certificates_serve(&s->now.certificates);
}

/* ---- steps ---- */

static bool holds(int fd, struct slice want)
{
    struct slice now;
    if (sys_fd_read(fd, CONFIG_MAX, &now))
        return false;
    bool same = slice_eq(want, now);
    sys_read_free(now);
    return same;
}

/* Whether the files of keys are those in force: of the same configuration. */
static bool keys_unchanged(const struct supervisor *s, struct slice yaml)
{
    struct config c;
    struct buf keys;
    int fd = -1;
    if (s->now.keys < 0)
        return true;
    buf_init(&keys, CONFIG_MAX);
    bool same = !config_parse(yaml, s->file, &c, &keys) && check_keys_read(s->file, &c, &fd);
    buf_clear(&keys, UINT32_MAX);
    same = same && !config_keys_write(&c, &keys) && holds(s->now.keys, buf_slice(&keys));
    sys_close(fd);
    buf_done(&keys);
    config_done(&c);
    return same;
}

/* Takes the file as it is now: all that follows is about this text. Returns why it can't. */
static const char *next_read(struct supervisor *s, bool *unchanged)
{
    struct slice file;
    if (sys_file_read(s->file, CONFIG_MAX, &file))
        return "the configuration's file can't be read";
    *unchanged = holds(s->now.yaml, file) && keys_unchanged(s, file);
    s->succession.next.yaml = sys_memfd_sealed("weir.yaml", file);
    sys_read_free(file);
    return !file.n                       ? "the configuration's file is empty: replace it by "
                                           "renaming another one, at once"
           : s->succession.next.yaml < 0 ? "no memory for the configuration"
                                         : NULL;
}

/* The check compiles what is new into the cache, and loads all as a worker would: what comes after
 * it waits for nothing. A program that is upgraded to must know the configuration in force too. */
static pid_t check_spawn(struct supervisor *s, int said)
{
    struct succession *q = &s->succession;
    char format[16], next[16], now[16];
    const char *const argv[] = {"weir", "probe", s->file, format, next, now, NULL};
    snprintf(format, sizeof(format), "%d", RESUME_FORMAT);
    snprintf(next, sizeof(next), "%d", q->next.yaml);
    snprintf(now, sizeof(now), "%d", s->now.yaml);
    sys_inherit(q->next.yaml, true);
    sys_inherit(s->now.yaml, true);
    pid_t pid = sys_spawn(q->kind == CONTROL_UPGRADE ? s->program : "/proc/self/exe", argv, said,
                          -1);
    sys_inherit(q->next.yaml, false);
    sys_inherit(s->now.yaml, false);
    return pid;
}

static void check_start(struct supervisor *s)
{
    struct succession *q = &s->succession;
    int said[2];
    if (!leaving_free(q)) {
        fail_str(s, "too many workers before this one are still draining: try again later");
        return;
    }
    if (sys_pipe(said) < 0) {
        fail_str(s, strerror(errno));
        return;
    }
    pid_t pid = check_spawn(s, said[1]);
    sys_close(said[1]);
    q->said = said[0];
    if (pid < 0) {
        fail_str(s, strerror(-pid));
        return;
    }
    q->pid = pid;
    wheel_set(&s->loop.wheel, &q->timer, CHECK_MAX_MS);
}

bool succession_begin(void *supervisor, uint32_t kind)
{
    struct supervisor *s = supervisor;
    struct succession *q = &s->succession;
    bool unchanged = false;
    const char *why = next_read(s, &unchanged);
    if (kind == CONTROL_RELOAD && !why && unchanged) {
        sys_close(q->next.yaml);
        q->next.yaml = -1;
        return false;
    }
    q->kind = kind;
    q->state = SUCCESSION_CHECK;
    if (log_begin(LOG_handover_begin)) {
        log_text("kind", slice_str(kind_name(q)));
        log_end();
    }
    if (why)
        fail_str(s, why);
    else
        check_start(s);
    return true;
}

/* What the check said: its log lines are passed on, the others are the reasons. */
static void said_read(struct succession *q, struct buf *why)
{
    char text[WHY_MAX];
    ssize_t n = sys_read(q->said, text, sizeof(text));
    sys_close(q->said);
    q->said = -1;
    for (char *at = text, *end = text + MAX(n, 0); at < end;) {
        char *line = memchr(at, '\n', (size_t)(end - at));
        size_t len = line ? (size_t)(line - at) : (size_t)(end - at);
        if (at[0] == '{' && line)
            supervisor_line(slice_of(at, len + 1));
        else if (len && buf_printf(why, "%s%.*s", why->len ? "; " : "", (int)len, at))
            return;
        at += len + 1;
    }
}

static enum err service_open(struct supervisor *s, struct buf *why)
{
    struct service *v = &s->succession.next;
    enum err e = check_config_read(v->yaml, s->file, &v->config, why);
    if (e)
        return e;
    if (!check_keys_read(s->file, &v->config, &v->keys))
        return ERR_INVALID;
    char user[USER_WHY_MAX];
    if (!supervisor_user_find(&v->config, true, user)) {
        e = buf_append(why, slice_str(user));
        return e ? e : ERR_INVALID;
    }
    if (!changes_open(&v->changes, &v->config, s->file, &s->loop) ||
        !certificates_open(&v->certificates, &v->config, s->file, &s->loop) ||
        !listeners_open(s, why))
        return ERR_INVALID;
    certificates_inherit(&v->certificates, &s->now.certificates);
    changes_carry(&v->changes, &s->now.changes);
    return ERR_NONE;
}

static void worker_begin(struct supervisor *s)
{
    struct succession *q = &s->succession;
    q->pid = supervisor_worker_new(s, &q->control, 1);
    if (q->pid < 0) {
        q->pid = 0;
        fail_str(s, "no new worker could be started");
        return;
    }
    q->state = SUCCESSION_START;
    wheel_set(&s->loop.wheel, &q->timer, START_MAX_MS);
    supervisor_worker_begin(&q->next, q->control, s->restarts);
    changes_send(&q->next.changes, q->control, 0, CONTROL_SUCCEED);
}

static void next_begin(struct supervisor *s)
{
    struct buf why;
    buf_init(&why, WHY_MAX);
    enum err e = service_open(s, &why);
    if (e)
        fail(s, why.len ? buf_slice(&why) : slice_str(err_text(e)));
    else
        worker_begin(s);
    buf_done(&why);
}

static void checked(struct supervisor *s, const struct sys_exit *end)
{
    struct succession *q = &s->succession;
    struct buf why;
    buf_init(&why, WHY_MAX);
    q->pid = 0;
    wheel_cancel(&s->loop.wheel, &q->timer);
    said_read(q, &why);
    if (end->code != PROBE_PASSED || end->signal)
        fail(s, why.len ? buf_slice(&why) : SLICE("the check failed, and did not say why"));
    else if (q->kind == CONTROL_UPGRADE)
        fail_str(s, resume_exec(s, s->program));
    else
        next_begin(s);
    buf_done(&why);
}

void succession_resume(struct supervisor *s)
{
    struct succession *q = &s->succession;
    q->kind = CONTROL_UPGRADE;
    q->state = SUCCESSION_CHECK;
    for (unsigned i = 0; i < LEAVING_MAX; i++)
        if (q->leaving[i].pid)
            wheel_set(&s->loop.wheel, &q->leaving[i].kill,
                      s->now.config.root.drain + KILL_AFTER_MS);
    changes_resume(&s->now.changes, s->control);
    certificates_serve(&s->now.certificates);
    if (s->now.config.n_certificates)
        certificates_rotate(&s->now.certificates);
    next_begin(s);
}

static void transfer(struct supervisor *s)
{
    struct succession *q = &s->succession;
    int pair[2];
    uint64_t most = MAX(s->now.config.limits.connections, q->next.config.limits.connections);
    s->slots = MAX(s->slots, (uint32_t)most);
    if (sys_handover_pair(pair, TRANSFER_WAIT_MS) < 0) {
        fail_str(s, strerror(errno));
        return;
    }
    q->state = SUCCESSION_TRANSFER;
    wheel_set(&s->loop.wheel, &q->timer, TRANSFER_MAX_MS);
    bool ok = control_send(s->control, CONTROL_GIVE, 0, "", pair[0]) &&
              control_send(q->control, CONTROL_TAKE, s->slots + ADMIN_CONNECTIONS, "", pair[1]);
    sys_close(pair[0]);
    sys_close(pair[1]);
    if (!ok)
        fail_str(s, "a worker has gone");
}

static void module_refused(struct supervisor *s, uint32_t i, struct slice text)
{
    struct succession *q = &s->succession;
    struct buf why;
    buf_init(&why, WHY_MAX);
    if (changes_anew(&q->next.changes, i, &why))
        changes_send(&q->next.changes, q->control, i, CONTROL_SUCCEED);
    else
        fail(s, why.len ? buf_slice(&why) : text);
    buf_done(&why);
}

void succession_message(struct supervisor *s)
{
    struct succession *q = &s->succession;
    struct control m;
    int fd;
    if (q->control < 0 || !sys_readable(q->control))
        return;
    if (!control_recv(q->control, &m, &fd)) {
        sys_poller_remove(s->loop.poller, q->control); /* its end is reported as a signal */
        return;
    }
    sys_close(fd);
    bool starts = q->state == SUCCESSION_START, known = m.number < q->next.config.n_modules;
    if (m.kind == CONTROL_TLS_LOADED || m.kind == CONTROL_TLS_REFUSED) {
        if (!certificates_message(&q->next.certificates, &m))
            fail(s, slice_str(m.text));
    } else if (m.kind == CONTROL_TAKEN && q->state == SUCCESSION_TRANSFER)
        taken(s);
    else if (m.kind == CONTROL_READY && starts)
        transfer(s);
    else if (m.kind == CONTROL_REFUSED && starts && known)
        module_refused(s, m.number, slice_str(m.text));
    else if (m.kind == CONTROL_LOADED && starts && known)
        changes_loaded(&q->next.changes, q->control, &m, CONTROL_SUCCEED);
}

void succession_child(struct supervisor *s)
{
    struct succession *q = &s->succession;
    struct sys_exit end;
    for (unsigned i = 0; i < LEAVING_MAX; i++) {
        struct leaving *l = &q->leaving[i];
        if (!l->pid || !sys_wait(l->pid, &end))
            continue;
        l->pid = 0;
        sys_close(l->control);
        wheel_cancel(&s->loop.wheel, &l->kill);
        supervisor_ended(s);
    }
    if (!q->pid || !sys_wait(q->pid, &end))
        return;
    if (q->state == SUCCESSION_CHECK) {
        checked(s, &end);
        return;
    }
    q->pid = 0;
    char why[80];
    snprintf(why, sizeof(why), "the new worker ended (status %d, signal %d)", end.code, end.signal);
    fail_str(s, why);
}

void succession_timer(struct supervisor *s, struct timer *t)
{
    struct succession *q = &s->succession;
    if (t == &q->timer) {
        fail_str(s, q->state == SUCCESSION_CHECK   ? "the check took too long"
                    : q->state == SUCCESSION_START ? "the new worker did not get ready in time"
                                                   : "the hand-over took too long");
        return;
    }
    struct leaving *l = CONTAINER_OF(t, struct leaving, kill);
    if (l->pid)
        sys_kill(l->pid, true); /* it did not drain in time */
}

void succession_stop(struct supervisor *s)
{
    if (s->succession.state != SUCCESSION_NONE)
        fail_str(s, "weir is shutting down");
}

void succession_kept(struct supervisor *s)
{
    if (s->succession.state == SUCCESSION_TRANSFER)
        fail_str(s, "the old worker could not hand over, and serves on");
}

bool succession_orphaned(struct supervisor *s)
{
    struct succession *q = &s->succession;
    if (q->state == SUCCESSION_TRANSFER)
        return true;
    if (q->state != SUCCESSION_NONE)
        fail_str(s, "the worker that serves has died meanwhile");
    return false;
}

bool succession_leaving(const struct supervisor *s)
{
    for (unsigned i = 0; i < LEAVING_MAX; i++)
        if (s->succession.leaving[i].pid)
            return true;
    return false;
}

void succession_kill(struct supervisor *s)
{
    for (unsigned i = 0; i < LEAVING_MAX; i++)
        if (s->succession.leaving[i].pid)
            sys_kill(s->succession.leaving[i].pid, true);
}
