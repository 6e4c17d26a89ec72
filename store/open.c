/*
 * open.c - opening a maildrop: what its files must be, the connection to them, the schema brought
 * up to date.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never show a damaged
 * maildrop as an empty one: its clients would forget what they have seen.
 */
#include "store/connection.h"
#include "store/handle.h"
#include "store/listing.h"
#include "store/schema.h"
#include "store/vfs.h"
#include "store/warm.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HEADER_SIZE = 100, /* octets of the database header, sqlite.org/fileformat.html 1.3 */
    SMALLEST_PAGE = 512,
    HEADER_WRITE_VERSION = 18,
    HEADER_READ_VERSION = 19,
    HEADER_WAL = 2,
    WAL_LEFT_OVER = 2 << 20, /* octets of -wal from which an opener cleans up after another */
};

/* The words of an open that failed, when there is no handle to keep them. */
static char open_error[sizeof(((struct maildrop *)NULL)->error)];

/* SQLite takes an empty file for an empty database, and one that is not in WAL mode for one that
 * it may journal beside. Neither is a maildrop; find out before SQLite touches it. */
static enum store_outcome check_header(struct maildrop *m)
{
    unsigned char header[HEADER_SIZE];
    const ssize_t got = vfs_peek(header, sizeof(header));

    if (got < 0)
        return handle_fail(m, STORE_IO, "mail.db cannot be read: %s", strerror(errno));
    if (got < HEADER_SIZE)
        return handle_fail(m, STORE_DAMAGED, "mail.db is %s", got == 0 ? "empty" : "cut short");
    if (memcmp(header, VFS_MAGIC, sizeof(VFS_MAGIC)) != 0)
        return handle_fail(m, STORE_DAMAGED, "mail.db is not an SQLite database");
    if (header[HEADER_WRITE_VERSION] != HEADER_WAL || header[HEADER_READ_VERSION] != HEADER_WAL)
        return handle_fail(m, STORE_DAMAGED, "mail.db is not in WAL mode");
    const int64_t size = vfs_file_size(MAILDROP_DB);
    if (size < 0)
        return handle_fail(m, STORE_IO, "mail.db has no size: %s", strerror(errno));
    /* SQLite counts a part of a page as a page. While a WAL is there it may put that right. */
    if (vfs_file_size(MAILDROP_WAL) == 0 && size % SMALLEST_PAGE != 0)
        return handle_fail(m, STORE_DAMAGED, "mail.db is cut short");
    return STORE_OK;
}

static enum store_outcome check_schema(struct maildrop *m)
{
    int rc = SQLITE_OK;
    const enum store_outcome outcome = schema_check(m->db, &rc);

    if (rc != SQLITE_OK)
        return handle_outcome(m, rc);
    if (outcome == STORE_NEWER)
        return handle_fail(m, outcome, "mail.db was written by a newer version of Poplar");
    if (outcome == STORE_DAMAGED)
        return handle_fail(m, outcome, "mail.db is not a maildrop");
    if (outcome == STORE_REFUSED)
        return handle_fail(m, outcome, "SQLite does not take a setting that the store needs");
    return outcome;
}

static enum store_outcome upgrade(struct maildrop *m)
{
    enum store_outcome outcome = handle_begin_write(m);
    const int before = m->minor; /* as it is under the lock */

    if (outcome != STORE_OK)
        return outcome;
    if (before < SCHEMA_MINOR) {
        outcome = handle_outcome(m, schema_upgrade(m->db, before));
        m->minor = SCHEMA_MINOR;
    }
    if (outcome == STORE_OK && before < 3)
        outcome = listing_fill(m);
    outcome = handle_end_write(m, outcome);
    if (outcome != STORE_OK)
        m->minor = before;
    return outcome;
}

/* An older minor version lacks tables: add them, unless somebody else just did. Where there is no
 * room or no time for it the maildrop is served as it is, and the next opener tries again. */
static enum store_outcome bring_up_to_date(struct maildrop *m)
{
    const enum store_outcome outcome = m->minor < SCHEMA_MINOR ? upgrade(m) : STORE_OK;

    return outcome == STORE_BUSY || outcome == STORE_FULL ? STORE_OK : outcome;
}

static enum store_outcome open_cold(struct maildrop *m)
{
    enum store_outcome outcome;

    if ((outcome = connection_open(m)) != STORE_OK || (outcome = check_schema(m)) != STORE_OK)
        return outcome;
    connection_watch_wal(m);
    return handle_outcome(m, schema_minor(m->db, &m->minor));
}

static enum store_outcome open_database(struct maildrop *m, bool warm)
{
    enum store_outcome outcome = check_header(m);

    if (outcome != STORE_OK || !warm)
        return outcome != STORE_OK ? outcome : open_cold(m);
    if ((outcome = warm_check(m)) != STORE_REFUSED)
        return outcome;
    connection_close(m);
    m->schema = 0;
    return open_cold(m);
}

/* A large WAL that somebody left behind makes every opening slow: the first reads it all. */
static void clean_up_wal(struct maildrop *m)
{
    if (vfs_file_size(MAILDROP_WAL) >= WAL_LEFT_OVER)
        handle_checkpoint_if_free(m);
}

/* Whether -shm lists frames of a -wal that is not there any more: somebody opened the two while an
 * outside SQLite removed them, and another process keeps the list. Whoever opens -shm alone makes
 * it anew. */
static bool is_index_of_another_wal(const struct maildrop *m)
{
    return m->db && sqlite3_extended_errcode(m->db) == SQLITE_IOERR_SHORT_READ &&
           vfs_file_size(MAILDROP_WAL) == 0;
}

enum store_outcome maildrop_open(const int files[MAILDROP_FILES], struct maildrop **opened)
{
    struct maildrop_totals totals;
    struct maildrop *m = warm_take(files);
    const bool warm = m != NULL;
    enum store_outcome outcome = warm ? STORE_OK : vfs_grant(files);

    if (outcome != STORE_OK) {
        close(files[MAILDROP_LOCK]);
        snprintf(open_error, sizeof(open_error), "this process has a maildrop open already");
        return outcome;
    }
    if (!m)
        m = calloc(1, sizeof(*m));
    if (!m) {
        vfs_revoke();
        close(files[MAILDROP_LOCK]);
        snprintf(open_error, sizeof(open_error), "no memory");
        return STORE_MEMORY;
    }
    m->lock_fd = files[MAILDROP_LOCK];
    m->patience_ms = HANDLE_PATIENCE_MS;
    handle_begin_call(m);
    outcome = open_database(m, warm);
    if (outcome == STORE_OK && !warm) /* which has read already */
        outcome = handle_state(m, &totals);
    /* After the first read SQLite's lock on the database keeps every other opener from removing
     * -wal and -shm. If they went before, nobody else will ever see what is written to ours; and
     * whatever else seemed wrong came from reading them. */
    if (vfs_unlinked())
        outcome = handle_fail(m, STORE_STALE, "a file of the maildrop was removed or replaced");
    else if (outcome == STORE_DAMAGED && is_index_of_another_wal(m))
        outcome = handle_fail(m, STORE_STALE, "mail.db-shm belongs to a WAL that was removed");
    if (outcome == STORE_OK)
        outcome = bring_up_to_date(m);
    if (outcome != STORE_OK) {
        memcpy(open_error, m->error, sizeof(open_error));
        maildrop_close(m);
        return outcome;
    }
    clean_up_wal(m);
    *opened = m;
    return STORE_OK;
}

const char *maildrop_error(const struct maildrop *maildrop)
{
    return maildrop ? maildrop->error : open_error;
}
