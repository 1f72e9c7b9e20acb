/* Answers GET and HEAD with what was asked: curl 'localhost:8080/hello?name=Ann' */
#include "weir.h"

#define TEXT(s) (s), sizeof(s) - 1

static char text[4096]; /* the field at hand; limits.target keeps path and query below this */

/* The request's field into text: its length, 0 where it is absent or does not fit. */
static uint32_t read_field(enum weir_field field, const char *name, uint32_t len)
{
    int32_t n = weir_req_get(field, name, len, text, sizeof(text));
    return n > 0 && n <= (int32_t)sizeof(text) ? (uint32_t)n : 0;
}

static int begins(const char *at, uint32_t n, const char *with)
{
    while (n && *with && *at == *with)
        at++, with++, n--;
    return !*with;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The value of `name` in a query of n bytes in text, decoded in place to its front. */
static uint32_t decode_name(uint32_t n)
{
    uint32_t i = 0, out = 0;
    while (i < n && !begins(text + i, n - i, "name=")) {
        while (i < n && text[i++] != '&')
            ;
    }
    for (i += 5; i < n && text[i] != '&'; i++) {
        char c = text[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%' && n - i > 2 && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0) {
            c = (char)(hex(text[i + 1]) << 4 | hex(text[i + 2]));
            i += 2;
        }
        text[out++] = c;
    }
    return out;
}

int32_t on_http(void)
{
    uint32_t n = read_field(WEIR_METHOD, 0, 0);
    weir_resp_header(TEXT("Content-Type"), TEXT("text/plain; charset=utf-8"));
    if (!(n == 3 && begins(text, n, "GET")) && !(n == 4 && begins(text, n, "HEAD"))) {
        /* Returning 405 would be shorter, but drops the Allow that must come with it. */
        weir_resp_status(405);
        weir_resp_header(TEXT("Allow"), TEXT("GET, HEAD"));
        weir_resp_write(TEXT("only GET and HEAD are answered here\n"));
        return 0;
    }
    /* The name is the visitor's: no browser may take it for HTML. */
    weir_resp_header(TEXT("X-Content-Type-Options"), TEXT("nosniff"));
    weir_resp_write(TEXT("method: "));
    weir_resp_write(text, n);
    weir_resp_write(TEXT("\npath: "));
    weir_resp_write(text, read_field(WEIR_PATH, 0, 0));
    weir_resp_write(TEXT("\nname: "));
    weir_resp_write(text, decode_name(read_field(WEIR_QUERY, 0, 0)));
    weir_resp_write(TEXT("\nuser-agent: "));
    weir_resp_write(text, read_field(WEIR_HEADER, TEXT("user-agent")));
    weir_resp_write(TEXT("\n"));
    return 0;
}
