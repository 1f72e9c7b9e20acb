#include "app/resume.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/commands.h"
#include "app/supervisor.h"

enum { STATE_MAX = 4 << 20 };
static const char variable[] = "WEIR_RESUME";

/* ---- writing ---- */

static json_t *artifact_json(const struct module_artifact *a)
{
    const struct module_version *v = &a->version;
    return json_pack("{s:i, s:I, s:I, s:s, s:I}", "fd", a->fd, "number", (json_int_t)v->number,
                     "percent", (json_int_t)v->percent, "sha256", v->sha256, "since_ms",
                     (json_int_t)v->since_ms);
}

static json_t *state_json(const struct supervisor *s)
{
    const struct service *v = &s->now;
    json_t *listeners = json_array(), *modules = json_array(), *leaving = json_array();
    for (unsigned i = 0; i < v->n_listeners; i++)
        json_array_append_new(listeners, json_integer(v->listeners[i]));
    for (uint32_t i = 0; i < v->config.n_modules; i++) {
        const struct changes_module *m = &v->changes.modules[i];
        char words[CONFIG_WORDS_MAX] = "";
        if (config_module_added(&v->config.modules[i]) && m->now.fd >= 0)
            changes_words(&v->changes, i, words);
        json_t *o = json_pack("{s:s, s:s, s:I}", "words", words, "file", m->file, "last",
                              (json_int_t)m->last);
        json_object_set_new(o, "now", artifact_json(&m->now));
        json_object_set_new(o, "before", artifact_json(&m->before));
        json_object_set_new(o, "canary", artifact_json(&m->canary));
        json_array_append_new(modules, o);
    }
    for (unsigned i = 0; i < LEAVING_MAX; i++) {
        const struct leaving *l = &s->succession.leaving[i];
        if (l->pid)
            json_array_append_new(leaving, json_pack("[i, i]", (int)l->pid, l->control));
    }
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:[i,i], s:i, s:i, s:i, s:b, s:o, s:o, s:o}",
                     "format", RESUME_FORMAT, "slots", (int)s->slots, "yaml", v->yaml, "next",
                     s->succession.next.yaml, "keys", v->keys, "log", s->log[0], s->log[1],
                     "worker", (int)s->worker, "control", s->control, "restarts", (int)s->restarts,
                     "answers", (int)v->changes.answers, "listeners", listeners, "modules", modules,
                     "leaving", leaving);
}

/* What the next program finds open. */
static void inherit_all(const struct supervisor *s, bool inherit)
{
    const struct service *v = &s->now;
    int fixed[] = {v->yaml, s->succession.next.yaml, v->keys, s->log[0], s->log[1], s->control};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        sys_inherit(fixed[i], inherit);
    for (unsigned i = 0; i < v->n_listeners; i++)
        sys_inherit(v->listeners[i], inherit);
    for (uint32_t i = 0; i < v->config.n_modules; i++) {
        const struct changes_module *m = &v->changes.modules[i];
        sys_inherit(m->now.fd, inherit);
        sys_inherit(m->before.fd, inherit);
        sys_inherit(m->canary.fd, inherit);
    }
    for (unsigned i = 0; i < LEAVING_MAX; i++)
        if (s->succession.leaving[i].pid)
            sys_inherit(s->succession.leaving[i].control, inherit);
}

const char *resume_exec(struct supervisor *s, const char *path)
{
    const char *argv[] = {"weir", "serve", s->file, NULL};
    json_t *state = state_json(s);
    char number[16];
    struct buf text;
    buf_init(&text, STATE_MAX);
    size_t n = state ? json_dumpb(state, NULL, 0, JSON_COMPACT) : 0;
    int fd = -1;
    if (n && !buf_reserve(&text, n)) {
        text.len = (uint32_t)json_dumpb(state, (char *)text.p, n, JSON_COMPACT);
        fd = sys_memfd_sealed("weir-state", buf_slice(&text));
    }
    buf_done(&text);
    json_decref(state);
    if (fd < 0)
        return "no memory for its state";
    snprintf(number, sizeof(number), "%d", fd);
    setenv(variable, number, 1);
    inherit_all(s, true);
    sys_inherit(fd, true);
    int e = sys_exec(path, argv);
    inherit_all(s, false);
    unsetenv(variable);
    sys_close(fd);
    return strerror(-e);
}

/* ---- reading ---- */

int resume_asked(void)
{
    const char *text = getenv(variable);
    int fd = text ? atoi(text) : -1;
    unsetenv(variable); /* no child is to go on with it */
    return fd > SYS_CONTROL_FD - 1 ? fd : -1;
}

static int number_of(const json_t *o, const char *key)
{
    return (int)json_integer_value(json_object_get(o, key));
}

static bool artifact_read(const json_t *o, struct module_artifact *a)
{
    const char *sha256 = json_string_value(json_object_get(o, "sha256"));
    if (!sha256 || strlen(sha256) >= sizeof(a->version.sha256))
        return false;
    a->fd = number_of(o, "fd");
    a->version.number = (uint32_t)number_of(o, "number");
    a->version.percent = (uint32_t)number_of(o, "percent");
    a->version.since_ms = (uint64_t)json_integer_value(json_object_get(o, "since_ms"));
    memcpy(a->version.sha256, sha256, strlen(sha256) + 1);
    return true;
}

static bool modules_read(struct supervisor *s, const json_t *modules)
{
    struct changes *c = &s->now.changes;
    const json_t *o;
    size_t i;
    if (!changes_restore(c, &s->now.config, s->file, &s->loop) ||
        json_array_size(modules) >= c->room)
        return false;
    json_array_foreach(modules, i, o)
    {
        struct changes_module *m = &c->modules[i];
        const char *words = json_string_value(json_object_get(o, "words"));
        if (i >= s->now.config.n_modules &&
            (!words || !config_module_set(&s->now.config, (uint32_t)i, *words ? words : NULL)))
            return false;
        const char *file = json_string_value(json_object_get(o, "file"));
        if (!file || strlen(file) >= sizeof(m->file) ||
            !artifact_read(json_object_get(o, "now"), &m->now) ||
            !artifact_read(json_object_get(o, "before"), &m->before) ||
            !artifact_read(json_object_get(o, "canary"), &m->canary))
            return false;
        memcpy(m->file, file, strlen(file) + 1);
        m->last = (uint32_t)number_of(o, "last");
    }
    return true;
}

static bool state_read(struct supervisor *s, const json_t *o)
{
    const json_t *listeners = json_object_get(o, "listeners"), *log = json_object_get(o, "log");
    const json_t *leaving = json_object_get(o, "leaving"), *item;
    struct buf errors;
    size_t i;
    s->now.yaml = number_of(o, "yaml");
    s->now.keys = number_of(o, "keys");
    s->succession.next.yaml = number_of(o, "next");
    buf_init(&errors, 64 << 10);
    enum err e = check_config_read(s->now.yaml, s->file, &s->now.config, &errors);
    buf_done(&errors);
    if (e || number_of(o, "format") != RESUME_FORMAT ||
        json_array_size(listeners) > ARRAY_LEN(s->now.listeners) ||
        json_array_size(leaving) > LEAVING_MAX || !supervisor_user(s, true) ||
        !modules_read(s, json_object_get(o, "modules")))
        return false;
    /* Where they can't be read, a worker of the configuration in force can't be started again; the
     * one that serves has them. */
    (void)certificates_open(&s->now.certificates, &s->now.config, s->file, &s->loop);
    s->now.certificates.worker = number_of(o, "control");
    s->log[0] = (int)json_integer_value(json_array_get(log, 0));
    s->log[1] = (int)json_integer_value(json_array_get(log, 1));
    s->worker = number_of(o, "worker");
    s->control = number_of(o, "control");
    s->restarts = (uint32_t)number_of(o, "restarts");
    s->slots = (uint32_t)number_of(o, "slots");
    s->now.changes.answers = json_is_true(json_object_get(o, "answers"));
    json_array_foreach(listeners, i, item)
        s->now.listeners[s->now.n_listeners++] = (int)json_integer_value(item);
    json_array_foreach(leaving, i, item)
    {
        struct leaving *l = &s->succession.leaving[i];
        l->pid = (pid_t)json_integer_value(json_array_get(item, 0));
        l->control = (int)json_integer_value(json_array_get(item, 1));
    }
    return true;
}

bool resume_read(struct supervisor *s, int fd)
{
    struct slice text;
    bool ok = false;
    if (sys_fd_read(fd, STATE_MAX, &text) == ERR_NONE) {
        json_t *o = json_loadb((const char *)text.p, text.n, 0, NULL);
        ok = o && state_read(s, o);
        json_decref(o);
        sys_read_free(text);
    }
    sys_close(fd);
    if (ok)
        inherit_all(s, false);
    else
        fprintf(stderr, "weir: the state of the program before can't be read\n");
    return ok;
}
