/* Errors are rows of tbl/errors.def. A function that can fail returns one, leaves its outputs
 * untouched on failure, and whoever consumes the error logs it, once. */
#ifndef WEIR_ERR_H
#define WEIR_ERR_H

#include <stdint.h>

enum err {
#define ERR(name, text, status, code) ERR_##name,
#include "tbl/errors.def"
#undef ERR
    ERR_COUNT
};

const char *err_name(enum err e);     /* "HTTP_HOST" */
const char *err_text(enum err e);     /* one line, lower case, no full stop */
uint16_t err_http_status(enum err e); /* RFC 9110 15 */
uint16_t err_close_code(enum err e);  /* RFC 6455 7.4 */

#endif
