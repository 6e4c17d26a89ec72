/*
 * base.c - the floor under all processes: dying, memory, time, randomness, text for logs, and the
 * way to those who never may be waited for.
 * Runs in every process, with whatever privilege that has; touches no file but /dev/null
 * and links that it is asked about.
 */
#include "daemon/base.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>

void fatal(int status, const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    base_make_text(text, strlen(text));
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
    exit(status);
}

void bug(const char *what)
{
    fprintf(stderr, "%s: defect: %s\n", program_invocation_short_name, what);
    abort();
}

int base_status(int error, int usual)
{
    static const int lacks[] = {EAGAIN, EDQUOT, EINTR,  EIO,     EMFILE,
                                ENFILE, ENOMEM, ENOSPC, ENOBUFS, ETOOMANYREFS};
    for (size_t i = 0; i < ARRAY_SIZE(lacks); i++)
        if (error == lacks[i])
            return EX_OSERR;
    return usual;
}

static void *or_die(void *memory)
{
    if (!memory)
        fatal(EX_OSERR, "out of memory");
    return memory;
}

void *base_alloc(size_t size)
{
    return or_die(calloc(1, size ? size : 1));
}

void *base_realloc(void *memory, size_t size)
{
    return or_die(realloc(memory, size));
}

void *base_grow(void *items, size_t n, size_t item_size)
{
    bool full = (n & (n - 1)) == 0; /* it doubles */
    return full ? base_realloc(items, (n ? 2 * n : 1) * item_size) : items;
}

char *base_strdup(const char *text)
{
    return or_die(strdup(text));
}

char *base_format(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return or_die(length < 0 ? NULL : text);
}

void base_close(int fd)
{
    int saved = errno;
    if (fd >= 0)
        close(fd);
    errno = saved;
}

void base_hold_standard(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 &&
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd)
            fatal(EX_OSERR, "/dev/null: %s", strerror(errno));
}

int base_printed(int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    fprintf(stderr, "%s: standard output: %s\n", program_invocation_short_name,
            strerror(errno ? errno : EIO));
    return EX_IOERR;
}

bool base_stderr_has_room(void)
{
    struct pollfd poller = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&poller, 1, 0) != 0;
}

uint64_t base_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

uint64_t base_now_ms(void)
{
    return base_now_us() / 1000;
}

void base_random(void *octets, size_t size)
{
    unsigned char *at = octets;
    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0 && errno != EINTR)
            fatal(EX_OSERR, "getrandom: %s", strerror(errno));
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        }
    }
}

bool base_copy(char *to, size_t size, const char *text)
{
    size_t length = strnlen(text, size);
    bool whole = length < size;
    if (!whole)
        length = size - 1;
    memcpy(to, text, length);
    to[length] = '\0';
    return whole;
}

bool base_refuse(char *error, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, size, format, arguments);
    va_end(arguments);
    return false;
}

const char *base_unseen(const char *path)
{
    static const char *const hidden[] = {"/root/", "/home/", "/run/user/", "/tmp/", "/var/tmp/"};
    char end[sizeof "/run/user/"] = "";
    int why = errno;
    if (readlink(path, end, sizeof end - 1) > 0)
        path = end;
    errno = why;
    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++)
        if (strncmp(path, hidden[i], strlen(hidden[i])) == 0)
            return " (if it is there: poplar.service sees nothing of /root, /home and /tmp)";
    return "";
}

const char *base_plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

size_t base_character(const char *text, size_t size)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *at = (const unsigned char *)text;
    if (at[0] < 0x80)
        return at[0] >= 0x20 && at[0] != 0x7f;
    size_t length = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || length > size)
        return 0;
    uint32_t code = at[0] & (0x7fU >> length);
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (at[i] & 0x3f);
    }
    bool good = code >= smallest[length] && code >= 0xa0 && code <= 0x10ffff &&
                !(code >= 0xd800 && code <= 0xdfff);
    return good ? length : 0;
}

void base_make_text(char *text, size_t size)
{
    for (size_t at = 0; at < size; at++) {
        size_t length = base_character(text + at, size - at);
        if (length == 0)
            text[at] = '?';
        else
            at += length - 1;
    }
}

void base_escape(char *to, size_t size, const char *text)
{
    const char *end = text + strlen(text);
    size_t used = 0;
    while (*text) {
        char piece[5];
        size_t taken = base_character(text, (size_t)(end - text)), length = taken;
        if (taken == 0)
            length = (size_t)snprintf(piece, sizeof piece, "\\x%02x", (unsigned char)*text);
        else if (*text == '\\')
            memcpy(piece, "\\\\", length = 2);
        else
            memcpy(piece, text, taken);
        if (used + length >= size)
            break;
        memcpy(to + used, piece, length);
        used += length;
        text += taken ? taken : 1;
    }
    to[used] = '\0';
}

void base_quote(char *to, size_t size, const char *text)
{
    size_t used = 0;
    to[used++] = '"';
    for (; *text && used + (*text == '"') + 3 <= size; text++) {
        to[used++] = *text;
        if (*text == '"')
            to[used++] = '"';
    }
    to[used++] = '"';
    to[used] = '\0';
}

void base_value(char *to, size_t size, const char *text)
{
    if (!*text)
        base_copy(to, size, "-");
    else if (text[strcspn(text, *text == '<' ? " \"" : " \"=")] || strcmp(text, "-") == 0)
        base_quote(to, size, text);
    else
        base_copy(to, size, text);
}

bool base_tell(const char *path, const char *text)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!base_copy(address.sun_path, sizeof address.sun_path, path))
        return true;
    size_t size = offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
    if (path[0] == '@') { /* of such a name every octet counts */
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
