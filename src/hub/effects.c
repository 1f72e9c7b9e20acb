#include "hub/effects.h"

enum { HEAD_MAX = 16 << 10, KEEP_LIST = 1024, KEEP_BYTES = 4096 };

void effects_init(struct effects *fx)
{
    buf_init(&fx->list, EFFECTS_MAX * sizeof(struct effect));
    buf_init(&fx->bytes, 0);
    buf_init(&fx->head, HEAD_MAX);
    buf_init(&fx->body, 0);
    fx->status = 0;
    memset(fx->counts, 0, sizeof(fx->counts));
}

void effects_limit(struct effects *fx, uint32_t output_max)
{
    /* What is kept warm of an earlier event may be more than this one's limit. */
    if (fx->bytes.cap > output_max)
        buf_done(&fx->bytes);
    if (fx->body.cap > output_max)
        buf_done(&fx->body);
    fx->bytes.max = fx->body.max = output_max;
}

void effects_clear(struct effects *fx)
{
    buf_clear(&fx->list, KEEP_LIST);
    buf_clear(&fx->bytes, KEEP_BYTES);
    buf_clear(&fx->head, 0);
    buf_clear(&fx->body, KEEP_BYTES);
    fx->status = 0;
    memset(fx->counts, 0, sizeof(fx->counts));
}

void effects_done(struct effects *fx)
{
    buf_done(&fx->list);
    buf_done(&fx->bytes);
    buf_done(&fx->head);
    buf_done(&fx->body);
}

enum err effects_add(struct effects *fx, const struct effect *e, struct slice key, struct slice a,
                     struct slice b)
{
    const struct slice parts[] = {key, a, b};
    struct effect made = *e;
    made.key_n = (uint16_t)key.n;
    made.off = fx->bytes.len;
    made.len = (uint32_t)(key.n + a.n + b.n);
    enum err err = buf_reserve(&fx->bytes, made.len);
    if (!err)
        err = buf_append(&fx->list, slice_of(&made, sizeof(made)));
    for (size_t i = 0; i < ARRAY_LEN(parts) && !err; i++)
        err = buf_append(&fx->bytes, parts[i]);
    fx->counts[made.kind] += !err;
    return err;
}

struct slice effects_key(const struct effects *fx, const struct effect *e)
{
    return e->key_n ? slice_of(fx->bytes.p + e->off, e->key_n) : SLICE_NONE;
}

struct slice effects_bytes(const struct effects *fx, const struct effect *e)
{
    uint32_t n = e->len - e->key_n;
    return n ? slice_of(fx->bytes.p + e->off + e->key_n, n) : SLICE_NONE;
}

const struct effect *effects_last(const struct effects *fx, enum effect_kind kind, struct slice key)
{
    const struct effect *v = (const struct effect *)fx->list.p;
    if (!fx->counts[kind])
        return NULL;
    for (size_t i = fx->list.len / sizeof(*v); i-- > 0;)
        if (v[i].kind == kind && slice_eq(effects_key(fx, &v[i]), key))
            return &v[i];
    return NULL;
}

bool effects_on(const struct effects *fx, enum effect_kind on, enum effect_kind off, uint64_t conn,
                struct slice key, bool before, uint32_t *n_on)
{
    const struct effect *v = (const struct effect *)fx->list.p;
    *n_on = 0;
    for (size_t i = 0; i < fx->list.len / sizeof(*v); i++) {
        if (v[i].conn != conn || (v[i].kind != on && v[i].kind != off))
            continue;
        *n_on += v[i].kind == on;
        if (slice_eq(effects_key(fx, &v[i]), key))
            before = v[i].kind == on;
    }
    return before;
}

uint32_t effects_queued(const struct effects *fx, uint64_t conn)
{
    const struct effect *v = (const struct effect *)fx->list.p;
    uint32_t sum = 0;
    for (size_t i = 0; i < fx->list.len / sizeof(*v); i++)
        sum += v[i].kind == EFFECT_SEND && v[i].conn == conn ? v[i].len : 0;
    return sum;
}

void effects_apply(struct effects *fx, void (*apply)(void *arg, const struct effect *e), void *arg)
{
    const struct effect *v = (const struct effect *)fx->list.p;
    for (size_t i = 0; i < fx->list.len / sizeof(*v); i++)
        apply(arg, &v[i]);
}
