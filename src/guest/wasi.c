/* WASI preview 1, as much of it as a guest without files and sockets needs, and AssemblyScript's
 * env.abort. Like weir_v1's, these functions run on the guest's fiber: they copy and return. */
#include "base/metrics.h"
#include "guest/guest.h"
#include "sys/sys.h"

/* wasi/api.h */
enum { OK = 0, BADF = 8, FAULT = 21, INVAL = 28, NOSPC = 51, NOSYS = 52, SPIPE = 70 };
enum { FD_IN, FD_OUT, FD_ERR, CLOCK_REALTIME_ID = 0, CLOCK_THREAD_ID = 3, FILETYPE_CHARACTER = 2 };
enum { SUBSCRIPTION_SIZE = 48, EVENT_SIZE = 32, SUBSCRIPTION_CLOCK = 0 };
enum { CHUNK_MAX = 64 << 10 }; /* bytes that a call moves, as none can be interrupted */
enum { IOVECS_MAX = 1024, RANDOM_MAX = CHUNK_MAX, POLL_MAX = 64, ABORT_TEXT_MAX = 200 };

/* A call with its parameters, and the guest's memory now. */
struct wasi {
    struct guest_call *call;
    struct slice memory;
    const wasmtime_val_raw_t *v;
};

/* n bytes at a pointer that the guest gave; NULL: not all in its memory. */
static uint8_t *at(const struct wasi *w, uint32_t from, uint64_t n)
{
    return (uint64_t)from + n > w->memory.n ? NULL : (uint8_t *)(uintptr_t)w->memory.p + from;
}

static uint32_t arg(const struct wasi *w, int i)
{
    return (uint32_t)w->v[i].i32;
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t n;
    memcpy(&n, p, sizeof(n));
    return n;
}

static int store(const struct wasi *w, uint32_t to, const void *value, size_t n)
{
    uint8_t *p = at(w, to, n);
    if (!p)
        return FAULT;
    memcpy(p, value, n);
    return OK;
}

static int store32(const struct wasi *w, uint32_t to, uint32_t value)
{
    return store(w, to, &value, sizeof(value));
}

/* ---- arguments, environment ---- */

/* NUL-terminated strings one behind the other; how many. */
static uint32_t strings_of(const struct wasi *w, bool environment, struct buf *out)
{
    buf_init(out, GUEST_ENVIRON_MAX);
    if (environment)
        return w->call->module->guests->ops.environment(w->call, out);
    struct slice name = slice_str(w->call->module->name);
    return buf_append(out, name) || buf_append(out, slice_of("", 1)) ? 0 : 1;
}

static int sizes_get(const struct wasi *w, bool environment)
{
    struct buf strings;
    uint32_t n = strings_of(w, environment, &strings);
    int e = store32(w, arg(w, 0), n);
    e = e ? e : store32(w, arg(w, 1), strings.len);
    buf_done(&strings);
    return e;
}

static int strings_get(const struct wasi *w, bool environment)
{
    struct buf strings;
    uint32_t n = strings_of(w, environment, &strings), to = arg(w, 1);
    uint8_t *pointers = at(w, arg(w, 0), (uint64_t)n * 4), *bytes = at(w, to, strings.len);
    int e = pointers && bytes ? OK : FAULT;
    for (uint32_t i = 0, from = 0; i < n && !e; i++) {
        uint32_t address = to + from;
        memcpy(pointers + (size_t)i * 4, &address, 4);
        from += (uint32_t)strlen((const char *)strings.p + from) + 1;
    }
    if (!e)
        slice_copy(bytes, buf_slice(&strings));
    buf_done(&strings);
    return e;
}

static int args_get(struct wasi *w)
{
    return strings_get(w, false);
}

static int args_sizes_get(struct wasi *w)
{
    return sizes_get(w, false);
}

static int environ_get(struct wasi *w)
{
    return strings_get(w, true);
}

static int environ_sizes_get(struct wasi *w)
{
    return sizes_get(w, true);
}

/* ---- clocks, entropy, waiting ---- */

static int clock_res_get(struct wasi *w)
{
    uint64_t ns = arg(w, 0) == CLOCK_REALTIME_ID ? 1000000 : 1;
    return arg(w, 0) > CLOCK_THREAD_ID ? INVAL : store(w, arg(w, 1), &ns, sizeof(ns));
}

static int clock_time_get(struct wasi *w)
{
    uint64_t ns = arg(w, 0) == CLOCK_REALTIME_ID ? sys_wall_ms() * 1000000 : sys_now_ns();
    return arg(w, 0) > CLOCK_THREAD_ID ? INVAL : store(w, arg(w, 2), &ns, sizeof(ns));
}

static int random_get(struct wasi *w)
{
    uint8_t *p = at(w, arg(w, 0), arg(w, 1));
    if (!p)
        return FAULT;
    if (arg(w, 1) > RANDOM_MAX)
        return INVAL; /* a host call can't be interrupted */
    sys_random(p, arg(w, 1));
    return OK;
}

static int sched_yield(struct wasi *w)
{
    (void)w;
    return OK;
}

static int poll_oneoff(struct wasi *w)
{
    uint32_t n = arg(w, 2);
    const uint8_t *in = at(w, arg(w, 0), (uint64_t)n * SUBSCRIPTION_SIZE);
    uint8_t *out = at(w, arg(w, 1), (uint64_t)n * EVENT_SIZE);
    if (!in || !out)
        return FAULT;
    if (!n || n > POLL_MAX)
        return INVAL;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t event[EVENT_SIZE] = {0};
        uint8_t kind = in[(size_t)i * SUBSCRIPTION_SIZE + 8];
        memcpy(event, in + (size_t)i * SUBSCRIPTION_SIZE, 8); /* userdata */
        event[8] = kind == SUBSCRIPTION_CLOCK ? OK : BADF;
        event[10] = kind;
        memmove(out + (size_t)i * EVENT_SIZE, event, EVENT_SIZE);
    }
    return store32(w, arg(w, 3), n);
}

/* ---- descriptors ---- */

static int standard(const struct wasi *w)
{
    return arg(w, 0) <= FD_ERR ? OK : BADF;
}

static int fd_close(struct wasi *w)
{
    return standard(w);
}

static int fd_fdstat_set_flags(struct wasi *w)
{
    return standard(w);
}

static int fd_fdstat_get(struct wasi *w)
{
    const uint64_t right = arg(w, 0) == FD_IN ? 1 << 1 : 1 << 6; /* fd_read, fd_write */
    uint8_t stat[24] = {FILETYPE_CHARACTER};
    memcpy(stat + 8, &right, sizeof(right));
    return standard(w) ? BADF : store(w, arg(w, 1), stat, sizeof(stat));
}

static int fd_filestat_get(struct wasi *w)
{
    uint8_t stat[64] = {[16] = FILETYPE_CHARACTER};
    return standard(w) ? BADF : store(w, arg(w, 1), stat, sizeof(stat));
}

static int fd_seek(struct wasi *w)
{
    return standard(w) ? BADF : SPIPE;
}

static int fd_tell(struct wasi *w)
{
    return standard(w) ? BADF : SPIPE;
}

/* Goes through the buffers that the guest lists, until one is not taken or filled whole. */
static int buffers(const struct wasi *w, bool reads)
{
    const struct guest_ops *ops = &w->call->module->guests->ops;
    uint32_t n = arg(w, 2);
    const uint8_t *list = at(w, arg(w, 1), (uint64_t)n * 8);
    uint32_t sum = 0;
    if (!list)
        return FAULT;
    if (n > IOVECS_MAX)
        return INVAL;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t size = load32(list + (size_t)i * 8 + 4);
        uint8_t *p = at(w, load32(list + (size_t)i * 8), size);
        if (!p) /* what was taken before it would be written again */
            return sum ? store32(w, arg(w, 3), sum) : FAULT;
        size = MIN(size, CHUNK_MAX - sum);
        uint32_t done = size;
        if (reads)
            done = ops->input(w->call, p, size);
        else if (!ops->output(w->call, arg(w, 0) == FD_ERR, slice_of(p, size)))
            return sum ? store32(w, arg(w, 3), sum) : NOSPC;
        sum += done;
        if (done < size || sum == CHUNK_MAX)
            break;
    }
    return store32(w, arg(w, 3), sum);
}

static int fd_read(struct wasi *w)
{
    return arg(w, 0) == FD_IN ? buffers(w, true) : BADF;
}

static int fd_write(struct wasi *w)
{
    return arg(w, 0) == FD_OUT || arg(w, 0) == FD_ERR ? buffers(w, false) : BADF;
}

/* What ends the event besides is host_call's. */
static int proc_exit(struct wasi *w)
{
    w->call->exited = true;
    w->call->exit_code = arg(w, 0);
    return OK;
}

/* ---- linking ---- */

static const struct wasi_row {
    const char *name, *params, *text;
    int (*own)(struct wasi *w);
    int answer;
} rows[] = {
#define WASI_CALL_own(name) name
#define WASI_CALL_BADF(name) NULL
#define WASI_CALL_NOSYS(name) NULL
#define WASI_ANSWER_own OK
#define WASI_ANSWER_BADF BADF
#define WASI_ANSWER_NOSYS NOSYS
#define WASI(name, params, answer, text)                                                           \
    {#name, params, text, WASI_CALL_##answer(name), WASI_ANSWER_##answer},
#include "tbl/wasi.def"
#undef WASI
};

static wasm_trap_t *host_call(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v, size_t n)
{
    const struct wasi_row *row = env;
    struct guest_call *c = wasmtime_context_get_data(wasmtime_caller_context(caller));
    struct wasi w = {c, guest_memory_of(c, caller), v};
    (void)n;
    wasm_trap_t *trap = guest_host_counted(c);
    if (trap)
        return trap;
    int result = row->own ? row->own(&w) : row->answer;
    if (c->exited)
        return wasmtime_trap_new_code(WASMTIME_TRAP_CODE_INTERRUPT);
    v[0].i32 = result;
    return NULL;
}

/* An AssemblyScript string: UTF-16, its length in bytes in front of it; shown as far as it is
 * ASCII. Appends; a pointer that is none appends nothing. */
static void text_add(const struct wasi *w, uint32_t from, struct buf *out)
{
    const uint8_t *length = from >= 4 ? at(w, from - 4, 4) : NULL;
    uint32_t n = length ? MIN(load32(length) / 2, (uint32_t)ABORT_TEXT_MAX) : 0;
    const uint8_t *p = length ? at(w, from, load32(length)) : NULL;
    for (uint32_t i = 0; p && i < n; i++) {
        uint8_t c = p[(size_t)i * 2 + 1] || p[(size_t)i * 2] > 126 ? '?' : p[(size_t)i * 2];
        if (buf_append(out, slice_of(&c, 1)))
            return;
    }
}

static wasm_trap_t *env_abort(void *env, wasmtime_caller_t *caller, wasmtime_val_raw_t *v, size_t n)
{
    struct guest_call *c = wasmtime_context_get_data(wasmtime_caller_context(caller));
    struct wasi w = {c, guest_memory_of(c, caller), v};
    struct buf text;
    (void)env, (void)n;
    buf_init(&text, 4 * ABORT_TEXT_MAX);
    enum err e = buf_append(&text, SLICE("abort: "));
    text_add(&w, arg(&w, 0), &text);
    e = e ? e : buf_append(&text, SLICE(" in "));
    text_add(&w, arg(&w, 1), &text);
    e = e ? e : buf_printf(&text, ":%u:%u\n", arg(&w, 2), arg(&w, 3));
    if (!e)
        c->module->guests->ops.output(c, true, buf_slice(&text));
    buf_done(&text);
    return wasmtime_trap_new_code(WASMTIME_TRAP_CODE_UNREACHABLE_CODE_REACHED);
}

static enum err define(wasmtime_linker_t *linker, const char *module, const char *name,
                       const char *params, bool result, wasmtime_func_unchecked_callback_t call,
                       const void *env, struct buf *why)
{
    wasm_valtype_t *types[10], *i32 = result ? wasm_valtype_new(WASM_I32) : NULL;
    wasm_valtype_vec_t in, out;
    size_t n = strlen(params);
    for (size_t i = 0; i < n; i++)
        types[i] = wasm_valtype_new(params[i] == 'l' ? WASM_I64 : WASM_I32);
    wasm_valtype_vec_new(&in, n, types);
    wasm_valtype_vec_new(&out, result, &i32);
    wasm_functype_t *type = wasm_functype_new(&in, &out);
    wasmtime_error_t *error = wasmtime_linker_define_func_unchecked(linker, module, strlen(module),
                                                                    name, strlen(name), type, call,
                                                                    (void *)(uintptr_t)env, NULL);
    wasm_functype_delete(type);
    if (!error)
        return ERR_NONE;
    wasmtime_error_delete(error);
    enum err e = buf_printf(why, "%s.%s can't be linked", module, name);
    return e ? e : ERR_MODULE_REFUSED;
}

enum err guest_wasi_link(wasmtime_linker_t *linker, struct buf *why)
{
    enum err e = define(linker, "env", "abort", "iiii", false, env_abort, NULL, why);
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = define(linker, "wasi_snapshot_preview1", rows[i].name, rows[i].params,
                   rows[i].own != proc_exit, host_call, &rows[i], why);
    return e;
}

bool guest_wasi_imports(struct slice module, struct slice name)
{
    return slice_eq(module, SLICE("wasi_snapshot_preview1")) ||
           (slice_eq(module, SLICE("env")) && slice_eq(name, SLICE("abort")));
}

const char *guest_wasi_answer(struct slice name)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (slice_eq(slice_str(rows[i].name), name))
            return rows[i].own              ? "answered"
                   : rows[i].answer == BADF ? "always EBADF"
                                            : "always ENOSYS";
    return NULL;
}

enum err guest_wasi_docs(struct buf *out)
{
    enum err e = ERR_NONE;
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = buf_printf(out, "| `%s` | %s%s%s |\n", rows[i].name,
                       rows[i].own              ? ""
                       : rows[i].answer == BADF ? "EBADF"
                                                : "ENOSYS",
                       !rows[i].own && *rows[i].text ? ": " : "", rows[i].text);
    return e;
}
