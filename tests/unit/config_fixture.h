/* A configuration that tests read again and again, from what is called CONFIG_FILE, and what was
 * said of it. */
#ifndef WEIR_CONFIG_FIXTURE_H
#define WEIR_CONFIG_FIXTURE_H

#include "unit.h"

#include "app/config.h"

static struct config config;
static struct buf errors;

static const char *said(void)
{
    return errors.len ? (const char *)errors.p : "";
}

/* From memory of its own size, so that a sanitizer sees what is read behind it. */
static enum err parse_bytes(struct slice yaml)
{
    uint8_t *copy = malloc(MAX(yaml.n, (size_t)1));
    assert_non_null(copy);
    slice_copy(copy, yaml);
    config_done(&config);
    buf_clear(&errors, UINT32_MAX);
    enum err e = config_parse(slice_of(copy, yaml.n), CONFIG_FILE, &config, &errors);
    free(copy);
    assert_err(buf_append(&errors, SLICE("\0")), ERR_NONE);
    errors.len--;
    if (e == ERR_NONE)
        assert_string_equal(said(), "");
    return e;
}

static int make(void **state)
{
    (void)state;
    memset(&config, 0, sizeof(config));
    buf_init(&errors, 1 << 20);
    return 0;
}

static int done(void **state)
{
    (void)state;
    config_done(&config);
    config_done(&config); /* of nothing */
    buf_done(&errors);
    return mem_buffer_bytes() == 0 ? 0 : -1;
}

#endif
