/* A guest that computes, for bench/cold: a million rounds of xorshift64 (G. Marsaglia). */
#include "../../sdk/c/weir.h"

WEIR_EXPORT(add) double add(double a, double b)
{
    unsigned long long x = 88172645463325252ULL;
    for (unsigned i = 0; i < 1000000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return a + b + (x == 0);
}
