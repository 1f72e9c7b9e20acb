/* Counters and gauges: rows of tbl/metrics.def. */
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

#define METRICS_TABLE_err ERR_COUNT
#define METRICS_TABLE_close CLOSE_COUNT

struct metrics {
#define COUNTER(name, help) uint64_t name;
#define GAUGE(name, help) uint64_t name;
#define GAUGE_NS(name, help) uint64_t name;
#define FAMILY(name, label, table, help) uint64_t name[METRICS_TABLE_##table];
#include "tbl/metrics.def"
#undef COUNTER
#undef GAUGE
#undef GAUGE_NS
#undef FAMILY
};

extern _Thread_local struct metrics metrics; /* the calling thread's: a loop counts its own */

/* Adds the calling thread's: values are summed, nanoseconds are the largest of all. */
void metrics_add(struct metrics *to);
/* Prometheus text format 0.0.4. */
enum err metrics_write(const struct metrics *m, struct buf *out) MUST_USE;
/* The table as docs/METRICS.md. */
enum err metrics_write_docs(struct buf *out) MUST_USE;

#endif
