/* Memory that adds up: what is counted by owner, what the allocator says, and what the kernel maps,
 * side by side; and what of the last two the first does not explain.
 *
 *   malloc's        what it has handed out, less what is counted as malloc's
 *   anonymous       the kernel's heap and anonymous mappings, less what malloc has of the system
 *   code            modules' mapped files, less what is counted for them
 *   engine          what lies between guard pages (instances, fibers' and threads' stacks), less
 *                   what is counted for guests
 *
 * of each less what it was when the worker began to serve, which is the engine's own and
 * libraries'. The program's file is what it is. */
#ifndef WEIR_MEMORY_H
#define WEIR_MEMORY_H

#include "base/buf.h"

enum memory_map {
    MEMORY_HEAP,
    MEMORY_STACK,
    MEMORY_PROGRAM,      /* text and constants, from its file */
    MEMORY_PROGRAM_DATA, /* written copies of it, and what begins as zeros */
    MEMORY_CODE,         /* modules': memfds */
    MEMORY_ENGINE,
    MEMORY_ANONYMOUS,
    MEMORY_OTHER,
    MEMORY_MAPS
};

struct memory_maps {
    struct {
        uint64_t pss, rss;
        uint32_t mappings;
    } of[MEMORY_MAPS];
    uint64_t largest, largest_from, largest_to; /* PSS of an anonymous mapping, and which it is */
};

enum memory_part {
    MEMORY_PART_MALLOC,
    MEMORY_PART_ANONYMOUS,
    MEMORY_PART_CODE,
    MEMORY_PART_ENGINE,
    MEMORY_PARTS
};

struct memory {
    struct memory_maps maps;
    uint64_t malloc_used, malloc_free; /* bytes handed out; had of the system, and free */
    uint64_t counted, start, pss, rss; /* counted as malloc's; beyond that at the start */
    int64_t unexplained[MEMORY_PARTS]; /* negative: counted, and not touched or counted twice */
    uint64_t unexplained_bytes;        /* of those that are not */
    uint64_t read_ns;                  /* what it took to ask */
};
enum { MEMORY_FLAG = 1 << 20 }; /* more than that unexplained is worth a look */

/* A smaps file's text, whole lines at a time; mapped: of the mapping before, zeroed at first. */
struct memory_parse {
    struct memory_maps *out;
    enum memory_map kind;
    bool program, guard; /* the one before: of the program, not to be reached */
    uint64_t from, to;
};
/* Returns how much of it is taken: the rest begins with the last line. */
size_t memory_parse(struct memory_parse *p, struct slice text);

/* What is there from here on is to be explained: the worker serves. After sys_process_open. */
void memory_start(void);
/* ERR_SYS: the kernel did not say. */
enum err memory_take(struct memory *out) MUST_USE;
/* The members of a JSON object, without its braces. */
enum err memory_write(const struct memory *m, struct buf *out) MUST_USE;

#endif
