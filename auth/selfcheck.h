/*
 * selfcheck.h - whether this process is still what it was before it ran PAM modules.
 *
 * Runs in poplar-auth as root. A module may leave anything behind: the next login must not meet it.
 */
#ifndef POPLAR_AUTH_SELFCHECK_H
#define POPLAR_AUTH_SELFCHECK_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/types.h>

enum {
    SELFCHECK_FDS = 64,
    SELFCHECK_FDS_KEPT = 8, /* by clients of name services */
    SELFCHECK_GROUPS = 64,
};

/* Everything that is compared as octets; all padding is zero. */
struct selfcheck_ids {
    uid_t user[4]; /* real, effective, saved, file system */
    gid_t group[4];
    int n_groups;
    gid_t groups[SELFCHECK_GROUPS];
    unsigned long long capabilities; /* effective */
};

struct selfcheck_fd {
    int fd;
    dev_t device;
    ino_t inode;
};

struct selfcheck {
    struct selfcheck_ids ids;
    mode_t umask;
    dev_t cwd_device;
    ino_t cwd_inode;
    sigset_t blocked;
    void (*handlers[NSIG])(int);
    struct rlimit limits[RLIM_NLIMITS];
    bool alarm, children, threads; /* whether there are any */
    size_t n_fds;
    struct selfcheck_fd fds[SELFCHECK_FDS]; /* in rising order */
};

/* Note how things are. */
void selfcheck_record(struct selfcheck *self);

/* Whether ids, groups and capabilities are as recorded: to be asked before any file is opened. */
bool selfcheck_same_ids(const struct selfcheck *self);

/* Whether every recorded descriptor is still open on the same thing: to be asked before anything
 * is sent. The same of one that came since. */
bool selfcheck_same_fds(const struct selfcheck *self);
struct selfcheck_fd selfcheck_record_fd(int fd);
bool selfcheck_same_fd(const struct selfcheck_fd *recorded);

/* Whether everything is as recorded; if not, `difference` says in a few words what is not. A few
 * descriptors more are accepted, if they are close-on-exec and unix sockets or files open for
 * reading: clients of name services keep theirs for the life of the process, and SSSD's has two
 * connections and a file for each of its caches. They may change as they like. */
bool selfcheck_same(const struct selfcheck *self, char *difference, size_t size);

#endif
