#include "net/refused.h"

#include "base/mem.h"
#include "base/metrics.h"

enum { READS = 16 };

static void end(int fd)
{
    uint8_t drop[4096];
    for (int i = 0; i < READS && sys_recv(fd, drop, sizeof(drop)) > 0; i++)
        ;
    sys_close(fd);
}

static void first_end(struct refused *r)
{
    end(r->ring[r->head].fd);
    r->head = (r->head + 1) % r->max;
    metrics.refused_active = --r->n;
}

static void due(void *arg, struct timer *t)
{
    struct refused *r = arg;
    while (r->n && r->ring[r->head].until_ms <= r->loop->now_ms)
        first_end(r);
    if (r->n)
        wheel_set(&r->loop->wheel, t, r->ring[r->head].until_ms - r->loop->now_ms);
}

void refused_init(struct refused *r, struct loop *loop, uint32_t max, uint32_t linger_ms)
{
    *r = (struct refused){.loop = loop, .max = max, .linger_ms = linger_ms};
    r->timer.kind = LOOP_REFUSED;
    loop_on(loop, LOOP_REFUSED, NULL, due, r);
}

void refused_clear(struct refused *r)
{
    while (r->n)
        first_end(r);
}

void refused_done(struct refused *r)
{
    refused_clear(r);
    mem_free(r->ring, r->max * sizeof(*r->ring));
    r->ring = NULL;
}

void refused_add(struct refused *r, int fd)
{
    if (!r->ring && r->max)
        r->ring = mem_alloc(r->max * sizeof(*r->ring));
    if (!r->ring) {
        end(fd);
        return;
    }
    if (r->n == r->max) {
        metrics.refused_cut_total++;
        first_end(r);
    }
    sys_shutdown_write(fd);
    r->ring[(r->head + r->n) % r->max] = (struct refused_one){r->loop->now_ms + r->linger_ms, fd};
    metrics.refused_active = ++r->n;
    if (!timer_is_set(&r->timer))
        wheel_set(&r->loop->wheel, &r->timer, r->linger_ms);
}
