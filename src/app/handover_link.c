#include "app/handover_link.h"

enum { PART = 48 << 10, BATCH = 40 << 10 };

struct handover_link *handover_link_new(int fd)
{
    struct handover_link *l = mem_alloc(sizeof(*l));
    if (!l) {
        sys_close(fd);
        return NULL;
    }
    l->fd = fd;
    l->taken = l->n_sent = l->n_received = 0;
    buf_init(&l->out, HANDOVER_RECORD_MAX + PART);
    buf_init(&l->in, HANDOVER_RECORD_MAX + PART);
    return l;
}

void handover_link_free(struct handover_link *l)
{
    for (unsigned i = 0; i < l->n_received; i++)
        sys_close(l->received[i]);
    sys_close(l->fd);
    buf_done(&l->out);
    buf_done(&l->in);
    mem_free(l, sizeof(*l));
}

enum err handover_link_flush(struct handover_link *l)
{
    enum err e = ERR_NONE;
    for (uint32_t at = 0; at < l->out.len && !e;) {
        uint32_t n = MIN(l->out.len - at, (uint32_t)PART);
        int sent = sys_control_send(l->fd, l->out.p + at, n, l->sent, l->n_sent);
        e = sent == (int)n ? ERR_NONE : ERR_SYS;
        l->n_sent = 0;
        at += n;
    }
    buf_clear(&l->out, 2 * PART);
    return e;
}

enum err handover_link_put(struct handover_link *l, const struct handover_record *r, int fd)
{
    enum err e = handover_write(&l->out, r);
    if (!e && fd >= 0)
        l->sent[l->n_sent++] = fd;
    if (!e && (l->out.len >= BATCH || l->n_sent == SYS_CONTROL_FDS))
        e = handover_link_flush(l);
    return e;
}

static enum err receive(struct handover_link *l)
{
    int fds[SYS_CONTROL_FDS];
    unsigned n_fds = 0;
    buf_consume(&l->in, l->taken);
    l->taken = 0;
    if (buf_reserve(&l->in, PART))
        return ERR_NO_MEMORY;
    ssize_t n = sys_control_recv(l->fd, l->in.p + l->in.len, PART, fds, &n_fds);
    enum err e = n > 0 ? ERR_NONE : ERR_SYS;
    if (n > 0)
        l->in.len += (uint32_t)n;
    for (unsigned i = 0; i < n_fds; i++)
        if (!e && l->n_received < ARRAY_LEN(l->received)) {
            l->received[l->n_received++] = fds[i];
        } else {
            sys_close(fds[i]);
            e = e ? e : ERR_INVALID;
        }
    return e;
}

enum err handover_link_get(struct handover_link *l, struct handover_record *out)
{
    for (;;) {
        size_t n = 0;
        struct slice in = slice_of(l->in.p + l->taken, l->in.len - l->taken);
        enum handover_state state = in.n ? handover_read(in, out, &n) : HANDOVER_MORE;
        l->taken += n;
        if (state == HANDOVER_DONE)
            return ERR_NONE;
        enum err e = state == HANDOVER_BAD ? ERR_INVALID : receive(l);
        if (e)
            return e;
    }
}

int handover_link_fd(struct handover_link *l)
{
    if (!l->n_received)
        return -1;
    int fd = l->received[0];
    memmove(l->received, l->received + 1, --l->n_received * sizeof(int));
    return fd;
}
