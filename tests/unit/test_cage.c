/* The worker's cage, from inside: each forbidden thing is tried by a child that entered it, alone
 * with the layer that must stop it. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sys/sys.h"
#include "sys/sys_cage.h"

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
enum { BUILT_WITH_SANITIZERS = 77, WORKED = 99 };

static pid_t outsider; /* a process that is no child's own: the test itself */
static int tcp;        /* an accepted connection's stand-in, made before */

/* Each returns what a system call does: -1 and errno where it was refused. */

static long try_open(void)
{
    return open("/etc/passwd", O_RDONLY);
}

static long try_create(void)
{
    return open("/tmp/weir-cage", O_CREAT | O_WRONLY, 0600);
}

static long try_environ(void)
{
    return open("/proc/self/environ", O_RDONLY);
}

static long try_unlink(void)
{
    return unlinkat(AT_FDCWD, "/tmp/weir-cage-none", 0);
}

static long try_mkdir(void)
{
    return mkdirat(AT_FDCWD, "/tmp/weir-cage-folder", 0700);
}

static long try_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

static long try_socketpair(void)
{
    int pair[2];
    return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
}

static struct sockaddr_in loopback(void)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static long try_connect(void)
{
    struct sockaddr_in to = loopback();
    return connect(tcp, (struct sockaddr *)&to, sizeof(to));
}

static long try_bind(void)
{
    struct sockaddr_in to = loopback();
    return bind(tcp, (struct sockaddr *)&to, sizeof(to));
}

static long try_fastopen(void)
{
    struct sockaddr_in to = loopback();
    return sendto(tcp, "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof(to));
}

static long try_fastopen_message(void)
{
    struct sockaddr_in to = loopback();
    struct iovec v = {"x", 1};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &v, .msg_iovlen = 1};
    return sendmsg(tcp, &m, MSG_FASTOPEN | MSG_NOSIGNAL);
}

static long try_other_option(void)
{
    int on = 1;
    return setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
}

static long try_execve(void)
{
    char *const argv[] = {"true", NULL};
    return execve("/bin/true", argv, NULL);
}

static long try_fork(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    return pid;
}

static long try_ptrace(void)
{
    return ptrace(PTRACE_ATTACH, outsider, 0, 0);
}

static long try_kill(void)
{
    return kill(outsider, SIGWINCH);
}

static long try_tgkill(void)
{
    return syscall(SYS_tgkill, outsider, outsider, SIGABRT);
}

static long try_own_signal(void)
{
    return syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1);
}

static long try_mount(void)
{
    return mount("none", "/tmp", "tmpfs", 0, NULL);
}

static long try_unshare(void)
{
    return unshare(CLONE_NEWNS);
}

static long try_chroot(void)
{
    return chroot("/tmp");
}

static long try_bpf(void)
{
    char attributes[128] = {0};
    return syscall(SYS_bpf, 0, attributes, sizeof(attributes));
}

static long try_perf(void)
{
    char attributes[128] = {0};
    return syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0);
}

static long try_read_other(void)
{
    char byte;
    struct iovec mine = {&byte, 1}, other = {(void *)&outsider, 1};
    return process_vm_readv(outsider, &mine, 1, &other, 1, 0);
}

static long try_setuid(void)
{
    return (long)setuid(0);
}

static long try_other_user(void)
{
    return syscall(SYS_setresuid, 12345, 12345, 12345);
}

static long try_io_uring(void)
{
    char parameters[128] = {0};
    return syscall(SYS_io_uring_setup, 1, parameters);
}

static long try_keyctl(void)
{
    return syscall(SYS_keyctl, 0, -3, 0); /* KEYCTL_GET_KEYRING_ID of the session */
}

static long try_userfaultfd(void)
{
    return syscall(SYS_userfaultfd, 0);
}

static long try_memfd(void)
{
    return memfd_create("x", 0);
}

static long map(int protection)
{
    void *p = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? -1 : 0;
}

static long try_executable_map(void)
{
    return map(PROT_READ | PROT_EXEC);
}

static long try_writable_code(void)
{
    return map(PROT_READ | PROT_WRITE | PROT_EXEC);
}

static long protect(int protection)
{
    static char page[8192];
    char *at = (char *)(((uintptr_t)page + 4095) & ~(uintptr_t)4095);
    return mprotect(at, 4096, protection);
}

static long try_writable_page(void)
{
    return protect(PROT_READ | PROT_WRITE | PROT_EXEC);
}

static long try_unreadable_page(void)
{
    return protect(PROT_EXEC);
}

static long try_growing_page(void)
{
    return protect(PROT_READ | PROT_EXEC | PROT_GROWSDOWN);
}

static long try_stat(void)
{
    struct statx st;
    return statx(AT_FDCWD, "/etc/passwd", 0, STATX_SIZE, &st);
}

static int code_file; /* made before the cage is entered, as the supervisor makes it */

/* What loading a module takes: it is mapped to be written, then its code to be run. */
static long load_module(void)
{
    struct statx st;
    if (statx(code_file, "", AT_EMPTY_PATH, STATX_SIZE, &st) < 0 || st.stx_size != 8192)
        return -1;
    char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, code_file, 0);
    if (p == MAP_FAILED)
        return -1;
    p[0] = 1;
    return mprotect(p, 4096, PROT_READ | PROT_EXEC) || mprotect(p + 4096, 4096, PROT_READ) ||
           munmap(p, 8192);
}

static long map_code(void)
{
    return mmap(NULL, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, code_file, 0) == MAP_FAILED;
}

static long try_other_ioctl(void)
{
    int n;
    return syscall(SYS_ioctl, tcp, 0x541b, &n); /* FIONREAD */
}

static long try_sigsys_handler(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    return sigaction(SIGSYS, &ignore, NULL);
}

static long try_prctl(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}

static long try_limit(void)
{
    struct rlimit more = {1 << 20, 1 << 20};
    return setrlimit(RLIMIT_CORE, &more);
}

static long try_futex_requeue(void)
{
    int word = 0;
    return syscall(SYS_futex, &word, 12, 0, 0, &word, 0); /* FUTEX_CMP_REQUEUE_PI */
}

static long try_unknown(void)
{
    return syscall(998);
}

/* ---- running them ---- */

struct result {
    int code, signal;
    char said[600];
};

/* In a child: enters `layers` and returns what f did there. */
static void child(unsigned layers, long (*f)(void), int log)
{
    struct sys_cage made;
    alarm(20);
    dup2(log, STDERR_FILENO);
    sys_cage_enter(layers, &made);
    for (int i = 0; i < SYS_CAGE_LAYERS; i++)
        if ((layers & 1u << i) && made.missing[i]) {
            bool sanitizers = strstr(made.missing[i], "sanitizers");
            dprintf(STDERR_FILENO, "%s: %s", sys_cage_layer_name((enum sys_cage_layer)i),
                    made.missing[i]);
            _exit(sanitizers ? BUILT_WITH_SANITIZERS : 1);
        }
    errno = 0;
    long r = f();
    _exit(r < 0 ? (errno ? errno : 1) : WORKED);
}

static struct result run(unsigned layers, long (*f)(void))
{
    struct result r = {-1, 0, ""};
    int log[2], status;
    assert_int_equal(pipe(log), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        child(layers, f, log[1]);
    assert_true(pid > 0);
    close(log[1]);
    size_t n = 0;
    ssize_t got;
    while (n < sizeof(r.said) - 1 && (got = read(log[0], r.said + n, sizeof(r.said) - 1 - n)) > 0)
        n += (size_t)got;
    close(log[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    r.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (r.code == BUILT_WITH_SANITIZERS)
        skip();
    return r;
}

#define BIT(layer) (1u << SYS_CAGE_##layer)

static void what_is_not_listed_ends_the_process_and_is_named(void **state)
{
    (void)state;
    static const struct {
        long (*f)(void);
        const char *call;
    } rows[] = {{try_open, "openat"},
                {try_create, "openat"},
                {try_environ, "openat"},
                {try_unlink, "unlinkat"},
                {try_mkdir, "mkdirat"},
                {try_socket, "socket"},
                {try_socketpair, "socketpair"},
                {try_connect, "connect"},
                {try_bind, "bind"},
                {try_fastopen, "sendto"},
                {try_fastopen_message, "sendmsg"},
                {try_other_option, "setsockopt"},
                {try_execve, "execve"},
                {try_fork, "clone"},
                {try_ptrace, "ptrace"},
                {try_kill, "kill"},
                {try_tgkill, "tgkill"},
                {try_own_signal, "tgkill"},
                {try_mount, "mount"},
                {try_unshare, "unshare"},
                {try_chroot, "chroot"},
                {try_bpf, "bpf"},
                {try_perf, "perf_event_open"},
                {try_read_other, "process_vm_readv"},
                {try_setuid, "setuid"},
                {try_other_user, "setresuid"},
                {try_io_uring, "io_uring_setup"},
                {try_keyctl, "keyctl"},
                {try_userfaultfd, "userfaultfd"},
                {try_memfd, "memfd_create"},
                {try_executable_map, "mmap"},
                {try_writable_code, "mmap"},
                {try_writable_page, "mprotect"},
                {try_unreadable_page, "mprotect"},
                {try_growing_page, "mprotect"},
                {try_stat, "statx"},
                {try_other_ioctl, "ioctl"},
                {try_sigsys_handler, "rt_sigaction"},
                {try_prctl, "prctl"},
                {try_limit, "prlimit64"},
                {try_futex_requeue, "futex"},
                {try_unknown, "?"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char want[64];
        struct result r = run(SYS_CAGE_ALL, rows[i].f);
        snprintf(want, sizeof(want), "\"syscall\":\"%s\",\"number\":", rows[i].call);
        if (r.signal != SIGSYS || !strstr(r.said, want))
            fail_msg("row %zu, %s: code %d, signal %d, %s", i, rows[i].call, r.code, r.signal,
                     r.said);
        assert_memory_equal(r.said, "{\"time\":\"20", 11);
        assert_non_null(strstr(r.said, "\"event\":\"sandbox_violation\""));
        assert_string_equal(strchr(r.said, '}'), "}\n");
    }
}

static void a_module_can_be_loaded_later(void **state)
{
    (void)state;
    code_file = memfd_create("code", MFD_CLOEXEC);
    assert_int_equal(ftruncate(code_file, 8192), 0);
    assert_int_equal(run(SYS_CAGE_ALL, load_module).code, WORKED);
    assert_int_equal(run(SYS_CAGE_ALL, map_code).signal, SIGSYS);
    close(code_file);
}

/* With seccomp, blocking its signal saves nobody. */
static long blocked(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    return try_socket();
}

static void a_blocked_signal_kills_as_well(void **state)
{
    (void)state;
    assert_int_equal(run(SYS_CAGE_ALL, blocked).signal, SIGSYS);
}

static void the_time_of_a_violation_is_now(void **state)
{
    (void)state;
    struct tm tm = {0};
    time_t before = time(NULL);
    struct result r = run(SYS_CAGE_ALL, try_socket);
    assert_non_null(strptime(r.said + strlen("{\"time\":\""), "%Y-%m-%dT%H:%M:%SZ", &tm));
    assert_in_range(timegm(&tm), before, time(NULL));
}

/* Each of the other layers refuses by itself, so that a hole in the list of calls is not enough. */
static void other_layers_stand_alone(void **state)
{
    (void)state;
    struct sys_cage made;
    int abi;
    const unsigned landlock = BIT(no_new_privs) | BIT(landlock);
    const unsigned privileges = BIT(no_new_privs) | BIT(capabilities);
    const struct {
        unsigned layers;
        long (*f)(void);
        int error, abi;
    } rows[] = {{landlock, try_open, EACCES, 1},    {landlock, try_create, EACCES, 1},
                {landlock, try_environ, EACCES, 1}, {landlock, try_mkdir, EACCES, 1},
                {landlock, try_execve, EACCES, 1},  {landlock, try_mount, EPERM, 1},
                {landlock, try_ptrace, EPERM, 1},   {landlock, try_connect, EACCES, 4},
                {landlock, try_bind, EACCES, 4},    {landlock, try_kill, EPERM, 6},
                {privileges, try_mount, EPERM, 0},  {privileges, try_unshare, EPERM, 0},
                {privileges, try_chroot, EPERM, 0}, {privileges, try_other_user, EPERM, 0},
                {BIT(limits), try_create, 0, 0},    {BIT(no_new_privs), try_socket, 0, 0}};
    sys_cage_enter(0, &made);
    for (int i = 0; i < SYS_CAGE_LAYERS; i++)
        assert_non_null(made.missing[i]);
    abi = (int)syscall(444, NULL, 0, 1);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (abi < rows[i].abi)
            continue;
        struct result r = run(rows[i].layers, rows[i].f);
        int want = rows[i].error ? rows[i].error : WORKED;
        if (r.code != want || r.signal)
            fail_msg("row %zu: code %d, not %d; signal %d, %s", i, r.code, want, r.signal, r.said);
    }
    unlink("/tmp/weir-cage");
}

static long write_to_a_file(void)
{
    return write(STDOUT_FILENO, "x", 1);
}

static void no_file_grows(void **state)
{
    (void)state;
    char name[] = "/tmp/weir-cage-XXXXXX";
    int file = mkstemp(name), kept = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    struct result r = run(BIT(limits), write_to_a_file);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    close(file);
    unlink(name);
    assert_int_equal(r.signal, SIGXFSZ);
}

/* ---- what goes on working ---- */

static bool memory_works(void)
{
    char *blocks[64];
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
        blocks[i] = malloc((size_t)1 << (i % 22));
        if (!blocks[i])
            return false;
        memset(blocks[i], 1, (size_t)1 << (i % 22));
    }
    blocks[0] = realloc(blocks[0], 8 << 20);
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        free(blocks[i]);
    return map(PROT_READ | PROT_WRITE) == 0 && map(PROT_NONE) == 0;
}

static bool time_works(void)
{
    char text[32];
    struct tm tm;
    time_t now = time(NULL);
    gmtime_r(&now, &tm); /* the first one in this process */
    uint8_t random[300];
    sys_random(random, sizeof(random));
    return strftime(text, sizeof(text), "%Y", &tm) == 4 && sys_now_ns() && sys_thread_ns() &&
           sys_wall_ms();
}

static int channel[2], poller; /* made before */

static bool channel_works(void)
{
    char got[8];
    struct sys_event events[SYS_EVENTS_MAX];
    struct sys_address address;
    struct address other;
    int fds[SYS_CONTROL_FDS], on = 1;
    unsigned n_fds;
    return sys_control_send(channel[0], "abc", 3, NULL, 0) == 3 &&
           sys_control_recv(channel[1], got, sizeof(got), fds, &n_fds) == 3 &&
           sys_send(channel[1], SLICE("de")) == 2 && sys_recv(channel[0], got, sizeof(got)) == 2 &&
           sys_poller_add(poller, channel[0], SYS_OUT, 7) == 0 &&
           sys_poller_wait(poller, events, -1) == 1 && events[0].data == 7 &&
           sys_poller_remove(poller, channel[0]) == 0 && sys_local(tcp, &address) == 0 &&
           sys_peer(tcp, &other) == -ENOTCONN && sys_accept(tcp) == -EINVAL &&
           setsockopt(tcp, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0 &&
           sys_shutdown_write(channel[0]) == 0;
}

static volatile int ticks;

static void count_tick(void)
{
    ticks++;
    sys_ticker_set(0);
}

static bool ticker_works(void)
{
    sys_ticker_set(1);
    while (!ticks)
        poll(NULL, 0, 1);
    return true;
}

static long all_that_a_worker_does(void)
{
    int reserve = sys_reserve_open();
    bool ok = reserve >= 0 && sys_log_write(SLICE("a line\n"));
    sys_close(reserve);
    ok = ok && memory_works() && time_works() && channel_works() && ticker_works();
    errno = 0;
    return ok && syscall(SYS_process_madvise, 0, NULL, 0, 0, 0) < 0 && errno == ENOSYS ? 0 : -1;
}

static void a_worker_goes_on(void **state)
{
    (void)state;
    assert_int_equal(sys_control_pair(channel), 0);
    poller = sys_poller_new();
    /* The timer is its thread's, and is made before the cage: so the child makes it. */
    struct result r = {0, 0, ""};
    int log[2], status;
    assert_int_equal(pipe(log), 0);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        sys_ticker_init(count_tick);
        child(SYS_CAGE_ALL, all_that_a_worker_does, log[1]);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(log[1]);
    assert_true(read(log[0], r.said, sizeof(r.said) - 1) > 0);
    close(log[0]);
    sys_close(channel[0]);
    sys_close(channel[1]);
    sys_close(poller);
    if (WIFEXITED(status) && WEXITSTATUS(status) == BUILT_WITH_SANITIZERS)
        skip();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != WORKED)
        fail_msg("status %x: %s", (unsigned)status, r.said);
}

static long crash(void)
{
    raise(SIGSEGV);
    return 0;
}

static long own_crash(void)
{
    volatile int *volatile nowhere = NULL;
    signal(SIGSEGV, SIG_DFL); /* as the engine's handler does for what is no guest's */
    return *nowhere;
}

static long own_abort(void)
{
    abort();
}

/* A crash keeps its own signal; and the cage leaves no core file of connections' contents. */
static void a_crash_is_seen_as_what_it_is(void **state)
{
    (void)state;
    assert_int_equal(run(SYS_CAGE_ALL, own_abort).signal, SIGABRT);
    assert_int_equal(run(SYS_CAGE_ALL, own_crash).signal, SIGSEGV);
    assert_int_equal(run(SYS_CAGE_ALL, crash).signal, SIGSYS); /* raise() of another signal */
}

static int make_socket(void **state)
{
    (void)state;
    outsider = getpid();
    tcp = socket(AF_INET, SOCK_STREAM, 0);
    return tcp < 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_listed_ends_the_process_and_is_named),
        cmocka_unit_test(a_module_can_be_loaded_later),
        cmocka_unit_test(a_blocked_signal_kills_as_well),
        cmocka_unit_test(the_time_of_a_violation_is_now),
        cmocka_unit_test(other_layers_stand_alone),
        cmocka_unit_test(no_file_grows),
        cmocka_unit_test(a_worker_goes_on),
        cmocka_unit_test(a_crash_is_seen_as_what_it_is),
    };
    return cmocka_run_group_tests(tests, make_socket, NULL);
}
