/* The compiler's cage, from inside: a child enters it and makes its output, or tries what it must
 * not. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/sys_cage.h"

enum { WORKED = 99 };
#ifdef __SANITIZE_ADDRESS__ /* its shadow is data, too */
#define DATA_MAX UINT64_MAX
#else
#define DATA_MAX (UINT64_C(1) << 30)
#endif

struct result {
    int code, signal;
};

static long try_read(void)
{
    return open("/etc/passwd", O_RDONLY);
}

static long try_environ(void)
{
    return open("/proc/self/environ", O_RDONLY);
}

static long try_create(void)
{
    return open("/tmp/weir-cage-outside", O_CREAT | O_WRONLY, 0600);
}

static long try_socket(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

static long try_execve(void)
{
    return execl("/bin/true", "true", (char *)NULL);
}

static long try_fork(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static long try_ptrace(void)
{
    return syscall(SYS_ptrace, 16 /* PTRACE_ATTACH */, getppid(), 0, 0);
}

static long try_kill(void)
{
    return kill(getppid(), 0);
}

static char folder[] = "/tmp/weir-cage-XXXXXX";

static struct result compiler(long (*f)(void))
{
    struct result r = {-1, 0};
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 1; i < 32; i++)
            signal(i, SIG_DFL); /* cmocka would report a fault of its own */
        struct sys_cage made;
        sys_cage_enter_compiler(
            &(struct sys_cage_compiler){
                .folder = folder, .file_max = 4096, .data_max = DATA_MAX, .cpu_s = 1},
            &made);
        _exit(f() < 0 ? errno : WORKED);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    r.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return r;
}

static long output_write(void)
{
    char from[64], to[64];
    snprintf(from, sizeof(from), "%s/new", folder);
    snprintf(to, sizeof(to), "%s/out", folder);
    int fd = open(from, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, "x", 1) != 1 || close(fd) < 0)
        return -1;
    return rename(from, to);
}

static long output_large(void)
{
    char from[64];
    static char page[4097];
    snprintf(from, sizeof(from), "%s/large", folder);
    signal(SIGXFSZ, SIG_DFL);
    int fd = open(from, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    return fd < 0 || write(fd, page, 4096) != 4096 ? 0 : write(fd, page, 1);
}

static long spin(void)
{
    for (volatile int i = 0;; i++)
        ;
    return 0;
}

static long code_run(void)
{
#ifdef __x86_64__
    static const uint8_t code[] = {0xc3};
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return -1;
    memcpy(p, code, sizeof(code));
    if (mprotect(p, 4096, PROT_READ | PROT_EXEC) < 0)
        return -1;
    ((void (*)(void))(uintptr_t)p)();
#endif
    return 0;
}

static void a_compiler_makes_its_output_and_nothing_else(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(compiler(output_write).code, WORKED);
    assert_int_equal(compiler(code_run).code, WORKED);
    assert_int_equal(compiler(output_large).signal, SIGXFSZ);
    assert_int_equal(compiler(spin).signal, SIGKILL);
    assert_int_equal(compiler(try_read).code, EACCES);
    assert_int_equal(compiler(try_create).code, EACCES);
    assert_int_equal(compiler(try_environ).code, EACCES);
    char path[64];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, (const char *[]){"new", "out", "large"}[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void a_compiler_has_no_network_and_starts_nothing(void **state)
{
    (void)state;
    static long (*const tries[])(void) = {try_socket, try_execve, try_fork, try_ptrace, try_kill};
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* the layer that ends them is not there */
#endif
    for (size_t i = 0; i < ARRAY_LEN(tries); i++)
        assert_int_equal(compiler(tries[i]).signal, SIGSYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_compiler_makes_its_output_and_nothing_else),
        cmocka_unit_test(a_compiler_has_no_network_and_starts_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
