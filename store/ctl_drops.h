/*
 * ctl_drops.h - all maildrops there are, and one command over each of them.
 */
#ifndef POPLAR_STORE_CTL_DROPS_H
#define POPLAR_STORE_CTL_DROPS_H

#include "store/ctl.h"

/* The canonical names of all maildrops, sorted; the caller's. 0, or an exit status after saying
 * why.
 */
int ctl_drops_list(const struct ctl *ctl, struct text_list *names);

/* The canonical name whose maildrop's directory has this name; false if none's has. */
bool ctl_drops_named(const char *directory, char name[PROTO_USER_MAX + 1]);

/* The path of a maildrop's directory; the caller frees it. NULL: the name is too long. */
char *ctl_drops_path(const struct ctl *ctl, const char *name);

/* Hold both bytes of a maildrop's lock without opening its database; or only keep others from
 * writing, which can be had on a file system that is read-only: for a maildrop that may be damaged.
 * `*fd` is closed to let go; -1 if the lock file is missing, so that nobody can use the maildrop.
 * 0, or an exit status after saying why. */
int ctl_drops_lock(const char *name, const char *path, int *fd);
int ctl_drops_keep(const char *name, const char *path, int *fd);

/* Run `one` for the user of the command line, or with --all for every maildrop, opened to
 * add and to read. With --all those that have gone since they were listed are passed over. In JSON
 * an array around all. The first failure is the status; signals end it between two maildrops. */
typedef int ctl_drops_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many);
int ctl_drops_each(struct ctl *ctl, ctl_drops_one *one);

#endif
