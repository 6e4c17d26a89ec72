/*
 * ctl_hide.h - a message as a server showed it that keeps notes in an mbox: without the fields that
 * it wrote into the header for itself, as Dovecot and UW do.
 *
 * Pure; octets of any kind, in pieces of any size.
 */
#ifndef POPLAR_STORE_CTL_HIDE_H
#define POPLAR_STORE_CTL_HIDE_H

#include <stdbool.h>
#include <stddef.h>

enum { CTL_HIDE_NAME = 16 }; /* octets of the longest name, with its colon */

/* One message on its way. Starts zeroed. */
struct ctl_hide {
    bool in_body, in_line, hidden; /* hidden: the line at hand is, and what continues it */
    char name[CTL_HIDE_NAME];      /* the beginning of a line, until it is known */
    size_t n;
};

/* What stays of some octets; `out` has room for size + CTL_HIDE_NAME. Returns the octets put out.
 */
size_t ctl_hide_take(struct ctl_hide *hide, const char *in, size_t size, char *out);

/* The same at the end of the message. */
size_t ctl_hide_end(struct ctl_hide *hide, char *out);

#endif
