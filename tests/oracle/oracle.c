/* Runs modules both ways, restored and made anew, and compares what can be seen of either.
 *
 *     oracle [--pulley] [--plant] MODULE.cwasm...
 *
 * The same calls with the same arguments, in an order that is always the same, must have the same
 * results, traps and sizes; and an instance that was restored must be, byte by byte and global by
 * global, what a new one is. --plant changes a byte
 * of each instance that was restored: it must be found.
 * Prints what differs, then "N passed, N failed", a module each. */
#include <stdio.h>
#include <stdlib.h>

#include "base/metrics.h"
#include "guest/guest_instance.h"
#include "sys/sys.h"

enum { CALLS = 64, MEMORY_MAX = 4 << 20 };

struct outcome {
    enum err e;
    int32_t trap;
    uint64_t asked;
    size_t size; /* of the memory; only after a call that ended well */
    struct weir_value results[WEIR_VALUES_MAX];
};

static struct guests guests;
static uint64_t now_ns, state;
static enum err ended;
static uint64_t asked; /* host functions, in the last call */
static bool plant;
static uint8_t *base_of_last; /* the memory of the last call's instance */

static void done(struct guest_call *call, enum err e)
{
    (void)call;
    ended = e;
}

/* Answers nothing, and counts who asked. */
static int64_t host(struct guest_call *call, const struct guest_param *a)
{
    (void)call, (void)a;
    asked++;
    return -4;
}

static bool output(struct guest_call *call, bool error, struct slice data)
{
    (void)call, (void)error, (void)data;
    return true;
}

static uint32_t environment(struct guest_call *call, struct buf *out)
{
    (void)call, (void)out;
    return 0;
}

static void failed(struct guest_call *call, enum err e, struct slice text)
{
    (void)call, (void)e, (void)text;
}

/* xorshift64: G. Marsaglia. */
static uint64_t draw(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void call(struct guest_module *m, const struct guest_function *f, const uint64_t *args,
                 struct outcome *out)
{
    static struct guest_call c;
    now_ns = sys_now_ns();
    memset(out, 0, sizeof(*out));
    asked = 0;
    c.module = m;
    c.entry = f->entry;
    c.done = done;
    c.frame.n_args = 0;
    c.frame.n_results = f->n_results;
    for (int i = 0; i < f->n_args; i++)
        guest_arg(&c, f->args[i], args[i]);
    if (guest_call_start(&guests, &c))
        exit(EXIT_FAILURE);
    while (guests_run(&guests))
        ;
    out->e = ended;
    out->asked = asked;
    out->trap = c.frame.trap;
    if (!ended) {
        out->size = c.frame.size;
        base_of_last = c.frame.base;
        for (int i = 0; i < f->n_results; i++)
            out->results[i].bits = c.frame.values[i].bits;
    }
    if (plant && !list_empty(&m->kept) && c.frame.size)
        c.frame.base[c.frame.size / 2]++;
}

/* What a new instance is, seen through the engine's own calls. */
struct model {
    uint8_t *base;
    size_t size, n_globals;
    uint64_t globals[64][2];
};

static void model_add(struct model *out, wasmtime_context_t *context, wasmtime_extern_t *x)
{
    wasmtime_val_t v;
    if (x->kind == WASMTIME_EXTERN_MEMORY) {
        out->size = wasmtime_memory_data_size(context, &x->of.memory);
        out->base = malloc(out->size + 1);
        memcpy(out->base, wasmtime_memory_data(context, &x->of.memory), out->size);
        return;
    }
    wasmtime_global_get(context, &x->of.global, &v);
    size_t n = v.kind == WASMTIME_V128                            ? 16
               : v.kind == WASMTIME_I64 || v.kind == WASMTIME_F64 ? 8
                                                                  : 4;
    memcpy(out->globals[out->n_globals++], &v.of, n);
}

/* false: it can't be instantiated, which is no matter here. */
static bool model_take(const struct guest_module *m, struct model *out)
{
    wasmtime_store_t *store = wasmtime_store_new(guests.engines[m->pulley], NULL, NULL);
    wasmtime_context_t *context = wasmtime_store_context(store);
    wasmtime_instance_t instance;
    wasm_trap_t *trap = NULL;
    char *name;
    size_t length;
    wasmtime_extern_t x;
    memset(out, 0, sizeof(*out));
    if (wasmtime_instance_pre_instantiate(m->pre, context, &instance, &trap) || trap) {
        wasmtime_store_delete(store); /* it holds a place of the pool */
        return false;
    }
    if (wasmtime_instance_export_get(context, &instance, "memory", 6, &x) ||
        wasmtime_instance_export_get(context, &instance, "weir:memory", 11, &x)) {
        if (x.kind == WASMTIME_EXTERN_MEMORY)
            model_add(out, context, &x);
        wasmtime_extern_delete(&x);
    }
    for (size_t i = 0; wasmtime_instance_export_nth(context, &instance, i, &name, &length, &x);
         i++) {
        if (length > 12 && memcmp(name, "weir:global:", 12) == 0)
            model_add(out, context, &x);
        wasmtime_extern_delete(&x);
    }
    wasmtime_store_delete(store);
    return true;
}

/* Whether the module's kept instance is as a new one; base is its memory. */
static bool pristine(const struct guest_module *m, const uint8_t *base, const struct model *model)
{
    uint64_t now[64][2];
    const struct guest_instance *i = CONTAINER_OF(m->kept.prev, struct guest_instance, node);
    size_t n = weir_kept_globals(i->kept, wasmtime_store_context(i->store), now, ARRAY_LEN(now));
    return n == model->n_globals && memcmp(now, model->globals, n * sizeof(now[0])) == 0 &&
           (!model->size || memcmp(base, model->base, model->size) == 0);
}

static bool load(struct guest_module *m, const char *path, bool pulley, struct slice code)
{
    struct buf why;
    buf_init(&why, 4096);
    guest_module_init(m, "oracle");
    m->allow = ~UINT64_C(0);
    m->limits = (struct guest_module_limits){.memory = MEMORY_MAX,
                                             .table_elements = 20000,
                                             .deadline_ms = 50,
                                             .timeout_ms = 1000,
                                             .calls = UINT32_MAX};
    enum err e = guest_load(&guests, m, pulley, sys_memfd_sealed("module", code), &why);
    if (e)
        fprintf(stderr, "%s: %.*s\n", path, (int)why.len, (const char *)why.p);
    buf_done(&why);
    return !e;
}

/* What happened to be restored is counted, so that a run that restores nothing fails. */
static bool compare(const char *path, struct guest_module *fast, struct guest_module *slow)
{
    struct model model;
    bool same = true;
    slow->restorable = false;
    if (!model_take(slow, &model))
        return true;
    for (int i = 0; i < CALLS && same; i++) {
        uint32_t at = (uint32_t)(draw() % fast->n_functions);
        uint64_t args[WEIR_VALUES_MAX];
        struct outcome a, b;
        for (int k = 0; k < WEIR_VALUES_MAX; k++)
            args[k] = draw() >> (draw() % 64);
        call(fast, &fast->functions[at], args, &a);
        const char *what = NULL;
        if (!list_empty(&fast->kept) && !pristine(fast, base_of_last, &model))
            what = "is not as it began";
        call(slow, &slow->functions[at], args, &b);
        if (memcmp(&a, &b, sizeof(a)) != 0)
            what = "did something else than in a new instance";
        if (what)
            printf("%s: call %d, of %s: %s: %s/%s, trap %d/%d, size %zu/%zu\n", path, i,
                   fast->functions[at].name, what, err_name(a.e), err_name(b.e), a.trap, b.trap,
                   a.size, b.size);
        same = !what;
    }
    free(model.base);
    return same;
}

int main(int argc, char **argv)
{
    const struct guest_limits limits = {.slots = 16,
                                        .slots_module = 8,
                                        .queue = 1,
                                        .memory_max = MEMORY_MAX,
                                        .table_max = 20000,
                                        .budget_ns = UINT64_MAX};
    struct guest_ops ops = {.failed = failed, .output = output, .environment = environment};
    bool pulley = false;
    int passed = 0, bad = 0;
    for (int i = 0; i < GUEST_HOSTS; i++)
        ops.host[i] = host;
    guests_init(&guests, &limits, &ops, &now_ns);
    for (int i = 1; i < argc; i++) {
        struct guest_module fast, slow;
        struct slice code;
        if (strcmp(argv[i], "--pulley") == 0) {
            pulley = true;
            continue;
        }
        if (strcmp(argv[i], "--plant") == 0) {
            plant = true;
            continue;
        }
        state = 48;
        if (sys_file_read(argv[i], 64 << 20, &code))
            return EXIT_FAILURE;
        bool loaded = load(&fast, argv[i], pulley, code);
        if (!loaded || !load(&slow, argv[i], pulley, code)) {
            if (loaded)
                guest_unload(&fast);
            mem_free((void *)(uintptr_t)code.p, code.n);
            continue; /* a guest made to be refused */
        }
        if (fast.n_functions) {
            bool ok = compare(argv[i], &fast, &slow);
            passed += ok;
            bad += !ok;
        }
        guest_unload(&fast);
        guest_unload(&slow);
        mem_free((void *)(uintptr_t)code.p, code.n);
    }
    printf("%llu calls in restored instances, %llu in new ones\n",
           (unsigned long long)metrics.guest_instances_restored_total,
           (unsigned long long)metrics.guest_instances_made_total);
    if (!metrics.guest_instances_restored_total && sys_pages_open())
        bad++;
    printf("%d passed, %d failed\n", passed, bad);
    return bad != 0;
}
