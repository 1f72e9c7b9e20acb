#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "sys/sys.h"

bool sys_notify(const char *text)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    size_t n = path ? strlen(path) : 0;
    if ((n && *path != '/' && *path != '@') || n < 2 || n >= sizeof(to.sun_path))
        return false;
    memcpy(to.sun_path, path, n);
    if (*path == '@') /* of the abstract kind, which begins with a NUL */
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    ssize_t sent = sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&to,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    close(fd);
    return sent >= 0;
}

uint32_t sys_notify_watchdog_ms(void)
{
    const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t ms = usec ? strtoull(usec, NULL, 10) / 1000 : 0;
    bool ours = !pid || strtol(pid, NULL, 10) == getpid();
    return ours ? (uint32_t)MIN(ms, (uint64_t)INT32_MAX) : 0;
}
