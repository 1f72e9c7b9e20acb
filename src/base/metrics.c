#include "base/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/pool.h"
#include "base/probe.h"

_Thread_local struct metrics metrics;
const char *metrics_topics[METRICS_TOPICS] = {"other"};

/* Of this iteration; touched: bits of the topics that have any. */
static _Thread_local struct {
    uint64_t touched;
    uint32_t n[METRICS_TOPICS];
} messages;
_Static_assert(METRICS_TOPICS <= 64, "messages.touched has 64 bits");

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

enum kind { KIND_COUNTER, KIND_COUNTER_NS, KIND_GAUGE, KIND_MOST_NS, KIND_MOST, KIND_HISTOGRAM };

typedef const char *label_name(int row);

static const char *label_err(int row)
{
    return err_name((enum err)row);
}

static const char *label_close(int row)
{
    return close_name((enum close_reason)row);
}

static const char *label_topic(int row)
{
    return metrics_topics[row];
}

static const char *label_cause(int row)
{
    static const char *const names[] = {
#define CAUSE(name) #name,
#include "tbl/cause.def"
#undef CAUSE
    };
    return names[row];
}

static const char *label_trap(int row)
{
    static const char *const names[] = {
#define TRAP(name) #name,
#include "tbl/trap.def"
#undef TRAP
    };
    return names[row];
}

#define BUCKETS(name, ...) static const uint64_t bounds_##name[] = {__VA_ARGS__};
#include "tbl/metrics.def"

struct row {
    const char *name, *help, *label;
    enum kind kind;
    bool module;
    size_t at; /* in struct metrics, or metrics_module */
    int count; /* of rows of its label's table, or 1 */
    label_name *label_of;
    const uint64_t *bounds;
    int n_bounds;
};

static const struct row rows[] = {
#define AT(name) offsetof(struct metrics, name)
#define COUNTER(name, help) {#name, help, NULL, KIND_COUNTER, false, AT(name), 1, NULL, NULL, 0},
#define COUNTER_NS(name, help)                                                                     \
    {#name, help, NULL, KIND_COUNTER_NS, false, AT(name), 1, NULL, NULL, 0},
#define GAUGE(name, help) {#name, help, NULL, KIND_GAUGE, false, AT(name), 1, NULL, NULL, 0},
#define GAUGE_NS(name, help) {#name, help, NULL, KIND_MOST_NS, false, AT(name), 1, NULL, NULL, 0},
#define FAMILY(name, label, table, help)                                                           \
    {#name,         help, #label, KIND_COUNTER, false, AT(name), METRICS_TABLE_##table,            \
     label_##table, NULL, 0},
#define HISTOGRAM(name, label, table, buckets, help)                                               \
    {#name,                                                                                        \
     help,                                                                                         \
     #label,                                                                                       \
     KIND_HISTOGRAM,                                                                               \
     false,                                                                                        \
     AT(name),                                                                                     \
     METRICS_TABLE_##table,                                                                        \
     label_##table,                                                                                \
     bounds_##buckets,                                                                             \
     METRICS_BUCKETS_##buckets},
#define MODULE_ROW(name, help, label, kind, count, of)                                             \
    {#name, help, label, kind, true, offsetof(struct metrics_module, name), count, of, NULL, 0},
#define MODULE_COUNTER(name, help) MODULE_ROW(name, help, NULL, KIND_COUNTER, 1, NULL)
#define MODULE_NS(name, help) MODULE_ROW(name, help, NULL, KIND_COUNTER_NS, 1, NULL)
#define MODULE_MOST(name, help) MODULE_ROW(name, help, NULL, KIND_MOST, 1, NULL)
#define MODULE_FAMILY(name, label, table, help)                                                    \
    MODULE_ROW(name, help, #label, KIND_COUNTER, METRICS_TABLE_##table, label_##table)
#include "tbl/metrics.def"
};

static enum metrics_type type_of(const struct row *r)
{
    return r->kind == KIND_HISTOGRAM                               ? METRICS_HISTOGRAM
           : r->kind == KIND_COUNTER || r->kind == KIND_COUNTER_NS ? METRICS_COUNTER
                                                                   : METRICS_GAUGE;
}

/* ---- counting ---- */

static void observe(uint64_t *h, const uint64_t *bounds, int n, uint64_t ns, uint64_t times)
{
    int i = 0;
    while (i < n && ns > bounds[i])
        i++;
    h[i] += times;
    h[n + 1] += ns * times;
}

#define OBSERVE(name, row, buckets, ns, times)                                                     \
    observe(metrics.name[row], bounds_##buckets, METRICS_BUCKETS_##buckets, ns, times)

void metrics_message(uint32_t topic)
{
    messages.touched |= UINT64_C(1) << topic;
    messages.n[topic]++;
}

void metrics_message_late(uint32_t topic, uint64_t ns)
{
    OBSERVE(message_latency_seconds, topic, latency, ns, 1);
}

void metrics_iteration(enum cause cause, uint64_t ns)
{
    OBSERVE(pause_seconds, cause, pause, ns, 1);
    PROBE(iteration, label_cause(cause), ns);
    for (; messages.touched; messages.touched &= messages.touched - 1) {
        int topic = __builtin_ctzll(messages.touched);
        OBSERVE(message_latency_seconds, topic, latency, ns, messages.n[topic]);
        messages.n[topic] = 0;
    }
}

static void add(bool module, void *to, const void *from)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        const uint64_t *mine = (const uint64_t *)((const char *)from + r->at);
        uint64_t *sum = (uint64_t *)((char *)to + r->at);
        bool most = r->kind == KIND_MOST || r->kind == KIND_MOST_NS;
        int n = r->count * (r->kind == KIND_HISTOGRAM ? r->n_bounds + 2 : 1);
        for (int j = 0; j < n && r->module == module; j++)
            sum[j] = most ? MAX(sum[j], mine[j]) : sum[j] + mine[j];
    }
}

void metrics_module_add(struct metrics_module *to, const struct metrics_module *from)
{
    add(true, to, from);
}

void metrics_add(struct metrics *to)
{
    add(false, to, &metrics);
    to->pool_bytes = pool_bytes(); /* of all threads already */
    to->buffer_bytes = mem_buffer_bytes();
    to->tls_bytes = mem_bytes(MEM_TLS);
    to->code_bytes = mem_bytes(MEM_CODE);
    to->guest_bytes = mem_bytes(MEM_GUEST);
    to->memory_accounted_bytes = mem_accounted();
    to->memory_promised_bytes = mem_promised();
}

/* ---- writing ---- */

void metrics_line(struct metrics_out *o, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    ASSERT(n >= 0 && (size_t)n < sizeof(text)); /* what is longer has a call of its own */
    o->e = o->e ? o->e : buf_append(o->out, slice_of(text, (size_t)n));
}

void metrics_label(struct metrics_out *o, const char *value)
{
    for (size_t n; *value; value += n) {
        n = strcspn(value, "\\\"\n");
        if (n)
            o->e = o->e ? o->e : buf_append(o->out, slice_of(value, n));
        else
            metrics_line(o, *value == '\n' ? "\\n" : "\\%c", *value);
        n += !n;
    }
}

void metrics_head(struct metrics_out *o, const char *name, enum metrics_type type, const char *help)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    /* In OpenMetrics a counter is called what its sample is without _total. */
    int n = (int)strlen(name);
    n -= o->openmetrics && type == METRICS_COUNTER ? 6 : 0;
    metrics_line(o, "# HELP %.*s ", n, name);
    metrics_label(o, help);
    metrics_line(o, "\n# TYPE %.*s %s\n", n, name, types[type]);
}

static void put_seconds(struct metrics_out *o, uint64_t ns)
{
    metrics_line(o, " %" PRIu64 ".%09" PRIu64 "\n", ns / 1000000000, ns % 1000000000);
}

static void put_name(struct metrics_out *o, const struct row *r, const char *suffix,
                     const char *module, const char *value)
{
    metrics_line(o, "weir_%s%s%s", r->name, suffix, module || value ? "{" : "");
    if (module) {
        metrics_line(o, "module=\"");
        metrics_label(o, module);
        metrics_line(o, value ? "\"," : "\"}");
    }
    if (value) {
        metrics_line(o, "%s=\"", r->label);
        metrics_label(o, value);
        metrics_line(o, r->kind == KIND_HISTOGRAM ? "\"" : "\"}");
    }
}

static void put_histogram(struct metrics_out *o, const struct row *r, const uint64_t *h,
                          const char *value)
{
    uint64_t sum = 0;
    for (int i = 0; i <= r->n_bounds; i++) {
        sum += h[i];
        put_name(o, r, "_bucket", NULL, value);
        if (i < r->n_bounds)
            metrics_line(o, ",le=\"%g\"} %" PRIu64 "\n", (double)r->bounds[i] / 1e9, sum);
        else
            metrics_line(o, ",le=\"+Inf\"} %" PRIu64 "\n", sum);
    }
    put_name(o, r, "_sum", NULL, value);
    metrics_line(o, "}");
    put_seconds(o, h[r->n_bounds + 1]);
    put_name(o, r, "_count", NULL, value);
    metrics_line(o, "} %" PRIu64 "\n", sum);
}

static void put_samples(struct metrics_out *o, const struct row *r, const void *from,
                        const char *module)
{
    int width = r->kind == KIND_HISTOGRAM ? r->n_bounds + 2 : 1;
    const uint64_t *v = (const uint64_t *)((const char *)from + r->at);
    for (int j = 0; j < r->count; j++, v += width) {
        const char *value = r->label ? r->label_of(j) : NULL;
        if ((r->label && !value) || (module && r->label && !*v))
            continue;
        if (r->kind == KIND_HISTOGRAM) {
            put_histogram(o, r, v, value);
            continue;
        }
        put_name(o, r, "", module, value);
        if (r->kind == KIND_COUNTER_NS || r->kind == KIND_MOST_NS)
            put_seconds(o, *v);
        else
            metrics_line(o, " %" PRIu64 "\n", *v);
    }
}

void metrics_write(struct metrics_out *o, const struct metrics *m,
                   const struct metrics_module *modules, uint32_t n_modules)
{
    char name[64];
    for (size_t i = 0; i < ARRAY_LEN(rows) && !o->e; i++) {
        const struct row *r = &rows[i];
        snprintf(name, sizeof(name), "weir_%s", r->name);
        metrics_head(o, name, type_of(r), r->help);
        if (!r->module)
            put_samples(o, r, m, NULL);
        for (uint32_t k = 0; r->module && k < n_modules; k++)
            if (modules[k].name)
                put_samples(o, r, &modules[k], modules[k].name);
    }
}

/* ---- as JSON ---- */

void metrics_json_text(struct metrics_out *o, const char *text)
{
    metrics_line(o, "\"");
    for (size_t n; *text; text += n) {
        for (n = 0; (uint8_t)text[n] >= 0x20 && text[n] != '"' && text[n] != '\\';)
            n++;
        if (n)
            o->e = o->e ? o->e : buf_append(o->out, slice_of(text, n));
        else
            metrics_line(o, "\\u%04x", (uint8_t)text[n++]);
    }
    metrics_line(o, "\"");
}

static void json_value(struct metrics_out *o, const struct row *r, const uint64_t *v)
{
    int n = r->kind == KIND_HISTOGRAM ? r->n_bounds + 1 : 0;
    bool ns = n || r->kind == KIND_COUNTER_NS || r->kind == KIND_MOST_NS;
    for (int i = 0; i < n; i++)
        metrics_line(o, "%c%" PRIu64, i ? ',' : '[', v[i]);
    if (ns)
        metrics_line(o, "%s%" PRIu64 ".%09" PRIu64 "%s", n ? "," : "", v[n] / 1000000000,
                     v[n] % 1000000000, n ? "]" : "");
    else
        metrics_line(o, "%" PRIu64, *v);
}

static void json_rows(struct metrics_out *o, const void *from, bool module)
{
    const char *comma = "{";
    for (const struct row *r = rows; r < rows + ARRAY_LEN(rows); r++) {
        const uint64_t *v = (const uint64_t *)((const char *)from + r->at);
        int width = r->kind == KIND_HISTOGRAM ? r->n_bounds + 2 : 1;
        if (r->module != module)
            continue;
        metrics_line(o, "%s\"%s\":%s", comma, r->name, r->label ? "{" : "");
        comma = ",";
        if (!r->label)
            json_value(o, r, v);
        for (int j = 0, said = 0; r->label && j < r->count; j++, v += width) {
            uint64_t any = 0;
            for (int i = 0; i < width; i++)
                any |= v[i];
            if (!any || !r->label_of(j))
                continue;
            metrics_line(o, "%s", said++ ? "," : "");
            metrics_json_text(o, r->label_of(j));
            metrics_line(o, ":");
            json_value(o, r, v);
        }
        metrics_line(o, "%s", r->label ? "}" : "");
    }
    metrics_line(o, "}");
}

void metrics_write_json(struct metrics_out *o, const struct metrics *m,
                        const struct metrics_module *modules, uint32_t n_modules)
{
    const char *comma = "";
    metrics_line(o, "\"metrics\":");
    json_rows(o, m, false);
    metrics_line(o, ",\"modules\":{");
    for (uint32_t i = 0; i < n_modules; i++) {
        if (!modules[i].name)
            continue;
        metrics_line(o, "%s", comma);
        metrics_json_text(o, modules[i].name);
        metrics_line(o, ":");
        json_rows(o, &modules[i], true);
        comma = ",";
    }
    metrics_line(o, "},\"bounds\":{");
    comma = "";
    for (const struct row *r = rows; r < rows + ARRAY_LEN(rows); r++)
        if (r->kind == KIND_HISTOGRAM) {
            metrics_line(o, "%s\"%s\":", comma, r->name);
            for (int i = 0; i < r->n_bounds; i++)
                metrics_line(o, "%c%g", i ? ',' : '[', (double)r->bounds[i] / 1e9);
            metrics_line(o, "]");
            comma = ",";
        }
    metrics_line(o, "}");
}

enum err metrics_write_docs(struct buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    enum err e = buf_printf(out, "# Metrics\n\nMade by `weir docs metrics` from "
                                 "`src/tbl/metrics.def`.\n\n| name | type | labels | meaning |\n"
                                 "|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = buf_printf(out, "| `weir_%s` | %s | %s%s%s | %s |\n", rows[i].name,
                       types[type_of(&rows[i])], rows[i].module ? "module" : "",
                       rows[i].module && rows[i].label ? ", " : "",
                       rows[i].label ? rows[i].label : "", rows[i].help);
    e = e ? e
          : buf_printf(out,
                       "\nBeside them `weir_build_info` (labels version, engine; always 1), and of "
                       "the worker\n`process_start_time_seconds`, `process_cpu_seconds_total`, "
                       "`process_open_fds`, `process_max_fds`,\n`process_resident_memory_bytes`, "
                       "`process_virtual_memory_bytes`. Why the buckets are what they are:\n"
                       "[OPERATIONS.md](OPERATIONS.md).\n");
    return e;
}
