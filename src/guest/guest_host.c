/* The import module weir_v1: looks at pointers, then asks struct guest_ops. Host functions run on
 * the guest's fiber: they copy and return, and never call back into a guest. */
#include <stdio.h>

#include "guest/guest.h"

/* A parameter as its row spells it: i an int, l a long, B (ptr, len) read by the host, P (ptr, cap)
 * written by it. */
struct host_arg {
    uint64_t v; /* i, l */
    uint8_t *p; /* B, P; inside of the guest's memory */
    uint32_t n;
};

static struct slice bytes(const struct host_arg *a)
{
    return slice_of(a->p, a->n);
}

typedef int32_t host_fn(const struct guest_ops *ops, struct guest_call *c,
                        const struct host_arg *a);

static int32_t msg_read(const struct guest_ops *ops, struct guest_call *c, const struct host_arg *a)
{
    return ops->msg_read(c, a[0].p, a[0].n);
}

static int32_t ws_send(const struct guest_ops *ops, struct guest_call *c, const struct host_arg *a)
{
    return ops->ws_send(c, a[0].v, (uint32_t)a[1].v, bytes(&a[2]));
}

static int32_t ws_close(const struct guest_ops *ops, struct guest_call *c, const struct host_arg *a)
{
    return ops->ws_close(c, a[0].v, (uint32_t)a[1].v, bytes(&a[2]));
}

static int32_t ws_attachment_get(const struct guest_ops *ops, struct guest_call *c,
                                 const struct host_arg *a)
{
    return ops->attachment_get(c, a[0].v, a[1].p, a[1].n);
}

static int32_t ws_attachment_set(const struct guest_ops *ops, struct guest_call *c,
                                 const struct host_arg *a)
{
    return ops->attachment_set(c, bytes(&a[0]));
}

static int32_t req_get(const struct guest_ops *ops, struct guest_call *c, const struct host_arg *a)
{
    return ops->req_get(c, (uint32_t)a[0].v, bytes(&a[1]), a[2].p, a[2].n);
}

static int32_t req_body(const struct guest_ops *ops, struct guest_call *c, const struct host_arg *a)
{
    return ops->req_body(c, (uint32_t)a[0].v, a[1].p, a[1].n);
}

static int32_t resp_status(const struct guest_ops *ops, struct guest_call *c,
                           const struct host_arg *a)
{
    return ops->resp_status(c, (uint32_t)a[0].v);
}

static int32_t resp_header(const struct guest_ops *ops, struct guest_call *c,
                           const struct host_arg *a)
{
    return ops->resp_header(c, bytes(&a[0]), bytes(&a[1]));
}

static int32_t resp_write(const struct guest_ops *ops, struct guest_call *c,
                          const struct host_arg *a)
{
    return ops->resp_write(c, bytes(&a[0]));
}

static int32_t host_log(const struct guest_ops *ops, struct guest_call *c, const struct host_arg *a)
{
    return ops->log(c, (uint32_t)a[0].v, bytes(&a[1]));
}

static const struct host_row {
    const char *name, *params;
    host_fn *fn;
} rows[] = {
    {"msg_read", "P", msg_read},
    {"ws_send", "liB", ws_send},
    {"ws_close", "liB", ws_close},
    {"ws_attachment_get", "lP", ws_attachment_get},
    {"ws_attachment_set", "B", ws_attachment_set},
    {"req_get", "iBP", req_get},
    {"req_body", "iP", req_body},
    {"resp_status", "i", resp_status},
    {"resp_header", "BB", resp_header},
    {"resp_write", "B", resp_write},
    {"log", "iB", host_log},
};

/* The instance's memory now; during a start function there is no instance handle yet. */
static struct slice memory_of(const struct guest_call *c, wasmtime_caller_t *caller)
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

/* One function for all rows: pointers are looked at before anything is done, so that one that leads
 * out of memory traps and has no effect. */
static wasm_trap_t *host_call(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v, size_t n)
{
    const struct host_row *row = env;
    struct guest_call *c = wasmtime_context_get_data(wasmtime_caller_context(caller));
    struct slice memory = memory_of(c, caller);
    struct host_arg args[4];
    (void)n;
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
    v[0].i32 = row->fn(&c->module->guests->ops, c, args);
    return NULL;
}

static wasm_functype_t *type_of(const struct host_row *row)
{
    wasm_valtype_t *params[8], *result = wasm_valtype_new(WASM_I32);
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
    return ERR_NONE;
}
