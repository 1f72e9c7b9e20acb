/* /api/v1/modules and /api/v1/reload: what runs is told here; what changes it is passed to the
 * supervisor, one change at a time, and answered when that has answered. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "app/admin.h"
#include "guest/guest_instance.h"

enum { JOBS_MAX = 8, PAGE_MAX = 1 << 20 };

/* A request that waits for the supervisor: its connection is held and its exchange kept. */
struct module_job {
    struct list node;
    struct conn *conn;
    enum control_kind kind; /* CONTROL_PUT, _ADD, _REMOVE, _ROLLBACK, _PROMOTE, _RELOAD */
    uint32_t module, percent;
    size_t sent; /* of the body */
    char name[65];
    char engine[8], instance[8], exec[8]; /* of one that is added; empty: not said */
};

/* What the loops have of a version; each adds its own. */
struct tally {
    struct module_version version;
    uint32_t module;
    enum { ACTIVE, CANARY, REPLACED, STATES } state;
    uint64_t events, made, restored;
    uint32_t running, waiting;
    const char *way; /* of its instances */
};

struct modules_ask {
    struct ask ask;
    uint32_t module; /* MODULES_ALL: all */
    enum err e;
    struct buf tallies;
};
enum { MODULES_ALL = UINT32_MAX, TALLIES_MAX = 1 << 20 };

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

static enum err put_tally(struct buf *out, const struct tally *t)
{
    static const char *const states[STATES] = {"active", "canary", "replaced"};
    enum err e = buf_append(out, SLICE("{"));
    e = e ? e : put_version(out, &t->version);
    return e ? e
             : buf_printf(out,
                          ",\"state\":\"%s\",\"events\":%" PRIu64 ",\"running\":%" PRIu32
                          ",\"waiting\":%" PRIu32 ",\"instances\":{\"are\":\"%s\",\"made\":%" PRIu64
                          ",\"restored\":%" PRIu64 "}}",
                          states[t->state], t->events, t->running, t->waiting, t->way, t->made,
                          t->restored);
}

/* Its versions: the one in force, those that wait for their last event, the one to go back to. */
static enum err put_module(const struct gateway *gw, const struct buf *tallies, struct buf *out,
                           uint32_t i)
{
    const struct config_module *m = &gw->config.modules[i];
    const struct module_code *now = gw->states[i].code, *canary = gw->states[i].canary;
    const struct tally *t = (const struct tally *)tallies->p;
    const char *comma = "";
    enum err e = buf_printf(
        out, "{\"name\":\"%s\",\"engine\":\"%s\",\"instance\":\"%s\",\"added\":%s,", m->name,
        m->engine, m->instance, config_module_added(m) ? "true" : "false");
    e = e ? e : put_version(out, &now->version);
    e = e ? e : buf_append(out, SLICE(",\"versions\":["));
    for (int state = ACTIVE; state < STATES; state++)
        for (size_t k = 0; k < tallies->len / sizeof(*t) && !e; k++) {
            if (t[k].module != i || (int)t[k].state != state)
                continue;
            e = buf_printf(out, "%s", comma);
            e = e ? e : put_tally(out, &t[k]);
            comma = ",";
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

static enum err put_modules(const struct gateway *gw, const struct buf *tallies, struct buf *out)
{
    enum err e = buf_append(out, SLICE("{\"modules\":["));
    for (uint32_t i = 0; i < gw->config.n_modules && !e; i++) {
        if (!gw->states[i].code)
            continue;
        e = out->p[out->len - 1] == '}' ? buf_append(out, SLICE(",\n")) : ERR_NONE;
        e = e ? e : put_module(gw, tallies, out, i);
    }
    return e ? e : buf_append(out, SLICE("]}\n"));
}

static void tally_add(struct modules_ask *a, const struct module_code *c, int state)
{
    struct tally *t = (struct tally *)a->tallies.p;
    uint32_t refs = c ? c->guest.refs : 0;
    if (!c || !c->version.number || a->e ||
        (a->module != MODULES_ALL && a->module != c->guest.number))
        return;
    for (size_t k = a->tallies.len / sizeof(*t);; t++, k--) {
        if (!k) {
            struct tally made = {.version = c->version,
                                 .module = c->guest.number,
                                 .state = state,
                                 .way = guest_instance_way(&c->guest)};
            a->e = buf_append(&a->tallies, slice_of(&made, sizeof(made)));
            if (a->e)
                return;
            t = (struct tally *)(a->tallies.p + a->tallies.len) - 1;
            break;
        }
        if (t->module == c->guest.number && t->version.number == c->version.number &&
            (int)t->state == state)
            break;
    }
    t->events += c->guest.events;
    t->made += c->guest.made;
    t->restored += c->guest.restored;
    t->running += c->guest.running;
    t->waiting += refs - MIN(refs, c->guest.running);
}

static void modules_visit(struct gateway *gw, struct errand *e)
{
    struct modules_ask *a = CONTAINER_OF(e, struct modules_ask, ask.errand);
    for (uint32_t i = 0; i < gw->config.n_modules; i++) {
        tally_add(a, gw->states[i].code, ACTIVE);
        tally_add(a, gw->states[i].canary, CANARY);
    }
    for (const struct list *n = gw->replaced.next; n != &gw->replaced; n = n->next)
        tally_add(a, CONTAINER_OF(n, struct module_code, node), REPLACED);
    errand_next(gw, e);
}

static void modules_home(struct gateway *gw, struct errand *errand)
{
    struct modules_ask *a = CONTAINER_OF(errand, struct modules_ask, ask.errand);
    struct buf out;
    buf_init(&out, PAGE_MAX);
    enum err e = a->e;
    if (!e && a->module == MODULES_ALL)
        e = put_modules(gw, &a->tallies, &out);
    else if (!e && !(e = put_module(gw, &a->tallies, &out, a->module)))
        e = buf_append(&out, SLICE("\n"));
    buf_done(&a->tallies);
    admin_end(gw, &a->ask, e, SLICE("application/json"), buf_slice(&out));
    buf_done(&out);
}

static void modules_ask(struct gateway *gw, struct conn *c, bool kept, uint32_t module)
{
    struct modules_ask *a = ask_new(gw, c, kept, sizeof(*a));
    if (!a)
        return;
    a->module = module;
    buf_init(&a->tallies, TALLIES_MAX);
    ask_start(gw, &a->ask, modules_visit, modules_home);
}

/* ---- changes ---- */

static void answer(struct gateway *gw, struct module_job *job, enum err e, struct slice text)
{
    struct conn *c = job->conn;
    struct buf out;
    buf_init(&out, 256);
    if (!e && job->kind == CONTROL_ADD) /* in the place that the supervisor gave it */
        job->module = (uint32_t)modules_find(gw, slice_str(job->name));
    if (!e && job->kind != CONTROL_RELOAD && job->kind != CONTROL_UPGRADE &&
        job->kind != CONTROL_REMOVE) {
        modules_ask(gw, c, true, job->module);
    } else {
        conn_resume(&gw->net, c);
        if (c->state != CONN_OPEN)
            http_exchange_free(http_exchange_detach(c)); /* nobody to answer */
        else if (e)
            http_exchange_fail(&gw->admin, c, e, SLICE_NONE, text);
        else if (job->kind == CONTROL_RELOAD || job->kind == CONTROL_UPGRADE)
            admin_respond(gw, c, ERR_NONE, SLICE("application/json"), text);
        else {
            e = buf_printf(&out, "{\"removed\":\"%s\"}\n", job->name);
            admin_respond(gw, c, e, SLICE("application/json"), buf_slice(&out));
        }
        conn_release(&gw->net, c);
    }
    buf_done(&out);
    list_remove(&job->node);
    mem_free(job, sizeof(*job));
    gw->n_jobs--;
}

/* Its engine: the one that is asked for, or that is there. false: that is not there. */
static bool engine_choose(const struct gateway *gw, struct module_job *job)
{
    if (!job->engine[0])
        strcpy(job->engine, gw->guests.engines[0] ? "native" : "pulley");
    return gw->guests.engines[strcmp(job->engine, "pulley") == 0];
}

/* What it comes to, now that the changes before it are over. */
static enum err job_begin(const struct gateway *gw, struct module_job *job, struct slice *why)
{
    int i = modules_find(gw, slice_str(job->name));
    bool said = job->engine[0] || job->instance[0] || job->exec[0];
    bool put = job->kind == CONTROL_PUT;
    *why = SLICE_NONE;
    if (job->kind == CONTROL_RELOAD || job->kind == CONTROL_UPGRADE)
        return ERR_NONE;
    if (i < 0 && !put)
        return ERR_MODULE_UNKNOWN;
    job->module = i < 0 ? 0 : (uint32_t)i;
    if (i >= 0 && job->kind == CONTROL_REMOVE && !config_module_added(&gw->config.modules[i]))
        return ERR_MODULE_CONFIGURED;
    if (i >= 0 && said)
        *why = SLICE("engine, instance and exec stay as they are: remove the module first");
    else if (i < 0 && job->percent)
        *why = SLICE("there is no such module yet: a canary stands beside another version");
    else if (i < 0 && !engine_choose(gw, job))
        *why = SLICE("no module of the configuration uses this engine, which so was not made when "
                     "the worker started");
    job->kind = i < 0 ? CONTROL_ADD : job->kind;
    return why->n ? ERR_INVALID : ERR_NONE;
}

/* Sends what the first job has to send now: the next part of its body, or its last word. */
static void job_go_on(struct gateway *gw)
{
    struct module_job *job = job_first(gw);
    if (!job)
        return;
    const struct http_exchange *ex = job->conn->detail;
    char word[CONFIG_WORDS_MAX];
    struct slice why = SLICE_NONE;
    enum err e = job->sent ? ERR_NONE : job_begin(gw, job, &why);
    bool body = job->kind == CONTROL_PUT || job->kind == CONTROL_ADD;
    size_t n = body ? MIN(ex->body.n - job->sent, (size_t)CONTROL_TEXT) : 0;
    if (job->kind == CONTROL_ADD)
        snprintf(word, sizeof(word), "%s %s %s %s", job->engine,
                 job->instance[0] ? job->instance : "event", job->exec[0] ? job->exec : "auto",
                 job->name);
    else
        snprintf(word, sizeof(word), "%" PRIu32, job->percent);
    if (!e && !(n ? control_send_bytes(SYS_CONTROL_FD, CONTROL_CHUNK, job->module,
                                       slice_of(ex->body.p + job->sent, n))
                  : control_send(SYS_CONTROL_FD, job->kind, job->module, word, -1))) {
        e = ERR_SYS;
        why = SLICE("the supervisor has gone");
    }
    job->sent += n;
    if (!e)
        return;
    answer(gw, job, e, why);
    job_go_on(gw);
}

static enum err job_new(struct admin_call *call, const struct module_job *what)
{
    struct gateway *gw = call->gw;
    struct conn *c = call->conn;
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
    if (e)
        return e;
    c->holds++;
    *job = *what;
    job->conn = c;
    bool first = list_empty(&gw->jobs);
    list_append(&gw->jobs, &job->node);
    gw->n_jobs++;
    if (first)
        job_go_on(gw);
    return ERR_NONE;
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
    metrics.modules_full_total += e == ERR_MODULES_FULL;
    if (m->kind == CONTROL_ANSWER && job) {
        answer(gw, job, e, slice_of(m->text, m->n));
        job_go_on(gw);
    }
}

/* ---- requests ---- */

/* 1 to 99; 0: it is none. */
static uint32_t percent_read(struct slice text)
{
    uint32_t n = 0;
    for (size_t i = 0; i < text.n && i < 3; i++)
        n = text.p[i] >= '0' && text.p[i] <= '9' ? n * 10 + text.p[i] - '0' : 100;
    return n < 100 ? n : 0;
}

/* One of two words; false: it is neither, or was there before. */
static bool word_read(struct slice text, const char *a, const char *b, char out[8])
{
    bool first = slice_eq(text, slice_str(a));
    if (*out || (!first && !slice_eq(text, slice_str(b))))
        return false;
    strcpy(out, first ? a : b);
    return true;
}

/* A PUT's "canary=N", or, of a module that is added, "engine=E&instance=I&exec=X". */
static bool query_read(struct slice query, struct module_job *job)
{
    while (query.n) {
        struct slice value = slice_cut(&query, '&'), key = slice_cut(&value, '=');
        bool ok = false;
        if (slice_eq(key, SLICE("canary")) && !job->percent)
            ok = (job->percent = percent_read(value)) > 0;
        else if (slice_eq(key, SLICE("engine")))
            ok = word_read(value, "native", "pulley", job->engine);
        else if (slice_eq(key, SLICE("instance")))
            ok = word_read(value, "event", "module", job->instance);
        else if (slice_eq(key, SLICE("exec")))
            ok = word_read(value, "auto", "yes", job->exec);
        if (!ok || (query.p && !query.n))
            return false;
    }
    return true;
}

enum err modules_api_change(struct admin_call *call)
{
    struct module_job job = {.kind = call->change};
    bool put = job.kind == CONTROL_PUT;
    struct slice query = admin_query(call);
    if (!config_name_valid(call->name)) {
        call->detail = "a module's name has 1 to 64 letters, digits, _ or -";
        return ERR_INVALID;
    }
    if (put ? !query_read(query, &job) : query.n > 0) {
        call->detail = "the query of a PUT is canary=1 to canary=99, or of engine=native|pulley, "
                       "instance=event|module and exec=auto|yes for a new module, or none";
        return ERR_INVALID;
    }
    if (put && !call->ex->body.n) {
        call->detail = "the body is empty; send a .wasm or .wat";
        return ERR_MODULE_REFUSED;
    }
    slice_copy(job.name, call->name);
    return job_new(call, &job);
}

enum err modules_api_reload(struct admin_call *call)
{
    return job_new(call, &(struct module_job){.kind = call->change});
}

enum err modules_api_list(struct admin_call *call)
{
    modules_ask(call->gw, call->conn, false, MODULES_ALL);
    return ERR_NONE;
}
