/*
 * local.c - unix sockets, for mail and for poplarctl: made where they are to be, and whose process
 * is at the other end. Runs in the master, as root. Nothing is read from one here.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char *remedy(int error)
{
    switch (error) {
    case ENOENT:
        return "make the directory it is in, or name another path";
    case EACCES:
    case EPERM:
    case EROFS:
        return "poplard must be able to write there, or name another path";
    case ENOSPC:
    case EDQUOT:
        return "make room there, or name another path";
    default:
        return "name another path";
    }
}

static void make_directory(const char *path)
{
    char *copy = base_strdup(path);
    mkdir(dirname(copy), 0755); /* bind() says what is wrong with it */
    free(copy);
}

/* Remove a socket that nobody serves any more; false, errno and words when something else is there.
 */
static bool clear_place(const struct sockaddr_un *address, int type, char *why, size_t size)
{
    struct stat st;
    if (lstat(address->sun_path, &st) < 0)
        return true; /* bind() says why, if there is a reason */
    if (!S_ISSOCK(st.st_mode)) {
        errno = EEXIST;
        return base_refuse(why, size,
                           "there is a file that is no socket; remove it, or name another path");
    }
    int probe = socket(AF_UNIX, type, 0);
    if (probe < 0) /* then nobody knows whether it is served */
        return base_refuse(why, size, "%s", strerror(errno));
    bool served = connect(probe, (const struct sockaddr *)address, sizeof *address) == 0 ||
                  errno == EAGAIN || errno == EPROTOTYPE;
    base_close(probe);
    if (!served) {
        unlink(address->sun_path);
        return true;
    }
    errno = EADDRINUSE;
    return base_refuse(why, size,
                       "another server holds this socket: stop it, or name another path");
}

/* The mode is set before there is a name: the directory may be somebody else's, and what has the
 * name a moment later may be another file. */
static int bind_with_mode(const struct sockaddr_un *address, int type, mode_t mode)
{
    int fd = socket(AF_UNIX, type, 0);
    if (fd < 0)
        return -1;
    mode_t before = umask(0);
    bool bound = fchmod(fd, mode) == 0 &&
                 bind(fd, (const struct sockaddr *)address, sizeof *address) == 0 &&
                 listen(fd, SOMAXCONN) == 0;
    umask(before);
    if (bound)
        return fd;
    base_close(fd);
    return -1;
}

int local_bind(const char *path, int type, mode_t mode, char *why, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    type |= SOCK_NONBLOCK | SOCK_CLOEXEC;
    if (!base_copy(address.sun_path, sizeof address.sun_path, path)) {
        snprintf(why, size,
                 "longer than the %zu octets that the path of a socket may have; name another path",
                 sizeof address.sun_path - 1);
        errno = ENAMETOOLONG;
        return -1;
    }
    make_directory(path);
    if (!clear_place(&address, type, why, size))
        return -1;
    int fd = bind_with_mode(&address, type, mode);
    if (fd < 0)
        snprintf(why, size, "%s; %s", strerror(errno), remedy(errno));
    return fd;
}

uid_t local_peer(int fd)
{
    struct ucred peer = {.uid = (uid_t)-1};
    socklen_t size = sizeof peer;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    return peer.uid;
}
