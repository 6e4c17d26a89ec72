/*
 * ctl_gone.h - import --delete-gone: what was imported from the old server before, and a client
 * deleted there since.
 */
#ifndef POPLAR_STORE_CTL_GONE_H
#define POPLAR_STORE_CTL_GONE_H

#include "store/ctl_known.h"

/* Delete each message that was imported with its old UIDL when no message with that UIDL was met in
 * this run, which must have read all of the old mailbox. It can be restored for `undelete_for`
 * seconds. `dry`: only count. Needs the session byte of the lock. */
enum store_outcome ctl_gone_delete(struct maildrop *maildrop, const struct ctl_known *known,
                                   uint64_t undelete_for, bool dry, uint64_t *gone);

#endif
