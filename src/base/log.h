/* JSON logs: one line an event, whose name, level and text are a row of tbl/log.def. Lines go to a
 * descriptor that never blocks the loop: what it does not take is dropped and counted. */
#ifndef WEIR_LOG_H
#define WEIR_LOG_H

#include "base/base.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_event {
#define LOG(name, level, text) LOG_##name,
#include "tbl/log.def"
#undef LOG
    LOG_COUNT
};

void log_open(int fd, enum log_level least);
bool log_wants(enum log_event e);

/* log_begin(e); log_text("key", s); log_number("key", n); log_end(); between begin and end nothing
 * else logs. A line past its bound is cut at a field. Where log_begin is false, log nothing. */
bool log_begin(enum log_event e);
void log_text(const char *key, struct slice value);
void log_number(const char *key, int64_t value);
void log_id(const char *key, uint64_t value); /* 16 hex digits */
void log_end(void);

#endif
