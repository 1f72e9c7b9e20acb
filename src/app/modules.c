/* Versions of modules. A new one is loaded beside the old one and tried; then new events run it,
 * and the old one goes with the last event that names it.
 * Where it is an actor, the new one's events wait for that, and its on_unload is that last event.
 *
 *   MODULE -> loaded -> trial (an instance is made) -> in force -> replaced -> last event ->
 * unloaded |         |                                          ^
 *               +---------+--- REFUSED: it is never in force --------+
 *
 * Each loop does so with an engine of its own: the trial goes through all of them, and then, by
 * what they said, either all put the version in force or none does. */
#include <stdio.h>

#include "app/loops.h"
#include "base/log.h"
#include "guest/guest_instance.h"

/* A change on its way through the loops. */
struct change {
    struct errand errand;
    uint32_t number;
    int fd;
    bool promote; /* of a canary's end */
    enum err e;
    struct buf why;
    char versions[VERSIONS_TEXT];
    char words[VERSIONS_TEXT]; /* of one that is added: for the other loops' config_module_set */
};

static const struct config_module *config_of(const struct gateway *gw, const struct module_code *c)
{
    return &gw->config.modules[c->guest.number];
}

static void log_version(enum log_event event, const struct gateway *gw, const struct module_code *c)
{
    bool each = gw->loops && event == LOG_module_unloaded; /* else it happens in all at once */
    if ((gw->number && !each) || !log_begin(event))
        return;
    if (each)
        log_number("loop", gw->number);
    log_text("module", slice_str(c->guest.name));
    log_number("version", c->version.number);
    log_text("sha256", slice_str(c->version.sha256));
    if (c->version.percent)
        log_number("percent", c->version.percent);
    log_text("engine", slice_str(config_of(gw, c)->engine));
    log_text("instance", slice_str(guest_instance_way(&c->guest)));
    log_end();
}

/* Takes fd. */
static enum err code_load(struct gateway *gw, uint32_t number, int fd, const char *versions,
                          struct module_code **out, struct buf *why)
{
    struct module_code *c = mem_alloc(sizeof(*c));
    if (!c) {
        sys_close(fd);
        return ERR_NO_MEMORY;
    }
    memset(c, 0, sizeof(*c));
    list_init(&c->node);
    gateway_module_init(&gw->config, number, &c->guest);
    c->guest.counts = &gw->states[number].counts;
    control_versions_read(versions, &c->version, &c->before);
    bool pulley = strcmp(gw->config.modules[number].engine, "pulley") == 0;
    enum err e = guest_load(&gw->guests, &c->guest, pulley, fd, why);
    if (!e && (e = gateway_module_check(&gw->config, number, &c->guest, why)) != ERR_NONE)
        guest_unload(&c->guest);
    if (e) {
        mem_free(c, sizeof(*c));
        return e;
    }
    *out = c;
    return ERR_NONE;
}

enum err modules_load(struct gateway *gw, uint32_t number, int fd, const char *versions,
                      struct buf *why)
{
    struct module_code *c;
    enum err e = code_load(gw, number, fd, versions, &c, why);
    if (e)
        return e;
    if (c->version.percent) {
        gw->states[number].canary = c;
    } else {
        gw->states[number].code = c;
        metrics.modules_added += !gw->number && config_module_added(config_of(gw, c));
    }
    log_version(LOG_module_loaded, gw, c);
    return ERR_NONE;
}

static void replace(struct gateway *gw, struct module_code *c)
{
    if (!c)
        return;
    list_append(&gw->replaced, &c->node);
    metrics.module_versions_replaced++;
}

/* Nothing starts for the module in this place any more. places_free lets the errand go on. */
static void place_leave(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    if (ch->number >= gw->config.n_modules) /* this loop was never told of it */
        ASSERT(config_module_set(&gw->config, ch->number, NULL));
    gw->states[ch->number].going = ch;
    gw->n_going++;
}

/* All loops have left it. */
static void place_left(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    kv_done(gw->states[ch->number].kv);
    control_send(SYS_CONTROL_FD, CONTROL_FREED, ch->number, "", -1);
    mem_free(ch, sizeof(*ch));
}

/* The end, which the supervisor is told. A place without a module is left. */
static void change_end(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    struct slice why = ch->why.len ? buf_slice(&ch->why) : slice_str(err_text(ch->e));
    control_send_bytes(SYS_CONTROL_FD, ch->e ? CONTROL_REFUSED : CONTROL_LOADED, ch->number,
                       ch->e ? why : SLICE_NONE);
    sys_close(ch->fd);
    buf_done(&ch->why);
    if (gw->states[ch->number].code || gw->states[ch->number].going) {
        mem_free(ch, sizeof(*ch));
        return;
    }
    errand->visit = place_leave;
    errand->home = place_left;
    errand_start(gw, errand);
}

/* NULL: there is no memory, which the supervisor was told. */
static struct change *change_new(uint32_t number, int fd,
                                 void (*visit)(struct gateway *gw, struct errand *e),
                                 void (*home)(struct gateway *gw, struct errand *e))
{
    struct change *ch = mem_alloc(sizeof(*ch));
    if (!ch) {
        control_send(SYS_CONTROL_FD, CONTROL_REFUSED, number, err_text(ERR_NO_MEMORY), -1);
        sys_close(fd);
        return NULL;
    }
    *ch = (struct change){.errand = {.visit = visit, .home = home}, .number = number, .fd = fd};
    buf_init(&ch->why, 8192);
    return ch;
}

static void change_refuse(struct change *ch, enum err e, struct slice why)
{
    ch->e = e;
    if (!ch->why.len && buf_append(&ch->why, why))
        buf_clear(&ch->why, 0);
}

/* The actor that c takes over from may leave to it what it knows: so c's first event comes after
 * its last one, in an instance that begins then. */
static void actor_wait(const struct module_code *old, struct module_code *c)
{
    if (!old || !c->guest.actor)
        return;
    c->guest.held = true;
    if (old->guest.exports[GUEST_on_unload])
        guest_instances_drop(&c->guest);
}

/* Whether an actor's last event was started just now, or can't be yet. */
static bool actor_unloads(struct gateway *gw, struct module_code *c)
{
    struct guest_module *m = &c->guest;
    if (!c->version.number || !m->actor || !m->n_kept || !m->exports[GUEST_on_unload] || c->told)
        return false;
    struct event *ev = event_new(gw, NULL, GUEST_on_unload, m, m->exports[GUEST_on_unload]);
    c->told = ev && event_queue(ev) == ERR_NONE;
    return true;
}

static void code_drop(struct gateway *gw, struct module_code *c)
{
    if (c)
        c->version.number = 0; /* it was never in force */
    replace(gw, c);
}

/* In each loop, once all have tried it: in force, or dropped. */
static void change_settle(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    struct module_state *s = &gw->states[ch->number];
    struct module_code *c = s->trial;
    s->trial = NULL;
    if (ch->e) {
        code_drop(gw, c);
    } else {
        replace(gw, s->canary);
        s->canary = c->version.percent ? c : NULL;
        bool first = !s->code;
        if (!s->canary) {
            metrics.modules_added += first && !gw->number;
            actor_wait(s->code, c);
            replace(gw, s->code);
            s->code = c;
        }
        metrics.module_swaps_total += !gw->number;
        log_version(first ? LOG_module_loaded : LOG_module_swapped, gw, c);
    }
    errand_next(gw, errand);
}

static void change_tried(struct gateway *gw, struct errand *errand)
{
    errand->visit = change_settle;
    errand->home = change_end;
    errand_start(gw, errand);
}

/* A loop's trial's end. */
static void tried(struct guest_call *call, enum err e)
{
    struct event *ev = CONTAINER_OF(call, struct event, call);
    struct gateway *gw = ev->gw;
    struct module_code *c = CONTAINER_OF(call->module, struct module_code, guest);
    struct change *ch = c->change;
    if (ev->said)
        command_lines_end(ev);
    if (e) {
        change_refuse(ch, e, ev->copy.len ? buf_slice(&ev->copy) : slice_str(err_text(e)));
        code_drop(gw, c);
    } else {
        gw->states[c->guest.number].trial = c;
    }
    errand_next(gw, &ch->errand);
    event_free(ev);
}

void modules_leave(struct gateway *gw)
{
    for (uint32_t i = 0; i < gw->config.n_modules; i++)
        if (gw->states[i].code)
            actor_unloads(gw, gw->states[i].code);
}

void modules_stay(struct gateway *gw)
{
    for (uint32_t i = 0; i < gw->config.n_modules; i++) {
        struct module_code *c = gw->states[i].code;
        if (!c)
            continue;
        if (c->told)
            guest_instances_drop(&c->guest);
        c->told = false;
    }
}

/* Whether an actor of an older version has an event yet: its instance's place is taken. */
static bool actor_lingers(const struct gateway *gw, uint32_t number)
{
    for (const struct list *n = gw->replaced.next; n != &gw->replaced; n = n->next) {
        const struct module_code *c = CONTAINER_OF(n, struct module_code, node);
        if (c->guest.number == number && c->guest.actor && c->guest.refs)
            return true;
    }
    return false;
}

static void change_try(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    struct module_code *c = NULL;
    int fd = ch->e ? -1 : sys_dup(ch->fd);
    if (!ch->e && gw->number && *ch->words)
        ASSERT(config_module_set(&gw->config, ch->number, ch->words));
    if (!ch->e && actor_lingers(gw, ch->number))
        change_refuse(ch, ERR_MODULE_REFUSED,
                      SLICE("an event of the version before the present one still runs"));
    else if (!ch->e && gw->loops && strcmp(gw->config.modules[ch->number].instance, "module") == 0)
        change_refuse(ch, ERR_MODULE_REFUSED,
                      SLICE("instance: module has one place for all its events: workers: 1"));
    else if (!ch->e && fd < 0)
        ch->e = ERR_SYS;
    if (ch->e) {
        sys_close(fd);
        errand_next(gw, errand);
        return;
    }
    ch->e = code_load(gw, ch->number, fd, ch->versions, &c, &ch->why);
    struct event *ev = ch->e ? NULL : event_new(gw, NULL, GUEST_EXPORTS, &c->guest, c->guest.begin);
    if (ev) {
        c->change = ch;
        ev->call.frame.n_results = 0;
        ev->call.done = tried;
        ch->e = event_queue(ev);
    } else if (!ch->e) {
        ch->e = ERR_NO_MEMORY;
    }
    if (ch->e) {
        code_drop(gw, c);
        errand_next(gw, errand);
    }
}

void modules_swap(struct gateway *gw, uint32_t number, int fd, const char *versions)
{
    struct change *ch = change_new(number, fd, change_try, change_tried);
    if (!ch)
        return;
    const struct config_module *m = &gw->config.modules[number];
    snprintf(ch->versions, sizeof(ch->versions), "%s", versions);
    if (!gw->states[number].code)
        snprintf(ch->words, sizeof(ch->words), "%s %s %s %s", m->engine, m->instance, m->exec,
                 m->name);
    errand_start(gw, &ch->errand);
}

static void canary_end(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    struct module_state *s = &gw->states[ch->number];
    struct module_code *c = s->canary;
    if (!c) {
        change_refuse(ch, ERR_MODULE_NO_VERSION, SLICE("there is no canary"));
    } else {
        s->canary = NULL;
        replace(gw, ch->promote ? s->code : c);
    }
    if (c && ch->promote) {
        s->code = c;
        c->version.percent = 0;
        metrics.module_swaps_total += !gw->number;
        log_version(LOG_module_swapped, gw, c);
    }
    errand_next(gw, errand);
}

void modules_canary_end(struct gateway *gw, uint32_t number, bool promote)
{
    struct change *ch = change_new(number, -1, canary_end, change_end);
    if (!ch)
        return;
    ch->promote = promote;
    errand_start(gw, &ch->errand);
}

void modules_foresee(struct gateway *gw)
{
    struct buf why;
    buf_init(&why, 8192);
    if (gw->config.admin.modules && !gw->guests.engines[0] && !gw->guests.engines[1] &&
        guest_engine(&gw->guests, false, &why) && log_begin(LOG_module_refused)) {
        log_text("detail", buf_slice(&why)); /* and so will be each that is added */
        log_end();
    }
    buf_done(&why);
}

int modules_find(const struct gateway *gw, struct slice name)
{
    for (uint32_t i = 0; i < gw->config.n_modules; i++)
        if (gw->states[i].code && slice_eq(slice_str(gw->config.modules[i].name), name))
            return (int)i;
    return -1;
}

/* The other loops hear of it with its code. */
void modules_add(struct gateway *gw, uint32_t number, const char *words)
{
    /* The supervisor gives a place only when it was told that it is free. */
    ASSERT(number < gw->states_max && !gw->states[number].code && !gw->states[number].going);
    ASSERT(config_module_set(&gw->config, number, words));
    if (!gw->number)
        kv_init(gw->states[number].kv, gw->config.modules[number].limits.kv);
}

static void remove_visit(struct gateway *gw, struct errand *errand)
{
    struct change *ch = CONTAINER_OF(errand, struct change, errand);
    struct module_state *s = &gw->states[ch->number];
    if (!gw->number && (!s->code || !config_module_added(&gw->config.modules[ch->number])))
        change_refuse(ch, ERR_MODULE_UNKNOWN, SLICE("no such module was added"));
    if (!ch->e) {
        log_version(LOG_module_removed, gw, s->code);
        metrics.modules_added -= !gw->number;
        replace(gw, s->canary);
        replace(gw, s->code);
        s->code = s->canary = NULL;
    }
    errand_next(gw, errand);
}

void modules_remove(struct gateway *gw, uint32_t number)
{
    struct change *ch = change_new(number, -1, remove_visit, change_end);
    if (ch)
        errand_start(gw, &ch->errand);
}

static bool replaced_has(const struct gateway *gw, uint32_t number)
{
    for (const struct list *n = gw->replaced.next; n != &gw->replaced; n = n->next)
        if (CONTAINER_OF(n, struct module_code, node)->guest.number == number)
            return true;
    return false;
}

/* What the last events of those that leave have stored and set goes with them. */
static void places_free(struct gateway *gw)
{
    for (uint32_t i = 0; gw->n_going && i < gw->config.n_modules; i++) {
        struct module_state *s = &gw->states[i];
        if (!s->going || replaced_has(gw, i))
            continue;
        struct errand *errand = &s->going->errand;
        timers_drop(&gw->timers, i);
        *s = (struct module_state){.kv = s->kv};
        gw->n_going--;
        ASSERT(config_module_set(&gw->config, i, NULL));
        errand_next(gw, errand);
    }
}

/* The next version of an actor whose last event has gone need not wait any more. */
static void actor_release(struct gateway *gw, uint32_t number)
{
    if (gw->states[number].code)
        gw->states[number].code->guest.held = false;
    for (struct list *n = gw->replaced.next; n != &gw->replaced; n = n->next) {
        struct module_code *c = CONTAINER_OF(n, struct module_code, node);
        if (c->guest.number == number)
            c->guest.held = false;
    }
}

void modules_reap(struct gateway *gw)
{
    for (struct list *n = gw->replaced.next, *next; n != &gw->replaced; n = next) {
        struct module_code *c = CONTAINER_OF(n, struct module_code, node);
        next = n->next;
        if (c->guest.refs || actor_unloads(gw, c))
            continue;
        if (c->version.number)
            actor_release(gw, c->guest.number);
        list_remove(n);
        if (c->version.number) /* it was in force */
            log_version(LOG_module_unloaded, gw, c);
        pprof_code_gone(gw, &c->guest);
        guest_unload(&c->guest);
        mem_free(c, sizeof(*c));
        metrics.module_versions_replaced--;
    }
    places_free(gw);
}
