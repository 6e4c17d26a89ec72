/*
 * proxied.h - a session whose peer is a proxy: whom it speaks for comes first.
 */
#ifndef POPLAR_WORKER_PROXIED_H
#define POPLAR_WORKER_PROXIED_H

#include "worker/session.h"

/* Read the proxy's header, and no octet more: what follows may be a TLS hello. Then let the master
 * decide about the address in it. Ends the session when there is no header in time, when it is bad,
 * or when the master says no. */
void proxied_begin(struct session *s);

#endif
