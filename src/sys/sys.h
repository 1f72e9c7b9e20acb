/* The only door to the system: sockets, the poller, clocks, entropy, files, processes. All of it
 * is in sys_linux.c, so that a simulator can stand beside it. Descriptors are close-on-exec and
 * sockets non-blocking. Calls that can fail return a negative errno. */
#ifndef WEIR_SYS_H
#define WEIR_SYS_H

#include <stdio.h>
#include <sys/types.h>

#include "base/address.h"
#include "base/base.h"

/* Poller; `data` comes back with the event. Level-triggered, unless SYS_EDGE is wanted: then an
 * event comes once for what is new, so a receive that filled its buffer must be repeated, as must
 * one that came with SYS_END. */
enum { SYS_IN = 1, SYS_OUT = 2, SYS_HANGUP = 4, SYS_END = 8, SYS_EDGE = 16 };
struct sys_event {
    uint64_t data;
    uint32_t ready;
};
enum { SYS_EVENTS_MAX = 128 };
int sys_poller_new(void);
int sys_poller_add(int poller, int fd, uint32_t want, uint64_t data);
int sys_poller_change(int poller, int fd, uint32_t want, uint64_t data);
int sys_poller_remove(int poller, int fd);
/* At most SYS_EVENTS_MAX; timeout in ms, -1 none. 0 also after a signal. */
int sys_poller_wait(int poller, struct sys_event *out, int timeout_ms);

/* Sockets. An address is numeric, `host` without brackets; one that begins with / is the path of a
 * Unix socket, which only its owner reaches, and which takes the place of one that nobody serves.
 */
struct sys_address {
    char text[64]; /* "1.2.3.4:5678" or "[::1]:5678" */
};
int sys_listen(const char *host, uint16_t port);
/* Another socket that listens on the address of `first`: the system spreads connections among them.
 * Other programs can't join them, but for one of the same user that asks to. */
int sys_listen_more(int first);
int sys_accept(int listener); /* TCP_NODELAY set */
void sys_pause(uint32_t ms);  /* sleeps */
/* A blocking connection whose reads and writes give up after a time. */
int sys_connect(const char *host, uint16_t port, uint32_t timeout_ms);
int sys_peer(int fd, struct address *out);
int sys_local(int fd, struct sys_address *out);
/* These wait for nothing, whatever the socket is: it may come from another process. */
ssize_t sys_recv(int fd, void *p, size_t n);
ssize_t sys_send(int fd, struct slice a);
enum { SYS_SENDV = 128 };
ssize_t sys_sendv(int fd, const struct slice *v, unsigned n); /* in one call, at most SYS_SENDV */
int sys_shutdown_write(int fd);
void sys_reset(int fd); /* closing it will reset the connection, whatever is on its way */
void sys_close(int fd);
int sys_dup(int fd);
int sys_wake_open(void); /* readable once sys_wake was called, from any thread */
void sys_wake(int fd);
int sys_reserve_open(void);  /* a descriptor kept only to be given up when they run out */
uint32_t sys_fd_limit(void); /* raises the soft limit to the hard one, returns it */
/* Makes room for n descriptors, before there are threads: in a process that has some, the kernel
 * waits for all processors each time that its table grows (expand_fdtable), for 10 ms and more. */
void sys_fd_room(uint32_t n);

/* Time and entropy. */
uint64_t sys_now_ns(void);    /* monotonic */
uint64_t sys_thread_ns(void); /* CPU time of the calling thread */
uint64_t sys_wall_ms(void);   /* since 1970 */
void sys_random(void *p, size_t n);

/* A signal every `interval_ms` (0: none) to the calling thread, on its alternate stack where it
 * has one; `tick` must be async-signal-safe. */
void sys_ticker_init(void (*tick)(void));
void sys_ticker_set(uint32_t interval_ms);

/* Which pages of a private mapping were written since it was mapped, or hold a copy of what the
 * kernel swapped out. `zero`: the page is the kernel's page of zeros, which as a rule means that it
 * was only read. Needs Linux 6.7, and to be opened before the worker is caged. */
struct sys_pages {
    size_t at, n; /* bytes, from the mapping's beginning */
    bool zero;
};
/* This process's memory, its share of what it shares (PSS), in bytes; 0 where the kernel does not
 * say. Not from inside of the cage. */
uint64_t sys_memory_pss(void);
void sys_memory_trim(void);     /* the allocator gives back what is free */
uint64_t sys_file_size(int fd); /* 0: it has none */
bool sys_pages_open(void);      /* false: this kernel can't tell */
/* How many regions there are; negative: more than cap, or no answer. */
int sys_pages_written(const void *base, size_t n, struct sys_pages *out, unsigned cap);

/* What the kernel says of this process; 0 where it does not. process_open comes before the cage and
 * keeps descriptors. */
struct sys_process {
    uint64_t started_ms, cpu_ns, fds, resident, reserved; /* since 1970; bytes */
    uint32_t fds_max;
};
void sys_process_open(void);
void sys_process(struct sys_process *out);
/* A piece of /proc/self/smaps; 0: its end, negative: an error. */
ssize_t sys_maps_read(uint64_t at, void *p, size_t n);
struct sys_malloc {
    uint64_t used, free, mapped; /* bytes handed out; free; of the first, in own mappings */
};
void sys_malloc(struct sys_malloc *out);

/* Of a part of this program's own data, its whole pages: gives back what was written there since it
 * was loaded (it is not to be read again), or forbids to write there. */
void sys_data_drop(char *from, char *to);
void sys_data_seal(char *from, char *to);
/* Unmaps what a start has used of code and constants: what is needed again comes back by itself. */
void sys_code_trim(void);

/* Files. Read whole, at most max bytes: p is mem_alloc'd with n bytes by the callee. */
enum err sys_file_read(const char *path, size_t max, struct slice *out) MUST_USE;
enum err sys_fd_read(int fd, size_t max, struct slice *out) MUST_USE;
enum err sys_fd_read_size(int fd, size_t n, struct slice *out) MUST_USE; /* n: as it has */
void sys_read_free(struct slice content); /* of what these three read */
enum err sys_file_write(const char *path, struct slice content) MUST_USE; /* atomic replace */
/* Whether only root or our own user can write the file and the folders above it. What was looked at
 * is `resolved`, without links: that is what is to be opened. false: `why` names the one that is
 * open to others. */
enum { SYS_PATH_MAX = 4096 };
bool sys_path_trusted(const char *path, char resolved[SYS_PATH_MAX], char *why, size_t cap);
int sys_memfd_sealed(const char *name, struct slice content);

int sys_file_exists(const char *path);  /* 1, 0 */
void sys_folder_make(const char *path); /* and the folders above it; 0755 */
/* A file that is not there yet, 0600, to be written; then it may get another's place. */
int sys_file_make(const char *path);
enum err sys_fd_write(int fd, struct slice content) MUST_USE;
enum err sys_file_move(const char *from, const char *to) MUST_USE;
void sys_file_remove(const char *path);
enum err sys_file_create(const char *path, struct slice content) MUST_USE; /* none may be there */
void sys_file_used(const char *path); /* now: for sys_folder_trim */
/* Removes files of a folder whose names end so, those first that were not used for longest, until
 * the others have `most` bytes at most. The file `but` stays. */
void sys_folder_trim(const char *path, const char *end, uint64_t most, const char *but);
/* Differs after any change of a file in the folder or below, but in node_modules, target, build and
 * what begins with a dot: of sources, which is all but *.wasm and objects; of modules; of *.yaml.
 */
enum sys_tree { SYS_TREE_SOURCES, SYS_TREE_MODULES, SYS_TREE_CONFIG };
uint64_t sys_tree_stamp(const char *path, enum sys_tree what);
const char *sys_cpu_features(void);           /* what its instruction set has, one line */
ssize_t sys_self_path(char *out, size_t cap); /* of this program, NUL-terminated */

/* Who a process runs as. other: not as this one does. */
struct sys_user {
    uint32_t uid, gid;
    bool other;
};
/* By names or numbers. user empty: as this process; group empty: the user's own. false: why not,
 * and the mend. Reads the system's files, or asks who has them. */
bool sys_user_find(const char *user, const char *group, struct sys_user *out, char *why,
                   size_t cap);
bool sys_user_root(void); /* this process is root's */
int sys_pid(void);

/* Logs: to standard error, only if it takes the line at once. */
bool sys_log_write(struct slice line);

/* Before anything else: a peer or a reader of our output that goes is an error of a write, and a
 * child's end is told, whatever this process was started with. */
void sys_signals_init(void);
void sys_standard_open(void);        /* 0, 1 and 2 are open from here on */
void sys_name_set(const char *name); /* which tools show, however this program was started */
/* Signals as readable events; the calling thread no longer takes them otherwise. */
enum sys_signal {
    SYS_SIGNAL_NONE,
    SYS_SIGNAL_STOP,
    SYS_SIGNAL_CHILD,
    SYS_SIGNAL_RELOAD,
    SYS_SIGNAL_UPGRADE
};
void sys_signals_hold(void); /* those to reload and upgrade wait until they are opened */
int sys_signals_open(void);
enum sys_signal sys_signal_next(int fd);

/* The service manager that started this process, as sd_notify(3) has it: READY=1, STOPPING=1,
 * WATCHDOG=1. false: there is none, or it does not take it. */
bool sys_notify(const char *text);
uint32_t sys_notify_watchdog_ms(void); /* it wants to hear WATCHDOG=1 within that time; 0: never */

/* Children. log and control become descriptors 2 and 3 of the child, -1: as ours, and none. */
enum { SYS_CONTROL_FD = 3 };
pid_t sys_spawn(const char *path, const char *const argv[], int log, int control);
/* Becomes another program, of the same pid; returns only where it can't. */
int sys_exec(const char *path, const char *const argv[]);
void sys_inherit(int fd, bool inherit); /* whether it stays open then; fd -1: none */
struct sys_exit {
    int code, signal; /* signal 0: it ended by itself */
};
bool sys_wait(pid_t pid, struct sys_exit *out); /* false: it still runs */
/* Blocks, and kills what is still there after a while: false then. */
bool sys_wait_for(pid_t pid, uint32_t ms, struct sys_exit *out);
void sys_kill(pid_t pid, bool by_force); /* SIGTERM or SIGKILL */
void sys_ask_reload(pid_t pid);          /* SIGHUP */
int sys_pipe(int out[2]);                /* both ends non-blocking */
ssize_t sys_read(int fd, void *p, size_t n);
ssize_t sys_write(int fd, struct slice a); /* to a socket; waits until it has taken all */

/* Messages with descriptors over a SOCK_SEQPACKET pair. A send that would wait fails. */
int sys_control_pair(int out[2]);
int sys_handover_pair(int out[2], uint32_t ms); /* each wait ends after ms */
int sys_control_send(int fd, const void *p, size_t n, const int *fds, unsigned n_fds);
enum { SYS_CONTROL_FDS = 253 }; /* the kernel's own bound */
bool sys_readable(int fd);      /* whether it has something, or has ended */
ssize_t sys_control_recv(int fd, void *p, size_t n, int fds[SYS_CONTROL_FDS], unsigned *n_fds);

#endif
