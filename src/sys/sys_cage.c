#include "sys/sys_cage.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature) /* clang's way, the other is gcc's */
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = true };
#else
enum { SANITIZED = false };
#endif

/* The numbers are the same on every architecture; Debian 12's headers are older than some. */
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule 445
#define SYS_landlock_restrict_self 446
#endif
#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
#define PAGEMAP_SCAN_IOCTL                                                                         \
    UINT32_C(0xc0606610) /* _IOWR('f', 16, struct pm_scan_arg), Linux 6.7                          \
                          */

static const char *const layer_names[] = {
#define SYS_CAGE_LAYER(name) #name,
    SYS_CAGE_LAYER_LIST(SYS_CAGE_LAYER)
#undef SYS_CAGE_LAYER
};

const char *sys_cage_layer_name(enum sys_cage_layer layer)
{
    return layer_names[layer];
}

/* ---- layers: 0, or the errno ---- */

static int no_new_privs(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? errno : 0;
}

static int limits_compiler(const struct sys_cage_compiler *c)
{
    /* RLIMIT_AS would forbid what a memory reserves and never has. */
    const struct {
        int kind;
        uint64_t most;
    } rows[] = {{RLIMIT_CORE, 0},
                {RLIMIT_CPU, c->cpu_s},
                {RLIMIT_FSIZE, c->file_max},
                {RLIMIT_DATA, SANITIZED ? RLIM_INFINITY : c->data_max}, /* shadow memory is data */
                {RLIMIT_NOFILE, 64}};
    int e = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct rlimit most = {rows[i].most, rows[i].most};
        if (setrlimit((__rlimit_resource_t)rows[i].kind, &most) < 0)
            e = errno;
    }
    return e;
}

static int limits(void)
{
    /* RLIMIT_AS is left alone: the engine's pool reserves hundreds of gigabytes. Logs go to a pipe,
     * and a memory image is a file that was written before: FSIZE concerns neither. */
    static const int kinds[] = {RLIMIT_CORE, RLIMIT_NPROC, RLIMIT_FSIZE};
    const struct rlimit none = {0, 0};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (setrlimit((__rlimit_resource_t)kinds[i], &none) < 0)
            return errno;
    return 0;
}

/* linux/landlock.h of ABI 6. */
struct landlock_rights {
    uint64_t fs, net, scoped;
};

/* linux/landlock.h: files are made, written, renamed and removed below a folder, none is read. */
static int folder_allow(int ruleset, const char *folder)
{
    enum { WRITE_FILE = 1 << 1, REMOVE_FILE = 1 << 5, MAKE_REG = 1 << 8 };
    struct {
        uint64_t rights;
        int32_t fd;
    } __attribute__((packed))
    below = {WRITE_FILE | REMOVE_FILE | MAKE_REG, open(folder, O_PATH | O_CLOEXEC)};
    if (below.fd < 0)
        return errno;
    int e = syscall(SYS_landlock_add_rule, ruleset, 1, &below, 0) < 0 ? errno : 0;
    close(below.fd);
    return e;
}

static int landlock(int *abi, const char *folder)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
    if (version < 1)
        return version < 0 ? errno : ENOSYS;
    /* All rights that the ABI knows; none is given back but below the folder, where there is one.
     */
    static const unsigned fs_bits[] = {0, 13, 14, 15, 15, 16};
    unsigned bits = fs_bits[MIN(version, 5)];
    struct landlock_rights all = {.fs = (UINT64_C(1) << bits) - 1,
                                  .net = version >= 4 ? 3 : 0,     /* TCP bind, connect */
                                  .scoped = version >= 6 ? 3 : 0}; /* abstract sockets, signals */
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof(all), 0);
    if (ruleset < 0)
        return errno;
    int e = folder ? folder_allow(ruleset, folder) : 0;
    if (!e)
        e = syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? errno : 0;
    close(ruleset);
    *abi = e ? 0 : (int)version;
    return e;
}

/* Takes CAP_SETPCAP. Where that is not ours, as for any user but root, the set still gives nothing:
 * no file's capabilities are gained after no_new_privs. */
static void bounding_cut(uint64_t keep)
{
    for (unsigned long cap = 0; cap < 64; cap++)
        if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            break;
}

int sys_cage_privileges(enum sys_cage_role role)
{
#define CAP_BIT(name) (UINT64_C(1) << CAP_##name)
    const uint64_t user = CAP_BIT(SETUID) | CAP_BIT(SETGID) | CAP_BIT(SETPCAP);
    const uint64_t keep = role == SYS_CAGE_WORKER
                              ? user
                              : user | CAP_BIT(KILL) | CAP_BIT(NET_BIND_SERVICE) |
                                    CAP_BIT(DAC_READ_SEARCH);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct set[2];
    if (syscall(SYS_capget, &header, set) < 0)
        return errno;
    if (role == SYS_CAGE_SUPERVISOR) /* a worker's goes with its cage */
        bounding_cut(keep);
    for (unsigned i = 0; i < ARRAY_LEN(set); i++) {
        set[i].permitted &= (uint32_t)(keep >> 32 * i);
        set[i].effective &= set[i].permitted;
        set[i].inheritable &= set[i].permitted;
    }
    return syscall(SYS_capset, &header, set) < 0 ? errno : 0;
}

int sys_cage_user(const struct sys_user *u)
{
    gid_t gids[3];
    uid_t uids[3];
    if (!u->other)
        return 0;
    bounding_cut(0); /* while that is allowed */
    if (setgroups(0, NULL) < 0 || setresgid(u->gid, u->gid, u->gid) < 0 ||
        setresuid(u->uid, u->uid, u->uid) < 0 || getresuid(&uids[0], &uids[1], &uids[2]) < 0 ||
        getresgid(&gids[0], &gids[1], &gids[2]) < 0)
        return errno;
    for (int i = 0; i < 3; i++)
        if (uids[i] != u->uid || gids[i] != u->gid)
            return EPERM;
    return 0;
}

static int capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct set[2];
    memset(set, 0, sizeof(set));
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    bounding_cut(0);
    if (syscall(SYS_capset, &header, set) < 0 || syscall(SYS_capget, &header, set) < 0)
        return errno;
    for (size_t i = 0; i < ARRAY_LEN(set); i++)
        if (set[i].permitted | set[i].effective | set[i].inheritable)
            return EPERM;
    return 0;
}

/* ---- seccomp ---- */

/* Seen with strace under the integration tests (glibc 2.36, Wasmtime 48), and what stands in for
 * one of these on another machine. The kernel keeps a bitmap of those that are free. */
static const int free_calls[] = {
    /* Connections and the control socket, all made before or accepted. */
    SCMP_SYS(accept4), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(shutdown),
    SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(read), SCMP_SYS(write),
    SCMP_SYS(pread64) /* of certificates that are handed over */,
    SCMP_SYS(writev) /* glibc's last words */, SCMP_SYS(close),
    SCMP_SYS(eventfd2) /* sys_reserve_open */, SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), SCMP_SYS(poll), SCMP_SYS(ppoll),
    /* Time and entropy. */
    SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time),
    SCMP_SYS(restart_syscall) /* a wait that was stopped and continued */, SCMP_SYS(timer_settime),
    SCMP_SYS(getrandom),
    /* Memory, locks, signals: the ticker's and a guest's traps. */
    SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(sched_yield),
    SCMP_SYS(rseq), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),
    SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(exit), SCMP_SYS(exit_group)};

/* Allowed where (argument & mask) == value; rows of one call are alternatives. */
static const struct {
    int call;
    unsigned argument;
    uint64_t mask, value;
} narrow_calls[] = {
    /* Would connect a socket that was accepted and reset. */
    {SCMP_SYS(sendto), 3, MSG_FASTOPEN, 0},
    {SCMP_SYS(sendmsg), 2, MSG_FASTOPEN, 0},
    /* Code is what a module that is loaded later brings: never mapped as such, and never writable
     * and executable at one time. */
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, UINT64_MAX, PROT_READ | PROT_EXEC},
    /* Such a module's file, for each loop. */
    {SCMP_SYS(fcntl), 1, UINT64_MAX, F_DUPFD_CLOEXEC},
    /* How large such a module's file is. A path could stand there instead: what it leads to can't
     * be opened, but that it is there can be seen. */
    {SCMP_SYS(statx), 2, UINT32_MAX, AT_EMPTY_PATH},
    {SCMP_SYS(ioctl), 1, UINT64_MAX, PAGEMAP_SCAN_IOCTL},
    /* The other operations have a history. */
    {SCMP_SYS(futex), 1, (uint32_t)FUTEX_CMD_MASK, FUTEX_WAIT},
    {SCMP_SYS(futex), 1, (uint32_t)FUTEX_CMD_MASK, FUTEX_WAKE},
    {SCMP_SYS(futex), 1, (uint32_t)FUTEX_CMD_MASK, FUTEX_WAIT_BITSET},
    {SCMP_SYS(futex), 1, (uint32_t)FUTEX_CMD_MASK, FUTEX_WAKE_BITSET},
    /* A crash is to be seen as what it is: the engine's handler gives up its place first. */
    {SCMP_SYS(rt_sigaction), 0, UINT64_MAX, SIGSEGV},
    {SCMP_SYS(rt_sigaction), 0, UINT64_MAX, SIGBUS},
    {SCMP_SYS(rt_sigaction), 0, UINT64_MAX, SIGILL},
    {SCMP_SYS(rt_sigaction), 0, UINT64_MAX, SIGFPE},
    {SCMP_SYS(rt_sigaction), 0, UINT64_MAX, SIGABRT},
};

/* Names for the log of what somebody in here would try; others are told by their number. */
#define NAME(call)                                                                                 \
    {                                                                                              \
        SCMP_SYS(call), #call                                                                      \
    }
static const struct {
    int call;
    const char *text;
} names[] = {
    NAME(accept),
    NAME(access),
    NAME(acct),
    NAME(add_key),
    NAME(bind),
    NAME(bpf),
    NAME(chdir),
    NAME(chmod),
    NAME(chown),
    NAME(chroot),
    NAME(clone),
    NAME(clone3),
    NAME(connect),
    NAME(creat),
    NAME(delete_module),
    NAME(dup),
    NAME(dup2),
    NAME(dup3),
    NAME(execve),
    NAME(execveat),
    NAME(faccessat),
    NAME(fchmodat),
    NAME(fchownat),
    NAME(fcntl),
    NAME(finit_module),
    NAME(fork),
    NAME(fsopen),
    NAME(fstat),
    NAME(ftruncate),
    NAME(futex),
    NAME(getdents64),
    NAME(getrlimit),
    NAME(getsockopt),
    NAME(init_module),
    NAME(io_uring_setup),
    NAME(ioctl),
    NAME(kexec_load),
    NAME(keyctl),
    NAME(kill),
    NAME(link),
    NAME(linkat),
    NAME(listen),
    NAME(lseek),
    NAME(membarrier),
    NAME(memfd_create),
    NAME(mkdir),
    NAME(mkdirat),
    NAME(mknodat),
    NAME(mmap),
    NAME(mount),
    NAME(move_mount),
    NAME(mprotect),
    NAME(newfstatat),
    NAME(open),
    NAME(openat),
    NAME(openat2),
    NAME(perf_event_open),
    NAME(pidfd_getfd),
    NAME(pidfd_open),
    NAME(pipe2),
    NAME(pivot_root),
    NAME(pkey_mprotect),
    NAME(prctl),
    NAME(pread64),
    NAME(prlimit64),
    NAME(process_vm_readv),
    NAME(process_vm_writev),
    NAME(ptrace),
    NAME(pwrite64),
    NAME(readlink),
    NAME(readlinkat),
    NAME(reboot),
    NAME(rename),
    NAME(renameat),
    NAME(renameat2),
    NAME(rt_sigaction),
    NAME(rt_sigqueueinfo),
    NAME(seccomp),
    NAME(sendmmsg),
    NAME(sendmsg),
    NAME(sendto),
    NAME(setgid),
    NAME(setns),
    NAME(setresuid),
    NAME(setrlimit),
    NAME(setsockopt),
    NAME(setuid),
    NAME(shmat),
    NAME(shmget),
    NAME(socket),
    NAME(socketpair),
    NAME(stat),
    NAME(statx),
    NAME(symlinkat),
    NAME(sysinfo),
    NAME(tgkill),
    NAME(timer_create),
    NAME(tkill),
    NAME(truncate),
    NAME(umount2),
    NAME(uname),
    NAME(unlink),
    NAME(unlinkat),
    NAME(unshare),
    NAME(userfaultfd),
    NAME(vfork),
    NAME(wait4),
};

static size_t put(char *line, size_t at, const char *text)
{
    while (*text)
        line[at++] = *text++;
    return at;
}

static size_t put_number(char *line, size_t at, unsigned n, unsigned digits)
{
    char reversed[12];
    unsigned k = 0;
    for (; n || k < digits; n /= 10)
        reversed[k++] = (char)('0' + n % 10);
    while (k)
        line[at++] = reversed[--k];
    return at;
}

/* "2026-11-24T07:53:51Z". gmtime_r takes a lock, in which the call may just have been made; this is
 * days_from_civil backwards: H. Hinnant, "chrono-compatible low-level date algorithms". */
static size_t put_time(char *line, size_t at)
{
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned second = (unsigned)(now.tv_sec % 86400), day = (unsigned)(now.tv_sec / 86400) + 719468;
    unsigned era = day / 146097, of_era = day % 146097;
    unsigned years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * years + years / 4 - years / 100);
    unsigned m = (5 * of_year + 2) / 153, month = m < 10 ? m + 3 : m - 9; /* years begin in March */
    at = put_number(line, at, years + era * 400 + (month <= 2), 4);
    at = put_number(line, put(line, at, "-"), month, 2);
    at = put_number(line, put(line, at, "-"), of_year - (153 * m + 2) / 5 + 1, 2);
    at = put_number(line, put(line, at, "T"), second / 3600, 2);
    at = put_number(line, put(line, at, ":"), second / 60 % 60, 2);
    at = put_number(line, put(line, at, ":"), second % 60, 2);
    return put(line, at, "Z");
}

/* On a forbidden call, wherever it was made: says which, by nothing but a write. The handler is
 * gone when it runs, so that the next forbidden call ends the process by SIGSYS. */
static void on_violation(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    char line[512];
    const char *name = "?";
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (names[i].call == info->si_syscall)
            name = names[i].text;
    size_t n = put_time(line, put(line, 0, "{\"time\":\""));
    n = put(line, n,
            "\",\"level\":\"error\",\"event\":\"sandbox_violation\",\"msg\":\"the worker made a "
            "system call that its cage forbids: it is killed\",\"syscall\":\"");
    n = put(line, put(line, n, name), "\",\"number\":");
    n = put(line, put_number(line, n, (unsigned)info->si_syscall, 1), "}\n");
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written;
    syscall(SYS_ptrace, 0, 0, 0, 0);
    _exit(128 + SIGSYS);
}

/* What the compiler does beside: it writes its output, and runs code that it has made. Landlock
 * says which files. */
static const int compiler_calls[] = {
    SCMP_SYS(openat),         SCMP_SYS(rename),       SCMP_SYS(renameat),
    SCMP_SYS(renameat2),      SCMP_SYS(unlink),       SCMP_SYS(fsync),
    SCMP_SYS(fstat),          SCMP_SYS(newfstatat),   SCMP_SYS(lseek),
    SCMP_SYS(fcntl),          SCMP_SYS(mmap),         SCMP_SYS(mprotect),
    SCMP_SYS(ioctl),          SCMP_SYS(memfd_create), SCMP_SYS(ftruncate),
    SCMP_SYS(prlimit64),      SCMP_SYS(sysinfo),      SCMP_SYS(sched_getaffinity),
    SCMP_SYS(membarrier),     SCMP_SYS(fchmod),       SCMP_SYS(rt_sigaction),
    SCMP_SYS(set_robust_list)};

static bool compiler_has(int call)
{
    for (size_t i = 0; i < ARRAY_LEN(compiler_calls); i++)
        if (compiler_calls[i] == call)
            return true;
    return false;
}

static int rules_add(scmp_filter_ctx filter, bool compiler)
{
    const struct scmp_arg_cmp option[] = {{1, SCMP_CMP_EQ, IPPROTO_TCP, 0},
                                          {2, SCMP_CMP_EQ, TCP_NODELAY, 0}};
    const struct scmp_arg_cmp reset[] = {{1, SCMP_CMP_EQ, SOL_SOCKET, 0},
                                         {2, SCMP_CMP_EQ, SO_LINGER, 0}};
    const struct scmp_arg_cmp own_abort[] = {{0, SCMP_CMP_EQ, (uint32_t)getpid(), 0},
                                             {2, SCMP_CMP_EQ, SIGABRT, 0}};
    int e = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2, option);
    e = e ? e : seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2, reset);
    e = e ? e : seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 2, own_abort);
    /* Wasmtime tries it and goes on by madvise. */
    e = e ? e : seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(process_madvise), 0);
    for (size_t i = 0; i < ARRAY_LEN(free_calls) && !e; i++)
        e = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, free_calls[i], 0, NULL);
    /* A thread, which ends an initialisation that takes too long, and no process: what clone3 is
     * told can't be looked at, and glibc goes on by clone. */
    const struct scmp_arg_cmp thread = {0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD};
    if (compiler && !e)
        e = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, &thread);
    if (compiler && !e)
        e = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    for (size_t i = 0; i < ARRAY_LEN(compiler_calls) && compiler && !e; i++)
        e = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, compiler_calls[i], 0, NULL);
    for (size_t i = 0; i < ARRAY_LEN(narrow_calls) && !e; i++) {
        const struct scmp_arg_cmp when = {narrow_calls[i].argument, SCMP_CMP_MASKED_EQ,
                                          narrow_calls[i].mask, narrow_calls[i].value};
        if (!compiler || !compiler_has(narrow_calls[i].call))
            e = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, narrow_calls[i].call, 1, &when);
    }
    return e;
}

static int calls(bool compiler)
{
    struct sigaction action = {.sa_sigaction = on_violation,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER |
                                           (int)SA_RESETHAND};
    struct sigaction before;
    /* TRAP rather than KILL_PROCESS, which tells nobody the call. It is no weaker: the call is not
     * made, and no rule lets SIGSYS be handled otherwise; blocked, it kills as well. */
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
    if (!filter)
        return ENOMEM;
    int e = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    e = e ? e : seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, no list */
    e = e ? e : seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);    /* for the other loops too */
    e = e ? e : rules_add(filter, compiler);
    if (!e) {
        if (!compiler) /* whose end its parent reports */
            sigaction(SIGSYS, &action, &before);
        e = seccomp_load(filter);
        if (e && !compiler)
            sigaction(SIGSYS, &before, NULL);
    }
    seccomp_release(filter);
    return -e;
}

/* Why layers that were asked for are not there. */
static void missing_say(struct sys_cage *out, const int e[SYS_CAGE_LAYERS])
{
    for (int i = 0; i < SYS_CAGE_LAYERS; i++)
        if (e[i])
            out->missing[i] = strerror(e[i]);
    if (SANITIZED)
        out->missing[SYS_CAGE_seccomp] = "built with sanitizers, which need more system calls";
}

void sys_cage_enter_compiler(const struct sys_cage_compiler *c, struct sys_cage *out)
{
    int e[SYS_CAGE_LAYERS] = {0};
    memset(out, 0, sizeof(*out));
    /* Each layer stands alone: one that this kernel does not have leaves the others. */
    e[SYS_CAGE_no_new_privs] = no_new_privs();
    e[SYS_CAGE_landlock] = landlock(&out->landlock_abi, c->folder);
    e[SYS_CAGE_capabilities] = capabilities();
    e[SYS_CAGE_limits] = limits_compiler(c);
    if (!SANITIZED)
        e[SYS_CAGE_seccomp] = calls(true);
    missing_say(out, e);
}

void sys_cage_enter(unsigned layers, struct sys_cage *out)
{
    int e[SYS_CAGE_LAYERS] = {0};
    memset(out, 0, sizeof(*out));
    /* The first gmtime_r opens the time zone's file. */
    tzset();
    if (layers & 1u << SYS_CAGE_no_new_privs)
        e[SYS_CAGE_no_new_privs] = no_new_privs();
    if (layers & 1u << SYS_CAGE_limits)
        e[SYS_CAGE_limits] = limits();
    if (layers & 1u << SYS_CAGE_landlock)
        e[SYS_CAGE_landlock] = landlock(&out->landlock_abi, NULL);
    if (layers & 1u << SYS_CAGE_capabilities)
        e[SYS_CAGE_capabilities] = capabilities();
    if (!SANITIZED && (layers & 1u << SYS_CAGE_seccomp))
        e[SYS_CAGE_seccomp] = calls(false);
    for (int i = 0; i < SYS_CAGE_LAYERS; i++)
        if (!(layers & 1u << i))
            out->missing[i] = "not asked for";
    missing_say(out, e);
}
