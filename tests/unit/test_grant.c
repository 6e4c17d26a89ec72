/*
 * test_grant.c - auth/grant.c on real directories: what it opens, what it makes, what it refuses.
 *
 * As root the maildrops belong to another account, as in production; else to whoever runs this.
 */
#include "auth/grant.h"
#include "tests/support/place.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char *state_dir;
static const char *store_user;
static uid_t store_uid;
static char error[600];

/* Called once, the next time that somebody locks: what another process might do just then. */
static void (*before_lock)(void);

/* Stands before libc's, in this program only. */
int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (command == F_OFD_SETLK && before_lock) {
        void (*hook)(void) = before_lock;
        before_lock = NULL;
        hook();
    }
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

static void make_state_dir(mode_t mode)
{
    assert_return_code(mkdir(state_dir, 0700), errno);
    assert_return_code(chmod(state_dir, mode), errno);
    if (geteuid() == 0)
        assert_return_code(chown(state_dir, store_uid, (gid_t)-1), errno);
}

static int set_up_group(void **state)
{
    (void)state;
    const struct passwd *account = geteuid() == 0 ? getpwnam("mail") : getpwuid(geteuid());
    if (!account || !place_make("/tmp", 0755))
        return -1;
    store_user = base_strdup(account->pw_name);
    store_uid = account->pw_uid;
    state_dir = in_place("state");
    return 0;
}

static struct config *configure(void)
{
    struct config *config = config_new();
    must_set(config, "server", "", "state_dir", state_dir);
    must_set(config, "server", "", "store_user", store_user);
    return config;
}

static struct grant_root *try_root(void)
{
    struct config *config = configure();
    struct grant_root *root = grant_root_open(config, error, sizeof error);
    config_free(config);
    return root;
}

static int set_up(void **state)
{
    make_state_dir(0700);
    *state = try_root();
    return *state ? 0 : -1;
}

static int tear_down(void **state)
{
    before_lock = NULL;
    grant_root_close(*state);
    remove_tree(state_dir);
    return 0;
}

static void close_all(int files[MAILDROP_FILES])
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        close(files[i]);
}

/* "STATE_DIR/mail/H1/H2/NAME[/FILE]" */
static const char *path_of(const char *user, const char *file)
{
    static char path[2][GRANT_PATH_MAX + 100];
    static unsigned next;
    char below[GRANT_PATH_MAX];
    assert_true(grant_path(user, below));
    char *p = path[next++ % 2];
    snprintf(p, sizeof path[0], "%s/%s%s%s", state_dir, below, file ? "/" : "", file ? file : "");
    return p;
}

static void make(const struct grant_root *root, const char *user)
{
    int files[MAILDROP_FILES];
    if (grant_open(root, user, true, true, files, error, sizeof error) != LOGIN_OK)
        fail_msg("%s", error);
    close_all(files);
}

static void expect(const struct grant_root *root, const char *user, enum login_outcome outcome,
                   const char *word)
{
    int files[MAILDROP_FILES] = {-2, -2, -2, -2};
    assert_int_equal(grant_open(root, user, true, true, files, error, sizeof error), outcome);
    assert_int_equal(files[0], -2);
    if (!strstr(error, word))
        fail_msg("no '%s' in: %s", word, error);
}

static unsigned count_fds(void)
{
    unsigned n = 0;
    DIR *list = opendir("/proc/self/fd");
    while (readdir(list))
        n++;
    closedir(list);
    return n;
}

static void expect_nothing_unfinished(void)
{
    assert_int_equal(count_in_tree(state_dir, ".new-"), 0);
}

static void test_path(void **state)
{
    (void)state;
    static const struct {
        const char *user, *name;
    } cases[] = {
        {"alice", "alice"},
        {"alice@virt.example", "alice@virt.example"},
        {"../../etc/x", "%2E.%2F..%2Fetc%2Fx"},
        {".", "%2E"},
        {"..", "%2E."},
        {"a%b", "a%25b"},
        {"a%2Fb", "a%252Fb"},
        {".new-1", "%2Enew-1"},
        {"a\x1f\x7f", "a%1F%7F"},
        {"\xc3\xa9", "\xc3\xa9"},
    };
    char path[GRANT_PATH_MAX], other[GRANT_PATH_MAX], long_name[PROTO_USER_MAX + 1];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_true(grant_path(cases[i].user, path));
        assert_int_equal(strncmp(path, "mail/", 5), 0);
        assert_int_equal(strspn(path + 5, "0123456789abcdef"), 2);
        assert_int_equal(strspn(path + 8, "0123456789abcdef"), 2);
        assert_string_equal(path + 11, cases[i].name);
    }
    /* The hash is for ever: another one would lose everybody's mail. */
    assert_true(grant_path("alice", path));
    assert_string_equal(path, "mail/94/c5/alice");
    assert_true(grant_path("bob", other));
    assert_int_not_equal(strncmp(path, other, 10), 0);

    assert_false(grant_path("", path));
    memset(long_name, 'x', PROTO_USER_MAX);
    long_name[PROTO_USER_MAX] = '\0';
    assert_true(grant_path(long_name, path));
    memset(long_name, '%', PROTO_USER_MAX);
    assert_false(grant_path(long_name, path));
    memset(long_name, '%', 85);
    long_name[85] = '\0';
    assert_true(grant_path(long_name, path)); /* 255 octets */
    assert_int_equal(strlen(path), 11 + 255);
}

static void test_make_and_open(void **state)
{
    int files[MAILDROP_FILES], again[MAILDROP_FILES];
    unsigned before = count_fds();
    mode_t mask = umask(0); /* modes must not depend on it */
    assert_int_equal(grant_open(*state, "alice", true, true, files, error, sizeof error), LOGIN_OK);
    umask(mask);
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        struct stat st, there;
        assert_return_code(fstat(files[i], &st), errno);
        assert_return_code(stat(path_of("alice", maildrop_file_names[i]), &there), errno);
        assert_int_equal(st.st_ino, there.st_ino);
        assert_int_equal(st.st_uid, store_uid);
        assert_int_equal(st.st_mode, S_IFREG | 0600);
        assert_int_equal(st.st_size, i == MAILDROP_DB ? maildrop_template_size : 0);
        assert_int_equal(fcntl(files[i], F_GETFD, 0L), FD_CLOEXEC);
        assert_int_equal(fcntl(files[i], F_GETFL, 0L) & O_ACCMODE, O_RDWR);
    }
    unsigned char *content = base_alloc(maildrop_template_size);
    assert_int_equal(pread(files[MAILDROP_DB], content, maildrop_template_size, 0),
                     maildrop_template_size);
    assert_memory_equal(content, maildrop_template, maildrop_template_size);
    free(content);
    struct stat st;
    assert_return_code(stat(path_of("alice", NULL), &st), errno);
    assert_int_equal(st.st_mode, S_IFDIR | 0700);
    assert_int_equal(st.st_uid, store_uid);
    expect_nothing_unfinished();

    /* The same files again, without the session; ids and descriptors as before. */
    assert_int_equal(grant_open(*state, "alice", false, false, again, error, sizeof error),
                     LOGIN_OK);
    close_all(again);
    close_all(files);
    assert_int_equal(count_fds(), before);
    assert_int_equal(setfsuid((uid_t)-1), geteuid());
    assert_int_equal(setfsgid((gid_t)-1), getegid());
}

static void test_in_use(void **state)
{
    int files[MAILDROP_FILES];
    assert_int_equal(grant_open(*state, "alice", true, true, files, error, sizeof error), LOGIN_OK);
    unsigned before = count_fds();
    expect(*state, "alice", LOGIN_IN_USE, "held by another");
    char second[100];
    snprintf(second, sizeof second, "%s/second", state_dir);
    assert_return_code(link(path_of("alice", "mail.db"), second), errno);
    expect(*state, "alice", LOGIN_STORE_PERM, "a second hard link"); /* nobody is to go for this */
    unlink(second);
    assert_int_equal(count_fds(), before);
    make(*state, "bob");
    /* The lock travels with the description, not with the descriptor number or the process. */
    int copy = dup(files[MAILDROP_LOCK]);
    close_all(files);
    expect(*state, "alice", LOGIN_IN_USE, "held by another");
    close(copy);
    make(*state, "alice");
}

static void test_no_maildrop(void **state)
{
    int files[MAILDROP_FILES];
    assert_int_equal(grant_open(*state, "carol", false, true, files, error, sizeof error),
                     LOGIN_NO_MAILDROP);
    assert_int_equal(access(path_of("carol", NULL), F_OK), -1);
}

static void test_odd_names(void **state)
{
    make(*state, "../../etc/x");
    make(*state, "..");
    make(*state, "a%b");
    assert_int_equal(access(path_of("..", "mail.db"), F_OK), 0);
    assert_int_equal(access(in_place("mail.db"), F_OK), -1);
    expect(*state, "", LOGIN_STORE_PERM, "");
}

static void test_planted_files(void **state)
{
    make(*state, "bob");
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        make(*state, "alice");
        char path[GRANT_PATH_MAX + 100];
        base_copy(path, sizeof path, path_of("alice", maildrop_file_names[i]));
        unlink(path);
        assert_return_code(symlink(path_of("bob", maildrop_file_names[i]), path), errno);
        expect(*state, "alice", LOGIN_STORE_PERM, "symbolic link");

        unlink(path);
        assert_return_code(link(path_of("bob", maildrop_file_names[i]), path), errno);
        expect(*state, "alice", LOGIN_STORE_PERM, "hard link");

        unlink(path);
        assert_return_code(mkdir(path, 0700), errno);
        expect(*state, "alice", LOGIN_STORE_PERM, maildrop_file_names[i]);

        rmdir(path);
        assert_return_code(mkfifo(path, 0600), errno);
        if (geteuid() == 0) {
            assert_return_code(chown(path, store_uid, (gid_t)-1), errno);
            expect(*state, "alice", LOGIN_STORE_PERM, "not a regular file");

            unlink(path); /* root's own file, open to all */
            close(open(path, O_WRONLY | O_CREAT, 0666));
            assert_return_code(chmod(path, 0666), errno);
            expect(*state, "alice", LOGIN_STORE_PERM, "does not belong");
            assert_return_code(chmod(path, 0600), errno); /* as a copy made by root has it */
            expect(*state, "alice", LOGIN_STORE_PERM, "must belong to store_user: chown");
        }
        remove_tree(path_of("alice", NULL));
    }
    /* The directory itself, and one above it. */
    assert_return_code(symlink(path_of("bob", NULL), path_of("alice", NULL)), errno);
    expect(*state, "alice", LOGIN_STORE_PERM, "Not a directory");
    unlink(path_of("alice", NULL));
    const char *other = in_place("state/mail"), *moved = in_place("elsewhere");
    assert_return_code(rename(other, moved), errno);
    assert_return_code(symlink(moved, other), errno);
    expect(*state, "bob", LOGIN_STORE_PERM, "symbolic link");
    remove_tree(moved);
}

static void test_database_missing_or_empty(void **state)
{
    make(*state, "alice");
    assert_return_code(truncate(path_of("alice", "mail.db"), 0), errno);
    expect(*state, "alice", LOGIN_STORE_PERM, "empty");
    unlink(path_of("alice", "mail.db"));
    expect(*state, "alice", LOGIN_STORE_PERM, "missing");
    make(*state, "bob");
    unlink(path_of("bob", "lock"));
    expect(*state, "bob", LOGIN_STORE_PERM, "lock: missing");
}

/* A plain SQLite that closes last takes -wal and -shm away. */
static void test_wal_unlinked(void **state)
{
    int files[MAILDROP_FILES];
    make(*state, "alice");
    unlink(path_of("alice", "mail.db-wal"));
    unlink(path_of("alice", "mail.db-shm"));
    assert_int_equal(grant_open(*state, "alice", false, true, files, error, sizeof error),
                     LOGIN_OK);
    for (unsigned i = MAILDROP_WAL; i <= MAILDROP_SHM; i++) {
        struct stat st, there;
        assert_return_code(fstat(files[i], &st), errno);
        assert_return_code(stat(path_of("alice", maildrop_file_names[i]), &there), errno);
        assert_int_equal(st.st_ino, there.st_ino);
        assert_int_equal(st.st_uid, store_uid);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(st.st_size, 0);
    }
    close_all(files);
}

static void replace_maildrop(void)
{
    char aside[100];
    snprintf(aside, sizeof aside, "%s/aside", state_dir);
    assert_return_code(rename(path_of("alice", NULL), aside), errno);
}

static void exchange_maildrops(void)
{
    replace_maildrop();
    assert_return_code(rename(path_of("bob", NULL), path_of("alice", NULL)), errno);
}

/* The lock that we got belongs to a maildrop that was renamed away before we got it. */
static void test_lock_replaced(void **state)
{
    int files[MAILDROP_FILES];
    make(*state, "alice");
    make(*state, "bob");
    unsigned before = count_fds();
    before_lock = exchange_maildrops;
    assert_int_equal(grant_open(*state, "alice", true, true, files, error, sizeof error), LOGIN_OK);
    assert_null(before_lock);
    struct stat st, there;
    assert_return_code(fstat(files[MAILDROP_LOCK], &st), errno);
    assert_return_code(stat(path_of("alice", "lock"), &there), errno);
    assert_int_equal(st.st_ino, there.st_ino);
    close_all(files);
    assert_int_equal(count_fds(), before);

    char aside[100];
    snprintf(aside, sizeof aside, "%s/aside", state_dir);
    remove_tree(aside);
    before_lock = replace_maildrop;
    assert_int_equal(grant_open(*state, "alice", false, true, files, error, sizeof error),
                     LOGIN_NO_MAILDROP);
    assert_int_equal(count_fds(), before);
}

/* Eight at once make the same maildrop: one makes it, one gets it, nothing is left over. */
static void test_making_race(void **state)
{
    pid_t children[8];
    int got = 0, refused = 0, go[2], stay[2], status;
    assert_return_code(pipe(go), errno);
    assert_return_code(pipe(stay), errno);
    for (size_t i = 0; i < ARRAY_SIZE(children); i++) {
        children[i] = fork();
        if (children[i] == 0) {
            int files[MAILDROP_FILES];
            char octet;
            close(go[1]);
            close(stay[1]);
            if (read(go[0], &octet, 1) < 0)
                _exit(99);
            enum login_outcome outcome =
                grant_open(*state, "alice", true, true, files, error, sizeof error);
            close(go[0]);
            if (outcome == LOGIN_OK && read(stay[0], &octet, 1) < 0)
                _exit(99);
            _exit((int)outcome);
        }
    }
    close(go[0]);
    close(stay[0]);
    close(go[1]);
    for (size_t i = 1; i < ARRAY_SIZE(children); i++) {
        wait(&status);
        refused += WIFEXITED(status) && WEXITSTATUS(status) == LOGIN_IN_USE;
    }
    close(stay[1]);
    wait(&status);
    got += WIFEXITED(status) && WEXITSTATUS(status) == LOGIN_OK;
    assert_int_equal(got, 1);
    assert_int_equal(refused, 7);
    expect_nothing_unfinished();
}

/* Opening a maildrop, where so many descriptors may still be opened. */
static void open_with(struct grant_root *root, int next, unsigned spare)
{
    struct rlimit limit, few;
    int files[MAILDROP_FILES];
    unsigned before = count_fds();
    getrlimit(RLIMIT_NOFILE, &limit);
    few = (struct rlimit){(rlim_t)next + spare, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    enum login_outcome outcome = grant_open(root, "alice", true, true, files, error, sizeof error);
    setrlimit(RLIMIT_NOFILE, &limit);
    assert_int_equal(outcome, LOGIN_STORE_TEMP);
    assert_int_equal(count_fds(), before);
}

static void test_out_of_descriptors(void **state)
{
    if (getenv("MEMCHECK")) /* it keeps the limit for itself */
        skip();
    int next = dup(0);
    close(next);
    for (unsigned spare = 0; spare < 4; spare++) {
        open_with(*state, next, spare);
        expect_nothing_unfinished();
    }
    make(*state, "alice");
    /* What is there takes six: its directory, its four files, and the lock once more. */
    for (unsigned spare = 0; spare < 6; spare++) {
        open_with(*state, next, spare);
        assert_non_null(strstr(error, "Too many open files"));
    }
}

/* On a file system with room for the directories, but not for the database. */
static void test_disk_full(void **state)
{
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("tmpfs", state_dir, "tmpfs", 0, "nr_inodes=7,mode=0700") < 0)
        skip();
    assert_return_code(chown(state_dir, store_uid, (gid_t)-1), errno);
    struct grant_root *root = try_root();
    assert_non_null(root);
    expect(root, "alice", LOGIN_STORE_TEMP, "No space");
    expect_nothing_unfinished();
    grant_root_close(root);
    umount2(state_dir, MNT_DETACH);
}

static void test_room(void **state)
{
    static const struct {
        const char *type, *options;
        uint64_t size;
        bool has;
    } rows[] = {
        {"tmpfs", "size=18m", 2 << 20, true},
        {"tmpfs", "size=18m", (2 << 20) + 1, false},
        {"tmpfs", "size=15m", 0, false},
        {"ramfs", "", UINT64_MAX >> 1, true}, /* it does not tell */
    };
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0)
        skip();
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_return_code(mount("none", state_dir, rows[i].type, 0, rows[i].options), errno);
        assert_return_code(chmod(state_dir, 0700), errno);
        assert_return_code(chown(state_dir, store_uid, (gid_t)-1), errno);
        struct grant_root *root = try_root();
        assert_non_null(root);
        *error = '\0';
        assert_int_equal(grant_has_room(root, rows[i].size, error, sizeof error), rows[i].has);
        assert_int_equal(strstr(error, " MB of room are left") != NULL, !rows[i].has);
        grant_root_close(root);
        umount2(state_dir, MNT_DETACH);
    }
}

static void expect_root_refused(const char *word)
{
    assert_null(try_root());
    if (!strstr(error, word) || !strstr(error, "state_dir"))
        fail_msg("no '%s' in: %s", word, error);
    assert_null(strchr(error, '\n'));
}

static void test_root_checks(void **state)
{
    (void)state;
    expect_root_refused("install -d");
    make_state_dir(0770);
    expect_root_refused("chmod 0700");
    chmod(state_dir, 0702);
    expect_root_refused("chmod 0700");
    chmod(state_dir, 0755);
    struct grant_root *root = try_root();
    assert_non_null(root);
    grant_root_close(root);
    if (geteuid() == 0) {
        assert_return_code(chown(state_dir, 1, (gid_t)-1), errno);
        expect_root_refused("chown");
    }
    remove_tree(state_dir);
    close(open(state_dir, O_WRONLY | O_CREAT, 0600));
    expect_root_refused("Not a directory");
    unlink(state_dir);

    struct config *config = configure();
    must_set(config, "server", "", "store_user", "no-such-account");
    assert_null(grant_root_open(config, error, sizeof error));
    assert_non_null(strstr(error, "store_user=no-such-account"));
    config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path),
        cmocka_unit_test(test_root_checks),
        cmocka_unit_test_setup_teardown(test_make_and_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_in_use, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_maildrop, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_odd_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_planted_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_database_missing_or_empty, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wal_unlinked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lock_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_making_race, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_descriptors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_disk_full, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_room, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("grant", tests, set_up_group, leave_place);
}
