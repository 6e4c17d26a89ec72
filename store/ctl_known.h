/*
 * ctl_known.h - whether a message to be imported is in the maildrop already, or was.
 */
#ifndef POPLAR_STORE_CTL_KNOWN_H
#define POPLAR_STORE_CTL_KNOWN_H

#include "store/ctl_inspect.h"
#include "store/manage.h"

/* What was met in one run, to tell two equal messages of one mailbox from one that comes again. */
struct ctl_known {
    unsigned char (*keys)[CTL_KEY_SIZE];
    uint32_t *counts;
    size_t n, room;
};

/* A message on its way in. */
struct ctl_candidate {
    char uidl[MAILDROP_UIDL_MAX + 1]; /* "": it gets a new one */
    const char *why_not;              /* then, why; words that live for ever */
    unsigned char content_key[CTL_KEY_SIZE], uidl_key[CTL_KEY_SIZE];
    unsigned char digest[CTL_DIGEST_SIZE]; /* as ctl_inspect.h has it */
};

void ctl_known_free(struct ctl_known *known);

/* Make a candidate of what is known of a message. `uidl` NULL: none, for the reason `why_not`. One
 * that another message of this run has is none either. */
void ctl_known_candidate(struct ctl_known *known, const struct ctl_inspected *inspected,
                         const char *uidl, const char *why_not, struct ctl_candidate *candidate);

/* Whether the maildrop (NULL: there is none yet) has it or had it: then `known` is a reason, else
 * NULL. A UIDL alone does not make it the same: two accounts of one old server that come together
 * may have used the same ones. Whose UIDL another message has or had gets a new one. STORE_OK, or
 * what failed. */
enum store_outcome ctl_known_look(struct maildrop *maildrop, struct ctl_candidate *candidate,
                                  const char **known);

/* Whether a message of the maildrop came with this UIDL from the old server, and was not met in
 * this run. */
enum store_outcome ctl_known_gone(const struct ctl_known *known, struct maildrop *maildrop,
                                  const char *uidl, bool *gone);

/* Note in the batch that is open that it is there now. */
enum store_outcome ctl_known_note(struct maildrop *maildrop, const struct ctl_candidate *candidate);

#endif
