/* What this program takes of the machine's memory, counted, and how much of it it may have.
 *
 * `limits.memory` promises a size of all processes together. What they have when they begin to
 * serve is measured; of what is left, one half is for guests' instances, and one for all else, so
 * that neither takes the other's. Past its half nothing more is given, as if the machine had none;
 * new connections are refused before (mem_room), so that those that are there go on. */
#ifndef WEIR_MEM_H
#define WEIR_MEM_H

#include "base/base.h"

enum mem_kind {
#define MEM_KIND(kind, name) MEM_##kind,
#include "tbl/mem.def"
#undef MEM_KIND
    MEM_KINDS
};

/* For profiles: whose what this thread does now is, and whose what it takes of malloc. */
struct mem_whose {
    uint16_t module; /* its number + 1; 0: none */
    uint8_t owner;   /* enum mem_kind + 1; 0: none that is counted, as in a library */
};
extern _Thread_local struct mem_whose mem_whose;
/* Compilers hold that malloc looks at no variable, but it is not the C library's alone here. */
static inline void mem_owner_set(unsigned owner)
{
    *(volatile uint8_t *)&mem_whose.owner = (uint8_t)owner;
}

/* Plain memory whose size its owner remembers. NULL: none is left, or not for this. */
void *mem_alloc(size_t n) MUST_USE;
void *mem_alloc_foreseen(size_t n); /* of what mem_fits said there is room for: never NULL */
void mem_free(void *p, size_t n);
void *mem_alloc_as(enum mem_kind kind, size_t n) MUST_USE; /* the same, of another kind */
void mem_free_as(enum mem_kind kind, void *p, size_t n);

/* For a while, as for one call, this thread may have n bytes (at most MEM_SPARE) beyond its half:
 * whoever looks why the rest is refused must get in. */
enum { MEM_SPARE = 256 << 10 };
void mem_spare(uint32_t n);

/* Counts what is taken in other ways. false: it would be too much, and nothing is counted. */
bool mem_take(enum mem_kind kind, uint64_t n) MUST_USE;
void mem_give(enum mem_kind kind, uint64_t n);
bool mem_fits(enum mem_kind kind, uint64_t n);
/* Whether it would, were nothing else there. */
bool mem_could(enum mem_kind kind, uint64_t n);
/* The same as mem_fits, but an eighth of the half is left: to what is there already or, of guests'
 * half, to modules that have nothing yet. */
bool mem_room(enum mem_kind kind, uint64_t n);

/* Whether so much was given back since it last said so that the allocator should give it back too.
 */
bool mem_trim_due(void);

uint64_t mem_bytes(enum mem_kind kind); /* held now, by all threads */

const char *mem_name(enum mem_kind kind);
/* Of those that are malloc's, and before MEM_POOL. */
uint64_t mem_buffer_bytes(void);

/* total: bytes of all processes that are promised. process: what they have now, of which
 * mem_bytes() but for MEM_CODE is a part. false: too little is left, nothing is bounded. Without a
 * promise nothing is. */
bool mem_promise(uint64_t total, uint64_t process) MUST_USE;
uint64_t mem_promised(void);
uint64_t mem_accounted(void); /* of all processes, by our own count; 0 without a promise */

#endif
