/* A profile as `go tool pprof` reads it: profile.proto of github.com/google/pprof, of which this
 * writes what those say that have samples, labels and functions without lines. Ids are the
 * caller's, and not 0. After a failure, which `e` keeps, the rest does nothing. */
#ifndef WEIR_PPROF_H
#define WEIR_PPROF_H

#include "base/buf.h"

struct pprof {
    struct buf out;
    uint32_t strings; /* written so far */
    enum err e;
};

void pprof_begin(struct pprof *p, uint32_t max); /* bytes */
/* Returns its index. Bytes that are no UTF-8, as guests' names may be, are '?'. */
uint32_t pprof_string(struct pprof *p, struct slice text);
void pprof_sample_type(struct pprof *p, const char *type, const char *unit);
void pprof_mapping(struct pprof *p, uint64_t id, uint64_t from, uint64_t to, uint64_t offset,
                   const char *file, bool named);
/* A function, and a place in it; name and file are indices, 0: none; mapping 0: none. */
void pprof_function(struct pprof *p, uint64_t id, uint32_t name, uint32_t file);
void pprof_location(struct pprof *p, uint64_t id, uint64_t mapping, uint64_t address,
                    uint64_t function);

struct pprof_label {
    uint32_t key, text; /* indices */
};
/* locations: the innermost first. Labels whose text is 0 are left out. */
void pprof_sample(struct pprof *p, const uint64_t *locations, size_t n, const int64_t *values,
                  size_t n_values, const struct pprof_label *labels, size_t n_labels);
/* period: of `type`, between two samples; shown: the sample type to begin with. */
void pprof_end(struct pprof *p, uint64_t wall_ns, uint64_t took_ns, const char *type,
               const char *unit, uint64_t period, const char *shown);
void pprof_done(struct pprof *p);

enum err pprof_gzip(struct slice in, struct buf *out) MUST_USE; /* RFC 1952 */

#endif
