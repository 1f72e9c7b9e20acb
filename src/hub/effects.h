/* Effects: what an event wants done. A guest's host functions append them here; they are applied
 * together when the event ends well, or dropped. Frames are stored framed, and sent from here. */
#ifndef WEIR_EFFECTS_H
#define WEIR_EFFECTS_H

#include "net/conn.h"

enum effect_kind {
    EFFECT_SEND,         /* bytes: the frame */
    EFFECT_CLOSE,        /* code; bytes: the reason */
    EFFECT_ATTACH,       /* bytes */
    EFFECT_SUBSCRIBE,    /* key: the topic */
    EFFECT_UNSUBSCRIBE,  /* key: the topic */
    EFFECT_PUBLISH,      /* key: the topic; conn: but to that one; bytes: the frame */
    EFFECT_KV,           /* key; code 1: is deleted; number: its ttl in ms, 0 none; bytes */
    EFFECT_TIMER,        /* conn: its id; number: the cookie; ms */
    EFFECT_TIMER_CANCEL, /* conn: its id */
    EFFECT_KINDS
};
enum { EFFECTS_MAX = 1024 };

struct effect {
    uint8_t kind; /* enum effect_kind */
    uint16_t code, key_n;
    uint64_t conn, number, ms;
    uint32_t off, len; /* in bytes: key_n of the key, then the rest */
};

struct effects {
    struct buf list;       /* of struct effect */
    struct buf bytes;      /* their frames, reasons and attachments */
    struct buf head, body; /* resp_header, resp_write */
    uint16_t status;
    uint32_t counts[EFFECT_KINDS];
};

void effects_init(struct effects *fx);
void effects_limit(struct effects *fx, uint32_t output_max); /* bytes, of this event */
void effects_clear(struct effects *fx); /* for the next event; keeps small buffers */
void effects_done(struct effects *fx);
/* ERR_LIMIT past EFFECTS_MAX or the output bound. key, a and b are stored one after the other;
 * their place and lengths in e are filled in here. */
enum err effects_add(struct effects *fx, const struct effect *e, struct slice key, struct slice a,
                     struct slice b) MUST_USE;
/* The last effect of a kind and key; NULL: there is none. */
const struct effect *effects_last(const struct effects *fx, enum effect_kind kind,
                                  struct slice key);
/* Whether something is so after this event, where it was so before or not: the last effect of the
 * kinds on and off, of conn and key, says so. n_on: how many of kind on conn has. */
bool effects_on(const struct effects *fx, enum effect_kind on, enum effect_kind off, uint64_t conn,
                struct slice key, bool before, uint32_t *n_on);
struct slice effects_key(const struct effects *fx, const struct effect *e);
struct slice effects_bytes(const struct effects *fx, const struct effect *e); /* behind the key */
uint32_t effects_queued(const struct effects *fx, uint64_t conn); /* bytes for that connection */
/* Calls apply for each, in order. */
void effects_apply(struct effects *fx, void (*apply)(void *arg, const struct effect *e), void *arg);

#endif
