/* Arithmetic by POST /api/exec/add_c: any exported function of numbers can be called. */
#include "weir.h"

WEIR_EXPORT(add) double add(double a, double b)
{
    return a + b;
}
