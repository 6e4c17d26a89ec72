/*
 * lmtp_parse.c - see lmtp_parse.h. Runs in a worker, inside its sandbox, on lines from anybody who
 * can reach the socket.
 */
#include "worker/lmtp_parse.h"
#include "worker/line.h"

#include <string.h>
#include <strings.h>

/* Where a copy of a path goes: what does not fit makes it no path. */
struct copy {
    char *to;
    size_t room;
    bool whole;
};

static void put(struct copy *copy, const char *from, size_t size)
{
    if (size >= copy->room) {
        copy->whole = false;
        return;
    }
    memcpy(copy->to, from, size);
    copy->to += size;
    copy->room -= size;
    *copy->to = '\0';
}

static struct copy copy_to(char text[PROTO_RECIPIENT_MAX + 1])
{
    text[0] = '\0';
    return (struct copy){text, PROTO_RECIPIENT_MAX + 1, true};
}

/* A quoted local part: octets with its quotes, 0 if it does not end. */
static size_t take_quoted(const char *text, struct copy *meant)
{
    size_t at = 1;
    for (; text[at] && text[at] != '"'; at++) {
        if (text[at] == '\\' && text[++at] == '\0')
            return 0;
        put(meant, text + at, 1);
    }
    return text[at] && at > 1 ? at + 1 : 0;
}

/* A domain or an address literal: octets, 0 if it is neither. */
static size_t take_domain(const char *text, struct copy *meant)
{
    size_t size = text[0] == '[' ? strcspn(text, "]> ") : strcspn(text, "<>()[],;:@\\\" ");
    if (text[0] == '[')
        size += text[size] == ']';
    if (size == 0 || (text[0] == '[' && text[size - 1] != ']'))
        return 0;
    put(meant, text, size);
    return size;
}

/* local-part ["@" domain]: octets of it, 0 if it is none. Without a domain it is a name of ours. */
static size_t take_mailbox(const char *text, struct copy *meant)
{
    size_t size;
    if (text[0] == '"') {
        size = take_quoted(text, meant);
    } else {
        size = strcspn(text, "<>()[],;:@\\\" ");
        put(meant, text, size);
    }
    if (size == 0 || text[size] != '@')
        return size;
    put(meant, "@", 1);
    size_t domain = take_domain(text + size + 1, meant);
    return domain > 0 ? size + 1 + domain : 0;
}

/* "<" [source route ":"] mailbox ">"; `rest` is what follows. */
static enum lmtp_fault take_path(const char *text, bool may_be_null, struct lmtp_path *path,
                                 const char **rest)
{
    struct copy written = copy_to(path->text), meant = copy_to(path->mailbox);
    text += strspn(text, " ");
    if (*text++ != '<')
        return LMTP_BAD_SYNTAX;
    if (*text == '@') { /* appendix C: to be ignored */
        text += strcspn(text, ":>");
        if (*text++ != ':')
            return LMTP_BAD_PATH;
        may_be_null = false;
    }
    size_t size = take_mailbox(text, &meant);
    if (text[size] != '>' || (size == 0 && !may_be_null))
        return LMTP_BAD_PATH;
    put(&written, text, size);
    text += size + 1;
    if (!written.whole || !meant.whole || (*text && *text != ' '))
        return LMTP_BAD_PATH;
    path->utf8 = !line_is_ascii(path->text, strlen(path->text));
    *rest = text;
    return LMTP_PARSED;
}

/* The null sender in place of whatever stands between the brackets. */
static enum lmtp_fault take_none(const char *text, struct lmtp_path *path, const char **rest)
{
    const char *end = strrchr(text, '>');
    if (!end || (end[1] && end[1] != ' '))
        return LMTP_BAD_PATH;
    *path = (struct lmtp_path){.text = ""};
    *rest = end + 1;
    return LMTP_PARSED;
}

/* A keyword at the beginning; `rest` is what follows. */
static bool take_word(const char *text, const char *word, const char **rest)
{
    size_t size = strlen(word);
    if (strncasecmp(text, word, size) != 0)
        return false;
    *rest = text + size;
    return true;
}

static bool is_word(const char *text, size_t size, const char *word)
{
    return size == strlen(word) && strncasecmp(text, word, size) == 0;
}

static enum lmtp_fault take_parameter(const char *text, size_t size, struct lmtp_mail *mail)
{
    const char *value;
    char digits[21];
    if (is_word(text, size, "SMTPUTF8")) {
        mail->utf8 = true;
        return LMTP_PARSED;
    }
    if (take_word(text, "BODY=", &value)) {
        size -= strlen("BODY=");
        return is_word(value, size, "7BIT") || is_word(value, size, "8BITMIME") ? LMTP_PARSED
                                                                                : LMTP_BAD_VALUE;
    }
    if (!take_word(text, "SIZE=", &value))
        return LMTP_BAD_PARAMETER;
    size -= strlen("SIZE=");
    if (size >= sizeof digits)
        return LMTP_BAD_VALUE;
    memcpy(digits, value, size);
    digits[size] = '\0';
    return line_number(digits, &mail->size) ? LMTP_PARSED : LMTP_BAD_VALUE;
}

bool lmtp_parse_name(const char *text)
{
    size_t size = strlen(text);
    return size > 0 && size <= 255 && text[strcspn(text, " <>()\"\\;,@")] == '\0';
}

enum lmtp_fault lmtp_parse_mail(const char *text, struct lmtp_mail *mail)
{
    const char *rest;
    *mail = (struct lmtp_mail){0};
    if (!take_word(text, "FROM:", &rest))
        return LMTP_BAD_SYNTAX;
    enum lmtp_fault fault = take_path(rest, true, &mail->from, &rest);
    if (fault == LMTP_BAD_PATH)
        fault = take_none(rest, &mail->from, &rest);
    while (fault == LMTP_PARSED && *(rest += strspn(rest, " "))) {
        size_t size = line_word(rest, strlen(rest));
        fault = take_parameter(rest, size, mail);
        rest += size;
    }
    mail->utf8 |= mail->from.utf8;
    return fault;
}

enum lmtp_fault lmtp_parse_rcpt(const char *text, struct lmtp_path *to)
{
    const char *rest;
    if (!take_word(text, "TO:", &rest))
        return LMTP_BAD_SYNTAX;
    enum lmtp_fault fault = take_path(rest, false, to, &rest);
    if (fault != LMTP_PARSED)
        return fault;
    return rest[strspn(rest, " ")] ? LMTP_BAD_PARAMETER : LMTP_PARSED;
}

enum lmtp_fault lmtp_parse_bdat(const char *text, uint64_t *size, bool *last)
{
    char digits[21];
    size_t length = line_word(text, strlen(text));
    if (length >= sizeof digits)
        return LMTP_BAD_VALUE;
    memcpy(digits, text, length);
    digits[length] = '\0';
    text += length;
    text += strspn(text, " ");
    size_t word = line_word(text, strlen(text));
    *last = is_word(text, word, "LAST");
    if (!line_number(digits, size) || *size == UINT64_MAX || (word > 0 && !*last) ||
        text[word + strspn(text + word, " ")])
        return LMTP_BAD_VALUE;
    return LMTP_PARSED;
}
