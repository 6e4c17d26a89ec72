/*
 * ctl_export.c - poplarctl export: a maildrop's messages as a Maildir. The directory may belong to
 * a user and the caller is usually root: below it no link is followed and no file is overwritten.
 */
#include "store/ctl_export.h"
#include "store/ctl.h"
#include "store/ctl_progress.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

enum { TMP, NEW, CUR, FOLDERS };
static const char *const folders[FOLDERS] = {[TMP] = "tmp", [NEW] = "new", [CUR] = "cur"};

struct export
{
    const struct ctl *ctl;
    struct ctl_maildrop maildrop;
    const char *path;
    int directory, folder[FOLDERS];
    struct ctl_progress progress;
    uint64_t messages, octets, done, skipped;
    time_t started;
    char host[65];
};

size_t ctl_export_convert(struct ctl_export_lines *lines, const char *in, size_t size, char *out)
{
    size_t put = 0;
    for (size_t i = 0; i < size; i++) {
        if (lines->after_cr && in[i] != '\n') {
            out[put++] = '\r';
            lines->put_cr = true;
        }
        lines->lossy |= lines->after_cr && in[i] == '\n' && lines->put_cr;
        lines->after_cr = in[i] == '\r';
        if (!lines->after_cr) {
            out[put++] = in[i];
            lines->put_cr = false;
        }
    }
    return put;
}

/* In the order of the maildrop, also when sorted by name; unique by time, process and number. */
static char *make_name(const struct export *ex, size_t number)
{
    return base_format("%jd.P%dQ%08zu.%s", (intmax_t)ex->started, (int)getpid(), number, ex->host);
}

/* What a client has fetched goes to cur/ as seen, the rest is new. False and errno. */
static bool move_into_place(const struct export *ex, const char *name, bool seen)
{
    char *final = base_format("%s%s", name, seen ? ":2,S" : "");
    bool moved = renameat(ex->folder[TMP], name, ex->folder[seen ? CUR : NEW], final) == 0;
    int error = errno;
    free(final);
    errno = error;
    return moved;
}

/* Copy one message into a file. `crlf`: as it is stored. */
static enum store_outcome copy(struct export *ex, const struct maildrop_message *message, int fd,
                               bool crlf, bool *lossy, int *write_error)
{
    char *in = base_alloc(MAILDROP_CHUNK_SIZE), *out = base_alloc(MAILDROP_CHUNK_SIZE + 1);
    struct ctl_export_lines lines = {0};
    enum store_outcome outcome;
    uint64_t offset = 0;
    size_t got;
    while ((outcome = maildrop_read(ex->maildrop.store, message->id, offset, in,
                                    MAILDROP_CHUNK_SIZE, &got)) == STORE_OK &&
           got > 0) {
        size_t size = crlf ? got : ctl_export_convert(&lines, in, got, out);
        if (lines.lossy || !ctl_write_all(fd, crlf ? in : out, size)) {
            *write_error = lines.lossy ? 0 : errno;
            break;
        }
        offset += got;
        ctl_progress_update(&ex->progress, ex->done + offset, ex->messages);
    }
    *lossy = lines.lossy || lines.after_cr;
    free(in);
    free(out);
    return outcome;
}

static bool set_time_and_sync(int fd, int64_t received)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = received}};
    return (received <= 0 || futimens(fd, times) == 0) && fsync(fd) == 0;
}

/* Fill the file. A message that LF alone could not give back is written as it is stored. */
static enum store_outcome fill(struct export *ex, const struct maildrop_message *message, int fd,
                               int *write_error)
{
    bool lossy, crlf = ex->ctl->options & CTL_CRLF;
    enum store_outcome outcome = copy(ex, message, fd, crlf, &lossy, write_error);
    if (outcome == STORE_OK && lossy) {
        if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
            *write_error = errno;
        else
            outcome = copy(ex, message, fd, true, &lossy, write_error);
    }
    if (outcome == STORE_OK && !*write_error && !set_time_and_sync(fd, message->received))
        *write_error = errno;
    return outcome;
}

static int write_failed(struct export *ex, const char *name, int error)
{
    ctl_progress_hide(&ex->progress);
    return ctl_fail(error == ENOSPC || error == EDQUOT ? EX_TEMPFAIL : EX_CANTCREAT, "%s/%s: %s",
                    ex->path, name, strerror(error));
}

/* One message: written and synced in tmp/, then moved. */
static int export_message(struct export *ex, const struct maildrop_message *message, size_t number)
{
    int status = 0, write_error = 0;
    char *name = make_name(ex, number);
    int fd =
        openat(ex->folder[TMP], name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        status = write_failed(ex, "tmp", errno);
        goto out;
    }
    enum store_outcome outcome = fill(ex, message, fd, &write_error);
    if (outcome == STORE_OK && !write_error && !move_into_place(ex, name, message->retrieved > 0))
        write_error = errno;
    if (outcome == STORE_OK && !write_error) {
        ex->messages++;
        ex->octets += message->size;
        ex->done += message->size;
        goto out;
    }
    unlinkat(ex->folder[TMP], name, 0);
    if (outcome == STORE_NOT_FOUND) {
        ctl_progress_hide(&ex->progress);
        ctl_note("message %zu was deleted meanwhile; skipped", number);
        ex->skipped++;
        ex->done += message->size;
    } else if (outcome != STORE_OK) {
        ctl_progress_hide(&ex->progress);
        status = ctl_open_failed(&ex->maildrop, outcome, "export");
    } else
        status = write_failed(ex, name, write_error);
out:
    base_close(fd);
    free(name);
    return status;
}

static bool is_empty(int directory)
{
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    const struct dirent *found;
    bool empty = true;
    if (!stream) {
        base_close(copy);
        return false;
    }
    while (empty && (found = readdir(stream)))
        empty = strcmp(found->d_name, ".") == 0 || strcmp(found->d_name, "..") == 0;
    closedir(stream);
    return empty;
}

/* Make or open DIR and the three folders of a Maildir in it. */
static int open_target(struct export *ex)
{
    if (mkdir(ex->path, 0700) < 0 && errno != EEXIST)
        return ctl_fail(EX_CANTCREAT, "%s: %s", ex->path, strerror(errno));
    ex->directory = open(ex->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (ex->directory < 0)
        return ctl_fail(EX_CANTCREAT, "%s: %s", ex->path, strerror(errno));
    if (faccessat(ex->directory, "cur", F_OK, AT_SYMLINK_NOFOLLOW) < 0 && !is_empty(ex->directory))
        return ctl_fail(EX_CANTCREAT, "%s: neither empty nor a Maildir; name another directory",
                        ex->path);
    for (int i = 0; i < FOLDERS; i++) {
        if (mkdirat(ex->directory, folders[i], 0700) == 0 || errno == EEXIST)
            ex->folder[i] =
                openat(ex->directory, folders[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (ex->folder[i] < 0)
            return write_failed(ex, folders[i], errno);
    }
    return 0;
}

/* Every message that was there at the start. */
static int export_all(struct export *ex, int64_t last_id)
{
    struct maildrop_message message = {.id = 0};
    enum store_outcome outcome = STORE_OK;
    size_t number = 0;
    int status = 0;
    while (!status &&
           (outcome = maildrop_next(ex->maildrop.store, message.id, &message)) == STORE_OK &&
           message.id <= last_id)
        if (!message.deleted)
            status = export_message(ex, &message, ++number);
    ctl_progress_hide(&ex->progress);
    if (outcome != STORE_OK && outcome != STORE_END)
        status = ctl_open_failed(&ex->maildrop, outcome, "export");
    for (int i = 0; !status && i < FOLDERS; i++)
        if (fsync(ex->folder[i]) < 0)
            status = write_failed(ex, folders[i], errno);
    if (!status && fsync(ex->directory) < 0)
        status = write_failed(ex, "", errno);
    return status;
}

static void print_summary(const struct export *ex)
{
    if (ex->ctl->options & CTL_JSON)
        printf("{\"messages\":%ju,\"octets\":%ju,\"skipped\":%ju}\n", (uintmax_t)ex->messages,
               (uintmax_t)ex->octets, (uintmax_t)ex->skipped);
    else
        printf("exported %ju message%s, %ju octets, %ju skipped\n", (uintmax_t)ex->messages,
               ex->messages == 1 ? "" : "s", (uintmax_t)ex->octets, (uintmax_t)ex->skipped);
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
    print_summary(ex);
    return status;
}

int ctl_export(struct ctl *ctl)
{
    struct export ex = {.ctl = ctl,
                        .path = ctl->words[1],
                        .directory = -1,
                        .folder = {-1, -1, -1},
                        .started = time(NULL)};
    /* A Maildir name holds neither '/' nor ':'. */
    if (gethostname(ex.host, sizeof ex.host - 1) < 0)
        base_copy(ex.host, sizeof ex.host, "localhost");
    for (char *c = ex.host; *c; c++)
        if (*c == '/' || *c == ':')
            *c = '_';
    int status = ctl_open_maildrop(ctl, ctl->words[0], false, &ex.maildrop);
    if (!status)
        status = run(&ex);
    ctl_open_close(&ex.maildrop);
    base_close(ex.directory);
    for (int i = 0; i < FOLDERS; i++)
        base_close(ex.folder[i]);
    return status;
}
