/* `weir check`, and what of it a gateway that runs needs too. */
#ifndef WEIR_CHECK_H
#define WEIR_CHECK_H

#include "app/config.h"
#include "sys/sys.h"

int check_run(const char *file); /* the exit status; loads all modules once, and serves nothing */
/* The same for a supervisor that runs: argv is FILE FORMAT NEXT NOW, the last two being descriptors
 * of what FILE said and is to be in force, and of what is. */
enum { PROBE_PASSED = 42 }; /* the exit status: no other program's */
int check_probe(char **args);

/* The files of keys, into the configuration and a sealed memfd, -1: there are none. What is wrong
 * is said on standard error. */
bool check_keys_read(const char *file, struct config *c, int *out);

#endif
