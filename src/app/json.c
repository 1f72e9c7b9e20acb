#include "app/json.h"

#include "base/mem.h"
#include "base/metrics.h"

/* Bytes that jansson takes, at the most, with the allocator's own: for what a character begins, and
 * for each byte of a text: the lexer's copy, that of twice its size as it grows, the value's. */
enum { OBJECT = 384, MEMBER = 256, ARRAY = 224, ELEMENT = 112, TEXT = 6, LEAST = 1024 };

/* A size is kept in front of each piece. It is counted, and never refused: jansson's lexer (2.14,
 * lex_save) does not see that a byte had no room, and then reads and writes beyond what it has. */
static void *counted_alloc(size_t n)
{
    size_t *p = mem_alloc_foreseen(n + 16);
    *p = n + 16;
    return (char *)p + 16;
}

static void counted_free(void *p)
{
    size_t *head = p ? (void *)((char *)p - 16) : NULL;
    mem_free(head, head ? *head : 0);
}

void json_init(void)
{
    json_set_alloc_funcs(counted_alloc, counted_free);
}

static uint64_t most(struct slice json)
{
    uint64_t sum = LEAST + (uint64_t)json.n * TEXT;
    bool text = false;
    for (size_t i = 0; i < json.n; i++) {
        uint8_t c = json.p[i];
        if (text)
            i += c == '\\';
        else
            sum += c == '{'   ? OBJECT
                   : c == ':' ? MEMBER
                   : c == '[' ? ARRAY
                   : c == ',' ? ELEMENT
                              : 0;
        text ^= c == '"';
    }
    return sum;
}

enum err json_read(struct slice text, size_t flags, json_t **out, json_error_t *error)
{
    if (!mem_fits(MEM_BUFFER, most(text))) {
        metrics.memory_refused_total++;
        return ERR_NO_MEMORY;
    }
    *out = json_loadb(text.n ? (const char *)text.p : "", text.n, flags, error);
    return *out ? ERR_NONE : ERR_EXEC_JSON;
}
