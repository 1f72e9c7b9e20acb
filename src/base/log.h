/* JSON logs: one line an event, whose name, level and text are a row of tbl/log.def. A line
 * that its output does not take at once is dropped and counted. */
#ifndef WEIR_LOG_H
#define WEIR_LOG_H

#include "base/buf.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_event {
#define LOG(name, level, text, fields) LOG_##name,
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
void log_level_set(enum log_level least); /* of all threads */
const char *log_level_name(void);
/* Lines of one event, and of guests' events of one module, that a thread logs in a second; 0: no
 * bound. What is left out is counted, and said by the next line of that event, or by log_settle
 * once the second is over, which is to be called now and then. Not of what is asked for: rows from
 * logs_dropped on. */
void log_bound(uint32_t rate);
void log_settle(void);
bool log_wants(enum log_event e);

/* log_begin(e); log_text("key", s); log_number("key", n); log_end(); between begin and end nothing
 * else logs. A line past its bound is cut at a field. Where log_begin is false, log nothing. */
bool log_begin(enum log_event e);
bool log_begin_of(enum log_event e, uint32_t who); /* who: a module's number + 1 */
void log_text(const char *key, struct slice value);
void log_number(const char *key, int64_t value);
void log_id(const char *key, uint64_t value); /* 16 hex digits */
void log_ago(const char *key, uint64_t ms);   /* when that was, as `time` is written */
void log_end(void);

/* Appends the latest lines, of at most LOG_RECENT bytes, from a place on: 0, or the end of a line
 * that was got. *at: where they begin; later than `from` where lines were missed, and earlier where
 * `from` is not of this process. */
enum { LOG_RECENT = 64 << 10 };
enum err log_recent(uint64_t from, struct buf *out, uint64_t *at) MUST_USE;

enum err log_write_docs(struct buf *out) MUST_USE; /* the table as docs/LOGS.md */

#endif
