/* The configuration: any bytes give values within their ranges, or problems by file and line. */
#include "fuzz.h"

#include "app/config.h"

static void range_check(uint64_t v, uint64_t least, uint64_t most)
{
    CHECK(v >= least && v <= most);
}

static void values_check(const struct config *c)
{
#define CHECK_INT(v, lo, hi) range_check(v, lo, hi);
#define CHECK_SIZE CHECK_INT
#define CHECK_DURATION CHECK_INT
#define CHECK_TEXT(v, lo, hi) CHECK(v);
#define CHECK_WORD(words) CHECK_TEXT
#define CFG(key, type, def, min, max, text) CHECK_##type(at->key, min, max)
    {
        const struct config_root *at = &c->root;
        CONFIG_ROOT(CFG)
    }
    {
        const struct config_limits *at = &c->limits;
        CONFIG_LIMITS(CFG)
    }
    {
        const struct config_access *at = &c->access;
        CONFIG_ACCESS(CFG)
        CHECK(!c->listen_proxy || at->trusted.n);
    }
    for (uint32_t i = 0; i < c->n_jwts; i++) {
        const struct config_jwt *at = &c->jwts[i];
        CONFIG_JWT(CFG)
        CHECK(at->n_from && !*at->key != !*at->key_file);
    }
    for (uint32_t i = 0; i < c->n_modules; i++) {
        const struct config_module *at = &c->modules[i];
        CONFIG_MODULE(CFG)
        CHECK(at->name && *at->name);
    }
    for (uint32_t i = 0; i < c->n_modules; i++) {
        const struct config_module_limits *at = &c->modules[i].limits;
        CONFIG_MODULE_LIMITS(CFG)
    }
    for (uint32_t i = 0; i < c->n_routes; i++) {
        CHECK(c->routes[i].path && c->routes[i].path[0] == '/');
        CHECK(c->routes[i].module < (int)c->n_modules);
        CHECK(c->routes[i].jwt <= c->n_jwts);
    }
    CHECK(c->n_listen >= 1);
#undef CFG
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct config c;
    struct buf errors;
    uint8_t *copy = copy_of(data, n);
    setenv("WEIR_FUZZ", "1KiB", 1);
    buf_init(&errors, 1 << 16);
    enum err e = config_parse(slice_of(copy, n), "etc/fuzz.yaml", &c, &errors);
    free(copy); /* nothing may point into it */
    if (e == ERR_NONE) {
        values_check(&c);
        CHECK(!errors.len);
    } else if (e == ERR_INVALID) {
        CHECK(errors.len > 15 && errors.p[errors.len - 1] == '\n');
        CHECK(memcmp(errors.p, "etc/fuzz.yaml:", 14) == 0);
    }
    config_done(&c);
    config_done(&c); /* again: nothing left */
    buf_done(&errors);
    CHECK(mem_buffer_bytes() == 0);
    return 0;
}
