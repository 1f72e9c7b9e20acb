/* /api/v1/modules and /api/v1/reload: what runs is told here; what changes it is passed to the
 * supervisor, one change at a time, and answered when that has answered. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "app/gateway.h"

enum { JOBS_MAX = 8, PAGE_MAX = 1 << 20 };

/* A request that waits for the supervisor: its connection is held and its exchange kept. */
struct module_job {
    struct list node;
    struct conn *conn;
    enum control_kind kind; /* CONTROL_PUT, _ROLLBACK, _PROMOTE, _RELOAD */
    uint32_t module, percent;
    size_t sent; /* of the body */
};

static struct module_job *job_first(const struct gateway *gw)
{
    return list_empty(&gw->jobs) ? NULL : CONTAINER_OF(gw->jobs.next, struct module_job, node);
}

/* ---- what runs, as JSON ---- */

static enum err put_version(struct buf *out, const struct module_version *v)
{
    char since[32];
    time_t s = (time_t)(v->since_ms / 1000);
    struct tm tm;
    strftime(since, sizeof(since), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&s, &tm));
    return buf_printf(out, "\"version\":%" PRIu32 ",\"sha256\":\"%s\",\"loaded_at\":\"%s\"",
                      v->number, v->sha256, since);
}

static enum err put_code(struct buf *out, const struct module_code *c, const char *state)
{
    uint32_t refs = c->guest.refs, running = c->guest.running;
    enum err e = buf_append(out, SLICE("{"));
    e = e ? e : put_version(out, &c->version);
    return e ? e
             : buf_printf(out,
                          ",\"state\":\"%s\",\"events\":%" PRIu64 ",\"running\":%" PRIu32
                          ",\"waiting\":%" PRIu32 "}",
                          state, c->guest.events, running, refs - MIN(refs, running));
}

/* Its versions: the one in force, those that wait for their last event, the one to go back to. */
static enum err put_module(const struct gateway *gw, struct buf *out, uint32_t i)
{
    const struct config_module *m = &gw->config.modules[i];
    const struct module_code *now = gw->states[i].code, *canary = gw->states[i].canary;
    enum err e = buf_printf(out, "{\"name\":\"%s\",\"engine\":\"%s\",\"instance\":\"%s\",", m->name,
                            m->engine, m->instance);
    e = e ? e : put_version(out, &now->version);
    e = e ? e : buf_append(out, SLICE(",\"versions\":["));
    e = e ? e : put_code(out, now, "active");
    if (canary) {
        e = e ? e : buf_append(out, SLICE(","));
        e = e ? e : put_code(out, canary, "canary");
    }
    for (const struct list *n = gw->replaced.next; n != &gw->replaced && !e; n = n->next) {
        const struct module_code *c = CONTAINER_OF(n, struct module_code, node);
        if (c->guest.number != i)
            continue;
        e = buf_append(out, SLICE(","));
        e = e ? e : put_code(out, c, "replaced");
    }
    e = e ? e
          : buf_printf(out, "],\"canary_percent\":%" PRIu32 ",\"rollback\":",
                       canary ? canary->version.percent : 0);
    if (!now->before.number)
        return e ? e : buf_append(out, SLICE("null}"));
    e = e ? e : buf_append(out, SLICE("{"));
    e = e ? e : put_version(out, &now->before);
    return e ? e : buf_append(out, SLICE("}}"));
}

static enum err put_modules(const struct gateway *gw, struct buf *out)
{
    enum err e = buf_append(out, SLICE("{\"modules\":["));
    for (uint32_t i = 0; i < gw->config.n_modules && !e; i++) {
        e = i ? buf_append(out, SLICE(",\n")) : ERR_NONE;
        e = e ? e : put_module(gw, out, i);
    }
    return e ? e : buf_append(out, SLICE("]}\n"));
}

static void respond(struct gateway *gw, struct conn *c, enum err e, struct slice json)
{
    struct http_response r = {200, SLICE("application/json"), SLICE_NONE, json};
    if (e)
        http_exchange_fail(&gw->admin, c, e, SLICE_NONE, SLICE_NONE);
    else
        http_exchange_respond(&gw->admin, c, &r);
}

/* ---- changes ---- */

static void answer(struct gateway *gw, struct module_job *job, enum err e, struct slice text)
{
    struct conn *c = job->conn;
    struct buf out;
    buf_init(&out, PAGE_MAX);
    conn_resume(&gw->net, c);
    if (c->state != CONN_OPEN) {
        http_exchange_free(http_exchange_detach(c)); /* nobody to answer */
    } else if (e) {
        http_exchange_fail(&gw->admin, c, e, SLICE_NONE, text);
    } else if (job->kind == CONTROL_RELOAD) {
        respond(gw, c, ERR_NONE, text);
    } else {
        e = put_module(gw, &out, job->module);
        e = e ? e : buf_append(&out, SLICE("\n"));
        respond(gw, c, e, buf_slice(&out));
    }
    conn_release(&gw->net, c);
    buf_done(&out);
    list_remove(&job->node);
    mem_free(job, sizeof(*job));
    gw->n_jobs--;
}

/* Sends what the first job has to send now: the next part of its body, or its last word. */
static void job_go_on(struct gateway *gw)
{
    struct module_job *job = job_first(gw);
    if (!job)
        return;
    const struct http_exchange *ex = job->conn->detail;
    char percent[16];
    snprintf(percent, sizeof(percent), "%" PRIu32, job->percent);
    size_t n = job->kind == CONTROL_PUT ? MIN(ex->body.n - job->sent, (size_t)CONTROL_TEXT) : 0;
    bool ok = n ? control_send_bytes(SYS_CONTROL_FD, CONTROL_CHUNK, job->module,
                                     slice_of(ex->body.p + job->sent, n))
                : control_send(SYS_CONTROL_FD, job->kind, job->module, percent, -1);
    job->sent += n;
    if (ok)
        return;
    answer(gw, job, ERR_SYS, SLICE("the supervisor has gone"));
    job_go_on(gw);
}

static void job_new(struct gateway *gw, struct conn *c, enum control_kind kind, uint32_t module,
                    uint32_t percent)
{
    struct module_job *job = NULL;
    enum err e = gw->draining || !gw->ready ? ERR_DRAINING
                 : gw->n_jobs == JOBS_MAX   ? ERR_MODULE_CHANGES
                                            : ERR_NONE;
    if (!e && !(job = mem_alloc(sizeof(*job))))
        e = ERR_NO_MEMORY;
    if (!e && !http_exchange_keep(&gw->admin, c)) {
        mem_free(job, sizeof(*job));
        e = ERR_NO_MEMORY;
    }
    if (e) {
        http_exchange_fail(&gw->admin, c, e, SLICE_NONE, SLICE_NONE);
        return;
    }
    c->holds++;
    *job = (struct module_job){.conn = c, .kind = kind, .module = module, .percent = percent};
    bool first = list_empty(&gw->jobs);
    list_append(&gw->jobs, &job->node);
    gw->n_jobs++;
    if (first)
        job_go_on(gw);
}

void modules_answer(struct gateway *gw, const struct control *m)
{
    struct module_job *job = job_first(gw);
    enum err e = m->number < ERR_COUNT ? (enum err)m->number : ERR_SYS;
    if (m->kind == CONTROL_MORE) {
        job_go_on(gw);
        return;
    }
    if (m->kind != CONTROL_ANSWER && m->kind != CONTROL_CHANGED)
        return;
    metrics.module_changes_failed_total += e != ERR_NONE;
    if (m->kind == CONTROL_ANSWER && job) {
        answer(gw, job, e, slice_of(m->text, m->n));
        job_go_on(gw);
    }
}

/* ---- requests ---- */

/* "canary=N", or nothing. */
static bool percent_read(const struct http_exchange *ex, uint32_t *out)
{
    struct slice query = http_span_slice(ex->head, ex->req.query), key = SLICE("canary=");
    char number[4] = "";
    *out = 0;
    if (!query.n)
        return true;
    if (query.n <= key.n || query.n > key.n + 2 || memcmp(query.p, key.p, key.n) != 0)
        return false;
    memcpy(number, query.p + key.n, query.n - key.n);
    for (const char *d = number; *d; d++) {
        if (*d < '0' || *d > '9')
            return false;
        *out = *out * 10 + (uint32_t)(*d - '0');
    }
    return *out > 0;
}

/* "NAME", "NAME/rollback" or "NAME/promote" behind modules/. */
static void module_request(struct gateway *gw, struct conn *c, const struct http_exchange *ex,
                           struct slice rest)
{
    const uint8_t *slash = memchr(rest.p, '/', rest.n);
    struct slice name = slice_of(rest.p, slash ? (size_t)(slash - rest.p) : rest.n);
    struct slice verb = slash ? slice_of(slash, rest.n - name.n) : SLICE_NONE;
    bool promote = slice_eq(verb, SLICE("/promote"));
    bool post = promote || slice_eq(verb, SLICE("/rollback"));
    enum control_kind kind = promote ? CONTROL_PROMOTE : post ? CONTROL_ROLLBACK : CONTROL_PUT;
    uint32_t percent;
    bool query_fits = percent_read(ex, &percent) && !(post && percent);
    struct slice coding = http_exchange_field(ex, SLICE("content-encoding"));
    uint32_t i = 0;
    while (i < gw->config.n_modules && !slice_eq(slice_str(gw->config.modules[i].name), name))
        i++;
    enum err e = ERR_NONE;
    struct slice fields = SLICE_NONE;
    if (slash && !post) {
        e = ERR_NOT_FOUND;
    } else if (i == gw->config.n_modules) {
        e = ERR_MODULE_UNKNOWN;
    } else if (ex->req.method != (post ? HTTP_POST : HTTP_PUT)) {
        e = ERR_METHOD;
        fields = post ? SLICE("Allow: POST\r\n") : SLICE("Allow: PUT\r\n");
    } else if (coding.n && !slice_eq_nocase(coding, SLICE("identity"))) {
        e = ERR_CONTENT_CODING;
        fields = SLICE("Accept-Encoding: identity\r\n");
    }
    if (e)
        http_exchange_fail(&gw->admin, c, e, fields, SLICE_NONE);
    else if (!query_fits)
        http_exchange_fail(&gw->admin, c, ERR_INVALID, SLICE_NONE,
                           SLICE("the query of a PUT is canary=1 to canary=99, or none"));
    else if (!post && !ex->body.n)
        http_exchange_fail(&gw->admin, c, ERR_MODULE_REFUSED, SLICE_NONE,
                           SLICE("the body is empty; send a .wasm or .wat"));
    else
        job_new(gw, c, kind, i, percent);
}

static void modules_list(struct gateway *gw, struct conn *c)
{
    struct buf out;
    buf_init(&out, PAGE_MAX);
    enum err e = put_modules(gw, &out);
    respond(gw, c, e, buf_slice(&out));
    buf_done(&out);
}

void modules_request(struct gateway *gw, struct conn *c, struct http_exchange *ex,
                     struct slice path)
{
    struct slice under = SLICE("modules/"), fields = SLICE_NONE;
    bool list = slice_eq(path, SLICE("modules")), reload = slice_eq(path, SLICE("reload"));
    enum err e = ERR_NONE;
    if (list && ex->req.method != HTTP_GET && ex->req.method != HTTP_HEAD) {
        e = ERR_METHOD;
        fields = SLICE("Allow: GET, HEAD\r\n");
    } else if (reload && ex->req.method != HTTP_POST) {
        e = ERR_METHOD;
        fields = SLICE("Allow: POST\r\n");
    } else if (list) {
        modules_list(gw, c);
    } else if (reload) {
        job_new(gw, c, CONTROL_RELOAD, 0, 0);
    } else if (path.n > under.n && memcmp(path.p, under.p, under.n) == 0) {
        module_request(gw, c, ex, slice_of(path.p + under.n, path.n - under.n));
    } else {
        e = ERR_NOT_FOUND;
    }
    if (e)
        http_exchange_fail(&gw->admin, c, e, fields, SLICE_NONE);
}
