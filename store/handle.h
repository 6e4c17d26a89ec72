/*
 * handle.h - inside an open maildrop: for the store's own files (and its tests) only.
 *
 * Statements are prepared when first used and kept; a step that brings an outcome other than
 * STORE_OK has reset its statement already, so that no transaction outlives a call.
 */
#ifndef POPLAR_STORE_HANDLE_H
#define POPLAR_STORE_HANDLE_H

#include "store/maildrop.h"
#include <sqlite3.h>

enum {
    HANDLE_PATIENCE_MS = 10000, /* for all locks of one call together */
    /* WAL frames from which a commit is followed by a checkpoint, which has three syncs: not more,
     * because who opens first reads them all if the nursery is another than at the last commit. */
    HANDLE_WAL_PAGES = 256,
};

enum { HANDLE_SLACK_PAGES = 512 }; /* free pages from which some are given back to the system */

enum statement {
    STATEMENT_BEGIN_READ,
    STATEMENT_BEGIN_WRITE,
    STATEMENT_COMMIT,
    STATEMENT_ROLLBACK,
    STATEMENT_SAVE,
    STATEMENT_RELEASE,
    STATEMENT_UNDO,
    STATEMENT_STATE,
    STATEMENT_SET_STATE,
    STATEMENT_LOGIN,
    STATEMENT_SET_LOGIN,
    STATEMENT_SNAPSHOT,
    STATEMENT_GROUPS,
    STATEMENT_SET_GROUP,
    STATEMENT_DROP_GROUP,
    STATEMENT_DROP_GROUPS,
    STATEMENT_DROP_EMPTY_GROUP,
    STATEMENT_RETRIEVED,
    STATEMENT_NEXT,
    STATEMENT_HEADER,
    STATEMENT_CONTENT,
    STATEMENT_LIVE_SIZE,
    STATEMENT_MARK_RETRIEVED,
    STATEMENT_MARK_DELETED,
    STATEMENT_DUE,
    STATEMENT_EXPIRED,
    STATEMENT_KEPT,
    STATEMENT_DATA_VERSION,
    STATEMENT_REMOVE_CHUNKS,
    STATEMENT_REMOVE_MESSAGE,
    STATEMENT_FREE_PAGES,
    STATEMENT_VACUUM,
    STATEMENT_HAS_UIDL,
    STATEMENT_ADD_CHUNK,
    STATEMENT_ADD_MESSAGE,
    STATEMENT_ADD_MESSAGE_1, /* where the schema could not be brought up to minor version 2 */
    STATEMENT_SETTING,
    STATEMENT_APPLICATION,
    STATEMENT_VERSION,
    STATEMENT_SCHEMA,
    STATEMENTS
};

struct maildrop {
    sqlite3 *db;
    int lock_fd;
    sqlite3_stmt *statements[STATEMENTS];
    int minor;            /* version of the schema */
    uint64_t schema;      /* a digest of the schema that a warm handle knows; store/warm.c */
    int64_t kept_version; /* of the data when this was counted, 0: it was not; handle_kept() */
    uint64_t kept, kept_octets;
    uint64_t quota_octets, quota_messages; /* of what was deleted, as of the rest; 0: none */
    unsigned patience_ms;
    uint64_t deadline;             /* of the call under way, on lock_clock() */
    uint64_t had_since, had_until; /* the write lock, with hardly a gap; on the same */
    int wal_frames;                /* in the WAL after our last commit */
    bool disk_failed;              /* a write or sync failed: nothing may be written any more */
    bool in_batch;
    bool groups_astray; /* sound, but not what the totals say: an older program wrote */
    enum store_outcome batch_outcome; /* what ended the batch's transaction under way */
    char error[200];
};

/* Begin a call: from now on its patience runs. */
void handle_begin_call(struct maildrop *m);

/* Translate one of SQLite's result codes and remember its words. */
enum store_outcome handle_outcome(struct maildrop *m, int rc);

/* Say what we ourselves found wrong; returns `outcome`. */
enum store_outcome handle_fail(struct maildrop *m, enum store_outcome outcome, const char *format,
                               ...) __attribute__((format(printf, 3, 4)));

/* A statement ready to be bound and stepped; NULL on a failure. */
enum store_outcome handle_prepare(struct maildrop *m, enum statement which, sqlite3_stmt **ready);

/* Step: STORE_OK with a row; STORE_END or a failure, and then the statement is reset. */
enum store_outcome handle_step(struct maildrop *m, sqlite3_stmt *statement);

/* The same to a row that has to be there: without one it is STORE_NOT_FOUND, of this message, or
 * STORE_DAMAGED, of the totals. */
enum store_outcome handle_step_to_message(struct maildrop *m, sqlite3_stmt *statement, int64_t id);
enum store_outcome handle_step_to_totals(struct maildrop *m, sqlite3_stmt *statement);

/* Step a statement that brings no rows, and reset it. STORE_OK or a failure. */
enum store_outcome handle_finish(struct maildrop *m, sqlite3_stmt *statement);

/* Prepare and finish a statement without parameters. */
enum store_outcome handle_run(struct maildrop *m, enum statement which);

/* An integer that is not negative, out of the current row. */
bool handle_column(sqlite3_stmt *statement, int column, int64_t *value);

/* Whether octets are a UIDL: 1 to 70, each 0x21 to 0x7E. */
bool handle_is_uidl(const void *octets, size_t size);

/* A UIDL out of the current row. */
bool handle_column_uidl(sqlite3_stmt *statement, int column, char uidl[MAILDROP_UIDL_MAX + 1]);

/* The totals row, read and checked, or written. */
enum store_outcome handle_state(struct maildrop *m, struct maildrop_totals *totals);
enum store_outcome handle_set_state(struct maildrop *m, const struct maildrop_totals *totals);

/* How much was deleted and is kept. Looks at each such row, unless nobody committed anything since
 * but purges of ours, which are told by handle_not_kept(). */
enum store_outcome handle_kept(struct maildrop *m, uint64_t *messages, uint64_t *octets);
void handle_not_kept(struct maildrop *m, uint64_t messages, uint64_t octets);

/* What an administrator set for this maildrop. STORE_END: nothing. */
enum store_outcome handle_setting(struct maildrop *m, const char *name, int64_t *value);
/* The same for a limit: what was set for this maildrop goes before what holds for all. */
enum store_outcome handle_limit(struct maildrop *m, const char *name, uint64_t *limit);

/* Take the write lock and begin a write transaction; neither is held unless this is STORE_OK. */
enum store_outcome handle_begin_write(struct maildrop *m);

/* The same to add a message. Where the last commits could not be copied out of the WAL for want of
 * room, none is added: what little is left is for deletions. */
enum store_outcome handle_begin_delivery(struct maildrop *m);

/* End it: commit if `outcome` is STORE_OK, undo otherwise; checkpoint if the WAL has grown; give
 * the write lock back. Returns what became of it. */
enum store_outcome handle_end_write(struct maildrop *m, enum store_outcome outcome);

/* Copy the WAL into the database and empty it, as far as nobody reads from it, without waiting.
 * Only under the write lock: two connections that write or checkpoint at once can corrupt the
 * database in SQLite before 3.51.3 (the "WAL-reset bug"). */
enum store_outcome handle_checkpoint(struct maildrop *m);

/* The same from outside a write, and only if nobody writes: it is not worth waiting for. */
void handle_checkpoint_if_free(struct maildrop *m);

#endif
