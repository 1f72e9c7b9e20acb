/* What the threads of several loops need: to wake one another, and a ticker each. */
#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sys/sys.h"

int sys_wake_open(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

void sys_wake(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof(one));
    ASSERT(n == sizeof(one) || errno == EAGAIN); /* its count is at its end: it is readable */
}

static void (*_Atomic ticker_fn)(void); /* the same for all threads */
static _Thread_local timer_t ticker_timer;

static void ticker_signal(int sig)
{
    (void)sig;
    int saved = errno;
    ticker_fn();
    errno = saved;
}

void sys_ticker_init(void (*tick)(void))
{
    ticker_fn = tick;
    struct sigaction action = {.sa_handler = ticker_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
    sigaction(SIGRTMIN, &action, NULL);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    ASSERT(timer_create(CLOCK_MONOTONIC, &event, &ticker_timer) == 0);
}

void sys_ticker_set(uint32_t interval_ms)
{
    struct timespec t = {interval_ms / 1000, (long)(interval_ms % 1000) * 1000000};
    struct itimerspec s = {t, t};
    timer_settime(ticker_timer, 0, &s, NULL);
}
