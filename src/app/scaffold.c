#include "app/commands.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "sys/sys.h"

enum { NAME_MAX_LEN = 40, PATH_CAP = 256, CONTENT_MAX = 1 << 20, USAGE = 2 };
enum { LOOK_MS = 300, BUILD_MS = 600000, END_MS = 15000 };

/* What sdk/templates/embed wrote. */
static const struct file {
    const char *lang, *path, *content;
} files[] = {
#include <scaffold_files.inc> /* made in the build */
};

/* ---- new ---- */

/* A name that is one for a folder, a module in weir.yaml, a Go module and an npm package. */
static bool name_valid(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!islower((unsigned char)name[i]) &&
            (!i || (!isdigit((unsigned char)name[i]) && name[i] != '-')))
            return false;
    return n && n <= NAME_MAX_LEN && name[n - 1] != '-';
}

/* content with the name for each @NAME@. */
static enum err fill(struct buf *out, const char *content, const char *name)
{
    static const char mark[] = "@NAME@";
    enum err e = ERR_NONE;
    for (const char *at; !e && (at = strstr(content, mark)); content = at + sizeof(mark) - 1) {
        e = buf_append(out, slice_of(content, (size_t)(at - content)));
        if (!e)
            e = buf_append(out, slice_str(name));
    }
    return e ? e : buf_append(out, slice_str(content));
}

static bool file_make(const struct file *f, const char *name)
{
    char path[PATH_CAP];
    struct buf content;
    buf_init(&content, CONTENT_MAX);
    snprintf(path, sizeof(path), "%s/%s", name, f->path);
    *strrchr(path, '/') = 0;
    sys_folder_make(path);
    path[strlen(path)] = '/';
    bool ok = !fill(&content, f->content, name) && !sys_file_create(path, buf_slice(&content));
    buf_done(&content);
    if (!ok)
        fprintf(stderr, "weir new: %s can't be written\n", path);
    return ok;
}

static int new_usage(void)
{
    fprintf(stderr, "weir new NAME --lang LANG: LANG is one of");
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (!i || strcmp(files[i].lang, files[i - 1].lang) != 0)
            fprintf(stderr, " %s", files[i].lang);
    fprintf(stderr, "\n");
    return USAGE;
}

int scaffold_new(char **args)
{
    const char *name = NULL, *lang = NULL;
    bool known = false, ok = true;
    for (; *args; args++) {
        if (strcmp(*args, "--lang") == 0 && args[1] && !lang)
            lang = *++args;
        else if (**args != '-' && !name)
            name = *args;
        else
            return new_usage();
    }
    for (size_t i = 0; lang && i < ARRAY_LEN(files); i++)
        known = known || strcmp(files[i].lang, lang) == 0;
    if (!name || !known)
        return new_usage();
    if (!name_valid(name)) {
        fprintf(stderr, "weir new: %s: a name has a-z, 0-9 and -, and begins with a letter\n",
                name);
        return USAGE;
    }
    if (sys_file_exists(name)) {
        fprintf(stderr, "weir new: %s is there already: name another, or remove it\n", name);
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < ARRAY_LEN(files) && ok; i++)
        ok = strcmp(files[i].lang, lang) != 0 || file_make(&files[i], name);
    if (ok)
        printf("%s is made; now: cd %s && make && weir serve\n", name, name);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- dev ---- */

struct dev {
    char self[SYS_PATH_MAX];
    pid_t gateway;            /* 0: there is none */
    uint64_t modules, config; /* stamps of what it was told to serve; of nothing: 0 */
    int signals, poller;
};

/* Ctrl-C ends it too. */
static bool build(void)
{
    const char *argv[] = {"sh", "-c", "exec make -s", NULL};
    struct sys_exit end;
    pid_t pid = sys_spawn("/bin/sh", argv, -1, -1);
    return pid > 0 && sys_wait_for(pid, BUILD_MS, &end) && !end.signal && !end.code;
}

static void stop(struct dev *d)
{
    struct sys_exit end;
    if (d->gateway)
        sys_kill(d->gateway, false);
    if (d->gateway && !sys_wait_for(d->gateway, END_MS, &end))
        fprintf(stderr, "weir dev: the gateway did not end in time\n");
    d->gateway = 0;
}

static void serve(struct dev *d)
{
    const char *argv[] = {"weir", "serve", "weir.yaml", NULL};
    stop(d);
    pid_t pid = sys_spawn(d->self, argv, -1, -1);
    if (pid > 0)
        d->gateway = pid;
    else
        fprintf(stderr, "weir dev: the gateway can't be started\n");
}

/* What was built gets served: modules are swapped under a gateway that runs, its connections stay;
 * another configuration wants another gateway. */
static void swap(struct dev *d)
{
    uint64_t modules = sys_tree_stamp(".", SYS_TREE_MODULES);
    uint64_t config = sys_tree_stamp(".", SYS_TREE_CONFIG);
    if (config != d->config || (!d->gateway && modules != d->modules))
        serve(d);
    else if (modules != d->modules)
        sys_ask_reload(d->gateway);
    d->modules = modules;
    d->config = config;
}

/* Waits for the next look; false: it is to end. */
static bool look(struct dev *d)
{
    struct sys_event events[SYS_EVENTS_MAX];
    struct sys_exit end;
    int n = sys_poller_wait(d->poller, events, LOOK_MS);
    for (enum sys_signal s = SYS_SIGNAL_CHILD; n > 0 && s; s = sys_signal_next(d->signals))
        if (s == SYS_SIGNAL_STOP || s == SYS_SIGNAL_RELOAD) /* Ctrl-C; or the terminal has gone */
            return false;
    if (d->gateway && sys_wait(d->gateway, &end)) {
        d->gateway = 0;
        if (end.signal) /* it was asked to reload before it could take that for a question */
            serve(d);
        else
            fprintf(stderr, "weir dev: the gateway ended; it is started at the next change\n");
    }
    return true;
}

int scaffold_dev(char **args)
{
    struct dev d = {.gateway = 0};
    uint64_t built = 0; /* a stamp */
    if (*args)
        return fprintf(stderr, "weir dev takes no argument: call it in %s's folder\n", *args),
               USAGE;
    if (!sys_file_exists("weir.yaml") || !sys_file_exists("Makefile")) {
        fprintf(stderr, "weir dev: no weir.yaml and Makefile here: `weir new` makes a project\n");
        return EXIT_FAILURE;
    }
    d.signals = sys_signals_open();
    d.poller = sys_poller_new();
    if (sys_self_path(d.self, sizeof(d.self)) < 0 || d.signals < 0 || d.poller < 0 ||
        sys_poller_add(d.poller, d.signals, SYS_IN, 0) < 0)
        return EXIT_FAILURE;
    do {
        uint64_t now = sys_tree_stamp(".", SYS_TREE_SOURCES);
        if (now == built)
            continue;
        built = now;
        if (build())
            swap(&d);
        else
            fprintf(stderr, "weir dev: make failed; it is tried again at the next change\n");
    } while (look(&d));
    stop(&d);
    return EXIT_SUCCESS;
}
