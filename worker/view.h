/*
 * view.h - a session's view of one maildrop: what it held at login, and what the client has marked
 * since. Nothing of it is in the store before view_commit().
 *
 * Message numbers are the client's, from 1. Login reads one row; the list of messages is taken
 * when it is first asked for, so that a poll with STAT costs the same at any size.
 */
#ifndef POPLAR_WORKER_VIEW_H
#define POPLAR_WORKER_VIEW_H

#include "daemon/config.h"
#include "store/maildrop.h"

struct view {
    struct maildrop *maildrop; /* NULL: not open */
    struct maildrop_totals totals;
    bool utf8; /* messages go as they are stored, else as old clients can read them */
    bool told; /* the client knows sizes, so that must not change any more */
    struct maildrop_snapshot *snapshot; /* NULL: not taken yet */
    unsigned char *marks;               /* one octet a message, of the snapshot's count */
    size_t n_deleted, n_retrieved;
    uint64_t octets_deleted;
};

/* Open what was granted (store/maildrop.h owns the descriptors) and read the totals. */
enum store_outcome view_open(struct view *view, const int files[MAILDROP_FILES]);

/* The session begins: the delay between logins, and the removal of what is too old. `off`: POP3 is
 * switched off for this maildrop; `wait` is 0, or how many seconds this login came too early; then
 * nothing was done. */
enum store_outcome view_begin(struct view *view, const struct config *config, bool *off,
                              uint64_t *wait);

/* From now on messages go as they are stored; false when it is too late for that. */
bool view_use_utf8(struct view *view);

/* Take the snapshot, if that was not done yet. */
enum store_outcome view_load(struct view *view);

/* After view_load(): the message of a number, if there is one and it is not marked as deleted. */
bool view_find(const struct view *view, uint64_t number, size_t *index);
bool view_visible(const struct view *view, size_t index);
size_t view_count(const struct view *view); /* with those marked as deleted */

/* Octets of a message of the snapshot as this session gets it. */
uint64_t view_size_of(const struct view *view, const struct maildrop_entry *entry);

/* After view_load(): the highest number of a message that was retrieved, in this session or in an
 * earlier one, or deleted in this; 0 if none was (RFC 1460, LAST and DELE). */
enum store_outcome view_last(struct view *view, uint64_t *number);

/* Without those marked as deleted. */
uint64_t view_messages(const struct view *view);
uint64_t view_octets(struct view *view);

void view_mark_retrieved(struct view *view, size_t index);
void view_mark_deleted(struct view *view, size_t index);
/* Forget all marks: those of deletion, and, so that LAST says again what it said at login (RFC
 * 1460, the example of LAST), those of retrieval. */
void view_reset(struct view *view);

/* Make the marks durable, all or none. Nothing is written when there are none. */
enum store_outcome view_commit(struct view *view, uint64_t undelete_for);

/* Close the maildrop, which frees its locks. Legal on a view that is not open. */
void view_close(struct view *view);
/* The same as the last act of a process, which then need not put its memory in order. */
void view_leave(struct view *view);

#endif
