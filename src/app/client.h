/* What the command line asks of a gateway that runs, through its admin listener. */
#ifndef WEIR_CLIENT_H
#define WEIR_CLIENT_H

#define CLIENT_ADDRESS "127.0.0.1:6060"
extern const char *client_address;

/* Exit statuses: 0, or 1 with the reason on standard error. */
int client_modules(int argc, char **argv); /* lists them, or puts or removes one; 2: usage */
int client_health(void);                   /* whether it serves */
int client_reload(void);
int client_memory(int argc, char **argv);  /* [--json] */
int client_publish(int argc, char **argv); /* SPACE TOPIC TEXT */
int client_conns(int argc, char **argv);
int client_kick(int argc, char **argv);      /* ID [CODE] */
int client_tail(int argc, char **argv);      /* [--once]: follows the log */
int client_log_level(int argc, char **argv); /* [LEVEL] */
int client_upgrade(void);
int client_rollback(const char *module);

#endif
