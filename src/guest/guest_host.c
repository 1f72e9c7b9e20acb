/* The import module weir_v1: checks pointers, then asks struct guest_ops. Host functions run on
 * the guest's fiber: they copy and return, and never call back into a guest. */
#include <stdio.h>

#include "guest/guest.h"

/* The instance's memory now; during a start function there is no instance handle yet. */
struct slice guest_memory(struct guest_call *c, wasmtime_caller_t *caller)
{
    wasmtime_context_t *context = wasmtime_caller_context(caller);
    wasmtime_memory_t memory;
    if (c->frame.has_memory) {
        memory = c->frame.memory;
    } else {
        wasmtime_extern_t x;
        if (!wasmtime_caller_export_get(caller, "memory", 6, &x) ||
            x.kind != WASMTIME_EXTERN_MEMORY)
            return SLICE_NONE;
        memory = x.of.memory;
    }
    return slice_of(wasmtime_memory_data(context, &memory),
                    wasmtime_memory_data_size(context, &memory));
}

struct host_args {
    struct guest_call *call;
    const struct guest_ops *ops;
    wasmtime_val_raw_t *v;
    struct slice memory;
    bool outside; /* a pointer led out of memory: trap */
};

static uint8_t *range(struct host_args *a, uint32_t at, uint32_t n)
{
    if ((uint64_t)at + n > a->memory.n) {
        a->outside = true;
        return NULL;
    }
    return (uint8_t *)(uintptr_t)a->memory.p + at;
}

/* Arguments i and i + 1 as (ptr, len). */
static struct slice bytes_at(struct host_args *a, int i)
{
    uint32_t n = (uint32_t)a->v[i + 1].i32;
    return slice_of(range(a, (uint32_t)a->v[i].i32, n), n);
}

static struct host_args host_enter(wasmtime_caller_t *caller, wasmtime_val_raw_t *v)
{
    struct guest_call *c = wasmtime_context_get_data(wasmtime_caller_context(caller));
    return (struct host_args){c, &c->module->guests->ops, v, guest_memory(c, caller), false};
}

#define U32(i) ((uint32_t)a.v[i].i32)
#define OUT(i) range(&a, U32(i), U32((i) + 1)), U32((i) + 1)

/* HOST(name, parameters as i and l, the call): every function returns an i32. The pointers are
 * looked at before the call, so that one outside of memory traps and does nothing. */
#define HOST_FUNCTIONS(HOST)                                                                       \
    HOST(msg_read, "ii", (range(&a, U32(0), U32(1)), !a.outside), a.ops->msg_read(a.call, OUT(0))) \
    HOST(ws_send, "liii", (bytes_at(&a, 2), !a.outside),                                           \
         a.ops->ws_send(a.call, (uint64_t)a.v[0].i64, U32(1), bytes_at(&a, 2)))                    \
    HOST(ws_close, "liii", (bytes_at(&a, 2), !a.outside),                                          \
         a.ops->ws_close(a.call, (uint64_t)a.v[0].i64, U32(1), bytes_at(&a, 2)))                   \
    HOST(ws_attachment_get, "lii", (range(&a, U32(1), U32(2)), !a.outside),                        \
         a.ops->attachment_get(a.call, (uint64_t)a.v[0].i64, OUT(1)))                              \
    HOST(ws_attachment_set, "ii", (bytes_at(&a, 0), !a.outside),                                   \
         a.ops->attachment_set(a.call, bytes_at(&a, 0)))                                           \
    HOST(req_get, "iiiii", (bytes_at(&a, 1), range(&a, U32(3), U32(4)), !a.outside),               \
         a.ops->req_get(a.call, U32(0), bytes_at(&a, 1), OUT(3)))                                  \
    HOST(req_body, "iii", (range(&a, U32(1), U32(2)), !a.outside),                                 \
         a.ops->req_body(a.call, U32(0), OUT(1)))                                                  \
    HOST(resp_status, "i", true, a.ops->resp_status(a.call, U32(0)))                               \
    HOST(resp_header, "iiii", (bytes_at(&a, 0), bytes_at(&a, 2), !a.outside),                      \
         a.ops->resp_header(a.call, bytes_at(&a, 0), bytes_at(&a, 2)))                             \
    HOST(resp_write, "ii", (bytes_at(&a, 0), !a.outside),                                          \
         a.ops->resp_write(a.call, bytes_at(&a, 0)))                                               \
    HOST(log, "iii", (bytes_at(&a, 1), !a.outside), a.ops->log(a.call, U32(0), bytes_at(&a, 1)))

#define HOST(name, params, check, action)                                                          \
    static wasm_trap_t *host_##name(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v,   \
                                    size_t n)                                                      \
    {                                                                                              \
        (void)env, (void)n;                                                                        \
        struct host_args a = host_enter(caller, v);                                                \
        if (!(check))                                                                              \
            return wasmtime_trap_new_code(WASMTIME_TRAP_CODE_MEMORY_OUT_OF_BOUNDS);                \
        v[0].i32 = action;                                                                         \
        return NULL;                                                                               \
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-value"
HOST_FUNCTIONS(HOST)
#pragma GCC diagnostic pop
#undef HOST

static const struct {
    const char *name, *params;
    wasmtime_func_unchecked_callback_t fn;
} functions[] = {
#define HOST(name, params, check, action) {#name, params, host_##name},
    HOST_FUNCTIONS(HOST)
#undef HOST
};

enum err guest_host_link(wasmtime_linker_t *linker, struct buf *why)
{
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        wasm_valtype_t *params[8];
        size_t n = strlen(functions[i].params);
        for (size_t j = 0; j < n; j++)
            params[j] = wasm_valtype_new(functions[i].params[j] == 'l' ? WASM_I64 : WASM_I32);
        wasm_valtype_t *result = wasm_valtype_new(WASM_I32);
        wasm_valtype_vec_t params_vec, results_vec;
        wasm_valtype_vec_new(&params_vec, n, params);
        wasm_valtype_vec_new(&results_vec, 1, &result);
        wasm_functype_t *type = wasm_functype_new(&params_vec, &results_vec);
        wasmtime_error_t *error = wasmtime_linker_define_func_unchecked(
            linker, "weir_v1", 7, functions[i].name, strlen(functions[i].name), type,
            functions[i].fn, NULL, NULL);
        wasm_functype_delete(type);
        if (error) {
            wasmtime_error_delete(error);
            enum err e = buf_printf(why, "weir_v1.%s can't be linked", functions[i].name);
            return e ? e : ERR_MODULE_REFUSED;
        }
    }
    return ERR_NONE;
}
