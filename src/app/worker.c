#include "app/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "app/control.h"
#include "app/json.h"
#include "app/loops.h"
#include "app/memory.h"
#include "base/hash.h"
#include "base/log.h"
#include "sys/sys_cage.h"

static struct gateway gateway;

static uint64_t supervisor_pss;

static bool configure(struct gateway *gw, int fd, const struct control *start)
{
    struct slice yaml;
    uint8_t seed[16];
    struct buf errors;
    struct log_output output = {sys_log_write, sys_wall_ms};
    enum log_level least = LOG_INFO;
    buf_init(&errors, 64 << 10);
    enum err e = sys_fd_read(fd, CONFIG_MAX, &yaml);
    bool read = !e;
    sys_close(fd);
    e = e ? e : config_parse(yaml, "weir.yaml", &gw->config, &errors);
    if (!e && !log_level_parse(gw->config.root.log_level, &least))
        e = ERR_INVALID;
    log_open(&output, least);
    log_bound((uint32_t)gw->config.root.log_rate);
    sys_random(seed, sizeof(seed));
    hash_seed(seed);
    e = e ? e : pprof_open(gw);
    e = e ? e : loops_init(gw, yaml);
    if (read)
        sys_read_free(yaml);
    buf_done(&errors);
    metrics.worker_restarts = start->number;
    struct sys_user *u = &gw->config.run_as;
    int other = 0;
    if (sscanf(start->text, "%" SCNu64 " %d %" SCNu32 " %" SCNu32, &supervisor_pss, &other, &u->uid,
               &u->gid) != 4)
        e = ERR_INVALID;
    u->other = other;
    return !e;
}

/* Answers LOADED or REFUSED. false: the supervisor has gone. */
static bool load(struct gateway *gw, uint32_t i, int fd, const char *versions)
{
    struct buf why;
    enum err e = ERR_NONE;
    buf_init(&why, 8192);
    for (uint32_t n = loops_count(gw); n-- > 0 && !e;) {
        int of_loop = n ? sys_dup(fd) : fd; /* the first one's is the last */
        e = modules_load(loops_at(gw, n), i, of_loop, versions, &why);
        if (e && n)
            sys_close(fd);
    }
    struct slice text = !e        ? slice_str(gw->states[i].canary ? "canary" : "")
                        : why.len ? buf_slice(&why)
                                  : slice_str(err_text(e));
    bool sent = control_send_bytes(SYS_CONTROL_FD, e ? CONTROL_REFUSED : CONTROL_LOADED, i, text);
    buf_done(&why);
    return sent;
}

static bool keys_take(struct gateway *gw, int fd)
{
    struct slice keys;
    enum err e = sys_fd_read(fd, (size_t)gw->config.n_jwts * (CONFIG_KEY_MAX + 1), &keys);
    sys_close(fd);
    bool ok = !e;
    for (uint32_t i = 0; i < loops_count(gw) && ok; i++)
        ok = config_keys_read(&loops_at(gw, i)->config, keys);
    if (!e)
        sys_read_free(keys);
    return ok;
}

/* A public listener's sockets come one after the other, one for each loop. */
static enum err listen_on(struct gateway *gw, int fd, bool admin)
{
    static uint32_t sockets;
    return gateway_listen(admin ? gw : loops_at(gw, sockets++ % loops_count(gw)), fd, admin);
}

/* All that comes before SERVE. *stop: it was told to end before. */
static bool prepare(struct gateway *gw, bool *stop)
{
    struct control m;
    int fd;
    bool configured = false, refused = false;
    while (control_recv(SYS_CONTROL_FD, &m, &fd)) {
        bool ok = true;
        if (refused)
            sys_close(fd); /* it ends us */
        else if (m.kind == CONTROL_START && !configured)
            ok = configured = configure(gw, fd, &m);
        else if (m.kind == CONTROL_LISTENER && configured)
            ok = listen_on(gw, fd, m.number) == ERR_NONE;
        else if (m.kind == CONTROL_ADD && configured)
            for (uint32_t i = 0; i < loops_count(gw); i++)
                modules_add(loops_at(gw, i), m.number, m.text);
        else if (m.kind == CONTROL_KEYS && configured)
            ok = keys_take(gw, fd);
        else if ((m.kind == CONTROL_TLS && configured && m.number < gw->n_listeners) ||
                 (m.kind == CONTROL_TICKETS && configured))
            refused |= !worker_tls(gw, &m, fd, true);
        else if (m.kind == CONTROL_MODULE && configured && fd >= 0 &&
                 m.number < gw->config.n_modules)
            ok = load(gw, m.number, fd, m.text);
        else {
            *stop = m.kind == CONTROL_DRAIN;
            for (uint32_t i = 0; m.kind == CONTROL_SERVE && i < loops_count(gw); i++)
                gateway_serve(loops_at(gw, i));
            return (m.kind == CONTROL_SERVE || m.kind == CONTROL_SUCCEED) && configured;
        }
        if (!ok)
            return false;
    }
    return false;
}

/* The old worker's connections are taken, or there is none: now it is this one's turn. */
static void succeed(struct gateway *gw, int fd, uint32_t slots)
{
    if (fd >= 0)
        handover_take(gw, fd, slots);
    for (uint32_t i = 0; i < loops_count(gw); i++)
        gateway_serve(loops_at(gw, i));
    control_send(SYS_CONTROL_FD, CONTROL_TAKEN, 0, "", -1);
}

static void on_control(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)slot, (void)generation, (void)ready;
    struct gateway *gw = arg;
    struct control m;
    int fd;
    if (!control_recv(SYS_CONTROL_FD, &m, &fd)) {
        sys_poller_remove(gw->loop.poller, SYS_CONTROL_FD); /* the supervisor has gone */
        loops_drain(gw);
    } else if (m.kind == CONTROL_MODULE && fd >= 0 && m.number < gw->config.n_modules) {
        modules_swap(gw, m.number, fd, m.text);
    } else if (m.kind == CONTROL_ADD) {
        sys_close(fd);
        modules_add(gw, m.number, m.text);
    } else if (m.kind == CONTROL_REMOVE && m.number < gw->config.n_modules) {
        sys_close(fd);
        modules_remove(gw, m.number);
    } else if ((m.kind == CONTROL_TLS && m.number < gw->n_listeners) || m.kind == CONTROL_TICKETS) {
        (void)worker_tls(gw, &m, fd, false); /* it is answered */
    } else if ((m.kind == CONTROL_PROMOTE || m.kind == CONTROL_DROP) &&
               m.number < gw->config.n_modules) {
        sys_close(fd);
        modules_canary_end(gw, m.number, m.kind == CONTROL_PROMOTE);
    } else if (m.kind == CONTROL_GIVE) {
        handover_give(gw, fd);
    } else if (m.kind == CONTROL_TAKE) {
        succeed(gw, fd, m.number);
    } else {
        sys_close(fd);
        if (m.kind == CONTROL_DRAIN)
            loops_drain(gw);
        else
            modules_answer(gw, &m);
    }
}

static void on_signal(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)generation, (void)ready;
    struct gateway *gw = arg;
    if (sys_signal_next((int)slot) == SYS_SIGNAL_STOP)
        loops_drain(gw);
}

/* What the process takes from outside at its first use, and could not once it is caged. */
static void foresee(void)
{
    size_t seed;
    sys_random(&seed, sizeof(seed));
    json_object_seed(seed | 1); /* else from /dev/urandom */
}

/* What is there now is measured, and all that comes is counted. false: it is too much already. */
static bool promise(const struct gateway *gw)
{
    sys_memory_trim();
    uint64_t pss = sys_memory_pss() + supervisor_pss, total = gw->config.limits.memory;
    bool kept = mem_promise(total, pss);
    for (uint32_t i = 0; kept && i < gw->config.n_modules; i++)
        kept = !gw->states[i].code || guests_fit(&gw->states[i].code->guest);
    if (!kept && log_begin(LOG_memory_short)) {
        log_number("limits_memory", (int64_t)total);
        log_number("pss", (int64_t)pss);
        log_end();
    }
    return kept;
}

static void layer_missing(const char *layer, const char *why)
{
    if (log_begin(LOG_sandbox_missing)) {
        log_text("layer", slice_str(layer));
        log_text("detail", slice_str(why));
        log_end();
    }
}

/* With sandbox: off as well. What is opened as root was opened before: the engines' page maps. */
static bool become_user(const struct sys_user *u)
{
    int e = sys_cage_user(u);
    if (e && log_begin(LOG_user_refused)) {
        log_number("uid", u->uid);
        log_number("gid", u->gid);
        log_text("detail", slice_str(strerror(e)));
        log_end();
    }
    return !e;
}

/* The loops' threads are started within what holds for a thread and those that it starts; the rest
 * holds for all, or forbids to start one. false: they can't be. */
static bool cage_enter(struct gateway *gw, struct sys_cage *made)
{
    struct sys_cage rest;
    sys_cage_enter(SYS_CAGE_FIRST, made);
    bool started = loops_start(gw);
    sys_cage_enter(SYS_CAGE_ALL & ~SYS_CAGE_FIRST, &rest);
    for (int i = 0; i < SYS_CAGE_LAYERS; i++)
        if (!(SYS_CAGE_FIRST >> i & 1))
            made->missing[i] = rest.missing[i];
    return started;
}

/* false: `sandbox: require`, and a layer is missing; or the loops' threads can't be started. */
static bool cage(struct gateway *gw)
{
    const char *mode = gw->config.root.sandbox;
    struct sys_cage made;
    struct buf layers;
    bool whole = true;
    if (strcmp(mode, "off") == 0) {
        layer_missing("all", "sandbox: off");
        return loops_start(gw);
    }
    foresee();
    bool started = cage_enter(gw, &made);
    buf_init(&layers, 256);
    for (int i = 0; i < SYS_CAGE_LAYERS; i++) {
        const char *name = sys_cage_layer_name((enum sys_cage_layer)i);
        whole = whole && !made.missing[i];
        if (made.missing[i])
            layer_missing(name, made.missing[i]);
        else if (buf_printf(&layers, "%s%s", layers.len ? " " : "", name))
            whole = false; /* no memory: no more is known of it */
    }
    bool refused = !whole && strcmp(mode, "require") == 0;
    if (log_begin(refused ? LOG_sandbox_refused : LOG_sandbox_ready)) {
        log_text("layers", buf_slice(&layers));
        log_number("landlock_abi", made.landlock_abi);
        log_end();
    }
    buf_done(&layers);
    return !refused && started;
}

int worker_main(void)
{
    struct gateway *gw = &gateway;
    uint32_t descriptors = sys_fd_limit();
    if (sys_user_root() && sys_cage_privileges(SYS_CAGE_WORKER))
        return EXIT_FAILURE;
    int signals = sys_signals_open();
    bool stop = false;
    json_init();
    if (!prepare(gw, &stop) || signals < 0)
        return stop ? EXIT_SUCCESS : EXIT_FAILURE;
    loop_on(&gw->loop, LOOP_CONTROL, on_control, NULL, gw);
    loop_on(&gw->loop, LOOP_SIGNAL, on_signal, NULL, gw);
    sys_poller_add(gw->loop.poller, SYS_CONTROL_FD, SYS_IN, loop_data(LOOP_CONTROL, 0, 0));
    sys_poller_add(gw->loop.poller, signals, SYS_IN, loop_data(LOOP_SIGNAL, (uint32_t)signals, 0));
    if (descriptors < gw->config.limits.connections && log_begin(LOG_descriptors_short)) {
        log_number("descriptors", descriptors);
        log_number("connections", (int64_t)gw->config.limits.connections);
        log_end();
    }
    if (!gw->net.tls && !gw->config.n_jwts)
        tls_library_unused();
    for (uint32_t i = 0; i < loops_count(gw); i++) {
        modules_foresee(loops_at(gw, i));
        if (!access_init(loops_at(gw, i)))
            return EXIT_FAILURE;
    }
    sys_process_open();
    pprof_thread(gw);
    memory_start();
    if (!promise(gw) || !become_user(&gw->config.run_as))
        return EXIT_FAILURE;
    const uid_t uid = getuid();
    const gid_t gid = getgid();
    if (!cage(gw))
        return EXIT_FAILURE;
    sys_code_trim();
    gw->ready = true;
    loops_go(gw);
    if (log_begin(LOG_worker_ready)) {
        log_number("pid", getpid());
        log_number("uid", uid);
        log_number("gid", gid);
        log_end();
    }
    control_send(SYS_CONTROL_FD, CONTROL_READY, 0, "", -1);
    loop_run(&gw->loop);
    loops_join(gw);
    gateway_done(gw);
    if (log_begin(LOG_stopped))
        log_end();
    return EXIT_SUCCESS;
}
