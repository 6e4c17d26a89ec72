/*
 * test_store.h - a maildrop in a temporary directory, for the store's unit tests.
 *
 * Made from the same template, with the same four files, as auth makes it. A test may run itself
 * again as "an outside SQLite": a process that knows nothing of Poplar's locks.
 */
#ifndef POPLAR_TESTS_TEST_STORE_H
#define POPLAR_TESTS_TEST_STORE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/maildrop.h"
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct test_drop {
    char folder[40];
};

static inline void test_drop_path(const struct test_drop *drop, enum maildrop_file file,
                                  char path[80])
{
    snprintf(path, 80, "%s/%s", drop->folder, maildrop_file_names[file]);
}

static inline void test_write_file(const char *path, const void *octets, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, octets, size), size);
    close(fd);
}

static inline void test_drop_make(struct test_drop *drop)
{
    char path[80];

    strcpy(drop->folder, "/tmp/poplar-store-XXXXXX");
    assert_non_null(mkdtemp(drop->folder));
    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        test_drop_path(drop, (enum maildrop_file)i, path);
        test_write_file(path, maildrop_template, i == MAILDROP_DB ? maildrop_template_size : 0);
    }
}

static inline void test_drop_remove(const struct test_drop *drop)
{
    char path[80];

    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        test_drop_path(drop, (enum maildrop_file)i, path);
        unlink(path);
    }
    assert_int_equal(rmdir(drop->folder), 0);
}

/* What auth does, without its checks: -wal and -shm are made again when they are gone. */
static inline void test_drop_grant(const struct test_drop *drop, int fds[MAILDROP_FILES])
{
    char path[80];

    for (unsigned i = 0; i < MAILDROP_FILES; i++) {
        test_drop_path(drop, (enum maildrop_file)i, path);
        fds[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fds[i] >= 0);
    }
}

static inline void test_drop_give_back(const int fds[MAILDROP_FILES])
{
    for (unsigned i = 0; i < MAILDROP_FILES; i++)
        close(fds[i]);
}

static inline enum store_outcome test_drop_try(const struct test_drop *drop, struct maildrop **m)
{
    int fds[MAILDROP_FILES];

    test_drop_grant(drop, fds);
    return maildrop_open(fds, m);
}

static inline struct maildrop *test_drop_open(const struct test_drop *drop)
{
    struct maildrop *m = NULL;
    const enum store_outcome outcome = test_drop_try(drop, &m);

    if (outcome != STORE_OK)
        fail_msg("open: %s: %s", maildrop_outcome_name(outcome), maildrop_error(NULL));
    return m;
}

static inline int64_t test_drop_file_size(const struct test_drop *drop, enum maildrop_file file)
{
    struct stat status;
    char path[80];

    test_drop_path(drop, file, path);
    return stat(path, &status) == 0 ? (int64_t)status.st_size : -1;
}

/* A source over memory that hands out at most `step` octets at a time; fails at `fail_at` if that
 * is not 0. */
struct test_text {
    const char *octets;
    size_t size, step, position, fail_at;
};

static inline ssize_t test_text_read(void *context, void *buffer, size_t size)
{
    struct test_text *text = context;
    size_t n = text->size - text->position;

    if (text->fail_at > 0 && text->position >= text->fail_at)
        return -1;
    if (n > size)
        n = size;
    if (text->step > 0 && n > text->step)
        n = text->step;
    memcpy(buffer, text->octets + text->position, n);
    text->position += n;
    return (ssize_t)n;
}

static inline enum store_outcome test_deliver(struct maildrop *m, const char *octets, size_t size,
                                              int64_t *id)
{
    struct test_text text = {.octets = octets, .size = size};

    return maildrop_deliver(m, &(struct maildrop_delivery){0}, test_text_read, &text, id);
}

static inline enum store_outcome test_deliver_text(struct maildrop *m, const char *text)
{
    return test_deliver(m, text, strlen(text), NULL);
}

static inline struct maildrop_totals test_totals(struct maildrop *m)
{
    struct maildrop_totals totals = {0};

    assert_int_equal(maildrop_totals(m, &totals), STORE_OK);
    return totals;
}

static inline struct maildrop_snapshot *test_snapshot(struct maildrop *m)
{
    const struct maildrop_totals totals = test_totals(m);
    struct maildrop_snapshot *snapshot = NULL;
    const enum store_outcome outcome = maildrop_snapshot(m, &totals, &snapshot);

    if (outcome != STORE_OK)
        fail_msg("snapshot: %s: %s", maildrop_outcome_name(outcome), maildrop_error(m));
    return snapshot;
}

/* The UIDL of a message, good until the fourth call from here. */
static inline const char *test_uidl(const struct maildrop_snapshot *snapshot, size_t index)
{
    static char uidls[4][MAILDROP_UIDL_MAX + 1];
    static unsigned turn;
    const struct maildrop_entry entry = maildrop_snapshot_entry(snapshot, index);
    char *uidl = uidls[turn++ % 4];

    const size_t length = maildrop_entry_uidl(&entry, uidl);

    assert_int_equal(length, strlen(uidl));
    return uidl;
}

/* Run this program again with arguments and return its exit status. */
static inline int test_run_self(const char *first, const char *second, const char *third)
{
    int status = 0;
    const pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        /* By its path: under valgrind the link itself leads to valgrind. */
        char self[4096] = "";

        if (readlink("/proc/self/exe", self, sizeof(self) - 1) > 0)
            execl(self, "test", first, second, third, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The outside SQLite: opens a database by its path, runs some SQL, closes. */
static inline int test_outside_sqlite(const char *path, const char *sql)
{
    sqlite3 *db = NULL;
    int status = 0;

    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix") != SQLITE_OK ||
        sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fprintf(stderr, "outside: %s\n", sqlite3_errmsg(db));
        status = 1;
    }
    if (sqlite3_close(db) != SQLITE_OK)
        status = 1;
    return status;
}

/* First in the main() of a program whose tests call for it: where it was run as the outside SQLite,
 * it is that, and ends. */
static inline void test_be_outside(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "outside") == 0)
        exit(test_outside_sqlite(argv[2], argv[3]));
}

/* Makes a maildrop one of the first minor version: without what the later ones added. */
#define TEST_VERSION_1_0                                                                           \
    "DROP TABLE setting; DROP TABLE imported; ALTER TABLE message DROP COLUMN digest;"             \
    "DROP TABLE listing;"                                                                          \
    "PRAGMA user_version=65536"

/* Have it run some SQL, on a file or on a maildrop's. */
static inline void test_outside_at(const char *path, const char *sql)
{
    assert_int_equal(test_run_self("outside", path, sql), 0);
}

static inline void test_outside(const struct test_drop *drop, const char *sql)
{
    char path[80];

    test_drop_path(drop, MAILDROP_DB, path);
    test_outside_at(path, sql);
}

/* The same, also where the schema would not have it. */
static inline void test_spoil(const struct test_drop *drop, const char *sql)
{
    char all[600];

    snprintf(all, sizeof(all), "PRAGMA ignore_check_constraints=ON; %s", sql);
    test_outside(drop, all);
}

#endif
