/* base/utf8 against an oracle made the other way round: every code point that may be encoded is
 * encoded, and the prefixes of what comes out are all that may be seen. */
#include "unit.h"

#include "base/utf8.h"

static bool one[256], two[256 * 256]; /* prefixes of one and of two bytes */
static uint8_t three[1 << 21];        /* a bit for each of three */

static size_t encode(uint32_t point, uint8_t out[4])
{
    if (point < 0x80) {
        out[0] = (uint8_t)point;
        return 1;
    }
    size_t n = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; point >>= 6)
        out[i] = (uint8_t)(0x80 | (point & 0x3f));
    out[0] = (uint8_t)(lead[n] | point);
    return n;
}

static int make_oracle(void **state)
{
    (void)state;
    for (uint32_t point = 0; point <= 0x10ffff; point++) {
        uint8_t b[4] = {0};
        if (point >= 0xd800 && point <= 0xdfff)
            continue;
        size_t n = encode(point, b);
        uint32_t key = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 8 | b[2];
        one[b[0]] = true;
        if (n > 1)
            two[b[0] << 8 | b[1]] = true;
        if (n > 2)
            three[key >> 3] |= (uint8_t)(1 << (key & 7));
    }
    return 0;
}

/* Walks by prefixes. Returns the index of the first byte that can't be there, n where there is
 * none; *complete: whether it ends between two characters. */
static size_t oracle(const uint8_t *p, size_t n, bool *complete)
{
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        size_t len = i - start + 1;
        uint32_t key = 0;
        for (size_t j = start; j <= i; j++)
            key = key << 8 | p[j];
        bool ok = len == 1   ? one[p[i]]
                  : len == 2 ? two[key]
                  : len == 3 ? three[key >> 3] >> (key & 7) & 1
                             : p[i] >= 0x80 && p[i] <= 0xbf;
        if (!ok)
            return i;
        size_t whole = p[start] < 0x80 ? 1 : p[start] < 0xe0 ? 2 : p[start] < 0xf0 ? 3 : 4;
        if (len == whole)
            start = i + 1;
    }
    *complete = start == n;
    return n;
}

static void agree(const uint8_t *p, size_t n)
{
    bool complete = false;
    size_t bad = oracle(p, n, &complete);
    if (utf8_valid(slice_of(p, n)) != (bad == n && complete)) {
        print_error("%02x %02x %02x %02x of %zu\n", p[0], n > 1 ? p[1] : 0, n > 2 ? p[2] : 0,
                    n > 3 ? p[3] : 0, n);
        fail();
    }
}

static void agree_by_byte(const uint8_t *p, size_t n)
{
    struct utf8 u = {0};
    bool complete = false;
    size_t bad = oracle(p, n, &complete), i = 0;
    while (i < n && utf8_feed(&u, p + i, 1))
        i++;
    assert_int_equal(i, bad);
    if (bad == n)
        assert_int_equal(utf8_complete(&u), complete);
}

static void all_of_one_and_two_bytes(void **state)
{
    (void)state;
    assert_true(utf8_valid(SLICE_NONE));
    for (unsigned v = 0; v < 1 << 16; v++) {
        uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
        agree(b, 1);
        agree(b, 2);
        agree_by_byte(b, 2);
    }
}

static void all_of_three_bytes(void **state)
{
    (void)state;
    static const uint8_t few[] = {0x00, 0x7f, 0x80, 0xbf, 0xc1, 0xc2, 0xed, 0xf4, 0xf5, 0xff};
    for (unsigned v = 0; v < 1 << 16; v++) {
        uint8_t b[3] = {(uint8_t)(v >> 8), (uint8_t)v, 0};
        bool all = b[0] >= 0xc0; /* below, the first byte stands alone: a few third ones do */
        for (unsigned c = 0; c < (all ? 256 : ARRAY_LEN(few)); c++) {
            b[2] = all ? (uint8_t)c : few[c];
            agree(b, 3);
        }
        b[2] = few[v % ARRAY_LEN(few)];
        agree_by_byte(b, 3);
    }
}

static void all_leads_and_seconds_of_four_bytes(void **state)
{
    (void)state;
    static const uint8_t few[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff};
    for (unsigned v = 0xe000; v < 1 << 16; v++)
        for (unsigned c = 0; c < ARRAY_LEN(few); c++)
            for (unsigned d = 0; d < ARRAY_LEN(few); d++) {
                uint8_t b[4] = {(uint8_t)(v >> 8), (uint8_t)v, few[c], few[d]};
                agree(b, 4);
                if ((c + d) % 5 == 0)
                    agree_by_byte(b, 4);
            }
}

static void every_code_point_is_taken_and_no_cut_of_it(void **state)
{
    (void)state;
    for (uint32_t point = 0; point <= 0x10ffff; point += point < 0x3000 ? 1 : 7) {
        uint8_t b[4];
        size_t n = encode(point, b);
        bool surrogate = point >= 0xd800 && point <= 0xdfff;
        assert_int_equal(utf8_valid(slice_of(b, n)), !surrogate);
        for (size_t cut = 1; cut < n; cut++)
            assert_false(utf8_valid(slice_of(b, cut)));
    }
}

/* The eight-byte stride must not step over anything, wherever it stands and is cut. */
static void long_text_at_every_offset_and_cut(void **state)
{
    (void)state;
    static const struct slice middles[] = {
        SLICE("\xe2\x82\xac"), SLICE("\xf0\x9f\x98\x80"), SLICE("\xc3"),
        SLICE("\x80"),         SLICE("\xed\xa0\x80"),     SLICE("\xff"),
        SLICE("\xc0\x80"),     SLICE("\xf4\x8f\xbf\xbf"), SLICE("\xf4\x90\x80\x80"),
    };
    uint8_t b[48];
    for (size_t m = 0; m < ARRAY_LEN(middles); m++)
        for (size_t at = 0; at + middles[m].n <= 40; at++) {
            memset(b, 'a', sizeof(b));
            memcpy(b + at, middles[m].p, middles[m].n);
            bool complete = false;
            bool valid = oracle(b, 40, &complete) == 40 && complete;
            for (size_t cut = 0; cut <= 40; cut++) {
                struct utf8 u = {0};
                bool got = utf8_feed(&u, b, cut) && utf8_feed(&u, b + cut, 40 - cut);
                assert_int_equal(got && utf8_complete(&u), valid);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_of_one_and_two_bytes),
        cmocka_unit_test(all_of_three_bytes),
        cmocka_unit_test(all_leads_and_seconds_of_four_bytes),
        cmocka_unit_test(every_code_point_is_taken_and_no_cut_of_it),
        cmocka_unit_test(long_text_at_every_offset_and_cut),
    };
    return cmocka_run_group_tests(tests, make_oracle, NULL);
}
