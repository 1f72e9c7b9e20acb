/* Messages with descriptors: sys.h. */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "sys/sys.h"

static int result(int r)
{
    return r < 0 ? -errno : r;
}

enum { AGAIN_MS = 3000 };

/* Whether a call that a signal has interrupted is to be made again. A signal that comes again and
 * again, as guests' ticker, would keep a socket's own time limit from ever being reached. */
static bool again(ssize_t r, uint64_t begin_ns)
{
    return r < 0 && errno == EINTR && sys_now_ns() - begin_ns < AGAIN_MS * UINT64_C(1000000);
}

int sys_control_pair(int out[2])
{
    return result(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, out));
}

int sys_handover_pair(int out[2], uint32_t ms)
{
    const struct timeval wait = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};
    int e = sys_control_pair(out);
    for (int i = 0; i < 2 && e >= 0; i++) {
        setsockopt(out[i], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
        setsockopt(out[i], SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    }
    return e;
}

int sys_control_send(int fd, const void *p, size_t n, const int *fds, unsigned n_fds)
{
    ASSERT(n_fds <= SYS_CONTROL_FDS);
    struct iovec v = {(void *)(uintptr_t)p, n};
    union {
        char space[CMSG_SPACE(sizeof(int) * SYS_CONTROL_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (n_fds) {
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    const uint64_t begin_ns = sys_now_ns();
    int r;
    do
        r = (int)sendmsg(fd, &m, MSG_NOSIGNAL);
    while (again(r, begin_ns));
    return result(r);
}

bool sys_readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

ssize_t sys_control_recv(int fd, void *p, size_t n, int fds[SYS_CONTROL_FDS], unsigned *n_fds)
{
    struct iovec v = {p, n};
    union {
        char space[CMSG_SPACE(sizeof(int) * SYS_CONTROL_FDS)];
        struct cmsghdr align;
    } control;
    struct msghdr m = {.msg_iov = &v,
                       .msg_iovlen = 1,
                       .msg_control = control.space,
                       .msg_controllen = sizeof(control.space)};
    *n_fds = 0;
    const uint64_t begin_ns = sys_now_ns();
    ssize_t r;
    do
        r = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
    while (again(r, begin_ns));
    if (r < 0)
        return -errno;
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        *n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), sizeof(int) * *n_fds);
    }
    return r;
}

ssize_t sys_write(int fd, struct slice a)
{
    for (size_t at = 0; at < a.n;) {
        ssize_t r = send(fd, a.p + at, a.n - at, MSG_NOSIGNAL);
        if (r < 0 && errno != EINTR)
            return -errno;
        at += r > 0 ? (size_t)r : 0;
    }
    return (ssize_t)a.n;
}
