/*
 * authenticate.h - AUTH (RFC 5034): which mechanisms this client could use now, and the exchange
 * of challenges and responses that ends in a login, or does not.
 */
#ifndef POPLAR_WORKER_AUTHENTICATE_H
#define POPLAR_WORKER_AUTHENTICATE_H

#include "worker/commands.h"

/* The n-th mechanism that this client could use in this state before login; NULL past the last. */
const char *authenticate_mechanism(const struct session *s, size_t n);

/* Octets that an AUTH line may have, and a line of the exchange. RFC 5034 section 4 lets both be
 * as long as a response needs. */
size_t authenticate_line_limit(const struct config *config);

/* AUTH with a mechanism, and perhaps with an initial response ("=" an empty one, else NULL). */
enum command_outcome authenticate_run(struct session *s, const char *name, const char *argument);

#endif
