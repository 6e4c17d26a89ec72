/*
 * ctl_import.c - poplarctl import: messages from files into a maildrop, in batches of one commit
 * each, while sessions and deliveries go on. What a batch committed stays, whatever follows.
 *
 * Each message is read twice: to know its UIDL, its size and whether it came before, then to store
 * it.
 */
#include "store/ctl.h"
#include "store/ctl_capture.h"
#include "store/ctl_gone.h"
#include "store/ctl_json.h"
#include "store/ctl_known.h"
#include "store/ctl_path.h"
#include "store/ctl_progress.h"
#include "store/ctl_reader.h"
#include "store/ctl_signals.h"
#include "store/ctl_tally.h"
#include "store/ctl_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum {
    BATCH_MESSAGES = 200,
    BATCH_OCTETS = 32 << 20,
    BATCH_MS = 1000 /* the write lock is held for as long: a delivery should not wait longer */
};

/* One user's import. */
struct import {
    const struct ctl *ctl;
    const char **paths;
    size_t n_paths;
    bool partly; /* a path that cannot be read is left out, and the others are not */
    struct ctl_maildrop maildrop; /* not open in a dry run before there is one */
    struct maildrop_delivery limits;
    struct ctl_reader_how how;
    struct ctl_capture capture;
    int64_t *matches; /* for each message of all paths, its entry of the capture */
    unsigned char (*digests)[CTL_DIGEST_SIZE]; /* and what it was when they were matched */
    size_t n_messages, number;
    struct ctl_progress progress;
    uint64_t before; /* octets of the paths that are done, for the progress bar */
    struct ctl_reader *reader;
    struct ctl_known known;
    bool in_batch;
    uint64_t batch_ms; /* when it began */
    struct ctl_tally tally;
    uint64_t batch_messages, batch_octets, batch_kept, batch_overdue;
    uint64_t overdue;  /* messages that came, and go at the next login */
    uint64_t nameless; /* messages that are known, but not by a UIDL of the old server */
    bool unsteady;     /* some messages of the paths may not have been met */
    int status;        /* of the first thing that went wrong */
};

static bool is_dry(const struct import *im)
{
    return im->ctl->options & CTL_DRY_RUN;
}

static void went_wrong(struct import *im, int status)
{
    if (!im->status)
        im->status = status;
}

static void settle_batch(struct import *im)
{
    im->tally.messages += im->batch_messages;
    im->tally.octets += im->batch_octets;
    im->tally.kept += im->batch_kept;
    im->overdue += im->batch_overdue;
    im->batch_messages = im->batch_octets = im->batch_kept = im->batch_overdue = 0;
    im->in_batch = false;
}

/* Commit what was delivered since the batch began. */
static bool end_batch(struct import *im)
{
    if (!im->in_batch)
        return true;
    enum store_outcome outcome = maildrop_batch_end(im->maildrop.store, true);
    if (outcome == STORE_OK) {
        settle_batch(im);
        return true;
    }
    im->in_batch = false;
    ctl_progress_hide(&im->progress);
    went_wrong(im, ctl_open_failed(&im->maildrop, outcome, "commit"));
    return false;
}

/* What is said may have to wait until somebody reads it, and meanwhile nobody else could write. */
static bool may_say(struct import *im)
{
    return !im->in_batch || base_stderr_has_room() || end_batch(im);
}

/* False: stop. */
static bool skip(struct import *im, const struct ctl_item *item, const char *why, int status)
{
    bool go_on = may_say(im);
    ctl_progress_hide(&im->progress);
    ctl_note("%s: %s; skipped", item->name, why);
    im->tally.skipped++;
    went_wrong(im, status);
    return go_on;
}

/* The store cannot take this message. What the batch holds is sound unless the disk failed, and
 * then committing says so. */
static bool give_up(struct import *im, const struct ctl_item *item, enum store_outcome outcome)
{
    ctl_progress_hide(&im->progress);
    went_wrong(im, ctl_open_failed(&im->maildrop, outcome, item->name));
    if (im->in_batch && maildrop_batch_end(im->maildrop.store, true) == STORE_OK)
        settle_batch(im);
    im->in_batch = false;
    return false;
}

/* Read the message at hand, and what it says of itself. */
static bool inspect(struct import *im, struct ctl_inspected *found)
{
    unsigned char buffer[16384];
    struct ctl_inspect *inspection = ctl_inspect_begin();
    ssize_t got;
    while ((got = ctl_reader_read(im->reader, buffer, sizeof buffer)) > 0)
        ctl_inspect_feed(inspection, buffer, (size_t)got);
    ctl_inspect_end(inspection, found);
    return got == 0;
}

/* maildrop_source: from the reader to the store. */
static ssize_t pass_on(void *context, void *buffer, size_t size)
{
    struct import *im = context;
    ssize_t got = ctl_reader_read(im->reader, buffer, size);
    ctl_progress_update(&im->progress, im->before + ctl_reader_position(im->reader),
                        im->tally.messages + im->batch_messages);
    return got;
}

/* Whether a message is known; if not, a batch is open for it. Nobody else writes then: until that
 * was so another import may have brought it. */
static enum store_outcome look(struct import *im, struct ctl_candidate *candidate,
                               const char **known)
{
    struct maildrop *store = im->maildrop.store;
    enum store_outcome outcome = ctl_known_look(store, candidate, known);
    if (outcome != STORE_OK || *known || im->in_batch || is_dry(im) ||
        (outcome = maildrop_batch_begin(store)) != STORE_OK)
        return outcome;
    im->in_batch = true;
    im->batch_ms = base_now_ms();
    return ctl_known_look(store, candidate, known);
}

static enum store_outcome deliver(struct import *im, const struct ctl_item *item,
                                  const struct ctl_inspected *found,
                                  const struct ctl_candidate *candidate)
{
    struct maildrop_delivery delivery = im->limits;
    enum store_outcome outcome;
    delivery.received = item->received;
    delivery.retrieved = ctl_reader_seen(im->reader, found);
    delivery.uidl = candidate->uidl[0] ? candidate->uidl : NULL;
    if (!ctl_reader_rewind(im->reader, found, delivery.uidl))
        return STORE_SOURCE;
    outcome = maildrop_deliver(im->maildrop.store, &delivery, pass_on, im, NULL);
    return outcome == STORE_OK ? ctl_known_note(im->maildrop.store, candidate) : outcome;
}

/* A dry run judges by the same limit. */
static enum store_outcome rehearse(const struct import *im, const struct ctl_inspected *found)
{
    return im->limits.max_message && found->octets > im->limits.max_message ? STORE_TOO_LARGE
                                                                            : STORE_OK;
}

/* Also when what was read last added nothing to it: others wait all the same. */
static bool end_full_batch(struct import *im)
{
    bool full = im->batch_messages >= BATCH_MESSAGES || im->batch_octets >= BATCH_OCTETS ||
                base_now_ms() - im->batch_ms >= BATCH_MS;
    return !full || end_batch(im);
}

/* The entry of the capture for the message at hand: the next, unless others have come, gone or
 * moved since the capture was matched. None is given twice. */
static int64_t find_match(struct import *im, const struct ctl_inspected *found)
{
    for (size_t i = 0; i < im->n_messages; i++) {
        size_t n = (im->number + i) % im->n_messages;
        if (memcmp(im->digests[n], found->digest, CTL_DIGEST_SIZE) == 0) {
            memset(im->digests[n], 0, CTL_DIGEST_SIZE);
            im->number = n + 1;
            return im->matches[n];
        }
    }
    return CTL_CAPTURE_NONE;
}

/* The UIDL of the message at hand: from the capture if there is one, else as its reader knows. */
static void find_uidl(struct import *im, const struct ctl_inspected *found,
                      struct ctl_candidate *candidate)
{
    char uidl[MAILDROP_UIDL_MAX + 1];
    const char *why_not = ctl_reader_uidl(im->reader, found, uidl);
    if (im->matches) {
        int64_t match = find_match(im, found);
        why_not = match < 0 ? "no message of the --uidl-list is this one for certain" : NULL;
        if (!why_not)
            base_copy(uidl, sizeof uidl, im->capture.entries[match].uidl);
    }
    ctl_known_candidate(&im->known, found, why_not ? NULL : uidl, why_not, candidate);
}

static void took(struct import *im, const struct ctl_item *item, const struct ctl_inspected *found,
                 const struct ctl_candidate *candidate)
{
    im->batch_messages++;
    im->batch_octets += found->octets;
    im->batch_overdue += ctl_is_overdue(im->ctl, item->received);
    if (candidate->uidl[0])
        im->batch_kept++;
    else
        ctl_tally_count(im->tally.fresh, candidate->why_not, item->name);
    if (is_dry(im)) {
        settle_batch(im);
        ctl_progress_update(&im->progress, im->before + ctl_reader_position(im->reader),
                            im->tally.messages);
    }
}

/* False: stop. */
static bool import_message(struct import *im, const struct ctl_item *item)
{
    struct ctl_inspected found;
    struct ctl_candidate candidate;
    const char *known;
    if (!inspect(im, &found))
        return skip(im, item, ctl_reader_error(im->reader), EX_NOINPUT);
    find_uidl(im, &found, &candidate);
    if (found.internal) {
        ctl_tally_count(im->tally.there, "a server's own data, no message", item->name);
        return true;
    }
    enum store_outcome outcome = look(im, &candidate, &known);
    if (outcome == STORE_OK && known) {
        im->tally.known++;
        im->nameless += !candidate.uidl[0];
        ctl_tally_count(im->tally.there, known, item->name);
        return true;
    }
    if (outcome == STORE_OK && !candidate.uidl[0] && im->ctl->options & CTL_LISTED_ONLY) {
        ctl_tally_count(im->tally.there, "without a UIDL of the old server", item->name);
        return true;
    }
    if (outcome == STORE_OK)
        outcome = is_dry(im) ? rehearse(im, &found) : deliver(im, item, &found, &candidate);
    switch (outcome) {
    case STORE_OK:
        took(im, item, &found, &candidate);
        return true;
    case STORE_TOO_LARGE:
        return skip(im, item, "larger than [store] max_message (--no-limits takes it)", EX_DATAERR);
    case STORE_SOURCE:
        return skip(im, item, ctl_reader_error(im->reader), EX_NOINPUT);
    default:
        return give_up(im, item, outcome);
    }
}

/* All messages of one path. False: stop. */
static bool import_path(struct import *im, const char *path)
{
    char error[4608];
    int status;
    struct ctl_item *item = base_alloc(sizeof *item);
    bool go_on = true;
    im->reader = ctl_reader_open(path, &im->how, &status, error, sizeof error);
    if (!im->reader) {
        went_wrong(im, ctl_fail(status, "%s", error));
        go_on = false;
    }
    while (go_on && !ctl_signals_met()) {
        enum ctl_read what = ctl_reader_next(im->reader, item);
        if (what == CTL_READ_END)
            break;
        if (what == CTL_READ_MESSAGE)
            go_on = import_message(im, item);
        else
            go_on = skip(im, item, item->reason, EX_NOINPUT);
        go_on = go_on && end_full_batch(im);
    }
    if (im->reader) {
        im->before += ctl_reader_total(im->reader);
        im->unsteady |= ctl_reader_unsteady(im->reader);
    }
    ctl_reader_close(im->reader);
    im->reader = NULL;
    free(item);
    return go_on && !ctl_signals_met();
}

/* The sizes of all messages, to match them with a capture. */
static void measure(struct import *im, struct ctl_capture_size **sizes)
{
    struct ctl_item *item = base_alloc(sizeof *item);
    struct ctl_inspected found;
    enum ctl_read what;
    while ((what = ctl_reader_next(im->reader, item)) != CTL_READ_END) {
        if (what != CTL_READ_MESSAGE)
            continue;
        *sizes = base_grow(*sizes, im->n_messages, sizeof **sizes);
        im->digests = base_grow(im->digests, im->n_messages, sizeof *im->digests);
        bool read = inspect(im, &found);
        memcpy(im->digests[im->n_messages], found.digest, CTL_DIGEST_SIZE);
        if (read && found.x_uid) /* the server did not show what it noted */
            read = ctl_reader_rewind(im->reader, &found, true) && inspect(im, &found);
        if (!read)
            found = (struct ctl_inspected){.octets = UINT64_MAX, .raw_octets = UINT64_MAX};
        (*sizes)[im->n_messages++] = (struct ctl_capture_size){found.octets, found.raw_octets};
    }
    free(item);
}

static bool is_met_again(const struct stat *about, const struct stat *met, size_t n)
{
    while (n > 0 && (met[n - 1].st_dev != about->st_dev || met[n - 1].st_ino != about->st_ino))
        n--;
    return n > 0;
}

/* Open every path once before anything is stored: a mistyped one should not leave the others
 * imported, and of two that lead to one place one is enough. Finds the total, and matches a
 * capture. */
static int survey(struct import *im, uint64_t *total)
{
    char error[4608];
    int status = 0, refused;
    struct ctl_capture_size *sizes = NULL;
    struct stat *met = base_alloc(im->n_paths * sizeof *met);
    size_t n = 0;
    *total = 0;
    for (size_t i = 0; !status && i < im->n_paths; i++) {
        im->reader = ctl_reader_open(im->paths[i], &im->how, &refused, error, sizeof error);
        if (!im->reader && im->partly)
            went_wrong(im, ctl_fail(refused, "%s; it was not imported", error));
        else if (!im->reader)
            status = ctl_fail(refused, "%s; nothing was imported", error);
        else if (is_met_again(ctl_reader_about(im->reader), met, n))
            ctl_note("%s: leads to the same place as one before it; taken once", im->paths[i]);
        else {
            met[n] = *ctl_reader_about(im->reader);
            im->paths[n++] = im->paths[i];
            *total += ctl_reader_total(im->reader);
            if (im->capture.n > 0)
                measure(im, &sizes);
        }
        ctl_reader_close(im->reader);
        im->reader = NULL;
    }
    im->n_paths = n;
    free(met);
    if (!status && im->capture.n > 0) {
        im->matches = base_alloc((im->n_messages + 1) * sizeof *im->matches);
        ctl_capture_match(&im->capture, sizes, im->n_messages, im->matches);
    }
    free(sizes);
    return status || n > 0 ? status : im->status;
}

/* A dry run opens what is there, and makes nothing. */
static int open_maildrop(struct import *im, const char *user)
{
    unsigned session = im->ctl->options & CTL_DELETE_GONE ? CTL_OPEN_SESSION : 0;
    if (!is_dry(im))
        return ctl_open_maildrop(im->ctl, user, CTL_OPEN_CREATE | session, &im->maildrop);
    if (!ctl_open_exists(im->ctl, im->maildrop.name))
        return 0;
    int status = ctl_open_maildrop(im->ctl, im->maildrop.name, CTL_OPEN_NAMED, &im->maildrop);
    return status == EX_NOUSER ? 0 : status;
}

/* --delete-gone: after all of the old mailbox was read, and only where it is certain what is gone.
 */
static void delete_gone(struct import *im)
{
    if (im->status || ctl_signals_met())
        return;
    im->tally.counts_gone = true;
    if (im->nameless > 0) {
        ctl_note("%s: %ju message%s known, but not by a UIDL of the old server: what is gone "
                 "cannot be told, and nothing was deleted",
                 im->maildrop.name, (uintmax_t)im->nameless, im->nameless == 1 ? " is" : "s are");
        went_wrong(im, EX_DATAERR);
    } else if (im->unsteady) {
        ctl_note("%s: the old mailbox changed while it was read: what is gone cannot be told, and "
                 "nothing was deleted; try again",
                 im->maildrop.name);
        went_wrong(im, EX_TEMPFAIL);
    } else if (im->maildrop.store) {
        enum store_outcome outcome =
            ctl_gone_delete(im->maildrop.store, &im->known, im->ctl->config->store.undelete_for,
                            is_dry(im), &im->tally.gone);
        if (outcome != STORE_OK)
            went_wrong(im, ctl_open_failed(&im->maildrop, outcome, "delete"));
    }
}

/* --uidl-list: another server's list, or a capture. */
static int read_list(struct import *im, char **octets)
{
    char error[200];
    const char *path = im->ctl->uidl_list;
    size_t size;
    *octets = ctl_uidl_read_file(ctl_path_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY), &size);
    if (!*octets)
        return ctl_fail(EX_NOINPUT, "%s: %s", path,
                        errno == EINVAL ? "not a regular file" : ctl_path_fault(errno));
    if ((*octets)[0] == '/' || strncmp(*octets, "3 V", 3) == 0) {
        im->how.list = *octets;
        return 0;
    }
    if (!ctl_capture_read(*octets, &im->capture, error, sizeof error))
        return ctl_fail(EX_DATAERR, "%s: %s", path, error);
    return im->capture.n > 0 ? 0 : ctl_fail(EX_DATAERR, "%s: no UIDL in it", path);
}

static int prepare(struct import *im)
{
    const struct ctl *ctl = im->ctl;
    const struct ctl_uidl_parts sample = {
        .uid = 1, .uidvalidity = 1, .file_name = "f", .guid = "g"};
    char uidl[MAILDROP_UIDL_MAX + 1];
    if (!ctl_reader_format(ctl->format, &im->how.format))
        return ctl_fail(EX_USAGE, "--format=%s: must be eml, mbox, maildir or cyrus", ctl->format);
    if (!ctl_uidl_kind(ctl->uidl, &im->how.uidl))
        return ctl_fail(EX_USAGE,
                        "--uidl=%s: must be auto, none, dovecot, courier, cyrus, filename, x-uidl, "
                        "x-uid or popa3d",
                        ctl->uidl);
    if (ctl->uidl_format && !ctl_uidl_make(ctl->uidl_format, &sample, uidl))
        return ctl_fail(EX_USAGE, "--uidl-format=%s: knows %%u %%v %%f %%g, as in \"%s\"",
                        ctl->uidl_format, CTL_UIDL_FORMAT_DOVECOT);
    im->how.uidl_format = ctl->uidl_format;
    im->limits.no_limits = ctl->options & CTL_NO_LIMITS;
    if (!im->limits.no_limits) {
        im->limits.max_message = ctl->config->store.max_message;
        im->limits.quota_octets = ctl->config->store.quota_octets;
        im->limits.quota_messages = ctl->config->store.quota_messages;
    }
    return 0;
}

/* Everything for one user. `many`: one of many, whose name belongs to the result. */
static int run(struct import *im, const char *user, bool many)
{
    uint64_t total = 0;
    char *list = NULL;
    int status = prepare(im);
    if (!status)
        status = ctl_open_user(im->ctl, user, im->maildrop.name, NULL);
    if (!status && im->ctl->uidl_list)
        status = read_list(im, &list);
    if (!status)
        status = survey(im, &total);
    if (!status)
        status = open_maildrop(im, user);
    if (!status) {
        ctl_progress_begin(&im->progress, is_dry(im) ? "reading" : "importing", total);
        for (size_t i = 0; i < im->n_paths && import_path(im, im->paths[i]); i++)
            ;
        end_batch(im);
        ctl_progress_hide(&im->progress);
        if (im->ctl->options & CTL_DELETE_GONE)
            delete_gone(im);
        ctl_open_close(&im->maildrop); /* printing may take as long as it likes */
        ctl_note_overdue(im->maildrop.name, im->overdue);
        status = ctl_tally_print(&im->tally, im->ctl->options & CTL_JSON, is_dry(im),
                                 many ? im->maildrop.name : NULL);
        status = im->status ? im->status : status;
    }
    ctl_open_close(&im->maildrop);
    ctl_known_free(&im->known);
    ctl_capture_free(&im->capture);
    ctl_tally_free(&im->tally);
    free(im->matches);
    free(im->digests);
    free(list);
    return status;
}

/* The directory of one user, in the place of the one that users' are in. */
static bool is_one_users(const struct ctl_tree *tree)
{
    for (size_t i = 0; i < tree->n; i++)
        if (strcmp(tree->entries[i].user, "Maildir") == 0)
            return true;
    return false;
}

/* Where mail lies, and whose it is here: two users of the old server may be one. */
struct place {
    char user[PROTO_USER_MAX + 1];
    char *path;
    size_t number; /* in the order in which they were found */
};

struct places {
    struct place *places;
    size_t n;
    bool partly; /* there may be more, of any user */
};

static int compare_places(const void *a, const void *b)
{
    const struct place *one = a, *other = b;
    int by_user = strcmp(one->user, other->user);
    return by_user ? by_user : one->number < other->number ? -1 : 1;
}

/* One tree: every place in it, and the first failure for a status. */
static int gather(const struct ctl *ctl, const char *path, struct places *all)
{
    struct ctl_tree tree = {0};
    int status = 0;
    const bool before = all->partly;
    all->partly = true;
    if (!ctl_tree_read(path, &tree)) {
        status = ctl_fail(EX_NOINPUT, "%s: %s", path, ctl_path_fault(errno));
        ctl_tree_free(&tree);
        return status;
    }
    if (is_one_users(&tree)) {
        ctl_tree_free(&tree);
        return ctl_fail(EX_USAGE,
                        "%s: is one user's: --all takes the directory above; or say import USER "
                        "%s/Maildir",
                        path, path);
    }
    all->partly = before;
    for (size_t i = 0; i < tree.n_passed; i++) {
        const struct ctl_tree_passed *passed = &tree.passed[i];
        all->partly |= passed->error != 0;
        ctl_note("%s: %s; passed over", passed->path,
                 passed->error ? strerror(passed->error) : "no mailbox");
        if (passed->error && !status)
            status = passed->error == EACCES ? EX_NOPERM : EX_NOINPUT;
    }
    all->places = base_realloc(all->places, (all->n + tree.n + 1) * sizeof *all->places);
    for (size_t i = 0; i < tree.n && !ctl_signals_met(); i++) {
        struct place *place = &all->places[all->n];
        int failed = ctl_open_user(ctl, tree.entries[i].user, place->user, NULL);
        status = status ? status : failed;
        all->partly |= failed == EX_TEMPFAIL; /* whose it is could not be told */
        if (failed)
            continue;
        place->path = base_strdup(tree.entries[i].path);
        place->number = all->n++;
    }
    ctl_tree_free(&tree);
    return status;
}

/* All of a user's places at once: by one alone it looks as if the mail of the others were gone. */
static int run_all(const struct ctl *ctl)
{
    struct places all = {0};
    int status = 0;
    for (size_t i = 0; i < ctl->n_words && !ctl_signals_met(); i++) {
        int failed = gather(ctl, ctl->words[i], &all);
        status = status ? status : failed;
    }
    if (all.n > 0)
        qsort(all.places, all.n, sizeof *all.places, compare_places);
    bool unsure = all.partly && ctl->options & CTL_DELETE_GONE;
    if (unsure)
        ctl_note("what could not be looked at may be anybody's mail: nothing is deleted as gone");
    const char **paths = base_alloc(all.n * sizeof *paths);
    for (size_t i = 0; i < all.n && !ctl_signals_met();) {
        const char *user = all.places[i].user;
        size_t n = 0;
        while (i < all.n && strcmp(all.places[i].user, user) == 0)
            paths[n++] = all.places[i++].path;
        struct import im = {.ctl = ctl,
                            .paths = paths,
                            .n_paths = n,
                            .partly = true,
                            .how.beneath = true,
                            .status = unsure ? status : 0};
        int failed = run(&im, user, true);
        status = status ? status : failed;
    }
    while (all.n > 0)
        free(all.places[--all.n].path);
    free(all.places);
    free(paths);
    return status;
}

int ctl_import(struct ctl *ctl)
{
    int status = 0;
    bool all = ctl->options & CTL_ALL;
    if (all && ctl->uidl_list)
        return ctl_fail(EX_USAGE, "--uidl-list is of one account, --all takes many");
    ctl_signals_catch();
    if (all) {
        ctl_json_begin(ctl);
        status = run_all(ctl);
        int printed = ctl_json_end(ctl);
        status = status ? status : printed;
    } else {
        struct import im = {.ctl = ctl, .paths = ctl->words + 1, .n_paths = ctl->n_words - 1};
        status = run(&im, ctl->words[0], false);
    }
    if (ctl_signals_met())
        ctl_note("interrupted: the messages counted above are stored, the rest is not");
    return ctl_signals_end(status);
}
