/* base/hash against SipHash-1-3 of the bytes 0, 1, 2... under the key 0, 1, ... 15. The values were
 * made by a second implementation, which gives the paper's own result for SipHash-2-4. */
#include "unit.h"

#include "base/hash.h"

static void known_values(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        uint64_t want;
    } known[] = {
        {0, UINT64_C(0xabac0158050fc4dc)},  {1, UINT64_C(0xc9f49bf37d57ca93)},
        {2, UINT64_C(0x82cb9b024dc7d44d)},  {7, UINT64_C(0xd3927d989bb11140)},
        {8, UINT64_C(0x369095118d299a8e)},  {9, UINT64_C(0x25a48eb36c063de4)},
        {15, UINT64_C(0xd320d86d2a519956)}, {16, UINT64_C(0xcc4fdd1a7d908b66)},
        {63, UINT64_C(0x9d199062b7bbb3a8)},
    };
    uint8_t bytes[64];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    hash_seed(bytes);
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        assert_int_equal(hash_bytes(slice_of(bytes, known[i].n)), known[i].want);
}

static void another_key_gives_other_values(void **state)
{
    (void)state;
    uint8_t key[16] = {0};
    hash_seed(key);
    uint64_t before = hash_bytes(SLICE("name"));
    for (size_t i = 0; i < sizeof(key); i++) {
        uint8_t other[16] = {0};
        other[i] = 1;
        hash_seed(other);
        assert_int_not_equal(hash_bytes(SLICE("name")), before);
    }
    hash_seed(key);
    assert_int_equal(hash_bytes(SLICE("name")), before);
}

/* The last block holds the rest and the length: zeroes at the end are not lost. */
static void zeroes_count(void **state)
{
    (void)state;
    static const uint8_t zeroes[24];
    for (size_t i = 0; i < sizeof(zeroes); i++)
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(hash_bytes(slice_of(zeroes, i)), hash_bytes(slice_of(zeroes, j)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_values),
        cmocka_unit_test(another_key_gives_other_values),
        cmocka_unit_test(zeroes_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
