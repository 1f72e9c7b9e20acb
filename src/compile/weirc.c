/* weirc IN -o OUT: compiles .wasm or .wat to a .cwasm. The stages: text to wasm, check and
 * snapshot (the module as its initialisation leaves it), compile. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <weir_compiler.h>

#include "base/buf.h"
#include "sys/sys.h"
#include "sys/sys_cage.h"

/* For the output; for memory beside what guests map; for all of it. */
#define OUTPUT_MAX (UINT64_C(256) << 20)
#define DATA_MAX (UINT64_C(4) << 30)
enum { CPU_MAX_S = 60 };

enum { SOURCE_MAX = 64 << 20, ENV_MAX = 64, RUN_MAX_MS = 10000, MEMORY_MAX = 256 << 20 };

struct options {
    const char *in, *out, *engine, *target, *cpu;
    struct weir_snapshot_options snapshot;
    const char *env[ENV_MAX];
    enum { CAGE_SILENT, CAGE_SAY, CAGE_REQUIRE } cage;
    struct sys_user user;
};

static const char usage[] =
    "usage: weirc IN.wasm|IN.wat -o OUT.cwasm [OPTION...]\n"
    "  --engine native|pulley   machine code, or code of a portable interpreter (default native)\n"
    "  --target TRIPLE          for another machine, e.g. aarch64-unknown-linux-gnu, at its "
    "baseline\n"
    "  --cpu native|baseline    all that this machine's CPU can do, or what any of its kind can\n"
    "  --snapshot               store the module as its initialisation leaves it, even if what it\n"
    "                           drew at random then is the same in each instance\n"
    "  --no-snapshot            initialise in each instance; default: a snapshot where none can "
    "tell\n"
    "  --env NAME=VALUE         a variable that the initialisation sees; may be repeated\n"
    "  --memory BYTES           the most memory it may have while it initialises\n"
    "  --run MILLISECONDS       the most running time that it may take for that (default 10000)\n"
    "  --cage say|require       say what is missing of the cage in which it works, or refuse then\n"
    "  --user UID:GID           work as that user; OUT is written as it is then, and not replaced\n"
    "Exit codes: 0 done, 1 the module can't be compiled, 2 usage.\n";

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

/* What Cranelift is to make code for; NULL: this machine with all its CPU can do. */
static const char *target_of(const struct options *o)
{
    if (strcmp(o->engine, "pulley") == 0)
        return "pulley64";
    if (o->target)
        return o->target;
    if (strcmp(o->cpu, "baseline") != 0)
        return NULL;
#ifdef __aarch64__
    return "aarch64-unknown-linux-gnu";
#else
    return "x86_64-unknown-linux-gnu";
#endif
}

/* Replaces `wasm` by its snapshot, or leaves it. */
static int snapshot(const struct options *o, wasm_byte_vec_t *wasm)
{
    wasm_byte_vec_t made;
    char *said = NULL;
    int done = weir_snapshot(wasm, &o->snapshot, &made, &said);
    if (said)
        fail(o->in, said, strlen(said));
    if (done > 0)
        *wasm = made;
    return done < 0;
}

/* A stranger's module is compiled, and perhaps initialised, here: nothing but the output is left to
 * reach. */
static bool cage(const struct options *o)
{
    char folder[4096];
    struct sys_cage made;
    int e = sys_cage_user(&o->user);
    if (e) {
        fail("--user", strerror(e), strlen(strerror(e)));
        return false;
    }
    snprintf(folder, sizeof(folder), "%s", o->out);
    char *slash = strrchr(folder, '/');
    if (!slash)
        snprintf(folder, sizeof(folder), ".");
    else
        slash[slash == folder] = 0;
    sys_cage_enter_compiler(&(struct sys_cage_compiler){.folder = o->user.other ? NULL : folder,
                                                        .file_max = OUTPUT_MAX,
                                                        .data_max = DATA_MAX,
                                                        .cpu_s = CPU_MAX_S},
                            &made);
    bool whole = true;
    for (int i = 0; i < SYS_CAGE_LAYERS && o->cage; i++)
        if (made.missing[i]) {
            whole = false;
            fprintf(stderr, "cage: %s: %s\n", sys_cage_layer_name((enum sys_cage_layer)i),
                    made.missing[i]);
        }
    return whole || o->cage != CAGE_REQUIRE;
}

static int compile(const struct options *o)
{
    struct slice source;
    char *text = NULL;
    wasm_byte_vec_t wasm, code;
    enum err e = sys_file_read(o->in, SOURCE_MAX, &source);
    if (e) {
        const char *why = e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno);
        return fail(o->in, why, strlen(why));
    }
    int out = o->user.other ? sys_file_make(o->out) : -1;
    if (o->user.other && out < 0)
        return fail(o->out, strerror(-out), strlen(strerror(-out)));
    if (!cage(o))
        return 1;
    wasm_engine_t *engine = weir_compiler_new(target_of(o), &text);
    if (!engine)
        return fail(target_of(o), text, strlen(text));
    wasmtime_error_t *error = NULL;
    if (source.n >= 4 && memcmp(source.p, "\0asm", 4) == 0)
        wasm_byte_vec_new(&wasm, source.n, (const char *)source.p);
    else
        error = wasmtime_wat2wasm((const char *)source.p, source.n, &wasm);
    if (error)
        return fail_error(o->in, error);
    if (snapshot(o, &wasm))
        return 1;
    weir_bulk_split(&wasm);
    /* Why it can't be restored is nothing that its user has to mend. */
    weir_text_delete(weir_restore_mark(&wasm));
    if (!weir_compile(engine, &wasm, &code, &text))
        return fail(o->in, text, strlen(text));
    struct slice made = slice_of(code.data, code.size);
    if (out < 0 ? sys_file_write(o->out, made) : sys_fd_write(out, made))
        return fail(o->out, strerror(errno), strlen(strerror(errno)));
    return 0;
}

static bool one_of(const char *s, const char *a, const char *b)
{
    return strcmp(s, a) == 0 || strcmp(s, b) == 0;
}

static bool user_read(const char *text, struct sys_user *out)
{
    char *end;
    out->other = true;
    out->uid = (uint32_t)strtoul(text, &end, 10);
    if (end == text || *end != ':')
        return false;
    text = end + 1;
    out->gid = (uint32_t)strtoul(text, &end, 10);
    return end > text && !*end;
}

/* An option with its value; false: there is none of that name, or it can't have that value. */
static bool option(struct options *o, const char *name, const char *value)
{
    char *end = "";
    if (strcmp(name, "-o") == 0)
        o->out = value;
    else if (strcmp(name, "--engine") == 0)
        o->engine = value;
    else if (strcmp(name, "--target") == 0)
        o->target = value;
    else if (strcmp(name, "--cpu") == 0)
        o->cpu = value;
    else if (strcmp(name, "--cage") == 0 && one_of(value, "say", "require"))
        o->cage = *value == 's' ? CAGE_SAY : CAGE_REQUIRE;
    else if (strcmp(name, "--user") == 0)
        return user_read(value, &o->user);
    else if (strcmp(name, "--memory") == 0)
        o->snapshot.memory_max = strtoull(value, &end, 10);
    else if (strcmp(name, "--run") == 0)
        o->snapshot.run_max_ms = strtoull(value, &end, 10);
    else if (strcmp(name, "--env") == 0 && o->snapshot.n_env < ENV_MAX && strchr(value, '='))
        o->env[o->snapshot.n_env++] = value;
    else
        return false;
    return *value && !*end;
}

static bool options_read(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--snapshot") == 0)
            o->snapshot.mode = WEIR_SNAPSHOT_ALWAYS;
        else if (strcmp(argv[i], "--no-snapshot") == 0)
            o->snapshot.mode = WEIR_SNAPSHOT_NEVER;
        else if (argv[i][0] != '-' && !o->in)
            o->in = argv[i];
        else if (i + 1 >= argc || !option(o, argv[i], argv[i + 1]))
            return false;
        else
            i++;
    }
    return o->in && o->out && one_of(o->engine, "native", "pulley") &&
           one_of(o->cpu, "native", "baseline");
}

int main(int argc, char **argv)
{
    struct options o = {.engine = "native",
                        .cpu = "native",
                        .snapshot = {.mode = WEIR_SNAPSHOT_AUTO,
                                     .memory_max = MEMORY_MAX,
                                     .run_max_ms = RUN_MAX_MS}};
    o.snapshot.env = o.env;
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (!options_read(&o, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    return compile(&o);
}
