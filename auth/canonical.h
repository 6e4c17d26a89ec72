/*
 * canonical.h - the one function that decides whose maildrop a given name means.
 *
 * For every way in: POP3 logins, delivery, poplarctl. Runs in poplar-auth and poplarctl.
 */
#ifndef POPLAR_AUTH_CANONICAL_H
#define POPLAR_AUTH_CANONICAL_H

#include "daemon/config.h"
#include "daemon/proto.h"

enum canonical_outcome {
    CANONICAL_OK = 0,
    CANONICAL_MALFORMED,  /* empty, too long, control characters, '/', '.' or '..' */
    CANONICAL_UNKNOWN,    /* no such account, and require_nss (or canonical=nss) wants one */
    CANONICAL_REFUSED,    /* uid 0, 65534, or below first_uid */
    CANONICAL_UNAVAILABLE /* the look-up itself failed: never take this for "unknown" */
};

/* Before PAM: check the name, fold its case, strip the domain as configured. Fills `name` and the
 * PAM service for its domain (owned by config). CANONICAL_OK or CANONICAL_MALFORMED. Pure. */
enum canonical_outcome canonical_fold(const struct config *config, const char *given,
                                      char name[PROTO_USER_MAX + 1], const char **pam_service);

/* After PAM (or without it, for delivery and poplarctl): fold what PAM_USER says now, look the
 * account up, take its own spelling, apply the uid rules. */
enum canonical_outcome canonical_finish(const struct config *config, const char *pam_user,
                                        char name[PROTO_USER_MAX + 1]);

#endif
