/* C side of engine/src/lib.rs: what Wasmtime's C API lacks. Only src/guest and src/compile include
 * it. Texts returned through `error` are freed with weir_text_delete. */
#ifndef WEIR_ENGINE_H
#define WEIR_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wasm.h>
#include <wasmtime.h>

struct weir_engine_options {
    uint32_t slots;          /* instances, memories, tables and fibers at one time */
    uint32_t table_elements; /* the most elements of any module's table */
    size_t memory_max;       /* the largest linear memory of any module, bytes */
    size_t keep_scanned;     /* bytes of a freed memory kept mapped, on Linux >= 6.7 ... */
    size_t keep_cleared;     /* ... and on a kernel that can't report written pages */
};

void weir_text_delete(char *text);
wasm_engine_t *weir_engine_new(const struct weir_engine_options *options, bool pulley,
                               char **error);
/* Takes `fd`. The content is native code: the caller vouches for it. */
wasmtime_module_t *weir_module_load(const wasm_engine_t *engine, int fd, char **error);

/* One exported function of a module that is ready to be instantiated; NULL where there is none. */
struct weir_entry;
struct weir_entry *weir_entry_new(const wasmtime_instance_pre_t *pre, const char *name);
void weir_entry_delete(struct weir_entry *entry);

enum { WEIR_VALUES_MAX = 16 };

struct weir_value {
    uint8_t kind; /* WASMTIME_I32, _I64, _F32 or _F64 */
    uint64_t bits;
};

/* Arguments in, results and outcome out. Stays where it is until the call is deleted. */
struct weir_call_frame {
    wasmtime_memory_t memory; /* valid from has_memory until the store goes */
    bool has_memory;
    int32_t trap;            /* -1, or the wasmtime_trap_code_t behind error */
    wasmtime_error_t *error; /* the caller's to delete */
    uint32_t n_args, n_results;
    struct weir_value values[WEIR_VALUES_MAX];
};

/* One future: instantiate, call `_initialize` where exported, call the entry. Nothing runs before
 * the first poll. poll: 0 the slice is used up, poll again; 1 done; -1 failed. Delete the call
 * before its store. */
struct weir_call;
struct weir_call *weir_call_new(const struct weir_entry *entry, wasmtime_context_t *store,
                                struct weir_call_frame *frame);
int weir_call_poll(struct weir_call *call);
void weir_call_delete(struct weir_call *call);

#endif
