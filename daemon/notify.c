/*
 * notify.c - what systemd is told, as by sd_notify(3). Runs in the master, as root.
 *
 * Never waits: who reads that socket may be busy, or frozen for good, and every service of the
 * machine writes to it. That is why the library's own call, which waits, is not used.
 */
#include "daemon/base.h"
#include "daemon/master.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whoever is not there now is not told later either. */
static bool tell(const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    return !path || base_tell(path, text);
}

/* False: there is still no room. */
static bool tell_kept(struct master *m)
{
    if (*m->untold && !tell(m->untold))
        return false;
    m->untold[0] = '\0';
    return true;
}

bool notify_now(struct master *m, const char *format, ...)
{
    char text[sizeof m->untold];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return tell_kept(m) && tell(text);
}

void notify_state(struct master *m, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(m->untold, sizeof m->untold, format, arguments);
    va_end(arguments);
    char *status = strstr(m->untold, "STATUS="); /* the last line; not UTF-8, it is dropped */
    if (status)
        base_make_text(status, strlen(status));
    tell_kept(m);
}
