/* The cages: of the worker, which serves and opens nothing any more, and of the compiler, which
 * reads a stranger's module and runs its initialisation. A cage holds for the calling thread and
 * those that it starts, for ever, and seccomp for all that there are; so it is entered last, and
 * threads are started between its two parts. docs/THREATS.md says which attacker each layer stops.
 * User and group are changed beside it. */
#ifndef WEIR_SYS_CAGE_H
#define WEIR_SYS_CAGE_H

#include "sys/sys.h"

/* SYS_CAGE_LAYER(name): in the order in which they are entered. */
#define SYS_CAGE_LAYER_LIST(SYS_CAGE_LAYER)                                                        \
    SYS_CAGE_LAYER(no_new_privs) /* an executed file raises no privilege */                        \
    SYS_CAGE_LAYER(limits)       /* no core file, no process, no file written */                   \
    SYS_CAGE_LAYER(landlock)     /* no path, no TCP bind or connect, no signal to others */        \
    SYS_CAGE_LAYER(capabilities) /* all sets are empty, for root too */                            \
    SYS_CAGE_LAYER(seccomp)      /* a list of system calls: another one ends the process */

enum sys_cage_layer {
#define SYS_CAGE_LAYER(name) SYS_CAGE_##name,
    SYS_CAGE_LAYER_LIST(SYS_CAGE_LAYER)
#undef SYS_CAGE_LAYER
        SYS_CAGE_LAYERS
};
enum { SYS_CAGE_ALL = (1 << SYS_CAGE_LAYERS) - 1 };

struct sys_cage {
    const char *missing[SYS_CAGE_LAYERS]; /* why that layer is not there; NULL: it is */
    int landlock_abi;                     /* 0: none. 2: no truncate; 4: TCP; 6: signals */
};

/* The compiler's: it makes files in one folder, up to a size, and code that it runs itself. */
struct sys_cage_compiler {
    const char *folder;          /* NULL: its output is open already, and it makes none */
    uint64_t file_max, data_max; /* bytes */
    uint32_t cpu_s;
};

/* The worker's cage. Enters what the kernel gives of `layers`, a bit each. With seccomp, a call
 * that is not allowed writes a log line that names it (sandbox_violation) to standard error, and
 * SIGSYS ends the process. */
void sys_cage_enter(unsigned layers, struct sys_cage *out);
/* Threads can be started after this part of it, and before the rest: enter that next. */
enum {
    SYS_CAGE_FIRST = 1 << SYS_CAGE_no_new_privs | 1 << SYS_CAGE_landlock |
                     1 << SYS_CAGE_capabilities
};
/* The compiler's, whatever of it the kernel gives; a call that is not allowed ends the process by
 * SIGSYS, more time by SIGXCPU, more memory by a failed allocation. */
void sys_cage_enter_compiler(const struct sys_cage_compiler *c, struct sys_cage *out);
/* Root's capabilities are cut to what is needed: of a worker, to change its user and enter its cage
 * (and what it opens by then, such as its page map, tells it no more than a user is told); of the
 * supervisor, that for its children, and to end them, read modules and bind ports. 0, or an errno.
 */
enum sys_cage_role { SYS_CAGE_WORKER, SYS_CAGE_SUPERVISOR };
int sys_cage_privileges(enum sys_cage_role role);
/* Becomes the user for ever, without further groups, when nothing more is to be opened as root.
 * 0, or an errno: it may be half done, and the process has to end. */
int sys_cage_user(const struct sys_user *u);
const char *sys_cage_layer_name(enum sys_cage_layer layer);

#endif
