/*
 * ctl_uidl.c - UIDLs as other servers keep them beside a Maildir.
 *
 * Runs in poplarctl, usually as root, over files that belong to users: any octets may come. A line
 * that cannot be understood is no UIDL, and its message gets a new one: that costs one download,
 * a wrong one would cost a message.
 */
#include "store/ctl_uidl.h"
#include "store/ctl.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_MAX = 1 << 28 }; /* octets of a list that is taken for one */

static const char *const kinds[CTL_UIDL_KINDS] = {
    [CTL_UIDL_AUTO] = "auto",       [CTL_UIDL_NONE] = "none",   [CTL_UIDL_DOVECOT] = "dovecot",
    [CTL_UIDL_COURIER] = "courier", [CTL_UIDL_CYRUS] = "cyrus", [CTL_UIDL_FILENAME] = "filename",
    [CTL_UIDL_X_UIDL] = "x-uidl",   [CTL_UIDL_X_UID] = "x-uid", [CTL_UIDL_POPA3D] = "popa3d",
};

bool ctl_uidl_kind(const char *name, enum ctl_uidl_kind *kind)
{
    for (unsigned i = 0; i < CTL_UIDL_KINDS; i++)
        if (!name || strcmp(name, kinds[i]) == 0) {
            *kind = (enum ctl_uidl_kind)i;
            return true;
        }
    return false;
}

bool ctl_uidl_is_valid(const char *text)
{
    size_t length = 0;
    for (; text[length]; length++)
        if (length == MAILDROP_UIDL_MAX || text[length] < 0x21 || text[length] > 0x7e)
            return false;
    return length > 0;
}

size_t ctl_uidl_base_length(const char *file_name)
{
    return strcspn(file_name, ":");
}

static bool put(char text[MAILDROP_UIDL_MAX + 1], size_t *used, const char *piece)
{
    size_t length = strlen(piece);
    if (length > MAILDROP_UIDL_MAX - *used)
        return false;
    memcpy(text + *used, piece, length + 1);
    *used += length;
    return true;
}

/* One conversion, from after its '%'. The rest of the format, NULL if there is no such conversion
 * or nothing to put in its place. */
static const char *convert(const char *format, const struct ctl_uidl_parts *parts, char *piece,
                           size_t size)
{
    int width = 0;
    bool hex = false;
    if (*format == '0') /* without it Dovecot would cut off, and a UIDL must not be cut */
        for (; isdigit((unsigned char)*format); format++)
            if (width <= MAILDROP_UIDL_MAX)
                width = width * 10 + (*format - '0');
    if (*format == 'X') {
        hex = true;
        format++;
    }
    if (width > MAILDROP_UIDL_MAX)
        return NULL;
    uint64_t number = *format == 'u' ? parts->uid : parts->uidvalidity;
    if (*format == 'u' || *format == 'v')
        snprintf(piece, size, hex ? "%0*jx" : "%0*ju", width, (uintmax_t)number);
    else if (*format == '%')
        snprintf(piece, size, "%%");
    else if (*format == 'f' && parts->file_name)
        snprintf(piece, size, "%.*s", (int)ctl_uidl_base_length(parts->file_name),
                 parts->file_name);
    else if (*format == 'g' && parts->guid)
        snprintf(piece, size, "%s", parts->guid);
    else
        return NULL;
    return format + 1;
}

bool ctl_uidl_make(const char *format, const struct ctl_uidl_parts *parts,
                   char text[MAILDROP_UIDL_MAX + 1])
{
    char made[MAILDROP_UIDL_MAX + 1] = "", piece[MAILDROP_UIDL_MAX + 2];
    size_t used = 0;
    while (*format) {
        if (*format == '%') {
            format = convert(format + 1, parts, piece, sizeof piece);
            if (!format)
                return false;
        } else {
            piece[0] = *format++;
            piece[1] = '\0';
        }
        if (!put(made, &used, piece))
            return false;
    }
    if (!ctl_uidl_is_valid(made))
        return false;
    memcpy(text, made, sizeof made);
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct ctl_uidl *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static void add(struct ctl_uidl_list *list, const char *file_name, uint64_t order, const char *text)
{
    list->entries = base_grow(list->entries, list->n, sizeof *list->entries);
    struct ctl_uidl *entry = &list->entries[list->n++];
    *entry = (struct ctl_uidl){
        .name = base_format("%.*s", (int)ctl_uidl_base_length(file_name), file_name),
        .order = order,
        .line = list->n};
    base_copy(entry->text, sizeof entry->text, text);
}

static int compare_lines(const void *a, const void *b)
{
    const struct ctl_uidl *x = a, *y = b;
    int order = compare(a, b);
    return order ? order : x->line < y->line ? -1 : x->line > y->line;
}

/* A server appends to its list: of a file that went and came back, what was said last holds. */
static void sort(struct ctl_uidl_list *list)
{
    size_t kept = 0;
    if (list->n > 0)
        qsort(list->entries, list->n, sizeof *list->entries, compare_lines);
    for (size_t i = 0; i < list->n; i++) {
        if (kept > 0 && compare(&list->entries[kept - 1], &list->entries[i]) == 0)
            free(list->entries[--kept].name);
        list->entries[kept++] = list->entries[i];
    }
    list->n = kept;
}

void ctl_uidl_free(struct ctl_uidl_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->entries[i].name);
    free(list->entries);
    *list = (struct ctl_uidl_list){0};
}

const struct ctl_uidl *ctl_uidl_find(const struct ctl_uidl_list *list, const char *file_name)
{
    char *name = base_format("%.*s", (int)ctl_uidl_base_length(file_name), file_name);
    struct ctl_uidl key = {.name = name};
    const struct ctl_uidl *found =
        list->n ? bsearch(&key, list->entries, list->n, sizeof key, compare) : NULL;
    free(name);
    return found;
}

bool ctl_uidl_number(const char *word, uint64_t *value)
{
    char *end;
    errno = 0;
    if (!isdigit((unsigned char)word[0]))
        return false;
    *value = strtoull(word, &end, 10);
    return !errno && *end == '\0';
}

/* dovecot-uidlist: the numbers that its first line tells. Version 1 is Courier's IMAP list: "1
 * UIDVALIDITY NEXTUID"; version 3 is "3 V<uidvalidity> N<nextuid> ...", in any order. */
static bool dovecot_header(char *line, int *version, uint64_t *uidvalidity, const char **format)
{
    char *state = NULL, *word = strtok_r(line, " ", &state);
    uint64_t v;
    if (!word || !ctl_uidl_number(word, &v) || (v != 1 && v != 3))
        return false;
    *version = (int)v;
    word = strtok_r(NULL, " ", &state);
    if (*version == 1)
        return word && ctl_uidl_number(word, uidvalidity);
    bool has_validity = false;
    for (; word; word = strtok_r(NULL, " ", &state)) {
        if (word[0] == 'V')
            has_validity = ctl_uidl_number(word + 1, uidvalidity);
        else if (word[0] == 'P' && word[1])
            *format = word + 1;
    }
    return has_validity;
}

/* One message: "UID [X<value> ...] :NAME", in version 1 "UID NAME". */
static void dovecot_entry(struct ctl_uidl_list *list, char *line, int version, const char *format,
                          uint64_t uidvalidity)
{
    struct ctl_uidl_parts parts = {.uidvalidity = uidvalidity};
    char text[MAILDROP_UIDL_MAX + 1], *state = NULL;
    const char *own = NULL;
    uint64_t order = 0;
    char *name = strstr(line, version == 1 ? " " : " :");
    if (!name)
        return;
    *name = '\0';
    name += version == 1 ? 1 : 2;
    char *word = strtok_r(line, " ", &state);
    if (!word || !ctl_uidl_number(word, &parts.uid) || !*name)
        return;
    while ((word = strtok_r(NULL, " ", &state))) {
        if (word[0] == 'P')
            own = word + 1;
        else if (word[0] == 'O')
            ctl_uidl_number(word + 1, &order);
        else if (word[0] == 'G')
            parts.guid = word + 1;
    }
    parts.file_name = name;
    if (!parts.guid)
        parts.guid = name;
    /* An empty P is short for the name of the file. */
    bool made = own && *own ? ctl_uidl_is_valid(own) && base_copy(text, sizeof text, own)
                            : ctl_uidl_make(own ? "%f" : format, &parts, text);
    add(list, name, order ? order : parts.uid + CTL_UIDL_LAST, made ? text : "");
}

bool ctl_uidl_read_dovecot(char *octets, const char *format, struct ctl_uidl_list *list,
                           char *error, size_t error_size)
{
    uint64_t uidvalidity = 0;
    const char *said = NULL;
    int version = 0;
    *list = (struct ctl_uidl_list){.unlisted = UINT64_MAX};
    char *state = NULL, *line = strtok_r(octets, "\n", &state);
    if (!line || !dovecot_header(line, &version, &uidvalidity, &said)) {
        snprintf(error, error_size, "not a dovecot-uidlist of version 1 or 3");
        return false;
    }
    if (!format)
        format = said ? said : CTL_UIDL_FORMAT_DOVECOT;
    while ((line = strtok_r(NULL, "\n", &state)))
        dovecot_entry(list, line, version, format, uidvalidity);
    sort(list);
    return true;
}

/* Courier's own escapes, from before it kept a list: the UIDL of such a message is its name. */
static bool courier_name(const char *file_name, char text[MAILDROP_UIDL_MAX + 1])
{
    size_t used = 0, length = ctl_uidl_base_length(file_name);
    char piece[4];
    text[0] = '\0';
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)file_name[i];
        bool plain = c >= 0x21 && c <= 0x7e && !strchr("'\"+", c);
        snprintf(piece, sizeof piece, plain ? "%c" : "+%02X", c);
        if (!put(text, &used, piece))
            return false;
    }
    return used > 0;
}

/* "NAME SIZE N[:UIDVALIDITY[:UTF8]]"; a name may hold blanks. */
static void courier_entry(struct ctl_uidl_list *list, char *line)
{
    char text[MAILDROP_UIDL_MAX + 1] = "", *state = NULL;
    uint64_t n, validity = 0;
    char *uid = strrchr(line, ' ');
    if (!uid)
        return;
    *uid++ = '\0';
    char *size = strrchr(line, ' ');
    if (!size || size == line)
        return;
    *size = '\0';
    char *first = strtok_r(uid, ":", &state), *second = strtok_r(NULL, ":", &state);
    bool made =
        first && ctl_uidl_number(first, &n) && (!second || ctl_uidl_number(second, &validity));
    if (made && n == 0)
        made = courier_name(line, text);
    else if (made && validity)
        snprintf(text, sizeof text, "UID%ju-%ju", (uintmax_t)n, (uintmax_t)validity);
    else if (made)
        snprintf(text, sizeof text, "UID%ju", (uintmax_t)n);
    add(list, line, 0, made ? text : "");
}

bool ctl_uidl_read_courier(char *octets, struct ctl_uidl_list *list, char *error, size_t error_size)
{
    *list = (struct ctl_uidl_list){0}; /* Courier lists by the names alone */
    char *state = NULL, *line = strtok_r(octets, "\n", &state);
    if (!line || line[0] != '/' || line[1] < '1' || line[1] > '3' || line[2] != ' ') {
        snprintf(error, error_size, "not a courierpop3dsizelist of version 1 to 3");
        return false;
    }
    while ((line = strtok_r(NULL, "\n", &state)))
        courier_entry(list, line);
    sort(list);
    return true;
}

char *ctl_uidl_read_file(int fd, size_t *size)
{
    struct stat about;
    char *octets = NULL;
    size_t got = 0;
    ssize_t part = 1;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &about) < 0 || !S_ISREG(about.st_mode))
        errno = EINVAL;
    else if (about.st_size > FILE_MAX)
        errno = EFBIG;
    else
        octets = base_alloc((size_t)about.st_size + 1);
    while (octets && got < (size_t)about.st_size && part > 0) {
        part = ctl_read(fd, octets + got, (size_t)about.st_size - got);
        got += part > 0 ? (size_t)part : 0;
    }
    if (part < 0) {
        free(octets);
        octets = NULL;
    }
    base_close(fd);
    *size = got;
    return octets;
}
