#include "base/metrics.h"

#include <inttypes.h>

#include "base/pool.h"

_Thread_local struct metrics metrics;

static const struct {
    const char *name, *text;
    uint16_t code;
    bool is_error;
} closes[] = {
#define CLOSE(name, text, code, is_error) {#name, text, code, is_error},
#include "tbl/close.def"
#undef CLOSE
};

const char *close_name(enum close_reason r)
{
    return closes[r].name;
}

const char *close_text(enum close_reason r)
{
    return closes[r].text;
}

uint16_t close_code(enum close_reason r)
{
    return closes[r].code;
}

bool close_is_error(enum close_reason r)
{
    return closes[r].is_error;
}

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_GAUGE_NS, KIND_FAMILY };

typedef const char *label_name(int row);

static const char *label_err(int row)
{
    return err_name((enum err)row);
}

static const char *label_close(int row)
{
    return close_name((enum close_reason)row);
}

static const struct row {
    const char *name, *help, *label;
    enum kind kind;
    size_t at; /* in struct metrics: count values */
    int count;
    label_name *label_of;
} rows[] = {
#define AT(name) offsetof(struct metrics, name)
#define COUNTER(name, help) {#name, help, NULL, KIND_COUNTER, AT(name), 1, NULL},
#define GAUGE(name, help) {#name, help, NULL, KIND_GAUGE, AT(name), 1, NULL},
#define GAUGE_NS(name, help) {#name, help, NULL, KIND_GAUGE_NS, AT(name), 1, NULL},
#define FAMILY(name, label, table, help)                                                           \
    {#name, help, #label, KIND_FAMILY, AT(name), METRICS_TABLE_##table, label_##table},
#include "tbl/metrics.def"
#undef COUNTER
#undef GAUGE
#undef GAUGE_NS
#undef FAMILY
};

static const char *type_of(const struct row *r)
{
    return r->kind == KIND_COUNTER || r->kind == KIND_FAMILY ? "counter" : "gauge";
}

void metrics_add(struct metrics *to)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const uint64_t *mine = (const uint64_t *)((const char *)&metrics + rows[i].at);
        uint64_t *sum = (uint64_t *)((char *)to + rows[i].at);
        for (int j = 0; j < rows[i].count; j++)
            sum[j] = rows[i].kind == KIND_GAUGE_NS ? MAX(sum[j], mine[j]) : sum[j] + mine[j];
    }
    to->pool_bytes = pool_bytes(); /* of all threads already */
    to->buffer_bytes = mem_buffer_bytes();
    to->tls_bytes = mem_bytes(MEM_TLS);
    to->code_bytes = mem_bytes(MEM_CODE);
    to->guest_bytes = mem_bytes(MEM_GUEST);
    to->memory_accounted_bytes = mem_accounted();
    to->memory_promised_bytes = mem_promised();
}

enum err metrics_write(const struct metrics *m, struct buf *out)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        const uint64_t *values = (const uint64_t *)((const char *)m + r->at);
        enum err e = buf_printf(out, "# HELP weir_%s %s\n# TYPE weir_%s %s\n", r->name, r->help,
                                r->name, type_of(r));
        for (int j = 0; j < r->count && !e; j++) {
            if (r->kind == KIND_GAUGE_NS)
                e = buf_printf(out, "weir_%s %.9f\n", r->name, (double)values[j] / 1e9);
            else if (r->kind != KIND_FAMILY)
                e = buf_printf(out, "weir_%s %" PRIu64 "\n", r->name, values[j]);
            else
                e = buf_printf(out, "weir_%s{%s=\"%s\"} %" PRIu64 "\n", r->name, r->label,
                               r->label_of(j), values[j]);
        }
        if (e)
            return e;
    }
    return ERR_NONE;
}

enum err metrics_write_docs(struct buf *out)
{
    enum err e = buf_printf(out, "# Metrics\n\nMade by `weir docs metrics` from "
                                 "`src/tbl/metrics.def`.\n\n| name | type | labels | meaning |\n"
                                 "|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = buf_printf(out, "| `weir_%s` | %s | %s | %s |\n", rows[i].name, type_of(&rows[i]),
                       rows[i].label ? rows[i].label : "", rows[i].help);
    return e;
}
