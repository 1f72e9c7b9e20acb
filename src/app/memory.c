#include "app/memory.h"

#include <inttypes.h>

#include "sys/sys.h"

enum { CHUNK = 64 << 10, ARENA = 64 << 20 }; /* ARENA: what glibc aligns another thread's heap to */

static int64_t base[MEMORY_PARTS];
static uint64_t start_bytes;

static const char *const map_names[] = {"heap", "stack",  "program",   "program_data",
                                        "code", "engine", "anonymous", "other"};
static const char *const part_names[] = {"malloc", "anonymous", "code", "engine"};

/* ---- mappings ---- */

static enum memory_map kind_of(const struct memory_parse *p, uint64_t from, const char *perms,
                               const char *name, size_t n)
{
    struct slice s = slice_of(name, n);
    bool joined = from == p->to;
    if (n && *name == '/') {
        static const char image[] = "/memfd:wasm-memory-image"; /* of instances' memories */
        if (n >= sizeof(image) - 1 && memcmp(name, image, sizeof(image) - 1) == 0)
            return MEMORY_ENGINE;
        if ((n > 5 && memcmp(name, "/dev/", 5) == 0) || (n > 5 && memcmp(name, "/SYSV", 5) == 0))
            return MEMORY_OTHER; /* shared, and of no file */
        return n > 7 && memcmp(name, "/memfd:", 7) == 0 ? MEMORY_CODE
               : perms[1] == 'w'                        ? MEMORY_PROGRAM_DATA
                                                        : MEMORY_PROGRAM;
    }
    if (slice_eq(s, SLICE("[heap]")))
        return MEMORY_HEAP;
    if (n && memcmp(name, "[anon", MIN(n, 5)) != 0)
        return slice_eq(s, SLICE("[stack]")) ? MEMORY_STACK : MEMORY_OTHER;
    if (joined && p->program)
        return MEMORY_PROGRAM_DATA; /* what follows its file begins as zeros */
    if (from % ARENA == 0)
        return MEMORY_HEAP;
    /* Behind a guard page, or one itself; what was joined to such a piece is its other part. */
    return perms[0] == '-' || (joined && (p->guard || p->kind == MEMORY_ENGINE)) ? MEMORY_ENGINE
                                                                                 : MEMORY_ANONYMOUS;
}

/* The number at *at, which moves behind it; base 10 or 16. */
static uint64_t number(const char **at, const char *end, unsigned base)
{
    static const char digits[] = "0123456789abcdef";
    uint64_t n = 0;
    for (const char *digit; *at < end && **at && (digit = memchr(digits, **at, base)) != NULL;
         ++*at)
        n = n * base + (uint64_t)(digit - digits);
    return n;
}

/* "FROM-TO PERMS OFFSET DEVICE INODE   NAME" */
static void mapping(struct memory_parse *p, const char *line, size_t n)
{
    const char *at = line, *end = line + n;
    uint64_t from = number(&at, end, 16), to;
    at += at < end;
    to = number(&at, end, 16);
    if (end - at < 6)
        return;
    const char *perms = at + 1, *name = perms;
    for (int field = 0; field < 4 && name < end; field++) {
        name = memchr(name, ' ', (size_t)(end - name));
        name = name ? name + 1 : end;
    }
    while (name < end && *name == ' ')
        name++;
    p->kind = kind_of(p, from, perms, name, (size_t)(end - name));
    p->program = p->kind == MEMORY_PROGRAM || p->kind == MEMORY_PROGRAM_DATA;
    p->guard = perms[0] == '-';
    p->from = from;
    p->to = to;
    p->out->of[p->kind].mappings++;
}

static void figure(struct memory_parse *p, const char *line, size_t n)
{
    const char *at = line + 4, *end = line + n;
    while (at < end && *at == ' ')
        at++;
    uint64_t bytes = number(&at, end, 10) << 10;
    if (line[0] == 'R') {
        p->out->of[p->kind].rss += bytes;
        return;
    }
    p->out->of[p->kind].pss += bytes;
    if ((p->kind == MEMORY_ANONYMOUS || p->kind == MEMORY_OTHER) && bytes > p->out->largest) {
        p->out->largest = bytes;
        p->out->largest_from = p->from;
        p->out->largest_to = p->to;
    }
}

size_t memory_parse(struct memory_parse *p, struct slice text)
{
    const char *line = (const char *)text.p, *end = line + text.n, *next;
    for (; (next = memchr(line, '\n', (size_t)(end - line))) != NULL; line = next + 1) {
        size_t n = (size_t)(next - line);
        bool hex = (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
        if (hex && n > 40)
            mapping(p, line, n);
        else if (n > 4 && (memcmp(line, "Rss:", 4) == 0 || memcmp(line, "Pss:", 4) == 0))
            figure(p, line, n);
    }
    return (size_t)(line - (const char *)text.p);
}

static enum err maps_read(struct memory_maps *out)
{
    struct memory_parse p = {.out = out};
    char *text = mem_alloc(CHUNK);
    uint64_t at = 0;
    size_t have = 0;
    ssize_t n = -1;
    if (!text)
        return ERR_NO_MEMORY;
    while ((n = sys_maps_read(at, text + have, CHUNK - have)) > 0) {
        at += (uint64_t)n;
        have += (size_t)n;
        size_t took = memory_parse(&p, slice_of(text, have));
        have -= took;
        memmove(text, text + took, have);
    }
    mem_free(text, CHUNK);
    return n < 0 || !at ? ERR_SYS : ERR_NONE;
}

/* ---- what they say together ---- */

static enum err measure(struct memory *m, int64_t parts[MEMORY_PARTS])
{
    struct sys_malloc a;
    uint64_t began_ns = sys_now_ns();
    memset(m, 0, sizeof(*m));
    enum err e = maps_read(&m->maps);
    if (e)
        return e;
    sys_malloc(&a);
    m->malloc_used = a.used;
    m->malloc_free = a.free;
    for (int i = 0; i < MEM_CODE; i++)
        m->counted += mem_bytes((enum mem_kind)i);
    for (int i = 0; i < MEMORY_MAPS; i++) {
        m->pss += m->maps.of[i].pss;
        m->rss += m->maps.of[i].rss;
    }
    parts[MEMORY_PART_MALLOC] = (int64_t)(m->malloc_used - m->counted);
    uint64_t heap = a.used - a.mapped + a.free, heap_pss = m->maps.of[MEMORY_HEAP].pss;
    parts[MEMORY_PART_ANONYMOUS] = (int64_t)(heap_pss - MIN(heap, heap_pss) +
                                             m->maps.of[MEMORY_ANONYMOUS].pss +
                                             m->maps.of[MEMORY_OTHER].pss - a.mapped);
    parts[MEMORY_PART_CODE] = (int64_t)(m->maps.of[MEMORY_CODE].pss - mem_bytes(MEM_CODE));
    parts[MEMORY_PART_ENGINE] = (int64_t)(m->maps.of[MEMORY_ENGINE].pss - mem_bytes(MEM_GUEST));
    m->read_ns = sys_now_ns() - began_ns;
    return ERR_NONE;
}

void memory_start(void)
{
    struct memory m;
    if (measure(&m, base))
        return;
    start_bytes = m.pss - MIN(m.pss, m.counted);
    for (int i = 0; i < MEMORY_PARTS; i++) /* counted and not touched yet: it may be later */
        base[i] = MAX(base[i], 0);
}

enum err memory_take(struct memory *m)
{
    enum err e = measure(m, m->unexplained);
    if (e)
        return e;
    m->start = start_bytes;
    for (int i = 0; i < MEMORY_PARTS; i++) {
        m->unexplained[i] -= base[i];
        m->unexplained_bytes += (uint64_t)MAX(m->unexplained[i], 0);
    }
    return ERR_NONE;
}

/* ---- as JSON ---- */

static enum err put_maps(const struct memory_maps *maps, struct buf *out)
{
    enum err e = buf_printf(out, ",\"mappings\":{");
    for (int i = 0; i < MEMORY_MAPS && !e; i++)
        e = buf_printf(out,
                       "%s\"%s\":{\"pss_bytes\":%" PRIu64 ",\"rss_bytes\":%" PRIu64
                       ",\"mappings\":%" PRIu32 "}",
                       i ? "," : "", map_names[i], maps->of[i].pss, maps->of[i].rss,
                       maps->of[i].mappings);
    return e ? e : buf_append(out, SLICE("}"));
}

static enum err put_unexplained(const struct memory *m, struct buf *out)
{
    const struct memory_maps *maps = &m->maps;
    int most = 0;
    enum err e = buf_printf(out, ",\"unexplained_bytes\":%" PRIu64 ",\"unexplained\":{",
                            m->unexplained_bytes);
    for (int i = 0; i < MEMORY_PARTS && !e; i++) {
        most = m->unexplained[i] > m->unexplained[most] ? i : most;
        e = buf_printf(out, "%s\"%s\":%" PRId64, i ? "," : "", part_names[i], m->unexplained[i]);
    }
    e = e ? e : buf_append(out, SLICE("}"));
    if (e || m->unexplained_bytes <= MEMORY_FLAG)
        return e ? e : buf_append(out, SLICE(",\"flagged\":null"));
    if (most == MEMORY_PART_ANONYMOUS && maps->largest)
        return buf_printf(out, ",\"flagged\":\"anonymous, the largest at %" PRIx64 "-%" PRIx64 "\"",
                          maps->largest_from, maps->largest_to);
    return buf_printf(out, ",\"flagged\":\"%s\"",
                      most == MEMORY_PART_MALLOC ? "heap" : part_names[most]);
}

enum err memory_write(const struct memory *m, struct buf *out)
{
    uint64_t sum = m->start;
    enum err e = buf_printf(out, "\"accounted_bytes\":{\"start\":%" PRIu64, m->start);
    for (int i = 0; i < MEM_KINDS && !e; i++) {
        uint64_t n = mem_bytes((enum mem_kind)i);
        sum += n;
        e = buf_printf(out, ",\"%s\":%" PRIu64, mem_name((enum mem_kind)i), n);
    }
    e = e ? e
          : buf_printf(out,
                       ",\"sum\":%" PRIu64 "},\"allocator_bytes\":{\"used\":%" PRIu64
                       ",\"free\":%" PRIu64 "},\"pss_bytes\":%" PRIu64 ",\"rss_bytes\":%" PRIu64,
                       sum, m->malloc_used, m->malloc_free, m->pss, m->rss);
    e = e ? e : put_maps(&m->maps, out);
    e = e ? e : put_unexplained(m, out);
    return e ? e : buf_printf(out, ",\"read_seconds\":%.6f", (double)m->read_ns / 1e9);
}
