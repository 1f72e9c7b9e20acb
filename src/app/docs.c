#include "app/commands.h"

#include "base/log.h"
#include "base/metrics.h"
#include "guest/guest.h"

static enum err errors_write(struct buf *out)
{
    enum err e = buf_printf(out, "# Errors and close reasons\n\nMade by `weir docs errors` from "
                                 "`src/tbl/errors.def` and `src/tbl/close.def`.\n\n"
                                 "The name is `code` in problem details (RFC 9457), in logs and in "
                                 "`weir_errors_total`.\n\n"
                                 "| name | HTTP status | WebSocket close | meaning |\n"
                                 "|---|---|---|---|\n");
    for (int i = 1; i < ERR_COUNT && !e; i++)
        e = buf_printf(out, "| `%s` | %u | %u | %s |\n", err_name(i), err_http_status(i),
                       err_close_code(i), err_text(i));
    e = e ? e
          : buf_printf(out, "\nWhy a connection ended: `close_reason` in logs, `reason` in "
                            "`weir_connections_closed_total`.\n\n"
                            "| name | an error | meaning |\n|---|---|---|\n");
    for (int i = 0; i < CLOSE_COUNT && !e; i++)
        e = buf_printf(out, "| `%s` | %s | %s |\n", close_name(i), close_is_error(i) ? "yes" : "no",
                       close_text(i));
    return e;
}

static enum err wasi_write(struct buf *out)
{
    enum err e = buf_printf(out, "# WASI preview 1\n\nMade by `weir docs wasi` from "
                                 "`src/tbl/wasi.def`. There are no files and no sockets; what "
                                 "would need one is answered with the errno below.\n\n"
                                 "| function | what it does |\n|---|---|\n");
    return e ? e : guest_wasi_docs(out);
}

static enum err guest_write(struct buf *out)
{
    enum err e = buf_printf(
        out,
        "# Host functions: weir_v1\n\nMade by `weir docs guest` from `src/tbl/host.def`. Shapes "
        "and errors are in `sdk/c/weir.h`. A word of `allow:` is a group or a function; without "
        "`allow:` all of them are linked, and `wasi` too (WASI.md and `env.abort`).\n\n"
        "Parameters: i an i32, l an i64, B pointer and length, read by the host; P pointer and "
        "capacity, written by it.\n\n"
        "| function | group | parameters | result | what it does |\n|---|---|---|---|---|\n");
    static const struct {
        const char *name, *group, *params;
        char result;
        const char *text;
    } rows[] = {
#define HOST(name, group, params, result, text) {#name, #group, params, result, text},
#include "tbl/host.def"
#undef HOST
    };
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = buf_printf(out, "| `%s` | %s | `%s` | i%s | %s |\n", rows[i].name, rows[i].group,
                       rows[i].params, rows[i].result == 'l' ? "64" : "32", rows[i].text);
    return e;
}

static const struct {
    const char *name;
    enum err (*write)(struct buf *out);
} pages[] = {
    {"config", config_write_docs}, {"metrics", metrics_write_docs}, {"errors", errors_write},
    {"logs", log_write_docs},      {"guest", guest_write},          {"wasi", wasi_write},
};

bool docs_write(const char *name, FILE *to)
{
    for (size_t i = 0; i < ARRAY_LEN(pages); i++) {
        struct buf out;
        if (strcmp(pages[i].name, name) != 0)
            continue;
        buf_init(&out, 1 << 20);
        bool ok = pages[i].write(&out) == ERR_NONE;
        if (ok)
            fwrite(out.p, 1, out.len, to);
        buf_done(&out);
        return ok;
    }
    fprintf(stderr, "weir docs: no page %s; there are %s\n", name, DOCS_NAMES);
    return false;
}
