/*
 * view.c - marks over a snapshot of one maildrop. Runs in a worker, inside its sandbox, on the
 * descriptors granted after login. Marks are kept here only: a session that ends without QUIT
 * has changed nothing.
 */
#include "worker/view.h"

#include <stdlib.h>

enum mark { MARK_DELETED = 1, MARK_RETRIEVED = 2 };

enum store_outcome view_open(struct view *view, const int files[MAILDROP_FILES])
{
    struct maildrop *maildrop = NULL;
    enum store_outcome outcome = maildrop_open(files, &maildrop);
    if (outcome != STORE_OK)
        return outcome;
    *view = (struct view){.maildrop = maildrop};
    return maildrop_totals(maildrop, &view->totals);
}

/* A full disk keeps nobody from their mail: deleting some of it is what makes room. */
static enum store_outcome unless_full(enum store_outcome outcome)
{
    return outcome == STORE_FULL ? STORE_OK : outcome;
}

enum store_outcome view_begin(struct view *view, const struct config *config, bool *off,
                              uint64_t *wait)
{
    uint64_t removed = 0;
    *wait = 0;
    maildrop_limit(view->maildrop, config->store.quota_octets, config->store.quota_messages);
    enum store_outcome outcome = maildrop_pop3_off(view->maildrop, off);
    if (outcome != STORE_OK || *off)
        return outcome;
    if (config->session.login_delay > 0)
        outcome = unless_full(maildrop_login(view->maildrop, config->session.login_delay, wait));
    if (outcome != STORE_OK || *wait > 0)
        return outcome;
    outcome = unless_full(maildrop_expire(view->maildrop, config->store.expire_after,
                                          config->store.undelete_for, &removed));
    if (outcome == STORE_OK && removed > 0)
        outcome = maildrop_totals(view->maildrop, &view->totals);
    return outcome;
}

bool view_use_utf8(struct view *view)
{
    if (!view->told)
        view->utf8 = true;
    return view->utf8;
}

enum store_outcome view_load(struct view *view)
{
    struct maildrop_snapshot *snapshot = NULL;
    view->told = true;
    if (view->snapshot)
        return STORE_OK;
    enum store_outcome outcome = maildrop_snapshot(view->maildrop, &view->totals, &snapshot);
    if (outcome != STORE_OK)
        return outcome;
    struct maildrop_totals held = maildrop_snapshot_totals(snapshot);
    /* The session holds the maildrop's lock: the rows cannot have moved since STAT told the
     * totals. If they differ, the file contradicts itself. */
    if (held.messages != view->totals.messages || held.octets != view->totals.octets ||
        held.plain_octets != view->totals.plain_octets) {
        maildrop_snapshot_free(snapshot);
        return STORE_DAMAGED;
    }
    view->marks = calloc((size_t)held.messages + 1, 1);
    if (!view->marks) {
        maildrop_snapshot_free(snapshot);
        return STORE_MEMORY;
    }
    view->snapshot = snapshot;
    return STORE_OK;
}

size_t view_count(const struct view *view)
{
    return maildrop_snapshot_count(view->snapshot);
}

bool view_visible(const struct view *view, size_t index)
{
    return !(view->marks[index] & MARK_DELETED);
}

bool view_find(const struct view *view, uint64_t number, size_t *index)
{
    if (number < 1 || number > view_count(view) || !view_visible(view, (size_t)number - 1))
        return false;
    *index = (size_t)number - 1;
    return true;
}

uint64_t view_size_of(const struct view *view, const struct maildrop_entry *entry)
{
    return view->utf8 ? entry->size : entry->plain_size;
}

enum store_outcome view_last(struct view *view, uint64_t *number)
{
    int64_t id = 0;
    enum store_outcome outcome = maildrop_last_retrieved(view->maildrop, view->totals.last_id, &id);
    if (outcome != STORE_OK)
        return outcome;
    size_t earlier = maildrop_snapshot_position(view->snapshot, id), last = view_count(view);
    while (last > earlier && !view->marks[last - 1])
        last--;
    *number = last;
    return STORE_OK;
}

uint64_t view_messages(const struct view *view)
{
    return view->totals.messages - view->n_deleted;
}

uint64_t view_octets(struct view *view)
{
    view->told = true;
    return (view->utf8 ? view->totals.octets : view->totals.plain_octets) - view->octets_deleted;
}

void view_mark_retrieved(struct view *view, size_t index)
{
    view->n_retrieved += !(view->marks[index] & MARK_RETRIEVED);
    view->marks[index] |= MARK_RETRIEVED;
}

void view_mark_deleted(struct view *view, size_t index)
{
    struct maildrop_entry entry = maildrop_snapshot_entry(view->snapshot, index);
    view->marks[index] |= MARK_DELETED;
    view->n_deleted++;
    view->octets_deleted += view_size_of(view, &entry);
}

void view_reset(struct view *view)
{
    for (size_t i = 0; view->snapshot && i < view_count(view); i++)
        view->marks[i] = 0;
    view->n_deleted = view->n_retrieved = 0;
    view->octets_deleted = 0;
}

/* The ids of the messages with a mark, in `ids`, which has room for them. */
static void collect(const struct view *view, enum mark mark, int64_t *ids)
{
    struct maildrop_walk walk = maildrop_snapshot_walk(view->snapshot);
    const struct maildrop_entry *entry;
    size_t n = 0;
    for (size_t i = 0; (entry = maildrop_walk_next(&walk)) != NULL; i++)
        if (view->marks[i] & mark)
            ids[n++] = entry->id;
}

enum store_outcome view_commit(struct view *view, uint64_t undelete_for)
{
    size_t total = view->n_retrieved + view->n_deleted;
    if (total == 0)
        return STORE_OK;
    int64_t *ids = calloc(total, sizeof *ids);
    if (!ids)
        return STORE_MEMORY;
    int64_t *deleted = ids + view->n_retrieved;
    collect(view, MARK_RETRIEVED, ids);
    collect(view, MARK_DELETED, deleted);
    enum store_outcome outcome = maildrop_commit(view->maildrop, ids, view->n_retrieved, deleted,
                                                 view->n_deleted, undelete_for);
    free(ids);
    return outcome;
}

void view_leave(struct view *view)
{
    maildrop_leave(view->maildrop);
    *view = (struct view){0};
}

void view_close(struct view *view)
{
    maildrop_snapshot_free(view->snapshot);
    free(view->marks);
    maildrop_close(view->maildrop);
    *view = (struct view){0};
}
