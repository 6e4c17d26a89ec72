/*
 * commit.c - what a session did to its maildrop, made lasting; and what it deleted, made gone.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. It must never delete a part of what
 * a client asked for: the marks are one transaction. The room is given back afterwards, in bounded
 * transactions of their own, so that a full disk does not keep anybody from deleting.
 */
#include "store/handle.h"
#include "store/listing.h"
#include "store/lock.h"
#include "store/schema.h"
#include <time.h>

enum {
    EXPIRE_MESSAGES = 256,   /* deleted for their age in one transaction */
    PURGE_MESSAGES = 64,     /* removed for good in one transaction */
    PURGE_OCTETS = 16 << 20, /* the same, when messages are large: the WAL must stay small */
    EXPIRE_PART = 4,         /* of a call's patience: who logs in waits for more than this */
};

static enum store_outcome mark(struct maildrop *m, enum statement which, int64_t id, int64_t now)
{
    sqlite3_stmt *statement;
    const enum store_outcome outcome = handle_prepare(m, which, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_int64(statement, 2, now);
    return handle_finish(m, statement);
}

/* The sizes of a message that is not deleted. */
static enum store_outcome live_size(struct maildrop *m, int64_t id, int64_t *size,
                                    int64_t *plain_size)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_LIVE_SIZE, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    if ((outcome = handle_step_to_message(m, statement, id)) != STORE_OK)
        return outcome;
    if (!handle_column(statement, 0, size) || !handle_column(statement, 1, plain_size))
        outcome = handle_fail(m, STORE_DAMAGED, "message %lld has no size", (long long)id);
    sqlite3_reset(statement);
    return outcome;
}

static enum store_outcome delete_one(struct maildrop *m, int64_t id, int64_t now,
                                     struct maildrop_totals *totals)
{
    int64_t size = 0, plain_size = 0;
    const enum store_outcome outcome = live_size(m, id, &size, &plain_size);

    if (outcome != STORE_OK)
        return outcome;
    if (totals->messages == 0 || totals->octets < (uint64_t)size ||
        totals->plain_octets < (uint64_t)plain_size)
        return handle_fail(m, STORE_DAMAGED, "the totals are smaller than the messages");
    totals->messages--;
    totals->octets -= (uint64_t)size;
    totals->plain_octets -= (uint64_t)plain_size;
    return mark(m, STATEMENT_MARK_DELETED, id, now);
}

static enum store_outcome remove_one(struct maildrop *m, int64_t id)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_REMOVE_CHUNKS, &statement);

    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id << SCHEMA_CHUNK_BITS);
    sqlite3_bind_int64(statement, 2, ((id + 1) << SCHEMA_CHUNK_BITS) - 1);
    if ((outcome = handle_finish(m, statement)) != STORE_OK ||
        (outcome = handle_prepare(m, STATEMENT_REMOVE_MESSAGE, &statement)) != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, id);
    return handle_finish(m, statement);
}

/* Which of the deleted messages go for good. */
struct doomed {
    int64_t before;            /* what was deleted then or earlier */
    uint64_t octets, messages; /* and of the rest the first that are too many; 0: no limit */
};

/* Nothing is past a time that began before the clock did. */
static enum store_outcome doom(struct maildrop *m, int64_t now, uint64_t undelete_for,
                               struct doomed *doomed)
{
    enum store_outcome outcome;

    doomed->before = undelete_for > (uint64_t)now ? -1 : now - (int64_t)undelete_for;
    doomed->octets = m->quota_octets;
    doomed->messages = m->quota_messages;
    outcome = handle_limit(m, MAILDROP_QUOTA_OCTETS, &doomed->octets);
    return outcome == STORE_OK ? handle_limit(m, MAILDROP_QUOTA_MESSAGES, &doomed->messages)
                               : outcome;
}

/* How much more is kept than may be. */
static enum store_outcome find_excess(struct maildrop *m, const struct doomed *doomed,
                                      uint64_t *octets, uint64_t *messages)
{
    uint64_t kept_octets = 0, kept = 0;
    enum store_outcome outcome = STORE_OK;

    if (doomed->octets > 0 || doomed->messages > 0)
        outcome = handle_kept(m, &kept, &kept_octets);
    *octets = doomed->octets > 0 && kept_octets > doomed->octets ? kept_octets - doomed->octets : 0;
    *messages = doomed->messages > 0 && kept > doomed->messages ? kept - doomed->messages : 0;
    return outcome;
}

/* Of what was deleted before a time the first so many octets and messages, or as many as one
 * transaction may take. */
static enum store_outcome find_deleted(struct maildrop *m, int64_t before, uint64_t least_octets,
                                       uint64_t least, int64_t *ids, size_t *n, uint64_t *octets)
{
    int64_t size;
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_EXPIRED, &statement);

    *n = 0;
    *octets = 0;
    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, before);
    sqlite3_bind_int64(statement, 2, PURGE_MESSAGES);
    while ((*octets < least_octets || *n < least) && *octets < PURGE_OCTETS &&
           *n < PURGE_MESSAGES && (outcome = handle_step(m, statement)) == STORE_OK) {
        if (!handle_column(statement, 0, &ids[*n]) || !handle_column(statement, 1, &size)) {
            outcome = handle_fail(m, STORE_DAMAGED, "a deleted message has no id or size");
            break;
        }
        *octets += (uint64_t)size;
        (*n)++;
    }
    sqlite3_reset(statement);
    return outcome == STORE_END ? STORE_OK : outcome;
}

static enum store_outcome find_doomed(struct maildrop *m, const struct doomed *doomed, int64_t *ids,
                                      size_t *n, uint64_t *octets)
{
    uint64_t least_octets, least;
    enum store_outcome outcome =
        find_deleted(m, doomed->before, PURGE_OCTETS, PURGE_MESSAGES, ids, n, octets);

    if (outcome != STORE_OK || *n > 0 ||
        (outcome = find_excess(m, doomed, &least_octets, &least)) != STORE_OK)
        return outcome;
    return find_deleted(m, INT64_MAX, least_octets, least, ids, n, octets);
}

/* Give some free pages at the end of the file back to the system. */
static enum store_outcome vacuum_some(struct maildrop *m)
{
    int64_t free_pages = 0;
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_FREE_PAGES, &statement);

    if (outcome != STORE_OK || (outcome = handle_step(m, statement)) != STORE_OK)
        return outcome;
    handle_column(statement, 0, &free_pages);
    sqlite3_reset(statement);
    return free_pages >= HANDLE_SLACK_PAGES ? handle_run(m, STATEMENT_VACUUM) : STORE_OK;
}

/* Remove some of what goes for good; `removed` 0 when none was left. */
static enum store_outcome purge_some(struct maildrop *m, const struct doomed *doomed,
                                     size_t *removed)
{
    int64_t ids[PURGE_MESSAGES];
    uint64_t octets;
    enum store_outcome outcome = find_doomed(m, doomed, ids, removed, &octets);

    if (outcome != STORE_OK || *removed == 0)
        return outcome;
    if ((outcome = handle_begin_write(m)) != STORE_OK)
        return outcome;
    /* Look again under the lock: another may have removed or restored them meanwhile. */
    outcome = find_doomed(m, doomed, ids, removed, &octets);
    for (size_t i = 0; outcome == STORE_OK && i < *removed; i++)
        outcome = remove_one(m, ids[i]);
    if (outcome == STORE_OK)
        outcome = listing_forget(m, ids, *removed);
    if (outcome == STORE_OK)
        outcome = vacuum_some(m);
    if ((outcome = handle_end_write(m, outcome)) == STORE_OK)
        handle_not_kept(m, *removed, octets);
    return outcome;
}

/* What is past its time is removed in passing, a bounded part at each commit; when nothing is to be
 * kept, or not more than a quota, all of it, but no more from `enough` on: a client waits for the
 * answer. The rest, and all on a failure, is left to the next commit: what the client asked for is
 * done, deleted messages are neither seen nor counted. */
static void purge(struct maildrop *m, int64_t now, uint64_t undelete_for, uint64_t enough)
{
    struct doomed doomed;
    size_t removed = 0;

    if (doom(m, now, undelete_for, &doomed) != STORE_OK)
        return;
    const bool all = undelete_for == 0 || doomed.octets > 0 || doomed.messages > 0;
    while (purge_some(m, &doomed, &removed) == STORE_OK && removed > 0 && all &&
           lock_clock() < enough)
        ;
}

void maildrop_limit(struct maildrop *maildrop, uint64_t quota_octets, uint64_t quota_messages)
{
    maildrop->quota_octets = quota_octets;
    maildrop->quota_messages = quota_messages;
}

enum store_outcome maildrop_commit(struct maildrop *maildrop, const int64_t *retrieved,
                                   size_t n_retrieved, const int64_t *deleted, size_t n_deleted,
                                   uint64_t undelete_for)
{
    const int64_t now = (int64_t)time(NULL);
    struct maildrop_totals totals;
    enum store_outcome outcome;

    if (n_retrieved == 0 && n_deleted == 0)
        return STORE_OK;
    if (maildrop->in_batch)
        return handle_fail(maildrop, STORE_REFUSED, "a batch of deliveries is open");
    if ((outcome = handle_begin_write(maildrop)) != STORE_OK)
        return outcome;
    outcome = handle_state(maildrop, &totals);
    for (size_t i = 0; outcome == STORE_OK && i < n_retrieved; i++)
        outcome = mark(maildrop, STATEMENT_MARK_RETRIEVED, retrieved[i], now);
    for (size_t i = 0; outcome == STORE_OK && i < n_deleted; i++)
        outcome = delete_one(maildrop, deleted[i], now, &totals);
    if (outcome == STORE_OK)
        outcome = listing_renew(maildrop, deleted, n_deleted, totals.last_id);
    if (outcome == STORE_OK && n_deleted > 0)
        outcome = handle_set_state(maildrop, &totals);
    outcome = handle_end_write(maildrop, outcome);
    if (outcome == STORE_OK)
        purge(maildrop, now, undelete_for, lock_clock() + maildrop->patience_ms);
    return outcome;
}

/* Messages received before a time, the oldest first, as many as one transaction takes. */
static enum store_outcome find_due(struct maildrop *m, int64_t before, int64_t *ids, size_t *n)
{
    sqlite3_stmt *statement;
    enum store_outcome outcome = handle_prepare(m, STATEMENT_DUE, &statement);

    *n = 0;
    if (outcome != STORE_OK)
        return outcome;
    sqlite3_bind_int64(statement, 1, before);
    sqlite3_bind_int64(statement, 2, EXPIRE_MESSAGES);
    while ((outcome = handle_step(m, statement)) == STORE_OK) {
        if (!handle_column(statement, 0, &ids[*n])) {
            outcome = handle_fail(m, STORE_DAMAGED, "an old message has no id");
            break;
        }
        (*n)++;
    }
    sqlite3_reset(statement);
    return outcome == STORE_END ? STORE_OK : outcome;
}

/* Delete some of what is due; `n` says how many, 0 when nothing was or on a failure. */
static enum store_outcome expire_some(struct maildrop *m, int64_t before, int64_t now, size_t *n)
{
    int64_t ids[EXPIRE_MESSAGES];
    size_t due;
    struct maildrop_totals totals;
    enum store_outcome outcome = find_due(m, before, ids, &due);

    *n = 0;
    if (outcome != STORE_OK || due == 0)
        return outcome;
    if ((outcome = handle_begin_write(m)) != STORE_OK)
        return outcome;
    /* Look again under the lock. */
    if ((outcome = handle_state(m, &totals)) == STORE_OK)
        outcome = find_due(m, before, ids, &due);
    for (size_t i = 0; outcome == STORE_OK && i < due; i++)
        outcome = delete_one(m, ids[i], now, &totals);
    if (outcome == STORE_OK)
        outcome = listing_renew(m, ids, due, totals.last_id);
    if (outcome == STORE_OK)
        outcome = handle_set_state(m, &totals);
    outcome = handle_end_write(m, outcome);
    if (outcome == STORE_OK)
        *n = due;
    return outcome;
}

enum store_outcome maildrop_expire(struct maildrop *maildrop, uint64_t expire_after,
                                   uint64_t undelete_for, uint64_t *removed)
{
    const int64_t now = (int64_t)time(NULL);
    const uint64_t enough = lock_clock() + maildrop->patience_ms / EXPIRE_PART;
    enum store_outcome outcome;
    size_t n = 0;

    *removed = 0;
    if (expire_after == 0 || expire_after > (uint64_t)now)
        return STORE_OK;
    if (maildrop->in_batch)
        return handle_fail(maildrop, STORE_REFUSED, "a batch of deliveries is open");
    do {
        handle_begin_call(maildrop);
        outcome = expire_some(maildrop, now - (int64_t)expire_after, now, &n);
        *removed += n;
    } while (outcome == STORE_OK && n > 0 && lock_clock() < enough);
    if (outcome == STORE_OK && *removed > 0)
        purge(maildrop, now, undelete_for, enough);
    return outcome;
}

enum store_outcome maildrop_login(struct maildrop *maildrop, uint64_t delay, uint64_t *wait)
{
    const int64_t now = (int64_t)time(NULL);
    int64_t last = 0;
    sqlite3_stmt *statement;
    enum store_outcome outcome;

    handle_begin_call(maildrop);
    if ((outcome = handle_prepare(maildrop, STATEMENT_LOGIN, &statement)) != STORE_OK ||
        (outcome = handle_step_to_totals(maildrop, statement)) != STORE_OK)
        return outcome;
    handle_column(statement, 0, &last); /* what is no time is none */
    sqlite3_reset(statement);
    *wait = 0;
    if (last <= now && (uint64_t)(now - last) < delay) {
        *wait = delay - (uint64_t)(now - last);
        return STORE_OK;
    }
    if ((outcome = handle_begin_write(maildrop)) != STORE_OK)
        return outcome;
    if ((outcome = handle_prepare(maildrop, STATEMENT_SET_LOGIN, &statement)) == STORE_OK) {
        sqlite3_bind_int64(statement, 1, now);
        outcome = handle_finish(maildrop, statement);
    }
    return handle_end_write(maildrop, outcome);
}

enum store_outcome maildrop_purge(struct maildrop *maildrop, uint64_t undelete_for,
                                  uint64_t *removed)
{
    const int64_t now = (int64_t)time(NULL);
    struct doomed doomed;
    enum store_outcome outcome;
    size_t n = 0;

    *removed = 0;
    if (maildrop->in_batch)
        return handle_fail(maildrop, STORE_REFUSED, "a batch of deliveries is open");
    handle_begin_call(maildrop);
    if ((outcome = doom(maildrop, now, undelete_for, &doomed)) == STORE_OK)
        outcome = purge_some(maildrop, &doomed, &n);
    if (outcome == STORE_OK)
        *removed = n;
    return outcome;
}
