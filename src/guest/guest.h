/* Guests: modules that are loaded, and calls of their exports, each on a fiber of the loop's thread
 * in a fresh instance, or all in the module's one where it is an actor (guest_instance.h). This
 * layer knows no connection: what a guest asks of the host goes through struct guest_ops, which the
 * program fills.
 *
 *   guest_call_start      slot free                slice used up
 *  --- no slot ---> WAITING -------> RUNNING -------------------------> READY
 *   |                                 ^  | results, trap,                 |
 *   +---- slot free ------------------+  | deadline, timeout              |
 *                                     |  v                                |
 *                                     | done()                            |
 *                                     +----- next in its module's turn ---+
 *
 * At most budget_ns of an iteration of the loop belong to guests: while guests_admit says no, the
 * program leaves input where it is. When calls that were suspended got no time because new ones
 * used it up, the next iteration is theirs. */
#ifndef WEIR_GUEST_H
#define WEIR_GUEST_H

#include <weir_engine.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/metrics.h"
#include "guest/host.h"

struct guest_call;
struct guest_instance;

/* A parameter of a host function, as its row spells it (tbl/host.def). */
struct guest_param {
    uint64_t v; /* i, l */
    uint8_t *p; /* B, P; inside of the guest's memory: for the time of the call */
    uint32_t n;
};

static inline struct slice guest_bytes(const struct guest_param *a)
{
    return slice_of(a->p, a->n);
}

/* What host functions do; `call` names the event. Reads return the full length and write nothing
 * where cap is too small (sdk/c/weir.h). They run on the guest's fiber, whose stack is small:
 * append and return. */
struct guest_ops {
    int64_t (*host[GUEST_HOSTS])(struct guest_call *call, const struct guest_param *a);
    void (*failed)(struct guest_call *call, enum err e, struct slice text); /* trap, with names */
    /* WASI's standard streams and environment. input: bytes copied, 0 at the end. output: false
     * past the limit. environment: appends NUL-terminated "NAME=value", returns how many. */
    uint32_t (*input)(struct guest_call *call, uint8_t *p, uint32_t cap);
    bool (*output)(struct guest_call *call, bool error, struct slice data);
    uint32_t (*environment)(struct guest_call *call, struct buf *out);
};

enum { GUEST_ENVIRON_MAX = 128 << 10 };
enum { GUEST_KEEP = 128 << 10 }; /* bytes of a freed memory that stay for the next instance */

struct guest_limits {
    uint32_t slots, queue; /* calls that have an instance; calls that wait for one */
    uint32_t slots_module; /* instances of one module, so that others find a slot */
    uint32_t actors;       /* modules with `instance: module`, whose places are beside the slots */
    uint32_t memory_max;   /* the largest of all modules, bytes */
    uint32_t table_max;    /* likewise, elements */
    bool no_scan;          /* as on a kernel that can't report written pages, to measure that */
    uint64_t budget_ns;    /* of all guests in an iteration; the last slice may exceed it */
};

struct guest_module_limits {
    uint32_t memory, table_elements; /* bytes; of each table */
    uint32_t deadline_ms, timeout_ms;
    uint32_t cpu_ms; /* running time a second of all its calls; 0: no bound */
    uint32_t calls;  /* of host functions in an event */
};

/* Exports with a meaning: GUEST_EXPORT(name, parameters as i and l, whether it returns an i32). */
#define GUEST_EXPORT_LIST(GUEST_EXPORT)                                                            \
    GUEST_EXPORT(on_http, "", true)                                                                \
    GUEST_EXPORT(on_ws_handshake, "l", true)                                                       \
    GUEST_EXPORT(on_ws_open, "l", false)                                                           \
    GUEST_EXPORT(on_ws_message, "lii", true)                                                       \
    GUEST_EXPORT(on_ws_drain, "l", false)                                                          \
    GUEST_EXPORT(on_ws_close, "lii", false)                                                        \
    GUEST_EXPORT(on_timer, "l", false)                                                             \
    GUEST_EXPORT(on_unload, "", false) /* of an actor */                                           \
    GUEST_EXPORT(_start, "", false)    /* of a WASI command */

enum guest_export {
#define GUEST_EXPORT(name, params, result) GUEST_##name,
    GUEST_EXPORT_LIST(GUEST_EXPORT)
#undef GUEST_EXPORT
        GUEST_EXPORTS
};

struct guest_function { /* an export that /api/exec may call */
    char name[64];
    struct weir_entry *entry;
    uint8_t n_args, n_results, args[WEIR_VALUES_MAX], results[WEIR_VALUES_MAX];
};

struct guest_module {
    char name[65];
    uint32_t number;               /* the program's: the same for all versions of a module */
    uint32_t refs;                 /* the program's: calls that name it; 0: it may be unloaded */
    uint64_t events;               /* that were started */
    struct metrics_module *counts; /* the program's, of all versions; else nobody's */
    uint64_t made, restored; /* instances; of them, those that were put back for another event */
    bool held;               /* the program's: its calls wait */
    struct guest_module_limits limits;
    uint64_t allow; /* bits of enum guest_host */
    bool pulley;
    bool actor; /* one instance, kept from event to event: they run one at a time */
    bool called, restorable, image_taken;
    uint64_t code_bytes, memory_min; /* of its file; what its memory begins with */
    uint64_t held_bytes;             /* of its instances: memories and tables */
    uint8_t *image;                  /* what its memory begins with, without the zeros at the end */
    size_t image_n, image_size;
    struct list kept; /* instances that wait for a call */
    uint32_t n_kept;
    wasmtime_module_t *module;
    wasmtime_instance_pre_t *pre;
    struct weir_plan *plan;
    struct weir_entry *begin; /* makes an instance, and calls no export */
    struct weir_entry *exports[GUEST_EXPORTS];
    struct guest_function *functions;
    uint32_t n_functions, functions_max;
    bool handlers;       /* it exports an on_ function or _start: not for /api/exec by itself */
    bool ready_first;    /* of the next turn: a suspended call before one that waits */
    uint32_t running;    /* calls that have an instance */
    uint32_t n_waiting;  /* calls in `waiting` */
    struct list ready;   /* calls whose slice was used up */
    struct list waiting; /* calls without an instance yet */
    struct list turn;    /* among the modules that have either, or that are throttled */
    uint64_t cpu_since_ns, cpu_used_ns; /* the second that is counted, and what it was used for */
    uint64_t share_since_ns, share_ns;  /* as of struct guests, of this module's calls */
    struct guests *guests;
};

struct guests {
    struct guest_limits limits;
    struct guest_ops ops;
    wasm_engine_t *engines[2]; /* native, pulley */
    wasmtime_linker_t *linkers[2];
    const uint64_t *now_ns;            /* the loop's: when this iteration began */
    uint64_t clock_ns;                 /* when a guest last ended or yielded */
    uint64_t shut_ns;                  /* when one did that ended guests' time of its iteration */
    bool owed;                         /* this iteration belongs to suspended calls */
    uint64_t share_since_ns, share_ns; /* the present window, and guests' time in it */
    uint32_t sharers, sharers_before;  /* modules that ran in it; in the one before */
    struct list turns, throttled; /* modules with calls; the second: whose CPU time is used up */
    uint32_t running, waiting;
    struct list idle;      /* kept instances, which give way to calls that need their place */
    uint32_t kept, places; /* idle instances; places of the pool that one was in */
    uint64_t kept_bytes;   /* of the idle ones */
    uint64_t memory_most;  /* what a module's memory began with, at the most */
    uint8_t entropy[256];
    size_t entropy_left;
    uint32_t n_modules, n_busy; /* loaded; of them, with a call that has an instance */
};

struct guest_call {
    struct list node;
    struct guest_module *module;
    const struct weir_entry *entry;
    struct guest_instance *instance; /* while it runs */
    struct weir_call_frame frame;
    uint64_t started_ns, slice_ns; /* when it began; when its present slice did */
    uint32_t used_ticks, host_calls;
    bool exited; /* by WASI's proc_exit */
    uint32_t exit_code;
    bool ran;                                          /* it had an instance */
    enum err over;                                     /* why the epoch callback ended it */
    void (*done)(struct guest_call *call, enum err e); /* once; may free the call */
};

void guests_init(struct guests *g, const struct guest_limits *limits, const struct guest_ops *ops,
                 const uint64_t *now_ns);
void guests_done(struct guests *g);
/* The calling thread, and no other, runs g's calls from here on. Only for those that another thread
 * loaded modules for. */
void guests_thread(const struct guests *g);

const char *guest_engine_version(void);
/* Whoever calls it sets limits and allow next. */
void guest_module_init(struct guest_module *m, const char *name);
/* Loads compiled code from fd, which it takes. The module stays where it is until guest_unload.
 * ERR_MODULE_REFUSED: why says what is wrong with it. */
enum err guest_load(struct guests *g, struct guest_module *m, bool pulley, int fd,
                    struct buf *why) MUST_USE;
void guest_unload(struct guest_module *m);
/* Where a module's machine code is; false: it has none, as the interpreter reads it. */
bool guest_code(const struct guest_module *m, uintptr_t *from, uintptr_t *to);
/* Then, of each of its functions: where that is, its index, and its name, or an empty one. */
void guest_functions(const struct guest_module *m,
                     void (*tell)(void *arg, uintptr_t from, uintptr_t to, uint32_t index,
                                  const char *name, size_t n),
                     void *arg);
/* name empty: the function named like the module, or the only one. NULL: none. */
const struct guest_function *guest_function_find(const struct guest_module *m, struct slice name);

/* Whether a new event may be started in this iteration. */
bool guests_admit(const struct guests *g);
/* Whether an instance of the module fits what guests may have of the memory: while none is there.
 */
bool guests_fit(const struct guest_module *m);
/* Whether guest_call_start would say ERR_GUEST_BUSY for a module's call. */
bool guests_full(const struct guests *g, const struct guest_module *m);
/* Whether a module had more than its part of the time, and enough calls wait for it: its peers'
 * input better stays unread. */
bool guests_over(const struct guests *g, const struct guest_module *m);
/* Whether guest_call_queue would, which has some room of its own beyond limits.queue. */
bool guests_queue_full(const struct guests *g);
/* Runs a call whose module, entry, frame's arguments and done are set. done() may be called before
 * this returns. ERR_GUEST_BUSY, and no done(), where too many wait. */
enum err guest_call_start(struct guests *g, struct guest_call *c) MUST_USE;
/* The same, but it waits for its module's turn even where it could start now. */
enum err guest_call_queue(struct guests *g, struct guest_call *c) MUST_USE;
/* The loop's phase: slices of suspended and waiting calls in turn. true: more is ready. */
bool guests_run(struct guests *g);
/* When a throttled module may go on; 0: there is none. */
uint64_t guests_wake_ns(const struct guests *g);

static inline void guest_arg(struct guest_call *c, uint8_t kind, uint64_t bits)
{
    c->frame.values[c->frame.n_args++] = (struct weir_value){kind, bits};
}

/* Whether an import is one of WASI's, or env.abort; what WASI's function of that name answers,
 * NULL: there is none. */
bool guest_wasi_imports(struct slice module, struct slice name);
const char *guest_wasi_answer(struct slice name);
enum err guest_wasi_docs(struct buf *out) MUST_USE; /* rows of a table */

/* Appends what compiled code, which it takes, imports and exports; or why it can't be loaded. */
enum err guest_inspect(struct guests *g, bool pulley, int fd, struct buf *out) MUST_USE;

bool guest_export_returns(enum guest_export x); /* an i32 */

/* Between the files of guest/. */
enum err guest_engine(struct guests *g, bool pulley,
                      struct buf *why) MUST_USE; /* made if need be */
enum err guest_host_link(wasmtime_linker_t *linker, struct buf *why) MUST_USE;
enum err guest_host_allow(const struct guest_module *m, struct buf *why) MUST_USE;
struct slice guest_memory_of(const struct guest_call *c, wasmtime_caller_t *caller);
wasm_trap_t *guest_host_counted(struct guest_call *c); /* NULL: within the limit */
enum err guest_wasi_link(wasmtime_linker_t *linker, struct buf *why) MUST_USE;
void guest_ticker_engine(int which, wasm_engine_t *engine); /* NULL: gone */

#endif
