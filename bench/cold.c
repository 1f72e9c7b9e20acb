/* Cold starts: a fresh instance of a module, one call of a function (f64, f64) and the instance's
 * end, many times in one process, through the gateway's own guest layer.
 *
 *     bench-cold MODULE.cwasm FUNCTION [ROUNDS]
 *
 * Prints JSON: P50 and P99 of one round in µs. */
#include <stdio.h>
#include <stdlib.h>

#include "guest/guest.h"
#include "sys/sys.h"

enum { ROUNDS = 50000, WARMUP = 1000 };

static uint64_t ended;

static void done(struct guest_call *call, enum err e)
{
    double sum;
    memcpy(&sum, &call->frame.values[0].bits, sizeof(sum));
    if (!e && sum == 6.2)
        ended++;
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

static uint32_t round_ns(struct guests *g, const struct guest_module *m, uint64_t *now_ns)
{
    static struct guest_call call;
    double args[] = {2.5, 3.7};
    call.module = (struct guest_module *)(uintptr_t)m;
    call.entry = m->functions[0].entry;
    call.done = done;
    call.frame.n_args = 0;
    call.frame.n_results = 1;
    uint64_t start_ns = *now_ns = sys_now_ns();
    for (size_t i = 0; i < ARRAY_LEN(args); i++) {
        uint64_t bits;
        memcpy(&bits, &args[i], sizeof(bits));
        guest_arg(&call, WASMTIME_F64, bits);
    }
    if (guest_call_start(g, &call))
        exit(EXIT_FAILURE);
    while (guests_run(g))
        ;
    return (uint32_t)(sys_now_ns() - start_ns);
}

int main(int argc, char **argv)
{
    static struct guests g;
    static struct guest_module m;
    const struct guest_limits limits = {.slots = 64,
                                        .slots_module = 64,
                                        .queue = 1,
                                        .memory_max = 4 << 20,
                                        .budget_ns = UINT64_MAX};
    const struct guest_ops ops = {.failed = failed};
    uint64_t now_ns = sys_now_ns();
    uint32_t rounds = argc > 3 ? (uint32_t)atoi(argv[3]) : ROUNDS;
    struct slice code;
    struct buf why;
    buf_init(&why, 4096);
    uint32_t *took = calloc(rounds + 1, sizeof(*took));
    if (argc < 3 || !took || sys_file_read(argv[1], 64 << 20, &code)) {
        fprintf(stderr, "usage: bench-cold MODULE.cwasm FUNCTION [ROUNDS]\n");
        return 2;
    }
    guests_init(&g, &limits, &ops, &now_ns);
    guest_module_init(&m, argv[2]);
    m.allow = ~UINT64_C(0);
    m.limits = (struct guest_module_limits){.memory = 4 << 20,
                                            .table_elements = 20000,
                                            .deadline_ms = 1000,
                                            .timeout_ms = 1000,
                                            .calls = UINT32_MAX};
    if (guest_load(&g, &m, false, sys_memfd_sealed("module", code), &why) || m.n_functions != 1) {
        fprintf(stderr, "%s: %.*s\n", argv[1], (int)why.len, (const char *)why.p);
        return 1;
    }
    for (uint32_t i = 0; i < WARMUP; i++)
        round_ns(&g, &m, &now_ns);
    for (uint32_t i = 0; i < rounds; i++)
        took[i] = round_ns(&g, &m, &now_ns);
    qsort(took, rounds, sizeof(*took), by_size);
    printf("{\"rounds\": %u, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", rounds, took[rounds / 2] / 1e3,
           took[rounds - 1 - rounds / 100] / 1e3);
    return ended == (uint64_t)rounds + WARMUP ? 0 : 1;
}
