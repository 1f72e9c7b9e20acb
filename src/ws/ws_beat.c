#include "ws/ws_beat.h"

#include "base/hash.h"
#include "base/log.h"

static uint32_t ticks(uint64_t ms)
{
    return (uint32_t)((ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS);
}

static uint32_t now(const struct ws_server *s)
{
    return s->net->loop->wheel.clock;
}

static uint32_t slice_ticks(const struct ws_server *s)
{
    return ticks((s->beat.timeout_ms + WS_BEAT_SLICES - 1) / WS_BEAT_SLICES);
}

/* To a connection's next place. Multiples of the golden ratio: slots that are taken one after the
 * other have places that divide the interval evenly, however many they are. */
static uint32_t until_ping(const struct ws_server *s, const struct conn *c)
{
    uint32_t interval = ticks(s->beat.interval_ms);
    uint32_t turned = c->slot.index * UINT32_C(2654435769);
    uint32_t place = (uint32_t)((uint64_t)turned * interval >> 32);
    return interval - (now(s) + interval - place) % interval;
}

/* second: of the ping after one that was missed. */
static uint64_t payload_of(const struct conn *c, bool second)
{
    uint64_t words[2] = {conn_id(c), (uint64_t)c->ponged << 1 | second};
    return hash_bytes(slice_of(words, sizeof(words)));
}

/* To the end of the time for the rest of a message; 0: it is over. */
static uint32_t until_partial(const struct ws_server *s, const struct conn *c)
{
    uint32_t most = ticks(s->message_timeout_ms), age = now(s) - *ws_rx_began(c->detail);
    return age < most ? most - age : 0;
}

static void arm(struct ws_server *s, struct conn *c)
{
    uint32_t wait = UINT32_MAX;
    if (s->beat.interval_ms)
        wait = c->beat & WS_PINGED ? slice_ticks(s) : until_ping(s, c);
    if (c->detail)
        wait = MIN(wait, MAX(until_partial(s, c), slice_ticks(s)));
    if (c->beat & (WS_PINGED | WS_SUSPECT)) {
        uint32_t evict = ticks(s->beat.evict_ms), silent = now(s) - c->heard;
        wait = MIN(wait, silent < evict ? evict - silent : slice_ticks(s));
    }
    conn_timer(s->net, c, wait == UINT32_MAX ? 0 : (uint64_t)wait * WHEEL_TICK_MS);
}

static void ping(struct ws_server *s, struct conn *c)
{
    uint64_t payload = payload_of(c, c->beat & WS_SUSPECT);
    c->beat |= WS_PINGED | WS_UNSENT;
    if (conn_queued(c) > s->queue_max / 2)
        return;
    c->beat &= (uint8_t)~WS_UNSENT;
    c->beat_slices = 0;
    metrics.heartbeat_pings_total++;
    ws_conn_send(s, c, WS_PING, slice_of(&payload, sizeof(payload)));
}

/* That it was not heard is our doing, or it shows by taking what waits for it that it is there. */
static bool excused(struct conn *c)
{
    bool took = c->progressed;
    c->progressed = false;
    if (took)
        return true;
    if (c->full)
        return false;
    if (c->paused)
        return true;
    return !(c->beat & WS_DEMOTED) && (c->readable || c->saved);
}

static void demote(struct conn *c)
{
    c->beat |= WS_DEMOTED;
    c->released = false;
    metrics.heartbeat_demoted++;
    metrics.heartbeat_demotions_total++;
}

/* What all that is logged has in common. */
static bool log_missed(struct ws_server *s, const struct conn *c, enum log_event e)
{
    if (!log_begin(e))
        return false;
    log_id("conn_id", conn_id(c));
    log_ago("last_pong_at", (uint64_t)(now(s) - c->ponged) * WHEEL_TICK_MS);
    return true;
}

static void suspect(struct ws_server *s, struct conn *c)
{
    c->beat = (uint8_t)((c->beat | WS_SUSPECT) & ~(WS_PINGED | WS_UNSENT | WS_LOOK));
    c->beat_slices = 0;
    metrics.heartbeat_suspects++;
    if (c->beat & WS_TALKED)
        demote(c);
    if (log_missed(s, c, LOG_heartbeat_missed)) {
        log_number("demoted", !!(c->beat & WS_DEMOTED));
        log_end();
    }
}

struct ws_beat_state ws_beat_state(const struct ws_server *s, const struct conn *c)
{
    return (struct ws_beat_state){c->beat, (uint64_t)(now(s) - c->heard) * WHEEL_TICK_MS,
                                  (uint64_t)(now(s) - c->ponged) * WHEEL_TICK_MS};
}

void ws_beat_resume(struct ws_server *s, struct conn *c, const struct ws_beat_state *state)
{
    bool known = state->beat & WS_SUSPECT && s->beat.interval_ms;
    c->beat = known ? (uint8_t)(state->beat & (WS_SUSPECT | WS_DEMOTED)) : 0;
    c->beat_slices = 0;
    c->heard = now(s) - (uint32_t)(state->heard_ms / WHEEL_TICK_MS);
    c->ponged = now(s) - (uint32_t)(state->ponged_ms / WHEEL_TICK_MS);
    metrics.heartbeat_suspects += !!(c->beat & WS_SUSPECT);
    metrics.heartbeat_demoted += !!(c->beat & WS_DEMOTED);
    arm(s, c);
}

void ws_beat_end(struct conn *c)
{
    metrics.heartbeat_suspects -= !!(c->beat & WS_SUSPECT);
    metrics.heartbeat_demoted -= !!(c->beat & WS_DEMOTED);
    c->beat = c->beat_slices = 0;
}

static void evict(struct ws_server *s, struct conn *c, bool missed)
{
    if (missed)
        metrics.heartbeat_evicted_missed_total++;
    else
        metrics.heartbeat_evicted_silent_total++;
    if (log_missed(s, c, LOG_heartbeat_evicted)) {
        log_text("close_reason", slice_str(close_name(CLOSE_HEARTBEAT_TIMEOUT)));
        log_text("cause", slice_str(missed ? "a second ping was not answered" : "silent"));
        log_end();
    }
    ws_conn_close(s, c, close_code(CLOSE_HEARTBEAT_TIMEOUT),
                  slice_str(close_name(CLOSE_HEARTBEAT_TIMEOUT)), CLOSE_HEARTBEAT_TIMEOUT);
}

/* Its time is over unless the socket has something for us. A demoted one is read without being
 * held for as long as a slice. */
static void look(struct ws_server *s, struct conn *c)
{
    bool demoted = c->beat & WS_DEMOTED;
    c->beat |= WS_LOOK;
    conn_look(s->net, c);
    conn_timer(s->net, c, demoted ? s->net->hold_ms + slice_ticks(s) * WHEEL_TICK_MS : 1);
}

/* true: what the peer sent of a message has waited too long for its rest. */
static bool partial_over(struct ws_server *s, struct conn *c)
{
    if (!c->detail || until_partial(s, c))
        return false;
    ws_conn_fail(s, c, ERR_WS_TIMEOUT, CLOSE_MESSAGE_TIMEOUT);
    return true;
}

/* true: the ping was not answered, or nothing is heard any more; it was acted upon. */
static bool judge(struct ws_server *s, struct conn *c)
{
    bool missed = c->beat & WS_PINGED && c->beat_slices == WS_BEAT_SLICES - 1;
    if (c->beat & WS_PINGED && !missed)
        c->beat_slices++;
    bool silent = now(s) - c->heard >= ticks(s->beat.evict_ms);
    if (!missed && !silent) {
        c->beat &= (uint8_t)~WS_LOOK;
        return false;
    }
    if (!(c->beat & WS_LOOK)) {
        look(s, c);
        return true;
    }
    metrics.heartbeat_misses_total += missed;
    if (silent || c->beat & WS_SUSPECT) {
        evict(s, c, !silent);
        return true;
    }
    suspect(s, c);
    arm(s, c);
    return true;
}

void ws_beat_due(struct ws_server *s, struct conn *c)
{
    bool ours = excused(c);
    if (!ours && partial_over(s, c))
        return;
    if (!s->beat.interval_ms) {
        arm(s, c);
        return;
    }
    /* Time that the loop was away, or that was ours, is none in which the peer was silent. */
    c->heard += now(s) - c->timer.due + (ours ? slice_ticks(s) + 1 : 0); /* 1: the wheel's own */
    if ((int32_t)(now(s) - c->heard) < 0)
        c->heard = now(s);
    bool waits = c->beat & (WS_PINGED | WS_SUSPECT);
    if (waits && !ours && judge(s, c))
        return;
    if (!(c->beat & WS_PINGED) || c->beat & WS_UNSENT)
        ping(s, c);
    arm(s, c);
}

void ws_beat_message(struct ws_server *s, struct conn *c)
{
    c->heard = now(s);
    c->released = false;
    if (c->beat & WS_PINGED)
        c->beat |= WS_TALKED;
    if ((c->beat & (WS_SUSPECT | WS_DEMOTED)) == WS_SUSPECT)
        demote(c);
}

void ws_beat_pong(struct ws_server *s, struct conn *c, struct slice payload)
{
    uint64_t got;
    bool suspected = c->beat & WS_SUSPECT;
    bool ours = payload.n == sizeof(got) && c->beat & (WS_PINGED | WS_SUSPECT);
    if (ours) {
        memcpy(&got, payload.p, sizeof(got));
        ours = got == payload_of(c, false) || (suspected && got == payload_of(c, true));
    }
    if (!ours) {
        metrics.heartbeat_pongs_other_total++;
        return;
    }
    metrics.heartbeat_pongs_total++;
    ws_beat_end(c);
    c->heard = c->ponged = now(s);
    arm(s, c);
}

void ws_beat_partial(struct ws_server *s, struct conn *c, struct ws_rx *rx)
{
    *ws_rx_began(rx) = now(s);
    uint32_t wait = ticks(s->message_timeout_ms);
    bool sooner = !timer_is_set(&c->timer) || c->timer.due - now(s) > wait;
    if (sooner && !(c->flags & WS_CLOSE_SENT))
        conn_timer(s->net, c, s->message_timeout_ms);
}

void ws_beat_start(struct ws_server *s, struct conn *c)
{
    c->beat = c->beat_slices = 0;
    c->heard = c->ponged = now(s);
    arm(s, c);
}

void ws_beat_check(const struct ws_server *s, const struct conn *c)
{
    bool open = c->state == CONN_OPEN && !(c->flags & WS_CLOSE_SENT);
    ASSERT(!open || !s->beat.interval_ms || timer_is_set(&c->timer));
    ASSERT(open || !c->beat || c->state == CONN_CLOSED);
    ASSERT(!(c->beat & (WS_UNSENT | WS_TALKED)) || c->beat & (WS_PINGED | WS_SUSPECT));
    ASSERT(!(c->beat & WS_DEMOTED) || c->beat & WS_SUSPECT);
    ASSERT((int32_t)(now(s) - c->heard) >= 0 && (int32_t)(now(s) - c->ponged) >= 0);
}
