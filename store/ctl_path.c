/*
 * ctl_path.c - see ctl_path.h. Runs in poplarctl, with the caller's privilege. Each name is opened
 * beneath the directory that was opened before it: what is renamed meanwhile changes nothing.
 */
#include "store/ctl_path.h"
#include "daemon/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { LINKS_MAX = 40, MODE_OF_DIRECTORY = 0700 };

struct walk {
    int at;     /* the directory reached */
    char *rest; /* what follows */
    char *name; /* the first of it; then `rest` is what follows that */
    int links;
};

static void move(struct walk *w, int fd)
{
    base_close(w->at);
    w->at = fd;
}

/* Cut the next name off. False: there is none. */
static bool next_name(struct walk *w)
{
    char *from = w->rest + strspn(w->rest, "/");
    size_t length = strcspn(from, "/");
    free(w->name);
    w->name = base_format("%.*s", (int)length, from);
    char *rest = base_strdup(from + length);
    free(w->rest);
    w->rest = rest;
    return length > 0;
}

static bool is_last(const struct walk *w)
{
    return w->rest[strspn(w->rest, "/")] == '\0';
}

/* What is behind a link of the kernel's own has no path. */
static bool is_magic(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

/* Go on where a link leads, if its owner may say that. */
static bool follow(struct walk *w, int link, uid_t owner)
{
    char target[PATH_MAX];
    ssize_t length = -1;
    if ((owner != 0 && owner != geteuid()) || w->links++ == LINKS_MAX)
        errno = ELOOP;
    else
        length = readlinkat(link, "", target, sizeof target - 1);
    if (length <= 0)
        return false;
    target[length] = '\0';
    if (target[0] == '/')
        move(w, open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    char *rest = base_format("%s/%s", target, w->rest);
    if (is_last(w)) /* a slash at its end would want a directory */
        rest[strlen(target)] = '\0';
    free(w->rest);
    w->rest = rest;
    return w->at >= 0;
}

/* What the last name is, and no link. */
static int open_last(const struct walk *w, int flags)
{
    const char *name = *w->name ? w->name : ".";
    if (flags & O_CREAT) {
        flags &= ~O_CREAT;
        if (mkdirat(w->at, name, MODE_OF_DIRECTORY) < 0 && errno != EEXIST)
            return -1;
    }
    return openat(w->at, name, flags | O_NOFOLLOW | O_CLOEXEC);
}

/* One name further: 1, at the end with `opened`: 0, or -1 and errno. */
static int step(struct walk *w, int flags, int *opened)
{
    struct stat about;
    bool more = next_name(w), last = is_last(w);
    if (!more) {
        *opened = open_last(w, flags);
        return *opened < 0 ? -1 : 0;
    }
    int fd = openat(w->at, w->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && last && flags & O_CREAT) {
        *opened = open_last(w, flags);
        return *opened < 0 ? -1 : 0;
    }
    if (fd < 0 || fstat(fd, &about) < 0) {
        base_close(fd);
        return -1;
    }
    int result = 1;
    bool magic = S_ISLNK(about.st_mode) && about.st_uid == geteuid() && is_magic(fd);
    if (S_ISLNK(about.st_mode) && !magic) {
        result = follow(w, fd, about.st_uid) ? 1 : -1;
    } else if (last) {
        *opened = magic ? openat(w->at, w->name, flags | O_CLOEXEC) : open_last(w, flags);
        result = *opened < 0 ? -1 : 0;
    } else {
        move(w,
             openat(w->at, w->name, O_PATH | O_DIRECTORY | O_CLOEXEC | (magic ? 0 : O_NOFOLLOW)));
        result = w->at < 0 ? -1 : 1;
    }
    base_close(fd);
    return result;
}

int ctl_path_open(const char *path, int flags)
{
    struct walk w = {.rest = base_strdup(path)};
    int result = 1, opened = -1;
    w.at = open(*path == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!*path) {
        errno = ENOENT;
        result = -1;
    }
    while (w.at >= 0 && result > 0)
        result = step(&w, flags, &opened);
    int error = errno;
    base_close(w.at);
    free(w.rest);
    free(w.name);
    errno = error;
    return opened;
}

int ctl_path_open_parent(const char *path, const char **name)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    char *parent = slash ? base_format("%.*s/", (int)(slash - path), path) : base_strdup(".");
    int fd = ctl_path_open(parent, O_RDONLY | O_DIRECTORY);
    int error = errno;
    free(parent);
    errno = error;
    return fd;
}

bool ctl_path_leads_to(int directory, const char *name, int fd)
{
    struct stat named, opened;
    return fstatat(directory, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &opened) == 0 &&
           named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

DIR *ctl_path_list(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (!stream)
        base_close(fd);
    return stream;
}

const char *ctl_path_fault(int error)
{
    return error == ELOOP ? "a symbolic link of a user's is on the way; name the real path"
                          : strerror(error);
}
