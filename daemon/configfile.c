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

/* inih cuts longer lines without a word, so they are refused before it sees them. */
enum { LINE_MAX_OCTETS = 198 };

struct reading {
    struct config *config;
    const char *file;
    FILE *stream;
    int line;
    bool continued; /* the line begins with a blank: more of the value before */
    bool failed;
    char *error;
    size_t error_size;
    /* The setting whose value may still grow. */
    char *section, *key, *value;
    int value_line;
};

static void complain(struct reading *r, int line, const char *what)
{
    if (!r->failed)
        snprintf(r->error, r->error_size, "%s:%d: %s", r->file, line, what);
    r->failed = true;
}

/* inih's way to read a line; here the lines are counted and their length is checked. */
static char *next_line(char *buffer, int size, void *stream)
{
    struct reading *r = stream;
    char line[LINE_MAX_OCTETS + 3];
    if (r->failed || !fgets(line, sizeof line, r->stream))
        return NULL;
    r->line++;
    if (!strchr(line, '\n') && !feof(r->stream)) {
        complain(r, r->line,
                 "line longer than 198 octets; continue a list on a line that begins with a blank");
        return NULL;
    }
    r->continued = isblank((unsigned char)line[0]);
    base_copy(buffer, (size_t)size, line);
    return buffer;
}

/* Hand the collected setting to the table. */
static void finish_setting(struct reading *r)
{
    char what[512];
    if (r->key && !r->failed) {
        char *name = strchr(r->section, ' ');
        if (name)
            *name++ = '\0';
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
    r.stream = fopen(file, "re");
    if (!r.stream) {
        snprintf(error, error_size, "%s: %s", file, strerror(errno));
        return false;
    }
    int bad_line = ini_parse_stream(next_line, &r, on_setting, &r);
    finish_setting(&r);
    if (bad_line > 0)
        complain(&r, bad_line, "neither [section] nor key=value");
    else if (bad_line < 0 || ferror(r.stream))
        complain(&r, r.line, "cannot be read");
    fclose(r.stream);
    return !r.failed;
}

struct config *configfile_read(const char *file, char *error, size_t error_size)
{
    struct config *config = config_new();
    glob_t more = {0};
    char *pattern = base_format("%s.d/*.conf", file);
    char what[512];
    bool good = read_file(config, file, error, error_size);

    int found = good ? glob(pattern, 0, NULL, &more) : GLOB_NOMATCH;
    for (size_t i = 0; good && found == 0 && i < more.gl_pathc; i++)
        good = read_file(config, more.gl_pathv[i], error, error_size);
    if (good && !config_complete(config, what, sizeof what)) {
        snprintf(error, error_size, "%s: %s", file, what);
        good = false;
    }
    globfree(&more);
    free(pattern);
    if (good)
        return config;
    config_free(config);
    return NULL;
}
