/*
 * ctl_uidl.h - UIDLs as other servers keep them beside a Maildir: Dovecot's dovecot-uidlist and
 * Courier's courierpop3dsizelist; and how a UIDL is made of its parts.
 *
 * Pure, but for ctl_uidl_read_file().
 */
#ifndef POPLAR_STORE_CTL_UIDL_H
#define POPLAR_STORE_CTL_UIDL_H

#include "store/maildrop.h"

/* What Dovecot makes of a UID unless it is told otherwise (pop3_uidl_format). */
#define CTL_UIDL_FORMAT_DOVECOT "%08Xu%08Xv"

/* Where UIDLs come from. */
enum ctl_uidl_kind {
    CTL_UIDL_AUTO,     /* whatever lies beside the messages, or in them */
    CTL_UIDL_NONE,     /* nowhere: every message gets a new one */
    CTL_UIDL_DOVECOT,  /* dovecot-uidlist */
    CTL_UIDL_COURIER,  /* courierpop3dsizelist */
    CTL_UIDL_CYRUS,    /* cyrus.index */
    CTL_UIDL_FILENAME, /* the Maildir name before its flags, as qmail-pop3d does */
    CTL_UIDL_X_UIDL,   /* a header that qpopper and others leave in an mbox */
    CTL_UIDL_X_UID,    /* X-UID and X-IMAPbase, in an mbox of Dovecot or UW */
    CTL_UIDL_POPA3D,   /* a digest of some headers */
    CTL_UIDL_KINDS
};

/* What a UIDL may be made of. */
struct ctl_uidl_parts {
    uint64_t uid, uidvalidity;
    const char *file_name; /* NULL: there is none */
    const char *guid;
};

enum { CTL_UIDL_LAST = UINT32_MAX }; /* the order of messages that no list knows */

/* One message of a list. */
struct ctl_uidl {
    char *name;     /* of its file, without flags */
    uint64_t order; /* in which the server listed it; equal ones by their names */
    size_t line;    /* which of the list's entries it was */
    char text[MAILDROP_UIDL_MAX + 1];
};

/* Sorted by name. */
struct ctl_uidl_list {
    struct ctl_uidl *entries;
    size_t n;
    uint64_t unlisted; /* the order of messages that are not in it */
};

/* "auto", "dovecot", ... False: none of them. NULL is CTL_UIDL_AUTO. */
bool ctl_uidl_kind(const char *name, enum ctl_uidl_kind *kind);

/* A whole word as a decimal number. */
bool ctl_uidl_number(const char *word, uint64_t *value);

/* 1-70 octets of 0x21-0x7E (RFC 1939 section 7). */
bool ctl_uidl_is_valid(const char *text);

/* Make a UIDL by Dovecot's format: %u UID, %v UIDVALIDITY, %f file name, %g GUID, %%; between '%'
 * and the letter a width with a leading 0, and X for hexadecimal. False: the format is none, or
 * what comes out is no UIDL. */
bool ctl_uidl_make(const char *format, const struct ctl_uidl_parts *parts,
                   char text[MAILDROP_UIDL_MAX + 1]);

/* Read a list in memory, which is changed. `format` NULL: what the list says itself, or Dovecot's
 * own. False, and why not. Free with ctl_uidl_free() in any case. */
bool ctl_uidl_read_dovecot(char *octets, const char *format, struct ctl_uidl_list *list,
                           char *error, size_t error_size);
bool ctl_uidl_read_courier(char *octets, struct ctl_uidl_list *list, char *error,
                           size_t error_size);
void ctl_uidl_free(struct ctl_uidl_list *list);

/* The entry for a file in cur/ or new/, whatever its flags are by now; NULL: none. */
const struct ctl_uidl *ctl_uidl_find(const struct ctl_uidl_list *list, const char *file_name);

/* The length of a Maildir name without its flags. */
size_t ctl_uidl_base_length(const char *file_name);

/* Read a whole file, NUL-ended, and close it; the caller frees what it held. NULL and errno, EINVAL
 * for what is no regular file; that of opening it where `fd` is -1. */
char *ctl_uidl_read_file(int fd, size_t *size);

#endif
