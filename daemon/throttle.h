/*
 * throttle.h - who failed to log in too often lately. Pure state and time, bounded memory; master
 * only.
 *
 * Each source has a bucket that failures fill and time drains; a full one refuses logins before
 * auth is asked. Each user name has one too: while it is full, failures against that name fill the
 * sources' buckets faster. No name is ever refused by itself: that would let anybody lock it out.
 */
#ifndef POPLAR_DAEMON_THROTTLE_H
#define POPLAR_DAEMON_THROTTLE_H

#include "daemon/address.h"

struct throttle;

struct throttle *throttle_new(void);
void throttle_free(struct throttle *throttle); /* NULL is legal */

/* Whether a source must wait before it may try again. `now` in milliseconds. */
bool throttle_refuses(const struct throttle *throttle, const struct address_source *source,
                      uint64_t now);

/* How many failures a source has on record, and one more where no login succeeded from there
 * lately: who is served first when logins wait for each other. */
unsigned throttle_rank(const struct throttle *throttle, const struct address_source *source,
                       uint64_t now);

/* A login from `source` succeeded. It is no excuse for failures. */
void throttle_succeeded(struct throttle *throttle, const struct address_source *source,
                        uint64_t now);

/* A login from `source` for `user` failed. `digest` is auth's keyed digest of the secret: the same
 * wrong one again from the same source costs nothing, it is a client that nobody told of a new
 * password. True when this failure filled the source's bucket. */
bool throttle_failed(struct throttle *throttle, const struct address_source *source,
                     const char *user, uint64_t digest, uint64_t now);

#endif
