#include "loop/epoch.h"

void epochs_init(struct epochs *e, uint32_t n_loops)
{
    memset(e, 0, sizeof(*e));
    e->n_loops = n_loops;
    for (uint32_t i = 0; i < n_loops; i++)
        atomic_store(&e->loops[i].seen, EPOCH_RESTS);
}

void epoch_rest(struct epochs *e, uint32_t loop)
{
    atomic_store(&e->loops[loop].seen, EPOCH_RESTS);
}

void epoch_work(struct epochs *e, uint32_t loop)
{
    /* What is retired between the two is of a later epoch than is stored here, and so stays. */
    atomic_store(&e->loops[loop].seen, atomic_load(&e->now));
}

void epoch_retire(struct epochs *e, struct epoch_retired *r, void (*free)(struct epoch_retired *))
{
    r->free = free;
    r->epoch = atomic_fetch_add(&e->now, 1) + 1;
    r->next = e->retired;
    e->retired = r;
}

uint32_t epoch_reclaim(struct epochs *e)
{
    uint64_t oldest = EPOCH_RESTS;
    uint32_t left = 0;
    for (uint32_t i = 0; i < e->n_loops; i++) {
        uint64_t seen = atomic_load(&e->loops[i].seen);
        oldest = MIN(oldest, seen);
    }
    for (struct epoch_retired **at = &e->retired, *r; (r = *at) != NULL;) {
        if (r->epoch <= oldest) {
            *at = r->next;
            r->free(r);
        } else {
            at = &r->next;
            left++;
        }
    }
    return left;
}

void epochs_done(struct epochs *e)
{
    for (uint32_t i = 0; i < e->n_loops; i++)
        epoch_rest(e, i);
    uint32_t left = epoch_reclaim(e);
    ASSERT(!left);
}
