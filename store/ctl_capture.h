/*
 * ctl_capture.h - UIDLs from a live POP3 account: what its server answered to UIDL, and to LIST,
 * matched with messages by their order and sizes.
 *
 * A wrong match costs a message: the client believes that it has it. So only what is certain is
 * matched; everything else gets a new UIDL, which costs one download. Pure.
 */
#ifndef POPLAR_STORE_CTL_CAPTURE_H
#define POPLAR_STORE_CTL_CAPTURE_H

#include "store/maildrop.h"

struct ctl_capture_entry {
    char uidl[MAILDROP_UIDL_MAX + 1];
    uint64_t octets; /* 0: not told */
};

/* The messages of the account, in its order. */
struct ctl_capture {
    struct ctl_capture_entry *entries;
    size_t n;
    bool has_sizes;
};

/* A message to be matched: servers tell either size. */
struct ctl_capture_size {
    uint64_t octets, raw_octets;
};

enum { CTL_CAPTURE_NONE = -1 };

/* Read a capture in memory, which is changed: lines "NUMBER UIDL", then, if there are any, lines
 * "NUMBER OCTETS" from 1 on again. Replies ("+OK") and a single "." may be left in. False, and why
 * not. Free with ctl_capture_free() in any case. */
bool ctl_capture_read(char *octets, struct ctl_capture *capture, char *error, size_t error_size);
void ctl_capture_free(struct ctl_capture *capture);

/* For each message the index of its entry, or CTL_CAPTURE_NONE. Returns how many were matched. */
size_t ctl_capture_match(const struct ctl_capture *capture, const struct ctl_capture_size *sizes,
                         size_t n_sizes, int64_t *matches);

#endif
