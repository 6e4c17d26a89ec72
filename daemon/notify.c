/*
 * notify.c - what systemd is told, as by sd_notify(3). Runs in the master, as root.
 *
 * Never waits: who reads that socket may be busy, or frozen for good, and every service of the
 * machine writes to it. That is why the library's own call, which waits, is not used.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Whoever is not there now is not told later either. */
static bool tell(const char *text)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || !base_copy(address.sun_path, sizeof address.sun_path, path))
        return true;
    size_t size = offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
    if (path[0] == '@') { /* an abstract name, of which every octet counts */
        address.sun_path[0] = '\0';
        size--;
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool told = fd >= 0 && (sendto(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL,
                                   (const struct sockaddr *)&address, (socklen_t)size) >= 0 ||
                            (errno != EAGAIN && errno != ENOBUFS));
    base_close(fd);
    return told;
}

bool notify_now(struct master *m, const char *format, ...)
{
    char text[sizeof m->untold];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return notify_again(m) && tell(text);
}

void notify_state(struct master *m, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(m->untold, sizeof m->untold, format, arguments);
    va_end(arguments);
    notify_again(m);
}

bool notify_again(struct master *m)
{
    if (*m->untold && !tell(m->untold))
        return false;
    m->untold[0] = '\0';
    return true;
}
