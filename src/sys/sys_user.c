#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "sys/sys.h"

#ifdef WEIR_STATIC
/* The C library's own look-ups load plugins of the very version that it was linked with, which a
 * static program's machine need not have. So the files alone are asked. */
static const struct passwd *user_look(const char *name, uint32_t uid)
{
    FILE *f = fopen("/etc/passwd", "re");
    const struct passwd *p = NULL;
    while (f && (p = fgetpwent(f)) && !(name ? strcmp(p->pw_name, name) == 0 : p->pw_uid == uid))
        ;
    if (f)
        fclose(f);
    return p;
}

static const struct group *group_look(const char *name)
{
    FILE *f = fopen("/etc/group", "re");
    const struct group *g = NULL;
    while (f && (g = fgetgrent(f)) && strcmp(g->gr_name, name) != 0)
        ;
    if (f)
        fclose(f);
    return g;
}
#else
static const struct passwd *user_look(const char *name, uint32_t uid)
{
    return name ? getpwnam(name) : getpwuid(uid);
}

static const struct group *group_look(const char *name)
{
    return getgrnam(name);
}
#endif

/* A number, as it is; false: text is no number of an id. */
static bool id_read(const char *text, uint32_t *out)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    bool ok = *text >= '0' && *text <= '9' && !*end && n < UINT32_MAX;
    if (ok)
        *out = (uint32_t)n;
    return ok;
}

bool sys_user_find(const char *user, const char *group, struct sys_user *out, char *why, size_t cap)
{
    struct sys_user found = {.uid = geteuid(), .gid = getegid()};
    const struct passwd *p = NULL;
    const struct group *g = NULL;
    if (!*user && *group) {
        snprintf(why, cap, "group: %s needs user: as well", group);
        return false;
    }
    if (*user && !(p = user_look(user, 0)) && !id_read(user, &found.uid)) {
        snprintf(why, cap,
                 "user: there is no user %s; make one (useradd --system %s), or name another", user,
                 user);
        return false;
    }
    p = *user && !p ? user_look(NULL, found.uid) : p;
    if (p)
        found = (struct sys_user){.uid = p->pw_uid, .gid = p->pw_gid};
    if (*user && !p && !*group) {
        snprintf(why, cap, "user: %s has no group of its own here; add group:", user);
        return false;
    }
    if (*group && !(g = group_look(group)) && !id_read(group, &found.gid)) {
        snprintf(why, cap,
                 "group: there is no group %s; make one (groupadd --system %s), or name another",
                 group, group);
        return false;
    }
    found.gid = g ? g->gr_gid : found.gid;
    found.other = found.uid != geteuid() || found.gid != getegid();
    *out = found;
    return true;
}

bool sys_user_root(void)
{
    return geteuid() == 0;
}

int sys_pid(void)
{
    return (int)getpid();
}
