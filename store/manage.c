/*
 * manage.c - what an administrator does to a maildrop beside what sessions and deliveries do.
 *
 * Runs in poplarctl only, as root or the store user. It must never write outside the write lock,
 * and never hold it longer than one bounded step.
 */
#include "store/manage.h"
#include "store/handle.h"
#include "store/listing.h"
#include "store/lock.h"
#include "store/schema.h"

/* A statement of a tool's: prepared for one use, since tools are not in a hurry. */
static enum store_outcome prepare(struct maildrop *m, const char *sql, sqlite3_stmt **statement)
{
    return handle_outcome(m, sqlite3_prepare_v2(m->db, sql, -1, statement, NULL));
}

/* One number, at least 0. */
static enum store_outcome ask(struct maildrop *m, const char *sql, uint64_t *number)
{
    sqlite3_stmt *statement = NULL;
    int64_t found = 0;
    enum store_outcome outcome = prepare(m, sql, &statement);

    if (outcome == STORE_OK)
        outcome = handle_step(m, statement);
    if (outcome == STORE_OK && !handle_column(statement, 0, &found))
        outcome = handle_fail(m, STORE_DAMAGED, "a count is no number");
    if (outcome == STORE_OK)
        *number = (uint64_t)found;
    sqlite3_finalize(statement);
    return outcome == STORE_END ? STORE_DAMAGED : outcome;
}

static enum store_outcome look_at_setting(struct maildrop *m, const char *name, bool *has,
                                          uint64_t *value)
{
    int64_t found = 0;
    const enum store_outcome outcome = handle_setting(m, name, &found);

    *has = outcome == STORE_OK;
    *value = (uint64_t)found;
    return outcome == STORE_END ? STORE_OK : outcome;
}

enum store_outcome manage_look(struct maildrop *maildrop, struct manage_state *state)
{
    struct manage_state found = {.minor = maildrop->minor, .newest_minor = SCHEMA_MINOR};
    enum store_outcome outcome;

    handle_begin_call(maildrop);
    if ((outcome = handle_state(maildrop, &found.totals)) != STORE_OK ||
        (outcome = handle_kept(maildrop, &found.restorable, &found.restorable_octets)) !=
            STORE_OK ||
        (outcome = ask(maildrop, "PRAGMA page_size", &found.page_size)) != STORE_OK ||
        (outcome = ask(maildrop, "PRAGMA page_count", &found.pages)) != STORE_OK ||
        (outcome = ask(maildrop, "PRAGMA freelist_count", &found.free_pages)) != STORE_OK ||
        (outcome = look_at_setting(maildrop, MAILDROP_QUOTA_OCTETS, &found.has_quota_octets,
                                   &found.quota_octets)) != STORE_OK ||
        (outcome = look_at_setting(maildrop, MAILDROP_QUOTA_MESSAGES, &found.has_quota_messages,
                                   &found.quota_messages)) != STORE_OK ||
        (outcome = maildrop_pop3_off(maildrop, &found.pop3_off)) != STORE_OK)
        return outcome;
    *state = found;
    return STORE_OK;
}

/* The sizes of a deleted message. */
static enum store_outcome deleted_size(struct maildrop *m, int64_t id, int64_t *size,
                                       int64_t *plain_size)
{
    sqlite3_stmt *statement = NULL;
    enum store_outcome outcome =
        prepare(m, "SELECT size, plain_size FROM message WHERE id = ?1 AND deleted IS NOT NULL",
                &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    outcome = handle_step(m, statement);
    if (outcome == STORE_END)
        outcome = handle_fail(m, STORE_NOT_FOUND, "message %lld is not deleted, or gone for good",
                              (long long)id);
    else if (outcome == STORE_OK &&
             (!handle_column(statement, 0, size) || !handle_column(statement, 1, plain_size)))
        outcome = handle_fail(m, STORE_DAMAGED, "message %lld has no size", (long long)id);
    sqlite3_finalize(statement);
    return outcome;
}

/* One message back among the living, and counted. */
static enum store_outcome undelete_one(struct maildrop *m, int64_t id,
                                       struct maildrop_totals *totals)
{
    sqlite3_stmt *statement;
    int64_t size = 0, plain_size = 0;
    enum store_outcome outcome = deleted_size(m, id, &size, &plain_size);

    if (outcome != STORE_OK ||
        (outcome = handle_prepare(m, STATEMENT_MARK_DELETED, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_null(statement, 2);
    totals->messages++;
    totals->octets += (uint64_t)size;
    totals->plain_octets += (uint64_t)plain_size;
    return handle_finish(m, statement);
}

enum store_outcome manage_undelete(struct maildrop *maildrop, const int64_t *ids, size_t n)
{
    struct maildrop_totals totals;
    enum store_outcome outcome = handle_begin_write(maildrop);

    if (outcome != STORE_OK)
        return outcome;
    outcome = handle_state(maildrop, &totals);
    for (size_t i = 0; outcome == STORE_OK && i < n; i++)
        outcome = undelete_one(maildrop, ids[i], &totals);
    if (outcome == STORE_OK)
        outcome = listing_renew(maildrop, ids, n, totals.last_id);
    if (outcome == STORE_OK)
        outcome = handle_set_state(maildrop, &totals);
    return handle_end_write(maildrop, outcome);
}

static enum store_outcome needs_minor(struct maildrop *m)
{
    if (m->minor >= 1)
        return STORE_OK;
    return handle_fail(m, STORE_BUSY,
                       "the maildrop is of an older version and could not be "
                       "brought up to date");
}

enum store_outcome manage_set(struct maildrop *maildrop, const char *name, const uint64_t *value)
{
    sqlite3_stmt *statement = NULL;
    enum store_outcome outcome = needs_minor(maildrop);

    if (outcome != STORE_OK || (outcome = handle_begin_write(maildrop)) != STORE_OK)
        return outcome;
    outcome = prepare(maildrop,
                      value ? "INSERT OR REPLACE INTO setting(name, value) VALUES (?1, ?2)"
                            : "DELETE FROM setting WHERE name = ?1",
                      &statement);
    if (outcome == STORE_OK) {
        sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
        if (value)
            sqlite3_bind_int64(statement, 2, (int64_t)*value);
        outcome = handle_finish(maildrop, statement);
    }
    sqlite3_finalize(statement);
    return handle_end_write(maildrop, outcome);
}

enum store_outcome manage_compact_some(struct maildrop *maildrop, uint64_t *left)
{
    uint64_t before = 0, free_pages = 0;
    enum store_outcome outcome = handle_begin_write(maildrop);

    if (outcome != STORE_OK)
        return outcome;
    outcome = ask(maildrop, "PRAGMA freelist_count", &before);
    if (outcome == STORE_OK)
        outcome = handle_run(maildrop, STATEMENT_VACUUM);
    if (outcome == STORE_OK)
        outcome = ask(maildrop, "PRAGMA freelist_count", &free_pages);
    if (outcome == STORE_OK && free_pages > 0 && free_pages >= before)
        outcome = handle_fail(maildrop, STORE_DAMAGED, "free pages are not given back");
    outcome = handle_end_write(maildrop, outcome);
    if (outcome != STORE_OK)
        return outcome;
    if (free_pages == 0 &&
        lock_acquire(maildrop->lock_fd, MAILDROP_LOCK_WRITE, maildrop->deadline) == STORE_OK) {
        handle_checkpoint(maildrop);
        lock_release(maildrop->lock_fd, MAILDROP_LOCK_WRITE);
    }
    *left = free_pages;
    return STORE_OK;
}

enum store_outcome manage_has_slack(struct maildrop *maildrop, bool *slack)
{
    uint64_t pages = 0, free_pages = 0;
    enum store_outcome outcome;

    handle_begin_call(maildrop);
    outcome = ask(maildrop, "PRAGMA page_count", &pages);
    if (outcome == STORE_OK)
        outcome = ask(maildrop, "PRAGMA freelist_count", &free_pages);
    *slack = outcome == STORE_OK && free_pages >= HANDLE_SLACK_PAGES && free_pages > pages / 4;
    return outcome;
}

enum store_outcome manage_imported(struct maildrop *maildrop,
                                   const unsigned char key[MANAGE_KEY_SIZE],
                                   enum manage_import *before)
{
    sqlite3_stmt *statement = NULL;
    int64_t kept = 0;
    enum store_outcome outcome = needs_minor(maildrop);

    if (outcome != STORE_OK)
        return outcome;
    outcome = prepare(maildrop, "SELECT kept FROM imported WHERE key = ?1", &statement);
    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_blob(statement, 1, key, MANAGE_KEY_SIZE, SQLITE_STATIC);
    outcome = handle_step(maildrop, statement);
    if (outcome == STORE_OK && !handle_column(statement, 0, &kept))
        outcome = handle_fail(maildrop, STORE_DAMAGED, "a note on an import is none");
    else if (outcome == STORE_OK)
        *before = kept ? MANAGE_KEPT : MANAGE_OTHER;
    else if (outcome == STORE_END)
        *before = MANAGE_NEW;
    sqlite3_finalize(statement);
    return outcome == STORE_END ? STORE_OK : outcome;
}

enum store_outcome manage_note_import(struct maildrop *maildrop,
                                      const unsigned char key[MANAGE_KEY_SIZE], bool kept)
{
    sqlite3_stmt *statement = NULL;
    enum store_outcome outcome = needs_minor(maildrop);

    if (outcome != STORE_OK)
        return outcome;
    if (!maildrop->in_batch)
        return handle_fail(maildrop, STORE_REFUSED, "no batch of deliveries is open");
    outcome =
        prepare(maildrop, "INSERT OR REPLACE INTO imported(key, kept) VALUES (?1, ?2)", &statement);
    if (outcome == STORE_OK) {
        sqlite3_bind_blob(statement, 1, key, MANAGE_KEY_SIZE, SQLITE_STATIC);
        sqlite3_bind_int64(statement, 2, kept);
        outcome = handle_finish(maildrop, statement);
    }
    sqlite3_finalize(statement);
    if (outcome != STORE_OK)
        maildrop->batch_outcome = outcome;
    return outcome;
}

enum store_outcome manage_find_uidl(struct maildrop *maildrop, const char *uidl, int64_t *id)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome;
    int64_t found = 0;

    handle_begin_call(maildrop);
    if ((outcome = handle_prepare(maildrop, STATEMENT_HAS_UIDL, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_text(statement, 1, uidl, -1, SQLITE_STATIC);
    outcome = handle_step(maildrop, statement);
    if (outcome == STORE_OK && !handle_column(statement, 0, &found))
        outcome = handle_fail(maildrop, STORE_DAMAGED, "the message with UIDL %s has no id", uidl);
    else if (outcome == STORE_OK)
        *id = found;
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return outcome == STORE_END ? STORE_NOT_FOUND : outcome;
}
