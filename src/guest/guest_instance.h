/* Instances: made for a call, and where that is right kept for the next one.
 *
 *   take: none is kept -> made         give: RESTORED -> kept, as it began
 *         else the warmest                   ACTOR    -> kept, as it is
 *                                            else     -> deleted
 *
 * An instance is restored where the compiler found that memory and globals are all that its module
 * can change (engine/src/restore.rs), its call ended well, its memory did not grow and the pages
 * that it wrote are few. Which pages those are the kernel says; they are put back from the module's
 * image, which is what the memory of its first instance held before its call. */
#ifndef WEIR_GUEST_INSTANCE_H
#define WEIR_GUEST_INSTANCE_H

#include "guest/guest.h"

struct guest_instance {
    struct list node; /* of its module's kept ones, the warmest last */
    struct list idle; /* of all that may be evicted, the coldest first */
    struct guest_module *module;
    wasmtime_store_t *store;
    struct weir_kept *kept; /* NULL: not made yet */
    struct weir_limit limit;
    bool begun; /* what it takes from now on, it grows by */
};

/* Whether an instance can be made now, of what guests may have of the machine's memory: idle ones
 * make room. */
bool guest_instance_room(const struct guests *g, const struct guest_module *m);

/* An instance for a call, ready for weir_call_new: its data is the call. NULL: no memory. */
struct guest_instance *guest_instance_take(struct guests *g, struct guest_call *c);
/* The call's instance is no longer needed. ok: its export returned. */
void guest_instance_give(struct guests *g, struct guest_call *c, bool ok);
/* What becomes of a module's instances after their calls, in words. */
const char *guest_instance_way(const struct guest_module *m);
/* All that a module has, and its image. */
void guest_instances_drop(struct guest_module *m);

/* In guest_call.c. */
wasmtime_error_t *guest_on_epoch(wasmtime_context_t *context, void *data, uint64_t *delta,
                                 wasmtime_update_deadline_kind_t *kind);

#endif
