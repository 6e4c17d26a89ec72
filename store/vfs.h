/*
 * vfs.h - SQLite's own unix file layer, made to work on descriptors that somebody else opened.
 *
 * The layer's locking, shared memory and syncing stay SQLite's; only the system calls that take a
 * path are replaced. One grant at a time: SQLite's POSIX locks on a file end when the process
 * closes any descriptor of it.
 */
#ifndef POPLAR_STORE_VFS_H
#define POPLAR_STORE_VFS_H

#include "store/maildrop.h"

#define VFS_NAME   "poplar"
#define VFS_FOLDER "/granted/" /* where granted files seem to be; never a real path */

/* How a database begins, with the NUL: sqlite.org/fileformat.html 1.3. */
#define VFS_MAGIC "SQLite format 3"

/* Before a descriptor's number: the name that it has in /proc, which is taken as it stands, as no
 * other link is. SQLite's own layer would ask where that is, and go there by its name. */
#define VFS_OPENED "/proc/self/fd/"

/* Replace SQLite's path calls and register the VFS as its default. `granted_only`: no path ever
 * reaches the kernel. A second call changes nothing but may add `granted_only`. */
enum store_outcome vfs_install(bool granted_only);

/* Take over the database, -wal and -shm of a grant; the lock file stays the caller's. STORE_REFUSED
 * while another grant is live: the three are then kept unused until that one ends, because closing
 * them now could drop its locks. */
enum store_outcome vfs_grant(const int files[MAILDROP_FILES]);

/* A database is opened now that stands in for one to come: `fd` is its descriptor, and the grant's
 * may have the same number (store/warm.c). There can be several of them, one after the other. */
enum store_outcome vfs_expect(int fd);

/* The grant is here; it takes the place of the stand-in with its number if there is one. Whatever
 * was opened on others may never be used again, not even to close it. */
void vfs_fulfil(const int files[MAILDROP_FILES], bool fits);

/* End the grant, after sqlite3_close(): only this closes its descriptors. */
void vfs_revoke(void);

/* Whether any of the four files has lost its name: what is written then, nobody finds again. */
bool vfs_unlinked(void);

/* Octets in one file of the grant, -1 when it cannot be told. */
int64_t vfs_file_size(enum maildrop_file file);

/* Note what the database and -wal are like; and whether both are so still. */
void vfs_note(void);
bool vfs_is_as_noted(void);

/* After a commit that failed, under the write lock: cut -wal off where the frames end that the
 * index knows. A commit whose sync failed is whole in it, and would come true at the next recovery.
 */
void vfs_cut_wal(void);

/* How many frames of the WAL the database does not have, -1 when it cannot be told. After a
 * checkpoint that failed, under the write lock, and left as many: cut the database off where it
 * ended before. */
int64_t vfs_pending(void);
void vfs_cut_database(int64_t size);

/* Read from the start of the granted database without SQLite; returns octets read or -1. */
ssize_t vfs_peek(void *buffer, size_t size);

#endif
