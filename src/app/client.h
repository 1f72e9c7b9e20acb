/* What the command line asks of a gateway that runs, through its admin listener. */
#ifndef WEIR_CLIENT_H
#define WEIR_CLIENT_H

#define CLIENT_ADDRESS "127.0.0.1:6060"
extern const char *client_address;

/* Exit statuses: 0, or 1 with the reason on standard error; 2: usage. args: see main.c. */
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
