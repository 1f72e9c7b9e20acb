/* The program weir: its commands. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/commands.h"
#include "app/supervisor.h"
#include "app/worker.h"
#include "guest/guest.h"
#include "sys/sys.h"

enum { EXIT_USAGE = 2 };

static int command_serve(char **args)
{
    return supervisor_serve(args[0] ? args[0] : "weir.yaml");
}

static int command_check(char **args)
{
    const char *file = args[0] ? args[0] : "weir.yaml";
    int status = check_run(file);
    if (status == EXIT_SUCCESS)
        printf("%s: ok\n", file);
    return status;
}

static int command_inspect(char **args)
{
    return inspect_run(args[0]);
}

static int command_docs(char **args)
{
    return docs_write(args[0], stdout) ? EXIT_SUCCESS : EXIT_USAGE;
}

static int command_version(char **args)
{
    (void)args;
    printf("weir %s (wasmtime %s)\n", WEIR_VERSION, guest_engine_version());
    return EXIT_SUCCESS;
}

static int command_worker(char **args)
{
    (void)args;
    return worker_main();
}

static const struct command {
    const char *name, *arg;
    int least, most;         /* arguments */
    int (*run)(char **args); /* up to a NULL; args[-1] is the name */
    const char *text;
} commands[] = {
    {"serve", "[FILE]", 0, 1, command_serve, "serve what FILE says; SIGTERM drains and ends it"},
    {"check", "[FILE]", 0, 1, command_check, "say all that is wrong with FILE and its modules"},
    {"new", "NAME --lang LANG", 0, 99, scaffold_new,
     "make a guest's project; LANG: c, rust, go or as"},
    {"dev", "", 0, 99, scaffold_dev, "build and serve the project here, again at each change"},
    {"inspect", "MODULE", 1, 1, command_inspect,
     "say what a module imports, exports and is, and whether it loads"},
    {"modules", "", 0, 0, client_modules,
     "list the modules of a gateway that runs, and their versions"},
    {"modules", "put NAME FILE", 3, 3, client_put, "give a module another version, or add it"},
    {"modules", "remove NAME", 2, 2, client_remove,
     "remove one that the configuration does not name"},
    {"memory", "[--json]", 0, 1, client_memory,
     "say whose a gateway's memory is, and what nobody's"},
    {"reload", "", 0, 0, client_reload,
     "put modules and a configuration in force that have changed; as SIGHUP does"},
    {"upgrade", "", 0, 0, client_reload,
     "go on with the program as it is on disk now; as SIGUSR2 does"},
    {"health", "", 0, 0, client_health, "whether a gateway serves: exit code 0, or 1"},
    {"rollback", "NAME", 1, 1, client_rollback,
     "put the version of a module in force that was before"},
    {"publish", "SPACE TOPIC TEXT", 3, 3, client_publish,
     "send a message to all that are in a topic"},
    {"conns", "", 0, 0, client_conns, "list the connections of a gateway that runs"},
    {"kick", "ID [CODE]", 1, 2, client_kick, "close one that `conns` lists"},
    {"tail", "[--once]", 0, 1, client_tail, "follow the log of a gateway that runs"},
    {"log-level", "[LEVEL]", 0, 1, client_log_level,
     "say or change the level of the log, until the next worker"},
    {"docs", "WHAT", 1, 1, command_docs, "print a generated page: " DOCS_NAMES},
    {"version", "", 0, 0, command_version, "print the version, and the engine's"},
    {"worker", "", 0, 0, command_worker, NULL}, /* the supervisor's own, as are the rest */
    {"probe", "", 4, 4, check_probe, NULL},
};

/* A word of arg in small letters is that word, and an option is one of those in arg. */
static bool fits(const struct command *c, int n, char **args)
{
    const char *first = n ? args[0] : "";
    size_t word = strspn(c->arg, "abcdefghijklmnopqrstuvwxyz");
    return n >= c->least && n <= c->most && (*first != '-' || strstr(c->arg, first)) &&
           (!word || (strlen(first) == word && strncmp(first, c->arg, word) == 0));
}

static void usage_line(FILE *to, const struct command *c)
{
    fprintf(to, "  weir %s %-*s %s\n", c->name, (int)(20 - strlen(c->name)), c->arg, c->text);
}

static int usage(FILE *to, int status)
{
    fprintf(to, "weir: an edge gateway that runs WebAssembly guests; usage:\n");
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        if (commands[i].text)
            usage_line(to, &commands[i]);
    fprintf(to,
            "what asks a gateway that runs takes --admin IP:PORT, unix:/PATH or\n"
            "https://IP:PORT (default " CLIENT_ADDRESS "); for https also --ca FILE, --cert FILE, "
            "--key FILE,\nand --name NAME, where its certificate has that and not the address\n");
    return status;
}

/* Takes what says which gateway is asked, and how, out of the arguments, wherever it is, from the
 * end, as the last word is nobody's option. Returns how many are left. */
static int client_options(int argc, char **argv)
{
    const struct {
        const char *name, **value;
    } options[] = {{"--admin", &client_address},
                   {"--ca", &client_tls.ca},
                   {"--cert", &client_tls.certificate},
                   {"--key", &client_tls.key},
                   {"--name", &client_tls.name}};
    for (int at = argc - 2; at >= 2; at--)
        for (size_t i = 0; i < ARRAY_LEN(options) && at + 1 < argc; i++)
            if (strcmp(argv[at], options[i].name) == 0) {
                *options[i].value = argv[at + 1];
                memmove(argv + at, argv + at + 2, (size_t)(argc - at - 1) * sizeof(*argv));
                argc -= 2;
                break;
            }
    return argc;
}

int main(int argc, char **argv)
{
    /* One arena: there is one thread. Freed memory at the top is kept up to a megabyte, as trimming
     * for every instance of an interpreted guest costs more than the call. */
    sys_standard_open(); /* what is opened next is not to be taken for one of them by a child */
    sys_signals_init();
    sys_name_set("weir");
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return usage(stdout, EXIT_SUCCESS);
    argc = client_options(argc, argv);
    for (size_t i = 0; argc > 1 && i < ARRAY_LEN(commands); i++) {
        const struct command *c = &commands[i];
        if (strcmp(argv[1], c->name) != 0)
            continue;
        if (argc == 3 && c->text && strcmp(argv[2], "--help") == 0) {
            usage_line(stdout, c);
            return EXIT_SUCCESS;
        }
        if (fits(c, argc - 2, argv + 2)) {
            int status = c->run(argv + 2);
            if (status == EXIT_USAGE && c->text)
                usage_line(stderr, c);
            return status;
        }
    }
    return usage(stderr, EXIT_USAGE);
}
