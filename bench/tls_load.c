// tls_load: a client of TLS, and of the same without it, for bench/tls.
//
//   tls_load hold       PORT --conns 4000           WebSockets; "open", then until standard input
//   ends tls_load handshakes PORT --seconds 2 [--resume] [--conns 4]     processes, one after the
//   other each tls_load echo       PORT --seconds 2 [--plain] [--conns 32] [--size 1024]
//
// Prints one number. It is the slower side of each handshake and as slow in each record, so what it
// shows is a lower bound; the ratios are of the same client.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SIZE_MAX_ = 65536, CONNS_MAX = 20000 };

struct peer {
    int fd;
    SSL *ssl; // NULL: plain
};

static struct {
    int port, conns, size;
    double seconds;
    bool plain, resume;
} opt = {.conns = 4, .size = 1024, .seconds = 2};
static SSL_CTX *ctx;
static SSL_SESSION *session;
static uint8_t out[SIZE_MAX_ + 14], in[SIZE_MAX_ + 10];

static _Noreturn void fatal(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(2);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void put(struct peer *p, const void *data, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t r = p->ssl ? SSL_write(p->ssl, (const char *)data + done, (int)(n - done))
                           : write(p->fd, (const char *)data + done, n - done);
        if (r <= 0)
            fatal("write");
        done += (size_t)r;
    }
}

static size_t get(struct peer *p, void *data, size_t most)
{
    ssize_t r = p->ssl ? SSL_read(p->ssl, data, (int)most) : read(p->fd, data, most);
    if (r <= 0)
        fatal("read");
    return (size_t)r;
}

static struct peer peer_open(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)opt.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct peer p = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    int on = 1;
    if (p.fd < 0 || connect(p.fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        fatal("connect");
    setsockopt(p.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (opt.plain)
        return p;
    p.ssl = SSL_new(ctx);
    SSL_set_fd(p.ssl, p.fd);
    if (session)
        SSL_set_session(p.ssl, session);
    if (SSL_connect(p.ssl) != 1)
        fatal("handshake");
    return p;
}

static void peer_close(struct peer *p)
{
    if (p->ssl)
        SSL_set_shutdown(p->ssl, SSL_SENT_SHUTDOWN); // or its session counts as broken
    SSL_free(p->ssl);
    close(p->fd);
}

static void upgrade(struct peer *p)
{
    static const char request[] =
        "GET /ws/raw HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    put(p, request, sizeof(request) - 1);
    size_t n = get(p, in, sizeof(in));
    if (n < 12 || memcmp(in, "HTTP/1.1 101", 12) != 0)
        fatal("upgrade");
}

static void hold(void)
{
    static struct peer peers[CONNS_MAX];
    for (int i = 0; i < opt.conns; i++) {
        peers[i] = peer_open();
        upgrade(&peers[i]);
    }
    printf("open\n");
    fflush(stdout);
    while (getchar() != EOF)
        ;
}

// A session that can be used again: with 1.3 it comes behind the handshake.
static void session_get(void)
{
    struct peer p = peer_open();
    upgrade(&p);
    session = SSL_get1_session(p.ssl);
    peer_close(&p);
}

static void handshakes(void)
{
    int pipes[2];
    long sum = 0, n;
    double begin = now();
    if (opt.resume)
        session_get();
    if (pipe(pipes) < 0)
        fatal("pipe");
    for (int i = 0; i < opt.conns; i++) {
        if (fork())
            continue;
        for (n = 0; now() - begin < opt.seconds; n++) {
            struct peer p = peer_open();
            if (opt.resume && !SSL_session_reused(p.ssl))
                fatal("not resumed");
            peer_close(&p);
        }
        _exit(write(pipes[1], &n, sizeof(n)) != sizeof(n));
    }
    close(pipes[1]);
    while (read(pipes[0], &n, sizeof(n)) == sizeof(n))
        sum += n;
    while (wait(NULL) > 0)
        ;
    printf("%.0f\n", (double)sum / (now() - begin));
}

// All send, then all are waited for, again and again.
static void echo(void)
{
    static struct peer peers[CONNS_MAX];
    long rounds = 0;
    size_t head = opt.size < 126 ? 2 : opt.size < 65536 ? 4 : 10, n = (size_t)opt.size + head;
    size_t sent = n + 4; // the mask is zero
    out[0] = 0x82;
    out[1] = head == 2 ? (uint8_t)(0x80 | opt.size) : head == 4 ? 0xfe : 0xff;
    if (head == 4) {
        out[2] = (uint8_t)(opt.size >> 8);
        out[3] = (uint8_t)opt.size;
    } else if (head == 10) {
        out[7] = (uint8_t)(opt.size >> 16);
        out[8] = (uint8_t)(opt.size >> 8);
        out[9] = (uint8_t)opt.size;
    }
    for (size_t i = head + 4; i < sent; i++)
        out[i] = (uint8_t)i;
    for (int i = 0; i < opt.conns; i++) {
        peers[i] = peer_open();
        upgrade(&peers[i]);
    }
    double begin = now();
    for (; now() - begin < opt.seconds; rounds++) {
        for (int i = 0; i < opt.conns; i++)
            put(&peers[i], out, sent);
        for (int i = 0; i < opt.conns; i++) {
            for (size_t got = 0; got < n;)
                got += get(&peers[i], in + got, n - got);
            if (memcmp(in + head, out + head + 4, (size_t)opt.size) != 0)
                fatal("another answer");
        }
    }
    printf("%.0f\n", (double)rounds * opt.conns / (now() - begin));
}

int main(int argc, char **argv)
{
    struct rlimit files;
    if (argc < 3)
        fatal("usage: tls_load hold|handshakes|echo PORT ...");
    opt.port = atoi(argv[2]);
    for (int i = 3; i < argc; i++) {
        bool more = i + 1 < argc;
        if (strcmp(argv[i], "--plain") == 0)
            opt.plain = true;
        else if (strcmp(argv[i], "--resume") == 0)
            opt.resume = true;
        else if (strcmp(argv[i], "--conns") == 0 && more)
            opt.conns = atoi(argv[++i]);
        else if (strcmp(argv[i], "--size") == 0 && more)
            opt.size = atoi(argv[++i]);
        else if (strcmp(argv[i], "--seconds") == 0 && more)
            opt.seconds = atof(argv[++i]);
    }
    if (opt.conns < 1 || opt.conns > CONNS_MAX || opt.size < 1 || opt.size > SIZE_MAX_)
        fatal("a number is out of range");
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    if (strcmp(argv[1], "hold") == 0)
        hold();
    else if (strcmp(argv[1], "handshakes") == 0)
        handshakes();
    else
        echo();
    return 0;
}
