/* Folders of files, for the commands that a person runs by hand. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "sys/sys.h"

enum { DEPTH = 16 };

int sys_file_make(const char *path)
{
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

enum err sys_fd_write(int fd, struct slice content)
{
    for (size_t done = 0; done < content.n;) {
        ssize_t r = write(fd, content.p + done, content.n - done);
        if (r <= 0)
            return ERR_SYS;
        done += (size_t)r;
    }
    return ERR_NONE;
}

enum err sys_file_move(const char *from, const char *to)
{
    return rename(from, to) == 0 ? ERR_NONE : ERR_SYS;
}

void sys_file_remove(const char *path)
{
    unlink(path);
}

enum err sys_file_create(const char *path, struct slice content)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return ERR_SYS;
    bool ok = sys_fd_write(fd, content) == ERR_NONE;
    return close(fd) == 0 && ok ? ERR_NONE : ERR_SYS;
}

static bool ends(const char *name, const char *with)
{
    size_t n = strlen(name), m = strlen(with);
    return n > m && strcmp(name + n - m, with) == 0;
}

static bool is_one_of(const char *name, const char *const list[],
                      bool (*is)(const char *, const char *))
{
    while (*list && !is(name, *list))
        list++;
    return *list != NULL;
}

static bool equal(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static bool counts(const char *name, bool folder, enum sys_tree what)
{
    static const char *const made[] = {".wasm", ".cwasm", ".rlib", ".o", NULL};
    static const char *const modules[] = {".wasm", ".cwasm", ".wat", NULL};
    static const char *const others[] = {"node_modules", "target", "build", NULL};
    if (name[0] == '.')
        return false;
    if (folder)
        return !is_one_of(name, others, equal);
    if (what == SYS_TREE_SOURCES)
        return !is_one_of(name, made, ends);
    return what == SYS_TREE_MODULES ? is_one_of(name, modules, ends) : ends(name, ".yaml");
}

static uint64_t stamp(int at, const char *path, enum sys_tree what, unsigned depth)
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
        if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            !counts(e->d_name, S_ISDIR(st.st_mode), what))
            continue;
        if (S_ISDIR(st.st_mode)) {
            sum += depth < DEPTH ? stamp(fd, e->d_name, what, depth + 1) : 0;
        } else {
            const uint64_t now[] = {st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
                                    (uint64_t)st.st_mtim.tv_nsec};
            sum += hash_bytes(slice_of(now, sizeof(now))) + 3 * hash_bytes(slice_str(e->d_name));
        }
    }
    closedir(folder); /* and fd */
    return sum;
}

uint64_t sys_tree_stamp(const char *path, enum sys_tree what)
{
    return stamp(AT_FDCWD, path, what, 0);
}

void sys_file_used(const char *path)
{
    utimensat(AT_FDCWD, path, NULL, 0);
}

/* The bytes of the files in question, and which of them was not used for longest. */
static uint64_t longest_unused(DIR *folder, const char *end, const char *but,
                               char oldest[NAME_MAX + 1])
{
    struct timespec least = {0};
    uint64_t sum = 0;
    *oldest = '\0';
    rewinddir(folder);
    for (const struct dirent *e = readdir(folder); e; e = readdir(folder)) {
        struct stat st;
        if (!ends(e->d_name, end) || fstatat(dirfd(folder), e->d_name, &st, AT_SYMLINK_NOFOLLOW) ||
            !S_ISREG(st.st_mode))
            continue;
        sum += (uint64_t)st.st_size;
        const struct timespec *used = &st.st_mtim;
        bool before = used->tv_sec < least.tv_sec ||
                      (used->tv_sec == least.tv_sec && used->tv_nsec < least.tv_nsec);
        if (strcmp(e->d_name, but) == 0 || (*oldest && !before))
            continue;
        least = *used;
        snprintf(oldest, NAME_MAX + 1, "%s", e->d_name);
    }
    return sum;
}

void sys_folder_trim(const char *path, const char *end, uint64_t most, const char *but)
{
    char oldest[NAME_MAX + 1];
    DIR *folder = opendir(path);
    while (folder && longest_unused(folder, end, but, oldest) > most && *oldest)
        if (unlinkat(dirfd(folder), oldest, 0))
            break; /* it is not ours */
    if (folder)
        closedir(folder);
}
