/*
 * place.h - where a test program works: one directory of its own, and configurations that have to
 * be right. For tests.
 *
 *     assert_true(place_make("/tmp", 0755));
 *     place_put("pam.d/other", "auth required %s\n", module);
 *     must_set(config, "auth", "", "pam_confdir", in_place("pam.d"));
 *     place_remove();
 */
#ifndef POPLAR_TESTS_PLACE_H
#define POPLAR_TESTS_PLACE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/base.h"
#include "daemon/config.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PLACE_PATHS = 256, PLACE_PATH_MAX = 128 };

static char place[32];                                /* its path */
static char place_paths[PLACE_PATHS][PLACE_PATH_MAX]; /* what in_place() gave away */

/* Make it below `parent`, for those whom `mode` lets in. On false errno tells why. */
static inline bool place_make(const char *parent, mode_t mode)
{
    snprintf(place, sizeof place, "%s/poplar-test-XXXXXX", parent);
    return mkdtemp(place) && chmod(place, mode) == 0;
}

/* The path of something in it, there or not; stays good until place_remove(). */
static inline const char *in_place(const char *name)
{
    size_t before = strlen(place) + 1, i = 0;
    while (i < PLACE_PATHS && place_paths[i][0] && strcmp(place_paths[i] + before, name) != 0)
        i++;
    assert_true(i < PLACE_PATHS);
    assert_true(snprintf(place_paths[i], PLACE_PATH_MAX, "%s/%s", place, name) < PLACE_PATH_MAX);
    return place_paths[i];
}

/* Write a text into a file of it; its path, as in_place() gives it. */
static inline const char *place_put(const char *name, const char *format, ...) PRINTF(2, 3);

static inline const char *place_put(const char *name, const char *format, ...)
{
    va_list arguments;
    FILE *file = fopen(in_place(name), "we");
    assert_non_null(file);
    va_start(arguments, format);
    vfprintf(file, format, arguments);
    va_end(arguments);
    assert_int_equal(fclose(file), 0);
    return in_place(name);
}

static inline int place_remove_one(const char *path, const struct stat *status, int type,
                                   struct FTW *walk)
{
    (void)status, (void)type, (void)walk;
    return remove(path);
}

/* Remove a directory with all that is in it; 0 if it was there and is gone. */
static inline int remove_tree(const char *path)
{
    return nftw(path, place_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline int place_remove(void)
{
    memset(place_paths, 0, sizeof place_paths);
    return remove_tree(place);
}

/* For cmocka. */
static inline int leave_place(void **state)
{
    (void)state;
    return place_remove();
}

static unsigned place_found;         /* by the walk below */
static const char *place_looked_for; /* and for what */

static inline int place_look_at(const char *path, const struct stat *status, int type,
                                struct FTW *walk)
{
    (void)status, (void)type;
    place_found += strncmp(path + walk->base, place_looked_for, strlen(place_looked_for)) == 0;
    return 0;
}

/* How many names in a directory, and in those below it, begin like this. */
static inline unsigned count_in_tree(const char *path, const char *beginning)
{
    place_found = 0;
    place_looked_for = beginning;
    nftw(path, place_look_at, 16, FTW_PHYS);
    return place_found;
}

/* The path of what was built beside this program; good until the next call. */
static inline const char *beside_program(const char *name)
{
    static char path[1024];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    assert_true(size > 0);
    path[size] = '\0';
    char *after = strrchr(path, '/') + 1;
    snprintf(after, (size_t)(path + sizeof path - after), "%s", name);
    return path;
}

/* Give a setting its value, which it must take. */
static inline void must_set(struct config *config, const char *section, const char *name,
                            const char *key, const char *value)
{
    char error[300];
    if (!config_set(config, section, name, key, value, error, sizeof error))
        fail_msg("%s", error);
}

#endif
