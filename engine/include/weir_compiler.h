/* C side of engine/src/compiler.rs: only in the compiler build, only for src/compile. */
#ifndef WEIR_COMPILER_H
#define WEIR_COMPILER_H

#include "weir_engine.h"

/* NULL: this machine, with all that its CPU can do. A target triple: the baseline of that. */
wasm_engine_t *weir_compiler_new(const char *target, char **error);

/* false: *error, which must be NULL before, is why. */
bool weir_compile(const wasm_engine_t *engine, const wasm_byte_vec_t *wasm, wasm_byte_vec_t *out,
                  char **error);

enum weir_snapshot_mode { WEIR_SNAPSHOT_NEVER, WEIR_SNAPSHOT_AUTO, WEIR_SNAPSHOT_ALWAYS };

struct weir_snapshot_options {
    uint32_t mode;
    uint32_t n_env;
    size_t memory_max;      /* of the module while it initialises, bytes */
    uint64_t run_max_ms;    /* its own running time */
    const char *const *env; /* "NAME=value" */
};

/* -1: refused, *said is why. 0: out is not set, the module stays as it is. 1: out is the module as
 * its initialisation left it. *said, where set, is for the user to see; weir_text_delete. */
int weir_snapshot(const wasm_byte_vec_t *wasm, const struct weir_snapshot_options *options,
                  wasm_byte_vec_t *out, char **said);

/* Makes bulk memory instructions of a valid module yield: see engine/src/bulk.rs. */
void weir_bulk_split(wasm_byte_vec_t *wasm);

/* Marks a module whose instances can be restored: NULL. Else it stays, and the text says why. */
char *weir_restore_mark(wasm_byte_vec_t *wasm);

#endif
