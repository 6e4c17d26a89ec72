/*
 * ctl_reader.h - one PATH of poplarctl import, whatever it is: a message, an mbox, a Maildir.
 *
 * Gives one message after the other, each read through maildrop_source in constant memory.
 */
#ifndef POPLAR_STORE_CTL_READER_H
#define POPLAR_STORE_CTL_READER_H

#include "store/ctl_inspect.h"
#include "store/ctl_uidl.h"
#include "store/maildrop.h"

enum ctl_format {
    CTL_FORMAT_AUTO,
    CTL_FORMAT_MESSAGE,
    CTL_FORMAT_MBOX,
    CTL_FORMAT_MAILDIR,
    CTL_FORMAT_CYRUS
};

/* How a path is to be read. */
struct ctl_reader_how {
    enum ctl_format format;
    enum ctl_uidl_kind uidl;
    const char *uidl_format; /* NULL: the old server's own */
    const char *list;        /* octets of a dovecot-uidlist or courierpop3dsizelist, to be used
                              * instead of one beside the messages; NULL: none */
    bool beneath;            /* it was found in a tree: no symbolic link on the way, which leads
                              * through users' files, and a file is an mbox */
};

enum ctl_read {
    CTL_READ_END = 0, /* no more */
    CTL_READ_MESSAGE, /* read it with ctl_reader_read() */
    CTL_READ_FAILED,  /* unreadable, `reason` says why; the next may be readable */
};

struct ctl_item {
    char name[4352];  /* for people: the path, and the number in an mbox */
    int64_t received; /* seconds since the epoch; 0: not known */
    char reason[200]; /* of CTL_READ_FAILED */
};

struct ctl_reader;

/* "eml", "mbox", "maildir", "cyrus"; NULL is CTL_FORMAT_AUTO. False: none of them. */
bool ctl_reader_format(const char *name, enum ctl_format *format);

/* Open a path and see what it is. NULL: one line in `error`, an exit status in `status`. */
struct ctl_reader *ctl_reader_open(const char *path, const struct ctl_reader_how *how, int *status,
                                   char *error, size_t error_size);
void ctl_reader_close(struct ctl_reader *reader); /* NULL is legal */

/* What the path leads to, for who wants to know whether another one leads there too. */
const struct stat *ctl_reader_about(const struct ctl_reader *reader);

/* Go to the next message, over what is left of the one before. */
enum ctl_read ctl_reader_next(struct ctl_reader *reader, struct ctl_item *item);

/* As maildrop_source; `context` is the reader. The first time, the octets are those of the file. */
ssize_t ctl_reader_read(void *context, void *buffer, size_t size);

/* Back to the beginning of the message at hand; false if that cannot be. What is read now is the
 * message: what a server of an mbox noted in it is gone, and so is the quoting of an mbox, unless
 * the message is `known` to clients as the old server showed it. From here on `size` must be above
 * CTL_HIDE_NAME. */
bool ctl_reader_rewind(struct ctl_reader *reader, const struct ctl_inspected *inspected,
                       bool known);

/* The UIDL that the old server gave to the message at hand, as far as it can be told: NULL and
 * `uidl` filled. Else why there is none, in words that live for ever. */
const char *ctl_reader_uidl(struct ctl_reader *reader, const struct ctl_inspected *inspected,
                            char uidl[MAILDROP_UIDL_MAX + 1]);

/* Whether a client of the old server has seen the message at hand: the flag S of a Maildir, R in
 * the Status of an mbox. */
bool ctl_reader_seen(const struct ctl_reader *reader, const struct ctl_inspected *inspected);

/* Whether messages may have been missed that are there: a Maildir changed all the time while it was
 * listed, or an mbox since it was opened. To be asked at the end. */
bool ctl_reader_unsteady(const struct ctl_reader *reader);

/* Why the last ctl_reader_read() failed. */
const char *ctl_reader_error(const struct ctl_reader *reader);

/* Octets of all files, and how many of them were read or passed over. */
uint64_t ctl_reader_total(const struct ctl_reader *reader);
uint64_t ctl_reader_position(const struct ctl_reader *reader);

#endif
