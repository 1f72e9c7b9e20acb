#include "app/control.h"

#include <stdio.h>

#include "sys/sys.h"

bool control_send(int to, enum control_kind kind, uint32_t number, const char *text, int fd)
{
    struct control m = {.kind = kind, .number = number};
    snprintf(m.text, sizeof(m.text), "%s", text);
    size_t n = offsetof(struct control, text) + strlen(m.text) + 1;
    return sys_control_send(to, &m, n, &fd, fd >= 0) == (int)n;
}

bool control_recv(int from, struct control *out, int *fd)
{
    int fds[SYS_CONTROL_FDS];
    unsigned n_fds;
    ssize_t n = sys_control_recv(from, out, sizeof(*out), fds, &n_fds);
    *fd = n_fds ? fds[0] : -1;
    for (unsigned i = 1; i < n_fds; i++)
        sys_close(fds[i]);
    if (n <= (ssize_t)offsetof(struct control, text))
        return false;
    ((char *)out)[n - 1] = 0;
    return true;
}
