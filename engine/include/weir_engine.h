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
    bool scan;               /* whether it is asked to report them at all */
};

void weir_text_delete(char *text);
wasm_engine_t *weir_engine_new(const struct weir_engine_options *options, bool pulley,
                               char **error);
/* Takes `fd`. The content is native code: the caller vouches for it. */
wasmtime_module_t *weir_module_load(const wasm_engine_t *engine, int fd, char **error);

/* Tells of each function of a module where its code is, [from, to), its index, and its name: none
 * where that is empty. */
void weir_module_functions(const wasmtime_module_t *module,
                           void (*tell)(void *arg, uintptr_t from, uintptr_t to, uint32_t index,
                                        const char *name, size_t n),
                           void *arg);

/* What calls need to know of a module that is ready to be instantiated. */
struct weir_plan;
struct weir_plan *weir_plan_new(const wasmtime_instance_pre_t *pre);
void weir_plan_delete(struct weir_plan *plan);
/* Whether its memory and its mutable globals are all that an instance can change. */
bool weir_plan_restorable(const struct weir_plan *plan);

/* What a store's memories and tables may have; they ask for what they begin with, and for what they
 * grow by. Stays where it is until the store is deleted. */
struct weir_limit {
    size_t memory_max, table_max; /* bytes; elements */
    uint64_t held;                /* bytes that were given: the caller gives them back */
    bool (*take)(struct weir_limit *limit, uint64_t bytes); /* whether there are that many more */
};
void weir_store_limit(wasmtime_store_t *store, struct weir_limit *limit);

enum { WEIR_VALUES_MAX = 16 };
/* The signature of an exported function of numbers, as kinds; false where it is none. */
bool weir_plan_signature(const struct weir_plan *plan, const char *name,
                         uint8_t args[WEIR_VALUES_MAX], uint8_t *n_args,
                         uint8_t results[WEIR_VALUES_MAX], uint8_t *n_results);

/* One exported function of a module; NULL where there is none. name NULL: no function: a call makes
 * an instance and initialises it. */
struct weir_entry;
struct weir_entry *weir_entry_new(const struct weir_plan *plan, const char *name);
void weir_entry_delete(struct weir_entry *entry);

/* An instance, good while its store is there. */
struct weir_kept;
void weir_kept_delete(struct weir_kept *kept);
/* Puts the globals of a restorable module's instance back; the memory is the caller's to restore.
 * false: throw it away. */
bool weir_kept_restore(struct weir_kept *kept, wasmtime_context_t *store);
/* The mutable globals of a restorable module's instance, at most cap; how many there are. */
size_t weir_kept_globals(const struct weir_kept *kept, wasmtime_context_t *store,
                         uint64_t (*out)[2], size_t cap);

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
    struct weir_kept *kept; /* to be used; NULL: one is made. The caller's to delete */
    /* Called when the instance is as it began, before the export is; may be NULL. */
    void (*prepare)(struct weir_call_frame *frame);
    uint8_t *base; /* of the instance's one memory, at prepare and after the call; NULL: none */
    size_t size;
    const uint32_t *seeds; /* at prepare: addresses of generators' states, not yet checked */
    size_t n_seeds;
    size_t data_end;  /* at prepare: beyond, a restorable module's memory holds zeros */
    void *running[2]; /* between new and delete */
};

/* One future: instantiate, call `_initialize` where exported, call the entry. Nothing runs before
 * the first poll. poll: 0 the slice is used up, poll again; 1 done; -1 failed. Delete the call
 * before its store is deleted or used otherwise. */
void weir_call_new(const struct weir_entry *entry, wasmtime_context_t *store,
                   struct weir_call_frame *frame);
int weir_call_poll(struct weir_call_frame *frame);
void weir_call_delete(struct weir_call_frame *frame);

#endif
