/*
 * octets.c - what the words of a conversation file stand for: escapes, patterns, names. For tests.
 */
#include "tests/protocol/walk.h"

void octets_add(struct octets *to, const char *octets, size_t size)
{
    if (size > sizeof to->at - to->size)
        wrong("too long");
    memcpy(to->at + to->size, octets, size);
    to->size += size;
}

static const char *add_escaped(struct octets *to, const char *text, char end);

static const char *add_repeated(struct octets *to, const char *text)
{
    char *from;
    const char *end = text;
    unsigned long times = strtoul(text, &from, 10);
    if (*from != ' ' || times == 0)
        wrong("a repetition is \\[N TEXT]");
    while (times-- > 0)
        end = add_escaped(to, from + 1, ']');
    return end + 1;
}

static const char *add_hex(struct octets *to, const char *text)
{
    char digits[3] = {text[0], text[0] ? text[1] : '\0', '\0'}, *end;
    char c = (char)strtoul(digits, &end, 16);
    if (end != digits + 2)
        wrong("an octet is \\xNN");
    octets_add(to, &c, 1);
    return text + 2;
}

/* Up to `end`, which must be there; where it is. */
static const char *add_escaped(struct octets *to, const char *text, char end)
{
    static const char letters[] = "rnt0\\", octets[] = "\r\n\t\0\\";
    while (*text && *text != end) {
        const char *letter = *text == '\\' && text[1] ? strchr(letters, text[1]) : NULL;
        if (*text != '\\') {
            octets_add(to, text++, 1);
        } else if (letter) {
            octets_add(to, &octets[letter - letters], 1);
            text += 2;
        } else if (text[1] == 'x') {
            text = add_hex(to, text + 2);
        } else if (text[1] == '[') {
            text = add_repeated(to, text + 2);
        } else {
            wrong("not an escape: %.2s", text);
        }
    }
    if (*text != end)
        wrong("'%c' is missing", end);
    return text;
}

void octets_add_escaped(struct octets *to, const char *text)
{
    add_escaped(to, text, '\0');
}

/* Up to the next blank that is not in a repetition. */
static size_t word_size(const char *text)
{
    size_t size = 0;
    while (text[size] && text[size] != ' ')
        size += text[size] == '\\' && text[size + 1] == '[' ? strcspn(text + size, "]") : 1;
    return size;
}

char *word_next(const char **text)
{
    static struct octets word;
    size_t size = word_size(*text);
    if (size == 0)
        wrong("an argument is missing");
    char *raw = base_format("%.*s", (int)size, *text);
    *text += size + strspn(*text + size, " ");
    word.size = 0;
    add_escaped(&word, raw, '\0');
    octets_add(&word, "", 1);
    free(raw);
    return base_strdup(word.at);
}

/* What {name} stands for must be there: the same text as before, or a new one that no other name
 * stands for. Its size, 0 if it is not. */
static size_t match_name(const char *name, size_t name_size, const char *line)
{
    size_t size = 0;
    while (line[size] > 0x20 && line[size] < 0x7f)
        size++;
    if (size == 0 || size > UIDL_MAX || name_size >= sizeof w.names[0].name)
        return 0;
    for (size_t i = 0; i < w.n_names; i++) {
        const struct named *n = &w.names[i];
        bool same_text = strlen(n->text) == size && memcmp(n->text, line, size) == 0;
        if (strlen(n->name) == name_size && memcmp(n->name, name, name_size) == 0)
            return same_text ? size : 0;
        if (same_text)
            return 0;
    }
    if (w.n_names == NAMES_MAX)
        wrong("too many names");
    struct named *n = &w.names[w.n_names++];
    snprintf(n->name, sizeof n->name, "%.*s", (int)name_size, name);
    snprintf(n->text, sizeof n->text, "%.*s", (int)size, line);
    return size;
}

bool pattern_match(const char *pattern, const char *line)
{
    size_t n_names = w.n_names;
    for (;;) {
        const char *end = *pattern == '{' ? strchr(pattern, '}') : NULL;
        if (pattern[0] == '*' && pattern[1] == '\0')
            return true;
        if (end) {
            size_t size = match_name(pattern + 1, (size_t)(end - pattern - 1), line);
            if (size == 0)
                break;
            pattern = end + 1;
            line += size;
        } else if (*pattern != *line) {
            break;
        } else if (*pattern++ == '\0') {
            return true;
        } else {
            line++;
        }
    }
    w.n_names = n_names;
    return false;
}
