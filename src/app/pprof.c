#include "app/pprof.h"

#include <zlib.h>

#include "base/utf8.h"

/* Numbers of profile.proto's fields. */
enum {
    PROFILE_SAMPLE_TYPE = 1,
    PROFILE_SAMPLE,
    PROFILE_MAPPING,
    PROFILE_LOCATION,
    PROFILE_FUNCTION,
    PROFILE_STRING,
    PROFILE_TIME_NANOS = 9,
    PROFILE_DURATION_NANOS,
    PROFILE_PERIOD_TYPE,
    PROFILE_PERIOD,
    PROFILE_DEFAULT_SAMPLE_TYPE = 14
};

/* ---- wire format: https://protobuf.dev/programming-guides/encoding ---- */

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

/* A message inside of another: small, or a sample, of which the stack's depth is the most. */
struct message {
    uint32_t n;
    uint8_t bytes[1400];
};

static uint32_t varint(uint8_t *to, uint64_t v)
{
    uint32_t n = 0;
    for (; v >= 0x80; v >>= 7)
        to[n++] = (uint8_t)(v | 0x80);
    to[n++] = (uint8_t)v;
    return n;
}

static void put_raw(struct message *m, uint64_t v)
{
    ASSERT(m->n + 10 <= sizeof(m->bytes));
    m->n += varint(m->bytes + m->n, v);
}

static void put(struct message *m, unsigned field, uint64_t v)
{
    if (!v)
        return; /* which is what is not there */
    put_raw(m, field << 3 | WIRE_VARINT);
    put_raw(m, v);
}

static void put_message(struct message *m, unsigned field, const struct message *inner)
{
    put_raw(m, field << 3 | WIRE_BYTES);
    put_raw(m, inner->n);
    ASSERT(m->n + inner->n <= sizeof(m->bytes));
    memcpy(m->bytes + m->n, inner->bytes, inner->n);
    m->n += inner->n;
}

static void out_bytes(struct pprof *p, unsigned field, struct slice s)
{
    uint8_t head[12];
    uint32_t n = varint(head, field << 3 | WIRE_BYTES);
    n += varint(head + n, s.n);
    p->e = p->e ? p->e : buf_append(&p->out, slice_of(head, n));
    p->e = p->e ? p->e : buf_append(&p->out, s);
}

static void out_message(struct pprof *p, unsigned field, const struct message *m)
{
    out_bytes(p, field, slice_of(m->bytes, m->n));
}

static void out_number(struct pprof *p, unsigned field, uint64_t v)
{
    uint8_t bytes[12];
    uint32_t n = varint(bytes, field << 3 | WIRE_VARINT);
    n += varint(bytes + n, v);
    p->e = p->e ? p->e : buf_append(&p->out, slice_of(bytes, n));
}

/* ---- the profile ---- */

void pprof_begin(struct pprof *p, uint32_t max)
{
    *p = (struct pprof){.e = ERR_NONE};
    buf_init(&p->out, max);
    pprof_string(p, SLICE_NONE); /* the first one is empty */
}

void pprof_done(struct pprof *p)
{
    buf_done(&p->out);
}

uint32_t pprof_string(struct pprof *p, struct slice text)
{
    uint32_t from = p->out.len;
    out_bytes(p, PROFILE_STRING, text);
    if (!p->e && text.n && !utf8_valid(text))
        for (uint32_t i = p->out.len - (uint32_t)text.n; i < p->out.len; i++)
            p->out.p[i] = p->out.p[i] < 0x80 ? p->out.p[i] : '?';
    return p->e || p->out.len == from ? 0 : p->strings++;
}

static struct message value_type(struct pprof *p, const char *type, const char *unit)
{
    struct message m = {.n = 0};
    put(&m, 1, pprof_string(p, slice_str(type)));
    put(&m, 2, pprof_string(p, slice_str(unit)));
    return m;
}

void pprof_sample_type(struct pprof *p, const char *type, const char *unit)
{
    struct message m = value_type(p, type, unit);
    out_message(p, PROFILE_SAMPLE_TYPE, &m);
}

void pprof_mapping(struct pprof *p, uint64_t id, uint64_t from, uint64_t to, uint64_t offset,
                   const char *file, bool named)
{
    const uint64_t values[] = {id, from, to, offset, pprof_string(p, slice_str(file)), 0, named};
    struct message m = {.n = 0};
    for (unsigned i = 0; i < ARRAY_LEN(values); i++)
        put(&m, i + 1, values[i]);
    out_message(p, PROFILE_MAPPING, &m);
}

void pprof_function(struct pprof *p, uint64_t id, uint32_t name, uint32_t file)
{
    const uint64_t values[] = {id, name, name, file};
    struct message m = {.n = 0};
    for (unsigned i = 0; i < ARRAY_LEN(values); i++)
        put(&m, i + 1, values[i]);
    out_message(p, PROFILE_FUNCTION, &m);
}

void pprof_location(struct pprof *p, uint64_t id, uint64_t mapping, uint64_t address,
                    uint64_t function)
{
    struct message m = {.n = 0}, line = {.n = 0};
    put(&m, 1, id);
    put(&m, 2, mapping);
    put(&m, 3, address);
    put(&line, 1, function);
    if (function)
        put_message(&m, 4, &line);
    out_message(p, PROFILE_LOCATION, &m);
}

void pprof_sample(struct pprof *p, const uint64_t *locations, size_t n, const int64_t *values,
                  size_t n_values, const struct pprof_label *labels, size_t n_labels)
{
    struct message m = {.n = 0}, packed = {.n = 0};
    for (size_t i = 0; i < n; i++)
        put_raw(&packed, locations[i]);
    put_message(&m, 1, &packed);
    packed.n = 0;
    for (size_t i = 0; i < n_values; i++)
        put_raw(&packed, (uint64_t)values[i]);
    put_message(&m, 2, &packed);
    for (size_t i = 0; i < n_labels; i++) {
        packed.n = 0;
        put(&packed, 1, labels[i].key);
        put(&packed, 2, labels[i].text);
        if (labels[i].text)
            put_message(&m, 3, &packed);
    }
    out_message(p, PROFILE_SAMPLE, &m);
}

void pprof_end(struct pprof *p, uint64_t wall_ns, uint64_t took_ns, const char *type,
               const char *unit, uint64_t period, const char *shown)
{
    struct message m = value_type(p, type, unit);
    out_message(p, PROFILE_PERIOD_TYPE, &m);
    out_number(p, PROFILE_TIME_NANOS, wall_ns);
    out_number(p, PROFILE_DURATION_NANOS, took_ns);
    out_number(p, PROFILE_PERIOD, period);
    out_number(p, PROFILE_DEFAULT_SAMPLE_TYPE, pprof_string(p, slice_str(shown)));
}

/* A small window: what a profile repeats, it repeats soon, and memory is what it may be about. */
enum err pprof_gzip(struct slice in, struct buf *out)
{
    enum { WINDOW = 13, GZIP = 16, MEMORY = 5, STEP = 16 << 10 };
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in.p, .avail_in = (uInt)in.n};
    if (deflateInit2(&z, 3, Z_DEFLATED, WINDOW + GZIP, MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return ERR_NO_MEMORY;
    enum err e = ERR_NONE;
    for (int r = Z_OK; r != Z_STREAM_END;) {
        e = buf_reserve(out, MAX(MIN((uint32_t)STEP, out->max - out->len), 1));
        if (e)
            break;
        z.next_out = out->p + out->len;
        z.avail_out = out->cap - out->len;
        r = deflate(&z, Z_FINISH);
        out->len = out->cap - z.avail_out;
    }
    deflateEnd(&z);
    return e;
}
