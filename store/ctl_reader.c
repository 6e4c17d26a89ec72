/*
 * ctl_reader.c - tells message files, mboxes and Maildirs apart, and reads all three alike, for
 * poplarctl import. Runs with the caller's privilege, reads only what the caller named.
 */
#include "store/ctl_reader.h"
#include "store/ctl.h"
#include "store/ctl_cyrus.h"
#include "store/ctl_foreign.h"
#include "store/ctl_hide.h"
#include "store/ctl_maildir.h"
#include "store/ctl_mbox.h"
#include "store/ctl_path.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sysexits.h>
#include <unistd.h>

enum { HOLES_MAX = 1 << 30 }; /* octets of a file that may have some */

struct ctl_reader {
    enum ctl_format format;
    enum ctl_uidl_kind uidl;
    const char *uidl_format;
    char *path;
    int fd;            /* the file; of a directory, the message at hand, or -1 */
    uint64_t size;     /* of it, when it was opened: it may grow for ever */
    int folder;        /* of a Cyrus mailbox, else -1 */
    struct stat about; /* what the path leads to */
    uint64_t total, position;
    size_t next;       /* number of the next message, from 0 */
    uint64_t begun;    /* Maildir: octets up to the end of the message at hand */
    uint64_t at;       /* where the message at hand begins */
    int broken;        /* errno of the last read that failed; an mbox then ends */
    uint64_t validity; /* UIDVALIDITY, as an mbox tells it */
    struct ctl_maildir maildir;
    struct ctl_uidl_list list;
    struct ctl_cyrus cyrus;
    struct ctl_mbox mbox;
    bool hides; /* of the message at hand, what an mbox's server noted in it */
    struct ctl_hide hide;
};

bool ctl_reader_format(const char *name, enum ctl_format *format)
{
    static const char *const names[] = {[CTL_FORMAT_MESSAGE] = "eml",
                                        [CTL_FORMAT_MBOX] = "mbox",
                                        [CTL_FORMAT_MAILDIR] = "maildir",
                                        [CTL_FORMAT_CYRUS] = "cyrus"};
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
    uint64_t done = reader->position - (reader->format == CTL_FORMAT_MBOX ? 0 : reader->at);
    uint64_t left = reader->size - done;
    ssize_t got = ctl_read(reader->fd, buffer, left < size ? (size_t)left : size);
    if (got == 0 && left > 0) { /* a part of a message is none */
        errno = ENODATA;
        got = -1;
    }
    if (got < 0)
        reader->broken = errno;
    else
        reader->position += (uint64_t)got;
    return got;
}

static ssize_t look_at_file(void *context, uint64_t position, void *buffer, size_t size)
{
    struct ctl_reader *reader = context;
    if (position >= reader->total) /* where a header leads, any number may stand */
        return 0;
    ssize_t got = pread(reader->fd, buffer, size, (off_t)position);
    if (got < 0)
        reader->broken = errno;
    return got;
}

/* A file named .eml is one message even if it begins with a From line: programs that save single
 * messages leave that line in, and what came in must come out. */
static bool is_named_eml(const char *path)
{
    size_t length = strlen(path);
    return length > 4 && strcasecmp(path + length - 4, ".eml") == 0;
}

/* -1 and errno if that cannot be read. */
static int begins_with_from(int fd)
{
    char begin[5];
    ssize_t got = pread(fd, begin, sizeof begin, 0);
    if (got < 0)
        return -1;
    return got == (ssize_t)sizeof begin && memcmp(begin, "From ", sizeof begin) == 0;
}

/* Mail transports lock an mbox while they append to it. The lock ends with the descriptor. */
static bool lock_mbox(int fd)
{
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &whole) == 0 || (errno != EAGAIN && errno != EACCES);
}

/* Note how much of a file there is to read. What keeps it from being read; NULL if nothing: with
 * holes it may have any length, and nobody wrote it. */
static const char *measure(struct ctl_reader *reader, struct stat *about)
{
    if (fstat(reader->fd, about) < 0)
        return strerror(errno);
    reader->size = (uint64_t)about->st_size;
    if (about->st_size <= HOLES_MAX)
        return NULL;
    off_t hole = lseek(reader->fd, 0, SEEK_HOLE);
    if (lseek(reader->fd, 0, SEEK_SET) < 0)
        return strerror(errno);
    return hole >= 0 && hole < about->st_size
               ? "is large and has holes, as no mail does; cp --sparse=never makes it whole"
               : NULL;
}

/* Whoever had the lock has written all of it by the time that it is ours. */
static const char *begin_mbox(struct ctl_reader *reader, int *status)
{
    if (!lock_mbox(reader->fd)) {
        *status = EX_TEMPFAIL;
        return "is locked by another program: try again when that is done";
    }
    const char *wrong = measure(reader, &reader->about);
    reader->total = reader->size;
    ctl_mbox_init(&reader->mbox, read_file, look_at_file, reader);
    if (wrong)
        return wrong;
    if (reader->total == 0)
        return "is empty: no message in it";
    if (begins_with_from(reader->fd) == 1)
        return NULL;
    return "is no mbox: it does not begin with \"From \"";
}

/* What keeps a regular file from being read as what it is said to be; NULL if nothing. In a tree it
 * has nobody's word for being mail at all. */
static const char *begin_file(struct ctl_reader *reader, enum ctl_format wanted, bool in_tree,
                              int *status)
{
    *status = EX_DATAERR;
    if (wanted == CTL_FORMAT_MAILDIR || wanted == CTL_FORMAT_CYRUS)
        return "is a file: a Maildir or a Cyrus mailbox is a directory";
    if (wanted == CTL_FORMAT_AUTO && in_tree)
        wanted = CTL_FORMAT_MBOX;
    bool guessed = wanted == CTL_FORMAT_AUTO;
    if (guessed && is_named_eml(reader->path))
        wanted = CTL_FORMAT_MESSAGE;
    int from = begins_with_from(reader->fd);
    if (from < 0) {
        *status = EX_NOINPUT;
        return strerror(errno);
    }
    if (wanted == CTL_FORMAT_AUTO)
        wanted = from || reader->total == 0 ? CTL_FORMAT_MBOX : CTL_FORMAT_MESSAGE;
    reader->format = wanted;
    if (wanted == CTL_FORMAT_MBOX)
        return begin_mbox(reader, status);
    const char *wrong = measure(reader, &reader->about);
    return !wrong && guessed ? ctl_foreign_file(reader->fd) : wrong;
}

/* A list that lies beside the messages; NULL if there is none, and `error` filled if it is there
 * and cannot be read. */
static char *read_beside(const struct ctl_reader *reader, const char *name, size_t *size,
                         char *error, size_t error_size)
{
    int fd = openat(reader->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    char *octets = ctl_uidl_read_file(fd, size);
    if (!octets && errno != ENOENT)
        snprintf(error, error_size, "%s: %s", name,
                 errno == EINVAL || errno == ELOOP ? "not a regular file" : strerror(errno));
    return octets;
}

/* Read the list of UIDLs that a server keeps beside a Maildir, or the one that was given. */
static const char *read_list(struct ctl_reader *reader, const struct ctl_reader_how *how)
{
    static char wrong[200];
    char error[150] = "";
    size_t size;
    char *octets = how->list ? base_strdup(how->list) : NULL;
    enum ctl_uidl_kind kind =
        how->list ? (how->list[0] == '/' ? CTL_UIDL_COURIER : CTL_UIDL_DOVECOT) : how->uidl;
    /* Dovecot's tells the order also where the UIDLs are the names, or stand in the messages. */
    bool aside = kind == CTL_UIDL_FILENAME || kind == CTL_UIDL_X_UIDL;
    if (!octets && (kind == CTL_UIDL_AUTO || kind == CTL_UIDL_DOVECOT || aside)) {
        octets = read_beside(reader, "dovecot-uidlist", &size, error, sizeof error);
        kind = octets ? CTL_UIDL_DOVECOT : kind;
    }
    if (!octets && !*error && (kind == CTL_UIDL_AUTO || kind == CTL_UIDL_COURIER)) {
        octets = read_beside(reader, "courierpop3dsizelist", &size, error, sizeof error);
        kind = octets ? CTL_UIDL_COURIER : kind;
    }
    bool good = !*error;
    if (octets && kind == CTL_UIDL_DOVECOT)
        good = ctl_uidl_read_dovecot(octets, how->uidl_format, &reader->list, error, sizeof error);
    else if (octets)
        good = ctl_uidl_read_courier(octets, &reader->list, error, sizeof error);
    if (octets && good) {
        reader->uidl = aside ? how->uidl : kind;
        ctl_maildir_arrange(&reader->maildir, &reader->list);
    }
    good |= aside;
    free(octets);
    snprintf(wrong, sizeof wrong, "its list of UIDLs: %s (--uidl=none does without)", error);
    return good ? NULL : wrong;
}

static const char *begin_maildir(struct ctl_reader *reader, const struct ctl_reader_how *how,
                                 int *status)
{
    const char *failed_at, *wrong = NULL;
    bool listed = ctl_maildir_list(&reader->maildir, reader->fd, &failed_at);
    reader->format = CTL_FORMAT_MAILDIR;
    reader->total = reader->maildir.octets;
    if (listed)
        wrong = read_list(reader, how);
    else if (errno == ENOENT || errno == ENOTDIR) /* also for a link, since O_DIRECTORY */
        wrong = ctl_foreign_directory(reader->fd);
    else {
        wrong = strerror(errno);
        *status = errno == EACCES ? EX_NOPERM : EX_IOERR;
    }
    return wrong;
}

static const char *begin_cyrus(struct ctl_reader *reader)
{
    static char wrong[200];
    size_t size;
    *wrong = '\0';
    char *octets = read_beside(reader, "cyrus.index", &size, wrong, sizeof wrong);
    bool good = octets && ctl_cyrus_read(octets, size, &reader->cyrus);
    if (!good && !*wrong)
        snprintf(wrong, sizeof wrong, "%s",
                 octets ? "its cyrus.index is of no version from 8 to 20, or cut short"
                        : "is no Cyrus mailbox: it lacks cyrus.index");
    free(octets);
    reader->format = CTL_FORMAT_CYRUS;
    reader->folder = reader->fd;
    reader->fd = -1;
    return good ? NULL : wrong;
}

static const char *begin_directory(struct ctl_reader *reader, const struct ctl_reader_how *how,
                                   int *status)
{
    enum ctl_format wanted = how->format;
    const char *wrong;
    *status = EX_DATAERR;
    if (wanted == CTL_FORMAT_AUTO && faccessat(reader->fd, "cyrus.index", F_OK, 0) == 0)
        wanted = CTL_FORMAT_CYRUS;
    if (wanted == CTL_FORMAT_CYRUS)
        return begin_cyrus(reader);
    if (wanted != CTL_FORMAT_AUTO && wanted != CTL_FORMAT_MAILDIR)
        return "is a directory: this format is a file";
    wrong = begin_maildir(reader, how, status);
    base_close(reader->fd);
    reader->fd = -1;
    return wrong;
}

static int open_path(const char *path, bool beneath)
{
    struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    if (!beneath)
        return ctl_path_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
}

static int open_status(int error)
{
    return error == EACCES || error == EPERM ? EX_NOPERM : EX_NOINPUT;
}

struct ctl_reader *ctl_reader_open(const char *path, const struct ctl_reader_how *how, int *status,
                                   char *error, size_t error_size)
{
    const char *wrong;
    struct ctl_reader *reader = base_alloc(sizeof *reader);
    *reader = (struct ctl_reader){.path = base_strdup(path),
                                  .uidl = how->uidl,
                                  .uidl_format = how->uidl_format,
                                  .folder = -1,
                                  .maildir.directories = {-1, -1}};
    reader->fd = open_path(path, how->beneath);
    if (reader->fd < 0 || fstat(reader->fd, &reader->about) < 0) {
        *status = open_status(errno);
        wrong = how->beneath && errno == ELOOP ? "a symbolic link is on the way; name the real path"
                                               : ctl_path_fault(errno);
    } else if (S_ISREG(reader->about.st_mode)) {
        reader->total = (uint64_t)reader->about.st_size;
        wrong = begin_file(reader, how->format, how->beneath, status);
    } else if (S_ISDIR(reader->about.st_mode)) {
        wrong = begin_directory(reader, how, status);
    } else {
        *status = EX_NOINPUT;
        wrong = "is neither a file nor a directory";
    }
    if (!wrong && how->list && reader->format != CTL_FORMAT_MAILDIR) {
        *status = EX_USAGE;
        wrong = "is no Maildir, whose files the --uidl-list names";
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
    ctl_uidl_free(&reader->list);
    ctl_cyrus_free(&reader->cyrus);
    base_close(reader->fd);
    base_close(reader->folder);
    free(reader->path);
    free(reader);
}

static const char *words(int error)
{
    return error == EINVAL    ? "not a regular file"
           : error == ENODATA ? "cut short while it was read"
                              : strerror(error);
}

static enum ctl_read fail(struct ctl_item *item, int error)
{
    snprintf(item->reason, sizeof item->reason, "%s", words(error));
    return CTL_READ_FAILED;
}

/* The file of a message in a directory. */
static enum ctl_read begin_message(struct ctl_reader *reader, struct ctl_item *item)
{
    struct stat about;
    const char *wrong = measure(reader, &about);
    wrong = wrong ? wrong : ctl_foreign_file(reader->fd);
    if (!wrong)
        return CTL_READ_MESSAGE;
    snprintf(item->reason, sizeof item->reason, "%s", wrong);
    return CTL_READ_FAILED;
}

static enum ctl_read next_in_file(struct ctl_reader *reader, struct ctl_item *item)
{
    if (reader->next++ > 0)
        return CTL_READ_END;
    snprintf(item->name, sizeof item->name, "%s", reader->path);
    item->received = reader->about.st_mtime > 0 ? reader->about.st_mtime : 0;
    return CTL_READ_MESSAGE;
}

static enum ctl_read next_in_mbox(struct ctl_reader *reader, struct ctl_item *item)
{
    if (reader->broken)
        return CTL_READ_END; /* reported when it broke */
    snprintf(item->name, sizeof item->name, "%s, message %zu", reader->path, ++reader->next);
    reader->hides = false;
    reader->mbox.keep_quotes = true;
    int more = ctl_mbox_next(&reader->mbox, &item->received);
    reader->at = reader->mbox.position;
    if (more >= 0)
        return more ? CTL_READ_MESSAGE : CTL_READ_END;
    reader->broken = errno;
    return fail(item, errno);
}

static enum ctl_read next_in_maildir(struct ctl_reader *reader, struct ctl_item *item)
{
    base_close(reader->fd);
    reader->fd = -1;
    reader->position = reader->at = reader->begun;
    if (reader->next == reader->maildir.n_entries)
        return CTL_READ_END;
    const struct ctl_maildir_entry *entry = &reader->maildir.entries[reader->next++];
    reader->begun += entry->size;
    snprintf(item->name, sizeof item->name, "%s/%s/%s", reader->path, ctl_maildir_folder(entry),
             entry->name);
    item->received = ctl_maildir_received(entry);
    reader->fd = ctl_maildir_open(&reader->maildir, entry);
    if (reader->fd < 0)
        return fail(item, errno);
    return begin_message(reader, item);
}

static enum ctl_read next_in_cyrus(struct ctl_reader *reader, struct ctl_item *item)
{
    struct stat about;
    char name[24];
    base_close(reader->fd);
    reader->fd = -1;
    if (reader->next == reader->cyrus.n)
        return CTL_READ_END;
    const struct ctl_cyrus_message *message = &reader->cyrus.messages[reader->next++];
    snprintf(name, sizeof name, "%ju.", (uintmax_t)message->uid);
    snprintf(item->name, sizeof item->name, "%s/%s", reader->path, name);
    item->received = message->received;
    reader->at = reader->position;
    reader->fd = openat(reader->folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (reader->fd < 0)
        return fail(item, errno);
    return fstat(reader->fd, &about) == 0 && S_ISREG(about.st_mode) ? begin_message(reader, item)
                                                                    : fail(item, EINVAL);
}

enum ctl_read ctl_reader_next(struct ctl_reader *reader, struct ctl_item *item)
{
    *item = (struct ctl_item){.received = 0};
    switch (reader->format) {
    case CTL_FORMAT_MAILDIR:
        return next_in_maildir(reader, item);
    case CTL_FORMAT_CYRUS:
        return next_in_cyrus(reader, item);
    case CTL_FORMAT_MBOX:
        return next_in_mbox(reader, item);
    default:
        return next_in_file(reader, item);
    }
}

static ssize_t read_shown(struct ctl_reader *reader, char *buffer, size_t size)
{
    char octets[8192];
    size_t put = 0, want = size - CTL_HIDE_NAME;
    ssize_t got = 1;
    while (got > 0 && put == 0) {
        got = ctl_mbox_read(&reader->mbox, octets, want < sizeof octets ? want : sizeof octets);
        if (got < 0)
            return -1;
        put = got > 0 ? ctl_hide_take(&reader->hide, octets, (size_t)got, buffer)
                      : ctl_hide_end(&reader->hide, buffer);
    }
    return (ssize_t)put;
}

ssize_t ctl_reader_read(void *context, void *buffer, size_t size)
{
    struct ctl_reader *reader = context;
    if (reader->hides)
        return read_shown(reader, buffer, size);
    return reader->format == CTL_FORMAT_MBOX ? ctl_mbox_read(&reader->mbox, buffer, size)
                                             : read_file(reader, buffer, size);
}

/* Whether the server that keeps this mbox writes into its messages. */
static bool is_noted(struct ctl_reader *reader, const struct ctl_inspected *inspected)
{
    if (reader->next == 1 && inspected->uidvalidity) /* in a later one it is the sender's */
        reader->validity = inspected->uidvalidity;
    return reader->format == CTL_FORMAT_MBOX && reader->validity && inspected->x_uid;
}

bool ctl_reader_rewind(struct ctl_reader *reader, const struct ctl_inspected *inspected, bool known)
{
    bool mbox = reader->format == CTL_FORMAT_MBOX;
    if (lseek(reader->fd, mbox ? (off_t)reader->at : 0, SEEK_SET) < 0)
        return false;
    reader->position = reader->at;
    if (!mbox)
        return true;
    reader->hides = is_noted(reader, inspected);
    reader->hide = (struct ctl_hide){0};
    reader->mbox.keep_quotes = known;
    ctl_mbox_rewind(&reader->mbox, reader->at);
    return true;
}

static const char *uidl_of_listed(const struct ctl_reader *reader, char uidl[MAILDROP_UIDL_MAX + 1])
{
    const struct ctl_uidl *listed = reader->maildir.entries[reader->next - 1].uidl;
    if (!listed)
        return "not in the old server's list: it never showed this message";
    if (!listed->text[0])
        return "what the old server's list makes is no UIDL";
    memcpy(uidl, listed->text, sizeof listed->text);
    return NULL;
}

/* Made of a UID and a UIDVALIDITY, as the option or else the old server has it. */
static const char *make(const struct ctl_reader *reader, const char *standard, uint64_t uid,
                        uint64_t validity, char uidl[MAILDROP_UIDL_MAX + 1])
{
    const struct ctl_uidl_parts parts = {.uid = uid, .uidvalidity = validity};
    const char *format = reader->uidl_format ? reader->uidl_format : standard;
    return ctl_uidl_make(format, &parts, uidl) ? NULL : "--uidl-format makes no UIDL of it";
}

static const char *uidl_of_name(const struct ctl_reader *reader, char uidl[MAILDROP_UIDL_MAX + 1])
{
    if (reader->format != CTL_FORMAT_MAILDIR)
        return "only a Maildir has file names for UIDLs";
    const struct ctl_uidl_parts parts = {.file_name =
                                             reader->maildir.entries[reader->next - 1].name};
    return ctl_uidl_make("%f", &parts, uidl) ? NULL : "its file name is too long for a UIDL";
}

static const char *uidl_of_header(struct ctl_reader *reader, const struct ctl_inspected *inspected,
                                  char uidl[MAILDROP_UIDL_MAX + 1])
{
    bool noted = is_noted(reader, inspected), first = reader->uidl == CTL_UIDL_X_UIDL;
    bool automatic = reader->uidl == CTL_UIDL_AUTO;
    if (inspected->x_uidl[0] && (first || (automatic && !noted))) {
        memcpy(uidl, inspected->x_uidl, sizeof inspected->x_uidl);
        return NULL;
    }
    /* Dovecot takes over the headers of its predecessor, and makes its own of the others' UIDs. */
    if (noted)
        return make(reader, CTL_UIDL_FORMAT_DOVECOT, inspected->x_uid, reader->validity, uidl);
    if (first && reader->list.n > 0)
        return uidl_of_listed(reader, uidl);
    return automatic ? "no UIDL of an old server is known for it"
           : first   ? "it has no X-UIDL header"
                     : "it has no X-UID header, or its mbox no X-IMAPbase";
}

const char *ctl_reader_uidl(struct ctl_reader *reader, const struct ctl_inspected *inspected,
                            char uidl[MAILDROP_UIDL_MAX + 1])
{
    is_noted(reader, inspected); /* the first message tells it for all */
    switch (reader->uidl) {
    case CTL_UIDL_NONE:
        return "--uidl=none";
    case CTL_UIDL_FILENAME:
        return uidl_of_name(reader, uidl);
    case CTL_UIDL_POPA3D:
        memcpy(uidl, inspected->popa3d, sizeof inspected->popa3d);
        return uidl[0] ? NULL : "this libcrypto has no MD5";
    case CTL_UIDL_DOVECOT:
    case CTL_UIDL_COURIER:
        if (reader->list.n > 0)
            return uidl_of_listed(reader, uidl);
        return "no such list lies beside it";
    case CTL_UIDL_X_UIDL:
    case CTL_UIDL_X_UID:
        return uidl_of_header(reader, inspected, uidl);
    case CTL_UIDL_AUTO:
    case CTL_UIDL_CYRUS:
    case CTL_UIDL_KINDS:
        break;
    }
    if (reader->format == CTL_FORMAT_CYRUS)
        return make(reader, reader->cyrus.new_uidl ? "%v.%u" : "%u",
                    reader->cyrus.messages[reader->next - 1].uid, reader->cyrus.uidvalidity, uidl);
    /* Anybody may write these headers: only in an mbox, where servers keep them, are they theirs.
     */
    if (reader->format == CTL_FORMAT_MBOX && reader->uidl == CTL_UIDL_AUTO)
        return uidl_of_header(reader, inspected, uidl);
    return "no UIDL of an old server is known for it";
}

bool ctl_reader_seen(const struct ctl_reader *reader, const struct ctl_inspected *inspected)
{
    if (reader->format == CTL_FORMAT_MAILDIR)
        return ctl_maildir_has_flag(reader->maildir.entries[reader->next - 1].name, 'S');
    return reader->format == CTL_FORMAT_MBOX && inspected->seen;
}

const struct stat *ctl_reader_about(const struct ctl_reader *reader)
{
    return &reader->about;
}

/* Not every program that writes an mbox anew looks for our lock. */
static bool has_changed(const struct ctl_reader *reader)
{
    const struct stat *then = &reader->about;
    struct stat now;
    return fstat(reader->fd, &now) < 0 || now.st_size != then->st_size ||
           now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != then->st_mtim.tv_nsec;
}

bool ctl_reader_unsteady(const struct ctl_reader *reader)
{
    return reader->format == CTL_FORMAT_MBOX ? has_changed(reader) : reader->maildir.unsteady;
}

const char *ctl_reader_error(const struct ctl_reader *reader)
{
    return words(reader->broken ? reader->broken : EIO);
}

uint64_t ctl_reader_total(const struct ctl_reader *reader)
{
    return reader->total;
}

uint64_t ctl_reader_position(const struct ctl_reader *reader)
{
    return reader->position < reader->total ? reader->position : reader->total;
}
