/* The supervisor: binds, compiles, starts the worker and starts it again when it dies, carries its
 * logs to standard error, and ends it. It serves nothing itself, and runs no guest. */
#ifndef WEIR_SUPERVISOR_H
#define WEIR_SUPERVISOR_H

#include "app/succession.h"

enum { LOG_CARRY = 16 << 10 };
enum { START_MAX_MS = 30000 }; /* for a worker to be ready */
enum { KILL_AFTER_MS = 2000 }; /* after the drain time */

struct supervisor {
    const char *file;
    char program[SYS_PATH_MAX]; /* this one's file, as it was started */
    struct loop loop;
    struct service now;
    struct succession succession;
    int signals, log[2];
    struct timer restart, kill, log_retry, watchdog;
    pid_t worker; /* 0: none */
    int control;  /* -1: none */
    uint64_t started_ms;
    uint32_t restarts, backoff_ms;
    uint32_t slots; /* that a connection may have: of the most that were ever allowed */
    bool served, ready, stopping; /* a worker did once; this one does */
    int status;
    char carry[LOG_CARRY]; /* the worker's output up to a line's end */
    size_t carried;
};

int supervisor_serve(const char *file); /* the exit status */

/* For succession.c and check.c. */
/* A worker without a configuration yet; its pid, or negative. */
pid_t supervisor_worker_new(struct supervisor *s, int *control, uint32_t slot);
void supervisor_worker_begin(struct service *v, int control, uint32_t restarts);
enum { USER_WHY_MAX = 256 };
bool supervisor_user_find(struct config *c, bool serve, char why[USER_WHY_MAX]);
/* Reads the configuration (fd -1: from the file): service.config, .yaml and .keys; and finds the
 * user. What is wrong is said on standard error. */
bool supervisor_open(struct supervisor *s, const char *file, int fd);
bool supervisor_user(struct supervisor *s, bool serve);
bool supervisor_line(struct slice line); /* passes on a line of a child's */
void supervisor_log_level(const struct config *c);
void supervisor_ended(struct supervisor *s); /* perhaps all has ended that was to end */

#endif
