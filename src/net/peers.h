/* Who connects: what each address has open, and how fast it comes. A bounded table. An address is
 * there while it has connections, and for as long as there is room afterwards: the one that was
 * heard of least lately goes first, so that any number of addresses neither makes the table grow
 * nor pushes out one that has connections. IPv6 counts by /64 (address_key). */
#ifndef WEIR_PEERS_H
#define WEIR_PEERS_H

#include "base/address.h"

struct peers_limits {
    uint32_t peers;       /* entries: more than all connections, so that one is always free */
    uint32_t connections; /* of one address; 0: no bound */
    uint32_t rate, burst; /* a second; at once beyond it (a leaky bucket). rate 0: no bound */
};

struct peer;
struct peers {
    struct peers_limits limits;
    struct peer *entries; /* grow up to limits.peers */
    uint32_t *buckets;
    uint32_t n_entries, cap, n_buckets;
    uint32_t oldest, newest; /* of those without connections */
};

enum err peers_init(struct peers *p, const struct peers_limits *limits) MUST_USE;
void peers_done(struct peers *p);
/* Counts a connection. Its handle, to be given back with peers_leave; 0: it has its share, or
 * there is no memory. */
uint32_t peers_join(struct peers *p, const struct address *a) MUST_USE;
/* The same of one that another process counted, by its key, past every bound; and that key. */
uint32_t peers_join_key(struct peers *p, uint64_t key) MUST_USE;
uint64_t peers_key(const struct peers *p, uint32_t peer);
void peers_leave(struct peers *p, uint32_t peer); /* 0: nothing to do */
/* Takes one of what the address may do in a second; false: it has to wait. peers_may only asks. */
bool peers_take(struct peers *p, const struct address *a, uint64_t now_ms);
bool peers_may(struct peers *p, const struct address *a, uint64_t now_ms);
void peers_check(const struct peers *p); /* asserts what must hold */

#endif
