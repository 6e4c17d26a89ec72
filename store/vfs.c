/*
 * vfs.c - SQLite's own unix file layer, made to work on descriptors that somebody else opened.
 *
 * Runs in a worker, whose sandbox kills it for open(2) or unlink(2), and in poplarctl. In the
 * worker no path may ever reach the kernel from here, not even one that SQLite makes up (a
 * temporary file, a journal, /dev/urandom). It must never close a granted descriptor while SQLite
 * uses the same file: SQLite's POSIX locks would be gone without a word.
 *
 * SQLite keeps one table of system calls per process, so what stands behind it is static too.
 */
#include "store/vfs.h"
#include "store/lock.h"
#include "store/walindex.h"
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PARKED_MAX = 48,
    SHM_REGION = WALINDEX_REGION,
    SHM_CUT = 3 /* what SQLite leaves of one that it does not believe */
};

/* What a path means to us. */
enum meaning { GRANTED, ABSENT, FORBIDDEN, ELSEWHERE };

static struct {
    bool installed, granted_only, live;
    bool expecting; /* a grant: only its database's number is known */
    sqlite3_vfs vfs, *unix_vfs;
    int fds[MAILDROP_FILES];
    bool taken[MAILDROP_FILES]; /* SQLite has it open */
    struct stat noted[MAILDROP_FILES];
    int parked[PARKED_MAX];
    size_t n_parked;
} self;

/* The calls as they were, for paths that are no grants. */
static struct {
    int (*open)(const char *, int, int);
    int (*close)(int);
    int (*access)(const char *, int);
    char *(*getcwd)(char *, size_t);
    int (*stat)(const char *, struct stat *);
    int (*lstat)(const char *, struct stat *);
    int (*unlink)(const char *);
    int (*mkdir)(const char *, mode_t);
    int (*rmdir)(const char *);
    ssize_t (*readlink)(const char *, char *, size_t);
    int (*open_directory)(const char *, int *);
    int (*ftruncate)(int, off_t);
    int (*fchmod)(int, mode_t);
    int (*fchown)(int, uid_t, gid_t);
    uid_t (*geteuid)(void);
} real;

static int fail(int error)
{
    errno = error;
    return -1;
}

/* Which file of the grant a path names. */
static enum meaning meaning_of(const char *path, enum maildrop_file *file)
{
    const size_t folder = strlen(VFS_FOLDER);

    if (strncmp(path, VFS_FOLDER, folder) != 0)
        return self.granted_only ? FORBIDDEN : ELSEWHERE;
    for (unsigned i = MAILDROP_DB; self.live && i < MAILDROP_FILES; i++) {
        if (strcmp(path + folder, maildrop_file_names[i]) == 0) {
            *file = (enum maildrop_file)i;
            return GRANTED;
        }
    }
    return ABSENT;
}

static bool is_granted_fd(int fd)
{
    for (unsigned i = MAILDROP_DB; self.live && i < MAILDROP_FILES; i++) {
        if (self.fds[i] == fd)
            return true;
    }
    return false;
}

/* A descriptor's own name, which the kernel has as a link to what is open there. */
static bool is_descriptor(const char *path)
{
    const size_t before = strlen(VFS_OPENED);

    return strncmp(path, VFS_OPENED, before) == 0 &&
           path[before + strspn(path + before, "0123456789")] == '\0';
}

/* One at a time: two of SQLite's files on one descriptor would undo each other's locks. */
static int call_open(const char *path, int flags, int mode)
{
    enum maildrop_file file = MAILDROP_DB;

    switch (meaning_of(path, &file)) {
    case GRANTED:
        if (self.taken[file])
            return fail(EACCES);
        self.taken[file] = true;
        return self.fds[file];
    case ABSENT:
        return fail(ENOENT);
    case FORBIDDEN:
        return fail(EACCES);
    case ELSEWHERE:
        break;
    }
    return real.open(path, is_descriptor(path) ? flags & ~O_NOFOLLOW : flags, mode);
}

/* SQLite gives up a half-opened -shm while another process sets it up, and opens it again a moment
 * later. So a granted file only seems to close, with what a close would do to its locks. */
static int call_close(int fd)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

    for (unsigned i = MAILDROP_DB; self.live && i < MAILDROP_FILES; i++) {
        if (self.fds[i] == fd) {
            self.taken[i] = false;
            fcntl(fd, F_SETLK, &all);
            return 0;
        }
    }
    return real.close(fd);
}

static int call_access(const char *path, int mode)
{
    enum maildrop_file file;

    switch (meaning_of(path, &file)) {
    case GRANTED:
        return 0;
    case ABSENT:
    case FORBIDDEN:
        return fail(ENOENT);
    case ELSEWHERE:
        break;
    }
    return real.access(path, mode);
}

static char *call_getcwd(char *buffer, size_t size)
{
    if (!self.granted_only)
        return real.getcwd(buffer, size);
    errno = EACCES;
    return NULL;
}

static int stat_by(int (*fallback)(const char *, struct stat *), const char *path,
                   struct stat *status)
{
    enum maildrop_file file = MAILDROP_DB;

    switch (meaning_of(path, &file)) {
    case GRANTED:
        return maildrop_file_stat(self.fds[file], status);
    case ABSENT:
    case FORBIDDEN:
        return fail(ENOENT);
    case ELSEWHERE:
        break;
    }
    return fallback(path, status);
}

static int call_stat(const char *path, struct stat *status)
{
    return stat_by(real.stat, path, status);
}

static int call_lstat(const char *path, struct stat *status)
{
    return stat_by(real.lstat, path, status);
}

/* Files of a maildrop are never unlinked; a missing journal may be "removed". */
static int call_unlink(const char *path)
{
    enum maildrop_file file;

    switch (meaning_of(path, &file)) {
    case ABSENT:
        return fail(ENOENT);
    case GRANTED:
    case FORBIDDEN:
        return fail(EACCES);
    case ELSEWHERE:
        break;
    }
    return real.unlink(path);
}

static int call_mkdir(const char *path, mode_t mode)
{
    enum maildrop_file file;

    return meaning_of(path, &file) == ELSEWHERE ? real.mkdir(path, mode) : fail(EACCES);
}

static int call_rmdir(const char *path)
{
    enum maildrop_file file;

    return meaning_of(path, &file) == ELSEWHERE ? real.rmdir(path) : fail(EACCES);
}

static ssize_t call_readlink(const char *path, char *buffer, size_t size)
{
    enum maildrop_file file;

    return meaning_of(path, &file) == ELSEWHERE ? real.readlink(path, buffer, size) : fail(EINVAL);
}

/* SQLite wants to sync the directory of a file that it believes it made. The opener of the grant
 * did that; CANTOPEN is what SQLite takes for "not needed here". */
static int call_open_directory(const char *path, int *fd)
{
    enum maildrop_file file;

    return meaning_of(path, &file) == ELSEWHERE ? real.open_directory(path, fd) : SQLITE_CANTOPEN;
}

/* The first to open -shm cuts it to three octets, so that nothing of it is believed, and then grows
 * it to SHM_REGION again, one write a page. What that makes is so many zero octets, and they can be
 * had at once, without the file system giving blocks back and taking new ones. */
static bool clear_shm(int fd)
{
    static const char zeros[SHM_REGION];
    struct stat status;

    return maildrop_file_stat(fd, &status) == 0 && status.st_size >= SHM_REGION &&
           (status.st_size == SHM_REGION || real.ftruncate(fd, SHM_REGION) == 0) &&
           pwrite(fd, zeros, sizeof(zeros), 0) == (ssize_t)sizeof(zeros);
}

/* Best is an index that is right: then SQLite has nothing to do. It holds its lock against every
 * other opener just now. */
static bool renew_shm(int fd)
{
    return walindex_make(self.fds[MAILDROP_WAL], fd) || clear_shm(fd);
}

static int call_ftruncate(int fd, off_t size)
{
    if (self.live && self.fds[MAILDROP_SHM] == fd && size == SHM_CUT && renew_shm(fd))
        return 0;
    return real.ftruncate(fd, size);
}

/* Modes and owners of granted files are the opener's business. */
static int call_fchmod(int fd, mode_t mode)
{
    if (is_granted_fd(fd))
        return 0;
    return self.granted_only ? fail(EACCES) : real.fchmod(fd, mode);
}

static int call_fchown(int fd, uid_t owner, gid_t group)
{
    if (is_granted_fd(fd))
        return 0;
    return self.granted_only ? fail(EACCES) : real.fchown(fd, owner, group);
}

/* SQLite asks only whether it is root and should therefore fchown(); it should not. */
static uid_t call_geteuid(void)
{
    return self.granted_only ? 1 : real.geteuid();
}

static int full_path(sqlite3_vfs *vfs, const char *name, int size, char *path)
{
    const size_t length = strlen(name);

    (void)vfs;
    bool opened = !self.granted_only && strncmp(name, VFS_OPENED, strlen(VFS_OPENED)) == 0;
    if (!opened && strncmp(name, VFS_FOLDER, strlen(VFS_FOLDER)) != 0)
        return self.granted_only ? SQLITE_CANTOPEN
                                 : self.unix_vfs->xFullPathname(self.unix_vfs, name, size, path);
    if (length >= (size_t)size)
        return SQLITE_CANTOPEN;
    memcpy(path, name, length + 1);
    return SQLITE_OK;
}

/* SQLite's own would read /dev/urandom, and make do with time and pid where it cannot. */
static int randomness(sqlite3_vfs *vfs, int size, char *octets)
{
    int filled = 0;

    (void)vfs;
    while (filled < size) {
        const ssize_t got = getrandom(octets + filled, (size_t)(size - filled), 0);

        if (got > 0)
            filled += (int)got;
        else if (errno != EINTR)
            break;
    }
    return filled;
}

static int sleep_us(sqlite3_vfs *vfs, int us)
{
    (void)vfs;
    lock_sleep((unsigned)(us + 999) / 1000);
    return us;
}

/* Put one call of ours in the place of SQLite's; NULL if this SQLite has no such call. */
static sqlite3_syscall_ptr replace(const char *name, sqlite3_syscall_ptr ours)
{
    const sqlite3_syscall_ptr theirs = self.unix_vfs->xGetSystemCall(self.unix_vfs, name);

    if (!theirs || self.unix_vfs->xSetSystemCall(self.unix_vfs, name, ours) != SQLITE_OK)
        return NULL;
    return theirs;
}

#define REPLACE(call, name)                                                                        \
    ((real.call = (__typeof__(real.call))replace(name, (sqlite3_syscall_ptr)call_##call)) != NULL)

static bool replace_calls(void)
{
    return REPLACE(open, "open") && REPLACE(close, "close") && REPLACE(access, "access") &&
           REPLACE(getcwd, "getcwd") && REPLACE(stat, "stat") && REPLACE(lstat, "lstat") &&
           REPLACE(unlink, "unlink") && REPLACE(mkdir, "mkdir") && REPLACE(rmdir, "rmdir") &&
           REPLACE(readlink, "readlink") && REPLACE(open_directory, "openDirectory") &&
           REPLACE(ftruncate, "ftruncate") && REPLACE(fchmod, "fchmod") &&
           REPLACE(fchown, "fchown") && REPLACE(geteuid, "geteuid") &&
           replace("fstat", (sqlite3_syscall_ptr)maildrop_file_stat);
}

enum store_outcome vfs_install(bool granted_only)
{
    self.granted_only = self.granted_only || granted_only;
    if (self.installed)
        return STORE_OK;
    self.unix_vfs = sqlite3_vfs_find("unix");
    if (!self.unix_vfs || self.unix_vfs->iVersion < 3 || !replace_calls())
        return STORE_REFUSED;

    self.vfs = *self.unix_vfs;
    self.vfs.pNext = NULL;
    self.vfs.zName = VFS_NAME;
    self.vfs.xFullPathname = full_path;
    self.vfs.xRandomness = randomness;
    self.vfs.xSleep = sleep_us;
    /* As the default, so that SQLite's random generator is seeded through it. */
    if (sqlite3_vfs_register(&self.vfs, 1) != SQLITE_OK)
        return STORE_REFUSED;
    walindex_begin();
    self.installed = true;
    return STORE_OK;
}

static void park(const int files[MAILDROP_FILES])
{
    /* Past the limit they stay open for good: a leak loses nothing, a lost lock loses mail. */
    for (unsigned i = MAILDROP_DB; i < MAILDROP_FILES && self.n_parked < PARKED_MAX; i++)
        self.parked[self.n_parked++] = files[i];
}

enum store_outcome vfs_grant(const int files[MAILDROP_FILES])
{
    if (self.live) {
        park(files);
        return STORE_REFUSED;
    }
    memcpy(self.fds, files, sizeof(self.fds));
    memset(self.taken, 0, sizeof(self.taken));
    self.live = true;
    return STORE_OK;
}

enum store_outcome vfs_expect(int fd)
{
    const int files[MAILDROP_FILES] = {-1, [MAILDROP_DB] = fd, [MAILDROP_WAL] = -1, -1};
    enum store_outcome outcome;

    if (self.expecting)
        self.live = false;
    outcome = vfs_grant(files);
    self.expecting = outcome == STORE_OK;
    return outcome;
}

void vfs_fulfil(const int files[MAILDROP_FILES], bool fits)
{
    if (self.expecting || fits)
        self.live = fits;
    self.expecting = false;
    if (!fits)
        return;
    memcpy(self.fds, files, sizeof(self.fds));
    memset(self.taken, 0, sizeof(self.taken));
    self.taken[MAILDROP_DB] = true;
}

void vfs_revoke(void)
{
    for (unsigned i = MAILDROP_DB; self.live && i < MAILDROP_FILES; i++)
        close(self.fds[i]);
    self.live = self.expecting = false;
    while (self.n_parked > 0)
        close(self.parked[--self.n_parked]);
}

static bool is_unlinked(int fd)
{
    struct stat status;

    return maildrop_file_stat(fd, &status) == 0 && status.st_nlink == 0;
}

bool vfs_unlinked(void)
{
    for (unsigned i = 0; self.live && i < MAILDROP_FILES; i++)
        if (is_unlinked(self.fds[i]))
            return true;
    return false;
}

int64_t vfs_file_size(enum maildrop_file file)
{
    struct stat status;

    return self.live && maildrop_file_stat(self.fds[file], &status) == 0 ? (int64_t)status.st_size
                                                                         : -1;
}

static const enum maildrop_file content[] = {MAILDROP_DB, MAILDROP_WAL};

void vfs_note(void)
{
    for (size_t i = 0; i < sizeof(content) / sizeof(content[0]); i++)
        if (maildrop_file_stat(self.fds[content[i]], &self.noted[content[i]]) < 0)
            self.noted[content[i]].st_size = -1;
}

/* By the time of the last change: that of the content could have been put back. */
bool vfs_is_as_noted(void)
{
    bool same = self.live;

    for (size_t i = 0; same && i < sizeof(content) / sizeof(content[0]); i++) {
        const struct stat *noted = &self.noted[content[i]];
        struct stat now;

        same = maildrop_file_stat(self.fds[content[i]], &now) == 0 &&
               now.st_size == noted->st_size && now.st_ctim.tv_sec == noted->st_ctim.tv_sec &&
               now.st_ctim.tv_nsec == noted->st_ctim.tv_nsec;
    }
    return same;
}

void vfs_cut_wal(void)
{
    const int64_t end = self.live ? walindex_end(self.fds[MAILDROP_SHM]) : -1;

    if (end < 0)
        return; /* nobody knows; the next recovery finds out */
    if (vfs_file_size(MAILDROP_WAL) > end && ftruncate(self.fds[MAILDROP_WAL], end) < 0)
        return; /* as above: the disk has failed, and is not asked again */
}

int64_t vfs_pending(void)
{
    return self.live ? walindex_pending(self.fds[MAILDROP_SHM]) : -1;
}

void vfs_cut_database(int64_t size)
{
    if (size > 0 && vfs_file_size(MAILDROP_DB) > size &&
        ftruncate(self.fds[MAILDROP_DB], (off_t)size) < 0)
        return; /* then the room stays taken */
}

ssize_t vfs_peek(void *buffer, size_t size)
{
    ssize_t got;

    do {
        got = pread(self.fds[MAILDROP_DB], buffer, size, 0);
    } while (got < 0 && errno == EINTR);
    return got;
}
