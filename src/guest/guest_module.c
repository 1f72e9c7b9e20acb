/* Engines and modules: loading, linking, what a module exports. */
#include <stdio.h>

#include "guest/guest_instance.h"
#include "sys/sys.h"

static const struct {
    const char *name, *params; /* i int, l long */
    bool result;               /* an int */
} export_rows[GUEST_EXPORTS] = {
#define GUEST_EXPORT(name, params, result) {#name, params, result},
    GUEST_EXPORT_LIST(GUEST_EXPORT)
#undef GUEST_EXPORT
};

bool guest_export_returns(enum guest_export x)
{
    return x < GUEST_EXPORTS && export_rows[x].result;
}

static enum err refuse(struct buf *why, const char *text)
{
    enum err e = buf_printf(why, "%s", text);
    return e ? e : ERR_MODULE_REFUSED;
}

static enum err refuse_error(struct buf *why, wasmtime_error_t *error)
{
    wasm_name_t message;
    wasmtime_error_message(error, &message);
    wasmtime_error_delete(error);
    enum err e = buf_append(why, slice_of(message.data, message.size));
    wasm_byte_vec_delete(&message);
    return e ? e : ERR_MODULE_REFUSED;
}

void guests_init(struct guests *g, const struct guest_limits *limits, const struct guest_ops *ops,
                 const uint64_t *now_ns)
{
    memset(g, 0, sizeof(*g));
    g->limits = *limits;
    g->ops = *ops;
    g->now_ns = now_ns;
    list_init(&g->turns);
    list_init(&g->throttled);
    list_init(&g->idle);
}

const char *guest_engine_version(void)
{
    return WASMTIME_VERSION;
}

void guest_module_init(struct guest_module *m, const char *name)
{
    static _Thread_local struct metrics_module nobodys;
    memset(m, 0, sizeof(*m));
    m->counts = &nobodys;
    snprintf(m->name, sizeof(m->name), "%s", name);
    list_init(&m->ready);
    list_init(&m->waiting);
    list_init(&m->turn);
    list_init(&m->kept);
}

enum err guest_engine(struct guests *g, bool pulley, struct buf *why)
{
    if (g->engines[pulley])
        return ERR_NONE;
    /* An actor's next version is tried while it still has its instance. */
    struct weir_engine_options options = {.slots = g->limits.slots + 2 * g->limits.actors,
                                          .table_elements = g->limits.table_max,
                                          .memory_max = g->limits.memory_max,
                                          .keep_scanned = GUEST_KEEP,
                                          .keep_cleared = 16 << 10,
                                          .scan = !g->limits.no_scan};
    char *text = NULL;
    sys_pages_open(); /* a worker can't in its cage, where a first module may need it */
    g->engines[pulley] = weir_engine_new(&options, pulley, &text);
    if (!g->engines[pulley]) {
        enum err e = refuse(why, text);
        weir_text_delete(text);
        return e;
    }
    g->linkers[pulley] = wasmtime_linker_new(g->engines[pulley]);
    guest_ticker_engine(pulley, g->engines[pulley]);
    return guest_host_link(g->linkers[pulley], why);
}

void guests_done(struct guests *g)
{
    for (int i = 0; i < 2; i++) {
        guest_ticker_engine(i, NULL);
        if (g->linkers[i])
            wasmtime_linker_delete(g->linkers[i]);
        if (g->engines[i])
            wasm_engine_delete(g->engines[i]);
    }
}

static bool export_fits(const struct guest_module *m, enum guest_export x)
{
    uint8_t n_args, n_results, kinds[WEIR_VALUES_MAX], results[WEIR_VALUES_MAX];
    const char *want = export_rows[x].params;
    if (!weir_plan_signature(m->plan, export_rows[x].name, kinds, &n_args, results, &n_results) ||
        n_args != strlen(want) || n_results != export_rows[x].result ||
        (n_results && results[0] != WASM_I32))
        return false;
    for (int i = 0; i < n_args; i++)
        if (kinds[i] != (want[i] == 'l' ? WASM_I64 : WASM_I32))
            return false;
    return true;
}

/* A memory that its own limit never lets exist is refused now rather than at each event. */
static enum err memory_take(struct guest_module *m, const wasm_memorytype_t *t, struct buf *why)
{
    uint64_t least = (uint64_t)wasm_memorytype_limits(t)->min << 16;
    if (least <= m->limits.memory) {
        m->memory_min = least;
        if (mem_could(MEM_GUEST, least)) /* else it is tried in vain */
            m->guests->memory_most = MAX(m->guests->memory_most, least);
        return ERR_NONE;
    }
    enum err e = buf_printf(why, "its memory begins with %llu bytes: more than limits.memory, %u",
                            (unsigned long long)least, m->limits.memory);
    return e ? e : ERR_MODULE_REFUSED;
}

static enum err export_take(struct guest_module *m, const wasm_exporttype_t *x, struct buf *why)
{
    const wasm_name_t *name = wasm_exporttype_name(x);
    const wasm_functype_t *t = wasm_externtype_as_functype_const(wasm_exporttype_type(x));
    const wasm_memorytype_t *memory = wasm_externtype_as_memorytype_const(wasm_exporttype_type(x));
    struct guest_function *f = &m->functions[m->n_functions];
    if (memory)
        return memory_take(m, memory, why);
    if (!t || name->size >= sizeof(f->name) || memchr(name->data, 0, name->size))
        return ERR_NONE;
    memcpy(f->name, name->data, name->size);
    f->name[name->size] = 0;
    bool handler = strncmp(f->name, "on_", 3) == 0 || strcmp(f->name, "_start") == 0;
    m->handlers |= handler;
    for (int i = 0; i < GUEST_EXPORTS; i++) {
        if (strcmp(f->name, export_rows[i].name) != 0)
            continue;
        if (!export_fits(m, (enum guest_export)i)) {
            enum err e = buf_printf(why, "export %s has another signature than weir_v1 asks for",
                                    f->name);
            return e ? e : ERR_MODULE_REFUSED;
        }
        m->exports[i] = weir_entry_new(m->plan, f->name);
        return ERR_NONE;
    }
    if (handler || strcmp(f->name, "_initialize") == 0 ||
        !weir_plan_signature(m->plan, f->name, f->args, &f->n_args, f->results, &f->n_results))
        return ERR_NONE;
    f->entry = weir_entry_new(m->plan, f->name);
    if (f->entry)
        m->n_functions++;
    return ERR_NONE;
}

static enum err exports_take(struct guest_module *m, struct buf *why)
{
    wasm_exporttype_vec_t exports;
    enum err e = ERR_NONE;
    wasmtime_module_exports(m->module, &exports);
    m->functions_max = (uint32_t)exports.size + 1;
    m->functions = mem_alloc(m->functions_max * sizeof(*m->functions));
    if (!m->functions)
        e = ERR_NO_MEMORY;
    for (size_t i = 0; i < exports.size && !e; i++)
        e = export_take(m, exports.data[i], why);
    wasm_exporttype_vec_delete(&exports);
    return e;
}

enum err guest_load(struct guests *g, struct guest_module *m, bool pulley, int fd, struct buf *why)
{
    m->guests = g;
    m->pulley = pulley;
    enum err e = guest_engine(g, pulley, why);
    if (e) {
        sys_close(fd);
        return e;
    }
    char *text = NULL;
    uint64_t size = sys_file_size(fd);
    if (!mem_take(MEM_CODE, size)) {
        sys_close(fd);
        return refuse(why, "limits.memory leaves no room for its code");
    }
    m->module = weir_module_load(g->engines[pulley], fd, &text);
    if (!m->module) {
        mem_give(MEM_CODE, size);
        e = refuse(why, text);
        weir_text_delete(text);
        return e;
    }
    m->code_bytes = size;
    e = guest_host_allow(m, why);
    if (!e) {
        wasmtime_error_t *error = wasmtime_linker_instantiate_pre(g->linkers[pulley], m->module,
                                                                  &m->pre);
        e = error ? refuse_error(why, error) : ERR_NONE;
    }
    if (!e) {
        m->plan = weir_plan_new(m->pre);
        m->begin = weir_entry_new(m->plan, NULL);
        m->restorable = !m->actor && sys_pages_open() && weir_plan_restorable(m->plan);
        e = exports_take(m, why);
    }
    g->n_modules += m->pre != NULL;
    if (e)
        guest_unload(m);
    return e;
}

void guest_unload(struct guest_module *m)
{
    guest_instances_drop(m);
    list_remove(&m->turn); /* where it was throttled */
    if (m->begin)
        weir_entry_delete(m->begin);
    for (uint32_t i = 0; i < m->n_functions; i++)
        weir_entry_delete(m->functions[i].entry);
    for (int i = 0; i < GUEST_EXPORTS; i++)
        if (m->exports[i])
            weir_entry_delete(m->exports[i]);
    mem_free(m->functions, m->functions_max * sizeof(*m->functions));
    if (m->plan)
        weir_plan_delete(m->plan);
    if (m->pre) {
        m->guests->n_modules--;
        wasmtime_instance_pre_delete(m->pre);
    }
    if (m->module)
        wasmtime_module_delete(m->module);
    mem_give(MEM_CODE, m->code_bytes);
    m->code_bytes = 0;
    m->functions = NULL;
    m->begin = NULL;
    m->n_functions = 0;
    m->plan = NULL;
    m->pre = NULL;
    m->module = NULL;
}

bool guest_code(const struct guest_module *m, uintptr_t *from, uintptr_t *to)
{
    void *begin, *end;
    if (!m->module || m->pulley)
        return false;
    wasmtime_module_image_range(m->module, &begin, &end);
    *from = (uintptr_t)begin;
    *to = (uintptr_t)end;
    return true;
}

void guest_functions(const struct guest_module *m,
                     void (*tell)(void *arg, uintptr_t from, uintptr_t to, uint32_t index,
                                  const char *name, size_t n),
                     void *arg)
{
    weir_module_functions(m->module, tell, arg);
}

const struct guest_function *guest_function_find(const struct guest_module *m, struct slice name)
{
    struct slice want = name.n ? name : slice_str(m->name);
    for (uint32_t i = 0; i < m->n_functions; i++)
        if (slice_eq(slice_str(m->functions[i].name), want))
            return &m->functions[i];
    return !name.n && m->n_functions == 1 ? &m->functions[0] : NULL;
}
