#include "guest/guest_instance.h"

#include <stdatomic.h>

#include "base/metrics.h"
#include "sys/sys.h"

/* Where more was written it is cheaper to make an instance than to restore it. */
enum { REGIONS_MAX = 64, WRITTEN_MAX = 256 << 10 };
/* The kernel looks at every page that is there, read or written: of a large image that takes longer
 * than mapping it anew (bench/cold: a Go guest of 2.6 MB, 26 µs against 8). */
enum { IMAGE_MAX = 1 << 20 };
/* What a place of the pool keeps when its instance has gone: memory and table as guest_module.c
 * asks for, and the pages of its stack. */
enum { PLACE = GUEST_KEEP + (64 << 10) };
enum { TABLE_ELEMENT = 16 }; /* bytes, at the most */
enum { KEPT_MAX = 4 };       /* of a module: more run at once only while some are suspended */

/* A ChaCha8 generator of Go's runtime (internal/chacha8rand.State): 256 bytes of output, the seed,
 * then three counters. i == n == 32: the output is used up, and is made anew from the seed. */
enum { SEED_AT = 256, SEED_SIZE = 32, COUNTERS_AT = 288, STATE_SIZE = 300 };

/* What nobody gives back to whom it leaves no room: places, and what is idle, of all loops. */
static _Atomic uint64_t stays;

static void delete (struct guest_instance *i)
{
    if (i->kept)
        weir_kept_delete(i->kept);
    wasmtime_store_delete(i->store);
    mem_give(MEM_GUEST, i->limit.held);
    i->module->held_bytes -= i->limit.held;
    mem_free(i, sizeof(*i));
}

static void unlink_kept(struct guests *g, struct guest_instance *i)
{
    list_remove(&i->node);
    i->module->n_kept--;
    if (!list_empty(&i->idle)) {
        list_remove(&i->idle);
        g->kept--;
        g->kept_bytes -= i->limit.held;
        atomic_fetch_sub(&stays, i->limit.held);
    }
}

/* ---- the image ---- */

static void image_take(struct guest_module *m, const uint8_t *base, size_t size, size_t data_end)
{
    size_t n = MIN(size, data_end);
    uint8_t *copy = n ? mem_alloc_as(MEM_IMAGE, n) : NULL;
    if (n && !copy) {
        m->restorable = false;
        return;
    }
    if (n)
        memcpy(copy, base, n);
    m->image = copy;
    m->image_n = n;
    m->image_size = size;
    m->image_taken = true;
}

static void put_back(const struct guest_module *m, uint8_t *base, size_t at, size_t n)
{
    size_t copied = at < m->image_n ? MIN(n, m->image_n - at) : 0;
    if (copied)
        memcpy(base + at, m->image + at, copied);
    memset(base + at + copied, 0, n - copied);
}

static bool memory_restore(const struct guest_module *m, uint8_t *base, size_t size)
{
    struct sys_pages pages[REGIONS_MAX];
    size_t written = 0;
    if (size != m->image_size)
        return false;
    if (!size)
        return true;
    int n = sys_pages_written(base, size, pages, REGIONS_MAX);
    if (n < 0)
        return false;
    for (int i = 0; i < n; i++) {
        /* Read, not written, unless the kernel has merged a page of zeros into its own. */
        bool same = pages[i].zero && pages[i].at >= m->image_n;
        written += same ? 0 : pages[i].n;
    }
    if (written > WRITTEN_MAX)
        return false;
    for (int i = 0; i < n; i++)
        if (!pages[i].zero || pages[i].at < m->image_n)
            put_back(m, base, pages[i].at, pages[i].n);
    return true;
}

/* ---- before a call in an instance that is as it began ---- */

static void seed(struct guests *g, uint8_t *state)
{
    static const uint32_t used_up[] = {32, 32, 0};
    if (g->entropy_left < SEED_SIZE) {
        sys_random(g->entropy, sizeof(g->entropy));
        g->entropy_left = sizeof(g->entropy);
    }
    g->entropy_left -= SEED_SIZE;
    memcpy(state + SEED_AT, g->entropy + g->entropy_left, SEED_SIZE);
    memset(g->entropy + g->entropy_left, 0, SEED_SIZE);
    memcpy(state + COUNTERS_AT, used_up, sizeof(used_up));
}

static void prepare(struct weir_call_frame *frame)
{
    struct guest_call *c = CONTAINER_OF(frame, struct guest_call, frame);
    struct guest_module *m = c->module;
    if (!c->instance->begun) { /* with its table, and what its initialisation grew */
        m->memory_min = MAX(m->memory_min, c->instance->limit.held);
        m->guests->memory_most = MAX(m->guests->memory_most, m->memory_min);
    }
    c->instance->begun = true;
    m->restorable = m->restorable && frame->data_end <= IMAGE_MAX;
    /* Not for the first call, which may be the only one. */
    if (m->restorable && m->called && !m->image_taken)
        image_take(m, frame->base, frame->size, frame->data_end);
    m->called = true;
    for (size_t i = 0; i < frame->n_seeds; i++)
        if ((uint64_t)frame->seeds[i] + STATE_SIZE <= frame->size)
            seed(m->guests, frame->base + frame->seeds[i]);
}

/* ---- take, give ---- */

/* Whether the module that needs most could still begin, by and by, if n more were there to stay. */
static bool may_stay(uint64_t n)
{
    return mem_could(MEM_GUEST, atomic_load(&stays) + n);
}

static bool place_free(const struct guests *g)
{
    return g->running + g->kept < g->places;
}

/* Whether a place may be used that none was in before. Each loop has one. */
static bool place_more(const struct guests *g)
{
    return !g->places || may_stay(PLACE + g->memory_most - g->kept_bytes);
}

/* What an instance needs to begin: its memory, and perhaps another place. */
static uint64_t need(const struct guests *g, const struct guest_module *m)
{
    return m->memory_min + (place_free(g) ? 0 : PLACE);
}

bool guest_instance_room(const struct guests *g, const struct guest_module *m)
{
    uint64_t n = need(g, m);
    n = n > g->kept_bytes ? n - g->kept_bytes : 0;
    if (!list_empty(&m->kept))
        return true;
    return (place_free(g) || g->kept || place_more(g)) &&
           (m->running ? mem_room : mem_fits)(MEM_GUEST, n);
}

bool guests_fit(const struct guest_module *m)
{
    return guest_instance_room(m->guests, m);
}

/* Growing leaves room for others to begin. What a table begins with, nobody tells before. */
static bool take(struct weir_limit *limit, uint64_t n)
{
    const struct guest_instance *i = CONTAINER_OF(limit, struct guest_instance, limit);
    struct guest_module *m = i->module;
    uint64_t table = i->begun ? 0 : limit->table_max * TABLE_ELEMENT;
    bool first = limit->held + n <= m->memory_min + table;
    bool room = first || mem_room(MEM_GUEST, n);
    metrics.memory_refused_total += !room;
    if (!room || !mem_take(MEM_GUEST, n))
        return false;
    m->held_bytes += n;
    uint64_t *peak = &m->counts->module_memory_peak_bytes;
    *peak = MAX(*peak, limit->held + n);
    return true;
}

/* The pool has as many places as calls may run, and guests have so much memory: idle instances make
 * room. */
static bool make_room(struct guests *g, const struct guest_module *m)
{
    while (g->kept && (g->running + g->kept >= g->limits.slots ||
                       !mem_fits(MEM_GUEST, need(g, m)) || !(place_free(g) || place_more(g)))) {
        struct guest_instance *coldest = CONTAINER_OF(g->idle.next, struct guest_instance, idle);
        unlink_kept(g, coldest);
        delete (coldest);
    }
    if (!place_free(g) && place_more(g) && mem_take(MEM_GUEST, PLACE)) {
        g->places++;
        atomic_fetch_add(&stays, (uint64_t)PLACE);
    }
    return place_free(g);
}

static struct guest_instance *make(struct guests *g, struct guest_module *m)
{
    struct guest_instance *i = make_room(g, m) ? mem_alloc(sizeof(*i)) : NULL;
    if (!i)
        return NULL;
    i->store = wasmtime_store_new(g->engines[m->pulley], NULL, NULL);
    if (!i->store) {
        mem_free(i, sizeof(*i));
        return NULL;
    }
    i->module = m;
    i->kept = NULL;
    i->begun = false;
    list_init(&i->node);
    list_init(&i->idle);
    wasmtime_store_epoch_deadline_callback(i->store, guest_on_epoch, NULL, NULL);
    i->limit = (struct weir_limit){
        .memory_max = m->limits.memory, .table_max = m->limits.table_elements, .take = take};
    weir_store_limit(i->store, &i->limit);
    metrics.guest_instances_made_total++;
    m->made++;
    m->counts->module_instances_made_total++;
    return i;
}

struct guest_instance *guest_instance_take(struct guests *g, struct guest_call *c)
{
    struct guest_module *m = c->module;
    struct guest_instance *i;
    if (!list_empty(&m->kept)) {
        i = CONTAINER_OF(m->kept.prev, struct guest_instance, node);
        unlink_kept(g, i);
        metrics.guest_instances_restored_total += !m->actor;
        m->restored += !m->actor;
        m->counts->module_instances_restored_total += !m->actor;
    } else {
        i = make(g, m);
    }
    if (!i)
        return NULL;
    wasmtime_context_t *context = wasmtime_store_context(i->store);
    wasmtime_context_set_data(context, c);
    wasmtime_context_set_epoch_deadline(context, 1);
    c->frame.kept = i->kept;
    c->frame.prepare = prepare;
    return i;
}

void guest_instance_give(struct guests *g, struct guest_call *c, bool ok)
{
    struct guest_instance *i = c->instance;
    struct guest_module *m = c->module;
    c->instance = NULL;
    i->kept = c->frame.kept;
    bool keep = ok && (m->actor || (m->restorable && m->image_taken && m->n_kept < KEPT_MAX &&
                                    may_stay(i->limit.held + g->memory_most) &&
                                    memory_restore(m, c->frame.base, c->frame.size) &&
                                    weir_kept_restore(i->kept, wasmtime_store_context(i->store))));
    if (!keep) {
        delete (i);
        return;
    }
    wasmtime_context_set_data(wasmtime_store_context(i->store), NULL);
    list_append(&m->kept, &i->node);
    m->n_kept++;
    if (!m->actor) { /* which has a place of its own */
        list_append(&g->idle, &i->idle);
        g->kept++;
        g->kept_bytes += i->limit.held;
        atomic_fetch_add(&stays, i->limit.held);
    }
}

const char *guest_instance_way(const struct guest_module *m)
{
    /* How large its image is, the first call tells. */
    bool known = m->called || m->memory_min <= IMAGE_MAX;
    return m->actor         ? "kept"
           : !m->restorable ? "made anew"
           : known          ? "restored"
                            : "restored if its data is small";
}

void guest_instances_drop(struct guest_module *m)
{
    while (!list_empty(&m->kept)) {
        struct guest_instance *i = CONTAINER_OF(m->kept.next, struct guest_instance, node);
        unlink_kept(m->guests, i);
        delete (i);
    }
    mem_free_as(MEM_IMAGE, m->image, m->image_n);
    m->image = NULL;
    m->image_n = 0;
    m->image_taken = false;
}
