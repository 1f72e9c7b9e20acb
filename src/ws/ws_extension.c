#include "ws/ws_extension.h"

enum { VALUE_MAX = 2 }; /* bytes kept of a parameter's value: those that mean something are short */

struct reader {
    const uint8_t *p, *end;
};

struct param {
    struct slice name;
    bool has_value;
    uint8_t value[VALUE_MAX + 1]; /* unquoted; longer ones are cut, and so match nothing */
    size_t value_n;
};

static bool is_token(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static void skip_space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t'))
        r->p++;
}

/* Takes c and the white space after it. */
static bool take(struct reader *r, char c)
{
    if (r->p == r->end || *r->p != (uint8_t)c)
        return false;
    r->p++;
    skip_space(r);
    return true;
}

static struct slice take_token(struct reader *r)
{
    const uint8_t *from = r->p;
    while (r->p < r->end && is_token(*r->p))
        r->p++;
    struct slice token = slice_of(from, (size_t)(r->p - from));
    skip_space(r);
    return token;
}

static void value_add(struct param *out, uint8_t c)
{
    if (out->value_n < sizeof(out->value))
        out->value[out->value_n++] = c;
}

/* A token, or a quoted string that is one once it is unquoted (RFC 6455 9.1). */
static bool take_value(struct reader *r, struct param *out)
{
    bool quoted = r->p < r->end && *r->p == '"';
    if (!quoted) {
        struct slice token = take_token(r);
        for (size_t i = 0; i < token.n; i++)
            value_add(out, token.p[i]);
        return token.n > 0;
    }
    for (r->p++; r->p < r->end && *r->p != '"'; r->p++) {
        if (*r->p == '\\')
            r->p++;
        if (r->p == r->end || !is_token(*r->p))
            return false;
        value_add(out, *r->p);
    }
    return out->value_n > 0 && take(r, '"');
}

static bool take_param(struct reader *r, struct param *out)
{
    *out = (struct param){.name = take_token(r)};
    if (!out->name.n)
        return false;
    out->has_value = take(r, '=');
    return !out->has_value || take_value(r, out);
}

/* 8 to 15, without leading zeros; 0: it is not that. */
static unsigned window_bits(const struct param *p)
{
    const uint8_t *v = p->value;
    if (p->value_n == 1 && (v[0] == '8' || v[0] == '9'))
        return v[0] - '0';
    return p->value_n == 2 && v[0] == '1' && v[1] >= '0' && v[1] <= '5' ? 10u + v[1] - '0' : 0;
}

/* Whether the offer can still be met with p in it. seen: a bit for each parameter that it had. */
static bool param_meet(const struct param *p, unsigned *seen, struct ws_deflate_offer *offer)
{
    static const char *const names[] = {"server_no_context_takeover", "client_no_context_takeover",
                                        "server_max_window_bits", "client_max_window_bits"};
    size_t i = 0;
    while (i < ARRAY_LEN(names) && !slice_eq_nocase(p->name, slice_str(names[i])))
        i++;
    if (i == ARRAY_LEN(names) || *seen & 1u << i)
        return false;
    *seen |= 1u << i;
    if (i < 2)
        return !p->has_value;
    if (i == 3) /* any window of the client's can be inflated */
        return !p->has_value || window_bits(p);
    offer->window = true;
    return window_bits(p) >= WS_DEFLATE_WINDOW;
}

enum err ws_deflate_negotiate(struct slice value, struct ws_deflate_offer *io)
{
    struct reader r = {value.p, value.p + value.n};
    struct ws_deflate_offer result = *io;
    skip_space(&r);
    while (r.p < r.end) {
        if (take(&r, ','))
            continue; /* an empty element is nothing (RFC 9110 5.6.1.2) */
        struct slice name = take_token(&r);
        struct ws_deflate_offer offer = {
            .taken = slice_eq_nocase(name, SLICE("permessage-deflate"))};
        unsigned seen = 0;
        if (!name.n)
            return ERR_WS_HANDSHAKE;
        while (take(&r, ';')) {
            struct param p;
            if (!take_param(&r, &p))
                return ERR_WS_HANDSHAKE;
            offer.taken = offer.taken && param_meet(&p, &seen, &offer);
        }
        if (r.p < r.end && *r.p != ',')
            return ERR_WS_HANDSHAKE;
        if (offer.taken && !result.taken)
            result = offer;
    }
    *io = result;
    return ERR_NONE;
}

struct slice ws_deflate_answer(const struct ws_deflate_offer *offer)
{
#define ANSWER "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    _Static_assert(WS_DEFLATE_WINDOW == 12, "is what the answer says");
    return offer->window ? SLICE(ANSWER "; server_max_window_bits=12") : SLICE(ANSWER);
#undef ANSWER
}
