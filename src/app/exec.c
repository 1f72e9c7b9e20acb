/* POST /api/exec/{module}[/{function}]: a JSON array of numbers in, JSON out. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/gateway.h"
#include "app/json.h"

static const char *const kind_names[] = {"i32", "i64", "f32", "f64"};

static void signature(const struct guest_function *f, char out[512])
{
    int n = snprintf(out, 512, "%s(", f->name);
    for (int i = 0; i < f->n_args; i++)
        n += snprintf(out + n, 512 - (size_t)n, "%s%s", i ? ", " : "", kind_names[f->args[i]]);
    n += snprintf(out + n, 512 - (size_t)n, ") -> (");
    for (int i = 0; i < f->n_results; i++)
        n += snprintf(out + n, 512 - (size_t)n, "%s%s", i ? ", " : "", kind_names[f->results[i]]);
    snprintf(out + n, 512 - (size_t)n, ")");
}

static bool real_of(const json_t *v, double *out)
{
    const char *s = json_string_value(v);
    if (json_is_real(v))
        *out = json_real_value(v);
    else if (s && strcmp(s, "NaN") == 0)
        *out = NAN;
    else if (s && strcmp(s, "Infinity") == 0)
        *out = INFINITY;
    else if (s && strcmp(s, "-Infinity") == 0)
        *out = -INFINITY;
    else
        return false;
    return true;
}

static bool is_int(uint8_t kind)
{
    return kind == WASMTIME_I32 || kind == WASMTIME_I64;
}

static bool value_of(const json_t *v, uint8_t kind, uint64_t *bits)
{
    double d;
    float f;
    if (is_int(kind)) {
        json_int_t i = json_integer_value(v);
        *bits = kind == WASMTIME_I32 ? (uint32_t)i : (uint64_t)i;
        return json_is_integer(v) && (kind == WASMTIME_I64 || (i >= INT32_MIN && i <= UINT32_MAX));
    }
    if (!real_of(v, &d))
        return false;
    f = (float)d;
    *bits = 0;
    if (kind == WASMTIME_F32)
        memcpy(bits, &f, sizeof(f));
    else
        memcpy(bits, &d, sizeof(d));
    return true;
}

/* A double with few decimals, without printf: where d * 10^k is a whole number m < 2^53 and m /
 * 10^k is d again, "m with its point k from the right" reads back as d, as reading divides the same
 * two exact numbers (Clinger, "How to read floating point numbers accurately", 1990). The smallest
 * such k gives the shortest text. 0: not such a number. */
static int decimal_print(char out[32], double d)
{
    static const double powers[] = {1, 10, 100, 1000, 10000};
    double whole = fabs(d), m = 0;
    size_t k = 0;
    for (; k < ARRAY_LEN(powers); k++) {
        m = nearbyint(whole * powers[k]);
        if (m / powers[k] == whole)
            break;
    }
    if (k == ARRAY_LEN(powers) || m == 0 || m >= 1e15)
        return 0;
    char digits[24];
    int n = 0, to = 0;
    for (uint64_t rest = (uint64_t)m; rest || n <= (int)k; rest /= 10)
        digits[n++] = (char)('0' + rest % 10);
    if (d < 0)
        out[to++] = '-';
    while (n > 0) {
        out[to++] = digits[--n];
        if (n == (int)k && n)
            out[to++] = '.';
    }
    return to;
}

/* The shortest text that reads back the same. */
static int real_print(char out[32], double d, bool single)
{
    if (isnan(d))
        return snprintf(out, 32, "\"NaN\"");
    if (isinf(d))
        return snprintf(out, 32, d < 0 ? "\"-Infinity\"" : "\"Infinity\"");
    int n = single ? 0 : decimal_print(out, d);
    if (n)
        return n;
    /* %g leaves out zeros at the end, so what 15 digits hold exactly needs no fewer; but a
     * subnormal number has fewer than that. */
    bool subnormal = fabs(d) < (single ? (double)FLT_MIN : DBL_MIN);
    for (int digits = subnormal ? 1 : single ? FLT_DIG : DBL_DIG;; digits++) {
        n = snprintf(out, 32, "%.*g", digits, d);
        if (digits >= (single ? 9 : 17) ||
            (single ? strtof(out, NULL) == (float)d : strtod(out, NULL) == d))
            return n;
    }
}

static int value_print(char out[32], const struct weir_value *v)
{
    double d;
    float f;
    switch (v->kind) {
    case WASMTIME_I32:
        return snprintf(out, 32, "%" PRId32, (int32_t)v->bits);
    case WASMTIME_I64:
        return snprintf(out, 32, "%" PRId64, (int64_t)v->bits);
    case WASMTIME_F32:
        memcpy(&f, &v->bits, sizeof(f));
        return real_print(out, (double)f, true);
    default:
        memcpy(&d, &v->bits, sizeof(d));
        return real_print(out, d, false);
    }
}

void exec_finish(struct event *ev, enum err e)
{
    char text[WEIR_VALUES_MAX * 33 + 8];
    const struct guest_function *f = ev->function;
    struct http_server *s = &ev->gw->http;
    size_t n = 0;
    if (!e && ev->call.exited && f->n_results)
        e = ERR_GUEST_EXIT; /* before it had a result */
    if (e) {
        http_exchange_fail(s, ev->conn, e, SLICE_NONE, buf_slice(&ev->copy));
        return;
    }
    if (f->n_results == 0) {
        memcpy(text, "null", n = 4);
    } else if (f->n_results == 1) {
        n = (size_t)value_print(text, &ev->call.frame.values[0]);
    } else {
        for (int i = 0; i < f->n_results; i++) {
            text[n++] = i ? ',' : '[';
            n += (size_t)value_print(text + n, &ev->call.frame.values[i]);
        }
        text[n++] = ']';
    }
    text[n++] = '\n';
    struct http_response r = {200, SLICE("application/json"), SLICE_NONE, slice_of(text, n)};
    http_exchange_respond(s, ev->conn, &r);
}

/* A WASI command, whose body is not looked at: it is its standard input. */
static bool command(const struct guest_module *m)
{
    return m->exports[GUEST__start] && !m->exports[GUEST_on_http];
}

bool exec_reaches(const struct config_module *config, const struct guest_module *m)
{
    const char *exec = config->exec;
    return strcmp(exec, "yes") == 0 || (strcmp(exec, "auto") == 0 && (!m->handlers || command(m)));
}

static const struct guest_function *find(struct gateway *gw, const struct conn *c,
                                         struct slice rest, struct guest_module **out)
{
    struct slice function = rest, name = slice_cut(&function, '/');
    for (uint32_t i = 0; i < gw->config.n_modules; i++) {
        struct guest_module *m = gateway_module(gw, i, c);
        if (m && slice_eq(slice_str(m->name), name) && exec_reaches(&gw->config.modules[i], m)) {
            *out = m;
            /* A command is what it does as a whole, unless its functions are asked for. */
            bool whole = command(m) && strcmp(gw->config.modules[i].exec, "yes") != 0;
            return whole || (function.p && !function.n) ? NULL : guest_function_find(m, function);
        }
    }
    return NULL;
}

/* The arguments of integer types, or those of the others, from the body. jansson reads a number as
 * it is written: as integers all numbers are exact, as reals -0 and 1e30 are what they seem. */
static enum err arguments_of(const struct http_exchange *ex, const struct guest_function *f,
                             bool ints, struct weir_value *values, char detail[640])
{
    json_error_t error;
    size_t flags = JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | (ints ? 0 : JSON_DECODE_INT_AS_REAL);
    json_t *root;
    enum err e = json_read(ex->body, flags, &root, &error);
    if (e == ERR_NO_MEMORY)
        return e;
    if (e) {
        snprintf(detail, 640, "%.300s at byte %d",
                 ex->body.n ? error.text : "the body is empty; send a JSON array", error.position);
        /* JSON, but with a number that no type of WebAssembly holds. */
        return json_error_code(&error) == json_error_numeric_overflow ? ERR_EXEC_ARGUMENTS : e;
    }
    bool ok = json_is_array(root) && json_array_size(root) == f->n_args;
    for (size_t i = 0; ok && i < f->n_args; i++)
        if (is_int(f->args[i]) == ints) {
            values[i].kind = f->args[i];
            ok = value_of(json_array_get(root, i), f->args[i], &values[i].bits);
        }
    json_decref(root);
    return ok ? ERR_NONE : ERR_EXEC_ARGUMENTS;
}

/* Arguments from the body into values; what is wrong, as an error and a text. */
static enum err arguments(const struct http_exchange *ex, const struct guest_function *f,
                          struct weir_value values[WEIR_VALUES_MAX], char detail[640])
{
    char sig[512];
    bool ints = f->n_args == 0, reals = false;
    for (size_t i = 0; i < f->n_args; i++) {
        ints |= is_int(f->args[i]);
        reals |= !is_int(f->args[i]);
    }
    enum err e = reals ? arguments_of(ex, f, false, values, detail) : ERR_NONE;
    if (!e && ints)
        e = arguments_of(ex, f, true, values, detail);
    if (e == ERR_EXEC_ARGUMENTS) {
        signature(f, sig);
        snprintf(detail, 640, "send a JSON array of numbers for %s", sig);
    }
    return e;
}

/* What can be said before the arguments are looked at. */
static enum err check(const struct http_exchange *ex, const struct guest_function *f,
                      const struct guest_module *m, struct slice *fields)
{
    struct slice coding = http_exchange_field(ex, SLICE("content-encoding"));
    if (!f && !(m && command(m)))
        return m ? ERR_NO_FUNCTION : ERR_NOT_FOUND;
    if (ex->req.method != HTTP_POST) {
        *fields = SLICE("Allow: POST, OPTIONS\r\n");
        return ERR_METHOD;
    }
    if (coding.n && !slice_eq_nocase(coding, SLICE("identity"))) {
        *fields = SLICE("Accept-Encoding: identity\r\n");
        return ERR_CONTENT_CODING;
    }
    return ERR_NONE;
}

void exec_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, struct slice rest)
{
    struct guest_module *m = NULL;
    struct slice fields = SLICE_NONE, refused = SLICE_NONE;
    struct weir_value values[WEIR_VALUES_MAX];
    char detail[640] = "";
    const struct guest_function *f = find(gw, c, rest, &m);
    /* A command's functions are reached only where that is said. */
    bool all = m && strcmp(gw->config.modules[m->number].exec, "yes") == 0;
    if (m && command(m) && !all)
        f = NULL;
    bool runs = !f && m && command(m) && slice_eq(rest, slice_str(m->name));
    if (!f && !runs && m && command(m) && !all)
        m = NULL;
    if ((f || runs) && ex->req.method == HTTP_OPTIONS) {
        struct http_response r = {204, SLICE_NONE, SLICE("Allow: POST, OPTIONS\r\n"), SLICE_NONE};
        http_exchange_respond(&gw->http, c, &r);
        return;
    }
    enum err e = check(ex, f, m, &fields);
    e = e ? e : access_token(gw, c, ex, gw->config.modules[m->number].jwt, &fields, &refused);
    e = e || runs ? e : arguments(ex, f, values, detail);
    struct event *ev = NULL;
    if (!e)
        ev = runs ? event_new(gw, c, GUEST__start, m, m->exports[GUEST__start])
                  : event_new(gw, c, GUEST_EXPORTS, m, f->entry);
    if (!ev) {
        http_exchange_fail(&gw->http, c, e ? e : ERR_NO_MEMORY, fields,
                           refused.n ? refused : slice_str(detail));
        return;
    }
    ev->ex = ex;
    if (runs) {
        ev->script_n = ex->req.path.len;
        event_start_http(ev);
        return;
    }
    ev->function = f;
    memcpy(ev->call.frame.values, values, f->n_args * sizeof(values[0]));
    ev->call.frame.n_args = f->n_args;
    ev->call.frame.n_results = f->n_results;
    event_start_http(ev);
}
