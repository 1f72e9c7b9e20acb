/* Memory that several loops read without a lock, and that one of them replaces: it is freed once no
 * loop can still be reading it. A loop is quiescent where it holds no pointer to such memory, as
 * between two of its iterations; what was retired before every loop has been so is then free.
 * Source: quiescent-state-based reclamation as in T. Hart et al., "Performance of memory
 * reclamation for lockless synchronization" (2007). */
#ifndef WEIR_EPOCH_H
#define WEIR_EPOCH_H

#include <stdatomic.h>

#include "base/base.h"

#define EPOCH_RESTS UINT64_MAX

struct epoch_retired { /* at the beginning of what is retired */
    struct epoch_retired *next;
    uint64_t epoch;
    void (*free)(struct epoch_retired *r);
};

struct epochs {
    uint32_t n_loops;
    _Atomic uint64_t now; /* grows with each retirement */
    struct {
        _Alignas(64) _Atomic uint64_t seen; /* `now` when it began to work; EPOCH_RESTS */
    } loops[THREADS_MAX];
    struct epoch_retired *retired; /* the newest first */
};

void epochs_init(struct epochs *e, uint32_t n_loops);
void epochs_done(struct epochs *e); /* frees all: no loop runs any more */

/* After nobody can find it any more: the pointer to it was replaced by atomic_store, and is read by
 * atomic_load, both of memory_order_seq_cst. Who replaces holds a lock, which is held here too. */
void epoch_retire(struct epochs *e, struct epoch_retired *r, void (*free)(struct epoch_retired *));
/* A loop that waits for events says so before and after: it reads nothing meanwhile. */
void epoch_rest(struct epochs *e, uint32_t loop);
void epoch_work(struct epochs *e, uint32_t loop);
/* Frees what no loop can be reading, under the same lock. How many are left. */
uint32_t epoch_reclaim(struct epochs *e);

#endif
