/*
 * ctl_export.c - poplarctl export: a maildrop's messages as a Maildir or an mbox. What is written
 * may belong to a user and the caller is usually root: no link is followed, no file overwritten. An
 * mbox is whole under its name, or not there.
 */
#include "store/ctl.h"
#include "store/ctl_copy.h"
#include "store/ctl_progress.h"
#include "store/ctl_signals.h"
#include "store/ctl_target.h"
#include "store/ctl_unfinished.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

struct export
{
    const struct ctl *ctl;
    struct ctl_maildrop maildrop;
    const char *path;
    struct ctl_target *target;  /* a Maildir, */
    struct ctl_unfinished mbox; /* or an mbox */
    struct ctl_copy copy;
    struct ctl_progress progress;
    uint64_t messages, octets, done, skipped;
};

static void show_progress(void *context, uint64_t octets)
{
    struct export *ex = context;
    ctl_progress_update(&ex->progress, ex->done + octets, ex->messages);
}

/* A From line, the message, an empty line; all of it, or nothing. */
static int add_to_mbox(struct export *ex, const struct maildrop_message *message,
                       enum store_outcome *outcome)
{
    char line[80] = "";
    int fd = ex->mbox.fd;
    time_t received = (time_t)message->received;
    struct tm local;
    off_t begin = lseek(fd, 0, SEEK_CUR);
    int error = 0;
    *outcome = STORE_OK;
    /* Local time, as everywhere in this format: it has no zones. */
    if (localtime_r(&received, &local))
        strftime(line, sizeof line, "From MAILER-DAEMON %a %b %e %H:%M:%S %Y\n", &local);
    if (!ctl_write_all(fd, line, strlen(line)))
        error = errno;
    else
        *outcome = ctl_copy_message(&ex->copy, message->id, fd, &error);
    if (*outcome == STORE_OK && !error && !ctl_write_all(fd, "\n", 1))
        error = errno;
    if ((*outcome != STORE_OK || error) &&
        (ftruncate(fd, begin) < 0 || lseek(fd, begin, SEEK_SET) < 0) && !error)
        error = errno;
    return error ? ctl_write_failed(ex->path, error) : *outcome == STORE_OK ? 0 : -1;
}

static int export_message(struct export *ex, const struct maildrop_message *message)
{
    enum store_outcome outcome;
    int status = ex->target ? ctl_target_add(ex->target, &ex->copy, message, &outcome)
                            : add_to_mbox(ex, message, &outcome);
    ex->done += message->size;
    if (!status) {
        ex->messages++;
        ex->octets += message->size;
        return 0;
    }
    ctl_progress_hide(&ex->progress);
    if (outcome == STORE_NOT_FOUND) {
        ctl_note("message %jd was deleted meanwhile; skipped", (intmax_t)message->id);
        ex->skipped++;
        return 0;
    }
    return outcome == STORE_OK ? status : ctl_open_failed(&ex->maildrop, outcome, "export");
}

/* Who interrupts it gets a Maildir of what was exported up to there, and no mbox. */
static int finish(struct export *ex)
{
    if (ex->target)
        return ctl_target_finish(ex->target);
    return ctl_signals_met() ? EX_TEMPFAIL : ctl_unfinished_finish(&ex->mbox, NULL);
}

/* Every message that was there at the start. */
static int export_all(struct export *ex, int64_t last_id)
{
    struct maildrop_message message = {.id = 0};
    enum store_outcome outcome = STORE_OK;
    int status = 0;
    while (!status && !ctl_signals_met() &&
           (outcome = maildrop_next(ex->maildrop.store, message.id, &message)) == STORE_OK &&
           message.id <= last_id)
        if (!message.deleted)
            status = export_message(ex, &message);
    ctl_progress_hide(&ex->progress);
    if (outcome != STORE_OK && outcome != STORE_END)
        status = ctl_open_failed(&ex->maildrop, outcome, "export");
    return status ? status : finish(ex);
}

static void print_summary(const struct export *ex)
{
    if (ex->ctl->options & CTL_JSON)
        printf("{\"messages\":%ju,\"octets\":%ju,\"skipped\":%ju}\n", (uintmax_t)ex->messages,
               (uintmax_t)ex->octets, (uintmax_t)ex->skipped);
    else
        printf("exported %ju message%s, %ju octet%s, %ju skipped\n", (uintmax_t)ex->messages,
               base_plural(ex->messages), (uintmax_t)ex->octets, base_plural(ex->octets),
               (uintmax_t)ex->skipped);
}

static int open_target(struct export *ex)
{
    const char *format = ex->ctl->format;
    if (!format || strcmp(format, "maildir") == 0)
        return ctl_target_open(ex->path, &ex->target);
    if (strcmp(format, "mbox") != 0)
        return ctl_fail(EX_USAGE, "--format=%s: must be maildir or mbox", format);
    ex->copy.quote = true;
    return ctl_unfinished_make(ex->path, false, &ex->mbox);
}

static int run(struct export *ex)
{
    struct maildrop_totals totals;
    enum store_outcome outcome = maildrop_totals(ex->maildrop.store, &totals);
    if (outcome != STORE_OK)
        return ctl_open_failed(&ex->maildrop, outcome, "export");
    int status = open_target(ex);
    if (status)
        return status;
    ctl_progress_begin(&ex->progress, "exporting", totals.octets);
    status = export_all(ex, totals.last_id);
    if (ex->target || !status) /* of an mbox that is not there nothing was exported */
        print_summary(ex);
    return status;
}

int ctl_export(struct ctl *ctl)
{
    struct export ex = {.ctl = ctl, .path = ctl->words[1]};
    ctl_signals_catch();
    int status = ctl_open_maildrop(ctl, ctl->words[0], 0, &ex.maildrop);
    ex.copy = (struct ctl_copy){.read = ctl_copy_maildrop,
                                .from = ex.maildrop.store,
                                .crlf = ctl->options & CTL_CRLF,
                                .progress = show_progress,
                                .context = &ex};
    if (!status)
        status = run(&ex);
    ctl_open_close(&ex.maildrop);
    ctl_target_close(ex.target);
    ctl_unfinished_end(&ex.mbox);
    return ctl_signals_end(status);
}
