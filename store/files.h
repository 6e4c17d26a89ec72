/*
 * files.h - a maildrop on disk, and what crosses from the opener to the store: no SQLite.
 *
 * auth/ opens these files for a worker, poplarctl for itself; the store works on descriptors only.
 *
 *     STATE_DIR/mail/H1/H2/NAME/   directory of one maildrop, mode 0700, owner store_user
 *         lock                     byte-range locks, see below
 *         mail.db                  the SQLite database
 *         mail.db-wal, mail.db-shm kept for as long as the maildrop exists
 *
 * NAME is the canonical user name, percent-encoded; H1 and H2 are two levels of its hash
 * (auth/grant.h). None of the four files is ever unlinked or replaced while the maildrop exists.
 */
#ifndef POPLAR_STORE_FILES_H
#define POPLAR_STORE_FILES_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>

/* Index of a descriptor in a grant, and the order in which PROTO_VERDICT carries them. */
enum maildrop_file { MAILDROP_LOCK, MAILDROP_DB, MAILDROP_WAL, MAILDROP_SHM, MAILDROP_FILES };

static const char *const maildrop_file_names[MAILDROP_FILES] = {
    [MAILDROP_LOCK] = "lock",
    [MAILDROP_DB] = "mail.db",
    [MAILDROP_WAL] = "mail.db-wal",
    [MAILDROP_SHM] = "mail.db-shm",
};

/* Open-file-description write locks on single bytes of the lock file. They travel with the
 * descriptor and end with its last copy. SESSION: held by whoever may remove messages or change
 * which are visible (a POP3 session, poplarctl). WRITE: held around every commit and every
 * checkpoint, never while a client is waited for. WAITING: a read lock of each who waits for
 * WRITE, so that who has it again and again can tell. */
enum maildrop_lock_byte { MAILDROP_LOCK_SESSION, MAILDROP_LOCK_WRITE, MAILDROP_LOCK_WAITING };

/* fstat(2) by the call that a worker's filter allows, the same with every C library: what fstat()
 * itself calls changed with glibc 2.39. */
static inline int maildrop_file_stat(int fd, struct stat *status)
{
    if (fd >= 0) /* else to the filter it is no granted one */
        return fstatat(fd, "", status, AT_EMPTY_PATH);
    errno = EBADF;
    return -1;
}

/* An empty database with schema and WAL mode, made at build time: a new maildrop is a copy. */
extern const unsigned char maildrop_template[];
extern const size_t maildrop_template_size;

/* For who finds it damaged: not a restore at once, it may hold what no backup does. */
#define MAILDROP_REMEDY                                                                            \
    "get it back by mailbox salvage, delete and restore, then import: see poplarctl(8), EXAMPLES"

#endif
