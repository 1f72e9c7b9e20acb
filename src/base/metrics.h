/* Counters, gauges, histograms: rows of tbl/metrics.def. */
#ifndef WEIR_METRICS_H
#define WEIR_METRICS_H

#include "base/buf.h"

enum close_reason {
#define CLOSE(name, text, code, is_error) CLOSE_##name,
#include "tbl/close.def"
#undef CLOSE
    CLOSE_COUNT
};

const char *close_name(enum close_reason r);
const char *close_text(enum close_reason r);
uint16_t close_code(enum close_reason r); /* RFC 6455 7.4.1 */
bool close_is_error(enum close_reason r);

/* What took the loop's time. */
enum cause {
#define CAUSE(name) CAUSE_##name,
#include "tbl/cause.def"
#undef CAUSE
    CAUSES
};

/* How a guest failed. */
enum trap {
#define TRAP(name) TRAP_##name,
#include "tbl/trap.def"
#undef TRAP
    TRAPS
};

enum { METRICS_TOPICS = 64 };
#define METRICS_TABLE_err ERR_COUNT
#define METRICS_TABLE_close CLOSE_COUNT
#define METRICS_TABLE_cause CAUSES
#define METRICS_TABLE_trap TRAPS
#define METRICS_TABLE_topic METRICS_TOPICS

enum {
#define METRICS_BUCKET_LIST(...) (sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))
#define BUCKETS(name, ...) METRICS_BUCKETS_##name = METRICS_BUCKET_LIST(__VA_ARGS__),
#include "tbl/metrics.def"
};

/* A histogram: how many were within each bound and past the one before, past the last, and the sum
 * in nanoseconds. */
struct metrics {
#define COUNTER(name, help) uint64_t name;
#define COUNTER_NS(name, help) uint64_t name;
#define GAUGE(name, help) uint64_t name;
#define GAUGE_NS(name, help) uint64_t name;
#define FAMILY(name, label, table, help) uint64_t name[METRICS_TABLE_##table];
#define HISTOGRAM(name, label, table, buckets, help)                                               \
    uint64_t name[METRICS_TABLE_##table][METRICS_BUCKETS_##buckets + 2];
#include "tbl/metrics.def"
};

/* Of a module, whatever version of it runs. */
struct metrics_module {
    const char *name; /* NULL: it is not there */
#define MODULE_COUNTER(name, help) uint64_t name;
#define MODULE_NS(name, help) uint64_t name;
#define MODULE_MOST(name, help) uint64_t name;
#define MODULE_FAMILY(name, label, table, help) uint64_t name[METRICS_TABLE_##table];
#include "tbl/metrics.def"
};

extern _Thread_local struct metrics metrics; /* the calling thread's: a loop counts its own */
/* What the label topic says, by number; NULL: none has it. 0 is all that have no number of their
 * own. Set before there are threads. */
extern const char *metrics_topics[METRICS_TOPICS];

/* A message that came in this iteration was dealt with: it counts once the iteration ends. */
void metrics_message(uint32_t topic);
/* One that came so long ago. */
void metrics_message_late(uint32_t topic, uint64_t ns);
/* An iteration ended that was away so long. */
void metrics_iteration(enum cause cause, uint64_t ns);

/* Adds the calling thread's: values are summed, nanoseconds of gauges are the largest of all. */
void metrics_add(struct metrics *to);
void metrics_module_add(struct metrics_module *to, const struct metrics_module *from);

/* What /metrics says: Prometheus' text format 0.0.4, or OpenMetrics 1.0 without its last line, for
 * others may follow. Of a module's failures those are left out that were none. */
struct metrics_out {
    struct buf *out;
    bool openmetrics;
    enum err e; /* the first one; nothing is written behind it */
};
void metrics_write(struct metrics_out *o, const struct metrics *m,
                   const struct metrics_module *modules, uint32_t n_modules);
/* The same as members of a JSON object, without its braces: "metrics" and "modules", each by name
 * and, of families and histograms, by label, where those that were none are left out; times in
 * seconds. A histogram: how many in each bucket, and the sum. "bounds": of these, by metric. */
void metrics_write_json(struct metrics_out *o, const struct metrics *m,
                        const struct metrics_module *modules, uint32_t n_modules);
void metrics_json_text(struct metrics_out *o, const char *text); /* as a string */
enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };
/* # HELP and # TYPE of a metric whose samples follow. */
void metrics_head(struct metrics_out *o, const char *name, enum metrics_type type,
                  const char *help);
/* format: of a sample. */
void metrics_line(struct metrics_out *o, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Appends a label's value, with what it must not have as it is escaped. */
void metrics_label(struct metrics_out *o, const char *value);
/* The table as docs/METRICS.md. */
enum err metrics_write_docs(struct buf *out) MUST_USE;

#endif
