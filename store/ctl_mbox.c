/*
 * ctl_mbox.c - the mbox reader of poplarctl import. Reads what users and other programs wrote:
 * any octets may come, lines of any length, cut off anywhere.
 */
#include "store/ctl_mbox.h"
#include "daemon/base.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum {
    FROM_SIZE = 5,                 /* "From " */
    LOOK_AHEAD = 7,                /* "\r\nFrom ": what decides whether a message ends here */
    EPOCH_DAY = 86400,             /* the epoch of any zone is before its end */
    FROM_LINE_MAX = 255,           /* octets of a From line that are searched for a date */
    FROM_LINE = 2 + FROM_LINE_MAX, /* with an empty line before it */
    LENGTH_FIELD = sizeof "Content-Length: 18446744073709551615\r\n",
};

enum { BEFORE_FROM, LINE_BEGIN, IN_LINE };

void ctl_mbox_init(struct ctl_mbox *mbox, maildrop_source *source, ctl_mbox_look *look,
                   void *context)
{
    *mbox =
        (struct ctl_mbox){.source = source, .look = look, .context = context, .state = BEFORE_FROM};
    mbox->data = base_alloc(CTL_MBOX_BUFFER);
}

void ctl_mbox_free(struct ctl_mbox *mbox)
{
    free(mbox->data);
    mbox->data = NULL;
}

static void begin_message(struct ctl_mbox *mbox)
{
    mbox->quotes = 0;
    mbox->state = LINE_BEGIN;
    mbox->in_header = true;
    mbox->length = mbox->body_end = 0;
}

void ctl_mbox_rewind(struct ctl_mbox *mbox, uint64_t position)
{
    mbox->start = mbox->end = 0;
    mbox->ended = false;
    mbox->position = position;
    begin_message(mbox);
}

static size_t available(const struct ctl_mbox *mbox)
{
    return mbox->end - mbox->start;
}

static void use(struct ctl_mbox *mbox, size_t octets)
{
    mbox->start += octets;
    mbox->position += octets;
}

/* Have at least `want` octets in the buffer, or all there are. False if the source failed. */
static bool fill(struct ctl_mbox *mbox, size_t want)
{
    if (available(mbox) >= want || mbox->ended)
        return true;
    memmove(mbox->data, mbox->data + mbox->start, available(mbox));
    mbox->end -= mbox->start;
    mbox->start = 0;
    while (mbox->end < want) {
        ssize_t got =
            mbox->source(mbox->context, mbox->data + mbox->end, CTL_MBOX_BUFFER - mbox->end);
        if (got < 0)
            return false;
        if (got == 0) {
            mbox->ended = true;
            return true;
        }
        mbox->end += (size_t)got;
    }
    return true;
}

static bool is_from(const unsigned char *at, size_t size)
{
    return size >= FROM_SIZE && memcmp(at, "From ", FROM_SIZE) == 0;
}

/* The same, and it begins a message. */
static bool is_separator(const struct ctl_mbox *mbox, const unsigned char *at, size_t size)
{
    char line[FROM_LINE_MAX + 1];
    int64_t seconds;
    if (!is_from(at, size) || !mbox->dated)
        return is_from(at, size);
    const unsigned char *end = memchr(at, '\n', size);
    size_t length = end ? (size_t)(end - at) : size;
    if (length > FROM_LINE_MAX)
        length = FROM_LINE_MAX;
    memcpy(line, at, length);
    line[length] = '\0';
    return ctl_mbox_date(line, &seconds);
}

/* Octets of the empty line that begins here, 0 if the line is not empty. */
static size_t empty_line(const unsigned char *at, size_t size)
{
    if (size >= 1 && at[0] == '\n')
        return 1;
    return size >= 2 && at[0] == '\r' && at[1] == '\n' ? 2 : 0;
}

/* Whether the body that begins here ends where Content-Length says: after a line, and before a
 * separator or the end. False if the source failed. */
static bool look_at_end(struct ctl_mbox *mbox, uint64_t end)
{
    unsigned char octets[1 + FROM_LINE];
    ssize_t got = mbox->look(mbox->context, end - 1, octets, sizeof octets);
    if (got < 0)
        return false;
    if (got == 0 || octets[0] != '\n')
        return true;
    size_t size = (size_t)got - 1, empty = empty_line(octets + 1, size);
    if (size == empty || is_separator(mbox, octets + 1 + empty, size - empty))
        mbox->body_end = end;
    return true;
}

/* At the beginning of a header line: take note of a Content-Length, and of the header's end. */
static bool look_at_field(struct ctl_mbox *mbox, size_t empty)
{
    static const char name[] = "Content-Length:";
    char value[LENGTH_FIELD];
    if (empty) {
        uint64_t body = mbox->position + empty;
        mbox->in_header = false;
        if (mbox->length == 0 || mbox->length >= INT64_MAX - body || !mbox->look)
            return true;
        return look_at_end(mbox, body + mbox->length);
    }
    if (!fill(mbox, LENGTH_FIELD))
        return false;
    size_t size = available(mbox) < LENGTH_FIELD ? available(mbox) : LENGTH_FIELD - 1;
    memcpy(value, mbox->data + mbox->start, size);
    value[size] = '\0';
    if (strncasecmp(value, name, strlen(name)) == 0)
        mbox->length = strtoull(value + strlen(name), NULL, 10);
    return true;
}

/* Count the '>' that begin a line; before "From " one of them is the format's. */
static bool count_quotes(struct ctl_mbox *mbox)
{
    do {
        if (!fill(mbox, 1))
            return false;
        while (available(mbox) > 0 && mbox->data[mbox->start] == '>') {
            use(mbox, 1);
            mbox->quotes++;
        }
    } while (available(mbox) == 0 && !mbox->ended);
    if (!fill(mbox, FROM_SIZE))
        return false;
    if (is_from(mbox->data + mbox->start, available(mbox)))
        mbox->quotes--;
    return true;
}

/* At the beginning of a line: does the message end here, and if not, what is special about it? */
static bool begin_line(struct ctl_mbox *mbox)
{
    if (!fill(mbox, LOOK_AHEAD))
        return false;
    size_t empty = empty_line(mbox->data + mbox->start, available(mbox));
    bool from = empty && is_from(mbox->data + mbox->start + empty, available(mbox) - empty);
    if (mbox->in_header && !look_at_field(mbox, empty))
        return false;
    if (from && !fill(mbox, FROM_LINE))
        return false;
    const unsigned char *at = mbox->data + mbox->start;
    bool last = available(mbox) == empty; /* also when nothing is left at all */
    if (!mbox->body_end &&
        (last || (from && is_separator(mbox, at + empty, available(mbox) - empty)))) {
        use(mbox, empty);
        mbox->state = BEFORE_FROM;
        return true;
    }
    mbox->state = IN_LINE;
    return mbox->keep_quotes || at[0] != '>' || count_quotes(mbox);
}

/* In a body whose length is known: nothing means anything before its end. */
static size_t give_body(struct ctl_mbox *mbox, unsigned char *to, size_t size)
{
    uint64_t left = mbox->body_end - mbox->position;
    size_t n = available(mbox) < size ? available(mbox) : size;
    n = n < left ? n : (size_t)left;
    memcpy(to, mbox->data + mbox->start, n);
    use(mbox, n);
    return n;
}

/* After such a body. */
static bool end_body(struct ctl_mbox *mbox)
{
    if (!fill(mbox, LOOK_AHEAD))
        return false;
    use(mbox, empty_line(mbox->data + mbox->start, available(mbox)));
    mbox->state = BEFORE_FROM;
    return true;
}

static size_t give_quotes(struct ctl_mbox *mbox, unsigned char *to, size_t size)
{
    size_t n = mbox->quotes < size ? (size_t)mbox->quotes : size;
    memset(to, '>', n);
    mbox->quotes -= n;
    return n;
}

/* What is in the buffer, up to the end of the line. */
static size_t give_line(struct ctl_mbox *mbox, unsigned char *to, size_t size)
{
    const unsigned char *from = mbox->data + mbox->start;
    size_t n = available(mbox) < size ? available(mbox) : size;
    const unsigned char *newline = memchr(from, '\n', n);
    if (newline) {
        n = (size_t)(newline - from) + 1;
        mbox->state = LINE_BEGIN;
    }
    memcpy(to, from, n);
    use(mbox, n);
    return n;
}

ssize_t ctl_mbox_read(struct ctl_mbox *mbox, void *buffer, size_t size)
{
    unsigned char *to = buffer;
    size_t put = 0;
    while (put < size && mbox->state != BEFORE_FROM) {
        bool measured = mbox->body_end && mbox->state == LINE_BEGIN;
        if (mbox->quotes > 0) {
            put += give_quotes(mbox, to + put, size - put);
        } else if (measured && mbox->position >= mbox->body_end) {
            if (!end_body(mbox))
                return -1;
        } else if (measured) {
            if (!fill(mbox, 1))
                return -1;
            if (available(mbox) == 0)
                mbox->state = BEFORE_FROM; /* it was cut short meanwhile */
            else
                put += give_body(mbox, to + put, size - put);
        } else if (mbox->state == LINE_BEGIN) {
            if (!begin_line(mbox))
                return -1;
        } else {
            if (!fill(mbox, 1))
                return -1;
            if (available(mbox) == 0)
                mbox->state = BEFORE_FROM;
            else
                put += give_line(mbox, to + put, size - put);
        }
    }
    return (ssize_t)put;
}

/* Use up the From line; as much of it as can hold a date goes to `line`. */
static bool take_from_line(struct ctl_mbox *mbox, char line[FROM_LINE_MAX + 1])
{
    size_t kept = 0;
    for (;;) {
        if (!fill(mbox, 1))
            return false;
        if (available(mbox) == 0)
            break;
        unsigned char c = mbox->data[mbox->start];
        use(mbox, 1);
        if (c == '\n')
            break;
        if (kept < FROM_LINE_MAX && c != '\0')
            line[kept++] = (char)c;
    }
    line[kept] = '\0';
    return true;
}

int ctl_mbox_next(struct ctl_mbox *mbox, int64_t *received)
{
    unsigned char rest[4096];
    char line[FROM_LINE_MAX + 1];
    ssize_t got;
    while ((got = ctl_mbox_read(mbox, rest, sizeof rest)) > 0)
        ;
    if (got < 0 || !fill(mbox, FROM_SIZE))
        return -1;
    if (available(mbox) == 0)
        return 0;
    if (!is_from(mbox->data + mbox->start, available(mbox))) {
        errno = EBADMSG;
        return -1;
    }
    bool first = mbox->position == 0;
    if (!take_from_line(mbox, line))
        return -1;
    *received = 0;
    bool dated = ctl_mbox_date(line, received);
    if (first)
        mbox->dated = dated;
    begin_message(mbox);
    return 1;
}

/* After the time of day: a year, and perhaps a zone, in either order. False: there is no year. */
static bool finish_date(struct tm *when, const char *rest, int64_t *seconds)
{
    char words[FROM_LINE_MAX + 1], *state = NULL;
    bool has_year = false, has_zone = false;
    int64_t offset = 0;
    base_copy(words, sizeof words, rest);
    for (char *w = strtok_r(words, " \t\r", &state); w; w = strtok_r(NULL, " \t\r", &state)) {
        size_t digits = strspn(w + (*w == '+' || *w == '-'), "0123456789");
        long number = strtol(w, NULL, 10);
        if (isdigit((unsigned char)*w) && digits == 4 && !w[4] && !has_year) {
            when->tm_year = (int)number - 1900;
            has_year = true;
        } else if ((*w == '+' || *w == '-') && digits == 4 && !w[5]) {
            offset = (number / 100 * 60 + number % 100) * 60;
            has_zone = true;
        } else if (strcmp(w, "UTC") == 0 || strcmp(w, "GMT") == 0) {
            has_zone = true;
        }
    }
    if (!has_year)
        return false;
    when->tm_isdst = has_zone ? 0 : -1;
    int64_t found = has_zone ? timegm(when) - offset : mktime(when);
    *seconds = found > EPOCH_DAY ? found : 0;
    return true;
}

bool ctl_mbox_date(const char *line, int64_t *seconds)
{
    bool found = false;
    /* The sender may hold blanks and anything else: the last date in the line is the one. */
    for (const char *at = strchr(line, ' '); at; at = strchr(at + 1, ' ')) {
        struct tm when = {0};
        const char *rest = strptime(at + 1, "%a %b %d %H:%M:%S", &when);
        if (!rest) {
            when = (struct tm){0};
            rest = strptime(at + 1, "%a %b %d %H:%M", &when);
        }
        found |= rest && finish_date(&when, rest, seconds);
    }
    return found;
}
