/*
 * maildrop.c - the store's front: the library, an open maildrop's rest and end, totals, the list of
 * messages.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never close a database file
 * while another handle of the process uses the same file.
 */
#include "store/connection.h"
#include "store/handle.h"
#include "store/lock.h"
#include "store/vfs.h"
#include <stdlib.h>
#include <unistd.h>

enum { SQLITE_OLDEST = 3031000 }; /* trusted_schema */

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
    connection_close(maildrop);
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
        handle_checkpoint_if_free(m);
}

void maildrop_leave(struct maildrop *maildrop)
{
    if (!maildrop)
        return;
    fold_wal(maildrop);
    vfs_revoke();
    give_lock_back(maildrop);
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
