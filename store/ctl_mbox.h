/*
 * ctl_mbox.h - splits an mbox into its messages, in constant memory, from any source of octets.
 *
 * "From " after an empty line (or at the start) begins a message and is no part of it, the empty
 * line before it is none either. Where the first such line of the file has a date, those without
 * one are text. LF and CRLF line ends are both taken.
 *
 * A Content-Length that leads to the next such line, or to the end of the file, tells where the
 * message ends, whatever stands in it (mboxcl2, which Dovecot writes). Else a line of one or more
 * '>' followed by "From " loses its first '>' (mboxrd), unless they are to be kept.
 */
#ifndef POPLAR_STORE_CTL_MBOX_H
#define POPLAR_STORE_CTL_MBOX_H

#include "store/maildrop.h"

enum { CTL_MBOX_BUFFER = 65536 };

/* Up to `size` octets from a place of the same source, without moving on; -1 if it cannot. */
typedef ssize_t ctl_mbox_look(void *context, uint64_t position, void *buffer, size_t size);

struct ctl_mbox {
    maildrop_source *source;
    ctl_mbox_look *look;
    void *context;
    unsigned char *data; /* CTL_MBOX_BUFFER octets, those from start to end are not yet used */
    size_t start, end;
    bool ended;        /* the source has no more */
    int state;         /* where reading stands, see ctl_mbox.c */
    bool keep_quotes;  /* the caller's: no '>' is taken away */
    bool dated;        /* From lines have dates */
    bool in_header;    /* of the message at hand */
    uint64_t length;   /* its Content-Length, while in the header */
    uint64_t body_end; /* where that ends, if it is believed, else 0 */
    uint64_t quotes;   /* '>' to hand out */
    uint64_t position; /* octets of the source used up */
};

/* The source is read with `context`; both stay the caller's. `look` NULL: no Content-Length is
 * believed. */
void ctl_mbox_init(struct ctl_mbox *mbox, maildrop_source *source, ctl_mbox_look *look,
                   void *context);
void ctl_mbox_free(struct ctl_mbox *mbox);

/* Go to the next message, over what is left of this one. 1: there is one, `received` is the time
 * its From line tells, or 0. 0: no more. -1: the source failed, or there is no From line (errno
 * EBADMSG). */
int ctl_mbox_next(struct ctl_mbox *mbox, int64_t *received);

/* The source stands at `position` again, the beginning of the current message. */
void ctl_mbox_rewind(struct ctl_mbox *mbox, uint64_t position);

/* As maildrop_source: the octets of the current message. */
ssize_t ctl_mbox_read(struct ctl_mbox *mbox, void *buffer, size_t size);

/* Whether a From line has a date, "From SENDER Tue May 10 11:28:07 2005"; then its time in seconds
 * since the epoch. A zone such as +0200 may stand before or after the year, without one it is local
 * time. 0: the epoch, which programs write that know no time, or before it. */
bool ctl_mbox_date(const char *line, int64_t *seconds);

#endif
