/*
 * privileges.h - giving up privilege, and proving that it is gone. Runs as root in master, auth
 * and nursery. Small and boring.
 */
#ifndef POPLAR_DAEMON_PRIVILEGES_H
#define POPLAR_DAEMON_PRIVILEGES_H

#include "daemon/config.h"
#include <stdbool.h>
#include <sys/types.h>

/* Account name to ids. False if there is none, or with an errno of base_status() if nobody can tell
 * now. */
bool privileges_lookup(const char *user, uid_t *uid, gid_t *gid);
/* The accounts that [server] names. That of the workers is not root's, nor that of the store, and
 * neither is that one root's. False and errno, with one line in `error`, and the remedy in it. */
bool privileges_find_store(const struct config *config, uid_t *uid, gid_t *gid, char *error,
                           size_t size);
bool privileges_find_worker(const struct config *config, uid_t *uid, gid_t *gid, char *error,
                            size_t size);

/* Keep only these capabilities (CAP_ numbers, ended by -1), here and in the bounding set, which is
 * what children can have. Without root: nothing. */
void privileges_bound(const int *keep);

/* Become uid and gid for good, without groups and capabilities, then try to get back what was
 * given up, and die (bug()) if that works. Needs root. */
void privileges_drop(uid_t uid, gid_t gid);

/* Die with the process that is our parent now; if `parent` is not it any more, exit at once.
 * A change of credentials clears this: call again after each. */
void privileges_die_with(pid_t parent);

#endif
