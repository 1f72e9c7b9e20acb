/* Which loops have members of a topic, and how many there are: what a publisher asks before it
 * sends a message to other loops. One table for all loops, by the topic's hash (two topics of one
 * hash would only be told of each other's messages); read without a lock, changed under one, and
 * replaced where it grows: readers hold no pointer to it between two iterations (loop/epoch.h). */
#ifndef WEIR_PRESENCE_H
#define WEIR_PRESENCE_H

#include <pthread.h>

#include "loop/epoch.h"

struct presence_table;
struct presence {
    pthread_mutex_t lock;
    _Atomic(struct presence_table *) table;
    uint32_t used;          /* places: of topics that have members, or had */
    _Atomic uint32_t count; /* topics that have members */
    struct epochs *epochs;
};

void presence_init(struct presence *p, struct epochs *epochs);
void presence_done(struct presence *p); /* when no loop runs */
/* A connection of the calling thread's loop joined the topic; left it, as the loop's last one. */
enum err presence_join(struct presence *p, uint64_t hash) MUST_USE;
void presence_leave(struct presence *p, uint64_t hash, bool last);
/* Bits of loops; members: of all. */
uint64_t presence_find(const struct presence *p, uint64_t hash, uint32_t *members);

#endif
