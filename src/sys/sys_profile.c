#include "sys/sys_profile.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

/* Other frames' memory is read as it is, whatever a sanitizer thinks of it. */
#define UNCHECKED __attribute__((no_sanitize("address", "thread", "undefined")))

/* ---- the table ---- */

struct stacks *stacks_new(uint32_t size)
{
    struct stacks *s = mem_alloc(sizeof(*s) + size);
    if (s) {
        memset(s, 0, sizeof(*s)); /* bytes: as they are used */
        s->size = size;
    }
    return s;
}

void stacks_free(struct stacks *s)
{
    mem_free(s, s ? sizeof(*s) + s->size : 0);
}

static struct stack *at(struct stacks *s, uint32_t offset)
{
    return (struct stack *)(void *)(s->bytes + offset);
}

struct stack *stacks_next(struct stacks *s, const struct stack *after)
{
    size_t offset = after ? (size_t)((const uint8_t *)after - s->bytes) + sizeof(*after) +
                                after->n * sizeof(after->pcs[0])
                          : 0;
    return offset < s->used ? at(s, (uint32_t)offset) : NULL;
}

struct stack *stacks_get(struct stacks *s, struct mem_whose whose, const uint64_t *pcs, unsigned n)
{
    uint64_t hash = (uint64_t)whose.module << 8 | whose.owner;
    for (unsigned i = 0; i < n; i++) {
        hash = (hash ^ pcs[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 29;
    }
    uint32_t *head = &s->heads[hash % STACK_HEADS];
    for (uint32_t o = *head; o;) {
        struct stack *k = at(s, o - 1);
        if (k->hash == (uint32_t)hash && k->n == n && k->whose.module == whose.module &&
            k->whose.owner == whose.owner && memcmp(k->pcs, pcs, n * sizeof(*pcs)) == 0)
            return k;
        o = k->next;
    }
    size_t bytes = sizeof(struct stack) + n * sizeof(*pcs);
    if (bytes + (n ? STACK_SPARE : 0) > s->size - s->used) {
        s->dropped += n > 0;
        return n ? stacks_get(s, whose, pcs, 0) : NULL;
    }
    struct stack *k = at(s, s->used);
    memset(k, 0, sizeof(*k));
    k->hash = (uint32_t)hash;
    k->whose = whose;
    k->n = (uint16_t)n;
    memcpy(k->pcs, pcs, n * sizeof(*pcs));
    k->next = *head;
    *head = s->used + 1;
    s->used += (uint32_t)bytes;
    return k;
}

/* ---- walking ---- */

/* Asks the kernel to read a mask there for an operation that it does not have, as Abseil does. */
static bool readable(uintptr_t p)
{
    int saved = errno;
    bool yes = syscall(SYS_rt_sigprocmask, ~0L, p, 0L, 8L) < 0 && errno == EINVAL;
    errno = saved;
    return yes;
}

struct walk {
    uintptr_t page; /* that was found readable */
};

/* Reads the n words from p on, which are on one page or two. */
UNCHECKED static bool words(struct walk *w, uintptr_t p, uintptr_t *out, unsigned n)
{
    const uintptr_t page = 4096;
    if (p % sizeof(*out) || p < page || p > UINTPTR_MAX - page)
        return false;
    for (uintptr_t q = p / page; q <= (p + n * sizeof(*out) - 1) / page; q++) {
        if (q != w->page && !readable(q * page))
            return false;
        w->page = q;
    }
    for (unsigned i = 0; i < n; i++)
        out[i] = ((const volatile uintptr_t *)p)[i];
    return true;
}

#if defined(__x86_64__)
/* A fiber's first frame names the top of its stack as the caller's; 16 bytes below that is where
 * the stack that resumed it goes on, *sp, with six registers and a return address: wasmtime-fiber,
 * src/unix.rs and src/stackswitch/x86_64.rs. */
static bool fiber_parent(struct walk *w, uintptr_t top, uintptr_t *sp, uintptr_t frame[2])
{
    return top % 4096 == 0 && words(w, top - 16, sp, 1) && words(w, *sp + 40, frame, 2);
}
#endif

/* What is not on the stack is not looked at: it may be any number where the C library runs, and
 * name memory that another thread gives back between the question and the look. */
unsigned stack_walk(uintptr_t sp, uintptr_t fp, uint64_t *pcs, unsigned max)
{
    struct walk w = {0};
    uintptr_t frame[2]; /* the caller's frame pointer, and where it goes on */
    unsigned n = 0;
    bool crossed = false; /* to the stack below a fiber's, once */
    while (n < max) {
        bool close = fp - sp < STACK_REACH;
        bool good = close && words(&w, fp, frame, 2) && frame[1] >= 4096 && !(frame[1] >> 56);
#if defined(__x86_64__)
        if (!good && close && !crossed && (crossed = good = fiber_parent(&w, fp, &sp, frame)))
            fp = sp;
#else
        (void)crossed;
#endif
        if (!good)
            break;
        pcs[n++] = frame[1] - 1;
        if (frame[0] <= fp)
            break; /* callers are above, on one stack */
        fp = frame[0];
    }
    return n;
}

/* ---- the timer ---- */

static _Thread_local timer_t timer;
static _Thread_local bool has_timer;
static _Thread_local struct stacks *volatile profiled;

static void on_profile(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    struct stacks *into = profiled;
    const ucontext_t *u = context;
    uint64_t pcs[STACK_DEPTH];
    if (!into)
        return;
#if defined(__x86_64__)
    pcs[0] = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
    uintptr_t fp = (uintptr_t)u->uc_mcontext.gregs[REG_RBP];
    uintptr_t sp = (uintptr_t)u->uc_mcontext.gregs[REG_RSP];
#else
    pcs[0] = u->uc_mcontext.pc;
    uintptr_t fp = u->uc_mcontext.regs[29], sp = u->uc_mcontext.sp;
#endif
    unsigned n = 1 + stack_walk(sp, fp, pcs + 1, STACK_DEPTH - 1);
    struct stack *k = stacks_get(into, mem_whose, pcs, n);
    if (k) /* and those that the kernel did not come to send */
        k->counts[0] += 1 + (uint64_t)MAX(info->si_overrun, 0);
}

void sys_profile_thread(void)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    struct sigaction action = {.sa_sigaction = on_profile,
                               .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    sigaction(SIGPROF, &action, NULL);
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    has_timer = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) == 0;
}

static bool every(long ns)
{
    const struct itimerspec s = {{0, ns}, {0, ns}};
    return has_timer && timer_settime(timer, 0, &s, NULL) == 0;
}

bool sys_profile_start(struct stacks *into)
{
    profiled = into;
    return every(SYS_PROFILE_NS);
}

void sys_profile_stop(void)
{
    every(0);
    profiled = NULL; /* a signal may be on its way still */
}
