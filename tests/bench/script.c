/*
 * script.c - the words of the load generator's scripts, and where replies end.
 */
#include "tests/bench/script.h"

#include <string.h>

static const struct word words[] = {
    {"greeting", REPLY_LINE, WORD_ONCE, NULL},
    {"capa", REPLY_MULTI, WORD_ONCE, "CAPA\r\n"},
    {"user", REPLY_LINE, WORD_ONCE, "USER %s\r\n"},
    {"pass", REPLY_LINE, WORD_ONCE, "PASS secret\r\n"},
    {"stat", REPLY_LINE, WORD_ONCE, "STAT\r\n"},
    {"uidl", REPLY_MULTI, WORD_ONCE, "UIDL\r\n"},
    {"list", REPLY_MULTI, WORD_ONCE, "LIST\r\n"},
    {"retr", REPLY_MULTI, WORD_EACH, "RETR %u\r\n"},
    {"top", REPLY_MULTI, WORD_EACH, "TOP %u 0\r\n"},
    {"dele", REPLY_LINE, WORD_EACH, "DELE %u\r\n"},
    {"hold", REPLY_LINE, WORD_HOLD, NULL},
    {"quit", REPLY_LINE, WORD_ONCE, "QUIT\r\n"},
    {"lhlo", REPLY_SMTP, WORD_ONCE, "LHLO bench.example\r\n"},
    {"deliver", REPLY_SMTP, WORD_DELIVER, NULL},
    {"bye", REPLY_SMTP, WORD_ONCE, "QUIT\r\n"},
    {"banner", REPLY_SMTP, WORD_ONCE, NULL},
};

static const struct word *find(const char *name, size_t size)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strlen(words[i].name) == size && memcmp(words[i].name, name, size) == 0)
            return &words[i];
    return NULL;
}

bool script_parse(const char *text, struct script *script, const char **bad)
{
    script->n = 0;
    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        size_t size = strcspn(text, " ");
        const struct word *word = find(text, size);
        *bad = text;
        if (!word || script->n == SCRIPT_MAX)
            return false;
        script->words[script->n++] = word;
        text += size;
    }
    return script->n > 0;
}

void reader_begin(struct reader *r, enum reply_kind kind)
{
    r->kind = kind;
    r->in_text = false;
    r->size = 0;
    r->text_octets = 0;
}

bool reader_good(const struct reader *r)
{
    return r->kind == REPLY_SMTP ? r->line[0] == '2' || r->line[0] == '3' : r->line[0] == '+';
}

/* The rest of a line into r->line; true at its end. */
static bool take_line(struct reader *r, const char *octets, size_t size, size_t *used)
{
    const char *end = memchr(octets, '\n', size);
    size_t part = end ? (size_t)(end - octets) + 1 : size;
    size_t room = sizeof r->line - 1 - r->size;
    memcpy(r->line + r->size, octets, part < room ? part : room);
    r->size += part < room ? part : room;
    *used = part;
    if (!end)
        return false;
    while (r->size > 0 && (r->line[r->size - 1] == '\n' || r->line[r->size - 1] == '\r'))
        r->size--;
    r->line[r->size] = '\0';
    return true;
}

/* A text up to its CRLF.CRLF; true at its end. The line before it has ended already, so an empty
 * text is a dot alone. */
static bool take_text(struct reader *r, const char *octets, size_t size, size_t *used)
{
    static const char end[] = "\r\n.\r\n";
    size_t at = 0;
    while (at < size && r->matched < 5) {
        if (r->matched == 0) {
            const char *next = memchr(octets + at, '\r', size - at);
            if (!next) {
                at = size;
                break;
            }
            at = (size_t)(next - octets) + 1;
            r->matched = 1;
            continue;
        }
        char c = octets[at++];
        r->matched = c == end[r->matched] ? r->matched + 1 : c == '\r';
    }
    *used = at;
    r->text_octets += at;
    if (r->matched < 5)
        return false;
    r->text_octets -= 3;
    return true;
}

bool reader_take(struct reader *r, const char *octets, size_t size, size_t *used, const char **text,
                 size_t *text_size)
{
    size_t part;
    *used = *text_size = 0;
    while (!r->in_text && *used < size) {
        if (!take_line(r, octets + *used, size - *used, &part)) {
            *used += part;
            return false;
        }
        *used += part;
        if (r->kind == REPLY_LINE || (r->kind == REPLY_MULTI && r->line[0] != '+'))
            return true;
        if (r->kind == REPLY_SMTP) {
            if (r->size < 4 || r->line[3] != '-')
                return true;
            r->size = 0;
            continue;
        }
        r->in_text = true;
        r->matched = 2;
    }
    if (!r->in_text || *used == size)
        return false;
    *text = octets + *used;
    bool whole = take_text(r, octets + *used, size - *used, text_size);
    *used += *text_size;
    return whole;
}
