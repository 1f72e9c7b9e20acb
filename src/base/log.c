#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "base/metrics.h"
#include "base/utf8.h"

enum { LINE_MAX_BYTES = 4096 }; /* PIPE_BUF: a line is written whole or not at all */

static const struct {
    const char *name, *text;
    enum log_level level;
} rows[] = {
#define LOG(name, level, text) {#name, text, LOG_##level},
#include "tbl/log.def"
#undef LOG
};
static const char *const levels[] = {"debug", "info", "warn", "error"};

static struct log_output output;
static enum log_level log_least = LOG_INFO;
/* A thread's line is its own until it is written, by one call. */
static _Thread_local char line[LINE_MAX_BYTES];
static _Thread_local size_t used;
static _Thread_local uint64_t dropped_unsaid;

void log_open(const struct log_output *to, enum log_level least)
{
    output = *to;
    log_least = least;
}

bool log_level_parse(const char *name, enum log_level *out)
{
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        if (strcmp(levels[i], name) == 0) {
            *out = (enum log_level)i;
            return true;
        }
    return false;
}

bool log_wants(enum log_event e)
{
    return output.write && rows[e].level >= log_least;
}

static void put(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void put(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + used, sizeof(line) - used - 3, format, args);
    va_end(args);
    if (n > 0 && used + (size_t)n < sizeof(line) - 3)
        used += (size_t)n;
}

static void put_time(uint64_t ms)
{
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    char text[32];
    gmtime_r(&s, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    put("%s.%03uZ", text, (unsigned)(ms % 1000));
}

bool log_begin(enum log_event e)
{
    if (!log_wants(e))
        return false;
    used = 0;
    put("{\"time\":\"");
    put_time(output.wall_ms());
    put("\",\"level\":\"%s\",\"event\":\"%s\",\"msg\":\"%s\"", levels[rows[e].level], rows[e].name,
        rows[e].text);
    return true;
}

void log_ago(const char *key, uint64_t ms)
{
    put(",\"%s\":\"", key);
    put_time(output.wall_ms() - ms);
    put("\"");
}

void log_number(const char *key, int64_t value)
{
    put(",\"%s\":%" PRId64, key, value);
}

void log_id(const char *key, uint64_t value)
{
    put(",\"%s\":\"%016" PRIx64 "\"", key, value);
}

void log_text(const char *key, struct slice value)
{
    size_t start = used;
    put(",\"%s\":\"", key);
    if (used == start)
        return;
    /* What is no UTF-8 is shown byte by byte, so that every line is valid JSON. */
    bool utf8 = utf8_valid(value);
    for (size_t i = 0; i < value.n; i++) {
        uint8_t c = value.p[i];
        bool inside = utf8 && (c & 0xc0) == 0x80;
        if (used >= sizeof(line) - 64 && !inside)
            break;
        if (c == '"' || c == '\\')
            put("\\%c", c);
        else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !utf8))
            put("\\u%04x", c);
        else
            line[used++] = (char)c;
    }
    line[used++] = '"';
}

void log_end(void)
{
    line[used++] = '}';
    line[used++] = '\n';
    if (output.write(slice_of(line, used))) {
        if (dropped_unsaid && log_begin(LOG_logs_dropped)) {
            uint64_t n = dropped_unsaid;
            dropped_unsaid = 0;
            log_number("dropped", (int64_t)n);
            log_end();
            dropped_unsaid += dropped_unsaid ? n : 0; /* that line was dropped as well */
        }
        return;
    }
    metrics.logs_dropped_total++;
    dropped_unsaid++;
}

enum err log_write_docs(struct buf *out)
{
    enum err e = buf_printf(out,
                            "# Log events\n\nMade by `weir docs logs` from `src/tbl/log.def`. A "
                            "line is one JSON object: `time` (RFC 3339, UTC), `level`, "
                            "`event`, `msg`, and the event's own fields.\n\n"
                            "| event | level | meaning |\n|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = buf_printf(out, "| `%s` | %s | %s |\n", rows[i].name, levels[rows[i].level],
                       rows[i].text);
    return e;
}
