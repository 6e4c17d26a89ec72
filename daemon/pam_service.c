/*
 * pam_service.c - see pam_service.h. Runs in poplar-auth, as root, before each login, and in the
 * master for poplard --check, over the administrator's files. Loads no module.
 */
#include "daemon/pam_service.h"
#include "daemon/base.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { INCLUDES_MAX = 16 }; /* of each other; a file that includes itself ends libpam */

/* Where Linux-PAM looks for a service, in this order, when it is not told a directory. */
static const char *const pam_dirs[] = {"/etc/pam.d", "/usr/lib/pam.d"};

/* A regular, readable file with something in it; libpam passes over any other in silence. */
static FILE *open_file(const char *dir, const char *name)
{
    char *path = base_format("%s/%s", dir, name);
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool good = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
    FILE *file = good ? fdopen(fd, "r") : NULL;
    if (!file)
        base_close(fd);
    free(path);
    return file;
}

/* A service has one place when it is told, an included file may be the system's as well. */
static FILE *open_service(const char *confdir, const char *name, bool included)
{
    if (name[0] == '/')
        return open_file("", name);
    FILE *file = confdir ? open_file(confdir, name) : NULL;
    for (size_t i = 0; !file && (!confdir || included) && i < ARRAY_SIZE(pam_dirs); i++)
        file = open_file(pam_dirs[i], name);
    return file;
}

static bool is_word(const char *word, const char *wanted)
{
    return word && strcasecmp(word, wanted) == 0;
}

/* The types that a service must have lines of: of one that it has none of, PAM silently takes those
 * of "other". Sets of them have a bit for each. */
static const char *const types[] = {"auth", "account"};
enum { TYPES_ALL = 3 };

static int type_bit(const char *word)
{
    if (word && *word == '-') /* of a module that may be missing */
        word++;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (is_word(word, types[i]))
            return 1 << i;
    return 0;
}

/* What stands in the way of saying which lines a service has. */
enum { LINES_CIRCLE = -1, LINES_UNREADABLE = -2 };

/* One look at a service. */
struct reading {
    const char *confdir;
    char missing[80]; /* what it includes, and is not there or empty */
};

static int find_lines(struct reading *r, FILE *file, int wanted, int depth);

static int find_included(struct reading *r, const char *name, int wanted, int depth)
{
    if (depth == INCLUDES_MAX)
        return LINES_CIRCLE;
    FILE *file = open_service(r->confdir, name, true);
    if (!file && wanted)
        snprintf(r->missing, sizeof r->missing, "%s", name);
    return find_lines(r, file, wanted, depth + 1);
}

/* Which of these types an open file, with what it includes, has lines of, or one of the above.
 * Read to its end: libpam takes an error for the end, and what it then lacks from "other". Closes
 * the file. Words end where libpam ends them: it takes a carriage return for a part of one. */
static int find_lines(struct reading *r, FILE *file, int wanted, int depth)
{
    char *line = NULL;
    size_t size = 0;
    int found = 0;
    while (file && found >= 0 && getline(&line, &size, file) > 0) {
        char *rest = NULL;
        const char *first = strtok_r(line, " \t\n", &rest);
        const char *second = first ? strtok_r(NULL, " \t\n", &rest) : NULL;
        const char *included = NULL;
        bool whole = is_word(first, "@include");
        int here = whole ? wanted : type_bit(first) & wanted;
        if (whole)
            included = second;
        else if (is_word(second, "include") || is_word(second, "substack"))
            included = strtok_r(NULL, " \t\n", &rest);
        else
            found |= here;
        int more = 0;
        if (included && *first != '#')
            more = find_included(r, included, here, depth);
        found = more < 0 ? more : found | more;
    }
    if (file && ferror(file))
        found = LINES_UNREADABLE;
    int why = errno;
    if (file)
        fclose(file);
    free(line);
    errno = why;
    return found;
}

bool pam_service_find(const char *service, const char *confdir, char *problem, size_t size)
{
    char name[64];
    if (!base_copy(name, sizeof name, service) || strchr(name, '/') || name[0] == '.' || !name[0]) {
        snprintf(problem, size, "pam_service=%s: not the name of a PAM service", service);
        return false;
    }
    for (char *at = name; *at; at++) /* pam_start() does the same */
        *at = (char)tolower((unsigned char)*at);
    FILE *file = open_service(confdir, name, false);
    bool there = file != NULL;
    struct reading reading = {.confdir = confdir};
    int found = find_lines(&reading, file, TYPES_ALL, 0);
    const char *lacks = types[found == type_bit("auth")];
    if (found == TYPES_ALL)
        return true;
    if (found == LINES_UNREADABLE)
        snprintf(problem, size, "pam_service=%s: a file of the service cannot be read: %s", name,
                 strerror(errno));
    else if (*reading.missing)
        snprintf(
            problem, size,
            "pam_service=%s: the service has no %s line, as it includes %s, which is not there "
            "or empty; mend the name, or add the file",
            name, lacks, reading.missing);
    else if (there)
        snprintf(problem, size,
                 "pam_service=%s: the service has no %s line (or includes itself), and PAM would "
                 "take those of the service other; add one",
                 name, lacks);
    else
        snprintf(problem, size,
                 "pam_service=%s: no readable file %s/%s, or an empty one; make one with the lines "
                 "`auth required pam_unix.so` and `account required pam_unix.so`, or set "
                 "pam_service",
                 name, confdir ? confdir : pam_dirs[0], name);
    return false;
}
