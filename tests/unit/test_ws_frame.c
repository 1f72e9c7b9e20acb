/* ws/ws_frame: one frame's header, masking, close codes. Messages are in test_ws_receive. */
#include "unit.h"

#include "ws/ws_frame.h"

#define MASK "\x01\x02\x03\x04"

struct row {
    const char *what;
    struct slice input;
    enum err err;
    struct ws_frame frame; /* where err is NONE */
};

/* clang-format off */
#define OK(what, in, op, end, head, size) \
    {what, SLICE(in MASK), ERR_NONE, {.opcode = op, .fin = end, .header_len = head, .len = size}}
#define BAD(what, in, e) {what, SLICE(in), ERR_##e, {0}}
static const struct row rows[] = {
    OK("an empty text", "\x81\x80", WS_TEXT, true, 6, 0),
    OK("text", "\x81\x85", WS_TEXT, true, 6, 5),
    OK("the first part of binary", "\x02\x81", WS_BINARY, false, 6, 1),
    OK("a part", "\x00\xfd", WS_CONTINUATION, false, 6, 125),
    OK("the last part", "\x80\xfd", WS_CONTINUATION, true, 6, 125),
    OK("ping", "\x89\xfd", WS_PING, true, 6, 125),
    OK("pong", "\x8a\x80", WS_PONG, true, 6, 0),
    OK("close", "\x88\x82", WS_CLOSE, true, 6, 2),
    OK("126 bytes", "\x82\xfe\x00\x7e", WS_BINARY, true, 8, 126),
    OK("65535 bytes", "\x82\xfe\xff\xff", WS_BINARY, true, 8, 65535),
    OK("65536 bytes", "\x82\xff\0\0\0\0\0\1\0\0", WS_BINARY, true, 14, 65536),
    OK("as long as may be", "\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", WS_BINARY, true, 14,
       INT64_MAX),
    BAD("125 bytes in 16 bits", "\x82\xfe\x00\x7d" MASK, WS_LENGTH),
    BAD("no bytes in 16 bits", "\x82\xfe\x00\x00" MASK, WS_LENGTH),
    BAD("65535 bytes in 64 bits", "\x82\xff\0\0\0\0\0\0\xff\xff" MASK, WS_LENGTH),
    BAD("126 bytes in 64 bits", "\x82\xff\0\0\0\0\0\0\0\x7e" MASK, WS_LENGTH),
    BAD("no bytes in 64 bits", "\x82\xff\0\0\0\0\0\0\0\0" MASK, WS_LENGTH),
    BAD("the highest bit of 64", "\x82\xff\x80\0\0\0\0\1\0\0" MASK, WS_LENGTH),
    BAD("all bits of 64", "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" MASK, WS_LENGTH),
    BAD("reserved bit 1", "\xc1", WS_RESERVED),
    BAD("reserved bit 2", "\xa1", WS_RESERVED),
    BAD("reserved bit 3", "\x91", WS_RESERVED),
    BAD("all reserved bits of a ping", "\xf9", WS_RESERVED),
    BAD("opcode 3", "\x83", WS_OPCODE),
    BAD("opcode 7", "\x87", WS_OPCODE),
    BAD("opcode 11", "\x8b", WS_OPCODE),
    BAD("opcode 15", "\x8f", WS_OPCODE),
    BAD("an unknown opcode in parts", "\x0b", WS_OPCODE),
    BAD("no mask", "\x81\x05", WS_MASK),
    BAD("no mask and no data", "\x81\x00", WS_MASK),
    BAD("no mask of 16 bits", "\x81\x7e", WS_MASK),
    BAD("an unmasked close", "\x88\x00", WS_MASK),
    BAD("a ping in parts", "\x09", WS_CONTROL),
    BAD("a close in parts", "\x08", WS_CONTROL),
    BAD("a pong in parts", "\x0a", WS_CONTROL),
    BAD("a ping of 126 bytes", "\x89\xfe", WS_CONTROL),
    BAD("a close of 64 bits", "\x88\xff", WS_CONTROL),
};
/* clang-format on */

/* A BAD row's input ends where the fault is seen: any prefix of it must ask for more. */
static void headers_are_read_or_refused_at_their_first_fault(void **state)
{
    (void)state;
    int wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct row *r = &rows[i];
        struct ws_frame f = {0};
        struct ws_result got = {WS_MORE, ERR_NONE, 0};
        size_t n = 0;
        while (n <= r->input.n && got.state == WS_MORE) {
            uint8_t *copy = malloc(n ? n : 1);
            assert_non_null(copy);
            memcpy(copy, r->input.p, n);
            got = ws_frame_parse(copy, n++, false, &f);
            free(copy);
        }
        bool ok = r->err ? got.state == WS_BAD && got.err == r->err
                         : got.state == WS_DONE && got.consumed == r->input.n &&
                               n - 1 == r->input.n && f.opcode == r->frame.opcode &&
                               f.fin == r->frame.fin && f.len == r->frame.len &&
                               f.header_len == r->frame.header_len && memcmp(f.mask, MASK, 4) == 0;
        if (ok)
            continue;
        print_error("%s: %d %s after %zu bytes\n", r->what, (int)got.state, err_name(got.err), n);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static void each_first_byte_is_as_the_rfc_says(void **state)
{
    (void)state;
    for (unsigned b = 0; b < 256; b++) {
        uint8_t head[6] = {(uint8_t)b, 0x80, 1, 2, 3, 4};
        struct ws_frame f;
        unsigned opcode = b & 15;
        bool known = opcode <= 2 || (opcode >= 8 && opcode <= 10);
        enum err want = b & 0x70                     ? ERR_WS_RESERVED
                        : !known                     ? ERR_WS_OPCODE
                        : opcode >= 8 && !(b & 0x80) ? ERR_WS_CONTROL
                                                     : ERR_NONE;
        assert_err(ws_frame_parse(head, sizeof(head), false, &f).err, want);
    }
}

static void a_made_header_reads_back(void **state)
{
    (void)state;
    static const struct {
        uint64_t len;
        size_t n;
    } lengths[] = {{0, 2},     {1, 2},      {125, 2},      {126, 4},
                   {65535, 4}, {65536, 10}, {1 << 30, 10}, {INT64_MAX, 10}};
    static const uint8_t opcodes[] = {WS_CONTINUATION, WS_TEXT, WS_BINARY};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++)
        for (size_t j = 0; j < ARRAY_LEN(opcodes); j++)
            for (int fin = 0; fin < 2; fin++) {
                uint8_t head[WS_HEADER_MAX] = {0};
                struct ws_frame f;
                size_t n = ws_frame_header(head, (enum ws_opcode)opcodes[j], fin, lengths[i].len);
                assert_int_equal(n, lengths[i].n);
                assert_int_equal(head[1] & 0x80, 0); /* a server does not mask */
                assert_err(ws_frame_parse(head, n, false, &f).err, ERR_WS_MASK);
                head[1] |= 0x80;
                assert_int_equal(ws_frame_parse(head, n + 4, false, &f).state, WS_DONE);
                assert_int_equal(f.len, lengths[i].len);
                assert_int_equal(f.opcode, opcodes[j]);
                assert_int_equal(f.fin, fin);
            }
}

static void unmask_agrees_with_a_plain_loop(void **state)
{
    (void)state;
    enum { MOST = 200, ALIGN = 32, GUARD = 8 };
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    static uint8_t space[MOST + ALIGN + 2 * GUARD] __attribute__((aligned(64)));
    static uint8_t want[sizeof(space)];
    for (size_t align = 0; align < ALIGN; align++)
        for (unsigned phase = 0; phase < 4; phase++)
            for (size_t n = 0; n <= MOST; n++) {
                for (size_t i = 0; i < sizeof(space); i++)
                    want[i] = space[i] = (uint8_t)(i * 7 + n);
                for (size_t i = 0; i < n; i++)
                    want[GUARD + align + i] ^= mask[(phase + i) % 4];
                ws_unmask(space + GUARD + align, n, mask, phase);
                assert_memory_equal(space, want, sizeof(space));
            }
}

/* RFC 6455 7.4: 1000-1003 and 1007-1011 have a meaning, 1004-1006 and 1015 never stand in a frame,
 * 1012-1014 are registered since, 3000-4999 are for libraries and applications. */
static void close_codes_are_as_the_registry_says(void **state)
{
    (void)state;
    for (unsigned code = 0; code <= 70000; code++) {
        bool valid = false;
        switch (code) {
        case 1000:
        case 1001:
        case 1002:
        case 1003:
        case 1007:
        case 1008:
        case 1009:
        case 1010:
        case 1011:
        case 1012:
        case 1013:
        case 1014:
            valid = true;
            break;
        default:
            valid = code / 1000 == 3 || code / 1000 == 4;
        }
        if (ws_close_code_valid(code) != valid) {
            print_error("%u\n", code);
            fail();
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_read_or_refused_at_their_first_fault),
        cmocka_unit_test(each_first_byte_is_as_the_rfc_says),
        cmocka_unit_test(a_made_header_reads_back),
        cmocka_unit_test(unmask_agrees_with_a_plain_loop),
        cmocka_unit_test(close_codes_are_as_the_registry_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
