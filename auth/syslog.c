/*
 * syslog.c - what PAM modules and name services tell the system's log. Runs in poplar-auth, as
 * root, in place of the C library's syslog(3), for all that is loaded into this process.
 *
 * Never waits: the library's own does while the log takes nothing, and as a module tells it of each
 * wrong password, and some of each right one, nobody would log in until it does. What it has no
 * room for is lost; the master has a line of its own for each login that failed.
 */
#undef _FORTIFY_SOURCE /* it has calls of these names as inline functions */
#include "auth/syslog.h"
#include "daemon/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>
#include <time.h>

/* What callers that were compiled with _FORTIFY_SOURCE call. */
/* NOLINTBEGIN(bugprone-reserved-identifier) */
void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments);
void __syslog_chk(int priority, int flag, const char *format, ...);
/* NOLINTEND(bugprone-reserved-identifier) */

static void (*listener)(void *context, const char *text);
static void *listener_context;

void syslog_overhear(void (*hear)(void *context, const char *text), void *context)
{
    listener = hear;
    listener_context = context;
}

/* RFC 3164, as the library writes it. */
void vsyslog(int priority, const char *format, va_list arguments)
{
    int saved = errno;
    char text[2048], when[32] = "";
    const time_t now = time(NULL);
    struct tm local;
    if (!(LOG_MASK(LOG_PRI(priority)) & setlogmask(0)))
        return;
    if (localtime_r(&now, &local))
        strftime(when, sizeof when, "%b %e %T ", &local);
    if ((priority & LOG_FACMASK) == 0)
        priority |= LOG_USER;
    int used =
        snprintf(text, sizeof text, "<%d>%s%s: ", priority, when, program_invocation_short_name);
    errno = saved; /* for %m */
    if (used > 0 && (size_t)used < sizeof text) {
        vsnprintf(text + used, sizeof text - (size_t)used, format, arguments);
        if (listener && LOG_PRI(priority) <= LOG_ERR)
            listener(listener_context, text + used);
    }
    (void)base_tell("/dev/log", text);
    errno = saved;
}

void syslog(int priority, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsyslog(priority, format, arguments);
    va_end(arguments);
}

void __vsyslog_chk(int priority, int flag, const char *format, va_list arguments)
{
    (void)flag;
    vsyslog(priority, format, arguments);
}

void __syslog_chk(int priority, int flag, const char *format, ...)
{
    va_list arguments;
    (void)flag;
    va_start(arguments, format);
    vsyslog(priority, format, arguments);
    va_end(arguments);
}
