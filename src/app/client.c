#include "app/client.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/config.h"
#include "sys/sys.h"

enum { TIMEOUT_MS = 120000, ANSWER_MAX = 4 << 20, FILE_MAX = 64 << 20, EXIT_USAGE = 2 };
enum { REQUEST_MAX = 8 << 10, HEALTH_MS = 2000 };

const char *client_address = CLIENT_ADDRESS;

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
    if (!config_address(client_address, host, &port))
        return fail("--admin is ADDRESS:PORT");
    int fd = sys_connect(host, port, timeout_ms);
    if (fd < 0)
        return fail(strerror(-fd));
    /* Where not all of the body is taken, the answer says why. */
    ssize_t n = sys_send(fd, head);
    if (n > 0 && body.n && sys_send(fd, body) < 0)
        n = 1;
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

/* The document of a 200; NULL: said. WEIR_TOKEN is the gateway's admin.token. */
static json_t *ask(const char *method, const char *path, struct slice body)
{
    const char *token = getenv("WEIR_TOKEN");
    struct buf request, answer;
    unsigned status = 0;
    json_t *doc = NULL;
    buf_init(&answer, ANSWER_MAX);
    buf_init(&request, REQUEST_MAX);
    if (buf_printf(&request,
                   "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                   "%s%s%sContent-Length: %zu\r\n\r\n",
                   method, path, token ? "Authorization: Bearer " : "", token ? token : "",
                   token ? "\r\n" : "", body.n))
        fail("the path or the token is too long");
    else if (exchange(buf_slice(&request), body, TIMEOUT_MS, &answer)) {
        const char *end = memmem(answer.p, answer.len, "\r\n\r\n", 4);
        size_t head = end ? (size_t)(end - (const char *)answer.p) + 4 : answer.len;
        if (buf_append(&answer, slice_of("", 1)) == ERR_NONE && end)
            (void)sscanf((const char *)answer.p, "HTTP/1.1 %u ", &status);
        doc = json_loadb((const char *)answer.p + head, answer.len - head, JSON_DISABLE_EOF_CHECK,
                         NULL);
        if (!doc)
            fail("it answered what is no JSON");
    }
    if (doc && status != 200) {
        const char *detail = json_string_value(json_object_get(doc, "detail"));
        fail(detail ? detail : "it refused");
        json_decref(doc);
        doc = NULL;
    }
    buf_done(&request);
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

static int list(void)
{
    json_t *doc = ask("GET", "modules", SLICE_NONE);
    const json_t *m;
    size_t i;
    if (!doc)
        return EXIT_FAILURE;
    printf("%-20s %7s  %-16s  %-20s  %-7s  %-8s %9s %7s\n", "NAME", "VERSION", "SHA256", "SINCE",
           "ENGINE", "STATE", "EVENTS", "RUNNING");
    json_array_foreach(json_object_get(doc, "modules"), i, m) print_module(m);
    json_decref(doc);
    return EXIT_SUCCESS;
}

static int reload(const char *path)
{
    json_t *doc = ask("POST", path, SLICE_NONE);
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

int client_reload(void)
{
    return reload("reload");
}

int client_upgrade(void)
{
    return reload("upgrade");
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

int client_rollback(const char *module)
{
    return change("POST", module, "/rollback", SLICE_NONE);
}

int client_modules(int argc, char **argv)
{
    struct slice file;
    if (!argc)
        return list();
    if (argc == 2 && strcmp(argv[0], "remove") == 0)
        return change("DELETE", argv[1], "", SLICE_NONE);
    if (argc != 3 || strcmp(argv[0], "put") != 0) {
        fprintf(stderr, "usage: weir modules [put NAME FILE | remove NAME]\n");
        return EXIT_USAGE;
    }
    enum err e = sys_file_read(argv[2], FILE_MAX, &file);
    if (e) {
        fprintf(stderr, "%s: %s\n", argv[2],
                e == ERR_LIMIT ? "larger than 64 MiB" : strerror(errno));
        return EXIT_FAILURE;
    }
    int status = change("PUT", argv[1], "", file);
    mem_free((void *)(uintptr_t)file.p, file.n ? file.n : 1);
    return status;
}

int client_publish(int argc, char **argv)
{
    if (argc != 3) {
        fail("publish SPACE TOPIC TEXT");
        return EXIT_USAGE;
    }
    struct buf body;
    json_t *doc = json_pack("{s:s,s:s,s:s}", "space", argv[0], "topic", argv[1], "text", argv[2]);
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
int client_health(void)
{
    struct slice request = SLICE("GET /readyz HTTP/1.1\r\nHost: localhost\r\n"
                                 "Connection: close\r\n\r\n");
    struct slice ready = SLICE("HTTP/1.1 200 ");
    struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    bool answered = exchange(request, SLICE_NONE, HEALTH_MS, &answer);
    bool ok = answered && answer.len > ready.n && memcmp(answer.p, ready.p, ready.n) == 0;
    buf_done(&answer);
    if (ok)
        printf("ready\n");
    else if (answered)
        fail("not ready");
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
