/*
 * maildrop.c - the store's front: the library, opening and closing, totals, the list of messages.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never show a damaged
 * maildrop as an empty one, and never close a database file while another handle of the process
 * uses the same file.
 */
#include "store/handle.h"
#include "store/listing.h"
#include "store/lock.h"
#include "store/schema.h"
#include "store/vfs.h"
#include "store/walindex.h"
#include "store/warm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SQLITE_OLDEST = 3031000, /* trusted_schema */
    HEADER_SIZE = 100,       /* octets of the database header, sqlite.org/fileformat.html 1.3 */
    SMALLEST_PAGE = 512,
    HEADER_WRITE_VERSION = 18,
    HEADER_READ_VERSION = 19,
    HEADER_WAL = 2,
    WAL_LEFT_OVER = 2 << 20, /* octets of -wal from which an opener cleans up after another */
};

/* The words of an open that failed, when there is no handle to keep them. */
static char open_error[sizeof(((struct maildrop *)NULL)->error)];

static const char *const outcome_names[] = {
    [STORE_OK] = "ok",
    [STORE_END] = "end",
    [STORE_DAMAGED] = "damaged maildrop",
    [STORE_NEWER] = "maildrop of a newer version",
    [STORE_STALE] = "replaced files",
    [STORE_BUSY] = "maildrop busy",
    [STORE_FULL] = "disk full",
    [STORE_IO] = "disk failure",
    [STORE_OVER_QUOTA] = "over quota",
    [STORE_TOO_LARGE] = "message too large",
    [STORE_SOURCE] = "message source failed",
    [STORE_NOT_FOUND] = "no such message",
    [STORE_EXISTS] = "UIDL in use",
    [STORE_REFUSED] = "refused",
    [STORE_MEMORY] = "out of memory",
};

const char *maildrop_outcome_name(enum store_outcome outcome)
{
    const size_t n = sizeof(outcome_names) / sizeof(outcome_names[0]);

    return (size_t)outcome < n ? outcome_names[outcome] : "unknown";
}

enum store_outcome maildrop_library_init(bool granted_only)
{
    static bool initialised;

    if (!initialised) {
        if (sqlite3_libversion_number() < SQLITE_OLDEST || sqlite3_compileoption_used("OMIT_WAL") ||
            sqlite3_config(SQLITE_CONFIG_SINGLETHREAD) != SQLITE_OK ||
            sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) != SQLITE_OK ||
            /* Pages one by one, as they are needed: most sessions need five. */
            sqlite3_config(SQLITE_CONFIG_PAGECACHE, NULL, 0, 0) != SQLITE_OK ||
            sqlite3_initialize() != SQLITE_OK)
            return STORE_REFUSED;
        initialised = true;
    }
    return vfs_install(granted_only);
}

void maildrop_library_forget(void)
{
    sqlite3_randomness(0, NULL);
}

/* SQLite's busy handler: sleeps in growing steps until the call's deadline. */
static int wait_for_others(void *context, int count)
{
    const struct maildrop *m = context;

    if (lock_clock() >= m->deadline)
        return 0;
    lock_sleep(count < 5 ? 1u << count : 25u);
    return 1;
}

/* The next who opens need not read the WAL, of which all was synced just now. */
static void vouch(sqlite3 *db, uint32_t frames)
{
    sqlite3_file *file = NULL;
    void volatile *index = NULL;

    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK &&
        file->pMethods->xShmMap(file, 0, WALINDEX_REGION, 0, &index) == SQLITE_OK && index)
        walindex_vouch((void *)index, frames);
}

static int note_wal_frames(void *context, sqlite3 *db, const char *name, int frames)
{
    struct maildrop *m = context;

    (void)db;
    (void)name;
    m->wal_frames = frames;
    vouch(db, (uint32_t)frames);
    return SQLITE_OK;
}

/* SQLite takes an empty file for an empty database, and one that is not in WAL mode for one that
 * it may journal beside. Neither is a maildrop; find out before SQLite touches it. */
static enum store_outcome check_header(struct maildrop *m)
{
    unsigned char header[HEADER_SIZE];
    const ssize_t got = vfs_peek(header, sizeof(header));

    if (got < 0)
        return handle_fail(m, STORE_IO, "mail.db cannot be read");
    if (got < HEADER_SIZE)
        return handle_fail(m, STORE_DAMAGED, "mail.db is %s", got == 0 ? "empty" : "cut short");
    if (memcmp(header, VFS_MAGIC, sizeof(VFS_MAGIC)) != 0)
        return handle_fail(m, STORE_DAMAGED, "mail.db is not an SQLite database");
    if (header[HEADER_WRITE_VERSION] != HEADER_WAL || header[HEADER_READ_VERSION] != HEADER_WAL)
        return handle_fail(m, STORE_DAMAGED, "mail.db is not in WAL mode");
    /* SQLite counts a part of a page as a page. While a WAL is there it may put that right. */
    if (vfs_file_size(MAILDROP_WAL) == 0 && vfs_file_size(MAILDROP_DB) % SMALLEST_PAGE != 0)
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

enum store_outcome handle_connect(struct maildrop *m)
{
    const char *name = maildrop_file_names[MAILDROP_DB];
    char path[sizeof(VFS_FOLDER) + 16];
    int rc;

    snprintf(path, sizeof(path), "%s%s", VFS_FOLDER, name);
    rc = sqlite3_open_v2(path, &m->db, SQLITE_OPEN_READWRITE, VFS_NAME);
    if (!m->db)
        return handle_fail(m, STORE_MEMORY, "no memory for SQLite");
    if (rc != SQLITE_OK)
        return handle_outcome(m, rc);
    sqlite3_extended_result_codes(m->db, 1);
    sqlite3_busy_handler(m->db, wait_for_others, m);
    if (schema_harden(m->db) != STORE_OK)
        return handle_fail(m, STORE_REFUSED, "SQLite does not take a setting the store needs");
    return STORE_OK;
}

void handle_watch_wal(struct maildrop *m)
{
    sqlite3_wal_hook(m->db, note_wal_frames, m);
}

static enum store_outcome open_cold(struct maildrop *m)
{
    enum store_outcome outcome;

    if ((outcome = handle_connect(m)) != STORE_OK || (outcome = check_schema(m)) != STORE_OK)
        return outcome;
    handle_watch_wal(m);
    return handle_outcome(m, schema_minor(m->db, &m->minor));
}

static void disconnect(struct maildrop *m)
{
    for (size_t i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(m->statements[i]);
    memset(m->statements, 0, sizeof(m->statements));
    sqlite3_close(m->db);
    m->db = NULL;
}

static enum store_outcome open_database(struct maildrop *m, bool warm)
{
    enum store_outcome outcome = check_header(m);

    if (outcome != STORE_OK || !warm)
        return outcome != STORE_OK ? outcome : open_cold(m);
    if ((outcome = warm_check(m)) != STORE_REFUSED)
        return outcome;
    disconnect(m);
    m->schema = 0;
    return open_cold(m);
}

/* Not worth waiting for. */
static void checkpoint_if_free(struct maildrop *m)
{
    if (lock_acquire(m->lock_fd, MAILDROP_LOCK_WRITE, 0) != STORE_OK)
        return;
    handle_checkpoint(m);
    lock_release(m->lock_fd, MAILDROP_LOCK_WRITE);
}

/* A large WAL that somebody left behind makes every opening slow: the first reads it all. */
static void clean_up_wal(struct maildrop *m)
{
    if (vfs_file_size(MAILDROP_WAL) >= WAL_LEFT_OVER)
        checkpoint_if_free(m);
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

void maildrop_rest(struct maildrop *maildrop)
{
    (void)maildrop; /* there is one at a time */
    vfs_note();
}

enum store_outcome maildrop_resume(struct maildrop *maildrop)
{
    if (maildrop->disk_failed) /* in a checkpoint: what was committed before it is there */
        return handle_fail(maildrop, STORE_STALE, "an earlier write failed");
    return vfs_is_as_noted()
               ? STORE_OK
               : handle_fail(maildrop, STORE_STALE, "somebody else wrote to the maildrop");
}

/* Whoever passed the descriptor on may have it for a moment longer. */
static void give_lock_back(const struct maildrop *m)
{
    lock_release(m->lock_fd, MAILDROP_LOCK_SESSION);
    close(m->lock_fd);
}

void maildrop_close(struct maildrop *maildrop)
{
    if (!maildrop)
        return;
    disconnect(maildrop);
    vfs_revoke();
    give_lock_back(maildrop);
    free(maildrop);
}

/* What a WAL holds every opener reads anew, and makes its index from: more work than the rest of a
 * session that only looks for mail. The first that changes nothing spares those that follow. */
static void fold_wal(struct maildrop *m)
{
    const bool changed = m->wal_frames > 0;

    if (!changed && !m->disk_failed && m->db && vfs_file_size(MAILDROP_WAL) > 0)
        checkpoint_if_free(m);
}

void maildrop_leave(struct maildrop *maildrop)
{
    if (!maildrop)
        return;
    fold_wal(maildrop);
    vfs_revoke();
    give_lock_back(maildrop);
}

const char *maildrop_error(const struct maildrop *maildrop)
{
    return maildrop ? maildrop->error : open_error;
}

enum store_outcome maildrop_totals(struct maildrop *maildrop, struct maildrop_totals *totals)
{
    handle_begin_call(maildrop);
    return handle_state(maildrop, totals);
}

enum store_outcome maildrop_pop3_off(struct maildrop *maildrop, bool *off)
{
    int64_t value = 1;
    handle_begin_call(maildrop);
    const enum store_outcome outcome = handle_setting(maildrop, MAILDROP_POP3, &value);
    if (outcome != STORE_OK && outcome != STORE_END)
        return outcome;
    *off = outcome == STORE_OK && value == 0;
    return STORE_OK;
}

enum store_outcome maildrop_next(struct maildrop *maildrop, int64_t after,
                                 struct maildrop_message *message)
{
    struct maildrop_message found = {0};
    int64_t size = 0, header_size = 0;
    enum store_outcome outcome;
    sqlite3_stmt *statement;
    bool sound;

    handle_begin_call(maildrop);
    if ((outcome = handle_prepare(maildrop, STATEMENT_NEXT, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, after);
    if ((outcome = handle_step(maildrop, statement)) != STORE_OK)
        return outcome;
    sound = handle_column(statement, 0, &found.id) && handle_column(statement, 1, &size) &&
            handle_column(statement, 2, &header_size) && header_size <= size &&
            handle_column(statement, 3, &found.received) &&
            handle_column(statement, 4, &found.retrieved) &&
            handle_column(statement, 5, &found.deleted) &&
            handle_column_uidl(statement, 6, found.uidl) && found.id > after;
    sqlite3_reset(statement);
    if (!sound)
        return handle_fail(maildrop, STORE_DAMAGED, "the row after message %lld is no message",
                           (long long)after);
    found.size = (uint64_t)size;
    found.header_size = (uint64_t)header_size;
    *message = found;
    return STORE_OK;
}
