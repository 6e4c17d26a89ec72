/*
 * test_vfs.c - SQLite's system calls as the store has replaced them: what each does with a granted
 * file, with one that is not there, and with a path elsewhere, which in a worker never reaches the
 * kernel. And calls of the kernel that go wrong below.
 */
#include "test_store.h"

#include "store/lock.h"
#include "store/vfs.h"
#include <dlfcn.h>
#include <errno.h>
#include <sys/random.h>

enum { REGION = 32768, WAL_INDEX_VERSION = 3007000 };

/* The next calls of these kinds fail with this. */
static struct {
    int error, times;
} wrong_random, wrong_read, wrong_lock;

static bool fails(int *times, int error)
{
    if (*times == 0)
        return false;
    --*times;
    errno = error;
    return true;
}

ssize_t getrandom(void *buffer, size_t size, unsigned flags)
{
    static __typeof__(&getrandom) real;

    if (fails(&wrong_random.times, wrong_random.error))
        return -1;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "getrandom");
    return real(buffer, size > 3 ? 3 : size, flags);
}

ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
    static __typeof__(&pread) real;

    if (fails(&wrong_read.times, wrong_read.error))
        return -1;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pread");
    return real(fd, buffer, size, offset);
}

int fcntl(int fd, int command, ...)
{
    static __typeof__(&fcntl) real;
    va_list arguments;
    void *argument;

    va_start(arguments, command);
    argument = va_arg(arguments, void *);
    va_end(arguments);
    if (command == F_OFD_SETLK && fails(&wrong_lock.times, wrong_lock.error))
        return -1;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "fcntl");
    return real(fd, command, argument);
}

static struct test_drop drop;
static int fds[MAILDROP_FILES];
static char folder[80], inside[100], file[100]; /* elsewhere */
static int elsewhere;

static const char granted[] = VFS_FOLDER "mail.db", absent[] = VFS_FOLDER "mail.db-journal";

#define CALL(type, name)                                                                           \
    ((type)sqlite3_vfs_find("unix")->xGetSystemCall(sqlite3_vfs_find("unix"), name))
#define OPEN           CALL(int (*)(const char *, int, int), "open")
#define CLOSE          CALL(int (*)(int), "close")
#define ACCESS         CALL(int (*)(const char *, int), "access")
#define GETCWD         CALL(char *(*)(char *, size_t), "getcwd")
#define STAT           CALL(int (*)(const char *, struct stat *), "stat")
#define LSTAT          CALL(int (*)(const char *, struct stat *), "lstat")
#define UNLINK         CALL(int (*)(const char *), "unlink")
#define MKDIR          CALL(int (*)(const char *, mode_t), "mkdir")
#define RMDIR          CALL(int (*)(const char *), "rmdir")
#define READLINK       CALL(ssize_t (*)(const char *, char *, size_t), "readlink")
#define OPEN_DIRECTORY CALL(int (*)(const char *, int *), "openDirectory")
#define FTRUNCATE      CALL(int (*)(int, off_t), "ftruncate")
#define FCHMOD         CALL(int (*)(int, mode_t), "fchmod")
#define FCHOWN         CALL(int (*)(int, uid_t, gid_t), "fchown")
#define GETEUID        CALL(uid_t (*)(void), "geteuid")

static void assert_fails(long result, int error)
{
    assert_int_equal(result, -1);
    assert_int_equal(errno, error);
}

static int set_up(void **state)
{
    (void)state;
    test_drop_make(&drop);
    test_drop_grant(&drop, fds);
    snprintf(folder, sizeof(folder), "%s/elsewhere", drop.folder);
    snprintf(file, sizeof(file), "%s/file", folder);
    snprintf(inside, sizeof(inside), "%s/link", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    test_write_file(file, "12345", 5);
    assert_int_equal(symlink("file", inside), 0);
    elsewhere = open(file, O_RDWR);
    assert_int_equal(vfs_grant(fds), STORE_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    vfs_revoke();
    close(fds[MAILDROP_LOCK]);
    close(elsewhere);
    unlink(file);
    unlink(inside);
    rmdir(folder);
    test_drop_remove(&drop);
    return 0;
}

/* SQLite has a granted file once at a time, and does it no harm. */
static void test_granted(void **state)
{
    const uid_t owner = geteuid() == 0 ? 1 : geteuid();
    struct stat status, before;
    char text[10];
    int fd;

    (void)state;
    assert_int_equal(fstat(fds[MAILDROP_DB], &before), 0);
    assert_int_equal(OPEN(granted, O_RDWR, 0), fds[MAILDROP_DB]);
    assert_fails(OPEN(granted, O_RDWR, 0), EACCES);
    assert_int_equal(CLOSE(fds[MAILDROP_DB]), 0);
    assert_int_equal(OPEN(granted, O_RDWR, 0), fds[MAILDROP_DB]);
    assert_int_equal(ACCESS(granted, F_OK), 0);
    assert_int_equal(STAT(granted, &status), 0);
    assert_int_equal(status.st_ino, before.st_ino);
    assert_int_equal(LSTAT(granted, &status), 0);
    assert_int_equal(status.st_ino, before.st_ino);
    assert_fails(UNLINK(granted), EACCES);
    assert_fails(MKDIR(granted, 0700), EACCES);
    assert_fails(RMDIR(granted), EACCES);
    assert_fails(READLINK(granted, text, sizeof(text)), EINVAL);
    assert_int_equal(OPEN_DIRECTORY(granted, &fd), SQLITE_CANTOPEN);
    assert_int_equal(FCHMOD(fds[MAILDROP_DB], 0), 0);
    assert_int_equal(FCHOWN(fds[MAILDROP_DB], owner, 0), 0);
    assert_int_equal(fstat(fds[MAILDROP_DB], &status), 0);
    assert_int_equal(status.st_mode, before.st_mode);
    assert_int_equal(status.st_uid, before.st_uid);
    assert_int_equal(status.st_nlink, 1);
}

static void test_absent(void **state)
{
    const char *paths[] = {absent, granted};
    struct stat status;

    (void)state;
    for (int i = 0; i < 2; i++) { /* the second when its grant has ended */
        assert_fails(OPEN(paths[i], O_RDWR | O_CREAT, 0600), ENOENT);
        assert_fails(ACCESS(paths[i], F_OK), ENOENT);
        assert_fails(STAT(paths[i], &status), ENOENT);
        assert_fails(LSTAT(paths[i], &status), ENOENT);
        assert_fails(UNLINK(paths[i]), ENOENT);
        assert_int_equal(vfs_file_size(MAILDROP_DB), i == 0 ? (int64_t)maildrop_template_size : -1);
        vfs_revoke();
    }
    assert_false(vfs_unlinked());
    assert_false(vfs_is_as_noted());
    vfs_cut_wal(); /* of no grant */
}

/* poplarctl opens backups and copies by their path. */
static void test_elsewhere(void **state)
{
    struct stat status;
    char text[80];
    int fd;

    (void)state;
    fd = OPEN(file, O_RDWR, 0);
    assert_true(fd >= 0);
    assert_int_equal(FCHMOD(fd, 0640), 0);
    assert_int_equal(fstat(fd, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0640);
    assert_int_equal(FCHOWN(fd, status.st_uid, status.st_gid), 0);
    assert_int_equal(FTRUNCATE(fd, 3), 0);
    assert_int_equal(CLOSE(fd), 0);
    assert_int_equal(fcntl(fd, F_GETFD, NULL), -1);
    assert_int_equal(ACCESS(file, F_OK), 0);
    assert_int_equal(STAT(inside, &status), 0);
    assert_true(S_ISREG(status.st_mode));
    assert_int_equal(status.st_size, 3);
    assert_int_equal(LSTAT(inside, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    assert_int_equal(READLINK(inside, text, sizeof(text)), 4);
    assert_non_null(GETCWD(text, sizeof(text)));
    assert_int_equal(text[0], '/');
    assert_int_equal(OPEN_DIRECTORY(file, &fd), SQLITE_OK);
    close(fd);
    assert_int_equal(UNLINK(inside), 0);
    assert_int_equal(UNLINK(file), 0);
    assert_int_equal(RMDIR(folder), 0);
    assert_int_equal(MKDIR(folder, 0700), 0);
    assert_int_equal(GETEUID(), geteuid());
}

/* A worker is killed for most of these calls: they do not get that far. */
static void try_as_a_worker(void)
{
    sqlite3_vfs *ours = sqlite3_vfs_find(VFS_NAME);
    struct stat status;
    char text[80];
    int fd;

    assert_int_equal(vfs_install(true), STORE_OK);
    assert_int_equal(vfs_install(false), STORE_OK); /* which takes nothing back */
    assert_fails(OPEN(file, O_RDWR, 0), EACCES);
    assert_fails(ACCESS(file, F_OK), ENOENT);
    assert_fails(STAT(file, &status), ENOENT);
    assert_fails(LSTAT(inside, &status), ENOENT);
    assert_fails(UNLINK(file), EACCES);
    assert_fails(RMDIR(folder), EACCES);
    assert_fails(MKDIR(file, 0700), EACCES);
    assert_fails(READLINK(inside, text, sizeof(text)), EINVAL);
    assert_int_equal(OPEN_DIRECTORY(file, &fd), SQLITE_CANTOPEN);
    errno = 0;
    assert_null(GETCWD(text, sizeof(text)));
    assert_int_equal(errno, EACCES);
    assert_fails(FCHMOD(elsewhere, 0777), EACCES);
    assert_fails(FCHOWN(elsewhere, 1, 1), EACCES);
    assert_int_equal(GETEUID(), 1);
    assert_int_equal(ours->xFullPathname(ours, file, sizeof(text), text), SQLITE_CANTOPEN);
    assert_int_equal(ours->xFullPathname(ours, granted, sizeof(text), text), SQLITE_OK);
    assert_string_equal(text, granted);
    assert_int_equal(OPEN(granted, O_RDWR, 0), fds[MAILDROP_DB]);
}

static void test_worker(void **state)
{
    int status;
    const pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        try_as_a_worker();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(access(file, F_OK), 0);
}

static void test_full_paths(void **state)
{
    sqlite3_vfs *ours = sqlite3_vfs_find(VFS_NAME);
    char text[200];

    (void)state;
    assert_int_equal(ours->xFullPathname(ours, granted, (int)sizeof(granted), text), SQLITE_OK);
    assert_int_equal(ours->xFullPathname(ours, granted, (int)sizeof(granted) - 1, text),
                     SQLITE_CANTOPEN);
    assert_int_equal(ours->xFullPathname(ours, file, sizeof(text), text), SQLITE_OK);
    assert_string_equal(text, file);
}

/* All octets are the system's, however few it gives at a time, or none are promised. */
static void test_randomness(void **state)
{
    sqlite3_vfs *ours = sqlite3_vfs_find(VFS_NAME);
    char octets[64];

    (void)state;
    wrong_random.error = EINTR;
    wrong_random.times = 2;
    assert_int_equal(ours->xRandomness(ours, sizeof(octets), octets), sizeof(octets));
    assert_int_equal(wrong_random.times, 0);
    wrong_random.error = ENOSYS;
    wrong_random.times = 1;
    assert_int_equal(ours->xRandomness(ours, sizeof(octets), octets), 0);
}

static void fill(enum maildrop_file which, size_t size)
{
    char *octets = malloc(size);

    memset(octets, 'x', size);
    assert_int_equal(ftruncate(fds[which], 0), 0);
    assert_int_equal(pwrite(fds[which], octets, size, 0), size);
    free(octets);
}

/* Put the file in again for reading only. */
static void make_read_only(enum maildrop_file which)
{
    char path[80];
    int fd;

    test_drop_path(&drop, which, path);
    fd = open(path, O_RDONLY);
    assert_int_equal(dup2(fd, fds[which]), fds[which]);
    close(fd);
}

/* What the first opener makes of -shm beside a WAL that nobody vouches for: one region of zeros, or
 * what is left of less. */
static void test_shm_is_cleared(void **state)
{
    char octets[REGION], zeros[REGION] = {0};

    (void)state;
    fill(MAILDROP_WAL, 10000);
    for (int larger = 0; larger < 2; larger++) {
        fill(MAILDROP_SHM, larger ? REGION * 2 : REGION);
        assert_int_equal(FTRUNCATE(fds[MAILDROP_SHM], 3), 0);
        assert_int_equal(vfs_file_size(MAILDROP_SHM), REGION);
        assert_int_equal(pread(fds[MAILDROP_SHM], octets, REGION, 0), REGION);
        assert_memory_equal(octets, zeros, REGION);
    }
    fill(MAILDROP_SHM, 100);
    assert_int_equal(FTRUNCATE(fds[MAILDROP_SHM], 3), 0);
    assert_int_equal(vfs_file_size(MAILDROP_SHM), 3);
    fill(MAILDROP_SHM, REGION);
    assert_int_equal(FTRUNCATE(fds[MAILDROP_SHM], 100), 0);
    assert_int_equal(vfs_file_size(MAILDROP_SHM), 100);
    for (int larger = 0; larger < 2; larger++) { /* cannot be written: SQLite is told */
        fill(MAILDROP_SHM, larger ? REGION * 2 : REGION);
        make_read_only(MAILDROP_SHM);
        assert_fails(FTRUNCATE(fds[MAILDROP_SHM], 3), EINVAL);
        vfs_revoke();
        test_drop_grant(&drop, fds);
        assert_int_equal(vfs_grant(fds), STORE_OK);
    }
}

/* Write what is there already, until the file's last change has another time. */
static void touch_until(enum maildrop_file which, bool other_second)
{
    struct stat before, now;
    char octet;

    assert_int_equal(fstat(fds[which], &before), 0);
    do {
        lock_sleep(1);
        assert_int_equal(pread(fds[which], &octet, 1, 0), 1);
        assert_int_equal(pwrite(fds[which], &octet, 1, 0), 1);
        assert_int_equal(fstat(fds[which], &now), 0);
    } while (now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
             (other_second || now.st_ctim.tv_nsec == before.st_ctim.tv_nsec));
}

static void test_noted(void **state)
{
    (void)state;
    vfs_note();
    assert_true(vfs_is_as_noted());
    touch_until(MAILDROP_DB, false);
    assert_false(vfs_is_as_noted());
    vfs_note();
    touch_until(MAILDROP_DB, true);
    assert_false(vfs_is_as_noted());
    vfs_note();
    assert_true(vfs_is_as_noted());
    fill(MAILDROP_WAL, 10);
    assert_false(vfs_is_as_noted());
}

/* A number behind which there is no file any more. */
static void test_lost_descriptor(void **state)
{
    (void)state;
    vfs_note();
    assert_true(vfs_is_as_noted());
    close(fds[MAILDROP_WAL]);
    close(fds[MAILDROP_SHM]);
    assert_fails(FTRUNCATE(fds[MAILDROP_SHM], 3), EBADF);
    assert_int_equal(vfs_file_size(MAILDROP_WAL), -1);
    assert_false(vfs_unlinked());
    assert_false(vfs_is_as_noted());
    vfs_note();
    assert_false(vfs_is_as_noted());
}

/* Whether the number is in use. */
static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD, NULL) >= 0;
}

/* Further grants are kept until the first ends, since closing them could drop its locks. Past all
 * reason they are never closed. */
static void test_parked_grants(void **state)
{
    enum { GRANTS = 17, KEPT = 16 };
    int more[GRANTS][MAILDROP_FILES];

    (void)state;
    for (int i = 0; i < GRANTS; i++) {
        test_drop_grant(&drop, more[i]);
        assert_int_equal(vfs_grant(more[i]), STORE_REFUSED);
        assert_true(is_open(more[i][MAILDROP_DB]));
    }
    vfs_revoke();
    assert_false(is_open(fds[MAILDROP_DB]));
    for (int i = 0; i < GRANTS; i++) {
        for (unsigned which = MAILDROP_DB; which < MAILDROP_FILES; which++) {
            assert_int_equal(is_open(more[i][which]), i >= KEPT);
            if (i >= KEPT)
                close(more[i][which]);
        }
        close(more[i][MAILDROP_LOCK]);
    }
}

/* What an index says of a WAL of 10,000 octets, and what is cut off of it. */
static void test_cut_wal(void **state)
{
    static const struct {
        size_t size; /* of the index */
        uint32_t version;
        uint8_t ready;
        uint32_t frames;
        int64_t left;
    } cases[] = {
        {48, WAL_INDEX_VERSION, 1, 2, 32 + 2 * (4096 + 24)},
        {48, WAL_INDEX_VERSION, 1, 0, 0},
        {48, WAL_INDEX_VERSION, 1, 9, 10000},
        {48, WAL_INDEX_VERSION + 1, 1, 0, 10000},
        {48, WAL_INDEX_VERSION, 0, 0, 10000},
        {10, WAL_INDEX_VERSION, 1, 0, 10000},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        unsigned char index[48] = {0};
        const uint16_t page = 4096;

        memcpy(index, &cases[i].version, 4);
        index[12] = cases[i].ready;
        memcpy(index + 14, &page, 2);
        memcpy(index + 16, &cases[i].frames, 4);
        assert_int_equal(ftruncate(fds[MAILDROP_SHM], 0), 0);
        assert_int_equal(pwrite(fds[MAILDROP_SHM], index, cases[i].size, 0), cases[i].size);
        fill(MAILDROP_WAL, 10000);
        vfs_cut_wal();
        assert_int_equal(vfs_file_size(MAILDROP_WAL), cases[i].left);
        if (i == 0) { /* the disk fails once more */
            fill(MAILDROP_WAL, 10000);
            make_read_only(MAILDROP_WAL);
            vfs_cut_wal();
            assert_int_equal(vfs_file_size(MAILDROP_WAL), 10000);
            vfs_revoke();
            close(fds[MAILDROP_LOCK]);
            test_drop_grant(&drop, fds);
            assert_int_equal(vfs_grant(fds), STORE_OK);
        }
    }
}

static void test_peek(void **state)
{
    char octets[16];

    (void)state;
    wrong_read.error = EINTR;
    wrong_read.times = 2;
    assert_int_equal(vfs_peek(octets, sizeof(octets)), sizeof(octets));
    assert_memory_equal(octets, "SQLite format 3", sizeof(octets));
    wrong_read.error = EIO;
    wrong_read.times = 1;
    assert_int_equal(vfs_peek(octets, sizeof(octets)), -1);
}

/* A signal is no refusal; either of the two words for one is; anything else is the disk's. */
static void test_locks(void **state)
{
    const int fd = fds[MAILDROP_LOCK];

    (void)state;
    if (sizeof(long) < 8) /* there the lock's call has another name than the one that fails here */
        skip();
    wrong_lock.error = EINTR;
    wrong_lock.times = 3;
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, 0), STORE_OK);
    assert_int_equal(wrong_lock.times, 0);
    for (int i = 0; i < 2; i++) {
        wrong_lock.error = i ? EACCES : EAGAIN;
        wrong_lock.times = 4;
        assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, lock_clock() + 60000), STORE_OK);
        wrong_lock.times = 1;
        assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, 0), STORE_BUSY);
    }
    wrong_lock.error = ENOLCK;
    wrong_lock.times = 1;
    assert_int_equal(lock_acquire(fd, MAILDROP_LOCK_WRITE, lock_clock() + 60000), STORE_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_granted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_absent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_elsewhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_paths, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_randomness, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shm_is_cleared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_noted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost_descriptor, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parked_grants, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut_wal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_peek, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_locks, set_up, tear_down),
    };

    if (maildrop_library_init(false) != STORE_OK)
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
