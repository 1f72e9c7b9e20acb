/* Pages made from the tables, so that they can't differ from the program. */
#ifndef WEIR_DOCS_H
#define WEIR_DOCS_H

#include <stdbool.h>
#include <stdio.h>

#define DOCS_NAMES "config, metrics, errors, logs, guest, wasi"
bool docs_write(const char *name, FILE *to); /* false: no such page */

#endif
