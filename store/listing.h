/*
 * listing.h - messages packed for listings: some ten octets for each, many in one row.
 *
 * The table message is the truth, read row by row at a third of a microsecond a row. The table
 * listing holds the same again for groups of LISTING_SPAN ids, all of which were given out: what of
 * them is not deleted, with ids, sizes and UIDLs, packed, and a check value. A group that is there
 * says what the rows say; one that is missing is always right, and its rows are read instead. So
 * whoever changes which messages of a group are deleted makes it anew in the same transaction.
 * Whether one was retrieved is not in it: that changes most often, and nearly nobody asks.
 */
#ifndef POPLAR_STORE_LISTING_H
#define POPLAR_STORE_LISTING_H

#include "store/handle.h"

enum {
    LISTING_SPAN = 128, /* ids of a group, the first of them a multiple of it */

    /* Octets of an entry at most: tag, distance, two sizes, UIDL with its length. */
    LISTING_ENTRY_MAX = 1 + 3 * 9 + 1 + MAILDROP_UIDL_MAX,
    LISTING_DIGEST = 8,
    LISTING_GROUP_MAX = LISTING_SPAN * LISTING_ENTRY_MAX + LISTING_DIGEST,

    /* Octets behind packed entries that listing_take() may look at. */
    LISTING_SLACK = 1 + 3 * 9 + 1 + 255,
};

/* Pack what the current row of STATEMENT_SNAPSHOT says of a message, which follows the one with the
 * id `before`. Octets put, at most LISTING_ENTRY_MAX; 0: the row is no message. */
size_t listing_put(sqlite3_stmt *row, int64_t before, unsigned char *to,
                   struct maildrop_entry *entry);

/* Unpack the next entry, whose id follows entry->id. False if it is none, or does not end before
 * `end`. Looks at LISTING_SLACK octets, whatever they hold. The UIDL stays where it is. */
bool listing_take(const unsigned char **from, const unsigned char *end,
                  struct maildrop_entry *entry);

/* What the group that begins with the id `first` must hold. STORE_END: a row of it is no message.
 */
enum store_outcome listing_make(struct maildrop *m, int64_t first,
                                unsigned char group[LISTING_GROUP_MAX], size_t *size);

/* Whether a group's check value is right; then `size` is that of its entries. */
bool listing_sound(int64_t first, const void *group, size_t *size);

/* In the write transaction of what they follow. All do nothing in a maildrop that could not be
 * brought up to minor version 3, and say so by STORE_OK. */

/* A message was added: its group is made if it was the last of it. */
enum store_outcome listing_grow(struct maildrop *m, int64_t id);

/* These messages were deleted or undeleted. If the handle met groups that went astray, all of them
 * are made anew. */
enum store_outcome listing_renew(struct maildrop *m, const int64_t *ids, size_t n, int64_t last_id);

/* These deleted messages are gone for good: an empty group has nothing left to keep a reader from.
 */
enum store_outcome listing_forget(struct maildrop *m, const int64_t *ids, size_t n);

/* All groups, whatever there was: of a maildrop that has none, or where an older program wrote. */
enum store_outcome listing_fill(struct maildrop *m);

#endif
