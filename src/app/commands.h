/* The program's commands that are not a process of their own: each prints, and returns the exit
 * status: 0, or 1 with the reason on standard error; 2: usage. args: main.c. */
#ifndef WEIR_COMMANDS_H
#define WEIR_COMMANDS_H

#include <stdio.h>

#include "app/config.h"
#include "net/tls_client.h"

/* check.c: loads all modules once, and serves nothing. */
int check_run(const char *file);
/* The same for a supervisor that runs: args are FILE FORMAT NEXT NOW, the last two being
 * descriptors of what FILE said and is to be in force, and of what is. */
enum { PROBE_PASSED = 42 }; /* the exit status: no other program's */
int check_probe(char **args);
/* config_parse of what a descriptor holds; ERR_SYS, ERR_LIMIT: it can't be read. */
enum err check_config_read(int fd, const char *file, struct config *out,
                           struct buf *errors) MUST_USE;
/* The files of keys, into the configuration and a sealed memfd, -1: there are none. What is wrong
 * is said on standard error. */
bool check_keys_read(const char *file, struct config *c, int *out);

/* inspect.c: what a module imports and exports, what it is, and whether it would load with the
 * default limits, which is 0. */
int inspect_run(const char *path);

/* docs.c: pages made from the tables, so that they can't differ from the program. */
#define DOCS_NAMES "config, metrics, errors, logs, guest, wasi"
bool docs_write(const char *name, FILE *to); /* false: no such page */

/* scaffold.c: a project's beginning, and its daily round. */
int scaffold_new(char **args); /* NAME --lang LANG: makes the folder NAME */
int scaffold_dev(char **args); /* `make`, and serve: again at each change */

/* client.c: what is asked of a gateway that runs, through its admin listener. */
#define CLIENT_ADDRESS "127.0.0.1:6060"
extern const char *client_address;
extern struct tls_client client_tls; /* where that begins with https:// */
int client_modules(char **args);
int client_put(char **args);      /* put NAME FILE */
int client_remove(char **args);   /* remove NAME */
int client_rollback(char **args); /* NAME */
int client_reload(char **args);   /* args[-1]: reload or upgrade */
int client_health(char **args);   /* whether it serves */
int client_memory(char **args);   /* [--json] */
int client_publish(char **args);  /* SPACE TOPIC TEXT */
int client_conns(char **args);
int client_kick(char **args);      /* ID [CODE] */
int client_tail(char **args);      /* [--once]: follows the log */
int client_log_level(char **args); /* [LEVEL] */

#endif
