/* What several unit tests share: cmocka with what it needs before it, errors shown by name, and a
 * random source that gives the same numbers in each run, so that a failure can be run again. */
#ifndef WEIR_UNIT_H
#define WEIR_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

#define assert_err(got, want) unit_assert_err(got, want, __FILE__, __LINE__)

static inline void unit_assert_err(enum err got, enum err want, const char *file, int line)
{
    if (got == want)
        return;
    print_error("got %s, expected %s\n", err_name(got), err_name(want));
    _fail(file, line);
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
static inline uint32_t unit_random(uint64_t *state)
{
    uint64_t x = *state ? *state : 0x9e3779b97f4a7c15;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)((x * 0x2545f4914f6cdd1d) >> 32);
}

#endif
