/* Folders of files, for the commands that a person runs by hand. */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "sys/sys.h"

enum { DEPTH = 16 };

enum err sys_file_create(const char *path, struct slice content)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return ERR_SYS;
    ssize_t r = 0;
    while (content.n && (r = write(fd, content.p, content.n)) > 0)
        content = slice_of(content.p + r, content.n - (size_t)r);
    return close(fd) == 0 && !content.n ? ERR_NONE : ERR_SYS;
}

static bool is_source(const char *name)
{
    static const char *const made[] = {".wasm", ".cwasm", ".rlib", ".o"};
    static const char *const folders[] = {"node_modules", "target", "build"};
    size_t n = strlen(name);
    for (size_t i = 0; i < ARRAY_LEN(made); i++)
        if (n > strlen(made[i]) && strcmp(name + n - strlen(made[i]), made[i]) == 0)
            return false;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++)
        if (strcmp(name, folders[i]) == 0)
            return false;
    return name[0] != '.';
}

static uint64_t stamp(int at, const char *path, unsigned depth)
{
    uint64_t sum = 0;
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (!folder) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    for (const struct dirent *e = readdir(folder); e; e = readdir(folder)) {
        struct stat st;
        if (!is_source(e->d_name) || fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (S_ISDIR(st.st_mode)) {
            sum += depth < DEPTH ? stamp(fd, e->d_name, depth + 1) : 0;
        } else {
            const uint64_t what[] = {st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                                     (uint64_t)st.st_mtim.tv_nsec};
            sum += hash_bytes(slice_of(what, sizeof(what))) + 3 * hash_bytes(slice_str(e->d_name));
        }
    }
    closedir(folder); /* and fd */
    return sum;
}

uint64_t sys_tree_stamp(const char *path)
{
    return stamp(AT_FDCWD, path, 0);
}
