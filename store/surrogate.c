/*
 * surrogate.c - a header in UTF-8 as clients can read it that never heard of it (RFC 6858).
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl, over octets that anybody may have
 * written. It must never put out an octet above 0x7f, nor an address that could be somebody's.
 */
#include "store/surrogate.h"
#include "store/encode.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define INVALID_ADDRESS "<invalid@internationalized-address.invalid>"

enum form { FORM_TEXT, FORM_ADDRESSES, FORM_RETURN_PATH, FORM_PARAMETERS, FORM_NONE };

/* Fields that are not free text. */
static const struct {
    const char *name; /* one that ends in '-' begins a family */
    enum form form;
} forms[] = {
    {"Bcc", FORM_ADDRESSES},
    {"Cc", FORM_ADDRESSES},
    {"From", FORM_ADDRESSES},
    {"Reply-To", FORM_ADDRESSES},
    {"Sender", FORM_ADDRESSES},
    {"To", FORM_ADDRESSES},
    {"Resent-Bcc", FORM_ADDRESSES},
    {"Resent-Cc", FORM_ADDRESSES},
    {"Resent-From", FORM_ADDRESSES},
    {"Resent-Reply-To", FORM_ADDRESSES},
    {"Resent-Sender", FORM_ADDRESSES},
    {"Resent-To", FORM_ADDRESSES},
    {"Return-Path", FORM_RETURN_PATH},
    {"Content-Type", FORM_PARAMETERS},
    {"Content-Disposition", FORM_PARAMETERS},
    {"Content-Description", FORM_TEXT},
    {"Content-", FORM_NONE},
    {"Message-ID", FORM_NONE},
    {"In-Reply-To", FORM_NONE},
    {"References", FORM_NONE},
    {"Date", FORM_NONE},
    {"MIME-Version", FORM_NONE},
    {"Resent-", FORM_NONE},
    {"Received", FORM_NONE},
    {"Received-SPF", FORM_NONE},
    {"Delivered-To", FORM_NONE},
    {"Disposition-Notification-To", FORM_NONE},
    {"Return-Receipt-To", FORM_NONE},
    {"Authentication-Results", FORM_NONE},
    {"ARC-", FORM_NONE},
    {"DKIM-Signature", FORM_NONE},
    {"List-", FORM_NONE},
    {"Autocrypt", FORM_NONE},
};

void surrogate_scan(struct surrogate_scan *scan, const void *octets, size_t size)
{
    const unsigned char *at = octets;

    for (size_t i = 0; i < size && !scan->malformed; i++) {
        const unsigned char c = at[i];

        if (scan->left > 0) {
            scan->code = scan->code << 6 | (c & 0x3f);
            scan->malformed = (c & 0xc0) != 0x80;
            if (--scan->left == 0 && (scan->code < scan->least || scan->code > 0x10ffff ||
                                      (scan->code >= 0xd800 && scan->code <= 0xdfff)))
                scan->malformed = true;
        } else if (c >= 0x80) {
            scan->high = true;
            scan->left = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
            scan->least = scan->left == 3 ? 0x10000 : scan->left == 2 ? 0x800 : 0x80;
            scan->code = c & (0x3fU >> scan->left);
            scan->malformed = c < 0xc2 || c > 0xf4;
        }
    }
}

bool surrogate_needed(const struct surrogate_scan *scan)
{
    return scan->high && !scan->malformed && scan->left == 0;
}

/* A stretch of a field's value. */
struct span {
    const char *text;
    size_t size;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct span trim(const char *text, size_t size)
{
    while (size > 0 && is_blank(text[0])) {
        text++;
        size--;
    }
    while (size > 0 && is_blank(text[size - 1]))
        size--;
    return (struct span){text, size};
}

static bool is_ascii(struct span s)
{
    return encode_is_ascii(s.text, s.size);
}

/* Octets up to the first of `stops` outside of quotes, comments, domain literals and angle
 * brackets; all of them if there is none. */
static size_t skip_to(const char *text, size_t size, const char *stops)
{
    unsigned comments = 0;
    bool quoted = false, literal = false, angle = false;

    for (size_t i = 0; i < size; i++) {
        const char c = text[i];

        if (!quoted && !comments && !literal && !angle && c && strchr(stops, c))
            return i;
        if (c == '\\' && (quoted || comments || literal))
            i++;
        else if (quoted || (c == '"' && !comments && !literal))
            quoted = quoted != (c == '"');
        else if (c == '(' && !literal)
            comments++;
        else if (c == ')' && comments > 0)
            comments--;
        else if (!comments && (c == '[' || c == ']'))
            literal = c == '[';
        else if (!comments && !literal && (c == '<' || c == '>'))
            angle = c == '<';
    }
    return size;
}

/* Free text: words that are not ASCII become encoded-words, together with the blanks between such
 * words (which readers would drop), the others stay. */
static void put_text(struct encode *e, struct span value)
{
    size_t at = 0;

    while (at < value.size) {
        size_t start = at, end;

        while (start < value.size && is_blank(value.text[start]))
            start++;
        end = start;
        while (end < value.size && !is_blank(value.text[end]))
            end++;
        if (encode_is_ascii(value.text + start, end - start)) {
            const size_t first = at + (start > at); /* of the blanks: it may become a line end */

            encode_space(e, end - first);
            encode_put(e, value.text + first, end - first);
            at = end;
            continue;
        }
        for (size_t next = end; next < value.size;) {
            size_t stop = next;

            while (stop < value.size && is_blank(value.text[stop]))
                stop++;
            next = stop;
            while (stop < value.size && !is_blank(value.text[stop]))
                stop++;
            if (encode_is_ascii(value.text + next, stop - next))
                break;
            end = next = stop;
        }
        encode_words(e, value.text + start, end - start);
        at = end;
    }
}

/* Quotes and comments taken away, blanks made single: what a person reads of a phrase. `to` has
 * room for the phrase. */
static size_t read_phrase(struct span phrase, bool comments_too, char *to)
{
    unsigned comments = 0;
    bool quoted = false;
    size_t put = 0;

    for (size_t i = 0; i < phrase.size; i++) {
        char c = phrase.text[i];

        if (c == '\\' && (quoted || comments) && i + 1 < phrase.size)
            c = phrase.text[++i];
        else if (c == '"' && !comments) {
            quoted = !quoted;
            continue;
        } else if (!quoted && (c == '(' || (c == ')' && comments))) {
            comments = c == '(' ? comments + 1 : comments - 1;
            c = ' ';
        }
        if (comments && !comments_too)
            continue;
        if (is_blank(c) && (put == 0 || to[put - 1] == ' '))
            continue;
        to[put++] = is_blank(c) ? ' ' : c;
    }
    return put > 0 && to[put - 1] == ' ' ? put - 1 : put;
}

/* An address without angle brackets, and the text of its comments, where its name may be. */
static size_t split_comments(struct span item, char *address, char *comment, size_t *comment_size)
{
    size_t left = 0, taken = 0;
    unsigned depth = 0;
    bool quoted = false;

    for (size_t i = 0; i < item.size; i++) {
        const char c = item.text[i];
        const bool pair = c == '\\' && (quoted || depth) && i + 1 < item.size;

        quoted = quoted != (c == '"' && !depth);
        depth += c == '(' && !quoted;
        for (size_t n = 0; n < (pair ? 2 : 1); n++) {
            if (depth)
                comment[taken++] = item.text[i + n];
            else
                address[left++] = item.text[i + n];
        }
        depth -= c == ')' && !quoted && depth;
        i += pair;
    }
    *comment_size = taken;
    return left;
}

/* One address with something in it that is not ASCII. `scratch` has room for three times the
 * address and some more. */
static void put_address(struct encode *e, struct span item, char *scratch)
{
    const size_t open = skip_to(item.text, item.size, "<");
    char *name = scratch, *address = scratch + item.size + 8, *comment = address + item.size;
    size_t name_size = 0, address_size, comment_size;
    struct span shown;

    if (open < item.size) {
        const char *end = memchr(item.text + open, '>', item.size - open);

        address_size = (size_t)((end ? end : item.text + item.size) - (item.text + open)) - 1;
        memcpy(address, item.text + open + 1, address_size);
        name_size = read_phrase((struct span){item.text, open}, false, name);
    } else {
        address_size = split_comments(item, address, comment, &comment_size);
        name_size = read_phrase((struct span){comment, comment_size}, true, name);
    }
    shown = trim(address, address_size);
    if (is_ascii(shown)) {
        /* A name in ASCII was beside something else that was not. */
        if (name_size > 0)
            encode_words(e, name, name_size);
        encode_space(e, shown.size + 2);
        encode_put_text(e, "<");
        encode_put(e, shown.text, shown.size);
        encode_put_text(e, ">");
        return;
    }
    if (name_size > 0) {
        memcpy(name + name_size, " (", 2);
        memcpy(name + name_size + 2, shown.text, shown.size);
        name[name_size + 2 + shown.size] = ')';
        name_size += shown.size + 3;
        shown = (struct span){name, name_size};
    }
    encode_words(e, shown.text, shown.size);
    encode_space(e, strlen(INVALID_ADDRESS));
    encode_put_text(e, INVALID_ADDRESS);
}

/* Address lists and groups (RFC 5322 section 3.4). */
static void put_addresses(struct encode *e, struct span value, char *scratch)
{
    bool separate = false; /* a comma is due before the next address */

    for (size_t at = 0; at < value.size;) {
        const size_t size = skip_to(value.text + at, value.size - at, ",:;");
        const struct span item = trim(value.text + at, size);
        const char stop = at + size < value.size ? value.text[at + size] : '\0';

        if (item.size > 0) {
            if (separate)
                encode_put_text(e, ",");
            if (is_ascii(item)) {
                encode_space(e, item.size + 1);
                encode_put(e, item.text, item.size);
            } else if (stop == ':') {
                encode_words(e, scratch, read_phrase(item, false, scratch));
            } else {
                put_address(e, item, scratch);
            }
            separate = true;
        }
        if (stop == ':' || stop == ';') {
            encode_put(e, &stop, 1);
            separate = stop == ';';
        }
        at += size + 1;
    }
}

/* The next parameter, from `at` on, past its ';'. */
static bool next_parameter(struct span value, size_t *at, struct span *parameter)
{
    size_t size;

    if (*at >= value.size)
        return false;
    size = skip_to(value.text + *at, value.size - *at, ";");
    *parameter = trim(value.text + *at, size);
    *at += size + 1;
    return true;
}

static struct span parameter_name(struct span parameter)
{
    const char *equals = memchr(parameter.text, '=', parameter.size);

    return trim(parameter.text, equals ? (size_t)(equals - parameter.text) : parameter.size);
}

/* Whether the sender gave this parameter in the form of RFC 2231 as well. */
static bool is_given_encoded(struct span value, struct span name)
{
    struct span other;

    for (size_t at = 0; next_parameter(value, &at, &other);) {
        const struct span found = parameter_name(other);

        if (found.size > name.size && found.text[name.size] == '*' &&
            strncasecmp(found.text, name.text, name.size) == 0)
            return true;
    }
    return false;
}

/* False: the field itself has no form in ASCII. */
static bool put_parameters(struct encode *e, struct span value, char *scratch)
{
    struct span parameter;
    size_t at = 0;

    if (!next_parameter(value, &at, &parameter) || !is_ascii(parameter))
        return false;
    encode_put_text(e, " ");
    encode_put(e, parameter.text, parameter.size);
    while (next_parameter(value, &at, &parameter)) {
        const struct span name = parameter_name(parameter);
        struct span text;

        if (parameter.size > 0 && is_ascii(parameter)) {
            encode_put_text(e, ";");
            encode_space(e, parameter.size + 1);
            encode_put(e, parameter.text, parameter.size);
        } else if (name.size > 0 && name.size < parameter.size && is_ascii(name) &&
                   name.text[name.size - 1] != '*' && !is_given_encoded(value, name)) {
            text.text = (const char *)memchr(parameter.text, '=', parameter.size) + 1;
            text.size = parameter.size - (size_t)(text.text - parameter.text);
            encode_parameter(e, name.text, name.size, scratch, read_phrase(text, false, scratch));
        }
    }
    return true;
}

static enum form form_of(struct span name)
{
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        const size_t size = strlen(forms[i].name);
        const bool family = forms[i].name[size - 1] == '-';

        if ((name.size == size || (family && name.size > size)) &&
            strncasecmp(name.text, forms[i].name, size) == 0)
            return forms[i].form;
    }
    return FORM_TEXT;
}

/* A field's value in one line, without the blanks around it. */
static struct span unfold(const char *text, size_t size, char *to)
{
    size_t put = 0;

    for (size_t i = 0; i < size; i++) {
        if (text[i] != '\n' && !(text[i] == '\r' && i + 1 < size && text[i + 1] == '\n'))
            to[put++] = text[i];
    }
    return trim(to, put);
}

/* One field that is not ASCII. `scratch` has room for four times the field and some more. */
static void put_field(struct encode *e, struct span field, char *scratch)
{
    const char *colon = memchr(field.text, ':', field.size);
    const struct encode before = *e;
    struct span name, value;
    bool written = true;

    if (!colon)
        return;
    name = (struct span){field.text, (size_t)(colon - field.text)};
    value = unfold(colon + 1, field.size - name.size - 1, scratch);
    scratch += field.size;
    if (!is_ascii(name) || form_of(name) == FORM_NONE)
        return;
    encode_put(e, name.text, name.size + 1);
    switch (form_of(name)) {
    case FORM_ADDRESSES:
        put_addresses(e, value, scratch);
        break;
    case FORM_RETURN_PATH:
        encode_put_text(e, " " INVALID_ADDRESS);
        break;
    case FORM_PARAMETERS:
        written = put_parameters(e, value, scratch);
        break;
    default:
        put_text(e, value);
        break;
    }
    if (written) {
        encode_put_text(e, "\r\n");
    } else {
        e->size = before.size;
        e->column = before.column;
    }
}

/* Octets of the field at hand: its line, and those after it that begin with a blank. */
static size_t field_size(const char *text, size_t size)
{
    size_t at = 0;

    do {
        const char *end = memchr(text + at, '\n', size - at);

        at = end ? (size_t)(end - text) + 1 : size;
    } while (at < size && is_blank(text[at]));
    return at;
}

enum surrogate_outcome surrogate_make(const char *header, size_t size, char **made,
                                      size_t *made_size)
{
    struct encode e = {.limit = SURROGATE_MAX};
    char *scratch;

    if (size > SURROGATE_HEADER_MAX)
        return SURROGATE_TOO_LARGE;
    scratch = malloc(4 * size + 64);
    if (!scratch)
        return SURROGATE_NO_MEMORY;
    for (size_t at = 0; at < size;) {
        const struct span field = {header + at, field_size(header + at, size - at)};

        if (is_ascii(field))
            encode_put(&e, field.text, field.size);
        else
            put_field(&e, field, scratch);
        at += field.size;
    }
    free(scratch);
    if (e.too_large || e.no_memory) {
        free(e.text);
        return e.too_large ? SURROGATE_TOO_LARGE : SURROGATE_NO_MEMORY;
    }
    *made = e.text;
    *made_size = e.size;
    return SURROGATE_OK;
}
