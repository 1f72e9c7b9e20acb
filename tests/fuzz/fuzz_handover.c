/* What a worker reads of the one before it. Input: records. A record that is read is within its
 * input, and is the same when it is written and read again. */
#include "fuzz.h"

#include "app/handover.h"

static void within(struct slice s, struct slice in)
{
    CHECK(!s.n || (s.p >= in.p && s.n <= in.n && s.p + s.n <= in.p + in.n));
}

static void check(const struct handover_record *r, struct slice in)
{
    struct handover_record again = {.kind = HANDOVER_NONE};
    struct buf out;
    size_t n = 0;
    buf_init(&out, HANDOVER_RECORD_MAX);
    CHECK(handover_write(&out, r) == ERR_NONE);
    CHECK(handover_read(buf_slice(&out), &again, &n) == HANDOVER_DONE);
    CHECK(n == out.len && again.kind == r->kind && !again.unknown);
#define N(record, field) CHECK(r->record.field == again.record.field);
#define B(record, field)                                                                           \
    within(r->record.field, in);                                                                   \
    CHECK(slice_eq(r->record.field, again.record.field));
#define RECORD(name, fields)                                                                       \
    if (r->kind == HANDOVER_##name) {                                                              \
        fields(N, B)                                                                               \
    }
    HANDOVER_RECORDS(RECORD)
#undef RECORD
#undef N
#undef B
    buf_done(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        struct handover_record r;
        struct slice in = slice_of(data + at, n - at), list, item;
        size_t consumed = 0;
        enum handover_state state = handover_read(in, &r, &consumed);
        CHECK((state == HANDOVER_DONE) == (consumed > 0));
        if (state != HANDOVER_DONE)
            break;
        CHECK(consumed <= in.n);
        check(&r, slice_of(in.p, consumed));
        list = r.kind == HANDOVER_conn ? r.conn.topics : SLICE_NONE;
        while (handover_item_read(&list, &item))
            within(item, in);
        at += consumed;
    }
    return 0;
}
