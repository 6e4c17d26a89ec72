/*
 * backup.c - a maildrop in a plain file: written while the maildrop is in use, read, put back.
 *
 * Runs in poplarctl only. SQLite copies page by page between two connections. It must never copy
 * two moments into one file, and never write to a maildrop outside the write lock.
 */
#include "store/backup.h"
#include "store/connection.h"
#include "store/handle.h"
#include "store/lock.h"
#include "store/schema.h"
#include "store/vfs.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    STEP_PAGES = 256,  /* copied between two reports of progress */
    PATH_OCTETS = 4096 /* of a file name, and its form as a URI */
};

/* Copy all pages. SQLite's result code, SQLITE_ABORT if `progress` wants no more. */
static int copy_pages(sqlite3 *to, sqlite3 *from, backup_progress *progress, void *context)
{
    sqlite3_backup *copy = sqlite3_backup_init(to, "main", from, "main");
    bool go_on = true;
    int rc = copy ? SQLITE_OK : sqlite3_errcode(to), finished;

    if (!copy)
        return rc == SQLITE_OK ? SQLITE_ERROR : rc; /* no copy is none, whatever that says */
    while (go_on && (rc = sqlite3_backup_step(copy, STEP_PAGES)) == SQLITE_OK) {
        const int pages = sqlite3_backup_pagecount(copy);

        if (progress)
            go_on = progress(context, (uint64_t)(pages - sqlite3_backup_remaining(copy)),
                             (uint64_t)pages);
    }
    finished = sqlite3_backup_finish(copy);
    if (!go_on)
        return SQLITE_ABORT;
    return rc == SQLITE_DONE ? finished : rc;
}

/* The other side of a copy failed: its own words, and no blame on the maildrop. */
static enum store_outcome fail_file(struct maildrop *m, sqlite3 *db, int rc)
{
    switch (rc & 0xff) {
    case SQLITE_ABORT:
        return handle_fail(m, STORE_SOURCE, "interrupted");
    case SQLITE_FULL:
        return handle_fail(m, STORE_FULL, "no space for the copy");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return handle_fail(m, STORE_DAMAGED, "%s", sqlite3_errmsg(db));
    default:
        return handle_fail(m, STORE_IO, "%s", sqlite3_errmsg(db));
    }
}

static bool is_opened(const char *path)
{
    return strncmp(path, VFS_OPENED, strlen(VFS_OPENED)) == 0;
}

enum store_outcome backup_write(struct maildrop *maildrop, const char *path,
                                backup_progress *progress, void *context)
{
    struct maildrop_totals totals;
    sqlite3 *file = NULL;
    enum store_outcome outcome = STORE_OK;
    int rc =
        sqlite3_open_v2(path, &file, SQLITE_OPEN_READWRITE, is_opened(path) ? VFS_NAME : "unix");

    /* Nobody else has this file, and one that is not finished is thrown away. */
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(file, "PRAGMA journal_mode=OFF;PRAGMA synchronous=OFF", NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        outcome = fail_file(maildrop, file, rc);
        goto out;
    }
    /* A read transaction over the whole copy: without one a delivery in between would make SQLite
     * begin again, and a busy maildrop would never be saved. */
    handle_begin_call(maildrop);
    if ((outcome = handle_run(maildrop, STATEMENT_BEGIN_READ)) != STORE_OK ||
        (outcome = handle_state(maildrop, &totals)) != STORE_OK)
        goto out;
    rc = copy_pages(file, maildrop->db, progress, context);
    if (rc != SQLITE_OK)
        outcome = fail_file(maildrop, file, rc);
out:
    if (!sqlite3_get_autocommit(maildrop->db))
        sqlite3_exec(maildrop->db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(file);
    return outcome;
}

/* A path as SQLite takes it with parameters: what is special in a URI is encoded. */
static bool make_uri(const char *path, const char *parameters, char uri[PATH_OCTETS])
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-";
    size_t used = (size_t)snprintf(uri, PATH_OCTETS, "file:");

    for (; *path && used + 4 < PATH_OCTETS; path++)
        used += (size_t)snprintf(uri + used, PATH_OCTETS - used,
                                 strchr(plain, *path) ? "%c" : "%%%02X", (unsigned char)*path);
    if (*path || used + strlen(parameters) >= PATH_OCTETS)
        return false;
    memcpy(uri + used, parameters, strlen(parameters) + 1);
    return true;
}

/* Octets of the WAL beside it; -1 and errno. */
static int64_t wal_size(const char *path)
{
    char wal[PATH_OCTETS];
    struct stat status;

    if (snprintf(wal, sizeof(wal), "%s-wal", path) >= (int)sizeof(wal)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (stat(wal, &status) < 0)
        return errno == ENOENT ? 0 : -1;
    return status.st_size;
}

static enum store_outcome open_file(struct maildrop *m, const char *path)
{
    struct maildrop_totals totals;
    char uri[PATH_OCTETS];
    enum store_outcome outcome;
    const bool opened = is_opened(path);
    const int64_t changes = opened ? 0 : wal_size(path);
    const bool wal = changes > 0;
    int rc;

    if (changes < 0)
        return handle_fail(m, STORE_IO, "the WAL beside it: %s", strerror(errno));
    /* Without a WAL there is nothing that could change: SQLite makes no files beside it, and obeys
     * none. */
    if (!make_uri(path, wal ? "" : "?immutable=1", uri))
        return handle_fail(m, STORE_IO, "the name is too long");
    rc = sqlite3_open_v2(uri, &m->db,
                         SQLITE_OPEN_URI | (wal ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY),
                         opened ? VFS_NAME : "unix");
    if (!m->db)
        return handle_fail(m, STORE_MEMORY, "no memory for SQLite");
    if (rc != SQLITE_OK)
        return handle_outcome(m, rc);
    sqlite3_extended_result_codes(m->db, 1);
    if (schema_harden(m->db) != STORE_OK)
        return handle_fail(m, STORE_REFUSED, "SQLite does not take a setting the store needs");
    outcome = schema_identify(m->db, &rc);
    if (rc != SQLITE_OK)
        return handle_outcome(m, rc);
    if (outcome == STORE_NEWER)
        return handle_fail(m, outcome, "it was written by a newer version of Poplar");
    if (outcome != STORE_OK)
        return handle_fail(m, outcome, "it is not a maildrop");
    outcome = handle_outcome(m, schema_minor(m->db, &m->minor));
    return outcome == STORE_OK ? handle_state(m, &totals) : outcome;
}

enum store_outcome backup_open(const char *path, struct maildrop **opened, char *error,
                               size_t error_size)
{
    struct maildrop *m = calloc(1, sizeof(*m));
    enum store_outcome outcome;

    if (!m) {
        snprintf(error, error_size, "no memory");
        return STORE_MEMORY;
    }
    m->lock_fd = -1;
    m->disk_failed = true; /* nothing may be written */
    outcome = open_file(m, path);
    if (outcome == STORE_OK) {
        *opened = m;
        return STORE_OK;
    }
    snprintf(error, error_size, "%s", m->error);
    backup_close(m);
    return outcome;
}

void backup_close(struct maildrop *backup)
{
    if (!backup)
        return;
    connection_close(backup);
    free(backup);
}

enum store_outcome backup_restore(struct maildrop *maildrop, struct maildrop *backup,
                                  backup_progress *progress, void *context)
{
    enum store_outcome outcome;
    int rc;

    handle_begin_call(maildrop);
    outcome = lock_acquire(maildrop->lock_fd, MAILDROP_LOCK_WRITE, maildrop->deadline);
    if (outcome != STORE_OK)
        return handle_fail(maildrop, outcome, "the write lock is held by another");
    rc = copy_pages(maildrop->db, backup->db, progress, context);
    if (rc == SQLITE_ABORT)
        outcome = handle_fail(maildrop, STORE_SOURCE, "interrupted");
    else if (rc != SQLITE_OK)
        outcome = handle_outcome(maildrop, rc);
    else
        handle_checkpoint(maildrop);
    if (outcome != STORE_OK) /* others may have use for the room */
        vfs_cut_wal();
    lock_release(maildrop->lock_fd, MAILDROP_LOCK_WRITE);
    return outcome;
}
