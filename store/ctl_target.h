/*
 * ctl_target.h - a Maildir being written: messages in their order, and the UIDLs they had, in a
 * dovecot-uidlist that Dovecot and poplarctl import read.
 */
#ifndef POPLAR_STORE_CTL_TARGET_H
#define POPLAR_STORE_CTL_TARGET_H

#include "store/ctl_copy.h"

struct ctl_target; /* one Maildir */

/* Make DIR a Maildir, or open the one that it is. 0, or an exit status after saying why. No link is
 * followed in it and no file overwritten: it may belong to a user, and the caller is root. */
int ctl_target_open(const char *path, struct ctl_target **opened);
/* NULL is legal. */
void ctl_target_close(struct ctl_target *target);

/* Write one message; those that a client has fetched go to cur/ as seen, the rest is new. What
 * failed is said, but for STORE_NOT_FOUND and other outcomes of reading. 0, -1 when `*outcome` is
 * not STORE_OK, or an exit status. */
int ctl_target_add(struct ctl_target *target, const struct ctl_copy *copy,
                   const struct maildrop_message *message, enum store_outcome *outcome);

/* Everything is on the disk, and the list of UIDLs written, if all of the Maildir is ours. 0, or an
 * exit status after saying why. */
int ctl_target_finish(struct ctl_target *target);

#endif
