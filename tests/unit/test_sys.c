/* sys/: files, memory files, control messages, sockets and the poller, as their callers rely on
 * them. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "sys/sys.h"

static char folder[64];

static const char *in_folder(const char *name)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", folder, name);
    return path[turn];
}

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/weir-unit-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"open/file", "mid/low/file", "mid/low", "file",
                                        "link",      "open",         "mid"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (unlink(in_folder(names[i])) < 0)
            rmdir(in_folder(names[i]));
    return rmdir(folder); /* fails where something was left behind */
}

static void write_file(const char *path, struct slice content, mode_t mode)
{
    assert_err(sys_file_write(path, content), ERR_NONE);
    assert_int_equal(chmod(path, mode), 0);
}

static void files_come_back_as_they_were_written(void **state)
{
    (void)state;
    static const struct slice contents[] = {SLICE(""), SLICE("a\0b\n"), SLICE("shorter")};
    for (size_t i = 0; i < ARRAY_LEN(contents); i++) {
        struct slice got = SLICE_NONE;
        assert_err(sys_file_write(in_folder("file"), contents[i]), ERR_NONE);
        assert_err(sys_file_read(in_folder("file"), contents[i].n, &got), ERR_NONE);
        assert_non_null(got.p);
        assert_true(slice_eq(got, contents[i]));
        mem_free((void *)(uintptr_t)got.p, MAX(got.n, (size_t)1));
    }
    assert_int_equal(mem_buffer_bytes(), 0);
}

static void what_can_not_be_read_is_an_error_and_no_output(void **state)
{
    (void)state;
    struct slice got = SLICE("untouched");
    write_file(in_folder("file"), SLICE("12345"), 0600);
    assert_err(sys_file_read(in_folder("file"), 4, &got), ERR_LIMIT);
    assert_err(sys_file_read(in_folder("absent"), 100, &got), ERR_SYS);
    assert_err(sys_file_read(folder, 100000, &got), ERR_SYS);
    assert_err(sys_file_read("/dev/zero", 100, &got), ERR_SYS);
    assert_true(slice_eq(got, SLICE("untouched")));
}

static void a_failed_write_leaves_nothing_and_the_old_file(void **state)
{
    (void)state;
    assert_err(sys_file_write(in_folder("absent/file"), SLICE("x")), ERR_SYS);
    assert_int_equal(mkdir(in_folder("open"), 0700), 0);
    assert_err(sys_file_write(in_folder("open"), SLICE("x")), ERR_SYS); /* a folder is there */
    assert_int_equal(rmdir(in_folder("open")), 0);
    assert_int_equal(rmdir(folder), 0); /* so nothing was left behind */
    assert_int_equal(mkdir(folder, 0700), 0);
}

static void a_written_file_is_its_owners_only(void **state)
{
    (void)state;
    struct stat st;
    mode_t was = umask(0);
    assert_err(sys_file_write(in_folder("file"), SLICE("x")), ERR_NONE);
    umask(was);
    assert_int_equal(stat(in_folder("file"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* Who can write any folder above a file can put another in its place. */
static void trust_looks_at_the_file_and_each_folder_above(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        mode_t file, low, mid;
        bool trusted;
    } rows[] = {
        {"all closed", 0600, 0700, 0700, true},
        {"readable by all", 0644, 0755, 0755, true},
        {"file open to others", 0602, 0700, 0700, false},
        {"file open to the group", 0620, 0700, 0700, false},
        {"sticky file is no sticky folder", 01602, 0700, 0700, false},
        {"folder of the file open", 0600, 0777, 0700, false},
        {"folder of the file open to the group", 0600, 0770, 0700, false},
        {"folder of the file sticky", 0600, 01777, 0700, true},
        {"folder above that open", 0600, 0700, 0777, false},
        {"folder above that sticky", 0600, 0700, 01777, true},
    };
    int wrong = 0;
    assert_int_equal(mkdir(in_folder("mid"), 0700), 0);
    assert_int_equal(mkdir(in_folder("mid/low"), 0700), 0);
    assert_err(sys_file_write(in_folder("mid/low/file"), SLICE("x")), ERR_NONE);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char why[512] = "", path[SYS_PATH_MAX];
        assert_int_equal(chmod(in_folder("mid/low/file"), rows[i].file), 0);
        assert_int_equal(chmod(in_folder("mid/low"), rows[i].low), 0);
        assert_int_equal(chmod(in_folder("mid"), rows[i].mid), 0);
        bool got = sys_path_trusted(in_folder("mid/low/file"), path, why, sizeof(why));
        if (got != rows[i].trusted) {
            print_error("%s: %s %s\n", rows[i].what, got ? "trusted" : "refused", why);
            wrong++;
        }
        if (!got)
            assert_non_null(strstr(why, "/mid"));
    }
    assert_int_equal(wrong, 0);
}

static void trust_follows_links_and_names_what_is_absent(void **state)
{
    (void)state;
    char why[512] = "", path[SYS_PATH_MAX];
    assert_int_equal(mkdir(in_folder("open"), 0700), 0);
    write_file(in_folder("open/file"), SLICE("x"), 0666);
    assert_int_equal(symlink(in_folder("open/file"), in_folder("link")), 0);
    assert_false(sys_path_trusted(in_folder("link"), path, why, sizeof(why)));
    assert_non_null(strstr(why, "open/file"));
    assert_int_equal(chmod(in_folder("open/file"), 0600), 0);
    assert_true(sys_path_trusted(in_folder("link"), path, why, sizeof(why)));
    assert_non_null(strstr(path, "open/file")); /* what was looked at, and is to be opened */
    assert_false(sys_path_trusted(in_folder("absent"), path, why, sizeof(why)));
    assert_non_null(strstr(why, "absent"));
    assert_false(sys_path_trusted(in_folder("absent"), path, why, 4)); /* cut, not overrun */
    assert_int_equal(strlen(why), 3);
}

static void a_sealed_memory_file_can_only_be_read(void **state)
{
    (void)state;
    struct slice got = SLICE_NONE;
    int fd = sys_memfd_sealed("unit", SLICE("content"));
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), -1);
    assert_int_equal(ftruncate(fd, 100), -1);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
    assert_ptr_equal(mmap(NULL, 7, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    assert_err(sys_fd_read(fd, 6, &got), ERR_LIMIT);
    assert_err(sys_fd_read(fd, 7, &got), ERR_NONE);
    assert_true(slice_eq(got, SLICE("content"))); /* whatever the file's position is */
    mem_free((void *)(uintptr_t)got.p, got.n);
    sys_close(fd);
    fd = sys_memfd_sealed("empty", SLICE_NONE);
    assert_true(fd >= 0);
    assert_err(sys_fd_read(fd, 0, &got), ERR_NONE);
    assert_int_equal(got.n, 0);
    mem_free((void *)(uintptr_t)got.p, 1);
    sys_close(fd);
}

static void control_messages_keep_their_bounds_and_descriptors(void **state)
{
    (void)state;
    int pair[2], fds[SYS_CONTROL_FDS], got[SYS_CONTROL_FDS];
    unsigned n = 99;
    char text[32], digits[SYS_CONTROL_FDS] = "0123456789";
    assert_int_equal(sys_control_pair(pair), 0);
    for (int i = 0; i < SYS_CONTROL_FDS; i++)
        fds[i] = sys_memfd_sealed("fd", slice_of(digits, (size_t)i + 1));
    for (unsigned count = 0; count <= SYS_CONTROL_FDS; count += count < 9 ? 1 : 61) {
        assert_int_equal(sys_control_send(pair[0], "hello", 5, fds, count), 5);
        assert_int_equal(sys_control_send(pair[0], "x", 1, NULL, 0), 1);
        assert_int_equal(sys_control_recv(pair[1], text, sizeof(text), got, &n), 5);
        assert_memory_equal(text, "hello", 5);
        assert_int_equal(n, count);
        for (unsigned i = 0; i < n; i++) {
            struct slice content = SLICE_NONE;
            assert_int_not_equal(got[i], fds[i]);
            assert_int_equal(fcntl(got[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
            assert_err(sys_fd_read(got[i], SYS_CONTROL_FDS, &content), ERR_NONE);
            assert_int_equal(content.n, i + 1);
            mem_free((void *)(uintptr_t)content.p, content.n);
            sys_close(got[i]);
        }
        assert_int_equal(sys_control_recv(pair[1], text, sizeof(text), got, &n), 1);
        assert_int_equal(n, 0);
    }
    for (int i = 0; i < SYS_CONTROL_FDS; i++)
        sys_close(fds[i]);
    sys_close(pair[0]);
    assert_int_equal(sys_control_recv(pair[1], text, sizeof(text), got, &n), 0); /* the end */
    assert_true(sys_control_send(pair[1], "x", 1, NULL, 0) < 0);                 /* no SIGPIPE */
    sys_close(pair[1]);
}

static void addresses_are_numeric(void **state)
{
    (void)state;
    static const struct {
        const char *host, *starts;
    } rows[] = {{"127.0.0.1", "127.0.0.1:"},
                {"localhost", "127.0.0.1:"},
                {"::1", "[::1]:"},
                {"example.org", NULL},
                {"", NULL},
                {"1.2.3", NULL},
                {"[::1]", NULL}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct sys_address a;
        int fd = sys_listen(rows[i].host, 0);
        if (!rows[i].starts) {
            assert_int_equal(fd, -EINVAL);
        } else if (fd >= 0 || strcmp(rows[i].host, "::1") != 0) { /* IPv6 may be off */
            assert_true(fd >= 0);
            assert_int_equal(sys_local(fd, &a), 0);
            assert_ptr_equal(strstr(a.text, rows[i].starts), a.text);
        }
        sys_close(fd);
    }
}

static uint16_t port_of(int fd)
{
    struct sys_address a;
    assert_int_equal(sys_local(fd, &a), 0);
    return (uint16_t)atoi(strrchr(a.text, ':') + 1);
}

static void sockets_do_not_block_and_say_why(void **state)
{
    (void)state;
    char got[16];
    int listener = sys_listen("127.0.0.1", 0);
    assert_true(listener >= 0);
    assert_int_equal(sys_accept(listener), -EAGAIN);
    assert_int_equal(sys_listen("127.0.0.1", port_of(listener)), -EADDRINUSE);
    struct sockaddr_storage to;
    socklen_t len = sizeof(to);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&to, &len), 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(client, (struct sockaddr *)&to, len), 0);
    int fd = sys_accept(listener);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct sys_address local;
    struct address peer;
    char text[ADDRESS_TEXT];
    assert_int_equal(sys_peer(fd, &peer), 0);
    assert_int_equal(sys_local(client, &local), 0);
    address_write(&peer, text);
    assert_string_equal(text, local.text);
    assert_int_equal(sys_recv(fd, got, sizeof(got)), -EAGAIN);
    assert_int_equal(sys_sendv(fd, (struct slice[]){SLICE("ab"), SLICE("cde")}, 2), 5);
    assert_int_equal(sys_send(fd, SLICE("f")), 1);
    assert_int_equal(recv(client, got, 6, MSG_WAITALL), 6);
    assert_memory_equal(got, "abcdef", 6);
    assert_int_equal(sys_shutdown_write(fd), 0);
    assert_int_equal(recv(client, got, 1, 0), 0);
    assert_int_equal(sys_send(fd, SLICE("x")), -EPIPE); /* and no SIGPIPE */
    sys_close(client);
    sys_close(fd);
    sys_close(listener);
    sys_close(-1);
}

static void the_poller_reports_what_was_asked_for(void **state)
{
    (void)state;
    int pair[2], poller = sys_poller_new();
    struct sys_event events[SYS_EVENTS_MAX];
    assert_true(poller >= 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(sys_poller_add(poller, pair[0], SYS_IN, 0xffffffffffffffff), 0);
    assert_int_equal(sys_poller_add(poller, pair[0], SYS_IN, 0), -EEXIST);
    assert_int_equal(sys_poller_wait(poller, events, 0), 0);
    assert_int_equal(sys_send(pair[1], SLICE("x")), 1);
    for (int i = 0; i < 2; i++) { /* level-triggered */
        assert_int_equal(sys_poller_wait(poller, events, -1), 1);
        assert_true(events[0].data == UINT64_MAX);
        assert_int_equal(events[0].ready, SYS_IN);
    }
    assert_int_equal(sys_poller_change(poller, pair[0], SYS_IN | SYS_OUT, 7), 0);
    assert_int_equal(sys_poller_wait(poller, events, 0), 1);
    assert_true(events[0].data == 7);
    assert_int_equal(events[0].ready, SYS_IN | SYS_OUT);
    assert_int_equal(sys_poller_change(poller, pair[0], 0, 8), 0);
    assert_int_equal(sys_poller_wait(poller, events, 0), 0);
    sys_close(pair[1]);
    assert_int_equal(sys_poller_wait(poller, events, 0), 1);
    assert_int_equal(events[0].ready, SYS_HANGUP);
    assert_int_equal(sys_poller_remove(poller, pair[0]), 0);
    assert_int_equal(sys_poller_wait(poller, events, 0), 0);
    assert_int_equal(sys_poller_remove(poller, pair[0]), -ENOENT);
    sys_close(pair[0]);
    sys_close(poller);
}

static void clocks_go_on_and_random_bytes_differ(void **state)
{
    (void)state;
    uint64_t before = sys_now_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = sys_now_ns();
        assert_true(now >= before);
        before = now;
    }
    assert_true(sys_wall_ms() > 1600000000000);
    uint8_t a[300] = {0}, b[300] = {0};
    sys_random(a, sizeof(a));
    sys_random(b, sizeof(b));
    sys_random(NULL, 0);
    assert_memory_not_equal(a, b, sizeof(a));
    assert_true(sys_fd_limit() >= 256);
    int fd = sys_reserve_open();
    assert_true(fd >= 0);
    sys_close(fd);
}

static void folders_are_made_with_those_above(void **state)
{
    (void)state;
    struct stat st;
    mode_t was = umask(0);
    sys_folder_make(in_folder("mid/low"));
    sys_folder_make(in_folder("mid/low")); /* again does nothing */
    umask(was);
    assert_int_equal(stat(in_folder("mid/low"), &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    assert_int_equal(st.st_mode & 0777, 0755);
    assert_int_equal(sys_file_exists(in_folder("file")), 0);
    write_file(in_folder("file"), SLICE("x"), 0600);
    assert_int_equal(sys_file_exists(in_folder("file")), 1);
}

static void pipes_do_not_block(void **state)
{
    (void)state;
    int ends[2];
    char got[8];
    assert_int_equal(sys_pipe(ends), 0);
    assert_int_equal(sys_read(ends[0], got, sizeof(got)), -EAGAIN);
    assert_int_equal(write(ends[1], "abc", 3), 3);
    assert_int_equal(sys_read(ends[0], got, sizeof(got)), 3);
    sys_close(ends[1]);
    assert_int_equal(sys_read(ends[0], got, sizeof(got)), 0);
    sys_close(ends[0]);
}

static void a_child_gets_its_descriptors_and_says_how_it_ended(void **state)
{
    (void)state;
    static const struct {
        const char *script;
        int code, signal;
    } rows[] = {{"printf log >&2; printf control >&3; exit 7", 7, 0},
                {"printf log >&2; printf control >&3; kill -9 $$", 0, 9},
                {"printf log >&2; printf control >&3", 0, 0}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *const argv[] = {"sh", "-c", rows[i].script, NULL};
        int log[2], control[2];
        char got[32];
        struct sys_exit end = {-1, -1};
        assert_int_equal(sys_pipe(log), 0);
        assert_int_equal(sys_pipe(control), 0);
        pid_t pid = sys_spawn("/bin/sh", argv, log[1], control[1]);
        assert_true(pid > 0);
        assert_true(sys_wait_for(pid, 5000, &end));
        assert_int_equal(end.code, rows[i].code);
        assert_int_equal(end.signal, rows[i].signal);
        assert_int_equal(sys_read(log[0], got, sizeof(got)), 3);
        assert_memory_equal(got, "log", 3);
        assert_int_equal(sys_read(control[0], got, sizeof(got)), 7);
        assert_memory_equal(got, "control", 7);
        for (int j = 0; j < 2; j++) {
            sys_close(log[j]);
            sys_close(control[j]);
        }
    }
    const char *const none[] = {"none", NULL};
    assert_int_equal(sys_spawn(in_folder("absent"), none, -1, -1), -ENOENT);
}

/* A control descriptor that is 3 by chance must still reach the child: dup2 of it to itself would
 * leave close-on-exec set. */
static void a_control_descriptor_may_have_any_number(void **state)
{
    (void)state;
    const char *const argv[] = {"sh", "-c", "printf control >&3", NULL};
    int control[2], kept = fcntl(SYS_CONTROL_FD, F_DUPFD_CLOEXEC, 20);
    char got[32];
    struct sys_exit end = {-1, -1};
    assert_int_equal(sys_pipe(control), 0);
    int from = fcntl(control[0], F_DUPFD_CLOEXEC, 20), to = fcntl(control[1], F_DUPFD_CLOEXEC, 20);
    sys_close(control[0]);
    sys_close(control[1]);
    assert_int_equal(dup3(to, SYS_CONTROL_FD, O_CLOEXEC), SYS_CONTROL_FD);
    pid_t pid = sys_spawn("/bin/sh", argv, -1, SYS_CONTROL_FD);
    bool ended = pid > 0 && sys_wait_for(pid, 5000, &end);
    ssize_t n = sys_read(from, got, sizeof(got));
    sys_close(from);
    sys_close(to);
    sys_close(SYS_CONTROL_FD);
    if (kept >= 0) {
        dup3(kept, SYS_CONTROL_FD, O_CLOEXEC);
        sys_close(kept);
    }
    assert_true(ended);
    assert_int_equal(end.code, 0);
    assert_int_equal(n, 7);
}

static void a_running_child_is_no_ended_one(void **state)
{
    (void)state;
    const char *const argv[] = {"sleep", "60", NULL};
    struct sys_exit end = {-1, -1};
    pid_t pid = sys_spawn("/bin/sleep", argv, -1, -1);
    assert_true(pid > 0);
    assert_false(sys_wait(pid, &end));
    assert_int_equal(end.code, -1);
    sys_kill(pid, false);
    assert_true(sys_wait_for(pid, 5000, &end));
    assert_int_equal(end.signal, 15);
    assert_true(sys_wait(pid, &end)); /* long gone: nobody knows how */
    assert_int_equal(end.code, -1);
    pid = sys_spawn("/bin/sleep", argv, -1, -1);
    assert_false(sys_wait_for(pid, 4, &end)); /* killed */
}

/* a and d are as large as the rest may be; d is the one that stays; x ends otherwise. */
static void a_folder_is_trimmed_from_its_oldest(void **state)
{
    (void)state;
    static const char *const names[] = {"d.code", "x", "b.code", "a.code", "c.code"};
    static const unsigned ages[] = {50, 40, 30, 10, 20};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct timespec then = {.tv_sec = 1000000000 - ages[i]}, times[2] = {then, then};
        assert_int_equal(sys_file_create(in_folder(names[i]), SLICE("0123456789")), ERR_NONE);
        assert_int_equal(utimensat(AT_FDCWD, in_folder(names[i]), times, 0), 0);
    }
    sys_file_used(in_folder("b.code")); /* c is now the oldest that may go */
    sys_folder_trim(folder, ".code", 40, "d.code");
    assert_true(sys_file_exists(in_folder("c.code")));
    sys_folder_trim(folder, ".code", 39, "d.code");
    assert_false(sys_file_exists(in_folder("c.code")));
    assert_true(sys_file_exists(in_folder("a.code")));
    sys_folder_trim(folder, ".code", 0, "d.code");
    assert_false(sys_file_exists(in_folder("a.code")));
    assert_false(sys_file_exists(in_folder("b.code")));
    assert_true(sys_file_exists(in_folder("d.code")));
    assert_true(sys_file_exists(in_folder("x")));
    sys_folder_trim(in_folder("not there"), ".code", 0, "");
    sys_file_remove(in_folder("x"));
    sys_file_remove(in_folder("d.code"));
}

#define FOLDER_TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOLDER_TEST(files_come_back_as_they_were_written),
        FOLDER_TEST(what_can_not_be_read_is_an_error_and_no_output),
        FOLDER_TEST(a_failed_write_leaves_nothing_and_the_old_file),
        FOLDER_TEST(a_written_file_is_its_owners_only),
        FOLDER_TEST(trust_looks_at_the_file_and_each_folder_above),
        FOLDER_TEST(folders_are_made_with_those_above),
        FOLDER_TEST(trust_follows_links_and_names_what_is_absent),
        FOLDER_TEST(a_folder_is_trimmed_from_its_oldest),
        cmocka_unit_test(a_sealed_memory_file_can_only_be_read),
        cmocka_unit_test(control_messages_keep_their_bounds_and_descriptors),
        cmocka_unit_test(addresses_are_numeric),
        cmocka_unit_test(sockets_do_not_block_and_say_why),
        cmocka_unit_test(the_poller_reports_what_was_asked_for),
        cmocka_unit_test(pipes_do_not_block),
        cmocka_unit_test(a_child_gets_its_descriptors_and_says_how_it_ended),
        cmocka_unit_test(a_control_descriptor_may_have_any_number),
        cmocka_unit_test(a_running_child_is_no_ended_one),
        cmocka_unit_test(clocks_go_on_and_random_bytes_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
