/* What a value of the configuration may say, whatever file it stands in: numbers with their units,
 * variables, addresses; and how such text is shown. */
#ifndef WEIR_CONFIG_VALUE_H
#define WEIR_CONFIG_VALUE_H

#include "base/buf.h"

enum config_type { CONFIG_INT, CONFIG_SIZE, CONFIG_DURATION, CONFIG_TEXT };

bool config_number(const char *text, enum config_type type, uint64_t *out);

/* Appends text with ${VAR} and ${VAR:-default} from the environment and "$$" as a dollar.
 * ERR_INVALID: *unset, a part of text, names a variable that has no value. */
enum err config_expand(const char *text, struct buf *out, struct slice *unset) MUST_USE;

/* Whether text is an address that can be listened on, a Unix socket's too; *loopback: only this
 * machine reaches it. */
bool config_listenable(const char *text, bool *loopback);

/* Letters to change, add or leave out to make b of a; large where one is long. */
unsigned config_distance(const char *a, const char *b);

/* Text to show on one line of a terminal: control characters and what is no UTF-8 are \xNN. */
enum { CONFIG_SHOWN_MAX = 400 };
void config_show(const char *text, char out[4 * CONFIG_SHOWN_MAX + 1]);

#endif
