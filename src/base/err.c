#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/base.h"

static const struct {
    const char *name, *text;
    uint16_t status, code;
} rows[] = {
#define ERR(name, text, status, code) {#name, text, status, code},
#include "tbl/errors.def"
#undef ERR
};

const char *err_name(enum err e)
{
    return rows[e].name;
}

const char *err_text(enum err e)
{
    return rows[e].text;
}

uint16_t err_http_status(enum err e)
{
    return rows[e].status;
}

uint16_t err_close_code(enum err e)
{
    return rows[e].code;
}

_Thread_local uint8_t thread_number;

_Noreturn void assert_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr,
            "{\"level\":\"fatal\",\"event\":\"assert\",\"condition\":\"%s\","
            "\"file\":\"%s\",\"line\":%d}\n",
            cond, file, line);
    abort();
}
