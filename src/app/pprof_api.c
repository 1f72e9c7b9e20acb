/* /debug/pprof: where CPU time goes, and who has the memory, as profile.proto.
 *
 *   CPU    start in each loop -> seconds -> stop and collect in each loop -> written by the first
 *   heap   what sys_heap.c has noted so far, or noted since -> seconds; each loop names its guests
 *
 * Each loop names what was sampled in its modules' code, as it alone may look at those; such an
 * address becomes an offset in a list of names. The program's own functions are named at the end.
 */
#include <stdlib.h>

#include "app/admin.h"
#include "app/pprof.h"
#include "sys/sys_profile.h"

enum { CPU_TABLE = 256 << 10, COLLECTED = 16 << 20, NAMES = 256 << 10, NAME_MAX = 200 };
enum { LOOK_MS = 100, SECONDS_MOST = 600, SECONDS = 30, HEAP_EVERY = 64 << 10 };
enum { ZIPPED = COLLECTED };

/* A guest's function in place of an address: an offset in the names, "FUNCTION\0MODULE\0". */
#define NAMED (UINT64_C(1) << 63)
#define NAMELESS (NAMED | UINT32_MAX) /* code between functions: as if it were not there */

enum kind { PROFILE_CPU, PROFILE_HEAP, PROFILE_ALLOCS };

struct profile {
    struct ask ask;
    enum kind kind;
    uint32_t seconds; /* 0: what is known now */
    bool trim, lent;  /* lent: memory is noted for this one alone */
    enum err e;
    struct timer timer;
    uint64_t began_ns, until_ms, every;
    struct buf stacks, names; /* as stacks.bytes */
    struct buf before;        /* of the heap, as it began */
    uint64_t code, held;      /* of all modules, as it began; 0 without seconds */
    struct {
        uint64_t code, held, loaded; /* with seconds: what they changed by */
    } modules[];                     /* gw.states_max */
};

static struct profile *running; /* with seconds: one at a time; the first loop's */
static _Thread_local struct stacks *sampled;
static _Thread_local struct buf sampled_names;
static struct buf heap_names; /* under the heap's lock */

/* ---- guests' functions ---- */

struct place {
    uint64_t pc, *at;
};

struct naming {
    struct place *places;
    size_t n, max;
    const char *module;
    struct buf *names;
};

static int by_pc(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b; /* they begin with it */
    return x < y ? -1 : x > y;
}

static size_t place_from(const struct naming *g, uint64_t pc)
{
    size_t low = 0, high = g->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (g->places[middle].pc < pc)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void name_tell(void *arg, uintptr_t from, uintptr_t to, uint32_t index, const char *name,
                      size_t n)
{
    struct naming *g = arg;
    size_t i = place_from(g, from);
    uint32_t offset = g->names->len;
    if (i == g->n || g->places[i].pc >= to)
        return;
    n = strnlen(name, MIN(n, (size_t)NAME_MAX));
    enum err e = n ? buf_append(g->names, slice_of(name, n))
                   : buf_printf(g->names, "wasm-function[%u]", index);
    e = e ? e : buf_append(g->names, SLICE("\0"));
    e = e ? e : buf_append(g->names, slice_of(g->module, strlen(g->module) + 1));
    if (e)
        g->names->len = offset;
    for (; i < g->n && g->places[i].pc < to; i++)
        *g->places[i].at = e ? NAMELESS : NAMED | offset;
}

/* Names what of the stacks is in a module's code. */
static void module_name(struct stacks *s, struct buf *names, const struct guest_module *m)
{
    uintptr_t from, to;
    struct naming g = {.module = m->name, .names = names};
    if (!guest_code(m, &from, &to))
        return;
    for (int round = 0; round < 2; round++) {
        for (struct stack *k = NULL; (k = stacks_next(s, k)) != NULL;)
            for (unsigned i = 0; i < k->n; i++)
                if (k->pcs[i] >= from && k->pcs[i] < to) {
                    if (g.places && g.n < g.max) /* a signal may have brought more */
                        g.places[g.n++] = (struct place){k->pcs[i], &k->pcs[i]};
                    g.max += !g.places;
                }
        if (!g.max || (!g.places && !(g.places = mem_alloc(g.max * sizeof(*g.places)))))
            return;
    }
    qsort(g.places, g.n, sizeof(*g.places), by_pc);
    guest_functions(m, name_tell, &g);
    for (size_t i = 0; i < g.n; i++)
        if (!(*g.places[i].at & NAMED))
            *g.places[i].at = NAMELESS;
    mem_free(g.places, g.max * sizeof(*g.places));
}

static void modules_name(const struct gateway *gw, struct stacks *s, struct buf *names)
{
    for (uint32_t i = 0; i < gw->config.n_modules && i < gw->states_max; i++) {
        const struct module_code *of[] = {gw->states[i].code, gw->states[i].canary,
                                          gw->states[i].trial};
        for (size_t j = 0; j < ARRAY_LEN(of); j++)
            if (of[j])
                module_name(s, names, &of[j]->guest);
    }
    for (const struct list *n = gw->replaced.next; n != &gw->replaced; n = n->next)
        module_name(s, names, &CONTAINER_OF(n, const struct module_code, node)->guest);
}

void pprof_code_gone(const struct gateway *gw, const struct guest_module *m)
{
    (void)gw;
    if (sampled)
        module_name(sampled, &sampled_names, m);
    struct stacks *s = sys_heap_lock();
    if (!s)
        return;
    module_name(s, &heap_names, m);
    sys_heap_unlock();
}

/* ---- in each loop ---- */

/* Copies stacks, and their names behind those that are there. */
static void collect(struct profile *p, struct stacks *s, const struct buf *names)
{
    uint32_t from = p->stacks.len, shift = p->names.len;
    metrics.profile_dropped_total += s->dropped;
    s->dropped = 0;
    p->e = p->e ? p->e : buf_append(&p->stacks, slice_of(s->bytes, s->used));
    p->e = p->e ? p->e : buf_append(&p->names, buf_slice(names));
    for (; !p->e && from < p->stacks.len;) {
        struct stack *k = (struct stack *)(void *)(p->stacks.p + from);
        for (unsigned i = 0; i < k->n; i++)
            k->pcs[i] += k->pcs[i] & NAMED && k->pcs[i] != NAMELESS ? shift : 0;
        from += (uint32_t)(sizeof(*k) + k->n * sizeof(k->pcs[0]));
    }
}

static void cpu_start_visit(struct gateway *gw, struct errand *e)
{
    struct profile *p = CONTAINER_OF(e, struct profile, ask.errand);
    buf_init(&sampled_names, NAMES);
    sampled = stacks_new(CPU_TABLE);
    if (!sampled || !sys_profile_start(sampled))
        p->e = sampled ? ERR_SYS : ERR_NO_MEMORY;
    errand_next(gw, e);
}

static void cpu_stop_visit(struct gateway *gw, struct errand *e)
{
    struct profile *p = CONTAINER_OF(e, struct profile, ask.errand);
    sys_profile_stop();
    if (sampled) {
        modules_name(gw, sampled, &sampled_names);
        collect(p, sampled, &sampled_names);
    }
    stacks_free(sampled);
    sampled = NULL;
    buf_done(&sampled_names);
    errand_next(gw, e);
}

static void heap_visit(struct gateway *gw, struct errand *e)
{
    struct profile *p = CONTAINER_OF(e, struct profile, ask.errand);
    for (uint32_t i = 0; i < gw->config.n_modules && i < gw->states_max; i++) {
        const struct module_code *c = gw->states[i].code;
        p->modules[i].code += c ? c->guest.code_bytes : 0;
        p->modules[i].held += c ? c->guest.held_bytes : 0;
        p->modules[i].loaded += c != NULL;
    }
    struct stacks *s = sys_heap_lock();
    if (s) {
        modules_name(gw, s, &heap_names);
        sys_heap_unlock();
    }
    errand_next(gw, e);
}

static void heap_copy(struct profile *p)
{
    struct stacks *s = sys_heap_lock();
    if (!s)
        return;
    p->every = sys_heap_every();
    collect(p, s, &heap_names);
    sys_heap_unlock();
}

/* Stacks only grow, so those that were there before are in the same places. */
static void heap_subtract(struct profile *p)
{
    for (uint32_t at = 0; at < MIN(p->before.len, p->stacks.len);) {
        const struct stack *b = (const struct stack *)(void *)(p->before.p + at);
        struct stack *k = (struct stack *)(void *)(p->stacks.p + at);
        for (int i = 0; i < STACK_COUNTS; i++)
            k->counts[i] -= b->counts[i];
        at += (uint32_t)(sizeof(*k) + k->n * sizeof(k->pcs[0]));
    }
}

/* ---- written ---- */

struct writer {
    struct pprof out;
    const struct profile *p;
    const struct gateway *gw;
    struct sys_symbol *symbols;
    struct buf names; /* of their functions */
    size_t n, max;
    uint64_t functions;
    uint32_t key_owner, key_module, owners[MEM_KINDS + 1], other;
    uint32_t modules[]; /* gw.states_max; indices, 0: not written yet */
};

static struct stack *next_of(const struct profile *p, const struct stack *after)
{
    const uint8_t *at = after ? (const uint8_t *)&after->pcs[after->n] : p->stacks.p;
    return at < p->stacks.p + p->stacks.len ? (struct stack *)(uintptr_t)at : NULL;
}

/* Each address of the program's, once, in order, with its function. */
static enum err symbols_make(struct writer *w)
{
    for (const struct stack *k = NULL; (k = next_of(w->p, k)) != NULL;)
        for (unsigned i = 0; i < k->n; i++)
            w->max += !(k->pcs[i] & NAMED);
    w->symbols = w->max ? mem_alloc(w->max * sizeof(*w->symbols)) : NULL;
    if (w->max && !w->symbols)
        return ERR_NO_MEMORY;
    size_t n = 0;
    for (const struct stack *k = NULL; (k = next_of(w->p, k)) != NULL;)
        for (unsigned i = 0; i < k->n; i++)
            if (!(k->pcs[i] & NAMED))
                w->symbols[n++] = (struct sys_symbol){.pc = k->pcs[i]};
    if (n)
        qsort(w->symbols, n, sizeof(*w->symbols), by_pc);
    for (size_t i = 0; i < n; i++)
        if (!w->n || w->symbols[w->n - 1].pc != w->symbols[i].pc)
            w->symbols[w->n++] = w->symbols[i];
    sys_symbols_find(w->symbols, w->n, &w->names);
    return ERR_NONE;
}

static void program_write(struct writer *w)
{
    const struct sys_object *objects;
    unsigned n = sys_objects(&objects);
    bool nameless[SYS_OBJECTS] = {false};
    for (size_t i = 0; i < w->n; i++) {
        const struct sys_symbol *s = &w->symbols[i], *last = i ? s - 1 : NULL;
        if (!s->object)
            continue;
        bool same = last && last->object == s->object && last->from == s->from;
        if (s->from && !same)
            pprof_function(&w->out, ++w->functions,
                           pprof_string(&w->out, slice_str((const char *)w->names.p + s->name_at)),
                           0);
        nameless[s->object - 1] |= !s->from;
        pprof_location(&w->out, i + 1, s->object, s->pc, s->from ? w->functions : 0);
    }
    for (unsigned i = 0; i < n; i++) {
        const struct sys_object *o = &objects[i];
        pprof_mapping(&w->out, i + 1, o->from, o->to, o->offset, o->name, !nameless[i]);
    }
}

static uint64_t lost_location(const struct writer *w)
{
    return w->max + MEM_KINDS + 1;
}

/* Locations of guests' functions are named by their offsets, behind all others. */
static uint64_t guest_location(const struct writer *w, uint64_t offset)
{
    return lost_location(w) + 1 + offset;
}

static void function_named(struct writer *w, uint64_t location, const char *name)
{
    pprof_function(&w->out, ++w->functions, pprof_string(&w->out, slice_str(name)), 0);
    pprof_location(&w->out, location, 0, 0, w->functions);
}

static void guests_write(struct writer *w)
{
    const struct buf *names = &w->p->names;
    for (uint32_t at = 0; at < names->len;) {
        struct slice name = slice_str((const char *)names->p + at);
        struct slice module = slice_str((const char *)name.p + name.n + 1);
        uint64_t id = guest_location(w, at);
        pprof_function(&w->out, ++w->functions, pprof_string(&w->out, name),
                       pprof_string(&w->out, module));
        pprof_location(&w->out, id, 0, 0, w->functions);
        at += (uint32_t)(name.n + module.n + 2);
    }
}

static void labels_make(struct writer *w, struct mem_whose whose, struct pprof_label out[2])
{
    uint32_t module = 0;
    if (whose.module && whose.module <= w->gw->config.n_modules &&
        whose.module <= w->gw->states_max) {
        uint32_t *known = &w->modules[whose.module - 1];
        if (!*known)
            *known = pprof_string(&w->out, slice_str(w->gw->config.modules[whose.module - 1].name));
        module = *known;
    }
    uint32_t *owner = &w->owners[whose.owner];
    if (!*owner && w->p->kind != PROFILE_CPU)
        *owner = pprof_string(
            &w->out,
            slice_str(whose.owner ? mem_name((enum mem_kind)(whose.owner - 1)) : "libraries"));
    out[0] = (struct pprof_label){w->key_module, module};
    out[1] = (struct pprof_label){w->key_owner, *owner};
}

static void stack_write(struct writer *w, const struct stack *k)
{
    uint64_t locations[STACK_DEPTH];
    int64_t values[STACK_COUNTS];
    struct pprof_label labels[2];
    size_t n = 0;
    if (!k->n)
        locations[n++] = lost_location(w);
    for (unsigned i = 0; i < k->n; i++) {
        if (k->pcs[i] & NAMED) {
            if (k->pcs[i] != NAMELESS)
                locations[n++] = guest_location(w, k->pcs[i] & ~NAMED);
            continue;
        }
        const struct sys_symbol *s = bsearch(&k->pcs[i], w->symbols, w->n, sizeof(*s), by_pc);
        if (s->object)
            locations[n++] = (uint64_t)(s - w->symbols) + 1;
        else if (i)
            break; /* no code: what the walk took for a frame from here on was none */
    }
    for (int i = 0; i < STACK_COUNTS; i++)
        values[i] = (int64_t)k->counts[i];
    if (w->p->kind == PROFILE_CPU) {
        values[1] = values[0] * SYS_PROFILE_NS;
    } else {
        int64_t objects = values[STACK_ALLOCS], bytes = values[STACK_ALLOC_BYTES];
        values[2] = (objects - values[STACK_FREES]) / STACK_PARTS;
        values[3] = bytes - (int64_t)k->counts[STACK_FREE_BYTES];
        values[0] = objects / STACK_PARTS;
    }
    labels_make(w, k->whose, labels);
    if (values[0] || values[1] || values[3])
        pprof_sample(&w->out, locations, n, values, w->p->kind == PROFILE_CPU ? 2 : 4, labels, 2);
}

/* What malloc does not give, as it is counted: a function that is named for what it is. */
static void counted_write(struct writer *w, enum mem_kind kind, uint32_t module, int64_t objects,
                          int64_t bytes)
{
    const uint64_t location = w->max + 1 + (uint64_t)kind;
    const int64_t values[] = {MAX(objects, 0), MAX(bytes, 0), objects, bytes};
    struct pprof_label labels[2];
    labels_make(w, (struct mem_whose){(uint16_t)module, (uint8_t)(kind + 1)}, labels);
    if (bytes)
        pprof_sample(&w->out, &location, 1, values, 4, labels, 2);
}

static void modules_write(struct writer *w)
{
    static const struct {
        enum mem_kind kind;
        const char *name;
    } rows[] = {{MEM_CODE, "[modules' code]"}, {MEM_GUEST, "[instances of guests]"}};
    const struct profile *p = w->p;
    int64_t code = (int64_t)(mem_bytes(MEM_CODE) - p->code), one = !p->seconds;
    int64_t held = (int64_t)(mem_bytes(MEM_GUEST) - p->held);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        function_named(w, w->max + 1 + (uint64_t)rows[i].kind, rows[i].name);
    for (uint32_t i = 0; i < w->gw->config.n_modules && i < w->gw->states_max; i++) {
        int64_t own[] = {(int64_t)p->modules[i].code, (int64_t)p->modules[i].held};
        if (!p->seconds) {
            own[0] = MIN(code, own[0]);
            own[1] = MIN(held, own[1]);
        }
        counted_write(w, MEM_CODE, i + 1, (int64_t)p->modules[i].loaded, own[0]);
        counted_write(w, MEM_GUEST, i + 1, one, own[1]);
        code -= own[0];
        held -= own[1];
    }
    counted_write(w, MEM_CODE, 0, one, code);  /* of versions that were replaced */
    counted_write(w, MEM_GUEST, 0, one, held); /* places of the pool, and such versions' */
}

static enum err write_all(struct writer *w)
{
    static const char *const types[][2] = {{"alloc_objects", "count"},
                                           {"alloc_space", "bytes"},
                                           {"inuse_objects", "count"},
                                           {"inuse_space", "bytes"}};
    const struct profile *p = w->p;
    bool cpu = p->kind == PROFILE_CPU;
    uint64_t took_ns = p->seconds ? sys_now_ns() - p->began_ns : 0;
    uint64_t wall_ns = sys_wall_ms() * 1000000 - took_ns;
    enum err e = symbols_make(w);
    if (e)
        return e;
    if (cpu) {
        pprof_sample_type(&w->out, "samples", "count");
        pprof_sample_type(&w->out, "cpu", "nanoseconds");
    }
    for (size_t i = 0; i < ARRAY_LEN(types) && !cpu; i++)
        pprof_sample_type(&w->out, types[i][0], types[i][1]);
    w->key_owner = pprof_string(&w->out, SLICE("owner"));
    w->key_module = pprof_string(&w->out, SLICE("module"));
    program_write(w);
    guests_write(w);
    function_named(w, lost_location(w), "[stacks past the table's size]");
    for (const struct stack *k = NULL; (k = next_of(p, k)) != NULL;)
        stack_write(w, k);
    if (!cpu)
        modules_write(w);
    if (cpu)
        pprof_end(&w->out, wall_ns, took_ns, "cpu", "nanoseconds", SYS_PROFILE_NS, "cpu");
    else
        pprof_end(&w->out, wall_ns, took_ns, "space", "bytes", p->every,
                  p->kind == PROFILE_ALLOCS ? "alloc_space" : "inuse_space");
    return w->out.e;
}

static enum err profile_write(const struct gateway *gw, const struct profile *p, struct buf *zipped)
{
    size_t size = sizeof(struct writer) + gw->states_max * sizeof(uint32_t);
    struct writer *w = mem_alloc(size);
    if (!w)
        return ERR_NO_MEMORY;
    memset(w, 0, size);
    w->p = p;
    w->gw = gw;
    buf_init(&w->names, COLLECTED);
    pprof_begin(&w->out, COLLECTED);
    enum err e = write_all(w);
    e = e ? e : pprof_gzip(buf_slice(&w->out.out), zipped);
    pprof_done(&w->out);
    buf_done(&w->names);
    mem_free(w->symbols, w->max * sizeof(*w->symbols));
    mem_free(w, size);
    return e;
}

/* ---- requests ---- */

static void answer_home(struct gateway *gw, struct errand *errand)
{
    struct profile *p = CONTAINER_OF(errand, struct profile, ask.errand);
    struct buf out;
    buf_init(&out, ZIPPED);
    bool waits = ask_waits(gw, &p->ask);
    if (p->kind != PROFILE_CPU && !p->e)
        heap_copy(p);
    if (p->before.len)
        heap_subtract(p);
    if (p->lent)
        sys_heap_stop();
    enum err e = p->e || !waits ? p->e : profile_write(gw, p, &out);
    struct http_response r = {200, SLICE("application/octet-stream"),
                              SLICE("Content-Disposition: attachment; filename=\"profile.pb.gz\""
                                    "\r\nX-Content-Type-Options: nosniff\r\n"),
                              buf_slice(&out)};
    if (waits && e)
        http_exchange_fail(&gw->admin, p->ask.conn, e, SLICE_NONE, SLICE_NONE);
    else if (waits)
        http_exchange_respond(&gw->admin, p->ask.conn, &r);
    running = running == p ? NULL : running;
    metrics.profiles_active = running != NULL;
    buf_done(&out);
    buf_done(&p->stacks);
    buf_done(&p->names);
    buf_done(&p->before);
    ask_free(gw, &p->ask);
}

static void profile_finish(struct gateway *gw, struct profile *p)
{
    if (p->trim)
        sys_memory_trim();
    ask_start(gw, &p->ask, p->kind == PROFILE_CPU ? cpu_stop_visit : heap_visit, answer_home);
}

/* Its time is over, or nobody waits for it, or the worker goes: in the last two it ends early. */
static void profile_look(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    struct profile *p = CONTAINER_OF(t, struct profile, timer);
    const struct conn *c = p->ask.conn;
    if (gw->loop.now_ms < p->until_ms && c->state == CONN_OPEN && !c->end_seen && !gw->draining)
        wheel_set(&gw->loop.wheel, t, LOOK_MS);
    else
        profile_finish(gw, p);
}

static void wait_home(struct gateway *gw, struct errand *errand)
{
    struct profile *p = CONTAINER_OF(errand, struct profile, ask.errand);
    if (p->e) {
        profile_finish(gw, p); /* some may have started */
        return;
    }
    loop_on(&gw->loop, LOOP_PROFILE, NULL, profile_look, gw);
    p->timer.kind = LOOP_PROFILE;
    p->until_ms = gw->loop.now_ms + p->seconds * UINT64_C(1000);
    wheel_set(&gw->loop.wheel, &p->timer, LOOK_MS);
}

static void heap_wait(struct gateway *gw, struct errand *errand)
{
    struct profile *p = CONTAINER_OF(errand, struct profile, ask.errand);
    for (uint32_t i = 0; i < gw->states_max; i++) { /* what they have in the end is added to that */
        p->modules[i].code = -p->modules[i].code;
        p->modules[i].held = -p->modules[i].held;
        p->modules[i].loaded = -p->modules[i].loaded;
    }
    p->code = mem_bytes(MEM_CODE);
    p->held = mem_bytes(MEM_GUEST);
    p->lent = !sys_heap_every();
    if (p->lent) {
        buf_done(&heap_names); /* of those that noted before */
        p->e = sys_heap_start(HEAP_EVERY);
        p->lent = !p->e;
    } else {
        heap_copy(p);
        p->before = p->stacks;
        buf_init(&p->stacks, COLLECTED);
        buf_done(&p->names);
    }
    wait_home(gw, errand);
}

/* "seconds=N", "gc=1" and "debug=0", in any order: whatever else there is, is refused. */
static bool query_read(const struct admin_call *a, uint32_t *seconds, bool *gc)
{
    struct slice query = admin_query(a);
    char text[64] = "", *rest = query.n ? text : NULL, *pair;
    if (query.n >= sizeof(text))
        return false;
    slice_copy(text, query);
    while ((pair = strsep(&rest, "&")) != NULL) {
        size_t n = strspn(pair, "abcdefghijklmnopqrstuvwxyz");
        const char *digits = pair + n + 1;
        if (pair[n] != '=' || !*digits || strlen(digits) > 4 ||
            digits[strspn(digits, "0123456789")])
            return false;
        uint32_t v = (uint32_t)strtoul(digits, NULL, 10);
        if (n == 7 && memcmp(pair, "seconds", n) == 0 && v >= 1 && v <= SECONDS_MOST)
            *seconds = v;
        else if (n == 2 && memcmp(pair, "gc", n) == 0 && v <= 1)
            *gc = v;
        else if (n != 5 || memcmp(pair, "debug", n) != 0 || v)
            return false;
    }
    return memchr(query.n ? query.p : (const uint8_t *)"", 0, query.n) == NULL;
}

static void profile_start(struct gateway *gw, struct conn *c, enum kind kind, uint32_t seconds,
                          bool gc)
{
    struct profile *p = ask_new(gw, c, false, sizeof(*p) + gw->states_max * sizeof(p->modules[0]));
    if (!p)
        return;
    p->kind = kind;
    p->seconds = seconds;
    p->trim = gc;
    p->began_ns = sys_now_ns();
    buf_init(&p->stacks, COLLECTED);
    buf_init(&p->names, THREADS_MAX * NAMES);
    running = seconds ? p : running;
    metrics.profiles_active = running != NULL;
    if (kind == PROFILE_CPU) {
        ask_start(gw, &p->ask, cpu_start_visit, wait_home);
    } else if (seconds) {
        ask_start(gw, &p->ask, heap_visit, heap_wait);
    } else {
        profile_finish(gw, p);
    }
}

static const char index_page[] =
    "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>weir: profiles</title>"
    "<h1>Profiles</h1><p>For <code>go tool pprof -http=: URL</code>.<ul>"
    "<li><a href=\"/debug/pprof/profile?seconds=10\">profile?seconds=10</a>: where CPU time goes"
    "<li><a href=\"/debug/pprof/heap?gc=1\">heap?gc=1</a>: who has memory; with gc=1 what is free "
    "is given back first; with seconds=N what changed meanwhile"
    "<li><a href=\"/debug/pprof/allocs\">allocs</a>: the same, for who takes it</ul></html>\n";

enum err pprof_api(struct admin_call *a)
{
    uint32_t seconds = 0;
    bool gc = false, cpu = slice_eq(a->name, SLICE("profile")),
         known = query_read(a, &seconds, &gc);
    bool heap = slice_eq(a->name, SLICE("heap")), allocs = slice_eq(a->name, SLICE("allocs"));
    if (strcmp(a->gw->config.admin.profiles, "off") == 0)
        return ERR_PROFILES_OFF;
    if (!a->name.n) {
        admin_respond(a->gw, a->conn, ERR_NONE, SLICE("text/html; charset=utf-8"),
                      slice_str(index_page));
        return ERR_NONE;
    }
    if (!cpu && !heap && !allocs)
        return ERR_NOT_FOUND;
    if (a->ex->req.method != HTTP_GET) { /* a HEAD would take as long */
        a->fields = SLICE("Allow: GET\r\n");
        return ERR_METHOD;
    }
    seconds = cpu && !seconds ? SECONDS : seconds;
    a->detail = cpu ? "the query is seconds=1 to seconds=600"
                    : "the query is seconds=1 to seconds=600, and gc=1";
    if (!known || (cpu && gc))
        return ERR_INVALID;
    a->detail = "admin.heap_profile is 0: memory is noted only while seconds= asks for it";
    if (!seconds && !sys_heap_every())
        return ERR_INVALID;
    a->detail = NULL;
    if (seconds && running)
        return ERR_PROFILE_BUSY;
    profile_start(a->gw, a->conn,
                  cpu    ? PROFILE_CPU
                  : heap ? PROFILE_HEAP
                         : PROFILE_ALLOCS,
                  seconds, gc);
    return ERR_NONE;
}

bool pprof_waits(const struct gateway *gw)
{
    return !gw->number && running;
}

static bool on(const struct gateway *gw)
{
    return strcmp(gw->config.admin.profiles, "on") == 0;
}

enum err pprof_open(const struct gateway *gw)
{
    uint64_t every = on(gw) ? gw->config.admin.heap_profile : 0;
    static uint64_t some[256];
    buf_init(&heap_names, NAMES);
    if (on(gw))
        sys_profile_open();
    /* The C library's first qsort of as much asks how much memory the machine has. */
    qsort(some, ARRAY_LEN(some), sizeof(some[0]), by_pc);
    return every ? sys_heap_start(every) : ERR_NONE;
}

void pprof_thread(const struct gateway *gw)
{
    if (on(gw))
        sys_profile_thread();
}
