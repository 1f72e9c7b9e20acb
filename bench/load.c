// load: opens thousands of connections from one thread and checks every byte that comes back.
//
//   load hold      --url ws://127.0.0.1:8080/ws/raw --conns 8000 [--echo 1]
//   load echo      --url ws://127.0.0.1:8080/ws/raw --conns 500 --active 500 --seconds 3
//   load pace      --url ws://127.0.0.1:8080/ws/raw --conns 8000 --rate 10000
//   load broadcast --url ws://127.0.0.1:8080/ws/topic/x --conns 500 --senders 4 --seconds 3
//   load exec      --url http://127.0.0.1:8080/api/exec/add --body '[2.5,3.7]' --expect 6.2
//
// It shares the machine with the server it measures, so a round costs it one recv, one send, one
// look at the clock and one pass over the bytes. What is rare (a frame cut in two, a fragment, a
// ping, a short write) is dealt with off that path, in load_net.c.
//
// Every run prints JSON, one object a line, and ends with status 1 if anything was wrong, missing
// or closed, and 2 if it could not be run at all.
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    OPEN_SECONDS = 60, // for all handshakes together
    DRAIN_SECONDS = 5, // for what is still on its way when the time is up
    STAMP = 8,
};

struct options opt = {
    .body = "[2.5,3.7]",
    .expect = "6.2",
    .seconds = 3,
    .rate = 1000,
    .warmup = 1,
    .conns = 64,
    .senders = 1,
    .size = 64,
    .pipeline = 1,
    .inflight = 200,
    .status = 200,
};
struct load g;

static bool again; // a finished round starts the next one
static bool measuring;
static uint8_t tx[2 * FRAMES_MAX];
static size_t tx_len; // of a round; what does not change in tx is put there once

// ---- round-trip times

// Log-scaled: 64 slots an octave, so a percentile is at most 1.6 % too high.
static struct {
    uint64_t slot[59 * 64];
    uint64_t count, max;
} rtt;

static void rtt_add(uint64_t ns)
{
    unsigned shift = ns < 64 ? 0 : 57u - (unsigned)__builtin_clzll(ns);
    rtt.slot[64 * shift + (ns >> shift)]++;
    rtt.count++;
    if (ns > rtt.max)
        rtt.max = ns;
}

// The upper edge of the slot that holds the given share of all values, in microseconds.
static double rtt_us(double share)
{
    uint64_t rank = (uint64_t)(share * (double)rtt.count), seen = 0;
    for (uint64_t i = 0; i < sizeof rtt.slot / sizeof *rtt.slot; i++) {
        seen += rtt.slot[i];
        if (seen > rank) {
            unsigned shift = i < 128 ? 0 : (unsigned)(i / 64 - 1);
            uint64_t edge = (i - 64 * shift) << shift | ((1ull << shift) - 1);
            return (double)(edge < rtt.max ? edge : rtt.max) / 1e3;
        }
    }
    return 0;
}

// A round is answered: `got` has reached `sent`. Its end is the beginning of the next one.
static void conn_round_done(struct conn *c)
{
    g.waiting--;
    uint64_t now = now_ns();
    if (measuring)
        rtt_add(now - c->sent_ns);
    c->sent_ns = now;
    if (again)
        g.mode->round(c);
}

// ---- payloads

// A payload is a stamp, which says whose message this is and which one in order, and then bytes of
// a fixed pattern from a place that depends on the stamp. So no two messages under way look alike,
// and making or checking one takes no more than a memcpy or memcmp.

struct stamp {
    uint32_t who, seq;
};

// A multiple of 4, so that the masked pattern has the same places.
static size_t window(struct stamp s)
{
    return ((s.who * 0x9e3779b1u ^ s.seq * 0x85ebca6bu) >> 22) * 4;
}

static uint8_t pattern[4 * WINDOWS + FRAMES_MAX], masked[4 * WINDOWS + FRAMES_MAX];
static size_t frame_len;

static void payload_init(void)
{
    uint64_t x = 1;
    if (&extension)
        extension.text(pattern, 4 * WINDOWS + opt.size);
    for (size_t i = 0; i < 4 * WINDOWS + opt.size; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        pattern[i] = &extension ? pattern[i] : (uint8_t)(x >> 56);
        masked[i] = pattern[i] ^ mask_key[i & 3];
    }
    for (uint32_t i = 0; i < opt.pipeline; i++) {
        frame_len = frame_head(tx + tx_len, OP_BINARY, opt.size) + opt.size;
        tx_len += frame_len;
    }
}

static void payload_put(uint8_t *frame, struct stamp s)
{
    uint8_t *at = frame + frame_len - opt.size;
    uint8_t stamp[STAMP];
    memcpy(stamp, &s, STAMP);
    for (size_t i = 0; i < STAMP; i++)
        at[i] = stamp[i] ^ mask_key[i & 3];
    memcpy(at + STAMP, masked + window(s) + STAMP, opt.size - STAMP);
}

static bool payload_get(const uint8_t *at, size_t n, struct stamp *s)
{
    if (n != opt.size)
        return false;
    memcpy(s, at, STAMP);
    return memcmp(at + STAMP, pattern + window(*s) + STAMP, n - STAMP) == 0;
}

// Frames of different lengths, so that a round is made anew.
static void extension_round(struct conn *c)
{
    tx_len = 0;
    for (uint32_t i = 0; i < opt.pipeline; i++) {
        struct stamp s = {c->id, c->sent + i};
        uint8_t stamp[STAMP];
        memcpy(stamp, &s, STAMP);
        tx_len += extension.encode(tx + tx_len, stamp, STAMP, pattern + window(s) + STAMP,
                                   opt.size - STAMP, window(s) / 4);
    }
    conn_round(c, tx, tx_len, opt.pipeline);
}

static void frames_round(struct conn *c)
{
    if (&extension) {
        extension_round(c);
        return;
    }
    for (uint32_t i = 0; i < opt.pipeline; i++)
        payload_put(tx + i * frame_len, (struct stamp){c->id, c->sent + i});
    conn_round(c, tx, tx_len, opt.pipeline);
}

static void echo_message(struct conn *c, bool binary, const uint8_t *at, size_t n)
{
    struct stamp s = {0};
    if (c->got == c->sent) { // nobody asked for it
        g.wrong++;
        return;
    }
    if (binary && payload_get(at, n, &s) && s.who == c->id && s.seq == c->got)
        g.messages++;
    else
        g.wrong++;
    if (++c->got == c->sent)
        conn_round_done(c);
}

static uint32_t *order; // next sequence number of each sender, [member][sender]
static uint64_t published;

// A gap is what is missing in the end; a repetition or the wrong order is wrong at once.
static void broadcast_message(struct conn *c, bool binary, const uint8_t *at, size_t n)
{
    struct stamp s = {0};
    bool right = binary && payload_get(at, n, &s) && s.who < opt.senders &&
                 s.seq < g.conns[s.who].sent;
    uint32_t *next = right ? &order[(size_t)c->id * opt.senders + s.who] : NULL;
    if (!right || s.seq < *next) {
        g.wrong++;
        return;
    }
    *next = s.seq + 1;
    g.messages++;
    if (s.who == c->id && ++c->got == c->sent)
        conn_round_done(c);
}

static void broadcast_round(struct conn *c)
{
    published++;
    frames_round(c);
}

static bool nothing_waiting(void)
{
    return g.waiting == 0;
}

static bool all_delivered(void)
{
    return g.messages >= published * opt.conns;
}

static void open_all(void)
{
    if (serve_until(nothing_opening, now_ns() + OPEN_SECONDS * SECOND))
        return;
    for (uint32_t i = 0; i < g.next; i++)
        if (g.conns[i].state < OPEN)
            conn_lost(&g.conns[i], "not open in time");
}

static void round_all(uint32_t first)
{
    for (uint32_t i = 0; i < first; i++)
        if (g.conns[i].state == OPEN) {
            g.conns[i].sent_ns = now_ns();
            g.mode->round(&g.conns[i]);
        }
}

static uint64_t missing(uint32_t first)
{
    uint64_t n = opt.conns - g.next; // the time was up before they could be opened
    for (uint32_t i = 0; i < first && i < g.next; i++)
        n += g.conns[i].sent - g.conns[i].got;
    return n;
}

static int status(uint64_t lost)
{
    fflush(stdout);
    return lost || g.wrong || g.closed ? 1 : 0;
}

// ---- the modes

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

// A closed loop: the first `busy` connections each start the next round when one is answered.
static int closed_loop(uint32_t busy, bool (*drained)(void), uint64_t (*lost)(uint32_t))
{
    open_all();
    again = true;
    round_all(busy);
    serve_until(NULL, now_ns() + (uint64_t)(opt.warmup * 1e9));
    uint64_t begin = now_ns(), before = g.messages;
    double cpu = cpu_seconds();
    measuring = true;
    serve_until(NULL, begin + (uint64_t)(opt.seconds * 1e9));
    measuring = again = false;
    double seconds = (double)(now_ns() - begin) / 1e9;
    uint64_t count = g.messages - before;
    cpu = (cpu_seconds() - cpu) / seconds;
    serve_until(drained, now_ns() + DRAIN_SECONDS * SECOND);
    uint64_t gone = lost(busy);
    printf("{\"mode\":\"%s\",\"open\":%u,\"seconds\":%.3f,\"count\":%ju,\"per_s\":%.0f,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"client_cpu\":%.2f,"
           "\"wrong\":%ju,\"missing\":%ju,\"closed\":%u}\n",
           g.mode->name, g.opened, seconds, (uintmax_t)count, (double)count / seconds, rtt_us(0.5),
           rtt_us(0.99), (double)rtt.max / 1e3, cpu, (uintmax_t)g.wrong, (uintmax_t)gone, g.closed);
    return status(gone);
}

static int echo_run(void)
{
    return closed_loop(opt.active, nothing_waiting, missing);
}

static uint64_t undelivered(uint32_t first)
{
    (void)first;
    return published * opt.conns - g.messages;
}

static int broadcast_run(void)
{
    order = calloc((size_t)opt.conns * opt.senders, sizeof *order);
    if (!order)
        fatal("memory", strerror(errno));
    return closed_loop(opt.senders, all_delivered, undelivered);
}

// Takes one response; returns 0 if its end is yet to come.
static size_t http_consume(struct conn *c, const uint8_t *at, size_t n)
{
    const char *head = (const char *)at;
    size_t value_len, len = head_len(at, n);
    if (!len)
        return 0;
    const char *value = header_find(head, len, "Content-Length:", &value_len);
    size_t body_len = value ? strtoul(value, NULL, 10) : 0;
    if (!value || strncmp(head, "HTTP/1.1 ", 9) != 0 || body_len > RX_MAX / 2) {
        conn_lost(c, "this is not an HTTP response with a length");
        return n;
    }
    if (n - len < body_len)
        return 0;
    const char *body = head + len;
    size_t want = strlen(opt.expect), text_len = body_len;
    if (text_len == want + 1 && body[want] == '\n')
        text_len--;
    bool right = strtoul(head + 9, NULL, 10) == opt.status &&
                 (!*opt.expect || (text_len == want && memcmp(body, opt.expect, want) == 0));
    if (!right || c->got == c->sent)
        g.wrong++;
    else
        g.messages++;
    if (c->got < c->sent) {
        c->got++;
        conn_round_done(c);
    }
    return len + body_len;
}

static void exec_round(struct conn *c)
{
    conn_round(c, tx, tx_len, 1);
}

static int exec_run(void)
{
    int n = snprintf((char *)tx, sizeof tx,
                     "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     net_path, net_host, strlen(opt.body), opt.body);
    tx_len = (size_t)n;
    return closed_loop(opt.conns, nothing_waiting, missing);
}

static void hold_report(void)
{
    printf("{\"open\":%u,\"echoed\":%ju,\"wrong\":%ju,\"missing\":%ju,\"closed\":%u}\n", g.opened,
           (uintmax_t)g.messages, (uintmax_t)g.wrong, (uintmax_t)missing(opt.conns), g.closed);
    fflush(stdout);
}

// Though standard input, at its end, is ready all the time.
static void waiting_drain(void)
{
    uint64_t until = now_ns() + DRAIN_SECONDS * SECOND;
    while (!nothing_waiting() && now_ns() < until)
        serve_until(nothing_waiting, until);
}

static void hold_echo(void)
{
    round_all(opt.conns);
    waiting_drain();
}

// Reports at once, after each line "echo" on standard input, and at its end.
static int hold_run(void)
{
    open_all();
    if (opt.echo)
        hold_echo();
    hold_report();
    bool input = net_watch_input();
    char line[64];
    while (input && serve_until(NULL, g.deadline_ns)) {
        ssize_t n = read(STDIN_FILENO, line, sizeof line);
        if (n <= 0)
            break;
        if (n >= 4 && memcmp(line, "echo", 4) == 0) {
            hold_echo();
            hold_report();
        }
    }
    hold_report();
    return status(missing(opt.conns));
}

// The longest silence between two answers and the slowest of them, since the last report.
static struct {
    uint64_t last_ns, gap_ns, slow_ns, messages;
} pace;

static void longest(uint64_t *most, uint64_t ns)
{
    if (ns > *most)
        *most = ns;
}

static void pace_message(struct conn *c, bool binary, const uint8_t *at, size_t n)
{
    uint64_t now = now_ns();
    if (c->got < c->sent)
        longest(&pace.slow_ns, now - c->sent_ns);
    longest(&pace.gap_ns, now - pace.last_ns);
    pace.last_ns = now;
    echo_message(c, binary, at, n);
}

static void pace_report(uint64_t lost)
{
    printf("{\"open\":%u,\"count\":%ju,\"gap_ms\":%.2f,\"slow_ms\":%.2f,\"wrong\":%ju,"
           "\"missing\":%ju,\"closed\":%u}\n",
           g.opened, (uintmax_t)(g.messages - pace.messages), (double)pace.gap_ns / 1e6,
           (double)pace.slow_ns / 1e6, (uintmax_t)g.wrong, (uintmax_t)lost, g.closed);
    fflush(stdout);
    pace.gap_ns = pace.slow_ns = 0;
    pace.messages = g.messages;
}

// Sends what is due by now, each on the next connection that waits for no answer.
static void pace_send(uint64_t *sent, uint64_t due)
{
    static uint32_t next;
    uint64_t now = now_ns();
    for (uint32_t tries = 0; *sent < due && tries < opt.conns; tries++) {
        struct conn *c = &g.conns[next++ % opt.conns];
        if (c->state != OPEN || c->got < c->sent)
            continue;
        c->sent_ns = now;
        g.mode->round(c);
        ++*sent;
    }
}

// An open loop of opt.rate messages a second: reports after each line on standard input, and at its
// end.
static int pace_run(void)
{
    uint64_t sent = 0;
    char line[64];
    open_all();
    if (!net_watch_input())
        fatal("standard input", "is to be a pipe");
    printf("{\"open\":%u}\n", g.opened);
    fflush(stdout);
    uint64_t begin = pace.last_ns = now_ns();
    for (ssize_t n = 1; n > 0 && now_ns() < g.deadline_ns;) {
        pace_send(&sent, (uint64_t)((double)(now_ns() - begin) * opt.rate / 1e9));
        if (!serve_until(NULL, now_ns() + SECOND / 1000))
            continue;
        n = read(STDIN_FILENO, line, sizeof line);
        if (n > 0)
            pace_report(0);
    }
    waiting_drain();
    pace_report(missing(opt.conns));
    return status(missing(opt.conns));
}

static const struct mode modes[] = {
    {"hold", hold_run, frames_round, frames_consume, echo_message, true},
    {"echo", echo_run, frames_round, frames_consume, echo_message, true},
    {"pace", pace_run, frames_round, frames_consume, pace_message, true},
    {"broadcast", broadcast_run, broadcast_round, frames_consume, broadcast_message, true},
    {"exec", exec_run, exec_round, http_consume, NULL, false},
};

// ---- the command line

static const struct option {
    const char *name;
    enum { TEXT, NUMBER, REAL, FLAG } kind;
    void *to;
    double max;
    const char *help;
} options[] = {
    {"--url", TEXT, &opt.url, 0, "ws://IPV4:PORT/PATH, for exec http://IPV4:PORT/PATH"},
    {"--conns", NUMBER, &opt.conns, 19900, "connections"},
    {"--active", NUMBER, &opt.active, 19900, "of them in the closed loop (echo; default all)"},
    {"--senders", NUMBER, &opt.senders, 19900, "of them sending (broadcast)"},
    {"--rate", REAL, &opt.rate, 1e7, "messages a second of all connections (pace)"},
    {"--size", NUMBER, &opt.size, FRAMES_MAX, "bytes of a payload, at least 8"},
    {"--pipeline", NUMBER, &opt.pipeline, 4096, "messages in one write (echo)"},
    {"--inflight", NUMBER, &opt.inflight, 19900, "handshakes at a time"},
    {"--seconds", REAL, &opt.seconds, 3600, "measured time"},
    {"--warmup", REAL, &opt.warmup, 3600, "load before it that is checked but not measured"},
    {"--max", REAL, &opt.max, 7200, "the program ends after so many seconds, whatever happens"},
    {"--echo", FLAG, &opt.echo, 1, "1: one echo round when all are open (hold)"},
    {"--strict", FLAG, &opt.strict, 1, "1: check the handshake's Sec-WebSocket-Accept"},
    {"--body", TEXT, &opt.body, 0, "to post (exec)"},
    {"--expect", TEXT, &opt.expect, 0, "body of the answer; empty takes any (exec)"},
    {"--status", NUMBER, &opt.status, 999, "of the answer (exec)"},
};

static void usage(void)
{
    fprintf(stderr, "usage: load hold|echo|pace|broadcast|exec --url URL [--name value]...\n");
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        fprintf(stderr, "  %-11s %s\n", options[i].name, options[i].help);
    exit(2);
}

static void option_set(const char *name, const char *value)
{
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const struct option *o = &options[i];
        if (strcmp(o->name, name) != 0)
            continue;
        if (o->kind == TEXT) {
            *(const char **)o->to = value;
            return;
        }
        char *end;
        double v = strtod(value, &end);
        if (end == value || *end || !(v >= 0 && v <= o->max))
            fatal(name, "not a number it can take");
        if (o->kind == NUMBER)
            *(uint32_t *)o->to = (uint32_t)v;
        else if (o->kind == FLAG)
            *(bool *)o->to = v == 1;
        else
            *(double *)o->to = v;
        return;
    }
    fatal(name, "unknown option");
}

static void options_check(void)
{
    if (!opt.active)
        opt.active = opt.conns;
    if (!opt.max)
        opt.max = opt.seconds + opt.warmup + OPEN_SECONDS + DRAIN_SECONDS + 5;
    if (!opt.conns || opt.active > opt.conns || opt.senders > opt.conns || !opt.inflight)
        fatal("--conns", "must be at least 1, --active and --senders");
    if (opt.size < STAMP || !opt.pipeline || (size_t)opt.size * opt.pipeline > FRAMES_MAX)
        fatal("--size", "must be at least 8, and at most 1 MiB in one write");
    if (strlen(opt.body) > FRAMES_MAX)
        fatal("--body", "is too long");
}

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
        if (strcmp(modes[i].name, argv[1]) == 0)
            g.mode = &modes[i];
    if (!g.mode || argc % 2)
        usage();
    if (strcmp(g.mode->name, "hold") == 0 || strcmp(g.mode->name, "pace") == 0)
        opt.max = 600;
    for (int i = 2; i < argc; i += 2)
        option_set(argv[i], argv[i + 1]);
    options_check();

    g.deadline_ns = now_ns() + (uint64_t)(opt.max * 1e9);
    alarm((unsigned)opt.max + 10); // should the loop itself hang
    net_init();
    g.conns = calloc(opt.conns, sizeof *g.conns);
    if (!g.conns)
        fatal("memory", strerror(errno));
    if (g.mode->websocket)
        payload_init();
    return g.mode->run();
}
