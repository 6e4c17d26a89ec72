/*
 * mktemplate.c - a build tool: writes an empty maildrop database as C source.
 *
 * Runs on the build machine only. SQLite cannot bring a database into WAL mode without a journal
 * file, and a worker cannot make one; so every maildrop starts as a copy of what is made here,
 * from the same schema code that the store checks it with.
 *
 * usage: mktemplate OUT.c
 */
#include "store/schema.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

static bool make_database(const char *path)
{
    sqlite3 *db = NULL;
    bool made = false;

    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "unix") ==
            SQLITE_OK &&
        schema_create(db) == SQLITE_OK &&
        sqlite3_exec(db, "PRAGMA wal_checkpoint(TRUNCATE)", NULL, NULL, NULL) == SQLITE_OK)
        made = true;
    else
        fprintf(stderr, "mktemplate: SQLite cannot make %s: %s\n", path, sqlite3_errmsg(db));
    if (sqlite3_close(db) != SQLITE_OK)
        made = false;
    return made;
}

static bool write_source(FILE *in, FILE *out)
{
    unsigned char page[SCHEMA_PAGE_SIZE];
    size_t pages = 0;

    fputs("/* Made by mktemplate: an empty maildrop, to be copied. */\n"
          "#include \"store/files.h\"\n\n"
          "const unsigned char maildrop_template[] = {",
          out);
    for (; fread(page, sizeof(page), 1, in) == 1; pages++) {
        for (size_t i = 0; i < sizeof(page); i++)
            fprintf(out, "%s%u,", i % 24 == 0 ? "\n    " : "", page[i]);
    }
    fputs("\n};\nconst size_t maildrop_template_size = sizeof(maildrop_template);\n", out);
    return pages > 0 && !ferror(in) && !ferror(out);
}

int main(int argc, char **argv)
{
    char path[PATH_MAX];
    FILE *in = NULL, *out = NULL;
    int fd, status = EX_CANTCREAT;

    if (argc != 2) {
        fprintf(stderr, "usage: mktemplate OUT.c\n");
        return EX_USAGE;
    }
    snprintf(path, sizeof path, "%s.XXXXXX", argv[1]);
    fd = mkstemp(path);
    if (fd < 0) {
        fprintf(stderr, "mktemplate: %s: %s\n", path, strerror(errno));
        return EX_CANTCREAT;
    }
    if (make_database(path) && (in = fdopen(fd, "rb")) && (out = fopen(argv[1], "w")) &&
        write_source(in, out) && fclose(out) == 0)
        status = EX_OK;
    else
        fprintf(stderr, "mktemplate: cannot write %s\n", argv[1]);
    unlink(path);
    return status;
}
