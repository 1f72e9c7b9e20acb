// What the load tool's two halves share: load_net.c holds connections, load.c what is done on them.
#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECOND 1000000000ull

enum {
    FRAMES_MAX = 1 << 20, // bytes of payload of one round
    RX_MAX = 4 << 20,     // a round, its frame heads, and room to spare
    WINDOWS = 1024,       // places in the pattern where a payload can start
};

enum { OP_MORE = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

struct bytes {
    uint8_t *at;
    size_t len;
};

// What few connections ever need.
struct rare {
    struct bytes unsent;  // what the socket would not take
    struct bytes message; // fragments of a message that is not complete
    uint8_t message_op;
};

// connecting -> upgrading (WebSocket only) -> open -> closed; any state -> closed.
enum state { CONNECTING, UPGRADING, OPEN, CLOSED };

struct conn {
    int fd;
    uint32_t id;
    uint32_t sent; // messages or requests sent
    uint32_t got;  // of them answered; a round is under way while got < sent
    uint64_t sent_ns;
    enum state state;
    struct bytes held; // the beginning of a frame or response whose end is yet to come
    struct rare *rare;
};

struct mode {
    const char *name;
    int (*run)(void);
    void (*round)(struct conn *c);
    size_t (*consume)(struct conn *c, const uint8_t *at, size_t n); // returns bytes used
    void (*message)(struct conn *c, bool binary, const uint8_t *at, size_t n);
    bool websocket;
};

struct options {
    const char *url, *body, *expect;
    double seconds, warmup, max, rate;
    uint32_t conns, active, senders, size, pipeline, inflight, status;
    bool echo, strict;
};

// What all WebSockets agree to where load_deflate.c is linked in; else it has no address.
struct extension {
    const char *offer, *answer;
    void (*text)(uint8_t *at, size_t n); // a pattern that can be compressed
    // A masked frame of a stamp and the pattern behind it; returns its length.
    size_t (*encode)(uint8_t *to, const uint8_t *stamp, size_t stamp_len, const uint8_t *pattern,
                     size_t n, size_t window);
    bool (*decode)(const uint8_t **at, size_t *n); // a message with RSV1; false: it is wrong
};
extern const struct extension extension __attribute__((weak));

struct load {
    const struct mode *mode;
    struct conn *conns;
    uint32_t next, opening, opened, closed; // connections: to open next, on their way, done, lost
    uint32_t waiting;                       // rounds under way
    uint64_t messages, wrong;               // right and wrong answers
    uint64_t deadline_ns;                   // of the whole program
};

extern struct options opt;
extern struct load g;
extern const uint8_t mask_key[4];

_Noreturn void fatal(const char *what, const char *detail);
uint64_t now_ns(void);

// Makes the poller, takes the server's address from opt.url and lifts the limit on descriptors.
void net_init(void);

// Makes serve_until() return early when there is something to read; false if it cannot be watched.
bool net_watch_input(void);

// Serves connections until `done` says so or the time has come. Returns whether it was done, or
// returned early for the standard input.
bool serve_until(bool (*done)(void), uint64_t until_ns);

// For serve_until(): opens connections, opt.inflight at a time.
bool nothing_opening(void);

// Host header and path of the URL.
extern char net_host[64], net_path[512];

void conn_lost(struct conn *c, const char *why);

// Sends all, later if need be.
void conn_send(struct conn *c, const uint8_t *at, size_t n);

// Sends a round of `messages`, whose time is counted from c->sent_ns.
void conn_round(struct conn *c, const uint8_t *at, size_t n, uint32_t messages);

// Returns the length of an HTTP head with its empty line, 0 if its end is yet to come.
size_t head_len(const uint8_t *at, size_t n);

// The value of a header, without blanks before it; NULL if there is none. `name` ends with a colon.
const char *header_find(const char *head, size_t n, const char *name, size_t *len);

// Writes the head of a masked frame; returns its length, at most 14.
size_t frame_head(uint8_t *at, uint8_t op, size_t len);

// A mode's `consume` for WebSockets: gives every whole message to the mode's `message`.
size_t frames_consume(struct conn *c, const uint8_t *at, size_t n);

#endif
