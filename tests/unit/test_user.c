/* Users, and what root gives up: each in a child. Where this is not root, that it is refused. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/sys_cage.h"

enum { WELL = 99 };
static char why[256];

static bool find(const char *user, const char *group, struct sys_user *out)
{
    return sys_user_find(user, group, out, why, sizeof(why));
}

static void users_are_found_by_name_and_number(void **state)
{
    (void)state;
    struct sys_user u;
    assert_true(find("", "", &u));
    assert_true(u.uid == geteuid() && u.gid == getegid() && !u.other);
    assert_true(find("root", "", &u));
    assert_true(u.uid == 0 && u.gid == 0 && u.other == (geteuid() || getegid()));
    assert_true(find("0", "0", &u));
    assert_true(u.uid == 0 && u.gid == 0);
    assert_true(find("4294967294", "4294967294", &u));
    assert_true(u.uid == UINT32_MAX - 1 && u.gid == UINT32_MAX - 1 && u.other);
    assert_true(find("root", "54321", &u));
    assert_true(u.uid == 0 && u.gid == 54321 && u.other);
}

static void others_are_said_to_be_none(void **state)
{
    (void)state;
    static const char *const bad[][2] = {{"no-such-user", ""},
                                         {"", "root"},
                                         {"root", "no-such-group"},
                                         {"54321", ""},
                                         {"-1", "0"},
                                         {"4294967295", "0"},
                                         {"1x", "0"},
                                         {" 1", "0"},
                                         {"root", "-1"},
                                         {"+1", "0"},
                                         {"18446744073709551617", "0"}};
    struct sys_user u = {.uid = 7};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        why[0] = 0;
        assert_false(find(bad[i][0], bad[i][1], &u));
        assert_true(why[0] && u.uid == 7);
    }
}

static int in_child(int (*f)(void))
{
    int status;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0)
        _exit(f());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static uint64_t capabilities_of_this(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct set[2];
    if (syscall(SYS_capget, &header, set) < 0)
        _exit(1);
    return set[0].permitted | (uint64_t)set[1].permitted << 32;
}

static int become(void)
{
    const struct sys_user nobody = {65534, 65533, true};
    gid_t groups[1];
    int e = sys_cage_user(&nobody);
    if (geteuid() == 0 || e)
        return e;
    if (getuid() != 65534 || getgid() != 65533 || getegid() != 65533 || getgroups(1, groups) ||
        capabilities_of_this())
        return 2;
    /* There is no way back. */
    return setuid(0) == 0 || seteuid(0) == 0 || setgid(0) == 0 ? 3 : WELL;
}

static void a_process_becomes_a_user_for_ever(void **state)
{
    (void)state;
    assert_int_equal(in_child(become), geteuid() == 0 ? WELL : EPERM);
}

static int stay(void)
{
    const struct sys_user none = {1, 1, false};
    uid_t before = geteuid();
    return sys_cage_user(&none) || geteuid() != before ? 1 : WELL;
}

static void who_is_not_asked_to_stays(void **state)
{
    (void)state;
    assert_int_equal(in_child(stay), WELL);
}

/* A page's entry in a page map that is opened now; its lower bits are the page's place in memory.
 */
static uint64_t page_frame(void)
{
    static volatile char page[4096];
    uint64_t entry = 0;
    page[0] = 1;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    off_t at = (off_t)((uintptr_t)page / 4096 * sizeof(entry));
    if (fd < 0 || pread(fd, &entry, sizeof(entry), at) != sizeof(entry))
        _exit(4);
    close(fd);
    return entry & ((UINT64_C(1) << 55) - 1);
}

static int worker_keeps(void)
{
    const uint64_t most = UINT64_C(1) << CAP_SETUID | UINT64_C(1) << CAP_SETGID |
                          UINT64_C(1) << CAP_SETPCAP;
    if (sys_cage_privileges(SYS_CAGE_WORKER) || capabilities_of_this() & ~most)
        return 1;
    if (page_frame())
        return 2;
    return geteuid() != 0 || become() == WELL ? WELL : 3;
}

static void a_worker_of_root_sees_no_places_of_pages(void **state)
{
    (void)state;
    assert_int_equal(in_child(worker_keeps), WELL);
}

static int supervisor_keeps(void)
{
    const uint64_t least = capabilities_of_this() & (UINT64_C(1) << CAP_KILL);
    if (sys_cage_privileges(SYS_CAGE_SUPERVISOR))
        return 1;
    if (capabilities_of_this() & UINT64_C(1) << CAP_SYS_ADMIN)
        return 2;
    return (capabilities_of_this() & least) == least ? WELL : 3;
}

static void a_supervisor_of_root_ends_its_children(void **state)
{
    (void)state;
    assert_int_equal(in_child(supervisor_keeps), WELL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(users_are_found_by_name_and_number),
        cmocka_unit_test(others_are_said_to_be_none),
        cmocka_unit_test(a_process_becomes_a_user_for_ever),
        cmocka_unit_test(who_is_not_asked_to_stays),
        cmocka_unit_test(a_worker_of_root_sees_no_places_of_pages),
        cmocka_unit_test(a_supervisor_of_root_ends_its_children),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
