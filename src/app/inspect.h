#ifndef WEIR_INSPECT_H
#define WEIR_INSPECT_H

/* `weir inspect MODULE`: what a module imports and exports, what it is, and whether it would load
 * with the default limits. The exit code: 0 it would. */
int inspect_run(const char *path);

#endif
