/* A WASI command by a real libc: what it was given, as text. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
    char body[4096];
    const char *code = getenv("HTTP_X_EXIT");
    size_t n = 0, got;
    printf("Status: 201 Created\r\nContent-Type: text/plain\r\n\r\n");
    while ((got = fread(body, 1, sizeof(body), stdin)) > 0)
        n += got;
    printf("%d %s %s %s %zu %d\n", argc, argv[0], getenv("REQUEST_METHOD"), getenv("GREETING"), n,
           time(NULL) > 1600000000);
    fprintf(stderr, "read %zu bytes\n", n);
    return code ? atoi(code) : 0;
}
