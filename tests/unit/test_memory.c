/* app/memory: what smaps says by kind of mapping; leaks that are planted, and named. */
#include "unit.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "app/memory.h"
#include "sys/sys.h"

/* As a worker's looks, shortened. */
static const char smaps[] =
    "55c000000000-55c000007000 r--p 00000000 08:01 77        /opt/weir\n"
    "Size:                 28 kB\nRss:                  16 kB\n"
    "Pss:                  14 kB\nPss_Dirty:             9 kB\n"
    "VmFlags: rd mr mw me sd\n"
    "55c000007000-55c000017000 rw-p 00007000 08:01 77        /opt/weir\n"
    "Rss:  4 kB\nPss:  4 kB\n"
    "55c000017000-55c000027000 rw-p 00000000 00:00 0 \n"
    "Rss:  8 kB\nPss:  8 kB\n"
    "55c100000000-55c100100000 rw-p 00000000 00:00 0        [heap]\n"
    "Rss:  900 kB\nPss:  900 kB\n"
    "7e0000001000-7e0000002000 ---p 00000000 00:00 0 \n"
    "Rss:  0 kB\nPss:  0 kB\n"
    "7e0000002000-7e0000022000 rw-p 00000000 00:00 0 \n"
    "Rss:  12 kB\nPss:  12 kB\n"
    "7e0000022000-7e0000023000 rw-p 00000000 00:01 9 /memfd:wasm-memory-image (deleted)\n"
    "Rss:  4 kB\nPss:  4 kB\n"
    "7e1000001000-7e1000101000 rw-p 00000000 00:00 0 \n"
    "Rss:  32 kB\nPss:  32 kB\n"
    "7e2000001000-7e2000101000 rw-p 00000000 00:00 0 \n"
    "Rss:  31 kB\nPss:  31 kB\n"
    "7e4000000000-7e4000021000 rw-p 00000000 00:00 0 \n"
    "Rss:  7 kB\nPss:  7 kB\n"
    "7e5000001000-7e5000101000 r-xp 00000000 00:01 9 /memfd:weir-module (deleted)\n"
    "Rss:  48 kB\nPss:  24 kB\n"
    "7ffc00001000-7ffc00022000 rw-p 00000000 00:00 0        [stack]\n"
    "Rss:  40 kB\nPss:  40 kB\n"
    "7ffc10001000-7ffc10003000 r-xp 00000000 00:00 0        [vdso]\n"
    "Rss:  4 kB\nPss:  0 kB\n";

static void mappings_are_of_a_kind(void **state)
{
    (void)state;
    /* However the text is cut. */
    for (size_t step = 60; step < sizeof(smaps) - 1; step += 37) {
        struct memory_maps maps = {0};
        struct memory_parse p = {.out = &maps};
        char text[sizeof(smaps)];
        size_t have = 0;
        for (size_t at = 0; at < sizeof(smaps) - 1;) {
            size_t n = MIN(step, sizeof(smaps) - 1 - at);
            memcpy(text + have, smaps + at, n);
            at += n;
            have += n;
            size_t took = memory_parse(&p, slice_of(text, have));
            have -= took;
            memmove(text, text + took, have);
        }
        assert_int_equal(have, 0);
#define OF(kind, n) assert_int_equal(maps.of[MEMORY_##kind].pss, (n) << 10)
        OF(PROGRAM, 14);
        OF(PROGRAM_DATA, 4 + 8);
        OF(HEAP, 900 + 7);
        OF(ENGINE, 12 + 4);
        OF(ANONYMOUS, 32 + 31);
        OF(CODE, 24);
        OF(STACK, 40);
        OF(OTHER, 0);
        assert_int_equal(maps.of[MEMORY_CODE].rss, 48 << 10);
        assert_int_equal(maps.of[MEMORY_ENGINE].mappings, 3);
        assert_int_equal(maps.largest, 32 << 10);
        assert_int_equal(maps.largest_from, 0x7e1000001000);
    }
}

static void hostile_text_is_only_text(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\n\n\n",
        "Pss:\nRss:\n",
        "0\n",
        "f\n",
        "Pss: 99999999999999999999999 kB\n",
        "ffffffffffffffffffffffffffffffffffffffffffffffffffffffff\n",
        "1-2                                                      \n",
        "00000000000000000000000000000000000000000000000000000000-\n"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct memory_maps maps = {0};
        struct memory_parse p = {.out = &maps};
        size_t n = strlen(texts[i]);
        char *copy = malloc(n); /* without what ends a string */
        memcpy(copy, texts[i], n);
        assert_int_equal(memory_parse(&p, slice_of(copy, n)), n);
        free(copy);
    }
}

#ifndef __SANITIZE_ADDRESS__ /* its allocator answers no mallinfo, and fills mappings of its own:  \
                                scripts/test runs these of another build */
static char *page(struct memory *m)
{
    struct buf out;
    assert_err(memory_take(m), ERR_NONE);
    buf_init(&out, 1 << 20);
    assert_err(memory_write(m, &out), ERR_NONE);
    char *text = strndup((char *)out.p, out.len);
    buf_done(&out);
    return text;
}

enum { LEAK = 3 << 20, PIECE = 1000 };

static void what_is_counted_is_explained(void **state)
{
    (void)state;
    struct memory m;
    void *held[LEAK / PIECE];
    for (size_t i = 0; i < ARRAY_LEN(held); i++) {
        held[i] = mem_alloc(PIECE);
        memset(held[i], 1, PIECE);
    }
    void *large = mem_alloc(LEAK);
    memset(large, 1, LEAK);
    char *text = page(&m);
    assert_true(m.unexplained_bytes < MEMORY_FLAG);
    assert_non_null(strstr(text, "\"flagged\":null"));
    assert_true(m.counted >= 2 * (uint64_t)LEAK - PIECE);
    free(text);
    mem_free(large, LEAK);
    for (size_t i = 0; i < ARRAY_LEN(held); i++)
        mem_free(held[i], PIECE);
}

static void a_leak_of_malloc_is_named(void **state)
{
    (void)state;
    struct memory m;
    void *held[LEAK / PIECE];
    for (size_t i = 0; i < ARRAY_LEN(held); i++)
        memset(held[i] = malloc(PIECE), 1, PIECE);
    char *text = page(&m);
    assert_in_range(m.unexplained_bytes, LEAK - PIECE, LEAK + (1 << 20));
    assert_true(m.unexplained[MEMORY_PART_MALLOC] >= LEAK - PIECE);
    assert_non_null(strstr(text, "\"flagged\":\"heap\""));
    free(text);
    for (size_t i = 0; i < ARRAY_LEN(held); i++)
        free(held[i]);
}

static void a_leak_of_mappings_is_named(void **state)
{
    (void)state;
    struct memory m;
    char at[64];
    /* Pages around it that are another kind of mapping keep it apart. */
    size_t whole = LEAK + (2 << 20);
    char *around = mmap(NULL, whole, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(around, MAP_FAILED);
    char *leak = mmap(around + (1 << 20), LEAK, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_ptr_equal(leak, around + (1 << 20));
    memset(leak, 1, LEAK);
    char *text = page(&m);
    assert_in_range(m.unexplained[MEMORY_PART_ANONYMOUS], LEAK - (256 << 10), LEAK + (256 << 10));
    snprintf(at, sizeof(at), "the largest at %llx-", (unsigned long long)(uintptr_t)leak);
    assert_non_null(strstr(text, at));
    free(text);
    munmap(around, whole);
    text = page(&m);
    assert_non_null(strstr(text, "\"flagged\":null"));
    free(text);
}
#endif

static void a_buffer_too_small_is_an_error(void **state)
{
    (void)state;
    struct memory m;
    struct buf out;
    assert_err(memory_take(&m), ERR_NONE);
    for (uint32_t max = 0; max < 700; max += 50) {
        buf_init(&out, max);
        assert_err(memory_write(&m, &out), ERR_LIMIT);
        buf_done(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mappings_are_of_a_kind),
        cmocka_unit_test(hostile_text_is_only_text),
#ifndef __SANITIZE_ADDRESS__ /* its allocator answers no mallinfo, and fills mappings of its own   \
                              */
        cmocka_unit_test(what_is_counted_is_explained),
        cmocka_unit_test(a_leak_of_malloc_is_named),
        cmocka_unit_test(a_leak_of_mappings_is_named),
#endif
        cmocka_unit_test(a_buffer_too_small_is_an_error),
    };
    sys_process_open();
    memory_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
