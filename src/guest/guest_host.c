/* The import module weir_v1: looks at pointers, then calls the program's function. Host functions
 * run on the guest's fiber: they copy and return, and never call back into a guest. */
#include <stdio.h>

#include "base/metrics.h"
#include "guest/guest.h"

static const struct host_row {
    const char *name, *group, *params, *text;
    char result;
} rows[GUEST_HOSTS] = {
#define HOST(name, group, params, result, text) {#name, #group, params, text, result},
#include "tbl/host.def"
#undef HOST
};

/* The instance's memory now; during a start function there is no instance handle yet. */
struct slice guest_memory_of(const struct guest_call *c, wasmtime_caller_t *caller)
{
    wasmtime_context_t *context = wasmtime_caller_context(caller);
    wasmtime_memory_t memory = c->frame.memory;
    if (!c->frame.has_memory) {
        wasmtime_extern_t x;
        if (!wasmtime_caller_export_get(caller, "memory", 6, &x))
            return SLICE_NONE;
        if (x.kind != WASMTIME_EXTERN_MEMORY) {
            wasmtime_extern_delete(&x);
            return SLICE_NONE;
        }
        memory = x.of.memory;
    }
    return slice_of(wasmtime_memory_data(context, &memory),
                    wasmtime_memory_data_size(context, &memory));
}

wasm_trap_t *guest_host_counted(struct guest_call *c)
{
    if (++c->host_calls <= c->module->limits.calls)
        return NULL;
    c->over = ERR_GUEST_CALLS;
    return wasmtime_trap_new_code(WASMTIME_TRAP_CODE_INTERRUPT);
}

/* One function for all rows: pointers are looked at before anything is done, so that one that leads
 * out of memory traps and has no effect. */
static wasm_trap_t *host_call(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v, size_t n)
{
    const struct host_row *row = env;
    struct guest_call *c = wasmtime_context_get_data(wasmtime_caller_context(caller));
    struct slice memory = guest_memory_of(c, caller);
    struct guest_param args[4];
    (void)n;
    wasm_trap_t *trap = guest_host_counted(c);
    if (trap)
        return trap;
    for (size_t i = 0, at = 0; row->params[i]; i++) {
        if (row->params[i] == 'l') {
            args[i].v = (uint64_t)v[at++].i64;
        } else if (row->params[i] == 'i') {
            args[i].v = (uint32_t)v[at++].i32;
        } else {
            uint32_t from = (uint32_t)v[at++].i32;
            args[i].n = (uint32_t)v[at++].i32;
            if ((uint64_t)from + args[i].n > memory.n)
                return wasmtime_trap_new_code(WASMTIME_TRAP_CODE_MEMORY_OUT_OF_BOUNDS);
            args[i].p = (uint8_t *)(uintptr_t)memory.p + from;
        }
    }
    int64_t result = c->module->guests->ops.host[row - rows](c, args);
    metrics.guest_limits_total += result == -1;
    if (row->result == 'l')
        v[0].i64 = result;
    else
        v[0].i32 = (int32_t)result;
    return NULL;
}

static wasm_functype_t *type_of(const struct host_row *row)
{
    wasm_valtype_t *params[8], *result = wasm_valtype_new(row->result == 'l' ? WASM_I64 : WASM_I32);
    wasm_valtype_vec_t params_vec, results_vec;
    size_t n = 0;
    for (const char *p = row->params; *p; p++) {
        params[n++] = wasm_valtype_new(*p == 'l' ? WASM_I64 : WASM_I32);
        if (*p == 'B' || *p == 'P')
            params[n++] = wasm_valtype_new(WASM_I32);
    }
    wasm_valtype_vec_new(&params_vec, n, params);
    wasm_valtype_vec_new(&results_vec, 1, &result);
    return wasm_functype_new(&params_vec, &results_vec);
}

enum err guest_host_link(wasmtime_linker_t *linker, struct buf *why)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        wasm_functype_t *type = type_of(&rows[i]);
        wasmtime_error_t *error = wasmtime_linker_define_func_unchecked(
            linker, "weir_v1", 7, rows[i].name, strlen(rows[i].name), type, host_call,
            (void *)(uintptr_t)&rows[i], NULL);
        wasm_functype_delete(type);
        if (error) {
            wasmtime_error_delete(error);
            enum err e = buf_printf(why, "weir_v1.%s can't be linked", rows[i].name);
            return e ? e : ERR_MODULE_REFUSED;
        }
    }
    return guest_wasi_link(linker, why);
}

static bool memory_exported(const wasmtime_module_t *module)
{
    wasm_exporttype_vec_t exports;
    bool found = false;
    wasmtime_module_exports(module, &exports);
    for (size_t i = 0; i < exports.size; i++) {
        const wasm_name_t *name = wasm_exporttype_name(exports.data[i]);
        found |= slice_eq(slice_of(name->data, name->size), SLICE("memory")) &&
                 wasm_externtype_kind(wasm_exporttype_type(exports.data[i])) == WASM_EXTERN_MEMORY;
    }
    wasm_exporttype_vec_delete(&exports);
    return found;
}

/* What `allow:` does not list is as good as not there: a module that imports it is refused. */
enum err guest_host_allow(const struct guest_module *m, struct buf *why)
{
    wasm_importtype_vec_t imports;
    enum err e = ERR_NONE;
    bool wasi = false;
    wasmtime_module_imports(m->module, &imports);
    for (size_t i = 0; i < imports.size && !e; i++) {
        const wasm_name_t *from = wasm_importtype_module(imports.data[i]);
        const wasm_name_t *name = wasm_importtype_name(imports.data[i]);
        struct slice module = slice_of(from->data, from->size);
        wasi |= guest_wasi_imports(module, slice_of(name->data, name->size));
        if (guest_wasi_imports(module, slice_of(name->data, name->size)) &&
            !(m->allow >> GUEST_ALLOW_WASI & 1)) {
            e = buf_printf(why, "it imports %.*s.%.*s, but its allow: does not list wasi",
                           (int)module.n, (const char *)module.p, (int)name->size, name->data);
            e = e ? e : ERR_MODULE_REFUSED;
        }
        if (!slice_eq(module, SLICE("weir_v1")))
            continue;
        for (size_t r = 0; r < ARRAY_LEN(rows) && !e; r++)
            if (slice_eq(slice_of(name->data, name->size), slice_str(rows[r].name)) &&
                !(m->allow >> r & 1)) {
                e = buf_printf(why, "it imports weir_v1.%s, which its allow: does not list",
                               rows[r].name);
                e = e ? e : ERR_MODULE_REFUSED;
            }
    }
    wasm_importtype_vec_delete(&imports);
    if (!e && wasi && !memory_exported(m->module)) {
        e = buf_printf(why, "it imports functions of WASI, so it must export its memory");
        e = e ? e : ERR_MODULE_REFUSED;
    }
    return e;
}
