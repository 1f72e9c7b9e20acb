/* The program weir: its commands. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/check.h"
#include "app/client.h"
#include "app/config.h"
#include "app/docs.h"
#include "app/inspect.h"
#include "app/scaffold.h"
#include "app/supervisor.h"
#include "app/worker.h"
#include "guest/guest.h"
#include "sys/sys.h"

enum { EXIT_USAGE = 2 };

static int command_serve(const char *arg)
{
    return supervisor_serve(arg);
}

static int command_check(const char *arg)
{
    int status = check_run(arg);
    if (status == EXIT_SUCCESS)
        printf("%s: ok\n", arg);
    return status;
}

static int command_docs(const char *arg)
{
    return docs_write(arg, stdout) ? EXIT_SUCCESS : EXIT_USAGE;
}

static int command_version(const char *arg)
{
    (void)arg;
    printf("weir %s (wasmtime %s)\n", WEIR_VERSION, guest_engine_version());
    return EXIT_SUCCESS;
}

static int command_reload(const char *arg)
{
    (void)arg;
    return client_reload();
}

static int command_upgrade(const char *arg)
{
    (void)arg;
    return client_upgrade();
}

static int command_health(const char *arg)
{
    (void)arg;
    return client_health();
}

static int command_rollback(const char *arg)
{
    return *arg ? client_rollback(arg) : EXIT_USAGE;
}

static int command_worker(const char *arg)
{
    (void)arg;
    return worker_main();
}

static const struct command {
    const char *name, *arg, *otherwise, *text; /* otherwise: the argument where none is given */
    int (*run)(const char *arg);
    int (*run_all)(int argc, char **argv); /* instead: takes all that follows */
} commands[] = {
    {"serve", "[FILE]", "weir.yaml", "serve what FILE says; SIGTERM drains and ends it",
     command_serve, NULL},
    {"check", "[FILE]", "weir.yaml", "say all that is wrong with FILE and its modules",
     command_check, NULL},
    {"new", "NAME --lang LANG", "", "make a guest's project; LANG: c, rust, go or as", NULL,
     scaffold_new},
    {"dev", "", "", "build and serve the project here, again at each change", NULL, scaffold_dev},
    {"inspect", "MODULE", NULL, "say what a module imports, exports and is, and whether it loads",
     inspect_run, NULL},
    {"modules", "", "", "list the modules of a gateway that runs, and their versions", NULL,
     client_modules},
    {"modules", "put NAME FILE", "", "give a module another version, or add it", NULL,
     client_modules},
    {"modules", "remove NAME", "", "remove one that the configuration does not name", NULL,
     client_modules},
    {"memory", "[--json]", "", "say whose a gateway's memory is, and what nobody's", NULL,
     client_memory},
    {"reload", "", "", "put modules and a configuration in force that have changed; as SIGHUP does",
     command_reload, NULL},
    {"upgrade", "", "", "go on with the program as it is on disk now; as SIGUSR2 does",
     command_upgrade, NULL},
    {"health", "", "", "whether a gateway serves: exit code 0, or 1", command_health, NULL},
    {"rollback", "NAME", "", "put the version of a module in force that was before",
     command_rollback, NULL},
    {"publish", "SPACE TOPIC TEXT", "", "send a message to all that are in a topic", NULL,
     client_publish},
    {"conns", "", "", "list the connections of a gateway that runs", NULL, client_conns},
    {"kick", "ID [CODE]", "", "close one of them", NULL, client_kick},
    {"tail", "[--once]", "", "follow the log of a gateway that runs", NULL, client_tail},
    {"log-level", "[LEVEL]", "", "say or change the level of the log, until the next worker", NULL,
     client_log_level},
    {"docs", "WHAT", "", "print a generated page: " DOCS_NAMES, command_docs, NULL},
    {"version", "", "", "print the version, and the engine's", command_version, NULL},
    {"worker", NULL, "", NULL, command_worker, NULL}, /* the supervisor's own, as are the rest */
    {"probe", NULL, NULL, NULL, NULL, check_probe},
};

static void usage_line(FILE *to, const struct command *c)
{
    fprintf(to, "  weir %s %-*s %s\n", c->name, (int)(20 - strlen(c->name)), c->arg, c->text);
}

static int usage(FILE *to, int status)
{
    fprintf(to, "weir: an edge gateway that runs WebAssembly guests\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (commands[i].text)
            usage_line(to, &commands[i]);
    fprintf(to,
            "what asks a gateway that runs takes --admin IP:PORT or unix:/PATH, behind the rest "
            "(default " CLIENT_ADDRESS ")\n");
    return status;
}

int main(int argc, char **argv)
{
    /* One arena: there is one thread. Freed memory at the top is kept up to a megabyte, as trimming
     * for every instance of an interpreted guest costs more than the call. */
    sys_signals_init();
    sys_name_set("weir");
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return usage(stdout, EXIT_SUCCESS);
    if (argc >= 4 && strcmp(argv[argc - 2], "--admin") == 0) {
        client_address = argv[argc - 1];
        argc -= 2;
    }
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(commands); i++) {
        const struct command *c = &commands[i];
        if (strcmp(argv[1], c->name) != 0)
            continue;
        if (argc == 3 && c->text && strcmp(argv[2], "--help") == 0) {
            usage_line(stdout, c);
            return EXIT_SUCCESS;
        }
        if (c->run_all)
            return c->run_all(argc - 2, argv + 2);
        if ((argc == 2 && c->otherwise) || (argc == 3 && c->arg && c->arg[0] && argv[2][0] != '-'))
            return c->run(argc == 3 ? argv[2] : c->otherwise);
        break;
    }
    return usage(stderr, EXIT_USAGE);
}
