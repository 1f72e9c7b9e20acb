/* What a module asks for and offers, in words: `weir inspect`. */
#include "guest/guest.h"

/* wasm_valtype_kind ends the program where it is asked of a vector or of most references. */
static const char *type_name(const wasm_valtype_t *t)
{
    static const char *const names[] = {
        [WASM_I32] = "i32", [WASM_I64] = "i64", [WASM_F32] = "f32", [WASM_F64] = "f64"};
    const char *name = "other";
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        wasm_valtype_t *number = wasm_valtype_new((wasm_valkind_t)i);
        name = wasmtime_wasm_valtype_equal(t, number) ? names[i] : name;
        wasm_valtype_delete(number);
    }
    return name;
}

static enum err types(struct buf *out, const wasm_valtype_vec_t *v)
{
    enum err e = ERR_NONE;
    for (size_t i = 0; i < v->size && !e; i++)
        e = buf_printf(out, "%s%s", i ? ", " : "", type_name(v->data[i]));
    return e;
}

/* A name is any UTF-8, and goes to a terminal: what is not printable ASCII is shown by its bytes.
 */
static enum err name_add(struct buf *out, const wasm_name_t *name)
{
    enum err e = ERR_NONE;
    for (size_t i = 0; i < name->size && !e; i++) {
        uint8_t c = (uint8_t)name->data[i];
        e = c >= 0x20 && c < 0x7f ? buf_append(out, slice_of(&c, 1))
                                  : buf_printf(out, "\\x%02x", c);
    }
    return e;
}

static enum err type(struct buf *out, const wasm_externtype_t *t)
{
    const wasm_functype_t *f = wasm_externtype_as_functype_const(t);
    const wasm_memorytype_t *m = wasm_externtype_as_memorytype_const(t);
    if (m) {
        const wasm_limits_t *l = wasm_memorytype_limits(m);
        bool bounded = l->max != UINT32_MAX;
        return buf_printf(out,
                          bounded ? "memory, %u to %u pages of 64 KiB"
                                  : "memory, %u and more pages of 64 KiB",
                          l->min, l->max);
    }
    if (!f)
        return buf_printf(out, "%s",
                          wasm_externtype_kind(t) == WASM_EXTERN_TABLE    ? "table"
                          : wasm_externtype_kind(t) == WASM_EXTERN_GLOBAL ? "global"
                                                                          : "other");
    enum err e = buf_printf(out, "(");
    e = e ? e : types(out, wasm_functype_params(f));
    e = e ? e : buf_printf(out, ") -> (");
    e = e ? e : types(out, wasm_functype_results(f));
    return e ? e : buf_printf(out, ")");
}

static enum err imports(struct buf *out, const wasmtime_module_t *module)
{
    wasm_importtype_vec_t v;
    wasmtime_module_imports(module, &v);
    enum err e = buf_printf(out, "imports%s\n", v.size ? "" : ": none");
    for (size_t i = 0; i < v.size && !e; i++) {
        const wasm_name_t *from = wasm_importtype_module(v.data[i]);
        const wasm_name_t *name = wasm_importtype_name(v.data[i]);
        struct slice s = slice_of(name->data, name->size);
        bool wasi = guest_wasi_imports(slice_of(from->data, from->size), s);
        const char *answer = wasi ? guest_wasi_answer(s) : NULL;
        e = buf_append(out, SLICE("  "));
        e = e ? e : name_add(out, from);
        e = e ? e : buf_append(out, SLICE("."));
        e = e ? e : name_add(out, name);
        e = e ? e : buf_append(out, SLICE(" "));
        e = e ? e : type(out, wasm_importtype_type(v.data[i]));
        e = e ? e : buf_printf(out, "%s%s\n", answer ? ": " : "", answer ? answer : "");
    }
    wasm_importtype_vec_delete(&v);
    return e;
}

/* What weirc adds is none of the module's. */
static bool own(const wasm_name_t *name)
{
    return name->size > 5 && memcmp(name->data, "weir:", 5) == 0;
}

static bool is(const wasm_name_t *name, const char *s)
{
    return slice_eq(slice_of(name->data, name->size), slice_str(s));
}

static enum err exports(struct buf *out, const wasmtime_module_t *module)
{
    wasm_exporttype_vec_t v;
    bool handlers = false, command = false, reactor = false, snapshot = false, restored = false;
    wasmtime_module_exports(module, &v);
    enum err e = buf_printf(out, "exports%s\n", v.size ? "" : ": none");
    for (size_t i = 0; i < v.size && !e; i++) {
        const wasm_name_t *name = wasm_exporttype_name(v.data[i]);
        handlers |= name->size > 3 && memcmp(name->data, "on_", 3) == 0;
        command |= is(name, "_start");
        reactor |= is(name, "_initialize");
        snapshot |= is(name, "weir:snapshot");
        restored |= is(name, "weir:restore");
        if (own(name))
            continue;
        e = buf_append(out, SLICE("  "));
        e = e ? e : name_add(out, name);
        e = e ? e : buf_append(out, SLICE(" "));
        e = e ? e : type(out, wasm_exporttype_type(v.data[i]));
        e = e ? e : buf_printf(out, "\n");
    }
    wasm_exporttype_vec_delete(&v);
    e = e ? e
          : buf_printf(out, "kind: %s%s\n",
                       handlers  ? "handlers of weir_v1"
                       : command ? "a WASI command"
                                 : "functions for /api/exec",
                       snapshot  ? ", stored initialised"
                       : reactor ? ", initialised in each instance"
                                 : "");
    return e ? e : buf_printf(out, "instances: %s\n", restored ? "restored" : "made anew");
}

enum err guest_inspect(struct guests *g, bool pulley, int fd, struct buf *out)
{
    char *text = NULL;
    enum err e = guest_engine(g, pulley, out);
    if (e)
        return e;
    wasmtime_module_t *module = weir_module_load(g->engines[pulley], fd, &text);
    if (!module) {
        e = buf_printf(out, "%s", text);
        weir_text_delete(text);
        return e ? e : ERR_MODULE_REFUSED;
    }
    e = imports(out, module);
    e = e ? e : exports(out, module);
    wasmtime_module_delete(module);
    return e;
}
