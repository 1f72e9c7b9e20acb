/* What profiles are made of: stacks that were sampled, by a timer or as memory was taken, and the
 * names of the program's own functions.
 *
 * Stacks are walked by frame pointers, which C here, the engine and compiled guests keep; the C
 * library does not, so what it was called by may be missing. Where a guest runs on a fiber's stack,
 * the walk goes on to the stack that it was entered from (x86-64). Nothing is read but pages that
 * the kernel says are there. */
#ifndef WEIR_SYS_PROFILE_H
#define WEIR_SYS_PROFILE_H

#include "base/buf.h"

enum { STACK_DEPTH = 48, STACK_HEADS = 256 };
enum { STACK_REACH = 1 << 20 }; /* bytes of a stack that are walked */
enum { STACK_SPARE = 8 << 10 }; /* bytes for whose those are for which there is no room */
/* Objects are counted in parts of 256, as what was noted stands for more than whole ones. */
enum { STACK_ALLOCS, STACK_ALLOC_BYTES, STACK_FREES, STACK_FREE_BYTES, STACK_COUNTS };
enum { STACK_PARTS = 256 };

/* One stack, and how often it was seen. pcs: the innermost first; those that were returned to are
 * one less, inside of the call. */
struct stack {
    uint32_t next; /* of its chain, as stacks.heads */
    uint32_t hash;
    struct mem_whose whose;
    uint16_t n;
    uint64_t counts[STACK_COUNTS]; /* CPU: samples, and nothing else */
    uint64_t pcs[];
};

/* Each stack once, in memory of a fixed size. Only grows; a signal may add to it at any time. */
struct stacks {
    uint32_t heads[STACK_HEADS]; /* offset + 1 in bytes */
    uint32_t size, used;         /* of bytes */
    uint64_t dropped;            /* samples for whose stack there was no room */
    _Alignas(8) uint8_t bytes[];
};

/* NULL: no memory. size: of bytes. */
struct stacks *stacks_new(uint32_t size) MUST_USE;
void stacks_free(struct stacks *s);
/* Where it is full, which is counted: an empty one of the same whose. NULL: nor is there that. */
struct stack *stacks_get(struct stacks *s, struct mem_whose whose, const uint64_t *pcs, unsigned n);
struct stack *stacks_next(struct stacks *s, const struct stack *after); /* NULL: first; the end */

/* From a frame whose pointer is fp, on the stack that goes on at sp; returns how many.
 * Async-signal-safe. */
unsigned stack_walk(uintptr_t sp, uintptr_t fp, uint64_t *pcs, unsigned max);

/* ---- CPU: a signal each 10 ms of a thread's own running time ---- */

enum { SYS_PROFILE_NS = 10000000 };
void sys_profile_open(void);   /* before the cage */
void sys_profile_thread(void); /* likewise, on each loop's thread */
/* Of the calling thread. false: it has no timer, as RLIMIT_SIGPENDING allows. */
bool sys_profile_start(struct stacks *into);
void sys_profile_stop(void);

/* ---- memory: what malloc gives (sys_heap.c) ---- */

/* One allocation of `every` bytes, in the mean, is noted. ERR_NO_MEMORY. */
enum err sys_heap_start(uint64_t every) MUST_USE;
void sys_heap_stop(void);
uint64_t sys_heap_every(void); /* 0: it is off */
/* The stacks of all threads; those wait, where they take memory, until _unlock. NULL, and nothing
 * to unlock: it is off. */
struct stacks *sys_heap_lock(void);
void sys_heap_unlock(void);

/* ---- names ---- */

struct sys_object {           /* of what the program consists of */
    uintptr_t base, from, to; /* where it is loaded; its code */
    uint64_t offset;          /* of that code in the file */
    int fd;
    char name[104];
};
enum { SYS_OBJECTS = 8 };
unsigned sys_objects(const struct sys_object **out);

struct sys_symbol {
    uint64_t pc;
    uint64_t from;    /* where its function begins; 0: none is known */
    uint32_t name_at; /* that function's name, in the names; NUL-terminated */
    uint32_t object;  /* + 1; 0: it is no code of the program's */
};
/* Finds the functions of n symbols, in the order of their pcs. */
void sys_symbols_find(struct sys_symbol *s, size_t n, struct buf *names);

#endif
