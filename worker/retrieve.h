/*
 * retrieve.h - a message from the store to the client, whole or its top, in constant memory.
 */
#ifndef POPLAR_WORKER_RETRIEVE_H
#define POPLAR_WORKER_RETRIEVE_H

#include "worker/session.h"

/* Answer RETR for a message of the view; true when all of it is in the stream. A store that fails
 * under way ends the session without a terminator: a torn message must not look whole. */
bool retrieve_message(struct session *s, size_t index);

/* Answer TOP with the header and so many lines of the body. */
bool retrieve_top(struct session *s, size_t index, uint64_t lines);

#endif
