/* Effects: what an event wants done. A guest's host functions append them here; they are applied
 * together when the event ends well, or dropped. Frames are stored framed, and sent from here. */
#ifndef WEIR_EFFECTS_H
#define WEIR_EFFECTS_H

#include "net/conn.h"

enum effect_kind { EFFECT_SEND, EFFECT_CLOSE, EFFECT_ATTACH };
enum { EFFECTS_MAX = 1024 };

struct effect {
    enum effect_kind kind;
    uint16_t code; /* CLOSE */
    uint64_t conn;
    uint32_t off, len; /* in bytes */
};

struct effects {
    struct buf list;       /* of struct effect */
    struct buf bytes;      /* their frames, reasons and attachments */
    struct buf head, body; /* resp_header, resp_write */
    uint16_t status;
};

void effects_init(struct effects *fx);
void effects_limit(struct effects *fx, uint32_t output_max); /* bytes, of this event */
void effects_clear(struct effects *fx); /* for the next event; keeps small buffers */
void effects_done(struct effects *fx);
/* ERR_LIMIT past EFFECTS_MAX or the output bound. a and b are stored one after the other. */
enum err effects_add(struct effects *fx, enum effect_kind kind, uint64_t conn, uint16_t code,
                     struct slice a, struct slice b) MUST_USE;
/* What the last effect of a kind carries; false: there is none. */
bool effects_last(const struct effects *fx, enum effect_kind kind, struct slice *out);
uint32_t effects_queued(const struct effects *fx, uint64_t conn); /* bytes for that connection */
/* Calls apply for each, in order. */
void effects_apply(struct effects *fx,
                   void (*apply)(void *arg, const struct effect *e, struct slice bytes), void *arg);

#endif
