/* JSON that others wrote, by jansson, whose memory counts as ours. */
#ifndef WEIR_JSON_H
#define WEIR_JSON_H

#include <jansson.h>

#include "base/base.h"

void json_init(void); /* before all use of jansson */
/* As json_loadb. ERR_NO_MEMORY: limits.memory leaves no room for what it may come to; else
 * ERR_EXEC_JSON, and what is wrong is in error. */
enum err json_read(struct slice text, size_t flags, json_t **out, json_error_t *error) MUST_USE;

#endif
