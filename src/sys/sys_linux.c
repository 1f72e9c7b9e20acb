#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "sys/sys.h"

static int result(int r)
{
    return r < 0 ? -errno : r;
}

int sys_poller_new(void)
{
    return result(epoll_create1(EPOLL_CLOEXEC));
}

static struct epoll_event epoll_event_of(uint32_t want, uint64_t data)
{
    uint32_t events = 0;
    events |= want & SYS_IN ? (uint32_t)EPOLLIN : 0;
    events |= want & SYS_OUT ? (uint32_t)EPOLLOUT : 0;
    events |= want & SYS_EDGE ? (uint32_t)EPOLLET | (uint32_t)EPOLLRDHUP : 0;
    return (struct epoll_event){.events = events, .data.u64 = data};
}

int sys_poller_add(int poller, int fd, uint32_t want, uint64_t data)
{
    struct epoll_event e = epoll_event_of(want, data);
    return result(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e));
}

int sys_poller_change(int poller, int fd, uint32_t want, uint64_t data)
{
    struct epoll_event e = epoll_event_of(want, data);
    return result(epoll_ctl(poller, EPOLL_CTL_MOD, fd, &e));
}

int sys_poller_remove(int poller, int fd)
{
    return result(epoll_ctl(poller, EPOLL_CTL_DEL, fd, NULL));
}

int sys_poller_wait(int poller, struct sys_event *out, int timeout_ms)
{
    struct epoll_event events[SYS_EVENTS_MAX];
    int n = epoll_wait(poller, events, SYS_EVENTS_MAX, timeout_ms);
    for (int i = 0; i < n; i++) {
        uint32_t e = events[i].events;
        out[i].data = events[i].data.u64;
        out[i].ready = (e & EPOLLIN ? (uint32_t)SYS_IN : 0) |
                       (e & EPOLLOUT ? (uint32_t)SYS_OUT : 0) |
                       (e & (EPOLLERR | EPOLLHUP) ? (uint32_t)SYS_HANGUP : 0) |
                       (e & EPOLLRDHUP ? (uint32_t)SYS_END : 0);
    }
    return n < 0 ? 0 : n;
}

static bool address_parse(const char *host, uint16_t port, struct sockaddr_storage *out,
                          socklen_t *len)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    struct sockaddr_un *un = (struct sockaddr_un *)out;
    memset(out, 0, sizeof(*out));
    if (host[0] == '/' && strlen(host) < sizeof(un->sun_path)) {
        un->sun_family = AF_UNIX;
        strcpy(un->sun_path, host);
        *len = sizeof(*un);
        return true;
    }
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        *len = sizeof(*v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        *len = sizeof(*v6);
        return true;
    }
    return false;
}

void sys_pause(uint32_t ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

/* Makes room for a Unix socket, and sees to whom it serves before it does. */
static int bind_to(int fd, const struct sockaddr *address, socklen_t len)
{
    const struct sockaddr_un *un = (const struct sockaddr_un *)address;
    if (address->sa_family != AF_UNIX)
        return bind(fd, address, len);
    struct stat st;
    if (lstat(un->sun_path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        int try = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (try >= 0 && connect(try, address, len) < 0 && errno == ECONNREFUSED)
            unlink(un->sun_path);
        close(try);
    }
    /* The file gets the socket's mode; a chmod afterwards could hit what took its place. */
    return fchmod(fd, 0600) < 0 ? -1 : bind(fd, address, len);
}

int sys_listen(const char *host, uint16_t port)
{
    struct sockaddr_storage address;
    socklen_t len;
    int on = 1;
    if (!address_parse(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, port, &address, &len))
        return -EINVAL;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind_to(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 4096) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int sys_listen_more(int first)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    int on = 1;
    /* The first was bound without, so that two programs never share an address unknowingly. */
    if (getsockname(first, (struct sockaddr *)&address, &len) < 0 ||
        setsockopt(first, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0)
        return -errno;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0 ||
        bind(fd, (struct sockaddr *)&address, len) < 0 || listen(fd, 4096) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int sys_connect(const char *host, uint16_t port, uint32_t timeout_ms)
{
    struct sockaddr_storage address;
    socklen_t len;
    const struct timeval wait = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000L};
    if (!address_parse(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, port, &address, &len))
        return -EINVAL;
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    if (connect(fd, (struct sockaddr *)&address, len) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

int sys_accept(int listener)
{
    int on = 1;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static int address_text(const struct sockaddr_storage *a, struct sys_address *out)
{
    char host[INET6_ADDRSTRLEN] = "";
    if (a->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(out->text, sizeof(out->text), "%s:%u", host, ntohs(v4->sin_port));
    } else if (a->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(out->text, sizeof(out->text), "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        snprintf(out->text, sizeof(out->text), "unix");
    }
    return 0;
}

int sys_peer(int fd, struct address *out)
{
    struct sockaddr_storage a;
    struct sys_address text;
    socklen_t len = sizeof(a);
    if (getpeername(fd, (struct sockaddr *)&a, &len) < 0 || address_text(&a, &text) < 0)
        return -errno;
    return address_port_parse(slice_str(text.text), out) ? 0 : -EAFNOSUPPORT;
}

int sys_local(int fd, struct sys_address *out)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    return getsockname(fd, (struct sockaddr *)&a, &len) < 0 ? -errno : address_text(&a, out);
}

ssize_t sys_recv(int fd, void *p, size_t n)
{
    ssize_t r = recv(fd, p, n, MSG_DONTWAIT);
    return r < 0 ? -errno : r;
}

ssize_t sys_send(int fd, struct slice a)
{
    ssize_t r = send(fd, a.p, a.n, MSG_NOSIGNAL | MSG_DONTWAIT);
    return r < 0 ? -errno : r;
}

ssize_t sys_sendv(int fd, const struct slice *v, unsigned n)
{
    struct iovec io[SYS_SENDV];
    ASSERT(n <= SYS_SENDV);
    for (unsigned i = 0; i < n; i++)
        io[i] = (struct iovec){(void *)(uintptr_t)v[i].p, v[i].n};
    struct msghdr m = {.msg_iov = io, .msg_iovlen = n};
    ssize_t r = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    return r < 0 ? -errno : r;
}

void sys_reset(int fd)
{
    const struct linger now = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

int sys_shutdown_write(int fd)
{
    return result(shutdown(fd, SHUT_WR));
}

void sys_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

int sys_dup(int fd)
{
    return result(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

int sys_reserve_open(void)
{
    return result(eventfd(0, EFD_CLOEXEC)); /* no file: a caged worker opens none */
}

uint32_t sys_fd_limit(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return 1024;
    if (r.rlim_cur < r.rlim_max) {
        struct rlimit more = {r.rlim_max, r.rlim_max};
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            r = more;
    }
    return r.rlim_cur > UINT32_MAX ? UINT32_MAX : (uint32_t)r.rlim_cur;
}

void sys_fd_room(uint32_t n)
{
    n = MIN(n, sys_fd_limit());
    sys_close(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, (int)(n ? n - 1 : 0)));
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t sys_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

uint64_t sys_thread_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t sys_wall_ms(void)
{
    return clock_ns(CLOCK_REALTIME) / 1000000u;
}

void sys_random(void *p, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t r = getrandom((uint8_t *)p + done, n - done, 0);
        ASSERT(r > 0 || errno == EINTR);
        if (r > 0)
            done += (size_t)r;
    }
}

/* linux/fs.h of 6.7. */
struct page_region {
    uint64_t start, end, categories;
};
struct page_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted,
        category_mask, category_anyof_mask, return_mask;
};
enum { PAGE_FILE = 4, PAGE_PRESENT = 8, PAGE_SWAPPED = 16, PAGE_ZERO = 32 };
enum { PAGES_MAX = 64 };

static int pagemap = -1;

/* A page of a private mapping is written where it is anonymous: present or swapped out, and not the
 * file's. What was never touched, or was only read in the file's part, is neither. */
static int pages_scan(uint64_t start, uint64_t end, struct page_region *out, unsigned cap)
{
    struct page_scan scan = {.size = sizeof(scan),
                             .start = start,
                             .end = end,
                             .vec = (uintptr_t)out,
                             .vec_len = cap,
                             .category_inverted = PAGE_FILE,
                             .category_mask = PAGE_FILE,
                             .category_anyof_mask = PAGE_PRESENT | PAGE_SWAPPED,
                             .return_mask = PAGE_ZERO};
    int n = ioctl(pagemap, _IOWR('f', 16, struct page_scan), &scan);
    return n < 0 ? -errno : scan.walk_end != end ? -ENOSPC : n;
}

bool sys_pages_open(void)
{
    static bool tried;
    struct page_region region;
    if (!tried) {
        tried = true;
        pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (pagemap >= 0 && pages_scan(0, 0, &region, 1) < 0) {
            close(pagemap);
            pagemap = -1;
        }
    }
    return pagemap >= 0;
}

int sys_pages_written(const void *base, size_t n, struct sys_pages *out, unsigned cap)
{
    struct page_region regions[PAGES_MAX];
    uint64_t start = (uintptr_t)base;
    int found = pages_scan(start, start + n, regions, MIN(cap, PAGES_MAX));
    for (int i = 0; i < found; i++)
        out[i] = (struct sys_pages){.at = (size_t)(regions[i].start - start),
                                    .n = (size_t)(regions[i].end - regions[i].start),
                                    .zero = regions[i].categories & PAGE_ZERO};
    return found;
}

uint64_t sys_file_size(int fd)
{
    struct statx st; /* by the call that a worker's cage allows */
    return statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &st) < 0 ? 0 : st.stx_size;
}

enum err sys_fd_read_size(int fd, size_t n, struct slice *out)
{
    uint8_t *p = mem_alloc(n ? n : 1);
    if (!p)
        return ERR_NO_MEMORY;
    for (size_t done = 0; done < n;) {
        ssize_t r = pread(fd, p + done, n - done, (off_t)done);
        if (r <= 0) {
            mem_free(p, n ? n : 1);
            return ERR_SYS;
        }
        done += (size_t)r;
    }
    *out = slice_of(p, n);
    return ERR_NONE;
}

void sys_read_free(struct slice content)
{
    mem_free((void *)(uintptr_t)content.p, content.n ? content.n : 1);
}

enum err sys_fd_read(int fd, size_t max, struct slice *out)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return ERR_SYS;
    if (!S_ISREG(st.st_mode)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
        return ERR_SYS;
    }
    if ((uint64_t)st.st_size > max)
        return ERR_LIMIT;
    return sys_fd_read_size(fd, (size_t)st.st_size, out);
}

enum err sys_file_read(const char *path, size_t max, struct slice *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_SYS;
    enum err e = sys_fd_read(fd, max, out);
    int saved = errno;
    close(fd);
    errno = saved;
    return e;
}

enum err sys_file_write(const char *path, struct slice content)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof(temporary), "%s.%d.new", path, (int)getpid()) >=
        (int)sizeof(temporary))
        return ERR_LIMIT;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return ERR_SYS;
    bool ok = sys_fd_write(fd, content) == ERR_NONE;
    ok = close(fd) == 0 && ok && rename(temporary, path) == 0;
    if (!ok)
        unlink(temporary);
    return ok ? ERR_NONE : ERR_SYS;
}

bool sys_path_trusted(const char *path, char resolved[SYS_PATH_MAX], char *why, size_t cap)
{
    char at[SYS_PATH_MAX];
    if (!realpath(path, resolved)) {
        snprintf(why, cap, "%s: %s", path, strerror(errno));
        return false;
    }
    memcpy(at, resolved, sizeof(at));
    for (;;) {
        struct stat st;
        if (stat(at, &st) < 0) {
            snprintf(why, cap, "%s: %s", at, strerror(errno));
            return false;
        }
        /* A sticky folder (such as /tmp) lets nobody replace another user's entries. */
        bool shared = (st.st_mode & (S_IWGRP | S_IWOTH)) &&
                      !(S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX));
        if ((st.st_uid != 0 && st.st_uid != geteuid()) || shared) {
            snprintf(why, cap, "%s can be written by others: chown it to this user and chmod go-w",
                     at);
            return false;
        }
        if (strcmp(at, "/") == 0)
            return true;
        char *above = dirname(at); /* within `at`, which it cuts */
        memmove(at, above, strlen(above) + 1);
    }
}

int sys_memfd_sealed(const char *name, struct slice content)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (sys_fd_write(fd, content)) {
        int e = errno;
        close(fd);
        return -e;
    }
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
    return fd;
}

int sys_file_exists(const char *path)
{
    return access(path, R_OK) == 0;
}

void sys_folder_make(const char *path)
{
    char at[PATH_MAX];
    size_t n = strlen(path);
    if (n >= sizeof(at))
        return;
    for (size_t i = 1; i <= n; i++)
        if (path[i] == '/' || !path[i]) {
            memcpy(at, path, i);
            at[i] = 0;
            mkdir(at, 0755);
        }
}

const char *sys_cpu_features(void)
{
    static char line[4096];
    FILE *cpu = line[0] ? NULL : fopen("/proc/cpuinfo", "r");
    if (!cpu)
        return line;
    while (fgets(line, sizeof(line), cpu))
        if (strncmp(line, "flags", 5) == 0 || strncmp(line, "Features", 8) == 0)
            break;
    fclose(cpu);
    return line;
}

ssize_t sys_self_path(char *out, size_t cap)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    out[n > 0 ? n : 0] = 0;
    return n < 0 ? -errno : n;
}

bool sys_log_write(struct slice line)
{
    /* A pipe that is ready takes PIPE_BUF bytes at once; the descriptor's flags are not ours to
     * change, as a terminal shares them with others. */
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
        return false;
    return write(STDERR_FILENO, line.p, line.n) == (ssize_t)line.n;
}

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGCHLD);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR2);
}

void sys_signals_hold(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

void sys_signals_init(void)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
}

void sys_standard_open(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)open("/dev/null", O_RDWR); /* the lowest number that is free */
}

void sys_name_set(const char *name)
{
    prctl(PR_SET_NAME, name, 0, 0, 0);
}

int sys_signals_open(void)
{
    sigset_t set;
    signal_set(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return result(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

enum sys_signal sys_signal_next(int fd)
{
    struct signalfd_siginfo info;
    if (read(fd, &info, sizeof(info)) != sizeof(info))
        return SYS_SIGNAL_NONE;
    return info.ssi_signo == SIGCHLD   ? SYS_SIGNAL_CHILD
           : info.ssi_signo == SIGHUP  ? SYS_SIGNAL_RELOAD
           : info.ssi_signo == SIGUSR2 ? SYS_SIGNAL_UPGRADE
                                       : SYS_SIGNAL_STOP;
}

pid_t sys_spawn(const char *path, const char *const argv[], int log, int control)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (log >= 0)
        posix_spawn_file_actions_adddup2(&files, log, STDERR_FILENO);
    if (control >= 0)
        posix_spawn_file_actions_adddup2(&files, control, SYS_CONTROL_FD);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    int e = posix_spawn(&pid, path, &files, &attributes, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return e ? -e : pid;
}

int sys_exec(const char *path, const char *const argv[])
{
    execv(path, (char *const *)(uintptr_t)argv);
    return -errno;
}

void sys_inherit(int fd, bool inherit)
{
    if (fd >= 0)
        fcntl(fd, F_SETFD, inherit ? 0 : FD_CLOEXEC);
}

bool sys_wait(pid_t pid, struct sys_exit *out)
{
    int status;
    pid_t r;
    do
        r = waitpid(pid, &status, WNOHANG);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return false;
    if (r < 0)
        *out = (struct sys_exit){.code = -1}; /* nobody knows how it ended */
    else
        *out = (struct sys_exit){WIFEXITED(status) ? WEXITSTATUS(status) : 0,
                                 WIFSIGNALED(status) ? WTERMSIG(status) : 0};
    return true;
}

bool sys_wait_for(pid_t pid, uint32_t ms, struct sys_exit *out)
{
    const struct timespec step = {.tv_nsec = 2000000};
    for (uint32_t waited = 0; waited < ms; waited += 2) {
        if (sys_wait(pid, out))
            return true;
        nanosleep(&step, NULL);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return false;
}

void sys_kill(pid_t pid, bool by_force)
{
    kill(pid, by_force ? SIGKILL : SIGTERM);
}

void sys_ask_reload(pid_t pid)
{
    kill(pid, SIGHUP);
}

int sys_pipe(int out[2])
{
    return result(pipe2(out, O_CLOEXEC | O_NONBLOCK));
}

ssize_t sys_read(int fd, void *p, size_t n)
{
    ssize_t r = read(fd, p, n);
    return r < 0 ? -errno : r;
}
