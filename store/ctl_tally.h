/*
 * ctl_tally.h - what an import did, in numbers and reasons, for people and for programs.
 */
#ifndef POPLAR_STORE_CTL_TALLY_H
#define POPLAR_STORE_CTL_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CTL_TALLY_REASONS = 24 };

/* Messages of one fate. */
struct ctl_tally_reason {
    const char *text; /* lives for ever; equal reasons are the same words */
    uint64_t messages;
    char *first; /* the first of them */
};

struct ctl_tally {
    uint64_t messages, octets; /* imported, or to be imported */
    uint64_t skipped, known, kept, gone;
    bool counts_gone;                                 /* it was looked for */
    struct ctl_tally_reason fresh[CTL_TALLY_REASONS]; /* why messages get a new UIDL */
    struct ctl_tally_reason there[CTL_TALLY_REASONS]; /* why messages are left as they are */
};

/* One more message for a reason. */
void ctl_tally_count(struct ctl_tally_reason reasons[CTL_TALLY_REASONS], const char *text,
                     const char *name);

/* The summary on standard output; `user` NULL: of the only one. In JSON one object, an element of
 * the array where it is one of many. 0, or an exit status after saying why. */
int ctl_tally_print(const struct ctl_tally *tally, bool json, bool dry, const char *user);
void ctl_tally_free(struct ctl_tally *tally);

#endif
