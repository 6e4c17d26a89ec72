/*
 * exchange.h - the worker's side of one exchange with auth: for logins, for grants once more, and
 * for deliveries.
 */
#ifndef POPLAR_WORKER_EXCHANGE_H
#define POPLAR_WORKER_EXCHANGE_H

#include "worker/session.h"

/* How an attempt went, beyond what auth can say. */
enum attempt {
    ATTEMPT_VERDICT, /* auth decides; see the outcome */
    ATTEMPT_REFUSED, /* the master had none to give; see the refusal */
    ATTEMPT_LOST     /* the session has ended */
};

/* The master's answer to what was asked for: an exchange, or a refusal (enum login_refusal). */
enum attempt exchange_take(struct session *s, struct channel *exchange, uint32_t *refusal);

/* Whether the maildrop's files come with a yes. */
enum exchange_files { FILES_NONE, FILES_MAY_COME, FILES_COME };

/* Auth's verdict, an enum login_outcome; LOGIN_CRASHED: none came. The exchange is over afterwards.
 * `user`, if not NULL, has
 * PROTO_USER_MAX + 1 octets. On LOGIN_OK the caller's are: `files`, unless FILES_NONE, all -1 if
 * none came; where `spool` is not NULL, a spool file, which must come. */
uint32_t exchange_verdict(struct session *s, struct channel *exchange, enum exchange_files expected,
                          char *user, int *spool, int files[MAILDROP_FILES]);

#endif
