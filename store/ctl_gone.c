/*
 * ctl_gone.c - import --delete-gone. Runs in poplarctl. Never touches what did not come from the
 * old server.
 */
#include "store/ctl_gone.h"
#include "daemon/base.h"

#include <stdlib.h>

enum store_outcome ctl_gone_delete(struct maildrop *maildrop, const struct ctl_known *known,
                                   uint64_t undelete_for, bool dry, uint64_t *gone)
{
    struct maildrop_message message = {.id = 0};
    enum store_outcome outcome;
    size_t n = 0;
    int64_t *ids = NULL;
    while ((outcome = maildrop_next(maildrop, message.id, &message)) == STORE_OK) {
        bool is_gone = false;
        if (!message.deleted)
            outcome = ctl_known_gone(known, maildrop, message.uidl, &is_gone);
        if (outcome != STORE_OK)
            break;
        if (!is_gone)
            continue;
        ids = base_grow(ids, n, sizeof *ids);
        ids[n++] = message.id;
    }
    if (outcome == STORE_END)
        outcome =
            n == 0 || dry ? STORE_OK : maildrop_commit(maildrop, NULL, 0, ids, n, undelete_for);
    if (outcome == STORE_OK)
        *gone = n;
    free(ids);
    return outcome;
}
