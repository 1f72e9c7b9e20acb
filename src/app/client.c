#include "app/commands.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "sys/sys.h"

enum { TIMEOUT_MS = 120000, ANSWER_MAX = 4 << 20, FILE_MAX = 64 << 20, EXIT_USAGE = 2 };
enum { REQUEST_MAX = 8 << 10, HEALTH_MS = 2000, TAIL_MS = 500 };

const char *client_address = CLIENT_ADDRESS;
struct tls_client client_tls;

static json_t *fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", client_address, what);
    return NULL;
}

/* All that the gateway answers until it closes the connection. false: said. */
static bool exchange(struct slice head, struct slice body, uint32_t timeout_ms, struct buf *answer)
{
    char host[64];
    uint16_t port;
    const char *address = client_address;
    bool tls = strncmp(address, "https://", 8) == 0;
    if (!config_address(address + (tls ? 8 : 0), host, &port))
        return fail("--admin is ADDRESS:PORT, https://ADDRESS:PORT or unix:/PATH");
    int fd = sys_connect(host, port, timeout_ms);
    if (fd < 0)
        return fail(strerror(-fd));
    if (tls) {
        const char *wrong = tls_client_exchange(fd, &client_tls, host, head, body, answer);
        sys_close(fd);
        return !wrong || fail(wrong);
    }
    ssize_t n = sys_write(fd, head);
    if (n > 0 && body.n)
        (void)!sys_write(fd, body); /* where not all of it is taken, the answer says why */
    while (n > 0) {
        if (buf_reserve(answer, 4096))
            n = -1;
        else if ((n = sys_read(fd, answer->p + answer->len, answer->cap - answer->len)) > 0)
            answer->len += (uint32_t)n;
    }
    sys_close(fd);
    if (n < 0 || !answer->len)
        return fail("it did not answer");
    return true;
}

/* The status of the answer, whose body ends with a NUL and begins at *body; 0: said. WEIR_TOKEN is
 * the gateway's admin.token. */
static unsigned call(const char *method, const char *path, struct slice body, struct buf *answer,
                     const char **text)
{
    const char *token = getenv("WEIR_TOKEN");
    struct buf request;
    unsigned status = 0;
    buf_init(&request, REQUEST_MAX);
    if (buf_printf(&request,
                   "%s %s%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                   "%s%s%sContent-Length: %zu\r\n\r\n",
                   method, *path == '/' ? "" : "/api/v1/", path,
                   token ? "Authorization: Bearer " : "", token ? token : "", token ? "\r\n" : "",
                   body.n)) {
        fail("the path or the token is too long");
    } else if (exchange(buf_slice(&request), body, TIMEOUT_MS, answer)) {
        const char *end = memmem(answer->p, answer->len, "\r\n\r\n", 4);
        size_t head = end ? (size_t)(end - (const char *)answer->p) + 4 : 0;
        if (buf_append(answer, slice_of("", 1)) == ERR_NONE && end)
            (void)sscanf((const char *)answer->p, "HTTP/1.1 %u ", &status);
        *text = (const char *)answer->p + head;
        if (!status)
            fail("it answered what is no HTTP");
    }
    buf_done(&request);
    return status;
}

/* The document of a 200; NULL: said. */
static json_t *document(unsigned status, const char *text)
{
    json_t *doc = status ? json_loads(text, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    if (status && !doc)
        fail("it answered what is no JSON");
    if (doc && status != 200) {
        const char *detail = json_string_value(json_object_get(doc, "detail"));
        fail(detail ? detail : "it refused");
        json_decref(doc);
        doc = NULL;
    }
    return doc;
}

static json_t *ask(const char *method, const char *path, struct slice body)
{
    const char *text = "";
    struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    unsigned status = call(method, path, body, &answer, &text);
    json_t *doc = document(status, text);
    buf_done(&answer);
    return doc;
}

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "-";
}

static void print_module(const json_t *m)
{
    const json_t *versions = json_object_get(m, "versions"), *v;
    size_t i;
    json_array_foreach(versions, i, v)
        printf("%-20s %7" JSON_INTEGER_FORMAT "  %-16s  %-20s  %-7s  %-8s %9" JSON_INTEGER_FORMAT
               " %7" JSON_INTEGER_FORMAT "\n",
               text(m, "name"), json_integer_value(json_object_get(v, "version")),
               text(v, "sha256"), text(v, "loaded_at"), text(m, "engine"), text(v, "state"),
               json_integer_value(json_object_get(v, "events")),
               json_integer_value(json_object_get(v, "running")));
}

int client_modules(char **args)
{
    json_t *doc = ask("GET", "modules", SLICE_NONE);
    const json_t *m;
    size_t i;
    (void)args;
    if (!doc)
        return EXIT_FAILURE;
    printf("%-20s %7s  %-16s  %-20s  %-7s  %-8s %9s %7s\n", "NAME", "VERSION", "SHA256", "SINCE",
           "ENGINE", "STATE", "EVENTS", "RUNNING");
    json_array_foreach(json_object_get(doc, "modules"), i, m) print_module(m);
    json_decref(doc);
    return EXIT_SUCCESS;
}

int client_reload(char **args)
{
    json_t *doc = ask("POST", args[-1], SLICE_NONE);
    const json_t *name;
    size_t i;
    if (!doc)
        return EXIT_FAILURE;
    json_array_foreach(json_object_get(doc, "swapped"), i, name)
        printf("%s: another version is in force\n", json_string_value(name));
    if (json_is_true(json_object_get(doc, "handover")))
        printf("a new worker has taken over\n");
    json_decref(doc);
    return EXIT_SUCCESS;
}

static void print_numbers(const char *title, json_t *o)
{
    const char *key;
    json_t *v;
    printf("%s\n", title);
    json_object_foreach(o, key, v)
    {
        const json_t *n = json_is_object(v) ? json_object_get(v, "pss_bytes") : v;
        printf("  %-20s %12" JSON_INTEGER_FORMAT "\n", key, json_integer_value(n));
    }
}

int client_memory(char **args)
{
    bool json = args[0] && strcmp(args[0], "--json") == 0;
    if (args[0] && !json)
        return EXIT_USAGE;
    json_t *doc = ask("GET", "/debug/memory", SLICE_NONE);
    if (!doc)
        return EXIT_FAILURE;
    if (json) {
        json_dumpf(doc, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_numbers("counted, by owner", json_object_get(doc, "accounted_bytes"));
        print_numbers("the allocator's", json_object_get(doc, "allocator_bytes"));
        print_numbers("the kernel's (PSS), by kind of mapping", json_object_get(doc, "mappings"));
        print_numbers("unexplained", json_object_get(doc, "unexplained"));
        printf("%-22s %12" JSON_INTEGER_FORMAT "\n%-22s %12" JSON_INTEGER_FORMAT "%s%s\n", "PSS",
               json_integer_value(json_object_get(doc, "pss_bytes")), "unexplained",
               json_integer_value(json_object_get(doc, "unexplained_bytes")),
               json_is_string(json_object_get(doc, "flagged")) ? "  too much: " : "",
               json_is_string(json_object_get(doc, "flagged")) ? text(doc, "flagged") : "");
    }
    json_decref(doc);
    return EXIT_SUCCESS;
}

/* A change of one module; its new version is told, where there is one. */
static int change(const char *method, const char *name, const char *verb, struct slice body)
{
    char path[128];
    if (!config_name_valid(slice_str(name))) {
        fail("a module's name has 1 to 64 letters, digits, _ or -");
        return EXIT_FAILURE;
    }
    snprintf(path, sizeof(path), "modules/%s%s", name, verb);
    json_t *doc = ask(method, path, body);
    if (!doc)
        return EXIT_FAILURE;
    const json_t *version = json_object_get(doc, "version");
    if (version)
        printf("%s: version %" JSON_INTEGER_FORMAT " is in force\n", name,
               json_integer_value(version));
    else
        printf("%s: removed\n", name);
    json_decref(doc);
    return EXIT_SUCCESS;
}

int client_rollback(char **args)
{
    return change("POST", args[0], "/rollback", SLICE_NONE);
}

int client_remove(char **args)
{
    return change("DELETE", args[1], "", SLICE_NONE);
}

int client_put(char **args)
{
    struct slice file;
    enum err e = sys_file_read(args[2], FILE_MAX, &file);
    if (e) {
        fprintf(stderr, "%s: %s\n", args[2],
                e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
        return EXIT_FAILURE;
    }
    int status = change("PUT", args[1], "", file);
    sys_read_free(file);
    return status;
}

int client_publish(char **args)
{
    struct buf body;
    json_t *doc = json_pack("{s:s,s:s,s:s}", "space", args[0], "topic", args[1], "text", args[2]);
    size_t n = json_dumpb(doc, NULL, 0, 0); /* 0: not UTF-8 */
    buf_init(&body, ANSWER_MAX);
    if (n && buf_reserve(&body, n) == ERR_NONE)
        body.len = (uint32_t)json_dumpb(doc, (char *)body.p, n, 0);
    json_decref(doc);
    doc = body.len ? ask("POST", "publish", buf_slice(&body))
                   : fail("space, topic and text are UTF-8, of 4 MiB at most");
    buf_done(&body);
    if (!doc)
        return EXIT_FAILURE;
    printf("%" JSON_INTEGER_FORMAT " receivers\n",
           json_integer_value(json_object_get(doc, "receivers")));
    json_decref(doc);
    return EXIT_SUCCESS;
}

/* With a short patience: while no worker serves, the system takes connections all the same. */
int client_health(char **args)
{
    struct slice request = SLICE("GET /readyz HTTP/1.1\r\nHost: localhost\r\n"
                                 "Connection: close\r\n\r\n");
    struct slice ready = SLICE("HTTP/1.1 200 ");
    struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    (void)args;
    bool answered = exchange(request, SLICE_NONE, HEALTH_MS, &answer);
    bool ok = answered && slice_begins(buf_slice(&answer), ready);
    buf_done(&answer);
    if (ok)
        printf("ready\n");
    else if (answered)
        fail("not ready");
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- connections and the log ---- */

static json_int_t whole(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static void print_conn(const json_t *c)
{
    const char *marks = json_is_true(json_object_get(c, "demoted"))   ? "demoted"
                        : json_is_true(json_object_get(c, "suspect")) ? "suspect"
                                                                      : text(c, "state");
    printf("%-16s %-21s %-9s %-7s %9" JSON_INTEGER_FORMAT " %6" JSON_INTEGER_FORMAT
           " %9" JSON_INTEGER_FORMAT "  %s  %s\n",
           text(c, "id"), text(c, "peer"), text(c, "protocol"), marks, whole(c, "queued_bytes"),
           whole(c, "topics"), whole(c, "heard_ms_ago"), text(c, "route"), text(c, "module"));
}

int client_conns(char **args)
{
    char path[64] = "connections?limit=100", *cursor = path + strlen(path);
    bool more = true;
    (void)args;
    printf("%-16s %-21s %-9s %-7s %9s %6s %9s  %s  %s\n", "ID", "PEER", "PROTOCOL", "STATE",
           "QUEUED", "TOPICS", "HEARD MS", "ROUTE", "MODULE");
    while (more) {
        json_t *doc = ask("GET", path, SLICE_NONE);
        const json_t *c;
        size_t i;
        if (!doc)
            return EXIT_FAILURE;
        json_array_foreach(json_object_get(doc, "connections"), i, c) print_conn(c);
        more = json_is_string(json_object_get(doc, "next"));
        snprintf(cursor, sizeof(path) - (size_t)(cursor - path), "&cursor=%.16s",
                 text(doc, "next"));
        json_decref(doc);
    }
    return EXIT_SUCCESS;
}

int client_kick(char **args)
{
    char path[64], body[32] = "";
    const char *id = args[0], *code = args[1];
    if ((code && (strlen(code) != 4 || strspn(code, "0123456789") != 4)) || strlen(id) != 16 ||
        strspn(id, "0123456789abcdef") != 16)
        return EXIT_USAGE;
    snprintf(path, sizeof(path), "connections/%s/close", id);
    if (code)
        snprintf(body, sizeof(body), "{\"code\":%u}", (unsigned)atoi(code));
    json_t *doc = ask("POST", path, slice_str(body));
    if (!doc)
        return EXIT_FAILURE;
    printf("%s: closed\n", id);
    json_decref(doc);
    return EXIT_SUCCESS;
}

int client_log_level(char **args)
{
    char path[64] = "log";
    const char *level = args[0];
    if (level && strspn(level, "abcdefghijklmnopqrstuvwxyz") != strlen(level))
        return EXIT_USAGE;
    if (level)
        snprintf(path, sizeof(path), "log?level=%.16s", level);
    json_t *doc = ask(level ? "PUT" : "GET", path, SLICE_NONE);
    if (!doc)
        return EXIT_FAILURE;
    printf("%s\n", text(doc, "level"));
    json_decref(doc);
    return EXIT_SUCCESS;
}

/* Prints the lines of server-sent events; the id of the last one is *after. */
static void print_events(const char *p, uint64_t *after)
{
    while (*p) {
        const char *end = strchr(p, '\n');
        size_t n = end ? (size_t)(end - p) : strlen(p);
        if (strncmp(p, "id: ", 4) == 0)
            *after = strtoull(p + 4, NULL, 10);
        else if (strncmp(p, "data: {}", 8) == 0)
            fprintf(stderr, "%s: lines were missed here\n", client_address);
        else if (strncmp(p, "data: ", 6) == 0)
            printf("%.*s\n", (int)(n - 6), p + 6);
        p += n + (end != NULL);
    }
    fflush(stdout);
}

int client_tail(char **args)
{
    uint64_t after = 0;
    bool once = args[0] && strcmp(args[0], "--once") == 0;
    if (args[0] && !once)
        return EXIT_USAGE;
    for (;; sys_pause(TAIL_MS)) {
        char path[64];
        const char *body = "";
        struct buf answer;
        snprintf(path, sizeof(path), "events?after=%" PRIu64, after);
        buf_init(&answer, ANSWER_MAX);
        unsigned status = call("GET", path, SLICE_NONE, &answer, &body);
        if (status == 200)
            print_events(body, &after);
        else
            json_decref(document(status, body));
        buf_done(&answer);
        if (status != 200 || once || ferror(stdout))
            return status == 200 ? EXIT_SUCCESS : EXIT_FAILURE;
    }
}
