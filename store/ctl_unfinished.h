/*
 * ctl_unfinished.h - a file that poplarctl makes: whole under its name, or not there. Until then it
 * is called NAME.unfinished.
 */
#ifndef POPLAR_STORE_CTL_UNFINISHED_H
#define POPLAR_STORE_CTL_UNFINISHED_H

#include <stdbool.h>
#include <time.h>

struct ctl_unfinished {
    char *path; /* to be; below, its last name */
    const char *last;
    char *name;    /* as it is called meanwhile, in the same directory */
    char *opened;  /* its descriptor's, for SQLite (VFS_OPENED): under the other name there may be
                    * another's file by then, with orders for SQLite beside it */
    int directory; /* which somebody else may own */
    int fd;        /* open to read and write */
    bool replaces; /* the backup that is there under its name */
};

/* Make it; what an earlier one left behind goes. 0, or an exit status after saying why: something
 * is there that may not be replaced, as what is no backup never may, or another process is about to
 * write it. */
int ctl_unfinished_make(const char *path, bool replaces, struct ctl_unfinished *made);

/* It will be PATH and this suffix instead. 0, or an exit status as above. */
int ctl_unfinished_rename(struct ctl_unfinished *file, const char *suffix);

/* All of it is written: to the disk with it, and give it its name, and this time of modification
 * if there is one. 0, or an exit status after saying why. */
int ctl_unfinished_finish(struct ctl_unfinished *file, const struct timespec *stamp);

/* At the end in any case: what was not finished is removed. One that is all zero is legal. */
void ctl_unfinished_end(struct ctl_unfinished *file);

#endif
