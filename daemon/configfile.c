/*
 * configfile.c - poplar.conf through inih, with file and line for every complaint. Runs in the
 * master (as root, at start and at reload) and in poplarctl.
 */
#include "daemon/configfile.h"
#include "daemon/base.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
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
    /* The setting whose value may still grow. */
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
    base_copy(buffer, (size_t)size, r->text);
    return buffer;
}

/* Hand the collected setting to the table. */
static void finish_setting(struct reading *r)
{
    char what[512];
    if (r->key && !r->failed) {
        char *name = strchr(r->section, ' ');
        if (name) {
            *name++ = '\0';
            name += strspn(name, " \t");
        }
        char *where = base_format("%s:%d", r->file, r->value_line);
        config_at(r->config, where);
        free(where);
        if (!config_set(r->config, r->section, name ? name : "", r->key, r->value, what,
                        sizeof what))
            complain(r, r->value_line, what);
    }
    free(r->section);
    free(r->key);
    free(r->value);
    r->section = r->key = r->value = NULL;
}

static int on_setting(void *context, const char *section, const char *key, const char *value)
{
    struct reading *r = context;
    if (r->continued && r->key && strcmp(key, r->key) == 0) {
        char *longer = base_format("%s, %s", r->value, value);
        free(r->value);
        r->value = longer;
        return 1;
    }
    finish_setting(r);
    r->section = base_strdup(section);
    r->key = base_strdup(key);
    r->value = base_strdup(value);
    r->value_line = r->line;
    return 1;
}

static bool read_file(struct config *config, const char *file, char *error, size_t error_size)
{
    struct reading r = {.config = config, .file = file, .error = error, .error_size = error_size};
    struct stat about;
    r.stream = fopen(file, "re");
    if (!r.stream || fstat(fileno(r.stream), &about) < 0 || S_ISDIR(about.st_mode)) {
        int why = r.stream ? EISDIR : errno;
        snprintf(error, error_size, "%s: %s%s", file, strerror(why),
                 why == EACCES   ? "; run this as root, or as a user who may read it"
                 : why == EISDIR ? "; name the file itself"
                                 : "");
        if (r.stream)
            fclose(r.stream);
        return false;
    }
    int bad_line = ini_parse_stream(next_line, &r, on_setting, &r);
    finish_setting(&r);
    if (bad_line > 0)
        complain(&r, bad_line, "neither [section] nor key=value");
    else if (bad_line < 0 || ferror(r.stream))
        complain(&r, r.line, "cannot be read");
    free(r.text);
    fclose(r.stream);
    return !r.failed;
}

struct config *configfile_read(const char *file, char *error, size_t error_size)
{
    struct config *config = config_new();
    glob_t more = {0};
    char *pattern = base_format("%s.d/*.conf", file);
    bool good = read_file(config, file, error, error_size);

    int found = good ? glob(pattern, 0, NULL, &more) : GLOB_NOMATCH;
    for (size_t i = 0; good && found == 0 && i < more.gl_pathc; i++)
        good = read_file(config, more.gl_pathv[i], error, error_size);
    config_at(config, file);
    good = good && config_complete(config, error, error_size);
    globfree(&more);
    free(pattern);
    if (good)
        return config;
    config_free(config);
    return NULL;
}
