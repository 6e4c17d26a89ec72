/*
 * snapshot.c - the messages of a session: ids, sizes and UIDLs, taken once and kept in memory.
 *
 * Runs in a worker (sandboxed, no privilege) and in poplarctl. The read transaction ends before
 * this returns: a slow client must never hold one. It must never pass off a part of a damaged
 * maildrop as the whole.
 */
#include "store/handle.h"
#include <stdlib.h>
#include <string.h>

struct maildrop_snapshot {
    size_t n, room;
    struct maildrop_entry *entries;
    size_t *uidls; /* where each begins in text */
    char *text;
    size_t text_size, text_room;
};

/* Room for one more of everything; grows by half as much again. */
static bool make_room(struct maildrop_snapshot *s)
{
    if (s->n == s->room) {
        const size_t room = s->room + s->room / 2 + 64;
        struct maildrop_entry *entries = reallocarray(s->entries, room, sizeof(*entries));
        size_t *uidls;

        if (!entries)
            return false;
        s->entries = entries;
        uidls = reallocarray(s->uidls, room, sizeof(*uidls));
        if (!uidls)
            return false;
        s->uidls = uidls;
        s->room = room;
    }
    if (s->text_room - s->text_size <= MAILDROP_UIDL_MAX) {
        const size_t room = s->text_room + s->text_room / 2 + 2048;
        char *text = realloc(s->text, room);

        if (!text)
            return false;
        s->text = text;
        s->text_room = room;
    }
    return true;
}

/* Take the statement's row, if it is the session's; count it either way. */
static enum store_outcome take_row(struct maildrop *m, sqlite3_stmt *statement, int64_t last_id,
                                   struct maildrop_snapshot *s, struct maildrop_totals *seen)
{
    int64_t id, size, plain_size, form, retrieved;

    if (!make_room(s))
        return handle_fail(m, STORE_MEMORY, "no memory for a list of %zu messages", s->n);
    if (!handle_column(statement, 0, &id) || !handle_column(statement, 1, &size) ||
        !handle_column(statement, 2, &plain_size) || !handle_column(statement, 3, &form) ||
        !handle_column(statement, 4, &retrieved) || form > MAILDROP_UTF8_ONLY ||
        id <= seen->last_id || !handle_column_uidl(statement, 5, s->text + s->text_size))
        return handle_fail(m, STORE_DAMAGED, "the row after message %lld is no message",
                           (long long)seen->last_id);
    seen->messages++;
    seen->octets += (uint64_t)size;
    seen->plain_octets += (uint64_t)plain_size;
    seen->last_id = id;
    if (id > last_id)
        return STORE_OK;
    s->entries[s->n] = (struct maildrop_entry){.id = id,
                                               .size = (uint64_t)size,
                                               .plain_size = (uint64_t)plain_size,
                                               .form = (enum maildrop_form)form,
                                               .retrieved = retrieved != 0};
    s->uidls[s->n++] = s->text_size;
    s->text_size += strlen(s->text + s->text_size) + 1;
    return STORE_OK;
}

/* All rows, held against the totals of the same moment. */
static enum store_outcome take_rows(struct maildrop *m, int64_t last_id,
                                    struct maildrop_snapshot *s)
{
    struct maildrop_totals now, seen = {0};
    enum store_outcome outcome = handle_state(m, &now);
    sqlite3_stmt *statement;

    if (outcome != STORE_OK ||
        (outcome = handle_prepare(m, STATEMENT_SNAPSHOT, &statement)) != STORE_OK)
        return outcome;
    while ((outcome = handle_step(m, statement)) == STORE_OK) {
        outcome = take_row(m, statement, last_id, s, &seen);
        if (outcome != STORE_OK) {
            sqlite3_reset(statement);
            return outcome;
        }
    }
    if (outcome != STORE_END)
        return outcome;
    if (seen.messages != now.messages || seen.octets != now.octets ||
        seen.plain_octets != now.plain_octets || seen.last_id > now.last_id)
        return handle_fail(m, STORE_DAMAGED, "the totals say %llu messages, there are %llu",
                           (unsigned long long)now.messages, (unsigned long long)seen.messages);
    return STORE_OK;
}

enum store_outcome maildrop_snapshot(struct maildrop *maildrop,
                                     const struct maildrop_totals *totals,
                                     struct maildrop_snapshot **taken)
{
    struct maildrop_snapshot *s = calloc(1, sizeof(*s));
    enum store_outcome outcome = STORE_OK;
    const bool own = sqlite3_get_autocommit(maildrop->db) != 0;

    if (!s)
        return handle_fail(maildrop, STORE_MEMORY, "no memory for a list of messages");
    handle_begin_call(maildrop);
    if (own)
        outcome = handle_run(maildrop, STATEMENT_BEGIN_READ);
    if (outcome == STORE_OK)
        outcome = take_rows(maildrop, totals->last_id, s);
    if (own && !sqlite3_get_autocommit(maildrop->db))
        sqlite3_exec(maildrop->db, "ROLLBACK", NULL, NULL, NULL);
    if (outcome != STORE_OK) {
        maildrop_snapshot_free(s);
        return outcome;
    }
    *taken = s;
    return STORE_OK;
}

void maildrop_snapshot_free(struct maildrop_snapshot *snapshot)
{
    if (!snapshot)
        return;
    free(snapshot->entries);
    free(snapshot->uidls);
    free(snapshot->text);
    free(snapshot);
}

size_t maildrop_snapshot_count(const struct maildrop_snapshot *snapshot)
{
    return snapshot->n;
}

const struct maildrop_entry *maildrop_snapshot_entry(const struct maildrop_snapshot *snapshot,
                                                     size_t index)
{
    return &snapshot->entries[index];
}

const char *maildrop_snapshot_uidl(const struct maildrop_snapshot *snapshot, size_t index)
{
    return snapshot->text + snapshot->uidls[index];
}
