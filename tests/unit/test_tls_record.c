/* TLS records against RFC 8448's trace, and against what may not be taken. */
#include "unit.h"

#include "net/tls_record.h"

static struct tls_ciphers ciphers;
static uint8_t wire[TLS_SEALED_MAX + 64];

static size_t hex(const char *text, uint8_t *out)
{
    size_t n = 0;
    for (unsigned byte; sscanf(text, "%2x", &byte) == 1; text += 2)
        out[n++] = (uint8_t)byte;
    return n;
}

static int setup(void **state)
{
    (void)state;
    return tls_ciphers_init(&ciphers) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    tls_ciphers_done(&ciphers);
    return 0;
}

static struct tls_keys keys_of(enum tls_suite suite, bool v13)
{
    struct tls_keys k = {.suite = (uint8_t)suite, .v13 = v13};
    memset(k.in.secret, 7, sizeof(k.in.secret));
    memset(k.in.key, 8, sizeof(k.in.key));
    memset(k.in.iv, 9, sizeof(k.in.iv));
    assert_true(!v13 || tls_half_derive(&k.in, suite));
    k.out = k.in;
    return k;
}

static size_t seal(struct tls_keys *k, enum tls_type type, const void *p, size_t n)
{
    const struct slice v[] = {slice_of(p, n / 3), slice_of((const uint8_t *)p + n / 3, n - n / 3)};
    return tls_seal(&ciphers, k, type, v, 2, wire);
}

#define EACH_SUITE(k)                                                                              \
    for (unsigned i_ = 0; i_ < 2 * TLS_SUITES; i_++)                                               \
        for (struct tls_keys k = keys_of((enum tls_suite)(i_ / 2), i_ & 1), *once_ = &k; once_;    \
             once_ = NULL)

/* RFC 8448 3: "Simple 1-RTT Handshake". */
static void the_trace_of_rfc_8448(void **state)
{
    (void)state;
    struct tls_keys k = {.suite = TLS_AES_128_GCM, .v13 = true};
    uint8_t want[96];
    hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5", k.in.secret);
    hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643", k.out.secret);
    assert_true(tls_half_derive(&k.in, TLS_AES_128_GCM));
    assert_true(tls_half_derive(&k.out, TLS_AES_128_GCM));
    assert_memory_equal(k.in.key, want, hex("17422dda596ed5d9acd890e3c63f5051", want));
    assert_memory_equal(k.in.iv, want, hex("5b78923dee08579033e523d9", want));
    assert_memory_equal(k.out.key, want, hex("9f02283b6c9c07efc26bb9f2ac92e356", want));
    assert_memory_equal(k.out.iv, want, hex("cf782b88dd83549aadf1e984", want));
    size_t n = hex("1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b"
                   "395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
                   wire);
    struct tls_opened o = tls_open(&ciphers, &k, wire, n);
    assert_int_equal(o.state, TLS_RECORD_DONE);
    assert_int_equal(o.type, TLS_DATA);
    assert_int_equal(o.consumed, n);
    assert_int_equal(o.data.n, 50);
    for (uint8_t i = 0; i < 50; i++)
        assert_int_equal(o.data.p[i], i);
    /* Behind one ticket: the server's record has the number 1. */
    k.out.seq = 1;
    const struct slice content = slice_of(o.data.p, 50);
    uint8_t sealed[128];
    n = hex(
        "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb5"
        "01a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
        want);
    assert_int_equal(tls_seal(&ciphers, &k, TLS_DATA, &content, 1, sealed), 72);
    assert_memory_equal(sealed, want, n);
}

static void what_is_sealed_opens(void **state)
{
    (void)state;
    static uint8_t data[TLS_PLAIN_MAX];
    static const size_t sizes[] = {0, 1, 15, 16, 17, 1000, TLS_PLAIN_MAX - 1, TLS_PLAIN_MAX};
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    EACH_SUITE(k)
    {
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            size_t n = seal(&k, TLS_DATA, data, sizes[i]);
            assert_true(n >= sizes[i] + TLS_HEADER + 16);
            assert_true(n <= sizes[i] + TLS_HEADER + TLS_SEAL_MAX);
            struct tls_opened o = tls_open(&ciphers, &k, wire, n + 3);
            assert_int_equal(o.state, TLS_RECORD_DONE);
            assert_int_equal(o.consumed, n);
            assert_int_equal(o.type, TLS_DATA);
            assert_int_equal(o.data.n, sizes[i]);
            assert_memory_equal(o.data.p, data, sizes[i]);
            assert_int_equal(k.in.seq, i + 1);
            assert_int_equal(k.out.seq, i + 1);
        }
    }
}

static void a_part_is_waited_for(void **state)
{
    (void)state;
    EACH_SUITE(k)
    {
        size_t n = seal(&k, TLS_ALERT, "\1", 2);
        for (size_t i = 0; i < n; i++) {
            struct tls_opened o = tls_open(&ciphers, &k, wire, i);
            assert_int_equal(o.state, TLS_RECORD_MORE);
            assert_int_equal(o.consumed, i < TLS_HEADER ? TLS_HEADER : n);
        }
        assert_int_equal(tls_open(&ciphers, &k, wire, n).state, TLS_RECORD_DONE);
    }
}

static void any_other_bit_is_refused(void **state)
{
    (void)state;
    EACH_SUITE(k)
    {
        size_t n = seal(&k, TLS_DATA, "some data", 9);
        for (size_t i = 0; i < 8 * n; i++) {
            struct tls_keys same = k;
            uint8_t other[64];
            memcpy(other, wire, n);
            other[i / 8] ^= (uint8_t)(1 << i % 8);
            struct tls_opened o = tls_open(&ciphers, &same, other, n);
            /* A longer length waits for what it says. */
            assert_true(o.state == TLS_RECORD_BAD ||
                        (o.state == TLS_RECORD_MORE && o.consumed > n));
            assert_int_equal(same.in.seq, k.in.seq);
        }
    }
}

static void none_opens_twice_or_out_of_turn(void **state)
{
    (void)state;
    EACH_SUITE(k)
    {
        uint8_t first[64];
        size_t n = seal(&k, TLS_DATA, "first", 5);
        memcpy(first, wire, n);
        n = seal(&k, TLS_DATA, "other", 5);
        uint8_t again[64];
        memcpy(again, wire, n);
        assert_int_equal(tls_open(&ciphers, &k, again, n).state, TLS_RECORD_BAD);
        memcpy(again, first, n);
        assert_int_equal(tls_open(&ciphers, &k, again, n).state, TLS_RECORD_DONE);
        memcpy(again, first, n);
        assert_int_equal(tls_open(&ciphers, &k, again, n).state, TLS_RECORD_BAD);
        assert_int_equal(tls_open(&ciphers, &k, wire, n).state, TLS_RECORD_DONE);
    }
}

static void lengths_have_bounds(void **state)
{
    (void)state;
    EACH_SUITE(k)
    {
        const struct {
            uint8_t header[TLS_HEADER];
            uint8_t alert;
        } rows[] = {{{23, 3, 3, 0x41, 0x01}, 22}, {{23, 3, 3, 0xff, 0xff}, 22},
                    {{23, 3, 3, 0, 0}, 20},       {{23, 3, 3, 0, 15}, 20},
                    {{24, 3, 3, 0, 50}, 10},      {{23, 2, 3, 0, 50}, 10},
                    {{0, 0, 0, 0, 0}, 10},        {{19, 3, 3, 0, 50}, 10}};
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            memcpy(wire, rows[i].header, TLS_HEADER);
            struct tls_opened o = tls_open(&ciphers, &k, wire, TLS_HEADER);
            assert_int_equal(o.state, TLS_RECORD_BAD);
            assert_int_equal(o.alert, rows[i].alert);
        }
    }
    /* Content above 2^14, which the length of the record allows. */
    static uint8_t data[TLS_PLAIN_MAX + 1];
    EACH_SUITE(k)
    {
        size_t n = seal(&k, TLS_DATA, data, sizeof(data));
        struct tls_opened o = tls_open(&ciphers, &k, wire, n);
        assert_int_equal(o.state, TLS_RECORD_BAD);
        assert_int_equal(o.alert, 22);
    }
}

static void padding_is_taken_off(void **state)
{
    (void)state;
    struct tls_keys k = keys_of(TLS_AES_128_GCM, true);
    /* The type that seal appends is that of an alert; within, "x" and a type of data and zeros. */
    static const uint8_t padded[] = {'x', 23, 0, 0, 0, 0};
    size_t n = seal(&k, (enum tls_type)0, padded, sizeof(padded));
    struct tls_opened o = tls_open(&ciphers, &k, wire, n);
    assert_int_equal(o.state, TLS_RECORD_DONE);
    assert_int_equal(o.type, TLS_DATA);
    assert_int_equal(o.data.n, 1);
    /* It counts: 2^14 bytes and the type, no more. */
    static const uint8_t most[TLS_PLAIN_MAX + 1] = {'x', 23};
    n = seal(&k, (enum tls_type)0, most, TLS_PLAIN_MAX);
    assert_int_equal(tls_open(&ciphers, &k, wire, n).data.n, 1);
    n = seal(&k, (enum tls_type)0, most, sizeof(most));
    assert_int_equal(tls_open(&ciphers, &k, wire, n).alert, 22);
    /* All zeros: there is no type. */
    n = seal(&k, (enum tls_type)0, padded + 2, 4);
    assert_int_equal(tls_open(&ciphers, &k, wire, n).state, TLS_RECORD_BAD);
}

static void keys_have_generations(void **state)
{
    (void)state;
    for (int suite = 0; suite < TLS_SUITES; suite++) {
        struct tls_keys k = keys_of((enum tls_suite)suite, true), before = k;
        assert_true(tls_half_next(&k.out, (enum tls_suite)suite));
        assert_int_equal(k.out.seq, 0);
        assert_memory_not_equal(k.out.key, before.out.key, 16);
        assert_memory_not_equal(k.out.iv, before.out.iv, 12);
        size_t n = seal(&k, TLS_DATA, "new", 3);
        uint8_t copy[64];
        memcpy(copy, wire, n);
        assert_int_equal(tls_open(&ciphers, &k, copy, n).state, TLS_RECORD_BAD);
        assert_true(tls_half_next(&k.in, (enum tls_suite)suite));
        assert_int_equal(tls_open(&ciphers, &k, wire, n).state, TLS_RECORD_DONE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_trace_of_rfc_8448),
        cmocka_unit_test(what_is_sealed_opens),
        cmocka_unit_test(a_part_is_waited_for),
        cmocka_unit_test(any_other_bit_is_refused),
        cmocka_unit_test(none_opens_twice_or_out_of_turn),
        cmocka_unit_test(lengths_have_bounds),
        cmocka_unit_test(padding_is_taken_off),
        cmocka_unit_test(keys_have_generations),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
