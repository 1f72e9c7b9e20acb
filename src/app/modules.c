/* Versions of modules. A new one is loaded beside the old one and tried; then new events run it,
 * and the old one goes with the last event that names it.
 * Where it is an actor, the new one's events wait for that, and its on_unload is that last event.
 *
 *   MODULE -> loaded -> trial (an instance is made) -> in force -> replaced -> last event ->
 * unloaded |         |                                          ^
 *               +---------+--- REFUSED: it is never in force --------+ */
#include "app/gateway.h"
#include "base/log.h"
#include "guest/guest_instance.h"

static const struct config_module *config_of(const struct gateway *gw, const struct module_code *c)
{
    return &gw->config.modules[c->guest.number];
}

static void log_version(enum log_event event, const struct gateway *gw, const struct module_code *c)
{
    if (!log_begin(event))
        return;
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
        metrics.modules_added += config_module_added(config_of(gw, c));
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

/* Nothing starts for the module in this place any more. */
static void leave(struct gateway *gw, uint32_t number)
{
    gw->n_going += !gw->states[number].going;
    gw->states[number].going = true;
}

static void refuse(struct gateway *gw, uint32_t number, struct slice why)
{
    control_send_bytes(SYS_CONTROL_FD, CONTROL_REFUSED, number, why);
    if (!gw->states[number].code)
        leave(gw, number);
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

/* The trial's end. */
static void tried(struct guest_call *call, enum err e)
{
    struct event *ev = CONTAINER_OF(call, struct event, call);
    struct gateway *gw = ev->gw;
    struct module_code *c = CONTAINER_OF(call->module, struct module_code, guest);
    uint32_t number = c->guest.number;
    struct module_state *s = &gw->states[number];
    if (ev->said)
        command_lines_end(ev);
    if (e) {
        refuse(gw, number, ev->copy.len ? buf_slice(&ev->copy) : slice_str(err_text(e)));
        c->version.number = 0;
        replace(gw, c);
    } else {
        replace(gw, s->canary);
        s->canary = c->version.percent ? c : NULL;
        bool first = !s->code;
        if (!s->canary) {
            metrics.modules_added += first;
            actor_wait(s->code, c);
            replace(gw, s->code);
            s->code = c;
        }
        metrics.module_swaps_total++;
        log_version(first ? LOG_module_loaded : LOG_module_swapped, gw, c);
        control_send(SYS_CONTROL_FD, CONTROL_LOADED, number, "", -1);
    }
    event_free(ev);
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

void modules_swap(struct gateway *gw, uint32_t number, int fd, const char *versions)
{
    struct module_code *c = NULL;
    struct buf why;
    if (actor_lingers(gw, number)) {
        sys_close(fd);
        refuse(gw, number, SLICE("an event of the version before the present one still runs"));
        return;
    }
    buf_init(&why, 8192);
    enum err e = code_load(gw, number, fd, versions, &c, &why);
    struct event *ev = e ? NULL : event_new(gw, NULL, GUEST_EXPORTS, &c->guest, c->guest.begin);
    if (ev) {
        ev->call.frame.n_results = 0;
        ev->call.done = tried;
        e = event_queue(ev);
    } else if (!e) {
        e = ERR_NO_MEMORY;
    }
    if (e) {
        refuse(gw, number, why.len ? buf_slice(&why) : slice_str(err_text(e)));
        if (c) {
            c->version.number = 0;
            replace(gw, c);
        }
    }
    buf_done(&why);
}

void modules_canary_end(struct gateway *gw, uint32_t number, bool promote)
{
    struct module_state *s = &gw->states[number];
    struct module_code *c = s->canary;
    if (!c) {
        refuse(gw, number, SLICE("there is no canary"));
        return;
    }
    s->canary = NULL;
    replace(gw, promote ? s->code : c);
    if (promote) {
        s->code = c;
        c->version.percent = 0;
        metrics.module_swaps_total++;
        log_version(LOG_module_swapped, gw, c);
    }
    control_send(SYS_CONTROL_FD, CONTROL_LOADED, number, "", -1);
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

void modules_add(struct gateway *gw, uint32_t number, const char *words)
{
    /* The supervisor gives a place only when it was told that it is free. */
    ASSERT(number < gw->states_max && !gw->states[number].code && !gw->states[number].going);
    ASSERT(config_module_set(&gw->config, number, words));
    kv_init(&gw->states[number].kv, gw->config.modules[number].limits.kv);
}

void modules_remove(struct gateway *gw, uint32_t number)
{
    struct module_state *s = &gw->states[number];
    if (!s->code || !config_module_added(&gw->config.modules[number])) {
        refuse(gw, number, SLICE("no such module was added"));
        return;
    }
    log_version(LOG_module_removed, gw, s->code);
    metrics.modules_added--;
    replace(gw, s->canary);
    replace(gw, s->code);
    s->code = s->canary = NULL;
    leave(gw, number);
    control_send(SYS_CONTROL_FD, CONTROL_LOADED, number, "", -1);
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
        timers_drop(&gw->timers, i);
        kv_done(&s->kv);
        memset(s, 0, sizeof(*s));
        gw->n_going--;
        ASSERT(config_module_set(&gw->config, i, NULL));
        control_send(SYS_CONTROL_FD, CONTROL_FREED, i, "", -1);
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
        guest_unload(&c->guest);
        mem_free(c, sizeof(*c));
        metrics.module_versions_replaced--;
    }
    places_free(gw);
}
