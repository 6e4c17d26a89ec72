/*
 * ctl_path.h - opens what the administrator named, where directories on the way may be a user's.
 *
 * For poplarctl, usually as root: who owns a directory there could put a link to anything in the
 * place of what was meant, and have it read, or written to, for him.
 */
#ifndef POPLAR_STORE_CTL_PATH_H
#define POPLAR_STORE_CTL_PATH_H

#include <dirent.h>
#include <stdbool.h>

/* open(2), with O_CLOEXEC, of a path on which a symbolic link is followed only if it is root's or
 * the caller's own; another one is ELOOP. O_CREAT goes with O_DIRECTORY only: a directory is made,
 * mode 0700, if it is missing. */
int ctl_path_open(const char *path, int flags);

/* The directory that a path's last name is in, open to be read and synced, and that name, a part of
 * `path`. */
int ctl_path_open_parent(const char *path, const char **name);

/* Whether a name is that of an open file still. */
bool ctl_path_leads_to(int directory, const char *name, int fd);

/* The entries of a directory in another one, "." for that itself, from the first on whoever else
 * reads it. No link is followed. NULL and errno. */
DIR *ctl_path_list(int parent, const char *name);

/* What ctl_path_open() had against a path, for people. */
const char *ctl_path_fault(int error);

#endif
