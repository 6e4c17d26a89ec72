/*
 * ctl_salvage.c - poplarctl mailbox salvage: from a damaged maildrop into a Maildir. Runs as root
 * or the store user, on a private copy: the maildrop stays as it is.
 */
#include "store/ctl_copy.h"
#include "store/ctl_drops.h"
#include "store/ctl_json.h"
#include "store/ctl_path.h"
#include "store/ctl_progress.h"
#include "store/ctl_signals.h"
#include "store/ctl_target.h"
#include "store/ctl_twin.h"
#include "store/salvage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

struct salvaging {
    const struct ctl *ctl;
    const char *name; /* of the user or file, for people */
    char *source;     /* the maildrop's directory, or that of a backup */
    const char *file; /* in it */
    bool in_use;      /* by a server, perhaps */
    struct ctl_twin twin;
    struct salvage *salvage;
    struct ctl_target *target;
    struct ctl_copy copy;
    struct ctl_progress progress;
    uint64_t whole, altered, rebuilt, lost, deleted;
};

/* A copy of both files as of one moment: no commit is under way while the write byte is ours. */
static int make_copy(struct salvaging *s)
{
    int lock = -1;
    int status = s->in_use ? ctl_drops_keep(s->name, s->source, &lock) : 0;
    char *path = base_format("%s/%s", s->source, s->file);
    if (!status)
        status = ctl_twin_make(path, &s->twin);
    base_close(lock);
    free(path);
    return status;
}

static enum store_outcome read_salvaged(void *from, int64_t id, uint64_t offset, void *buffer,
                                        size_t size, size_t *got)
{
    return salvage_read(from, id, offset, buffer, size, got);
}

static void lose(struct salvaging *s, const struct maildrop_message *message)
{
    ctl_progress_hide(&s->progress);
    ctl_note("message %jd%s%s: lost", (intmax_t)message->id, message->uidl[0] ? ", UIDL " : "",
             message->uidl);
    s->lost++;
}

/* What may be wrong in it nobody knows: it is written even so. */
static void doubt(struct salvaging *s, const struct maildrop_message *message)
{
    ctl_progress_hide(&s->progress);
    ctl_note("message %jd, UIDL %s: not what was stored, look at it", (intmax_t)message->id,
             message->uidl);
    s->altered++;
}

static int take(struct salvaging *s, size_t n)
{
    struct maildrop_message message;
    enum store_outcome outcome;
    enum salvage_part part = salvage_message(s->salvage, n, &message);
    if (message.deleted) {
        s->deleted++;
        return 0;
    }
    if (part == SALVAGE_LOST) {
        lose(s, &message);
        return 0;
    }
    int status = ctl_target_add(s->target, &s->copy, &message, &outcome);
    if (status < 0) {
        lose(s, &message);
        return 0;
    }
    if (!status && part == SALVAGE_ALTERED)
        doubt(s, &message);
    s->whole += !status && part == SALVAGE_WHOLE;
    s->rebuilt += !status && part == SALVAGE_REBUILT;
    return status;
}

static int run(struct salvaging *s)
{
    char error[300];
    enum store_outcome outcome = salvage_open(s->twin.path, &s->salvage, error, sizeof error);
    if (outcome != STORE_OK)
        return ctl_fail(EX_DATAERR, "maildrop of %s: nothing can be read: %s", s->name, error);
    int status = ctl_target_open(s->ctl->words[1], &s->target);
    if (status)
        return status;
    size_t n = salvage_count(s->salvage);
    s->copy = (struct ctl_copy){
        .read = read_salvaged, .from = s->salvage, .crlf = s->ctl->options & CTL_CRLF};
    ctl_progress_begin(&s->progress, "salvaging", n);
    s->progress.unit = "message";
    for (size_t i = 0; !status && i < n && !ctl_signals_met(); i++) {
        status = take(s, i);
        ctl_progress_update(&s->progress, i + 1, s->whole + s->altered + s->rebuilt);
    }
    ctl_progress_hide(&s->progress);
    return status ? status : ctl_target_finish(s->target);
}

static int print_summary(const struct salvaging *s)
{
    const uint64_t all = s->whole + s->altered + s->rebuilt;
    if (s->ctl->options & CTL_JSON)
        return ctl_json_print(json_pack("{s:I, s:I, s:I, s:I, s:I}", "messages", (json_int_t)all,
                                        "rebuilt", (json_int_t)s->rebuilt, "altered",
                                        (json_int_t)s->altered, "lost", (json_int_t)s->lost,
                                        "deleted", (json_int_t)s->deleted),
                              false);
    printf("salvaged %ju message%s, %ju of them without time of receipt, %ju not as they were "
           "stored; %ju lost; %ju deleted before, left out\n",
           (uintmax_t)all, base_plural(all), (uintmax_t)s->rebuilt, (uintmax_t)s->altered,
           (uintmax_t)s->lost, (uintmax_t)s->deleted);
    return 0;
}

/* A maildrop that is made anew has none: one that was closed to its user would be open again. */
static void say_limits(const struct salvaging *s)
{
    const char *const *names = maildrop_settings;
    char *words = base_strdup("");
    for (size_t i = 0; i < ARRAY_SIZE(maildrop_settings); i++) {
        const int64_t value = salvage_setting(s->salvage, names[i]);
        if (value < 0)
            continue;
        char *more = strcmp(names[i], MAILDROP_POP3) == 0
                         ? base_format("%s %s=%s", words, names[i], value ? "on" : "off")
                         : base_format("%s %s=%jd", words, names[i], (intmax_t)value);
        free(words);
        words = more;
    }
    if (*words)
        ctl_note("there were limits of its own; to give them back: mailbox set %s%s",
                 s->in_use ? s->name : "USER", words);
    free(words);
}

/* A user's maildrop; or, with a '/' in it, which no user has, a file or directory: a backup. */
static int find_source(struct salvaging *s, char name[PROTO_USER_MAX + 1])
{
    const char *given = s->ctl->words[0], *slash = strrchr(given, '/');
    struct stat about;
    s->file = maildrop_file_names[MAILDROP_DB];
    s->name = given;
    if (slash) {
        int fd = ctl_path_open(given, O_PATH);
        if (fd < 0 || fstat(fd, &about) < 0)
            return ctl_fail(EX_NOINPUT, "%s: %s", given, ctl_path_fault(errno));
        close(fd);
        bool directory = S_ISDIR(about.st_mode);
        if (!directory && !S_ISREG(about.st_mode)) /* which has no end, perhaps */
            return ctl_fail(EX_NOINPUT, "%s: is neither a file nor a directory", given);
        s->source =
            directory ? base_strdup(given) : base_format("%.*s", (int)(slash - given), given);
        s->file = directory ? s->file : slash + 1;
        return 0;
    }
    int status = ctl_open_may(s->ctl);
    if (!status)
        status = ctl_open_name(s->ctl, given, name);
    if (status)
        return status;
    if (!ctl_open_exists(s->ctl, name))
        return ctl_fail(EX_NOUSER, "%s: no maildrop", name);
    s->name = name;
    s->source = ctl_drops_path(s->ctl, name);
    s->in_use = true;
    return 0;
}

int ctl_mailbox_salvage(struct ctl *ctl)
{
    struct salvaging s = {.ctl = ctl};
    char name[PROTO_USER_MAX + 1];
    if (maildrop_library_init(false) != STORE_OK)
        return ctl_fail(EX_SOFTWARE, "this SQLite library lacks what the store needs");
    int status = find_source(&s, name);
    if (status)
        return status;
    ctl_signals_catch();
    status = make_copy(&s);
    if (!status)
        status = run(&s);
    if (!status) {
        status = print_summary(&s);
        say_limits(&s);
    }
    salvage_close(s.salvage);
    ctl_target_close(s.target);
    ctl_twin_remove(&s.twin);
    free(s.source);
    return ctl_signals_end(status ? status : s.lost + s.altered > 0 ? EX_DATAERR : 0);
}
