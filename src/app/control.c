#include "app/control.h"

#include <inttypes.h>
#include <stdio.h>

#include "sys/sys.h"

static bool put(int to, enum control_kind kind, uint32_t number, struct slice bytes, int fd)
{
    static struct control m;
    m.kind = kind;
    m.number = number;
    size_t n = MIN(bytes.n, (size_t)CONTROL_TEXT);
    slice_copy(m.text, slice_of(bytes.p, n));
    n += offsetof(struct control, text);
    return sys_control_send(to, &m, n, &fd, fd >= 0) == (int)n;
}

bool control_send(int to, enum control_kind kind, uint32_t number, const char *text, int fd)
{
    return put(to, kind, number, slice_str(text), fd);
}

bool control_send_bytes(int to, enum control_kind kind, uint32_t number, struct slice bytes)
{
    return put(to, kind, number, bytes, -1);
}

bool control_recv(int from, struct control *out, int *fd)
{
    int fds[SYS_CONTROL_FDS];
    unsigned n_fds;
    const size_t most = offsetof(struct control, text) + CONTROL_TEXT;
    ssize_t n = sys_control_recv(from, out, most, fds, &n_fds);
    *fd = n_fds ? fds[0] : -1;
    for (unsigned i = 1; i < n_fds; i++)
        sys_close(fds[i]);
    if (n < (ssize_t)offsetof(struct control, text)) {
        sys_close(*fd);
        return false;
    }
    out->n = (size_t)n - offsetof(struct control, text);
    out->text[out->n] = 0;
    return true;
}

void control_versions_write(char out[VERSIONS_TEXT], const struct module_version *now,
                            const struct module_version *before)
{
    snprintf(out, VERSIONS_TEXT, "%" PRIu32 " %s %" PRIu64 " %" PRIu32 " %s %" PRIu64 " %" PRIu32,
             now->number, now->sha256, now->since_ms, before->number,
             before->number ? before->sha256 : "-", before->since_ms, now->percent);
}

void control_versions_read(const char *text, struct module_version *now,
                           struct module_version *before)
{
    struct module_version a = {0}, b = {0};
    if (sscanf(text, "%" SCNu32 " %16s %" SCNu64 " %" SCNu32 " %16s %" SCNu64 " %" SCNu32,
               &a.number, a.sha256, &a.since_ms, &b.number, b.sha256, &b.since_ms,
               &a.percent) == 7) {
        *now = a;
        *before = b;
    }
}
