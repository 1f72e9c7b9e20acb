#include "app/handover.h"

enum { RECORD_HEAD = 5, FIELD_HEAD = 5 };

static const struct field {
    uint16_t offset;
    bool bytes;
} fields[][24] = {
#define N(record, field) {offsetof(struct handover_record, record.field), false},
#define B(record, field) {offsetof(struct handover_record, record.field), true},
#define RECORD(name, list) [HANDOVER_##name] = {list(N, B)},
    HANDOVER_RECORDS(RECORD)
#undef RECORD
#undef N
#undef B
};

static uint64_t number_get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static void number_put(uint8_t *p, unsigned n, uint64_t v)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t *number_of(struct handover_record *r, const struct field *f)
{
    return (uint64_t *)((uint8_t *)r + f->offset);
}

static struct slice *bytes_of(struct handover_record *r, const struct field *f)
{
    return (struct slice *)((uint8_t *)r + f->offset);
}

/* The first member is at no offset that a table's unused rows have. */
static const struct field *field_of(enum handover_kind kind, unsigned tag)
{
    const struct field *f = tag < ARRAY_LEN(fields[0]) ? &fields[kind][tag] : NULL;
    return f && f->offset ? f : NULL;
}

enum handover_state handover_read(struct slice in, struct handover_record *out, size_t *consumed)
{
    struct handover_record r;
    if (in.n < RECORD_HEAD)
        return HANDOVER_MORE;
    uint64_t n = number_get(in.p + 1, 4);
    if (!in.p[0] || in.p[0] >= HANDOVER_KINDS || n > HANDOVER_RECORD_MAX)
        return HANDOVER_BAD;
    if (in.n - RECORD_HEAD < n)
        return HANDOVER_MORE;
    memset(&r, 0, sizeof(r));
    r.kind = (enum handover_kind)in.p[0];
    const uint8_t *at = in.p + RECORD_HEAD, *end = at + n;
    uint32_t seen = 0;
    while (at < end) {
        if (end - at < FIELD_HEAD)
            return HANDOVER_BAD;
        unsigned tag = at[0];
        uint64_t len = number_get(at + 1, 4);
        at += FIELD_HEAD;
        if ((uint64_t)(end - at) < len)
            return HANDOVER_BAD;
        const struct field *f = field_of(r.kind, tag);
        if (!f) {
            r.unknown = true;
        } else if (seen & 1u << tag || (!f->bytes && len != 8)) {
            return HANDOVER_BAD;
        } else {
            seen |= 1u << tag;
            if (f->bytes)
                *bytes_of(&r, f) = slice_of(at, len);
            else
                *number_of(&r, f) = number_get(at, 8);
        }
        at += len;
    }
    *out = r;
    *consumed = RECORD_HEAD + n;
    return HANDOVER_DONE;
}

static enum err field_write(struct buf *out, unsigned tag, struct slice s)
{
    uint8_t head[FIELD_HEAD] = {(uint8_t)tag};
    number_put(head + 1, 4, s.n);
    enum err e = buf_append(out, slice_of(head, sizeof(head)));
    return e ? e : buf_append(out, s);
}

enum err handover_write(struct buf *out, const struct handover_record *r)
{
    struct handover_record copy = *r;
    uint8_t head[RECORD_HEAD] = {(uint8_t)r->kind};
    uint32_t begin = out->len;
    enum err e = buf_append(out, slice_of(head, sizeof(head)));
    for (unsigned tag = 0; !e && tag < ARRAY_LEN(fields[0]); tag++) {
        const struct field *f = field_of(r->kind, tag);
        uint8_t number[8];
        if (!f)
            break;
        uint64_t v = f->bytes ? 0 : *number_of(&copy, f);
        struct slice s = f->bytes ? *bytes_of(&copy, f) : slice_of(number, v ? 8 : 0);
        number_put(number, 8, v);
        if (s.n)
            e = field_write(out, tag, s);
    }
    if (e)
        out->len = begin;
    else
        number_put(out->p + begin + 1, 4, out->len - begin - RECORD_HEAD);
    return e;
}

enum err handover_item_write(struct buf *out, struct slice item)
{
    uint8_t head[2];
    if (item.n > UINT16_MAX)
        return ERR_LIMIT;
    number_put(head, 2, item.n);
    enum err e = buf_append(out, slice_of(head, 2));
    return e ? e : buf_append(out, item);
}

bool handover_item_read(struct slice *list, struct slice *item)
{
    size_t n = list->n < 2 ? 0 : (size_t)number_get(list->p, 2);
    if (list->n < 2 || list->n - 2 < n)
        return false;
    *item = slice_of(list->p + 2, n);
    *list = slice_of(list->p + 2 + n, list->n - 2 - n);
    return true;
}
