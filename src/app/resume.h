/* The supervisor's state across an exec of itself: the new program goes on with the same process,
 * children, listeners and pipes. It is a sealed memfd of JSON that names inherited descriptors. */
#ifndef WEIR_RESUME_H
#define WEIR_RESUME_H

#include "base/base.h"

struct supervisor;

/* Of this state, and of the words of control.h that a worker of another version is told: a program
 * of another format is not upgraded to. */
enum { RESUME_FORMAT = 1 };

/* Becomes the program at `path`; returns only where it can't: why. */
const char *resume_exec(struct supervisor *s, const char *path);
/* Whether this process is to go on with a state; the descriptor of it, else -1. */
int resume_asked(void);
/* Takes fd, and what is named there. false: said on standard error. */
bool resume_read(struct supervisor *s, int fd);

#endif
