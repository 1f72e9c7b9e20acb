/* Cold starts: a fresh instance of a module, one call of its add(2.5, 3.7) and the instance's end,
 * many times in one process, through the gateway's own guest layer; with --load, each time from the
 * file on: open, load, instantiate, call.
 *
 *     bench-cold [--load] [--anew | --no-scan] [--pulley] MODULE.cwasm [ROUNDS]
 *     bench-cold --spin NS [ROUNDS]
 *
 * --spin counts for about NS nanoseconds a round and calls nothing: the tail that is the machine's.
 *
 * The instance is restored where the module allows it; --anew: made and deleted each time;
 * --no-scan: that too, and as on a kernel that can't report written pages. Prints JSON: P50 and P99
 * of one round in µs. */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "guest/guest.h"
#include "sys/sys.h"

enum { ROUNDS = 50000, WARMUP = 100, MEMORY_MAX = 16 << 20, TABLE_MAX = 20000 };

static uint64_t ended;

static void done(struct guest_call *call, enum err e)
{
    double sum;
    memcpy(&sum, &call->frame.values[0].bits, sizeof(sum));
    if (!e && sum == 6.2)
        ended++;
}

static bool output(struct guest_call *call, bool error, struct slice data)
{
    (void)call, (void)error, (void)data;
    return true;
}

static uint32_t environment(struct guest_call *call, struct buf *out)
{
    (void)call, (void)out;
    return 0;
}

static void failed(struct guest_call *call, enum err e, struct slice text)
{
    (void)call;
    fprintf(stderr, "%s: %.*s\n", err_name(e), (int)text.n, (const char *)text.p);
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void call_once(struct guests *g, struct guest_module *m, uint64_t *now_ns)
{
    static struct guest_call call;
    double args[] = {2.5, 3.7};
    call.module = m;
    call.entry = guest_function_find(m, SLICE("add"))->entry;
    call.done = done;
    call.frame.n_args = 0;
    call.frame.n_results = 1;
    *now_ns = sys_now_ns();
    for (size_t i = 0; i < ARRAY_LEN(args); i++) {
        uint64_t bits;
        memcpy(&bits, &args[i], sizeof(bits));
        guest_arg(&call, WASMTIME_F64, bits);
    }
    if (guest_call_start(g, &call))
        exit(EXIT_FAILURE);
    while (guests_run(g))
        ;
}

static void count(uint64_t n)
{
    for (volatile uint64_t i = 0; i < n; i++)
        ;
}

static uint32_t count_ns(uint64_t n)
{
    uint64_t start_ns = sys_now_ns();
    count(n);
    return (uint32_t)(sys_now_ns() - start_ns);
}

/* Rounds of the same work, about `ns` each where nothing interrupts it. */
static void spin(uint32_t *took, uint32_t rounds, uint64_t ns)
{
    enum { TRIES = 1000, STEPS = 10000 };
    for (uint32_t i = 0; i < TRIES; i++)
        took[i % rounds] = count_ns(STEPS);
    qsort(took, MIN(rounds, TRIES), sizeof(*took), by_size);
    uint64_t steps = ns * STEPS / MAX(took[MIN(rounds, TRIES) / 2], 1);
    for (uint32_t i = 0; i < rounds; i++)
        took[i] = count_ns(steps);
}

/* Not getrusage's: that keeps what the parent had before exec. */
static long peak_kb(void)
{
    char line[256];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmHWM: %ld", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb;
}

static int print(uint32_t *took, uint32_t rounds)
{
    qsort(took, rounds, sizeof(*took), by_size);
    return printf("{\"rounds\": %u, \"peak_kb\": %ld, \"p50_us\": %.3f, \"p99_us\": %.3f}\n",
                  rounds, peak_kb(), took[rounds / 2] / 1e3, took[rounds - 1 - rounds / 100] / 1e3);
}

static void load(struct guests *g, struct guest_module *m, bool pulley, const char *path)
{
    struct buf why;
    buf_init(&why, 4096);
    guest_module_init(m, "add");
    m->allow = ~UINT64_C(0);
    m->limits = (struct guest_module_limits){.memory = MEMORY_MAX,
                                             .table_elements = TABLE_MAX,
                                             .deadline_ms = 1000,
                                             .timeout_ms = 1000,
                                             .calls = UINT32_MAX};
    if (guest_load(g, m, pulley, open(path, O_RDONLY | O_CLOEXEC), &why) ||
        !guest_function_find(m, SLICE("add"))) {
        fprintf(stderr, "%s: %.*s\n", path, (int)why.len, why.len ? (const char *)why.p : "");
        exit(EXIT_FAILURE);
    }
    buf_done(&why);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: bench-cold [--load] [--anew] [--no-scan] [--pulley] MODULE.cwasm [ROUNDS]\n"
            "       bench-cold --spin NS [ROUNDS]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static struct guests g;
    static struct guest_module m;
    struct guest_limits limits = {.slots = 64,
                                  .slots_module = 64,
                                  .queue = 1,
                                  .memory_max = MEMORY_MAX,
                                  .table_max = TABLE_MAX,
                                  .budget_ns = UINT64_MAX};
    const struct guest_ops ops = {.failed = failed, .output = output, .environment = environment};
    uint64_t now_ns = sys_now_ns();
    bool from_file = false, pulley = false, anew = false, spinning = false;
    for (; argc > 1 && argv[1][0] == '-'; argc--, argv++)
        if (strcmp(argv[1], "--load") == 0)
            from_file = true;
        else if (strcmp(argv[1], "--spin") == 0)
            spinning = true;
        else if (strcmp(argv[1], "--pulley") == 0)
            pulley = true;
        else if (strcmp(argv[1], "--anew") == 0)
            anew = true;
        else if (strcmp(argv[1], "--no-scan") == 0)
            limits.no_scan = anew = true;
        else
            return usage();
    uint32_t rounds = argc > 2 ? (uint32_t)atoi(argv[2]) : ROUNDS;
    uint32_t *took = calloc(rounds + 1, sizeof(*took));
    if (argc < 2 || argc > 3 || !rounds || !took)
        return usage();
    if (spinning) {
        spin(took, rounds, strtoull(argv[1], NULL, 10));
        return print(took, rounds) < 0;
    }
    mallopt(M_TRIM_THRESHOLD, 1 << 20); /* as in main.c */
    guests_init(&g, &limits, &ops, &now_ns);
    load(&g, &m, pulley, argv[1]);
    for (uint32_t i = 0; i < WARMUP + rounds; i++) {
        if (from_file)
            guest_unload(&m);
        uint64_t start_ns = sys_now_ns();
        if (from_file)
            load(&g, &m, pulley, argv[1]);
        m.restorable &= !anew;
        call_once(&g, &m, &now_ns);
        if (i >= WARMUP)
            took[i - WARMUP] = (uint32_t)(sys_now_ns() - start_ns);
    }
    print(took, rounds);
    return ended == (uint64_t)rounds + WARMUP ? 0 : 1;
}
