/*
 * walindex.h - the WAL's index, -shm, made without reading the WAL; for vfs.c.
 *
 * The index is never synced. So whoever opens a maildrop that nobody else has open must not believe
 * the one that is there: SQLite clears it, reads the whole WAL and makes it anew. But of an empty
 * WAL there is nothing to read; and of another the old index says how many frames were committed.
 * If somebody vouches for it, the headers of these frames are enough.
 *
 * To vouch is to say that all commits in the index were synced, and by processes of one nursery.
 * What is believed then is the number of frames, and only as far as the WAL has that many, the last
 * with the checksum that the index names, and no more: of these no power cut can have taken
 * anything. So it does no harm if the index was left by a process that was killed, or is old.
 */
#ifndef POPLAR_STORE_WALINDEX_H
#define POPLAR_STORE_WALINDEX_H

#include <stdbool.h>
#include <stdint.h>

/* Choose what this process, and those that it forks, vouch with. Without randomness nothing is
 * vouched for, and nothing believed but an empty WAL. */
void walindex_begin(void);

/* While nobody else has -shm open: make it the index of -wal, vouched for. False: that cannot be,
 * and whatever is in -shm now must be cleared. */
bool walindex_make(int wal, int shm);

/* Vouch for the index that is in use, after a commit of our own: its sync was one of the whole WAL.
 */
void walindex_vouch(int wal, int shm);

/* Where in -wal the frames end that the index lists; -1 if that cannot be told. */
int64_t walindex_end(int shm);

#endif
