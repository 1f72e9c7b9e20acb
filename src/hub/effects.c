#include "hub/effects.h"

void effects_init(struct effects *fx, uint32_t output_max)
{
    buf_init(&fx->list, EFFECTS_MAX * sizeof(struct effect));
    buf_init(&fx->bytes, output_max);
    buf_init(&fx->head, 16 << 10);
    buf_init(&fx->body, output_max);
    fx->status = 0;
}

void effects_clear(struct effects *fx)
{
    buf_clear(&fx->list, 1024);
    buf_clear(&fx->bytes, 4096);
    buf_clear(&fx->head, 0);
    buf_clear(&fx->body, 4096);
    fx->status = 0;
}

void effects_done(struct effects *fx)
{
    buf_done(&fx->list);
    buf_done(&fx->bytes);
    buf_done(&fx->head);
    buf_done(&fx->body);
}

enum err effects_add(struct effects *fx, enum effect_kind kind, uint64_t conn, uint16_t code,
                     struct slice a, struct slice b)
{
    struct effect e = {kind, code, conn, fx->bytes.len, (uint32_t)(a.n + b.n)};
    enum err err = buf_reserve(&fx->bytes, a.n + b.n);
    if (!err)
        err = buf_append(&fx->list, slice_of(&e, sizeof(e)));
    if (!err)
        err = buf_append(&fx->bytes, a);
    return err ? err : buf_append(&fx->bytes, b);
}

uint32_t effects_queued(const struct effects *fx, uint64_t conn)
{
    const struct effect *v = (const struct effect *)fx->list.p;
    uint32_t sum = 0;
    for (size_t i = 0; i < fx->list.len / sizeof(*v); i++)
        sum += v[i].kind == EFFECT_SEND && v[i].conn == conn ? v[i].len : 0;
    return sum;
}

void effects_apply(struct effects *fx,
                   void (*apply)(void *arg, const struct effect *e, struct slice bytes), void *arg)
{
    const struct effect *v = (const struct effect *)fx->list.p;
    for (size_t i = 0; i < fx->list.len / sizeof(*v); i++)
        apply(arg, &v[i], slice_of(fx->bytes.p + v[i].off, v[i].len));
}
