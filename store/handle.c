/*
 * handle.c - inside an open maildrop: statements, outcomes, transactions.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never commit or checkpoint
 * without the write lock, and never wait past the deadline of the call under way.
 */
#include "store/handle.h"
#include "store/lock.h"
#include "store/schema.h"
#include "store/vfs.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Who has had the write lock for a spell, with gaps that nobody could have found, lets others have
 * it first: an import, an expiry. Not at each commit: those who wait look now and then only, and
 * mail for one user from several sides would take twice the time. */
enum { SPELL_MS = 5, GAP_MS = 1 };

static const char *const statement_sql[STATEMENTS] = {
    [STATEMENT_BEGIN_READ] = "BEGIN",
    [STATEMENT_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ROLLBACK] = "ROLLBACK",
    [STATEMENT_SAVE] = "SAVEPOINT delivery",
    [STATEMENT_RELEASE] = "RELEASE delivery",
    [STATEMENT_UNDO] = "ROLLBACK TO delivery",
    [STATEMENT_STATE] =
        "SELECT messages, octets, plain_octets, last_id, guard FROM state WHERE one = 1",
    [STATEMENT_SET_STATE] = "UPDATE state SET messages = ?1, octets = ?2, plain_octets = ?3,"
                            " last_id = ?4, guard = ?5 WHERE one = 1",
    [STATEMENT_LOGIN] = "SELECT login FROM state WHERE one = 1",
    [STATEMENT_SET_LOGIN] = "UPDATE state SET login = ?1 WHERE one = 1",
    [STATEMENT_SNAPSHOT] = "SELECT id, size, plain_size, form, uidl FROM message"
                           " WHERE id BETWEEN ?1 AND ?2 AND deleted IS NULL ORDER BY id",
    [STATEMENT_GROUPS] = "SELECT first, entries FROM listing ORDER BY first",
    [STATEMENT_SET_GROUP] = "INSERT OR REPLACE INTO listing(first, entries) VALUES (?1, ?2)",
    [STATEMENT_DROP_GROUP] = "DELETE FROM listing WHERE first = ?1",
    [STATEMENT_DROP_GROUPS] = "DELETE FROM listing",
    [STATEMENT_DROP_EMPTY_GROUP] = "DELETE FROM listing WHERE first = ?1 AND length(entries) = 8",
    [STATEMENT_RETRIEVED] = "SELECT id FROM message WHERE id <= ?1 AND deleted IS NULL"
                            " AND retrieved IS NOT NULL ORDER BY id DESC LIMIT 1",
    [STATEMENT_NEXT] = "SELECT id, size, header_size, received, coalesce(retrieved, 0),"
                       " coalesce(deleted, 0), uidl FROM message WHERE id > ?1 ORDER BY id LIMIT 1",
    [STATEMENT_HEADER] = "SELECT header_size, size, plain_size, form FROM message WHERE id = ?1",
    [STATEMENT_CONTENT] = "SELECT message.size, chunk.content, message.header_size FROM message"
                          " LEFT JOIN chunk ON chunk.place = ?2 WHERE message.id = ?1",
    [STATEMENT_LIVE_SIZE] =
        "SELECT size, plain_size FROM message WHERE id = ?1 AND deleted IS NULL",
    [STATEMENT_MARK_RETRIEVED] = "UPDATE message SET retrieved = ?2 WHERE id = ?1",
    [STATEMENT_MARK_DELETED] = "UPDATE message SET deleted = ?2 WHERE id = ?1",
    [STATEMENT_DUE] = "SELECT id FROM message WHERE deleted IS NULL AND received < ?1"
                      " ORDER BY received LIMIT ?2",
    [STATEMENT_EXPIRED] = "SELECT id, size FROM message WHERE deleted IS NOT NULL AND deleted <= ?1"
                          " ORDER BY deleted LIMIT ?2",
    [STATEMENT_KEPT] = "SELECT deleted, id, size FROM message WHERE deleted IS NOT NULL"
                       " ORDER BY deleted, id",
    [STATEMENT_DATA_VERSION] = "PRAGMA data_version",
    [STATEMENT_REMOVE_CHUNKS] = "DELETE FROM chunk WHERE place BETWEEN ?1 AND ?2",
    [STATEMENT_REMOVE_MESSAGE] = "DELETE FROM message WHERE id = ?1",
    [STATEMENT_FREE_PAGES] = "PRAGMA freelist_count",
    [STATEMENT_VACUUM] = "PRAGMA incremental_vacuum(256)",
    [STATEMENT_HAS_UIDL] = "SELECT id FROM message WHERE uidl = ?1",
    [STATEMENT_ADD_CHUNK] = "INSERT INTO chunk(place, content) VALUES (?1, ?2)",
    [STATEMENT_ADD_MESSAGE] =
        "INSERT INTO message(id, uidl, size, plain_size, form, header_size,"
        " received, retrieved, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [STATEMENT_ADD_MESSAGE_1] = "INSERT INTO message(id, uidl, size, plain_size, form, header_size,"
                                " received, retrieved) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [STATEMENT_SETTING] = "SELECT value FROM setting WHERE name = ?1",
    [STATEMENT_APPLICATION] = "PRAGMA application_id",
    [STATEMENT_VERSION] = "PRAGMA user_version",
    [STATEMENT_SCHEMA] = "SELECT rootpage, name, sql FROM sqlite_master",
};

void handle_begin_call(struct maildrop *m)
{
    m->deadline = lock_clock() + m->patience_ms;
}

enum store_outcome handle_fail(struct maildrop *m, enum store_outcome outcome, const char *format,
                               ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(m->error, sizeof(m->error), format, arguments);
    va_end(arguments);
    return outcome;
}

/* The last that the system said of the database or of its WAL, if it is one of these; else 0. */
static int find_error(sqlite3 *db, int one, int other)
{
    static const int files[] = {SQLITE_FCNTL_FILE_POINTER, SQLITE_FCNTL_JOURNAL_POINTER};

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        sqlite3_file *file = NULL;
        int error = 0;

        sqlite3_file_control(db, "main", files[i], &file);
        if (file && file->pMethods)
            file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &error);
        if (error == one || error == other)
            return error;
    }
    return 0;
}

/* Whether it was for lack of room that the database, the WAL or its index could not be written:
 * SQLite itself tells ENOSPC apart in some places, EDQUOT in none. */
static bool is_out_of_space(sqlite3 *db)
{
    const int error = sqlite3_system_errno(db);

    return error == ENOSPC || error == EDQUOT || find_error(db, ENOSPC, EDQUOT) != 0;
}

/* SQLite takes it for damage when the disk cannot be read. */
static int failed_read(sqlite3 *db, int rc)
{
    return (rc & 0xff) == SQLITE_CORRUPT ? find_error(db, EIO, ENXIO) : 0;
}

/* SQLITE_IOERR is many things. */
static enum store_outcome io_outcome(sqlite3 *db)
{
    switch (sqlite3_extended_errcode(db)) {
    case SQLITE_IOERR_SHORT_READ:
        return STORE_DAMAGED;
    case SQLITE_IOERR_FSYNC: /* whatever the reason: what is on disk is unknown now */
        return STORE_IO;
    default:
        return is_out_of_space(db) ? STORE_FULL : STORE_IO;
    }
}

static enum store_outcome translate(sqlite3 *db, int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
        return STORE_OK;
    case SQLITE_DONE:
        return STORE_END;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
        return STORE_BUSY;
    case SQLITE_FULL:
        return STORE_FULL;
    case SQLITE_NOMEM:
        return STORE_MEMORY;
    case SQLITE_IOERR:
        return io_outcome(db);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT: /* our own checks and keys, broken by what is there already */
    case SQLITE_ERROR:      /* our statements are right: it is the schema that lacks something */
    case SQLITE_SCHEMA:
    case SQLITE_TOOBIG:
    case SQLITE_CANTOPEN: /* all files are open: a WAL of another kind, or it wants a journal */
        return STORE_DAMAGED;
    default:
        return STORE_IO;
    }
}

enum store_outcome handle_outcome(struct maildrop *m, int rc)
{
    const int unread = failed_read(m->db, rc);
    const enum store_outcome outcome = unread ? STORE_IO : translate(m->db, rc);

    if (outcome == STORE_OK || outcome == STORE_END)
        return outcome;
    /* A checkpoint's write may fail as well as a commit's. What the disk then holds is known
     * only to the next recovery: stop writing. */
    if (outcome == STORE_IO)
        m->disk_failed = true;
    return handle_fail(
        m, outcome, "%s (SQLite %d, errno %d)", unread ? strerror(unread) : sqlite3_errmsg(m->db),
        sqlite3_extended_errcode(m->db), unread ? unread : sqlite3_system_errno(m->db));
}

enum store_outcome handle_prepare(struct maildrop *m, enum statement which, sqlite3_stmt **ready)
{
    int rc = SQLITE_OK;

    if (!m->statements[which])
        rc = sqlite3_prepare_v3(m->db, statement_sql[which], -1, SQLITE_PREPARE_PERSISTENT,
                                &m->statements[which], NULL);
    *ready = m->statements[which];
    return rc == SQLITE_OK ? STORE_OK : handle_outcome(m, rc);
}

enum store_outcome handle_step(struct maildrop *m, sqlite3_stmt *statement)
{
    const enum store_outcome outcome = handle_outcome(m, sqlite3_step(statement));

    if (outcome != STORE_OK)
        sqlite3_reset(statement);
    return outcome;
}

enum store_outcome handle_step_to_message(struct maildrop *m, sqlite3_stmt *statement, int64_t id)
{
    const enum store_outcome outcome = handle_step(m, statement);

    if (outcome == STORE_END)
        return handle_fail(m, STORE_NOT_FOUND, "message %lld is not there", (long long)id);
    return outcome;
}

enum store_outcome handle_step_to_totals(struct maildrop *m, sqlite3_stmt *statement)
{
    const enum store_outcome outcome = handle_step(m, statement);

    if (outcome == STORE_END)
        return handle_fail(m, STORE_DAMAGED, "the totals row is missing");
    return outcome;
}

enum store_outcome handle_finish(struct maildrop *m, sqlite3_stmt *statement)
{
    enum store_outcome outcome;

    do {
        outcome = handle_step(m, statement);
    } while (outcome == STORE_OK);
    return outcome == STORE_END ? STORE_OK : outcome;
}

enum store_outcome handle_run(struct maildrop *m, enum statement which)
{
    sqlite3_stmt *statement;
    const enum store_outcome outcome = handle_prepare(m, which, &statement);

    return outcome == STORE_OK ? handle_finish(m, statement) : outcome;
}

/* A column is looked up once, for a list has a hundred thousand rows: with one thread, SQLite makes
 * no difference between its protected and unprotected values. */
bool handle_column(sqlite3_stmt *statement, int column, int64_t *value)
{
    sqlite3_value *found = sqlite3_column_value(statement, column);
    const int64_t number = sqlite3_value_int64(found);

    if (number < 0 || sqlite3_value_type(found) != SQLITE_INTEGER)
        return false;
    *value = number;
    return true;
}

/* Whether all of eight octets are 0x21 to 0x7E: no highest bit, none that one more gives it, none
 * that 0x21 less takes it from. */
static bool is_visible(uint64_t octets)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highest = ones << 7;

    return ((octets | (octets + ones) | ~((octets | highest) - ones * 0x21)) & highest) == 0;
}

bool handle_is_uidl(const void *octets, size_t size)
{
    const unsigned char *at = octets;
    uint64_t word, foreign = 0;
    size_t left = size;

    for (; left >= sizeof(word); at += sizeof(word), left -= sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        foreign |= !is_visible(word);
    }
    memset(&word, 'x', sizeof(word));
    memcpy(&word, at, left);
    return size >= 1 && size <= MAILDROP_UIDL_MAX && !foreign && is_visible(word);
}

bool handle_column_uidl(sqlite3_stmt *statement, int column, char uidl[MAILDROP_UIDL_MAX + 1])
{
    sqlite3_value *found = sqlite3_column_value(statement, column);
    const unsigned char *text;
    int length;

    if (sqlite3_value_type(found) != SQLITE_TEXT)
        return false;
    text = sqlite3_value_blob(found); /* as text it would be copied, for which memory may lack */
    length = sqlite3_value_bytes(found);
    if (!text || !handle_is_uidl(text, (size_t)length))
        return false;
    memcpy(uidl, text, (size_t)length);
    uidl[length] = '\0';
    return true;
}

enum store_outcome handle_state(struct maildrop *m, struct maildrop_totals *totals)
{
    struct maildrop_totals found;
    int64_t messages, octets, plain_octets, last_id, guard;
    enum store_outcome outcome;
    sqlite3_stmt *statement;
    bool sound;

    if ((outcome = handle_prepare(m, STATEMENT_STATE, &statement)) != STORE_OK ||
        (outcome = handle_step_to_totals(m, statement)) != STORE_OK)
        return outcome;
    sound = handle_column(statement, 0, &messages) && handle_column(statement, 1, &octets) &&
            handle_column(statement, 2, &plain_octets) && handle_column(statement, 3, &last_id) &&
            sqlite3_column_type(statement, 4) == SQLITE_INTEGER;
    guard = sqlite3_column_int64(statement, 4);
    sqlite3_reset(statement);
    if (!sound)
        return handle_fail(m, STORE_DAMAGED, "the totals row holds what are no counts");

    found = (struct maildrop_totals){.messages = (uint64_t)messages,
                                     .octets = (uint64_t)octets,
                                     .plain_octets = (uint64_t)plain_octets,
                                     .last_id = last_id};
    if (guard != schema_guard(&found))
        return handle_fail(m, STORE_DAMAGED, "the totals row contradicts its check value");
    *totals = found;
    return STORE_OK;
}

enum store_outcome handle_set_state(struct maildrop *m, const struct maildrop_totals *totals)
{
    sqlite3_stmt *statement;
    const enum store_outcome outcome = handle_prepare(m, STATEMENT_SET_STATE, &statement);

    if (outcome != STORE_OK)
        return outcome;
    m->kept_version = 0; /* what is no message any more is kept, or the other way round */
    sqlite3_bind_int64(statement, 1, (int64_t)totals->messages);
    sqlite3_bind_int64(statement, 2, (int64_t)totals->octets);
    sqlite3_bind_int64(statement, 3, (int64_t)totals->plain_octets);
    sqlite3_bind_int64(statement, 4, totals->last_id);
    sqlite3_bind_int64(statement, 5, schema_guard(totals));
    return handle_finish(m, statement);
}

static enum store_outcome count_kept(struct maildrop *m)
{
    int64_t last_when = 0, last_id = 0, when = 0, id = 0, size = 0;
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_KEPT, &statement);

    if (outcome != STORE_OK)
        return outcome;
    m->kept = m->kept_octets = 0;
    /* Row by row: of an index that has a page in two places SQLite's own sum may have no end. */
    while ((outcome = handle_step(m, statement)) == STORE_OK) {
        if (!handle_column(statement, 0, &when) || !handle_column(statement, 1, &id) ||
            !handle_column(statement, 2, &size))
            outcome = handle_fail(m, STORE_DAMAGED, "the size of a deleted message is no number");
        else if (when < last_when || (when == last_when && id <= last_id))
            outcome = handle_fail(m, STORE_DAMAGED, "deleted messages are out of order");
        if (outcome != STORE_OK)
            break;
        last_when = when;
        last_id = id;
        m->kept++;
        m->kept_octets += (uint64_t)size;
    }
    sqlite3_reset(statement);
    return outcome == STORE_END ? STORE_OK : outcome;
}

enum store_outcome handle_kept(struct maildrop *m, uint64_t *messages, uint64_t *octets)
{
    int64_t version = 0;
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_DATA_VERSION, &statement);

    if (outcome != STORE_OK || (outcome = handle_step(m, statement)) != STORE_OK)
        return outcome == STORE_END ? handle_fail(m, STORE_DAMAGED, "its data has no version")
                                    : outcome;
    handle_column(statement, 0, &version);
    sqlite3_reset(statement);
    if (version != m->kept_version) {
        outcome = count_kept(m);
        m->kept_version = outcome == STORE_OK ? version : 0;
    }
    if (outcome != STORE_OK)
        return outcome;
    *messages = m->kept;
    *octets = m->kept_octets;
    return STORE_OK;
}

void handle_not_kept(struct maildrop *m, uint64_t messages, uint64_t octets)
{
    m->kept -= messages;
    m->kept_octets -= octets;
}

enum store_outcome handle_setting(struct maildrop *m, const char *name, int64_t *value)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome;

    if (m->minor < 1)
        return STORE_END;
    if ((outcome = handle_prepare(m, STATEMENT_SETTING, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
    outcome = handle_step(m, statement);
    if (outcome == STORE_OK && !handle_column(statement, 0, value))
        outcome = handle_fail(m, STORE_DAMAGED, "setting %s is no number", name);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return outcome;
}

enum store_outcome handle_limit(struct maildrop *m, const char *name, uint64_t *limit)
{
    int64_t value = 0;
    const enum store_outcome outcome = handle_setting(m, name, &value);

    if (outcome == STORE_OK)
        *limit = (uint64_t)value;
    return outcome == STORE_END ? STORE_OK : outcome;
}

/* Another may have brought an older maildrop up to date meanwhile, and then every writer must keep
 * what that added. */
static enum store_outcome look_again(struct maildrop *m)
{
    return m->minor < SCHEMA_MINOR ? handle_outcome(m, schema_minor(m->db, &m->minor)) : STORE_OK;
}

static enum store_outcome lock_for_writing(struct maildrop *m)
{
    enum store_outcome outcome;

    if (m->disk_failed)
        return handle_fail(m, STORE_IO, "an earlier write failed: open the maildrop again");
    handle_begin_call(m);
    if (m->had_until - m->had_since >= SPELL_MS)
        lock_yield(m->lock_fd, m->had_until);
    outcome = lock_acquire(m->lock_fd, MAILDROP_LOCK_WRITE, m->deadline);
    if (outcome != STORE_OK)
        return handle_fail(m, outcome,
                           outcome == STORE_BUSY ? "the write lock is held by another"
                                                 : "the lock file cannot be locked");
    if (lock_clock() > m->had_until + GAP_MS)
        m->had_since = lock_clock();
    return STORE_OK;
}

/* The write lock is given back unless a transaction is open then. */
static enum store_outcome begin_locked(struct maildrop *m)
{
    enum store_outcome outcome;

    if (vfs_unlinked())
        outcome = handle_fail(m, STORE_STALE, "a file of the maildrop was removed or replaced");
    else if ((outcome = handle_run(m, STATEMENT_BEGIN_WRITE)) == STORE_OK)
        outcome = look_again(m);
    if (outcome != STORE_OK && !sqlite3_get_autocommit(m->db))
        sqlite3_exec(m->db, "ROLLBACK", NULL, NULL, NULL);
    if (outcome != STORE_OK)
        lock_release(m->lock_fd, MAILDROP_LOCK_WRITE);
    return outcome;
}

enum store_outcome handle_begin_write(struct maildrop *m)
{
    const enum store_outcome outcome = lock_for_writing(m);

    return outcome == STORE_OK ? begin_locked(m) : outcome;
}

enum store_outcome handle_begin_delivery(struct maildrop *m)
{
    const int64_t most = (int64_t)HANDLE_WAL_PAGES * SCHEMA_PAGE_SIZE;
    enum store_outcome outcome = lock_for_writing(m);

    if (outcome != STORE_OK)
        return outcome;
    if (vfs_file_size(MAILDROP_WAL) > most) {
        outcome = handle_checkpoint(m);
        handle_begin_call(m); /* a checkpoint takes all patience away */
    }
    if (outcome == STORE_FULL || m->disk_failed) {
        lock_release(m->lock_fd, MAILDROP_LOCK_WRITE);
        return outcome;
    }
    return begin_locked(m);
}

enum store_outcome handle_end_write(struct maildrop *m, enum store_outcome outcome)
{
    if (outcome == STORE_OK)
        outcome = handle_run(m, STATEMENT_COMMIT);
    /* Some failures end the transaction by themselves. The words of the first one are kept. */
    if (!sqlite3_get_autocommit(m->db))
        sqlite3_exec(m->db, "ROLLBACK", NULL, NULL, NULL);
    /* On a disk that is full, what did not fit gives its room back: it is all that deletions have.
     */
    if (outcome == STORE_IO || outcome == STORE_FULL)
        vfs_cut_wal();
    if (outcome == STORE_OK && m->wal_frames >= HANDLE_WAL_PAGES)
        handle_checkpoint(m);
    lock_release(m->lock_fd, MAILDROP_LOCK_WRITE);
    m->had_until = lock_clock();
    return outcome;
}

enum store_outcome handle_checkpoint(struct maildrop *m)
{
    const int64_t size = vfs_file_size(MAILDROP_DB), pending = vfs_pending();
    enum store_outcome outcome = STORE_OK;
    int rc;

    /* A past deadline makes the busy handler give up at once: whoever reads just now only puts
     * the rest off until the next commit. */
    m->deadline = 0;
    rc = sqlite3_wal_checkpoint_v2(m->db, "main", SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    if (rc == SQLITE_OK)
        m->wal_frames = 0;
    else
        outcome = handle_outcome(m, rc);
    /* As above: what was copied does not count yet, all of it is in the WAL. Unless it was only the
     * WAL that could not be cut: that has begun anew by then. */
    if (outcome == STORE_FULL && pending > 0 && vfs_pending() == pending)
        vfs_cut_database(size);
    return outcome;
}

void handle_checkpoint_if_free(struct maildrop *m)
{
    if (lock_acquire(m->lock_fd, MAILDROP_LOCK_WRITE, 0) != STORE_OK)
        return;
    handle_checkpoint(m);
    lock_release(m->lock_fd, MAILDROP_LOCK_WRITE);
}
