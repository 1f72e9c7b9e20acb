/* Pure HTTP/1.1 request parser: bytes in, {DONE, MORE, BAD} out. Sources: RFC 9110, RFC 9112.
 * Strict where leniency lets two parsers disagree: anything odd is refused. */
#ifndef WEIR_HTTP_PARSE_H
#define WEIR_HTTP_PARSE_H

#include "base/buf.h"

enum http_method {
    HTTP_GET,
    HTTP_HEAD,
    HTTP_POST,
    HTTP_PUT,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_PATCH,
    HTTP_METHOD_COUNT
};

/* Relative to the head's first byte, so that the head can be moved. */
struct http_span {
    uint16_t off, len;
};

struct http_field {
    struct http_span name, value; /* the value without white space around it */
};

enum { HTTP_FIELDS_MAX = 64 };

struct http_limits {
    uint32_t head, target; /* bytes; head <= 65535 */
};

struct http_request {
    enum http_method method;
    uint8_t minor; /* HTTP/1.minor */
    bool keep_alive, chunked, has_length, expect_continue, upgrade_websocket;
    uint64_t length;
    struct http_span target, path, query, host; /* query without its '?' */
    uint32_t n_fields, head_len;
    struct http_field fields[HTTP_FIELDS_MAX];
};

enum http_state { HTTP_DONE, HTTP_MORE, HTTP_BAD };
struct http_result {
    enum http_state state;
    enum err err;
    size_t consumed;
};

/* *scanned: what an earlier call with fewer of the same bytes has looked at; 0 at first. *out has
 * a meaning after DONE only. */
struct http_result http_parse_request(const uint8_t *p, size_t n, size_t *scanned,
                                      const struct http_limits *limits, struct http_request *out);

static inline struct slice http_span_slice(const uint8_t *base, struct http_span s)
{
    return slice_of(base + s.off, s.len);
}

/* The first field of that name; {NULL, 0} where there is none. */
struct slice http_field_get(const struct http_request *r, const uint8_t *base, struct slice name);
unsigned http_field_count(const struct http_request *r, const uint8_t *base, struct slice name);
/* Whether a comma-separated list has that member (RFC 9110 5.6.1), letter for letter. */
bool http_list_has(struct slice list, struct slice member);
/* Whether the lists of all fields of that name, which are one (RFC 9110 5.3), have that member,
 * letter for letter. */
bool http_field_list_has(const struct http_request *r, const uint8_t *base, struct slice name,
                         struct slice member);
bool http_token_valid(struct slice s);       /* RFC 9110 5.6.2, not empty */
bool http_field_value_valid(struct slice s); /* RFC 9110 5.5 */
const char *http_method_name(enum http_method m);
const char *http_status_text(unsigned status); /* RFC 9110 15 */

/* Decoder of the chunked coding (RFC 9112 7.1). */
struct http_chunked {
    uint64_t left;
    uint16_t line; /* bytes of the present line or trailer section */
    uint8_t state, digits;
};
void http_chunked_init(struct http_chunked *c);
/* Appends decoded bytes to out; DONE after the trailer section, which is dropped. */
struct http_result http_chunked_decode(struct http_chunked *c, const uint8_t *p, size_t n,
                                       struct buf *out);

#endif
