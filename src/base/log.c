#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/metrics.h"

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

static int log_fd = 2;
static enum log_level log_least = LOG_INFO;
static char line[LINE_MAX_BYTES];
static size_t used;
static uint64_t dropped_unsaid;

void log_open(int fd, enum log_level least)
{
    log_fd = fd;
    log_least = least;
}

bool log_wants(enum log_event e)
{
    return rows[e].level >= log_least;
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

bool log_begin(enum log_event e)
{
    if (!log_wants(e))
        return false;
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    used = strftime(line, sizeof(line), "{\"time\":\"%Y-%m-%dT%H:%M:%S", &tm);
    put(".%03ldZ\",\"level\":\"%s\",\"event\":\"%s\",\"msg\":\"%s\"", t.tv_nsec / 1000000,
        levels[rows[e].level], rows[e].name, rows[e].text);
    return true;
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
    for (size_t i = 0; i < value.n && used < sizeof(line) - 64; i++) {
        uint8_t c = value.p[i];
        if (c == '"' || c == '\\')
            put("\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            put("\\u%04x", c); /* bytes, not characters: hostile text stays one line of ASCII */
        else
            line[used++] = (char)c;
    }
    line[used++] = '"';
}

void log_end(void)
{
    line[used++] = '}';
    line[used++] = '\n';
    if (write(log_fd, line, used) == (ssize_t)used) {
        if (dropped_unsaid && log_begin(LOG_logs_dropped)) {
            int64_t n = (int64_t)dropped_unsaid;
            dropped_unsaid = 0;
            log_number("dropped", n);
            log_end();
        }
        return;
    }
    metrics.logs_dropped_total++;
    dropped_unsaid++;
}
