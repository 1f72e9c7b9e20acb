/* base/address: what is one, which blocks it is in, whom it counts as. */
#include "unit.h"

#include "base/address.h"

static struct address ip(const char *text)
{
    struct address a;
    assert_true(address_ip_parse(slice_str(text), &a));
    return a;
}

static bool in(const char *text, const char *block)
{
    struct address_block b;
    struct address a = ip(text);
    if (!address_block_parse(slice_str(block), &b))
        fail_msg("%s is no block", block);
    return address_in(&a, &b, 1);
}

static void addresses_are_written_as_they_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to; /* NULL: none */
    } rows[] = {
        {"1.2.3.4", "1.2.3.4:0"},
        {"1.2.3.4:5", "1.2.3.4:5"},
        {"0.0.0.0:65535", "0.0.0.0:65535"},
        {"::1", "[::1]:0"},
        {"[::1]", "[::1]:0"},
        {"[2001:DB8::1]:80", "[2001:db8::1]:80"},
        {"::ffff:1.2.3.4", "1.2.3.4:0"},
        {"[::ffff:102:304]:1", "1.2.3.4:1"},
        {"", NULL},
        {":", NULL},
        {":80", NULL},
        {"1.2.3.4:", NULL},
        {"1.2.3.4:x", NULL},
        {"1.2.3.4:65536", NULL},
        {"1.2.3.4:080", NULL},
        {"1.2.3.4 ", NULL},
        {" 1.2.3.4", NULL},
        {"1.2.3", NULL},
        {"1.2.3.04", NULL},
        {"1.2.3.4.5", NULL},
        {"256.1.1.1", NULL},
        {"0x1.2.3.4", NULL},
        {"[1.2.3.4]:5", NULL},
        {"[]", NULL},
        {"[]:5", NULL},
        {"[::1", NULL},
        {"[::1]5", NULL},
        {"[::1]]", NULL},
        {"::1%lo", NULL},
        {":::", NULL},
        {"1:2:3:4:5:6:7:8:9", NULL},
        {"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd:eeee", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct address a = {.port = 7};
        char text[ADDRESS_TEXT];
        bool is = address_port_parse(slice_str(rows[i].from), &a);
        if (is != (rows[i].to != NULL))
            fail_msg("%s", rows[i].from);
        if (!is) {
            assert_int_equal(a.port, 7);
            continue;
        }
        address_write(&a, text);
        assert_string_equal(text, rows[i].to);
    }
    struct address a;
    assert_false(address_ip_parse(SLICE("1.2.3.4\0"), &a));
    assert_false(address_ip_parse(SLICE("1.2\0.3.4"), &a));
}

static void blocks(void **state)
{
    (void)state;
    struct address_block b;
    assert_true(in("10.255.0.1", "10.0.0.0/8"));
    assert_false(in("11.0.0.0", "10.0.0.0/8"));
    assert_true(in("::ffff:10.1.2.3", "10.0.0.0/8"));
    assert_true(in("10.1.2.3", "::ffff:10.0.0.0/104"));
    assert_true(in("192.168.127.1", "192.168.0.0/17"));
    assert_false(in("192.168.128.1", "192.168.0.0/17"));
    assert_true(in("1.2.3.4", "1.2.3.4"));
    assert_false(in("1.2.3.5", "1.2.3.4/32"));
    assert_true(in("255.0.0.1", "0.0.0.0/0"));
    assert_false(in("::1", "0.0.0.0/0"));
    assert_true(in("1.2.3.4", "::/0"));
    assert_true(in("fd12::1", "fd00::/8"));
    assert_false(in("fc12::1", "fd00::/8"));
    assert_true(in("::1", "::1"));
    static const char *const wrong[] = {"",       "/",           "/8",          "10.0.0.0/",
                                        "10/8",   "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08",
                                        "::/129", "10.0.0.1/8",  "fd00::1/8",   "10.0.0.0/8/8",
                                        "::/8",   "a/8",         "10.0.0.0/8 ", "::/80"};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        if (address_block_parse(slice_str(wrong[i]), &b))
            fail_msg("%s", wrong[i]);
}

static void whom_an_address_counts_as(void **state)
{
    (void)state;
    struct address a[] = {ip("1.2.3.4"),        ip("1.2.3.5"), ip("2001:db8:1:2::"),
                          ip("2001:db8:1:3::"), ip("::"),      ip("::ffff:0.0.0.0")};
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        for (size_t j = 0; j < i; j++)
            assert_true(address_key(&a[i]) != address_key(&a[j]));
    struct address same = ip("2001:db8:1:2:ffff::1"), mapped = ip("::ffff:1.2.3.4");
    assert_true(address_key(&same) == address_key(&a[2]));
    assert_true(address_key(&mapped) == address_key(&a[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_written_as_they_are_read),
        cmocka_unit_test(blocks),
        cmocka_unit_test(whom_an_address_counts_as),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
