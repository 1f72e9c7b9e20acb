/* permessage-deflate (RFC 7692) without context takeover: each message is compressed by itself. So
 * a loop has one compressor and one inflater, made when a first connection negotiates it (some
 * 80 KB), a connection has nothing but a flag, and a published message's bytes fit everybody. */
#ifndef WEIR_WS_DEFLATE_H
#define WEIR_WS_DEFLATE_H

#include "ws/ws_frame.h"

struct ws_deflate;

/* now_ns: the loop's, which tells one iteration from the next. Messages of fewer than `least` bytes
 * are not compressed. NULL: no memory. */
struct ws_deflate *ws_deflate_new(const uint64_t *now_ns, uint32_t least) MUST_USE;
void ws_deflate_free(struct ws_deflate *d);

/* Whether there is time for inflating in this iteration. */
bool ws_deflate_ready(struct ws_deflate *d);
/* A compressed message's payload to at most max bytes, which stay until ws_deflate_done. It stops
 * as soon as it is wrong: ERR_WS_MESSAGE_SIZE past max, ERR_WS_INFLATE, ERR_NO_MEMORY. */
enum err ws_deflate_inflate(struct ws_deflate *d, struct slice data, uint32_t max,
                            struct slice *out) MUST_USE;
void ws_deflate_done(struct ws_deflate *d);

/* The frame of a message, compressed; it stays until ws_deflate_sent. false: it goes out as it is,
 * as it is small, or so large that it would hold up the loop, or a control frame, or would not
 * shrink, or this iteration had its share of it. */
bool ws_deflate_frame(struct ws_deflate *d, enum ws_opcode opcode, struct slice data,
                      struct slice *frame) MUST_USE;
/* The same of a frame of ours, whole and uncompressed. */
bool ws_deflate_twin(struct ws_deflate *d, struct slice plain, struct slice *frame) MUST_USE;
void ws_deflate_sent(struct ws_deflate *d);

#endif
