#include "http/http_parse.h"

#define LENGTH_MAX (UINT64_C(1) << 53)

static bool is_token(uint8_t c)
{
    static const bool table[256] = {
        ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true, ['!'] = true,
        ['#'] = true,         ['$'] = true,         ['%'] = true,         ['&'] = true,
        ['\''] = true,        ['*'] = true,         ['+'] = true,         ['-'] = true,
        ['.'] = true,         ['^'] = true,         ['_'] = true,         ['`'] = true,
        ['|'] = true,         ['~'] = true,
    };
    return table[c];
}

static bool is_hex(uint8_t c)
{
    return (c >= '0' && c <= '9') || (ascii_lower(c) >= 'a' && ascii_lower(c) <= 'f');
}

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t';
}

bool http_token_valid(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!is_token(s.p[i]))
            return false;
    return s.n > 0;
}

bool http_field_value_valid(struct slice s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((s.p[i] < 0x20 && s.p[i] != '\t') || s.p[i] == 0x7f)
            return false;
    return true;
}

static struct http_result bad(enum err e)
{
    return (struct http_result){HTTP_BAD, e, 0};
}

/* Finds the end of the head and refuses what can stand in none, as early as it is seen. */
static struct http_result scan(const uint8_t *p, size_t n, size_t start, size_t *scanned,
                               const struct http_limits *limits)
{
    size_t end = MIN(n, (size_t)limits->head);
    for (size_t i = MAX(*scanned, start); i < end; i++) {
        uint8_t c = p[i];
        if (c == '\n') {
            if (i == start || p[i - 1] != '\r')
                return bad(ERR_HTTP_LINE_END);
            if (i >= start + 3 && p[i - 2] == '\n')
                return (struct http_result){HTTP_DONE, ERR_NONE, i + 1};
        } else if (i > start && p[i - 1] == '\r') {
            return bad(ERR_HTTP_LINE_END);
        } else if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f) {
            return bad(ERR_HTTP_CONTROL);
        }
    }
    *scanned = end;
    if (n >= limits->head)
        return bad(ERR_HTTP_HEAD_SIZE);
    return (struct http_result){HTTP_MORE, ERR_NONE, 0};
}

static const struct {
    const char *name;
    uint8_t len;
} methods[HTTP_METHOD_COUNT] = {{"GET", 3},    {"HEAD", 4},    {"POST", 4}, {"PUT", 3},
                                {"DELETE", 6}, {"OPTIONS", 7}, {"PATCH", 5}};

const char *http_method_name(enum http_method m)
{
    return methods[m].name;
}

static struct http_span span(size_t from, size_t to)
{
    return (struct http_span){(uint16_t)from, (uint16_t)(to - from)};
}

/* RFC 3986 3.2.2 reg-name, but for the comma: it is what two Host fields look like once a proxy has
 * joined them. *i moves behind what was taken. */
static bool reg_name_char(struct slice h, size_t *i)
{
    uint8_t c = h.p[*i];
    if (c == '%') {
        if (h.n - *i < 3 || !is_hex(h.p[*i + 1]) || !is_hex(h.p[*i + 2]))
            return false;
        *i += 3;
        return true;
    }
    ++*i;
    return (is_token(c) && !strchr("#%^`|", c)) || (c && strchr("();=", c));
}

static bool host_valid(struct slice h)
{
    size_t i = 0;
    if (!h.n)
        return false;
    if (h.p[0] == '[') {
        for (i = 1; i < h.n && (is_hex(h.p[i]) || h.p[i] == ':' || h.p[i] == '.'); i++)
            ;
        if (i < 3 || i == h.n || h.p[i++] != ']')
            return false;
    } else {
        while (i < h.n && h.p[i] != ':')
            if (!reg_name_char(h, &i))
                return false;
        if (!i)
            return false;
    }
    if (i == h.n)
        return true;
    if (h.p[i++] != ':')
        return false;
    size_t digits = h.n - i;
    for (; i < h.n; i++)
        if (h.p[i] < '0' || h.p[i] > '9')
            return false;
    return digits <= 5;
}

/* Path and query within the target p[from, to); absolute-form gives host too. */
static enum err parse_target(const uint8_t *p, size_t from, size_t to, struct http_request *r)
{
    r->target = span(from, to);
    for (size_t i = from; i < to; i++) {
        if (p[i] <= 0x20 || p[i] >= 0x7f || p[i] == '#')
            return ERR_HTTP_TARGET;
        if (p[i] == '%' && (to - i < 3 || !is_hex(p[i + 1]) || !is_hex(p[i + 2])))
            return ERR_HTTP_TARGET;
    }
    if (to - from == 1 && p[from] == '*') {
        r->path = span(from, to);
        return r->method == HTTP_OPTIONS ? ERR_NONE : ERR_HTTP_TARGET;
    }
    size_t path = from;
    if (p[from] != '/') {
        struct slice rest = slice_of(p + from, to - from);
        size_t skip = rest.n > 7 && slice_eq_nocase(slice_of(rest.p, 7), SLICE("http://"))    ? 7
                      : rest.n > 8 && slice_eq_nocase(slice_of(rest.p, 8), SLICE("https://")) ? 8
                                                                                              : 0;
        if (!skip)
            return ERR_HTTP_TARGET;
        for (path = from + skip; path < to && p[path] != '/' && p[path] != '?'; path++)
            ;
        r->host = span(from + skip, path);
        if (!host_valid(http_span_slice(p, r->host)))
            return ERR_HTTP_HOST;
    }
    const uint8_t *mark = memchr(p + path, '?', to - path);
    size_t path_end = mark ? (size_t)(mark - p) : to;
    r->path = span(path, path_end);
    if (path == path_end) /* of absolute-form: it means "/" (RFC 9110 4.2.3), as stands before it */
        r->path = span(path - 1 - r->host.len, path - r->host.len);
    r->query = mark ? span(path_end + 1, to) : span(to, to);
    return ERR_NONE;
}

static enum err parse_line(const uint8_t *p, size_t at, size_t end,
                           const struct http_limits *limits, struct http_request *r)
{
    size_t i = at;
    while (i < end && is_token(p[i]))
        i++;
    if (i == at || i == end || p[i] != ' ')
        return ERR_HTTP_REQUEST_LINE;
    int m = 0;
    while (m < HTTP_METHOD_COUNT &&
           !slice_eq(slice_of(p + at, i - at), slice_of(methods[m].name, methods[m].len)))
        m++;
    size_t from = i + 1;
    const uint8_t *space = memchr(p + from, ' ', end - from);
    size_t to = space ? (size_t)(space - p) : end;
    if (to - from > limits->target)
        return ERR_HTTP_TARGET_SIZE;
    if (!space || to == from || end - to != 9 || memcmp(space + 1, "HTTP/", 5) != 0 ||
        space[7] != '.' || space[6] < '0' || space[6] > '9' || space[8] < '0' || space[8] > '9')
        return ERR_HTTP_REQUEST_LINE;
    if (space[6] != '1' || space[8] > '1')
        return ERR_HTTP_VERSION;
    if (m == HTTP_METHOD_COUNT)
        return ERR_HTTP_METHOD;
    r->method = (enum http_method)m;
    r->minor = space[8] - '0';
    return parse_target(p, from, to, r);
}

static enum err parse_length(struct slice v, struct http_request *r)
{
    uint64_t n = 0;
    if (r->has_length || !v.n || v.n > 16)
        return ERR_HTTP_LENGTH;
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return ERR_HTTP_LENGTH;
        n = n * 10 + (v.p[i] - '0');
    }
    if (n > LENGTH_MAX)
        return ERR_HTTP_LENGTH;
    r->has_length = true;
    r->length = n;
    return ERR_NONE;
}

static enum err parse_field(const uint8_t *p, size_t at, size_t end, struct http_request *r)
{
    size_t i = at;
    if (is_blank(p[at]))
        return ERR_HTTP_FOLD;
    while (i < end && is_token(p[i]))
        i++;
    if (i == at || i == end || p[i] != ':')
        return ERR_HTTP_FIELD_NAME;
    if (r->n_fields == HTTP_FIELDS_MAX)
        return ERR_HTTP_HEAD_SIZE;
    size_t from = i + 1, to = end;
    while (from < to && is_blank(p[from]))
        from++;
    while (to > from && is_blank(p[to - 1]))
        to--;
    r->fields[r->n_fields++] = (struct http_field){span(at, i), span(from, to)};
    return ERR_NONE;
}

/* The next member of a comma-separated list, without white space around it; empty ones are passed
 * over. false: the end. */
static bool list_next(struct slice list, size_t *at, struct slice *member)
{
    while (*at < list.n) {
        const uint8_t *comma = memchr(list.p + *at, ',', list.n - *at);
        size_t from = *at, to = comma ? (size_t)(comma - list.p) : list.n;
        *at = to + 1;
        while (from < to && is_blank(list.p[from]))
            from++;
        while (to > from && is_blank(list.p[to - 1]))
            to--;
        if (to > from) {
            *member = slice_of(list.p + from, to - from);
            return true;
        }
    }
    return false;
}

bool http_list_has(struct slice list, struct slice member)
{
    struct slice m;
    for (size_t at = 0; list_next(list, &at, &m);)
        if (slice_eq(m, member))
            return true;
    return false;
}

/* Options such as those of Connection compare without case; *n counts the members. */
static bool list_has(struct slice list, struct slice member, unsigned *n)
{
    struct slice m;
    bool found = false;
    for (size_t at = 0; list_next(list, &at, &m); ++*n)
        found |= slice_eq_nocase(m, member);
    return found;
}

/* RFC 9112 6.1 and 7: chunked is the only coding known here, at most once and the last one. */
static enum err take_coding(struct slice v, struct http_request *r)
{
    struct slice m;
    bool others = false, after = false;
    if (r->minor == 0)
        return ERR_HTTP_CODING;
    for (size_t at = 0; list_next(v, &at, &m);) {
        bool chunked = slice_eq_nocase(m, SLICE("chunked"));
        after |= r->chunked;
        others |= !chunked;
        r->chunked |= chunked;
    }
    if (after)
        return ERR_HTTP_CODING;
    return others || !r->chunked ? ERR_HTTP_CODING_UNKNOWN : ERR_NONE;
}

/* What the fields say of the message itself. */
static enum err take_meaning(const uint8_t *p, struct http_request *r)
{
    bool host = false, close = false, keep = false, upgrade = false, websocket = false;
    unsigned n = 0;
    for (uint32_t i = 0; i < r->n_fields; i++) {
        struct slice name = http_span_slice(p, r->fields[i].name);
        struct slice v = http_span_slice(p, r->fields[i].value);
        enum err e = ERR_NONE;
        if (slice_eq_nocase(name, SLICE("host"))) {
            if (host || !host_valid(v))
                return ERR_HTTP_HOST;
            host = true;
            if (!r->host.len)
                r->host = r->fields[i].value;
        } else if (slice_eq_nocase(name, SLICE("content-length"))) {
            e = parse_length(v, r);
        } else if (slice_eq_nocase(name, SLICE("transfer-encoding"))) {
            e = take_coding(v, r);
        } else if (slice_eq_nocase(name, SLICE("connection"))) {
            close |= list_has(v, SLICE("close"), &n);
            keep |= list_has(v, SLICE("keep-alive"), &n);
            upgrade |= list_has(v, SLICE("upgrade"), &n);
        } else if (slice_eq_nocase(name, SLICE("upgrade"))) {
            websocket |= list_has(v, SLICE("websocket"), &n);
        } else if (slice_eq_nocase(name, SLICE("expect")) && r->minor) {
            if (!slice_eq_nocase(v, SLICE("100-continue")))
                return ERR_HTTP_EXPECT;
            r->expect_continue = true;
        }
        if (e)
            return e;
    }
    if (r->chunked && r->has_length)
        return ERR_HTTP_CODING;
    if (!host && r->minor)
        return ERR_HTTP_HOST;
    r->keep_alive = !close && (r->minor || keep);
    r->upgrade_websocket = upgrade && websocket && r->minor;
    return ERR_NONE;
}

struct http_result http_parse_request(const uint8_t *p, size_t n, size_t *scanned,
                                      const struct http_limits *limits, struct http_request *out)
{
    /* One empty line before the request line is let through (RFC 9112 2.2). */
    size_t start = n >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
    if (n < 3 && (n == 0 || p[0] == '\r') && (n < 2 || start))
        return (struct http_result){HTTP_MORE, ERR_NONE, 0};
    struct http_result found = scan(p, n, start, scanned, limits);
    if (found.state == HTTP_BAD && found.err == ERR_HTTP_HEAD_SIZE) {
        const uint8_t *line = memchr(p + start, '\n', limits->head - start);
        if (!line)
            return bad(ERR_HTTP_TARGET_SIZE);
    }
    if (found.state != HTTP_DONE)
        return found;
    memset(out, 0, offsetof(struct http_request, fields));
    size_t end = found.consumed, at = start;
    const uint8_t *line = memchr(p + at, '\r', end - at);
    enum err e = parse_line(p, at, (size_t)(line - p), limits, out);
    for (at = (size_t)(line - p) + 2; !e && at < end - 2; at = (size_t)(line - p) + 2) {
        line = memchr(p + at, '\r', end - at);
        e = parse_field(p, at, (size_t)(line - p), out);
    }
    if (!e)
        e = take_meaning(p, out);
    if (e)
        return bad(e);
    out->head_len = (uint32_t)end;
    return found;
}

struct slice http_field_get(const struct http_request *r, const uint8_t *base, struct slice name)
{
    for (uint32_t i = 0; i < r->n_fields; i++)
        if (slice_eq_nocase(http_span_slice(base, r->fields[i].name), name))
            return http_span_slice(base, r->fields[i].value);
    return SLICE_NONE;
}

bool http_field_list_has(const struct http_request *r, const uint8_t *base, struct slice name,
                         struct slice member)
{
    for (uint32_t i = 0; i < r->n_fields; i++)
        if (slice_eq_nocase(http_span_slice(base, r->fields[i].name), name) &&
            http_list_has(http_span_slice(base, r->fields[i].value), member))
            return true;
    return false;
}

unsigned http_field_count(const struct http_request *r, const uint8_t *base, struct slice name)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < r->n_fields; i++)
        n += slice_eq_nocase(http_span_slice(base, r->fields[i].name), name);
    return n;
}

const char *http_status_text(unsigned status)
{
    static const struct {
        unsigned status;
        const char *text;
    } rows[] = {{100, "Continue"},
                {101, "Switching Protocols"},
                {200, "OK"},
                {201, "Created"},
                {202, "Accepted"},
                {204, "No Content"},
                {301, "Moved Permanently"},
                {302, "Found"},
                {303, "See Other"},
                {304, "Not Modified"},
                {307, "Temporary Redirect"},
                {308, "Permanent Redirect"},
                {400, "Bad Request"},
                {401, "Unauthorized"},
                {403, "Forbidden"},
                {404, "Not Found"},
                {405, "Method Not Allowed"},
                {408, "Request Timeout"},
                {409, "Conflict"},
                {410, "Gone"},
                {413, "Content Too Large"},
                {414, "URI Too Long"},
                {415, "Unsupported Media Type"},
                {417, "Expectation Failed"},
                {422, "Unprocessable Content"},
                {426, "Upgrade Required"},
                {429, "Too Many Requests"},
                {431, "Request Header Fields Too Large"},
                {500, "Internal Server Error"},
                {501, "Not Implemented"},
                {503, "Service Unavailable"},
                {504, "Gateway Timeout"},
                {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].status == status)
            return rows[i].text;
    return "Status";
}

enum chunk_state {
    SIZE_FIRST,
    SIZE,
    EXTENSION,
    SIZE_LF,
    DATA,
    DATA_CR,
    DATA_LF,
    TRAILER,
    TRAILER_NAME,
    TRAILER_LINE,
    TRAILER_LF,
    LAST_LF
};
enum { EXTENSION_MAX = 256, TRAILER_MAX = 4096 };

void http_chunked_init(struct http_chunked *c)
{
    memset(c, 0, sizeof(*c));
}

/* A byte outside of chunk data; false where it can't stand there. */
static bool chunk_byte(struct http_chunked *c, uint8_t b)
{
    bool control = (b < 0x20 && b != '\t') || b == 0x7f;
    switch (c->state) {
    case SIZE_FIRST:
    case SIZE:
        if (is_hex(b)) {
            c->left = c->left * 16 + (b <= '9' ? b - '0' : ascii_lower(b) - 'a' + 10);
            c->state = SIZE;
            return ++c->digits <= 8;
        }
        c->line = 0;
        c->state = b == '\r' ? SIZE_LF : EXTENSION;
        return c->digits && (b == '\r' || b == ';');
    case EXTENSION:
        if (b == '\r')
            c->state = SIZE_LF;
        return b == '\r' || (!control && ++c->line <= EXTENSION_MAX);
    case SIZE_LF:
        c->digits = 0;
        c->line = 0;
        c->state = c->left ? DATA : TRAILER;
        return b == '\n';
    case DATA_CR:
        c->state = DATA_LF;
        return b == '\r';
    case DATA_LF:
        c->state = SIZE_FIRST;
        return b == '\n';
    case TRAILER:
        c->state = b == '\r' ? LAST_LF : TRAILER_NAME;
        return b == '\r' || (is_token(b) && ++c->line <= TRAILER_MAX);
    case TRAILER_NAME:
        if (b == ':')
            c->state = TRAILER_LINE;
        return (b == ':' || is_token(b)) && ++c->line <= TRAILER_MAX;
    case TRAILER_LINE:
        if (b == '\r')
            c->state = TRAILER_LF;
        return b == '\r' || (!control && ++c->line <= TRAILER_MAX);
    case TRAILER_LF:
        c->state = TRAILER;
        return b == '\n';
    default:
        return b == '\n';
    }
}

struct http_result http_chunked_decode(struct http_chunked *c, const uint8_t *p, size_t n,
                                       struct buf *out)
{
    for (size_t i = 0; i < n;) {
        if (c->state == DATA) {
            size_t take = MIN(n - i, c->left);
            enum err e = buf_append(out, slice_of(p + i, take));
            if (e)
                return bad(e == ERR_LIMIT ? ERR_HTTP_BODY_SIZE : e);
            i += take;
            c->left -= take;
            if (!c->left)
                c->state = DATA_CR;
            continue;
        }
        bool last = c->state == LAST_LF;
        if (!chunk_byte(c, p[i++]))
            return bad(ERR_HTTP_CHUNK);
        if (c->left > out->max - out->len)
            return bad(ERR_HTTP_BODY_SIZE);
        if (last)
            return (struct http_result){HTTP_DONE, ERR_NONE, i};
    }
    return (struct http_result){HTTP_MORE, ERR_NONE, n};
}
