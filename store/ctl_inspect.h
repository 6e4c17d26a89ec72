/*
 * ctl_inspect.h - what one message says about itself, before it is imported: its size on the wire,
 * a digest to know it again by, and the UIDLs that other servers wrote into its header.
 */
#ifndef POPLAR_STORE_CTL_INSPECT_H
#define POPLAR_STORE_CTL_INSPECT_H

#include "store/maildrop.h"

enum { CTL_DIGEST_SIZE = 32, CTL_KEY_SIZE = 16 };

struct ctl_inspected {
    uint64_t octets, raw_octets; /* as it goes on the wire, and as it lies in its file */
    /* Of the text, without what servers write into headers as they go: Status, X-UID, ... */
    unsigned char digest[CTL_DIGEST_SIZE];
    char x_uidl[MAILDROP_UIDL_MAX + 1]; /* "": none */
    char popa3d[17];                    /* as popa3d makes it */
    uint64_t x_uid, uidvalidity;        /* X-UID, X-IMAPbase or X-IMAP; 0: none */
    bool seen;                          /* R in Status */
    bool internal;                      /* an mbox's first message that is none: data of a server */
};

struct ctl_inspect; /* one inspection under way */

struct ctl_inspect *ctl_inspect_begin(void);
/* The message as it lies in its file, piece by piece. */
void ctl_inspect_feed(struct ctl_inspect *inspect, const void *octets, size_t size);
/* Ends it; frees `inspect`. */
void ctl_inspect_end(struct ctl_inspect *inspect, struct ctl_inspected *found);

/* A key for maildrop notes: of some octets, told apart by what they are of and a number. */
void ctl_inspect_key(const char *what, uint64_t number, const void *octets, size_t size,
                     unsigned char key[CTL_KEY_SIZE]);

#endif
