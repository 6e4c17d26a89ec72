/*
 * manage.h - what an administrator does to a maildrop beside what sessions and deliveries do.
 *
 * For poplarctl only; no worker links it. Rules as in maildrop.h: never logs, never exits, no
 * transaction outlives a call.
 */
#ifndef POPLAR_STORE_MANAGE_H
#define POPLAR_STORE_MANAGE_H

#include "store/maildrop.h"

enum { MANAGE_KEY_SIZE = 16 };

/* How a maildrop stands. */
struct manage_state {
    struct maildrop_totals totals;
    int minor, newest_minor;                   /* of the schema: this one's, and this program's */
    uint64_t restorable, restorable_octets;    /* deleted, not yet gone */
    uint64_t page_size, pages, free_pages;     /* of the database file */
    bool has_quota_octets, has_quota_messages; /* limits of its own, 0: none */
    uint64_t quota_octets, quota_messages;
    bool pop3_off;
};

enum manage_import {
    MANAGE_NEW,   /* was never imported */
    MANAGE_OTHER, /* was imported with a UIDL of Poplar's own */
    MANAGE_KEPT,  /* was imported with the UIDL of its old server */
};

enum store_outcome manage_look(struct maildrop *maildrop, struct manage_state *state);

/* Make deleted messages visible again, with the UIDLs they had: all of them or none
 * (STORE_NOT_FOUND). Needs the session byte of the lock. */
enum store_outcome manage_undelete(struct maildrop *maildrop, const int64_t *ids, size_t n);

/* Give a setting (MAILDROP_QUOTA_OCTETS and its like) its value for this maildrop, or
 * take it away (`value` NULL). */
enum store_outcome manage_set(struct maildrop *maildrop, const char *name, const uint64_t *value);

/* Give some free pages at the end of the file back to the system, in one bounded transaction;
 * `left` says how many free pages there still are, fewer at each call. The last call empties the
 * WAL too. */
enum store_outcome manage_compact_some(struct maildrop *maildrop, uint64_t *left);

/* Whether so much of the file has nothing in it, a quarter and two megabytes, that it is worth the
 * work: less is there for the mail that comes. */
enum store_outcome manage_has_slack(struct maildrop *maildrop, bool *slack);

/* Whether a message was imported before, by a digest that its reader chose; and note that it was.
 * The note belongs to the batch of deliveries that is open, and where it cannot be made the batch
 * has failed: a message without its note would come in again. */
enum store_outcome manage_imported(struct maildrop *maildrop,
                                   const unsigned char key[MANAGE_KEY_SIZE],
                                   enum manage_import *before);
enum store_outcome manage_note_import(struct maildrop *maildrop,
                                      const unsigned char key[MANAGE_KEY_SIZE], bool kept);

/* The message that has this UIDL, deleted ones included. STORE_OK, STORE_NOT_FOUND. */
enum store_outcome manage_find_uidl(struct maildrop *maildrop, const char *uidl, int64_t *id);

#endif
