/*
 * canonical.h - the one function that decides whose maildrop a given name means.
 *
 * For every way in: POP3 logins, delivery, poplarctl. Runs in poplar-auth and poplarctl.
 */
#ifndef POPLAR_AUTH_CANONICAL_H
#define POPLAR_AUTH_CANONICAL_H

#include "daemon/config.h"
#include "daemon/proto.h"
#include <sys/types.h>

enum canonical_outcome {
    CANONICAL_OK = 0,
    CANONICAL_MALFORMED,  /* empty, blank, too long, control characters, '/', '.' or '..' */
    CANONICAL_UNKNOWN,    /* no such account, and require_nss (or canonical=nss) wants one */
    CANONICAL_REFUSED,    /* uid 0, 65534, or below first_uid */
    CANONICAL_UNAVAILABLE /* the look-up itself failed: never take this for "unknown" */
};

/* Before PAM: check the name, fold its case, strip the domain as configured. Fills `name` and the
 * PAM service for its domain (owned by config). CANONICAL_OK or CANONICAL_MALFORMED. Pure, and
 * what it makes it makes of itself again. */
enum canonical_outcome canonical_fold(const struct config *config, const char *given,
                                      char name[PROTO_USER_MAX + 1], const char **pam_service);

/* The account of a name, for delivery: folded, then looked up. CANONICAL_OK: `name` is whose
 * maildrop it is, and `uid` the account's. CANONICAL_UNKNOWN: no account has it, and `name` is what
 * a maildrop without an account would have. */
enum canonical_outcome canonical_account(const struct config *config, const char *given,
                                         char name[PROTO_USER_MAX + 1], uid_t *uid);

/* The uid of an account by its very name. As canonical_account(), without any rule. */
enum canonical_outcome canonical_uid(const char *account, uid_t *uid);

/* An address without its detail: "alice@example.org" for "alice+lists@example.org", as
 * [delivery] recipient_delimiter says (RFC 5233 section 4). False if it has none. Pure. */
bool canonical_without_detail(const struct config *config, const char *given,
                              char shorter[PROTO_RECIPIENT_MAX + 1]);

/* After PAM (or without it, for delivery and poplarctl): fold what PAM_USER says now, look the
 * account up, take its own spelling, apply the uid rules. */
enum canonical_outcome canonical_finish(const struct config *config, const char *pam_user,
                                        char name[PROTO_USER_MAX + 1]);

#endif
