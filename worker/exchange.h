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

/* Auth's verdict, an enum login_outcome; the exchange is over afterwards. `user`, if not NULL, has
 * PROTO_USER_MAX + 1 octets. `files` are the caller's on LOGIN_OK; NULL: none are expected. */
uint32_t exchange_verdict(struct session *s, struct channel *exchange, char *user,
                          int files[MAILDROP_FILES]);

#endif
