/*
 * ctl_check.c - poplarctl mailbox check and compact. Runs as root or the store user.
 */
#include "store/check.h"
#include "store/ctl_drops.h"
#include "store/ctl_json.h"
#include "store/ctl_progress.h"
#include "store/ctl_signals.h"
#include "store/manage.h"

#include <stdio.h>
#include <sysexits.h>

/* One maildrop's check. */
struct checking {
    const struct ctl *ctl;
    char name[4 * PROTO_USER_MAX + 1]; /* fit for a terminal */
    struct ctl_progress progress;
    size_t damages;
    json_t *array; /* for programs */
};

static bool take(void *context, const char *damage, uint64_t octets)
{
    struct checking *c = context;
    char safe[1200];
    ctl_progress_update(&c->progress, octets, 0);
    if (damage) {
        ctl_progress_hide(&c->progress);
        base_escape(safe, sizeof safe, damage);
        if (c->ctl->options & CTL_JSON)
            json_array_append_new(c->array, json_string(safe));
        else
            printf("%s: %s\n", c->name, safe);
        c->damages++;
    }
    return !ctl_signals_met();
}

static int check_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many)
{
    struct checking c = {.ctl = ctl, .array = ctl->options & CTL_JSON ? json_array() : NULL};
    struct maildrop_totals totals = {0};
    base_escape(c.name, sizeof c.name, maildrop->name);
    maildrop_totals(maildrop->store, &totals);
    ctl_progress_begin(&c.progress, "checking", totals.octets);
    c.progress.unit = "octet";
    enum store_outcome outcome = check_run(maildrop->store, take, &c);
    ctl_progress_hide(&c.progress);
    if (outcome != STORE_OK) {
        json_decref(c.array);
        return ctl_open_failed(maildrop, outcome, "check");
    }
    if (ctl_signals_met()) {
        json_decref(c.array);
        return EX_TEMPFAIL;
    }
    int status = 0;
    if (ctl->options & CTL_JSON)
        status = ctl_json_print(json_pack("{s:o, s:b, s:o}", "user", ctl_json_name(maildrop->name),
                                          "sound", c.damages == 0, "damages", c.array),
                                many);
    else if (c.damages == 0)
        printf("%s: sound\n", c.name);
    return status ? status : c.damages > 0 ? EX_DATAERR : 0;
}

int ctl_mailbox_check(struct ctl *ctl)
{
    ctl_signals_catch();
    return ctl_signals_end(ctl_drops_each(ctl, check_one));
}

static int compact_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many)
{
    struct ctl_progress progress = {0};
    struct manage_state before, after;
    uint64_t left = 1;
    enum store_outcome outcome = manage_look(maildrop->store, &before);
    if (outcome == STORE_OK)
        ctl_progress_begin(&progress, "compacting", before.free_pages);
    progress.unit = "page";
    while (outcome == STORE_OK && left > 0 && !ctl_signals_met()) {
        outcome = manage_compact_some(maildrop->store, &left);
        ctl_progress_update(&progress, before.free_pages - (left < before.free_pages ? left : 0),
                            0);
    }
    if (outcome == STORE_OK)
        outcome = manage_look(maildrop->store, &after);
    if (outcome != STORE_OK)
        return ctl_open_failed(maildrop, outcome, "compact");
    ctl_progress_hide(&progress);
    uint64_t freed =
        before.pages > after.pages ? (before.pages - after.pages) * after.page_size : 0;
    if (ctl->options & CTL_JSON)
        return ctl_json_print(json_pack("{s:o, s:I, s:I}", "user", ctl_json_name(maildrop->name),
                                        "freed_octets", (json_int_t)freed, "file_octets",
                                        (json_int_t)(after.pages * after.page_size)),
                              many);
    char safe[4 * PROTO_USER_MAX + 1];
    base_escape(safe, sizeof safe, maildrop->name);
    printf("%s: %ju octet%s given back\n", safe, (uintmax_t)freed, base_plural(freed));
    return 0;
}

int ctl_mailbox_compact(struct ctl *ctl)
{
    ctl_signals_catch();
    return ctl_signals_end(ctl_drops_each(ctl, compact_one));
}
