// The load tool's connections: opening them, sending, reading, frames, and the loop around it all.
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS_MAX = 1024, COMPLAINTS_MAX = 5 };

const uint8_t mask_key[4] = {0x5a, 0xc3, 0x96, 0x3c}; // any but zero: the server has to unmask
char net_host[64], net_path[512];

static struct sockaddr_in server;
static int epoll;
static uint8_t rx[RX_MAX];

_Noreturn void fatal(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s: %s\n", what, detail);
    exit(2);
}

uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void bytes_append(struct bytes *b, const uint8_t *at, size_t n)
{
    b->at = realloc(b->at, b->len + n + 1); // never 0 bytes: that would be a free
    if (!b->at)
        fatal("memory", strerror(errno));
    memcpy(b->at + b->len, at, n);
    b->len += n;
}

static void bytes_free(struct bytes *b)
{
    free(b->at);
    *b = (struct bytes){0};
}

// ---- Sec-WebSocket-Accept (RFC 6455, 4.2.2); SHA-1 as in FIPS 180-4, for one short string

static uint32_t rotate(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}

static void sha1_block(uint32_t h[5], const uint8_t block[64])
{
    uint32_t w[80], s[5];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? (s[1] & s[2]) + (~s[1] & s[3]) + 0x5a827999
                     : i < 40 ? (s[1] ^ s[2] ^ s[3]) + 0x6ed9eba1
                     : i < 60 ? ((s[1] & s[2]) | (s[1] & s[3]) | (s[2] & s[3])) + 0x8f1bbcdc
                              : (s[1] ^ s[2] ^ s[3]) + 0xca62c1d6;
        uint32_t t = rotate(s[0], 5) + f + s[4] + w[i];
        s[4] = s[3], s[3] = s[2], s[2] = rotate(s[1], 30), s[1] = s[0], s[0] = t;
    }
    for (int i = 0; i < 5; i++)
        h[i] += s[i];
}

// `out` takes 4 characters for every 3 bytes begun, and a zero.
static void base64(const uint8_t *in, size_t n, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)in[i] << 16 | (i + 1 < n ? (uint32_t)in[i + 1] << 8 : 0) |
                     (i + 2 < n ? in[i + 2] : 0);
        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        *out++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *out++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *out = 0;
}

// The key needs to be different for each connection, not secret.
static void key_make(uint32_t id, char key[25])
{
    uint8_t nonce[16];
    for (uint32_t i = 0; i < 16; i++)
        nonce[i] = (uint8_t)((id + 1) * (0x9e3779b1u + 2 * i) >> 24);
    memcpy(nonce, &id, sizeof id);
    base64(nonce, sizeof nonce, key);
}

static void accept_make(const char *key, char accept[29])
{
    uint8_t block[128] = {0}, digest[20];
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    int n = snprintf((char *)block, sizeof block, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    block[n] = 0x80; // 60 bytes: the length falls into the second block
    block[126] = (uint8_t)(n * 8 >> 8);
    block[127] = (uint8_t)(n * 8);
    sha1_block(h, block);
    sha1_block(h, block + 64);
    for (int i = 0; i < 20; i++)
        digest[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
    base64(digest, sizeof digest, accept);
}

// ---- connections

static void conn_watch(struct conn *c, int how, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->fd, &e) < 0)
        fatal("epoll_ctl", strerror(errno));
}

void conn_lost(struct conn *c, const char *why)
{
    if (g.closed++ < COMPLAINTS_MAX)
        fprintf(stderr, "load: connection %u: %s\n", c->id, why);
    if (c->state == OPEN && c->got < c->sent)
        g.waiting--;
    if (c->state != OPEN)
        g.opening--;
    c->state = CLOSED;
    close(c->fd);
}

static struct rare *conn_rare(struct conn *c)
{
    if (!c->rare)
        c->rare = calloc(1, sizeof *c->rare);
    if (!c->rare)
        fatal("memory", strerror(errno));
    return c->rare;
}

void conn_send(struct conn *c, const uint8_t *at, size_t n)
{
    bool behind = c->rare && c->rare->unsent.len;
    ssize_t done = behind ? 0 : send(c->fd, at, n, MSG_NOSIGNAL);
    if (done == (ssize_t)n)
        return;
    if (done < 0 && errno != EAGAIN) {
        conn_lost(c, strerror(errno));
        return;
    }
    size_t skip = done > 0 ? (size_t)done : 0;
    bytes_append(&conn_rare(c)->unsent, at + skip, n - skip);
    conn_watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void conn_flush(struct conn *c)
{
    struct bytes rest = conn_rare(c)->unsent;
    c->rare->unsent = (struct bytes){0};
    conn_watch(c, EPOLL_CTL_MOD, EPOLLIN);
    conn_send(c, rest.at, rest.len);
    free(rest.at);
}

// Connections to loopback come from four of its addresses: past half of the port range of one (some
// 14,000), the kernel looks for a free port one by one, which takes longer than all the rest.
static void conn_source(struct conn *c)
{
    int on = 1;
    uint32_t to = ntohl(server.sin_addr.s_addr);
    struct sockaddr_in from = {.sin_family = AF_INET};
    if (to != INADDR_LOOPBACK)
        return;
    from.sin_addr.s_addr = htonl(to + c->id % 4);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0)
        fatal("bind", strerror(errno));
}

static void conn_open(struct conn *c, uint32_t id)
{
    int on = 1;
    *c = (struct conn){.id = id, .state = CONNECTING};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fatal("socket", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    conn_source(c);
    g.opening++;
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        conn_lost(c, strerror(errno));
    else
        conn_watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void conn_opened(struct conn *c)
{
    c->state = OPEN;
    g.opening--;
    g.opened++;
}

static void conn_connected(struct conn *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        conn_lost(c, strerror(error));
        return;
    }
    conn_watch(c, EPOLL_CTL_MOD, EPOLLIN);
    if (!g.mode->websocket) {
        conn_opened(c);
        return;
    }
    char key[25], request[1024];
    key_make(c->id, key);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     net_path, net_host, key, &extension ? extension.offer : "");
    c->state = UPGRADING;
    conn_send(c, (const uint8_t *)request, (size_t)n);
}

void conn_round(struct conn *c, const uint8_t *at, size_t n, uint32_t messages)
{
    c->sent += messages;
    g.waiting++;
    conn_send(c, at, n);
}

// ---- HTTP

const char *header_find(const char *head, size_t n, const char *name, size_t *len)
{
    size_t name_len = strlen(name);
    const char *end = head + n, *line = head, *eol;
    while ((eol = memchr(line, '\n', (size_t)(end - line)))) {
        if ((size_t)(eol - line) > name_len && strncasecmp(line, name, name_len) == 0) {
            const char *value = line + name_len + strspn(line + name_len, " ");
            *len = strcspn(value, "\r\n");
            return value;
        }
        line = eol + 1;
    }
    return NULL;
}

static bool header_is(const char *head, size_t n, const char *name, const char *want)
{
    size_t len;
    const char *value = header_find(head, n, name, &len);
    return value && len == strlen(want) && strncasecmp(value, want, len) == 0;
}

size_t head_len(const uint8_t *at, size_t n)
{
    const uint8_t *end = memmem(at, n, "\r\n\r\n", 4);
    return end ? (size_t)(end - at) + 4 : 0;
}

static size_t handshake_consume(struct conn *c, const uint8_t *at, size_t n)
{
    const char *head = (const char *)at;
    size_t len = head_len(at, n);
    if (!len)
        return 0;
    if (strncmp(head, "HTTP/1.1 101", 12) != 0) {
        conn_lost(c, "the upgrade was refused");
        return len;
    }
    if (&extension && !header_is(head, len, "Sec-WebSocket-Extensions:", extension.answer)) {
        conn_lost(c, "the extension was not agreed to");
        return len;
    }
    if (opt.strict) {
        char key[25], accept[29];
        key_make(c->id, key);
        accept_make(key, accept);
        if (!header_is(head, len, "Sec-WebSocket-Accept:", accept) ||
            !header_is(head, len, "Upgrade:", "websocket") ||
            !header_is(head, len, "Connection:", "upgrade")) {
            conn_lost(c, "the answer to the upgrade is wrong");
            return len;
        }
    }
    conn_opened(c);
    return len;
}

// ---- WebSocket frames

struct frame {
    const uint8_t *payload;
    size_t len;
    uint8_t op;
    bool fin, bad, extended;
};

// Returns the bytes of a whole frame, 0 if its end is yet to come.
static size_t frame_parse(const uint8_t *at, size_t n, struct frame *f)
{
    if (n < 2)
        return 0;
    size_t head = at[1] == 126 ? 4 : at[1] == 127 ? 10 : 2;
    if (n < head)
        return 0;
    f->len = at[1] & 127;
    if (head > 2) {
        f->len = 0;
        for (size_t i = 2; i < head; i++)
            f->len = f->len << 8 | at[i];
    }
    f->fin = at[0] & 0x80;
    f->op = at[0] & 15;
    // A server masks nothing, and has no reserved bit but what an extension gave a meaning.
    f->extended = &extension && (at[0] & 0x40);
    f->bad = (at[0] & (f->extended ? 0x30 : 0x70)) || (at[1] & 0x80) || f->len > RX_MAX / 2;
    f->payload = at + head;
    return f->bad ? n : n - head < f->len ? 0 : head + f->len;
}

size_t frame_head(uint8_t *at, uint8_t op, size_t len)
{
    size_t n = 2, wide = len < 126 ? 0 : len < 65536 ? 2 : 8;
    at[0] = 0x80 | op;
    at[1] = (uint8_t)(0x80 | (wide == 0 ? len : wide == 2 ? 126 : 127));
    while (wide--)
        at[n++] = (uint8_t)((uint64_t)len >> (8 * wide));
    memcpy(at + n, mask_key, 4);
    return n + 4;
}

static void frame_pong(struct conn *c, const struct frame *ping)
{
    uint8_t pong[14 + 125];
    if (ping->len > 125) {
        conn_lost(c, "a ping is too long");
        return;
    }
    size_t n = frame_head(pong, OP_PONG, ping->len);
    for (size_t i = 0; i < ping->len; i++)
        pong[n++] = ping->payload[i] ^ mask_key[i & 3];
    conn_send(c, pong, n);
}

// All but a whole message in one frame.
static void frame_rare(struct conn *c, const struct frame *f)
{
    if (f->bad) {
        conn_lost(c, "a frame breaks the protocol");
    } else if (f->op == OP_PING) {
        frame_pong(c, f);
    } else if (f->op == OP_CLOSE) {
        conn_lost(c, "the server sent a close frame");
    } else if (f->op <= OP_BINARY) {
        struct rare *r = conn_rare(c);
        if (f->op != OP_MORE)
            r->message_op = f->op;
        if (r->message.len > RX_MAX) {
            conn_lost(c, "a message has no end");
            return;
        }
        bytes_append(&r->message, f->payload, f->len);
        if (!f->fin)
            return;
        g.mode->message(c, r->message_op == OP_BINARY, r->message.at, r->message.len);
        bytes_free(&r->message);
    } else if (f->op != OP_PONG) {
        conn_lost(c, "a frame has an opcode that does not exist");
    }
}

size_t frames_consume(struct conn *c, const uint8_t *at, size_t n)
{
    struct frame f;
    size_t used = 0, len;
    while (c->state == OPEN && (len = frame_parse(at + used, n - used, &f))) {
        used += len;
        if (f.extended && !f.bad)
            f.bad = !f.fin || !extension.decode(&f.payload, &f.len);
        if (f.op == OP_BINARY && f.fin && !f.bad)
            g.mode->message(c, true, f.payload, f.len);
        else
            frame_rare(c, &f);
    }
    return used;
}

// ---- the loop

static void conn_readable(struct conn *c)
{
    size_t n = c->held.len;
    ssize_t more = recv(c->fd, rx + n, sizeof rx - n, 0);
    if (more <= 0) {
        if (more == 0 || errno != EAGAIN)
            conn_lost(c, more ? strerror(errno) : "closed by the server");
        return;
    }
    if (n) {
        memcpy(rx, c->held.at, n);
        bytes_free(&c->held);
    }
    n += (size_t)more;
    size_t used = c->state == UPGRADING ? handshake_consume(c, rx, n) : 0;
    while (c->state == OPEN && used < n) {
        size_t took = g.mode->consume(c, rx + used, n - used);
        if (!took)
            break;
        used += took;
    }
    if (c->state == CLOSED)
        return;
    if (n - used == sizeof rx)
        conn_lost(c, "a response is longer than any should be");
    else if (used < n)
        bytes_append(&c->held, rx + used, n - used);
}

static void conn_event(struct conn *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        conn_connected(c);
        return;
    }
    if (c->state != CLOSED && (events & EPOLLOUT))
        conn_flush(c);
    if (c->state != CLOSED && (events & ~(uint32_t)EPOLLOUT))
        conn_readable(c);
}

bool serve_until(bool (*done)(void), uint64_t until_ns)
{
    static struct epoll_event events[EVENTS_MAX];
    if (until_ns > g.deadline_ns)
        until_ns = g.deadline_ns;
    for (bool input = false; !done || !done();) {
        uint64_t now = now_ns();
        if (input || now >= until_ns)
            return input;
        int n = epoll_wait(epoll, events, EVENTS_MAX, (int)((until_ns - now) / 1000000) + 1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                conn_event(events[i].data.ptr, events[i].events);
            else
                input = true;
        }
    }
    return true;
}

bool nothing_opening(void)
{
    for (; g.opening < opt.inflight && g.next < opt.conns; g.next++)
        conn_open(&g.conns[g.next], g.next);
    return g.opening == 0;
}

bool net_watch_input(void)
{
    struct epoll_event e = {.events = EPOLLIN};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, STDIN_FILENO, &e) == 0;
}

static void url_parse(void)
{
    char address[32];
    unsigned port;
    const char *scheme = g.mode->websocket ? "ws://" : "http://";
    if (!opt.url || strncmp(opt.url, scheme, strlen(scheme)) != 0)
        fatal("--url must begin with", scheme);
    server.sin_family = AF_INET;
    if (sscanf(opt.url + strlen(scheme), "%31[0-9.]:%u%511s", address, &port, net_path) != 3 ||
        inet_pton(AF_INET, address, &server.sin_addr) != 1 || port > 65535 || net_path[0] != '/')
        fatal("--url must have an IPv4 address, a port and a path", opt.url);
    server.sin_port = htons((uint16_t)port);
    snprintf(net_host, sizeof net_host, "%s:%u", address, port);
}

void net_init(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    url_parse();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        fatal("epoll_create1", strerror(errno));
}
