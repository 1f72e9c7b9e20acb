/* The words in which a worker hands over to the next one: pure writers and readers of the records
 * of tbl/handover.def. The writer is not trusted: a guest may have subverted it.
 *
 *   a record: its kind, 1 byte; the length of what follows, 4; fields
 *   a field:  its tag, 1 byte; the length of what follows, 4; 8 bytes of a number, or bytes
 *
 * Numbers are little-endian. */
#ifndef WEIR_HANDOVER_H
#define WEIR_HANDOVER_H

#include "base/buf.h"
#include "tbl/handover.def"

/* Another one: connections are closed (1012) rather than misread. */
enum { HANDOVER_FORMAT = 2, HANDOVER_RECORD_MAX = 192 << 20 };

enum handover_kind {
    HANDOVER_NONE,
#define RECORD(name, fields) HANDOVER_##name,
    HANDOVER_RECORDS(RECORD)
#undef RECORD
        HANDOVER_KINDS
};

#define N(record, field) uint64_t field;
#define B(record, field) struct slice field;
#define RECORD(name, fields)                                                                       \
    struct handover_##name {                                                                       \
        fields(N, B)                                                                               \
    };
HANDOVER_RECORDS(RECORD)
#undef RECORD
#undef N
#undef B

struct handover_record {
    enum handover_kind kind;
    bool unknown; /* it has a field that is not known here */
    union {
#define RECORD(name, fields) struct handover_##name name;
        HANDOVER_RECORDS(RECORD)
#undef RECORD
    };
};

enum handover_state { HANDOVER_DONE, HANDOVER_MORE, HANDOVER_BAD };
/* The first record of `in`, from which its bytes are borrowed. BAD: no such kind or form, a field
 * twice or a number of another length, a record larger than HANDOVER_RECORD_MAX. */
enum handover_state handover_read(struct slice in, struct handover_record *out, size_t *consumed);
/* Appends a record; kind and the member of that name are set. */
enum err handover_write(struct buf *out, const struct handover_record *r) MUST_USE;

/* An item of a list, conn.topics: 2 bytes of its length, its bytes. */
enum err handover_item_write(struct buf *out, struct slice item) MUST_USE;
bool handover_item_read(struct slice *list, struct slice *item); /* false: no more, or malformed */

#endif
