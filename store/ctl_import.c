/*
 * ctl_import.c - poplarctl import: messages from files into a maildrop, in batches of one commit
 * each, while sessions and deliveries go on. What a batch committed stays, whatever follows.
 */
#include "store/ctl.h"
#include "store/ctl_progress.h"
#include "store/ctl_reader.h"
#include "store/wire.h"

#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum {
    BATCH_MESSAGES = 200,
    BATCH_OCTETS = 32 << 20,
    BATCH_MS = 1000 /* the write lock is held for as long: a delivery should not wait longer */
};

struct tally {
    uint64_t messages, octets;
};

struct import {
    const struct ctl *ctl;
    struct ctl_maildrop maildrop; /* not open in a dry run */
    struct maildrop_delivery limits;
    enum ctl_format format;
    struct ctl_progress progress;
    uint64_t before; /* octets of the paths that are done, for the progress bar */
    struct ctl_reader *reader;
    struct wire wire; /* what the message at hand comes to */
    bool in_batch;
    uint64_t batch_ms; /* when it began */
    struct tally batch, stored;
    uint64_t skipped;
    int status; /* of the first thing that went wrong */
};

/* Ctrl-C commits what is read, says how far it came, and only then ends the program. */
static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    interrupted = number;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

static void went_wrong(struct import *im, int status)
{
    if (!im->status)
        im->status = status;
}

static void skip(struct import *im, const struct ctl_item *item, const char *why, int status)
{
    ctl_progress_hide(&im->progress);
    ctl_note("%s: %s; skipped", item->name, why);
    im->skipped++;
    if (status)
        went_wrong(im, status);
}

/* The message as it is stored, without keeping it. */
static void count(struct wire *wire, const unsigned char *octets, size_t size)
{
    unsigned char out[4096];
    while (size > 0) {
        size_t used;
        wire_convert(wire, octets, size, out, sizeof out, &used);
        octets += used;
        size -= used;
    }
}

/* maildrop_source: from the reader to the store, counting on the way. */
static ssize_t pass_on(void *context, void *buffer, size_t size)
{
    struct import *im = context;
    ssize_t got = ctl_reader_read(im->reader, buffer, size);
    if (got > 0)
        count(&im->wire, buffer, (size_t)got);
    ctl_progress_update(&im->progress, im->before + ctl_reader_position(im->reader),
                        im->stored.messages + im->batch.messages);
    return got;
}

static void settle_batch(struct import *im)
{
    im->stored.messages += im->batch.messages;
    im->stored.octets += im->batch.octets;
    im->batch = (struct tally){0};
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

static enum store_outcome deliver(struct import *im, const struct ctl_item *item)
{
    struct maildrop_delivery delivery = im->limits;
    delivery.received = item->received;
    if (!im->in_batch) {
        enum store_outcome outcome = maildrop_batch_begin(im->maildrop.store);
        if (outcome != STORE_OK)
            return outcome;
        im->in_batch = true;
        im->batch_ms = base_now_ms();
    }
    return maildrop_deliver(im->maildrop.store, &delivery, pass_on, im, NULL);
}

/* A dry run: read as the store would, and judge by the same limit. */
static enum store_outcome rehearse(struct import *im)
{
    unsigned char buffer[16384];
    ssize_t got;
    while ((got = pass_on(im, buffer, sizeof buffer)) > 0)
        ;
    if (got < 0)
        return STORE_SOURCE;
    return im->limits.max_message && im->wire.octets > im->limits.max_message ? STORE_TOO_LARGE
                                                                              : STORE_OK;
}

static bool batch_is_full(const struct import *im)
{
    return im->batch.messages >= BATCH_MESSAGES || im->batch.octets >= BATCH_OCTETS ||
           base_now_ms() - im->batch_ms >= BATCH_MS;
}

/* False: stop. */
static bool import_message(struct import *im, const struct ctl_item *item)
{
    bool dry = im->ctl->options & CTL_DRY_RUN;
    im->wire = (struct wire){0};
    enum store_outcome outcome = dry ? rehearse(im) : deliver(im, item);
    switch (outcome) {
    case STORE_OK:
        if (wire_unfinished(&im->wire))
            count(&im->wire, (const unsigned char *)wire_line_end, sizeof wire_line_end);
        im->batch.messages++;
        im->batch.octets += im->wire.octets;
        if (dry)
            settle_batch(im);
        return dry || !batch_is_full(im) || end_batch(im);
    case STORE_TOO_LARGE:
        skip(im, item, "larger than [store] max_message (--no-limits takes it)", EX_DATAERR);
        return true;
    case STORE_SOURCE:
        skip(im, item, strerror(ctl_reader_error(im->reader)), EX_NOINPUT);
        return true;
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
    im->reader = ctl_reader_open(path, im->format, &status, error, sizeof error);
    if (!im->reader) {
        went_wrong(im, ctl_fail(status, "%s", error));
        go_on = false;
    }
    while (go_on && !interrupted) {
        enum ctl_read what = ctl_reader_next(im->reader, item);
        if (what == CTL_READ_END)
            break;
        if (what == CTL_READ_MESSAGE)
            go_on = import_message(im, item);
        else
            skip(im, item, item->reason, what == CTL_READ_FAILED ? EX_NOINPUT : 0);
    }
    if (im->reader)
        im->before += ctl_reader_total(im->reader);
    ctl_reader_close(im->reader);
    im->reader = NULL;
    free(item);
    return go_on && !interrupted;
}

/* Open every path once before anything is stored: a mistyped one should not leave the others
 * imported, for they would be there twice after the next try. Also finds the total. */
static int survey(const struct import *im, uint64_t *total)
{
    char error[4608];
    int status;
    *total = 0;
    for (size_t i = 1; i < im->ctl->n_words; i++) {
        struct ctl_reader *reader =
            ctl_reader_open(im->ctl->words[i], im->format, &status, error, sizeof error);
        if (!reader)
            return ctl_fail(status, "%s; nothing was imported", error);
        *total += ctl_reader_total(reader);
        ctl_reader_close(reader);
    }
    return 0;
}

static void print_summary(const struct import *im)
{
    bool dry = im->ctl->options & CTL_DRY_RUN;
    if (im->ctl->options & CTL_JSON) {
        json_t *object = json_pack(
            "{s:I, s:I, s:I, s:b}", "messages", (json_int_t)im->stored.messages, "octets",
            (json_int_t)im->stored.octets, "skipped", (json_int_t)im->skipped, "dry_run", (int)dry);
        json_dumpf(object, stdout, JSON_COMPACT);
        json_decref(object);
        putchar('\n');
        return;
    }
    printf("%s %ju message%s, %ju octets, %ju skipped\n", dry ? "would import" : "imported",
           (uintmax_t)im->stored.messages, im->stored.messages == 1 ? "" : "s",
           (uintmax_t)im->stored.octets, (uintmax_t)im->skipped);
}

static int prepare(struct import *im, uint64_t *total)
{
    const struct ctl *ctl = im->ctl;
    if (!ctl_reader_format(ctl->format, &im->format))
        return ctl_fail(EX_USAGE, "--format=%s: must be eml, mbox or maildir", ctl->format);
    if (!(ctl->options & CTL_NO_LIMITS)) {
        im->limits.max_message = ctl->config->store.max_message;
        im->limits.quota_octets = ctl->config->store.quota_octets;
        im->limits.quota_messages = ctl->config->store.quota_messages;
    }
    int status = ctl_open_user(ctl, ctl->words[0], im->maildrop.name, NULL);
    if (!status)
        status = survey(im, total);
    if (!status && !(ctl->options & CTL_DRY_RUN))
        status = ctl_open_maildrop(ctl, ctl->words[0], true, &im->maildrop);
    return status;
}

int ctl_import(struct ctl *ctl)
{
    struct import im = {.ctl = ctl};
    uint64_t total = 0;
    int status = prepare(&im, &total);
    if (status)
        return status;
    catch_signals();
    ctl_progress_begin(&im.progress, ctl->options & CTL_DRY_RUN ? "reading" : "importing", total);
    for (size_t i = 1; i < ctl->n_words && import_path(&im, ctl->words[i]); i++)
        ;
    end_batch(&im);
    ctl_progress_hide(&im.progress);
    ctl_open_close(&im.maildrop);
    print_summary(&im);
    if (interrupted) {
        ctl_note("interrupted: the messages counted above are stored, the rest is not");
        fflush(stdout);
        raise(interrupted);
    }
    return im.status;
}
