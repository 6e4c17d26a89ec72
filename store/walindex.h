/*
 * walindex.h - the WAL's index, -shm, made without reading the WAL; for vfs.c.
 *
 * The index is never synced. So whoever opens a maildrop that nobody else has open must not believe
 * the one that is there: SQLite clears it, reads the whole WAL and makes it anew. But of an empty
 * WAL there is nothing to read; and of another the old index has the list of frames, which will do
 * if somebody vouches for it and the WAL ends where the list does.
 *
 * To vouch is to leave a keyed digest of the list in the index, after a commit whose sync was one
 * of the whole WAL. The key is of one nursery and never leaves memory: after a power cut nobody
 * knows it. So it does no harm if the index was left by a process that was killed, or is old, or
 * torn. It is no defence against a process that has the maildrop and is hostile: that could as well
 * write what it likes to the WAL.
 */
#ifndef POPLAR_STORE_WALINDEX_H
#define POPLAR_STORE_WALINDEX_H

#include <stdbool.h>
#include <stdint.h>

enum { WALINDEX_REGION = 32768 }; /* octets of -shm that SQLite maps at a time */

/* Choose the key of this process and those that it forks. Without randomness nothing is vouched
 * for, and nothing believed but an empty WAL. */
void walindex_begin(void);

/* While nobody else has -shm open: make it the index of -wal. False: that cannot be, and whatever
 * is in -shm now must be cleared. */
bool walindex_make(int wal, int shm);

/* Vouch for the index, whose first region is mapped, after a commit of our own that was the WAL's
 * last so far and has so many frames before its end. */
void walindex_vouch(void *region, uint32_t frames);

/* Where in -wal the frames end that the index lists; -1 if that cannot be told. */
int64_t walindex_end(int shm);

/* How many of the frames that the index lists the database does not have; -1 if nobody can tell. */
int64_t walindex_pending(int shm);

#endif
