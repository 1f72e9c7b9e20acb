/* A guest of the usual size for bench/cold: it touches 2 KB of stack and 4 KB of heap, and carries
 * a table of 64 KB, of which it reads an entry in every page. */
#include "../../sdk/c/weir.h"

enum { STACK = 2048, HEAP = 4096, TABLE = 65536, PAGE = 4096, WORD = 8 };

static const unsigned char table[TABLE] = {[1] = 1, [TABLE - 1] = 255};
static unsigned long long heap[HEAP / WORD];

WEIR_EXPORT(add) double add(double a, double b)
{
    volatile unsigned long long stack[STACK / WORD];
    unsigned sum = 0;
    for (unsigned i = 0; i < STACK / WORD; i++)
        stack[i] = i;
    for (unsigned i = 0; i < HEAP / WORD; i++)
        heap[i] += stack[i % (STACK / WORD)] + 1;
    for (unsigned i = 0; i < TABLE; i += PAGE)
        sum += ((const volatile unsigned char *)table)[i];
    return a + b + (heap[0] == 1 && sum == 0 ? 0 : 1); /* 1 more where the instance is not fresh */
}
