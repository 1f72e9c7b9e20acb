/* weirc IN -o OUT [--engine native|pulley]: compiles .wasm or .wat to a .cwasm. */
#include <errno.h>
#include <stdio.h>

#include <weir_engine.h>

#include "base/buf.h"
#include "sys/sys.h"
#include "sys/sys_cage.h"

/* For the output; for memory beside what guests map; for all of it. */
#define OUTPUT_MAX (UINT64_C(256) << 20)
#define DATA_MAX (UINT64_C(4) << 30)
enum { CPU_MAX_S = 60 };

static int fail(const char *file, const char *what, size_t n)
{
    fprintf(stderr, "%s: %.*s\n", file, (int)n, what);
    return 1;
}

static int fail_error(const char *file, wasmtime_error_t *error)
{
    wasm_name_t text;
    wasmtime_error_message(error, &text);
    return fail(file, text.data, text.size);
}

/* A stranger's module is compiled, and perhaps initialised, here: nothing but the output is left to
 * reach. */
static void cage(const char *out)
{
    char folder[4096];
    snprintf(folder, sizeof(folder), "%s", out);
    char *slash = strrchr(folder, '/');
    if (!slash)
        snprintf(folder, sizeof(folder), ".");
    else
        slash[slash == folder] = 0;
    sys_cage_enter_compiler(&(struct sys_cage_compiler){
        .folder = folder, .file_max = OUTPUT_MAX, .data_max = DATA_MAX, .cpu_s = CPU_MAX_S});
}

static int compile(const char *in, const char *out, bool pulley)
{
    struct slice source;
    char *text = NULL;
    wasm_byte_vec_t wasm, code;
    wasmtime_module_t *module;
    if (sys_file_read(in, 64 << 20, &source))
        return fail(in, strerror(errno), strlen(strerror(errno)));
    cage(out);
    wasm_engine_t *engine = weir_compiler_new(pulley, &text);
    if (!engine)
        return fail(in, text, strlen(text));
    wasmtime_error_t *error = NULL;
    if (source.n >= 4 && memcmp(source.p, "\0asm", 4) == 0)
        wasm_byte_vec_new(&wasm, source.n, (const char *)source.p);
    else
        error = wasmtime_wat2wasm((const char *)source.p, source.n, &wasm);
    if (!error)
        error = wasmtime_module_new(engine, (const uint8_t *)wasm.data, wasm.size, &module);
    if (!error)
        error = wasmtime_module_serialize(module, &code);
    if (error)
        return fail_error(in, error);
    if (sys_file_write(out, slice_of(code.data, code.size)))
        return fail(out, strerror(errno), strlen(strerror(errno)));
    return 0;
}

int main(int argc, char **argv)
{
    const char *in = NULL, *out = NULL, *engine = "native";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-o") == 0 && i + 1 < argc)
            out = argv[++i];
        else if (strcmp(argv[i], "--engine") == 0 && i + 1 < argc)
            engine = argv[++i];
        else if (argv[i][0] != '-' && !in)
            in = argv[i];
        else
            in = out = NULL, i = argc;
    }
    bool pulley = strcmp(engine, "pulley") == 0;
    if (!in || !out || (!pulley && strcmp(engine, "native") != 0)) {
        fprintf(stderr, "usage: weirc IN.wasm|IN.wat -o OUT.cwasm [--engine native|pulley]\n");
        return 2;
    }
    return compile(in, out, pulley);
}
