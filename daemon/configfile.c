/*
 * configfile.c - poplar.conf through inih, with file and line for every complaint. Runs in the
 * master (as root, at start and at reload), in poplarctl, and in poplar-deliver, run by anybody.
 */
#include "daemon/configfile.h"
#include "daemon/base.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* inih cuts longer lines without a word, so they are refused before it sees them. */
enum { LINE_MAX_OCTETS = 198 };

struct reading {
    struct config *config;
    const char *file;
    FILE *stream;
    char *text; /* of the line */
    size_t text_size;
    int line;
    bool continued; /* the line begins with a blank: more of the value before */
    bool failed;
    int failed_line;
    char *error;
    size_t error_size;
    char *heading; /* of the section that lines are in; inih cuts it short */
    /* The setting whose value may still grow; key NULL: none. */
    char *section, *key, *value;
    int value_line;
};

static void complain(struct reading *r, int line, const char *what)
{
    if (!r->failed || line < r->failed_line) { /* the first is the cause of what follows */
        snprintf(r->error, r->error_size, "%s:%d: %s", r->file, line, what);
        r->failed_line = line;
    }
    r->failed = true;
}

/* Hand the collected setting to the table. */
static void finish_setting(struct reading *r)
{
    char what[512];
    if (r->key && !r->failed) {
        char *name = r->section + strcspn(r->section, " \t");
        if (*name)
            *name++ = '\0';
        name += strspn(name, " \t");
        char *where = base_format("%s:%d", r->file, r->value_line);
        config_at(r->config, where);
        free(where);
        if (!config_set(r->config, r->section, name, r->key, r->value, what, sizeof what))
            complain(r, r->value_line, what);
    }
    free(r->section);
    free(r->key);
    free(r->value);
    r->section = r->key = r->value = NULL;
}

/* [section], whole and without the blanks around it: no later line goes on with a value before it.
 * What is wrong with it inih finds. */
static void note_heading(struct reading *r)
{
    const char *at = r->text;
    if (r->line == 1 && strncmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    at += strspn(at, " \t");
    if (*at != '[' || (r->continued && r->key))
        return;
    finish_setting(r);
    at += 1 + strspn(at + 1, " \t");
    size_t length = strcspn(at, "]\r\n");
    while (length > 0 && isblank((unsigned char)at[length - 1]))
        length--;
    free(r->heading);
    r->heading = base_format("%.*s", (int)length, at);
}

/* inih's way to read a line; here the lines are counted and their length is checked. */
static char *next_line(char *buffer, int size, void *stream)
{
    struct reading *r = stream;
    ssize_t length = r->failed ? -1 : getline(&r->text, &r->text_size, r->stream);
    if (length < 0)
        return NULL;
    r->line++;
    if (memchr(r->text, '\0', (size_t)length)) {
        complain(r, r->line, "a NUL octet: this is not a text file");
        return NULL;
    }
    if (strcspn(r->text, "\n") > LINE_MAX_OCTETS) {
        complain(r, r->line,
                 "line longer than 198 octets; continue a list on a line that begins with a blank");
        return NULL;
    }
    r->continued = isblank((unsigned char)r->text[0]);
    note_heading(r);
    base_copy(buffer, (size_t)size, r->text);
    return buffer;
}

/* What stands in the way of going on with the value before; NULL: nothing. Who indents all lines
 * would else lose settings without a word. */
static const char *find_swallowed(const struct reading *r, const char *value)
{
    struct config_key row;
    size_t section = strcspn(r->section, " \t");
    bool list = false, swallowed = false;
    for (size_t n = 0; config_key(n, &row); n++) {
        size_t length = strlen(row.key);
        if (strncmp(row.section, r->section, section) != 0 || row.section[section])
            continue;
        list |= strcmp(row.key, r->key) == 0 && row.list;
        swallowed |= strncmp(row.key, value, length) == 0 &&
                     value[length + strspn(value + length, " \t")] == '=';
    }
    if (!list)
        return "begins with a blank, but what it would go on with is no list";
    return swallowed ? "begins with a blank, and so goes on with the list before" : NULL;
}

static int on_setting(void *context, const char *section, const char *key, const char *value)
{
    struct reading *r = context;
    (void)section;
    if (r->continued && r->key && strcmp(key, r->key) == 0) {
        const char *fault = find_swallowed(r, value);
        char *longer = base_format("%s, %s", r->value, value);
        free(r->value);
        r->value = longer;
        if (fault)
            complain(r, r->line, fault);
        return 1;
    }
    finish_setting(r);
    r->section = base_strdup(r->heading ? r->heading : "");
    r->key = base_strdup(key);
    r->value = base_strdup(value);
    r->value_line = r->line;
    return 1;
}

static bool is_invisible(int error)
{
    return error == EACCES || error == ENOENT;
}

/* A regular file; NULL and errno, of which ENXIO is for what is there and is none. Never waits, as
 * for who would write into a FIFO. */
static FILE *open_file(const char *file)
{
    struct stat about;
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    bool there = fd >= 0 && fstat(fd, &about) == 0;
    if (there && !S_ISREG(about.st_mode))
        errno = S_ISDIR(about.st_mode) ? EISDIR : ENXIO;
    FILE *stream = there && S_ISREG(about.st_mode) ? fdopen(fd, "r") : NULL;
    if (!stream)
        base_close(fd);
    return stream;
}

static bool refuse_file(const char *file, int why, char *error, size_t size)
{
    const char *what = why == ENXIO ? "not a regular file" : strerror(why);
    const char *remedy = why == EACCES   ? "; run this as root, or as a user who may read it"
                         : why == EISDIR ? "; name the file itself"
                         : why == ENXIO  ? "; put one there, or name another"
                                         : "";
    base_refuse(error, size, "%s: %s%s", file, what, remedy);
    errno = why;
    return false;
}

static bool read_file(struct config *config, const char *file, bool visible, char *error,
                      size_t error_size)
{
    struct reading r = {.config = config, .file = file, .error = error, .error_size = error_size};
    r.stream = open_file(file);
    if (!r.stream && visible && is_invisible(errno))
        return true;
    if (!r.stream)
        return refuse_file(file, errno, error, error_size);
    int bad_line = ini_parse_stream(next_line, &r, on_setting, &r);
    finish_setting(&r);
    if (bad_line > 0)
        complain(&r, bad_line, "neither [section] nor key=value");
    else if (bad_line < 0 || ferror(r.stream))
        complain(&r, r.line, "cannot be read");
    int why = ferror(r.stream) ? EIO : 0;
    free(r.heading);
    free(r.text);
    fclose(r.stream);
    errno = why;
    return !r.failed;
}

static int is_snippet(const struct dirent *entry)
{
    const char *end = strrchr(entry->d_name, '.');
    return entry->d_name[0] != '.' && end && strcmp(end, ".conf") == 0;
}

/* All of FILE.d that ends in .conf, in the order of the names. */
static bool read_more(struct config *config, const char *file, bool visible, char *error,
                      size_t error_size)
{
    struct dirent **more = NULL;
    char *dir = base_format("%s.d", file);
    int n = scandir(dir, &more, is_snippet, alphasort);
    int why = errno;
    bool good = n >= 0 || why == ENOENT || (visible && is_invisible(why));
    if (!good)
        snprintf(error, error_size, "%s: %s", dir, strerror(why));
    for (int i = 0; i < n; i++) {
        char *path = base_format("%s/%s", dir, more[i]->d_name);
        if (good && !(good = read_file(config, path, visible, error, error_size)))
            why = errno;
        free(path);
        free(more[i]);
    }
    free(more);
    free(dir);
    errno = why;
    return good;
}

static struct config *read_all(const char *file, bool visible, char *error, size_t error_size)
{
    struct config *config = config_new();
    bool good = read_file(config, file, visible, error, error_size) &&
                read_more(config, file, visible, error, error_size);
    int why = good ? 0 : errno;
    config_at(config, file);
    if (good && config_complete(config, error, error_size))
        return config;
    config_free(config);
    errno = why;
    return NULL;
}

struct config *configfile_read(const char *file, char *error, size_t error_size)
{
    return read_all(file, false, error, error_size);
}

struct config *configfile_read_visible(const char *file, char *error, size_t error_size)
{
    return read_all(file, true, error, error_size);
}
