/* SipHash-1-3 of bytes that a stranger may choose, under a key of this process: nobody can make
 * them collide (Aumasson & Bernstein, "SipHash: a fast short-input PRF", 2012). */
#ifndef WEIR_HASH_H
#define WEIR_HASH_H

#include "base/base.h"

void hash_seed(const uint8_t key[16]); /* before the first table is filled */
uint64_t hash_bytes(struct slice s);

#endif
