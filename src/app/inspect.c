#include "app/commands.h"

#include <stdio.h>
#include <stdlib.h>

#include "app/artifact.h"
#include "app/gateway.h"

static const char yaml[] = "modules: {inspected: {path: \"${WEIR_INSPECTED}\"}}";

/* The engine's words, with names that the module chose: they go to a terminal, and begin no line.
 */
static void reason(const struct buf *why)
{
    for (uint32_t i = 0; i < why->len; i++)
        if (why->p[i] == '\n')
            printf("\n  ");
        else
            putchar(why->p[i] >= 0x20 && why->p[i] < 0x7f ? why->p[i] : '?');
}

static int fail(const struct buf *why)
{
    fprintf(stderr, "%.*s\n", (int)why->len, why->len ? (const char *)why->p : "");
    return EXIT_FAILURE;
}

/* Its words with the largest limits there are, then whether it loads with those of the defaults. */
static int inspect(const struct config *config, struct buf *out)
{
    const struct config_module *m = &config->modules[0];
    struct guest_limits limits = {
        .slots = 1, .slots_module = 1, .memory_max = 1 << 30, .table_max = 1000000};
    const uint64_t now_ns = 0;
    struct guests guests;
    struct guest_module module;
    int fd;
    if (artifact_open(config, m, false, &fd, out))
        return fail(out);
    guests_init(&guests, &limits, &event_ops, &now_ns);
    enum err e = guest_inspect(&guests, false, fd, out);
    if (!e) {
        fwrite(out->len ? (const char *)out->p : "", 1, out->len, stdout);
        buf_clear(out, UINT32_MAX);
    }
    e = e ? e : artifact_open(config, m, false, &fd, out);
    if (!e) {
        gateway_module_init(config, 0, &module);
        e = guest_load(&guests, &module, false, fd, out);
        if (!e)
            guest_unload(&module);
    }
    guests_done(&guests);
    printf("loads: %s", e ? "no: " : "yes");
    reason(out);
    putchar('\n');
    return e ? EXIT_FAILURE : EXIT_SUCCESS;
}

int inspect_run(const char *path)
{
    struct config config;
    struct buf out;
    buf_init(&out, 1 << 20);
    setenv("WEIR_INSPECTED", path, 1);
    int status = config_parse(slice_str(yaml), "weir.yaml", &config, &out) ? fail(&out)
                                                                           : inspect(&config, &out);
    config_done(&config);
    buf_done(&out);
    return status;
}
