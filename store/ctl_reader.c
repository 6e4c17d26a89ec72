/*
 * ctl_reader.c - tells message files, mboxes and Maildirs apart, and reads all three alike, for
 * poplarctl import. Runs with the caller's privilege, reads only what the caller named.
 */
#include "store/ctl_reader.h"
#include "daemon/base.h"
#include "store/ctl_maildir.h"
#include "store/ctl_mbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

struct ctl_reader {
    enum ctl_format format;
    char *path;
    int fd; /* the file; of a Maildir, the message at hand, or -1 */
    int64_t mtime;
    uint64_t total, position;
    size_t next;    /* number of the next message, from 0 */
    uint64_t begun; /* Maildir: octets of the messages before the one at hand */
    int broken;     /* errno of the last read that failed; an mbox then ends */
    struct ctl_maildir maildir;
    struct ctl_mbox mbox;
};

bool ctl_reader_format(const char *name, enum ctl_format *format)
{
    static const char *const names[] = {
        [CTL_FORMAT_MESSAGE] = "eml", [CTL_FORMAT_MBOX] = "mbox", [CTL_FORMAT_MAILDIR] = "maildir"};
    if (!name) {
        *format = CTL_FORMAT_AUTO;
        return true;
    }
    for (unsigned i = 1; i < ARRAY_SIZE(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *format = (enum ctl_format)i;
            return true;
        }
    return false;
}

static ssize_t read_file(void *context, void *buffer, size_t size)
{
    struct ctl_reader *reader = context;
    ssize_t got;
    do
        got = read(reader->fd, buffer, size);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        reader->broken = errno;
    else
        reader->position += (uint64_t)got;
    return got;
}

/* A file named .eml is one message even if it begins with a From line: programs that save single
 * messages leave that line in, and what came in must come out. */
static bool is_named_eml(const char *path)
{
    size_t length = strlen(path);
    return length > 4 && strcasecmp(path + length - 4, ".eml") == 0;
}

static bool begins_with_from(int fd)
{
    char begin[5];
    return pread(fd, begin, sizeof begin, 0) == (ssize_t)sizeof begin &&
           memcmp(begin, "From ", sizeof begin) == 0;
}

/* Mail transports lock an mbox while they append to it. The lock ends with the descriptor. */
static bool lock_mbox(int fd)
{
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &whole) == 0 || (errno != EAGAIN && errno != EACCES);
}

/* What keeps a regular file from being read as what it is said to be; NULL if nothing. */
static const char *begin_file(struct ctl_reader *reader, enum ctl_format wanted, int *status)
{
    *status = EX_DATAERR;
    if (wanted == CTL_FORMAT_MAILDIR)
        return "is a file: a Maildir is a directory with cur/ and new/";
    if (wanted == CTL_FORMAT_AUTO && is_named_eml(reader->path))
        wanted = CTL_FORMAT_MESSAGE;
    if (reader->total == 0 && wanted != CTL_FORMAT_MESSAGE)
        return "is empty: no message in it";
    if (wanted == CTL_FORMAT_AUTO)
        wanted = begins_with_from(reader->fd) ? CTL_FORMAT_MBOX : CTL_FORMAT_MESSAGE;
    reader->format = wanted;
    if (reader->format != CTL_FORMAT_MBOX)
        return NULL;
    ctl_mbox_init(&reader->mbox, read_file, reader);
    if (!begins_with_from(reader->fd))
        return "is no mbox: it does not begin with \"From \"";
    if (lock_mbox(reader->fd))
        return NULL;
    *status = EX_TEMPFAIL;
    return "is locked by another program: try again when that is done";
}

static const char *begin_directory(struct ctl_reader *reader, enum ctl_format wanted, int *status)
{
    static const char *const no_file = "is a directory: this format is a file";
    const char *failed_at;
    *status = EX_DATAERR;
    if (wanted != CTL_FORMAT_AUTO && wanted != CTL_FORMAT_MAILDIR)
        return no_file;
    reader->format = CTL_FORMAT_MAILDIR;
    bool listed = ctl_maildir_list(&reader->maildir, reader->fd, &failed_at);
    base_close(reader->fd);
    reader->fd = -1;
    reader->total = reader->maildir.octets;
    if (listed)
        return NULL;
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)
        return "is a directory, but no Maildir: it lacks cur/ or new/; name the files in it";
    *status = errno == EACCES ? EX_NOPERM : EX_IOERR;
    return strerror(errno);
}

static int open_status(int error)
{
    return error == EACCES || error == EPERM ? EX_NOPERM : EX_NOINPUT;
}

struct ctl_reader *ctl_reader_open(const char *path, enum ctl_format format, int *status,
                                   char *error, size_t error_size)
{
    struct stat about;
    const char *wrong;
    struct ctl_reader *reader = base_alloc(sizeof *reader);
    *reader = (struct ctl_reader){.path = base_strdup(path), .maildir.directories = {-1, -1}};
    reader->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (reader->fd < 0 || fstat(reader->fd, &about) < 0) {
        *status = open_status(errno);
        wrong = strerror(errno);
    } else if (S_ISREG(about.st_mode)) {
        reader->total = (uint64_t)about.st_size;
        reader->mtime = about.st_mtime;
        wrong = begin_file(reader, format, status);
    } else if (S_ISDIR(about.st_mode)) {
        wrong = begin_directory(reader, format, status);
    } else {
        *status = EX_NOINPUT;
        wrong = "is neither a file nor a directory";
    }
    if (!wrong)
        return reader;
    snprintf(error, error_size, "%s: %s", path, wrong);
    ctl_reader_close(reader);
    return NULL;
}

void ctl_reader_close(struct ctl_reader *reader)
{
    if (!reader)
        return;
    ctl_mbox_free(&reader->mbox);
    ctl_maildir_free(&reader->maildir);
    base_close(reader->fd);
    free(reader->path);
    free(reader);
}

static enum ctl_read fail(struct ctl_item *item, int error)
{
    snprintf(item->reason, sizeof item->reason, "%s",
             error == EINVAL ? "not a regular file" : strerror(error));
    return CTL_READ_FAILED;
}

static enum ctl_read next_in_file(struct ctl_reader *reader, struct ctl_item *item)
{
    if (reader->next++ > 0)
        return CTL_READ_END;
    snprintf(item->name, sizeof item->name, "%s", reader->path);
    item->received = reader->mtime > 0 ? reader->mtime : 0;
    return CTL_READ_MESSAGE;
}

static enum ctl_read next_in_mbox(struct ctl_reader *reader, struct ctl_item *item)
{
    if (reader->broken)
        return CTL_READ_END; /* reported when it broke */
    snprintf(item->name, sizeof item->name, "%s, message %zu", reader->path, ++reader->next);
    int more = ctl_mbox_next(&reader->mbox, &item->received);
    if (more >= 0)
        return more ? CTL_READ_MESSAGE : CTL_READ_END;
    reader->broken = errno;
    return fail(item, errno);
}

static enum ctl_read next_in_maildir(struct ctl_reader *reader, struct ctl_item *item)
{
    base_close(reader->fd);
    reader->fd = -1;
    reader->position = reader->begun;
    if (reader->next == reader->maildir.n_entries)
        return CTL_READ_END;
    const struct ctl_maildir_entry *entry = &reader->maildir.entries[reader->next++];
    reader->begun += entry->size;
    snprintf(item->name, sizeof item->name, "%s/%s/%s", reader->path, ctl_maildir_folder(entry),
             entry->name);
    item->received = ctl_maildir_received(entry);
    if (ctl_maildir_trashed(entry->name)) {
        snprintf(item->reason, sizeof item->reason, "marked as trashed");
        return CTL_READ_PASSED;
    }
    reader->fd = ctl_maildir_open(&reader->maildir, entry);
    return reader->fd < 0 ? fail(item, errno) : CTL_READ_MESSAGE;
}

enum ctl_read ctl_reader_next(struct ctl_reader *reader, struct ctl_item *item)
{
    *item = (struct ctl_item){.received = 0};
    if (reader->format == CTL_FORMAT_MAILDIR)
        return next_in_maildir(reader, item);
    return reader->format == CTL_FORMAT_MBOX ? next_in_mbox(reader, item)
                                             : next_in_file(reader, item);
}

ssize_t ctl_reader_read(void *context, void *buffer, size_t size)
{
    struct ctl_reader *reader = context;
    return reader->format == CTL_FORMAT_MBOX ? ctl_mbox_read(&reader->mbox, buffer, size)
                                             : read_file(reader, buffer, size);
}

int ctl_reader_error(const struct ctl_reader *reader)
{
    return reader->broken ? reader->broken : EIO;
}

uint64_t ctl_reader_total(const struct ctl_reader *reader)
{
    return reader->total;
}

uint64_t ctl_reader_position(const struct ctl_reader *reader)
{
    return reader->position < reader->total ? reader->position : reader->total;
}
