/*
 * ctl_unfinished.c - see ctl_unfinished.h. Runs in poplarctl, usually as root, in a directory that
 * may belong to a user: no link is followed.
 */
#include "store/ctl_unfinished.h"
#include "store/ctl.h"
#include "store/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

/* The octet that is locked by who writes it. */
static const enum maildrop_lock_byte writer = MAILDROP_LOCK_SESSION;

static bool is_at(const char *path, int fd)
{
    struct stat named, opened;
    return lstat(path, &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

/* Remove what an earlier one left behind. False and errno, EAGAIN where somebody is at work on it.
 */
static bool remove_leftover(const char *path)
{
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool busy = fd >= 0 && lock_acquire(fd, writer, 0) == STORE_BUSY, removed = true;
    if (busy)
        errno = EAGAIN;
    else if (fd < 0 || is_at(path, fd)) /* else it was just finished, and renamed */
        removed = unlink(path) == 0 || errno == ENOENT;
    base_close(fd);
    return removed && !busy;
}

/* It is locked for as long as it is open, since two at once would rename each other's; SQLite locks
 * other octets of it. -1 and errno, as above. */
static int make_locked(const char *path)
{
    int fd;
    do
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    while (fd < 0 && errno == EEXIST && remove_leftover(path));
    if (fd >= 0 && (lock_acquire(fd, writer, 0) == STORE_BUSY || !is_at(path, fd))) {
        close(fd); /* another took it for a leftover before it was locked */
        fd = -1;
        errno = EAGAIN;
    }
    return fd;
}

int ctl_unfinished_make(const char *path, bool replaces, struct ctl_unfinished *made)
{
    struct stat about;
    int status = 0;
    /* What comes to be there later is met when the file gets its name. */
    if (!replaces && lstat(path, &about) == 0)
        return ctl_write_failed(path, EEXIST);
    char *name = base_format("%s.unfinished", path);
    int fd = make_locked(name);
    if (fd >= 0)
        *made = (struct ctl_unfinished){base_strdup(path), name, fd, replaces};
    else if (errno == EAGAIN)
        status = ctl_fail(EX_TEMPFAIL, "%s: another poplarctl writes it; try again", path);
    else
        status = ctl_write_failed(name, errno);
    if (status)
        free(name);
    return status;
}

static bool give_name(const struct ctl_unfinished *file)
{
    if (file->replaces)
        return rename(file->name, file->path) == 0;
    if (renameat2(AT_FDCWD, file->name, AT_FDCWD, file->path, RENAME_NOREPLACE) == 0)
        return true;
    /* Not every file system can do that. */
    return errno == EINVAL && link(file->name, file->path) == 0 && unlink(file->name) == 0;
}

static bool sync_folder(const char *path)
{
    char *copy = base_strdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool synced = fd >= 0 && fsync(fd) == 0;
    base_close(fd);
    free(copy);
    return synced;
}

int ctl_unfinished_finish(struct ctl_unfinished *file, const struct timespec *stamp)
{
    const struct timespec keep = {.tv_nsec = UTIME_OMIT};
    const struct timespec times[2] = {keep, stamp ? *stamp : keep};
    if (futimens(file->fd, times) < 0 || fsync(file->fd) < 0 || !give_name(file))
        return ctl_write_failed(file->path, errno);
    free(file->name);
    file->name = NULL;
    return sync_folder(file->path) ? 0 : ctl_write_failed(file->path, errno);
}

void ctl_unfinished_end(struct ctl_unfinished *file)
{
    if (!file->path)
        return;
    if (file->name)
        unlink(file->name);
    base_close(file->fd);
    free(file->name);
    free(file->path);
    *file = (struct ctl_unfinished){0};
}
