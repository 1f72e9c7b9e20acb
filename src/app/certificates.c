#include "app/certificates.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"

enum { ALL_MAX = CONFIG_CERTIFICATES_MAX * TLS_PEMS * (TLS_PEM_MAX + 4) };

static void wipe(struct slice s)
{
    explicit_bzero((void *)(uintptr_t)s.p, s.n);
    mem_free((void *)(uintptr_t)s.p, s.n ? s.n : 1);
}

static enum err file_read(const char *path, struct slice *out, struct buf *why)
{
    enum err e = sys_file_read(path, TLS_PEM_MAX, out);
    if (e && buf_printf(why, "can't read %s: %s", path,
                        e == ERR_LIMIT ? "larger than 1 MiB" : strerror(errno)))
        why->len = 0;
    return e;
}

static void pem_wipe(const struct slice pem[TLS_PEMS])
{
    for (int i = 0; i < TLS_PEMS; i++)
        if (pem[i].p)
            wipe(pem[i]);
}

/* pem_wipe where there was no error. */
static enum err pem_read(const struct config_certificate *one, struct slice pem[TLS_PEMS],
                         struct buf *why)
{
    const char *const files[TLS_PEMS] = {one->certificate, one->key, one->client_ca};
    enum err e = ERR_NONE;
    memset(pem, 0, TLS_PEMS * sizeof(*pem));
    for (int i = 0; i < TLS_PEMS && !e; i++)
        e = files[i] ? file_read(files[i], &pem[i], why) : ERR_NONE;
    if (!e && one->client_ca && !pem[TLS_PEM_CLIENT_CA].n) { /* which would ask for none */
        e = buf_printf(why, "%s is empty", one->client_ca);
        e = e ? e : ERR_INVALID;
    }
    if (e)
        pem_wipe(pem);
    return e;
}

/* A listener's, as tls_certificates takes them. why: which can't be read. */
static enum err all_read(const struct certificates *c, uint32_t listener, struct buf *out,
                         struct buf *why)
{
    uint32_t number = 0;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < c->config->n_certificates && !e; i++) {
        const struct config_certificate *one = &c->config->certificates[i];
        struct slice pem[TLS_PEMS];
        if (one->listener != listener)
            continue;
        e = buf_printf(why, "certificate %u: ", ++number);
        e = e ? e : pem_read(one, pem, why);
        if (e)
            return e;
        uint32_t n[TLS_PEMS];
        for (int k = 0; k < TLS_PEMS; k++)
            n[k] = (uint32_t)pem[k].n;
        e = buf_append(out, slice_of(n, sizeof(n)));
        for (int k = 0; k < TLS_PEMS && !e; k++)
            e = buf_append(out, pem[k]);
        pem_wipe(pem);
        why->len = 0;
    }
    return e;
}

static void all_done(struct buf *b)
{
    if (b->p)
        explicit_bzero(b->p, b->len);
    buf_done(b);
}

/* The same sealed; negative: why says it. */
static int all_seal(const struct certificates *c, uint32_t listener, struct buf *why)
{
    struct buf all;
    buf_init(&all, ALL_MAX);
    enum err e = all_read(c, listener, &all, why);
    int fd = e ? -1 : sys_memfd_sealed("certificates", buf_slice(&all));
    if (!e && fd < 0 && buf_printf(why, "memfd: %s", strerror(-fd)))
        why->len = 0;
    all_done(&all);
    return fd;
}

/* The line of what a text beginning with "certificate N" is about. */
static unsigned line_of(const struct certificates *c, uint32_t listener, const char *text)
{
    unsigned number = 1, line = 1;
    if (sscanf(text, "certificate %u", &number) != 1)
        number = 1;
    for (uint32_t i = 0; i < c->config->n_certificates && number; i++)
        if (c->config->certificates[i].listener == listener) {
            line = c->config->certificates[i].line;
            number--;
        }
    return line;
}

static bool has_tls(const struct certificates *c, uint32_t listener)
{
    for (uint32_t i = 0; i < c->config->n_certificates; i++)
        if (c->config->certificates[i].listener == listener)
            return true;
    return false;
}

bool certificates_open(struct certificates *c, const struct config *config, const char *file,
                       struct loop *loop)
{
    bool ok = true;
    *c = (struct certificates){.config = config, .file = file, .loop = loop, .worker = -1};
    for (uint32_t i = 0; i < CERTIFICATES_LISTENERS; i++) {
        struct buf why;
        buf_init(&why, 8192);
        c->next[i] = -1;
        c->now[i] = has_tls(c, i) ? all_seal(c, i, &why) : -1;
        if (why.len)
            fprintf(stderr, "%s:%u: %.*s\n", file, line_of(c, i, (const char *)why.p), (int)why.len,
                    (const char *)why.p);
        ok = ok && !why.len;
        buf_done(&why);
    }
    c->rotation.kind = LOOP_TICKETS;
    return ok;
}

bool certificates_check(const struct certificates *c)
{
    bool ok = true;
    for (uint32_t i = 0; i < c->config->n_certificates; i++) {
        const struct config_certificate *one = &c->config->certificates[i];
        struct slice pem[TLS_PEMS];
        struct buf why;
        buf_init(&why, 8192);
        if (pem_read(one, pem, &why) == ERR_NONE) {
            enum err e = tls_certificate_check(pem, &why);
            if (why.len)
                fprintf(stderr, "%s:%u: %s%s: %.*s\n", c->file, one->line,
                        e ? "" : "warning: ", one->certificate, (int)why.len, (const char *)why.p);
            ok = ok && !e;
            pem_wipe(pem);
        }
        buf_done(&why);
    }
    return ok;
}

/* ---- to the worker ---- */

static void give(const struct certificates *c, uint32_t listener, int fd, const char *why)
{
    char size[32];
    snprintf(size, sizeof(size), "%" PRIu64, fd < 0 ? 0 : sys_file_size(fd));
    control_send(c->worker, CONTROL_TLS, listener, fd < 0 ? why : size, fd);
}

static void send_keys(const struct certificates *c)
{
    if (c->worker >= 0)
        control_send_bytes(c->worker, CONTROL_TICKETS, 0,
                           slice_of(c->keys, (size_t)c->n_keys * TLS_TICKET_KEY));
}

void certificates_rotate(struct certificates *c)
{
    memmove(c->keys[1], c->keys[0], sizeof(c->keys) - sizeof(c->keys[0]));
    sys_random(c->keys[0], sizeof(c->keys[0]));
    c->n_keys = MIN(c->n_keys + 1, (uint32_t)TLS_TICKET_KEYS);
    wheel_set(&c->loop->wheel, &c->rotation, c->config->tls.ticket_rotation);
    send_keys(c);
}

void certificates_worker(struct certificates *c, int control)
{
    bool tls = false;
    c->worker = control;
    c->serves = false;
    for (uint32_t i = 0; i < CERTIFICATES_LISTENERS && control >= 0; i++) {
        sys_close(c->next[i]);
        c->next[i] = -1;
        c->pending[i] = false;
        if (c->now[i] >= 0)
            give(c, i, c->now[i], "");
        tls = tls || c->now[i] >= 0;
    }
    if (tls && !c->n_keys)
        certificates_rotate(c);
    else if (tls)
        send_keys(c);
}

void certificates_serve(struct certificates *c)
{
    c->serves = true;
    if (c->asked)
        certificates_reload(c);
}

static bool same(int a, int b)
{
    struct slice x, y;
    if (sys_fd_read(a, ALL_MAX, &x))
        return false;
    bool equal = sys_fd_read(b, ALL_MAX, &y) == ERR_NONE;
    if (equal) {
        equal = slice_eq(x, y);
        wipe(y);
    }
    wipe(x);
    return equal;
}

static void listener_reload(struct certificates *c, uint32_t i)
{
    struct buf why;
    buf_init(&why, 8192);
    int fd = all_seal(c, i, &why);
    if (fd >= 0 && same(fd, c->now[i])) {
        sys_close(fd);
    } else if (buf_append(&why, slice_of("", 1)) == ERR_NONE) {
        c->pending[i] = true;
        c->next[i] = fd;
        give(c, i, fd, (const char *)why.p);
    } else {
        sys_close(fd);
    }
    buf_done(&why);
}

void certificates_reload(struct certificates *c)
{
    c->asked = !c->serves;
    for (uint32_t i = 0; i < CERTIFICATES_LISTENERS && c->serves; i++) {
        if (c->pending[i])
            c->asked = true; /* once more, after its answer */
        else if (c->now[i] >= 0)
            listener_reload(c, i);
    }
}

bool certificates_message(struct certificates *c, const struct control *m)
{
    bool loaded = m->kind == CONTROL_TLS_LOADED;
    uint32_t i = m->number;
    if (i >= CERTIFICATES_LISTENERS || c->now[i] < 0)
        return true;
    if (loaded && c->next[i] >= 0) {
        sys_close(c->now[i]);
        c->now[i] = c->next[i];
    } else {
        sys_close(c->next[i]);
    }
    c->next[i] = -1;
    c->pending[i] = false;
    if (log_begin(loaded ? LOG_certificates_loaded : LOG_certificates_refused)) {
        log_text("listener", slice_str(i < c->config->n_listen ? c->config->listen[i]
                                                               : c->config->admin.address));
        log_text("file", slice_str(c->file));
        log_number("line", line_of(c, i, m->text));
        if (m->n)
            log_text("detail", slice_of(m->text, m->n));
        log_end();
    }
    if (c->asked && c->serves)
        certificates_reload(c);
    return loaded || c->serves;
}

void certificates_inherit(struct certificates *c, const struct certificates *old)
{
    memcpy(c->keys, old->keys, sizeof(c->keys));
    c->n_keys = old->n_keys;
}

void certificates_moved(struct certificates *c, const struct config *config)
{
    c->config = config;
    c->rotation = (struct timer){.kind = LOOP_TICKETS};
    if (c->n_keys)
        wheel_set(&c->loop->wheel, &c->rotation, config->tls.ticket_rotation);
}

void certificates_done(struct certificates *c)
{
    if (!c->loop)
        return;
    wheel_cancel(&c->loop->wheel, &c->rotation);
    for (uint32_t i = 0; i < CERTIFICATES_LISTENERS; i++) {
        sys_close(c->now[i]);
        sys_close(c->next[i]);
    }
    explicit_bzero(c->keys, sizeof(c->keys));
    *c = (struct certificates){.worker = -1};
}
