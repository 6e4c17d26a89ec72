/*
 * login.h - from a user name and a secret to an open maildrop: the worker's side of
 * PROTO_LOGIN_WANTED, the exchange with auth, and the grant.
 */
#ifndef POPLAR_WORKER_LOGIN_H
#define POPLAR_WORKER_LOGIN_H

#include "worker/session.h"

/* What a client logs in with. The mechanism is "PASS", or one of AUTH's in capitals; the secret is
 * in the input buffer. */
struct login_credentials {
    const char *mechanism, *user, *secret;
    size_t secret_size;
    /* What is said before the credentials are refused; NULL: nothing. May end the session. */
    void (*before_denial)(struct session *s, const char *mechanism);
};

/* Try to log in and answer the client. The secret is wiped as soon as auth has it. On success
 * s->logged_in, and the view is open. Ends the session when there is no going on. */
void login_try(struct session *s, const struct login_credentials *credentials);

#endif
