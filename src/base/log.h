/* JSON logs: one line an event, whose name, level and text are a row of tbl/log.def. A line
 * that its output does not take at once is dropped and counted. */
#ifndef WEIR_LOG_H
#define WEIR_LOG_H

#include "base/buf.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_event {
#define LOG(name, level, text) LOG_##name,
#include "tbl/log.def"
#undef LOG
    LOG_COUNT
};

/* Where lines go and what time it is: base/ knows no system. write: false where the line was not
 * taken whole; it must not block. */
struct log_output {
    bool (*write)(struct slice line);
    uint64_t (*wall_ms)(void); /* since 1970 */
};

void log_open(const struct log_output *output, enum log_level least);
/* "debug", "info", "warn", "error". */
bool log_level_parse(const char *name, enum log_level *out) MUST_USE;
bool log_wants(enum log_event e);

/* log_begin(e); log_text("key", s); log_number("key", n); log_end(); between begin and end nothing
 * else logs. A line past its bound is cut at a field. Where log_begin is false, log nothing. */
bool log_begin(enum log_event e);
void log_text(const char *key, struct slice value);
void log_number(const char *key, int64_t value);
void log_id(const char *key, uint64_t value); /* 16 hex digits */
void log_ago(const char *key, uint64_t ms);   /* when that was, as `time` is written */
void log_end(void);

enum err log_write_docs(struct buf *out) MUST_USE; /* the table as docs/LOGS.md */

#endif
