/* Reading a configuration's YAML: maps with keys by rows, lists, values; each problem is said with
 * its line. What the maps and lists of weir.yaml are is config.c's. */
#ifndef WEIR_CONFIG_READER_H
#define WEIR_CONFIG_READER_H

#include <yaml.h>

#include "app/config.h"
#include "app/config_value.h"

/* More than a map or list of a configuration needs. */
enum { READER_KEYS_MAX = 64, READER_TEXTS_MAX = 64, READER_ADMIN = INT32_MAX };

struct reader_row {
    const char *key; /* NULL: the last row */
    enum config_type type;
    const char *words; /* of a WORD: "a, b or c"; else NULL */
    const char *def;
    uint64_t min, max;
    const char *text;
    size_t offset;
};
#define READER_INT CONFIG_INT, NULL
#define READER_SIZE CONFIG_SIZE, NULL
#define READER_DURATION CONFIG_DURATION, NULL
#define READER_TEXT CONFIG_TEXT, NULL
#define READER_WORD(words) CONFIG_TEXT, words

struct reader {
    yaml_document_t doc;
    struct slice yaml;
    const char *file;
    struct config *config;
    struct buf *errors;
    unsigned problems;
    size_t values;       /* their bytes until now */
    yaml_node_t *routes; /* read last: they name modules */
    bool target;         /* the route that is read has websocket or http */
    bool proxy;          /* the listener that is read has proxy_protocol */
    uint32_t listener;   /* which that is */
};

/* Says a problem. Past 100 a last line tells that there are more, and reading ends. */
__attribute__((format(printf, 3, 4))) void reader_fail_at(struct reader *r, yaml_mark_t at,
                                                          const char *format, ...);
#define reader_fail(r, node, ...) reader_fail_at(r, (node)->start_mark, __VA_ARGS__)

struct reader_list {
    const char *noun, *form; /* of an item; of the whole */
    size_t least, most;
    void (*item)(struct reader *r, yaml_node_t *item, void *base);
};

/* A key that is no row: its value is a map, a list, or what `read` makes of it. */
struct reader_key {
    const char *key; /* NULL: the last one */
    size_t offset;   /* in base, of what becomes the base of map, list or read */
    const struct reader_map *map;
    const struct reader_list *list;
    void (*read)(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base);
};

/* What a map holds: keys that are rows or keys, or entries with names of the user's. */
struct reader_map {
    const char *noun, *form; /* of its keys; of an entry */
    size_t most;
    const struct reader_row *rows; /* NULL: none */
    const struct reader_key *keys; /* likewise */
    bool shows_rows;               /* who gave an unknown key is told the rows, too */
    void (*entry)(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base);
};

#define READER_KEYS .noun = "key", .most = READER_KEYS_MAX

extern const char *const reader_type_names[]; /* by enum config_type */

/* Runs use over a parser of r->yaml. ERR_INVALID: problems were said. */
enum err reader_run(struct reader *r, void (*use)(struct reader *, yaml_parser_t *)) MUST_USE;
/* The two uses: what is looked at before the file is loaded, and what libyaml itself refused. */
void reader_events_check(struct reader *r, yaml_parser_t *parser);
void reader_yaml_fail(struct reader *r, const yaml_parser_t *parser);

const char *reader_key(const yaml_node_t *n); /* "?" where it is none */
/* The text of a plain value, its variables replaced; to be freed. NULL: said. */
char *reader_expand(struct reader *r, const yaml_node_t *n);
const struct reader_row *reader_row_find(const struct reader_row *row, const char *key);
/* Sets the row's field of base from text, which it takes. */
void reader_set(struct reader *r, yaml_mark_t at, const struct reader_row *row, void *base,
                char *text);
void reader_defaults(struct reader *r, const struct reader_row *row, void *base);
void reader_map_read(struct reader *r, yaml_node_t *map, const struct reader_map *kind, void *base);
void reader_list_read(struct reader *r, yaml_node_t *list, const struct reader_list *kind,
                      void *base);
/* Grows *array of *n elements by one zeroed element. */
void *reader_grow(void *array, uint32_t *n, size_t size);
void reader_text_add(struct reader *r, const yaml_node_t *item, char ***out, uint32_t *n);
char *reader_resolve(const char *file, char *path); /* against file's folder; takes path */
void reader_rows_free(const struct reader_row *row, void *base);
/* Which of words ("a, b or c") it is; -1: none. */
int reader_word(const char *text, const char *words);
/* The same of a value; if it is none, "WHAT is a, b or c" is said. */
int reader_word_read(struct reader *r, const yaml_node_t *value, const char *what,
                     const char *words);
/* Items of lists: base is a struct config_texts or _blocks. */
void reader_text_item(struct reader *r, yaml_node_t *item, void *base);
void reader_block_item(struct reader *r, yaml_node_t *item, void *base);

/* config_access.c: access, jwt of a route or module, and tls of the listener that is being read. */
extern const struct reader_row config_access_rows[], config_jwt_rows[];
extern const struct reader_map config_access_map;
void config_jwt_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base);
void config_certificates_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base);
void config_admin_tls_read(struct reader *r, yaml_node_t *key, yaml_node_t *value, void *base);
void config_access_done(struct config *c);

#endif
