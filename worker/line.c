/*
 * line.c - assembles and cuts command lines. Runs in a worker, inside its sandbox, on octets from
 * anybody: all arithmetic on them is here and in wire.c.
 */
#include "worker/line.h"
#include "daemon/base.h"
#include "daemon/proto.h"

#include <string.h>

unsigned char *line_space(struct line_input *in, size_t *size)
{
    line_release(in);
    size_t held = in->end - in->start;
    if (in->start > 0) {
        memmove(in->octets, in->octets + in->start, held);
        explicit_bzero(in->octets + held, in->end - held);
        in->start = 0;
        in->end = held;
    }
    *size = sizeof in->octets - held;
    if (*size > LINE_READ_SIZE)
        *size = LINE_READ_SIZE;
    return in->octets + held;
}

void line_added(struct line_input *in, size_t size)
{
    in->end += size;
}

/* Wipe octets from the start on and go past them. */
static void drop(struct line_input *in, size_t size)
{
    explicit_bzero(in->octets + in->start, size);
    in->start += size;
    in->scanned = 0;
    if (in->start == in->end)
        in->start = in->end = 0;
}

void line_release(struct line_input *in)
{
    drop(in, in->given);
    in->given = 0;
}

void line_discard(struct line_input *in)
{
    /* All that is behind the end was wiped, or was never used. */
    explicit_bzero(in->octets, in->end);
    memset(in, 0, offsetof(struct line_input, octets));
}

const unsigned char *line_held(const struct line_input *in, size_t *size)
{
    *size = in->end - in->start - in->given;
    return in->octets + in->start + in->given;
}

void line_take(struct line_input *in, size_t size)
{
    line_release(in);
    drop(in, size);
}

/* Octets up to and with the first LF; 0 if there is none yet. */
static size_t find_end(struct line_input *in)
{
    const unsigned char *from = in->octets + in->start;
    size_t held = in->end - in->start;
    const unsigned char *end = memchr(from + in->scanned, '\n', held - in->scanned);
    if (!end)
        in->scanned = held;
    return end ? (size_t)(end - from) + 1 : 0;
}

static enum line_outcome go_on_dropping(struct line_input *in, size_t size)
{
    size_t held = in->end - in->start;
    if (size == 0) {
        in->dropped += held;
        drop(in, held);
        return in->dropped > LINE_ENDLESS_SIZE ? LINE_ENDLESS : LINE_MORE;
    }
    drop(in, size);
    in->dropping = false;
    in->dropped = 0;
    return LINE_TOO_LONG;
}

enum line_outcome line_next(struct line_input *in, line_limit *limit, const void *context,
                            struct line *line)
{
    line_release(in);
    size_t size = find_end(in);
    size_t held = in->end - in->start;
    char *text = (char *)in->octets + in->start;
    if (!in->dropping && (size ? size : held) > limit(context, text, held))
        in->dropping = true;
    if (in->dropping)
        return go_on_dropping(in, size);
    if (size == 0)
        return LINE_MORE;
    in->given = size;
    size--;
    if (size > 0 && text[size - 1] == '\r')
        size--;
    text[size] = '\0';
    *line = (struct line){text, size};
    return LINE_OK;
}

bool line_is_ascii(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] >= 0x80)
            return false;
    return true;
}

bool line_is_text(const char *text, size_t size)
{
    for (size_t at = 0, length; at < size; at += length) {
        length = base_character(text + at, size - at);
        if (length == 0)
            return false;
    }
    return true;
}

bool line_is_user(const char *name, size_t size)
{
    return size > 0 && size <= PROTO_USER_MAX && line_is_text(name, size) &&
           !memchr(name, '/', size) && !(size == 1 && name[0] == '.') &&
           !(size == 2 && name[0] == '.' && name[1] == '.');
}

bool line_is_password(const char *secret, size_t size)
{
    return size > 0 && size <= PROTO_PASSWORD_MAX && !memchr(secret, '\0', size) &&
           !memchr(secret, '\r', size) && !memchr(secret, '\n', size);
}

size_t line_word(const char *text, size_t size)
{
    const char *blank = memchr(text, ' ', size);
    return blank ? (size_t)(blank - text) : size;
}

size_t line_split(char *text, const char **words, size_t max)
{
    size_t n = 0;
    for (;;) {
        text += strspn(text, " ");
        if (*text == '\0')
            return n;
        if (n == max)
            return max + 1;
        words[n++] = text;
        text += strcspn(text, " ");
        if (*text)
            *text++ = '\0';
    }
}

bool line_number(const char *text, uint64_t *value)
{
    uint64_t number = 0;
    if (*text == '\0')
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        if (__builtin_mul_overflow(number, 10U, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number)) {
            /* Once too large, always: the rest must still be digits. */
            if (text[strspn(text, "0123456789")] != '\0')
                return false;
            number = UINT64_MAX;
            break;
        }
    }
    *value = number;
    return true;
}
