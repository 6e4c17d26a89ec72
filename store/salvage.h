/*
 * salvage.h - what can still be read of a damaged maildrop.
 *
 * For poplarctl only, and on a copy: salvaging may write to the file that it is given.
 */
#ifndef POPLAR_STORE_SALVAGE_H
#define POPLAR_STORE_SALVAGE_H

#include "store/maildrop.h"

struct salvage;

/* How a message was found again. */
enum salvage_part {
    SALVAGE_WHOLE,   /* all of it is there */
    SALVAGE_ALTERED, /* the same, but it is not what was stored (store/digest.h) */
    SALVAGE_REBUILT, /* content only: what its row said is lost, its UIDL may be too ("") */
    SALVAGE_LOST,    /* a part of the content is missing or unreadable */
};

/* Look through a copy of mail.db at `path`, with a copy of mail.db-wal as `path`-wal beside it if
 * there was one. STORE_OK, or STORE_DAMAGED when nothing at all can be told; `error` says why. */
enum store_outcome salvage_open(const char *path, struct salvage **opened, char *error,
                                size_t error_size);
void salvage_close(struct salvage *salvage); /* NULL is legal */

/* How many messages left a trace. */
size_t salvage_count(const struct salvage *salvage);

/* The n-th of them, from 0, in the order of the maildrop. Of a lost or rebuilt one, what is not
 * known is 0. */
enum salvage_part salvage_message(struct salvage *salvage, size_t n,
                                  struct maildrop_message *message);

/* As maildrop_read(), for messages that are not lost. */
enum store_outcome salvage_read(struct salvage *salvage, int64_t id, uint64_t offset, void *buffer,
                                size_t size, size_t *got);

/* What an administrator set for the maildrop by this name (MAILDROP_QUOTA_OCTETS and its like); -1:
 * nothing, or it cannot be read. */
int64_t salvage_setting(struct salvage *salvage, const char *name);

#endif
