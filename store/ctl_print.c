/*
 * ctl_print.c - what poplarctl says on stderr, and how it reads and writes files. File names and
 * user names in it are other people's words: nothing reaches a terminal unescaped.
 */
#include "store/ctl.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

static void say(const char *format, va_list arguments) __attribute__((format(printf, 1, 0)));

static void say(const char *format, va_list arguments)
{
    char line[2048], safe[4096];
    vsnprintf(line, sizeof line, format, arguments);
    base_escape(safe, sizeof safe, line);
    fprintf(stderr, "poplarctl: %s\n", safe);
}

void ctl_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
}

int ctl_fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(format, arguments);
    va_end(arguments);
    return status;
}

int ctl_write_failed(const char *path, int error)
{
    return ctl_fail(error == ENOSPC || error == EDQUOT ? EX_TEMPFAIL : EX_CANTCREAT, "%s: %s%s",
                    path, strerror(error), error == EEXIST ? "; name another" : "");
}

bool ctl_is_overdue(const struct ctl *ctl, int64_t received)
{
    const int64_t age = received > 0 ? (int64_t)time(NULL) - received : 0;
    return ctl->config->store.expire_after > 0 && age > 0 &&
           (uint64_t)age > ctl->config->store.expire_after;
}

void ctl_note_overdue(const char *name, uint64_t n)
{
    if (n > 0)
        ctl_note(
            "%s: %ju of them %s older than [store] expire_after, and go%s at the next login; to "
            "keep them, raise it first",
            name, (uintmax_t)n, n == 1 ? "is" : "are", n == 1 ? "es" : "");
}

ssize_t ctl_read(int fd, void *buffer, size_t size)
{
    ssize_t got;
    do
        got = read(fd, buffer, size);
    while (got < 0 && errno == EINTR);
    return got;
}

bool ctl_write_all(int fd, const char *octets, size_t size)
{
    while (size > 0) {
        ssize_t put = write(fd, octets, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return false;
        octets += put;
        size -= (size_t)put;
    }
    return true;
}
