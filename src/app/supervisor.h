/* The supervisor: binds, compiles, starts the worker and starts it again when it dies, carries its
 * logs to standard error, and ends it. It serves nothing itself, and runs no guest. */
#ifndef WEIR_SUPERVISOR_H
#define WEIR_SUPERVISOR_H

#include "app/config.h"

/* Reads and checks the configuration; what is wrong is said on standard error. */
enum err supervisor_configure(const char *file, struct config *out, struct slice *yaml) MUST_USE;
int supervisor_serve(const char *file); /* the exit status */
int supervisor_check(const char *file); /* loads all modules once, and serves nothing */

#endif
