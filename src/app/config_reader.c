#include "app/config_reader.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    DEPTH_MAX = 64,
    ANCHORS_MAX = 256,
    VALUE_MAX = 64 << 10,
    VALUES_MAX = 4 << 20, /* all of them, each alias counted, before and after expansion */
    PROBLEMS_MAX = 100
};

const char *const reader_type_names[] = {"number", "size, such as 64KiB", "time, such as 15s",
                                         "text"};

void reader_fail_at(struct reader *r, yaml_mark_t at, const char *format, ...)
{
    char text[CONFIG_SHOWN_MAX], line[4 * CONFIG_SHOWN_MAX + 1];
    if (r->problems > PROBLEMS_MAX)
        return;
    if (r->problems++ == PROBLEMS_MAX)
        format = "these are 100 problems; the rest of the file was not looked at";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    config_show(text, line);
    if (buf_printf(r->errors, "%s:%zu: %s\n", r->file, at.line + 1, line))
        return; /* the list is full: enough is said */
}

static bool stopped(const struct reader *r)
{
    return r->problems > PROBLEMS_MAX;
}

/* "?" is no key that anything knows. */
const char *reader_key(const yaml_node_t *n)
{
    return n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : "?";
}

/* The text of a plain value, its variables replaced; to be freed. NULL: said. */
char *reader_expand(struct reader *r, const yaml_node_t *n)
{
    struct slice unset;
    struct buf out;
    if (n->type != YAML_SCALAR_NODE) {
        reader_fail(r, n, "a plain value is expected here, not a list or map");
        return NULL;
    }
    buf_init(&out, VALUE_MAX);
    r->values += n->data.scalar.length;
    enum err e = r->values > VALUES_MAX
                     ? ERR_LIMIT
                     : config_expand((const char *)n->data.scalar.value, &out, &unset);
    char *text = e ? NULL : strndup(out.len ? (char *)out.p : "", out.len);
    r->values += out.len;
    buf_done(&out);
    if (e == ERR_INVALID)
        reader_fail(r, n, "set this environment variable, or give ${NAME:-default}: %.*s",
                    (int)MIN(unset.n, 60), (const char *)unset.p);
    else if (e == ERR_LIMIT)
        reader_fail(r, n, "a value has at most 64 KiB, and all values together 4 MiB");
    else if (!text)
        reader_fail(r, n, "out of memory");
    return text;
}

void reader_set(struct reader *r, yaml_mark_t at, const struct reader_row *row, void *base,
                char *text)
{
    uint64_t n;
    if (row->words && reader_word(text, row->words) < 0)
        reader_fail_at(r, at, "%s is %s", row->key, row->words);
    if (row->type == CONFIG_TEXT) {
        char **field = (char **)((char *)base + row->offset);
        free(*field);
        *field = text;
        return;
    }
    if (!config_number(text, row->type, &n))
        reader_fail_at(r, at, "%s takes a %s", row->key, reader_type_names[row->type]);
    else if (n < row->min || n > row->max)
        reader_fail_at(r, at, "%s is out of range: from %" PRIu64 " to %" PRIu64 "%s", row->key,
                       row->min, row->max, row->type == CONFIG_DURATION ? " ms" : "");
    else
        *(uint64_t *)((char *)base + row->offset) = n;
    free(text);
}

void reader_defaults(struct reader *r, const struct reader_row *row, void *base)
{
    for (; row->key; row++) {
        char *text = strdup(row->def);
        ASSERT(text);
        reader_set(r, (yaml_mark_t){0}, row, base, text);
    }
}

static void unknown(struct reader *r, const yaml_node_t *key, const struct reader_map *map)
{
    const char *name = reader_key(key), *best = NULL;
    char known[CONFIG_SHOWN_MAX] = "";
    size_t n = 0;
    for (const struct reader_row *row = map->rows; row && row->key; row++) {
        if (config_distance(name, row->key) <= 2)
            best = row->key;
        if (map->shows_rows)
            n += (size_t)sprintf(known + n, "%s%s", n ? ", " : "; known here: ", row->key);
    }
    for (const struct reader_key *k = map->keys; k && k->key; k++)
        n += (size_t)sprintf(known + n, "%s%s", n ? ", " : "; known here: ", k->key);
    if (best)
        reader_fail(r, key, "unknown key: %.60s; did you mean %s?", name, best);
    else
        reader_fail(r, key, "unknown key: %.60s%s", name, known);
}

const struct reader_row *reader_row_find(const struct reader_row *row, const char *key)
{
    while (row && row->key && strcmp(row->key, key) != 0)
        row++;
    return row && row->key ? row : NULL;
}

static void value_read(struct reader *r, yaml_node_t *key, yaml_node_t *value,
                       const struct reader_map *map, void *base)
{
    const struct reader_row *row = reader_row_find(map->rows, reader_key(key));
    const struct reader_key *k = map->keys;
    while (k && k->key && strcmp(k->key, reader_key(key)) != 0)
        k++;
    void *field = k && k->key ? (char *)base + k->offset : base;
    if (row) {
        char *text = reader_expand(r, value);
        if (text)
            reader_set(r, value->start_mark, row, base, text);
    } else if (map->entry) {
        map->entry(r, key, value, base);
    } else if (!k || !k->key) {
        unknown(r, key, map);
    } else if (k->map) {
        reader_map_read(r, value, k->map, field);
    } else if (k->list) {
        reader_list_read(r, value, k->list, field);
    } else {
        k->read(r, key, value, field);
    }
}

static bool key_before(struct reader *r, const yaml_node_pair_t *first, const yaml_node_pair_t *end,
                       const char *key)
{
    for (; first < end; first++)
        if (strcmp(reader_key(yaml_document_get_node(&r->doc, first->key)), key) == 0)
            return true;
    return false;
}

void reader_map_read(struct reader *r, yaml_node_t *map, const struct reader_map *kind, void *base)
{
    if (map->type != YAML_MAPPING_NODE) {
        reader_fail(r, map, "a map is expected here: %s", kind->form);
        return;
    }
    yaml_node_pair_t *first = map->data.mapping.pairs.start, *end = map->data.mapping.pairs.top;
    if ((size_t)(end - first) > kind->most) {
        reader_fail(r, map, "at most %zu %ss are expected here", kind->most, kind->noun);
        return;
    }
    for (yaml_node_pair_t *p = first; p < end && !stopped(r); p++) {
        yaml_node_t *key = yaml_document_get_node(&r->doc, p->key);
        yaml_node_t *value = yaml_document_get_node(&r->doc, p->value);
        if (key_before(r, first, p, reader_key(key)))
            reader_fail(r, key, "this %s is here twice: %.60s", kind->noun, reader_key(key));
        else
            value_read(r, key, value, kind, base);
    }
}

void reader_list_read(struct reader *r, yaml_node_t *list, const struct reader_list *kind,
                      void *base)
{
    if (list->type != YAML_SEQUENCE_NODE) {
        reader_fail(r, list, "a list is expected here: %s", kind->form);
        return;
    }
    yaml_node_item_t *i = list->data.sequence.items.start, *end = list->data.sequence.items.top;
    if ((size_t)(end - i) < kind->least || (size_t)(end - i) > kind->most) {
        reader_fail(r, list, "%zu to %zu %ss are expected here", kind->least, kind->most,
                    kind->noun);
        return;
    }
    for (; i < end && !stopped(r); i++)
        kind->item(r, yaml_document_get_node(&r->doc, *i), base);
}

/* Grows *array of *n elements by one zeroed element. */
void *reader_grow(void *array, uint32_t *n, size_t size)
{
    char *p = realloc(array, (*n + 1) * size);
    ASSERT(p); /* maps and lists are bounded */
    memset(p + *n * size, 0, size);
    ++*n;
    return p;
}

void reader_text_add(struct reader *r, const yaml_node_t *item, char ***out, uint32_t *n)
{
    char *text = reader_expand(r, item);
    if (!text)
        return;
    *out = reader_grow(*out, n, sizeof(**out));
    (*out)[*n - 1] = text;
}

char *reader_resolve(const char *file, char *path)
{
    const char *slash = strrchr(file, '/');
    if (!*path || *path == '/' || !slash)
        return path;
    char *out = NULL;
    if (asprintf(&out, "%.*s/%s", (int)(slash - file), file, path) < 0)
        return path;
    free(path);
    return out;
}

int reader_word(const char *text, const char *words)
{
    size_t length = strlen(text);
    for (int i = 0;; i++) {
        size_t n = strcspn(words, ", ");
        if (n == length && memcmp(words, text, n) == 0)
            return i;
        words += n;
        if (!*words)
            return -1;
        words += *words == ',' ? strlen(", ") : strlen(" or ");
    }
}

int reader_word_read(struct reader *r, const yaml_node_t *value, const char *what,
                     const char *words)
{
    char *text = reader_expand(r, value);
    int i = text ? reader_word(text, words) : -1;
    if (text && i < 0)
        reader_fail(r, value, "%s is %s", what, words);
    free(text);
    return i;
}

void reader_text_item(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_texts *texts = base;
    reader_text_add(r, item, &texts->v, &texts->n);
}

void reader_block_item(struct reader *r, yaml_node_t *item, void *base)
{
    struct config_blocks *blocks = base;
    struct address_block block;
    char *text = reader_expand(r, item);
    if (text && !address_block_parse(slice_str(text), &block)) {
        reader_fail(r, item, "an address or block, as 10.0.0.0/8 or fd00::/8, not %.60s", text);
    } else if (text) {
        blocks->v = reader_grow(blocks->v, &blocks->n, sizeof(*blocks->v));
        blocks->v[blocks->n - 1] = block;
    }
    free(text);
}

/* Bytes that can't be read at all have an offset, other problems a mark. */
void reader_yaml_fail(struct reader *r, const yaml_parser_t *parser)
{
    yaml_mark_t at = parser->problem_mark;
    if (parser->error == YAML_READER_ERROR)
        for (size_t i = 0; i < MIN(parser->problem_offset, r->yaml.n); i++)
            at.line += r->yaml.p[i] == '\n';
    reader_fail_at(r, at, "not YAML: %s", parser->problem ? parser->problem : "unreadable");
}

/* Before the file is loaded: what would take libyaml the square of its size, and what it or C's
 * strings would leave out in silence. */
void reader_events_check(struct reader *r, yaml_parser_t *parser)
{
    unsigned depth = 0, anchors = 0, documents = 0;
    yaml_event_type_t type = YAML_NO_EVENT;
    while (type != YAML_STREAM_END_EVENT && !r->problems) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            reader_yaml_fail(r, parser);
            return;
        }
        type = event.type;
        if (type == YAML_SCALAR_EVENT) {
            if (memchr(event.data.scalar.value, 0, event.data.scalar.length))
                reader_fail_at(r, event.start_mark, "a key or value can't hold a zero byte");
            anchors += event.data.scalar.anchor != NULL;
        } else if (type == YAML_SEQUENCE_START_EVENT) {
            anchors += event.data.sequence_start.anchor != NULL;
            depth++;
        } else if (type == YAML_MAPPING_START_EVENT) {
            anchors += event.data.mapping_start.anchor != NULL;
            depth++;
        } else if (type == YAML_SEQUENCE_END_EVENT || type == YAML_MAPPING_END_EVENT) {
            depth--;
        } else if (type == YAML_DOCUMENT_START_EVENT) {
            documents++;
        }
        if (depth > DEPTH_MAX)
            reader_fail_at(r, event.start_mark, "lists and maps are at most %d deep", DEPTH_MAX);
        if (anchors > ANCHORS_MAX)
            reader_fail_at(r, event.start_mark, "at most %d &anchors are expected", ANCHORS_MAX);
        if (documents > 1)
            reader_fail_at(r, event.start_mark,
                           "a second document; a configuration is a single one");
        yaml_event_delete(&event);
    }
}

enum err reader_run(struct reader *r, void (*use)(struct reader *, yaml_parser_t *))
{
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return ERR_NO_MEMORY;
    /* libyaml asserts that there is some address. */
    yaml_parser_set_input_string(&parser, r->yaml.n ? r->yaml.p : (const uint8_t *)"", r->yaml.n);
    use(r, &parser);
    yaml_parser_delete(&parser);
    return r->problems ? ERR_INVALID : ERR_NONE;
}
