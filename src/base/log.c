#include "base/log.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include "base/metrics.h"
#include "base/utf8.h"

enum { LINE_MAX_BYTES = 4096 }; /* PIPE_BUF: a line is written whole or not at all */

static const struct {
    const char *name, *text, *fields;
    enum log_level level;
} rows[] = {
#define LOG(name, level, text, fields) {#name, text, fields, LOG_##level},
#include "tbl/log.def"
#undef LOG
};
static const char *const levels[] = {"debug", "info", "warn", "error"};

static struct log_output output;
static _Atomic enum log_level log_least = LOG_INFO;
static uint32_t log_rate;
/* A thread's line is its own until it is written, by one call. */
static _Thread_local char line[LINE_MAX_BYTES];
static _Thread_local size_t used;
static _Thread_local uint64_t dropped_unsaid;

/* What a second has of an event; of guests' events each module has windows of its own, so that one
 * that says much does not hide what another says. */
enum { GUEST_EVENTS = LOG_guest_error - LOG_guest_failed + 1, WHO = 64 };
struct window {
    uint64_t second;
    uint32_t lines, suppressed;
};
static _Thread_local struct window windows[LOG_COUNT + GUEST_EVENTS * WHO];
static _Thread_local struct window *window; /* of the present line */
static _Thread_local uint32_t window_said;  /* what it says was left out */
static _Thread_local bool unsettled;

/* The last lines of all threads; a line's place is where it ends in all that was ever logged. */
static struct {
    pthread_mutex_t lock;
    uint64_t end;
    char bytes[LOG_RECENT];
} recent = {.lock = PTHREAD_MUTEX_INITIALIZER};

void log_open(const struct log_output *to, enum log_level least)
{
    output = *to;
    log_least = least;
}

void log_bound(uint32_t rate)
{
    log_rate = rate;
}

void log_level_set(enum log_level least)
{
    log_least = least;
}

const char *log_level_name(void)
{
    return levels[log_least];
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

/* Whether a line is within its event's bound. */
static bool within(struct window *w, uint64_t second)
{
    if (w->second != second)
        *w = (struct window){second, 0, w->suppressed};
    if (log_rate && w->lines >= log_rate) {
        w->suppressed++;
        metrics.logs_suppressed_total++;
        unsettled = true;
        return false;
    }
    w->lines++;
    return true;
}

bool log_begin_of(enum log_event e, uint32_t who)
{
    if (!log_wants(e))
        return false;
    size_t guest = e - LOG_guest_failed;
    window = &windows[who && guest < GUEST_EVENTS ? LOG_COUNT + guest * WHO + who % WHO : e];
    if (e < LOG_logs_dropped && !within(window, output.wall_ms() / 1000))
        return false;
    window_said = window->suppressed;
    window->suppressed = 0;
    used = 0;
    put("{\"time\":\"");
    put_time(output.wall_ms());
    put("\",\"level\":\"%s\",\"event\":\"%s\",\"msg\":\"%s\"", levels[rows[e].level], rows[e].name,
        rows[e].text);
    if (window_said)
        log_number("suppressed", window_said);
    return true;
}

bool log_begin(enum log_event e)
{
    return log_begin_of(e, 0);
}

/* The event of a window. */
static enum log_event event_at(size_t i)
{
    return (enum log_event)(i < LOG_COUNT ? i : LOG_guest_failed + (i - LOG_COUNT) / WHO);
}

void log_settle(void)
{
    if (!unsettled)
        return;
    uint64_t second = output.wall_ms() / 1000;
    unsettled = false;
    for (size_t i = 0; i < ARRAY_LEN(windows); i++) {
        struct window *w = &windows[i];
        uint32_t n = w->suppressed;
        unsettled |= n && w->second == second;
        if (!n || w->second == second || !log_begin(LOG_logs_suppressed))
            continue;
        w->suppressed = 0;
        window_said = n;
        window = w;
        log_text("of", slice_str(rows[event_at(i)].name));
        log_number("suppressed", n);
        log_end();
    }
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

static void remember(struct slice s)
{
    pthread_mutex_lock(&recent.lock);
    for (size_t done = 0, n; done < s.n; done += n, recent.end += n) {
        size_t at = recent.end % LOG_RECENT;
        n = MIN(s.n - done, LOG_RECENT - at);
        memcpy(recent.bytes + at, s.p + done, n);
    }
    pthread_mutex_unlock(&recent.lock);
}

enum err log_recent(uint64_t from, struct buf *out, uint64_t *at)
{
    pthread_mutex_lock(&recent.lock);
    uint64_t oldest = recent.end - MIN(recent.end, (uint64_t)LOG_RECENT);
    *at = from > recent.end || from < oldest ? oldest : from;
    /* Where a line begins: the oldest was overwritten in part, and a caller may say anything. */
    while (*at && *at < recent.end &&
           (*at == oldest || recent.bytes[(*at - 1) % LOG_RECENT] != '\n'))
        ++*at;
    enum err e = buf_reserve(out, recent.end - *at);
    for (uint64_t i = *at; i < recent.end && !e; i++)
        out->p[out->len++] = (uint8_t)recent.bytes[i % LOG_RECENT];
    pthread_mutex_unlock(&recent.lock);
    return e;
}

void log_end(void)
{
    line[used++] = '}';
    line[used++] = '\n';
    remember(slice_of(line, used));
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
    window->suppressed += window_said; /* that it says so is lost */
    unsettled |= window_said != 0;
    metrics.logs_dropped_total++;
    dropped_unsaid++;
}

enum err log_write_docs(struct buf *out)
{
    enum err e = buf_printf(out,
                            "# Log events\n\nMade by `weir docs logs` from `src/tbl/log.def`. A "
                            "line is one JSON object: `time` (RFC 3339, UTC), `level`, "
                            "`event`, `msg`, and the event's own fields; those with `?` "
                            "are not always there. `suppressed` tells how many lines of that "
                            "event were left out before this one (`log_rate`). See OPERATIONS.md."
                            "\n\n| event | level | meaning | fields |\n|---|---|---|---|\n");
    for (size_t i = 0; i < ARRAY_LEN(rows) && !e; i++)
        e = buf_printf(out, "| `%s` | %s | %s | %s |\n", rows[i].name, levels[rows[i].level],
                       rows[i].text, rows[i].fields);
    return e;
}
