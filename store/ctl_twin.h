/*
 * ctl_twin.h - a copy of a database file and of the -wal beside it, in a directory of our own.
 *
 * For poplarctl, usually as root. A database that SQLite opens for writing has orders for it in the
 * files beside: a journal can name any file to be deleted. In a copy there is none.
 */
#ifndef POPLAR_STORE_CTL_TWIN_H
#define POPLAR_STORE_CTL_TWIN_H

struct ctl_twin {
    char *folder, *path; /* of the database; NULL: none was made */
};

/* Copy `path` and `path`-wal into TMPDIR, or /var/tmp; one that is not there is as good as empty,
 * and a page that cannot be read as one of zeros.
 * 0, or an exit status after saying why. In either case, ctl_twin_remove() follows. */
int ctl_twin_make(const char *path, struct ctl_twin *twin);
void ctl_twin_remove(struct ctl_twin *twin);

#endif
