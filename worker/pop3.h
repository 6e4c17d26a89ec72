/*
 * pop3.h - one POP3 session from greeting to goodbye (RFC 1939).
 */
#ifndef POPLAR_WORKER_POP3_H
#define POPLAR_WORKER_POP3_H

#include "worker/session.h"

/* Serve the client of s->stream until the session ends; then s->end says why, everything is said
 * to the client, and the connection and the maildrop are closed. */
void pop3_serve(struct session *s);

#endif
