#include "app/changes.h"

#include <sha256.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

enum { SAID_MAX = 12 << 10, WHY_MAX = 8192, KILLED_MS = 1000 };

static const struct config_module *config_of(const struct changes *c, uint32_t i)
{
    return &c->config->modules[i];
}

static const struct changes_module no_module = {.now.fd = -1, .before.fd = -1, .canary.fd = -1};

static void hash(struct slice s, char out[17])
{
    char text[SHA256_DIGEST_STRING_LENGTH];
    SHA256Data(s.p, s.n, text);
    memcpy(out, text, 16);
    out[16] = 0;
}

/* ---- at the start ---- */

void changes_error(const struct changes *c, uint32_t i, struct slice why)
{
    fprintf(stderr, "%s:%u: module %s: %.*s\n", c->config_file, config_of(c, i)->line,
            config_of(c, i)->name, (int)why.n, why.n ? (const char *)why.p : "");
}

static bool module_open(struct changes *c, uint32_t i, struct buf *why)
{
    struct changes_module *m = &c->modules[i];
    struct slice file;
    *m = no_module;
    if (artifact_open(c->config, config_of(c, i), false, &m->now.fd, why) ||
        artifact_source(config_of(c, i), &file, why))
        return false;
    hash(file, m->file);
    sys_read_free(file);
    memcpy(m->now.version.sha256, m->file, sizeof(m->file));
    m->now.version.since_ms = sys_wall_ms();
    m->now.version.number = m->last = 1;
    return true;
}

bool changes_restore(struct changes *c, struct config *config, const char *file, struct loop *loop)
{
    *c = (struct changes){.config = config, .config_file = file, .loop = loop, .worker = -1};
    buf_init(&c->upload, (uint32_t)config->admin.module_size);
    buf_init(&c->swapped, SAID_MAX);
    buf_init(&c->failed, SAID_MAX);
    c->timer.kind = LOOP_COMPILE;
    size_t n = config->n_modules + config->admin.modules + 1;
    c->modules = mem_alloc(n * sizeof(*c->modules));
    c->room = c->modules ? n : 0;
    for (size_t i = 0; i < c->room; i++)
        c->modules[i] = no_module;
    return c->modules;
}

bool changes_open(struct changes *c, struct config *config, const char *file, struct loop *loop)
{
    bool ok = changes_restore(c, config, file, loop);
    for (uint32_t i = 0; c->modules && i < config->n_modules; i++) {
        struct buf why;
        buf_init(&why, WHY_MAX);
        if (!module_open(c, i, &why)) {
            changes_error(c, i, buf_slice(&why));
            ok = false;
        }
        buf_done(&why);
    }
    return ok;
}

void changes_words(const struct changes *c, uint32_t i, char words[CONFIG_WORDS_MAX])
{
    const struct config_module *m = config_of(c, i);
    snprintf(words, CONFIG_WORDS_MAX, "%s %s %s %s", m->engine, m->instance, m->exec, m->name);
}

/* Tells the worker of the place of a module that was added. */
static bool add_send(const struct changes *c, int to, uint32_t i)
{
    char words[CONFIG_WORDS_MAX];
    changes_words(c, i, words);
    return control_send(to, CONTROL_ADD, i, words, -1);
}

void changes_send(const struct changes *c, int to, uint32_t i, enum control_kind last)
{
    char text[VERSIONS_TEXT];
    while (i < c->config->n_modules && c->modules[i].now.fd < 0)
        i++;
    const struct changes_module *m = &c->modules[i];
    if (i == c->config->n_modules) {
        control_send(to, last, 0, "", -1);
    } else if (!config_module_added(config_of(c, i)) || add_send(c, to, i)) {
        control_versions_write(text, &m->now.version, &m->before.version);
        control_send(to, CONTROL_MODULE, i, text, m->now.fd);
    }
}

void changes_loaded(const struct changes *c, int to, const struct control *m,
                    enum control_kind last)
{
    char text[VERSIONS_TEXT];
    const struct changes_module *of = &c->modules[m->number];
    if (m->n || of->canary.fd < 0) { /* it was the canary, or there is none */
        changes_send(c, to, m->number + 1, last);
    } else {
        control_versions_write(text, &of->canary.version, &of->now.version);
        control_send(to, CONTROL_MODULE, m->number, text, of->canary.fd);
    }
}

bool changes_anew(struct changes *c, uint32_t i, struct buf *why)
{
    struct changes_module *m = &c->modules[i];
    int fd;
    if (!artifact_compiles(config_of(c, i)) || m->anew || m->last > 1 ||
        config_module_added(config_of(c, i)))
        return false;
    m->anew = true;
    if (artifact_open(c->config, config_of(c, i), true, &fd, why))
        return false;
    sys_close(m->now.fd);
    m->now.fd = fd;
    return true;
}

/* ---- places of modules that are added ---- */

static void place_leave(struct changes *c, uint32_t i, bool going)
{
    struct changes_module *m = &c->modules[i];
    sys_close(m->now.fd);
    sys_close(m->before.fd);
    sys_close(m->canary.fd);
    *m = no_module;
    m->going = going;
    ASSERT(config_module_set(c->config, i, NULL));
}

void changes_drop(struct changes *c, uint32_t i)
{
    if (config_module_added(config_of(c, i)))
        place_leave(c, i, false);
}

/* The worker's words are looked at as a stranger's. */
static enum err place_take(struct changes *c, const char *words, uint32_t *out)
{
    struct config *config = c->config;
    uint32_t at = config->n_modules, added = 0;
    for (uint32_t i = 0; i < config->n_modules; i++) {
        bool here = config_module_added(config_of(c, i));
        added += here;
        if (here && !*config_of(c, i)->name && !c->modules[i].going)
            at = MIN(at, i);
    }
    if (at == config->n_modules && added >= config->admin.modules)
        return ERR_MODULES_FULL;
    if (!config_module_set(config, at, words))
        return ERR_INVALID;
    c->modules[at] = no_module;
    for (uint32_t i = 0; i < config->n_modules; i++)
        if (i != at && strcmp(config_of(c, i)->name, config_of(c, at)->name) == 0) {
            place_leave(c, at, false);
            return ERR_MODULE_CHANGES; /* it came meanwhile, of a worker that has died since */
        }
    *out = at;
    return ERR_NONE;
}

/* ---- a change ---- */

static void next(struct changes *c);
static void reload_next(struct changes *c, uint32_t i);

static void upload_clear(struct changes *c)
{
    buf_clear(&c->upload, 0);
    c->upload_over = false;
}

static void finish(struct changes *c)
{
    struct slice text = buf_slice(&c->failed);
    c->state = CHANGE_IDLE;
    if (!c->err && c->kind == CONTROL_RELOAD) {
        enum err e = buf_append(&c->swapped, SLICE("]}\n"));
        text = e ? SLICE_NONE : buf_slice(&c->swapped);
    }
    /* Where this can't be sent the worker is gone or lost, which ends it. */
    if (c->worker >= 0)
        (void)control_send_bytes(c->worker, c->answers ? CONTROL_ANSWER : CONTROL_CHANGED, c->err,
                                 text);
    buf_clear(&c->swapped, 0);
    buf_clear(&c->failed, 0);
    if (c->answers)
        upload_clear(c);
    next(c);
}

/* A module's change is over: a reload goes on with the next one. */
static void module_done(struct changes *c)
{
    if (c->kind == CONTROL_RELOAD)
        reload_next(c, c->module + 1);
    else
        finish(c);
}

static void module_failed(struct changes *c, enum err e, struct slice why)
{
    const char *name = config_of(c, c->module)->name;
    if (log_begin(LOG_module_kept)) {
        log_text("module", slice_str(name));
        log_text("detail", why);
        log_end();
    }
    c->err = e;
    int shown = (int)MIN(why.n, (size_t)WHY_MAX);
    if (buf_printf(&c->failed, "%s%.*s", c->failed.len ? "; " : "", shown,
                   shown ? (const char *)why.p : ""))
        c->err = e; /* no room for more reasons: they are in the log */
    sys_close(c->next.fd);
    c->next.fd = -1;
    /* What the worker was told of it, it tells the end of. */
    if (c->kind == CONTROL_ADD)
        place_leave(c, c->module, c->state == CHANGE_LOAD && c->worker >= 0);
    module_done(c);
}

/* The code is there: the worker loads it. A rollback's is the one before, kept where it is; that of
 * a canary's end is in the worker. */
static void load(struct changes *c)
{
    char text[VERSIONS_TEXT];
    struct changes_module *m = &c->modules[c->module];
    const struct module_artifact *a = c->kind == CONTROL_ROLLBACK ? &m->before : &c->next;
    enum control_kind kind = c->kind == CONTROL_PROMOTE                         ? CONTROL_PROMOTE
                             : c->kind == CONTROL_REMOVE                        ? CONTROL_REMOVE
                             : c->kind == CONTROL_ROLLBACK && m->canary.fd >= 0 ? CONTROL_DROP
                                                                                : CONTROL_MODULE;
    c->state = CHANGE_LOAD;
    control_versions_write(text, &a->version, &m->now.version);
    if (c->worker < 0 || (c->kind == CONTROL_ADD && !add_send(c, c->worker, c->module)) ||
        !control_send(c->worker, kind, c->module, text, kind == CONTROL_MODULE ? a->fd : -1))
        module_failed(c, ERR_SYS, SLICE("no worker serves"));
}

static void compiled(struct changes *c, const struct sys_exit *end)
{
    struct buf why;
    buf_init(&why, WHY_MAX);
    wheel_cancel(&c->loop->wheel, &c->timer);
    c->next.fd = -1;
    enum err e = artifact_finish(config_of(c, c->module), &c->artifact, end, &c->next.fd, &why);
    if (e)
        module_failed(c, e, why.len ? buf_slice(&why) : slice_str(err_text(e)));
    else
        load(c);
    buf_done(&why);
}

static void compile(struct changes *c, const struct slice *source, bool anew)
{
    struct buf why;
    buf_init(&why, WHY_MAX);
    c->state = CHANGE_COMPILE;
    c->next.fd = -1;
    enum err e = artifact_start(c->config, config_of(c, c->module), source, anew, &c->artifact,
                                &why);
    if (e) {
        module_failed(c, e, why.len ? buf_slice(&why) : slice_str(err_text(e)));
    } else if (c->artifact.pid) {
        c->cached = false;
        wheel_set(&c->loop->wheel, &c->timer, COMPILE_MAX_MS);
    } else {
        c->cached = source != NULL;
        compiled(c, &(struct sys_exit){.code = 0});
    }
    buf_done(&why);
}

/* The next version is made of source. */
static void version_new(struct changes *c, struct slice source)
{
    struct changes_module *m = &c->modules[c->module];
    c->next.version.number = m->last + 1;
    hash(source, c->next.version.sha256);
    c->next.version.since_ms = sys_wall_ms();
    c->next.version.percent = c->kind == CONTROL_PUT ? c->percent : 0;
}

static void canary_close(struct changes_module *m)
{
    sys_close(m->canary.fd);
    m->canary.fd = -1;
}

static void reload_next(struct changes *c, uint32_t i)
{
    for (; i < c->config->n_modules; i++) {
        struct slice file;
        if (config_module_added(config_of(c, i)))
            continue;
        struct buf why;
        char sha256[17];
        buf_init(&why, WHY_MAX);
        c->module = i;
        enum err e = artifact_source(config_of(c, i), &file, &why);
        if (e) {
            /* Which goes on with the next one. */
            module_failed(c, e, buf_slice(&why));
            buf_done(&why);
            return;
        }
        buf_done(&why);
        hash(file, sha256);
        bool changed = strcmp(sha256, c->modules[i].file) != 0;
        if (changed) {
            version_new(c, file);
            compile(c, artifact_compiles(config_of(c, i)) ? &file : NULL, false);
        }
        sys_read_free(file);
        if (changed)
            return;
    }
    finish(c);
}

/* The cache may hold what does not fit any more: then the same source is compiled anew, once. */
static bool again(struct changes *c)
{
    struct slice source = buf_slice(&c->upload);
    char sha256[17];
    if ((c->kind != CONTROL_PUT && c->kind != CONTROL_ADD) || !c->cached || !c->answers)
        return false;
    hash(source, sha256);
    if (strcmp(sha256, c->next.version.sha256) != 0)
        return false;
    sys_close(c->next.fd);
    compile(c, &source, true);
    return true;
}

static void loaded(struct changes *c)
{
    struct changes_module *m = &c->modules[c->module];
    struct module_artifact old = m->now;
    if (c->kind == CONTROL_REMOVE) {
        place_leave(c, c->module, c->worker >= 0);
        module_done(c);
        return;
    }
    if (c->next.fd >= 0)
        m->last = c->next.version.number;
    if (c->kind == CONTROL_ROLLBACK && m->canary.fd >= 0) {
        canary_close(m);
    } else if (c->kind == CONTROL_ROLLBACK) {
        m->now = m->before;
        m->before = old;
    } else if (c->kind == CONTROL_PUT && c->percent) {
        canary_close(m);
        m->canary = c->next;
    } else {
        sys_close(m->before.fd);
        m->before = old;
        m->now = c->kind == CONTROL_PROMOTE ? m->canary : c->next;
        m->now.version.percent = 0;
        if (c->kind != CONTROL_PROMOTE)
            sys_close(m->canary.fd);
        m->canary.fd = -1;
    }
    c->next.fd = -1;
    if (c->kind == CONTROL_RELOAD) {
        memcpy(m->file, m->now.version.sha256, sizeof(m->file));
        if (buf_printf(&c->swapped, "%s\"%s\"", c->swapped.len > 12 ? "," : "",
                       config_of(c, c->module)->name))
            c->err = ERR_LIMIT; /* of the answer */
    }
    module_done(c);
}

static void begin(struct changes *c, uint32_t kind, uint32_t module, bool answers)
{
    struct slice source = buf_slice(&c->upload);
    bool canary = kind != CONTROL_RELOAD && kind != CONTROL_ADD && kind != CONTROL_UPGRADE &&
                  c->modules[module].canary.fd >= 0;
    bool put = kind == CONTROL_PUT || kind == CONTROL_ADD;
    c->kind = kind;
    c->module = module;
    c->answers = answers;
    c->err = ERR_NONE;
    c->next.fd = -1;
    c->state = CHANGE_HANDOVER;
    if ((kind == CONTROL_RELOAD || kind == CONTROL_UPGRADE) && c->succeed &&
        c->succeed(c->owner, kind))
        return;
    c->state = CHANGE_IDLE;
    if (kind == CONTROL_RELOAD) {
        c->err = buf_append(&c->swapped, SLICE("{\"swapped\":["));
        reload_next(c, 0);
    } else if ((kind == CONTROL_PROMOTE && !canary) ||
               (kind == CONTROL_ROLLBACK && !canary && c->modules[module].before.fd < 0)) {
        c->err = ERR_MODULE_NO_VERSION;
        finish(c);
    } else if (!put) {
        load(c);
    } else if (c->percent && strcmp(config_of(c, module)->instance, "module") == 0) {
        module_failed(c, ERR_MODULE_REFUSED,
                      SLICE("instance: module is one for all connections: it has no canary"));
    } else if (c->upload_over) {
        c->err = ERR_HTTP_BODY_SIZE;
        finish(c);
    } else if (kind == CONTROL_ADD && (c->err = place_take(c, c->asked_words, &c->module))) {
        finish(c);
    } else {
        version_new(c, source);
        compile(c, &source, false);
    }
}

static void next(struct changes *c)
{
    if (c->state != CHANGE_IDLE || c->worker < 0)
        return;
    if (c->asked) {
        c->asked = false;
        c->percent = c->asked_percent;
        begin(c, c->asked_kind, c->asked_module, true);
    } else if (c->reload || c->upgrade) {
        uint32_t kind = c->upgrade ? CONTROL_UPGRADE : CONTROL_RELOAD;
        c->reload = c->upgrade = false; /* an upgrade reads the configuration anew too */
        begin(c, kind, 0, false);
    }
}

/* ---- what happens meanwhile ---- */

void changes_worker(struct changes *c, int control)
{
    c->worker = control;
    if (control < 0) {
        /* What it asked for goes on where it can, and nobody is told. Its places went with it. */
        for (uint32_t i = 0; i < c->config->n_modules; i++)
            c->modules[i].going = false;
        c->asked = c->answers = false;
        upload_clear(c);
        if (c->state == CHANGE_LOAD && c->kind == CONTROL_REMOVE) {
            loaded(c);
        } else if (c->state == CHANGE_LOAD) {
            if (c->kind == CONTROL_RELOAD)
                c->module = c->config->n_modules - 1; /* the rest waits for another reload */
            module_failed(c, ERR_SYS, SLICE("the worker died as it loaded it"));
        }
    }
    next(c);
}

static void chunk(struct changes *c, struct slice bytes)
{
    if (!c->upload_over && buf_append(&c->upload, bytes))
        c->upload_over = true;
    (void)control_send(c->worker, CONTROL_MORE, 0, "", -1);
}

void changes_message(struct changes *c, const struct control *m)
{
    bool known = m->number < c->config->n_modules && c->modules[m->number].now.fd >= 0;
    bool of_one = m->kind == CONTROL_PUT || m->kind == CONTROL_ROLLBACK ||
                  m->kind == CONTROL_PROMOTE ||
                  (m->kind == CONTROL_REMOVE && known &&
                   config_module_added(config_of(c, m->number)));
    bool mine = c->state == CHANGE_LOAD && m->number == c->module;
    /* Whoever asks waits for its answer: what comes before that is none of a worker of ours. */
    bool free = !c->asked && !(c->state != CHANGE_IDLE && c->answers);
    if (m->kind == CONTROL_LOADED && mine) {
        loaded(c);
    } else if (m->kind == CONTROL_REFUSED && mine) {
        if (!again(c))
            module_failed(c, ERR_MODULE_REFUSED, slice_of(m->text, m->n));
    } else if (m->kind == CONTROL_CHUNK && free) {
        chunk(c, slice_of(m->text, m->n));
    } else if (m->kind == CONTROL_FREED && m->number < c->config->n_modules) {
        c->modules[m->number].going = false;
    } else if (free && ((of_one && known) || m->kind == CONTROL_ADD || m->kind == CONTROL_RELOAD ||
                        m->kind == CONTROL_UPGRADE)) {
        bool add = m->kind == CONTROL_ADD;
        c->asked = true;
        c->asked_kind = m->kind;
        c->asked_module = add ? 0 : m->number;
        c->asked_percent = add ? 0 : (uint32_t)strtoul(m->text, NULL, 10) % 100;
        snprintf(c->asked_words, sizeof(c->asked_words), "%.99s", add ? m->text : "");
        next(c);
    }
}

void changes_reload(struct changes *c)
{
    c->reload = true;
    next(c);
}

void changes_upgrade(struct changes *c)
{
    c->upgrade = true;
    next(c);
}

void changes_child(struct changes *c)
{
    struct sys_exit end;
    if (c->state == CHANGE_COMPILE && c->artifact.pid && sys_wait(c->artifact.pid, &end))
        compiled(c, &end);
}

void changes_timer(struct changes *c)
{
    if (c->state != CHANGE_COMPILE || !c->artifact.pid)
        return;
    c->artifact.late = true;
    sys_kill(c->artifact.pid, true); /* its end is told as a child's */
}

void changes_stop(struct changes *c)
{
    struct sys_exit end;
    c->worker = -1;
    if (c->state != CHANGE_COMPILE || !c->artifact.pid)
        return;
    sys_kill(c->artifact.pid, true);
    c->state = CHANGE_IDLE;
    if (!sys_wait_for(c->artifact.pid, KILLED_MS, &end))
        c->artifact.pid = 0;
    if (*c->artifact.made)
        sys_file_remove(c->artifact.made);
}

/* ---- hand-over ---- */

void changes_handover_failed(struct changes *c, struct slice why)
{
    if (c->state != CHANGE_HANDOVER)
        return;
    c->err = ERR_CONFIG_REFUSED;
    buf_clear(&c->failed, 0);
    if (buf_append(&c->failed, slice_of(why.p, MIN(why.n, (size_t)WHY_MAX))))
        buf_clear(&c->failed, 0);
    finish(c);
}

void changes_resume(struct changes *c, int worker)
{
    c->worker = worker;
    c->kind = CONTROL_UPGRADE;
    c->state = CHANGE_HANDOVER;
}

void changes_handover_done(struct changes *c)
{
    struct slice text = SLICE("{\"swapped\":[],\"handover\":true}\n");
    if (c->worker >= 0)
        (void)control_send_bytes(c->worker, c->answers ? CONTROL_ANSWER : CONTROL_CHANGED, ERR_NONE,
                                 text);
    c->worker = -1;
    c->state = CHANGE_IDLE;
}

/* Whether the same source makes the same code for both. */
static bool alike(const struct config_module *a, const struct config_module *b)
{
    bool same = a->n_env == b->n_env && a->limits.memory == b->limits.memory &&
                strcmp(a->name, b->name) == 0 && strcmp(a->path, b->path) == 0 &&
                strcmp(a->engine, b->engine) == 0 && strcmp(a->snapshot, b->snapshot) == 0;
    for (uint32_t i = 0; same && i < a->n_env; i++)
        same = strcmp(a->env[i], b->env[i]) == 0;
    return same;
}

static void module_close(const struct changes_module *m)
{
    if (m->carried)
        return;
    sys_close(m->now.fd);
    sys_close(m->before.fd);
    sys_close(m->canary.fd);
}

/* The number in `c` of the module of that name; as many as there are: none. */
static uint32_t module_named(const struct changes *c, const char *name)
{
    uint32_t i = 0;
    while (i < c->config->n_modules && strcmp(config_of(c, i)->name, name) != 0)
        i++;
    return i;
}

/* One that was added stays, unless the file has one of that name now, or allows fewer. */
static void added_carry(struct changes *c, const struct changes *old, uint32_t j)
{
    char words[CONFIG_WORDS_MAX];
    uint32_t at = c->config->n_modules;
    changes_words(old, j, words);
    if (module_named(c, config_of(old, j)->name) < at || at + 1 >= c->room ||
        !config_module_set(c->config, at, words))
        return;
    c->modules[at] = old->modules[j];
    c->modules[at].carried = true;
}

void changes_carry(struct changes *c, const struct changes *old)
{
    for (uint32_t i = 0; i < c->config->n_modules; i++) {
        uint32_t j = module_named(old, config_of(c, i)->name);
        struct changes_module *m = &c->modules[i];
        if (j == old->config->n_modules)
            continue;
        const struct changes_module *before = &old->modules[j];
        if (config_module_added(config_of(old, j)))
            continue; /* the file has one of that name now */
        if (alike(config_of(c, i), config_of(old, j)) && strcmp(m->file, before->file) == 0) {
            module_close(m);
            *m = *before;
            m->carried = true;
        } else {
            m->now.version.number = m->last = before->last + 1;
        }
    }
    for (uint32_t j = 0; j < old->config->n_modules; j++)
        if (config_module_added(config_of(old, j)) && old->modules[j].now.fd >= 0)
            added_carry(c, old, j);
}

void changes_carried(struct changes *c, struct changes *old)
{
    for (uint32_t i = 0; i < c->config->n_modules; i++) {
        if (c->modules[i].carried)
            old->modules[module_named(old, config_of(c, i)->name)].carried = true;
        c->modules[i].carried = false;
    }
    c->reload = old->reload;
    c->upgrade = old->upgrade;
}

void changes_done(struct changes *c)
{
    for (uint32_t i = 0; c->modules && i < c->config->n_modules; i++)
        module_close(&c->modules[i]);
    if (c->modules)
        mem_free(c->modules, c->room * sizeof(*c->modules));
    buf_done(&c->upload);
    buf_done(&c->swapped);
    buf_done(&c->failed);
    *c = (struct changes){.worker = -1};
}
