/*
 * ctl_unfinished.c - see ctl_unfinished.h. Runs in poplarctl, usually as root, in a directory that
 * may belong to a user: it is reached once, and below it no link is followed.
 */
#include "store/ctl_unfinished.h"
#include "store/ctl.h"
#include "store/ctl_path.h"
#include "store/lock.h"
#include "store/vfs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* The octet that is locked by who writes it. */
static const enum maildrop_lock_byte writer = MAILDROP_LOCK_SESSION;

/* Remove what an earlier one left behind. False and errno; EAGAIN: somebody is at work on it. */
static bool remove_leftover(int directory, const char *name)
{
    int fd = openat(directory, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool busy = fd >= 0 && lock_acquire(fd, writer, 0) == STORE_BUSY, removed = true;
    bool finished = fd >= 0 && !ctl_path_leads_to(directory, name, fd); /* just now, and renamed */
    if (busy)
        errno = EAGAIN;
    else if (!finished)
        removed = unlinkat(directory, name, 0) == 0 || errno == ENOENT;
    base_close(fd);
    return removed && !busy;
}

/* It is locked for as long as it is open, since two at once would rename each other's; SQLite locks
 * other octets of it. -1 and errno, as above. */
static int make_locked(int directory, const char *name)
{
    const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd;
    do
        fd = openat(directory, name, flags, 0600);
    while (fd < 0 && errno == EEXIST && remove_leftover(directory, name));
    if (fd >= 0 &&
        (lock_acquire(fd, writer, 0) == STORE_BUSY || !ctl_path_leads_to(directory, name, fd))) {
        close(fd); /* another took it for a leftover before it was locked */
        fd = -1;
        errno = EAGAIN;
    }
    return fd;
}

static int cannot_make(const char *path)
{
    int error = errno;
    char *name = base_format("%s.unfinished", path);
    int status = ctl_write_failed(name, error);
    free(name);
    return status;
}

static bool has(int directory, enum maildrop_file file)
{
    return faccessat(directory, maildrop_file_names[file], F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Whether a file is a database, or empty, and no maildrop's own. */
static bool is_backup(int directory, const char *name)
{
    char begin[sizeof VFS_MAGIC];
    if (has(directory, MAILDROP_DB) && has(directory, MAILDROP_LOCK))
        return false;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, begin, sizeof begin);
    base_close(fd);
    return got == 0 || (got == sizeof begin && memcmp(begin, VFS_MAGIC, sizeof begin) == 0);
}

/* Whether the file may have its name. What comes to be there later is met when it gets it. */
static int look_at_name(const struct ctl_unfinished *file)
{
    struct stat about;
    if (fstatat(file->directory, file->last, &about, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (!file->replaces)
        return ctl_write_failed(file->path, EEXIST);
    if (!S_ISREG(about.st_mode)) /* /dev/null, say: its name would lead to a file */
        return ctl_fail(EX_CANTCREAT, "%s: is there, and is no file; name another", file->path);
    return is_backup(file->directory, file->last)
               ? 0
               : ctl_fail(EX_CANTCREAT, "%s: is there, and is no backup; name another", file->path);
}

int ctl_unfinished_make(const char *path, bool replaces, struct ctl_unfinished *made)
{
    struct ctl_unfinished f = {.path = base_strdup(path), .fd = -1, .replaces = replaces};
    f.directory = ctl_path_open_parent(f.path, &f.last);
    f.name = base_format("%s.unfinished", f.last);
    int status = f.directory < 0 ? ctl_fail(EX_CANTCREAT, "%s: %s", path, ctl_path_fault(errno))
                                 : look_at_name(&f);
    if (!status && (f.fd = make_locked(f.directory, f.name)) < 0)
        status = errno == EAGAIN
                     ? ctl_fail(EX_TEMPFAIL, "%s: another poplarctl writes it; try again", path)
                     : cannot_make(path);
    f.opened = base_format("%s%d", VFS_OPENED, f.fd);
    if (!status) {
        *made = f;
        return 0;
    }
    base_close(f.directory);
    free(f.path);
    free(f.name);
    free(f.opened);
    return status;
}

int ctl_unfinished_rename(struct ctl_unfinished *file, const char *suffix)
{
    char *path = base_format("%s%s", file->path, suffix);
    file->last = path + (file->last - file->path);
    free(file->path);
    file->path = path;
    return look_at_name(file);
}

static bool give_name(const struct ctl_unfinished *file)
{
    int directory = file->directory;
    if (file->replaces)
        return renameat(directory, file->name, directory, file->last) == 0;
    if (renameat2(directory, file->name, directory, file->last, RENAME_NOREPLACE) == 0)
        return true;
    /* Not every file system can do that. */
    return errno == EINVAL && linkat(directory, file->name, directory, file->last, 0) == 0 &&
           unlinkat(directory, file->name, 0) == 0;
}

int ctl_unfinished_finish(struct ctl_unfinished *file, const struct timespec *stamp)
{
    const struct timespec keep = {.tv_nsec = UTIME_OMIT};
    const struct timespec times[2] = {keep, stamp ? *stamp : keep};
    if (futimens(file->fd, times) < 0 || fsync(file->fd) < 0 || !give_name(file))
        return ctl_write_failed(file->path, errno);
    free(file->name);
    file->name = NULL;
    return fsync(file->directory) == 0 ? 0 : ctl_write_failed(file->path, errno);
}

void ctl_unfinished_end(struct ctl_unfinished *file)
{
    if (!file->path)
        return;
    if (file->name)
        unlinkat(file->directory, file->name, 0);
    base_close(file->fd);
    base_close(file->directory);
    free(file->name);
    free(file->opened);
    free(file->path);
    *file = (struct ctl_unfinished){0};
}
