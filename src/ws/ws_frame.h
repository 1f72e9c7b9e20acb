/* Pure WebSocket codec for a server (RFC 6455 5): frame headers, masking, messages out of frames.
 * Bytes in, {DONE, MORE, BAD} out. */
#ifndef WEIR_WS_FRAME_H
#define WEIR_WS_FRAME_H

#include "base/buf.h"

enum ws_opcode {
    WS_CONTINUATION = 0,
    WS_TEXT = 1,
    WS_BINARY = 2,
    WS_CLOSE = 8,
    WS_PING = 9,
    WS_PONG = 10
};
enum { WS_HEADER_MAX = 14, WS_CONTROL_MAX = 125 };
enum { WS_RSV1 = 0x40 }; /* of a header's first byte: the message is compressed (RFC 7692 6) */

struct ws_frame {
    uint8_t opcode, header_len;
    bool fin, compressed;
    uint8_t mask[4];
    uint64_t len;
};

enum ws_state { WS_DONE, WS_MORE, WS_BAD };
struct ws_result {
    enum ws_state state;
    enum err err;
    size_t consumed;
};

/* A client's frame header: masked, known opcode, the shortest form of length, no reserved bit but
 * RSV1 on a data message's first frame where permessage-deflate was negotiated. */
struct ws_result ws_frame_parse(const uint8_t *p, size_t n, bool deflate, struct ws_frame *out);
/* XORs in place; phase: the position within the mask of p[0]. */
void ws_unmask(uint8_t *p, size_t n, const uint8_t mask[4], unsigned phase);
/* A server's header, unmasked: 2, 4 or 10 bytes. */
size_t ws_frame_header(uint8_t out[WS_HEADER_MAX], enum ws_opcode opcode, bool fin, uint64_t len);
/* The length of a server's frame, with its header, which is at p. */
size_t ws_frame_length(const uint8_t *p, bool *data);
/* RFC 6455 7.4.1 and 7.4.2: what may stand in a close frame. */
bool ws_close_code_valid(unsigned code);

/* What must be remembered while a frame or message is incomplete; NULL on an idle connection. */
struct ws_rx;
struct ws_event {
    uint8_t opcode;      /* TEXT, BINARY, PING, PONG or CLOSE */
    bool compressed;     /* data is to be inflated, and nothing is known of what will come out */
    uint16_t close_code; /* CLOSE: 1005 where the frame had none */
    struct slice data;   /* borrowed, until ws_rx_release */
};

/* Takes bytes, unmasks them in place, yields at most one event. DONE: call again with the rest
 * after ws_rx_release; MORE: all was taken. A complete unfragmented frame is neither copied nor
 * allocated for. Text is validated as it arrives. deflate: as in ws_frame_parse. */
struct ws_result ws_receive(struct ws_rx **rx, uint8_t *p, size_t n, uint32_t message_max,
                            bool deflate, struct ws_event *ev);
void ws_rx_release(struct ws_rx **rx); /* after an event: frees what is no longer needed */
void ws_rx_free(struct ws_rx **rx);
uint32_t *ws_rx_began(struct ws_rx *rx); /* when that was; the caller's to set */
/* Appends what makes a fresh rx like this one: what has come of a frame and message that are
 * incomplete, as a client could have sent it. rx NULL: nothing. */
enum err ws_rx_replay(const struct ws_rx *rx, struct buf *out) MUST_USE;
/* The same of a message that was taken and is to come again: it does when a fresh rx that has got
 * this gets what is in `end`. */
enum { WS_REPLAY_END = 6 };
enum err ws_message_replay(enum ws_opcode kind, struct slice data, struct buf *out,
                           uint8_t end[WS_REPLAY_END]) MUST_USE;

#endif
