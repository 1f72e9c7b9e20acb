/* app/pprof: the bytes of profile.proto; sys/sys_profile: stacks, how they are walked and named. */
#include "unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <zlib.h>

#include "app/pprof.h"
#include "sys/sys_profile.h"

static void assert_out(const struct pprof *p, uint32_t from, const char *want, size_t n)
{
    assert_int_equal(p->e, ERR_NONE);
    assert_int_equal(p->out.len - from, n);
    assert_memory_equal(p->out.p + from, want, n);
}
#define ASSERT_OUT(p, from, literal) assert_out(p, from, literal, sizeof(literal) - 1)

static void test_each_message_as_protobuf_has_it(void **state)
{
    (void)state;
    struct pprof p;
    pprof_begin(&p, 1 << 16);
    ASSERT_OUT(&p, 0, "\x32\0");
    uint32_t at = p.out.len;
    assert_int_equal(pprof_string(&p, SLICE("ab")), 1);
    ASSERT_OUT(&p, at,
               "\x32\x02"
               "ab");
    at = p.out.len;
    pprof_location(&p, 1, 2, 300, 4);
    ASSERT_OUT(&p, at, "\x22\x0b\x08\x01\x10\x02\x18\xac\x02\x22\x02\x08\x04");
    at = p.out.len;
    pprof_location(&p, 5, 0, 0, 0);
    ASSERT_OUT(&p, at, "\x22\x02\x08\x05");
    at = p.out.len;
    pprof_function(&p, 3, 1, 0);
    ASSERT_OUT(&p, at, "\x2a\x06\x08\x03\x10\x01\x18\x01");
    at = p.out.len;
    const uint64_t locations[] = {1, 128};
    const int64_t values[] = {-1, 7};
    const struct pprof_label labels[] = {{1, 2}, {1, 0}};
    pprof_sample(&p, locations, 2, values, 2, labels, 2);
    ASSERT_OUT(&p, at,
               "\x12\x18\x0a\x03\x01\x80\x01\x12\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x07"
               "\x1a\x04\x08\x01\x10\x02");
    pprof_done(&p);
}

static void test_the_largest_sample_fits(void **state)
{
    (void)state;
    struct pprof p;
    uint64_t locations[STACK_DEPTH];
    const int64_t values[] = {-1, -1, -1, -1};
    const struct pprof_label labels[] = {{UINT32_MAX, UINT32_MAX}, {UINT32_MAX, UINT32_MAX}};
    memset(locations, 0xff, sizeof(locations));
    pprof_begin(&p, 1 << 16);
    pprof_sample(&p, locations, STACK_DEPTH, values, 4, labels, 2);
    assert_int_equal(p.e, ERR_NONE);
    pprof_done(&p);
}

static void test_text_of_guests_is_made_utf8(void **state)
{
    (void)state;
    struct pprof p;
    pprof_begin(&p, 1 << 16);
    uint32_t at = p.out.len;
    pprof_string(&p, SLICE("a\xff\xc3z"));
    ASSERT_OUT(&p, at,
               "\x32\x04"
               "a??z");
    at = p.out.len;
    pprof_string(&p, SLICE("\xc3\xa4"));
    ASSERT_OUT(&p, at, "\x32\x02\xc3\xa4");
    pprof_done(&p);
}

static void test_past_its_size_it_fails_and_stays_so(void **state)
{
    (void)state;
    struct pprof p;
    pprof_begin(&p, 16);
    assert_int_equal(pprof_string(&p, SLICE("more than sixteen bytes")), 0);
    assert_int_equal(p.e, ERR_LIMIT);
    pprof_end(&p, 1, 1, "cpu", "nanoseconds", 1, "cpu");
    assert_int_equal(p.e, ERR_LIMIT);
    pprof_done(&p);
}

static void test_gzip_comes_back(void **state)
{
    (void)state;
    static uint8_t in[100000], out[sizeof(in)];
    struct buf zipped;
    buf_init(&zipped, 1 << 20);
    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(i * i >> 7);
    assert_int_equal(pprof_gzip(slice_of(in, sizeof(in)), &zipped), ERR_NONE);
    z_stream z = {
        .next_in = zipped.p, .avail_in = zipped.len, .next_out = out, .avail_out = sizeof(out)};
    assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    inflateEnd(&z);
    assert_int_equal(z.total_out, sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
    buf_done(&zipped);
    buf_init(&zipped, 4096); /* for what it takes, not for what it could */
    memset(in, 'a', sizeof(in));
    assert_int_equal(pprof_gzip(slice_of(in, sizeof(in)), &zipped), ERR_NONE);
    buf_done(&zipped);
    buf_init(&zipped, 8);
    assert_int_equal(pprof_gzip(slice_of(in, sizeof(in)), &zipped), ERR_LIMIT);
    buf_done(&zipped);
}

static void test_a_stack_is_there_once(void **state)
{
    (void)state;
    struct stacks *s = stacks_new(STACK_SPARE + 600);
    const struct mem_whose nobody = {0, 0}, somebody = {1, 0};
    const uint64_t a[] = {1, 2, 3}, b[] = {1, 2, 4};
    struct stack *k = stacks_get(s, nobody, a, 3);
    assert_non_null(k);
    assert_ptr_equal(stacks_get(s, nobody, a, 3), k);
    assert_ptr_not_equal(stacks_get(s, nobody, a, 2), k);
    assert_ptr_not_equal(stacks_get(s, nobody, b, 3), k);
    assert_ptr_not_equal(stacks_get(s, somebody, a, 3), k);
    unsigned n = 0;
    for (struct stack *x = NULL; (x = stacks_next(s, x)) != NULL; n++)
        assert_true(x->n == 2 || x->n == 3);
    assert_int_equal(n, 4);
    stacks_free(s);
}

static void test_past_its_size_it_is_known_whose_they_are(void **state)
{
    (void)state;
    struct stacks *s = stacks_new(STACK_SPARE + 600);
    const struct mem_whose somebody = {1, 2}, other = {2, 0};
    uint64_t pcs[] = {1, 2, 3};
    const struct stack *k;
    while ((k = stacks_get(s, somebody, pcs, 3)) != NULL && k->n)
        pcs[0]++;
    assert_non_null(k);
    assert_int_equal(s->dropped, 1);
    assert_int_equal(k->whose.module, 1);
    assert_int_equal(k->whose.owner, 2);
    pcs[0]++;
    assert_ptr_equal(stacks_get(s, somebody, pcs, 3), k);
    assert_int_equal(s->dropped, 2);
    pcs[0] = 1;
    assert_int_equal(stacks_get(s, somebody, pcs, 3)->n, 3); /* those that are there go on */
    assert_int_equal(stacks_get(s, other, pcs, 3)->whose.module, 2);
    for (uint16_t i = 3; stacks_get(s, (struct mem_whose){i, 0}, pcs, 3); i++)
        ;
    assert_true(s->used <= s->size);
    stacks_free(s);
}

static __attribute__((noinline)) unsigned walk_here(uint64_t *pcs)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    unsigned n = stack_walk(here, here, pcs, STACK_DEPTH);
    __asm__ volatile("" ::: "memory"); /* no tail call: it has a frame */
    return n;
}

static __attribute__((noinline)) unsigned walk_deeper(unsigned depth, uint64_t *pcs)
{
    unsigned n = depth ? walk_deeper(depth - 1, pcs) : walk_here(pcs);
    __asm__ volatile("" ::: "memory");
    return n;
}

static void test_frames_are_walked_and_named(void **state)
{
    (void)state;
    uint64_t pcs[STACK_DEPTH];
    struct sys_symbol s[1] = {{0}};
    struct buf names;
    assert_in_range(walk_deeper(3, pcs), 4, STACK_DEPTH);
    assert_int_equal(walk_deeper(100, pcs), STACK_DEPTH);
    sys_profile_open();
    buf_init(&names, 4096);
    s[0].pc = pcs[0];
    sys_symbols_find(s, 1, &names);
    assert_int_equal(s[0].object, 1);
    assert_true(s[0].from && s[0].from <= pcs[0]);
    assert_string_equal(names.p + s[0].name_at, "walk_deeper");
    s[0] = (struct sys_symbol){.pc = 16};
    sys_symbols_find(s, 1, &names);
    assert_int_equal(s[0].object, 0);
    assert_int_equal(s[0].from, 0);
    buf_done(&names);
}

static void test_what_is_no_frame_ends_a_walk(void **state)
{
    (void)state;
    uint64_t pcs[STACK_DEPTH];
    uintptr_t *page = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                           0);
    uintptr_t at = (uintptr_t)page;
    assert_int_equal(mprotect(page + 512, 4096, PROT_NONE), 0);
    assert_int_equal(stack_walk(0, 0, pcs, STACK_DEPTH), 0);
    assert_int_equal(stack_walk(UINTPTR_MAX - 7, UINTPTR_MAX - 7, pcs, STACK_DEPTH), 0);
    assert_int_equal(stack_walk(at, at + 1, pcs, STACK_DEPTH), 0);
    assert_int_equal(stack_walk(at, at + 4096, pcs, STACK_DEPTH), 0);
    assert_int_equal(stack_walk(at, at + 4096 - 8, pcs, STACK_DEPTH), 0); /* half of it is there */
    page[0] = at;                                                         /* its own caller */
    page[1] = 0x10000;
    assert_int_equal(stack_walk(at, at, pcs, STACK_DEPTH), 1);
    /* readable as it is, but no part of that stack */
    assert_int_equal(stack_walk((uintptr_t)&page, at, pcs, STACK_DEPTH), 0);
    assert_int_equal(stack_walk(at + 16, at, pcs, STACK_DEPTH), 0);
    assert_int_equal(stack_walk(at - STACK_REACH, at, pcs, STACK_DEPTH), 0);
    page[0] = at + 4096 + 16; /* into what is not there */
    assert_int_equal(stack_walk(at, at, pcs, STACK_DEPTH), 1);
    page[1] = UINT64_C(0xdead) << 48;
    assert_int_equal(stack_walk(at, at, pcs, STACK_DEPTH), 0);
    munmap(page, 3 * 4096);
}

static void test_no_timer_is_said(void **state)
{
    (void)state;
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_SIGPENDING, &before), 0);
    none = (struct rlimit){0, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &none), 0);
    sys_profile_thread();
    assert_int_equal(setrlimit(RLIMIT_SIGPENDING, &before), 0);
    struct stacks *s = stacks_new(600);
    assert_false(sys_profile_start(s));
    sys_profile_stop();
    stacks_free(s);
}

static void test_running_time_is_sampled_while_it_is_on(void **state)
{
    (void)state;
    struct timespec t;
    struct stacks *s = stacks_new(64 << 10);
    sys_profile_thread();
    assert_true(sys_profile_start(s));
    do
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    while (t.tv_sec == 0 && !s->used);
    sys_profile_stop();
    assert_true(s->used > 0);
    const struct stack *k = stacks_next(s, NULL);
    assert_true(k->n > 1 && k->counts[0] > 0);
    raise(SIGPROF); /* one that was on its way */
    stacks_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_message_as_protobuf_has_it),
        cmocka_unit_test(test_the_largest_sample_fits),
        cmocka_unit_test(test_text_of_guests_is_made_utf8),
        cmocka_unit_test(test_past_its_size_it_fails_and_stays_so),
        cmocka_unit_test(test_gzip_comes_back),
        cmocka_unit_test(test_a_stack_is_there_once),
        cmocka_unit_test(test_past_its_size_it_is_known_whose_they_are),
        cmocka_unit_test(test_frames_are_walked_and_named),
        cmocka_unit_test(test_what_is_no_frame_ends_a_walk),
        cmocka_unit_test(test_no_timer_is_said),
        cmocka_unit_test(test_running_time_is_sampled_while_it_is_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
