/*
 * backup.h - a maildrop in a plain file: written while the maildrop is in use, read, put back.
 *
 * For poplarctl only: the one part of the store that opens files by their paths. A backup is an
 * ordinary maildrop database without -wal and -shm.
 */
#ifndef POPLAR_STORE_BACKUP_H
#define POPLAR_STORE_BACKUP_H

#include "store/maildrop.h"

/* Called again and again with the pages done and those there are. False: stop; the outcome is then
 * STORE_SOURCE. May be NULL. */
typedef bool backup_progress(void *context, uint64_t done, uint64_t pages);

/* Copy a maildrop as of one moment into an existing, empty file. Sessions and deliveries go on.
 * Where others may change what `path` leads to, it begins with VFS_OPENED (store/vfs.h). The file
 * is not synced. What failed stands in maildrop_error(). */
enum store_outcome backup_write(struct maildrop *maildrop, const char *path,
                                backup_progress *progress, void *context);

/* Open a maildrop that lies in a plain file, to read from it (maildrop_totals, _next, _read,
 * check_run, backup_restore) while another is open by its grant. With a -wal beside it, as in a raw
 * copy of a maildrop's directory, what stands there counts too, and SQLite obeys what else is
 * beside it: others must not be able to put anything there. A descriptor's name (VFS_OPENED and its
 * number) is the file alone, which is not written to. On a failure `error` says why. */
enum store_outcome backup_open(const char *path, struct maildrop **opened, char *error,
                               size_t error_size);
void backup_close(struct maildrop *backup); /* NULL is legal */

/* Put a backup in the place of all that a maildrop holds, in one transaction. Needs the session
 * byte of the maildrop's lock; close the maildrop afterwards. */
enum store_outcome backup_restore(struct maildrop *maildrop, struct maildrop *backup,
                                  backup_progress *progress, void *context);

#endif
