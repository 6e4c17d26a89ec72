/*
 * ctl_expire.c - poplarctl expire: what is past its time, in all maildrops, for a timer. Runs as
 * root or the store user. Gently: a maildrop in use is passed over, the session byte of a lock is
 * held only while there is something due, and each commit is small, so that it can be stopped
 * anywhere.
 */
#include "store/ctl_drops.h"
#include "store/ctl_json.h"
#include "store/ctl_progress.h"
#include "store/ctl_remove.h"
#include "store/ctl_signals.h"
#include "store/manage.h"

#include <stdio.h>
#include <sysexits.h>

struct expiring {
    struct ctl *ctl;
    struct ctl_progress progress;
    uint64_t maildrops, in_use, expired, removed;
};

/* Deleted for its age: as a client would, so no session may be there. */
static int expire_old(struct expiring *e, const char *name, unsigned how)
{
    const struct config *config = e->ctl->config;
    struct ctl_maildrop maildrop;
    enum store_outcome outcome;
    uint64_t removed;
    int status =
        ctl_open_maildrop(e->ctl, name, how | CTL_OPEN_SESSION | CTL_OPEN_QUIET, &maildrop);
    e->in_use += maildrop.in_use;
    if (status)
        return maildrop.in_use ? 0 : status;
    do {
        outcome = maildrop_expire(maildrop.store, config->store.expire_after,
                                  config->store.undelete_for, &removed);
        e->expired += removed;
    } while (outcome == STORE_OK && removed > 0 && !ctl_signals_met());
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "expire");
    ctl_open_close(&maildrop);
    return status;
}

/* Sessions give back a megabyte each; where much has gone at once that would take for ever. */
static enum store_outcome give_room_back(struct maildrop *maildrop)
{
    bool slack = false;
    uint64_t left;
    enum store_outcome outcome = manage_has_slack(maildrop, &slack);
    while (outcome == STORE_OK && slack && !ctl_signals_met()) {
        outcome = manage_compact_some(maildrop, &left);
        if (outcome == STORE_OK)
            outcome = manage_has_slack(maildrop, &slack);
    }
    return outcome;
}

/* Past restoring: nobody sees these messages, so nobody need be kept out. */
static int remove_deleted(struct expiring *e, const char *name, unsigned how)
{
    struct ctl_maildrop maildrop;
    enum store_outcome outcome;
    uint64_t removed;
    int status = ctl_open_maildrop(e->ctl, name, how, &maildrop);
    if (status)
        return status;
    do {
        outcome = maildrop_purge(maildrop.store, e->ctl->config->store.undelete_for, &removed);
        e->removed += removed;
    } while (outcome == STORE_OK && removed > 0 && !ctl_signals_met());
    if (outcome == STORE_OK)
        outcome = give_room_back(maildrop.store);
    if (outcome != STORE_OK)
        status = ctl_open_failed(&maildrop, outcome, "expire");
    ctl_open_close(&maildrop);
    return status;
}

static int expire_one(struct expiring *e, const char *name, unsigned how)
{
    int status = 0;
    if (e->ctl->config->store.expire_after > 0)
        status = expire_old(e, name, how);
    if (!status)
        status = remove_deleted(e, name, how);
    e->maildrops += status == 0;
    return how & CTL_OPEN_NAMED && status == EX_NOUSER ? 0 : status; /* gone since it was listed */
}

static int print_summary(const struct expiring *e)
{
    if (e->ctl->options & CTL_JSON)
        return ctl_json_print(json_pack("{s:I, s:I, s:I, s:I}", "maildrops",
                                        (json_int_t)e->maildrops, "in_use", (json_int_t)e->in_use,
                                        "expired", (json_int_t)e->expired, "removed",
                                        (json_int_t)e->removed),
                              false);
    printf("%ju maildrop%s: %ju message%s expired, %ju removed for good; %ju in use, passed over\n",
           (uintmax_t)e->maildrops, base_plural(e->maildrops), (uintmax_t)e->expired,
           base_plural(e->expired), (uintmax_t)e->removed, (uintmax_t)e->in_use);
    return 0;
}

int ctl_expire(struct ctl *ctl)
{
    struct expiring e = {.ctl = ctl};
    struct text_list names = {0};
    int status = 0;
    bool all = ctl->n_words == 0;
    if (all)
        status = ctl_drops_list(ctl, &names);
    if (status)
        return status;
    ctl_signals_catch();
    const size_t n = all ? names.n : ctl->n_words;
    ctl_progress_begin(&e.progress, "expiring", n);
    e.progress.unit = "maildrop";
    for (size_t i = 0; i < n && !ctl_signals_met(); i++) {
        int failed =
            all ? expire_one(&e, names.items[i], CTL_OPEN_NAMED) : expire_one(&e, ctl->words[i], 0);
        status = status ? status : failed;
        ctl_progress_update(&e.progress, i + 1, e.expired + e.removed);
    }
    ctl_progress_hide(&e.progress);
    int printed = status && e.maildrops == 0 ? 0 : print_summary(&e);
    textlist_clear(&names);
    if (all && !ctl_signals_met())
        ctl_remove_leftovers(ctl);
    return ctl_signals_end(status ? status : printed);
}
