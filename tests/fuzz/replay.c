/* Runs a fuzz target over all files of the folders that are given, in any build: the corpus is a
 * regression test. Exit 1 where there are no files, or a file can't be read. */
#include <dirent.h>
#include <sys/stat.h>

#include "fuzz.h"

enum { FILE_MAX = 1 << 20 };

static bool replay(const char *path)
{
    static uint8_t data[FILE_MAX];
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    size_t n = fread(data, 1, sizeof(data), f);
    bool ok = !ferror(f) && n < sizeof(data);
    fclose(f);
    if (ok) {
        uint8_t *copy = copy_of(data, n);
        LLVMFuzzerTestOneInput(copy, n);
        free(copy);
    }
    return ok;
}

int main(int argc, char **argv)
{
    unsigned files = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        struct dirent *entry;
        while (dir && (entry = readdir(dir)) != NULL) {
            char path[4096];
            struct stat st;
            if (snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name) >=
                    (int)sizeof(path) ||
                stat(path, &st) < 0 || !S_ISREG(st.st_mode))
                continue;
            if (replay(path))
                files++;
            else
                failed++;
        }
        if (dir)
            closedir(dir);
    }
    printf("%u inputs replayed, %u unreadable\n", files, failed);
    return files && !failed ? 0 : 1;
}
