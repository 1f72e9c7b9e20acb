/* Certificates and keys of tickets, from the supervisor to all loops: at the start in turn, later
 * by an errand, as each loop has contexts of its own. */
#include "app/worker.h"

#include <stdlib.h>

#include "app/loops.h"

struct tls_errand {
    struct errand errand;
    uint32_t listener;
    bool tickets; /* what bytes are: keys, or certificates */
    struct slice bytes;
    enum err err;
    struct buf why;
};

static void take(struct gateway *gw, struct tls_errand *t)
{
    if (t->tickets)
        tls_tickets(&gw->net, t->bytes);
    else if (!t->err && t->listener < gw->n_listeners) /* the admin's is the first loop's alone */
        t->err = gateway_tls(gw, t->listener, t->bytes, &t->why);
}

static void visit(struct gateway *gw, struct errand *e)
{
    take(gw, CONTAINER_OF(e, struct tls_errand, errand));
    errand_next(gw, e);
}

/* Answers where there is something to: TLS_LOADED or TLS_REFUSED. */
static void home(struct gateway *gw, struct errand *e)
{
    struct tls_errand *t = CONTAINER_OF(e, struct tls_errand, errand);
    (void)gw;
    if (!t->tickets) {
        metrics.tls_certificates_total += !t->err;
        metrics.tls_certificates_failed_total += t->err != ERR_NONE;
        struct slice text = t->err && !t->why.len ? slice_str(err_text(t->err))
                                                  : buf_slice(&t->why);
        (void)control_send_bytes(SYS_CONTROL_FD, t->err ? CONTROL_TLS_REFUSED : CONTROL_TLS_LOADED,
                                 t->listener, text); /* its end is seen elsewhere */
    }
    if (t->bytes.n)
        explicit_bzero((void *)(uintptr_t)t->bytes.p, t->bytes.n);
    mem_free((void *)(uintptr_t)t->bytes.p, t->bytes.n ? t->bytes.n : 1);
    buf_done(&t->why);
    mem_free(t, sizeof(*t));
}

/* What came with the word: a memfd's bytes, its text, or why there are none. */
static void bytes_of(struct tls_errand *t, const struct control *m, int fd)
{
    if (fd >= 0) {
        t->err = sys_fd_read_size(fd, strtoul(m->text, NULL, 10), &t->bytes);
    } else if (t->tickets) {
        uint8_t *p = mem_alloc(m->n ? m->n : 1);
        t->bytes = slice_of(p, p ? m->n : 0);
        slice_copy(p, slice_of(m->text, t->bytes.n));
    } else {
        t->err = buf_append(&t->why, slice_of(m->text, m->n));
        t->err = t->err ? t->err : ERR_INVALID;
    }
    sys_close(fd);
}

bool worker_tls(struct gateway *gw, const struct control *m, int fd, bool starting)
{
    struct tls_errand *t = mem_alloc(sizeof(*t));
    if (!t) {
        sys_close(fd);
        return false;
    }
    *t = (struct tls_errand){.errand = {.visit = visit, .home = home},
                             .listener = m->number,
                             .tickets = m->kind == CONTROL_TICKETS};
    buf_init(&t->why, 8192);
    bytes_of(t, m, fd);
    for (uint32_t i = 0; starting && i < loops_count(gw); i++)
        take(loops_at(gw, i), t);
    bool ok = !t->err;
    if (starting)
        home(gw, &t->errand);
    else
        errand_start(gw, &t->errand);
    return ok;
}
